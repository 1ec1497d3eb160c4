import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// What a store makes of answers that the emulator does not give. What it does with those: the contract in `StoresTests`,
/// and `AzureServerTests`.
@Suite("Azure, answer by answer")
struct AzureStoreTests {
    /// Of no account.
    private static let key =
        "vqgKcaM4kKjucyVkNM+Wej819tdQCT/HUJfqn5rlm1b2pdH/VLbOEviMb2FCWVWOVsiYooKWUrOQnVCcZ6SBOQ=="
    private let file = StorePath("file")!

    private func store(
        _ server: StubServer, _ settings: [String: String] = ["account_key": key], environment: [String: String] = [:],
        clock: any Clock = SystemClock()
    ) throws(StoreError) -> AzureStore {
        try AzureStore(
            StoreSettings(["account": "witness", "container": "box"].merging(settings) { $1 }),
            environment: ProcessEnvironment(environment), statistics: Statistics(), transport: server, clock: clock)
    }

    private func configuration(_ settings: [String: String], environment: [String: String] = [:]) throws(StoreError)
        -> AzureConfiguration
    {
        try AzureConfiguration(StoreSettings(settings), environment: ProcessEnvironment(environment))
    }

    // MARK: Signatures

    @Test("requests are signed as Microsoft's client for Python signs them")
    func sharedKey() {
        let signer = AzureSharedKey(account: "witness", key: TextEncoding.bytes(base64: Self.key)!)
        let url = "https://witness.blob.core.windows.net/box/folder/%C3%A4%20b%2Bc.txt"
        let common = [
            ("x-ms-version", "2026-10-06"), ("Content-Type", "application/octet-stream"), ("Accept", "application/xml"),
            ("x-ms-date", "Mon, 23 Nov 2026 07:15:54 GMT"),
        ]
        var blob = HTTPRequest("PUT", url, counter: .requestsPut, operation: .storePut)
        blob.headers =
            common + [
                ("x-ms-meta-mode", "0100644"), ("x-ms-meta-a_b", "x"), ("x-ms-meta-ab", "y"), ("x-ms-meta-a1", "z"),
                ("x-ms-meta-mtime", "1.5"), ("x-ms-blob-type", "BlockBlob"), ("x-ms-blob-content-type", "text/plain"),
                ("x-ms-client-request-id", "b8c8b612-e70d-11f1-8cc4-02fc00000001"),
            ]
        blob.body = UploadBody(Array("bytes".utf8))
        signer.sign(&blob)
        #expect(blob["Authorization"] == "SharedKey witness:hc8CLT37YZlkEzEy+5qzE4wMur6HzrR3Vrt38SUrvO0=")

        var block = HTTPRequest(
            "PUT", url + "?comp=block&blockid=WVdKag%3D%3D", counter: .requestsPut, operation: .storePut)
        block.headers = common + [("x-ms-client-request-id", "b8c8e2e0-e70d-11f1-8cc4-02fc00000001")]
        block.body = UploadBody(Array("12345".utf8))
        signer.sign(&block)
        #expect(block["Authorization"] == "SharedKey witness:X/5oZyTGfSTPS/yqzVUeI0b8qf6yYINiG1DpWnFCc4I=")
    }

    @Test("a signature for one blob is the one that Microsoft's client makes")
    func blobSignature() {
        let signer = AzureSharedKey(account: "witness", key: TextEncoding.bytes(base64: Self.key)!)
        let made = signer.signature(
            ofBlob: "box/folder/ä b+c.txt", until: Timestamp(iso8601: "2030-01-02T03:04:05.9Z")!)
        let expected =
            "se=2030-01-02T03%3A04%3A05Z&sp=r&sv=2024-11-04&sr=b&sig=mjj%2B2yIfnJhvELJ8l4KZ67ff9DOsJ0CxgkgVsgQ%2By18%3D"
        #expect(made.split(separator: "&").sorted() == expected.split(separator: "&").sorted())
    }

    // MARK: Settings

    @Test("the address follows from the account, the connection string or the environment")
    func places() throws {
        let key = ["container": "box", "account_key": Self.key]
        for (settings, environment, endpoint, dataLake, account) in [
            (
                ["account": "photos"], [:], "https://photos.blob.core.windows.net",
                "https://photos.dfs.core.windows.net", "photos"
            ),
            (
                [:], ["AZURE_STORAGE_ACCOUNT": "photos"], "https://photos.blob.core.windows.net",
                "https://photos.dfs.core.windows.net", "photos"
            ),
            (
                ["endpoint": "photos.blob.core.chinacloudapi.cn/"], [:], "https://photos.blob.core.chinacloudapi.cn",
                "https://photos.dfs.core.chinacloudapi.cn", "photos"
            ),
            (
                ["endpoint": "http://127.0.0.1:10000/devstoreaccount1"], [:], "http://127.0.0.1:10000/devstoreaccount1",
                nil, "devstoreaccount1"
            ),
        ] as [([String: String], [String: String], String, String?, String)] {
            let found = try configuration(settings.merging(key) { $1 }, environment: environment)
            #expect(found.endpoint.description == endpoint && found.account == account)
            #expect(found.dataLakeEndpoint?.description == dataLake)
        }
        let text = "DefaultEndpointsProtocol=https;AccountName=photos;AccountKey=\(Self.key);EndpointSuffix=example.org"
        let found = try configuration(["container": "box", "connection_string": text])
        #expect(found.endpoint.description == "https://photos.blob.example.org")
        guard case .sharedKey(let bytes) = found.credentials else { return #expect(Bool(false)) }
        #expect(bytes == TextEncoding.bytes(base64: Self.key))
        let error = #expect(throws: StoreError.self) {
            try configuration(["container": "box", "account": "other", "connection_string": text])
        }
        #expect(error?.message.contains("is for the account 'photos'") == true)
    }

    @Test("credentials of the settings count, and nothing of the environment beside them")
    func precedence() throws {
        let environment = [
            "AZURE_STORAGE_CONNECTION_STRING": "AccountName=other;AccountKey=AAAA", "AZURE_STORAGE_KEY": "AAAA",
            "AZURE_STORAGE_SAS_TOKEN": "sig=other",
        ]
        let place = ["container": "box", "account": "photos"]
        let own = try configuration(place.merging(["sas_token": "sv=1&sig=mine"]) { $1 }, environment: environment)
        guard case .signature("sv=1&sig=mine") = own.credentials else { return #expect(Bool(false)) }
        #expect(own.endpoint.description == "https://photos.blob.core.windows.net")
        let nobody = try configuration(place.merging(["anonymous": "yes"]) { $1 }, environment: environment)
        guard case .anonymous = nobody.credentials else { return #expect(Bool(false)) }
    }

    @Test("what is a secret goes nowhere without TLS")
    func insecurePlaces() throws {
        let place = ["container": "box", "account": "photos", "endpoint": "http://photos.example.org"]
        for secret in [
            ["sas_token": "sv=1&sig=the-secret"], Self.application,
            Self.application.merging(["endpoint": "", "authority": "http://login.example.org"]) { $1 },
        ] {
            let error = #expect(throws: StoreError.self) { try configuration(place.merging(secret) { $1 }) }
            #expect(error?.code == .invalidArgument && error?.message.contains("https://") == true)
        }
        _ = try configuration(place.merging(["account_key": Self.key]) { $1 })
    }

    @Test("secrets are in no description")
    func descriptions() throws {
        for settings in [
            ["account_key": Self.key], ["sas_token": "sv=1&sig=the-secret"],
            ["client_secret": "the-secret", "client_id": "app", "tenant_id": "t"],
        ] {
            let found = try configuration(settings.merging(["container": "box", "account": "photos"]) { $1 })
            for text in ["\(found)", String(reflecting: found), "\(found.credentials)"] {
                #expect(!text.contains("the-secret") && !text.contains("vqgK") && !text.contains("190, 168"))
            }
        }
    }

    @Test("URLs are understood, Hadoop's too")
    func urls() {
        let descriptor = StoreDescriptor.azure
        #expect(
            descriptor.settingsFromURL("azure", "box/a/b") == ["container": "box", "prefix": "a/b"])
        for scheme in ["abfss", "azure"] {
            #expect(
                descriptor.settingsFromURL(scheme, "box@photos.dfs.core.windows.net/a")
                    == ["container": "box", "account": "photos", "prefix": "a"])
        }
        #expect(
            descriptor.settingsFromURL("wasbs", "box@photos.blob.core.chinacloudapi.cn")
                == [
                    "container": "box", "account": "photos", "endpoint": "https://photos.blob.core.chinacloudapi.cn",
                ])
        for (scheme, rest) in [("azure", ""), ("abfss", "box"), ("abfss", "@a.dfs.b.c"), ("az", "box@photos")] {
            #expect(descriptor.settingsFromURL(scheme, rest) == nil)
        }
    }

    @Test("a store is known by where it is, and by no secret")
    func identity() {
        func identity(_ settings: [String: String]) -> String {
            AzureConfiguration.identity(StoreSettings(settings), environment: ProcessEnvironment([:]))
        }
        let place = ["container": "box", "account": "photos", "prefix": "/a/"]
        let known = identity(place.merging(["account_key": Self.key]) { $1 })
        #expect(known == "https://photos.blob.core.windows.net|box|a/")
        #expect(known == identity(place.merging(["sas_token": "sv=1&sig=the-secret"]) { $1 }))
        #expect(known != identity(["container": "box", "account": "other", "prefix": "a"]))
    }

    // MARK: Tokens

    private static let application = [
        "client_secret": "the-secret", "client_id": "app", "tenant_id": "tenant",
    ]

    private final class Entra: Sendable {
        struct State {
            var logins = 0
            var lifetime = "3599"
            var status = 200
            /// The tokens that are taken are "token-1" and so on; those up to this are not any more.
            var refused = 0
        }
        let state = Lock(State())
        var logins: Int { state.withLock { $0.logins } }

        func answer(_ request: HTTPRequest) -> HTTPResponse {
            state.withLock { state in
                if request.url.contains("oauth2") {
                    state.logins += 1
                    guard state.status == 200 else { return text("the-secret", status: state.status) }
                    return text(
                        "{\"token_type\": \"Bearer\", \"expires_in\": \(state.lifetime), \"access_token\": \"token-\(state.logins)\"}"
                    )
                }
                let number = Int(request["Authorization"]?.split(separator: "-").last ?? "") ?? 0
                guard number > state.refused else {
                    return text("", status: 401, [("x-ms-error-code", "InvalidAuthenticationInfo")])
                }
                return text("", [("ETag", "\"0x1\""), ("Content-Length", "4")])
            }
        }
    }

    @Test("a token is asked for once, renewed by one for all when it is refused, and before it ends")
    func renewal() throws {
        let entra = Entra()
        let server = StubServer(entra.answer)
        let store = try store(server, Self.application)
        for _ in 0..<3 { _ = try store.metadata(of: file) }
        #expect(entra.logins == 1)
        let login = try #require(server.requests.first)
        #expect(login.method == "POST" && login.url == "https://login.microsoftonline.com/tenant/oauth2/v2.0/token")
        let form = String(decoding: login.bytes, as: UTF8.self)
        #expect(form.contains("grant_type=client_credentials&scope=https%3A%2F%2Fstorage.azure.com%2F.default"))
        #expect(server.requests.last?["Authorization"] == "Bearer token-1")

        entra.state.withLock { $0.refused = 1 }
        let results = race(8) { _ in try store.metadata(of: file).size }
        for result in results { #expect(try result.get() == 4) }
        #expect(entra.logins == 2)
    }

    @Test("a token that is about to end is not used", arguments: ["60", "\"60\""])
    func expiry(lifetime: String) throws {
        let entra = Entra()
        entra.state.withLock { $0.lifetime = lifetime }
        let store = try store(StubServer(entra.answer), Self.application)
        _ = try store.metadata(of: file)
        entra.state.withLock { $0.lifetime = "3600" }
        _ = try store.metadata(of: file)
        let count = entra.logins
        _ = try store.metadata(of: file)
        #expect(count > 1 && entra.logins == count)
    }

    @Test("a login that is refused is tried once, and not by each request")
    func refusedLogin() throws {
        let entra = Entra()
        entra.state.withLock { $0.status = 401 }
        let store = try store(StubServer(entra.answer), Self.application)
        for _ in 0..<3 {
            let error = #expect(throws: StoreError.self) { try store.metadata(of: file) }
            #expect(error?.code == .authenticationFailed && error?.message.contains("check tenant_id") == true)
            #expect(error?.message.contains("the-secret") == false && error?.cause?.contains("the-secret") == false)
        }
        #expect(entra.logins == 1)
    }

    @Test("identities of virtual machines and of services are asked for as each wants it")
    func managedIdentities() throws {
        for (environment, start, header) in [
            ([:], "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01", "Metadata"),
            (
                ["IDENTITY_ENDPOINT": "http://localhost:42356/oauth2/token", "IDENTITY_HEADER": "853b9a84"],
                "http://localhost:42356/oauth2/token?api-version=2019-08-01", "X-IDENTITY-HEADER"
            ),
        ] as [([String: String], String, String)] {
            let server = StubServer(Entra().answer)
            let store = try store(
                server, ["managed_identity": "yes", "client_id": "mine"], environment: environment)
            _ = try store.metadata(of: file)
            let asked = try #require(server.requests.first)
            #expect(asked.url == start + "&resource=https%3A%2F%2Fstorage.azure.com%2F&client_id=mine")
            #expect(asked.method == "GET" && asked[header] != nil)
        }
    }

    // MARK: Requests

    @Test("a signature goes with each URL, and into no error")
    func signatureInURLs() throws {
        let server = StubServer { _ in
            text(
                "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Signature did not match. String to "
                    + "sign used was the-secret</Message></Error>", status: 403)
        }
        let store = try store(server, ["sas_token": "?sv=2024-11-04&sig=the-secret"])
        let error = #expect(throws: StoreError.self) { try store.contents(of: file) }
        #expect(server.requests.last?.url.hasSuffix("/box/file?sv=2024-11-04&sig=the-secret") == true)
        #expect(error?.code == .authenticationFailed && error?.message.contains("check sas_token") == true)
        #expect(error?.message.contains("the-secret") == false && error?.cause?.contains("the-secret") == false)
    }

    @Test("bytes that do not match their MD5 are fetched again; a blob without one is taken as it comes")
    func corruptedRead() throws {
        let digest = TextEncoding.base64(Digest.md5(Array("right".utf8)))
        for isTold in [true, false] {
            let answers = Lock(["wrong", "right"])
            let server = StubServer { _ in
                let headers =
                    [("ETag", "\"0x1\""), ("Content-Length", "5")] + (isTold ? [("Content-MD5", digest)] : [])
                return text(answers.withLock { $0.removeFirst() }, headers)
            }
            #expect(try store(server).contents(of: file) == Array((isTold ? "right" : "wrong").utf8))
        }
    }

    @Test("a conditional write whose answer was lost is known by its mark")
    func lostAnswer() throws {
        for isOurs in [true, false] {
            let mark = Lock<String?>(nil)
            let server = StubServer { request in
                if request.method == "HEAD" {
                    let found = isOurs ? mark.withLock { $0 } ?? "" : "another"
                    return text(
                        "", [("ETag", "\"0x2\""), ("Content-Length", "1"), ("x-ms-meta-cloudfusionwrite", found)])
                }
                let isFirst = mark.withLock { known in
                    defer { known = request["x-ms-meta-cloudfusionwrite"] }
                    return known == nil
                }
                return isFirst
                    ? text("", status: 500) : text("", status: 409, [("x-ms-error-code", "BlobAlreadyExists")])
            }
            let store = try store(server)
            let written = Result { try store.write([1], at: file, PutOptions(condition: .ifAbsent)) }
            #expect((try? written.get().version) == (isOurs ? Version("0x2") : nil))
            #expect(server.requests.filter { $0.method == "PUT" }.count == 2)
        }
    }

    @Test("a lease of another program is no change of the file")
    func lease() throws {
        let server = StubServer { _ in text("", status: 412, [("x-ms-error-code", "LeaseIdMissing")]) }
        let store = try store(server)
        store.tune(StoreTuning(overallTimeout: .milliseconds(200)))
        let error = #expect(throws: StoreError.self) {
            try store.write([1], at: file, PutOptions(condition: .ifVersion(Version("0x1"))))
        }
        #expect(error?.code == .unavailable && error?.message.contains("lease") == true)
    }

    @Test("a copy that fails behind its answer is an error")
    func failedCopy() throws {
        let server = StubServer { request in
            if request.method == "PUT" {
                return text("", status: 202, [("x-ms-copy-id", "1"), ("x-ms-copy-status", "pending")])
            }
            let isCopy = request.path.hasSuffix("/copy")
            return text(
                "",
                [("ETag", "\"0x1\""), ("Content-Length", "4")]
                    + (isCopy ? [("x-ms-copy-id", "1"), ("x-ms-copy-status", "failed")] : []))
        }
        let error = #expect(throws: StoreError.self) {
            try store(server).copy(file, to: StorePath("copy")!, CopyOptions())
        }
        #expect(error?.message.contains("could not copy to 'copy': failed") == true)
    }

    @Test("names that XML cannot carry are not shown, and others are not harmed")
    func encodedNames() throws {
        let server = StubServer { _ in
            text(
                "<EnumerationResults><Blobs><Blob><Name Encoded=\"true\">a%EF%BF%BE</Name><Properties/></Blob><Blob>"
                    + "<Name>b</Name><Properties><Etag>0x1</Etag><Content-Length>-5</Content-Length></Properties></Blob>"
                    + "<BlobPrefix><Name>../</Name></BlobPrefix></Blobs><NextMarker/></EnumerationResults>")
        }
        let page = try store(server).list(.root, after: nil)
        #expect(page.entries.map(\.name) == [FileName("b")] && page.entries[0].metadata.size == 0)
        #expect(page.refusedNames.sorted() == ["../", "a%EF%BF%BE"])
    }

    @Test(
        "what each error means",
        arguments: [
            ("ServerBusy", 503, StoreError.Code.throttled), ("OperationTimedOut", 500, .timedOut),
            ("InternalError", 500, .unavailable), ("AuthorizationPermissionMismatch", 403, .accessDenied),
            ("KeyBasedAuthenticationNotPermitted", 403, .authenticationFailed), ("BlobArchived", 409, .accessDenied),
            ("BlobImmutableDueToPolicy", 409, .accessDenied), ("InvalidResourceName", 400, .invalidName),
            ("ContainerBeingDeleted", 409, .storeNotFound), ("AccountIsDisabled", 403, .accessDenied),
            ("SomethingNew", 409, .alreadyExists), ("SomethingNew", 403, .accessDenied),
        ])
    func errors(name: String, status: Int, code: StoreError.Code) throws {
        let server = StubServer { _ in text("", status: status, [("x-ms-error-code", name)]) }
        let store = try store(server)
        store.tune(StoreTuning(overallTimeout: .milliseconds(50)))
        let error = #expect(throws: StoreError.self) {
            try store.send(
                AzureCall("DELETE", [97], .requestsDelete, .storeDelete, action: "'a' could not be deleted"))
        }
        #expect(error?.code == code && error?.message.hasPrefix("'a' could not be deleted: \(name)") == true)
        #expect(error?.message.contains("over its limit") == (code == .throttled))
    }

    @Test("an account that does not tell its kind by the one interface is asked by the other")
    func namespaces() throws {
        let server = StubServer { request in
            if request.url.contains("comp=list") {
                return text("<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>")
            }
            if request.url.contains(".dfs.") { return text("", [("x-ms-namespace-enabled", "true")]) }
            return text("", status: 403, [("x-ms-error-code", "AuthorizationFailure")])
        }
        let store = try store(server)
        try store.connect()
        #expect(store.isHierarchical && store.capabilities.contains([.realDirectories, .rangedRead]))
        #expect(!store.capabilities.contains(.atomicMove))
    }
}
