import Statistics
import StoreAPI
import StoreHTTP
import Testing
import Threading

/// Answers from a list, without a network.
private final class FakeTransport: HTTPTransport {
    let seen = Lock<[HTTPRequest]>([])
    private let answer: @Sendable (Int, HTTPRequest) -> Result<HTTPResponse, StoreError>

    init(_ answer: @escaping @Sendable (Int, HTTPRequest) -> Result<HTTPResponse, StoreError>) { self.answer = answer }

    func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
        let number = seen.withLock { seen in
            seen.append(request)
            return seen.count - 1
        }
        return try answer(number, request).get()
    }
    func tune(_ tuning: StoreTuning) {}
    func reconnect() {}
    func shutdown() {}
    var count: Int { seen.withLock { $0.count } }
}

/// Turns the clock instead of waiting, and remembers how far.
private final class FakePause: Pausing {
    let clock = ManualClock()
    let pauses = Lock<[Duration]>([])
    let onPause = Lock<(@Sendable () -> Bool)?>(nil)

    func pause(for duration: Duration) -> Bool {
        pauses.withLock { $0.append(duration) }
        clock.advance(by: duration)
        return onPause.withLock { $0 }?() ?? true
    }
    func interrupt() { onPause.withLock { $0 = { false } } }
    var all: [Duration] { pauses.withLock { $0 } }
}

private final class FakeSigner: RequestSigning {
    let signatures = Lock<[Timestamp]>([])
    let refusals = Lock(0)
    let hasOthers: Bool
    init(hasOthers: Bool) { self.hasOthers = hasOthers }
    func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError) {
        let number = signatures.withLock { signatures in
            signatures.append(time)
            return signatures.count
        }
        request["Authorization"] = "signature \(number)"
    }
    func credentialsWereRefused() -> Bool {
        refusals.withLock { $0 += 1 }
        return hasOthers
    }
}

private func classify(_ response: HTTPResponse) -> StoreError? {
    response.errorCode.map { StoreError($0, "HTTP \(response.status)", cause: response.summary) }
}

@Suite("HTTPSession")
struct HTTPSessionTests {
    private let pause = FakePause()
    private let statistics = Statistics()

    private func makeSession(
        signer: FakeSigner? = nil, random: Double = 0.5,
        _ answer: @escaping @Sendable (Int, HTTPRequest) -> Result<HTTPResponse, StoreError>
    ) -> (HTTPSession, FakeTransport) {
        let transport = FakeTransport(answer)
        let session = HTTPSession(
            transport: transport, signer: signer, statistics: statistics, clock: pause.clock, pausing: pause,
            random: { random })
        return (session, transport)
    }

    private func fails(_ session: HTTPSession, _ request: HTTPRequest = get("http://x/")) -> StoreError? {
        error { () throws(StoreError) in try session.send(request, classify: classify) }
    }

    @Test("a passing fault is repeated, signed anew, with waits that double up to a limit")
    func backOff() throws {
        let signer = FakeSigner(hasOthers: false)
        let (session, transport) = makeSession(signer: signer) { number, _ in
            number < 9 ? .failure(StoreError(.unavailable, "down")) : .success(HTTPResponse(status: 200))
        }
        #expect(try session.send(get("http://x/"), classify: classify).status == 200)
        #expect(pause.all == [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000].map { Duration.milliseconds($0) })
        #expect(
            transport.seen.withLock { $0.map { $0["Authorization"] } } == (1...10).map { "signature \($0)" })
        #expect(statistics.snapshot()[.requestsRepeated] == 9)
    }

    @Test("it gives up with the last error when the time is used up")
    func givesUp() {
        let (session, transport) = makeSession(random: 0.99) { _, _ in .failure(StoreError(.timedOut, "slow")) }
        let began = pause.clock.monotonic
        #expect(fails(session)?.code == .timedOut)
        #expect(pause.clock.monotonic - began < .seconds(60))
        #expect(transport.count > 8)
    }

    @Test("a definite answer is not repeated", arguments: [404, 403, 412, 400, 507, 413])
    func definite(status: Int) {
        let (session, transport) = makeSession { _, _ in .success(HTTPResponse(status: status)) }
        #expect(fails(session) != nil)
        #expect(transport.count == 1)
        #expect(pause.all.isEmpty)
    }

    @Test("Retry-After is waited for, as seconds and as a date")
    func retryAfter() throws {
        let clock = pause.clock
        let (session, _) = makeSession(random: 0) { number, _ in
            let date = Timestamp(seconds: clock.calendar.seconds + 7).httpDate
            let header = number == 0 ? "3" : date
            return .success(
                number < 2 ? HTTPResponse(status: 500, headers: [("Retry-After", header)]) : HTTPResponse(status: 200))
        }
        _ = try session.send(get("http://x/"), classify: classify)
        #expect(pause.all.count == 2)
        #expect(pause.all[0] == .seconds(3))
        #expect(pause.all[1] > .seconds(5) && pause.all[1] <= .seconds(7))
    }

    @Test("a longer Retry-After than there is time for is passed on at once")
    func retryMuchLater() {
        let (session, transport) = makeSession { _, _ in
            .success(HTTPResponse(status: 503, headers: [("Retry-After", "3600")]))
        }
        let error = fails(session)
        #expect(error?.code == .throttled)
        #expect(error?.retryAfter == .seconds(3600))
        #expect(transport.count == 1)
    }

    @Test("refused credentials are renewed once")
    func credentials() throws {
        let renewing = FakeSigner(hasOthers: true)
        let (session, transport) = makeSession(signer: renewing) { number, _ in
            .success(HTTPResponse(status: number == 0 ? 401 : 200))
        }
        _ = try session.send(get("http://x/"), classify: classify)
        #expect(transport.count == 2)
        let (hopeless, again) = makeSession(signer: FakeSigner(hasOthers: true)) { _, _ in
            .success(HTTPResponse(status: 401))
        }
        #expect(fails(hopeless)?.code == .authenticationFailed)
        #expect(again.count == 2)
        let fixed = FakeSigner(hasOthers: false)
        let (other, once) = makeSession(signer: fixed) { _, _ in .success(HTTPResponse(status: 401)) }
        #expect(fails(other)?.code == .authenticationFailed)
        #expect(once.count == 1)
        #expect(fixed.refusals.withLock { $0 } == 1)
    }

    @Test("where our clock is wrong, the server's is taken for signatures")
    func clockSkew() throws {
        let signer = FakeSigner(hasOthers: false)
        let clock = pause.clock
        let (session, _) = makeSession(signer: signer) { number, _ in
            let date = Timestamp(seconds: clock.calendar.seconds + 3600).httpDate
            return .success(HTTPResponse(status: number == 0 ? 401 : 200, headers: [("Date", date)]))
        }
        _ = try session.send(get("http://x/"), classify: classify)
        _ = try session.send(get("http://x/"), classify: classify)
        let times = signer.signatures.withLock { $0 }
        #expect(times.map { ($0.seconds - times[0].seconds + 1) / 3600 } == [0, 1, 1])
    }

    @Test("what must not be sent twice is repeated only when it was not sent")
    func notRepeatable() throws {
        var request = get("http://x/")
        request.isRepeatable = false
        let (session, transport) = makeSession { _, _ in .failure(StoreError(.unavailable, "reset")) }
        #expect(fails(session, request)?.code == .unavailable)
        #expect(transport.count == 1)
        let (other, unsent) = makeSession { number, request in
            request.attempt?.note(mayHaveBeenSent: false, bytesMoved: 0)
            return number == 0 ? .failure(StoreError(.unavailable, "refused")) : .success(HTTPResponse(status: 200))
        }
        _ = try other.send(request, classify: classify)
        #expect(unsent.count == 2)
        let (throttled, refused) = makeSession { number, _ in .success(HTTPResponse(status: number == 0 ? 503 : 200)) }
        _ = try throttled.send(request, classify: classify)
        #expect(refused.count == 2)
    }

    @Test("a request that is no longer wanted is not repeated")
    func unwanted() {
        let isWanted = Lock(true)
        var request = get("http://x/")
        request.isWanted = { isWanted.withLock { $0 } }
        let (session, transport) = makeSession { _, _ in
            isWanted.withLock { $0 = false }
            return .failure(StoreError(.unavailable, "down"))
        }
        #expect(fails(session, request)?.code == .cancelled)
        #expect(transport.count == 1)
        #expect(pause.all.isEmpty)
    }

    @Test("shutdown ends a wait")
    func shutdown() {
        let transport = FakeTransport { _, _ in .failure(StoreError(.unavailable, "down", retryAfter: .seconds(50))) }
        let session = HTTPSession(transport: transport, signer: nil, statistics: statistics)
        let waiting = Background {
            error { () throws(StoreError) in try session.send(get("http://x/"), classify: classify) }?.code
        }
        while transport.count == 0 { SystemPauseSlice.take() }
        session.shutdown()
        #expect(waiting.value == .cancelled)
    }

    @Test("the progress of an attempt that is repeated is taken back")
    func progress() throws {
        let sum = Lock<Int64>(0)
        var request = put("http://x/", UploadBody(pattern(100)))
        request.progress = { amount in sum.withLock { $0 += amount } }
        let (session, _) = makeSession { number, request in
            request.progress?(number == 0 ? 60 : 100)
            return .success(HTTPResponse(status: number == 0 ? 500 : 200))
        }
        _ = try session.send(request, classify: classify)
        #expect(sum.withLock { $0 } == 100)
    }

    @Test("each attempt is given only the time that is left")
    func timeLimits() throws {
        let clock = pause.clock
        let (session, transport) = makeSession { number, _ in
            clock.advance(by: .seconds(20))
            return number < 2 ? .failure(StoreError(.timedOut, "slow")) : .success(HTTPResponse(status: 200))
        }
        _ = try session.send(get("http://x/"), classify: classify)
        let limits = transport.seen.withLock { $0.map { $0.timeLimit! } }
        #expect(limits[0] == .seconds(60))
        #expect(limits[1] < .seconds(40) && limits[2] < .seconds(20))
    }

    @Test("a storm of SlowDown calms down: requests are spaced, and the pace comes back afterwards")
    func storm() throws {
        // A server that takes 20 requests in each second.
        let clock = pause.clock
        let bucket = Lock((second: Int64(0), count: 0, refused: 0))
        let (session, transport) = makeSession { _, _ in
            let isTaken = bucket.withLock { bucket in
                let second = clock.monotonic.nanoseconds / 1_000_000_000
                if bucket.second != second { bucket = (second, 0, bucket.refused) }
                bucket.count += 1
                if bucket.count > 20 { bucket.refused += 1 }
                return bucket.count <= 20
            }
            return .success(HTTPResponse(status: isTaken ? 200 : 503))
        }
        for _ in 0..<2000 { _ = try session.send(get("http://x/"), classify: classify) }
        let refused = bucket.withLock { $0.refused }
        #expect(refused < transport.count / 5)
        #expect(statistics.snapshot()[.requestsThrottled] == Int64(refused))
    }

    @Test("a body that is reset on its way is fetched again, and the sink has the right bytes in the end")
    func resetMidBody() throws {
        let content = pattern(2_000_000)
        let server = StubServer { request, connection in
            if request.number < 2 {
                connection.answer(200, [], Array(content.prefix(700_000)), declaring: content.count)
                connection.reset()
            } else {
                connection.answer(200, [], content)
            }
        }
        defer { server.stop() }
        let session = HTTPSession(transport: makeClient(), signer: nil, statistics: statistics, random: { 0 })
        defer { session.shutdown() }
        let sink = MemorySink()
        var request = get(server.url)
        request.sink = sink
        _ = try session.send(request, classify: classify)
        #expect(sink.bytes == content)
        #expect(server.requests.count == 3)
    }
}

/// Lets other threads run while a test waits for what only polling can see.
private enum SystemPauseSlice {
    static func take() { _ = SystemPause().pause(for: .milliseconds(1)) }
}
