package import Threading

/// A rate limit: bytes may pass while there is credit, which flows in at the rate.
///
/// An amount may take more credit than there is; the debt is then waited for. So a piece is never cut
/// for the limit's sake, and the average still holds.
package struct TokenBucket {
    /// Bytes per second; nil means no limit.
    package private(set) var rate: Int64?
    private var credit: Double = 0
    private var updated = MonotonicTime(nanoseconds: 0)

    package init(rate: Int64? = nil) { self.rate = rate }

    /// Takes a new rate. Debt is kept, so that changing the rate again and again lets nothing slip through.
    package mutating func setRate(_ rate: Int64?, at now: MonotonicTime) {
        refill(now)
        self.rate = rate
        if let rate { credit = min(credit, Self.burst(rate)) } else { credit = 0 }
    }

    /// How many bytes may pass at `now`: 0 when there is no credit, `Int.max` when there is no limit.
    package mutating func available(at now: MonotonicTime) -> Int {
        guard rate != nil else { return .max }
        refill(now)
        return credit >= 1 ? Int(credit) : 0
    }

    package mutating func take(_ bytes: Int) {
        if rate != nil { credit -= Double(bytes) }
    }

    /// How long until there is credit for a piece worth sending (a hundredth of a second's worth).
    package mutating func wait(at now: MonotonicTime) -> Duration {
        guard let rate else { return .zero }
        refill(now)
        let missing = max(Double(rate) / 100, 1) - credit
        return missing <= 0 ? .zero : .nanoseconds(Int64(min(missing / Double(max(rate, 1)), 3600) * 1e9))
    }

    private mutating func refill(_ now: MonotonicTime) {
        defer { updated = max(now, updated) }
        guard let rate, now > updated, updated.nanoseconds > 0 else { return }
        credit = min(credit + Double(max(rate, 1)) * (now - updated).inSeconds, Self.burst(max(rate, 1)))
    }

    /// What may pass at once after a rest: a tenth of a second's worth.
    private static func burst(_ rate: Int64) -> Double { max(Double(rate) / 10, 1) }
}
