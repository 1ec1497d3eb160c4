package import Threading

/// Whether the store takes work, as the outcomes of all rows together show it. A value without clock or threads.
///
/// Three failures in a row with no success between them, of whatever rows, mean `down`: then one row at a time is
/// tried, after waits that double to half a minute. A single row that always fails cannot hold up others for long:
/// another row is the next probe, and its success ends the state.
package struct StoreHealth: Sendable {
    package enum State: Hashable, Sendable {
        case healthy
        /// Nothing new is begun before `until`.
        case throttled(until: MonotonicTime)
        /// The next probe may begin at `probeAt`.
        case down(probeAt: MonotonicTime)
    }

    package private(set) var state = State.healthy
    private var failures = 0
    private var probes = 0
    private var throttles = 0
    private var lastThrottle: MonotonicTime?

    private static let failuresUntilDown = 3
    private static let probing = Backoff(from: .seconds(1), to: .seconds(30))
    /// Wrong credentials do not get right by asking often, and some services lock accounts that try.
    private static let refusedProbing = Backoff(from: .seconds(10), to: .seconds(300))
    private static let throttling = Backoff(from: .seconds(1), to: .seconds(30))
    private static let longestThrottle = Duration.seconds(300)

    package init() {}

    package var isDown: Bool { if case .down = state { true } else { false } }

    /// A request was answered, with whatever.
    package mutating func answered(at now: MonotonicTime) {
        failures = 0
        probes = 0
        switch state {
        case .down: state = .healthy
        case .throttled(let until) where until <= now:
            throttles = 0
            state = .healthy
        case .throttled, .healthy: break
        }
    }

    /// The store could not be reached, or refuses this client.
    /// - Returns: whether it is down by this, and was not before.
    package mutating func failed(isRefusal: Bool, isProbe: Bool, at now: MonotonicTime, _ random: inout SplitMix)
        -> Bool
    {
        failures += 1
        let wasDown = isDown
        guard wasDown || isRefusal || failures >= Self.failuresUntilDown else { return false }
        // What was under way when it went down tells nothing new.
        if wasDown, !isProbe { return false }
        probes += 1
        let backoff = isRefusal ? Self.refusedProbing : Self.probing
        state = .down(probeAt: now + backoff.wait(afterFailures: probes, &random))
        return !wasDown
    }

    /// - Returns: until when nothing new is begun, and whether the number of workers is to be halved: only for
    ///   requests that were begun after the last halving.
    package mutating func throttled(
        retryAfter: Duration?, begun: MonotonicTime, at now: MonotonicTime, _ random: inout SplitMix
    ) -> (wait: Duration, halve: Bool) {
        failures = 0
        probes = 0
        let isNews = lastThrottle.map { begun >= $0 } ?? true
        if isNews {
            throttles += 1
            lastThrottle = now
        }
        let asked = retryAfter.map { min($0, Self.longestThrottle) } ?? .zero
        var until = now + max(asked, Self.throttling.wait(afterFailures: throttles, &random))
        if case .throttled(let old) = state { until = isNews ? max(old, until) : max(old, now + asked) }
        state = .throttled(until: until)
        return (until - now, isNews)
    }

    /// Somebody asked for it, or the settings changed: try at once.
    package mutating func tryNow(at now: MonotonicTime) {
        probes = 0
        if case .down = state { state = .down(probeAt: now) }
    }
}
