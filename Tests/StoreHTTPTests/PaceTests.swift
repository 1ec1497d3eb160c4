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
