import CShim
import Glibc
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Stores

/// Runs `body` with a store on a fresh directory.
private func withLocalStore<Result>(
    fsync: Bool = true, pageSize: Int = 1_000, clock: any Clock = SystemClock(),
    _ body: (LocalStore, TemporaryDirectory) throws -> Result
) throws -> Result {
    let directory = try TemporaryDirectory()
    defer { directory.remove() }
    let store = LocalStore(path: directory.path, fsync: fsync, pageSize: pageSize, clock: clock)
    defer { store.shutdown() }
    return try body(store, directory)
}

@Suite("A store in a local directory")
struct LocalStoreTests {
    @Test("a file of the directory is an object, and an object is a file")
    func plain() throws {
        try withLocalStore { store, directory in
            directory.write([1, 2, 3], to: "by hand", mode: 0o600)
            #expect(try store.contents(of: .root / "by hand") == [1, 2, 3])
            #expect(try store.metadata(of: .root / "by hand").attributes?.mode == 0o600)
            try store.write([4, 5], at: .root / "a" / "b", PutOptions(attributes: Attributes(mode: 0o4711)))
            var status = stat()
            #expect(lstat("\(directory.path)/a/b", &status) == 0)
            #expect(status.st_mode == S_IFREG | 0o4711)
            #expect(status.st_size == 2)
        }
    }

    @Test("what is CloudFusion's own is not listed, and no temporary file is left")
    func hidden() throws {
        try withLocalStore { store, directory in
            try store.connect()
            try store.write([1], at: .root / "object")
            #expect(throws: StoreError.self) {
                try store.write([1], at: .root / "unwanted", PutOptions(isWanted: { false }))
            }
            #expect(try store.names(in: .root) == ["object"])
            #expect(try store.names(in: .root / ".cloudfusion" / "tmp") == [])
        }
    }

    @Test("no symbolic link leads out of the directory or elsewhere in it")
    func links() throws {
        let outside = try TemporaryDirectory()
        defer { outside.remove() }
        outside.write([9], to: "secret")
        try withLocalStore { store, directory in
            #expect(symlink(outside.path, "\(directory.path)/out") == 0)
            #expect(symlink("\(outside.path)/secret", "\(directory.path)/file") == 0)
            let below = .root / "out" / "secret"
            #expect(throws: StoreError.self) { try store.contents(of: below) }
            #expect(throws: StoreError.self) { try store.write([1], at: below) }
            #expect(throws: StoreError.self) { try store.write([1], at: .root / "out" / "new") }
            #expect(throws: StoreError.self) { try store.createDirectory(at: .root / "out" / "new", Attributes()) }
            #expect(throws: StoreError.self) { try store.entries(of: .root / "out") }
            #expect(throws: StoreError.self) { try store.move(below, to: .root / "moved") }
            #expect(throws: StoreError.self) { try store.copy(below, to: .root / "copied", CopyOptions()) }
            #expect(store.delete([below]).count == 1)
            // The link itself can be changed and replaced; what it leads to stays.
            _ = try store.setAttributes(
                Attributes(mode: 0o600, modified: Timestamp(seconds: 5)), at: .root / "file", ifVersion: nil)
            try store.write([1], at: .root / "file")
            #expect(try store.contents(of: .root / "file") == [1])
            try store.delete(.root / "out")
            var status = stat()
            #expect(lstat("\(outside.path)/secret", &status) == 0)
            #expect(status.st_mode == S_IFREG | 0o644)
            #expect(status.st_mtim.tv_sec > 1_000)
            #expect(lstat("\(outside.path)/new", &status) != 0)
        }
    }

    @Test("reading a fifo or a device does not hang and gives nothing")
    func specialFiles() throws {
        try withLocalStore { store, directory in
            #expect(mkfifo("\(directory.path)/fifo", 0o644) == 0)
            let content = try store.contents(of: .root / "fifo")
            #expect(content == [])
            let copy = try store.copy(.root / "fifo", to: .root / "second", CopyOptions())
            #expect(copy.kind == .fifo)
        }
    }

    @Test("a change in place by another program is a new version")
    func foreignChange() throws {
        try withLocalStore { store, directory in
            let old = try store.write([1, 2, 3], at: .root / "object")
            directory.write([4, 5], to: "object")
            let found = try store.metadata(of: .root / "object")
            #expect(found.version != old.version)
            #expect(throws: StoreError.self) { try store.contents(of: .root / "object", version: old.version) }
            #expect(throws: StoreError.self) {
                try store.write([6], at: .root / "object", PutOptions(condition: .ifVersion(old.version!)))
            }
            #expect(try store.contents(of: .root / "object") == [4, 5])
        }
    }

    @Test("an object put again with the same length and time has another version")
    func sameTime() throws {
        try withLocalStore { store, _ in
            let options = PutOptions(attributes: Attributes(modified: Timestamp(seconds: 1_000)))
            let versions = try (0..<4).map { try store.write([UInt8($0)], at: .root / "object", options).version }
            #expect(zip(versions, versions.dropFirst()).allSatisfy { $0 != $1 })
        }
    }

    @Test("a version lives on through another mode, owner, attribute and name")
    func stableVersion() throws {
        try withLocalStore { store, _ in
            let version = try store.write([1], at: .root / "old").version
            let changed = Attributes(mode: 0o600, uid: 5, gid: 6, extended: ["user.x": [1]])
            #expect(try store.setAttributes(changed, at: .root / "old", ifVersion: version).version == version)
            try store.move(.root / "old", to: .root / "new")
            #expect(try store.metadata(of: .root / "new").version == version)
        }
    }

    @Test("an upload that grows from the object it replaces reads the old one")
    func appending() throws {
        try withLocalStore { store, _ in
            let old = try store.write(pattern(100_000), at: .root / "object")
            let body = UploadBody([
                .stored(path: .root / "object", version: old.version, range: 0..<100_000), .bytes([1]),
            ])
            _ = try store.put(body, at: .root / "object", PutOptions(condition: .ifVersion(old.version!)))
            #expect(try store.contents(of: .root / "object") == pattern(100_000) + [1])
        }
    }

    @Test("two names of one file become one when one is moved onto the other")
    func hardLinks() throws {
        try withLocalStore { store, directory in
            directory.write([1], to: "one")
            #expect(link("\(directory.path)/one", "\(directory.path)/two") == 0)
            try store.move(.root / "one", to: .root / "two")
            #expect(try store.names(in: .root) == ["two"])
        }
    }

    @Test("a directory whose listing was left in the middle does not stay open for ever")
    func abandonedListings() throws {
        try withLocalStore(pageSize: 2) { store, directory in
            for number in 0..<10 { directory.write([], to: "file \(number)") }
            let first = try store.list(.root, after: nil)
            for _ in 0..<200 { _ = try store.list(.root, after: nil) }
            // The first has been closed meanwhile, and goes on all the same.
            var names = first.entries.map(\.name.description)
            var cursor = first.next
            while let next = cursor {
                let page = try store.list(.root, after: next)
                names += page.entries.map(\.name.description)
                cursor = page.next
            }
            #expect(names.sorted() == (0..<10).map { "file \($0)" })
            #expect(throws: StoreError.self) { try store.list(.root, after: ListCursor("nonsense")) }
        }
    }

    @Test("leftovers of a crash are removed after a day, and not before")
    func leftovers() throws {
        let directory = try TemporaryDirectory()
        defer { directory.remove() }
        let clock = ManualClock()
        let now = Timestamp.now
        clock.advance(by: .nanoseconds(now.nanoseconds - clock.calendar.nanoseconds))
        let first = LocalStore(path: directory.path, clock: clock)
        try first.connect()
        directory.write([1], to: ".cloudfusion/tmp/half")
        directory.write([1], to: ".cloudfusion-tmp-half")
        first.reconnect()
        try first.connect()
        #expect(try first.names(in: .root / ".cloudfusion" / "tmp") == ["half"])
        #expect(try first.names(in: .root) == [])
        clock.advance(by: .seconds(2 * 86_400))
        first.reconnect()
        try first.connect()
        #expect(try first.names(in: .root / ".cloudfusion" / "tmp") == [])
        #expect(try first.names(in: .root) == [])
        var status = stat()
        #expect(lstat("\(directory.path)/.cloudfusion-tmp-half", &status) != 0)
        first.shutdown()
    }

    @Test("a directory that is missing, or none, is told in a sentence")
    func missing() throws {
        let directory = try TemporaryDirectory()
        defer { directory.remove() }
        directory.write([1], to: "file")
        for name in ["nothing", "file"] {
            let error = #expect(throws: StoreError.self) {
                try LocalStore(path: "\(directory.path)/\(name)").connect()
            }
            #expect(error?.code == .storeNotFound)
            #expect(error?.message.contains("'path'") == true)
        }
    }

    @Test("a file system that is full or read-only says so", arguments: [true, false])
    func smallFileSystem(isReadOnly: Bool) throws {
        let directory = try TemporaryDirectory()
        defer { directory.remove() }
        guard mount("tmpfs", directory.path, "tmpfs", 0, "size=1m") == 0 else {
            print("not tried: a full or read-only file system; mounting one needs rights")
            return
        }
        defer { umount2(directory.path, Int32(MNT_DETACH)) }
        directory.write([1, 2, 3], to: "object")
        if isReadOnly {
            #expect(mount(nil, directory.path, nil, UInt(MS_REMOUNT | MS_RDONLY), nil) == 0)
        }
        let store = LocalStore(path: directory.path)
        try store.connect()
        defer { store.shutdown() }
        let error = #expect(throws: StoreError.self) { try store.write(pattern(3 << 20), at: .root / "object") }
        #expect(error?.code == (isReadOnly ? .readOnly : .quotaExceeded))
        #expect(try store.contents(of: .root / "object") == [1, 2, 3])
        #expect(try store.names(in: .root) == ["object"])
        #expect(store.capabilities.contains(.conditionalCreate) != isReadOnly)
        #expect(store.delete([.root / "object"]).map { $0?.code } == [isReadOnly ? .readOnly : nil])
        let usage = try store.spaceUsage()
        #expect(usage.total == 1 << 20)
    }

    @Test("a directory on another file system is written in its own place")
    func otherFileSystem() throws {
        try withLocalStore { store, directory in
            #expect(mkdir("\(directory.path)/mounted", 0o755) == 0)
            guard mount("tmpfs", "\(directory.path)/mounted", "tmpfs", 0, "size=4m") == 0 else {
                print("not tried: a mount within the directory; mounting needs rights")
                return
            }
            defer { umount2("\(directory.path)/mounted", Int32(MNT_DETACH)) }
            let sent = Lock<Int64>(0)
            let tally = Box(sent)
            let path = .root / "mounted" / "sub" / "object"
            try store.write(pattern(10_000), at: path, PutOptions(progress: { change in tally.add(change) }))
            #expect(try store.contents(of: path) == pattern(10_000))
            #expect(tally.value == 10_000)
            #expect(try store.names(in: .root / "mounted" / "sub") == ["object"])
            _ = try store.copy(path, to: .root / "copy", CopyOptions())
            #expect(try store.contents(of: .root / "copy") == pattern(10_000))
            let error = #expect(throws: StoreError.self) { try store.move(path, to: .root / "moved") }
            #expect(error?.code == .unsupported)
        }
    }

    @Test("two stores on one directory decide a race for a version together")
    func twoProcesses() throws {
        let directory = try TemporaryDirectory()
        defer { directory.remove() }
        let stores = (0..<2).map { _ in LocalStore(path: directory.path, fsync: false) }
        for store in stores { try store.connect() }
        for round in 0..<20 {
            let path = .root / "round \(round)"
            let base = try stores[0].write([0], at: path).version!
            let results = race(8) { racer in
                try stores[racer % 2].write([UInt8(racer)], at: path, PutOptions(condition: .ifVersion(base)))
            }
            let winners = results.filter { (try? $0.get()) != nil }.count
            #expect(winners == 1)
        }
        for store in stores { store.shutdown() }
    }
}

private final class Box: Sendable {
    private let sum: Lock<Int64>
    init(_ sum: consuming sending Lock<Int64>) { self.sum = sum }
    var value: Int64 { sum.withLock { $0 } }
    func add(_ amount: Int64) { sum.withLock { $0 += amount } }
}

@Suite("What failed system calls mean")
struct ErrnoTests {
    @Test(
        "each error of the system has its meaning",
        arguments: [
            (ENOENT, .notFound), (EEXIST, .alreadyExists), (ENOTDIR, .notADirectory), (ELOOP, .notADirectory),
            (EISDIR, .isADirectory), (ENOTEMPTY, .directoryNotEmpty), (EACCES, .accessDenied), (EPERM, .accessDenied),
            (EROFS, .readOnly), (ENOSPC, .quotaExceeded), (EDQUOT, .quotaExceeded), (EFBIG, .tooLarge),
            (ENAMETOOLONG, .invalidName), (EILSEQ, .invalidName), (EINVAL, .invalidArgument),
            (ENOTSUP, .unsupported), (EXDEV, .unsupported), (ETIMEDOUT, .timedOut), (EIO, .unavailable),
            (ESTALE, .unavailable), (ENOTCONN, .unavailable), (EMFILE, .unavailable), (EBUSY, .unavailable),
            (ENOMEM, .unavailable), (EBADF, .internal), (EFAULT, .internal),
        ] as [(Int32, StoreError.Code)])
    func codes(number: Int32, code: StoreError.Code) {
        let error = StoreError(errno: number, "opening", .root / "object")
        #expect(error.code == code)
        #expect(error.message.contains("'object'"))
        #expect(error.path == .root / "object")
    }
}
