import StoreAPI
import Threading

/// What a login gives, shared by all threads: one of them asks for it anew, while the others wait, before it ends and when
/// a request with it was refused. No lock is held while it is asked for.
final class SharedLogin<Access: Sendable>: Sendable {
    private struct State {
        var access: Access?
        var isAsking = false
        var answers = 0
        /// Of the last login, for those who waited for it; and when that was, on the calendar.
        var failure: StoreError?
        var failedAt: Timestamp?
        var renewedAfterRefusal: Timestamp?
    }

    private enum Step {
        case use(Access)
        case fail(StoreError)
        case ask
        case wait(Int)
    }

    /// How long before its end an access is renewed.
    private static var margin: Int64 { 120 * 1_000_000_000 }
    /// For so long a refused login is not tried again: cloud providers lock accounts. And an access got after a refusal
    /// serves all requests that were refused with the one before.
    private static var pause: Int64 { 5 * 1_000_000_000 }

    private let place: String
    private let clock: any Clock
    private let end: @Sendable (Access) -> Timestamp?
    private let state = Monitor(State())

    /// - Parameters:
    ///   - place: Where the login is, for messages.
    ///   - end: When an access ends; nil: not told.
    init(at place: String, clock: any Clock, end: @escaping @Sendable (Access) -> Timestamp?) {
        self.place = place
        self.clock = clock
        self.end = end
    }

    /// An access that is valid now.
    ///
    /// - Parameter ask: Logs in; given the time.
    /// - Throws: ``StoreError``: what `ask` threw, here or for another thread.
    func access(_ ask: (Timestamp) throws(StoreError) -> Access) throws(StoreError) -> Access {
        let now = clock.calendar
        let step: Step = state.withLock { state in
            if let access = state.access, isValid(access, now) { return .use(access) }
            if state.isAsking { return .wait(state.answers) }
            if let failure = state.failure, let time = state.failedAt, Self.isRecent(time, now) {
                return .fail(failure)
            }
            state.isAsking = true
            return .ask
        }
        switch step {
        case .use(let access): return access
        case .fail(let error): throw error
        case .wait(let seen):
            let outcome: Result<Access, StoreError> = state.wait { state in
                guard state.answers != seen || !state.isAsking else { return nil }
                if let failure = state.failure { return .failure(failure) }
                return state.access.map { .success($0) }
                    ?? .failure(StoreError(.unavailable, "the login at \(self.place) is being renewed"))
            }!
            return try outcome.get()
        case .ask: break
        }
        let outcome = Result { () throws(StoreError) in try ask(now) }
        state.update { state in
            state.isAsking = false
            state.answers += 1
            switch outcome {
            case .success(let access):
                state.access = access
                state.failure = nil
                state.failedAt = nil
            case .failure(let error):
                state.access = nil
                state.failure = error
                state.failedAt = error.isTransient ? nil : now
            }
        }
        return try outcome.get()
    }

    /// A request with the access was refused: it is forgotten, unless that has just been done.
    ///
    /// - Returns: Whether there is another one already.
    func forgetAfterRefusal() -> Bool {
        let now = clock.calendar
        return state.withLock { state in
            if state.isAsking { return false }
            if let time = state.renewedAfterRefusal, Self.isRecent(time, now) { return state.access != nil }
            state.access = nil
            state.failure = nil
            state.failedAt = nil
            state.renewedAfterRefusal = now
            return false
        }
    }

    private func isValid(_ access: Access, _ now: Timestamp) -> Bool {
        end(access).map { $0.nanoseconds - now.nanoseconds > Self.margin } ?? true
    }

    private static func isRecent(_ moment: Timestamp, _ now: Timestamp) -> Bool {
        abs(now.nanoseconds - moment.nanoseconds) < pause
    }
}
