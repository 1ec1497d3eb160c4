import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// What a store makes of answers that the servers of the tests do not give. What it does with those: the contract in
/// `StoresTests`.
@Suite("WebDAV, answer by answer")
struct WebDAVStoreTests {
    private func store(_ server: StubServer, _ settings: [String: String] = [:]) throws(StoreError) -> WebDAVStore {
        let base = ["url": "https://cloud.example.org/dav", "user": "anna", "password": "the-secret"]
        return try WebDAVStore(
            StoreSettings(base.merging(settings) { $1 }), statistics: Statistics(), transport: server)
    }

    static func multistatus(_ resources: String...) -> HTTPResponse {
        text("<d:multistatus xmlns:d=\"DAV:\">\(resources.joined())</d:multistatus>", status: 207)
    }

    static func folder(_ path: String) -> String {
        "<d:response><d:href>\(path)</d:href><d:propstat><d:prop><d:resourcetype><d:collection/></d:resourcetype>"
            + "</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    }

    static func file(_ path: String, size: Int = 3, tag: String? = "&quot;tag&quot;", more: String = "") -> String {
        "<d:response><d:href>\(path)</d:href><d:propstat><d:prop><d:resourcetype/>"
            + "<d:getcontentlength>\(size)</d:getcontentlength>"
            + "<d:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</d:getlastmodified>"
            + (tag.map { "<d:getetag>\($0)</d:getetag>" } ?? "") + more
            + "</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    }

    // MARK: Listings

    @Test("names that lead elsewhere are reported, and never shown")
    func hostileNames() throws {
        let server = StubServer { _ in
            Self.multistatus(
                Self.folder("/dav/d/"), Self.file("/dav/d/ok"), Self.file("/dav/d/.."), Self.file("/dav/d/a%2Fb"),
                Self.file("/dav/d/%00"), Self.file("/dav/elsewhere"), Self.file("/etc/passwd"),
                Self.file("/dav/d/a/b"), Self.folder("https://cloud.example.org/dav/d/sub%20folder/"))
        }
        let page = try store(server).list(StorePath("d")!, after: nil)
        #expect(page.entries.map(\.name.description).sorted() == ["ok", "sub folder"])
        #expect(page.refusedNames.count == 6)
        #expect(server.requests.allSatisfy { $0["Depth"] == "1" })
    }

    @Test("behind a proxy that leaves out a part of the path, the folder is told by being above the rest")
    func otherPrefix() throws {
        let server = StubServer { _ in
            Self.multistatus(Self.folder("/inner/"), Self.file("/inner/a"), Self.folder("/inner/b/"))
        }
        let page = try store(server).list(.root, after: nil)
        #expect(page.entries.map(\.name.description).sorted() == ["a", "b"])
    }

    @Test("a version is the entity tag, weak or strong; time and size without one")
    func versions() throws {
        for (tag, version) in [
            ("W/&quot;x&quot;", "x"), ("&quot;x&quot;", "x"), ("bare", "bare"), (nil, "784111777-3"),
        ] as [(String?, String)] {
            let server = StubServer { _ in Self.multistatus(Self.file("/dav/f", tag: tag)) }
            #expect(try store(server).metadata(of: StorePath("f")!).version == Version(version))
        }
    }

    @Test("attributes of other bytes do not count")
    func attributesOfOtherBytes() throws {
        let text = WebDAVAttributes.encode(.symbolicLink, Attributes(mode: 0o777), tag: "old").text
        let property = "<c:posix-attributes xmlns:c=\"urn:cloudfusion\">\(text)</c:posix-attributes>"
        for (tag, kind) in [("old", FileKind.symbolicLink), ("new", .file)] {
            let server = StubServer { _ in Self.multistatus(Self.file("/dav/f", tag: tag, more: property)) }
            #expect(try store(server).metadata(of: StorePath("f")!).kind == kind)
        }
    }

    @Test("extended attributes that are too large are not said to be kept")
    func largeAttributes() throws {
        let server = StubServer { request in
            request.method == "PROPPATCH"
                ? Self.multistatus(Self.folder(request.path)) : Self.multistatus(Self.file("/dav/f"))
        }
        let store = try store(server)
        store.state.withLock { $0.traits.keepsProperties = true }
        for (size, isKept) in [(100, true), (3000, false)] {
            let attributes = Attributes(mode: 0o600, extended: ["user.x": pattern(size)])
            let kept = try store.setAttributes(attributes, at: StorePath("f")!, ifVersion: nil).attributes
            #expect(kept?.mode == 0o600)
            #expect((kept?.extended != nil) == isKept)
            let sent = String(decoding: server.requests.last?.bytes ?? [], as: UTF8.self)
            #expect(sent.contains("xattr=") == isKept)
        }
    }

    // MARK: Directories that are missing

    @Test("a move to where the directory is missing is not tried again before that was made")
    func missingParentOfMove() throws {
        let apache = Apache(["/dav/old"])
        let server = StubServer(apache.answer)
        try store(server).move(StorePath("old")!, to: StorePath("made/too/new")!)
        #expect(server.requests.filter { $0.method == "MOVE" }.count == 2)
        #expect(apache.folders == ["/dav/made", "/dav/made/too", "/dav/made/too/new"])
    }

    @Test("a directory that others make at the same moment is made")
    func directoryMadeByOthers() throws {
        let apache = Apache([])
        let server = StubServer { request in
            // The others are there first.
            if request.method == "MKCOL", request.path == "/dav/a/b/", apache.folders == ["/dav/a"] {
                _ = apache.answer(request)
                return text("", status: 403)
            }
            return apache.answer(request)
        }
        try store(server).createDirectory(at: StorePath("a/b")!, Attributes())
        #expect(apache.folders == ["/dav/a", "/dav/a/b"])
    }

    @Test(
        "Apache's locks are not relied upon, however they look",
        arguments: [("Apache/2.4.62 (Debian)", false), ("Apache", false), ("WsgiDAV/4.3", true)])
    func locksOfApache(name: String, isTrusted: Bool) throws {
        let table = LockTable()
        let server = StubServer { request in
            var answer = table.answer(request)
            answer.headers.append(("Server", name))
            return answer
        }
        let store = try store(server)
        try store.connect()
        #expect(store.traits.locks == isTrusted)
    }

    // MARK: Redirects and credentials

    @Test("a redirect to TLS is followed, and everything after goes there at once")
    func redirectToTLS() throws {
        let server = StubServer { request in
            guard request.url.hasPrefix("https:") else {
                return text("", status: 301, [("Location", "https://cloud.example.org\(request.path)")])
            }
            return Self.multistatus(Self.folder(request.path))
        }
        let store = try store(server, ["url": "http://cloud.example.org/dav"])
        #expect(try store.metadata(of: .root).kind == .directory)
        #expect(try store.metadata(of: StorePath("a")!).kind == .directory)
        #expect(
            server.requests.map { $0.url } == [
                "http://cloud.example.org/dav/", "https://cloud.example.org/dav/", "https://cloud.example.org/dav/a",
            ])
    }

    @Test("credentials go to nobody else, and only when they are asked for")
    func credentialsStay() throws {
        let server = StubServer { request in
            if request.url.hasPrefix("https://other.example.org") {
                return text(
                    "abc", status: 200, [("Content-Length", "3"), ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT")])
            }
            if request.method == "PROPFIND" { return Self.multistatus(Self.file("/dav/f", tag: nil)) }
            if request["Authorization"] == nil {
                return text("", status: 401, [("WWW-Authenticate", "Basic realm=\"cloud\", charset=\"UTF-8\"")])
            }
            return text("", status: 302, [("Location", "https://other.example.org/blob?key=1")])
        }
        let store = try store(server)
        #expect(try store.contents(of: StorePath("f")!) == Array("abc".utf8))
        #expect(server.requests.prefix(3).map { $0["Authorization"] } == [nil, "Basic YW5uYTp0aGUtc2VjcmV0", nil])
        store.state.withLock { $0.traits.putsWhole = true }
        let error = #expect(throws: StoreError.self) { try store.write([1], at: StorePath("f")!) }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains("other.example.org") == true)
    }

    @Test("a server that redirects to itself is given up")
    func circle() throws {
        let server = StubServer { text("", status: 302, [("Location", $0.url)]) }
        let error = #expect(throws: StoreError.self) { try store(server).metadata(of: .root) }
        #expect(error?.message.contains("circles") == true)
    }

    @Test("a bearer token goes along, and is not repeated when it is refused")
    func bearer() throws {
        let server = StubServer { _ in text("", status: 401, [("WWW-Authenticate", "Bearer")]) }
        let store = try store(server, ["token": "the-token", "user": "", "password": ""])
        let error = #expect(throws: StoreError.self) { try store.metadata(of: .root) }
        #expect(error?.code == .authenticationFailed)
        #expect(server.requests.map { $0["Authorization"] } == ["Bearer the-token"])
    }

    // MARK: Errors

    @Test(
        "each failure of the folder is told in a sentence, without secrets",
        arguments: [
            (401, StoreError.Code.authenticationFailed, "check user and password"),
            (403, .accessDenied, "does not permit"), (404, .storeNotFound, "check url"),
            (405, .unsupported, "WebDAV"), (507, .quotaExceeded, "quota"), (413, .tooLarge, "size"),
        ])
    func failures(status: Int, code: StoreError.Code, words: String) throws {
        let server = StubServer { _ in text("the-secret", status: status, [("WWW-Authenticate", "Basic realm=x")]) }
        let error = #expect(throws: StoreError.self) { try store(server).connect() }
        #expect(error?.code == code)
        #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
        #expect(error?.message.contains("the-secret") == false)
    }

    @Test("a failure inside of an answer that says 207 is a failure")
    func failureInside() throws {
        let server = StubServer { request in
            if request.method == "PROPFIND" { return Self.multistatus(Self.folder(request.path)) }
            return Self.multistatus(
                "<d:response><d:href>/dav/f</d:href><d:status>HTTP/1.1 507 Insufficient Storage</d:status></d:response>"
            )
        }
        let store = try store(server)
        store.state.withLock { $0.traits.putsWhole = true }
        let error = #expect(throws: StoreError.self) { try store.write([1], at: StorePath("f")!) }
        #expect(error?.code == .quotaExceeded)
    }

    @Test(
        "settings that make no sense are refused by their names",
        arguments: [
            (["url": "ftp://x"], "url"), (["url": "https://anna:pw@x/"], "url"), (["url": "https://x/?a=b"], "url"),
            (["user": ""], "user"), (["token": "t"], "token"),
        ])
    func settings(changes: [String: String], name: String) throws {
        let server = StubServer { _ in text("", status: 500) }
        let error = #expect(throws: StoreError.self) { try store(server, changes) }
        #expect(error?.code == .invalidArgument)
        #expect(error?.message.contains(name) == true)
    }

    @Test("URLs name the folder, and TLS by their scheme")
    func urls() {
        let webdav = StoreDescriptor.webdav
        #expect(webdav.settingsFromURL("davs", "anna@h/x") == ["url": "https://h/x", "user": "anna"])
        #expect(webdav.settingsFromURL("dav", "h:8080") == ["url": "http://h:8080/"])
        #expect(webdav.settingsFromURL("webdavs", "h/ü b") == ["url": "https://h/%C3%BC%20b"])
        #expect(webdav.settingsFromURL("webdav", "anna:pw@h/x") == nil)
        #expect(webdav.identity(StoreSettings(["url": "https://H:443/x/", "user": "anna"])) == "https://h/x")
    }
}

/// Directories only, and answers as Apache gives them.
private final class Apache: Sendable {
    private let made: Lock<Set<String>>

    init(_ folders: Set<String>) { made = Lock(folders) }

    var folders: Set<String> { made.withLock { $0 } }

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        let path = Self.withoutSlash(request.path)
        return made.withLock { made in
            switch request.method {
            case "PROPFIND" where path == "/dav" || made.contains(path):
                return WebDAVStoreTests.multistatus(WebDAVStoreTests.folder(path + "/"))
            case "PROPFIND": return text("", status: 404)
            case "MKCOL":
                guard Self.hasParent(path, made) else { return text("", status: 409) }
                made.insert(path)
                return text("", status: 201)
            case "MOVE":
                let target = Self.withoutSlash(request["Destination"].flatMap { WebURL($0)?.path } ?? "")
                guard Self.hasParent(target, made) else { return text("", status: 500) }
                made.remove(path)
                made.insert(target)
                return text("", status: 201)
            default: return text("", status: 405)
            }
        }
    }

    private static func withoutSlash(_ path: String) -> String {
        path.hasSuffix("/") ? String(path.dropLast()) : path
    }

    private static func hasParent(_ path: String, _ made: Set<String>) -> Bool {
        guard let slash = path.lastIndex(of: "/") else { return false }
        return path[..<slash] == "/dav" || made.contains(String(path[..<slash]))
    }
}

/// Locks that hold, and nothing but folders.
private final class LockTable: Sendable {
    private let held = Lock<[String: String]>([:])

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        held.withLock { held in
            switch request.method {
            case "PROPFIND": return WebDAVStoreTests.multistatus(WebDAVStoreTests.folder(request.path))
            case "LOCK":
                guard held[request.path] == nil else { return text("", status: 423) }
                let token = "<urn:\(UInt64.random(in: 0...UInt64.max))>"
                held[request.path] = token
                return text("", status: 200, [("Lock-Token", token)])
            case "UNLOCK":
                held[request.path] = nil
                return text("", status: 204)
            case "PUT": return text("", status: held[request.path] == nil ? 201 : 423)
            default: return text("", status: 204)
            }
        }
    }
}

/// Nextcloud as its public documentation describes it: no real one can run here.
///
/// Source: <https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/chunking.html>.
private final class Nextcloud: Sendable {
    struct State {
        var files: [String: [UInt8]] = [:]
        var headers: [String: [(name: String, value: String)]] = [:]
        var uploads: [String: [String: [UInt8]]] = [:]
        var failsParts = false
    }
    let state = Lock(State())
    static let files = "/remote.php/dav/files/anna"
    static let uploads = "/remote.php/dav/uploads/anna/"

    func answer(_ request: HTTPRequest) -> HTTPResponse {
        let path = request.path
        return state.withLock { state in
            switch request.method {
            case "MKCOL":
                guard request["Destination"] != nil else { return text("", status: 400) }
                state.uploads[path] = [:]
                return text("", status: 201)
            case "PUT" where path.hasPrefix(Self.uploads):
                let folder = String(path[..<path.lastIndex(of: "/")!])
                guard state.uploads[folder] != nil, request["Destination"] != nil, request["OC-Total-Length"] != nil
                else { return text("", status: 404) }
                if state.failsParts { return text("", status: 507) }
                state.uploads[folder]![String(path[path.lastIndex(of: "/")!...])] = request.bytes
                return text("", status: 201)
            case "MOVE":
                guard path.hasSuffix("/.file"), let parts = state.uploads.removeValue(forKey: String(path.dropLast(6))),
                    let target = request["Destination"].flatMap({ WebURL($0) })
                else { return text("", status: 404) }
                let whole = parts.sorted { $0.key < $1.key }.flatMap(\.value)
                guard request["OC-Total-Length"] == String(whole.count) else { return text("", status: 400) }
                state.files[target.path] = whole
                state.headers[target.path] = request.headers
                return text("", status: 201)
            case "DELETE":
                return text("", status: state.uploads.removeValue(forKey: path) == nil ? 404 : 204)
            case "PROPFIND":
                if path == Self.files + "/" { return WebDAVStoreTests.multistatus(WebDAVStoreTests.folder(path)) }
                guard let bytes = state.files[path] else { return text("", status: 404) }
                return WebDAVStoreTests.multistatus(WebDAVStoreTests.file(path, size: bytes.count))
            default: return text("", status: 405)
            }
        }
    }
}

@Suite("Uploads in parts to Nextcloud, as its documentation has them")
struct NextcloudTests {
    private func store(_ cloud: Nextcloud) throws(StoreError) -> WebDAVStore {
        let store = try WebDAVStore(
            StoreSettings(["url": "https://cloud.example.org" + Nextcloud.files, "user": "anna", "password": "pw"]),
            statistics: Statistics(), transport: StubServer(cloud.answer))
        store.state.withLock {
            $0.traits.putsWhole = true
            $0.traits.checksums = true
            $0.traits.takesTimes = true
            $0.traits.uploads = WebDAVTraits.uploads(store.base)
        }
        return store
    }

    @Test("the parts of a large file arrive in order, with its digest and its time")
    func parts() throws {
        let cloud = Nextcloud()
        let bytes = pattern(Int(WebDAVStore.multipartThreshold) + 5)
        let sent = Lock<Int64>(0)
        let written = try store(cloud).write(
            bytes, at: StorePath("large")!,
            PutOptions(
                attributes: Attributes(modified: Timestamp(seconds: 1_234_567_890)),
                progress: { amount in sent.withLock { $0 += amount } }))
        #expect(written.size == Int64(bytes.count))
        let found = cloud.state.withLock { $0 }
        #expect(found.files[Nextcloud.files + "/large"] == bytes)
        #expect(found.uploads.isEmpty)
        let headers = found.headers[Nextcloud.files + "/large"] ?? []
        #expect(headers.first { $0.name == "X-OC-Mtime" }?.value == "1234567890")
        #expect(headers.first { $0.name == "OC-Checksum" }?.value == "MD5:" + TextEncoding.hex(Digest.md5(bytes)))
    }

    @Test("what does not fit leaves nothing")
    func failure() throws {
        let cloud = Nextcloud()
        cloud.state.withLock { $0.failsParts = true }
        let bytes = pattern(Int(WebDAVStore.multipartThreshold))
        let error = #expect(throws: StoreError.self) { try store(cloud).write(bytes, at: StorePath("large")!) }
        #expect(error?.code == .quotaExceeded)
        #expect(cloud.state.withLock { $0.uploads.isEmpty && $0.files.isEmpty })
    }

    @Test("other servers are not taken for it")
    func others() {
        #expect(WebDAVTraits.uploads(WebURL("https://h/dav/files/x")!) == nil)
        #expect(
            WebDAVTraits.uploads(WebURL("https://h/cloud/remote.php/dav/files/x/y")!)?.path
                == "/cloud/remote.php/dav/uploads/x")
    }
}
