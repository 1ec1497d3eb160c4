import Threading

/// Spaces the requests to a server that asks for fewer: additive increase, multiplicative decrease.
///
/// Without a complaint there is no limit. The first one halves the pace of the last second; further ones halve it
/// again, but those of requests that were on their way by then count as the same complaint. Success lets the pace grow
/// by a tenth of the old one per second, until it is twice of what it was, or no complaint has come for a minute.
struct RequestPacer: Sendable {
    /// Requests per second; nil means no limit.
    private(set) var rate: Double?
    /// The pace at which the server complained.
    private var complainedAt = 0.0
    private var lastComplaint = MonotonicTime(nanoseconds: .min)
    private var next = MonotonicTime(nanoseconds: .min)
    /// Requests that began in the second that began at `window`, and in the one before.
    private var window = MonotonicTime(nanoseconds: .min)
    private var begun = 0
    private var begunBefore = 0

    private static let slowest = 1.0
    private static let longestHold: Duration = .seconds(10)

    /// Reserves the next moment at which a request may be sent.
    mutating func reserve(at now: MonotonicTime) -> MonotonicTime {
        if rate != nil, now > lastComplaint + .seconds(60) { rate = nil }
        let time = max(now, next)
        if let rate { next = time + .nanoseconds(Int64(1e9 / rate)) }
        count(now)
        return time
    }

    /// The server complained about a request that was sent at `sent`.
    ///
    /// - Parameter hold: How long it wants to be left alone: nothing is sent before, for up to ten seconds.
    mutating func noteComplaint(sent: MonotonicTime, at now: MonotonicTime, hold: Duration?) {
        if let hold { next = max(next, now + min(hold, Self.longestHold)) }
        guard sent > lastComplaint else { return }
        lastComplaint = now
        let pace = rate ?? Double(max(begun, begunBefore, 1))
        complainedAt = pace
        rate = max(pace / 2, Self.slowest)
    }

    mutating func noteSuccess() {
        guard let rate else { return }
        let grown = rate + max(complainedAt / 10, 1) / rate
        self.rate = grown > max(complainedAt * 2, 4) ? nil : grown
    }

    private mutating func count(_ now: MonotonicTime) {
        if now >= window + .seconds(1) || window.nanoseconds == .min {
            begunBefore = window.nanoseconds != .min && now < window + .seconds(2) ? begun : 0
            begun = 0
            window = now
        }
        begun += 1
    }
}
