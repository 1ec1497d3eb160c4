import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// What the store makes of answers that the servers of the tests do not give. What it does with those: the contract in
/// `StoresTests`.
@Suite("Web servers, answer by answer")
struct HTTPStoreTests {
    private static let base = "https://www.example.org/pub"
    private static let old = "Sun, 06 Nov 1994 08:49:37 GMT"

    private func store(
        _ server: StubServer, _ settings: [String: String] = [:], clock: any Clock = SystemClock()
    ) throws(StoreError) -> HTTPStore {
        try HTTPStore(
            StoreSettings(["url": Self.base + "/"].merging(settings) { $1 }), statistics: Statistics(),
            transport: server, clock: clock)
    }

    static func index(_ lines: String...) -> HTTPResponse {
        text(
            "<html><h1>Index of /pub/</h1><a href=\"../\">../</a>\n\(lines.joined(separator: "\n"))</html>",
            [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", "1")])
    }

    static func line(_ name: String, _ note: String = "06-Nov-1994 08:49 3") -> String {
        "<a href=\"\(name)\">\(name)</a> \(note)"
    }

    static func file(_ bytes: String, tag: String? = "\"tag\"", status: Int = 200) -> HTTPResponse {
        text(
            bytes, status: status,
            [("Content-Length", String(bytes.utf8.count)), ("Last-Modified", old)] + (tag.map { [("ETag", $0)] } ?? [])
                + [("Date", "Mon, 07 Nov 1994 08:49:37 GMT")])
    }

    /// The answer to a range, as a server gives it that knows them.
    static func part(_ bytes: String, of request: HTTPRequest, tag: String = "\"tag\"") -> HTTPResponse {
        guard let range = request["Range"] else { return file(bytes, tag: tag) }
        let bounds = range.dropFirst(6).split(separator: "-").compactMap { Int($0) }
        let all = Array(bytes.utf8)
        guard bounds[0] < all.count else {
            return HTTPResponse(status: 416, headers: [("Content-Range", "bytes */\(all.count)")])
        }
        let last = min(bounds[1], all.count - 1)
        return HTTPResponse(
            status: 206,
            headers: [
                ("Content-Range", "bytes \(bounds[0])-\(last)/\(all.count)"), ("ETag", tag), ("Last-Modified", old),
            ], body: Array(all[bounds[0]...last]))
    }

    private func path(_ text: String) -> StorePath { StorePath(text)! }

    // MARK: Asking

    @Test("a file is asked for without HEAD where the server does not know that, and from then on")
    func withoutHead() throws {
        for status in [405, 501] {
            let server = StubServer { request in
                if request.method == "HEAD" { return text("", status: status) }
                return Self.part(request.path.hasSuffix("/empty") ? "" : "abcdef", of: request)
            }
            let store = try store(server)
            #expect(try store.metadata(of: path("f")).size == 6)
            #expect(try store.metadata(of: path("empty")).size == 0)
            #expect(server.requests.map(\.method) == ["HEAD", "GET", "GET"])
            #expect(server.requests.last?["Range"] == "bytes=0-0")
        }
    }

    @Test("where HEAD does not tell the length, the first byte does; where nothing does, that is an error")
    func withoutLength() throws {
        let server = StubServer { request in
            if request.method == "HEAD" || request.path.hasSuffix("/endless") { return text("") }
            return Self.part("abcdef", of: request)
        }
        #expect(try store(server).metadata(of: path("f")).size == 6)
        let error = #expect(throws: StoreError.self) { try store(server).metadata(of: path("endless")) }
        #expect(error?.code == .unsupported && error?.message.contains("how long") == true)
    }

    @Test("folders are told by a redirect to a slash, and where there is none by being there with a slash")
    func folders() throws {
        let server = StubServer { request in
            switch request.path {
            case "/pub/a": text("", status: 301, [("Location", "/pub/a/")])
            case "/pub/c%26d": text("", status: 301, [("Location", "http://www.example.org:8080/pub/c&d/")])
            case "/pub/e": text("", status: 302, [("Location", "/elsewhere/")])
            case "/elsewhere/": Self.index()
            case "/pub/b/": Self.index()
            default: text("", status: 404)
            }
        }
        let store = try store(server)
        #expect(try store.metadata(of: path("a")).kind == .directory)
        #expect(try store.metadata(of: path("b")).kind == .directory)
        for folder in ["c&d", "e"] {
            #expect(try store.metadata(of: path(folder)).kind == .directory)
            let error = #expect(throws: StoreError.self) { try store.contents(of: path(folder)) }
            #expect(error?.code == .isADirectory)
        }
        #expect(throws: StoreError.self) { try store.metadata(of: path("c")) }
        #expect(server.requests.allSatisfy { $0["Accept-Encoding"] == "identity" })
    }

    // MARK: Listings

    @Test("what a page tells of files is looked up, and remembered as long as it says the same")
    func seenFiles() throws {
        let note = Lock("06-Nov-1994 08:49 3")
        let server = StubServer { request in
            request.method == "HEAD"
                ? Self.file("abc")
                : Self.index(Self.line("d/"), Self.line("f", note.withLock { $0 }), Self.line("g", ""))
        }
        let store = try store(server)
        func asked() throws -> [String] {
            let before = server.requests.count
            let entries = try store.list(.root, after: nil).entries
            #expect(entries.map(\.name.description) == ["d", "f", "g"])
            #expect(entries.map(\.metadata.kind) == [.directory, .file, .file])
            #expect(entries[1].metadata.version == Version("tag") && entries[1].metadata.size == 3)
            return server.requests[before...].filter { $0.method == "HEAD" }.map(\.path).sorted()
        }
        #expect(try asked() == ["/pub/f", "/pub/g"])
        // The line of g tells nothing that would change with it.
        #expect(try asked() == ["/pub/g"])
        note.withLock { $0 = "06-Nov-1994 08:49 4" }
        #expect(try asked() == ["/pub/f", "/pub/g"])
        // A line with another time than the file's is no sign either.
        note.withLock { $0 = "07-Nov-1994 11:11 4" }
        #expect(try asked() == ["/pub/f", "/pub/g"])
        #expect(try asked() == ["/pub/f", "/pub/g"])
    }

    @Test("what is remembered of a file is asked for anew after an hour")
    func oldKnowledge() throws {
        let clock = ManualClock()
        let server = StubServer { $0.method == "HEAD" ? Self.file("abc") : Self.index(Self.line("f")) }
        let store = try store(server, clock: clock)
        for (wait, count) in [(Duration.zero, 1), (.seconds(3_599), 1), (.seconds(1), 2), (.seconds(1), 2)] {
            clock.advance(by: wait)
            _ = try store.list(.root, after: nil)
            #expect(server.requests.count { $0.method == "HEAD" } == count)
        }
    }

    @Test("what is remembered of a file goes when a read has shown that it is another one")
    func forgotten() throws {
        let tag = Lock("\"old\"")
        let server = StubServer { request in
            if request.path == "/pub/" { return Self.index(Self.line("f")) }
            return Self.file("abc", tag: tag.withLock { $0 })
        }
        let store = try store(server)
        func version() throws -> String? { try store.list(.root, after: nil).entries.first?.metadata.version?.text }
        #expect(try version() == "old")
        tag.withLock { $0 = "\"new\"" }
        #expect(try version() == "old")
        let error = #expect(throws: StoreError.self) { try store.contents(of: path("f"), version: Version("old")) }
        #expect(error?.code == .preconditionFailed)
        #expect(try version() == "new")
    }

    @Test("what is listed and not there is left out; what is there and not for us is shown, and not as empty")
    func refusedFiles() throws {
        let server = StubServer { request in
            switch request.path {
            case "/pub/":
                Self.index(Self.line("gone"), Self.line("mine", "06-Nov-1994 08:49 4.9K"), Self.line("bare", ""))
            case "/pub/gone": text("", status: 404)
            default: text("", status: 403)
            }
        }
        let entries = try store(server).list(.root, after: nil).entries
        #expect(entries.map(\.name.description) == ["mine", "bare"])
        #expect(entries.map(\.metadata.size) == [5017, 1])
        let error = #expect(throws: StoreError.self) { try store(server).contents(of: path("mine")) }
        #expect(error?.code == .accessDenied)
    }

    @Test("a fault while files are looked up fails the listing: nothing vanishes for it")
    func faultInListing() throws {
        let server = StubServer { request in
            request.path == "/pub/" ? Self.index(Self.line("f")) : text("", status: 500)
        }
        let store = try store(server)
        store.tune(StoreTuning(overallTimeout: .milliseconds(1)))
        let error = #expect(throws: StoreError.self) { try store.list(.root, after: nil) }
        #expect(error?.code == .unavailable)
    }

    @Test("a page that is no listing, or half of one, is an error and no empty folder")
    func noListing() throws {
        for (answer, code) in [
            (text("<h1>Maintenance</h1>", [("Content-Type", "text/html"), ("Content-Length", "1")]), .unsupported),
            (text("abc", [("Content-Type", "text/plain"), ("Content-Length", "3")]), .unsupported),
            (text("<h1>Index of</h1><a href=a>a</a>", [("Content-Type", "text/html")]), .unavailable),
            (text("{}", [("Content-Type", "application/json"), ("Content-Length", "2")]), .unsupported),
        ] as [(HTTPResponse, StoreError.Code)] {
            let server = StubServer { $0.path == "/pub/d/" ? answer : Self.file("x") }
            let error = #expect(throws: StoreError.self) { try store(server).list(path("d"), after: nil) }
            #expect(error?.code == code)
        }
    }

    @Test("links are relative to where a redirect has led")
    func redirectedPage() throws {
        let server = StubServer { request in
            if request.url == Self.base + "/" {
                return text("", status: 302, [("Location", "https://mirror.example.net/x/pub/")])
            }
            if request.url == "https://mirror.example.net/x/pub/" {
                return Self.index(
                    Self.line("/x/pub/f"), Self.line("/pub/g"), Self.line("https://www.example.org/pub/h"))
            }
            return Self.file("abc")
        }
        #expect(try store(server).list(.root, after: nil).entries.map(\.name.description) == ["f"])
        #expect(server.requests.last?.url == Self.base + "/f")
    }

    @Test("a listing that was left alone for long is begun anew")
    func oldCursor() throws {
        let lines = (0..<HTTPStore.pageSize + 50).map { Self.line("f\($0)") }.joined()
        let server = StubServer { request in
            request.path == "/pub/" ? Self.index(lines) : Self.file("abc")
        }
        let store = try store(server)
        let first = try store.list(.root, after: nil)
        #expect(first.entries.count == HTTPStore.pageSize)
        let cursor = try #require(first.next)
        #expect(try store.list(.root, after: cursor).entries.count == 50)
        let error = #expect(throws: StoreError.self) { try store.list(.root, after: cursor) }
        #expect(error?.code == .unavailable)
        #expect(throws: StoreError.self) { try store.list(.root, after: ListCursor("x")) }
    }

    // MARK: Reading

    @Test("a range goes to the server with the version as a condition, and the answer is compared with it")
    func ranges() throws {
        let server = StubServer { Self.part("abcdef", of: $0) }
        let store = try store(server)
        #expect(try store.contents(of: path("f"), 2..<4, version: Version("tag")) == Array("cd".utf8))
        #expect(server.requests.first?["Range"] == "bytes=2-3")
        #expect(server.requests.first?["If-Match"] == "\"tag\"")
        #expect(try store.contents(of: path("f"), 6..<10) == [])
        let error = #expect(throws: StoreError.self) {
            try store.contents(of: path("f"), 2..<4, version: Version("old"))
        }
        #expect(error?.code == .preconditionFailed)
        // A version that is no entity tag makes no condition.
        _ = try? store.contents(of: path("f"), version: Version("784111777-6"))
        #expect(server.requests.last { $0.method == "GET" }?["If-Match"] == nil)
    }

    @Test("a weak entity tag fails the condition of the request, and is no change for that")
    func weakTags() throws {
        let server = StubServer { request in
            request["If-Match"] == nil ? Self.part("abcdef", of: request, tag: "W/\"tag\"") : text("", status: 412)
        }
        let store = try store(server)
        for _ in 0..<2 {
            #expect(try store.contents(of: path("f"), 0..<3, version: Version("tag")) == Array("abc".utf8))
        }
        #expect(server.requests.filter { $0["If-Match"] != nil }.count == 1)
        let other = try self.store(StubServer { _ in Self.file("abc", tag: "\"new\"", status: 412) })
        let error = #expect(throws: StoreError.self) { try other.contents(of: path("f"), version: Version("tag")) }
        #expect(error?.code == .preconditionFailed || error?.code == .unsupported)
    }

    @Test("a file that changes while it is read is not handed out")
    func changedMeanwhile() throws {
        let count = Lock(0)
        let server = StubServer { request in
            let number = count.withLock { count -> Int in
                count += 1
                return count
            }
            return Self.part("abcdef", of: request, tag: number > 1 ? "\"new\"" : "\"tag\"")
        }
        let error = #expect(throws: StoreError.self) { try store(server).contents(of: path("f"), 0..<3) }
        #expect(error?.code == .preconditionFailed)
    }

    @Test("a server that knows no ranges is found out when it is connected, and later")
    func withoutRanges() throws {
        let server = StubServer { request in
            request.path == "/pub/" ? Self.index(Self.line("d/"), Self.line("f")) : Self.file("abcdef")
        }
        let store = try store(server)
        #expect(store.capabilities.contains(.rangedRead) && store.capabilities.isReadOnly)
        try store.connect()
        #expect(!store.capabilities.contains(.rangedRead))
        store.setServesRanges(true)
        _ = try store.contents(of: path("f"), 0..<1)
        #expect(!store.capabilities.contains(.rangedRead))
    }

    // MARK: One file

    @Test("a URL of a file is a folder with that file in it")
    func oneFile() throws {
        let server = StubServer { request in
            request.path == "/pub/x%20y.iso" ? Self.part("abcdef", of: request) : text("", status: 404)
        }
        let store = try store(server, ["url": Self.base + "/x y.iso"])
        try store.connect()
        #expect(try store.names(in: .root) == ["x y.iso"])
        #expect(try store.contents(of: path("x y.iso"), 1..<3) == Array("bc".utf8))
        #expect(try store.metadata(of: path("x y.iso")).size == 6)
        #expect(try store.metadata(of: .root).kind == .directory)
        for other in ["other", "x y.iso/below"] {
            let error = #expect(throws: StoreError.self) { try store.metadata(of: path(other)) }
            #expect(error?.code == .notFound)
        }
        let error = #expect(throws: StoreError.self) { try store.list(path("x y.iso"), after: nil) }
        #expect(error?.code == .notADirectory)
    }

    @Test("a folder may be given without its slash, wherever the server has it")
    func folderWithoutSlash() throws {
        for location in ["/pub/", "https://www.example.org/elsewhere/pub/"] {
            let server = StubServer { request in
                if request.path == "/pub" { return text("", status: 301, [("Location", location)]) }
                return request.path.hasSuffix("/") ? Self.index(Self.line("f")) : Self.file("abc")
            }
            let store = try store(server, ["url": Self.base])
            try store.connect()
            #expect(try store.names(in: .root) == ["f"])
            let expected = location.hasPrefix("/") ? Self.base : String(location.dropLast())
            #expect(store.site.base.description == expected)
        }
    }

    // MARK: Redirects and credentials

    @Test("a redirect from TLS to none is refused, wherever it leads")
    func downgrade() throws {
        for host in ["www.example.org", "other.example.org"] {
            let server = StubServer { _ in text("", status: 302, [("Location", "http://\(host)/pub/f")]) }
            let error = #expect(throws: StoreError.self) { try store(server).contents(of: path("f")) }
            #expect(error?.code == .invalidArgument && error?.message.contains("http://\(host)") == true)
            #expect(server.requests.allSatisfy { $0.url.hasPrefix("https:") })
        }
    }

    @Test("credentials go to no other host, port or scheme, nor in a way that another host asks for")
    func credentialsStay() throws {
        for settings in [["user": "anna", "password": "the-secret"], ["token": "the-secret"]] {
            let server = StubServer { request in
                if request.url.hasPrefix("https://www.example.org/") {
                    if settings["token"] == nil, request["Authorization"] == nil {
                        return text("", status: 401, [("WWW-Authenticate", "Digest realm=\"x\", nonce=\"n\"")])
                    }
                    return text("", status: 307, [("Location", "https://www.example.org:8443/f")])
                }
                if request.url.hasPrefix("https://www.example.org:8443/") {
                    return text("", status: 307, [("Location", "https://other.example.org/f")])
                }
                return text("", status: 401, [("WWW-Authenticate", "Basic realm=\"x\"")])
            }
            let error = #expect(throws: StoreError.self) { try store(server, settings).contents(of: path("f")) }
            #expect(error?.code == .authenticationFailed)
            #expect(error?.message.contains("the-secret") == false)
            for request in server.requests where !request.url.hasPrefix("https://www.example.org/") {
                #expect(request["Authorization"] == nil)
            }
            #expect(server.requests.contains { $0["Authorization"] != nil })
            #expect(!server.requests.contains { $0["Authorization"]?.hasPrefix("Basic") == true })
        }
    }

    // MARK: Errors and settings

    @Test(
        "each failure of the folder is told in a sentence, without secrets",
        arguments: [
            (401, StoreError.Code.authenticationFailed, "check user and password"), (403, .accessDenied, "permit"),
            (404, .storeNotFound, "check url"), (410, .storeNotFound, "check url"),
        ])
    func failures(status: Int, code: StoreError.Code, words: String) throws {
        for url in [Self.base + "/", Self.base] {
            let server = StubServer { _ in text("the-secret", status: status, [("WWW-Authenticate", "Basic realm=x")]) }
            let settings = ["url": url, "user": "anna", "password": "the-secret"]
            let error = #expect(throws: StoreError.self) { try store(server, settings).connect() }
            #expect(error?.code == code)
            #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
            #expect(error?.message.contains("the-secret") == false)
        }
    }

    @Test("a URL with a slash that shows no list is said to be neither a list nor a file")
    func neither() throws {
        for answer in [
            text("abc", [("Content-Type", "application/octet-stream"), ("Content-Length", "3")]),
            text("<h1>Welcome</h1>", [("Content-Type", "text/html"), ("Content-Length", "3")]),
        ] {
            let error = #expect(throws: StoreError.self) { try store(StubServer { _ in answer }).connect() }
            #expect(error?.code == .unsupported && error?.message.contains("neither") == true)
        }
    }

    @Test("nothing can be changed, and nobody is asked for it")
    func changes() throws {
        let server = StubServer { _ in text("", status: 500) }
        let store = try store(server)
        let calls: [() throws -> Void] = [
            { try store.write([1], at: path("f")) }, { try store.createDirectory(at: path("d"), Attributes()) },
            { try store.delete(path("f")) }, { try store.move(path("f"), to: path("g")) },
            { _ = try store.copy(path("f"), to: path("g"), CopyOptions()) },
            { _ = try store.setAttributes(Attributes(mode: 0o600), at: path("f"), ifVersion: nil) },
        ]
        for call in calls {
            let error = #expect(throws: StoreError.self) { try call() }
            #expect(error?.code == .readOnly)
        }
        #expect(server.requests.isEmpty)
    }

    @Test("URLs on the command line are what they are")
    func urls() {
        let http = StoreDescriptor.http
        #expect(http.settingsFromURL("https", "h/x/") == ["url": "https://h/x/"])
        #expect(http.settingsFromURL("http", "anna@h:8080") == ["url": "http://h:8080/", "user": "anna"])
        #expect(http.settingsFromURL("https", "anna:pw@h/x") == nil)
        #expect(http.settingsFromURL("https", "h/x?key=1") == nil)
        #expect(http.identity(StoreSettings(["url": "https://H:443/x/"])) == "https://h/x")
    }

    @Test("the program's own folder is not among the files")
    func ownFolder() throws {
        let server = StubServer { request in
            request.path.hasSuffix("/") ? Self.index(Self.line(".cloudfusion/"), Self.line("d/")) : Self.file("x")
        }
        #expect(try store(server).names(in: .root) == ["d"])
        #expect(try store(server).names(in: path("d")) == [".cloudfusion", "d"])
    }
}
