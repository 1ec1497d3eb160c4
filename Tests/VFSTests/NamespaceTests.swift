import Catalog
import Glibc
import StoreAPI
import Stores
import Testing
import Threading

@testable import VFS

@Suite("Names and files")
struct NamespaceTests {
    private let rig: Rig

    init() throws { rig = try Rig() }

    @Test("a file is what was written to it, and its name what it was given")
    func writeAndRead() throws {
        let (entry, file) = try rig.create("a", mode: 0o640)
        #expect(entry.attributes.mode == 0o640 && entry.attributes.uid == 1000 && entry.attributes.links == 1)
        try rig.write("hello", to: file.handle)
        #expect(try rig.attributes(entry.number).attributes.size == 5)
        try rig.write("J", to: file.handle)
        #expect(try rig.read(file.handle) == "Jello")
        try rig.close(file.handle)
        #expect(try rig.text("data/a") == "Jello")
        #expect(error { try rig.create("a") } == .exists)
        #expect(error { try rig.create(String(repeating: "n", count: 256)) } == .nameTooLong)
        #expect(error { try rig.create("a/b") } == .invalid)
        #expect(error { try rig.create(".cloudfusion") } == .accessDenied)
        #expect(error { try rig.lookup(".cloudfusion") } == .notFound)
    }

    @Test("an unlinked file lives until it is closed and forgotten")
    func unlinkedButOpen() throws {
        let (entry, file) = try rig.create("a")
        try rig.write("still", to: file.handle)
        try rig.unlink("a")
        #expect(error { try rig.lookup("a") } == .notFound)
        #expect(try rig.attributes(entry.number).attributes.links == 0)
        #expect(try rig.read(file.handle) == "still")
        try rig.write("there", to: file.handle, at: 5)
        #expect(try rig.read(file.handle) == "stillthere")
        rig.files.forget(entry.number, lookups: 1)
        #expect(try rig.read(file.handle) == "stillthere")
        try rig.close(file.handle)
        #expect(eventually { error { try rig.attributes(entry.number) } == .stale })
    }

    @Test("a file whose last name goes while nobody uses it is gone")
    func unlinkedUnused() throws {
        let (entry, file) = try rig.create("a")
        try rig.close(file.handle)
        rig.files.forget(entry.number, lookups: 1)
        try rig.unlink("a")
        #expect(eventually { error { try rig.attributes(entry.number) } == .stale })
    }

    @Test("hard links are one file; a directory gets none")
    func hardLinks() throws {
        let (entry, file) = try rig.create("a")
        let other = try rig.link(entry.number, "b")
        #expect(other.number == entry.number && other.attributes.links == 2)
        try rig.write("both", to: file.handle)
        try rig.close(file.handle)
        #expect(try rig.text("data/b") == "both")
        try rig.unlink("a")
        #expect(try rig.attributes(entry.number).attributes.links == 1)
        #expect(error { try rig.link(rig.makeDirectory("d").number, "e") } == .notPermitted)
        let symbolic: Entry = try answer {
            rig.files.makeSymbolicLink(Array("s".utf8), in: 2, to: Array("b".utf8), by: Rig.user, $0)
        }
        #expect(try rig.link(symbolic.number, "s2").attributes.links == 2)
        #expect(try answer { rig.files.readLink(symbolic.number, $0) } == Array("b".utf8))
        #expect(error { try answer { rig.files.readLink(entry.number, $0) } as [UInt8] } == .invalid)
    }

    @Test("rename replaces, refuses to, or exchanges, as it was asked for")
    func renames() throws {
        let a = try rig.create("a")
        let b = try rig.create("b")
        try rig.rename("a", to: "a2")
        #expect(error { try rig.rename("a2", to: "b", .noReplace) } == .exists)
        try rig.rename("a2", to: "b", .exchange)
        #expect(try rig.lookup("b").number == a.0.number)
        #expect(try rig.lookup("a2").number == b.0.number)
        try rig.rename("a2", to: "b")
        #expect(try rig.names() == ["b"])
        #expect(try rig.attributes(a.0.number).attributes.links == 0)
        #expect(error { try rig.rename("nothing", to: "x") } == .notFound)
        let d = try rig.makeDirectory("d")
        let e = try rig.makeDirectory("e", in: d.number)
        #expect(error { try rig.rename("d", to: "f", into: e.number) } == .invalid)
        #expect(error { try rig.rename("b", to: "d") } == .isADirectory)
        #expect(error { try rig.rename("d", to: "b") } == .notADirectory)
        _ = try rig.makeDirectory("full")
        _ = try rig.create("x", in: rig.lookup("full").number)
        #expect(error { try rig.rename("d", to: "full") } == .notEmpty)
        try rig.rename("full", to: "e", into: d.number)
        #expect(try rig.walk("data/d/e/x").attributes.kind == .file)
    }

    @Test("a directory that was never listed is listed before it counts as empty")
    func removeUnlisted() throws {
        try rig.put("x", at: "full/a")
        try rig.memory.createDirectory(at: StorePath("empty")!, Attributes())
        _ = try rig.names()
        #expect(error { try rig.removeDirectory("full") } == .notEmpty)
        _ = try rig.makeDirectory("mine")
        #expect(error { try rig.rename("mine", to: "full") } == .notEmpty)
        try rig.rename("mine", to: "empty")
        try rig.removeDirectory("empty")
        #expect(try rig.names() == ["full"])
        #expect(error { try rig.removeDirectory("nothing") } == .notFound)
        #expect(error { try rig.unlink("full") } == .isADirectory)
    }

    @Test("a reading of a directory shows what stays exactly once while other names come and go")
    func stableReading() throws {
        for number in 0..<200 { rig.files.forget(try rig.create("stays\(number)").0.number, lookups: 1) }
        for number in 0..<50 { _ = try rig.create("goes\(number)") }
        let handle: HandleID = try answer { rig.files.openDirectory(2, $0) }
        var seen: [String] = []
        var cookie: Int64 = 0
        var round = 0
        while case let page = try rig.readDirectory(handle, after: cookie, plus: round % 2 == 0, limit: 7),
            let last = page.last
        {
            seen += page.map { String(decoding: $0.name, as: UTF8.self) }
            cookie = last.cookie
            if round < 50 { try rig.unlink("goes\(round)") }
            _ = try rig.create("comes\(round)")
            round += 1
            if round > 1000 { break }
        }
        #expect(seen.filter { $0.hasPrefix("stays") }.count == 200)
        #expect(Set(seen).count == seen.count)
        #expect(seen.prefix(2) == [".", ".."])
    }

    @Test("files in a set-group-ID directory get its group, and directories the bit")
    func setGroupID() throws {
        let directory = try rig.makeDirectory("d")
        _ = try rig.change(directory.number, by: Rig.superuser) { $0.gid = 77 }
        _ = try rig.change(directory.number) { $0.mode = 0o2775 }
        #expect(try rig.create("f", in: directory.number).0.attributes.gid == 77)
        let below = try rig.makeDirectory("below", in: directory.number)
        #expect(below.attributes.gid == 77 && below.attributes.mode == 0o2755)
    }

    @Test("a file that is changed loses the rights that ran with it")
    func privileges() throws {
        let (entry, file) = try rig.create("program")
        func mode() throws -> UInt32 { try rig.attributes(entry.number).attributes.mode }
        _ = try rig.change(entry.number) { $0.mode = 0o6755 }
        try rig.write("x", to: file.handle, by: Rig.superuser)
        #expect(try mode() == 0o6755)
        try rig.write("x", to: file.handle)
        #expect(try mode() == 0o755)
        _ = try rig.change(entry.number) { $0.mode = 0o6745 }
        _ = try rig.change(entry.number, handle: file.handle) { $0.size = 0 }
        #expect(try mode() == 0o2745)
        _ = try rig.change(entry.number) { $0.mode = 0o6755 }
        _ = try rig.change(entry.number, by: Rig.superuser) { $0.uid = 5 }
        #expect(try mode() == 0o755)
        try answer {
            rig.files.setExtendedAttribute("security.capability", to: [1], of: entry.number, .either, $0)
        }
        try rig.write("x", to: file.handle, by: Rig.superuser)
        #expect(
            error { try answer { rig.files.extendedAttribute("security.capability", of: entry.number, $0) } as [UInt8] }
                == .noSuchAttribute)
        try rig.close(file.handle)
    }

    @Test("a time that was set stays, although what was written before it is closed after it")
    func times() throws {
        let (entry, file) = try rig.create("a")
        try rig.write("x", to: file.handle)
        rig.clock.advance(by: .seconds(5))
        let set = Timestamp(seconds: 1_000_000)
        let changed = try rig.change(entry.number) { $0.modified = .at(set) }
        #expect(changed.attributes.modified == set && changed.attributes.changed == rig.clock.calendar)
        try rig.close(file.handle)
        #expect(try rig.attributes(entry.number).attributes.modified == set)
        let again = try rig.open(entry.number, O_WRONLY)
        rig.clock.advance(by: .seconds(5))
        try rig.write("y", to: again)
        #expect(try rig.attributes(entry.number).attributes.modified == rig.clock.calendar)
        try rig.close(again)
        #expect(try rig.attributes(entry.number).attributes.modified == rig.clock.calendar)
    }

    @Test("a size that is set cuts, or grows with zeros")
    func resizing() throws {
        let (entry, file) = try rig.create("a")
        try rig.write("hello", to: file.handle)
        #expect(try rig.change(entry.number) { $0.size = 2 }.attributes.size == 2)
        #expect(try rig.change(entry.number, handle: file.handle) { $0.size = 4 }.attributes.size == 4)
        #expect(try rig.read(file.handle) == "he\0\0")
        #expect(error { try rig.change(entry.number) { $0.size = -1 } } == .invalid)
        #expect(error { try rig.change(2) { $0.size = 1 } } == .isADirectory)
        try rig.release(rig.open(entry.number, O_WRONLY | O_TRUNC))
        #expect(try rig.attributes(entry.number).attributes.size == 0)
    }

    @Test("space is allocated, punched and zeroed; other modes are refused; holes are found; ranges are copied")
    func ranges() throws {
        let (entry, file) = try rig.create("a")
        try rig.write("abcdef", to: file.handle)
        func allocate(_ mode: Int32, _ range: Range<Int64>) throws {
            try answer { rig.files.allocate(file.handle, mode: mode, range: range, by: Rig.user, $0) }
        }
        try allocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1..<2)
        try allocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 3..<4)
        try allocate(0, 0..<8)
        #expect(try rig.read(file.handle) == "a\0c\0ef\0\0")
        #expect(try rig.attributes(entry.number).attributes.size == 8)
        #expect(error { try allocate(FALLOC_FL_COLLAPSE_RANGE, 0..<4096) } == .unsupported)
        #expect(error { try allocate(0, 0..<0) } == .invalid)
        #expect(try answer { rig.files.seek(file.handle, 0, toHole: false, $0) } == 0 as Int64)
        #expect(error { try answer { rig.files.seek(file.handle, 100, toHole: true, $0) } as Int64 } == .system(ENXIO))
        let target = try rig.create("b").1.handle
        let copied: Int64 = try answer {
            rig.files.copyRange(from: file.handle, at: 4, to: target, at: 1, count: 100, by: Rig.user, $0)
        }
        #expect(copied == 4)
        #expect(try rig.read(target) == "\0ef\0\0")
    }

    /// A store that can only be read.
    private struct Frozen: StoreWrapper {
        let inner: any Store
        var capabilities: StoreCapabilities {
            var capabilities = inner.capabilities
            capabilities.isReadOnly = true
            return capabilities
        }
    }

    @Test("on a store that can only be read nothing is changed, whatever the mount's options say")
    func readOnlyStore() throws {
        let rig = try Rig(wrap: { Frozen(inner: $0) })
        try rig.put("x", at: "a")
        let number = try rig.lookup("a").number
        #expect(error { try rig.create("b") } == .readOnly)
        #expect(error { try rig.unlink("a") } == .readOnly)
        #expect(error { try rig.makeDirectory("d") } == .readOnly)
        #expect(error { try rig.change(number) { $0.modified = .now } } == .readOnly)
        #expect(error { try rig.open(number, O_RDWR) } == .readOnly)
        let handle = try rig.open(number)
        #expect(try rig.read(handle) == "x")
    }

    @Test("a read-only mount changes nothing, and its control files can still be written")
    func readOnly() throws {
        let written = Lock(0)
        let rig = try Rig(
            virtual: [
                VirtualDirectory(
                    name: "config",
                    files: [
                        VirtualFile(
                            name: "config", mode: 0o600, read: { [] },
                            write: { _ in
                                written.withLock { $0 += 1 }
                                return .success(())
                            })
                    ])
            ], settings: FileSystemSettings(isReadOnly: true))
        try rig.put("x", at: "a")
        let number = try rig.lookup("a").number
        #expect(error { try rig.create("b") } == .readOnly)
        #expect(error { try rig.unlink("a") } == .readOnly)
        #expect(error { try rig.rename("a", to: "b") } == .readOnly)
        #expect(error { try rig.makeDirectory("d") } == .readOnly)
        #expect(error { try rig.link(number, "b") } == .readOnly)
        #expect(error { try rig.change(number) { $0.mode = 0 } } == .readOnly)
        #expect(error { try rig.open(number, O_WRONLY) } == .readOnly)
        #expect(
            error { try answer { rig.files.setExtendedAttribute("user.a", to: [], of: number, .either, $0) } }
                == .readOnly)
        let handle = try rig.open(rig.walk("config/config").number, O_WRONLY)
        try rig.write("x", to: handle)
        try rig.close(handle)
        #expect(written.withLock { $0 } == 1)
    }

    @Test("what is written to an open file that others have replaced or removed is kept beside theirs, or in its place")
    func displaced() throws {
        let rig = try Rig()
        for name in ["a", "gone", "folder/inner/deep"] { try rig.put("old", at: name) }
        let handles = try ["data/a", "data/gone", "data/folder/inner/deep"].map {
            try rig.open(rig.walk($0).number, O_RDWR)
        }
        let reader = try rig.open(rig.walk("data/gone").number)
        for handle in handles { #expect(try rig.read(handle) == "old") }
        rig.clock.advance(by: .seconds(200))
        try rig.put("theirs", at: "a")
        _ = rig.memory.delete(["gone", "folder/inner/deep", "folder/inner", "folder"].map { StorePath($0)! })
        #expect(eventually { (try? rig.names()) == ["a"] })
        #expect(try rig.text("data/a") == "theirs")

        for handle in handles { try rig.write("ours", to: handle) }
        let copy = try #require(rig.names().first { $0.hasPrefix("a.conflict-") })
        #expect(try Set(rig.names()) == ["a", copy, "gone", "deep"])
        for handle in handles + [reader] { try rig.close(handle) }
        let texts = ["a": "theirs", copy: "ours", "gone": "ours", "deep": "ours"]
        for (name, text) in texts { #expect(try rig.text("data/" + name) == text) }
    }

    @Test(
        "who is about to write to a file that others have just replaced is led to theirs, and what was removed here stays"
    )
    func displacedBeforehand() throws {
        let rig = try Rig()
        try rig.put("old", at: "a")
        let old = try rig.lookup("a")
        // The name is known before the listing has ended, and whoever asks meanwhile joins it.
        _ = try rig.names()
        rig.clock.advance(by: .seconds(200))
        try rig.put("theirs", at: "a")
        let new = try rig.lookup("a")
        #expect(new.number != old.number)
        #expect(error { try rig.open(old.number, O_WRONLY) } == .stale)
        #expect(error { try rig.open(old.number, O_RDONLY | O_TRUNC) } == .stale)
        #expect(error { _ = try rig.change(old.number) { $0.size = 1 } } == .stale)
        #expect(error { _ = try rig.change(old.number) { $0.mode = 0o600 } } == .stale)
        #expect(error { _ = try rig.link(old.number, "b") } == .stale)

        // What was removed here has no name, and gets none.
        let handle = try rig.open(new.number, O_RDWR)
        try rig.unlink("a")
        try rig.write("nobody's", to: handle)
        let second = try rig.open(new.number, O_RDWR)
        for handle in [handle, second] { try rig.close(handle) }
        #expect(try rig.names() == [])
    }
}
