import Catalog
import Glibc
import Statistics
import StoreAPI
import Testing
import Threading

@testable import Caching

private let mebibyte: Int64 = 1 << 20

/// What a loss of power may have left in the cache files is not given out as what was written.
@Suite struct PowerLossTests {
    /// A cache with the real catalog, on a machine that can be started anew.
    private final class Machine {
        let folder: String
        let store = FakeStore()
        private(set) var catalog: Catalog
        private(set) var cache: ContentCache
        private(set) var statistics = Statistics()
        private var boot = 0

        init() throws {
            var template = Array("/tmp/cloudfusion-cache-XXXXXX".utf8CString)
            folder = String(cString: mkdtemp(&template)!)
            catalog = try Catalog(path: folder + "/catalog", clock: SystemClock(), boot: "0")
            cache = try Self.cache(folder, catalog, store, statistics)
        }

        deinit {
            store.shutdown()
            cache.shutdown()
            catalog.close()
            system("rm -rf '\(folder)'")
        }

        private static func cache(
            _ folder: String, _ catalog: Catalog, _ store: FakeStore, _ statistics: Statistics
        ) throws -> ContentCache {
            try ContentCache(
                folder: folder + "/cache", catalog: catalog, store: store,
                limits: CacheLimits(soft: 1 << 40, hard: 1 << 41, freeSpaceFloor: 0), statistics: statistics,
                clock: SystemClock())
        }

        /// The program goes on as another process. What the first one would do at its end it does not do.
        func kill() throws {
            catalog.close()
            cache.shutdown()
            try start()
        }

        func end() throws {
            cache.shutdown()
            catalog.close()
            try start()
        }

        /// The machine goes down, by a loss of power or in order, and the program is started again.
        func restart(losingPower: Bool) throws {
            boot += 1
            try losingPower ? kill() : end()
        }

        private func start() throws {
            statistics = Statistics()
            catalog = try Catalog(path: folder + "/catalog", clock: SystemClock(), boot: "\(boot)")
            cache = try Self.cache(folder, catalog, store, statistics)
        }

        /// A file that a program has written and closed.
        func write(_ name: String, _ bytes: [UInt8]) throws -> InodeID {
            let new = NewInode(kind: .file, mode: 0o600, uid: 0, gid: 0, isToBeWritten: true)
            let inode = try catalog.create(new, named: FileName(name)!, in: .root).id
            let content = try cache.open(inode, isNew: true)
            defer { content.close() }
            try content.write(bytes, at: 0)
            try content.save()
            return inode
        }

        func fsync(_ inode: InodeID) throws {
            let content = try cache.open(inode)
            defer { content.close() }
            try content.synchronize()
        }

        func bytes(_ inode: InodeID) throws -> [UInt8] {
            let content = try cache.open(inode)
            defer { content.close() }
            return try content.bytes(at: 0, count: 100 << 20)
        }

        /// Everything that waits goes to the store.
        func upload() throws {
            for item in try catalog.pending(dueBefore: Timestamp(nanoseconds: .max), limit: 100, busy: []) {
                guard case .upload(let plan) = try catalog.plan(item) else { continue }
                let bytes = try bytes(plan.placement.inode)
                let version = "v\(store.state.withLock { $0.objects.count })-\(plan.placement.contentGeneration)"
                store.set(plan.target.description, bytes, version: version)
                let metadata = Metadata(
                    kind: .file, size: Int64(bytes.count), modified: .now, version: Version(version))
                try catalog.uploaded(plan, as: metadata)
                cache.contentWasUploaded(plan.placement.inode)
            }
        }

        /// What the disk has of bytes that never came to it.
        func zero(_ inode: InodeID) throws {
            let path = cache.path(of: inode)
            var status = stat()
            try #require(stat(path, &status) == 0)
            #expect(truncate(path, 0) == 0 && truncate(path, status.st_size) == 0)
        }

        func isCached(_ inode: InodeID) throws -> Bool { try catalog.content(of: inode)?.present.isEmpty == false }
    }

    @Test("what is on the store and was not flushed is fetched again, and the room of what is left is given back")
    func fetchedAgain() throws {
        let machine = try Machine()
        let bytes = FakeStore.bytes(0..<700_000)
        let inode = try machine.write("f", bytes)
        try machine.upload()
        try machine.kill()
        #expect(try machine.bytes(inode) == bytes)
        #expect(machine.store.requests.isEmpty, "the end of the program is no loss of power")
        try machine.restart(losingPower: true)
        try machine.zero(inode)
        #expect(try machine.bytes(inode) == bytes)
        #expect(machine.statistics.snapshot()[.cachedBytes] == Int64(bytes.count))
        machine.cache.keepNow()
        #expect(try machine.catalog.contentTotals().cachedBytes == Int64(bytes.count))
        try machine.restart(losingPower: true)
        let requests = machine.store.requests.count
        #expect(try machine.bytes(inode) == bytes)
        #expect(machine.store.requests.count == requests, "what was fetched is on the disk")
    }

    @Test("a change in place of what is not believed keeps none of it, also when the program ends after it")
    func changedInPlace() throws {
        let machine = try Machine()
        var bytes = FakeStore.bytes(0..<2_000_000)
        let inode = try machine.write("f", bytes)
        try machine.upload()
        try machine.restart(losingPower: true)
        try machine.zero(inode)
        let content = try machine.cache.open(inode)
        try content.write([1, 2, 3], at: 1_000_000)
        try content.save()
        content.close()
        bytes.replaceSubrange(1_000_000..<1_000_003, with: [1, 2, 3])
        try machine.kill()
        #expect(try machine.bytes(inode) == bytes)
        try machine.upload()
        #expect(machine.store.state.withLock { $0.objects[StorePath("f")!]?.bytes } == bytes)
    }

    @Test("what was flushed is there: by itself before or after its upload, and with all at an orderly end")
    func flushed() throws {
        let machine = try Machine()
        let before = try machine.write("before", [1, 2, 3])
        try machine.fsync(before)
        let after = try machine.write("after", [4, 5, 6])
        let open = try machine.write("open", [7])
        let content = try machine.cache.open(open)
        try content.write([8], at: 1)
        try content.synchronize()
        try machine.upload()
        // Opened anew, when nobody has had the file open for a while.
        machine.cache.keepNow()
        machine.cache.closeIdleFiles(downTo: 0)
        try machine.fsync(after)
        let loose = try machine.write("loose", [9])
        try machine.upload()
        content.close()
        try machine.restart(losingPower: true)
        for inode in [before, after, open] { #expect(try machine.isCached(inode)) }
        #expect(try !machine.isCached(loose))
        #expect(try machine.bytes(open) == [7, 8])
        let last = try machine.write("last", [10])
        try machine.upload()
        try machine.restart(losingPower: false)
        for inode in [before, after, open, last] { #expect(try machine.isCached(inode)) }
        let requests = machine.store.requests.count
        #expect(try machine.bytes(last) == [10] && machine.store.requests.count == requests)
    }

    @Test("a write after a flush is not flushed by it")
    func writtenLater() throws {
        let machine = try Machine()
        let inode = try machine.write("f", [1, 2, 3])
        try machine.fsync(inode)
        var content = try machine.cache.open(inode)
        try content.write([4], at: 0)
        try content.save()
        content.close()
        try machine.upload()
        try machine.restart(losingPower: true)
        #expect(try !machine.isCached(inode))
        #expect(try machine.bytes(inode) == [4, 2, 3])
        content = try machine.cache.open(inode)
        defer { content.close() }
        // The same while the content stays loaded, and by a copy.
        try content.synchronize()
        let answers = Answers<Result<Int64, CacheError>>()
        content.copy(from: 0, to: content, at: 3, count: 3) { answers.add($0) }
        #expect(try #require(answers.wait(for: 1))[0].get() == 3)
        try content.save()
        try machine.upload()
        #expect(try machine.catalog.content(of: inode)?.trust == .unflushed)
        try content.synchronize()
        #expect(try machine.catalog.content(of: inode)?.trust == .flushed)
    }

    @Test("what is not believed is evicted like the rest")
    func evicted() throws {
        let machine = try Machine()
        let inodes = try (0..<5).map { try machine.write("f\($0)", FakeStore.bytes(0..<mebibyte)) }
        try machine.upload()
        try machine.restart(losingPower: true)
        #expect(machine.statistics.snapshot()[.cachedBytes] == 5 * mebibyte)
        #expect(machine.cache.evict { 2 * mebibyte }.freed >= 2 * mebibyte)
        _ = machine.cache.evict { 10 * mebibyte }
        #expect(try machine.catalog.contentTotals().cachedBytes == 0)
        #expect(machine.statistics.snapshot()[.cachedBytes] == 0)
        for inode in inodes { #expect(access(machine.cache.path(of: inode), F_OK) != 0) }
    }

    @Test("what is evicted gives its blocks back only when the disk has it that they are gone, once for all of it")
    func evictedPart() throws {
        let rig = try Rig()
        rig.addObject(3, size: 20 * mebibyte)
        let content = try rig.open(3)
        defer { content.close() }
        try content.fetchAll()
        for inode in 4..<40 as Range<UInt64> {
            rig.addObject(inode, size: 1000)
            let content = try rig.open(inode)
            try content.fetchAll()
            content.close()
        }
        rig.cache.keepNow()
        rig.index.isDiskBusy.update { $0 = true }
        let cache = rig.cache
        let thread = WorkerThread(name: "evictor") { _ = cache.evict { 12 * mebibyte } }
        while rig.index.state.withLock({ $0.durable }) == 0 { usleep(200) }
        #expect(rig.index.record(InodeID(3)).present != RangeSet(0..<20 * mebibyte))
        var status = stat()
        #expect(stat(rig.path(3), &status) == 0 && Int64(status.st_blocks) * 512 >= 20 * mebibyte)
        for inode in 4..<40 as Range<UInt64> { #expect(access(rig.path(inode), F_OK) == 0) }
        rig.index.isDiskBusy.update { $0 = false }
        thread.join()
        #expect(stat(rig.path(3), &status) == 0 && Int64(status.st_blocks) * 512 < 20 * mebibyte)
        #expect((4..<40 as Range<UInt64>).contains { access(rig.path($0), F_OK) != 0 })
        #expect(rig.index.state.withLock { $0.durable } < 4)
        #expect(try content.bytes(at: 0, count: 1 << 20) == FakeStore.bytes(0..<mebibyte))
    }
}
