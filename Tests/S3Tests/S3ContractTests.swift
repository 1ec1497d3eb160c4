import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Testing

@testable import Stores

/// A server that the project's test runner has started: see `StoreFixtures.swift`, where the contract is tried on it.
struct S3Target: Sendable, CustomTestStringConvertible {
    var name: String
    var settings: [String: String]

    var testDescription: String { name }

    static let all: [S3Target] = ["radosgw", "swift", "moto", "rclone"].compactMap { name in
        guard let value = getenv("CLOUDFUSION_TEST_S3_\(name.uppercased())") else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 5 else { return nil }
        return S3Target(
            name: name,
            settings: [
                "endpoint": words[0], "region": words[1], "access_key_id": words[2], "secret_access_key": words[3],
                "bucket_name": words[4],
            ])
    }

    func makeStore(prefix: String, changing changes: [String: String] = [:]) throws -> S3Store {
        let settings = settings.merging(["prefix": prefix]) { $1 }.merging(changes) { $1 }
        return try S3Store(StoreSettings(settings), environment: ProcessEnvironment([:]), statistics: Statistics())
    }
}

@Suite("S3 against servers that are there")
struct S3ServerTests {
    @Test("trial objects are gone afterwards", arguments: S3Target.all)
    func probeLeavesNothing(target: S3Target) throws {
        let store = try target.makeStore(prefix: "probed-\(UInt64.random(in: 0...UInt64.max))")
        defer { store.shutdown() }
        try store.connect()
        let root = try store.names(in: .root)
        let own = try store.names(in: StorePath(".cloudfusion")!)
        #expect(root + own == [])
    }

    @Test("a name with control characters is a file like any other", arguments: S3Target.all)
    func controls(target: S3Target) throws {
        let store = try target.makeStore(prefix: "controls-\(UInt64.random(in: 0...UInt64.max))")
        defer { store.shutdown() }
        try store.connect()
        // moto's web server takes no line feed in a path: there names are quoted.
        #expect(store.traits.keepsControls == (target.name != "moto"))
        let odd = FileName(Array(1...0x1F) + [0x7F] + Array("\u{FFFE}\u{FFFF}".utf8))!
        let directory = StorePath.root.appending(odd)
        let (file, copy, large) = (
            directory.appending(odd), directory / "copy", directory.appending(FileName("\r\u{1}")!)
        )
        let bytes = [UInt8](repeating: 7, count: 17 << 20)
        try store.write([1, 2, 3], at: file)
        try store.write(bytes, at: large)
        _ = try store.copy(file, to: copy, CopyOptions())
        #expect(try store.list(.root, after: nil).entries.map(\.name) == [odd])
        #expect(
            Set(try store.list(directory, after: nil).entries.map(\.name)) == [
                odd, FileName("copy"), FileName("\r\u{1}"),
            ])
        #expect(try store.contents(of: copy) == [1, 2, 3])
        #expect(try store.metadata(of: large).size == Int64(bytes.count))
        #expect(store.delete([file, copy, large]).allSatisfy { $0 == nil })
        #expect(try store.list(directory, after: nil).entries.isEmpty)
    }

    @Test("a wrong secret, key or bucket is told from the others", arguments: S3Target.all.filter { $0.name != "moto" })
    func wrongSettings(target: S3Target) throws {
        // moto is left out: it takes any signature.
        func code(_ changes: [String: String]) throws -> StoreError.Code? {
            let store = try target.makeStore(prefix: "", changing: changes)
            defer { store.shutdown() }
            do throws(StoreError) {
                try store.connect()
                return nil
            } catch {
                #expect(!error.message.contains("not-the-secret"))
                return error.code
            }
        }
        let wrongKey = try code(["access_key_id": "nobody"])
        let noServer = try code(["endpoint": "http://127.0.0.1:1"])
        let wrongSecret = try code(["secret_access_key": "not-the-secret"])
        let wrongBucket = try code(["bucket_name": "there-is-no-such-bucket"])
        #expect(wrongSecret == .authenticationFailed)
        #expect(wrongKey == .authenticationFailed || wrongKey == .accessDenied)
        #expect(wrongBucket == .storeNotFound)
        #expect(noServer == .unavailable || noServer == .timedOut)
    }
}
