import Testing
import Threading

@testable import Synchronizer

@Suite("The number of workers") struct WorkerLimitTests {
    /// Feeds one second of work at a time, at the rate that `rate` gives for a limit.
    private func run(_ limit: inout WorkerLimit, seconds: Int, isSaturated: Bool = true, rate: (Int) -> Double) {
        var now = MonotonicTime(nanoseconds: 0)
        for _ in 0..<seconds * 10 {
            now = now + .milliseconds(100)
            limit.note(
                rate(limit.limit) / 10, completions: max(1, limit.limit), isSaturated: isSaturated, at: now)
        }
    }

    @Test("it grows while throughput does, and stays at the maximum")
    func grows() {
        var limit = WorkerLimit(4...64)
        run(&limit, seconds: 20) { Double($0) * 10 }
        #expect(limit.limit == 64)
    }

    @Test("it finds the knee and stays near it", arguments: [6.0, 10, 20, 40])
    func knee(knee: Double) {
        var limit = WorkerLimit(2...64)
        run(&limit, seconds: 120) { min(Double($0), knee) * 10 }
        #expect(Double(limit.limit) >= knee / 2 && Double(limit.limit) <= knee * 2 + 2)
    }

    @Test("an idle store says nothing about more workers")
    func idle() {
        var limit = WorkerLimit(4...64)
        run(&limit, seconds: 20, isSaturated: false) { Double($0) * 10 }
        #expect(limit.limit == 4)
    }

    @Test("it never leaves its range")
    func range() {
        var limit = WorkerLimit(4...64)
        for _ in 0..<10 { limit.halve() }
        #expect(limit.limit == 4)
        limit = WorkerLimit(4...64)
        run(&limit, seconds: 20) { Double($0) }
        limit.halve()
        #expect(limit.limit == 32)
        limit.setRange(1...8)
        #expect(limit.limit == 8)
    }

    @Test("waits double, are spread, and end at the longest")
    func backoff() {
        var random = SplitMix(seed: 1)
        let backoff = Backoff(from: .seconds(1), to: .seconds(300))
        for failures in [1, 2, 5, 9, 20, 1_000_000] {
            let span = min(
                300, Double(sequence(first: 1.0) { $0 * 2 }.prefix(min(failures, 20)).reduce(0) { max($0, $1) }))
            let waits = (0..<200).map { _ in backoff.wait(afterFailures: failures, &random).inSeconds }
            #expect(waits.allSatisfy { $0 <= span && $0 >= span / 10 - 1e-6 })
            #expect(waits.max()! > span * 0.8 && waits.min()! < span * 0.3)
        }
    }
}
