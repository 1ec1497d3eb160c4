import Glibc
package import StoreAPI
import Threading

/// One connection to an sftp-server, on which any number of requests are under way at once.
///
/// A thread of its own sends the requests, and wakes whoever waits for their answers: libssh2 lets one thread use a
/// session. Everything else reaches it through ``inbox`` and the pipe. When nothing comes for
/// ``StoreTuning/stallTimeout`` although something is awaited, the connection ends, and all requests on it with
/// `.timedOut`.
///
/// An sftp-server does one thing after the other, in order: who waits for one that is slow is why a pool has several
/// connections, and requests that build on each other may be sent at once.
package final class SFTPConnection: @unchecked Sendable {
    private struct Inbox {
        var requests: [[UInt8]] = []
        var pending: [UInt32: SFTPPending] = [:]
        var nextNumber: UInt32 = 1
        /// How many use the connection.
        var leases = 0
        var lastUse = MonotonicTime.now
        /// Not for new leases.
        var isRetired = false
        /// Bytes of files that were asked for or are on their way.
        var underWay = 0
        var stallTimeout: Duration
        /// How long what a disk or a copy takes may last.
        var slowTimeout: Duration
        /// Why the connection is of no use any more.
        var failure: StoreError?
    }

    /// What the server offers beyond the draft.
    package let extensions: Set<SFTPExtension>
    /// The most bytes of a file in one message.
    package private(set) var pieceSize = 32 << 10

    private let inbox: Lock<Inbox>
    private let wakeUp: (read: Int32, write: Int32)
    private let place: String
    private let traffic: @Sendable (_ sent: Int, _ received: Int) -> Void

    // MARK: The thread's own

    private let session: SSHSession
    private var toSend = ByteQueue()
    private var assembler = SFTPAssembler()
    private let buffer: UnsafeMutableRawBufferPointer
    private var isSendingHalf = false
    private var isReceivingHalf = false
    private var lastMove = MonotonicTime.now

    /// How long a connection rests before it is closed.
    private static let longestRest = Duration.seconds(60)
    /// The most bytes under way of all requests.
    private static let mostUnderWay = 16 << 20
    /// The most bytes of one message.
    private static let largestPiece = 64 << 10

    /// Connects, and starts the thread.
    ///
    /// - Parameters:
    ///   - traffic: Told of bytes that have gone over the connection.
    /// - Throws: ``StoreError``; see ``SSHSession``.
    init(
        _ endpoint: SSHEndpoint, _ tuning: StoreTuning, traffic: @escaping @Sendable (Int, Int) -> Void,
        isWanted: @escaping () -> Bool
    ) throws(StoreError) {
        let patience = SSHSession.Patience(
            deadline: .now + tuning.connectTimeout + tuning.stallTimeout, isWanted: isWanted)
        session = try SSHSession(endpoint, connectTimeout: tuning.connectTimeout, patience)
        extensions = try Self.greet(session, endpoint, patience)
        place = endpoint.place
        self.traffic = traffic
        inbox = Lock(Inbox(stallTimeout: tuning.stallTimeout, slowTimeout: tuning.overallTimeout))
        var ends: [Int32] = [-1, -1]
        guard pipe2(&ends, O_NONBLOCK | O_CLOEXEC) == 0 else {
            throw StoreError(.internal, "no pipe for an SSH connection: \(String(cString: strerror(errno)))")
        }
        wakeUp = (ends[0], ends[1])
        buffer = .allocate(byteCount: 256 << 10, alignment: 4096)
        // The thread is what keeps the connection, until it has ended.
        WorkerThread(name: "sftp") { self.run() }.detach()
        guard extensions.contains(.limits) else { return }
        do throws(StoreError) { try askLimits() } catch {
            end(error)
            throw error
        }
    }

    deinit {
        buffer.deallocate()
        close(wakeUp.read)
        close(wakeUp.write)
    }

    /// Agrees on the version of the protocol.
    private static func greet(_ session: SSHSession, _ endpoint: SSHEndpoint, _ patience: SSHSession.Patience)
        throws(StoreError) -> Set<SFTPExtension>
    {
        let hello = SFTPWriter(.initialize, number: 3).finished()
        var sent = 0
        while sent < hello.count {
            let moved = try session.send(hello[sent...])
            switch moved {
            case .bytes(let count): sent += count
            case .wait: try TCP.wait(for: POLLIN | POLLOUT, on: session.socket, patience, endpoint)
            case .end: break
            }
        }
        var assembler = SFTPAssembler()
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 4096, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            switch try session.receive(into: buffer) {
            case .wait: try TCP.wait(for: POLLIN, on: session.socket, patience, endpoint)
            case .end:
                throw StoreError(
                    .unsupported,
                    "\(endpoint.place) lets '\(endpoint.user)' in and ends SFTP at once: may this user use it?")
            case .bytes(let count):
                do {
                    try assembler.add(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
                    guard let message = assembler.next() else { continue }
                    return try extensions(in: message)
                } catch {
                    throw StoreError(
                        .unsupported,
                        "\(endpoint.place) does not speak SFTP to '\(endpoint.user)': what it sends begins with "
                            + "'\(printable(buffer[..<min(count, 60)]))'; does a file such as .bashrc print something?")
                }
            }
        }
    }

    private static func printable(_ bytes: some Sequence<UInt8>) -> String {
        String(decoding: bytes.map { (0x20..<0x7f).contains($0) ? $0 : UInt8(ascii: ".") }, as: UTF8.self)
    }

    /// What a server's answer to the greeting offers.
    static func extensions(in message: [UInt8]) throws(MalformedMessage) -> Set<SFTPExtension> {
        var reader = SFTPReader(message[...])
        guard try reader.byte() == SFTP.Kind.version.rawValue, try reader.number32() >= 3 else {
            throw MalformedMessage()
        }
        var extensions: Set<SFTPExtension> = []
        while !reader.isAtEnd {
            let name = String(decoding: try reader.string(), as: UTF8.self)
            _ = try reader.string()
            if let known = SFTPExtension(rawValue: name) { extensions.insert(known) }
        }
        return extensions
    }

    /// Larger messages than the draft promises, where the server takes them.
    private func askLimits() throws(StoreError) {
        guard case .extended(let reply) = try submit(.limits()).answer() else { return }
        do {
            var reader = SFTPReader(reply[...])
            _ = try reader.number64()
            let (read, write) = (try reader.number64(), try reader.number64())
            let most = min(read, write)
            if most > 0 { pieceSize = Int(min(max(most, 4096), UInt64(Self.largestPiece))) }
        } catch {
            throw StoreError(.internal, "\(place) tells limits that make no sense")
        }
    }

    // MARK: From any thread

    /// Counts one more user of the connection.
    ///
    /// - Returns: false when it is not for new users any more.
    func lease() -> Bool {
        inbox.withLock { inbox in
            guard inbox.failure == nil, !inbox.isRetired else { return false }
            inbox.leases += 1
            inbox.lastUse = .now
            return true
        }
    }

    func release() {
        let isOver = inbox.withLock { inbox in
            inbox.leases -= 1
            inbox.lastUse = .now
            return inbox.isRetired && inbox.leases == 0
        }
        if isOver { wake() }
    }

    var leases: Int { inbox.withLock { $0.leases } }
    /// Whether it can be used, by new users or those it has.
    var isUsable: Bool { inbox.withLock { $0.failure == nil && !$0.isRetired } }

    /// Lets those who use it finish, and then ends it.
    func retire() {
        inbox.withLock { $0.isRetired = true }
        wake()
    }

    /// Ends it now, and all requests on it.
    func end(_ error: StoreError) {
        inbox.withLock { if $0.failure == nil { $0.failure = error } }
        wake()
    }

    func tune(_ tuning: StoreTuning) {
        inbox.withLock {
            $0.stallTimeout = tuning.stallTimeout
            $0.slowTimeout = tuning.overallTimeout
        }
    }

    /// Sends a request. Its answer, or why there is none, is got from what is returned.
    package func submit(_ request: SFTPRequest) -> SFTPPending {
        var request = request
        let pending = SFTPPending(isSlow: request.isSlow)
        let (failure, isFirst) = inbox.withLock { inbox -> (StoreError?, Bool) in
            if let failure = inbox.failure { return (failure, false) }
            request.setNumber(inbox.nextNumber)
            inbox.pending[inbox.nextNumber] = pending
            inbox.nextNumber &+= 1
            inbox.requests.append(request.bytes)
            return (nil, inbox.requests.count == 1)
        }
        if let failure {
            pending.complete(.failure(failure))
        } else if isFirst {
            wake()
        }
        return pending
    }

    /// Takes room for bytes that are to be under way.
    ///
    /// - Returns: false when there is none: whoever has some under way waits for those first.
    package func reserve(_ count: Int) -> Bool {
        inbox.withLock { inbox in
            guard inbox.underWay + count <= Self.mostUnderWay else { return false }
            inbox.underWay += count
            return true
        }
    }

    package func unreserve(_ count: Int) { inbox.withLock { $0.underWay -= count } }

    private func wake() {
        var byte: UInt8 = 0
        // A pipe that is full wakes as well.
        _ = write(wakeUp.write, &byte, 1)
    }

    // MARK: The thread

    private func run() {
        var failure: StoreError
        do throws(StoreError) {
            while try turn() {}
            failure = StoreError(.unavailable, "the connection to \(place) was closed")
        } catch {
            failure = error
        }
        session.end()
        let pending = inbox.withLock { inbox in
            if let first = inbox.failure { failure = first } else { inbox.failure = failure }
            defer {
                inbox.pending = [:]
                inbox.requests = []
            }
            return inbox.pending.values.map(\.self)
        }
        for request in pending { request.complete(.failure(failure)) }
    }

    /// - Returns: false when the connection is to end.
    private func turn() throws(StoreError) -> Bool {
        let (requests, failure, isOver) = inbox.withLock { inbox in
            let isResting = inbox.pending.isEmpty && inbox.leases == 0
            let isOver = isResting && (inbox.isRetired || .now - inbox.lastUse > Self.longestRest)
            // Nobody is to take it from now on.
            if isOver { inbox.isRetired = true }
            defer { inbox.requests = [] }
            return (inbox.requests, inbox.failure, isOver)
        }
        if let failure { throw failure }
        if isOver { return false }
        for request in requests { toSend.push(request) }
        var isBusy = false
        if !isReceivingHalf { isBusy = try send() }
        if !isSendingHalf { isBusy = try receive() || isBusy }
        try checkPatience()
        if !isBusy { waitForSomething() }
        return true
    }

    private func send() throws(StoreError) -> Bool {
        var sent = 0
        defer { noteMoved(sent: sent, received: 0) }
        // Not without end: there may be something to be received.
        while sent < 512 << 10, let bytes = toSend.first {
            let moved = try session.send(bytes)
            switch moved {
            case .bytes(let count):
                isSendingHalf = false
                toSend.take(count)
                sent += count
            case .wait(let isHalfSent):
                isSendingHalf = isHalfSent
                return sent > 0
            case .end: return sent > 0
            }
        }
        return sent > 0
    }

    private func receive() throws(StoreError) -> Bool {
        var received = 0
        while received < 2 << 20 {
            switch try session.receive(into: buffer) {
            case .bytes(let count):
                isReceivingHalf = false
                received += count
                // Before anybody hears of it.
                noteMoved(sent: 0, received: count)
                do { try assembler.add(UnsafeRawBufferPointer(rebasing: buffer[..<count])) } catch {
                    throw StoreError(.unavailable, "\(place) sends what is no SFTP message")
                }
                while let message = assembler.next() { deliver(message) }
            case .wait(let isHalfSent):
                isReceivingHalf = isHalfSent
                return received > 0
            case .end: throw StoreError(.unavailable, "\(place) has ended the connection")
            }
        }
        return true
    }

    private func deliver(_ message: [UInt8]) {
        guard let number = SFTPAnswer.number(of: message) else { return }
        inbox.withLock { $0.pending.removeValue(forKey: number) }?.complete(.success(message))
    }

    private func noteMoved(sent: Int, received: Int) {
        guard sent > 0 || received > 0 else { return }
        lastMove = .now
        traffic(sent, received)
    }

    private func checkPatience() throws(StoreError) {
        let limit = inbox.withLock { inbox -> Duration? in
            if inbox.pending.isEmpty { return nil }
            let isSlow = inbox.pending.count <= 64 && inbox.pending.values.contains { $0.isSlow }
            return isSlow ? max(inbox.slowTimeout, inbox.stallTimeout) : inbox.stallTimeout
        }
        guard let limit else {
            lastMove = .now
            return
        }
        if .now - lastMove > limit {
            throw StoreError(.timedOut, "\(place) has not answered for \(Int(limit.inSeconds)) s")
        }
    }

    private func waitForSomething() {
        let half = isSendingHalf || isReceivingHalf
        // What is half sent has to be sent before anything else is looked at.
        var asked = [
            pollfd(fd: session.socket, events: Int16(half ? POLLOUT : POLLIN), revents: 0),
            pollfd(fd: wakeUp.read, events: Int16(POLLIN), revents: 0),
        ]
        // While the server's window is full only what it sends can open it.
        _ = poll(&asked, 2, 1000)
        var bytes = [UInt8](repeating: 0, count: 512)
        if asked[1].revents != 0 { _ = read(wakeUp.read, &bytes, bytes.count) }
    }
}

/// A request that was sent, and its answer once it has come.
package final class SFTPPending: Sendable {
    let isSlow: Bool
    private let result = Monitor<Result<[UInt8], StoreError>?>(nil)

    init(isSlow: Bool) { self.isSlow = isSlow }

    func complete(_ result: Result<[UInt8], StoreError>) { self.result.update { $0 = result } }

    /// Waits for the answer.
    ///
    /// - Parameter isWanted: Asked five times a second.
    /// - Throws: ``StoreError``: why there is none; `.cancelled` when it is no longer wanted.
    package func answer(isWanted: (@Sendable () -> Bool)? = nil) throws(StoreError) -> SFTPAnswer {
        assert(HeldLocks.count == 0, "a lock is held during a request: others wait for as long as a server takes")
        var found: Result<[UInt8], StoreError>?
        while found == nil {
            found = result.wait(until: isWanted == nil ? nil : .now + .milliseconds(200)) { $0 }
            if found == nil, let isWanted, !isWanted() {
                throw StoreError(.cancelled, "the request is no longer wanted")
            }
        }
        let message = try found!.get()
        do { return try SFTPAnswer(message) } catch {
            throw StoreError(.unavailable, "the SFTP server has sent an answer that makes no sense")
        }
    }
}

/// Messages that wait to be sent, byte by byte.
private struct ByteQueue {
    private var messages = Queue<[UInt8]>()
    private var sent = 0

    mutating func push(_ message: [UInt8]) { messages.push(message) }

    /// What is left of the first message; the same bytes at the same place until some are taken.
    var first: ArraySlice<UInt8>? { messages.first.map { $0[sent...] } }

    mutating func take(_ count: Int) {
        sent += count
        if let message = messages.first, sent == message.count {
            messages.pop()
            sent = 0
        }
    }
}

/// Makes messages out of the bytes that come.
struct SFTPAssembler {
    private var head: [UInt8] = []
    private var message: [UInt8] = []
    private var missing = 0
    private var complete = Queue<[UInt8]>()

    /// - Throws: when a message is longer than any server sends.
    mutating func add(_ bytes: UnsafeRawBufferPointer) throws(MalformedMessage) {
        var rest = bytes[...]
        while !rest.isEmpty {
            if missing == 0 {
                let part = rest.prefix(4 - head.count)
                head += part
                rest = rest.dropFirst(part.count)
                guard head.count == 4 else { return }
                missing = head.reduce(0) { $0 << 8 | Int($1) }
                guard (5...SFTP.longestMessage).contains(missing) else { throw MalformedMessage() }
                head = []
                message = []
                message.reserveCapacity(missing)
            }
            let part = rest.prefix(missing)
            message.append(contentsOf: UnsafeRawBufferPointer(rebasing: part))
            missing -= part.count
            rest = rest.dropFirst(part.count)
            if missing == 0 {
                complete.push(message)
                message = []
            }
        }
    }

    /// A message without its length.
    mutating func next() -> [UInt8]? { complete.pop() }
}
