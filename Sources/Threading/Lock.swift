public import Glibc

/// How many locks and monitors the calling thread holds, for the rule that it is none while a store is asked.
///
/// Counted in debug builds only; 0 in others.
public enum HeldLocks {
    #if DEBUG
        private static let key: pthread_key_t = {
            var key = pthread_key_t()
            pthread_key_create(&key, nil)
            return key
        }()

        public static var count: Int { Int(bitPattern: pthread_getspecific(key)) }

        @usableFromInline static func change(by number: Int) {
            pthread_setspecific(key, UnsafeRawPointer(bitPattern: count + number))
        }
    #else
        public static var count: Int { 0 }

        @inlinable @inline(__always) static func change(by number: Int) {}
    #endif
}

/// A value behind a pthread mutex.
///
/// Used instead of `Synchronization.Mutex`, on which ThreadSanitizer reports false races and which has no
/// condition variable. Not recursive. Never hold one across a request to a store.
public struct Lock<Value: ~Copyable>: ~Copyable, @unchecked Sendable {
    @usableFromInline let mutex: UnsafeMutablePointer<pthread_mutex_t>
    @usableFromInline let value: UnsafeMutablePointer<Value>

    public init(_ value: consuming sending Value) {
        mutex = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        self.value = .allocate(capacity: 1)
        self.value.initialize(to: value)
    }

    deinit {
        value.deinitialize(count: 1)
        value.deallocate()
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Runs `body` with the value, alone.
    @inlinable @inline(__always)
    public borrowing func withLock<Result: ~Copyable, Failure: Error>(
        _ body: (inout Value) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        pthread_mutex_lock(mutex)
        HeldLocks.change(by: 1)
        defer {
            HeldLocks.change(by: -1)
            pthread_mutex_unlock(mutex)
        }
        return try body(&value.pointee)
    }
}

/// A value behind a mutex, with a condition variable to wait for changes of it.
public final class Monitor<Value>: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var value: Value

    public init(_ value: Value) {
        mutex = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        condition = .allocate(capacity: 1)
        var attributes = pthread_condattr_t()
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(condition, &attributes)
        pthread_condattr_destroy(&attributes)
        self.value = value
    }

    deinit {
        pthread_cond_destroy(condition)
        condition.deallocate()
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Runs `body` with the value, alone. Does not wake anybody: see ``update(_:)``.
    public func withLock<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure)
        -> Result
    {
        pthread_mutex_lock(mutex)
        HeldLocks.change(by: 1)
        defer {
            HeldLocks.change(by: -1)
            pthread_mutex_unlock(mutex)
        }
        return try body(&value)
    }

    /// Runs `body` with the value, alone, and then wakes all who wait.
    @discardableResult
    public func update<Result, Failure: Error>(_ body: (inout Value) throws(Failure) -> Result) throws(Failure)
        -> Result
    {
        pthread_mutex_lock(mutex)
        HeldLocks.change(by: 1)
        defer {
            HeldLocks.change(by: -1)
            pthread_cond_broadcast(condition)
            pthread_mutex_unlock(mutex)
        }
        return try body(&value)
    }

    /// Waits until `body` answers something other than nil, which it is asked at once and after each ``update(_:)``.
    ///
    /// - Parameter deadline: When to give up, on ``MonotonicTime``; nil means never.
    /// - Returns: What `body` answered; nil when the deadline passed first.
    public func wait<Result>(until deadline: MonotonicTime? = nil, for body: (inout Value) -> Result?) -> Result? {
        pthread_mutex_lock(mutex)
        HeldLocks.change(by: 1)
        defer {
            HeldLocks.change(by: -1)
            pthread_mutex_unlock(mutex)
        }
        while true {
            if let result = body(&value) { return result }
            if let deadline {
                var time = timespec(
                    tv_sec: Int(deadline.nanoseconds / 1_000_000_000),
                    tv_nsec: Int(deadline.nanoseconds % 1_000_000_000))
                if pthread_cond_timedwait(condition, mutex, &time) == ETIMEDOUT { return body(&value) }
            } else {
                pthread_cond_wait(condition, mutex)
            }
        }
    }
}
