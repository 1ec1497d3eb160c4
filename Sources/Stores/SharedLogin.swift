import StoreAPI
import Threading

/// What a login gives, such as a token, for all threads: one of them gets it anew, while the others wait, before it ends
/// and when a request with it was refused.
///
/// No lock is held while somebody logs in.
final class SharedLogin<Access: Sendable>: Sendable {
    private struct State {
        var access: Access?
        /// nil: it is not told.
        var expires: Timestamp?
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

    /// How long before its end what was given is renewed.
    private static var margin: Int64 { 120 * 1_000_000_000 }
    /// For so long a refused login is not tried again: providers lock accounts. And what was got after a refusal serves
    /// all requests that were refused with the one before.
    private static var pause: Int64 { 5 * 1_000_000_000 }

    /// Asks whoever gives access. Always the same for one object.
    typealias Asking = (_ now: Timestamp) throws(StoreError) -> (access: Access, expires: Timestamp?)

    private let clock: any Clock
    private let state = Monitor(State())

    init(clock: any Clock) { self.clock = clock }

    /// What is valid now.
    ///
    /// - Throws: ``StoreError``: what the login threw, also to those who waited for it.
    func access(_ logIn: Asking) throws(StoreError) -> Access {
        let now = clock.calendar
        let step: Step = state.withLock { state in
            if let access = state.access,
                state.expires.map({ $0.nanoseconds - now.nanoseconds > Self.margin }) ?? true
            {
                return .use(access)
            }
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
                    ?? .failure(StoreError(.unavailable, "the login is being renewed"))
            }!
            return try outcome.get()
        case .ask: break
        }
        let outcome = Result { () throws(StoreError) in try logIn(now) }
        let result: Result<Access, StoreError> = state.update { state in
            state.isAsking = false
            state.answers += 1
            switch outcome {
            case .success(let given):
                state.access = given.access
                state.expires = given.expires
                state.failure = nil
                state.failedAt = nil
                return .success(given.access)
            case .failure(let error):
                // What is still valid serves on; the next use tries again.
                if let access = state.access, state.expires.map({ $0 > now }) ?? true, error.isTransient {
                    return .success(access)
                }
                state.access = nil
                state.failure = error
                state.failedAt = error.isTransient ? nil : now
                return .failure(error)
            }
        }
        return try result.get()
    }

    /// As ``RequestSigning/credentialsWereRefused()`` has it.
    func renewAfterRefusal(_ logIn: Asking) -> Bool {
        let now = clock.calendar
        let isRenewed: Bool = state.withLock { state in
            if state.isAsking { return false }
            if let time = state.renewedAfterRefusal, Self.isRecent(time, now) { return state.access != nil }
            state.access = nil
            state.failure = nil
            state.failedAt = nil
            state.renewedAfterRefusal = now
            return false
        }
        if isRenewed { return true }
        // A failure is told to the caller of the request that is signed next.
        return (try? access(logIn)) != nil
    }

    private static func isRecent(_ moment: Timestamp, _ now: Timestamp) -> Bool {
        abs(now.nanoseconds - moment.nanoseconds) < pause
    }
}
