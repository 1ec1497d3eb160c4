import Catalog
import Glibc
import Statistics
import StoreAPI
import Synchronization
import Testing
import Threading

@testable import Caching

private let mebibyte: Int64 = 1 << 20

@Suite struct LimitTests {
    @Test("above the soft limit clean files go, those used longest ago first; dirty ones stay")
    func leastRecentlyUsed() throws {
        let rig = try Rig()
        for inode in 3...12 as ClosedRange<UInt64> {
            rig.addObject(inode, size: mebibyte)
            let content = try rig.open(inode)
            try content.fetchAll()
            content.close()
            rig.cache.keepNow()
        }
        rig.addEmpty(20)
        let dirty = try rig.open(20)
        try dirty.write([UInt8](repeating: 1, count: Int(mebibyte)), at: 0)
        try dirty.save()
        dirty.close()
        try rig.open(3).close()
        rig.cache.keepNow()
        #expect(rig.cache.accounts.total == 11 * mebibyte)
        #expect(rig.cache.evict { 3 * mebibyte }.freed == 3 * mebibyte)
        let left = (3...12 as ClosedRange<UInt64>).filter { access(rig.path($0), F_OK) == 0 }
        #expect(left == [3, 7, 8, 9, 10, 11, 12])
        #expect(rig.cache.evict { 100 * mebibyte }.freed == 7 * mebibyte)
        #expect(access(rig.path(20), F_OK) == 0)
        #expect(rig.cache.accounts.total == mebibyte)
        #expect(rig.statistics.snapshot()[.bytesEvicted] == 10 * mebibyte)
        #expect(rig.statistics.snapshot()[.cachedBytes] == mebibyte)
        let again = try rig.open(5)
        defer { again.close() }
        #expect(try again.bytes(at: 500, count: 10) == FakeStore.bytes(500..<510))
    }

    @Test("a file larger than the cache is read from end to end while what lies behind the reader goes")
    func streaming() throws {
        let soft = 24 * mebibyte
        let rig = try Rig(soft: soft, hard: 2 * soft)
        let size = 200 * mebibyte
        rig.addObject(3, size: size, isZero: true)
        let content = try rig.open(3)
        defer { content.close() }
        let pattern = ReadPattern()
        var position: Int64 = 0
        var most: Int64 = 0
        while position < size {
            let count = try content.bytes(at: position, count: 128 << 10, pattern).count
            #expect(count == 128 << 10)
            position += Int64(count)
            most = max(most, rig.cache.accounts.total)
        }
        #expect(most <= 2 * soft, "\(most) bytes at a time")
        #expect(rig.store.bytesSent < size * 5 / 4, "hardly anything is fetched twice: \(rig.store.bytesSent)")
        var status = stat()
        #expect(stat(rig.path(3), &status) == 0)
        #expect(Int64(status.st_blocks) * 512 < 3 * soft)
    }

    @Test("readers who race with eviction see the right bytes")
    func race() throws {
        let rig = try Rig()
        let size: Int64 = 4 * mebibyte
        rig.addObject(3, size: size)
        let content = try rig.open(3)
        defer { content.close() }
        let right = FakeStore.bytes(0..<size)
        let results = Answers<Bool>()
        let readers = (0..<3).map { reader in
            WorkerThread(name: "reader") {
                var random = SplitMix(seed: UInt64(reader))
                var isRight = true
                for _ in 0..<400 {
                    let offset = Int64.random(in: 0..<size - 70_000, using: &random)
                    let count = Int.random(in: 1...70_000, using: &random)
                    let answers = Answers<Bool>()
                    content.read(at: offset, count: count, pattern: ReadPattern()) { result in
                        answers.add(
                            (try? result.get()).map { Array($0) } == Array(right[Int(offset)..<Int(offset) + count]))
                    }
                    isRight = answers.wait(for: 1) == [true] && isRight
                }
                results.add(isRight)
            }
        }
        while results.all.count < 3 { _ = rig.cache.evict { size } }
        for reader in readers { reader.join() }
        #expect(results.all == [true, true, true])
    }

    @Test("above the hard limit writers wait, and go on in their order as uploads make room")
    func writersWait() throws {
        let rig = try Rig(soft: 4 * mebibyte, hard: 4 * mebibyte)
        let pressed = Answers<Void>()
        rig.cache.onPressure { pressed.add(()) }
        var contents: [CachedContent] = []
        for inode in 3...6 as ClosedRange<UInt64> {
            rig.addEmpty(inode)
            let content = try rig.open(inode)
            contents.append(content)
            let answers = Answers<Bool>()
            rig.cache.reserve(mebibyte) { answers.add($0 == nil) }
            #expect(answers.all == [true], "at once")
            try content.write([UInt8](repeating: 1, count: Int(mebibyte)), at: 0)
        }
        let served = Answers<Int>()
        for index in 0..<6 { rig.cache.reserve(mebibyte / 2) { if $0 == nil { served.add(index) } } }
        #expect(pressed.wait(for: 1) != nil)
        #expect(served.all.isEmpty)
        #expect(rig.statistics.snapshot()[.writersDelayed] == 6)
        for (index, content) in contents.prefix(3).enumerated() {
            _ = try rig.upload(content, version: "v1")
            #expect(served.wait(for: 2 * (index + 1)) == Array(0..<2 * (index + 1)))
        }
        rig.cache.reserve(100 * mebibyte) { served.add($0 == nil ? 100 : -1) }
        rig.cache.shutdown()
        #expect(served.wait(for: 7)?.last == -1)
        for content in contents { content.close() }
    }

    @Test("what was uploaded makes room when its view has ended, also when somebody still knows the view")
    func endedView() throws {
        let rig = try Rig(soft: 2 * mebibyte, hard: 2 * mebibyte)
        rig.addEmpty(3)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([UInt8](repeating: 1, count: Int(2 * mebibyte)), at: 0)
        let view = try content.prepareUpload(rig.store.capabilities)
        let served = Answers<Bool>()
        rig.cache.reserve(mebibyte) { served.add($0 == nil) }
        let path = StorePath("o3")!
        rig.store.set("o3", try rig.bytes(of: view), version: "v1")
        rig.index.uploaded(
            InodeID(3), generation: view.generation,
            source: ContentSource(path: path, version: Version("v1"), size: view.size))
        rig.cache.contentWasUploaded(InodeID(3))
        #expect(rig.cache.evict { mebibyte }.freed == 0, "its bytes are still being read")
        #expect(served.all.isEmpty)
        view.end()
        #expect(served.wait(for: 1) == [true])
        withExtendedLifetime(view) {}
    }

    @Test("whatever keeps a content from being evicted: its end serves those who wait for room", arguments: 0..<3)
    func becomesEvictable(reason: Int) throws {
        let rig = try Rig(soft: 2 * mebibyte, hard: 2 * mebibyte)
        rig.addObject(3, size: 2 * mebibyte)
        let content = try rig.open(3)
        // A use of its own, so that no close but the one below is the last.
        let other = try rig.open(3)
        _ = try content.bytes(at: 0, count: Int(2 * mebibyte))
        let view = reason == 0 ? try content.prepareUpload(rig.store.capabilities) : nil
        switch reason {
        case 1: content.update { $0.holds += 1 }
        case 2: content.update { $0.isDirty = true }
        default: break
        }
        let served = Answers<Bool>()
        rig.cache.reserve(mebibyte) { served.add($0 == nil) }
        #expect(rig.cache.evict { mebibyte }.freed == 0)
        #expect(served.all.isEmpty)
        switch reason {
        case 0: view?.end()
        case 1: content.update { $0.holds -= 1 }
        case 2: rig.cache.contentWasUploaded(InodeID(3))
        default: break
        }
        content.close()
        #expect(served.wait(for: 1) == [true])
        other.close()
    }

    @Test("room that was asked for and not used is given back at once")
    func unusedRoom() throws {
        let rig = try Rig(soft: 2 * mebibyte, hard: 2 * mebibyte)
        rig.addEmpty(3)
        let content = try rig.open(3)
        let served = Answers<Bool>()
        try content.write([UInt8](repeating: 1, count: Int(mebibyte)), at: 0)
        rig.cache.reserve(mebibyte) { served.add($0 == nil) }
        rig.cache.reserve(mebibyte) { served.add($0 == nil) }
        #expect(served.all == [true])
        #expect(throws: CacheError.self) { try content.write([UInt8](repeating: 1, count: Int(mebibyte)), at: -1) }
        #expect(served.wait(for: 2) == [true, true])
        rig.cache.accounts.endPromise(mebibyte)
        content.close()
        #expect(rig.cache.accounts.outstanding == 0)
    }

    @Test("a file larger than the cache is allocated at once, and written as the cache has room")
    func largeAllocation() throws {
        let rig = try Rig(soft: 2 * mebibyte, hard: 2 * mebibyte)
        rig.addEmpty(3)
        let content = try rig.open(3)
        defer { content.close() }
        try content.allocate(0..<mebibyte, keepSize: false)
        #expect(rig.cache.accounts.total == mebibyte)
        try content.allocate(0..<100 * mebibyte, keepSize: false)
        #expect(content.size == 100 * mebibyte)
        #expect(rig.cache.accounts.total == mebibyte)
        #expect(rig.cache.accounts.outstanding == 0)
        let served = Answers<Bool>()
        rig.cache.reserve(mebibyte) { served.add($0 == nil) }
        #expect(served.all == [true])
    }

    @Test("a write that is larger than the cache is not kept waiting by what never goes")
    func largeWrite() throws {
        let rig = try Rig(soft: 4 * mebibyte, hard: 4 * mebibyte)
        rig.addEmpty(3)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([1], at: 0)
        let served = Answers<Bool>()
        rig.cache.reserve(100 * mebibyte) { served.add($0 == nil) }
        #expect(served.all == [true])
    }

    @Test("what this cache writes counts against the free space before the disk is asked again")
    func freeSpaceOfTheMoment() throws {
        var space = statvfs()
        #expect(statvfs("/tmp", &space) == 0)
        let free = Int64(space.f_bavail) * Int64(space.f_frsize)
        // Room for 64 MiB above the floor, and others on this disk who write meanwhile.
        let rig = try Rig(floor: free - (64 << 20))
        _ = rig.cache.hasRoom(for: 1)
        rig.cache.accounts.diskLooked.store(.max, ordering: .relaxed)
        let before = rig.cache.accounts.diskFree.load(ordering: .relaxed)
        rig.cache.charge(48 << 20)
        #expect(rig.cache.accounts.diskFree.load(ordering: .relaxed) == before - (48 << 20))
        rig.cache.charge(-(48 << 20))
    }

    @Test("an upload for which the cache has no room leaves what is missing to a store that can copy")
    func uploadWithoutRoom() throws {
        let rig = try Rig(soft: mebibyte, hard: mebibyte)
        rig.store.state.withLock {
            $0.capabilities = StoreCapabilities([.rangedRead, .rangeCopy], rangeCopySizes: 2 * mebibyte...Int64.max)
        }
        rig.addObject(3, size: 8 * mebibyte)
        let content = try rig.open(3)
        defer { content.close() }
        var expected = FakeStore.bytes(0..<8 * mebibyte)
        for index in 0..<8 {
            let offset = index << 20 + 12_345
            try content.write([7, 7, 7], at: Int64(offset))
            expected.replaceSubrange(offset..<offset + 3, with: [7, 7, 7])
        }
        let view = try content.prepareUpload(rig.store.capabilities)
        defer { view.end() }
        #expect(rig.store.requests.isEmpty)
        #expect(rig.cache.accounts.total == 24)
        #expect(try rig.bytes(of: view) == expected)
    }

    @Test("on a full disk a reader waits for its bytes no longer than its time, an upload does not wait at all")
    func fetchesOnFullDisk() throws {
        let rig = try Rig(floor: Int64.max / 4)
        rig.addObject(3, size: mebibyte)
        let content = try rig.open(3)
        defer { content.close() }
        rig.cache.setReadDeadline(.milliseconds(300))
        #expect {
            _ = try content.bytes(at: 0, count: 10)
        } throws: {
            if case .timedOut = $0 as? CacheError { true } else { false }
        }
        try content.write([1], at: 5)
        #expect {
            _ = try content.prepareUpload(rig.store.capabilities)
        } throws: {
            if case .system(ENOSPC) = $0 as? CacheError { true } else { false }
        }
        #expect(rig.store.requests.isEmpty)
        #expect(rig.cache.accounts.outstanding == 0)
        rig.cache.setReadDeadline(.seconds(60))
        let answers = Answers<Bool>()
        content.read(at: 6, count: 2, pattern: ReadPattern()) { result in
            answers.add((try? result.get()).map { Array($0) } == FakeStore.bytes(6..<8))
        }
        #expect(answers.all.isEmpty)
        rig.cache.setLimits(CacheLimits(soft: 1 << 40, hard: 1 << 41, freeSpaceFloor: 0))
        #expect(answers.wait(for: 1) == [true])
    }

    @Test("free space below the floor counts as full")
    func freeSpace() throws {
        let rig = try Rig(floor: Int64.max / 4)
        let served = Answers<Bool>()
        rig.cache.reserve(1) { served.add($0 == nil) }
        #expect(served.all.isEmpty)
        rig.cache.setLimits(CacheLimits(soft: 1 << 40, hard: 1 << 41, freeSpaceFloor: 0))
        #expect(served.wait(for: 1) == [true])
    }

    @Test("holes take no room in the cache")
    func sparse() throws {
        let rig = try Rig(soft: mebibyte, hard: 2 * mebibyte)
        rig.addEmpty(3)
        let content = try rig.open(3)
        defer { content.close() }
        try content.truncate(to: 1 << 40)
        try content.write([1], at: 1 << 39)
        #expect(rig.cache.accounts.total == 1)
        try content.save()
        #expect(try content.bytes(at: (1 << 39) - 1, count: 3) == [0, 1, 0])
    }

    @Test("what an upload needs is kept until it is on the store, also when it was clean and stays open")
    func pinned() throws {
        let rig = try Rig()
        rig.addObject(3, size: mebibyte)
        let content = try rig.open(3)
        defer { content.close() }
        let synchronizers = try rig.open(3)
        try synchronizers.pin()
        synchronizers.close()
        // The object that had the bytes is overwritten now.
        rig.store.set("o3", [1, 2, 3], version: "v2")
        #expect(rig.cache.evict { 10 * mebibyte }.freed == 0)
        #expect(try content.bytes(at: 0, count: Int(mebibyte)) == FakeStore.bytes(0..<mebibyte))
        #expect(rig.index.record(InodeID(3)).isDirty)
    }

    @Test("a full disk makes clean content go; when there is none the writer gets ENOSPC, and loses nothing")
    func fullDisk() throws {
        var template = Array("/tmp/cloudfusion-tmpfs-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template)!)
        defer { rmdir(folder) }
        guard getuid() == 0, mount("tmpfs", folder, "tmpfs", 0, "size=8m") == 0 else {
            print("skipped: a small disk can only be mounted by root")
            return
        }
        defer { umount2(folder, 2) }
        let rig = try Rig(folder: folder)
        rig.addObject(3, size: 4 * mebibyte)
        let clean = try rig.open(3)
        try clean.fetchAll()
        clean.close()
        rig.addEmpty(4)
        let content = try rig.open(4)
        defer { content.close() }
        let piece = [UInt8](repeating: 5, count: Int(mebibyte))
        for index in 0..<6 { try content.write(piece, at: Int64(index) * mebibyte) }
        #expect(access(rig.path(3), F_OK) != 0)
        #expect {
            for index in 6..<9 { try content.write(piece, at: Int64(index) * mebibyte) }
        } throws: {
            if case .system(ENOSPC) = $0 as? CacheError { true } else { false }
        }
        #expect(try content.bytes(at: 5 * mebibyte, count: Int(mebibyte)) == piece)
        let again = try rig.open(3)
        defer { again.close() }
        rig.cache.setReadDeadline(.milliseconds(300))
        let answers = Answers<Bool>()
        again.read(at: 0, count: Int(mebibyte), pattern: ReadPattern()) { result in
            if case .failure(.timedOut) = result { answers.add(true) } else { answers.add(false) }
        }
        #expect(answers.wait(for: 1) == [true])
        #expect(rig.statistics.snapshot().errors.contains { $0.message.contains("free on the disk") })
    }

    @Test("a file of 4 GiB is read and written with little memory and within the limits")
    func largeFile() throws {
        let soft = 64 * mebibyte
        let rig = try Rig(soft: soft, hard: 2 * soft)
        let size: Int64 = 4 << 30
        rig.store.state.withLock { $0.pieceSize = 4 << 20 }
        rig.addObject(3, size: size, isZero: true)
        let content = try rig.open(3)
        let before = residentMemory()
        let pattern = ReadPattern()
        // Every gigabyte a stretch of 96 MiB, in requests as the kernel makes them.
        for stretch in 0..<4 as Range<Int64> {
            var position = stretch << 30
            while position < stretch << 30 + 96 * mebibyte {
                position += Int64(try content.bytes(at: position, count: 1 << 20, pattern).count)
            }
            #expect(rig.cache.accounts.total <= 2 * soft)
        }
        content.close()
        rig.addEmpty(4)
        let target = try rig.open(4)
        let piece = [UInt8](repeating: 3, count: 1 << 20)
        for index in 0..<48 as Range<Int64> { try target.write(piece, at: index * (size / 48)) }
        try target.truncate(to: size)
        #expect(rig.cache.accounts.total <= 2 * soft)
        #expect(target.size == size)
        target.close()
        #expect(residentMemory() - before < 200 << 20)
    }

    private func residentMemory() -> Int64 {
        guard let file = fopen("/proc/self/statm", "r") else { return 0 }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 200)
        guard fgets(&line, 200, file) != nil else { return 0 }
        let fields = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(
            separator: " ")
        return Int64(fields[1])! * 4096
    }
}
