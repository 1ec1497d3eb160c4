/// Lets those who want the same thing at the same time have it done once, for all of them: one who asks while it is
/// being done for others waits for the end of that, and then it is done for all who have asked meanwhile.
///
/// Each gets the outcome of work that began after it had asked.
public final class Gathering<Request: Sendable, Outcome: Sendable>: Sendable {
    /// Guarded by the monitor.
    private final class Round: @unchecked Sendable {
        var requests: [Request] = []
        var outcome: Outcome?
    }

    private enum Part { case lead([Request]), follow(Outcome) }

    private struct State {
        var isBusy = false
        /// Those who have asked for what begins next.
        var next: Round?
    }

    private let state = Monitor(State())

    public init() {}

    /// How many wait for what has not begun yet.
    public var waiting: Int { state.withLock { $0.next?.requests.count ?? 0 } }

    /// Waits until `request` was among those that `body` was called with, by this thread or by another one.
    ///
    /// - Parameter body: The same for all who ask. It is called without locks.
    public func perform(_ request: Request, _ body: ([Request]) -> Outcome) -> Outcome {
        let round = state.withLock { state in
            let round = state.next ?? Round()
            round.requests.append(request)
            state.next = round
            return round
        }
        let part = state.wait { state -> Part? in
            if let outcome = round.outcome { return .follow(outcome) }
            guard !state.isBusy, state.next === round else { return nil }
            state.isBusy = true
            state.next = nil
            return .lead(round.requests)
        }
        switch part! {
        case .follow(let outcome): return outcome
        case .lead(let requests):
            let outcome = body(requests)
            state.update { state in
                round.outcome = outcome
                state.isBusy = false
            }
            return outcome
        }
    }
}
