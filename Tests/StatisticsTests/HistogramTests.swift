import Testing
import Threading

@testable import Statistics

@Suite("Histograms and rates")
struct HistogramTests {
    @Test("a duration falls into the bucket whose bound it does not exceed")
    func buckets() {
        var histogram = Histogram()
        for milliseconds in [0, 1, 2, 3, 65_536, 65_537, 1_000_000] { histogram.add(.milliseconds(milliseconds)) }
        #expect(histogram.count == 7)
        #expect(histogram.buckets.count == Histogram.bounds.count + 1)
        #expect(Array(histogram.buckets.prefix(4)) == [2, 1, 1, 0])
        #expect(Array(histogram.buckets.suffix(2)) == [1, 2])
        #expect(abs(histogram.sumSeconds - 1_131.079) < 0.000_001)
    }

    @Test("bounds grow, so that no bucket is unreachable")
    func bounds() {
        #expect(zip(Histogram.bounds, Histogram.bounds.dropFirst()).allSatisfy { $0 < $1 })
    }

    @Test("a rate is that of the last ten seconds")
    func rate() {
        let clock = ManualClock()
        let statistics = Statistics(clock: clock)
        statistics.add(.bytesUploaded, 1_000)
        #expect(statistics.snapshot().uploadRate == 100)
        clock.advance(by: .seconds(5))
        statistics.add(.bytesUploaded, 1_000)
        #expect(statistics.snapshot().uploadRate == 200)
        clock.advance(by: .seconds(6))
        #expect(statistics.snapshot().uploadRate == 100)
        clock.advance(by: .seconds(1_000_000))
        #expect(statistics.snapshot().uploadRate == 0)
        #expect(statistics.snapshot()[.bytesUploaded] == 2_000)
        #expect(statistics.snapshot().downloadRate == 0)
    }

    @Test("errors of one kind are one line with a count, and only the latest kinds are kept")
    func errors() {
        let clock = ManualClock()
        let statistics = Statistics(clock: clock)
        for number in 0..<150 {
            clock.advance(by: .seconds(1))
            statistics.report(kind: "kind \(number)", message: "m", advice: "a")
            statistics.report(kind: "kind \(number)", message: "again", advice: "a")
        }
        let errors = statistics.snapshot().errors
        #expect(errors.count == 100)
        #expect(errors.first?.kind == "kind 149")
        #expect(errors.allSatisfy { $0.count == 2 && $0.message == "again" })
    }
}
