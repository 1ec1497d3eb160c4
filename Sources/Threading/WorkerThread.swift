import Glibc

/// A pthread with a name, running one closure. The daemon blocks in such threads only, never in Swift's own pool.
public final class WorkerThread: @unchecked Sendable {
    private let thread: pthread_t

    /// Starts `body` on a thread of its own. Signals are blocked in it: a mount's one signal thread takes them.
    ///
    /// - Parameters:
    ///   - name: At most 15 bytes are shown by `ps -L` and `top -H`.
    ///   - stackSize: Bytes. 512 KiB is enough for everything that is not recursive.
    ///   - urgency: Of all that it does.
    public init(
        name: String, stackSize: Int = 512 << 10, urgency: Urgency = .foreground, _ body: @escaping @Sendable () -> Void
    ) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, stackSize)
        let box = Unmanaged.passRetained(Body(name: name, urgency: urgency, run: body))
        var thread = pthread_t()
        let status = pthread_create(&thread, &attributes, startWorkerThread, box.toOpaque())
        precondition(status == 0, "no thread could be started: \(String(cString: strerror(status)))")
        pthread_attr_destroy(&attributes)
        self.thread = thread
    }

    /// Waits until the closure has returned. Call it once.
    public func join() { pthread_join(thread, nil) }

    /// Lets the thread go: nobody will join it.
    public func detach() { pthread_detach(thread) }

    /// Sends a signal to this thread alone.
    public func signal(_ number: Int32) { pthread_kill(thread, number) }
}

private final class Body: Sendable {
    let name: String
    let urgency: Urgency
    let run: @Sendable () -> Void
    init(name: String, urgency: Urgency, run: @escaping @Sendable () -> Void) {
        self.name = name
        self.urgency = urgency
        self.run = run
    }
}

private func startWorkerThread(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    let body = Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue()
    var signals = sigset_t()
    sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM, SIGHUP, SIGPIPE] { sigaddset(&signals, signal) }
    pthread_sigmask(SIG_BLOCK, &signals, nil)
    Urgency.ofThisThread = body.urgency
    pthread_setname_np(pthread_self(), String(body.name.utf8.prefix(15))!)
    body.run()
    return nil
}
