import Glibc
import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// A server with OpenStack Swift's protocol that the project's test runner has started; the contract is tried on it in
/// `StoresTests`.
struct OpenStackSwiftTarget: Sendable, CustomTestStringConvertible {
    var name: String
    var settings: [String: String]
    var testDescription: String { name }

    static let all: [OpenStackSwiftTarget] = ["swift", "radosgw"].compactMap { name in
        guard let value = getenv("CLOUDFUSION_TEST_SWIFT_\(name.uppercased())") else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 4 else { return nil }
        return OpenStackSwiftTarget(
            name: name,
            settings: ["auth_url": words[0], "user": words[1], "password": words[2], "container": words[3]])
    }

    /// A store on a prefix of its own.
    func withStore<Result>(_ changes: [String: String] = [:], _ body: (OpenStackSwiftStore) throws -> Result) throws
        -> Result
    {
        let own = ["prefix": "server-\(UInt64.random(in: 0...UInt64.max))"]
        let store = try OpenStackSwiftStore(
            StoreSettings(settings.merging(own) { $1 }.merging(changes) { $1 }), environment: { _ in nil },
            statistics: Statistics(), transport: nil)
        defer { store.shutdown() }
        return try body(store)
    }
}

@Suite("OpenStack Swift against servers that are there")
struct OpenStackSwiftServerTests {
    private static let size = Int(OpenStackSwiftStore.multipartThreshold) + 5

    private func putLarge(
        _ store: OpenStackSwiftStore, _ path: StorePath, seed: UInt64, _ options: PutOptions = .init()
    )
        throws -> [UInt8]
    {
        let bytes = pattern(Self.size, seed: seed)
        try store.write(bytes, at: path, options)
        return bytes
    }

    /// The segments that belong to a path, by any manifest that it ever had.
    private func segments(_ store: OpenStackSwiftStore, _ path: StorePath) throws -> Set<[UInt8]> {
        let any = OpenStackSwiftSegments(owner: try store.key(path), name: "x", count: 1)
        let prefix = Array(any.prefix.dropLast(2))
        let listing = try store.listKeys(
            in: .segments, prefix: prefix, delimiter: false, maximum: 1000, after: nil, path)
        return Set(listing.objects.map(\.key))
    }

    @Test("trial objects are gone afterwards", arguments: OpenStackSwiftTarget.all)
    func probeLeavesNothing(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            #expect(try store.names(in: .root) == [])
            #expect(try store.names(in: StorePath(".cloudfusion")!) == [])
        }
    }

    @Test("what each server was found to do is what it does", arguments: OpenStackSwiftTarget.all)
    func traits(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            let traits = store.traits
            #expect(traits.checksCopySource == (target.name == "swift"))
            #expect(traits.keepsControls == true && traits.tagIsMD5)
            #expect(traits.mostSegments == (target.name == "swift" ? 10_000 : 1000))
            #expect(traits.deleteBatch == 50)
        }
    }

    @Test("the segments of a large object go with it, and with what replaces it", arguments: OpenStackSwiftTarget.all)
    func segmentsGo(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            let path = StorePath("large")!
            let first = try putLarge(store, path, seed: 1)
            let firstSegments = try segments(store, path)
            #expect(firstSegments.count == 3)
            #expect(try store.contents(of: path) == first)
            let second = try putLarge(store, path, seed: 2)
            let secondSegments = try segments(store, path)
            #expect(secondSegments.count == 3 && secondSegments.isDisjoint(with: firstSegments))
            #expect(try store.contents(of: path) == second)
            // A new mode does not make anybody forget them.
            _ = try store.setAttributes(Attributes(mode: 0o600), at: path, ifVersion: nil)
            #expect(try store.contents(of: path) == second)
            #expect(try store.entries(of: .root).map(\.metadata.size) == [Int64(Self.size)])
            try store.write([1], at: path)
            #expect(try segments(store, path) == [])
            _ = try putLarge(store, path, seed: 3)
            try store.delete(path)
            #expect(try segments(store, path) == [])
        }
    }

    @Test("a copy of a large object outlives it, and the other way round", arguments: OpenStackSwiftTarget.all)
    func copiesShareNothing(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            let (one, two, three) = (StorePath("one")!, StorePath("two")!, StorePath("three")!)
            let bytes = try putLarge(store, one, seed: 4, PutOptions(attributes: Attributes(mode: 0o640)))
            let copied = try store.copy(one, to: two, CopyOptions())
            #expect(copied.size == Int64(Self.size))
            _ = try store.copy(one, to: three, CopyOptions())
            try store.delete(one)
            #expect(try store.contents(of: two) == bytes)
            #expect(try store.metadata(of: two).attributes?.mode == 0o640)
            try store.write([1], at: two)
            #expect(try store.contents(of: three) == bytes)
            try store.delete(three)
            #expect(try segments(store, one).count + segments(store, two).count + segments(store, three).count == 0)
        }
    }

    @Test(
        "an upload that is taken up again after it was completed keeps its bytes", arguments: OpenStackSwiftTarget.all)
    func completedTwice(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            let path = StorePath("large")!
            let checkpoint = KeptCheckpoint()
            let bytes = try putLarge(store, path, seed: 5, PutOptions(checkpoint: checkpoint))
            // The program ended before it could forget the checkpoint.
            checkpoint.rewind()
            #expect(try putLarge(store, path, seed: 5, PutOptions(checkpoint: checkpoint)) == bytes)
            #expect(try store.contents(of: path) == bytes)
            // And the file was changed before it was taken up: the old bytes stay until the new ones count.
            checkpoint.rewind()
            let failure = Result {
                try store.write(
                    pattern(Self.size + 1, seed: 6), at: path,
                    PutOptions(
                        isWanted: { checkpoint.isUntouched || checkpoint.load() == nil }, checkpoint: checkpoint))
            }
            if case .success = failure { Issue.record("an upload that is no longer wanted was made") }
            #expect(try store.contents(of: path) == bytes)
        }
    }

    @Test(
        "a dynamic large object of others has its size and its bytes, and keeps them",
        arguments: OpenStackSwiftTarget.all)
    func dynamic(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            for (name, text) in [("parts/1", "part one, "), ("parts/2", "part two")] {
                try store.write(Array(text.utf8), at: StorePath(name)!)
            }
            var call = OpenStackSwiftCall(
                "PUT", try store.key(StorePath("whole")!), .requestsPut, .storePut, action: "the test failed")
            let parts = String(decoding: try store.key(StorePath("parts")!), as: UTF8.self)
            call.headers = [("X-Object-Manifest", "\(store.configuration.container)/\(parts)/")]
            call.body = UploadBody([UInt8]())
            _ = try store.send(call)
            let entry = try #require(try store.entries(of: .root).first { $0.name == FileName("whole") })
            #expect(entry.metadata.size == 18)
            #expect(try store.metadata(of: StorePath("whole")!).version == entry.metadata.version)
            _ = try store.setAttributes(Attributes(mode: 0o600), at: StorePath("whole")!, ifVersion: nil)
            #expect(try store.contents(of: StorePath("whole")!) == Array("part one, part two".utf8))
        }
    }

    @Test("what others have said of an object stays when its mode changes", arguments: OpenStackSwiftTarget.all)
    func othersHeaders(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            let path = StorePath("file.txt")!
            let headers = [
                ("X-Object-Meta-Colour", "grün"), ("X-Delete-At", "1999999999"), ("Content-Disposition", "inline"),
                ("Content-Type", "text/x-strange"),
            ]
            var call = OpenStackSwiftCall(
                "PUT", try store.key(path), .requestsPut, .storePut, action: "the test failed")
            call.headers = headers
            call.body = UploadBody([1, 2, 3])
            _ = try store.send(call)
            _ = try store.setAttributes(Attributes(mode: 0o600), at: path, ifVersion: nil)
            _ = try store.copy(path, to: StorePath("copy")!, CopyOptions(attributes: Attributes(mode: 0o640)))
            for name in ["file.txt", "copy"] {
                let found = try #require(try store.head(try store.key(StorePath(name)!), path))
                for (header, value) in headers { #expect(found[header] == value) }
            }
        }
    }

    @Test("attributes that the server takes in short pieces only come back whole", arguments: OpenStackSwiftTarget.all)
    func shortValues(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            store.state.withLock { $0.traits.longestValue = 100 }
            let path = StorePath("file")!
            let extended = ["user.long": pattern(500), "user.short": [1]]
            try store.write([1], at: path, PutOptions(attributes: Attributes(mode: 0o600, extended: extended)))
            #expect(try store.metadata(of: path).attributes?.extended == extended)
            _ = try store.setAttributes(Attributes(extended: ["user.short": [2]]), at: path, ifVersion: nil)
            #expect(try store.metadata(of: path).attributes?.extended == ["user.short": [2]])
        }
    }

    @Test("a directory of several pages is listed once, whole", arguments: OpenStackSwiftTarget.all)
    func pages(target: OpenStackSwiftTarget) throws {
        try target.withStore { store in
            try store.connect()
            store.state.withLock { $0.traits.listingLimit = 3 }
            let names = ["a", "a-b", "b/c", "b/d", "c", "d/e", "f", "g"]
            for name in names { try store.write([1], at: StorePath(name)!) }
            #expect(try store.names(in: .root).sorted() == ["a", "a-b", "b", "c", "d", "f", "g"])
        }
    }

    @Test("a quota that is used up is told as such")
    func quota() throws {
        for target in OpenStackSwiftTarget.all where target.name == "swift" {
            let container = "quota-\(UInt64.random(in: 0...UInt64.max))"
            try target.withStore(["container": container]) { store in
                var call = OpenStackSwiftCall("PUT", nil, .requestsPut, .storePut, action: "the test failed")
                call.headers = [("X-Container-Meta-Quota-Bytes", "1000")]
                _ = try store.send(call)
                try store.connect()
                #expect(try store.spaceUsage().total == 1000)
                let error = #expect(throws: StoreError.self) {
                    try store.write(pattern(2000), at: StorePath("file")!)
                }
                #expect(error?.code == .quotaExceeded)
                call.method = "DELETE"
                call.headers = []
                _ = try store.send(call)
            }
        }
    }

    @Test("a wrong password, a missing container and a dead server are told apart", arguments: OpenStackSwiftTarget.all)
    func wrongSettings(target: OpenStackSwiftTarget) throws {
        func error(_ changes: [String: String]) throws -> StoreError? {
            try target.withStore(changes) { store in
                // Nobody is to wait a minute for a server that is not there.
                store.tune(StoreTuning(overallTimeout: .seconds(3)))
                do throws(StoreError) { try store.connect() } catch {
                    #expect(!error.message.contains("not-the-secret"))
                    return error
                }
                return nil
            }
        }
        let wrongPassword = try error(["password": "not-the-secret"])
        let noContainer = try error(["container": "there-is-none"])
        let noServer = try error(["auth_url": "http://127.0.0.1:1/auth/v1.0"])
        #expect(wrongPassword?.code == .authenticationFailed && wrongPassword?.message.contains("password") == true)
        #expect(noContainer?.code == .storeNotFound && noContainer?.message.contains("there-is-none") == true)
        #expect(noServer?.code == .unavailable || noServer?.code == .timedOut)
    }
}

/// Remembers what was saved before it was forgotten.
private final class KeptCheckpoint: UploadCheckpoint {
    private let state = Lock<(now: String?, last: String?, isUntouched: Bool)>((nil, nil, true))

    var isUntouched: Bool { state.withLock { $0.isUntouched } }
    func load() -> String? { state.withLock { $0.now } }
    func save(_ text: String?) {
        state.withLock { state in
            state.now = text
            state.last = text ?? state.last
            state.isUntouched = false
        }
    }
    func rewind() {
        state.withLock { state in
            state.now = state.last
            state.isUntouched = true
        }
    }
}
