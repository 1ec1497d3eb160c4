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

    @Test("names of one file are linked, and what says so without being true is copied")
    func links() throws {
        let (source, target) = (MemoryStore(), MemoryStore())
        let file = ObjectIdentity.newFile()
        func put(_ path: String, of file: String, as name: String) throws {
            let text = ObjectIdentity(of: file, at: StorePath(name)!, size: 3, modified: Self.time).text
            _ = try source.put(
                UploadBody([1, 2, 3]), at: StorePath(path)!,
                PutOptions(attributes: Attributes(modified: Self.time, identity: text, replaces: "c1.1")))
        }
        for name in ["a", "b", "d/c"] { try put(name, of: file, as: name) }
        try put("copied by others", of: file, as: "a")
        let lost = ObjectIdentity.newFile()
        for name in ["lost 1", "lost 2"] { try put(name, of: lost, as: name) }
        let faulty = FaultyStore(source)
        faulty.inject(.fail(StoreError(.accessDenied, "not this one")), on: .read, below: StorePath("lost 1"))
        faulty.inject(.fail(StoreError(.accessDenied, "not this one")), on: .read, below: StorePath("lost 2"))
        let linked = Lock<[StorePath]>([])
        let outcome = TreeCopy(from: faulty, to: target) { first, name throws(StoreError) in
            guard try target.metadata(of: first).size == 3 else { throw StoreError(.internal, "no bytes") }
            linked.withLock { $0.append(name) }
            _ = try target.put(UploadBody([7]), at: name, PutOptions())
        }.run { _ in true }
        #expect(outcome.failures.count == 2 && outcome.progress.files == 4)
        #expect(linked.withLock { $0.count } == 2)
        let copied = try target.metadata(of: StorePath("copied by others")!)
        #expect(copied.size == 3 && copied.attributes?.identity == nil && copied.attributes?.replaces == nil)
    }

    @Test("it ends when the caller says so")
    func interrupted() throws {
        let outcome = TreeCopy(from: try source(), to: MemoryStore(), workers: 1).run { _ in false }
        #expect(outcome.wasInterrupted)
    }
}
