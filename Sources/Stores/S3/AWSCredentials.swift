package import StoreAPI
package import Threading

/// An access key with its secret. Prints as nothing but its kind: secrets stay out of logs and errors.
package struct AWSCredentials: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible,
    CustomReflectable
{
    package var accessKeyID: String
    package var secretAccessKey: String
    package var sessionToken: String?
    /// nil: they do not expire.
    package var expiration: Timestamp?

    package init(
        accessKeyID: String, secretAccessKey: String, sessionToken: String? = nil, expiration: Timestamp? = nil
    ) {
        self.accessKeyID = accessKeyID
        self.secretAccessKey = secretAccessKey
        self.sessionToken = sessionToken
        self.expiration = expiration
    }

    package var description: String { sessionToken == nil ? "an access key" : "a temporary access key" }
    package var debugDescription: String { description }
    package var customMirror: Mirror { Mirror(self, children: [], displayStyle: .struct) }
}

/// A place where credentials may come from.
package protocol AWSCredentialSource: Sendable {
    /// For people: "the environment", "profile 'work' in ~/.aws/credentials" …
    var name: String { get }
    /// - Returns: nil when this place has nothing, so that the next one is asked.
    /// - Throws: ``StoreError``: `.authenticationFailed`, `.invalidArgument`, or what the network did.
    func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials?
}

/// Credentials that somebody has given.
package struct StaticAWSCredentials: AWSCredentialSource {
    package let name: String
    private let given: AWSCredentials

    package init(_ given: AWSCredentials, name: String) {
        self.given = given
        self.name = name
    }

    package func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? { given }
}

/// The first of several sources that has something, remembered and renewed before it expires.
///
/// One thread at a time asks the sources; others go on with what there is as long as it is valid, and wait otherwise.
/// No lock is held while a source is asked.
package final class AWSCredentialChain: Sendable {
    /// How long before their end credentials are renewed: the time in which botocore does it, too.
    private static let renewalMargin: Int64 = 10 * 60 * 1_000_000_000
    /// How long a failed renewal, or a refusal, is not tried again.
    private static let pause: Int64 = 5 * 1_000_000_000

    private struct State {
        var current: AWSCredentials?
        var origin: String?
        var isAsking = false
        /// The outcome of the last question, for those who waited for it.
        var failure: StoreError?
        var answers = 0
        var lastAnswer: Timestamp?
        var lastChange: Timestamp?
        var isStale = false
    }

    private let sources: [any AWSCredentialSource]
    private let clock: any Clock
    private let state = Monitor(State())

    package init(_ sources: [any AWSCredentialSource], clock: any Clock = SystemClock()) {
        self.sources = sources
        self.clock = clock
    }

    /// Where the credentials in use come from; nil before the first use.
    package var origin: String? { state.withLock { $0.origin } }

    /// Credentials that are valid now.
    ///
    /// - Throws: ``StoreError``: `.authenticationFailed` when no source has any.
    package func credentials() throws(StoreError) -> AWSCredentials {
        let now = clock.calendar
        enum Step {
            case use(AWSCredentials)
            case ask
            case wait(Int)
        }
        let step: Step = state.withLock { state in
            if let current = state.current {
                let remaining = current.expiration.map { $0.nanoseconds - now.nanoseconds } ?? .max
                let mayAsk = !state.isAsking && !Self.isRecent(state.lastAnswer, now)
                let isDue = state.isStale || remaining < Self.renewalMargin
                if remaining > 0, !(isDue && mayAsk) { return .use(current) }
            }
            if state.isAsking { return .wait(state.answers) }
            state.isAsking = true
            return .ask
        }
        switch step {
        case .use(let current): return current
        case .ask: return try ask(now)
        case .wait(let seen):
            let outcome: Result<AWSCredentials, StoreError> = state.wait { state in
                guard state.answers != seen || !state.isAsking else { return nil }
                if let failure = state.failure { return .failure(failure) }
                return state.current.map { .success($0) } ?? .failure(Self.nothingFound(self.sources))
            }!
            return try outcome.get()
        }
    }

    /// The server has refused the credentials: reads them again, at most once in a few seconds.
    ///
    /// - Returns: Whether there are others than those in use a moment ago.
    package func renewAfterRefusal() -> Bool {
        let now = clock.calendar
        let before: AWSCredentials?? = state.withLock { state in
            if Self.isRecent(state.lastAnswer, now) { return .none }
            state.isStale = true
            return .some(state.current)
        }
        guard let before else { return state.withLock { Self.isRecent($0.lastChange, now) } }
        // A failure is told to the caller of the request that is signed next.
        guard let after = try? credentials() else { return false }
        return !Self.areSame(before, after)
    }

    /// Forgets what is known, so that the sources are asked before the next use.
    package func forget() { state.update { $0 = State(isAsking: $0.isAsking, answers: $0.answers) } }

    private func ask(_ now: Timestamp) throws(StoreError) -> AWSCredentials {
        var found: AWSCredentials?
        var origin: String?
        var failure: StoreError?
        for source in sources {
            do throws(StoreError) {
                found = try source.credentials(at: now)
            } catch {
                failure = error
            }
            origin = source.name
            if found != nil || failure != nil { break }
        }
        if found == nil, failure == nil { failure = Self.nothingFound(sources) }
        let result: Result<AWSCredentials, StoreError> = state.update { state in
            state.isAsking = false
            state.answers += 1
            state.lastAnswer = now
            if let found {
                if state.current != nil, !Self.areSame(state.current, found) { state.lastChange = now }
                state.current = found
                state.origin = origin
                state.failure = nil
                state.isStale = false
                return .success(found)
            }
            state.failure = failure
            // What is still valid serves on; the next use tries again.
            if let current = state.current, current.expiration.map({ $0 > now }) ?? !state.isStale {
                return .success(current)
            }
            state.current = nil
            return .failure(failure!)
        }
        return try result.get()
    }

    private static func isRecent(_ moment: Timestamp?, _ now: Timestamp) -> Bool {
        moment.map { abs(now.nanoseconds - $0.nanoseconds) < pause } ?? false
    }

    private static func areSame(_ a: AWSCredentials?, _ b: AWSCredentials?) -> Bool {
        a?.accessKeyID == b?.accessKeyID && a?.secretAccessKey == b?.secretAccessKey
            && a?.sessionToken == b?.sessionToken
    }

    private static func nothingFound(_ sources: [any AWSCredentialSource]) -> StoreError {
        StoreError(
            .authenticationFailed,
            "no credentials were found in \(sources.map(\.name).joined(separator: ", ")): "
                + "set access_key_id and secret_access_key, or profile, or anonymous = yes for a public bucket")
    }
}
