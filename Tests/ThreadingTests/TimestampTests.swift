import Glibc
import Testing
import Threading

@Suite("Timestamps")
struct TimestampTests {
    @Test(
        "before 1970 the whole seconds are rounded towards the past",
        arguments: [
            (0, 0, 0), (1, 0, 1), (999_999_999, 0, 999_999_999), (1_000_000_000, 1, 0), (-1, -1, 999_999_999),
            (-999_999_999, -1, 1), (-1_000_000_000, -1, 0), (-1_000_000_001, -2, 999_999_999),
        ] as [(Int64, Int64, Int64)])
    func parts(nanoseconds: Int64, seconds: Int64, subsecond: Int64) {
        let time = Timestamp(nanoseconds: nanoseconds)
        #expect(time.seconds == seconds)
        #expect(time.subsecond == subsecond)
        #expect(time.timespec.tv_sec == Int(seconds))
        #expect(time.timespec.tv_nsec == Int(subsecond))
        #expect(Timestamp(time.timespec) == time)
        #expect(Timestamp(seconds: seconds, nanoseconds: subsecond) == time)
    }

    @Test("timestamps are in the order of time")
    func order() {
        #expect(Timestamp(nanoseconds: -1) < Timestamp(nanoseconds: 0))
        #expect(Timestamp(seconds: -5, nanoseconds: 1) < Timestamp(seconds: -4))
    }

    @Test("a moment that nanoseconds do not reach becomes the nearest that they do", arguments: [Int64.min, Int64.max])
    func clamping(seconds: Int64) {
        let time = Timestamp(seconds: seconds, nanoseconds: 999_999_999)
        #expect(seconds < 0 ? time.seconds == -9_223_372_036 : time.nanoseconds == .max)
        #expect((0..<1_000_000_000).contains(time.subsecond))
        #expect(Timestamp(time.timespec) == time)
    }
}

@Suite("Durations")
struct DurationTests {
    @Test("a duration is told in nanoseconds and seconds")
    func units() {
        #expect(Duration.milliseconds(1_500).nanoseconds == 1_500_000_000)
        #expect(Duration.milliseconds(-1_500).nanoseconds == -1_500_000_000)
        #expect(Duration.milliseconds(1_500).inSeconds == 1.5)
        #expect(Duration.seconds(Int64.max).nanoseconds == Int64.max)
        #expect(Duration.seconds(Int64.min).nanoseconds == Int64.min)
    }

    @Test("a monotonic time moves by durations")
    func monotonic() {
        let time = MonotonicTime(nanoseconds: 5)
        #expect(time + .seconds(1) == MonotonicTime(nanoseconds: 1_000_000_005))
        #expect((time + .seconds(1)) - time == .seconds(1))
        #expect(time < time + .nanoseconds(1))
        #expect(MonotonicTime.now <= MonotonicTime.now)
    }

    @Test("a manual clock stands still until it is told to go on")
    func manual() {
        let clock = ManualClock()
        let before = (clock.monotonic, clock.calendar)
        #expect(clock.monotonic == before.0)
        clock.advance(by: .seconds(3))
        #expect(clock.monotonic - before.0 == .seconds(3))
        #expect(clock.calendar.nanoseconds - before.1.nanoseconds == 3_000_000_000)
    }
}
