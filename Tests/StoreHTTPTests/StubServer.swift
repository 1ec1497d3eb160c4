import Glibc
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// A server on a free port of the loopback that does what its script says with each request, right or wrong.
final class StubServer: Sendable {
    struct Request: Sendable {
        var method: String
        var path: String
        var headers: [String: String]
        var body: [UInt8]
        /// Which request this is, of the server and of its connection; from 0.
        var number: Int
        var numberOnConnection: Int
    }

    let port: UInt16
    var url: String { "http://127.0.0.1:\(port)" }

    private struct State {
        var connections: [Connection] = []
        var threads: [WorkerThread] = []
        var requests: [Request] = []
        var inFlight = 0
        var mostInFlight = 0
        var isStopping = false
    }
    private let state = Monitor(State())
    private let listener: Int32
    private let script: @Sendable (Request, Connection) -> Void
    private let saysContinue: Bool
    private let isSlow: Bool
    private let acceptor = Lock<WorkerThread?>(nil)

    /// - Parameters:
    ///   - saysContinue: Answers `Expect: 100-continue` with leave to go on.
    ///   - isSlow: Takes less than a megabyte per second, and has next to no buffer.
    init(saysContinue: Bool = true, isSlow: Bool = false, _ script: @escaping @Sendable (Request, Connection) -> Void) {
        self.script = script
        self.saysContinue = saysContinue
        self.isSlow = isSlow
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if isSlow {
            var size: Int32 = 16 << 10
            setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        port = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
                precondition(
                    bind(descriptor, __CONST_SOCKADDR_ARG(__sockaddr__: pointer), length) == 0
                        && listen(descriptor, 256) == 0)
                getsockname(descriptor, __SOCKADDR_ARG(__sockaddr__: pointer), &length)
            }
            return UInt16(bigEndian: pointer.pointee.sin_port)
        }
        acceptor.withLock { $0 = WorkerThread(name: "stub") { [self] in accept() } }
    }

    var requests: [Request] { state.withLock { $0.requests } }
    var connectionCount: Int { state.withLock { $0.connections.count } }
    var mostInFlight: Int { state.withLock { $0.mostInFlight } }

    /// Waits until `count` requests have come.
    func waitForRequests(_ count: Int) { _ = state.wait { $0.requests.count >= count ? true : nil } }

    /// Ends everything. Call it, or the threads go on.
    func stop() {
        let connections = state.update { state in
            state.isStopping = true
            return state.connections
        }
        Glibc.shutdown(listener, Int32(SHUT_RDWR))
        for connection in connections { connection.abandon() }
        acceptor.withLock {
            $0?.join()
            $0 = nil
        }
        for thread in state.withLock({ $0.threads }) { thread.join() }
        for connection in connections { connection.close() }
        Glibc.close(listener)
    }

    private func accept() {
        while true {
            let descriptor = Glibc.accept(listener, __SOCKADDR_ARG(__sockaddr__: nil), nil)
            guard descriptor >= 0 else { return }
            var on: Int32 = 1
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
            let connection = Connection(descriptor, isSlow: isSlow)
            state.update { state in
                state.connections.append(connection)
                if state.isStopping { connection.abandon() }
                state.threads.append(WorkerThread(name: "stub") { [self] in serve(connection) })
            }
        }
    }

    private func serve(_ connection: Connection) {
        var numberOnConnection = 0
        while var request = connection.readHead() {
            request.numberOnConnection = numberOnConnection
            numberOnConnection += 1
            let isHeadOnly = request.headers["expect"] != nil && !saysContinue
            if request.headers["expect"] != nil, saysContinue { connection.write("HTTP/1.1 100 Continue\r\n\r\n") }
            if !isHeadOnly || connection.waitForBytes() {
                guard let body = connection.read(Int(request.headers["content-length"] ?? "0")!) else { break }
                request.body = body
            }
            state.update { state in
                request.number = state.requests.count
                state.requests.append(request)
                state.inFlight += 1
                state.mostInFlight = max(state.mostInFlight, state.inFlight)
            }
            script(request, connection)
            state.update { $0.inFlight -= 1 }
            if connection.isEnded { break }
        }
        connection.abandon()
    }

    /// One connection, on a thread of its own.
    final class Connection: @unchecked Sendable {
        private let descriptor: Int32
        private var buffer: [UInt8] = []
        private(set) var isEnded = false
        private let abandoned = Monitor(false)
        private let isSlow: Bool

        fileprivate init(_ descriptor: Int32, isSlow: Bool) {
            self.descriptor = descriptor
            self.isSlow = isSlow
        }

        /// A whole answer.
        func answer(
            _ status: Int, _ headers: [(String, String)] = [], _ body: [UInt8] = [], declaring length: Int? = nil,
            isHead: Bool = false
        ) {
            var head = "HTTP/1.1 \(status) Whatever\r\n"
            for (name, value) in headers { head += "\(name): \(value)\r\n" }
            head += "Content-Length: \(length ?? body.count)\r\n\r\n"
            write(Array(head.utf8) + (isHead ? [] : body))
        }

        func write(_ text: String) { write(Array(text.utf8)) }

        func write(_ bytes: [UInt8]) {
            var offset = 0
            while offset < bytes.count {
                let done = bytes.withUnsafeBytes {
                    Glibc.send(descriptor, $0.baseAddress! + offset, bytes.count - offset, Int32(MSG_NOSIGNAL))
                }
                guard done > 0 else {
                    isEnded = true
                    return
                }
                offset += done
            }
        }

        /// Ends the connection in an orderly way: what was written arrives.
        func end() {
            isEnded = true
            Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
        }

        /// Ends it with a TCP reset.
        func reset() {
            isEnded = true
            var option = linger(l_onoff: 1, l_linger: 0)
            setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
            // Disconnects, and with it sends the reset, while the descriptor stays ours (connect(2), AF_UNSPEC).
            var address = sockaddr()
            address.sa_family = sa_family_t(AF_UNSPEC)
            withUnsafePointer(to: &address) {
                _ = connect(
                    descriptor, __CONST_SOCKADDR_ARG(__sockaddr__: $0), socklen_t(MemoryLayout<sockaddr>.size))
            }
        }

        /// Does nothing until the server is stopped or the client has gone away.
        ///
        /// - Returns: Whether the client has reset the connection.
        @discardableResult func stall() -> Bool {
            isEnded = true
            while !abandoned.withLock({ $0 }) {
                var byte: UInt8 = 0
                let done = recv(descriptor, &byte, 1, 0)
                if done <= 0 { return done < 0 && errno == ECONNRESET }
            }
            return false
        }

        /// Waits for bytes of a body that may come without leave; gives up when the client ends the connection.
        fileprivate func waitForBytes() -> Bool {
            if !buffer.isEmpty { return true }
            return fill()
        }

        fileprivate func abandon() {
            abandoned.update { $0 = true }
            Glibc.shutdown(descriptor, Int32(SHUT_RDWR))
        }

        fileprivate func close() { Glibc.close(descriptor) }

        private func fill() -> Bool {
            var piece = [UInt8](repeating: 0, count: isSlow ? 8 << 10 : 256 << 10)
            if isSlow { usleep(10_000) }
            let done = recv(descriptor, &piece, piece.count, 0)
            guard done > 0 else { return false }
            buffer.append(contentsOf: piece[..<done])
            return true
        }

        fileprivate func read(_ count: Int) -> [UInt8]? {
            while buffer.count < count { if !fill() { return nil } }
            defer { buffer.removeFirst(count) }
            return Array(buffer[..<count])
        }

        fileprivate func readHead() -> Request? {
            let end = Array("\r\n\r\n".utf8)
            var searched = 0
            while true {
                // A TLS greeting: what a server that speaks none says to it.
                if buffer.first == 0x16 {
                    answer(400)
                    return nil
                }
                while searched + 4 <= buffer.count {
                    if buffer[searched] == end[0], Array(buffer[searched..<(searched + 4)]) == end {
                        let head = String(decoding: buffer[..<searched], as: UTF8.self)
                        buffer.removeFirst(searched + 4)
                        return parse(head)
                    }
                    searched += 1
                }
                if !fill() { return nil }
            }
        }

        private func parse(_ head: String) -> Request {
            let lines = head.split(separator: "\r\n")
            let words = lines[0].split(separator: " ")
            var headers: [String: String] = [:]
            for line in lines.dropFirst() {
                let colon = line.firstIndex(of: ":")!
                headers[line[..<colon].lowercased()] = String(line[line.index(after: colon)...].drop { $0 == " " })
            }
            return Request(
                method: String(words[0]), path: String(words[1]), headers: headers, body: [], number: 0,
                numberOnConnection: 0)
        }
    }
}

/// A client for tests: no proxy of the environment between it and the stub.
func makeClient(_ statistics: Statistics = Statistics(), _ change: (inout HTTPClientOptions) -> Void = { _ in })
    -> HTTPClient
{
    var options = HTTPClientOptions()
    options.proxy = ""
    change(&options)
    return HTTPClient(options, statistics: statistics)
}

func get(_ url: String) -> HTTPRequest { HTTPRequest("GET", url, counter: .requestsGet, operation: .storeGet) }

func put(_ url: String, _ body: UploadBody) -> HTTPRequest {
    HTTPRequest("PUT", url, body: body, counter: .requestsPut, operation: .storePut)
}

/// Bytes that differ from place to place.
func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: ($0 + seed) &* 31 >> 3) }
}

/// What `body` throws; nil when it throws nothing.
func error<Result>(of body: () throws(StoreError) -> Result) -> StoreError? {
    do throws(StoreError) {
        _ = try body()
        return nil
    } catch { return error }
}

/// Runs `body` on a thread of its own.
final class Background<Result: Sendable>: Sendable {
    private let result = Monitor<Result?>(nil)
    init(_ body: @escaping @Sendable () -> Result) {
        let result = result
        WorkerThread(name: "test") {
            let value = body()
            result.update { $0 = value }
        }.detach()
    }
    /// Waits for the result.
    var value: Result { result.wait { $0 }! }
}
