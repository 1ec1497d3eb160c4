import StoreAPI
import Testing

@testable import Catalog

@Suite struct DurabilityTests {
    private func make(_ catalog: Catalog, _ kind: FileKind, _ text: String, in parent: InodeID = .root) throws
        -> InodeID
    {
        try catalog.create(NewInode(kind: kind, mode: 0o755, uid: 0, gid: 0), named: name(text), in: parent).id
    }

    private func set(_ catalog: Catalog, _ value: String, on inode: InodeID) throws {
        try catalog.setExtendedAttribute(Durability.attribute, to: Array(value.utf8), of: inode, .either)
    }

    @Test("the nearest directory that says anything counts, also after a rename and a restart")
    func nearest() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        let a = try make(c, .directory, "a")
        let b = try make(c, .directory, "b", in: a)
        let file = try make(c, .file, "f", in: b)
        let other = try make(c, .directory, "other")
        #expect(try c.durability(of: file) == nil)
        try set(c, "remote", on: a)
        #expect(try c.durability(of: file) == .remote)
        #expect(try c.durability(of: a) == .remote)
        #expect(try c.durability(of: other) == nil)
        try set(c, "writeback", on: b)
        #expect(try c.durability(of: file) == .writeback)
        try set(c, "what others have put there", on: b)
        #expect(try c.durability(of: file) == .remote)
        try set(c, "local", on: .root)
        #expect(try c.durability(of: other) == .local)
        _ = try c.rename(name("b"), in: a, to: name("b"), in: other, .replace)
        #expect(try c.durability(of: file) == .local)
        try temporary.reopen()
        #expect(try temporary.catalog.durability(of: a) == .remote)
        try temporary.catalog.removeExtendedAttribute(Durability.attribute, of: a)
        #expect(try temporary.catalog.durability(of: a) == .local)
    }

    @Test("of a file with several names the strictest counts; of one without any, none does")
    func names() throws {
        let temporary = try TemporaryCatalog()
        let c = temporary.catalog
        let a = try make(c, .directory, "a")
        let b = try make(c, .directory, "b")
        try set(c, "remote", on: a)
        try set(c, "writeback", on: b)
        let file = try make(c, .file, "f", in: b)
        #expect(try c.durability(of: file) == .writeback)
        _ = try c.link(file, named: name("g"), in: a)
        #expect(try c.durability(of: file) == .remote)
        _ = try c.remove(name("g"), from: a, isDirectory: false)
        _ = try c.remove(name("f"), from: b, isDirectory: false)
        #expect(try c.durability(of: file) == nil)
        #expect(try c.goal(of: file) == nil)
    }

    @Test("numbers of inodes are not used again, also not those that a loss of power has taken away")
    func numbers() throws {
        let temporary = try TemporaryCatalog()
        let before = try make(temporary.catalog, .file, "f")
        try temporary.reopen()
        let after = try make(temporary.catalog, .file, "g")
        #expect(after.value > before.value + 100_000)
    }
}
