public import Glibc

/// A moment on the clock that never jumps (CLOCK_MONOTONIC); for deadlines and durations.
public struct MonotonicTime: Comparable, Hashable, Sendable {
    public var nanoseconds: Int64

    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    public static var now: MonotonicTime {
        var time = Glibc.timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return MonotonicTime(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }

    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
    public static func + (a: Self, b: Duration) -> Self { .init(nanoseconds: a.nanoseconds &+ b.nanoseconds) }
    public static func - (a: Self, b: Self) -> Duration { .nanoseconds(a.nanoseconds - b.nanoseconds) }
}

/// A moment of the calendar, as files carry it: nanoseconds since 1970-01-01 UTC, negative before.
public struct Timestamp: Comparable, Hashable, Sendable {
    public var nanoseconds: Int64

    public init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }
    /// Moments that nanoseconds since 1970 do not reach (before 1677, after 2262) become the nearest that they do.
    public init(seconds: Int64, nanoseconds: Int64 = 0) {
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        let (sum, overflowOfSum) = product.addingReportingOverflow(nanoseconds)
        // The smallest is a whole second, so that ``seconds`` can tell it.
        let nearest = seconds < 0 ? -9_223_372_036_000_000_000 : Int64.max
        self.nanoseconds = overflow || overflowOfSum ? nearest : sum
    }
    public init(_ time: timespec) { self.init(seconds: Int64(time.tv_sec), nanoseconds: Int64(time.tv_nsec)) }

    public static var now: Timestamp {
        var time = Glibc.timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return Timestamp(time)
    }

    /// Whole seconds, rounded towards the past.
    public var seconds: Int64 { (nanoseconds - subsecond) / 1_000_000_000 }
    /// What is above ``seconds``: 0 ..< 1,000,000,000.
    public var subsecond: Int64 {
        let rest = nanoseconds % 1_000_000_000
        return rest < 0 ? rest + 1_000_000_000 : rest
    }
    public var timespec: Glibc.timespec { .init(tv_sec: Int(seconds), tv_nsec: Int(subsecond)) }

    public static func < (a: Self, b: Self) -> Bool { a.nanoseconds < b.nanoseconds }
}

extension Duration {
    /// The duration in whole nanoseconds; those beyond 292 years are held at that.
    public var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let (product, overflow) = seconds.multipliedReportingOverflow(by: 1_000_000_000)
        return overflow ? (seconds < 0 ? .min : .max) : product &+ attoseconds / 1_000_000_000
    }

    /// The duration in seconds, with fractions.
    public var inSeconds: Double { Double(nanoseconds) / 1e9 }
}

/// Where a component gets the time from, so that tests can turn the hands themselves.
public protocol Clock: Sendable {
    var monotonic: MonotonicTime { get }
    var calendar: Timestamp { get }
    /// The calendar as the kernel writes it on files that were changed: up to some milliseconds behind. What both
    /// write on files is in the order in which it was done.
    var fileTime: Timestamp { get }
    /// The kernel has written this on a file. It is sometimes ahead of its own coarse clock: ``fileTime`` stays
    /// behind no such moment.
    func noteFileTime(_ time: Timestamp)
}

extension Clock {
    public var fileTime: Timestamp { calendar }
    public func noteFileTime(_ time: Timestamp) {}
}

/// A moment on both of a clock's faces: one stands still while the machine sleeps, the other one is set by people.
public struct ClockReading: Sendable {
    public let monotonic: MonotonicTime
    public let calendar: Timestamp

    public init(_ clock: any Clock) {
        monotonic = clock.monotonic
        calendar = clock.calendar
    }

    /// Whether less than `duration` has passed since, by either face.
    public func isWithin(_ duration: Duration, of clock: any Clock) -> Bool {
        clock.monotonic - monotonic < duration
            && abs(clock.calendar.nanoseconds - calendar.nanoseconds) < duration.nanoseconds
    }
}

/// The machine's clocks.
public struct SystemClock: Clock {
    public init() {}
    public var monotonic: MonotonicTime { .now }
    public var calendar: Timestamp { .now }
    public var fileTime: Timestamp {
        var time = Glibc.timespec()
        clock_gettime(CLOCK_REALTIME_COARSE, &time)
        let coarse = Timestamp(time)
        let latest = Self.latest.withLock { $0 }
        // Somebody may have set the clock back.
        return latest > coarse && latest <= .now ? latest : coarse
    }
    public func noteFileTime(_ time: Timestamp) {
        // What is in the future was set by somebody, and is no moment of the kernel's clock.
        guard time <= .now else { return }
        Self.latest.withLock { $0 = max($0, time) }
    }

    private static let latest = Lock(Timestamp(nanoseconds: 0))
}

/// A clock that stands still until it is told to go on; for tests.
public final class ManualClock: Clock {
    private let elapsed = Lock<Int64>(1_000_000_000_000)

    public init() {}
    public var monotonic: MonotonicTime { .init(nanoseconds: elapsed.withLock { $0 }) }
    public var calendar: Timestamp { .init(nanoseconds: 1_700_000_000_000_000_000 + elapsed.withLock { $0 }) }
    public func advance(by duration: Duration) { elapsed.withLock { $0 += duration.nanoseconds } }
}
