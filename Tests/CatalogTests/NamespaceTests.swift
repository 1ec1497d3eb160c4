import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

@Suite("The namespace")
struct NamespaceTests {
    private let file = NewInode(kind: .file, mode: 0o644, uid: 1, gid: 2)
    private let directory = NewInode(kind: .directory, mode: 0o755, uid: 1, gid: 2)

    private func code(_ body: () throws(CatalogError) -> Void) -> CatalogError.Code? {
        do {
            try body()
            return nil
        } catch { return error.code }
    }

    @Test("survives the end of the process without being closed")
    func reopen() throws {
        let temporary = try TemporaryCatalog()
        let made = try temporary.catalog.create(directory, named: name("d"), in: .root)
        let inner = try temporary.catalog.create(file, named: name("f"), in: made.id)
        try temporary.catalog.setExtendedAttribute("user.colour", to: [1, 2], of: inner.id, .create)
        try temporary.reopen()
        let found = try #require(try temporary.catalog.inode(at: path("d/f")))
        #expect(found == inner.with(changed: found.changed))
        #expect(try temporary.catalog.extendedAttributes(of: found.id) == ["user.colour": [1, 2]])
        #expect(try temporary.catalog.path(of: found.id) == path("d/f"))
        #expect(try temporary.catalog.pendingTotals().items == 2)
    }

    @Test("refuses what POSIX refuses")
    func refusals() throws {
        let catalog = try TemporaryCatalog()
        let c = catalog.catalog
        let d = try c.create(directory, named: name("d"), in: .root)
        let f = try c.create(file, named: name("f"), in: .root)
        _ = try c.create(file, named: name("inner"), in: d.id)
        #expect(code { () throws(CatalogError) in _ = try c.create(file, named: name("f"), in: .root) } == .exists)
        #expect(
            code { () throws(CatalogError) in _ = try c.create(file, named: name("x"), in: f.id) } == .notADirectory)
        #expect(
            code { () throws(CatalogError) in _ = try c.create(file, named: name("x"), in: InodeID(99)) } == .notFound)
        #expect(code { () throws(CatalogError) in _ = try c.link(d.id, named: name("x"), in: .root) } == .isADirectory)
        #expect(code { () throws(CatalogError) in _ = try c.link(f.id, named: name("d"), in: .root) } == .exists)
        #expect(
            code { () throws(CatalogError) in _ = try c.remove(name("no"), from: .root, isDirectory: false) }
                == .notFound)
        #expect(
            code { () throws(CatalogError) in _ = try c.remove(name("d"), from: .root, isDirectory: false) }
                == .isADirectory)
        #expect(
            code { () throws(CatalogError) in _ = try c.remove(name("f"), from: .root, isDirectory: true) }
                == .notADirectory)
        #expect(
            code { () throws(CatalogError) in _ = try c.remove(name("d"), from: .root, isDirectory: true) } == .notEmpty
        )
        #expect(rename(c, "no", "x", .replace) == .notFound)
        #expect(rename(c, "f", "d", .replace) == .isADirectory)
        #expect(rename(c, "d", "f", .replace) == .notADirectory)
        #expect(rename(c, "f", "d", .noReplace) == .exists)
        #expect(rename(c, "f", "no", .exchange) == .notFound)
        #expect(
            code { () throws(CatalogError) in
                _ = try c.rename(name("d"), in: .root, to: name("below"), in: d.id, .replace)
            } == .insideItself)
        _ = try c.create(directory, named: name("e"), in: .root)
        #expect(rename(c, "e", "d", .replace) == .notEmpty)
    }

    private func rename(_ catalog: Catalog, _ from: String, _ to: String, _ mode: RenameMode) -> CatalogError.Code? {
        code { () throws(CatalogError) in _ = try catalog.rename(name(from), in: .root, to: name(to), in: .root, mode) }
    }

    @Test("counts the links of files and directories")
    func links() throws {
        let catalog = try TemporaryCatalog()
        let c = catalog.catalog
        let d = try c.create(directory, named: name("d"), in: .root)
        let e = try c.create(directory, named: name("e"), in: d.id)
        #expect(try c.inode(.root)?.links == 3)
        #expect(try c.inode(d.id)?.links == 3)
        _ = try c.rename(name("e"), in: d.id, to: name("e"), in: .root, .replace)
        #expect(try c.inode(.root)?.links == 4)
        #expect(try c.inode(d.id)?.links == 2)
        #expect(try c.parent(of: e.id) == .root)
        #expect(try c.remove(name("e"), from: .root, isDirectory: true).links == 0)
        #expect(try c.inode(.root)?.links == 3)

        let f = try c.create(file, named: name("f"), in: .root)
        #expect(try c.link(f.id, named: name("g"), in: d.id).links == 2)
        #expect(try c.remove(name("f"), from: .root, isDirectory: false).links == 1)
        #expect(try !c.forget(f.id))
        #expect(try c.remove(name("g"), from: d.id, isDirectory: false).links == 0)
        #expect(try c.orphans().contains(f.id))
        #expect(try c.forget(f.id))
        #expect(try c.inode(f.id) == nil)
    }

    @Test("shows each entry that stays exactly once, while others come and go")
    func reading() throws {
        let catalog = try TemporaryCatalog()
        let c = catalog.catalog
        for number in 0..<300 { _ = try c.create(file, named: name("stays\(number)"), in: .root) }
        var seen: [String] = []
        var cookie: Int64 = 0
        var turn = 0
        while true {
            let page = try c.entries(of: .root, after: cookie, limit: 7)
            guard let last = page.last else { break }
            #expect(page.allSatisfy { $0.cookie > cookie })
            cookie = last.cookie
            seen += page.map(\.name.description)
            turn += 1
            if turn < 100 { _ = try c.create(file, named: name("comes\(turn)"), in: .root) }
            if turn > 5, turn < 100 { _ = try c.remove(name("comes\(turn - 5)"), from: .root, isDirectory: false) }
        }
        let stayed = seen.filter { $0.hasPrefix("stays") }
        #expect(stayed.count == 300 && Set(stayed).count == 300)
        #expect(Set(seen).count == seen.count)
    }

    @Test("says that a catalog of a newer version is one")
    func newerFormat() throws {
        let temporary = try TemporaryCatalog()
        temporary.catalog.close()
        do {
            let database = try Database(path: temporary.folder + "/catalog.sqlite")
            try database.run("UPDATE format SET version = 1000")
        }
        do {
            _ = try Catalog(path: temporary.folder + "/catalog.sqlite", clock: temporary.clock)
            Issue.record("the catalog was opened")
        } catch {
            #expect(error.code == .tooNew && error.message.contains("1000"))
        }
    }

    @Test("rolls a change back whole when its second half fails")
    func atomicity() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        let f = try c.create(file, named: name("f"), in: .root)
        let before = try c.contentTotals()
        do {
            _ = try c.write { tables throws(CatalogError) -> Int in
                try tables.makeDirty(f.id, isChanging: true)
                try tables.database.run("DELETE FROM entry")
                throw CatalogError(.damaged, "an invented failure")
            }
            Issue.record("the failure was swallowed")
        } catch { #expect(error.code == .damaged) }
        #expect(try c.inode(at: path("f"))?.id == f.id)
        #expect(try c.contentTotals() == before)
    }

    @Test("keeps the totals of cached and dirty bytes right, also over a restart")
    func totals() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        var files: [InodeID] = []
        for number in 0..<10 {
            let f = try c.create(file, named: name("\(number)"), in: .root).id
            _ = try c.beginChange(of: f)
            _ = try c.save(
                [ContentState(inode: f, size: 100, present: RangeSet(0..<100), modified: nil, isChanged: true)])
            files.append(f)
        }
        #expect(try c.contentTotals() == ContentTotals(cachedBytes: 1000, dirtyBytes: 1000, dirtyFiles: 10))
        _ = try c.remove(name("0"), from: .root, isDirectory: false)
        _ = try c.forget(files[0])
        #expect(try c.contentTotals() == ContentTotals(cachedBytes: 900, dirtyBytes: 900, dirtyFiles: 9))
        // Dirty content stays, whatever is asked.
        try c.contentWasEvicted(files[1])
        #expect(try c.contentTotals().cachedBytes == 900)
        try temporary.reopen()
        #expect(
            try temporary.catalog.contentTotals() == ContentTotals(cachedBytes: 900, dirtyBytes: 900, dirtyFiles: 9))
    }

    @Test("looks for what is due without looking at what is not, however much that is")
    func costOfAsking() throws {
        let temporary = try TemporaryCatalog()
        let catalog = temporary.catalog
        let later = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds + Duration.seconds(3600).nanoseconds)
        var total = 0
        /// What a look at the journal costs with `count` more files, which are held back or wait for their next attempt.
        func cost(adding count: Int) throws -> Int {
            for _ in 0..<count {
                _ = try catalog.create(file, named: name("f\(total)"), in: .root)
                total += 1
                guard total.isMultiple(of: 2) else { continue }
                let newest = try #require(try catalog.newestPending())
                try catalog.failed(newest.id, revision: newest.revision, error: "test", retryAt: later)
            }
            let now = temporary.clock.calendar.nanoseconds
            let before = try catalog.steps
            #expect(try catalog.pending(dueBefore: Timestamp(nanoseconds: now - 1), limit: 100, busy: []).isEmpty)
            #expect(try catalog.nextDue(delay: .seconds(60)) != nil)
            _ = try catalog.pendingTotals()
            return try catalog.steps - before
        }
        let few = try cost(adding: 10)
        #expect(try cost(adding: 2000) <= few * 2)
    }

    @Test("finds what is pending below a path without looking at what is pending elsewhere, however much that is")
    func costOfPaths() throws {
        let temporary = try TemporaryCatalog()
        let catalog = temporary.catalog
        let many = try catalog.create(directory, named: name("many"), in: .root).id
        let here = try catalog.create(directory, named: name("here"), in: .root).id
        _ = try catalog.create(file, named: name("file"), in: here)
        var total = 0
        func cost(adding count: Int) throws -> Int {
            for _ in 0..<count {
                _ = try catalog.create(file, named: name("f\(total)"), in: many)
                total += 1
            }
            let before = try catalog.steps
            #expect(try catalog.pendingBelow(path("here")).items == 2)
            #expect(try catalog.pendingBelow(path("here/file")).items == 1)
            #expect(try catalog.pendingBelow(path("not/here")).items == 0)
            #expect(try catalog.expedite(path("here")) == 2)
            return try catalog.steps - before
        }
        let few = try cost(adding: 10)
        #expect(try cost(adding: 2000) <= few * 2)
    }

    @Test("holds a file back for a while after its last change, unless it is asked for")
    func dueTimes() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        _ = try c.create(file, named: name("a"), in: .root)
        let delay = Duration.seconds(60)
        func due() throws -> [String] {
            let before = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds - delay.nanoseconds)
            return try c.pending(dueBefore: before, limit: 10, busy: []).map(\.path.description)
        }
        #expect(try due() == [])
        let next = try #require(try c.nextDue(delay: delay))
        #expect(next.nanoseconds - temporary.clock.calendar.nanoseconds == delay.nanoseconds)
        temporary.clock.advance(by: .seconds(61))
        #expect(try due() == ["a"])
        let item = try #require(try c.pending(dueBefore: temporary.clock.calendar, limit: 1, busy: []).first)
        try c.failed(item.id, revision: item.revision, error: "no rights", retryAt: nil)
        #expect(try due() == [])
        #expect(try c.allPending(after: nil, limit: 10).map(\.lastError) == ["no rights"])
        #expect(try c.pendingTotals().parked == 1)
        #expect(try c.expedite(path("a")) == 1)
        #expect(try due() == ["a"])
    }

    @Test("a listing is believed although a clock that was turned back says that the one before is of the future")
    func listingAfterTurnedClock() throws {
        let temporary = try TemporaryCatalog([.consistentListing])
        let c = temporary.catalog
        func list(_ versions: [String: String]) throws {
            let plan = try #require(try c.beginListing(of: .root))
            _ = try c.merge(
                versions.map { key, version in
                    ListEntry(
                        name: name(key),
                        metadata: Metadata(
                            kind: .file, size: 1, modified: Timestamp(nanoseconds: 0), version: Version(version)))
                }, into: plan)
            _ = try c.endListing(plan)
        }
        /// Puts a file there, as a worker does.
        func upload(_ key: String) throws {
            _ = try c.create(file, named: name(key), in: .root)
            let item = try #require(try c.newestPending())
            guard case .upload(let plan) = try c.plan(item) else {
                Issue.record("no upload was planned")
                return
            }
            try c.uploaded(
                plan,
                as: Metadata(kind: .file, size: 0, modified: Timestamp(nanoseconds: 0), version: Version("ours")))
        }
        try upload("ours")
        try upload("taken away")
        try list(["a": "1", "b": "1", "ours": "ours", "taken away": "ours"])
        let before = try #require(try c.inode(at: path("a"))).id
        let ours = try #require(try c.inode(at: path("ours"))).id
        temporary.clock.advance(by: .seconds(-86_400))
        try list(["a": "2", "ours": "theirs", "new": "1"])
        #expect(
            try Set(c.entries(of: .root, after: 0, limit: 10).map { String(describing: $0.name) })
                == ["a", "ours", "new"])
        #expect(try c.inode(at: path("a"))?.id != before)
        #expect(try c.inode(at: path("ours"))?.id != ours)
        #expect(try c.listed(of: .root) == temporary.clock.calendar)
        // And turned forward again.
        temporary.clock.advance(by: .seconds(86_400))
        try list(["a": "2", "ours": "theirs"])
        #expect(try c.inode(at: path("new")) == nil && c.inode(at: path("ours")) != nil)
    }

    @Test("a file has 65,000 names at most")
    func mostNames() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        let f = try c.create(file, named: name("f"), in: .root).id
        // The links before are as good as made.
        try c.write { tables throws(CatalogError) in
            try tables.database.run("UPDATE inode SET links = 64999 WHERE id = ?", .int(f.row))
        }
        #expect(try c.link(f, named: name("last"), in: .root).links == 65_000)
        #expect(
            code { () throws(CatalogError) in _ = try c.link(f, named: name("one more"), in: .root) } == .tooManyLinks)
        _ = try c.remove(name("last"), from: .root, isDirectory: false)
        #expect(try c.link(f, named: name("again"), in: .root).links == 65_000)
    }

    @Test("what waits for its time does not wait until a clock that was turned back has come there again")
    func turnedClock() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        let delay = Duration.seconds(60)
        func due() throws -> [PendingItem] {
            let before = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds - delay.nanoseconds)
            return try c.pending(dueBefore: before, limit: 10, busy: [])
        }
        func isSoon() throws -> Bool {
            let next = try c.nextDue(delay: delay)
            return next.map { $0.nanoseconds - temporary.clock.calendar.nanoseconds <= delay.nanoseconds } ?? true
        }
        _ = try c.create(file, named: name("a"), in: .root)
        #expect(try due().isEmpty)
        temporary.clock.advance(by: .seconds(-7200))
        #expect(try due().map(\.path) == [path("a")])
        // One that is changed after that has its delay as always.
        _ = try c.create(file, named: name("b"), in: .root)
        #expect(try due().map(\.path) == [path("a")])
        #expect(try isSoon())
        temporary.clock.advance(by: .seconds(61))
        let items = try due()
        #expect(items.map(\.path) == [path("b"), path("a")])
        // The same for the next attempt after a failure.
        for item in items {
            let retry = Timestamp(nanoseconds: temporary.clock.calendar.nanoseconds + Duration.seconds(300).nanoseconds)
            try c.failed(item.id, revision: item.revision, error: "no answer", retryAt: retry)
        }
        #expect(try due().isEmpty)
        temporary.clock.advance(by: .seconds(-7200))
        #expect(try due().count == 2)
    }
}

extension InodeRecord {
    fileprivate func with(changed: Timestamp) -> InodeRecord {
        var copy = self
        copy.changed = changed
        return copy
    }
}
