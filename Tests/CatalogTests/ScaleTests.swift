import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

/// What an operation costs is counted in steps of SQLite's virtual machine, which are the same on any machine.
@Suite("A large catalog")
struct ScaleTests {
    private let new = NewInode(kind: .file, mode: 0o644, uid: 1, gid: 1)

    @Test("is opened without a look at what is in it, however much that is")
    func opening() throws {
        func cost(_ count: Int) throws -> Int {
            let temporary = try TemporaryCatalog()
            let c = temporary.catalog
            for number in 0..<count {
                let inode = try c.create(new, named: name("f\(number)"), in: .root).id
                let state = ContentState(
                    inode: inode, size: 100, present: RangeSet(0..<100), modified: nil, isChanged: true)
                _ = try c.save([state])
            }
            try temporary.reopen()
            let catalog = temporary.catalog
            // What a mount asks for at its beginning, and then all the time.
            #expect(try catalog.contentTotals().dirtyFiles == Int64(count))
            #expect(try catalog.pendingTotals().items == Int64(count))
            #expect(try catalog.orphans().isEmpty)
            let held = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds - 1)
            #expect(try catalog.pending(dueBefore: held, limit: 512, busy: []).isEmpty)
            #expect(try catalog.nextDue(delay: .seconds(60)) != nil)
            #expect(try catalog.lookup(name("f1"), in: .root).inode != nil)
            return try catalog.steps
        }
        #expect(try cost(2_000) <= cost(20) * 2)
    }

    @Test("makes everything due at once without a change of each row, however many there are")
    func expediting() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        var count = 0
        func cost(adding more: Int) throws -> Int {
            temporary.clock.advance(by: .seconds(1))
            for _ in 0..<more {
                _ = try c.create(new, named: name("f\(count)"), in: .root)
                count += 1
            }
            let before = try c.steps
            #expect(try c.expedite(nil) == count)
            return try c.steps - before
        }
        let few = try cost(adding: 10)
        #expect(try cost(adding: 2_000) <= few * 2)
        // All of them are due, and what is changed later is not.
        temporary.clock.advance(by: .seconds(1))
        _ = try c.create(new, named: name("later"), in: .root)
        let held = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds - Duration.seconds(60).nanoseconds)
        #expect(try c.pending(dueBefore: held, limit: 5_000, busy: []).count == count)
        let next = try #require(try c.nextDue(delay: .seconds(60)))
        #expect(next.nanoseconds == held.nanoseconds + Duration.seconds(120).nanoseconds)
    }

    @Test("takes up again what has failed, however much that is")
    func retrying() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        let count = Int(Catalog.changesAtOnce) * 2 + 10
        for number in 0..<count { _ = try c.create(new, named: name("f\(number)"), in: .root) }
        let later = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds + Duration.seconds(600).nanoseconds)
        for row in try c.allPending(after: nil, limit: count) {
            let isParked = row.id.value.isMultiple(of: 2)
            try c.failed(row.id, revision: row.revision, error: "no", retryAt: isParked ? nil : later)
        }
        #expect(try c.pending(dueBefore: temporary.clock.calendar, limit: count, busy: []).isEmpty)
        #expect(try c.expedite(nil) == count)
        #expect(try c.pendingTotals().parked == 0)
        #expect(try c.pending(dueBefore: temporary.clock.calendar, limit: count, busy: []).count == count)
    }

    @Test("an operation in a directory costs the same, however many entries that has")
    func largeDirectory() throws {
        func costs(_ count: Int) throws -> [(what: String, steps: Int)] {
            let temporary = try TemporaryCatalog()
            let c = temporary.catalog
            let large = try c.create(
                NewInode(kind: .directory, mode: 0o755, uid: 1, gid: 1), named: name("large"), in: .root
            ).id
            try c.fill(large, count)
            let middle = try #require(try c.cookie(of: name("f\(count / 2)"), in: large))
            var costs: [(what: String, steps: Int)] = []
            func measure<Result>(_ what: String, _ body: () throws -> Result) throws -> Result {
                let before = try c.steps
                defer { costs.append((what, ((try? c.steps) ?? .max) - before)) }
                return try body()
            }
            #expect(try measure("look up") { try c.lookup(name("f\(count / 3)"), in: large) }.inode != nil)
            #expect(try measure("look up in vain") { try c.lookup(name("none"), in: large) }.inode == nil)
            #expect(
                try measure("read on in the middle") { try c.entries(of: large, after: middle, limit: 32) }.count == 32)
            _ = try measure("create") { try c.create(new, named: name("new"), in: large) }
            _ = try measure("rename") {
                try c.rename(name("new"), in: large, to: name("newer"), in: large, .replace)
            }
            _ = try measure("rename over another") {
                try c.rename(name("newer"), in: large, to: name("f7"), in: large, .replace)
            }
            _ = try measure("rename out") { try c.rename(name("f7"), in: large, to: name("out"), in: .root, .replace) }
            _ = try measure("rename in") { try c.rename(name("out"), in: .root, to: name("f7"), in: large, .replace) }
            _ = try measure("unlink") { try c.remove(name("f7"), from: large, isDirectory: false) }
            try measure("remove the directory") {
                do {
                    _ = try c.remove(name("large"), from: .root, isDirectory: true)
                    Issue.record("it is not empty")
                } catch let error as CatalogError { #expect(error.code == .notEmpty) }
            }
            _ = try measure("rename the directory") {
                try c.rename(name("large"), in: .root, to: name("larger"), in: .root, .replace)
            }
            _ = try measure("ask what is not known") { try c.unknownInodes(in: large, after: middle, count: 256) }
            return costs
        }
        for (few, many) in zip(try costs(1_000), try costs(50_000)) {
            #expect(many.steps <= few.steps * 2, "\(many.what): \(few.steps) steps became \(many.steps)")
        }
    }

    @Test("a directory that is gone from the store with much below it goes some names at a time")
    func vanishingDirectory() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        func list(_ directory: InodeID, _ entries: [ListEntry]) throws {
            let plan = try #require(try c.beginListing(of: directory))
            _ = try c.merge(entries, into: plan)
            try c.endListing(plan) { _ in }
        }
        func entry(_ text: String, _ kind: FileKind = .file) -> ListEntry {
            ListEntry(
                name: name(text),
                metadata: Metadata(kind: kind, size: 1, modified: Timestamp(nanoseconds: 0), version: Version("1")))
        }
        func inode(_ text: String) throws -> InodeRecord? { try c.inode(at: path(text)) }
        try list(.root, [entry("top", .directory), entry("elsewhere", .directory), entry("file")])
        let top = try #require(try inode("top")).id
        try list(top, [entry("inner", .directory)] + (0..<2_500).map { entry("f\($0)") })
        let inner = try #require(try inode("top/inner")).id
        try list(inner, (0..<2_500).map { entry("f\($0)") })
        try list(try #require(try inode("elsewhere")).id, [entry("inside")])
        // Of ours there are: a new file, and what was moved there, of which not a byte is here.
        _ = try c.create(new, named: name("new"), in: inner)
        _ = try c.rename(name("file"), in: .root, to: name("moved"), in: top, .replace)
        _ = try c.rename(name("elsewhere"), in: .root, to: name("moved too"), in: top, .replace)
        temporary.clock.advance(by: .seconds(1000))
        let plan = try #require(try c.beginListing(of: .root))
        _ = try c.merge([entry("elsewhere", .directory), entry("file")], into: plan)
        var parts: [Int] = []
        try c.endListing(plan) { parts.append($0.count) }
        #expect(parts.max()! <= 256 && parts.reduce(0, +) == 5_000)
        #expect(
            try Set(c.entries(of: top, after: 0, limit: 10).map { String(describing: $0.name) })
                == ["inner", "moved", "moved too"])
        #expect(try c.entries(of: inner, after: 0, limit: 10).map { String(describing: $0.name) } == ["new"])
        #expect(try inode("top/moved too/inside") != nil)
        // They are to be put there again.
        let pending = try c.allPending(after: nil, limit: 100).map(\.path.description)
        #expect(Set(["top", "top/inner", "top/inner/new", "top/moved", "top/moved too"]).isSubset(of: pending))
    }

    @Test("a directory of which much is gone from the store is brought up to date some names at a time")
    func vanishing() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        func entry(_ number: Int) -> ListEntry {
            ListEntry(
                name: name("f\(number)"),
                metadata: Metadata(
                    kind: .file, size: 1, modified: Timestamp(nanoseconds: 0), version: Version("\(number)")))
        }
        let count = 3_210
        let first = try #require(try c.beginListing(of: .root))
        _ = try c.merge((0..<count).map(entry), into: first)
        try c.endListing(first) { _ in Issue.record("nothing has vanished") }
        temporary.clock.advance(by: .seconds(1000))
        let second = try #require(try c.beginListing(of: .root))
        let left = Set((0..<count).filter { $0.isMultiple(of: 100) })
        _ = try c.merge(left.sorted().map(entry), into: second)
        #expect(try c.doubtfulAbsences(in: second).isEmpty)
        let told = Lock<[Int]>([])
        let isOver = Lock(false)
        let listing = WorkerThread(name: "list", urgency: .background) {
            do throws(CatalogError) {
                try c.endListing(second) { changes in told.withLock { $0.append(changes.count) } }
            } catch { Issue.record(error) }
            isOver.withLock { $0 = true }
        }
        // Others use the catalog meanwhile, and need not wait for the end.
        var looks = 0
        while !isOver.withLock({ $0 }) {
            #expect(try c.lookup(name("f0"), in: .root).inode != nil)
            looks += 1
        }
        listing.join()
        let parts = told.withLock { $0 }
        #expect(looks >= parts.count / 2)
        #expect(parts.max()! <= 256 && parts.reduce(0, +) == count - left.count)
        #expect(
            try Set(c.entries(of: .root, after: 0, limit: count).map { String(describing: $0.name) })
                == Set(left.map { "f\($0)" }))
        #expect(try c.listed(of: .root) == temporary.clock.calendar)
    }
}

extension Catalog {
    /// Makes many files in one transaction, as ``create(_:named:in:)`` makes each in one of its own.
    fileprivate func fill(_ directory: InodeID, _ count: Int) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            let now = Timestamp(nanoseconds: tables.fileTime)
            for number in 0..<count {
                let record = InodeRecord(
                    id: InodeID(0), kind: .file, mode: 0o644, uid: 1, gid: 1, accessed: now, modified: now,
                    changed: now, created: now)
                let inode = try tables.insertInode(record, isTold: (true, true, true))
                try tables.insertEntry(name("f\(number)"), in: directory, for: inode)
                try tables.mark(name("f\(number)"), in: directory)
            }
        }
    }

    fileprivate func cookie(of name: FileName, in directory: InodeID) throws(CatalogError) -> Int64? {
        try read { tables throws(CatalogError) in
            try tables.database.first(
                "SELECT id FROM entry WHERE parent = ? AND name = ?", .int(directory.row), .blob(name.bytes)
            ) { $0.int(0) }
        }
    }
}
