import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Stores

/// The SSH server that the project's test runner may have started; the contract is tried on it in `StoresTests`.
struct SFTPTarget: Sendable, CustomTestStringConvertible {
    var port: Int
    var user: String
    var key: String
    var knownHosts: String
    /// The folder on the server that stores are in, on this machine.
    var files: String
    /// These are there where the tests run as root.
    var password: String?
    var interactive: Int?
    var chatty: Int?
    var bare: Int

    var testDescription: String { "openssh" }
    /// The folder with all keys of the server and its users.
    var keys: String { String(key[..<key.lastIndex(of: "/")!]) }

    static let all: [SFTPTarget] = {
        guard let value = getenv("CLOUDFUSION_TEST_SFTP_OPENSSH") else { return [] }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 10 else { return [] }
        return [
            SFTPTarget(
                port: Int(words[1])!, user: words[2], key: words[3], knownHosts: words[4], files: words[5],
                password: words[6] == "-" ? nil : words[6], interactive: Int(words[7]), chatty: Int(words[8]),
                bare: Int(words[9])!)
        ]
    }()

    /// Those that take passwords.
    static let withPassword = all.filter { $0.password != nil }

    /// Of a store in a folder of its own.
    func settings(_ folder: String = "", _ changes: [String: String] = [:]) -> [String: String] {
        [
            "host": "127.0.0.1", "port": String(port), "user": user, "key_file": key, "known_hosts": knownHosts,
            "path": folder.isEmpty ? files : "\(files)/\(folder)",
        ].merging(changes) { $1 }
    }

    /// A folder of its own on the server.
    func makeFolder() throws -> String {
        let name = "test-\(UInt64.random(in: 0...UInt64.max))"
        guard mkdir("\(files)/\(name)", 0o755) == 0 else { throw StoreError(.internal, "no folder for the test") }
        return name
    }

    func withStore<Result>(
        _ folder: String = "", _ changes: [String: String] = [:], statistics: Statistics = Statistics(),
        pageSize: Int = 5_000, _ body: (SFTPStore) throws -> Result
    ) throws -> Result {
        let given = try StoreDescriptor.sftp.settings(from: settings(folder, changes))
        let store = try SFTPStore(given, statistics: statistics, pageSize: pageSize)
        // Nobody is to wait a minute for what does not come.
        store.tune(StoreTuning(overallTimeout: .seconds(10)))
        defer { store.shutdown() }
        return try body(store)
    }

    /// A store whose connections go over `wire`.
    func withStore<Result>(_ folder: String, over wire: Wire, _ body: (SFTPStore) throws -> Result) throws -> Result {
        let known = "\(files)/\(folder).known"
        let lines = try text(of: knownHosts).replacing(":\(port) ", with: ":\(wire.port) ")
        try write(lines, to: known)
        return try withStore(folder, ["port": String(wire.port), "known_hosts": known, "sessions": "1"], body)
    }

    func write(_ text: String, to path: String) throws {
        let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        defer { close(file) }
        let bytes = Array(text.utf8)
        guard file >= 0, Glibc.write(file, bytes, bytes.count) == bytes.count else {
            throw StoreError(.internal, "'\(path)' cannot be written")
        }
    }

    func text(of path: String) throws -> String {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = read(file, &bytes, bytes.count)
        guard file >= 0, count >= 0 else { throw StoreError(.internal, "'\(path)' cannot be read") }
        return String(decoding: bytes[..<count], as: UTF8.self)
    }
}

/// A connection between a store and a server that can be cut, or stand still, at a moment of the test's choice.
final class Wire: Sendable {
    private struct State {
        var sockets: [Int32] = []
        /// When true of it, what the server sends does not arrive any more, and the connection ends. Once.
        var loses: (@Sendable () -> Bool)?
        var isStill = false
        var isOver = false
        var cuts = 0
    }

    let port: Int
    private let listener: Int32
    private let target: Int
    private let state = Lock(State())
    private let thread = Lock<WorkerThread?>(nil)

    init(to target: Int) throws {
        self.target = target
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = Self.address(0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let listener = listener
        let isListening = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(listener, __CONST_SOCKADDR_ARG(__sockaddr__: address), length) == 0 && listen(listener, 64) == 0
                    && getsockname(listener, __SOCKADDR_ARG(__sockaddr__: address), &length) == 0
            }
        }
        guard isListening else { throw StoreError(.internal, "no port for the test") }
        port = Int(UInt16(bigEndian: address.sin_port))
        thread.withLock { $0 = WorkerThread(name: "wire") { [self] in serve() } }
    }

    /// How often a connection was cut because `loses` was true.
    var cuts: Int { state.withLock { $0.cuts } }

    func lose(when loses: @escaping @Sendable () -> Bool) { state.withLock { $0.loses = loses } }

    func standStill(_ isStill: Bool) { state.withLock { $0.isStill = isStill } }

    /// Ends all connections.
    func cut() { for socket in state.withLock({ $0.sockets }) { shutdown(socket, Int32(SHUT_RDWR)) } }

    func end() {
        state.withLock { $0.isOver = true }
        shutdown(listener, Int32(SHUT_RDWR))
        cut()
        let thread = thread.withLock { thread in
            defer { thread = nil }
            return thread
        }
        thread?.join()
        close(listener)
    }

    private static func address(_ port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = UInt16(port).bigEndian
        return address
    }

    private func serve() {
        var pumps: [WorkerThread] = []
        while true {
            let client = accept(listener, __SOCKADDR_ARG(__sockaddr__: nil), nil)
            if client < 0 { break }
            let server = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            var address = Self.address(target)
            let isConnected = withUnsafePointer(to: &address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    connect(server, __CONST_SOCKADDR_ARG(__sockaddr__: $0), socklen_t(MemoryLayout<sockaddr_in>.size))
                        == 0
                }
            }
            guard isConnected, !state.withLock({ $0.isOver }) else {
                close(client)
                close(server)
                continue
            }
            state.withLock { $0.sockets += [client, server] }
            pumps.append(WorkerThread(name: "up") { [self] in pump(client, to: server, isAnswer: false) })
            pumps.append(WorkerThread(name: "down") { [self] in pump(server, to: client, isAnswer: true) })
        }
        for pump in pumps { pump.join() }
        for socket in state.withLock({ $0.sockets }) { close(socket) }
    }

    private func pump(_ source: Int32, to destination: Int32, isAnswer: Bool) {
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = recv(source, &bytes, bytes.count, 0)
            if count <= 0 { break }
            while state.withLock({ $0.isStill && !$0.isOver }) { usleep(10_000) }
            if isAnswer, let loses = state.withLock({ $0.loses }), loses() {
                state.withLock { state in
                    state.loses = nil
                    state.cuts += 1
                }
                break
            }
            var sent = 0
            while sent < count {
                let more = bytes[sent..<count].withUnsafeBytes {
                    send(destination, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                if more <= 0 { break }
                sent += more
            }
        }
        shutdown(source, Int32(SHUT_RDWR))
        shutdown(destination, Int32(SHUT_RDWR))
    }
}
