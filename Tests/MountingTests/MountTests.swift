import Glibc
import Logging
import SQLite
import Statistics
import StoreAPI
import StoreTesting
import Testing
import Threading
import VFS

@testable import Catalog
@testable import Mounting

/// A mount without a kernel: settings, stack and control files are real.
final class MountRig: Sendable {
    let temporary = TemporaryFolder()
    let stores = TestStores()
    let log = LogFile()
    let session = FakeSession()
    let statistics = Statistics()

    init() {
        mkdir(temporary.path + "/mnt", 0o700)
        mkdir(temporary.path + "/store", 0o700)
        log.level = .critical
    }

    func text(_ more: String = "", store: String = "store") -> String {
        "[auth]\npath = \(temporary.path)/\(store)\n[store]\nname = test\ncache_dir = \(temporary.path)/cache\n\(more)\n"
    }

    /// - Parameter text: nil: without a store.
    func mount(_ text: String?) throws -> Mount {
        let parser = SettingsParser.forTests(stores.schema)
        let settings = try parser.parse((text ?? "cache_dir = \(temporary.path)/cache\n") + "log_level = critical\n")
            .settings
        let request = MountRequest(
            mountPoint: try MountPoint(temporary.path + "/mnt"), settings: settings, commandLine: [],
            options: MountOptions(), schema: stores.schema, places: parser.places, isForeground: true)
        return Mount(request, log: log, statistics: statistics) { [session] (_, _, _) in session }
    }

    /// Starts a mount, hands it to `body`, and waits for its end after that.
    func run(_ text: String?, _ body: (Mount) throws -> Void) throws {
        let mount = try mount(text)
        try mount.start()
        let thread = WorkerThread(name: "run") { mount.run() }
        defer {
            mount.stop()
            thread.join()
        }
        try body(mount)
    }

    var onlyCache: String? { names(in: temporary.path + "/cache").first { $0.hasPrefix("test-") } }

    func names(in folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var result: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            // What a local store keeps for itself is none of its files.
            if name != ".", name != "..", name != ".cloudfusion" { result.append(name) }
        }
        return result.sorted()
    }
}

extension Mount {
    /// Makes a small file as a program would, below `data/`.
    func makeFile(_ name: String) throws {
        let caller = Caller(uid: 0, gid: 0, pid: 1)
        let outcome = Monitor<Result<(Entry, OpenFile), FileSystemError>?>(nil)
        let directory = Monitor<Result<Entry, FileSystemError>?>(nil)
        fileSystem.lookup(Array("data".utf8), in: 1) { result in directory.update { $0 = result } }
        let data = try #require(directory.wait(until: .now + .seconds(60)) { $0 }).get()
        fileSystem.create(Array(name.utf8), in: data.number, mode: 0o644, flags: O_WRONLY, by: caller) { result in
            outcome.update { $0 = result }
        }
        let (_, file) = try #require(outcome.wait(until: .now + .seconds(60)) { $0 }).get()
        let written = Monitor<Bool>(false)
        let bytes = Array("content".utf8)
        bytes.withUnsafeBytes { buffer in
            fileSystem.write(file.handle, at: 0, buffer, isPageCache: false, by: caller) { _ in
                written.update { $0 = true }
            }
        }
        _ = written.wait(until: .now + .seconds(60)) { $0 ? true : nil }
        let closed = Monitor<Bool>(false)
        fileSystem.flush(file.handle) { [fileSystem] _ in
            fileSystem.release(file.handle) { _ in closed.update { $0 = true } }
        }
        _ = closed.wait(until: .now + .seconds(60)) { $0 ? true : nil }
    }

    func write(_ text: String) -> Result<Void, FileSystemError> { applyConfiguration(Array(text.utf8)) }
    func command(_ text: String) -> Result<Void, FileSystemError> { runCommands(Array(text.utf8)) }
}

extension Result where Success == Void {
    var error: Failure? {
        if case .failure(let error) = self { return error }
        return nil
    }
}

@Suite struct MountTests {
    @Test("a mount comes up, tells how it does and brings one file to the store at the same cost, however much waits")
    func costOfBacklog() throws {
        func cost(_ count: Int) throws -> Int {
            let rig = MountRig()
            let new = NewInode(kind: .file, mode: 0o644, uid: 0, gid: 0)
            let text = rig.text("cache = 3600\nmetadata_cache = 3600")
            try rig.run(text) { mount in
                let catalog = try #require(mount.withStack { $0 }).catalog
                let folder = NewInode(kind: .directory, mode: 0o755, uid: 0, gid: 0)
                let many = try catalog.create(folder, named: FileName("many")!, in: .root).id
                for number in 0..<count { _ = try catalog.create(new, named: FileName("f\(number)")!, in: many) }
            }
            var cost = 0
            try rig.run(text) { mount in
                #expect(mount.status().pending.items == Int64(count) + 1)
                try mount.makeFile("one")
                #expect(mount.command("sync one\n").error == nil)
                #expect(rig.names(in: rig.temporary.path + "/store") == ["one"])
                #expect(mount.status().cache.dirtyFiles == Int64(count))
                cost = try #require(mount.withStack { $0 }).catalog.steps
            }
            return cost
        }
        // It looks at some hundred rows at a time.
        #expect(try cost(5_000) <= cost(1_000) * 2)
    }

    @Test("'sync' returns when the file is on the store, and the files that tell of it agree")
    func synchronize() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600")) { mount in
            try mount.makeFile("a")
            #expect(mount.status().pending.items == 1)
            #expect(mount.command("sync a\n").error == nil)
            #expect(rig.names(in: rig.temporary.path + "/store") == ["a"])
            #expect(mount.status().pending.items == 0 && mount.status().state == .connected)
            #expect(mount.command("sync nothing\n").error == .notFound)
            #expect(mount.command("sing\n").error == .invalid)
            #expect(mount.status().errors.contains { $0.message.contains("'sing'") })
        }
    }

    @Test("SIGTERM keeps what is dirty for the next mount of the cache; an unmount from outside brings it to the store")
    func ends() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600")) { try $0.makeFile("a") }
        #expect(rig.names(in: rig.temporary.path + "/store").isEmpty)
        let mount = try rig.mount(rig.text("cache = 3600"))
        try mount.start()
        #expect(mount.status().pending.items == 1)
        rig.session.unmount()
        mount.run()
        #expect(rig.names(in: rig.temporary.path + "/store") == ["a"])
    }

    @Test("drain_at_exit brings it to the store on SIGTERM too")
    func drainAtExit() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600\ndrain_at_exit = yes")) { try $0.makeFile("a") }
        #expect(rig.names(in: rig.temporary.path + "/store") == ["a"])
    }

    @Test("a live setting changes at once; a wrong text changes nothing and says why")
    func settings() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600")) { mount in
            #expect(mount.write("cache = 5\nlog_level = critical\n").error == nil)
            #expect(mount.settings["cache"] == "5")
            #expect(mount.write(rig.text("cach = 7")).error == .invalid)
            #expect(mount.settings["cache"] == "5")
            #expect(mount.status().errors.first?.message.contains("config/config:6:") == true)
            #expect(mount.write("").error == nil)
        }
    }

    @Test("a mount without a store gets one by writing a configuration")
    func connects() throws {
        let rig = MountRig()
        try rig.run(nil) { mount in
            #expect(mount.status().state == .unconfigured)
            #expect(mount.command("sync").error == .noDevice)
            #expect(mount.write(rig.text("log_level = critical")).error == nil)
            #expect(mount.status().state == .connected)
            try mount.makeFile("a")
            #expect(mount.command("drain").error == nil)
        }
        #expect(rig.names(in: rig.temporary.path + "/store") == ["a"])
    }

    @Test("a change of the store brings everything to the old one first")
    func changesStore() throws {
        let rig = MountRig()
        mkdir(rig.temporary.path + "/other", 0o700)
        try rig.run(rig.text("cache = 3600")) { mount in
            try mount.makeFile("old")
            #expect(mount.write(rig.text("cache = 3600\nlog_level = critical", store: "other")).error == nil)
            #expect(rig.names(in: rig.temporary.path + "/store") == ["old"])
            try mount.makeFile("new")
            #expect(mount.command("sync").error == nil)
        }
        #expect(rig.names(in: rig.temporary.path + "/other") == ["new"])
    }

    @Test("a store that does not let us in leaves the one in use connected")
    func refusedChange() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600")) { mount in
            rig.stores.refuse(StoreError(.authenticationFailed, "the password is wrong"))
            #expect(mount.write(rig.text("password = x\nlog_level = critical")).error == .inputOutput)
            #expect(mount.status().errors.first?.message.contains("the password is wrong") == true)
            try mount.makeFile("a")
            #expect(mount.command("sync").error == nil)
            rig.stores.refuse(nil)
            #expect(mount.write(rig.text("password = y\nlog_level = critical")).error == nil)
            try mount.makeFile("b")
            #expect(mount.command("sync").error == nil)
        }
        #expect(rig.names(in: rig.temporary.path + "/store") == ["a", "b"])
    }

    @Test("a store that was never seen and is away is an error that leaves nothing behind")
    func unknownStoreAway() throws {
        let rig = MountRig()
        rig.stores.set(.failing)
        let mount = try rig.mount(rig.text())
        #expect(throws: MountError.self) { try mount.start() }
        #expect(rig.onlyCache == nil)
    }

    @Test("a store of which there is a catalog is mounted while it is away, and caught up with when it is back")
    func offline() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600")) { try $0.makeFile("a") }
        rig.stores.set(.failing)
        try rig.run(rig.text("cache = 3600")) { mount in
            #expect(mount.status().state == .offline)
            #expect(mount.status().pending.items == 1)
            #expect(mount.status().store?.problem != nil)
            rig.stores.set(.none)
            #expect(mount.command("sync").error == nil)
        }
        #expect(rig.names(in: rig.temporary.path + "/store") == ["a"])
    }

    @Test("a wrong password fails the mount even when there is a catalog")
    func wrongPassword() throws {
        let rig = MountRig()
        try rig.run(rig.text()) { _ in }
        rig.stores.refuse(StoreError(.authenticationFailed, "the password is wrong"))
        let mount = try rig.mount(rig.text())
        #expect { try mount.start() } throws: { ($0 as? MountError)?.message == "the password is wrong" }
    }

    @Test("a cache is not used for another store")
    func identity() throws {
        let rig = MountRig()
        mkdir(rig.temporary.path + "/other", 0o700)
        try rig.run(rig.text("cache_id = mine")) { _ in }
        let mount = try rig.mount(rig.text("cache_id = mine", store: "other"))
        #expect { try mount.start() } throws: {
            ($0 as? MountError)?.message.contains("belongs to another store") == true
        }
        try rig.run(rig.text("cache_id = mine")) { _ in }
    }

    @Test("'cancel' ends the waiting of a sync, and nothing is undone")
    func cancel() throws {
        let rig = MountRig()
        try rig.run(rig.text("cache = 3600")) { mount in
            try mount.makeFile("a")
            rig.stores.set(.hanging)
            let outcomes = Monitor<[FileSystemError?]>([])
            let waiter = WorkerThread(name: "waiter") {
                let error = mount.command("sync").error
                outcomes.update { $0.append(error) }
            }
            // Written again until it meets the waiting, which may not have begun.
            while outcomes.wait(until: .now + .milliseconds(20), for: { $0.isEmpty ? nil : true }) == nil {
                _ = mount.command("cancel")
            }
            waiter.join()
            #expect(outcomes.withLock { $0 } == [.interrupted])
            #expect(mount.status().pending.items == 1)
            rig.stores.set(.none)
            #expect(mount.command("sync").error == nil)
        }
    }

    @Test("secrets are in no control file")
    func secrets() throws {
        let rig = MountRig()
        try rig.run(rig.text("password = geheim")) { mount in
            for file in mount.controlDirectories().flatMap(\.files) {
                #expect(!String(decoding: file.read(), as: UTF8.self).contains("geheim"), "\(file.name)")
            }
            let shown = mount.controlDirectories()[0].files[0].read()
            #expect(mount.write(String(decoding: shown, as: UTF8.self)).error == nil)
            #expect(mount.settings.values["password"] == "geheim")
        }
    }

    @Test("removing config/config unmounts, and loses nothing")
    func removal() throws {
        let rig = MountRig()
        let mount = try rig.mount(rig.text("cache = 3600"))
        try mount.start()
        try mount.makeFile("a")
        let file = mount.controlDirectories()[0].files[0]
        #expect(file.remove?().error == nil)
        mount.run()
        #expect(rig.names(in: rig.temporary.path + "/store") == ["a"])
    }
}

extension Catalog {
    /// What all statements so far have cost: see ``Database/steps``.
    fileprivate var steps: Int {
        get throws(CatalogError) { try read { tables throws(CatalogError) in tables.database.steps } }
    }
}
