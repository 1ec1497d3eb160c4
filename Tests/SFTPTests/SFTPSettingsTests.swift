import StoreAPI
import Testing
import Threading

@testable import Stores

@Suite("Settings of SFTP stores")
struct SFTPSettingsTests {
    private func configuration(_ given: [String: String]) throws -> SFTPConfiguration {
        try SFTPConfiguration(try StoreDescriptor.sftp.settings(from: given))
    }

    @Test(
        "URLs name user, host, port and path; a tilde leads to the account's home",
        arguments: [
            ("anna@host:2222/srv/files", ["user": "anna", "host": "host", "port": "2222", "path": "/srv/files"]),
            ("host", ["host": "host"]), ("host/", ["host": "host", "path": "/"]),
            ("host/~", ["host": "host"]), ("host/~/photos/2026", ["host": "host", "path": "photos/2026"]),
            ("host/with%20space", ["host": "host", "path": "/with space"]),
            ("a%40b@[::1]:22/x", ["user": "a@b", "host": "[::1]", "port": "22", "path": "/x"]),
            ("[fe80::1]", ["host": "[fe80::1]"]),
        ] as [(String, [String: String])])
    func urls(rest: String, settings: [String: String]) {
        #expect(StoreDescriptor.sftp.settingsFromURL("sftp", rest) == settings)
    }

    @Test(
        "URLs with a password, without a host or with a port that is none are refused",
        arguments: [
            "anna:secret@host/", "/srv", "", "@host/x", "host:0/", "host:x/", "host:65536/", "ho st/", "host/%zz",
        ])
    func wrongURLs(rest: String) { #expect(StoreDescriptor.sftp.settingsFromURL("sftp", rest) == nil) }

    @Test("one place has one identity, however it is written")
    func identity() throws {
        func identity(_ given: [String: String]) throws -> String {
            StoreDescriptor.sftp.identity(try StoreDescriptor.sftp.settings(from: given))
        }
        let one = try identity(["host": "Host", "user": "anna", "path": "/srv//files/./"])
        #expect(try one == identity(["host": "host", "user": "anna", "port": "22", "path": "/srv/files"]))
        #expect(try one != identity(["host": "host", "user": "anna", "path": "srv/files"]))
        #expect(try one != identity(["host": "host", "user": "otto", "path": "/srv/files"]))
        #expect(
            try identity(["host": "h", "user": "a", "path": "~/x"])
                == identity(["host": "h", "user": "a", "path": "x"]))
    }

    @Test("what is missing or does not fit together is named")
    func wrong() {
        for (given, word) in [
            ([:], "host"), (["host": "user@host"], "host"), (["host": "h", "passphrase": "x"], "key_file"),
            (["host": "h", "port": "0"], "port"), (["host": "h", "key_file": "relative"], "key_file"),
            (["host": "h", "sessions": "100"], "sessions"),
        ] as [([String: String], String)] {
            do throws(any Error) {
                _ = try configuration(given)
                Issue.record("\(given) was taken")
            } catch {
                #expect((error as? StoreError)?.code == .invalidArgument)
                #expect("\(error)".contains(word))
            }
        }
    }

    @Test("secrets are declared as such")
    func secrets() {
        let secrets = StoreDescriptor.sftp.options.filter { $0.kind == .secret }.map(\.name)
        #expect(secrets == ["passphrase", "password"])
    }

    @Test("times are kept in whole seconds, from 1970 to 2106")
    func times() {
        let kept = StoreTimes.unsignedSeconds.kept
        #expect(kept(Timestamp(seconds: 5, nanoseconds: 999_999_999)) == Timestamp(seconds: 5))
        #expect(kept(Timestamp(seconds: -1, nanoseconds: 1)) == Timestamp(seconds: 0))
        #expect(kept(Timestamp(seconds: 5_000_000_000)) == Timestamp(seconds: 4_294_967_295))
        #expect(StoreTimes.exact.kept(Timestamp(nanoseconds: -1)) == Timestamp(nanoseconds: -1))
        #expect(SFTPStore.seconds(Timestamp(seconds: 4_294_967_295)) == .max)
    }
}
