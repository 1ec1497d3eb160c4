import Catalog
import StoreAPI
import Testing
import Threading

@testable import Caching

private let block: Int64 = 128 << 10

@Suite struct OutageTests {
    @Test("while the store is silent what is here is read, and all who wait get an answer within their deadline")
    func silentStore() throws {
        let rig = try Rig(fetchThreads: 4)
        rig.addObject(3, size: 2000 * block, isZero: true)
        rig.addObject(4, size: block)
        let here = try rig.open(4)
        defer { here.close() }
        try here.fetchAll()
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold()
        rig.cache.setReadDeadline(.milliseconds(300))
        let answers = Answers<Bool>()
        for index in 0..<1000 as Range<Int64> {
            content.read(at: 2 * index * block, count: 4096, pattern: ReadPattern()) { result in
                if case .failure(.timedOut) = result { answers.add(true) } else { answers.add(false) }
            }
            if index % 100 == 0 { #expect(try here.bytes(at: index, count: 5) == FakeStore.bytes(index..<index + 5)) }
        }
        let all = try #require(answers.wait(for: 1000))
        #expect(all.count == 1000 && all.allSatisfy { $0 })
        // What nobody wants any more is not fetched when the store is back.
        rig.cache.setReadDeadline(.seconds(60))
        rig.store.release()
        #expect(try content.bytes(at: 3 * block, count: 4).count == 4)
        #expect(rig.store.requests.count < 10)
        #expect(answers.all.count == 1000, "nobody is answered twice")
    }

    @Test("a reader whose time is over does not take the bytes from one who still waits")
    func deadlines() throws {
        let rig = try Rig()
        rig.addObject(3, size: 10 * block)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold()
        let early = Answers<Bool>()
        let late = Answers<[UInt8]>()
        rig.cache.setReadDeadline(.milliseconds(50))
        content.read(at: 0, count: 4, pattern: ReadPattern()) { result in
            if case .failure(.timedOut) = result { early.add(true) } else { early.add(false) }
        }
        rig.cache.setReadDeadline(.seconds(60))
        content.read(at: 0, count: 4, pattern: ReadPattern()) { late.add((try? $0.get()).map { Array($0) } ?? []) }
        #expect(early.wait(for: 1) == [true])
        #expect(late.all.isEmpty)
        rig.store.release()
        #expect(late.wait(for: 1) == [FakeStore.bytes(0..<4)])
        #expect(rig.store.requests.count == 1)
    }

    @Test("what somebody waits for goes before read-ahead")
    func priority() throws {
        let rig = try Rig(fetchThreads: 1)
        rig.addObject(3, size: 1000 * block, isZero: true)
        let content = try rig.open(3)
        defer { content.close() }
        rig.store.hold()
        let pattern = ReadPattern()
        let answers = Answers<Void>()
        for index in 0..<4 as Range<Int64> {
            content.read(at: index * block, count: Int(block), pattern: pattern) { _ in answers.add(()) }
        }
        content.read(at: 900 * block, count: 5, pattern: ReadPattern()) { _ in answers.add(()) }
        rig.store.release()
        #expect(answers.wait(for: 5) != nil)
        let order = rig.store.requests.compactMap(\.range?.lowerBound)
        let jump = try #require(order.firstIndex(of: 900 * block))
        #expect(order.prefix(jump).allSatisfy { $0 < 4 * block }, "\(order)")
    }

    @Test("the end of the cache answers all who wait")
    func shutdown() throws {
        let rig = try Rig()
        rig.addObject(3, size: 10 * block)
        let content = try rig.open(3)
        rig.store.hold()
        let answers = Answers<Bool>()
        for index in 0..<10 as Range<Int64> {
            content.read(at: index * block, count: 4, pattern: ReadPattern()) { result in
                if case .failure(.shutDown) = result { answers.add(true) } else { answers.add(false) }
            }
        }
        rig.cache.shutdown()
        #expect(answers.wait(for: 10)?.allSatisfy { $0 } == true)
        content.read(at: 0, count: 4, pattern: ReadPattern()) { result in
            if case .failure(.shutDown) = result { answers.add(true) } else { answers.add(false) }
        }
        #expect(answers.wait(for: 11)?.last == true)
    }
}

@Suite struct DamageTests {
    @Test("bytes that neither the cache nor the store has are an error, at once")
    func nobodyHasThem() throws {
        let rig = try Rig()
        rig.index.state.withLock {
            $0.rows[InodeID(3)] = .init(
                record: ContentRecord(
                    inode: InodeID(3), size: 100, generation: 1, isDirty: true, present: RangeSet(), source: nil,
                    isChanging: false))
        }
        let content = try rig.open(3)
        defer { content.close() }
        #expect(throws: CacheError.self) { try content.bytes(at: 0, count: 10) }
        #expect(throws: CacheError.self) { try content.fetchAll() }
    }
}
