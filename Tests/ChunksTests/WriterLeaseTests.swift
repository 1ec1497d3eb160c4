import Glibc
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

/// A store that cannot decide which of two was first.
private struct Unconditional: StoreWrapper {
    let inner: any Store
    var capabilities: StoreCapabilities { inner.capabilities.subtracting(.conditionalCreate) }

    func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        #expect(options.condition != .ifAbsent, "\(path)")
        return try inner.put(body, at: path, options)
    }
}

@Suite("The right to pack on a store that cannot keep two writers apart")
struct WriterLeaseTests {
    private final class Rig {
        let memory: MemoryStore
        let clock = ManualClock()

        init() { memory = MemoryStore(clock: clock) }

        func machine(in folder: TemporaryFolder, isReadOnly: Bool = false) -> ChunkStore {
            makeChunkStore(
                on: Unconditional(inner: memory), isReadOnly: isReadOnly, folder: folder, clock: clock)
        }

        var holders: [String] {
            get throws { try memory.exists(ChunkPaths.writers) ? memory.names(in: ChunkPaths.writers) : [] }
        }
    }

    private static func expectRefused(_ body: () throws(StoreError) -> Void) {
        do throws(StoreError) {
            try body()
            Issue.record("two may write")
        } catch {
            #expect(error.code == .inUse, "\(error)")
            #expect(error.message.contains("process \(getpid()) on \(hostName()), since 20"), "\(error)")
        }
    }

    private static let path = StorePath("file")!

    @Test("a second machine is refused until the first one ends")
    func secondIsRefused() throws {
        let rig = Rig()
        let (one, other) = (try TemporaryFolder(), try TemporaryFolder())
        let first = rig.machine(in: one)
        try first.connect()
        try first.write([1], at: Self.path)
        let second = rig.machine(in: other)
        Self.expectRefused { () throws(StoreError) in try second.connect() }
        #expect(try second.contents(of: Self.path) == [1])
        Self.expectRefused { () throws(StoreError) in
            _ = try second.put(UploadBody([2]), at: Self.path, PutOptions())
        }
        try first.write([3], at: Self.path)
        try first.releaseLease()
        try second.connect()
        #expect(try second.contents(of: Self.path) == [3])
        try second.write([4], at: Self.path)
        try second.releaseLease()
        #expect(try rig.holders == [])
    }

    @Test("who only reads needs no right, and gets none")
    func readOnly() throws {
        let rig = Rig()
        let (one, other) = (try TemporaryFolder(), try TemporaryFolder())
        let first = rig.machine(in: one)
        try first.connect()
        try first.write([1], at: Self.path)
        let reader = rig.machine(in: other, isReadOnly: true)
        try reader.connect()
        #expect(try reader.contents(of: Self.path) == [1])
        #expect(try rig.holders.count == 1)
    }

    @Test("what may not be changed can be read")
    func withoutRights() throws {
        let rig = Rig()
        let (one, other) = (try TemporaryFolder(), try TemporaryFolder())
        let first = rig.machine(in: one)
        try first.connect()
        try first.write([1], at: Self.path)
        try first.releaseLease()
        let faulty = FaultyStore(rig.memory)
        faulty.inject(.fail(StoreError(.accessDenied, "for reading only")), on: .put)
        let second = makeChunkStore(on: Unconditional(inner: faulty), folder: other, clock: rig.clock)
        try second.connect()
        #expect(try second.contents(of: Self.path) == [1])
        do throws(StoreError) {
            _ = try second.put(UploadBody([2]), at: Self.path, PutOptions())
            Issue.record("written without the right to")
        } catch { #expect(error.code == .accessDenied, "\(error)") }
    }

    @Test("after a crash the same mount goes on at once, another machine when the right has lapsed")
    func crash() throws {
        let rig = Rig()
        let (one, other) = (try TemporaryFolder(), try TemporaryFolder())
        try rig.machine(in: one).connect()
        rig.clock.advance(by: .seconds(60))
        let again = rig.machine(in: one)
        try again.connect()
        try again.write([1], at: Self.path)
        let second = rig.machine(in: other)
        rig.clock.advance(by: WriterLease.term)
        Self.expectRefused { () throws(StoreError) in try second.connect() }
        rig.clock.advance(by: .seconds(1))
        try second.connect()
        #expect(try rig.holders.count == 1)
        try second.write([2], at: Self.path)
        // The first one was not ended, but asleep.
        Self.expectRefused { () throws(StoreError) in
            _ = try again.put(UploadBody([3]), at: Self.path, PutOptions())
        }
        #expect(try again.contents(of: Self.path) == [2])
        try second.releaseLease()
        try again.write([3], at: Self.path)
    }

    @Test("a mount that nobody writes to keeps its right")
    func renewal() throws {
        let rig = Rig()
        let (one, other) = (try TemporaryFolder(), try TemporaryFolder())
        let first = rig.machine(in: one)
        try first.connect()
        for _ in 0..<100 {
            rig.clock.advance(by: .seconds(15))
            try first.renewLease()
        }
        rig.clock.advance(by: .seconds(15))
        Self.expectRefused { () throws(StoreError) in try rig.machine(in: other).connect() }
        // A mount that has only read does not get it in this way.
        let reader = rig.machine(in: other, isReadOnly: true)
        try reader.connect()
        try reader.renewLease()
        #expect(try rig.holders.count == 1)
    }

    @Test("of many that begin at the same time never two get it")
    func race() throws {
        for _ in 0..<3 {
            let rig = Rig()
            let folders = try (0..<5).map { _ in try TemporaryFolder() }
            let machines = folders.map { rig.machine(in: $0) }
            let winners = Lock(0)
            let threads = machines.map { machine in
                WorkerThread(name: "machine") {
                    do throws(StoreError) {
                        try machine.connect()
                        winners.withLock { $0 += 1 }
                    } catch { #expect(error.code == .inUse, "\(error)") }
                }
            }
            for thread in threads { thread.join() }
            let count = winners.withLock { $0 }
            #expect(count <= 1)
            #expect(try rig.holders.count == count)
        }
    }
}
