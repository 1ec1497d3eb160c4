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
}
