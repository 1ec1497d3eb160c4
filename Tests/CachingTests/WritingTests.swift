import Catalog
import Glibc
import Statistics
import StoreAPI
import Testing
import Threading

@testable import Caching

private let block: Int64 = 128 << 10

@Suite struct WritingTests {
    @Test("a write that comes while the same bytes are fetched wins", arguments: [2, 80] as [Int64])
    func writeDuringFetch(blocks: Int64) throws {
        let rig = try Rig()
        rig.addObject(3, size: blocks * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold(after: 1)
        let done = Answers<Bool>()
        let thread = WorkerThread(name: "test") { done.add((try? content.fetchAll()) != nil) }
        #expect(rig.store.awaitRequests(1))
        try content.write([UInt8](repeating: 7, count: 1000), at: 10)
        try content.write([UInt8](repeating: 8, count: 1000), at: 100_000)
        rig.store.release()
        #expect(done.wait(for: 1) == [true])
        thread.join()
        var right = FakeStore.bytes(0..<blocks * block)
        for index in 0..<1000 {
            right[10 + index] = 7
            right[100_000 + index] = 8
        }
        #expect(try content.bytes(at: 0, count: right.count) == right)
    }

    @Test("a write that brings all that a reader waits for answers it")
    func writeAnswersReader() throws {
        let rig = try Rig()
        rig.addObject(3, size: 4 * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold()
        let answers = Answers<[UInt8]>()
        content.read(at: 100, count: 3, pattern: ReadPattern()) { answers.add((try? $0.get()).map { Array($0) } ?? []) }
        #expect(rig.store.awaitRequests(1))
        try content.write([1, 2, 3, 4, 5], at: 99)
        #expect(answers.wait(for: 1) == [[2, 3, 4]])
        rig.store.release()
    }

    @Test("writing to a part of an absent file downloads nothing, and the rest is copied on the store at upload")
    func partialWrite() throws {
        let rig = try Rig()
        rig.store.state.withLock {
            $0.capabilities = StoreCapabilities([.rangedRead, .rangeCopy], rangeCopySizes: block...(3 * block))
        }
        rig.addObject(3, size: 20 * block)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([UInt8](repeating: 9, count: Int(block)), at: 4 * block)
        try content.write([1, 2, 3], at: 20 * block)
        #expect(rig.store.requests.isEmpty)
        let view = try content.prepareUpload(rig.store.capabilities)
        #expect(rig.store.requests.isEmpty)
        #expect(view.size == 20 * block + 3)
        #expect(view.body.length == view.size)
        for segment in view.body.segments {
            if case .stored(_, let version, let range) = segment {
                #expect(version == Version("v1"))
                #expect((block...3 * block).contains(range.length))
            }
        }
        var right = FakeStore.bytes(0..<20 * block)
        for index in 0..<Int(block) { right[4 * Int(block) + index] = 9 }
        #expect(try rig.bytes(of: view) == right + [1, 2, 3])
        #expect(view.isIntact())
        try content.write([4], at: 20 * block + 3)
        #expect(view.isIntact(), "appending does not touch what was read")
        try content.write([4], at: 20 * block + 2)
        #expect(!view.isIntact())
    }

    @Test("what an upload takes from an object that has moved on the store since is taken from where that lies now")
    func partialWriteOfMoved() throws {
        let rig = try Rig()
        rig.store.state.withLock {
            $0.capabilities = StoreCapabilities([.rangedRead, .rangeCopy], rangeCopySizes: 1...Int64.max)
        }
        rig.addObject(3, size: 4 * block)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([1, 2, 3], at: 0)
        rig.store.state.withLock { $0.objects[StorePath("new")!] = $0.objects.removeValue(forKey: StorePath("o3")!) }
        rig.index.move(InodeID(3), to: "new")
        let view = try content.prepareUpload(rig.store.capabilities)
        let sources = view.body.segments.compactMap { segment -> StorePath? in
            if case .stored(let path, _, _) = segment { path } else { nil }
        }
        #expect(sources == [StorePath("new")!])
        #expect(try rig.bytes(of: view) == [1, 2, 3] + FakeStore.bytes(3..<4 * block))
    }

    @Test("what is too small for a copy on the store is fetched before the upload")
    func smallPieces() throws {
        let rig = try Rig()
        rig.store.state.withLock {
            $0.capabilities = StoreCapabilities([.rangedRead, .rangeCopy], rangeCopySizes: 2 * block...100 * block)
        }
        rig.addObject(3, size: 10 * block)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([1], at: 1 * block)
        try content.write([2], at: 9 * block)
        let view = try content.prepareUpload(rig.store.capabilities)
        var right = FakeStore.bytes(0..<10 * block)
        right[Int(block)] = 1
        right[9 * Int(block)] = 2
        #expect(try rig.bytes(of: view) == right)
        #expect(rig.store.bytesSent < 5 * block)
        #expect(view.body.segments.contains { if case .stored = $0 { true } else { false } })
    }

    @Test("an upload is laid out in parts that the store takes")
    func layout() {
        func check(_ size: Int64, _ present: [Range<Int64>], _ sizes: ClosedRange<Int64>) -> UploadLayout {
            var set = RangeSet()
            for range in present { set.insert(range) }
            var layout = UploadLayout(size: size, present: set, copySizes: sizes)
            for gap in layout.missing { set.insert(gap) }
            layout = UploadLayout(size: size, present: set, copySizes: sizes)
            #expect(layout.missing.isEmpty, "what was asked for is enough")
            var position: Int64 = 0
            for (index, part) in layout.parts.enumerated() {
                #expect(part.range.lowerBound == position)
                position = part.range.upperBound
                if part.isStored {
                    #expect(sizes.contains(part.range.length))
                    #expect(set.intersection(part.range).isEmpty)
                } else {
                    #expect(set.contains(part.range))
                    #expect(part.range.length >= sizes.lowerBound || index == layout.parts.count - 1)
                }
            }
            #expect(position == size)
            return layout
        }
        #expect(check(100, [], 1...Int64.max).parts == [.init(range: 0..<100, isStored: true)])
        #expect(check(100, [], 5...30).parts.map(\.range) == [0..<25, 25..<50, 50..<75, 75..<100])
        #expect(check(100, [10..<12], 20...1000).parts.map(\.isStored) == [false, true])
        #expect(check(100, [0..<100], 20...1000).parts.count == 1)
        #expect(check(0, [], 1...5).parts.isEmpty)
        var random = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            let ranges = (0..<Int.random(in: 0..<6, using: &random)).map { _ in
                let lower = Int64.random(in: 0..<1000, using: &random)
                return lower..<min(1000, lower + Int64.random(in: 1..<200, using: &random))
            }
            let smallest = Int64.random(in: 1..<100, using: &random)
            _ = check(1000, ranges, smallest...(smallest * Int64.random(in: 2..<5, using: &random)))
        }
    }

    @Test("without copies on the store an upload fetches what is missing, and its bytes stay while it lasts")
    func uploadFetches() throws {
        let rig = try Rig()
        rig.addObject(3, size: 3 * block)
        let content = try rig.open(3)
        try content.write([1], at: 5)
        let view = try content.prepareUpload(rig.store.capabilities)
        content.close()
        rig.cache.keepNow()
        var right = FakeStore.bytes(0..<3 * block)
        right[5] = 1
        #expect(try rig.bytes(of: view) == right)
        guard case .file = view.body.segments.first, view.body.segments.count == 1 else {
            Issue.record("the body is not the cache file: \(view.body.segments)")
            return
        }
    }

    @Test("after the upload the content is clean, unless it was written to meanwhile")
    func uploaded() throws {
        let rig = try Rig()
        rig.addEmpty(3)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([1, 2, 3], at: 0)
        _ = try rig.upload(content, version: "v1")
        #expect(rig.cache.evict { 1 }.freed == 3)
        #expect(try content.bytes(at: 0, count: 10) == [1, 2, 3])
        try content.write([9], at: 1)
        let view = try content.prepareUpload(rig.store.capabilities)
        try content.write([4], at: 3)
        rig.store.set("o3", [1, 9, 3], version: "v2")
        rig.index.uploaded(
            InodeID(3), generation: view.generation,
            source: ContentSource(path: StorePath("o3")!, version: Version("v2"), size: 3))
        rig.cache.contentWasUploaded(InodeID(3))
        withExtendedLifetime(view) {}
        #expect(rig.index.record(InodeID(3)).isDirty)
        #expect(rig.cache.evict { 1 }.freed == 0)
        #expect(try content.bytes(at: 0, count: 10) == [1, 9, 3, 4])
    }

    @Test("saved content is there after a crash, and so is what was appended and not saved")
    func crash() throws {
        let rig = try Rig()
        rig.addEmpty(3)
        var content = try rig.open(3)
        try content.write([1, 2, 3], at: 0)
        try content.save()
        try content.write([4, 5], at: 5)
        try rig.restart(afterCrash: true)
        content = try rig.open(3)
        defer { content.close() }
        #expect(content.size == 7)
        #expect(try content.bytes(at: 0, count: 10) == [1, 2, 3, 0, 0, 4, 5])
        try content.save()
        #expect(!rig.index.record(InodeID(3)).isChanging)
    }

    @Test("those who synchronize at the same time share one transaction and one flush of the catalog")
    func groupCommit() throws {
        let rig = try Rig()
        let inodes: Range<UInt64> = 3..<12
        let contents = try inodes.map { inode in
            rig.addEmpty(inode)
            let content = try rig.open(inode)
            try content.write([1, 2, 3], at: 0)
            return content
        }
        defer { for content in contents { content.close() } }
        rig.index.isDiskBusy.update { $0 = true }
        let failures = Lock(0)
        let threads = contents.enumerated().map { number, content in
            let thread = WorkerThread(name: "syncer") {
                do { try content.synchronize() } catch { failures.withLock { $0 += 1 } }
            }
            // The first one is at it when the others come.
            while number == 0, rig.index.state.withLock({ $0.durable }) == 0 { usleep(200) }
            return thread
        }
        while rig.cache.commits.waiting < 8 { usleep(200) }
        // One of them is gone by then: that is the error of nobody else.
        rig.index.state.withLock { $0.rows[InodeID(7)] = nil }
        rig.index.isDiskBusy.update { $0 = false }
        for thread in threads { thread.join() }
        #expect(rig.index.state.withLock { ($0.saves, $0.durable) } == (2, 2))
        #expect(failures.withLock { $0 } == 1)
        for inode in inodes where inode != 7 {
            #expect(rig.index.record(InodeID(inode)).size == 3)
            #expect(!rig.index.record(InodeID(inode)).isChanging)
        }
    }

    @Test("a cache file that somebody deleted is fetched again when clean, and an error when not")
    func lostFile() throws {
        let rig = try Rig()
        rig.addObject(3, size: block)
        var content = try rig.open(3)
        try content.fetchAll()
        content.close()
        rig.addEmpty(4)
        var dirty = try rig.open(4)
        try dirty.write([1], at: 0)
        try dirty.save()
        dirty.close()
        try rig.restart(afterCrash: false)
        #expect(unlink(rig.path(3)) == 0)
        #expect(unlink(rig.path(4)) == 0)
        content = try rig.open(3)
        defer { content.close() }
        #expect(try content.bytes(at: 0, count: 5) == FakeStore.bytes(0..<5))
        dirty = try rig.open(4)
        defer { dirty.close() }
        #expect(throws: CacheError.self) { try dirty.bytes(at: 0, count: 1) }
        #expect(rig.statistics.snapshot().errors.contains { $0.message.contains(rig.path(4)) })
        // Whoever writes it anew needs none of what was lost.
        try dirty.truncate(to: 0)
        try dirty.write([5], at: 0)
        #expect(try dirty.bytes(at: 0, count: 1) == [5])
    }

    @Test(
        "a cache file that somebody cut off is fetched again when clean, and an error when not",
        arguments: [true, false])
    func cutFile(isOpen: Bool) throws {
        let rig = try Rig()
        rig.addObject(3, size: 2 * block)
        rig.addEmpty(4)
        for inode in [3, 4] as [UInt64] {
            let content = try rig.open(inode)
            if inode == 3 { try content.fetchAll() } else { try content.write([1, 2, 3], at: 0) }
            try content.save()
            content.close()
        }
        try rig.restart(afterCrash: false)
        let content = try rig.open(3)
        defer { content.close() }
        let dirty = try rig.open(4)
        defer { dirty.close() }
        if isOpen {
            #expect(try content.bytes(at: block, count: 5) == FakeStore.bytes(block..<block + 5))
            #expect(try dirty.bytes(at: 0, count: 3) == [1, 2, 3])
        }
        #expect(truncate(rig.path(3), 100) == 0)
        #expect(truncate(rig.path(4), 1) == 0)
        #expect(try content.bytes(at: block, count: 5) == FakeStore.bytes(block..<block + 5))
        #expect {
            _ = try dirty.bytes(at: 0, count: 3)
        } throws: {
            if case .lost = $0 as? CacheError { true } else { false }
        }
        #expect(rig.statistics.snapshot().errors.contains { $0.message.contains(rig.path(4)) })
        if !isOpen { #expect(throws: CacheError.self) { try dirty.prepareUpload(rig.store.capabilities) } }
    }

    @Test("what is clean and was fetched is known after a restart, and not fetched again")
    func presenceIsSaved() throws {
        let rig = try Rig()
        rig.addObject(3, size: 10 * block)
        var content = try rig.open(3)
        _ = try content.bytes(at: 2 * block, count: 5)
        #expect(rig.index.record(InodeID(3)).present.isEmpty, "not before it is on the disk")
        content.close()
        try rig.restart(afterCrash: false)
        #expect(rig.index.record(InodeID(3)).present.ranges == [2 * block..<3 * block])
        content = try rig.open(3)
        defer { content.close() }
        _ = try content.bytes(at: 2 * block, count: 5)
        #expect(rig.store.requests.count == 1)
        var status = stat()
        #expect(stat(rig.path(3), &status) == 0)
        #expect(status.st_mode & 0o777 == 0o600)
    }

    @Test("holes and data are found; what is only on the store is data")
    func seek() throws {
        let rig = try Rig()
        rig.addObject(3, size: 4 * block)
        let content = try rig.open(3)
        defer { content.close() }
        #expect(try content.seek(5, toHole: false) == 5)
        #expect(try content.seek(5, toHole: true) == 4 * block)
        try content.truncate(to: 12 * block)
        try content.write([1], at: 10 * block)
        #expect(try content.seek(5, toHole: true) == 4 * block)
        #expect(try content.seek(5 * block, toHole: false) == 10 * block)
        #expect(try content.seek(11 * block, toHole: false) == nil)
        #expect(try content.seek(10 * block, toHole: true).map { $0 > 10 * block && $0 <= 12 * block } == true)
        #expect(try content.seek(12 * block, toHole: true) == nil)
        try content.punchHole(block..<2 * block)
        #expect(try content.seek(0, toHole: true) == block)
        #expect(try content.seek(block, toHole: false) == 2 * block)
        #expect(rig.store.requests.isEmpty)
    }

    @Test("a copy fetches what it needs; onto itself it may not overlap")
    func copying() throws {
        let rig = try Rig()
        rig.addObject(3, size: 100 * block)
        rig.addEmpty(4)
        let source = try rig.open(3)
        let target = try rig.open(4)
        let answers = Answers<Int64?>()
        source.copy(from: 10 * block, to: target, at: 5, count: 1000 * block) { answers.add(try? $0.get()) }
        #expect(answers.wait(for: 1) == [90 * block])
        #expect(target.size == 90 * block + 5)
        let right = [0, 0, 0, 0, 0] + FakeStore.bytes(10 * block..<100 * block)
        #expect(try target.bytes(at: 0, count: right.count) == right)
        target.copy(from: 0, to: target, at: 100 * block, count: 100) { answers.add(try? $0.get()) }
        target.copy(from: 0, to: target, at: 50, count: 100) { answers.add(try? $0.get()) }
        target.copy(from: 5, to: source, at: 0, count: 10) { answers.add(try? $0.get()) }
        #expect(answers.wait(for: 4).map { Set($0) } == [90 * block, 100, nil, 10])
        #expect(try target.bytes(at: 100 * block, count: 100) == Array(right[0..<100]))
        #expect(try source.bytes(at: 0, count: 12) == Array(right[5..<15]) + FakeStore.bytes(10..<12))
        source.close()
        target.close()
    }

    @Test("a discarded content leaves no file behind, also when it is still open")
    func discard() throws {
        let rig = try Rig()
        rig.addEmpty(3)
        rig.addEmpty(4)
        func written(_ inode: UInt64) throws -> CachedContent {
            let content = try rig.open(inode)
            try content.write([UInt8](repeating: 1, count: 5000), at: 0)
            try content.save()
            return content
        }
        try written(3).close()
        let open = try written(4)
        rig.cache.discard(InodeID(3))
        rig.cache.discard(InodeID(4))
        do {
            try open.write([1], at: 0)
            Issue.record("what is gone can be written to")
        } catch CacheError.discarded {}
        #expect(access(rig.path(3), F_OK) != 0)
        #expect(access(rig.path(4), F_OK) != 0)
        #expect(rig.cache.accounts.total == 0)
    }
}
