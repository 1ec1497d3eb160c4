import Caching
import Catalog
import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import Synchronizer

@Suite("The synchronizer, with a real catalog and cache") struct SynchronizerTests {
    @Test("files and directories come to the store with their bytes, and the journal is empty then")
    func uploads() throws {
        let bench = try Workbench()
        try bench.makeDirectory("a")
        try bench.makeDirectory("a/b")
        for number in 0..<200 { try bench.write("a/b/\(number)", "text \(number)") }
        let left = try bench.drain()
        #expect(left == DrainProgress(itemsLeft: 0, bytesLeft: 0, parked: 0))
        for number in 0..<200 { #expect(bench.text("a/b/\(number)") == "text \(number)") }
        #expect(try bench.catalog.pendingTotals().items == 0)
        #expect(try bench.catalog.contentTotals().dirtyFiles == 0)
        #expect(bench.statistics.snapshot()[.filesUploaded] == 200)
        #expect(bench.statistics.snapshot()[.uploadsInFlight] == 0)
    }

    @Test("a file is not uploaded before its delay has passed, and then by itself")
    func delay() throws {
        let clock = ManualClock()
        let bench = try Workbench(delay: .seconds(60), clock: clock)
        bench.synchronizer.start()
        try bench.write("f", "1")
        clock.advance(by: .seconds(50))
        try bench.write("f", "22")
        clock.advance(by: .seconds(50))
        bench.synchronizer.wake()
        try bench.write("other", "x")
        try bench.drain("other")
        #expect(bench.text("other") == "x")
        #expect(bench.text("f") == nil)
        clock.advance(by: .seconds(11))
        bench.synchronizer.wake()
        try bench.wait("uploaded") { bench.text("f") == "22" }
    }

    @Test("a file that is deleted before it was due is never uploaded")
    func neverUploaded() throws {
        let bench = try Workbench(delay: .seconds(600))
        try bench.write("f", "1")
        try bench.delete("f")
        try bench.drain()
        #expect(bench.store.puts.isEmpty)
        #expect(try bench.files() == [])
    }

    @Test("a file that is changed again and again is uploaded when its deadline has passed")
    func deadline() throws {
        let clock = ManualClock()
        let bench = try Workbench(delay: .seconds(60), deadline: .seconds(300), clock: clock)
        bench.synchronizer.start()
        try bench.write("log", "begin")
        for number in 0..<11 {
            clock.advance(by: .seconds(30))
            try bench.append("log", " \(number)")
        }
        try bench.wait("uploaded") {
            bench.synchronizer.wake()
            // What is changed before the upload is reported belongs to it.
            return try bench.text("log") != nil && bench.catalog.pendingTotals().items == 0
        }
        #expect(bench.text("log")!.hasPrefix("begin 0 1 2"))
        // That was the deadline's upload; the next one is due by the same rules, not at once.
        let puts = bench.store.puts.count
        try bench.append("log", " more")
        try bench.write("other", "x")
        try bench.drain("other")
        #expect(bench.store.puts.count == puts + 1)
    }

    @Test("what was put right before a crash is found to be ours, not somebody else's", arguments: [true, false])
    func crashAfterPut(withConditions: Bool) throws {
        let bench = try Workbench(without: withConditions ? [] : [.conditionalCreate, .conditionalReplace])
        try bench.write("f", "the same bytes")
        // The upload is done and its answer lost: for the catalog nothing has happened.
        bench.faults.inject(.loseAnswer, on: .put, .first(1))
        bench.synchronizer.start()
        try bench.wait("put") { bench.text("f") != nil }
        try bench.wait("failed") { try bench.pending().allSatisfy { $0.attempts > 0 } }
        try bench.restart()
        try bench.drain()
        #expect(try bench.files() == ["f"])
        #expect(bench.statistics.snapshot()[.conflicts] == 0)
        #expect(try bench.catalog.pendingTotals().items == 0)
        // And the version is known: the next change is no conflict either.
        try bench.write("f", "other bytes")
        try bench.drain()
        #expect(bench.text("f") == "other bytes")
        #expect(try bench.files() == ["f"])
    }

    /// Has the store do an upload, and the mount end before it has heard of it.
    private func putBeforeCrash(_ bench: Workbench, _ path: String, isDone: Bool = true) throws {
        let pending = try bench.pending()
        let item = try #require(pending.first)
        guard case .upload(let plan) = try bench.catalog.plan(item) else {
            Issue.record("no upload is planned")
            return
        }
        let content = try bench.cache.open(plan.placement.inode)
        let view = try content.prepareUpload(bench.store.capabilities)
        if isDone {
            _ = try bench.memory.put(
                view.body, at: StorePath(path)!, PutOptions(kind: plan.kind, attributes: plan.attributes))
        }
        view.end()
        content.close()
        try bench.restart()
        // What is done after it has another time.
        let time = SystemClock().fileTime
        try bench.wait("the clock") { SystemClock().fileTime > time }
    }

    @Test(
        "what was put right before a crash and changed again after it is found to be ours",
        arguments: ["three", "other bytes", ""], [true, false])
    func changedAfterCrash(text: String, isListed: Bool) throws {
        for features in [[], [.conditionalCreate, .conditionalReplace]] as [StoreCapabilities.Features] {
            for isReplaced in [true, false] {
                let bench = try Workbench(without: features)
                if isReplaced {
                    try bench.write("f", "1")
                    try bench.drain()
                    bench.synchronizer.stop()
                    try bench.restart()
                }
                try bench.write("f", "first")
                try putBeforeCrash(bench, "f")
                // Once more: of the first one the answer is still not known.
                try bench.write("f", "second")
                try putBeforeCrash(bench, "f", isDone: false)
                try bench.write("f", text)
                if isListed { try bench.list("") }
                #expect(try bench.drain().itemsLeft == 0)
                #expect(try bench.files() == ["f"])
                #expect(bench.text("f") == text)
                #expect(bench.statistics.snapshot()[.conflicts] == 0)
            }
        }
    }

    @Test("what was put right before a crash and is listed after it is found to be ours", arguments: [true, false])
    func listedAfterCrash(withConditions: Bool) throws {
        let bench = try Workbench(without: withConditions ? [] : [.conditionalCreate, .conditionalReplace])
        try bench.write("f", "the same bytes")
        try putBeforeCrash(bench, "f")
        try bench.list("")
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == ["f"])
        #expect(bench.statistics.snapshot()[.conflicts] == 0)
    }

    @Test("what others have put there is not taken for what was about to be sent", arguments: [true, false])
    func foreignAfterCrash(isListed: Bool) throws {
        for features in [[], [.conditionalCreate, .conditionalReplace]] as [StoreCapabilities.Features] {
            let bench = try Workbench(without: features)
            try bench.write("f", "ours, ")
            try putBeforeCrash(bench, "f", isDone: false)
            try bench.writeForeign("f", "theirs")
            try bench.write("f", "ours, changed")
            if isListed { try bench.list("") }
            #expect(try bench.drain().itemsLeft == 0)
            let files = try bench.files()
            #expect(files.count == 2 && bench.text("f") == "ours, changed")
            #expect(files.first { $0 != "f" }.flatMap { bench.text($0) } == "theirs")
        }
    }

    @Test("of what has the times that were sent and other bytes than are here both are kept: a disk may have lost them")
    func lostBytesAfterCrash() throws {
        let bench = try Workbench()
        let inode = try bench.write("f", "as it was")
        try putBeforeCrash(bench, "f")
        let folder = String(UInt64(inode.value & 0xff), radix: 16)
        let path = "\(bench.folder)/cache/content/\(folder.count == 1 ? "0" + folder : folder)/\(inode.value)"
        #expect(truncate(path, 0) == 0 && truncate(path, 9) == 0)
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().contains { bench.text($0) == "as it was" })
    }

    @Test("a replaced file whose upload's answer was lost is found to be ours too")
    func crashAfterReplacing() throws {
        let bench = try Workbench()
        try bench.write("f", "one")
        try bench.drain()
        bench.faults.inject(.loseAnswer, on: .put, .first(1))
        try bench.write("f", "two")
        try bench.drain()
        #expect(bench.text("f") == "two")
        #expect(try bench.files() == ["f"])
    }

    @Test("an outage with many rows: nothing is lost, and all is there soon after it")
    func outage() throws {
        let bench = try Workbench()
        bench.faults.outage = .failing
        for number in 0..<300 { try bench.write("f\(number)", "\(number)") }
        bench.synchronizer.start()
        try bench.wait("down") {
            bench.statistics.snapshot().errors.contains { $0.kind == "unavailable" && $0.count >= 3 }
        }
        // One probe at a time: not every row has been tried.
        #expect(bench.faults.calls(.put) < 150)
        #expect(try bench.catalog.pendingTotals().parked == 0)
        bench.faults.heal()
        let left = try bench.drain()
        #expect(left.itemsLeft == 0)
        #expect(try bench.files().count == 300)
    }

    @Test("a permanent error parks the file with its reason; when somebody asks for it, it is tried again")
    func parked() throws {
        let bench = try Workbench()
        try bench.makeDirectory("d")
        bench.faults.inject(
            .fail(StoreError(.accessDenied, "the key may not write to 'd'")), on: .put, .all, below: StorePath("d"))
        try bench.write("d/f", "1")
        try bench.write("g", "2")
        let left = try bench.drain()
        #expect(left == DrainProgress(itemsLeft: 1, bytesLeft: 1, parked: 1))
        #expect(bench.text("g") == "2")
        let row = try #require(try bench.pending().first)
        #expect(row.isParked && row.lastError == "the key may not write to 'd'")
        let error = try #require(bench.statistics.snapshot().errors.first { $0.kind == "accessDenied" })
        #expect(!error.advice.isEmpty)
        bench.faults.heal()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.text("d/f") == "1")
    }

    @Test("files in a directory that cannot be made are counted as stuck, not waited for, and revived with it")
    func stuckBelowParked() throws {
        let bench = try Workbench()
        bench.faults.inject(.fail(StoreError(.invalidName, "not this name")), on: .createDirectory)
        try bench.makeDirectory("d")
        for number in 0..<20 { try bench.write("d/\(number)", "\(number)") }
        let left = try bench.drain()
        #expect(left.itemsLeft == 21 && left.parked == 21)
        #expect(try bench.pending().contains { $0.lastError?.hasPrefix("waits for 'd': not this name") ?? false })
        bench.faults.heal()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().count == 20)
    }

    @Test("throttled uploads are repeated and not reported as failed for good")
    func throttled() throws {
        let bench = try Workbench()
        bench.faults.inject(
            .fail(StoreError(.throttled, "slow down", retryAfter: .milliseconds(50))), on: .put, .every(3))
        for number in 0..<30 { try bench.write("f\(number)", "\(number)") }
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().count == 30)
    }

    @Test("a deletion cancels the upload that is under way, and the store never shows the file")
    func deletionCancels() throws {
        let bench = try Workbench()
        let gate = try bench.beginUpload(of: "f", "gone soon")
        try bench.delete("f")
        // The journal is asked again after a while.
        let asked = MonotonicTime.now + .milliseconds(150)
        try bench.wait("time") { MonotonicTime.now > asked }
        gate.open()
        try bench.drain()
        #expect(try bench.files() == [])
        #expect(bench.statistics.snapshot()[.filesUploaded] == 0)
        #expect(try bench.catalog.pendingTotals().items == 0)
    }

    @Test("a file that is renamed during its upload has left nothing behind when the drain ends")
    func renamedDuringUpload() throws {
        let bench = try StoreShape.nothing.bench()
        let gate = try bench.beginUpload(of: "old", "bytes")
        try bench.rename("old", to: "new")
        let memory = bench.memory
        let opener = WorkerThread(name: "opener") {
            // When all the rest is done, if that does not wait for this.
            for _ in 0..<200 where (try? memory.metadata(of: StorePath("new")!)) == nil { usleep(5000) }
            gate.open()
        }
        try bench.drain()
        #expect(try bench.files() == ["new"])
        #expect(try bench.catalog.pendingTotals().items == 0)
        opener.join()
    }

    @Test("a file that is overwritten during its upload ends up with the later bytes")
    func overwrittenDuringUpload() throws {
        let bench = try Workbench()
        let gate = try bench.beginUpload(of: "f", "first")
        try bench.write("f", "later")
        gate.open()
        try bench.drain()
        #expect(bench.text("f") == "later")
        #expect(try bench.files() == ["f"])
        #expect(try bench.catalog.contentTotals().dirtyFiles == 0)
    }

    @Test("a file that is appended to during its upload is uploaded as the prefix, then whole")
    func appendedDuringUpload() throws {
        let bench = try Workbench()
        let gate = try bench.beginUpload(of: "f", "first")
        try bench.append("f", " second")
        gate.open()
        try bench.wait("prefix") { bench.text("f") != nil }
        try bench.drain()
        #expect(bench.text("f") == "first second")
    }

    @Test("a file that is overwritten in the middle of every upload gets out all the same, in one consistent state")
    func overwrittenAllTheTime() throws {
        let bench = try Workbench(deadline: .zero)
        let size = 100_000
        try bench.write("f", [UInt8](repeating: 0, count: size))
        let count = Lock(UInt8(0))
        let inode = try #require(try bench.catalog.inode(at: StorePath("f")!)).id
        let content = try bench.cache.open(inode)
        bench.store.beforePut { _, _ in
            // All bytes change between reading the view and sending it.
            let value = count.withLock {
                $0 += 1; return $0
            }
            try? content.write([UInt8](repeating: value, count: size), at: 0)
            try? content.save()
        }
        bench.synchronizer.start()
        try bench.wait("uploaded") { bench.text("f") != nil }
        let bytes = try bench.bytes("f")
        #expect(bytes.count == size && Set(bytes).count == 1)
        // When it is left alone, the last state is what stays.
        bench.store.beforePut(nil)
        content.close()
        try bench.drain()
        #expect(Set(try bench.bytes("f")) == [count.withLock { $0 }])
    }

    @Test("changed here and on the store: both are kept, the local one under the name", arguments: [true, false])
    func conflict(canCopy: Bool) throws {
        let bench = try Workbench(without: canCopy ? [] : [.serverSideCopy])
        try bench.write("f", "base")
        try bench.drain()
        try bench.writeForeign("f", "theirs, longer")
        try bench.write("f", "ours")
        try bench.drain()
        #expect(bench.text("f") == "ours")
        let files = try bench.files()
        let kept = try #require(files.first { $0.hasPrefix("f.conflict-") })
        #expect(files.count == 2 && bench.text(kept) == "theirs, longer")
        #expect(bench.statistics.snapshot()[.conflicts] == 1)
        #expect(bench.statistics.snapshot().errors.contains { $0.kind == "conflict" })
        // The mount shows the copy.
        #expect(try bench.catalog.inode(at: StorePath(kept)!) != nil)
        #expect(!bench.changes.all.withLock { $0.isEmpty })
    }

    @Test("changed here under both names of a link, and on the store under one: both are kept", arguments: ["f", "g"])
    func conflictOfOneName(name: String) throws {
        let bench = try Workbench()
        let inode = try bench.write("f", "base")
        _ = try bench.catalog.link(inode, named: FileName("g")!, in: .root)
        try bench.drain()
        try bench.writeForeign(name, "theirs, longer")
        try bench.append("f", " and ours")
        try bench.drain()
        #expect(bench.text("f") == "base and ours" && bench.text("g") == "base and ours")
        let files = try bench.files()
        let kept = try #require(files.first { $0.hasPrefix("\(name).conflict-") })
        #expect(files.count == 3 && bench.text(kept) == "theirs, longer")
    }

    @Test(
        "made here and on the store under the same name: both are kept", arguments: [true, false], [true, false])
    func conflictOfNewFiles(withConditions: Bool, isListed: Bool) throws {
        let bench = try Workbench(without: withConditions ? [] : [.conditionalCreate, .conditionalReplace])
        // Of the same size: a listing cannot tell whether it is ours.
        try bench.write("f", "ours, ")
        try bench.writeForeign("f", "theirs")
        if isListed { try bench.list("") }
        try bench.drain()
        #expect(bench.text("f") == "ours, ")
        let files = try bench.files()
        #expect(files.count == 2)
        #expect(files.first { $0 != "f" }.flatMap { bench.text($0) } == "theirs")
    }

    @Test("a conflict copy that was made right before a crash is not made twice")
    func conflictCopyTwice() throws {
        let bench = try Workbench()
        try bench.write("f", "base")
        try bench.drain()
        try bench.writeForeign("f", "theirs")
        try bench.write("f", "ours!!")
        bench.faults.inject(.loseAnswer, on: .copy, .first(1))
        try bench.drain()
        #expect(try bench.files().count == 2)
        #expect(bench.text("f") == "ours!!")
    }

    @Test("the store's answer is not believed when the size is another one")
    func wrongSize() throws {
        let bench = try Workbench()
        let liar = LyingStore(bench.store)
        bench.synchronizer.setStore(liar)
        try bench.write("f", "12345")
        bench.synchronizer.start()
        try bench.wait("reported") { bench.statistics.snapshot().errors.contains { $0.kind == "corrupted" } }
        #expect(try bench.catalog.contentTotals().dirtyFiles == 1)
        bench.synchronizer.setStore(bench.store)
        try bench.drain()
        #expect(try bench.catalog.contentTotals().dirtyFiles == 0)
        #expect(try bench.files() == ["f"])
    }

    @Test("settings and stores change while it works; the end comes soon although an upload hangs")
    func stopping() throws {
        let bench = try Workbench()
        bench.synchronizer.configure(SynchronizerSettings(delay: .zero, minimumWorkers: 1, maximumWorkers: 2))
        bench.synchronizer.start()
        for number in 0..<50 { try bench.write("f\(number)", "\(number)") }
        bench.synchronizer.stop()
        bench.synchronizer.stop()
        let done = try bench.files().count
        try bench.restart()
        try bench.drain()
        #expect(try bench.files().count == 50 && done <= 50)
    }

    @Test("no two workers ever put the same path at once, however often it changes")
    func onePathOneWorker() throws {
        let bench = try Workbench()
        bench.synchronizer.start()
        for round in 0..<40 {
            for number in 0..<5 { try bench.write("f\(number)", "\(round)") }
        }
        try bench.drain()
        #expect(bench.store.mostAtOnce == 1)
        for number in 0..<5 { #expect(bench.text("f\(number)") == "39") }
    }

    @Test("writers who wait for room in the cache get it, whatever the delay is")
    func pressure() throws {
        let limits = CacheLimits(soft: 1 << 20, hard: 4 << 20, freeSpaceFloor: 0)
        let bench = try Workbench(delay: .seconds(3600), deadline: .seconds(7200), limits: limits)
        bench.synchronizer.start()
        for number in 0..<3 { try bench.write("f\(number)", [UInt8](repeating: 1, count: 1 << 20)) }
        let ready = Monitor(false)
        bench.cache.reserve(3 << 20) { error in ready.update { $0 = error == nil } }
        #expect(ready.wait(until: .now + .seconds(60)) { $0 ? true : nil } == true)
        #expect(try bench.files().count >= 1)
        // With more room nobody waits any more: what is changed from now on has its delay again.
        bench.cache.setLimits(CacheLimits(soft: 1 << 30, hard: 1 << 30, freeSpaceFloor: 0))
        bench.synchronizer.configure(bench.settings)
        try bench.write("later", [UInt8](repeating: 1, count: 2 << 20))
        try bench.write("awaited", "now")
        try bench.drain("awaited")
        #expect(bench.text("awaited") == "now" && bench.text("later") == nil)
    }

    @Test("a renamed symbolic link is written anew where it cannot be moved: another file may take its place meanwhile")
    func renamedSymbolicLink() throws {
        let bench = try Workbench(without: [.atomicMove, .directoryMove])
        let link = NewInode(kind: .symbolicLink, mode: 0o777, uid: 0, gid: 0, target: Array("a/b".utf8))
        _ = try bench.catalog.create(link, named: FileName("link")!, in: .root)
        try bench.drain()
        let put = Lock<[String]>([])
        bench.store.beforePut { path, _ in put.withLock { $0.append(path.description) } }
        try bench.rename("link", to: "new")
        try bench.write("link", "a file")
        try bench.drain()
        #expect(put.withLock { $0.sorted() } == ["link", "new"])
        #expect(bench.text("new") == "a/b" && bench.text("link") == "a file")
        #expect(try bench.memory.metadata(of: StorePath("new")!).kind == .symbolicLink)
    }

    @Test("symbolic links and fifos are uploaded as what they are")
    func specialFiles() throws {
        let bench = try Workbench()
        let link = NewInode(kind: .symbolicLink, mode: 0o777, uid: 0, gid: 0, target: Array("a/b".utf8))
        _ = try bench.catalog.create(link, named: FileName("link")!, in: .root)
        _ = try bench.catalog.create(
            NewInode(kind: .fifo, mode: 0o600, uid: 0, gid: 0), named: FileName("fifo")!, in: .root)
        try bench.drain()
        #expect(try bench.memory.metadata(of: StorePath("link")!).kind == .symbolicLink)
        #expect(bench.text("link") == "a/b")
        #expect(try bench.memory.metadata(of: StorePath("fifo")!).kind == .fifo)
    }
}

/// Says of every upload that one byte more arrived.
private final class LyingStore: StoreWrapper {
    let inner: any Store
    init(_ inner: any Store) { self.inner = inner }
    func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        var metadata = try inner.put(body, at: path, options)
        metadata.size += 1
        return metadata
    }
}
