/// Threads for calls that may wait: to a store, for the disk, or of a control file. Started when there is work.
public final class WorkerPool: Sendable {
    private struct State {
        var jobs = Queue<@Sendable () -> Void>()
        var threads = 0
        var idle = 0
        var isShutDown = false
    }

    private let state = Monitor(State())
    private let name: String
    private let limit: Int
    private let urgency: Urgency

    /// - Parameter limit: The most threads.
    public init(name: String, limit: Int, urgency: Urgency = .foreground) {
        self.name = name
        self.limit = limit
        self.urgency = urgency
    }

    /// Runs `job` on a thread of the pool; never, when the pool is shut down first.
    public func submit(_ job: @escaping @Sendable () -> Void) {
        let needsThread = state.update { state in
            guard !state.isShutDown else { return false }
            state.jobs.push(job)
            guard state.jobs.count > state.idle, state.threads < limit else { return false }
            state.threads += 1
            return true
        }
        if needsThread { WorkerThread(name: name, urgency: urgency) { [self] in run() }.detach() }
    }

    /// Jobs that nobody has taken up yet.
    public var backlog: Int { state.withLock { $0.jobs.count } }

    /// Drops jobs that were not begun; threads end after the job they are at, which nobody waits for: it may be a
    /// request to a store that does not answer.
    public func shutdown() {
        state.update {
            $0.isShutDown = true
            $0.jobs = Queue()
        }
    }

    private func run() {
        while true {
            state.withLock { $0.idle += 1 }
            let job: (@Sendable () -> Void)?? = state.wait { state -> (@Sendable () -> Void)?? in
                if state.isShutDown { return .some(nil) }
                return state.jobs.pop().map { .some($0) }
            }
            state.withLock { $0.idle -= 1 }
            guard let job, let job else { return }
            job()
        }
    }
}
