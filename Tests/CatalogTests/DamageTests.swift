import Glibc
import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

/// What is found out when a catalog is opened. What comes of it: `Tests/blackbox/test_damaged_cache.py`.
@Suite("A damaged catalog")
struct DamageTests {
    private let file = NewInode(kind: .file, mode: 0o600, uid: 1, gid: 2)

    private func expectCorrupt(_ temporary: TemporaryCatalog, _ word: String) {
        let error = #expect(throws: CatalogError.self) {
            _ = try Catalog(path: temporary.folder + "/catalog.sqlite", clock: temporary.clock)
        }
        #expect(error?.code == .corrupt && error?.message.contains(word) == true, "\(String(describing: error))")
    }

    @Test("is not taken for a whole one when its log was taken away after a crash")
    func missingLog() throws {
        let temporary = try TemporaryCatalog()
        let path = temporary.folder + "/catalog.sqlite"
        _ = try temporary.catalog.create(file, named: name("f"), in: .root)
        // As the files lie after a crash: copied while the catalog is in use.
        let copy = try TemporaryCatalog()
        copy.catalog.close()
        for suffix in ["", "-wal", "-open"] { try copyBytes(path + suffix, copy.folder + "/catalog.sqlite" + suffix) }
        unlink(copy.folder + "/catalog.sqlite-wal")
        expectCorrupt(copy, "older state")
        unlink(copy.folder + "/catalog.sqlite-open")
    }

    @Test("is not begun anew where only its log is left")
    func missingDatabase() throws {
        let temporary = try TemporaryCatalog()
        let copy = try TemporaryCatalog()
        copy.catalog.close()
        unlink(copy.folder + "/catalog.sqlite")
        try copyBytes(temporary.folder + "/catalog.sqlite-wal", copy.folder + "/catalog.sqlite-wal")
        expectCorrupt(copy, "only its log")
        var status = stat()
        #expect(stat(copy.folder + "/catalog.sqlite-wal", &status) == 0, "the log was thrown away")
    }

    @Test("is looked through at the next opening when it made no sense in use, and left alone when it does")
    func suspicion() throws {
        let temporary = try TemporaryCatalog()
        let mark = temporary.folder + "/catalog.sqlite-suspect"
        #expect(access(mark, F_OK) != 0)
        let told = Lock<CatalogError.Code?>(nil)
        temporary.catalog.onFault { error in told.withLock { $0 = error.code } }
        #expect(throws: CatalogError.self) {
            try temporary.catalog.read { tables throws(CatalogError) in
                try tables.database.run("SELECT nothing FROM nowhere")
            }
        }
        #expect(told.withLock { $0 } == .corrupt)
        #expect(access(mark, F_OK) == 0)
        try temporary.reopen()
        #expect(access(mark, F_OK) != 0)
    }

    @Test("gives its names, attributes and dirty ranges to a new one, as far as they can be read")
    func rescue() throws {
        let temporary = try TemporaryCatalog()
        let old = temporary.catalog
        let directory = try old.create(
            NewInode(kind: .directory, mode: 0o750, uid: 7, gid: 8), named: name("d"), in: .root)
        var files: [InodeID] = []
        for number in 0..<300 {
            let inode = try old.create(file, named: name("f\(number)"), in: directory.id)
            try old.setExtendedAttribute("user.n", to: [UInt8(number % 250)], of: inode.id, .either)
            _ = try old.save(
                [
                    ContentState(
                        inode: inode.id, size: 10, present: RangeSet(0..<10), modified: nil, isChanged: true)
                ])
            files.append(inode.id)
        }
        old.close()
        let path = temporary.folder + "/catalog.sqlite"
        // The whole first page, and a page in the middle.
        let descriptor = open(path, O_RDWR)
        let size = lseek(descriptor, 0, SEEK_END)
        let zeros = [UInt8](repeating: 0, count: Database.pageSize)
        for page in [0, Int(size) / Database.pageSize / 2] {
            #expect(pwrite(descriptor, zeros, zeros.count, off_t(page * zeros.count)) == zeros.count)
        }
        close(descriptor)
        let new = try TemporaryCatalog()
        let work = temporary.folder + "/work"
        mkdir(work, 0o700)
        defer { rmdir(work) }
        let rescue = try CatalogRescue(
            from: CatalogFiles(path: path), to: new.catalog, workFolder: work, firstNewInode: 5000
        ) { _ in true }
        let found = try files.filter { try new.catalog.inode($0) != nil }
        #expect(found.count > 200, "\(found.count) of 300 files")
        for inode in found {
            let record = try #require(try new.catalog.content(of: inode))
            #expect(record.isDirty && record.present == RangeSet(0..<10) && record.size == 10)
            #expect(try new.catalog.path(of: inode) != nil)
        }
        #expect(try new.catalog.mend().faults == [])
        #expect(try new.catalog.create(file, named: name("new"), in: .root).id.value > 5000)
        #expect(rescue.entries >= Int64(found.count))
    }
}
