import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

@Suite("Garbage of chunks")
struct CompactionTests {
    @Test("a chunk of which little is left is packed anew at once, and deleted after the time of grace")
    func grace() throws {
        let rig = ChunkStoreTests.Rig()
        let store = try rig.machine()
        let other = try rig.machine(trust: .seconds(100_000))
        try ChunkStoreTests.succeed(
            store.apply(
                (0..<10).map { .put(UploadBody(pattern(1_000, seed: $0)), at: StorePath("d/\($0)")!, PutOptions()) }))
        rig.clock.advance(by: .seconds(100_001))
        #expect(try other.names(in: StorePath("d")!).count == 10)
        let version = try store.metadata(of: StorePath("d/1")!).version
        for number in 2..<10 { try store.delete(StorePath("d/\(number)")!) }
        #expect(try store.collectGarbage().chunks == 0)
        let count = try rig.chunks.count
        let again = try store.collectGarbage()
        #expect(again == FreedSpace(waiting: again.waiting) && again.waiting > 0)
        #expect(try rig.chunks.count == count)
        #expect(try store.metadata(of: StorePath("d/1")!).version == version)
        rig.clock.advance(by: .seconds(3_601))
        let freed = try store.collectGarbage()
        #expect(freed.chunks >= 1 && freed.bytes > 10_000)
        #expect(try rig.chunks.first?.hasPrefix("00000000000000000001") == false)
        // A machine that knows the old place only.
        #expect(try other.contents(of: StorePath("d/1")!, version: version) == pattern(1_000, seed: 1))
        #expect(try ChunkStoreTests.tree(rig.machine()) == ChunkStoreTests.tree(store))
        #expect(store.delete(["d/0", "d/1", "d"].map { StorePath($0)! }).allSatisfy { $0 == nil })
        for _ in 0..<4 {
            _ = try store.collectGarbage()
            rig.clock.advance(by: .seconds(3_601))
        }
        #expect(try rig.chunks.count <= 2)
        #expect(try ChunkStoreTests.tree(rig.machine()).isEmpty)
    }

    @Test("a plain object that was left behind in the place of a packed file is deleted")
    func leftover() throws {
        let rig = ChunkStoreTests.Rig()
        try rig.memory.write([9, 9], at: StorePath("a")!)
        let store = try rig.machine()
        rig.faulty.inject(.fail(StoreError(.unavailable, "no")), on: .delete)
        try store.write([1], at: StorePath("a")!)
        rig.faulty.heal()
        #expect(try store.collectGarbage() == FreedSpace(chunks: 0, objects: 1, bytes: 2))
        #expect(try rig.memory.exists(StorePath("a")!) == false)
        #expect(try store.contents(of: StorePath("a")!) == [1])
    }

    @Test("whatever is collected, GNU tar, a new machine and an old one see the same tree", arguments: 1...12)
    func histories(seed: UInt64) throws {
        let (base, here, there) = (try TemporaryFolder(), try TemporaryFolder(), try TemporaryFolder())
        let local = LocalStore(path: base.path, fsync: false)
        let clock = ManualClock()
        let store = makeChunkStore(
            on: local, maxChunkSize: 20_000, trust: .zero, grace: .seconds(60), folder: here, clock: clock)
        let old = makeChunkStore(on: local, trust: .zero, grace: .seconds(60), folder: there, clock: clock)
        defer { store.shutdown() }
        try store.connect()
        try old.connect()
        var changes = RandomChanges(random: SplitMix(seed: seed))
        var freed = 0
        for round in 0..<40 {
            _ = store.apply(changes.batch())
            guard round % 4 == 3 else { continue }
            if round % 8 == 3 { _ = try ReplayTests.view(old) }
            freed += try store.collectGarbage().chunks
            clock.advance(by: .seconds(61))
            freed += try store.collectGarbage().chunks
            if round == 15 { try store.putSnapshot() }
            let seen = try ReplayTests.view(store)
            ReplayTests.expectSame(try ReplayTests.extracted(base), seen, seed)
            let folder = try TemporaryFolder()
            let fresh = makeChunkStore(on: local, trust: .zero, folder: folder, clock: clock)
            try fresh.connect()
            ReplayTests.expectSame(try ReplayTests.view(fresh), seen, seed, "a new machine")
            ReplayTests.expectSame(try ReplayTests.view(old), seen, seed, "an old machine")
        }
        #expect(freed > 0)
    }
}
