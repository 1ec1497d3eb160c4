import Glibc

/// How urgent what a thread does is: decided when the thread is made, and asked by locks that let some go first.
public enum Urgency: Sendable {
    /// Somebody waits for the answer.
    case foreground
    /// Nobody waits, or for much more than this.
    case background

    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        let status = pthread_key_create(&key, nil)
        precondition(status == 0, "there are no more keys for data of threads")
        return key
    }()

    /// Of the calling thread; threads that are not a ``WorkerThread`` are urgent.
    public internal(set) static var ofThisThread: Urgency {
        get { pthread_getspecific(key) == nil ? .foreground : .background }
        set { pthread_setspecific(key, newValue == .background ? UnsafeRawPointer(bitPattern: 1) : nil) }
    }
}

/// A value behind a mutex that lets threads in the foreground go before those in the background: one of the background
/// gets it when nobody in the foreground wants it, or when ``patience`` of those have gone before it.
///
/// A plain mutex goes to whoever happens to run when it is free. Threads that take it again and again, as workers do who
/// have much to do, then keep away those who take it now and then. Not recursive. Never hold one across a request to a
/// store.
public final class UrgencyLock<Value>: @unchecked Sendable {
    /// How many of the foreground go before one of the background who waits, at most.
    public static var patience: Int { 16 }

    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let foreground: UnsafeMutablePointer<pthread_cond_t>
    private let background: UnsafeMutablePointer<pthread_cond_t>
    private var value: Value

    // Guarded by the mutex, which is never held for longer than it takes to change them.
    private var isHeld = false
    private var waitingForeground = 0
    private var waitingBackground = 0
    /// How many of the foreground have had it while somebody of the background waited.
    private var overtakers = 0
    /// It is held for whoever of the background wakes up first.
    private var isHandedOver = false

    public init(_ value: Value) {
        mutex = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        foreground = .allocate(capacity: 1)
        pthread_cond_init(foreground, nil)
        background = .allocate(capacity: 1)
        pthread_cond_init(background, nil)
        self.value = value
    }

    deinit {
        for condition in [foreground, background] {
            pthread_cond_destroy(condition)
            condition.deallocate()
        }
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Runs `body` with the value, alone.
    public func withLock<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure)
        -> Result
    {
        take()
        HeldLocks.change(by: 1)
        defer {
            HeldLocks.change(by: -1)
            give()
        }
        return try body(&value)
    }

    /// How many threads wait for it.
    public var waiting: (foreground: Int, background: Int) {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return (waitingForeground, waitingBackground)
    }

    private func take() {
        let urgency = Urgency.ofThisThread
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        switch urgency {
        case .foreground:
            if isHeld {
                waitingForeground += 1
                while isHeld { pthread_cond_wait(foreground, mutex) }
                waitingForeground -= 1
            }
            if waitingBackground > 0 { overtakers += 1 }
        case .background:
            if isHeld || waitingForeground > 0 {
                waitingBackground += 1
                while !isHandedOver, isHeld || waitingForeground > 0 { pthread_cond_wait(background, mutex) }
                waitingBackground -= 1
            }
            isHandedOver = false
            overtakers = 0
        }
        isHeld = true
    }

    private func give() {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        if waitingBackground > 0, overtakers >= Self.patience {
            // Still held: else the next one of the foreground would be faster.
            isHandedOver = true
            pthread_cond_signal(background)
            return
        }
        isHeld = false
        if waitingForeground > 0 {
            pthread_cond_signal(foreground)
        } else if waitingBackground > 0 {
            pthread_cond_signal(background)
        }
    }
}
