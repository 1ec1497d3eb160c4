import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import Copying

@Suite("Copying a tree from a store to another one") struct TreeCopyTests {
    private static let time = Timestamp(nanoseconds: 1_234_567_890_123_456_789)

    private func source(pageSize: Int = 1_000) throws -> MemoryStore {
        let store = MemoryStore(pageSize: pageSize)
        for directory in 0..<20 {
            try store.createDirectory(
                at: StorePath("d\(directory)/empty")!, Attributes(mode: 0o750, modified: Self.time))
            for file in 0..<25 {
                _ = try store.put(
                    UploadBody(Array("text \(directory) \(file)".utf8)), at: StorePath("d\(directory)/f\(file)")!,
                    PutOptions(attributes: Attributes(mode: 0o640, modified: Self.time)))
            }
        }
        _ = try store.put(
            UploadBody(Array("d3/f4".utf8)), at: StorePath("link")!, PutOptions(kind: .symbolicLink))
        return store
    }

    @Test("all of it arrives, with attributes, whatever the size of the listing's pages", arguments: [7, 1_000])
    func whole(pageSize: Int) throws {
        let target = MemoryStore()
        let outcome = TreeCopy(from: try source(pageSize: pageSize), to: target).run { _ in true }
        #expect(outcome.failures.isEmpty && !outcome.wasInterrupted)
        #expect(outcome.progress.files == 501 && outcome.progress.directories == 40)
        let file = try target.metadata(of: StorePath("d7/f11")!)
        #expect(file.size == 9 && file.attributes?.mode == 0o640 && file.attributes?.modified == Self.time)
        #expect(try target.metadata(of: StorePath("link")!).kind == .symbolicLink)
        // Although something was put into it after it was made.
        let directory = try target.metadata(of: StorePath("d7/empty")!)
        #expect(directory.attributes?.mode == 0o750 && directory.attributes?.modified == Self.time)
    }

    @Test("what cannot be copied is named, and the rest is there")
    func failures() throws {
        let faulty = FaultyStore(try source())
        let refused = StoreError(.accessDenied, "not this one")
        faulty.inject(.fail(refused), on: .read, below: StorePath("d5/f5"))
        faulty.inject(.fail(refused), on: .list, below: StorePath("d9"))
        let target = MemoryStore()
        let outcome = TreeCopy(from: faulty, to: target).run { _ in true }
        #expect(outcome.failures.map(\.path).contains(StorePath("d5/f5")!))
        #expect(outcome.failures.map(\.path).contains(StorePath("d9")!))
        #expect(outcome.failures.count == outcome.progress.failures && outcome.failures[0].error.code == .accessDenied)
        #expect(try target.metadata(of: StorePath("d5/f6")!).size > 0)
        #expect(throws: StoreError.self) { try target.metadata(of: StorePath("d5/f5")!) }
    }

    @Test("it ends when the caller says so")
    func interrupted() throws {
        let outcome = TreeCopy(from: try source(), to: MemoryStore(), workers: 1).run { _ in false }
        #expect(outcome.wasInterrupted)
    }
}
