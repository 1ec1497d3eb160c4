import FoundationEssentials
import Glibc
import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// A server with Google Cloud Storage's API that the project's test runner has started; the contract is tried on it in
/// `StoresTests`.
struct GoogleTarget: Sendable, CustomTestStringConvertible {
    var name: String
    var endpoint: String
    var settings: [String: String]
    var testDescription: String { name }

    static let all: [GoogleTarget] = ["stub", "emulator"].compactMap { name in
        guard let value = getenv("CLOUDFUSION_TEST_GS_\(name.uppercased())") else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 3 else { return nil }
        let login = words[2] == "-" ? ["anonymous": "yes"] : ["credentials_file": words[2]]
        return GoogleTarget(
            name: name, endpoint: words[0],
            settings: ["endpoint": words[0], "bucket_name": words[1]].merging(login) { $1 })
    }
    /// The project's own, which can be told to behave badly.
    static let stubs = all.filter { $0.name == "stub" }

    /// A store on a prefix of its own.
    func withStore<Result>(
        _ changes: [String: String] = [:], environment: [String: String] = ["NO_GCE_CHECK": "true"],
        _ body: (GoogleStorageStore) throws -> Result
    ) throws -> Result {
        let own = ["prefix": "server-\(UInt64.random(in: 0...UInt64.max))"]
        let store = try GoogleStorageStore(
            StoreSettings(settings.merging(own) { $1 }.merging(changes) { $1 }),
            environment: ProcessEnvironment(environment), statistics: Statistics())
        defer { store.shutdown() }
        return try body(store)
    }

    /// A bucket of its own that does as `options` say (`Tests/rigs/gcs_server.py`).
    func withBucket<Result>(
        _ options: String = "{}", _ changes: [String: String] = [:],
        _ body: (GoogleStorageStore, GoogleBucket) throws -> Result
    ) throws -> Result {
        let bucket = GoogleBucket(endpoint: endpoint, name: "bucket-\(UInt64.random(in: 0...UInt64.max))")
        try bucket.change(options)
        return try withStore(["bucket_name": bucket.name, "prefix": ""].merging(changes) { $1 }) {
            try body($0, bucket)
        }
    }
}

/// A bucket of the project's own server, from behind.
struct GoogleBucket {
    struct State: Decodable {
        struct Object: Decodable {
            var size: String
            var md5Hash: String?
            var componentCount: Int?
            var metadata: [String: String]?
            var cacheControl: String?
            var contentType: String?
        }
        var objects: [String: Object]
        var sessions: Int
        var requests: [String: Int]
    }

    var endpoint: String
    var name: String

    private func ask(_ method: String, _ path: String, _ body: String? = nil) throws -> HTTPResponse {
        let client = HTTPClient(statistics: Statistics())
        defer { client.shutdown() }
        var request = HTTPRequest(method, endpoint + path, counter: .requestsOther, operation: .storeOther)
        request.body = body.map { UploadBody(Array($0.utf8)) }
        return try client.send(request)
    }

    func change(_ options: String) throws {
        try #require(try ask("PUT", "/control/buckets/\(name)", options).status == 200)
    }

    func state() throws -> State {
        try JSONDecoder().decode(State.self, from: Data(try ask("GET", "/control/buckets/\(name)").body))
    }

    func revokeTokens() throws { _ = try ask("DELETE", "/control/tokens") }

    /// Requests of a kind since a store was connected.
    func count(_ kind: String) throws -> Int { try state().requests[kind] ?? 0 }
}

@Suite("Google Cloud Storage against servers that are there")
struct GoogleStorageServerTests {
    private static let size = Int(GoogleStorageStore.multipartThreshold) + 5

    @Test("trial objects are gone afterwards", arguments: GoogleTarget.all)
    func probeLeavesNothing(target: GoogleTarget) throws {
        try target.withStore { store in
            try store.connect()
            #expect(try store.names(in: .root) == [])
            #expect(try store.names(in: StorePath(".cloudfusion")!) == [])
        }
    }

    @Test("what each server was found to do is what it does", arguments: GoogleTarget.all)
    func traits(target: GoogleTarget) throws {
        try target.withStore { store in
            try store.connect()
            let isStub = target.name == "stub"
            let expected = GoogleStorageTraits(
                checksWrites: isStub, checksDeletions: isStub, tellsGeneration: isStub, composes: true)
            #expect(store.traits == expected)
        }
    }

    @Test("a large file is put together of parts, of which none is left", arguments: GoogleTarget.all)
    func composed(target: GoogleTarget) throws {
        try target.withStore { store in
            try store.connect()
            let path = StorePath("large")!
            let bytes = pattern(Self.size, seed: 1)
            let attributes = Attributes(mode: 0o640, extended: ["user.long": pattern(3_000)])
            try store.write(bytes, at: path, PutOptions(attributes: attributes))
            #expect(try store.contents(of: path) == bytes)
            #expect(try store.metadata(of: path).attributes == attributes)
            #expect(try store.names(in: StorePath(".cloudfusion")!) == [])
        }
    }

    @Test("more parts than one request takes are put together in steps", arguments: GoogleTarget.stubs)
    func composedInSteps(target: GoogleTarget) throws {
        try target.withBucket { store, bucket in
            try store.connect()
            let path = StorePath("large")!
            // 33 parts: two groups, and the whole.
            let size = 32 * Int(PartPlan.usualPart) + 1
            let file = try ScratchFile(pattern(1 << 20))
            let body = UploadBody(
                (0..<256).map { _ in .file(descriptor: file.descriptor, offset: 0, length: 1 << 20) } + [.bytes([7])])
            let before = try bucket.count("compose")
            let written = try store.put(body, at: path, PutOptions())
            let state = try bucket.state()
            #expect(written.size == Int64(size) && written.md5 == nil)
            #expect(state.requests["compose"] == before + 3)
            #expect(state.objects.keys.sorted() == ["large"])
            #expect(state.objects["large"]?.componentCount == 33)
            #expect(try store.contents(of: path, Int64(size - 3)..<Int64(size)).last == 7)
        }
    }

    @Test("without composite uploads a large file goes in pieces, and has an MD5", arguments: GoogleTarget.stubs)
    func pieces(target: GoogleTarget) throws {
        try target.withBucket("{}", ["composite_uploads": "no"]) { store, bucket in
            try store.connect()
            #expect(!store.traits.composes)
            let path = StorePath("large")!
            let bytes = pattern(Self.size, seed: 2)
            let before = try bucket.count("piece")
            try store.write(bytes, at: path)
            #expect(try bucket.count("piece") == before + 2)
            #expect(try bucket.state().sessions == 0)
            #expect(try store.metadata(of: path).md5 == Digest.md5(bytes))
            #expect(try store.contents(of: path) == bytes)
        }
    }

    @Test("a piece that breaks off goes on where the server has it", arguments: GoogleTarget.stubs)
    func brokenPieces(target: GoogleTarget) throws {
        try target.withBucket("{}", ["composite_uploads": "no"]) { store, bucket in
            try store.connect()
            try bucket.change(
                #"{"faults": [{"kind": "piece", "after": 5000000, "times": 2}, {"kind": "piece", "lost": true, "times": 2}]}"#
            )
            let path = StorePath("large")!
            let bytes = pattern(Self.size, seed: 3)
            let tally = Lock<Int64>(0)
            try store.write(bytes, at: path, PutOptions(progress: { amount in tally.withLock { $0 += amount } }))
            #expect(tally.withLock { $0 } == Int64(Self.size))
            #expect(try store.contents(of: path) == bytes)
        }
    }

    @Test("an upload in pieces is taken up again by another store", arguments: GoogleTarget.stubs)
    func resumed(target: GoogleTarget) throws {
        try target.withBucket("{}", ["composite_uploads": "no"]) { store, bucket in
            try store.connect()
            let path = StorePath("large")!
            let bytes = pattern(Self.size * 2, seed: 4)
            let whole = try ScratchFile(bytes)
            let cut = try ScratchFile(Array(bytes[..<(Self.size * 2 - 100)]))
            let checkpoint = SavedCheckpoint()
            func put(_ file: ScratchFile, _ progress: @escaping @Sendable (Int64) -> Void = { _ in }) throws -> Metadata
            {
                try store.put(
                    UploadBody(descriptor: file.descriptor, length: Int64(bytes.count)), at: path,
                    PutOptions(condition: .ifAbsent, progress: progress, checkpoint: checkpoint))
            }
            #expect(throws: StoreError.self) { _ = try put(cut) }
            // Nothing was begun: the sums of what was to be sent could not be made.
            #expect(checkpoint.load() == nil)
            try bucket.change(#"{"faults": [{"kind": "piece", "status": 403, "reason": "forbidden", "times": 1}]}"#)
            #expect(throws: StoreError.self) { _ = try put(whole) }
            #expect(checkpoint.load() == nil)
            #expect(try bucket.state().sessions == 0)
            // A refusal that may pass: what was begun stays.
            try bucket.change(
                #"{"faults": [{"kind": "piece", "after": 100, "times": 1}, {"kind": "piece", "status": 500, "reason": "backendError", "times": 99}]}"#
            )
            store.tune(StoreTuning(overallTimeout: .seconds(1)))
            #expect(throws: StoreError.self) { _ = try put(whole) }
            #expect(checkpoint.load() != nil)
            try bucket.change(#"{"faults": []}"#)
            store.tune(StoreTuning())
            #expect(try put(whole).size == Int64(bytes.count))
            #expect(checkpoint.load() == nil)
            #expect(try store.contents(of: path) == bytes)
        }
    }

    @Test("a write whose answer is lost is known for our own", arguments: GoogleTarget.stubs)
    func lostAnswers(target: GoogleTarget) throws {
        try target.withBucket { store, bucket in
            try store.connect()
            try bucket.change(
                #"{"faults": [{"kind": "insert", "name": "", "lost": true, "times": 1}, {"kind": "compose", "lost": true, "times": 1}, {"kind": "rewrite", "lost": true, "times": 1}]}"#
            )
            let small = try store.write([1], at: StorePath("small")!, PutOptions(condition: .ifAbsent))
            #expect(try store.metadata(of: StorePath("small")!).version == small.version)
            let large = try store.write(pattern(Self.size), at: StorePath("large")!, PutOptions(condition: .ifAbsent))
            #expect(try store.metadata(of: StorePath("large")!).version == large.version)
            let copy = try store.copy(StorePath("small")!, to: StorePath("copy")!, CopyOptions(condition: .ifAbsent))
            #expect(try store.metadata(of: StorePath("copy")!).version == copy.version)
            #expect(try bucket.state().objects.count == 3)
        }
    }

    @Test("a copy that takes several requests is made", arguments: GoogleTarget.stubs)
    func copiedInSteps(target: GoogleTarget) throws {
        try target.withBucket(#"{"rewrite": 1000000}"#) { store, bucket in
            try store.connect()
            let bytes = pattern(4_500_000, seed: 5)
            try store.write(bytes, at: StorePath("source")!, PutOptions(attributes: Attributes(mode: 0o600)))
            let before = try bucket.count("rewrite")
            _ = try store.copy(StorePath("source")!, to: StorePath("copy")!, CopyOptions())
            #expect(try bucket.count("rewrite") == before + 5)
            #expect(try store.contents(of: StorePath("copy")!) == bytes)
            #expect(try store.metadata(of: StorePath("copy")!).attributes?.mode == 0o600)
        }
    }

    @Test(
        "a directory of several pages is listed once, whole, with the attributes of directories", arguments: [1, 2, 3])
    func pages(length: Int) throws {
        for target in GoogleTarget.stubs {
            try target.withBucket { store, bucket in
                try store.connect()
                try bucket.change("{\"page\": \(length)}")
                let names = ["a", "a-b", "b/c", "b/d", "c", "d/e", "f", "g"]
                for name in names { try store.write([1], at: StorePath(name)!) }
                for name in ["b", "h", "i"] { try store.createDirectory(at: StorePath(name)!, Attributes(mode: 0o711)) }
                try store.write([1], at: StorePath("h/inside")!)
                let entries = try store.entries(of: .root)
                #expect(entries.map(\.name.description).sorted() == ["a", "a-b", "b", "c", "d", "f", "g", "h", "i"])
                let modes = Dictionary(entries.map { ($0.name.description, $0.metadata.attributes?.mode) }) { $1 }
                #expect(modes["b"] == 0o711 && modes["h"] == 0o711 && modes["i"] == 0o711)
                #expect(modes["d"] == .some(nil))
                #expect(entries.filter { $0.metadata.kind == .directory }.count == 4)
            }
        }
    }

    @Test(
        "what others have said of an object stays when its mode changes, and when it is copied",
        arguments: GoogleTarget.stubs)
    func othersMetadata(target: GoogleTarget) throws {
        try target.withBucket { store, bucket in
            try store.connect()
            let path = StorePath("file.txt")!
            let request = GoogleStorageRequest(
                name: "file.txt",
                description: GoogleStorageDescription(
                    contentType: "text/x-strange", cacheControl: "no-cache",
                    metadata: ["Colour": "grün", "mode": "0100644"]))
            _ = try store.insert(
                UploadBody([1, 2, 3]), request, action: "the test failed", path, counter: .requestsPut, isWanted: nil,
                progress: nil)
            _ = try store.setAttributes(Attributes(mode: 0o600), at: path, ifVersion: nil)
            _ = try store.copy(path, to: StorePath("copy")!, CopyOptions(attributes: Attributes(mode: 0o640)))
            _ = try store.copy(path, to: StorePath("other")!, CopyOptions(condition: .ifAbsent))
            for (name, mode) in [("file.txt", "0100600"), ("copy", "0100640"), ("other", "0100600")] {
                let found = try #require(try bucket.state().objects[name])
                #expect(found.metadata?["Colour"] == "grün" && found.metadata?["mode"] == mode)
                #expect(found.cacheControl == "no-cache" && found.contentType == "text/x-strange")
            }
        }
    }

    @Test("attributes that others change at the same time are not lost", arguments: GoogleTarget.stubs)
    func attributesAtOnce(target: GoogleTarget) throws {
        try target.withBucket { store, _ in
            try store.connect()
            let path = StorePath("file")!
            try store.write([1], at: path, PutOptions(attributes: Attributes(mode: 0o644)))
            let changes = [Attributes(mode: 0o600), Attributes(uid: 7), Attributes(gid: 8)]
            try store.session.parallel.run(3, parallel: 3) { (number) throws(StoreError) in
                _ = try store.setAttributes(changes[number], at: path, ifVersion: nil)
            }
            let found = try store.metadata(of: path).attributes
            #expect(found?.mode == 0o600 && found?.uid == 7 && found?.gid == 8)
        }
    }

    @Test("a token that was revoked is replaced, and nobody notices", arguments: GoogleTarget.stubs)
    func revoked(target: GoogleTarget) throws {
        try target.withBucket { store, bucket in
            try store.connect()
            try store.write([1], at: StorePath("file")!)
            try bucket.revokeTokens()
            #expect(try store.contents(of: StorePath("file")!) == [1])
        }
    }

    @Test(
        "a user's login, the machine's account, and no login at all get in where they may",
        arguments: GoogleTarget.stubs)
    func logins(target: GoogleTarget) throws {
        let folder = target.settings["credentials_file"]!.split(separator: "/").dropLast().joined(separator: "/")
        let user = "/\(folder)/user.json"
        let host = String(target.endpoint.dropFirst("http://".count))
        let none = ["credentials_file": ""]
        for (changes, environment, origin) in [
            (["credentials_file": user], [:], "a user's login ('\(user)')"),
            (none, ["GOOGLE_APPLICATION_CREDENTIALS": user], "a user's login ('\(user)')"),
            (none, ["HOME": "/nowhere", "GCE_METADATA_HOST": host], "the machine's service account"),
        ] {
            try target.withStore(changes, environment: environment) { store in
                try store.connect()
                try store.write([1], at: StorePath("file")!)
                #expect(try store.accountInformation().last?.value == origin)
            }
        }
        try target.withBucket(#"{"public": true}"#) { store, bucket in
            try store.connect()
            try store.write([1, 2], at: StorePath("file")!)
            let changes = ["bucket_name": bucket.name, "prefix": "", "anonymous": "yes", "credentials_file": ""]
            try target.withStore(changes) { anonymous in
                try anonymous.connect()
                #expect(try anonymous.contents(of: StorePath("file")!) == [1, 2])
                let error = #expect(throws: StoreError.self) { try anonymous.write([3], at: StorePath("new")!) }
                #expect(error?.message.contains("the bucket is not public") == true)
            }
        }
    }

    @Test("what is wrong is told in one sentence", arguments: GoogleTarget.stubs)
    func wrongSettings(target: GoogleTarget) throws {
        func sentence(_ changes: [String: String]) throws -> StoreError? {
            try target.withStore(changes, environment: ["HOME": "/nowhere", "NO_GCE_CHECK": "true"]) { store in
                // Nobody is to wait a minute for a server that is not there.
                store.tune(StoreTuning(overallTimeout: .seconds(3)))
                do throws(StoreError) { try store.connect() } catch {
                    let said = error.message + (error.cause ?? "")
                    #expect(!said.contains("rigrefresh") && !said.contains("PRIVATE"))
                    return error
                }
                return nil
            }
        }
        let key = try #require(try ProcessEnvironment.contents(of: target.settings["credentials_file"]!))
        // The key of somebody else.
        let other = try ScratchFile(Array(key.replacing("rig@project", with: "nobody@project").utf8))
        let otherKey = try sentence(["credentials_file": other.path])
        #expect(otherKey?.code == .authenticationFailed)
        #expect(otherKey?.message.contains("invalid_grant; the key is not valid any more") == true)
        let user = key.replacing("service_account", with: "authorized_user")
        let halfUser = try ScratchFile(Array(user.utf8))
        #expect(
            try sentence(["credentials_file": halfUser.path])?.message.contains("lacks client_id")
                == true)
        let noBucket = try sentence(["bucket_name": "there-is-none"])
        #expect(noBucket?.code == .storeNotFound)
        #expect(noBucket?.message.contains("there is no bucket 'there-is-none': check bucket_name") == true)
        let noServer = try sentence(["endpoint": "http://127.0.0.1:1"])
        #expect(noServer?.code == .unavailable || noServer?.code == .timedOut)
        let nothing = try sentence(["credentials_file": ""])
        #expect(
            nothing?.code == .authenticationFailed && nothing?.message.contains("no credentials were found") == true)
        let noFile = try sentence(["credentials_file": "/nowhere/key.json"])
        #expect(noFile?.message == "credentials_file names '/nowhere/key.json', which does not exist")
        let anonymous = try sentence(["credentials_file": "", "anonymous": "yes"])
        #expect(anonymous?.message.contains("the bucket is not public: set credentials_file") == true)
    }

    @Test(
        "requests are slowed down, refused for a quota, or paid for by another project", arguments: GoogleTarget.stubs)
    func quotas(target: GoogleTarget) throws {
        try target.withBucket { store, bucket in
            try store.connect()
            let path = StorePath("file")!
            try bucket.change(
                #"{"faults": [{"kind": "insert", "status": 403, "reason": "rateLimitExceeded", "times": 1}, {"kind": "insert", "status": 429, "reason": "rateLimitExceeded", "times": 1}]}"#
            )
            try store.write([1], at: path)
            try bucket.change(
                #"{"faults": [{"kind": "insert", "status": 403, "reason": "quotaExceeded", "times": 1}]}"#)
            let full = #expect(throws: StoreError.self) { try store.write([2], at: path) }
            #expect(full?.code == .quotaExceeded && full?.message.contains("a quota of the project is used up") == true)
            #expect(try store.contents(of: path) == [1])
            try bucket.change(#"{"requester_pays": true}"#)
            let unpaid = #expect(throws: StoreError.self) { try store.connect() }
            #expect(unpaid?.message.contains("set project to one of yours") == true)
            try target.withStore(["bucket_name": bucket.name, "prefix": "", "project": "mine"]) { paying in
                try paying.connect()
                #expect(try paying.contents(of: path) == [1])
            }
        }
    }
}

/// A file in /tmp, for as long as this is there.
final class ScratchFile: Sendable {
    let path: String
    let descriptor: Int32

    init(_ bytes: [UInt8]) throws {
        var template = Array("/tmp/cloudfusion-test-XXXXXX".utf8CString)
        descriptor = mkstemp(&template)
        path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        try #require(descriptor >= 0)
        let written = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress!, $0.count) }
        try #require(written == bytes.count)
    }

    deinit {
        close(descriptor)
        unlink(path)
    }
}

/// In memory.
private final class SavedCheckpoint: UploadCheckpoint {
    private let state = Lock<String?>(nil)
    func load() -> String? { state.withLock { $0 } }
    func save(_ text: String?) { state.withLock { $0 = text } }
}
