import Catalog
import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import Synchronizer

/// Kinds of store that differ in what a rename costs.
enum StoreShape: String, CaseIterable, Sendable {
    case everything, copyOnly, nothing, flat, unconditional, batching

    var missing: StoreCapabilities.Features {
        switch self {
        case .everything: []
        case .copyOnly: [.atomicMove, .directoryMove]
        case .nothing: [.atomicMove, .directoryMove, .serverSideCopy, .rangeCopy]
        case .flat: [.atomicMove, .directoryMove, .attributesInListing]
        case .unconditional:
            [.atomicMove, .directoryMove, .serverSideCopy, .rangeCopy, .conditionalCreate, .conditionalReplace]
        case .batching: [.rangeCopy]
        }
    }

    func bench() throws -> Workbench {
        try Workbench(without: missing, realDirectories: self != .flat && self != .batching) {
            if self == .batching { $0.batch = .small }
        }
    }
}

@Suite("Renames, made good on each kind of store") struct RenamingTests {
    @Test("two files exchange their names", arguments: StoreShape.allCases)
    func exchange(shape: StoreShape) throws {
        let bench = try shape.bench()
        try bench.write("a", "from a")
        try bench.write("b", "from b, longer")
        try bench.drain()
        try bench.rename("a", to: "b", .exchange)
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.text("a") == "from b, longer")
        #expect(bench.text("b") == "from a")
        #expect(try bench.files() == ["a", "b"])
    }

    @Test("names go round in a circle of three", arguments: StoreShape.allCases)
    func circle(shape: StoreShape) throws {
        let bench = try shape.bench()
        for name in ["a", "b", "c"] { try bench.write(name, "from " + name) }
        try bench.drain()
        try bench.rename("a", to: "t")
        try bench.rename("b", to: "a")
        try bench.rename("c", to: "b")
        try bench.rename("t", to: "c")
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.text("a") == "from b")
        #expect(bench.text("b") == "from c")
        #expect(bench.text("c") == "from a")
        #expect(try bench.files() == ["a", "b", "c"])
    }

    @Test("a file replaces another one by rename, as editors save", arguments: StoreShape.allCases)
    func replace(shape: StoreShape) throws {
        let bench = try shape.bench()
        try bench.write("f", "old")
        try bench.drain()
        for round in 0..<5 {
            try bench.write("f.tmp", "new \(round)")
            if round % 2 == 0 { try bench.drain() }
            try bench.rename("f.tmp", to: "f")
            #expect(try bench.drain().itemsLeft == 0)
            #expect(bench.text("f") == "new \(round)")
            #expect(try bench.files() == ["f"])
        }
    }

    @Test("a directory with many files is renamed", arguments: StoreShape.allCases)
    func directory(shape: StoreShape) throws {
        let bench = try shape.bench()
        let count = shape == .copyOnly ? 1_000 : 100
        try bench.makeDirectory("old")
        try bench.makeDirectory("old/sub")
        for number in 0..<count { try bench.write("old/\(number)", "text \(number)") }
        try bench.write("old/sub/deep", "deep")
        #expect(try bench.drain().itemsLeft == 0)
        try bench.rename("old", to: "new")
        #expect(try bench.drain(within: .seconds(120)).itemsLeft == 0)
        #expect(try bench.files().count == count + 1)
        #expect(bench.text("new/sub/deep") == "deep")
        for number in stride(from: 0, to: count, by: 17) { #expect(bench.text("new/\(number)") == "text \(number)") }
        #expect(try bench.files().allSatisfy { $0.hasPrefix("new/") })
    }

    @Test("a renamed file that was not uploaded yet goes out once, under its new name", arguments: StoreShape.allCases)
    func dirty(shape: StoreShape) throws {
        let bench = try shape.bench()
        try bench.makeDirectory("d")
        try bench.write("f", "1")
        try bench.rename("f", to: "d/g")
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == ["d/g"])
        #expect(bench.store.puts == [StorePath("d/g")!])
    }

    @Test("a directory is deleted with all in it, and made anew with the same names", arguments: StoreShape.allCases)
    func deleteAndMakeAnew(shape: StoreShape) throws {
        let bench = try shape.bench()
        try bench.makeDirectory("d")
        for number in 0..<50 { try bench.write("d/\(number)", "old \(number)") }
        try bench.drain()
        for number in 0..<50 { try bench.delete("d/\(number)") }
        try bench.delete("d")
        try bench.makeDirectory("d")
        for number in 0..<25 { try bench.write("d/\(number)", "new \(number)") }
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files().count == 25)
        for number in 0..<25 { #expect(bench.text("d/\(number)") == "new \(number)") }
    }

    @Test("a deleted tree is gone from the store, in a few requests", arguments: StoreShape.allCases)
    func deleteTree(shape: StoreShape) throws {
        let bench = try shape.bench()
        for directory in ["a", "a/b", "a/b/c"] {
            try bench.makeDirectory(directory)
            for number in 0..<40 { try bench.write("\(directory)/f\(number)", "\(number)") }
        }
        try bench.drain()
        bench.synchronizer.stop()
        for directory in ["a/b/c", "a/b", "a"] {
            for number in 0..<40 { try bench.delete("\(directory)/f\(number)") }
            try bench.delete(directory)
        }
        try bench.restart()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == [])
        #expect(try bench.memory.list(.root, after: nil).entries.isEmpty)
        let requests = shape == .batching ? bench.store.batches.count : bench.store.deletions.count
        #expect(requests < 30, "\(requests) requests")
    }

    @Test("a directory that others have put a file into is not deleted on the store, and its file stays")
    func foreignFileInDeletedDirectory() throws {
        let bench = try Workbench()
        try bench.makeDirectory("d")
        try bench.write("d/f", "ours")
        try bench.drain()
        try bench.writeForeign("d/theirs", "theirs")
        try bench.delete("d/f")
        try bench.delete("d")
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == ["d/theirs"])
        #expect(bench.statistics.snapshot().errors.contains { $0.kind == "notDeleted" })
    }

    /// What is done with a name whose rename was carried out on the store, and not heard of.
    enum Next: String, CaseIterable, Sendable { case nothing, takenBack, renamedAgain, removed }

    @Test(
        "a rename that the store has carried out, and the program was ended before it knew, leaves nothing in the wrong place",
        arguments: Next.allCases, [true, false])
    func lostMove(next: Next, isDirectory: Bool) throws {
        let bench = try Workbench()
        let (old, new, newest) = isDirectory ? ("a/f", "b/f", "c/f") : ("a", "b", "c")
        if isDirectory { try bench.makeDirectory("a") }
        try bench.write(old, "text")
        #expect(try bench.drain().itemsLeft == 0)
        bench.store.loseNextMove { [faults = bench.faults] in faults.outage = .failing }
        try bench.rename("a", to: "b")
        try bench.wait("the rename on the store") { bench.text(new) != nil }
        try bench.restart()
        bench.faults.heal()
        switch next {
        case .nothing: break
        case .takenBack: try bench.rename("b", to: "a")
        case .renamedAgain: try bench.rename("b", to: "c")
        case .removed:
            if isDirectory { try bench.delete("b/f") }
            try bench.delete("b")
        }
        #expect(try bench.drain().itemsLeft == 0)
        let expected: [String] =
            switch next {
            case .nothing: [new]
            case .takenBack: [old]
            case .renamedAgain: [newest]
            case .removed: []
            }
        #expect(try bench.files() == expected)
        for path in expected { #expect(bench.text(path) == "text") }
        try bench.list("")
        #expect(try bench.catalog.inode(at: StorePath(expected.first ?? "a")!) != nil || expected.isEmpty)
        #expect(try bench.pending().isEmpty)
    }

    @Test(
        "what was put over an older version without the answer being heard, and listed, goes with its name",
        arguments: [true, false])
    func lostReplacement(isRemoved: Bool) throws {
        let bench = try Workbench()
        try bench.write("f", "old")
        #expect(try bench.drain().itemsLeft == 0)
        bench.synchronizer.stop()
        try bench.write("f.tmp", "newer")
        try bench.rename("f.tmp", to: "f")
        bench.faults.inject(.loseAnswer, on: .put, .first(1))
        try bench.restart()
        bench.synchronizer.start()
        try bench.wait("the upload") { bench.text("f") == "newer" }
        bench.faults.outage = .failing
        bench.synchronizer.stop()
        bench.faults.heal()
        try bench.list("")
        if isRemoved { try bench.delete("f") } else { try bench.rename("f", to: "g") }
        try bench.restart()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == (isRemoved ? [] : ["g"]))
        #expect(isRemoved || bench.text("g") == "newer")
    }

    @Test("a file that somebody else has just put where a renamed one belongs is kept beside it")
    func moveOntoForeign() throws {
        let bench = try Workbench()
        try bench.write("a", "ours")
        try bench.drain()
        bench.synchronizer.stop()
        try bench.rename("a", to: "b")
        try bench.writeForeign("b", "theirs, longer")
        try bench.restart()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.text("b") == "ours")
        let copies = try bench.files().filter { $0.hasPrefix("b.conflict-") }
        #expect(copies.count == 1 && copies.allSatisfy { bench.text($0) == "theirs, longer" })
        #expect(try bench.files().count == 2)
    }

    @Test(
        "a file that others have removed before its bytes were read here goes, unless some were written here: listed as lost",
        arguments: StoreShape.allCases)
    func lostSource(shape: StoreShape) throws {
        for hasOwnBytes in [false, true] {
            let bench = try shape.bench()
            let inode = try bench.write("f", "text")
            #expect(try bench.drain().itemsLeft == 0)
            bench.synchronizer.stop()
            try bench.catalog.contentWasEvicted(inode)
            try bench.restart()
            try bench.rename("f", to: "g")
            if hasOwnBytes { try bench.append("g", "more") }
            #expect(bench.memory.delete([StorePath("f")!]).allSatisfy { $0 == nil })
            let left = try bench.drain()
            #expect(left.itemsLeft == (hasOwnBytes ? 1 : 0) && left.parked == left.itemsLeft)
            #expect(try bench.pending().map(\.path.description) == (hasOwnBytes ? ["g"] : []))
            #expect(try (bench.catalog.inode(at: StorePath("g")!) != nil) == hasOwnBytes)
            let kind = hasOwnBytes ? "contentLost" : "conflict"
            #expect(bench.statistics.snapshot().errors.contains { $0.kind == kind })
            #expect(try bench.files() == [])
        }
    }

    @Test(
        "a directory that somebody else has renamed too, to the same name, is there once",
        arguments: StoreShape.allCases)
    func renamedByBoth(shape: StoreShape) throws {
        let bench = try shape.bench()
        try bench.makeDirectory("b")
        try bench.makeDirectory("b/inner")
        for name in ["b/x", "b/y", "b/inner/z"] { try bench.write(name, name) }
        #expect(try bench.drain().itemsLeft == 0)
        bench.synchronizer.stop()
        try bench.rename("b", to: "c")
        try bench.memory.move(StorePath("b")!, to: StorePath("c")!)
        try bench.restart()
        #expect(try bench.drain().itemsLeft == 0)
        #expect(bench.statistics.snapshot().errors.allSatisfy { $0.kind == "conflict" })
        for name in ["x", "y", "inner/z"] { #expect(bench.text("c/\(name)") == "b/\(name)") }
        #expect(try bench.files().allSatisfy { $0.hasPrefix("c/") })
    }

    @Test("what somebody else has put where a file of a directory belongs that is being renamed moves with it")
    func conflictWhileRenaming() throws {
        let bench = try StoreShape.nothing.bench()
        try bench.makeDirectory("b")
        try bench.write("b/y", "base")
        #expect(try bench.drain().itemsLeft == 0)
        bench.synchronizer.stop()
        try bench.writeForeign("b/y", "theirs, longer")
        try bench.write("b/y", "ours")
        let isRenamed = Lock(false)
        let restarted = Monitor<Catalog?>(nil)
        bench.store.beforePut { [memory = bench.memory] path, _ in
            guard path.name?.description.contains(".conflict-") == true,
                !isRenamed.withLock({ isDone in
                    defer { isDone = true }
                    return isDone
                })
            else { return }
            #expect(throws: Never.self) {
                let catalog = try #require(restarted.wait(until: .now + .seconds(60)) { $0 })
                _ = try catalog.rename(FileName("b")!, in: .root, to: FileName("c")!, in: .root, .replace)
            }
            // Until its entries have begun to leave.
            for _ in 0..<5000 where (try? memory.metadata(of: StorePath("c")!)) == nil { usleep(1000) }
            usleep(200_000)
        }
        try bench.restart()
        restarted.update { $0 = bench.catalog }
        #expect(try bench.drain().itemsLeft == 0)
        let files = try bench.files()
        #expect(files.allSatisfy { $0.hasPrefix("c/y") }, "\(files)")
        #expect(Set(files.compactMap { bench.text($0) }) == ["ours", "theirs, longer"])
    }

    @Test("a link of somebody else that is removed before it was looked at is gone from the store, also while in use")
    func unknownLink() throws {
        let bench = try Workbench()
        let target = UploadBody(Array("somewhere".utf8))
        _ = try bench.memory.put(target, at: StorePath("l")!, PutOptions(kind: .symbolicLink))
        try bench.list("")
        // Nobody forgets the inode, as when a program has it open.
        let record = try bench.catalog.remove(FileName("l")!, from: .root, isDirectory: false)
        #expect(!record.attributesAreKnown)
        #expect(try bench.drain().itemsLeft == 0)
        #expect(try bench.files() == [])
        #expect(try bench.catalog.inode(record.id)?.target == Array("somewhere".utf8))
    }

    @Test("two versions of somebody else that collide within a second are both kept")
    func conflictsAtOnce() throws {
        let bench = try Workbench()
        for round in 1...2 {
            try bench.write("f", "base \(round)")
            #expect(try bench.drain().itemsLeft == 0)
            bench.synchronizer.stop()
            try bench.writeForeign("f", "theirs " + String(repeating: "!", count: round))
            try bench.write("f", "ours \(round)")
            try bench.restart()
            #expect(try bench.drain().itemsLeft == 0)
        }
        #expect(bench.text("f") == "ours 2")
        let copies = try bench.files().filter { $0.hasPrefix("f.conflict-") }
        #expect(Set(copies.map { bench.text($0) }) == ["theirs !", "theirs !!"])
    }

    @Test("random changes with random faults end with the same tree on the store", arguments: StoreShape.allCases)
    func random(shape: StoreShape) throws {
        let seed = UInt64.random(in: 0 ... .max)
        var random = SplitMix(seed: seed)
        let bench = try shape.bench()
        bench.synchronizer.start()
        bench.faults.inject(.fail(StoreError(.corrupted, "random")), on: .put, .every(7))
        bench.faults.inject(.loseAnswer, on: .put, .every(11))
        bench.faults.inject(.loseAnswer, on: .copy, .every(5))
        bench.faults.inject(.loseAnswer, on: .move, .every(5))
        bench.faults.inject(.loseAnswer, on: .delete, .every(6))
        var model: [String: String] = [:]
        let directories = ["x", "y"]
        for directory in directories { try bench.makeDirectory(directory) }
        func name() -> String {
            "\(directories.randomElement(using: &random)!)/f\(Int.random(in: 0..<8, using: &random))"
        }
        for step in 0..<150 {
            let path = name()
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<4:
                let text = "step \(step)"
                try bench.write(path, text)
                model[path] = text
            case 4..<6 where model[path] != nil:
                try bench.delete(path)
                model[path] = nil
            case 6..<9 where model[path] != nil:
                let target = name()
                guard target != path else { continue }
                if model[target] != nil, Bool.random(using: &random) {
                    try bench.rename(path, to: target, .exchange)
                    (model[path], model[target]) = (model[target], model[path])
                } else {
                    try bench.rename(path, to: target)
                    model[target] = model[path]
                    model[path] = nil
                }
            default: break
            }
            if step % 50 == 49 { try bench.drain(within: .seconds(100)) }
        }
        bench.faults.heal()
        #expect(try bench.drain(within: .seconds(100)).itemsLeft == 0, "seed \(seed)")
        var found: [String: String] = [:]
        for path in try bench.files() { found[path] = bench.text(path) }
        #expect(found == model, "seed \(seed)")
    }
}
