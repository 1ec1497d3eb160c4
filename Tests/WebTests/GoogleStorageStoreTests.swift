import CShim
import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// A token endpoint and a bucket in memory, as far as the tests go.
private final class Google: Sendable {
    struct State {
        var logins: [HTTPRequest] = []
        var loginAnswer: HTTPResponse?
        /// Of the tokens "token-1" and so on those up to this are not taken any more.
        var refusedTokens = 0
        /// By "METHOD path".
        var answers: [String: HTTPResponse] = [:]
    }
    let state = Lock(State())

    var logins: [HTTPRequest] { state.withLock { $0.logins } }

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        state.withLock { state in
            if request.path == "/token" {
                state.logins.append(request)
                if let answer = state.loginAnswer {
                    if answer.status != 200 { state.loginAnswer = nil }
                    return answer
                }
                return text("{\"access_token\": \"token-\(state.logins.count)\", \"expires_in\": 3599}")
            }
            let number = request["Authorization"].flatMap { Int($0.split(separator: "-").last ?? "") } ?? 0
            guard number > state.refusedTokens else {
                return text(
                    "{\"error\": {\"message\": \"Invalid Credentials\", \"errors\": [{\"reason\": \"authError\"}]}}",
                    status: 401)
            }
            return state.answers["\(request.method) \(request.path)"] ?? text("", status: 404)
        }
    }
}

/// What a store makes of answers that the servers of the tests do not give. What it does with those: the contract in
/// `StoresTests`, and `GoogleStorageServerTests`.
@Suite("Google Cloud Storage, answer by answer")
struct GoogleStorageStoreTests {
    private static let secret = "the-secret-refresh-token"

    private func store(
        _ server: StubServer, _ changes: [String: String] = [:], file: ScratchFile
    ) throws -> GoogleStorageStore {
        let settings = ["bucket_name": "box", "credentials_file": file.path]
        return try GoogleStorageStore(
            StoreSettings(settings.merging(changes) { $1 }), environment: ProcessEnvironment([:]),
            statistics: Statistics(), transport: server)
    }

    private func userFile(_ more: String = "") throws -> ScratchFile {
        try ScratchFile(
            Array(
                "{\"type\": \"authorized_user\", \"client_id\": \"id\", \"client_secret\": \"cs\", \"refresh_token\": \"\(Self.secret)\"\(more)}"
                    .utf8))
    }

    private static func object(_ name: String, _ bytes: [UInt8], generation: Int = 7, _ more: String = "") -> String {
        "{\"name\": \"\(name)\", \"size\": \"\(bytes.count)\", \"generation\": \"\(generation)\", \"metageneration\": \"1\"\(more)}"
    }

    // MARK: Logging in

    @Test("a refresh token gets a token, once for all requests, and another one when that is refused")
    func refreshing() throws {
        let google = Google()
        google.state.withLock {
            $0.answers["GET /storage/v1/b/box/o/a"] = text(Self.object("a", [1, 2, 3]))
        }
        let server = StubServer(google.answer)
        let file = try userFile()
        let store = try store(server, file: file)
        #expect(try store.metadata(of: StorePath("a")!).size == 3)
        #expect(try store.metadata(of: StorePath("a")!).version == Version("7"))
        let login = try #require(google.logins.first)
        #expect(google.logins.count == 1 && login.url == "https://oauth2.googleapis.com/token")
        #expect(
            String(decoding: login.bytes, as: UTF8.self)
                == "grant_type=refresh_token&client_id=id&client_secret=cs&refresh_token=\(Self.secret)")
        google.state.withLock { $0.refusedTokens = 1 }
        #expect(try store.metadata(of: StorePath("a")!).size == 3)
        #expect(google.logins.count == 2)
        #expect(server.requests.last?["Authorization"] == "Bearer token-2")
        // The token goes to the endpoint, and nowhere else.
        #expect(
            server.requests.allSatisfy {
                $0["Authorization"] == nil || $0.url.hasPrefix("https://storage.googleapis.com/")
            })
    }

    @Test("a login that is refused is told with what to do, and no secret")
    func refused() throws {
        let google = Google()
        google.state.withLock {
            $0.loginAnswer = text(
                "{\"error\": \"invalid_grant\", \"error_description\": \"\(Self.secret)\"}", status: 400)
        }
        let file = try userFile()
        let store = try store(StubServer(google.answer), file: file)
        let error = #expect(throws: StoreError.self) { try store.connect() }
        #expect(error?.code == .authenticationFailed)
        #expect(
            error?.message
                == "the login of a user's login ('\(file.path)') at https://oauth2.googleapis.com/token failed: invalid_grant; "
                + "it is not valid any more: run `gcloud auth application-default login`")
        let said = [error?.message, error?.cause].compactMap { $0 }.joined()
        #expect(!said.contains(Self.secret))
    }

    @Test("files that are no credentials are told from each other")
    func files() throws {
        for (text, words) in [
            ("nonsense", "is no JSON file with credentials"), ("{}", "does not say its type"),
            ("{\"type\": \"external_account\"}", "is of the type external_account, which is not supported"),
            ("{\"type\": \"service_account\", \"client_email\": \"a@b\"}", "lacks private_key"),
            ("{\"type\": \"service_account\", \"private_key\": \"\(Self.secret)\"}", "has no usable private_key"),
            ("{\"type\": \"authorized_user\", \"client_id\": \"id\"}", "lacks client_secret"),
        ] {
            let file = try ScratchFile(Array(text.utf8))
            let store = try store(StubServer(Google().answer), file: file)
            let error = #expect(throws: StoreError.self) { try store.connect() }
            #expect(
                error?.code == .invalidArgument && error?.message.contains(words) == true, "\(error?.message ?? "")")
            #expect(error?.message.contains(Self.secret) == false)
        }
        let file = try userFile(", \"token_uri\": \"http://example.org/token\"")
        let store = try store(StubServer(Google().answer), file: file)
        let error = #expect(throws: StoreError.self) { try store.connect() }
        #expect(error?.message.contains("a token_uri that does not begin with https://") == true)
    }

    // MARK: Answers

    @Test("a body whose checksum is another than was said is noticed, also where there is no MD5")
    func corruption() throws {
        let bytes = Array("0123456789".utf8)
        let sums = try GoogleStorageChecksums.of(UploadBody(bytes))
        let google = Google()
        let file = try userFile()
        let store = try store(StubServer(google.answer), file: file)
        store.tune(StoreTuning(overallTimeout: .milliseconds(300)))
        func read(_ hashes: [String]) throws -> [UInt8] {
            google.state.withLock { state in
                state.answers["GET /storage/v1/b/box/o/a"] = HTTPResponse(
                    status: 200, headers: [("X-Goog-Generation", "7")] + hashes.map { ("x-goog-hash", $0) }, body: bytes
                )
            }
            return try store.contents(of: StorePath("a")!)
        }
        let (crc, md5) = (TextEncoding.base64(sums.crc32c), TextEncoding.base64(sums.md5))
        #expect(try read(["crc32c=\(crc),md5=\(md5)"]) == bytes)
        #expect(try read(["crc32c=\(crc)", "md5=\(md5)"]) == bytes)
        #expect(try read(["crc32c=\(crc)"]) == bytes)
        for wrong in [["crc32c=AAAAAA=="], ["crc32c=\(crc)", "md5=AAAAAAAAAAAAAAAAAAAAAA=="]] {
            let error = #expect(throws: StoreError.self) { try read(wrong) }
            #expect(error?.code == .corrupted)
        }
    }

    @Test("an object that is not on the store as it was sent is no success")
    func wrongAnswer() throws {
        let google = Google()
        google.state.withLock {
            $0.answers["POST /upload/storage/v1/b/box/o"] = text(
                Self.object("a", [1, 2, 3], ", \"crc32c\": \"AAAAAA==\""))
        }
        let file = try userFile()
        let store = try store(StubServer(google.answer), file: file)
        let error = #expect(throws: StoreError.self) { try store.write([1, 2, 3], at: StorePath("a")!) }
        #expect(error?.code == .corrupted)
    }

    @Test("an answer that is none of Google's is told as such")
    func stranger() throws {
        let google = Google()
        google.state.withLock { $0.answers["GET /storage/v1/b/box/o"] = text("<html>Hello</html>") }
        let file = try userFile()
        let store = try store(StubServer(google.answer), file: file)
        let error = #expect(throws: StoreError.self) { _ = try store.list(.root, after: nil) }
        #expect(error?.code == .internal && error?.message.contains("check endpoint") == true)
    }

    @Test("an upload's session at another host is asked for at the endpoint: no token goes elsewhere")
    func foreignSession() throws {
        let google = Google()
        google.state.withLock {
            $0.answers["POST /upload/storage/v1/b/box/o"] = text(
                "",
                [("Location", "https://evil.example.org/upload/storage/v1/b/box/o?uploadType=resumable&upload_id=x")])
            $0.answers["PUT /upload/storage/v1/b/box/o"] = text("", status: 308)
        }
        let server = StubServer(google.answer)
        let file = try userFile()
        let store = try store(server, file: file)
        let session = try store.beginSession(
            GoogleStorageRequest(name: "a", description: GoogleStorageDescription()), [], 10, StorePath("a")!)
        _ = try store.standing(session, 10, StorePath("a")!)
        #expect(
            server.requests.last?.url
                == "https://storage.googleapis.com/upload/storage/v1/b/box/o?uploadType=resumable&upload_id=x")
    }

    // MARK: Settings

    @Test("HMAC keys are for the protocol of S3, at the same place, and under another identity")
    func interoperability() throws {
        let descriptor = StoreDescriptor.googleStorage
        let keys = ["bucket": "box", "prefix": "a", "access_key_id": "GOOG1", "secret_access_key": "s"]
        let settings = try descriptor.settings(from: keys)
        let store = try #require(try descriptor.make(settings, Statistics()) as? S3Store)
        defer { store.shutdown() }
        #expect(
            store.configuration.url(key: Array("k".utf8), query: [], region: "auto")
                == "https://storage.googleapis.com/box/k")
        let own = try descriptor.settings(from: ["bucket": "box", "prefix": "a"])
        #expect(descriptor.identity(own) == "https://storage.googleapis.com/box/a/")
        #expect(descriptor.identity(settings) != descriptor.identity(own))
        for more in [["credentials_file": "/x"], ["anonymous": "yes"], ["project": "p"]] {
            let both = try descriptor.settings(from: keys.merging(more) { $1 })
            let error = #expect(throws: StoreError.self) { _ = try descriptor.make(both, Statistics()) }
            #expect(error?.code == .invalidArgument)
        }
    }

    @Test("settings that make no sense are refused, and a URL is enough")
    func settings() throws {
        let descriptor = StoreDescriptor.googleStorage
        for changes in [
            ["bucket_name": "a/b"], ["endpoint": "http://example.org"], ["endpoint": "https://x@example.org"],
            ["anonymous": "yes", "credentials_file": "/x"], ["project": "ä"],
        ] {
            let all = try descriptor.settings(from: ["bucket_name": "box"].merging(changes) { $1 })
            let error = #expect(throws: StoreError.self) { _ = try descriptor.make(all, Statistics()) }
            #expect(error?.code == .invalidArgument, "\(changes)")
        }
        #expect(descriptor.settingsFromURL("gs", "box/a/b") == ["bucket_name": "box", "prefix": "a/b"])
        #expect(descriptor.settingsFromURL("gcs", "box") == ["bucket_name": "box"])
        #expect(descriptor.settingsFromURL("gs", "key:secret@box") == nil)
    }

    // MARK: Checksums

    @Test("CRC32C is that of its definition, by each way of making it, and can be put together of parts")
    func crc32c() {
        // RFC 3720, B.4, and the usual check value.
        for (bytes, value) in [
            ([UInt8](repeating: 0, count: 32), 0x8A91_36AA as UInt32),
            ([UInt8](repeating: 0xFF, count: 32), 0x62A8_AB43),
            (Array(0..<32), 0x46DD_794E), (Array("123456789".utf8), 0xE306_9283), ([], 0),
        ] {
            #expect(cf_crc32c(0, bytes, bytes.count) == value && cf_crc32c_by_tables(0, bytes, bytes.count) == value)
        }
        for size in [1, 7, 8, 9, 63, 1000, 100_003] {
            let (first, second) = (pattern(size, seed: 1), pattern(size * 2 + 1, seed: 2))
            let whole = first + second
            let (a, b) = (cf_crc32c(0, first, first.count), cf_crc32c(0, second, second.count))
            let expected = cf_crc32c_by_tables(0, whole, whole.count)
            #expect(cf_crc32c(a, second, second.count) == expected)
            #expect(CRC32C.joined(a, b, length: Int64(second.count)) == expected)
        }
    }
}
