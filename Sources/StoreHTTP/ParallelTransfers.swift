public import StoreAPI
import Threading

/// Runs the parts of transfers side by side, on a bounded number of threads for all transfers together.
///
/// The calling thread takes parts too, so that a transfer goes on even when all threads are taken by others, and one
/// may run inside another. Threads are started when they are first needed.
public final class ParallelTransfers: Sendable {
    private struct State {
        var invitations: [Run] = []
        var threads: [WorkerThread] = []
        var idle = 0
        var isStopping = false
    }

    private let state = Monitor(State())
    private let threads: Int

    /// - Parameter threads: How many there may be, besides those that call ``run(_:parallel:_:)``.
    public init(threads: Int) { self.threads = max(threads, 0) }

    deinit { shutdown() }

    /// Calls `part` with 0 ..< `count`, in that order but up to `parallel` at a time, and returns when all are done.
    ///
    /// - Throws: ``StoreError``: what a part threw first. No other part is begun after that; those under way are waited
    ///   for, so that nothing of the run goes on when this has returned.
    public func run(_ count: Int, parallel: Int, _ part: @escaping @Sendable (Int) throws(StoreError) -> Void)
        throws(StoreError)
    {
        let run = Run(count, part)
        invite(to: run, min(parallel, count) - 1)
        run.work()
        state.withLock { $0.invitations.removeAll { $0 === run } }
        try run.wait()
    }

    /// Ends the threads when they have done what they are at. Runs under way are finished by their callers.
    public func shutdown() {
        let threads = state.update { state in
            state.isStopping = true
            state.invitations = []
            defer { state.threads = [] }
            return state.threads
        }
        for thread in threads { thread.join() }
    }

    private func invite(to run: Run, _ helpers: Int) {
        guard helpers > 0 else { return }
        state.update { state in
            guard !state.isStopping else { return }
            state.invitations.append(contentsOf: repeatElement(run, count: helpers))
            let missing = min(state.invitations.count - state.idle, threads - state.threads.count)
            // The threads know the state only, so that this object can go away, which ends them.
            let monitor = self.state
            for _ in 0..<max(missing, 0) {
                state.idle += 1
                state.threads.append(WorkerThread(name: "parts") { Self.serve(monitor) })
            }
        }
    }

    private static func serve(_ state: Monitor<State>) {
        while true {
            let run = state.wait { state -> Run?? in
                if state.isStopping { return .some(nil) }
                guard !state.invitations.isEmpty else { return nil }
                state.idle -= 1
                return .some(state.invitations.removeFirst())
            }
            guard let run, let run else { return }
            run.work()
            state.withLock { $0.idle += 1 }
        }
    }
}

/// The parts of one transfer.
private final class Run: Sendable {
    private struct State {
        var next = 0
        var running = 0
        var error: StoreError?
    }

    private let count: Int
    private let part: @Sendable (Int) throws(StoreError) -> Void
    private let state = Monitor(State())

    init(_ count: Int, _ part: @escaping @Sendable (Int) throws(StoreError) -> Void) {
        self.count = count
        self.part = part
    }

    /// Does one part after the other until none is left to be begun.
    func work() {
        while let index = begin() {
            do throws(StoreError) {
                try part(index)
                finish(nil)
            } catch { finish(error) }
        }
    }

    /// Waits for the parts that others are at.
    func wait() throws(StoreError) {
        let error = state.wait { state -> StoreError?? in state.running == 0 ? .some(state.error) : nil }
        if let error, let error { throw error }
    }

    private func begin() -> Int? {
        state.withLock { state in
            guard state.error == nil, state.next < count else { return nil }
            defer { state.next += 1 }
            state.running += 1
            return state.next
        }
    }

    private func finish(_ error: StoreError?) {
        state.update { state in
            state.running -= 1
            if state.error == nil { state.error = error }
        }
    }
}
