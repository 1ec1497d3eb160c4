import Statistics
import StoreAPI
import StoreHTTP
import Testing
import Threading

@testable import Stores

/// A server that answers anything: no crash, no endless loop, and nothing but legal names and sizes.
@Suite("Hostile servers")
struct ServerFuzzTests {
    /// Answers every request in the same way.
    private final class Echo: HTTPTransport {
        private let response: HTTPResponse
        private let count = Lock(0)
        var requests: Int { count.withLock { $0 } }

        init(_ response: HTTPResponse) { self.response = response }

        func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
            let number = count.withLock { count -> Int in
                count += 1
                return count
            }
            guard number < 2000 else { throw StoreError(.cancelled, "asked without end") }
            guard let sink = request.sink, response.status == 200 || response.status == 206 else { return response }
            let failure = response.body.withUnsafeBytes { bytes -> StoreError? in
                do throws(StoreError) { try sink.write(bytes, at: request.sinkOffset) } catch { return error }
                return nil
            }
            if let failure { throw failure }
            return HTTPResponse(status: response.status, headers: response.headers)
        }

        func tune(_ tuning: StoreTuning) {}
        func reconnect() {}
        func shutdown() {}
    }

    private final class Nowhere: ReadSink {
        func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {}
    }

    private final class Paper: UploadCheckpoint {
        private let text: Lock<String?>
        init(_ text: String?) { self.text = Lock(text) }
        func load() -> String? { text.withLock { $0 } }
        func save(_ state: String?) { text.withLock { $0 = state } }
    }

    private func store(_ transport: any HTTPTransport) throws(StoreError) -> S3Store {
        let store = try S3Store(
            StoreSettings([
                "bucket_name": "bucket", "endpoint": "https://s3.example.org", "access_key_id": "id",
                "secret_access_key": secret, "region": "r",
            ]), environment: ProcessEnvironment([:]), statistics: Statistics(), transport: transport)
        store.state.withLock { $0.traits.keepsControls = true }
        return store
    }

    private let secret = "do-not-show-this-secret"

    /// An answer of a corpus file: `STATUS`, headers, an empty line, the body.
    private func answer(_ input: [UInt8]) -> HTTPResponse {
        let parts = input.split(separator: 10, maxSplits: 40, omittingEmptySubsequences: false)
        let end = parts.firstIndex { $0.isEmpty } ?? parts.count
        let status = parts.first.flatMap { Int(String(decoding: $0, as: UTF8.self)) } ?? 200
        let headers = parts[..<end].dropFirst().compactMap { line -> (name: String, value: String)? in
            guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { return nil }
            return (
                String(decoding: line[..<colon], as: UTF8.self),
                String(decoding: line[(colon + 1)...], as: UTF8.self).trimmingSpaces()
            )
        }
        let body = parts.dropFirst(end + 1).joined(separator: [10])
        // Others than these are told apart by the session, which waits and tries again.
        return HTTPResponse(
            status: [200, 206, 403, 404, 412].contains(status) ? status : 200, headers: headers, body: Array(body))
    }

    private func complaint(_ error: any Error) -> String? {
        guard let error = error as? StoreError else { return "it threw \(error)" }
        if error.message.contains(secret) || "\(error)".contains(secret) { return "the secret is in \(error.message)" }
        if error.message.utf8.contains(where: { $0 < 0x20 }) {
            return "control characters in the message \(error.message.debugDescription)"
        }
        return error.message.utf8.count > 4096 ? "a message of \(error.message.utf8.count) bytes" : nil
    }

    @Test("listings have legal names once each, and no size below zero")
    func listings() throws {
        let words = [
            "<Contents><Key>x</Key><Size>-5</Size></Contents>", "<IsTruncated>true</IsTruncated>",
            "<NextContinuationToken>t</NextContinuationToken>", "<EncodingType>url</EncodingType>",
            "<CommonPrefixes><Prefix>../</Prefix></CommonPrefixes>", "%2F", "%2E%2E", "%C2",
        ]
        try Fuzzer("listings", words: words).run { input, _ in
            let echo = Echo(answer(input))
            do {
                let store = try store(echo)
                var page = try store.list(.root, after: nil)
                for _ in 0..<5 {
                    for entry in page.entries where entry.metadata.size < 0 {
                        return "'\(entry.name)' has \(entry.metadata.size) bytes"
                    }
                    let files = page.entries.filter { $0.metadata.kind == .file }.map(\.name)
                    let directories = Set(page.entries.filter { $0.metadata.kind == .directory }.map(\.name))
                    if files.contains(where: { directories.contains($0) }) {
                        return "a file and a directory of one name"
                    }
                    guard let next = page.next else { break }
                    page = try store.list(.root, after: next)
                }
            } catch { return complaint(error) }
            return nil
        }
    }

    @Test("folders of WebDAV have legal names, and no size below zero")
    func folders() throws {
        let words = [
            "<D:response><D:href>/dav/../x</D:href></D:response>", "<D:getcontentlength>-5</D:getcontentlength>",
            "%2F", "%2E%2E", "%00", "HTTP/1.1 200 OK", "/dav//", "mode=040755", "tag=3-66",
        ]
        try Fuzzer("multistatus", words: words).run { input, _ in
            do {
                var response = answer(input)
                response.status = 207
                let store = try WebDAVStore(
                    StoreSettings(["url": "https://h/dav", "user": "u", "password": secret]),
                    statistics: Statistics(), transport: Echo(response))
                for entry in try store.list(.root, after: nil).entries {
                    if entry.metadata.size < 0 { return "'\(entry.name)' has \(entry.metadata.size) bytes" }
                    if entry.name.description == ".cloudfusion" { return "what is the program's own is shown" }
                }
                _ = try store.metadata(of: StorePath("f")!)
                let usage = try store.spaceUsage()
                for value in [usage.total, usage.used, usage.free] where (value ?? 0) < 0 { return "\(usage)" }
            } catch { return complaint(error) }
            return nil
        }
    }

    /// Shows a page, and has a file wherever a link leads.
    private struct WebFolder: HTTPTransport {
        let page: HTTPResponse

        func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
            if request.method == "HEAD" {
                return HTTPResponse(status: 200, headers: [("Content-Length", "3"), ("ETag", "\"t\"")])
            }
            if let sink = request.sink {
                try page.body.withUnsafeBufferPointer { bytes throws(StoreError) in
                    try sink.write(UnsafeRawBufferPointer(bytes), at: 0)
                }
            }
            return HTTPResponse(status: 200, headers: page.headers)
        }
        func tune(_ tuning: StoreTuning) {}
        func reconnect() {}
        func shutdown() {}
    }

    @Test("index pages of web servers have legal names once each, and all that is asked for lies in the folder")
    func pages() throws {
        let words = [
            "<a href=\"", "\">", "</a>", "href='", "../", "%2e%2e/", "%2F", "<!--", "-->", "<script>", "</script>",
            "?C=N",
            "http://h/", "//x/", "&#x2f;", "31-Jan-2024 23:59", "9999999999999999999K", "\"type\":\"directory\"",
            "<file>x</file>", "Content-Type: application/json",
        ]
        try Fuzzer("pages", words: words).run { input, _ in
            do {
                let store = try HTTPStore(
                    StoreSettings(["url": "https://h/pub/", "user": "u", "password": secret]),
                    statistics: Statistics(), transport: WebFolder(page: answer(input)))
                var page = try store.list(.root, after: nil)
                var names: Set<FileName> = []
                for _ in 0..<100 {
                    for entry in page.entries {
                        if !names.insert(entry.name).inserted { return "'\(entry.name)' is listed twice" }
                        if entry.metadata.size < 0 { return "'\(entry.name)' has \(entry.metadata.size) bytes" }
                        if entry.name.description == ".cloudfusion" { return "what is the program's own is shown" }
                    }
                    for name in page.refusedNames where name.utf8.contains(where: { $0 < 0x20 }) {
                        return "control characters in the refused name \(name.debugDescription)"
                    }
                    guard let next = page.next else { return nil }
                    page = try store.list(.root, after: next)
                }
                return "the listing has no end"
            } catch { return complaint(error) }
        }
    }

    @Test("containers of OpenStack Swift have legal names, and no size below zero")
    func containers() throws {
        let words = [
            "{\"subdir\": \"../\"}", "\"bytes\": -5", "\"name\": \"a/../b\"", "\\u0000", "\\ud800", "\"slo_etag\"",
            "\"hash\": \"d41d8cd98f00b204e9800998ecf8427e\"", "null", "[[",
        ]
        try Fuzzer("containers", words: words).run { input, _ in
            do {
                let store = try openStackSwift(Cloud(login: nil, rest: answer(input)))
                store.state.withLock { $0.traits.keepsControls = true }
                for entry in try store.list(.root, after: nil).entries where entry.metadata.size < 0 {
                    return "'\(entry.name)' has \(entry.metadata.size) bytes"
                }
                let usage = try store.spaceUsage()
                for value in [usage.total, usage.used, usage.free] where (value ?? 0) < 0 { return "\(usage)" }
            } catch { return complaint(error) }
            return nil
        }
    }

    @Test("a login at Keystone leads to an address of the web, with a token that fits into a header")
    func logins() throws {
        let words = [
            "\"interface\": \"public\"", "\"url\": \"file:///etc\"", "X-Subject-Token: a b", "\"catalog\": null",
        ]
        try Fuzzer("logins", words: words).run { input, _ in
            do {
                let store = try openStackSwift(Cloud(login: answer(input), rest: HTTPResponse(status: 404)))
                let access = try store.authentication.access()
                guard access.token.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }), !access.token.isEmpty else {
                    return "the token is \(access.token.debugDescription)"
                }
                return access.storageURL.isSecure ? nil : "the address is \(access.storageURL)"
            } catch { return complaint(error) }
        }
    }

    private func openStackSwift(_ cloud: Cloud) throws(StoreError) -> OpenStackSwiftStore {
        try OpenStackSwiftStore(
            StoreSettings([
                "auth_url": "https://h/v3", "user": "u", "password": secret, "project": "p", "container": "c",
            ]), environment: { _ in nil }, statistics: Statistics(), transport: cloud)
    }

    @Test("buckets of Google have legal names, and no size below zero")
    func googleObjects() throws {
        let words = [
            "\"prefixes\": [\"../\"]", "\"size\": \"-5\"", "\"size\": 7", "\"name\": \"a/../b\"", "\\u0000",
            "\"metadata\": {\"mode\": null}", "\"nextPageToken\": \"x\"", "null", "[[", "\"crc32c\": \"AA\"",
        ]
        try Fuzzer("googleobjects", words: words).run { input, _ in
            do {
                let store = try GoogleStorageStore(
                    StoreSettings(["bucket_name": "b", "anonymous": "yes"]), environment: ProcessEnvironment([:]),
                    statistics: Statistics(), transport: Echo(answer(input)))
                for entry in try store.list(.root, after: nil).entries where entry.metadata.size < 0 {
                    return "'\(entry.name)' has \(entry.metadata.size) bytes"
                }
                if let found = try store.head([97], StorePath("a")!), found.size < 0 {
                    return "a size of \(found.size)"
                }
            } catch { return complaint(error) }
            return nil
        }
    }

    @Test("credentials of Google are read or refused, and are not shown")
    func googleCredentials() throws {
        let words = [
            "\"type\": \"external_account\"", "\"token_uri\": \"http://h/\"", "-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "\"refresh_token\": 7", "null", "{{",
        ]
        try Fuzzer("googlecredentials", words: words).run { input, _ in
            do {
                let found = try GoogleCredentials(String(decoding: input, as: UTF8.self), file: "/f")
                if !found.tokenURL.mayHaveSecrets { return "secrets would go to \(found.tokenURL)" }
                if case .user(_, let secret, _) = found.kind, secret.count > 8, "\(found)".contains(secret) {
                    return "a secret is shown"
                }
            } catch { return complaint(error) }
            return nil
        }
    }

    private func azure(_ transport: any HTTPTransport, _ settings: [String: String])
        throws(StoreError) -> AzureStore
    {
        try AzureStore(
            StoreSettings(["account": "a", "container": "c"].merging(settings) { $1 }),
            environment: ProcessEnvironment([:]),
            statistics: Statistics(), transport: transport)
    }

    @Test("containers of Azure have legal names, and no size below zero", arguments: [false, true])
    func blobs(isHierarchical: Bool) throws {
        let words = [
            "<Blob><Name>x</Name></Blob>", "<BlobPrefix><Name>../</Name></BlobPrefix>", "Encoded=\"true\"",
            "<NextMarker>m</NextMarker>", "<hdi_isfolder>true</hdi_isfolder>", "<Content-Length>-5</Content-Length>",
            "<mode>0120777</mode>", "<Metadata>", "<Etag>", "x-ms-meta-hdi_isfolder: true",
        ]
        try Fuzzer("blobs", words: words).run { input, _ in
            let echo = Echo(answer(input))
            do {
                let store = try azure(echo, ["account_key": secret])
                store.state.withLock { $0.isHierarchical = isHierarchical }
                var names: Set<FileName> = []
                var page = try store.list(.root, after: nil)
                for _ in 0..<100 {
                    for entry in page.entries where entry.metadata.size < 0 {
                        return "'\(entry.name)' has \(entry.metadata.size) bytes"
                    }
                    names.formUnion(page.entries.map(\.name))
                    guard let next = page.next else { return nil }
                    page = try store.list(.root, after: next)
                }
                return echo.requests < 2000 ? nil : "it asked without end"
            } catch { return complaint(error) }
        }
    }

    @Test("a login at Microsoft Entra gives a token that fits into a header, or an error without a secret")
    func tokens() throws {
        let words = ["\"access_token\": \"a b\"", "\"expires_in\": \"-1\"", "\"expires_in\": 1e99", "null"]
        try Fuzzer("tokens", words: words).run { input, _ in
            let echo = Echo(answer(input))
            do {
                let store = try azure(echo, ["client_id": "i", "client_secret": secret, "tenant_id": "t"])
                var request = HTTPRequest("GET", "https://h/x", counter: .requestsGet, operation: .storeGet)
                try store.authentication.sign(&request, at: Timestamp(seconds: 0))
                let token = request["Authorization"] ?? ""
                return token.hasPrefix("Bearer ") && token.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7F }) ? nil : token
            } catch { return complaint(error) }
        }
    }

    @Test("what a server asks for as credentials makes no header that is none, and tells no password")
    func challenges() throws {
        try Fuzzer("challenges", words: ["Digest ", "Basic ", "nonce=\"", "realm=", "\\", "qop=auth", "-sess"]).run {
            input, _ in
            let header = String(decoding: input, as: UTF8.self)
            let credentials = WebAuthentication(
                user: "u", password: secret, token: nil, home: WebURL("https://h/")!)
            credentials.note(
                HTTPResponse(status: 401, headers: [("WWW-Authenticate", header)]), from: WebURL("https://h/x")!)
            var request = HTTPRequest("GET", "https://h/x", counter: .requestsGet, operation: .storeGet)
            do { try credentials.sign(&request, at: Timestamp(seconds: 0)) } catch { return complaint(error) }
            guard let answer = request["Authorization"] else { return nil }
            if answer.contains(secret) { return "the password is in \(answer)" }
            return answer.hasPrefix("Digest ") || answer.hasPrefix("Basic ") ? nil : answer
        }
    }

    @Test("what is told and read of an object makes sense")
    func objects() throws {
        let words = [
            "Content-Range: bytes 0-9/5", "Content-Length: -1", "ETag: \"", "x-amz-meta-mode: 040755",
            "x-amz-meta-xattr: %7B%7D", "Last-Modified: Thu, 01 Jan 1970 00:00:00 GMT", "\n206",
        ]
        try Fuzzer("objects", words: words).run { input, _ in
            let path = StorePath("d/file")!
            do {
                let metadata = try store(Echo(answer(input))).metadata(of: path)
                if metadata.size < 0 { return "\(metadata.size) bytes" }
            } catch { if let problem = complaint(error) { return problem } }
            for range: Range<Int64>? in [nil, 3..<9] {
                do {
                    let metadata = try store(Echo(answer(input))).read(
                        path, ReadRequest(range: range, version: nil), into: Nowhere())
                    if metadata.size < 0 { return "\(metadata.size) bytes" }
                } catch { if let problem = complaint(error) { return problem } }
            }
            return nil
        }
    }

    @Test("uploads end, whatever the server and the checkpoint of an earlier one say")
    func uploads() throws {
        let body = [UInt8](repeating: 7, count: 20 << 20)
        let words = [
            "<UploadId>u</UploadId>", "<Part><PartNumber>1</PartNumber><ETag>\"e\"</ETag><Size>5</Size></Part>",
            "<IsTruncated>true</IsTruncated><NextPartNumberMarker>1</NextPartNumberMarker>", "{\"upload\":\"u\"",
        ]
        try Fuzzer("uploads", words: words, count: 60).run { input, random in
            let echo = Echo(answer(input))
            let checkpoint = random.below(2) == 0 ? String(decoding: input, as: UTF8.self) : nil
            do {
                _ = try store(echo).put(
                    UploadBody(random.below(4) == 0 ? body : Array(body.prefix(100))), at: StorePath("f")!,
                    PutOptions(condition: .ifAbsent, checkpoint: Paper(checkpoint)))
            } catch { return complaint(error) }
            return echo.requests < 2000 ? nil : "it asked without end"
        }
    }

    @Test("an error of the server is one line that names no secret")
    func errors() throws {
        let words = ["<Code>NoSuchBucket</Code>", "<Message>", "<Endpoint>a\nb</Endpoint>", "Retry-After: 1e9"]
        try Fuzzer("errors", words: words).run { input, _ in
            var response = answer(input)
            response.status = 403
            let error = S3Errors.error(
                response, "'f' could not be read", path: StorePath("f"), concernsKey: true, bucket: "b")
            if let wait = error.retryAfter, wait < .zero || wait > .seconds(3600) { return "retry after \(wait)" }
            return complaint(error)
        }
    }

    @Test("credentials of services are whole or refused, and never in a message")
    func credentials() throws {
        let words = [
            "\"AccessKeyId\":", "\"SecretAccessKey\":\"s\"", "\"Expiration\":\"2099-01-01T00:00:00Z\"", "{}", "[]",
        ]
        let variables = [
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1/c", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://h",
        ]
        try Fuzzer("credentials", words: words).run { input, _ in
            let environment = ProcessEnvironment(variables)
            let transport = Echo(answer(input))
            let sources: [any AWSCredentialSource] = [
                ContainerAWSCredentials(environment, transport: transport),
                InstanceAWSCredentials(environment, transport: transport),
            ]
            for source in sources {
                do {
                    let found = try source.credentials(at: Timestamp(seconds: 1_700_000_000))
                    guard let found else { continue }
                    for value in [found.accessKeyID, found.secretAccessKey, found.sessionToken ?? ""]
                    where value.utf8.contains(where: { $0 < 0x21 || $0 == 0x7F }) {
                        return "control characters in credentials would go into headers"
                    }
                    if found.accessKeyID.isEmpty || found.secretAccessKey.isEmpty { return "empty credentials" }
                    if "\(found)".contains(found.secretAccessKey), found.secretAccessKey.count > 8 {
                        return "credentials are shown"
                    }
                } catch { if let problem = complaint(error) { return problem } }
            }
            return nil
        }
    }

    @Test("profiles of Amazon's tools are read or refused")
    func profiles() throws {
        try Fuzzer("profiles", words: ["[profile x]", "[default]", "role_arn = ", "source_profile = ", " #", "]"]).run {
            input, _ in
            for (_, values) in AWSProfiles.parse(String(decoding: input, as: UTF8.self)) {
                for (key, value) in values where key != key.trimmingSpaces() || value != value.trimmingSpaces() {
                    return "blanks around '\(key)' = '\(value)'"
                }
            }
            return nil
        }
    }
}

/// Answers a login, and everything else with one and the same answer.
private struct Cloud: HTTPTransport {
    /// nil: a good one.
    let login: HTTPResponse?
    let rest: HTTPResponse

    func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
        guard request.url.hasSuffix("/auth/tokens") else { return rest }
        let catalog =
            "[{\"type\": \"object-store\", \"endpoints\": [{\"interface\": \"public\", \"url\": \"https://h/v1/a\"}]}]"
        return login
            ?? HTTPResponse(
                status: 201, headers: [("X-Subject-Token", "token")],
                body: Array("{\"token\": {\"catalog\": \(catalog)}}".utf8))
    }
    func tune(_ tuning: StoreTuning) {}
    func reconnect() {}
    func shutdown() {}
}
