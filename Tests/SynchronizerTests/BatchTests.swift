import Catalog
import Statistics
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import Synchronizer

@Suite("Small changes, many at once") struct BatchTests {
    /// Nothing is due before it is asked for.
    private func calmBench(clock: any Clock = SystemClock()) throws -> Workbench {
        try Workbench(without: .rangeCopy, realDirectories: false, delay: .seconds(60), clock: clock) {
            $0.batch = .small
        }
    }

    @Test("a tree goes to the store in a few requests, whatever its depth, and from it")
    func tree() throws {
        let bench = try calmBench()
        var directories = [""]
        for number in 0..<30 {
            // Chains of ten, one in another.
            let path = number % 10 == 0 ? "d\(number)" : directories.last! + "/d\(number)"
            try bench.makeDirectory(path)
            directories.append(path)
        }
        for directory in directories.dropFirst() {
            for number in 0..<20 { try bench.write("\(directory)/f\(number)", "\(directory) \(number)") }
        }
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().count == 600)
        #expect(bench.text("\(directories[15])/f7") == "\(directories[15]) 7")
        // Where directories are not made by themselves, that they were is to be seen by their attributes.
        for directory in directories.dropFirst() {
            #expect(try bench.memory.metadata(of: StorePath(directory)!).kind == .directory)
        }
        #expect(bench.store.batches.reduce(0, +) == 630, "each change once")
        #expect(bench.store.batches.count <= 4, "\(bench.store.batches)")
        #expect(bench.store.deletions.isEmpty)

        let before = bench.store.batches.count
        for directory in directories.dropFirst().reversed() {
            for number in 0..<20 { try bench.delete("\(directory)/f\(number)") }
            try bench.delete(directory)
        }
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().isEmpty)
        // A directory can go when what was in it has gone: a batch for each level, and no more.
        #expect(bench.store.batches.count - before <= 14, "\(bench.store.batches)")
    }

    @Test("what is deleted or written over before it is due is not sent")
    func overtaken() throws {
        let clock = ManualClock()
        let bench = try calmBench(clock: clock)
        bench.synchronizer.start()
        for number in 0..<100 { try bench.write("f\(number)", "first") }
        clock.advance(by: .seconds(20))
        for number in 0..<50 { try bench.delete("f\(number)") }
        for number in 50..<60 { try bench.write("f\(number)", "second") }
        clock.advance(by: .seconds(25))
        try bench.write("young", "written shortly before")
        clock.advance(by: .seconds(16))
        bench.synchronizer.wake()
        try bench.wait("the files are there") { try bench.files().count == 50 }
        #expect(bench.text("f55") == "second")
        // What was left alone for more than half the time goes along; what is younger has its time.
        try bench.wait("the journal knows") { try bench.pending().map(\.path) == [StorePath("young")!] }
        #expect(bench.store.batches == [50])
    }

    @Test("what one change fails at is its own affair")
    func oneFails() throws {
        let bench = try calmBench()
        for number in 0..<50 { try bench.write("f\(number)", "\(number)") }
        let refused = StoreError(.accessDenied, "not this one")
        bench.faults.inject(.fail(refused), on: .put, below: StorePath("f7")!)
        let left = try bench.drain()
        #expect(left.itemsLeft == 1)
        #expect(try bench.files().count == 49)
        #expect(try bench.pending().first?.lastError?.contains("not this one") == true)
        bench.faults.heal()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.text("f7") == "7")
    }

    @Test("answers that get lost, and a restart, send nothing twice as somebody else's")
    func lostAnswers() throws {
        let bench = try calmBench()
        for number in 0..<50 { try bench.write("f\(number)", "\(number)") }
        bench.faults.inject(.loseAnswer, on: .put, .first(25))
        #expect(try bench.drain().itemsLeft == 0)
        for number in 0..<50 { try bench.write("f\(number)", "again \(number)") }
        try bench.restart()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().count == 50)
        #expect(bench.statistics.snapshot()[.conflicts] == 0)
        #expect(bench.text("f31") == "again 31")
    }

    @Test("somebody else's change in the middle of a batch is kept")
    func conflict() throws {
        let bench = try calmBench()
        for number in 0..<20 { try bench.write("f\(number)", "base") }
        try bench.drain()
        for number in 0..<20 { try bench.write("f\(number)", "ours") }
        try bench.writeForeign("f9", "theirs")
        #expect(try bench.drain().itemsLeft == 0)
        let files = try bench.files()
        #expect(files.count == 21)
        let kept = try #require(files.first { $0.hasPrefix("f9.conflict-") })
        #expect(bench.text(kept) == "theirs" && bench.text("f9") == "ours")
    }

    @Test("a directory is renamed before anything of it was sent, and while it is")
    func renamedEarly() throws {
        let bench = try calmBench()
        try bench.makeDirectory("a")
        try bench.makeDirectory("a/b")
        try bench.write("a/b/f", "text")
        // The file's row gives the directories their places, and fails.
        bench.faults.inject(.fail(StoreError(.accessDenied, "no")), on: .put)
        bench.faults.inject(.fail(StoreError(.accessDenied, "no")), on: .createDirectory)
        _ = try bench.drain()
        try bench.rename("a", to: "c")
        bench.faults.heal()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == ["c/b/f"])
        #expect(throws: StoreError.self) { try bench.memory.metadata(of: StorePath("a")!) }
        try bench.rename("c/b", to: "d")
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == ["d/f"])
    }
}
