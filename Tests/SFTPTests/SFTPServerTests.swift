import Glibc
import Statistics
import StoreAPI
import StoreSSH
import StoreTesting
import Testing
import Threading

@testable import Stores

@Suite("SFTP against a server that is there")
struct SFTPServerTests {
    // MARK: Being let in

    /// How connecting fails; nil when it does not.
    private func failure(_ target: SFTPTarget, _ changes: [String: String], without: [String] = []) throws
        -> StoreError?
    {
        var settings = target.settings("", changes)
        for name in without { settings[name] = nil }
        let store = try SFTPStore(try StoreDescriptor.sftp.settings(from: settings), statistics: Statistics())
        defer { store.shutdown() }
        store.tune(StoreTuning(overallTimeout: .seconds(3)))
        do throws(StoreError) {
            try store.connect()
            return nil
        } catch {
            for name in ["password", "passphrase"] {
                if let secret = changes[name] { #expect(!error.message.contains(secret)) }
            }
            return error
        }
    }

    @Test("keys of each kind let in", arguments: SFTPTarget.all, ["user_key", "user_ecdsa"])
    func keys(target: SFTPTarget, name: String) throws {
        #expect(try failure(target, ["key_file": "\(target.keys)/\(name)"]) == nil)
    }

    @Test("an RSA key lets in, or it is said why this libssh2 cannot", arguments: SFTPTarget.all)
    func rsa(target: SFTPTarget) throws {
        guard let error = try failure(target, ["key_file": "\(target.keys)/user_rsa"]) else { return }
        #expect(error.code == .authenticationFailed && error.message.contains("use an Ed25519 key"))
    }

    @Test("an encrypted key needs its passphrase", arguments: SFTPTarget.all)
    func passphrase(target: SFTPTarget) throws {
        let file = "\(target.keys)/user_encrypted"
        #expect(try failure(target, ["key_file": file, "passphrase": "a passphrase"]) == nil)
        let missing = try #require(try failure(target, ["key_file": file]))
        #expect(missing.code == .authenticationFailed && missing.message.contains("set passphrase"))
        let wrong = try #require(try failure(target, ["key_file": file, "passphrase": "not-the-secret"]))
        #expect(wrong.code == .authenticationFailed && wrong.message.contains("passphrase is wrong"))
    }

    @Test(
        "a key that the server does not know, a file that is none, and one that is not there are told apart",
        arguments: SFTPTarget.all)
    func wrongKeys(target: SFTPTarget) throws {
        for (file, words) in [
            ("\(target.keys)/user_unknown", "not accepted"), (target.knownHosts, "no private key"),
            ("\(target.keys)/nothing", "No such file"),
        ] {
            let error = try #require(try failure(target, ["key_file": file]))
            #expect(error.code == .authenticationFailed && error.message.contains(words), "\(error.message)")
        }
    }

    @Test("a password lets in, also where the server asks for it as a question", arguments: SFTPTarget.withPassword)
    func password(target: SFTPTarget) throws {
        let password = try #require(target.password)
        #expect(try failure(target, ["password": password], without: ["key_file"]) == nil)
        let interactive = String(try #require(target.interactive))
        #expect(try failure(target, ["password": password, "port": interactive], without: ["key_file"]) == nil)
        for port in [String(target.port), interactive] {
            let error = try #require(
                try failure(target, ["password": "not-the-secret", "port": port], without: ["key_file"]))
            #expect(error.code == .authenticationFailed && error.message.contains("the password (not accepted)"))
        }
    }

    @Test("a key that is refused is followed by the password", arguments: SFTPTarget.withPassword)
    func both(target: SFTPTarget) throws {
        let password = try #require(target.password)
        #expect(try failure(target, ["password": password, "key_file": "\(target.keys)/user_unknown"]) == nil)
    }

    // MARK: The server's key

    @Test("an unknown server is refused, with its fingerprint and what to do", arguments: SFTPTarget.all)
    func unknownHost(target: SFTPTarget) throws {
        let known = "\(target.files)/\(try target.makeFolder()).known"
        try target.write("other.example.org ssh-ed25519 AAAA\n", to: known)
        let error = try #require(try failure(target, ["known_hosts": known]))
        #expect(error.code == .certificateRejected)
        #expect(error.message.contains("is not known: ssh-ed25519 SHA256:"))
        #expect(error.message.contains("ssh-keyscan -p \(target.port) 127.0.0.1 >> \(known)"))
        let missing = try #require(try failure(target, ["known_hosts": known + ".missing"]))
        #expect(missing.code == .certificateRejected && missing.message.contains("cannot be read"))
    }

    @Test("a server whose key has changed is refused, and both fingerprints are said", arguments: SFTPTarget.all)
    func changedHost(target: SFTPTarget) throws {
        let known = "\(target.files)/\(try target.makeFolder()).known"
        let other = try target.text(of: target.keys + "/user_key.pub").split(separator: " ").prefix(2).joined(
            separator: " ")
        try target.write("[127.0.0.1]:\(target.port) \(other)\n", to: known)
        let error = try #require(try failure(target, ["known_hosts": known]))
        #expect(error.code == .certificateRejected)
        #expect(error.message.contains("has changed") && error.message.contains("\(known):1"))
        #expect(error.message.split(separator: "SHA256:").count == 3)
        #expect(error.message.contains("ssh-keygen -R '[127.0.0.1]:\(target.port)'"))
        try target.write(
            "[127.0.0.1]:\(target.port) \(other)\n@revoked * " + target.text(of: target.keys + "/host_ed25519.pub"),
            to: known)
        let revoked = try #require(try failure(target, ["known_hosts": known]))
        #expect(revoked.message.contains("revoked in \(known):2"))
    }

    @Test("the server is asked for the kind of key that is known", arguments: SFTPTarget.all, ["ecdsa", "ed25519"])
    func kindOfKey(target: SFTPTarget, kind: String) throws {
        let known = "\(target.files)/\(try target.makeFolder()).known"
        let key = try target.text(of: "\(target.keys)/host_\(kind).pub")
        try target.write("[127.0.0.1]:\(target.port) \(key)", to: known)
        #expect(try failure(target, ["known_hosts": known]) == nil)
    }

    // MARK: What else can be wrong

    @Test(
        "a missing folder, a file as folder, a dead server and one without SFTP are told apart",
        arguments: SFTPTarget.all)
    func wrongSettings(target: SFTPTarget) throws {
        let missing = try #require(try failure(target, ["path": target.files + "/there-is-none"]))
        #expect(missing.code == .storeNotFound && missing.message.contains("'path'"))
        let file = try #require(try failure(target, ["path": target.knownHosts]))
        #expect(file.code == .storeNotFound && file.message.contains("'path'"))
        let dead = try #require(try failure(target, ["port": "1"]))
        #expect(dead.code == .unavailable && dead.message.contains("(port 1)"))
        let nowhere = try #require(try failure(target, ["host": "there-is-none.invalid"]))
        #expect(nowhere.code == .unavailable && nowhere.message.contains("cannot be found"))
        let bare = try #require(try failure(target, ["port": String(target.bare)]))
        #expect(bare.code == .unsupported && bare.message.contains("Subsystem sftp"))
    }

    @Test("a login that prints a text is named as the reason", arguments: SFTPTarget.withPassword)
    func chatty(target: SFTPTarget) throws {
        let port = try #require(target.chatty)
        let error = try #require(try failure(target, ["port": String(port)]))
        #expect(error.code == .unsupported && error.message.contains("Welcome to this machine"))
    }

    @Test("a full disk is told from one for reading only", arguments: SFTPTarget.withPassword)
    func disks(target: SFTPTarget) throws {
        func code(_ folder: String, _ size: Int) throws -> (StoreError.Code?, String) {
            try target.withStore("", ["path": "\(target.keys)/\(folder)"]) { store in
                try store.connect()
                do throws(StoreError) {
                    try store.write(pattern(size), at: StorePath("new")!)
                    #expect(try store.contents(of: StorePath("new")!) == pattern(size))
                    try store.delete(StorePath("new")!)
                    return (nil, "")
                } catch { return (error.code, error.message) }
            }
        }
        let full = try code("small", 6_000_000)
        #expect(full.0 == .quotaExceeded && full.1.contains("disk is full"), "\(full)")
        // Nothing is left of it.
        #expect(try code("small", 3_000_000).0 == nil)
        let fixed = try code("fixed", 10)
        #expect(fixed.0 == .readOnly && fixed.1.contains("for reading only"), "\(fixed)")
        try target.withStore("", ["path": "\(target.keys)/fixed"]) { store in
            try store.connect()
            #expect(try store.contents(of: StorePath("file")!) == Array("fixed".utf8))
        }
    }

    // MARK: Versions

    @Test("what replaces a file of the same size within a second has a version of its own", arguments: SFTPTarget.all)
    func versions(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try target.withStore(folder) { store in
            try store.connect()
            let path = StorePath("file")!
            var seen: Set<Version> = []
            for round in 0..<12 {
                let written = try store.write(pattern(100, seed: UInt64(round)), at: path)
                #expect(seen.insert(try #require(written.version)).inserted, "round \(round)")
                #expect(try store.metadata(of: path).version == written.version)
            }
        }
    }

    @Test(
        "an old time is kept, but where another content has it already; the same content has it again",
        arguments: SFTPTarget.all)
    func oldTimes(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try target.withStore(folder) { store in
            try store.connect()
            let path = StorePath("file")!
            let old = PutOptions(attributes: Attributes(mode: 0o644, modified: Timestamp(seconds: 1_000_000_000)))
            let first = try store.write([1, 2], at: path, old)
            #expect(first.modified == Timestamp(seconds: 1_000_000_000))
            let same = try store.write([1, 2], at: path, old)
            #expect(same.version == first.version)
            let other = try store.write([3, 4], at: path, old)
            #expect(other.modified == Timestamp(seconds: 1_000_000_001))
            let older = PutOptions(attributes: Attributes(mode: 0o644, modified: Timestamp(seconds: 999_999_990)))
            #expect(try store.write([5, 6], at: path, older).modified == Timestamp(seconds: 999_999_990))
        }
    }

    // MARK: Kinds of files

    @Test("symbolic links are kept as they are", arguments: SFTPTarget.all)
    func symbolicLinks(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        let clause = try #require(StoreContract.clauses.first { $0.name == "symbolic links are kept as they are" })
        try target.withStore(folder) { store in
            try store.connect()
            try clause.run(on: store)
        }
    }

    @Test("fifos are shown, never read, and refused", arguments: SFTPTarget.all)
    func fifos(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try #require(mkfifo("\(target.files)/\(folder)/fifo", 0o600) == 0)
        try target.withStore(folder) { store in
            try store.connect()
            let path = StorePath("fifo")!
            let found = try store.metadata(of: path)
            #expect(found.kind == .fifo)
            #expect(try store.contents(of: path, version: found.version) == [])
            #expect(throws: StoreError.self) { try store.contents(of: path, version: Version("1-0")) }
            #expect(try store.entries(of: .root).map(\.metadata.kind) == [.fifo])
            do throws(any Error) {
                try store.write([], at: StorePath("other")!, PutOptions(kind: .fifo))
                Issue.record("a fifo was made")
            } catch { #expect((error as? StoreError)?.code == .unsupported) }
            try store.delete(path)
            #expect(try store.names(in: .root) == [])
        }
    }

    @Test("of two names of one file a move leaves the new one", arguments: SFTPTarget.all)
    func hardLinks(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try target.withStore(folder) { store in
            try store.connect()
            try store.write([1], at: StorePath("one")!)
            try #require(link("\(target.files)/\(folder)/one", "\(target.files)/\(folder)/two") == 0)
            try store.move(StorePath("one")!, to: StorePath("two")!)
            #expect(try store.names(in: .root) == ["two"])
        }
    }

    // MARK: Places

    @Test("what uploads have left is removed after a day, and never listed", arguments: SFTPTarget.all)
    func leftovers(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        let place = "\(target.files)/\(folder)"
        try target.withStore(folder) { try $0.connect() }
        for (name, age) in [
            (".cloudfusion/tmp/old", 100_000), (".cloudfusion/tmp/new", 0), (".cloudfusion-tmp-old", 100_000),
            (".cloudfusion-tmp-new", 0),
        ] {
            try target.write("left", to: "\(place)/\(name)")
            var times = [timeval(tv_sec: time(nil) - age, tv_usec: 0), timeval(tv_sec: time(nil) - age, tv_usec: 0)]
            try #require(utimes("\(place)/\(name)", &times) == 0)
        }
        try target.withStore(folder) { store in
            try store.connect()
            #expect(try store.names(in: .root) == [])
        }
        let left = [".cloudfusion/tmp/old", ".cloudfusion/tmp/new", ".cloudfusion-tmp-old", ".cloudfusion-tmp-new"]
            .filter { access("\(place)/\($0)", F_OK) == 0 }
        #expect(left == [".cloudfusion/tmp/new", ".cloudfusion-tmp-new"])
    }

    @Test("where .cloudfusion cannot be made, files are written beside their place", arguments: SFTPTarget.all)
    func beside(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try target.write("in the way", to: "\(target.files)/\(folder)/.cloudfusion")
        try target.withStore(folder) { store in
            try store.connect()
            let path = StorePath("a/b/file")!
            try store.write([1, 2, 3], at: path)
            try store.write(
                [4], at: path, PutOptions(condition: .ifVersion(try #require(store.metadata(of: path).version))))
            try store.write([5], at: StorePath("a/other")!, PutOptions(condition: .ifAbsent))
            #expect(try store.contents(of: path) == [4])
            #expect(try store.names(in: .root) == ["a"])
            #expect(try store.names(in: StorePath("a")!) == ["b", "other"])
        }
    }

    @Test("the directory for new files is made again when it is gone", arguments: SFTPTarget.all)
    func temporaryGone(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try target.withStore(folder) { store in
            try store.connect()
            try #require(rmdir("\(target.files)/\(folder)/.cloudfusion/tmp") == 0)
            try store.write([1], at: StorePath("file")!)
            #expect(try store.contents(of: StorePath("file")!) == [1])
        }
    }

    @Test("a path from the account's home is found there", arguments: SFTPTarget.all)
    func home(target: SFTPTarget) throws {
        try target.withStore("", ["path": "~"]) { store in
            try store.connect()
            #expect(try store.metadata(of: .root).kind == .directory)
        }
        let home = String(cString: getpwuid(getuid()).pointee.pw_dir)
        let steps = home.split(separator: "/").map { _ in ".." }.joined(separator: "/")
        let folder = try target.makeFolder()
        try target.withStore("", ["path": steps + target.files + "/" + folder]) { store in
            try store.connect()
            try store.write([1], at: StorePath("a/file")!)
            #expect(access("\(target.files)/\(folder)/a/file", F_OK) == 0)
        }
    }

    // MARK: Lost connections

    @Test(
        "a listing in pages goes on after its connection was lost, and tells each entry once", arguments: SFTPTarget.all
    )
    func listing(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        for number in 0..<1_200 { try target.write("x", to: "\(target.files)/\(folder)/file \(number)") }
        try target.withStore(folder, pageSize: 500) { store in
            try store.connect()
            var names: [String] = []
            var pages = 0
            try store.forEachPage(of: .root) { (page: ListPage) throws(StoreError) in
                names += page.entries.map(\.name.description)
                pages += 1
                store.pool.reconnect()
            }
            #expect(pages >= 2)
            #expect(names.count == 1_200 && Set(names).count == 1_200)
            // What is left alone has to be begun anew, and that is said.
            let page = try store.list(.root, after: nil)
            store.reconnect()
            do throws(StoreError) {
                _ = try store.list(.root, after: page.next)
                Issue.record("it went on")
            } catch { #expect(error.code == .unavailable) }
        }
    }

    /// A store in a folder of its own whose connection is lost when `loses` of the folder's path.
    private func losing(
        _ target: SFTPTarget, prepare: (SFTPStore) throws -> Void = { _ in },
        when loses: @escaping @Sendable (_ place: String) -> Bool, _ body: (SFTPStore) throws -> Void
    ) throws {
        let folder = try target.makeFolder()
        let place = "\(target.files)/\(folder)"
        let wire = try Wire(to: target.port)
        defer { wire.end() }
        try target.withStore(folder, over: wire) { store in
            try store.connect()
            try prepare(store)
            wire.lose { loses(place) }
            try body(store)
            #expect(wire.cuts == 1, "nothing was lost")
            #expect(try store.names(in: StorePath(".cloudfusion/tmp")!) == [], "an upload was left")
        }
    }

    private static let path = StorePath("file")!

    @Test("a renaming whose answer is lost is not taken for a failure", arguments: SFTPTarget.all)
    func lostRename(target: SFTPTarget) throws {
        let bytes = pattern(10_000)
        try losing(target, when: { access("\($0)/file", F_OK) == 0 }) { store in
            let written = try store.write(bytes, at: Self.path)
            #expect(try store.metadata(of: Self.path).version == written.version)
            #expect(try store.contents(of: Self.path) == bytes)
        }
    }

    @Test("a creation whose answer is lost is not taken for somebody else's", arguments: SFTPTarget.all)
    func lostCreation(target: SFTPTarget) throws {
        let bytes = pattern(10_000)
        let times = Attributes(accessed: Timestamp(seconds: 5), modified: Timestamp(seconds: 1_000_000_000))
        try losing(target, when: { access("\($0)/file", F_OK) == 0 }) { store in
            let written = try store.write(bytes, at: Self.path, PutOptions(condition: .ifAbsent, attributes: times))
            let found = try store.metadata(of: Self.path)
            #expect(found.version == written.version && found.attributes?.accessed == times.accessed)
            #expect(try store.contents(of: Self.path) == bytes)
            do throws(StoreError) {
                try store.write([1], at: Self.path, PutOptions(condition: .ifAbsent))
                Issue.record("it was replaced")
            } catch { #expect(error.code == .preconditionFailed) }
        }
    }

    @Test("a replacement of a version whose answer is lost is done once", arguments: SFTPTarget.all)
    func lostReplacement(target: SFTPTarget) throws {
        let isReplaced: @Sendable (String) -> Bool = { place in
            var status = stat()
            return stat("\(place)/file", &status) == 0 && status.st_size == 20
        }
        try losing(target, prepare: { try $0.write([1], at: Self.path) }, when: isReplaced) { store in
            let version = try store.metadata(of: Self.path).version
            try store.write(pattern(20), at: Self.path, PutOptions(condition: .ifVersion(try #require(version))))
            #expect(try store.contents(of: Self.path) == pattern(20))
        }
    }

    @Test("a move whose answer is lost is not taken for a failure", arguments: SFTPTarget.all)
    func lostMove(target: SFTPTarget) throws {
        try losing(
            target, prepare: { try $0.write(pattern(20), at: Self.path) }, when: { access("\($0)/moved", F_OK) == 0 }
        ) { store in
            try store.move(Self.path, to: StorePath("moved")!)
            #expect(try store.contents(of: StorePath("moved")!) == pattern(20))
            do throws(StoreError) {
                try store.move(Self.path, to: StorePath("moved")!)
                Issue.record("what is not there was moved")
            } catch { #expect(error.code == .notFound) }
        }
    }

    @Test("a deletion whose answer is lost is done", arguments: SFTPTarget.all)
    func lostDeletion(target: SFTPTarget) throws {
        try losing(
            target, prepare: { try $0.write(pattern(20), at: Self.path) }, when: { access("\($0)/file", F_OK) != 0 }
        ) { store in
            try store.delete(Self.path)
            #expect(try !store.exists(Self.path))
        }
    }

    @Test(
        "a large file goes on where it was when the connection is lost, in both directions", arguments: SFTPTarget.all)
    func lostTransfers(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        let wire = try Wire(to: target.port)
        defer { wire.end() }
        let bytes = pattern(24 << 20)
        try target.withStore(folder, over: wire) { store in
            try store.connect()
            let file = try NamelessFile.temporary()
            try bytes.withUnsafeBytes { try file.write($0, at: 0) }
            let sent = Lock<Int64>(0)
            let cuts = Lock(0)
            _ = try store.put(
                UploadBody(descriptor: file.descriptor, length: Int64(bytes.count)), at: Self.path,
                PutOptions(progress: { amount in
                    let isDue = sent.withLock { sent in
                        sent += amount
                        return sent > 8 << 20
                    }
                    if isDue,
                        cuts.withLock({ cuts in
                            cuts += 1
                            return cuts == 1
                        })
                    {
                        wire.cut()
                    }
                }))
            #expect(sent.withLock { $0 } == Int64(bytes.count))
            #expect(try store.contents(of: Self.path) == bytes)

            let sink = CuttingSink(after: 8 << 20) { wire.cut() }
            _ = try store.read(Self.path, ReadRequest(), into: sink)
            #expect(sink.memory.bytes == bytes)
            #expect(sink.received < bytes.count + 1 << 20, "it was begun anew")
        }
    }

    @Test(
        "a server that stands still ends a request within its limits, and all goes on afterwards",
        arguments: SFTPTarget.all)
    func stall(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        let wire = try Wire(to: target.port)
        defer { wire.end() }
        try target.withStore(folder, over: wire) { store in
            try store.connect()
            try store.write([1], at: Self.path)
            store.tune(
                StoreTuning(connectTimeout: .seconds(1), stallTimeout: .seconds(1), overallTimeout: .seconds(2)))
            wire.standStill(true)
            do throws(StoreError) {
                _ = try store.metadata(of: Self.path)
                Issue.record("there was an answer")
            } catch { #expect(error.code == .timedOut) }
            wire.standStill(false)
            store.tune(StoreTuning(overallTimeout: .seconds(30)))
            #expect(try store.contents(of: Self.path) == [1])
        }
    }

    @Test("what is no longer wanted ends although the server stands still", arguments: SFTPTarget.all)
    func cancelled(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        let wire = try Wire(to: target.port)
        defer { wire.end() }
        try target.withStore(folder, over: wire) { store in
            try store.connect()
            let file = try NamelessFile.temporary()
            try pattern(4 << 20).withUnsafeBytes { try file.write($0, at: 0) }
            let isWanted = Lock(true)
            do throws(StoreError) {
                _ = try store.put(
                    UploadBody(descriptor: file.descriptor, length: 4 << 20), at: Self.path,
                    PutOptions(
                        isWanted: { isWanted.withLock { $0 } },
                        progress: { _ in
                            wire.standStill(true)
                            isWanted.withLock { $0 = false }
                        }))
                Issue.record("it was sent")
            } catch { #expect(error.code == .cancelled) }
            wire.standStill(false)
            #expect(try !store.exists(Self.path))
        }
    }

    // MARK: Many at once

    @Test("more requests than connections are under way at once, on few connections", arguments: SFTPTarget.all)
    func parallel(target: SFTPTarget) throws {
        let folder = try target.makeFolder()
        try target.withStore(folder, ["sessions": "2"]) { store in
            try store.connect()
            let results = race(32) { racer in
                for round in 0..<5 {
                    let path = StorePath("\(racer % 7)/\(racer)-\(round)")!
                    let bytes = pattern(5_000 + racer, seed: UInt64(racer * 10 + round))
                    try store.write(bytes, at: path)
                    guard try store.contents(of: path) == bytes else { throw ContractViolation("other bytes") }
                }
            }
            for result in results { try result.get() }
            #expect(try store.names(in: .root).count == 7)
        }
    }

    @Test("what goes over the wire is counted", arguments: SFTPTarget.all)
    func statistics(target: SFTPTarget) throws {
        let statistics = Statistics()
        let folder = try target.makeFolder()
        try target.withStore(folder, statistics: statistics) { store in
            try store.connect()
            try store.write(pattern(100_000), at: Self.path)
            _ = try store.contents(of: Self.path)
            let figures = statistics.snapshot()
            #expect(figures[.requestsPut] == 1 && figures[.requestsGet] == 1)
            #expect(figures[.bytesSent] > 100_000 && figures[.bytesReceived] > 100_000)
            #expect(figures[.storePut].count == 1 && figures[.requestsFailed] == 0)
        }
    }
}

/// Takes bytes, and does something once after so many.
private final class CuttingSink: ReadSink, @unchecked Sendable {
    let memory = MemorySink()
    private(set) var received = 0
    private let limit: Int
    private let cut: () -> Void
    private var isCut = false

    init(after limit: Int, _ cut: @escaping () -> Void) {
        self.limit = limit
        self.cut = cut
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        received += bytes.count
        try memory.write(bytes, at: offset)
        if received > limit, !isCut {
            isCut = true
            cut()
        }
    }
}
