import Glibc
import SQLite
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

@Suite("Snapshots of the chunk map")
struct SnapshotTests {
    /// A store with some chunks.
    private func filled(_ rig: ChunkStoreTests.Rig, chunks: Int = 20) throws -> ChunkStore {
        let store = try rig.machine()
        for number in 0..<chunks {
            try store.write(
                pattern(100, seed: UInt64(number)), at: StorePath("d/\(number)")!,
                PutOptions(
                    attributes: Attributes(mode: 0o600, extended: ["user.n": [UInt8(number)]], identity: "i\(number)")))
        }
        return store
    }

    @Test("a new machine needs the newest one and the chunks after it")
    func newMachine() throws {
        let rig = ChunkStoreTests.Rig()
        let store = try filled(rig)
        try store.putSnapshot()
        try store.putSnapshot()
        try store.move(StorePath("d")!, to: StorePath("e")!)
        try store.putSnapshot()
        try store.write([1], at: StorePath("e/new")!)
        #expect(
            try rig.memory.names(in: ChunkPaths.catalog) == [
                "00000000000000000020.sqlite.gz", "00000000000000000021.sqlite.gz",
            ])
        let reads = rig.faulty.calls(.read)
        let fresh = try rig.machine()
        // The format, the snapshot, one head, and the look for more.
        #expect(rig.faulty.calls(.read) - reads == 4)
        #expect(try ChunkStoreTests.tree(fresh) == ChunkStoreTests.tree(store))
        for number in 0..<3 { try fresh.write([2], at: StorePath("e/\(number)")!) }
        #expect(try ChunkStoreTests.tree(fresh) == ChunkStoreTests.tree(store))
    }

    @Test("it is plain SQLite in plain gzip")
    func plain() throws {
        let rig = ChunkStoreTests.Rig()
        let store = try filled(rig, chunks: 3)
        try store.putSnapshot()
        let folder = try TemporaryFolder()
        let local = LocalStore(path: folder.path, fsync: false)
        defer { local.shutdown() }
        try local.write(rig.memory.contents(of: ChunkPaths.snapshot(3)), at: StorePath("map.sqlite.gz")!)
        try Program.run("gunzip", folder.path + "/map.sqlite.gz")
        let map = try ChunkMap(path: folder.path + "/map.sqlite")
        #expect(try map.applied == 3)
        #expect(try map.node(at: StorePath("d/2")!)?.attributes.extended == ["user.n": [2]])
        #expect(try map.node(at: StorePath("d/2")!)?.attributes.identity == "i2")
    }

    @Test("one is put by itself when enough chunks have come, and old ones go")
    func automatic() throws {
        let rig = ChunkStoreTests.Rig()
        let folder = try TemporaryFolder()
        let store = makeChunkStore(on: rig.faulty, snapshotInterval: 5, folder: folder, clock: rig.clock)
        try store.connect()
        for number in 0..<30 { try store.write([UInt8(number)], at: StorePath("\(number)")!) }
        // It waits for the one under way.
        store.state.withLock { $0.snapshotThread }?.join()
        store.state.withLock { $0.snapshotThread = nil }
        let found = try store.storedSnapshots()
        #expect((1...2).contains(found.count))
        #expect(try rig.machine().names(in: .root).count == 30)
        store.shutdown()
    }

    @Test("one that makes no sense is passed over", arguments: 0..<9)
    func nonsense(kind: Int) throws {
        let rig = ChunkStoreTests.Rig()
        let store = try filled(rig, chunks: 4)
        try store.putSnapshot()
        let folder = try TemporaryFolder()
        let (map, packed) = (folder.path + "/map.sqlite", folder.path + "/map.sqlite.gz")
        let local = LocalStore(path: folder.path, fsync: false)
        defer { local.shutdown() }
        try local.write(rig.memory.contents(of: ChunkPaths.snapshot(4)), at: StorePath("map.sqlite.gz")!)
        try Program.run("gunzip", packed)
        let changes = [
            "UPDATE node SET name = x'2e2e' WHERE id = 3", "UPDATE node SET name = x'612f62' WHERE id = 3",
            "UPDATE node SET name = CAST('.cloudfusion' AS BLOB) WHERE parent = 1",
            "UPDATE note SET value = 'other' WHERE key = 'volume'", "UPDATE note SET value = '9' WHERE key = 'applied'",
            "CREATE TRIGGER t AFTER INSERT ON node BEGIN DELETE FROM node; END", "DROP INDEX node_defined",
        ]
        if kind < changes.count {
            try Program.run("sqlite3", map, changes[kind])
            try Program.run("gzip", map)
            try rig.memory.write(local.contents(of: StorePath("map.sqlite.gz")!), at: ChunkPaths.snapshot(4))
        } else if kind == changes.count {
            let bytes = try rig.memory.contents(of: ChunkPaths.snapshot(4))
            try rig.memory.write(Array(bytes.prefix(bytes.count / 2)), at: ChunkPaths.snapshot(4))
        } else {
            try rig.memory.write(pattern(5_000), at: ChunkPaths.snapshot(4))
        }
        #expect(throws: StoreError.self) {
            try store.fetchSnapshot(4, of: try store.volume(), to: folder.path + "/fetched")
        }
        #expect(try ChunkStoreTests.tree(rig.machine()) == ChunkStoreTests.tree(store))
    }
}
