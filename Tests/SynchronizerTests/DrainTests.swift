import Catalog
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import Synchronizer

@Suite("Draining") struct DrainTests {
    @Test("it ends although new files are made all the time, and what was there before is on the store")
    func constantNewFiles() throws {
        let bench = try Workbench(delay: .seconds(3600))
        for number in 0..<100 { try bench.write("old\(number)", "\(number)") }
        let isOver = Lock(false)
        let monitor = Monitor(false)
        bench.synchronizer.start()
        let writer = WorkerThread(name: "writer") { [bench = Unchecked(bench)] in
            var number = 0
            while !isOver.withLock({ $0 }) {
                _ = try? bench.value.write("new\(number % 500)", "\(number)")
                number += 1
            }
            monitor.update { $0 = true }
        }
        writer.detach()
        let left = try bench.drain()
        isOver.withLock { $0 = true }
        _ = monitor.wait { $0 ? true : nil }
        #expect(left.itemsLeft == 0)
        for number in 0..<100 { #expect(bench.text("old\(number)") == "\(number)") }
    }

    @Test("it ends although one file is changed all the time, with a state of it from after the call")
    func constantChanges() throws {
        let bench = try Workbench(delay: .seconds(3600))
        try bench.write("log", "before the call;")
        let isOver = Lock(false)
        let monitor = Monitor(false)
        bench.synchronizer.start()
        WorkerThread(name: "writer") { [bench = Unchecked(bench)] in
            while !isOver.withLock({ $0 }) { try? bench.value.append("log", " more") }
            monitor.update { $0 = true }
        }.detach()
        let left = try bench.drain()
        isOver.withLock { $0 = true }
        _ = monitor.wait { $0 ? true : nil }
        #expect(left.itemsLeft == 0)
        #expect(bench.text("log")?.hasPrefix("before the call;") == true)
    }

    @Test("below a path only that is waited for, and the rest keeps its delay")
    func belowAPath() throws {
        let bench = try Workbench(delay: .seconds(3600))
        try bench.makeDirectory("d")
        for number in 0..<50 { try bench.write("d/\(number)", "\(number)") }
        try bench.write("other", "x")
        #expect(try bench.drain("d").itemsLeft == 0)
        #expect(try bench.files().count == 50)
        #expect(bench.text("other") == nil)
        #expect(try bench.drain("nothing/there").itemsLeft == 0)
    }

    @Test("progress is told while it waits, and telling it to stop ends the waiting, not the work")
    func progress() throws {
        let bench = try Workbench(delay: .seconds(3600))
        let gate = Gate()
        bench.faults.inject(.wait(gate), on: .put)
        for number in 0..<10 { try bench.write("f\(number)", "0123456789") }
        bench.synchronizer.start()
        var reports: [DrainProgress] = []
        let left = try bench.synchronizer.drain(nil) { progress in
            reports.append(progress)
            return reports.count < 5
        }
        #expect(reports.count == 5)
        #expect(left == DrainProgress(itemsLeft: 10, bytesLeft: 100, parked: 0))
        gate.open()
        #expect(try bench.drain().itemsLeft == 0)
    }

    @Test("a failed upload is tried again while somebody waits, not after the delay")
    func failureWhileDraining() throws {
        let bench = try Workbench(delay: .seconds(3600))
        try bench.makeDirectory("d")
        bench.faults.inject(.fail(StoreError(.corrupted, "other bytes")), on: .put, .first(2))
        try bench.write("d/f", "1")
        #expect(try bench.drain("d").itemsLeft == 0)
        #expect(bench.text("d/f") == "1")
    }

    @Test("with nothing to do it returns at once, and without a running synchronizer it says what is left")
    func trivial() throws {
        let bench = try Workbench()
        #expect(try bench.drain().itemsLeft == 0)
        bench.synchronizer.stop()
        try bench.write("f", "1")
        #expect(try bench.synchronizer.drain(nil) { _ in true }.itemsLeft == 1)
    }
}

/// Hands a value to a thread; the test sees to it that both get along.
struct Unchecked<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
