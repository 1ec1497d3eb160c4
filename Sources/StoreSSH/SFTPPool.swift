import Glibc
package import Statistics
package import StoreAPI
import StoreHTTP
import Threading

/// The connections to one server: made when they are needed, shared by those who use them, closed when they rest.
///
/// The first users get a connection each, up to ``connections``; then all share them. What one asks for does not wait for
/// the answers to others, but an sftp-server works in order: several connections are several processes on the server.
package final class SFTPPool: Sendable {
    private struct State {
        var connections: [SFTPConnection] = []
        var opening = 0
        /// How often none could be made, and why not the last time.
        var failures = 0
        var lastFailure: StoreError?
        var isShutDown = false
        var tuning = StoreTuning()
    }

    private let endpoint: SSHEndpoint
    private let most: Int
    private let statistics: Statistics
    private let state = Monitor(State())
    private let pausing = SystemPause()
    private let upload = Lock(TokenBucket())
    private let download = Lock(TokenBucket())

    /// A connection that so many use is shared before another one is made.
    private static let sharedFrom = 4

    /// - Parameter connections: At most.
    package init(_ endpoint: SSHEndpoint, connections: Int, statistics: Statistics) {
        self.endpoint = endpoint
        most = connections
        self.statistics = statistics
    }

    package var tuning: StoreTuning { state.withLock { $0.tuning } }

    package func tune(_ tuning: StoreTuning) {
        let connections = state.update { state in
            state.tuning = tuning
            return state.connections
        }
        for connection in connections { connection.tune(tuning) }
        upload.withLock { $0.setRate(tuning.uploadRate, at: .now) }
        download.withLock { $0.setRate(tuning.downloadRate, at: .now) }
    }

    /// Uses no connection that is there for what comes.
    package func reconnect() {
        let connections = state.update { state in
            defer { state.connections = [] }
            return state.connections
        }
        for connection in connections { connection.retire() }
    }

    private func retireResting() {
        let resting = state.withLock { $0.connections.filter { $0.leases == 0 } }
        for connection in resting { connection.retire() }
    }

    package func shutdown() {
        pausing.interrupt()
        let connections = state.update { state in
            state.isShutDown = true
            defer { state.connections = [] }
            return state.connections
        }
        for connection in connections { connection.end(Self.isShutDown) }
    }

    private static let isShutDown = StoreError(.cancelled, "the connection to the store is being shut down")

    package func checkIsOpen() throws(StoreError) {
        if state.withLock({ $0.isShutDown }) { throw Self.isShutDown }
    }

    // MARK: Connections

    /// Lets `body` use a connection, beside others.
    ///
    /// - Parameter isBulk: Much is to be moved: a connection that nobody uses is made for it, if there may be one more.
    package func withConnection<Result>(
        isBulk: Bool = false, isWanted: (@Sendable () -> Bool)? = nil,
        _ body: (SFTPConnection) throws(StoreError) -> Result
    ) throws(StoreError) -> Result {
        let connection = try lease(isBulk ? 1 : Self.sharedFrom, isWanted)
        defer { connection.release() }
        return try body(connection)
    }

    /// Lets `body` use a connection, if there is one already.
    package func withConnectionIfThere(_ body: (SFTPConnection) -> Void) {
        guard let connection = state.withLock({ $0.connections.first { $0.lease() } }) else { return }
        defer { connection.release() }
        body(connection)
    }

    private enum Decision {
        case use(SFTPConnection)
        case open
        case fail(StoreError)
    }

    private func lease(_ sharedFrom: Int, _ isWanted: (@Sendable () -> Bool)?) throws(StoreError) -> SFTPConnection {
        assert(HeldLocks.count == 0, "a lock is held during a request: others wait for as long as a server takes")
        let failures = state.withLock { $0.failures }
        while true {
            let decision = state.wait(until: .now + .milliseconds(200)) { state in
                Self.decide(&state, failures, most: most, sharedFrom: sharedFrom)
            }
            if let isWanted, !isWanted() {
                if case .use(let connection) = decision { connection.release() }
                if case .open = decision { state.update { $0.opening -= 1 } }
                throw StoreError(.cancelled, "the request is no longer wanted")
            }
            switch decision {
            case .use(let connection): return connection
            case .open: return try open(isWanted)
            case .fail(let error): throw error
            case nil: continue
            }
        }
    }

    /// - Returns: nil when it has to be waited for.
    private static func decide(_ state: inout State, _ failures: Int, most: Int, sharedFrom: Int) -> Decision? {
        if state.isShutDown { return .fail(isShutDown) }
        let most = min(most, max(state.tuning.connections, 1))
        state.connections.removeAll { !$0.isUsable }
        let least = state.connections.min { $0.leases < $1.leases }
        let isCrowded = least.map { $0.leases >= (state.connections.count < most ? sharedFrom : Int.max) } ?? true
        if let least, !isCrowded || state.connections.count + state.opening >= most, least.lease() {
            return .use(least)
        }
        if state.connections.count + state.opening < most {
            state.opening += 1
            return .open
        }
        // Others have tried it meanwhile.
        if state.failures > failures, state.connections.isEmpty, let error = state.lastFailure { return .fail(error) }
        return nil
    }

    private func open(_ isWanted: (@Sendable () -> Bool)?) throws(StoreError) -> SFTPConnection {
        let (tuning, statistics) = (tuning, statistics)
        let made: Result<SFTPConnection, StoreError>
        do throws(StoreError) {
            let connection = try SFTPConnection(
                endpoint, tuning,
                traffic: { sent, received in
                    if sent > 0 { statistics.add(.bytesSent, Int64(sent)) }
                    if received > 0 { statistics.add(.bytesReceived, Int64(received)) }
                },
                isWanted: { [state] in !state.withLock { $0.isShutDown } && (isWanted?() ?? true) })
            made = connection.lease() ? .success(connection) : .failure(Self.wasLost)
        } catch {
            made = .failure(error)
        }
        let isShutDown = state.update { state in
            state.opening -= 1
            switch made {
            case .success(let connection) where !state.isShutDown: state.connections.append(connection)
            case .failure(let error) where error.code != .cancelled:
                state.failures += 1
                state.lastFailure = error
            default: break
            }
            return state.isShutDown
        }
        guard isShutDown else { return try made.get() }
        if case .success(let connection) = made { connection.end(Self.isShutDown) }
        throw Self.isShutDown
    }

    private static let wasLost = StoreError(.unavailable, "a connection to the server was lost as soon as it was made")

    // MARK: Repeats and limits

    /// Calls `body` with a connection until it succeeds, fails for good, or has taken ``StoreTuning/overallTimeout``. The
    /// time of an attempt that has moved more than 1 MiB does not count.
    ///
    /// - Parameters:
    ///   - moved: Told of the bytes that an attempt has moved.
    ///   - body: Has to be such that it can be done again, whatever has become of it; it is told how often it was tried.
    package func attempt<Result>(
        _ counter: Counter, _ operation: TimedOperation, isWanted: (@Sendable () -> Bool)? = nil,
        _ body: (_ connection: SFTPConnection, _ attempt: SFTPAttempt) throws(StoreError) -> Result
    ) throws(StoreError) -> Result {
        var backoff = Backoff(RetryPolicy(), budget: tuning.overallTimeout)
        let attempt = SFTPAttempt()
        var spent = Duration.zero
        while true {
            try checkIsOpen()
            if let isWanted, !isWanted() { throw StoreError(.cancelled, "the request is no longer wanted") }
            let begun = MonotonicTime.now
            let failure: StoreError
            do throws(StoreError) {
                let result = try withConnection(isWanted: isWanted) { connection throws(StoreError) in
                    statistics.add(counter)
                    return try body(connection, attempt)
                }
                statistics.record(.now - begun, for: operation)
                return result
            } catch {
                failure = error
            }
            if failure.code != .cancelled, failure.isTransient { statistics.add(.requestsFailed) }
            // The network may have changed under the connections that rest, too.
            if failure.code == .timedOut { retireResting() }
            if attempt.takeMoved() <= 1 << 20 { spent += .now - begun }
            let decision = backoff.decide(
                after: failure, spent: spent, isSafe: true, random: Double.random(in: 0..<1))
            guard case .wait(let pause) = decision else { throw failure }
            guard pausing.pause(for: pause) else { throw Self.isShutDown }
            spent += pause
            statistics.add(.requestsRepeated)
            attempt.number += 1
        }
    }

    /// Waits until the limits of the rates let bytes pass.
    package func waitForRate(upload count: Int) throws(StoreError) { try wait(count, upload) }
    package func waitForRate(download count: Int) throws(StoreError) { try wait(count, download) }

    private func wait(_ count: Int, _ bucket: borrowing Lock<TokenBucket>) throws(StoreError) {
        while true {
            let pause = bucket.withLock { bucket -> Duration in
                guard bucket.available(at: .now) > 0 else { return bucket.wait(at: .now) }
                bucket.take(count)
                return .zero
            }
            if pause == .zero { return }
            guard pausing.pause(for: min(pause, .milliseconds(200))) else { throw Self.isShutDown }
        }
    }
}

/// One of the times that something is tried.
package final class SFTPAttempt {
    /// 0 for the first.
    package internal(set) var number = 0
    private var moved = 0

    package init() {}

    package func note(moved count: Int) { moved += count }

    func takeMoved() -> Int {
        defer { moved = 0 }
        return moved
    }
}
