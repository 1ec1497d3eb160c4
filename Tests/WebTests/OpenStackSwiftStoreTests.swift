import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// An identity service and a container in memory, as far as the tests go.
private final class Cloud: Sendable {
    struct State {
        var logins: [HTTPRequest] = []
        /// The tokens that are taken are "token-1" and so on; those up to this are not any more.
        var refusedTokens = 0
        var expires = "2999-01-01T00:00:00.000000Z"
        var endpoints: [(region: String, interface: String, url: String)] = [
            ("north", "public", "https://store.example.org/v1/AUTH_p"),
            ("north", "internal", "https://inside.example.org/v1/AUTH_p"),
        ]
        var loginStatus: Int?
        var objects: [String: HTTPResponse] = [:]
        /// Answers in place of what follows from the above, for as long as there are any for "METHOD path".
        var answers: [String: [HTTPResponse]] = [:]
    }
    let state = Lock(State())

    var logins: [HTTPRequest] { state.withLock { $0.logins } }
    var keys: [String] { state.withLock { $0.objects.keys.sorted() } }

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        state.withLock { state in
            let path = request.path
            if ["/v3/auth/tokens", "/v2.0/tokens", "/auth/v1.0"].contains(path) {
                state.logins.append(request)
                if let status = state.loginStatus { return text("the-secret", status: status) }
                return Self.login(path, state)
            }
            let number = request["X-Auth-Token"].flatMap { Int($0.split(separator: "-").last ?? "") } ?? 0
            guard number > state.refusedTokens else { return text("", status: 401) }
            if let answer = state.answers["\(request.method) \(path)"]?.first {
                state.answers["\(request.method) \(path)"]?.removeFirst()
                return answer
            }
            return Self.object(request, &state)
        }
    }

    private static func login(_ path: String, _ state: State) -> HTTPResponse {
        let token = "token-\(state.logins.count)"
        let url = state.endpoints.first?.url ?? ""
        if path == "/auth/v1.0" { return text("", [("X-Auth-Token", token), ("X-Storage-Url", url)]) }
        if path == "/v2.0/tokens" {
            return text(
                "{\"access\": {\"token\": {\"id\": \"\(token)\", \"expires\": \"\(state.expires)\"}, \"serviceCatalog\": ["
                    + "{\"type\": \"object-store\", \"endpoints\": [{\"region\": \"north\", \"publicURL\": \"\(url)\"}]}]}}"
            )
        }
        let endpoints = state.endpoints.map {
            "{\"interface\": \"\($0.interface)\", \"region_id\": \"\($0.region)\", \"url\": \"\($0.url)\"}"
        }
        return text(
            "{\"token\": {\"expires_at\": \"\(state.expires)\", \"catalog\": [{\"type\": \"identity\", \"endpoints\": []},"
                + "{\"type\": \"object-store\", \"endpoints\": [\(endpoints.joined(separator: ","))]}]}}",
            status: 201, [("X-Subject-Token", token)])
    }

    private static func object(_ request: HTTPRequest, _ state: inout State) -> HTTPResponse {
        let path = request.path
        switch request.method {
        case "HEAD", "GET":
            let isObject = path.split(separator: "/").count > 3
            return state.objects[path] ?? text("", status: isObject ? 404 : 204)
        case "PUT":
            var headers = request.headers.filter { $0.name.hasPrefix("X-Object-Meta-") }
            var tag = TextEncoding.hex(Digest.md5(request.bytes))
            var size = request.bytes.count
            if request.url.contains("multipart-manifest=put") {
                struct Line: Decodable {
                    var etag: String
                    var size_bytes: Int
                }
                let lines = (try? JSONDecoder().decode([Line].self, from: Data(request.bytes))) ?? []
                tag = TextEncoding.hex(Digest.md5(Array(lines.map(\.etag).joined().utf8)))
                size = lines.reduce(0) { $0 + $1.size_bytes }
                headers.append(("X-Static-Large-Object", "True"))
            }
            headers += [("ETag", tag), ("Content-Length", String(size))]
            state.objects[path] = HTTPResponse(status: 200, headers: headers)
            return text("", status: 201, [("ETag", tag)])
        case "DELETE":
            return text("", status: state.objects.removeValue(forKey: path) == nil ? 404 : 204)
        default: return text("", status: 405)
        }
    }
}

/// What a store makes of answers that the servers of the tests do not give. What it does with those: the contract in
/// `StoresTests`, and `OpenStackSwiftServerTests`.
@Suite("OpenStack Swift, answer by answer")
struct OpenStackSwiftStoreTests {
    private static let password = [
        "auth_url": "https://auth.example.org/v3", "user": "anna", "password": "the-secret", "project": "photos",
        "container": "box",
    ]

    private func store(
        _ server: StubServer, _ changes: [String: String] = [:], environment: [String: String] = [:]
    ) throws(StoreError) -> OpenStackSwiftStore {
        try OpenStackSwiftStore(
            StoreSettings(Self.password.merging(changes) { $1 }), environment: { environment[$0] },
            statistics: Statistics(), transport: server)
    }

    private func body(_ request: HTTPRequest?) -> String {
        (request?.bytes).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    /// With sorted keys: what is sent has them in any order.
    private func json(_ text: String) throws -> [String: String] {
        // Flattened by hand, since only its words matter.
        let words = text.split { "{}[]:,\"".contains($0) }.map(String.init)
        return Dictionary(words.map { ($0, $0) }, uniquingKeysWith: { a, _ in a })
    }

    // MARK: Logging in

    @Test("a password of Keystone v3 gets a token for its project, which goes with requests to the catalog's address")
    func keystone3() throws {
        let cloud = Cloud()
        let server = StubServer(cloud.answer)
        let store = try store(server, ["user_domain": "people", "region": "north"])
        #expect(throws: StoreError.self) { try store.metadata(of: StorePath("a")!) }
        let login = try #require(cloud.logins.first)
        #expect(login.method == "POST" && login.url == "https://auth.example.org/v3/auth/tokens")
        struct Sent: Decodable {
            struct Domain: Decodable { var name: String }
            struct User: Decodable {
                var name: String
                var password: String?
                var domain: Domain
            }
            struct Password: Decodable { var user: User }
            struct Identity: Decodable {
                var methods: [String]
                var password: Password
            }
            struct Scope: Decodable { var project: User }
            struct Auth: Decodable {
                var identity: Identity
                var scope: Scope
            }
            var auth: Auth
        }
        let sent = try JSONDecoder().decode(Sent.self, from: Data(login.bytes)).auth
        #expect(sent.identity.methods == ["password"])
        #expect(sent.identity.password.user.name == "anna" && sent.identity.password.user.password == "the-secret")
        #expect(sent.identity.password.user.domain.name == "people")
        #expect(sent.scope.project.name == "photos" && sent.scope.project.domain.name == "people")
        let asked = server.requests.filter { $0.method == "HEAD" }
        #expect(asked.first?.url == "https://store.example.org/v1/AUTH_p/box/a")
        #expect(asked.allSatisfy { $0["X-Auth-Token"] == "token-1" })
        #expect(cloud.logins.count == 1)
    }

    @Test("an application credential needs no user and no project, by its name a user")
    func applicationCredentials() throws {
        for (changes, words) in [
            (["application_credential_id": "the-id", "user": ""], ["the-id"]),
            (["application_credential_name": "backup"], ["backup", "anna", "Default"]),
        ] {
            let cloud = Cloud()
            let settings = changes.merging(
                ["password": "", "project": "", "application_credential_secret": "the-secret"]) { $1 }
            let store = try store(StubServer(cloud.answer), settings)
            #expect(try store.head(Array("a".utf8), StorePath("a")!) == nil)
            let sent = try json(body(cloud.logins.first))
            #expect(sent["application_credential"] != nil && sent["the-secret"] != nil && sent["scope"] == nil)
            for word in words { #expect(sent[word] != nil, "\(word)") }
        }
    }

    @Test("Keystone v2 and Swift's own login are understood by the address or by auth_version")
    func otherVersions() throws {
        for (url, version) in [("https://a.example.org/v2.0", "auto"), ("https://a.example.org", "2")] {
            let cloud = Cloud()
            let store = try store(StubServer(cloud.answer), ["auth_url": url, "auth_version": version])
            #expect(try store.head(Array("a".utf8), StorePath("a")!) == nil)
            let sent = try json(body(cloud.logins.first))
            #expect(sent["passwordCredentials"] != nil && sent["tenantName"] != nil && sent["photos"] != nil)
        }
        let cloud = Cloud()
        let store = try store(StubServer(cloud.answer), ["auth_url": "https://a.example.org/auth/v1.0"])
        #expect(try store.head(Array("a".utf8), StorePath("a")!) == nil)
        #expect(cloud.logins.first?["X-Auth-User"] == "anna" && cloud.logins.first?["X-Auth-Key"] == "the-secret")
    }

    @Test("without auth_url the environment tells, with it nothing of the environment counts")
    func environment() throws {
        let openStack = [
            "OS_AUTH_URL": "https://auth.example.org", "OS_USERNAME": "bert", "OS_PASSWORD": "p", "OS_PROJECT_ID": "77",
            "OS_REGION_NAME": "north", "OS_ENDPOINT_TYPE": "internalURL", "OS_IDENTITY_API_VERSION": "3",
        ]
        let nothing = ["auth_url": "", "user": "", "password": "", "project": ""]
        let cloud = Cloud()
        let server = StubServer(cloud.answer)
        #expect(try store(server, nothing, environment: openStack).head(Array("a".utf8), StorePath("a")!) == nil)
        let sent = try json(body(cloud.logins.first))
        #expect(sent["bert"] != nil && sent["77"] != nil)
        #expect(server.requests.last?.url.hasPrefix("https://inside.example.org/") == true)

        let old = ["ST_AUTH": "https://a.example.org/auth/v1.0", "ST_USER": "a:b", "ST_KEY": "k"]
        let second = Cloud()
        let other = try store(StubServer(second.answer), nothing, environment: old)
        #expect(try other.head(Array("a".utf8), StorePath("a")!) == nil)
        #expect(second.logins.first?["X-Auth-User"] == "a:b")

        let third = Cloud()
        let given = try store(StubServer(third.answer), environment: openStack)
        #expect(try given.head(Array("a".utf8), StorePath("a")!) == nil)
        #expect(try json(body(third.logins.first))["bert"] == nil)
    }

    @Test("the region decides, and has to where there are several")
    func regions() throws {
        let cloud = Cloud()
        cloud.state.withLock {
            $0.endpoints.append(("south", "public", "https://south.example.org/v1/AUTH_p"))
        }
        let server = StubServer(cloud.answer)
        #expect(try store(server, ["region": "south"]).head([97], StorePath("a")!) == nil)
        #expect(server.requests.last?.url.hasPrefix("https://south.example.org/") == true)
        for (region, code) in [("", StoreError.Code.invalidArgument), ("west", .storeNotFound)] {
            let error = #expect(throws: StoreError.self) {
                try store(server, ["region": region]).head([97], StorePath("a")!)
            }
            #expect(error?.code == code)
            #expect(error?.message.contains("north, south") == true)
        }
    }

    @Test("a token does not go out without TLS when the password went with it")
    func insecureStore() throws {
        let cloud = Cloud()
        cloud.state.withLock { $0.endpoints = [("north", "public", "http://store.example.org/v1/AUTH_p")] }
        let server = StubServer(cloud.answer)
        let error = #expect(throws: StoreError.self) { try store(server).head([97], StorePath("a")!) }
        #expect(error?.message.contains("storage_url") == true)
        #expect(server.requests.allSatisfy { $0.url.hasPrefix("https:") })
        let trusted = try store(server, ["storage_url": "http://store.example.org/v1/AUTH_p"])
        #expect(try trusted.head([97], StorePath("a")!) == nil)
    }

    @Test("a token that is refused is renewed once, by one for all, and the requests are repeated")
    func renewal() throws {
        let cloud = Cloud()
        cloud.state.withLock { $0.objects["/v1/AUTH_p/box/a"] = text("", [("ETag", "t"), ("Content-Length", "4")]) }
        let store = try store(StubServer(cloud.answer))
        _ = try store.head([97], StorePath("a")!)
        cloud.state.withLock { $0.refusedTokens = 1 }
        let results = race(8) { _ in try store.head([97], StorePath("a")!) != nil }
        for result in results { #expect(try result.get()) }
        #expect(cloud.logins.count == 2)
    }

    @Test("a token is renewed before it ends")
    func expiry() throws {
        let cloud = Cloud()
        cloud.state.withLock { $0.expires = Timestamp(nanoseconds: Timestamp.now.nanoseconds + 60_000_000_000).iso8601 }
        let store = try store(StubServer(cloud.answer))
        _ = try store.head([97], StorePath("a")!)
        cloud.state.withLock { $0.expires = "2999-01-01T00:00:00Z" }
        _ = try store.head([97], StorePath("a")!)
        let count = cloud.logins.count
        _ = try store.head([97], StorePath("a")!)
        #expect(count > 1 && cloud.logins.count == count)
    }

    @Test("a wrong password is tried once, and not by each request")
    func refusedLogin() throws {
        let cloud = Cloud()
        cloud.state.withLock { $0.loginStatus = 401 }
        let store = try store(StubServer(cloud.answer))
        for _ in 0..<3 {
            let error = #expect(throws: StoreError.self) { try store.head([97], StorePath("a")!) }
            #expect(error?.code == .authenticationFailed && error?.message.contains("check user, password") == true)
            #expect(error?.message.contains("the-secret") == false && error?.cause?.contains("the-secret") == false)
        }
        #expect(cloud.logins.count == 1)
    }

    // MARK: Connecting

    @Test("a login that may only read, and a server that says nothing of itself, can be used for what they permit")
    func readOnly() throws {
        let cloud = Cloud()
        let server = StubServer { request in
            request.method == "PUT" || request.path == "/info" ? text("", status: 403) : cloud.answer(request)
        }
        let store = try store(server)
        try store.connect()
        #expect(store.capabilities.contains(.rangedRead) && !store.capabilities.contains(.attributes))
        #expect(store.capabilities.multipartThreshold == nil)
        #expect(store.traits.keepsControls == true)
    }

    @Test("what a server says of its limits counts, unless it makes no sense")
    func limits() throws {
        for (said, value, segments) in [
            ("{\"swift\": {\"max_meta_value_length\": 512}, \"slo\": {\"max_manifest_segments\": 1000}}", 512, 1000),
            ("{\"swift\": {\"max_meta_value_length\": -1}, \"slo\": {\"max_manifest_segments\": 2}}", 256, nil),
            ("{\"swift\": 5}", 256, nil), ("<html>", 256, nil),
        ] as [(String, Int, Int?)] {
            let cloud = Cloud()
            let server = StubServer { request in
                if request.path == "/info" { return text(said) }
                return request.method == "GET" && request.path.hasSuffix("/box") ? text("[]") : cloud.answer(request)
            }
            let store = try store(server)
            // Copies and metadata are beyond this stub: what it lacks is no failure.
            _ = try? store.connect()
            let isKnown = server.requests.contains { $0.path == "/info" && $0.url == "https://store.example.org/info" }
            #expect(isKnown)
            if segments == nil, store.traits.mostSegments != nil { Issue.record("segments without a limit") }
            if store.traits.keepsControls != nil {
                #expect(store.traits.longestValue == value && store.traits.mostSegments == segments)
            }
        }
    }

    // MARK: Reading and writing

    @Test("an object that is not found while it is replaced is asked for once more", arguments: [1, 2])
    func missedWhileReplaced(misses: Int) throws {
        let cloud = Cloud()
        let miss = text("", status: 404, [("X-Openstack-Request-Id", "tx1")])
        let found = text("", [("ETag", "t"), ("Content-Length", "4")])
        cloud.state.withLock {
            $0.answers["HEAD /v1/AUTH_p/box/a"] = Array(repeating: miss, count: misses) + [found]
        }
        #expect(try (store(StubServer(cloud.answer)).head([97], StorePath("a")!) != nil) == (misses == 1))
    }

    @Test("a write that lost against another at the same time is done again")
    func unconfirmedWrite() throws {
        let cloud = Cloud()
        let server = StubServer(cloud.answer)
        cloud.state.withLock {
            $0.answers["PUT /v1/AUTH_p/box/a"] = [text("", status: 202)]
            $0.objects["/v1/AUTH_p/box/a"] = text(
                "", [("ETag", TextEncoding.hex(Digest.md5([9, 9]))), ("Content-Length", "2")])
        }
        let store = try store(server)
        store.state.withLock { $0.traits.tagIsMD5 = true }
        let written = try store.write([1, 2], at: StorePath("a")!)
        #expect(written.version?.text == TextEncoding.hex(Digest.md5([1, 2])))
        #expect(server.requests.filter { $0.method == "PUT" }.count == 2)
    }

    @Test("bytes that do not match their MD5 are fetched again; those of an object in segments have none")
    func corruptedRead() throws {
        let tag = TextEncoding.hex(Digest.md5(Array("right".utf8)))
        for isInSegments in [false, true] {
            let cloud = Cloud()
            let headers =
                [("ETag", "\"\(tag)\""), ("Content-Length", "5")]
                + (isInSegments ? [("X-Static-Large-Object", "True")] : [])
            cloud.state.withLock {
                $0.answers["GET /v1/AUTH_p/box/a"] = ["wrong", "right"].map { text($0, headers) }
            }
            let store = try store(StubServer(cloud.answer))
            store.state.withLock { $0.traits.tagIsMD5 = true }
            #expect(try store.contents(of: StorePath("a")!) == Array((isInSegments ? "wrong" : "right").utf8))
        }
    }

    // MARK: Segments

    private static let size = Int(OpenStackSwiftStore.multipartThreshold)

    private func segmented(_ server: StubServer) throws -> OpenStackSwiftStore {
        let store = try store(server)
        store.tune(StoreTuning(overallTimeout: .milliseconds(500)))
        store.state.withLock {
            $0.traits.mostSegments = 1000
            $0.capabilities.multipartThreshold = OpenStackSwiftStore.multipartThreshold
        }
        return store
    }

    @Test("segments of an upload that is refused at its end are removed, those of the file before stay")
    func refusedManifest() throws {
        let cloud = Cloud()
        let store = try segmented(StubServer(cloud.answer))
        _ = try store.write(pattern(Self.size), at: StorePath("a")!)
        let before = cloud.keys
        #expect(before.count == 3)
        cloud.state.withLock { $0.answers["PUT /v1/AUTH_p/box/a"] = [text("", status: 403)] }
        let error = #expect(throws: StoreError.self) {
            try store.write(pattern(Self.size, seed: 2), at: StorePath("a")!)
        }
        #expect(error?.code == .accessDenied)
        #expect(cloud.keys == before)
    }

    @Test(
        "a manifest that was not confirmed is looked for; segments of which nobody knows stay",
        arguments: [true, false])
    func unconfirmedManifest(isCarriedOut: Bool) throws {
        let cloud = Cloud()
        let server = StubServer { request in
            guard request.method == "PUT", request.url.contains("multipart-manifest=put") else {
                return cloud.answer(request)
            }
            if isCarriedOut { _ = cloud.answer(request) }
            return text("", status: 500)
        }
        let store = try segmented(server)
        let written = Result { try store.write(pattern(Self.size), at: StorePath("a")!) }
        if isCarriedOut {
            #expect(try written.get().size == Int64(Self.size))
            #expect(cloud.keys.count == 3)
        } else {
            // The server may carry it out later.
            guard case .failure(let error as StoreError) = written else {
                Issue.record("it was written without a manifest")
                return
            }
            #expect(error.isTransient)
            #expect(cloud.keys.count == 2)
        }
    }

    // MARK: Listings

    @Test("names that lead elsewhere are reported, and never shown")
    func hostileNames() throws {
        let names = ["d/ok", "d/..", "d/.", "d/", "d/a/b", "elsewhere", "d/‛x", "d/a\\u0000b"]
        let rows = names.map { "{\"name\": \"\($0)\", \"bytes\": 3, \"hash\": \"h\"}" } + ["{\"subdir\": \"d/../\"}"]
        let server = StubServer { request in
            request.path == "/auth/v1.0" || request.method == "POST"
                ? Cloud().answer(request) : text("[\(rows.joined(separator: ","))]")
        }
        let store = try store(server)
        store.state.withLock { $0.traits.keepsControls = true }
        let page = try store.list(StorePath("d")!, after: nil)
        #expect(page.entries.map(\.name.description) == ["ok"])
        #expect(page.refusedNames.count == 7)
    }

    @Test("an answer that is no listing is an error, not an empty directory", arguments: ["<html>", "", "{}"])
    func noListing(answer: String) throws {
        let server = StubServer { $0.method == "POST" ? Cloud().answer($0) : text(answer) }
        #expect(throws: StoreError.self) { try store(server).list(.root, after: nil) }
    }

    // MARK: Errors and settings

    @Test(
        "each failure is told in a sentence, without secrets",
        arguments: [
            (403, "", StoreError.Code.accessDenied, "access list"), (404, "", .storeNotFound, "container 'box'"),
            (413, "Upload exceeds quota.", .quotaExceeded, "quota"), (413, "too large", .tooLarge, "size"),
            (507, "", .quotaExceeded, "full"), (401, "", .authenticationFailed, "check user"),
        ])
    func failures(status: Int, said: String, code: StoreError.Code, words: String) throws {
        let server = StubServer { request in
            request.method == "POST"
                ? Cloud().answer(request)
                : request.method == "HEAD" ? text("", status: 404) : text(said, status: status)
        }
        let error = #expect(throws: StoreError.self) { try store(server).write([1], at: StorePath("f")!) }
        #expect(error?.code == code)
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("the-secret") == false)
    }

    @Test(
        "settings that make no sense are refused by their names",
        arguments: [
            (["auth_url": ""], "auth_url"), (["auth_url": "https://x/?a=b"], "auth_url"), (["user": ""], "user"),
            (["password": ""], "password"), (["project": ""], "project"), (["container": "a/b"], "container"),
            (["application_credential_id": "x"], "application_credential_secret"), (["interface": "x"], "interface"),
            (["auth_version": "4"], "auth_version"), (["storage_url": "ftp://x"], "storage_url"),
        ])
    func settings(changes: [String: String], name: String) throws {
        let error = #expect(throws: StoreError.self) { try store(StubServer { _ in text("", status: 500) }, changes) }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains(name) == true, "\(error?.message ?? "")")
    }

    @Test("URLs name container and prefix; a cache belongs to a place and a project, whoever logs in")
    func urls() {
        let swift = StoreDescriptor.openStackSwift
        #expect(swift.settingsFromURL("swift", "box/a/b") == ["container": "box", "prefix": "a/b"])
        #expect(swift.settingsFromURL("ovh", "box")?["auth_url"] == "https://auth.cloud.ovh.net/v3")
        #expect(swift.settingsFromURL("swift", "anna:pw@box") == nil)
        let anna = swift.identity(StoreSettings(Self.password))
        #expect(anna == swift.identity(StoreSettings(Self.password.merging(["user": "bert", "password": "x"]) { $1 })))
        #expect(anna != swift.identity(StoreSettings(Self.password.merging(["project": "other"]) { $1 })))
        #expect(!anna.contains("the-secret"))
    }
}
