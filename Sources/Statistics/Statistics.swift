public import Threading

/// What is counted, with the name and unit that `stats/metrics` shows. All only ever grow.
public enum Counter: Int, CaseIterable, Sendable {
    /// Of files; of all bodies on the wire.
    case bytesUploaded, bytesDownloaded
    case bytesSent, bytesReceived
    case filesUploaded, filesDownloaded
    case cacheHits, cacheMisses
    case bytesRead, bytesWritten
    case bytesEvicted
    case requestsHead, requestsGet, requestsList, requestsPut, requestsCopy, requestsDelete, requestsMultipart,
        requestsOther
    case requestsFailed, requestsRepeated, requestsThrottled
    case attributesFetched, directoriesListed
    case conflicts
    case writersDelayed
    case archivesPackedAnew, archivesDeleted, archiveBytesFreed
}

/// A moment's value, set again and again.
public enum Gauge: Int, CaseIterable, Sendable {
    case cachedBytes, dirtyBytes, dirtyFiles, pendingOperations
    case uploadsInFlight, downloadsInFlight, workers
}

/// What takes time, for the histograms of `stats/metrics`.
public enum TimedOperation: Int, CaseIterable, Sendable {
    case storeHead, storeGet, storeList, storePut, storeCopy, storeDelete, storeOther
}

/// Counters of one mount. All calls are cheap, and safe from any thread.
public final class Statistics: Sendable {
    private let state = Lock(State())
    private let clock: any Clock

    private struct State {
        var counters = [Int64](repeating: 0, count: Counter.allCases.count)
        var gauges = [Int64](repeating: 0, count: Gauge.allCases.count)
        var histograms = [Histogram](repeating: Histogram(), count: TimedOperation.allCases.count)
        var errors: [String: RecordedError] = [:]
        var uploaded = RateWindow()
        var downloaded = RateWindow()
    }

    public let started: Timestamp

    public init(clock: any Clock = SystemClock()) {
        self.clock = clock
        started = clock.calendar
    }

    public func add(_ counter: Counter, _ amount: Int64 = 1) {
        let now = clock.monotonic
        state.withLock {
            $0.counters[counter.rawValue] += amount
            switch counter {
            case .bytesUploaded: $0.uploaded.add(amount, at: now)
            case .bytesDownloaded: $0.downloaded.add(amount, at: now)
            default: break
            }
        }
    }

    public func set(_ gauge: Gauge, _ value: Int64) { state.withLock { $0.gauges[gauge.rawValue] = value } }
    public func add(_ gauge: Gauge, _ change: Int64) { state.withLock { $0.gauges[gauge.rawValue] += change } }

    public func record(_ duration: Duration, for operation: TimedOperation) {
        state.withLock { $0.histograms[operation.rawValue].add(duration) }
    }

    /// Remembers an error for `stats/errors`. Errors of one kind are one line there, with a count.
    ///
    /// - Parameters:
    ///   - kind: Short and stable, such as "accessDenied".
    ///   - message: The latest sentence; without secrets.
    ///   - advice: What the person can do about it.
    public func report(kind: String, message: String, advice: String) {
        let now = clock.calendar
        state.withLock {
            $0.errors[kind, default: RecordedError(kind: kind, first: now)].note(message, advice, now)
            if $0.errors.count > 100, let oldest = $0.errors.values.min(by: { $0.last < $1.last }) {
                $0.errors[oldest.kind] = nil
            }
        }
    }

    /// All figures of one moment.
    public func snapshot() -> StatisticsSnapshot {
        let now = clock.monotonic
        return state.withLock {
            StatisticsSnapshot(
                counters: $0.counters, gauges: $0.gauges, histograms: $0.histograms,
                errors: $0.errors.values.sorted { $0.last > $1.last },
                uploadRate: $0.uploaded.rate(at: now), downloadRate: $0.downloaded.rate(at: now))
        }
    }
}

/// A kind of error, how often it came, and what to do.
public struct RecordedError: Sendable {
    public var kind: String
    public var count: Int64 = 0
    public var first: Timestamp
    public var last: Timestamp
    public var message = ""
    public var advice = ""

    init(kind: String, first: Timestamp) {
        self.kind = kind
        self.first = first
        last = first
    }

    mutating func note(_ message: String, _ advice: String, _ now: Timestamp) {
        count += 1
        last = now
        self.message = message
        self.advice = advice
    }
}

/// The figures of one moment.
public struct StatisticsSnapshot: Sendable {
    let counters: [Int64]
    let gauges: [Int64]
    let histograms: [Histogram]
    /// Newest first.
    public let errors: [RecordedError]
    /// Bytes per second over the last ten seconds.
    public let uploadRate: Double
    public let downloadRate: Double

    public subscript(_ counter: Counter) -> Int64 { counters[counter.rawValue] }
    public subscript(_ gauge: Gauge) -> Int64 { gauges[gauge.rawValue] }
    public subscript(_ operation: TimedOperation) -> Histogram { histograms[operation.rawValue] }
}

/// Durations in buckets that double, from 1 ms to 65 s and above.
public struct Histogram: Sendable {
    /// Upper bounds in seconds of all buckets but the last, which has none.
    public static let bounds: [Double] = (0...16).map { 0.001 * Double(1 << $0) }
    public private(set) var buckets = [Int64](repeating: 0, count: bounds.count + 1)
    public private(set) var sumSeconds = 0.0
    public var count: Int64 { buckets.reduce(0, +) }

    mutating func add(_ duration: Duration) {
        let seconds = duration.inSeconds
        sumSeconds += seconds
        buckets[Self.bounds.firstIndex { seconds <= $0 } ?? Self.bounds.count] += 1
    }
}

/// Amounts of the last ten seconds, in slots of one second.
struct RateWindow {
    private static let length: Int64 = 10
    private var slots = [Int64](repeating: 0, count: Int(length))
    private var newest: Int64 = 0

    mutating func add(_ amount: Int64, at time: MonotonicTime) {
        turn(to: time.nanoseconds / 1_000_000_000)
        slots[Int(newest % Self.length)] += amount
    }

    mutating func rate(at time: MonotonicTime) -> Double {
        turn(to: time.nanoseconds / 1_000_000_000)
        return Double(slots.reduce(0, +)) / Double(Self.length)
    }

    private mutating func turn(to second: Int64) {
        guard second > newest else { return }
        for old in max(newest + 1, second - Self.length + 1)...second { slots[Int(old % Self.length)] = 0 }
        newest = second
    }
}
