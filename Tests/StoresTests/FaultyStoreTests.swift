import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Stores

@Suite("A store that fails when it is told to")
struct FaultyStoreTests {
    private let store = FaultyStore(MemoryStore())
    private let path = .root / "object"

    private func code(_ body: () throws -> Void) -> StoreError.Code? {
        do {
            try body()
            return nil
        } catch { return (error as? StoreError)?.code }
    }

    private func expect(
        _ expected: StoreError.Code?, sourceLocation: SourceLocation = #_sourceLocation, _ body: () throws -> Void
    ) {
        let found = code(body)
        #expect(found == expected, sourceLocation: sourceLocation)
    }

    /// Writes an object of one byte on a thread of its own.
    private func writer() -> WorkerThread {
        WorkerThread(name: "writer") { [store, path] in _ = try? store.write([1], at: path) }
    }

    @Test("only the calls that are meant fail, and the store is not asked")
    func nthCall() throws {
        let error = StoreError(.throttled, "slower, please")
        store.inject(.fail(error), on: .put, .only(2))
        store.inject(.fail(error), on: .metadata, .every(3))
        let puts = (1...3).map { number in code { try store.write([UInt8(number)], at: path) } }
        #expect(puts == [nil, .throttled, nil])
        let asked = (1...6).map { _ in code { _ = try store.metadata(of: path) } }
        #expect(asked == [nil, nil, .throttled, nil, nil, .throttled])
        #expect(store.calls(.put) == 3)
        #expect(try store.contents(of: path) == [3])
    }

    @Test("faults hold for the paths they are meant for, until they are taken back")
    func paths() throws {
        store.inject(.fail(StoreError(.accessDenied, "no")), on: nil, .all, below: .root / "closed")
        expect(.accessDenied) { try store.write([1], at: .root / "closed" / "object") }
        expect(nil) { try store.write([1], at: .root / "open") }
        store.heal()
        expect(nil) { try store.write([1], at: .root / "closed" / "object") }
    }

    @Test("a lost answer is an error though the store has done it")
    func lostAnswer() throws {
        store.inject(.loseAnswer, on: .put, .first(1))
        expect(.unavailable) { try store.write([7], at: path) }
        #expect(try store.contents(of: path) == [7])
    }

    @Test("a read can be cut short or have a wrong bit")
    func damage() throws {
        try store.write([1, 2, 3], at: path)
        store.inject(.truncate(by: 1), on: .read, .only(1))
        store.inject(.flipBit, on: .read, .only(2))
        let sink = MemorySink()
        expect(.corrupted) { _ = try store.read(path, ReadRequest(), into: sink) }
        #expect(sink.bytes == [1, 2])
        #expect(try store.contents(of: path) == [0, 2, 3])
        #expect(try store.contents(of: path) == [1, 2, 3])
    }

    @Test("calls wait at a gate until it is opened")
    func gate() throws {
        let gate = Gate()
        store.inject(.wait(gate), on: .put)
        let worker = writer()
        #expect(gate.waitForCallers(1))
        #expect(try !store.exists(path))
        gate.open()
        worker.join()
        #expect(try store.exists(path))
    }

    @Test("in an outage calls fail or hang, and go on when it is over")
    func outage() throws {
        store.outage = .failing
        expect(.unavailable) { try store.write([1], at: path) }
        #expect(store.delete([path, path]).map { $0?.code } == [.unavailable, .unavailable])
        store.outage = .hanging
        let worker = writer()
        #expect(store.waitForHanging(1))
        store.outage = .none
        worker.join()
        #expect(try store.contents(of: path) == [1])
    }
}
