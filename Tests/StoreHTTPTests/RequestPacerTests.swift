import StoreAPI
import Testing
import Threading

@testable import StoreHTTP

@Suite("The pace of requests")
struct RequestPacerTests {
    private let clock = ManualClock()

    @Test(
        "a fifth of refusals at random costs no more than those refusals",
        arguments: [(0.05, 1), (0.1, 2), (0.2, 3), (0.2, 4), (0.2, 5)])
    func randomRefusals(share: Double, seed: UInt64) {
        var simulation = Simulation(seed: seed, clock) { _, random in random.next() >= share }
        let figures = simulation.run(for: 20)
        let possible = simulation.possible(share: share)
        #expect(figures.accepted >= 0.8 * possible, "\(figures) of \(possible)")
    }

    @Test(
        "where the server takes so many requests per second, they come near that number, and few are refused",
        arguments: [(5.0, 5.0), (50, 5), (50, 250), (400, 40)])
    func limit(perSecond: Double, burst: Double) {
        var bucket = Bucket(perSecond: perSecond, burst: burst)
        var simulation = Simulation(seed: 1, clock) { now, _ in bucket.take(at: now) }
        _ = simulation.run(for: 20)
        let figures = simulation.run(for: 60)
        #expect((0.85 * perSecond...1.02 * perSecond).contains(figures.accepted), "\(figures)")
        #expect(figures.refused <= 0.1 * figures.accepted, "\(figures)")
    }

    @Test("a limit among refusals at random is found all the same")
    func limitAndRandomRefusals() {
        var bucket = Bucket(perSecond: 200, burst: 20)
        var simulation = Simulation(seed: 7, clock) { now, random in random.next() >= 0.1 && bucket.take(at: now) }
        _ = simulation.run(for: 20)
        let figures = simulation.run(for: 60)
        #expect(figures.accepted >= 0.8 * 200, "\(figures)")
        #expect(figures.refused <= 0.3 * figures.accepted, "\(figures)")
    }

    @Test("when a limit is lifted, the pace is back within seconds")
    func lifted() {
        var bucket = Bucket(perSecond: 50, burst: 5)
        var isLimited = true
        var simulation = Simulation(seed: 3, clock) { now, _ in !isLimited || bucket.take(at: now) }
        _ = simulation.run(for: 20)
        isLimited = false
        _ = simulation.run(for: 20)
        let figures = simulation.run(for: 5)
        #expect(figures.accepted >= 0.8 * simulation.possible(share: 0), "\(figures)")
    }

    @Test("a server that refuses all is asked about once a second, and at full pace soon after it is back")
    func outage() {
        var isDown = false
        var simulation = Simulation(seed: 4, clock) { _, _ in !isDown }
        _ = simulation.run(for: 5)
        isDown = true
        _ = simulation.run(for: 30)
        #expect(simulation.pacer.rate == 1)
        #expect(simulation.run(for: 20).refused <= 1.1)
        isDown = false
        _ = simulation.run(for: 15)
        let figures = simulation.run(for: 5)
        #expect(figures.accepted >= 0.8 * simulation.possible(share: 0), "\(figures)")
    }

    @Test("a refusal now and then changes nothing")
    func single() {
        var count = 0
        var simulation = Simulation(seed: 5, clock) { _, _ in
            count += 1
            return count % 60 != 0
        }
        _ = simulation.run(for: 10)
        #expect(simulation.pacer.rate == nil)
    }

    @Test("a server that is left alone for a minute has no limit any more")
    func forgotten() {
        var isDown = true
        var simulation = Simulation(seed: 6, clock) { _, _ in !isDown }
        _ = simulation.run(for: 10)
        isDown = false
        var pacer = simulation.pacer
        #expect(pacer.rate != nil)
        for _ in 0..<30 {
            clock.advance(by: .seconds(5))
            let now = clock.monotonic
            #expect(pacer.ask(pacer.join(), at: now, before: now + .seconds(60)) == .now)
            pacer.noteAccepted(begun: now, at: now)
        }
        #expect(pacer.rate == nil)
    }

    @Test("Retry-After holds all requests when most are refused, for ten seconds at most, and else none")
    func hold() {
        var pacer = RequestPacer()
        let now = clock.monotonic
        func ask() -> RequestPacer.Turn { pacer.ask(pacer.join(), at: now, before: now + .seconds(60)) }
        for _ in 0..<6 { #expect(ask() == .now) }
        for _ in 0..<4 { pacer.noteAccepted(begun: now, at: now) }
        pacer.noteRefused(begun: now, at: now, hold: .seconds(5))
        #expect(ask() == .now)
        for _ in 0..<6 { pacer.noteRefused(begun: now, at: now, hold: .seconds(50)) }
        let ticket = pacer.join()
        #expect(pacer.ask(ticket, at: now, before: now + .seconds(9)) == .tooLate)
        #expect(pacer.ask(ticket, at: now, before: now + .seconds(11)) == .wait(until: now + .milliseconds(250)))
        #expect(pacer.ask(ticket, at: now + .seconds(10), before: now + .seconds(11)) == .now)
    }

    @Test("one whose turn comes too late is told so at once, and takes nobody's place")
    func tooLate() {
        var simulation = Simulation(seed: 6, clock) { _, _ in false }
        _ = simulation.run(for: 30)
        var pacer = simulation.pacer
        #expect(pacer.rate == 1)
        let now = clock.monotonic
        func isTooLate(_ patience: Duration) -> Bool {
            let ticket = pacer.join()
            defer { pacer.leave(ticket) }
            return pacer.ask(ticket, at: now, before: now + patience) == .tooLate
        }
        let waiting = (0..<20).map { _ in pacer.join() }
        #expect((0..<100).allSatisfy { _ in isTooLate(.seconds(10)) })
        #expect(!isTooLate(.seconds(90)))
        for ticket in waiting { pacer.leave(ticket) }
        #expect(simulation.queued + 2 < 90 && !isTooLate(.seconds(Double(simulation.queued) + 2)))
    }
}

/// A server that takes so many requests per second.
private struct Bucket {
    let perSecond: Double
    let burst: Double
    private var credit: Double
    private var updated: Double = 0

    init(perSecond: Double, burst: Double) {
        self.perSecond = perSecond
        self.burst = burst
        credit = burst
    }

    mutating func take(at now: Double) -> Bool {
        credit = min(burst, credit + (now - updated) * perSecond)
        updated = now
        guard credit >= 1 else { return false }
        credit -= 1
        return true
    }
}

/// Workers that send one request after the other to a server, and repeat those that it refuses, in a time of their own.
private struct Simulation {
    private static let workers = 32
    private static let latency = 0.02

    struct Random {
        var state: UInt64
        /// 0 ..< 1. Source: SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
        mutating func next() -> Double {
            state &+= 0x9E37_79B9_7F4A_7C15
            var z = state
            z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
            z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
            return Double((z ^ (z >> 31)) >> 11) / 0x1p53
        }
    }

    /// Per second.
    struct Figures { var accepted = 0.0, refused = 0.0 }

    private enum Step {
        case begin
        case ask(RequestPacer.Ticket)
        case answer(begun: MonotonicTime, accepted: Bool)
    }

    private struct Worker {
        var step = Step.begin
        var time: MonotonicTime
        var backoff = Backoff(RetryPolicy(), budget: .seconds(600))
    }

    private(set) var pacer = RequestPacer()
    private var workers: [Worker]
    private var random: Random
    private let clock: ManualClock
    private let start: MonotonicTime
    private let server: (Double, inout Random) -> Bool

    /// - Parameter server: Whether it accepts a request; told the seconds since the beginning.
    init(seed: UInt64, _ clock: ManualClock, _ server: @escaping (Double, inout Random) -> Bool) {
        var random = Random(state: seed)
        self.clock = clock
        self.server = server
        start = clock.monotonic
        workers = (0..<Self.workers).map { [start] _ in Worker(time: start + .milliseconds(10 * random.next())) }
        self.random = random
    }

    /// How many wait for their turn.
    var queued: Int { workers.count { if case .ask = $0.step { true } else { false } } }

    /// Accepted requests per second when each that is refused is sent again at once.
    func possible(share: Double) -> Double { Double(Self.workers) / Self.latency * (1 - share) }

    mutating func run(for seconds: Double) -> Figures {
        let end = clock.monotonic + .seconds(seconds)
        var figures = Figures()
        while let index = workers.indices.min(by: { workers[$0].time < workers[$1].time }), workers[index].time < end {
            let now = max(workers[index].time, clock.monotonic)
            clock.advance(by: now - clock.monotonic)
            switch workers[index].step {
            case .begin: ask(pacer.join(), index, now)
            case .ask(let ticket): ask(ticket, index, now)
            case .answer(let begun, accepted: true):
                pacer.noteAccepted(begun: begun, at: now)
                figures.accepted += 1 / seconds
                workers[index].backoff = Backoff(RetryPolicy(), budget: .seconds(600))
                workers[index].step = .begin
            case .answer(let begun, accepted: false):
                pacer.noteRefused(begun: begun, at: now, hold: nil)
                figures.refused += 1 / seconds
                let error = StoreError(.throttled, "")
                let decision = workers[index].backoff.decide(
                    after: error, spent: .zero, isSafe: true, random: random.next())
                workers[index].step = .begin
                if case .wait(let pause) = decision {
                    workers[index].time = now + pause
                } else {
                    workers[index].backoff = Backoff(RetryPolicy(), budget: .seconds(600))
                    workers[index].time = now + .seconds(1)
                }
            }
        }
        clock.advance(by: end - clock.monotonic)
        return figures
    }

    private mutating func ask(_ ticket: RequestPacer.Ticket, _ index: Int, _ now: MonotonicTime) {
        switch pacer.ask(ticket, at: now, before: now + .seconds(600)) {
        case .now:
            let accepted = server((now - start).inSeconds, &random)
            workers[index].step = .answer(begun: now, accepted: accepted)
            workers[index].time = now + .seconds(Self.latency * (0.75 + 0.5 * random.next()))
        case .wait(let time):
            workers[index].step = .ask(ticket)
            workers[index].time = time
        case .tooLate:
            workers[index].step = .begin
            workers[index].time = now + .seconds(1)
        }
    }
}
