import Glibc
import StoreAPI
import Testing
import Threading

@testable import Catalog
@testable import VFS

/// What operations cost: transactions of the catalog, which are the larger part of their time.
@Suite struct TransactionTests {
    /// How many transactions `body` makes.
    private func count(_ rig: Rig, _ body: () throws -> Void) rethrows -> Int {
        let before = rig.catalog.transactions
        try body()
        return rig.catalog.transactions - before
    }

    @Test("a new file is made, written and closed in two transactions")
    func newFile() throws {
        let rig = try Rig()
        _ = try rig.names()
        let transactions = try count(rig) {
            let (_, open) = try rig.create("f", flags: O_RDWR | O_TRUNC)
            try rig.write("some bytes", to: open.handle)
            try rig.write("and more", to: open.handle, at: 10)
            try rig.close(open.handle)
        }
        #expect(transactions == 2)
        #expect(try rig.text("data/f") == "some bytesand more")
        let content = try #require(try rig.catalog.content(of: rig.catalog.inode(at: StorePath("f")!)!.id))
        #expect(content.isDirty && !content.isChanging && content.size == 18)
    }

    @Test("a new file that nobody writes to keeps its times when it is closed")
    func emptyFile() throws {
        let rig = try Rig()
        _ = try rig.names()
        let (made, open) = try rig.create("f")
        rig.clock.advance(by: .seconds(7))
        try rig.close(open.handle)
        let entry = try rig.walk("data/f")
        #expect(entry.attributes.changed == made.attributes.changed)
        #expect(entry.attributes.modified == made.attributes.modified)
        let content = try #require(try rig.catalog.content(of: entry.attributes.id))
        #expect(content.isDirty && !content.isChanging)
    }

    @Test("a time that is set is saved in one transaction with what was written before, and stays")
    func settingTime() throws {
        let rig = try Rig()
        _ = try rig.names()
        let (entry, open) = try rig.create("f")
        try rig.write("bytes", to: open.handle)
        let time = Timestamp(seconds: 1_000_000)
        let transactions = try count(rig) { _ = try rig.change(entry.number) { $0.modified = .at(time) } }
        #expect(transactions == 1)
        #expect(try rig.attributes(entry.number).attributes.modified == time)
        try rig.close(open.handle)
        #expect(try rig.attributes(entry.number).attributes.modified == time)
        #expect(try rig.attributes(entry.number).attributes.size == 5)
    }
}
