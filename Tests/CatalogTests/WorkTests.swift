import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

@Suite("Work on the store")
struct WorkTests {
    private func pending(_ catalog: Catalog) throws -> [PendingItem] {
        _ = try catalog.expedite(nil)
        return try catalog.pending(dueBefore: Timestamp(nanoseconds: .max), limit: 100, busy: [])
    }

    private func make(_ kind: FileKind, _ text: String, in parent: InodeID, _ catalog: Catalog) throws -> InodeID {
        try catalog.create(NewInode(kind: kind, mode: 0o755, uid: 0, gid: 0), named: name(text), in: parent).id
    }

    /// What was sent and not heard of has to be looked for once its name is removed. That is found out when the work of
    /// the one who has sent it is over, and the directory may be on its way out by then.
    @Test("a directory that is being deleted goes only after what may still turn up in it")
    func deletionBesideAnEnd() throws {
        let temporary = try TemporaryCatalog([.attributes, .extendedAttributes, .conditionalCreate])
        let catalog = temporary.catalog
        let directory = try make(.directory, "p", in: .root, catalog)
        let file = try make(.file, "f", in: directory, catalog)
        _ = try catalog.save([
            ContentState(inode: file, size: 10, present: RangeSet(0..<10), modified: nil, isChanged: true)
        ])
        var sent: UploadPlan?
        for item in try pending(catalog) {
            switch try catalog.plan(item) {
            case .createDirectory(let plan): try catalog.directoryWasMade(plan)
            case .upload(let plan): sent = plan
            default: break
            }
        }
        let placement = try #require(sent).placement
        _ = try catalog.remove(name("f"), from: directory, isDirectory: false)
        _ = try catalog.remove(name("p"), from: .root, isDirectory: true)
        let deletion = try #require(try pending(catalog).first(where: \.isDeletion))
        guard case .busy = try catalog.plan(deletion) else { throw Unexpected.step }
        try catalog.write { tables throws(CatalogError) in tables.workEnded(placement.item.value) }
        guard case .delete(let plan) = try catalog.plan(deletion) else { throw Unexpected.step }
        try catalog.write { tables throws(CatalogError) in try tables.abandonSent(at: Tables.Place(placement)) }
        try catalog.deleted([plan])
        #expect(Set(try pending(catalog).map(\.path.description)) == ["p", "p/f"])

        // One of the same name has to be made on the store again.
        _ = try make(.directory, "p", in: .root, catalog)
        let row = try #require(try pending(catalog).first { !$0.isDeletion })
        guard case .createDirectory = try catalog.plan(row) else { throw Unexpected.step }
        _ = try catalog.stepEnded(row.id)
        _ = try catalog.remove(name("p"), from: .root, isDirectory: true)

        for _ in 0..<3 {
            for item in try pending(catalog) {
                if case .delete(let plan) = try catalog.plan(item) { try catalog.deleted([plan]) }
            }
        }
        #expect(try pending(catalog).isEmpty)
        let objects = try catalog.read { tables throws(CatalogError) in
            try tables.database.first("SELECT count(*) FROM object WHERE id != 1") { $0.int(0) }
        }
        #expect(objects == 0)
    }
}

private enum Unexpected: Error { case step }
