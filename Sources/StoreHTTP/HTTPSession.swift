public import Statistics
public import StoreAPI
public import Threading

/// Waits between attempts; tests put a turn of the clock in its place.
public protocol Pausing: Sendable {
    /// - Returns: false when the wait was ended by ``interrupt()``.
    func pause(for duration: Duration) -> Bool
    /// Ends all waits, also later ones.
    func interrupt()
}

/// Waits for real.
public final class SystemPause: Pausing {
    private let isInterrupted = Monitor(false)

    public init() {}

    public func pause(for duration: Duration) -> Bool {
        isInterrupted.wait(until: .now + duration) { $0 ? true : nil } == nil
    }

    public func interrupt() { isInterrupted.update { $0 = true } }
}

/// Signed requests to one service, repeated while that may help.
///
/// All requests of a session share its pace: when the service asks for fewer, all are spaced.
public final class HTTPSession: Sendable {
    /// For the parts of large transfers.
    public let parallel: ParallelTransfers

    private let transport: any HTTPTransport
    private let signer: (any RequestSigning)?
    private let statistics: Statistics
    private let policy: RetryPolicy
    private let clock: any Clock
    private let pausing: any Pausing
    private let random: @Sendable () -> Double
    private let state: Lock<State>

    private struct State {
        var tuning: StoreTuning
        var pacer = RequestPacer()
        /// What the server's clock is ahead of ours, where that made it refuse signatures.
        var clockSkew: Duration = .zero
    }

    /// - Parameters:
    ///   - signer: nil: requests go as they are.
    ///   - random: 0 ..< 1.
    public init(
        transport: any HTTPTransport, signer: (any RequestSigning)?, statistics: Statistics,
        tuning: StoreTuning = StoreTuning(), policy: RetryPolicy = RetryPolicy(), clock: any Clock = SystemClock(),
        pausing: any Pausing = SystemPause(), random: @escaping @Sendable () -> Double = { Double.random(in: 0..<1) }
    ) {
        self.transport = transport
        self.signer = signer
        self.statistics = statistics
        self.policy = policy
        self.clock = clock
        self.pausing = pausing
        self.random = random
        state = Lock(State(tuning: tuning))
        parallel = ParallelTransfers(threads: tuning.connections)
    }

    /// Sends a request until it succeeds, fails for good, or has taken ``StoreTuning/overallTimeout``. The time in
    /// which an attempt moved more than 1 MiB does not count.
    ///
    /// - Parameter classify: What an answer means: nil for success. Its `.throttled`, `.timedOut`, `.unavailable` and
    ///   `.corrupted` are repeated, after `.authenticationFailed` there is one attempt with other credentials. Where it
    ///   leaves ``StoreError/retryAfter`` open, the answer's header is taken.
    /// - Throws: ``StoreError``: the last attempt's, `.cancelled` when the request is no longer wanted or the session is
    ///   shut down.
    public func send(_ request: HTTPRequest, classify: (HTTPResponse) -> StoreError?) throws(StoreError) -> HTTPResponse
    {
        var request = request
        var backoff = Backoff(policy, budget: state.withLock { $0.tuning.overallTimeout })
        var spent = Stopwatch(clock)
        var mayRenew = true
        var mayCorrectClock = true
        let sentBytes = ByteCounter()
        while true {
            try waitForTurn(request, backoff.budget - spent.elapsed)
            var attempt = try prepare(request, sentBytes, timeLimit: max(backoff.budget - spent.elapsed, .seconds(1)))
            let report = HTTPAttempt()
            attempt.attempt = report
            let began = clock.monotonic
            var response: HTTPResponse?
            var error: StoreError
            do throws(StoreError) {
                let answer = try transport.send(attempt)
                guard let fault = classify(answer) else {
                    noteAccepted(began)
                    return answer
                }
                response = answer
                error = fault
            } catch let fault {
                error = fault
            }
            if report.bytesMoved > HTTPTransfer.bulk { spent.exclude(clock.monotonic - began) }
            if let response, error.retryAfter == nil { error.retryAfter = response.retryAfter(at: clock.calendar) }
            if error.code == .throttled {
                statistics.add(.requestsThrottled)
                let now = clock.monotonic
                state.withLock { $0.pacer.noteRefused(begun: began, at: now, hold: error.retryAfter) }
            } else if response != nil {
                noteAccepted(began)
            }
            if error.code == .authenticationFailed {
                if mayCorrectClock, let response, correctClock(from: response) {
                    mayCorrectClock = false
                } else if mayRenew, signer?.credentialsWereRefused() == true {
                    mayRenew = false
                } else {
                    throw error
                }
            } else {
                // A server that asks for fewer requests has not carried this one out.
                let isSafe =
                    request.isRepeatable || !report.mayHaveBeenSent || (response != nil && error.code == .throttled)
                let decision = backoff.decide(after: error, spent: spent.elapsed, isSafe: isSafe, random: random())
                guard case .wait(let duration) = decision else { throw error }
                try pause(for: duration, request)
            }
            statistics.add(.requestsRepeated)
            if let progress = request.progress {
                let again = sentBytes.takeAll()
                if again != 0 { progress(-again) }
            }
            if let renewed = request.renewed {
                switch try renewed() {
                case .answer(let answer): return answer
                case .send(var other):
                    other.renewed = renewed
                    request = other
                }
            }
        }
    }

    public func tune(_ tuning: StoreTuning) {
        state.withLock { $0.tuning = tuning }
        transport.tune(tuning)
    }

    /// Drops idle connections and reads credentials again.
    public func reconnect() {
        transport.reconnect()
        _ = signer?.credentialsWereRefused()
    }

    /// Ends all requests with `.cancelled`, and the transport.
    public func shutdown() {
        pausing.interrupt()
        transport.shutdown()
        parallel.shutdown()
    }

    // MARK: Steps of an attempt

    private func prepare(_ request: HTTPRequest, _ sentBytes: ByteCounter, timeLimit: Duration) throws(StoreError)
        -> HTTPRequest
    {
        var attempt = request
        attempt.timeLimit = timeLimit
        if let progress = request.progress {
            attempt.progress = { amount in
                sentBytes.add(amount)
                progress(amount)
            }
        }
        let skew = state.withLock { $0.clockSkew }
        try signer?.sign(&attempt, at: Timestamp(nanoseconds: clock.calendar.nanoseconds + skew.nanoseconds))
        return attempt
    }

    private func noteAccepted(_ began: MonotonicTime) {
        let now = clock.monotonic
        state.withLock { $0.pacer.noteAccepted(begun: began, at: now) }
    }

    /// Waits until the session's pace lets this request through.
    private func waitForTurn(_ request: HTTPRequest, _ remaining: Duration) throws(StoreError) {
        let latest = clock.monotonic + remaining
        let ticket = state.withLock { $0.pacer.join() }
        defer { state.withLock { $0.pacer.leave(ticket) } }
        while true {
            let now = clock.monotonic
            switch state.withLock({ $0.pacer.ask(ticket, at: now, before: latest) }) {
            case .now: return try pause(for: .zero, request)
            case .wait(let time): try pause(for: time - now, request)
            case .tooLate:
                throw StoreError(
                    .throttled, "the store asks for fewer requests, and too many are waiting for their turn")
            }
        }
    }

    /// Waits; where the request may be called off, that is asked five times a second.
    private func pause(for duration: Duration, _ request: HTTPRequest) throws(StoreError) {
        var remaining = duration
        while true {
            if let isWanted = request.isWanted, !isWanted() {
                throw StoreError(.cancelled, "the request is no longer wanted")
            }
            guard remaining > .zero else { return }
            let piece = request.isWanted == nil ? remaining : min(remaining, .milliseconds(200))
            guard pausing.pause(for: piece) else {
                throw StoreError(.cancelled, "the connection to the store is being shut down")
            }
            remaining -= piece
        }
    }

    /// Takes over the server's clock where ours is so wrong that signatures are refused for it.
    ///
    /// - Returns: true when it made a difference.
    private func correctClock(from response: HTTPResponse) -> Bool {
        guard let date = response["Date"].flatMap({ Timestamp(httpDate: $0) }) else { return false }
        let now = clock.calendar
        return state.withLock { state in
            let skew = Duration.nanoseconds(date.nanoseconds - now.nanoseconds)
            // S3 allows 15 minutes, others 5; a server that runs late in answering is no reason.
            guard abs((skew - state.clockSkew).inSeconds) > 240 else { return false }
            state.clockSkew = skew
            return true
        }
    }
}

/// Time that counts towards a limit.
private struct Stopwatch {
    private let clock: any Clock
    private let started: MonotonicTime
    private var excluded: Duration = .zero

    init(_ clock: any Clock) {
        self.clock = clock
        started = clock.monotonic
    }

    var elapsed: Duration { clock.monotonic - started - excluded }
    mutating func exclude(_ duration: Duration) { excluded += duration }
}

private final class ByteCounter: Sendable {
    private let amount = Lock<Int64>(0)
    func add(_ more: Int64) { amount.withLock { $0 += more } }
    func takeAll() -> Int64 {
        amount.withLock { amount in
            defer { amount = 0 }
            return amount
        }
    }
}
