package import Threading

/// How many workers one kind of work gets: more as long as that brings at least 5 % more throughput, fewer when it
/// brings nothing, half when the store throttles. A value without clock or threads.
///
/// It doubles until the first step without gain, as TCP does, because four workers on a link that could feed sixty
/// would else take a minute to find out. Throughput counts only while there was more work than workers: an idle
/// period says nothing about the store.
package struct WorkerLimit: Sendable {
    package private(set) var limit: Int
    package private(set) var range: ClosedRange<Int>

    private static let gain = 1.05
    /// Windows for which a limit that was found good is kept before a higher one is tried again.
    private static let rest = 20

    private var windowStart: MonotonicTime?
    private var amount = 0.0
    private var completions = 0
    private var isSaturated = true
    private var previous: (limit: Int, rate: Double)?
    private var isDoubling = true
    private var windowsToRest = 0

    package init(_ range: ClosedRange<Int>) {
        self.range = range
        limit = range.lowerBound
    }

    package mutating func setRange(_ range: ClosedRange<Int>) {
        guard range != self.range else { return }
        self.range = range
        limit = min(max(limit, range.lowerBound), range.upperBound)
        forget()
    }

    /// Some work was done: files or bytes, as its kind is measured.
    ///
    /// - Parameters:
    ///   - completions: How many requests ended with it.
    ///   - isSaturated: Whether all workers were busy and more work was waiting.
    package mutating func note(_ amount: Double, completions: Int, isSaturated: Bool, at now: MonotonicTime) {
        guard let start = windowStart else {
            windowStart = now
            return
        }
        self.amount += amount
        self.completions += completions
        self.isSaturated = self.isSaturated && isSaturated
        let elapsed = now - start
        let shortest: Duration = isDoubling ? .milliseconds(250) : .seconds(1)
        guard elapsed >= .seconds(10) || (elapsed >= shortest && self.completions >= 2 * limit) else { return }
        if self.isSaturated { evaluate(self.amount / max(elapsed.inSeconds, 1e-9)) }
        windowStart = now
        self.amount = 0
        self.completions = 0
        self.isSaturated = true
    }

    /// The store asked for fewer requests.
    package mutating func halve() {
        limit = max(range.lowerBound, limit / 2)
        isDoubling = false
        forget()
        windowsToRest = Self.rest / 4
    }

    private mutating func evaluate(_ rate: Double) {
        guard windowsToRest == 0 else {
            windowsToRest -= 1
            return
        }
        if let last = previous, rate < last.rate * Self.gain {
            limit = last.limit
            previous = nil
            isDoubling = false
            windowsToRest = Self.rest
            return
        }
        guard limit < range.upperBound else { return }
        previous = (limit, rate)
        limit = min(range.upperBound, limit + (isDoubling ? limit : max(1, limit / 8)))
    }

    private mutating func forget() {
        previous = nil
        windowStart = nil
        amount = 0
        completions = 0
        isSaturated = true
    }
}
