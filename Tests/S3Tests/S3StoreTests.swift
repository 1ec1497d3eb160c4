import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// What a store makes of answers that real servers give seldom. What it does with real servers: `S3ContractTests`.
@Suite("S3, answer by answer")
struct S3StoreTests {
    private func store(_ transport: StubTransport, _ settings: [String: String] = [:]) throws(StoreError) -> S3Store {
        let base = [
            "bucket_name": "bucket", "endpoint": "https://s3.example.org", "access_key_id": "id",
            "secret_access_key": "the-secret",
        ]
        return try S3Store(
            StoreSettings(base.merging(settings) { $1 }), environment: ProcessEnvironment([:]),
            statistics: Statistics(),
            transport: transport)
    }

    private static func listing(
        _ keys: [String] = [], prefixes: [String] = [], next: String? = nil
    ) -> HTTPResponse {
        text(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><EncodingType>url</EncodingType>"
                + "<IsTruncated>\(next != nil)</IsTruncated>"
                + (next.map { "<NextContinuationToken>\($0)</NextContinuationToken>" } ?? "")
                + keys.map {
                    "<Contents><Key>\(TextEncoding.percentEncode($0))</Key><Size>3</Size><ETag>&quot;tag&quot;</ETag>"
                        + "<LastModified>2024-02-29T12:34:56.000Z</LastModified></Contents>"
                }.joined()
                + prefixes.map { "<CommonPrefixes><Prefix>\(TextEncoding.percentEncode($0))</Prefix></CommonPrefixes>" }
                .joined() + "</ListBucketResult>")
    }

    private static func failure(_ code: String, _ status: Int, _ more: String = "") -> HTTPResponse {
        text("<Error><Code>\(code)</Code><Message>m</Message>\(more)</Error>", status: status)
    }

    @Test("keys that are no legal path are reported, and never shown")
    func refusedNames() throws {
        let hostile = ["d/ok", "d/..", "d/.", "d/", "d/a\u{0}b", "d/‛x", "d/" + String(repeating: "n", count: 256)]
        let transport = StubTransport { _ in Self.listing(hostile, prefixes: ["d//", "d/../", "d/sub/"]) }
        let store = try store(transport)
        store.state.withLock { $0.traits.keepsControls = true }
        let page = try store.list(StorePath("d")!, after: nil)
        #expect(page.entries.map(\.name.description).sorted() == ["ok", "sub"])
        #expect(page.refusedNames.count == 7)
    }

    @Test("a name whose key depends on the server is not guessed at before the server is known")
    func notKnownYet() throws {
        let name = StorePath(Array("a\nb".utf8))!
        let transport = StubTransport { _ in Self.listing(["a\nb", "‛0A"]) }
        let store = try store(transport)
        #expect(throws: StoreError.self) { try store.list(.root, after: nil) }
        #expect(throws: StoreError.self) { try store.metadata(of: name) }
        #expect(transport.requests.map(\.method) == ["GET"])
        for (keeps, shown, refused) in [(true, ["a\nb"], ["‛0A"]), (false, ["\n"], ["a\nb"])] {
            store.state.withLock { $0.traits.keepsControls = keeps }
            let page = try store.list(.root, after: nil)
            #expect(page.entries.map { String(decoding: $0.name.bytes, as: UTF8.self) } == shown)
            #expect(page.refusedNames == refused)
        }
    }

    @Test("a key that is a directory too is shown as the directory, across pages as well")
    func shadowed() throws {
        let transport = StubTransport { request in
            request.url.contains("continuation-token=second")
                ? Self.listing(["a0"], prefixes: ["a/"]) : Self.listing(["a", "a-b"], next: "second")
        }
        let store = try store(transport)
        let entries = try store.entries(of: .root)
        #expect(entries.map(\.name.description).sorted() == ["a", "a-b", "a0"])
        #expect(entries.first { $0.name == FileName("a") }?.metadata.kind == .directory)
        let first = try store.list(.root, after: nil)
        #expect(first.entries.map(\.name.description) == [])
        let second = try store.list(.root, after: first.next)
        #expect(second.refusedNames == ["a"])
    }

    @Test("a key that is listed twice is shown once")
    func listedTwice() throws {
        let transport = StubTransport { _ in Self.listing(["a", "a", "b"]) }
        #expect(try store(transport).entries(of: .root).map(\.name.description) == ["a", "b"])
    }

    @Test("a listing that does not go on is an error, not a circle")
    func circle() throws {
        let transport = StubTransport { _ in Self.listing(["a"], next: "same") }
        let store = try store(transport)
        let first = try store.list(.root, after: nil)
        #expect(throws: StoreError.self) { try store.list(.root, after: first.next) }
        #expect(throws: StoreError.self) { try store.list(.root, after: ListCursor("nonsense")) }
    }

    @Test("an answer that is no listing is an error, not an empty directory")
    func noListing() throws {
        for body in ["<html><body>Welcome</body></html>", "", "{}"] {
            let transport = StubTransport { _ in text(body) }
            #expect(throws: StoreError.self) { try store(transport).list(.root, after: nil) }
        }
    }

    @Test("a request to the wrong region goes to the right one, and later ones at once")
    func region() throws {
        let transport = StubTransport { request in
            request["Authorization"]?.contains("/eu-central-1/s3/") == true
                ? Self.listing(["a"])
                : Self.failure("AuthorizationHeaderMalformed", 400, "<Region>eu-central-1</Region>")
        }
        let store = try store(transport)
        #expect(try store.entries(of: .root).count == 1)
        #expect(transport.requests.count == 2)
        _ = try store.entries(of: .root)
        #expect(transport.requests.count == 3)
    }

    @Test("a missing bucket is no missing file")
    func missingBucket() throws {
        let transport = StubTransport { request in
            request.method == "HEAD" ? text("", status: 404) : Self.failure("NoSuchBucket", 404)
        }
        do throws(StoreError) {
            _ = try store(transport).metadata(of: StorePath("a")!)
            Issue.record("there is something")
        } catch { #expect(error.code == .storeNotFound) }
    }

    @Test("bytes that do not match their MD5 are fetched again")
    func corruptedRead() throws {
        let tries = Lock(0)
        let tag = TextEncoding.hex(Digest.md5(Array("right".utf8)))
        let transport = StubTransport { _ in
            let number = tries.withLock { count in
                count += 1
                return count
            }
            return text(number == 1 ? "wrong" : "right", [("ETag", "\"\(tag)\""), ("Content-Length", "5")])
        }
        let store = try store(transport)
        store.state.withLock { $0.traits.tagIsMD5 = true }
        #expect(try store.contents(of: StorePath("a")!) == Array("right".utf8))
        #expect(transport.requests.count == 2)
    }

    @Test(
        "an object that OpenStack Swift does not find while it is replaced is asked for once more", arguments: [1, 2])
    func missedWhileReplaced(misses: Int) throws {
        let tries = Lock(0)
        let transport = StubTransport { _ in
            let number = tries.withLock { count in
                count += 1
                return count
            }
            return number <= misses
                ? text("", status: 404, [("x-openstack-request-id", "tx1")])
                : text("", [("ETag", "\"tag\""), ("Content-Length", "4")])
        }
        let store = try store(transport)
        #expect(try (store.head(Array("a".utf8), StorePath("a")!) != nil) == (misses == 1))
        #expect(transport.requests.count == 2)
    }

    @Test("a write that lost against another at the same time is done again")
    func unconfirmedWrite() throws {
        let right = TextEncoding.hex(Digest.md5(Array("ours".utf8)))
        let others = TextEncoding.hex(Digest.md5(Array("them".utf8)))
        let tries = Lock(0)
        let transport = StubTransport { request in
            guard request.method == "PUT" else {
                return text("", [("ETag", "\"\(others)\""), ("Content-Length", "4")])
            }
            let number = tries.withLock { count in
                count += 1
                return count
            }
            return text("", number == 1 ? [] : [("ETag", "\"\(right)\"")])
        }
        let store = try store(transport)
        store.state.withLock { $0.traits.tagIsMD5 = true }
        let metadata = try store.put(UploadBody(Array("ours".utf8)), at: StorePath("a")!, PutOptions())
        #expect(metadata.version?.text == right)
        #expect(transport.requests.map(\.method) == ["PUT", "HEAD", "PUT"])
    }

    @Test("the tag of an object under a key service's encryption is no MD5")
    func keyService() throws {
        let tag = String(repeating: "0", count: 32)
        let transport = StubTransport { _ in
            text("bytes", [("ETag", "\"\(tag)\""), ("X-Amz-Server-Side-Encryption", "aws:kms")])
        }
        let store = try store(transport)
        store.state.withLock { $0.traits.tagIsMD5 = true }
        #expect(try store.contents(of: StorePath("a")!) == Array("bytes".utf8))
    }

    @Test("a conditional write whose first attempt arrived is not taken for a lost race")
    func repeatedCondition() throws {
        let written = Lock<[(name: String, value: String)]?>(nil)
        let transport = StubTransport { (request) throws(StoreError) in
            if request.method == "PUT" {
                let isFirst = written.withLock { headers -> Bool in
                    defer { headers = headers ?? request.headers }
                    return headers == nil
                }
                if isFirst { throw StoreError(.unavailable, "the connection broke before the answer") }
                return Self.failure("PreconditionFailed", 412)
            }
            let meta = written.withLock { $0 ?? [] }.filter { $0.name.lowercased().hasPrefix("x-amz-meta-") }
            return text("", meta + [("ETag", "\"tag\""), ("Content-Length", "1")])
        }
        let store = try store(transport)
        store.state.withLock { $0.traits.checksAbsence = true }
        let path = StorePath("a")!
        #expect(try store.write([1], at: path, PutOptions(condition: .ifAbsent)).version == Version("tag"))
        // And the next writer has lost.
        do throws(StoreError) {
            _ = try store.write([1], at: path, PutOptions(condition: .ifAbsent))
            Issue.record("it was written")
        } catch { #expect(error.code == .preconditionFailed) }
    }

    /// A server that takes uploads in parts.
    private static func parts(_ complete: @escaping @Sendable (HTTPRequest) -> HTTPResponse) -> StubTransport {
        StubTransport { request in
            if request.url.hasSuffix("?uploads=") {
                return text("<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
            }
            switch request.method {
            case "PUT": return text("", [("ETag", "\"part\"")])
            case "POST": return complete(request)
            case "DELETE": return text("", status: 204)
            default: return text("", [("ETag", "\"x-2\""), ("Content-Length", "17000000")])
            }
        }
    }

    private func putLarge(_ store: S3Store) throws(StoreError) -> Metadata {
        store.state.withLock { $0.capabilities.multipartThreshold = 16 << 20 }
        return try store.put(UploadBody([UInt8](repeating: 7, count: 17_000_000)), at: StorePath("a")!, PutOptions())
    }

    @Test("an error in the body of a completion with status 200 is an error, and the upload is cleared away")
    func completionError() throws {
        let transport = Self.parts { _ in Self.failure("InvalidPart", 200) }
        do throws(StoreError) {
            _ = try putLarge(try store(transport))
            Issue.record("it succeeded")
        } catch { #expect(error.code == .invalidArgument) }
        #expect(transport.count { $0.method == "DELETE" && $0.url.contains("uploadId=u") } == 1)
    }

    @Test("a completion that fails for a passing reason is repeated")
    func completionRepeated() throws {
        let tries = Lock(0)
        let transport = Self.parts { _ in
            let number = tries.withLock { count in
                count += 1
                return count
            }
            return number == 1
                ? Self.failure("InternalError", 200)
                : text("<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")
        }
        // The answer has no tag: it is asked for.
        #expect(try putLarge(try store(transport)).version == Version("x-2"))
        #expect(transport.count { $0.method == "DELETE" } == 0)
    }

    @Test("deletions refused one by one are told one by one")
    func bulkErrors() throws {
        let transport = StubTransport { request in
            request.method == "POST"
                ? text("<DeleteResult><Error><Key>b</Key><Code>AccessDenied</Code></Error></DeleteResult>")
                : Self.listing(["a", "b", "c"])
        }
        let answers = try store(transport).delete(["a", "b", "c"].map { StorePath($0)! })
        #expect(answers.map { $0?.code } == [nil, .accessDenied, nil])
        #expect(transport.requests.count == 2)
        #expect(transport.requests.last?["Content-MD5"] != nil)
    }

    @Test("a deletion among many that fails for a passing reason is repeated")
    func bulkRepeated() throws {
        let transport = StubTransport { request in
            switch request.method {
            case "POST":
                text("<DeleteResult><Error><Key>b</Key><Code>InternalError</Code></Error></DeleteResult>")
            case "DELETE": text("", status: 204)
            default: Self.listing(["a", "b", "c"])
            }
        }
        let answers = try store(transport).delete(["a", "b", "c"].map { StorePath($0)! })
        #expect(answers.map { $0?.code } == [nil, nil, nil])
        #expect(transport.requests.filter { $0.method == "DELETE" }.map { $0.url.hasSuffix("/b") } == [true])
    }

    @Test("what a server cannot delete in one go in time is deleted one by one")
    func slowBulk() throws {
        let transport = StubTransport { (request) throws(StoreError) in
            switch request.method {
            case "POST": throw StoreError(.timedOut, "no answer in time")
            case "DELETE": return text("", status: 204)
            default: return Self.listing(["a", "b"])
            }
        }
        let store = try store(transport)
        store.tune(StoreTuning(overallTimeout: .milliseconds(1)))
        #expect(store.delete(["a", "b"].map { StorePath($0)! }).map { $0?.code } == [nil, nil])
        #expect(transport.count { $0.method == "DELETE" } == 2)
    }

    @Test("the secret is in no error, description or answer about the account")
    func secrets() throws {
        let transport = StubTransport { _ in Self.failure("SignatureDoesNotMatch", 403) }
        let store = try store(transport, ["session_token": "the-token"])
        do throws(StoreError) {
            try store.connect()
            Issue.record("it connected")
        } catch {
            #expect(error.code == .authenticationFailed)
            let said = "\(error.message) \(error.cause ?? "") \(try store.accountInformation())"
            #expect(!said.contains("the-secret") && !said.contains("the-token"))
        }
    }

    @Test("credentials that may only read make a store that says so")
    func readOnly() throws {
        let transport = StubTransport { request in
            request.method == "GET" ? Self.listing(["a"]) : Self.failure("AccessDenied", 403)
        }
        let store = try store(transport)
        try store.connect()
        #expect(store.capabilities.features == [.rangedRead, .caseSensitive, .consistentListing, .emptyDirectories])
    }

    @Test(
        "a URL has the bucket where the settings want it",
        arguments: [
            (["endpoint": "http://h:1"], "http://h:1/bucket/a%20b/%C3%BC"),
            (["endpoint": "http://h:1", "addressing": "virtual"], "http://bucket.h:1/a%20b/%C3%BC"),
            (["endpoint": "", "region": "eu-west-1"], "https://bucket.s3.eu-west-1.amazonaws.com/a%20b/%C3%BC"),
            (
                ["endpoint": "", "region": "eu-west-1", "bucket_name": "with.dots"],
                "https://s3.eu-west-1.amazonaws.com/with.dots/a%20b/%C3%BC"
            ),
            (["endpoint": "h.example.org/"], "https://h.example.org/bucket/a%20b/%C3%BC"),
        ])
    func addressing(settings: [String: String], url: String) throws {
        let transport = StubTransport { _ in text("", [("ETag", "\"t\"")]) }
        _ = try store(transport, settings).metadata(of: StorePath("a b/ü")!)
        #expect(transport.requests.first?.url == url)
    }

    @Test(
        "settings that make no sense are named",
        arguments: [
            (["bucket_name": ""], "bucket_name"), (["endpoint": "ftp://x"], "endpoint"),
            (["endpoint": "https://x/path"], "endpoint"), (["addressing": "sideways"], "addressing"),
            (["encryption": "customer"], "encryption_key"), (["encryption": "rot13"], "encryption"),
            (["secret_access_key": ""], "secret_access_key"), (["access_key_id": ""], "access_key_id"),
        ])
    func badSettings(settings: [String: String], name: String) {
        do throws(StoreError) {
            _ = try store(StubTransport { _ in text("") }, settings)
            Issue.record("it was taken")
        } catch {
            #expect(error.code == .invalidArgument)
            #expect("\(error)".contains(name))
        }
    }
}
