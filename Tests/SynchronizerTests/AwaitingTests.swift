import Catalog
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Synchronizer

@Suite("Waiting for a file") struct AwaitingTests {
    /// What somebody hears who waits for a file.
    private final class Ear: Sendable {
        let heard = Monitor<[StoreError.Code?]>([])
        var outcome: StoreError.Code?? { heard.wait(until: .now + .seconds(60)) { $0.first } }
        var isSilent: Bool { heard.withLock(\.isEmpty) }
        func hear(_ error: StoreError?) { heard.update { $0.append(error?.code) } }
    }

    private func wait(_ bench: Workbench, for inode: InodeID, _ ear: Ear) throws -> Synchronizer.Wait {
        let goal = try #require(try bench.catalog.goal(of: inode))
        return bench.synchronizer.whenOnStore(goal) { ear.hear($0) }
    }

    @Test("it ends when the file is on the store, which it is at once, and others keep their delay")
    func done() throws {
        let bench = try Workbench(delay: .seconds(3600))
        bench.synchronizer.start()
        try bench.write("other", "x")
        try bench.makeDirectory("d")
        let inode = try bench.write("d/f", "bytes")
        let ear = Ear()
        _ = try wait(bench, for: inode, ear)
        #expect(ear.outcome == .some(nil))
        #expect(bench.text("d/f") == "bytes")
        #expect(bench.text("other") == nil)
        #expect(try bench.catalog.goal(of: inode) == nil, "nothing is left to wait for")
    }

    @Test("an upload of an older state is not enough; the newer one follows at once")
    func olderState() throws {
        let bench = try Workbench(delay: .seconds(3600))
        let inode = try bench.write("f", "old")
        let first = Ear()
        let gate = Gate()
        bench.faults.inject(.wait(gate), on: .put, .first(1))
        bench.synchronizer.start()
        _ = try wait(bench, for: inode, first)
        #expect(gate.waitForCallers(1))
        try bench.write("f", "newer")
        let second = Ear()
        _ = try wait(bench, for: inode, second)
        gate.open()
        #expect(second.outcome == .some(nil))
        #expect(bench.text("f") == "newer")
        #expect(first.outcome == .some(nil))
    }

    @Test("it ends although the file is changed all the time")
    func constantChanges() throws {
        let bench = try Workbench(delay: .seconds(3600))
        bench.synchronizer.start()
        let inode = try bench.write("log", "before the call;")
        let isOver = Lock(false)
        let writer = WorkerThread(name: "writer") { [bench = Unchecked(bench)] in
            while !isOver.withLock({ $0 }) { try? bench.value.append("log", " more") }
        }
        let ear = Ear()
        _ = try wait(bench, for: inode, ear)
        #expect(ear.outcome == .some(nil))
        isOver.withLock { $0 = true }
        writer.join()
        #expect(bench.text("log")?.hasPrefix("before the call;") == true)
    }

    @Test("what the store refuses for good ends it at once, with the reason; an outage does not")
    func refused() throws {
        let bench = try Workbench(delay: .seconds(3600))
        bench.synchronizer.start()
        bench.faults.inject(.fail(StoreError(.quotaExceeded, "the quota is used up")), on: .put, .first(1))
        let inode = try bench.write("f", "bytes")
        let ear = Ear()
        _ = try wait(bench, for: inode, ear)
        #expect(ear.outcome == .some(.quotaExceeded))
        // Asked for again it is tried again.
        bench.faults.outage = .failing
        let again = Ear()
        let waiting = try wait(bench, for: inode, again)
        let calls = bench.faults.calls(.put)
        try bench.wait("another attempt") { bench.faults.calls(.put) > calls }
        #expect(again.isSilent)
        bench.faults.outage = .none
        #expect(again.outcome == .some(nil))
        #expect(bench.text("f") == "bytes")
        #expect(!bench.synchronizer.hurry(waiting), "it is over")
    }

    @Test("when its time is over it ends, unless the file is just being sent")
    func late() throws {
        let bench = try Workbench(delay: .seconds(3600))
        bench.synchronizer.start()
        let gate = Gate()
        bench.faults.inject(.wait(gate), on: .put, .first(1))
        let inode = try bench.write("f", "bytes")
        let ear = Ear()
        let waiting = try wait(bench, for: inode, ear)
        #expect(gate.waitForCallers(1))
        #expect(bench.synchronizer.hurry(waiting), "it is being sent")
        #expect(ear.isSilent)
        // Once more, and nothing has moved meanwhile: nobody waits for ever.
        #expect(!bench.synchronizer.hurry(waiting))
        #expect(ear.outcome == .some(.timedOut))
        gate.open()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.text("f") == "bytes", "the file was kept")
        #expect(ear.heard.withLock(\.count) == 1, "told once")
    }

    @Test("a file that is renamed meanwhile is waited for under its new name, one that is removed is not")
    func namesThatGo() throws {
        let bench = try Workbench(delay: .seconds(3600))
        bench.synchronizer.start()
        let gate = Gate()
        bench.faults.inject(.wait(gate), on: .put, .first(2))
        let renamed = try bench.write("renamed", "bytes")
        let removed = try bench.write("removed", "bytes")
        let (first, second) = (Ear(), Ear())
        _ = try wait(bench, for: renamed, first)
        _ = try wait(bench, for: removed, second)
        #expect(gate.waitForCallers(2))
        try bench.rename("renamed", to: "new")
        try bench.delete("removed")
        gate.open()
        #expect(first.outcome == .some(nil))
        #expect(bench.text("new") == "bytes")
        #expect(second.outcome == .some(nil))
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == ["new"])
    }
}
