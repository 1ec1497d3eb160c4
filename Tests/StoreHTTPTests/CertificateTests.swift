import Glibc
import Statistics
import StoreAPI
import StoreHTTP
import Testing
import Threading

/// A folder that goes away with the object.
final class TemporaryDirectory: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/store-http-XXXXXX".utf8CString)
        path = String(cString: mkdtemp(&template)!)
    }

    deinit { run(["rm", "-rf", path]) }
}

/// Runs a program and waits for it.
@discardableResult
func run(_ arguments: [String]) -> Bool {
    guard let process = Process(arguments) else { return false }
    return process.wait() == 0
}

/// A program that runs beside the test.
final class Process: Sendable {
    let identifier: pid_t
    /// The end of a pipe from its standard output.
    let output: Int32

    init?(_ arguments: [String]) {
        var pipe: [Int32] = [0, 0]
        guard pipe2(&pipe, O_CLOEXEC) == 0 else { return nil }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        posix_spawn_file_actions_adddup2(&actions, pipe[1], 1)
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
        var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        var identifier: pid_t = 0
        let status = posix_spawnp(&identifier, arguments[0], &actions, nil, &words, environ)
        posix_spawn_file_actions_destroy(&actions)
        for word in words { free(word) }
        close(pipe[1])
        output = pipe[0]
        self.identifier = identifier
        guard status == 0 else {
            close(output)
            return nil
        }
    }

    deinit { close(output) }

    func wait() -> Int32 {
        var status: Int32 = 0
        while waitpid(identifier, &status, 0) < 0, errno == EINTR {}
        return status
    }

    /// Reads up to the end of a line.
    func readLine() -> String {
        var line: [UInt8] = []
        var byte: UInt8 = 0
        while read(output, &byte, 1) == 1, byte != UInt8(ascii: "\n") { line.append(byte) }
        return String(decoding: line, as: UTF8.self)
    }
}

/// A TLS server with a certificate that nobody has signed but itself.
private final class SecureServer: Sendable {
    private let directory = TemporaryDirectory()
    private let process: Process
    let port: String
    var certificate: String { directory.path + "/certificate.pem" }

    /// - Parameter days: How long the certificate is valid from now on; negative for one that has expired.
    init(days: Int = 1) throws {
        let key = directory.path + "/key.pem"
        let certificate = directory.path + "/certificate.pem"
        let request = directory.path + "/request.pem"
        let extensions = directory.path + "/extensions"
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        try #require(run(["openssl", "req", "-new"] + curve + ["-subj", "/CN=stub", "-keyout", key, "-out", request]))
        try #require(run(["sh", "-c", "echo subjectAltName=IP:127.0.0.1 > \(extensions)"]))
        try #require(
            run(
                ["openssl", "x509", "-req", "-in", request, "-signkey", key, "-days", "\(days)", "-out", certificate]
                    + ["-extfile", extensions]))
        process = try #require(
            Process(["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", certificate, "-key", key, "-www"]))
        var line = process.readLine()
        while !line.isEmpty, !line.hasPrefix("ACCEPT ") { line = process.readLine() }
        port = String(try #require(line.split(separator: ":").last))
    }

    func stop() {
        kill(process.identifier, SIGKILL)
        _ = process.wait()
    }
}

@Suite("Certificates")
struct CertificateTests {
    private func send(to url: String, trusting authorities: String) throws(StoreError) -> HTTPResponse {
        let client = makeClient { $0.certificateAuthorities = authorities }
        defer { client.shutdown() }
        return try client.send(get(url))
    }

    @Test("a server whose authority is known is trusted; one of an unknown authority or another name is not")
    func authorities() throws {
        let server = try SecureServer()
        defer { server.stop() }
        let other = try SecureServer()
        defer { other.stop() }
        let url = "https://127.0.0.1:\(server.port)/"
        #expect(try send(to: url, trusting: server.certificate).status == 200)
        let unknown = error { () throws(StoreError) in try send(to: url, trusting: other.certificate) }
        #expect(unknown?.code == .certificateRejected)
        #expect(unknown?.message.contains("127.0.0.1:\(server.port)") == true)
        #expect(unknown?.message.contains("SSL_CERT_FILE") == true)
        let wrongName = error { () throws(StoreError) in
            try send(to: "https://localhost:\(server.port)/", trusting: server.certificate)
        }
        #expect(wrongName?.code == .certificateRejected)
    }

    @Test("an expired certificate is rejected")
    func expired() throws {
        let server = try SecureServer(days: -1)
        defer { server.stop() }
        let error = error { () throws(StoreError) in
            try send(to: "https://127.0.0.1:\(server.port)/", trusting: server.certificate)
        }
        #expect(error?.code == .certificateRejected)
        #expect(error?.message.contains("expired") == true)
    }

    @Test("a file of authorities that cannot be read is named")
    func unreadable() throws {
        let server = try SecureServer()
        defer { server.stop() }
        let error = error { () throws(StoreError) in
            try send(to: "https://127.0.0.1:\(server.port)/", trusting: "/nowhere/authorities.pem")
        }
        #expect(error?.code == .certificateRejected)
        #expect(error?.message.contains("/nowhere/authorities.pem") == true)
    }

    @Test("a server that speaks no TLS is no trusted server")
    func plain() {
        let server = StubServer { _, connection in connection.answer(200) }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        let error = error { () throws(StoreError) in try client.send(get("https://127.0.0.1:\(server.port)/")) }
        #expect(error?.code == .unavailable)
    }
}
