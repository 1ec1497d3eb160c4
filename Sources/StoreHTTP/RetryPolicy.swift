public import StoreAPI
import Threading

/// When a failed request is sent again.
public struct RetryPolicy: Hashable, Sendable {
    /// Upper bound of the wait before the first repeat; it doubles with each.
    public var base: Duration = .milliseconds(100)
    /// The same where the server asked for fewer requests and not for a time: the session's pace is what spares it.
    public var throttledBase: Duration = .milliseconds(25)
    /// What the doubling ends at.
    public var cap: Duration = .seconds(10)
    /// Also for requests with large bodies, whose transfer does not count as time spent.
    public var mostRepeats = 15

    public init() {}
}

/// The repeats of one request: exponential back-off with full jitter. Decides; somebody else waits.
public struct Backoff: Sendable {
    public enum Decision: Hashable, Sendable {
        case giveUp
        case wait(Duration)
    }

    public let policy: RetryPolicy
    /// How long the request may take in all.
    public let budget: Duration
    public private(set) var repeats = 0

    public init(_ policy: RetryPolicy, budget: Duration) {
        self.policy = policy
        self.budget = budget
    }

    /// What to do after `error`.
    ///
    /// - Parameters:
    ///   - spent: How much of the budget is used up.
    ///   - isSafe: Whether sending again can do no harm.
    ///   - random: 0 ..< 1, anew each time.
    public mutating func decide(after error: StoreError, spent: Duration, isSafe: Bool, random: Double) -> Decision {
        guard isSafe, Self.isWorthRepeating(error.code), repeats < policy.mostRepeats else { return .giveUp }
        let base = error.code == .throttled && error.retryAfter == nil ? policy.throttledBase : policy.base
        let ceiling = min(
            Double(base.nanoseconds) * Double(UInt64(1) << min(UInt64(repeats), 40)),
            Double(policy.cap.nanoseconds))
        // What the server asks for is the least; the jitter on top keeps its clients apart.
        let wait = .nanoseconds(Int64(ceiling * random)) + max(error.retryAfter ?? .zero, .zero)
        guard spent + wait < budget else { return .giveUp }
        repeats += 1
        return .wait(wait)
    }

    /// Faults of the network and the server. Those of this machine (`.internal`, `.noLocalSpace`) are as transient but
    /// do not go away within seconds.
    static func isWorthRepeating(_ code: StoreError.Code) -> Bool {
        switch code {
        case .throttled, .timedOut, .unavailable, .corrupted: true
        case .notFound, .storeNotFound, .alreadyExists, .notADirectory, .isADirectory, .directoryNotEmpty,
            .preconditionFailed, .accessDenied, .authenticationFailed, .quotaExceeded, .tooLarge, .invalidName,
            .invalidArgument, .unsupported, .cancelled, .readOnly, .inUse, .certificateRejected, .noLocalSpace,
            .internal,
            .contentLost:
            false
        }
    }
}
