import Catalog
import Glibc
import StoreAPI
import Testing
import Threading

@testable import VFS

/// A settings file that refuses what begins with "bad", a command file, and a file of figures.
private final class Controls: Sendable {
    let settings = Lock("old\n")
    let writes = Lock<[String]>([])
    let removals = Lock(0)

    var directories: [VirtualDirectory] {
        [
            VirtualDirectory(
                name: "config",
                files: [
                    VirtualFile(
                        name: "config", mode: 0o600, read: { [self] in Array(settings.withLock { $0 }.utf8) },
                        write: { [self] bytes in
                            let text = String(decoding: bytes, as: UTF8.self)
                            writes.withLock { $0.append(text) }
                            if text.hasPrefix("bad") { return .failure(.invalid) }
                            settings.withLock { $0 = text }
                            return .success(())
                        },
                        remove: { [self] in
                            removals.withLock { $0 += 1 }
                            return .success(())
                        })
                ]),
            VirtualDirectory(
                name: "stats", files: [VirtualFile(name: "stats", mode: 0o444, read: { Array("figures\n".utf8) })]),
        ]
    }
}

@Suite("Control files")
struct ControlFileTests {
    private let controls = Controls()
    private let rig: Rig

    init() throws { rig = try Rig(virtual: controls.directories, isConnected: false) }

    private var written: [String] { controls.writes.withLock { $0 } }
    private var settings: String { controls.settings.withLock { $0 } }

    @Test("the root shows the store's place and the control directories")
    func root() throws {
        #expect(try rig.names(1) == ["config", "data", "stats"])
        #expect(try rig.walk("config/config").attributes.size == 4)
        #expect(try rig.text("stats/stats") == "figures\n")
        #expect(try rig.names(rig.walk("data").number) == [])
        #expect(error { try rig.lookup("x", in: 2) } == .noDevice)
        #expect(error { try rig.create("x") } == .noDevice)
        #expect(error { try rig.create("x", in: 1) } == .notPermitted)
    }

    @Test("the kernel may remember the directories that every path passes, and no control file")
    func trust() throws {
        #expect(try rig.attributes(1).attributeTimeout > .zero)
        #expect(try rig.walk("stats").attributeTimeout > .zero)
        let file = try rig.walk("stats/stats")
        #expect(file.attributeTimeout == .zero && file.entryTimeout == .zero)
    }

    @Test("in a flat mount the control directories are hidden in .cloudfusion")
    func flat() throws {
        let rig = try Rig(virtual: controls.directories, isFlat: true)
        try rig.put("hello", at: "a")
        #expect(try rig.names(1) == ["a"])
        #expect(try rig.text("a") == "hello")
        #expect(try rig.text(".cloudfusion/config/config") == "old\n")
        #expect(try rig.lookup("a", in: 1).number > 2)
        #expect(error { try rig.create(".cloudfusion", in: 1) } == .accessDenied)
        #expect(error { try rig.removeDirectory(".cloudfusion", in: 1) } == .accessDenied)
    }

    @Test("what a shell writes with > replaces the file, once, although it closes a descriptor before")
    func shellReplaces() throws {
        let handle = try rig.open(rig.walk("config/config").number, O_WRONLY | O_TRUNC)
        try rig.flush(handle)
        #expect(written == [])
        try rig.write("new\n", to: handle)
        try rig.flush(handle)
        try rig.flush(handle)
        try rig.release(handle)
        #expect(written == ["new\n"])
        #expect(settings == "new\n")
    }

    @Test("emptying the file alone is written at the last close")
    func empties() throws {
        let handle = try rig.open(rig.walk("config/config").number, O_WRONLY | O_TRUNC)
        try rig.close(handle)
        #expect(written == [""])
    }

    @Test("what is written with >> is added to what there is")
    func shellAppends() throws {
        let handle = try rig.open(rig.walk("config/config").number, O_WRONLY | O_APPEND)
        try rig.write("more\n", to: handle, at: 0)
        try rig.close(handle)
        #expect(settings == "old\nmore\n")
    }

    @Test("what the file refuses fails the close, and the old content stays")
    func refuses() throws {
        let handle = try rig.open(rig.walk("config/config").number, O_WRONLY | O_TRUNC)
        try rig.write("bad", to: handle)
        #expect(error { try rig.flush(handle) } == .invalid)
        try rig.release(handle)
        #expect(written == ["bad"])
        #expect(try rig.text("config/config") == "old\n")
    }

    @Test("sed -i: a temporary file beside it is written to it by a rename, whose error is the file's")
    func renameOnto() throws {
        let config = try rig.walk("config").number
        for (text, expected) in [("bad\n", FileSystemError.invalid), ("fine\n", nil)] {
            let (entry, file) = try rig.create("sedAbC", in: config, mode: 0o600)
            _ = try rig.change(entry.number) { $0.mode = 0o600 }
            try rig.write(text, to: file.handle)
            try rig.close(file.handle)
            #expect(try rig.attributes(entry.number).attributes.size == Int64(text.utf8.count))
            let failure = error { try rig.rename("sedAbC", in: config, to: "config", into: config) }
            #expect(failure == expected)
            if failure != nil { try rig.unlink("sedAbC", in: config) }
            rig.files.forget(entry.number, lookups: 1)
        }
        #expect(try rig.names(config) == ["config"])
        #expect(settings == "fine\n")
    }

    @Test("an editor that renames the file to a backup and writes it anew finds it as it left it")
    func backup() throws {
        let config = try rig.walk("config").number
        let (probe, file) = try rig.create("4913", in: config)
        try rig.close(file.handle)
        try rig.unlink("4913", in: config)
        #expect(probe.number & NumberSpace.virtualBit != 0)
        try rig.rename("config", in: config, to: "config~", into: config)
        #expect(try rig.names(config) == ["config", "config~"])
        #expect(try rig.text("config/config~") == "old\n")
        let handle = try rig.open(rig.walk("config/config").number, O_WRONLY | O_CREAT | O_TRUNC)
        try rig.write("edited\n", to: handle)
        try rig.close(handle)
        try rig.unlink("config~", in: config)
        #expect(try rig.names(config) == ["config"])
        #expect(settings == "edited\n")
    }

    @Test("a reader sees the content of the moment when it opened the file")
    func consistentReads() throws {
        let handle = try rig.open(rig.walk("config/config").number)
        controls.settings.withLock { $0 = "changed meanwhile" }
        #expect(try rig.read(handle, at: 1, count: 2) == "ld")
        #expect(try rig.read(handle, at: 100) == "")
    }

    @Test("a file that cannot be written, removed or grown without end says so")
    func limits() throws {
        let stats = try rig.walk("stats").number
        #expect(error { try rig.open(rig.walk("stats/stats").number, O_WRONLY) } == .accessDenied)
        #expect(error { try rig.unlink("stats", in: stats) } == .notPermitted)
        #expect(error { try rig.create("x", in: stats) } == .notPermitted)
        #expect(error { try rig.change(rig.walk("stats/stats").number) { $0.mode = 0o777 } } == .notPermitted)
        let handle = try rig.open(rig.walk("config/config").number, O_RDWR)
        #expect(error { try rig.write("x", to: handle, at: 1 << 20) } == .tooLarge)
        #expect(error { try rig.write("x", to: handle, at: .max) } == .tooLarge)
        try rig.unlink("config", in: rig.walk("config").number)
        #expect(controls.removals.withLock { $0 } == 1)
        #expect(error { try rig.rename("config", in: rig.walk("config").number, to: "x", into: 2) } == .noDevice)
    }

    @Test("a command that takes its time keeps the caller of close waiting, and nobody else")
    func blockingWrite() throws {
        let gate = Monitor(false)
        let rig = try Rig(
            virtual: [
                VirtualDirectory(
                    name: "config",
                    files: [
                        VirtualFile(
                            name: "command", mode: 0o600, read: { [] },
                            write: { _ in
                                gate.wait { $0 ? () : nil }
                                return .success(())
                            })
                    ])
            ])
        let handle = try rig.open(rig.walk("config/command").number, O_WRONLY)
        try rig.write("sync", to: handle)
        let closing = later { rig.files.flush(handle, $0) }
        #expect(closing.withLock { $0 == nil })
        _ = try atOnce { rig.files.getAttributes(1, $0) }
        gate.update { $0 = true }
        try wait(closing).get()
    }
}
