import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Testing

@testable import Stores

/// A WebDAV server that the project's test runner has started; the contract is tried on it in `StoresTests`.
struct WebDAVTarget: Sendable, CustomTestStringConvertible {
    var name: String
    var settings: [String: String]
    var testDescription: String { name }

    static let all: [WebDAVTarget] = ["HTTPD", "WSGIDAV", "RCLONE"].compactMap { name in
        guard let value = getenv("CLOUDFUSION_TEST_WEBDAV_\(name)") else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 4 else { return nil }
        return WebDAVTarget(
            name: name.lowercased(), settings: ["url": words[0], "user": words[1], "password": words[2]])
    }

    func withStore<Result>(_ changes: [String: String] = [:], _ body: (WebDAVStore) throws -> Result) throws -> Result {
        let store = try WebDAVStore(StoreSettings(settings.merging(changes) { $1 }), statistics: Statistics())
        defer { store.shutdown() }
        return try body(store)
    }
}

@Suite("WebDAV against servers that are there")
struct WebDAVServerTests {
    @Test("trial files are gone afterwards", arguments: WebDAVTarget.all)
    func probeLeavesNothing(target: WebDAVTarget) throws {
        let folder = "probed-\(UInt64.random(in: 0...UInt64.max))"
        try target.withStore { try $0.createDirectory(at: StorePath(folder)!, Attributes()) }
        try target.withStore(["url": target.settings["url"]! + "/" + folder]) { store in
            try store.connect()
            #expect(try store.names(in: .root) == [])
            #expect(try store.names(in: StorePath(".cloudfusion")!).filter { $0 != "locks" && $0 != "tmp" } == [])
        }
        try target.withStore { try $0.deleteTree(StorePath(folder)!) }
    }

    @Test("what each server was found to do is what it does", arguments: WebDAVTarget.all)
    func traits(target: WebDAVTarget) throws {
        try target.withStore { store in
            try store.connect()
            #expect(store.traits.keepsTags)
            #expect(store.traits.locks == (target.name != "httpd"))
            #expect(store.traits.putsWhole == (target.name == "httpd"))
            #expect(store.traits.keepsMarks == (target.name != "wsgidav"))
            #expect(store.traits.keepsProperties == (target.name != "rclone"))
            #expect(!store.traits.checksums && !store.traits.takesTimes)
        }
    }

    @Test("a wrong password, a missing folder and a dead server are told apart", arguments: WebDAVTarget.all)
    func wrongSettings(target: WebDAVTarget) throws {
        func code(_ changes: [String: String]) throws -> StoreError.Code? {
            try target.withStore(changes) { store in
                // Nobody is to wait a minute for a server that is not there.
                store.tune(StoreTuning(overallTimeout: .seconds(3)))
                do throws(StoreError) {
                    try store.connect()
                    return nil
                } catch {
                    #expect(!error.message.contains("not-the-secret"))
                    return error.code
                }
            }
        }
        let wrongPassword = try code(["password": "not-the-secret"])
        let noCredentials = try code(["user": "", "password": ""])
        let noFolder = try code(["url": target.settings["url"]! + "/there-is-none"])
        let noServer = try code(["url": "http://127.0.0.1:1/"])
        #expect(wrongPassword == .authenticationFailed)
        #expect(noCredentials == .authenticationFailed)
        #expect(noFolder == .storeNotFound)
        #expect(noServer == .unavailable || noServer == .timedOut)
    }
}
