import Catalog
import Glibc
import Statistics
import StoreAPI
import Testing
import Threading

@testable import Caching

private let block: Int64 = 128 << 10

@Suite struct ReadingTests {
    @Test("a random read fetches one aligned block, and the next one of it nothing")
    func sparseReads() throws {
        let rig = try Rig()
        rig.addObject(3, size: 40 * block + 5)
        let content = try rig.open(3)
        defer { content.close() }
        let pattern = ReadPattern()
        for offset in [30 * block + 4096, 7 * block, 19 * block + 100, 2 * block + 8192] {
            #expect(try content.bytes(at: offset, count: 4096, pattern) == FakeStore.bytes(offset..<offset + 4096))
        }
        #expect(
            rig.store.requests.map(\.range) == [30, 7, 19, 2].map { $0 * block..<($0 + 1) * block })
        #expect(
            try content.bytes(at: 30 * block, count: 100, pattern) == FakeStore.bytes(30 * block..<30 * block + 100))
        #expect(rig.store.requests.count == 4)
        // The end of the file is not a whole block, and behind it there is nothing.
        #expect(try content.bytes(at: 40 * block, count: 4096) == FakeStore.bytes(40 * block..<40 * block + 5))
        #expect(rig.store.requests.last?.range == 40 * block..<40 * block + 5)
        #expect(try content.bytes(at: 40 * block + 5, count: 4096) == [])
        #expect(content.cachedBytes == 4 * block + 5)
        #expect(rig.statistics.snapshot()[.cacheMisses] == 5)
        #expect(rig.statistics.snapshot()[.cacheHits] == 1)
    }

    @Test("who keeps jumping about in a file gets more with each request, and less again after reading on")
    func randomReads() throws {
        let rig = try Rig()
        rig.addObject(3, size: 64 << 20, isZero: true)
        let content = try rig.open(3)
        defer { content.close() }
        let pattern = ReadPattern()
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<200 {
            let offset = Int64.random(in: 0..<(64 << 20) - 4096, using: &generator)
            #expect(try content.bytes(at: offset, count: 4096, pattern).count == 4096)
        }
        #expect(rig.store.requests.count < 100)
        let lengths = rig.store.requests.compactMap(\.range).map(\.length)
        #expect(lengths.first.map { $0 <= 2 * block } == true && lengths.max().map { $0 <= 2 << 20 } == true)
        #expect(pattern.grain == 1 << 20)
        for start in stride(from: 0, to: 64 * block, by: Int64.Stride(block)) {
            _ = pattern.note(start..<start + block, end: 1 << 40, room: 1 << 40)
        }
        #expect(pattern.grain == block)
    }

    @Test("a read across two blocks of which one is here fetches the other")
    func gaps() throws {
        let rig = try Rig()
        rig.addObject(3, size: 10 * block)
        let content = try rig.open(3)
        defer { content.close() }
        _ = try content.bytes(at: 4 * block, count: 10)
        let range = 4 * block + 100..<5 * block + 100
        #expect(try content.bytes(at: range.lowerBound, count: Int(block)) == FakeStore.bytes(range))
        #expect(rig.store.requests.map(\.range) == [4 * block..<5 * block, 5 * block..<6 * block])
    }

    @Test("a hundred readers of one block cause one request")
    func singleFlight() throws {
        let rig = try Rig()
        rig.addObject(3, size: 10 * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold()
        let answers = Answers<Result<[UInt8], CacheError>>()
        for index in 0..<100 {
            content.read(at: 2 * block + Int64(index), count: 50, pattern: ReadPattern()) {
                answers.add($0.map { Array($0) })
            }
        }
        #expect(rig.store.awaitRequests(1))
        rig.store.release()
        let all = try #require(answers.wait(for: 100))
        #expect(rig.store.requests.count == 1)
        let right = Set((0..<100).map { FakeStore.bytes(2 * block + $0..<2 * block + $0 + 50) })
        #expect(Set(try all.map { try $0.get() }) == right)
    }

    @Test("who waits for the start of a long transfer does not wait for its end")
    func progress() throws {
        let rig = try Rig()
        rig.addObject(3, size: 64 << 20)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold()
        let fetched = Answers<Bool>()
        let thread = WorkerThread(name: "test") { fetched.add((try? content.fetchAll()) != nil) }
        #expect(rig.store.awaitRequests(8))
        let answers = Answers<[UInt8]>()
        content.read(at: 100, count: 50, pattern: ReadPattern()) {
            answers.add((try? $0.get()).map { Array($0) } ?? [])
        }
        // However the threads run, the first transfer gets to half of its bytes, and not all get to their end.
        rig.store.allow(7 * 128 + 64)
        #expect(answers.wait(for: 1)?.first == FakeStore.bytes(100..<150))
        #expect(fetched.all.isEmpty)
        rig.store.release()
        #expect(fetched.wait(for: 1) == [true])
        thread.join()
        #expect(rig.store.requests.count == 8)
        #expect(content.cachedBytes == 64 << 20)
    }

    @Test("what an upload has just replaced on the store is read from the new object, when that is known")
    func replacedByUpload() throws {
        let rig = try Rig()
        rig.store.state.withLock {
            $0.capabilities = StoreCapabilities([.rangedRead, .rangeCopy], rangeCopySizes: 1...Int64.max)
        }
        rig.addObject(3, size: 8 << 20)
        let content = try rig.open(3)
        defer { content.close() }
        try content.write([1, 2, 3], at: 0)
        rig.index.beginUpload(InodeID(3))
        let view = try content.prepareUpload(rig.store.capabilities)
        let bytes = try rig.bytes(of: view)
        rig.store.set("o3", bytes, version: "v2")
        let answers = Answers<[UInt8]?>()
        content.read(at: 4 << 20, count: 5, pattern: ReadPattern()) { result in
            answers.add((try? result.get()).map { Array($0) })
        }
        #expect(rig.store.awaitRequests(1))
        #expect(answers.all.isEmpty)
        rig.index.uploaded(
            InodeID(3), generation: view.generation,
            source: ContentSource(path: StorePath("o3")!, version: Version("v2"), size: 8 << 20))
        rig.cache.contentWasUploaded(InodeID(3))
        view.end()
        #expect(answers.wait(for: 1) == [FakeStore.bytes(4 << 20..<4 << 20 + 5)])
    }

    @Test("sequential reading is kept ahead of, in parallel, up to the end and not behind it")
    func readAhead() throws {
        let rig = try Rig()
        let size: Int64 = (96 << 20) + 777
        rig.addObject(3, size: size, isZero: true)
        let content = try rig.open(3)
        defer { content.close() }
        let pattern = ReadPattern()
        var position: Int64 = 0
        while position < size {
            let bytes = try content.bytes(at: position, count: Int(block), pattern)
            #expect(bytes.count == Int(min(block, size - position)))
            position += Int64(bytes.count)
            if position == 256 * block {
                // Requests that nobody waits for yet go on by themselves, several at a time.
                rig.store.hold()
                let answers = Answers<Bool>()
                for index in 0..<200 {
                    content.read(at: position + Int64(index) * block, count: Int(block), pattern: pattern) { _ in
                        answers.add(true)
                    }
                }
                #expect(rig.store.state.wait(until: .now + .seconds(60)) { $0.inFlight > 1 ? () : nil } != nil)
                rig.store.release()
                while answers.all.count < 200 { usleep(1000) }
            }
        }
        let requests = rig.store.requests.compactMap(\.range)
        #expect(rig.store.bytesSent == size, "each byte once")
        #expect(requests.map(\.upperBound).max() == size)
        #expect(requests.count < 60, "large pieces, not \(requests.count) small ones")
        #expect(requests.contains { $0.upperBound - $0.lowerBound == 4 << 20 })
        // The bytes are here before the last request has ended.
        while !content.state.withLock({ $0.fetches.isEmpty }) { usleep(1000) }
        #expect(rig.statistics.snapshot()[.filesDownloaded] == 1)
    }

    @Test("requests of the kernel's read-ahead that arrive out of order count as sequential, a jump ends it")
    func pattern() {
        let pattern = ReadPattern()
        func note(_ index: Int64) -> Range<Int64>? {
            pattern.note(index * block..<(index + 1) * block, end: 1 << 40, room: 1 << 40)?.range
        }
        #expect(note(0) == nil)
        #expect(note(2)?.lowerBound == 3 * block)
        _ = note(1)
        var last: Range<Int64>?
        for index in [4, 3, 6, 5, 8, 7, 9] as [Int64] { last = note(index) ?? last }
        #expect(last.map { $0.upperBound - 10 * block >= 1 << 20 } == true)
        #expect(note(1000) == nil)
        #expect(pattern.note(5000..<9096, end: 1 << 40, room: 1 << 40) == nil)
        let ahead = pattern.note(9096..<13192, end: 1 << 40, room: 1 << 40)
        #expect(ahead?.range == (13192..<275_336) as Range<Int64>)
        #expect(ReadPattern().note(0..<4096, end: 4096, room: 1 << 40) == nil)
    }

    @Test("a store without ranged reads is asked for the whole object, once")
    func wholeObjects() throws {
        let rig = try Rig()
        rig.store.state.withLock { $0.capabilities = StoreCapabilities([]) }
        rig.addObject(3, size: 10 * block)
        let content = try rig.open(3)
        defer { content.close() }
        #expect(try content.bytes(at: 5 * block, count: 10) == FakeStore.bytes(5 * block..<5 * block + 10))
        #expect(try content.bytes(at: 9 * block, count: 10) == FakeStore.bytes(9 * block..<9 * block + 10))
        #expect(rig.store.requests.map(\.range) == [nil])
    }

    @Test("a file of half a megabyte is fetched whole, which has a checksum, and a larger one is not")
    func whole() throws {
        for (size, range) in [(4 * block, nil), (4 * block + 1, block..<2 * block)] as [(Int64, Range<Int64>?)] {
            let rig = try Rig()
            rig.addObject(3, size: size)
            let content = try rig.open(3)
            defer { content.close() }
            #expect(try content.bytes(at: block + 7, count: 10) == FakeStore.bytes(block + 7..<block + 17))
            #expect(rig.store.requests.map(\.range).first == range)
        }
    }

    @Test("a short answer is asked for again, for what is missing; short again is an error")
    func shortAnswers() throws {
        let rig = try Rig()
        rig.addObject(3, size: 8 * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.state.withLock { $0.shortAnswers = 1 }
        #expect(try content.bytes(at: 0, count: Int(block)) == FakeStore.bytes(0..<block))
        #expect(rig.store.requests.count == 2)
        rig.store.state.withLock { $0.shortAnswers = 2 }
        #expect { try content.bytes(at: 2 * block, count: 10) } throws: { isStoreError($0, .corrupted) }
        #expect(try content.bytes(at: 2 * block, count: Int(block)) == FakeStore.bytes(2 * block..<3 * block))
    }

    @Test("bytes that turn out to be damaged are never given to anybody nor kept", arguments: [1, 80] as [Int64])
    func corruption(blocks: Int64) throws {
        let rig = try Rig()
        rig.addObject(3, size: blocks * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.state.withLock { $0.corruptAnswers = 1 }
        try content.fetchAll()
        #expect(try content.bytes(at: 0, count: Int(blocks * block)) == FakeStore.bytes(0..<blocks * block))
        rig.addObject(4, size: block)
        let other = try rig.open(4)
        defer { other.close() }
        rig.store.state.withLock { $0.corruptAnswers = 2 }
        #expect { try other.bytes(at: 0, count: 10) } throws: { isStoreError($0, .corrupted) }
        #expect(other.cachedBytes == 0)
    }

    @Test("an object that has moved on the store is found again; one that has changed is an error without repetition")
    func moved() throws {
        let rig = try Rig()
        rig.addObject(3, size: 8 * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.state.withLock { $0.objects[StorePath("new")!] = $0.objects.removeValue(forKey: StorePath("o3")!) }
        rig.index.move(InodeID(3), to: "new")
        #expect(try content.bytes(at: 0, count: 5) == FakeStore.bytes(0..<5))
        rig.store.set("new", [1, 2, 3], version: "v2")
        let before = rig.store.requests.count
        #expect { try content.bytes(at: 2 * block, count: 5) } throws: { isStoreError($0, .preconditionFailed) }
        #expect(rig.store.requests.count == before + 1)
        #expect(try content.bytes(at: 0, count: 5) == FakeStore.bytes(0..<5), "what is here stays readable")
    }

    @Test("a failed fetch gives its error to all who wait, and the next reader tries anew")
    func failure() throws {
        let rig = try Rig()
        rig.addObject(3, size: 4 * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.state.withLock { $0.errors = [StoreError(.unavailable, "away")] }
        rig.store.hold()
        let answers = Answers<Bool>()
        for _ in 0..<10 {
            content.read(at: 0, count: 5, pattern: ReadPattern()) { result in
                if case .failure(.store(let error)) = result { answers.add(error.code == .unavailable) }
            }
        }
        rig.store.release()
        #expect(answers.wait(for: 10)?.allSatisfy { $0 } == true)
        #expect(try content.bytes(at: 0, count: 5) == FakeStore.bytes(0..<5))
    }

    @Test("another store is used from the next fetch on")
    func otherStore() throws {
        let rig = try Rig()
        rig.addObject(3, size: 8 * block)
        let content = try rig.open(3)
        defer { content.close() }
        _ = try content.bytes(at: 0, count: 5)
        let other = FakeStore()
        other.add("o3", size: 8 * block)
        rig.cache.setStore(other)
        _ = try content.bytes(at: 2 * block, count: 5)
        #expect(rig.store.requests.count == 1)
        #expect(other.requests.count == 1)
    }
}

func isStoreError(_ error: any Error, _ code: StoreError.Code) -> Bool {
    if case .store(let error) = error as? CacheError { return error.code == code }
    return false
}
