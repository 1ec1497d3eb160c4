import StoreAPI
import Testing
import Threading

@testable import StoreHTTP

@Suite("Rates and paces")
struct PaceTests {
    @Test("back-off decides by code, safety, number and time")
    func decisions() {
        var backoff = Backoff(RetryPolicy(), budget: .seconds(60))
        let passing = StoreError(.unavailable, "")
        #expect(backoff.decide(after: passing, spent: .zero, isSafe: false, random: 0.5) == .giveUp)
        #expect(backoff.decide(after: passing, spent: .seconds(60), isSafe: true, random: 0.5) == .giveUp)
        let repeated = StoreError.Code.allCases.filter { code in
            var backoff = Backoff(RetryPolicy(), budget: .seconds(60))
            return backoff.decide(after: StoreError(code, ""), spent: .zero, isSafe: true, random: 0) != .giveUp
        }
        #expect(repeated == [.throttled, .timedOut, .unavailable, .corrupted])
        for _ in 0..<15 { #expect(backoff.decide(after: passing, spent: .zero, isSafe: true, random: 0.9) != .giveUp) }
        #expect(backoff.decide(after: passing, spent: .zero, isSafe: true, random: 0) == .giveUp)
    }

    @Test("a bucket lets its rate through, whatever the size of the pieces")
    func bucket() {
        let start = MonotonicTime(nanoseconds: 1_000_000_000)
        for piece in [100, 16_384, 300_000] {
            var bucket = TokenBucket(rate: 1_000_000)
            var now = start
            var passed = 0
            while now < start + .seconds(10) {
                if bucket.available(at: now) > 0 {
                    bucket.take(piece)
                    passed += piece
                } else {
                    now = now + max(bucket.wait(at: now), .microseconds(1))
                }
            }
            #expect((9_800_000...10_400_000).contains(passed), "pieces of \(piece)")
        }
    }

    @Test("after a rest a bucket lets no more than a tenth of a second's worth through at once")
    func bucketBurst() {
        var bucket = TokenBucket(rate: 1_000_000)
        #expect(bucket.available(at: MonotonicTime(nanoseconds: 1_000_000_000)) == 0)
        #expect(bucket.available(at: MonotonicTime(nanoseconds: 100_000_000_000)) == 100_000)
        bucket.setRate(nil, at: MonotonicTime(nanoseconds: 100_000_000_000))
        #expect(bucket.available(at: MonotonicTime(nanoseconds: 100_000_000_000)) == .max)
        #expect(bucket.wait(at: MonotonicTime(nanoseconds: 100_000_000_000)) == .zero)
    }

    @Test("complaints of requests that were on their way count as one, and later ones halve the pace again")
    func complaints() {
        var pacer = RequestPacer()
        var now = MonotonicTime(nanoseconds: 10_000_000_000)
        let sent = (0..<64).map { _ in pacer.reserve(at: now) }
        #expect(sent.allSatisfy { $0 == now })
        now = now + .milliseconds(100)
        for time in sent { pacer.noteComplaint(sent: time, at: now, hold: nil) }
        #expect(pacer.rate == 32)
        let slots = (0..<33).map { _ in pacer.reserve(at: now) }
        #expect(slots[32] - slots[0] == .seconds(1))
        pacer.noteComplaint(sent: slots[20], at: slots[32], hold: .seconds(5))
        #expect(pacer.rate == 16)
        #expect(pacer.reserve(at: slots[32]) == slots[32] + .seconds(5))
    }

    @Test("the limit goes away when all is well, and when nothing is asked for a minute")
    func recovery() {
        var pacer = RequestPacer()
        let now = MonotonicTime(nanoseconds: 10_000_000_000)
        let sent = (0..<10).map { _ in pacer.reserve(at: now) }[0]
        pacer.noteComplaint(sent: sent, at: now, hold: nil)
        var idle = pacer
        var successes = 0
        while pacer.rate != nil, successes < 10_000 {
            pacer.noteSuccess()
            successes += 1
        }
        #expect((50...1000).contains(successes))
        #expect(idle.reserve(at: now + .seconds(61)) == now + .seconds(61))
        #expect(idle.rate == nil)
    }

    @Test("the authorities are those of the option, else of the environment, in order")
    func authorities() {
        let environment = ["AWS_CA_BUNDLE": "aws", "SSL_CERT_FILE": "ssl", "CURL_CA_BUNDLE": "curl"]
        var options = HTTPClientOptions()
        #expect(options.trustedAuthorities { environment[$0] } == "ssl")
        #expect(options.trustedAuthorities { $0 == "SSL_CERT_FILE" ? "" : environment[$0] } == "curl")
        #expect(options.trustedAuthorities { _ in nil } == nil)
        options.honoursAWSBundle = true
        #expect(options.trustedAuthorities { environment[$0] } == "aws")
        options.certificateAuthorities = "option"
        #expect(options.trustedAuthorities { environment[$0] } == "option")
    }
}
