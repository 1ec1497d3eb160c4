import Glibc
import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

/// Which cached bytes are believed after a loss of power: those of which it is certain that they had reached the disk.
/// What comes of it: `Tests/blackbox/test_power_loss.py`.
@Suite("Cached bytes that the store has")
struct TrustTests {
    private let temporary: TemporaryCatalog
    private var catalog: Catalog { temporary.catalog }

    init() throws { temporary = try TemporaryCatalog([.serverSideCopy]) }

    /// A file of 10 bytes that a program has written and closed.
    private func write(_ text: String, isFlushed: Bool = false) throws -> InodeID {
        let new = NewInode(kind: .file, mode: 0o600, uid: 1, gid: 2, isToBeWritten: true)
        let inode = try catalog.create(new, named: name(text), in: .root).id
        try change(inode, isFlushed: isFlushed)
        return inode
    }

    private func change(_ inode: InodeID, isFlushed: Bool = false) throws {
        _ = try catalog.beginChange(of: inode)
        try save(inode, isChanged: true, isFlushed: isFlushed)
    }

    private func save(_ inode: InodeID, isChanged: Bool, isFlushed: Bool) throws {
        let state = ContentState(
            inode: inode, size: 10, present: RangeSet(0..<10), modified: nil, isChanged: isChanged, isFlushed: isFlushed
        )
        _ = try catalog.save([state])
    }

    /// Everything that waits is on the store.
    private func upload() throws {
        for item in try catalog.pending(dueBefore: Timestamp(nanoseconds: .max), limit: 100, busy: []) {
            let metadata = Metadata(kind: .file, size: 10, modified: .now, version: Version("1"))
            switch try catalog.plan(item) {
            case .upload(let plan): try catalog.uploaded(plan, as: metadata)
            case .copy(let plan): try catalog.copied(plan, as: metadata)
            default: break
            }
        }
    }

    private func flushDisk() throws {
        if let epoch = try catalog.diskWillBeFlushed() { try catalog.diskWasFlushed(epoch) }
    }

    private func record(_ inode: InodeID) throws -> ContentRecord { try #require(try catalog.content(of: inode)) }

    private func expect(
        _ trust: CacheTrust, _ inode: InodeID, _ what: Comment? = nil, at location: SourceLocation = #_sourceLocation
    ) throws {
        let record = try record(inode)
        #expect(record.trust == trust, what, sourceLocation: location)
        #expect(record.present == (trust == .lost ? RangeSet() : RangeSet(0..<10)), what, sourceLocation: location)
        let isComplete = try catalog.read { tables throws(CatalogError) in try tables.isComplete(inode) }
        #expect(isComplete == (trust != .lost), what, sourceLocation: location)
    }

    @Test("are not believed after a loss of power when nobody has flushed them, and are after the end of the program")
    func unflushed() throws {
        let file = try write("f")
        try upload()
        try temporary.reopen()
        try expect(.unflushed, file)
        #expect(try !record(file).isDirty)
        try temporary.reopen(boot: "second")
        try expect(.lost, file)
        try temporary.reopen(boot: "second")
        try expect(.lost, file, "a program that ends does not bring them back")
        try temporary.reopen(boot: "third")
        try expect(.lost, file)
        try catalog.contentWasEvicted(file)
        try save(file, isChanged: false, isFlushed: true)
        try expect(.flushed, file, "they were fetched")
        try temporary.reopen(boot: "fourth")
        try expect(.flushed, file)
    }

    @Test("are believed when they were flushed before or after the upload, or were fetched")
    func flushed() throws {
        let before = try write("before", isFlushed: true)
        let after = try write("after")
        let again = try write("again", isFlushed: true)
        let fetched = try write("fetched")
        try change(again)
        try upload()
        try save(after, isChanged: false, isFlushed: true)
        try catalog.contentWasEvicted(fetched)
        try save(fetched, isChanged: false, isFlushed: false)
        try temporary.reopen(boot: "second")
        try expect(.flushed, before)
        try expect(.flushed, after)
        try expect(.lost, again, "it was changed after the flush")
        try expect(.flushed, fetched)
    }

    @Test("are believed when the whole disk was flushed after they were saved, and not when it was before or meanwhile")
    func wholeDisk() throws {
        let before = try write("before")
        let changed = try write("changed")
        try flushDisk()
        #expect(try catalog.diskWillBeFlushed() == nil, "there is nothing new")
        let flushed = try write("flushed")
        let epoch = try #require(try catalog.diskWillBeFlushed())
        let meanwhile = try write("meanwhile")
        try catalog.diskWasFlushed(epoch)
        let after = try write("after")
        try change(changed)
        try upload()
        try temporary.reopen(boot: "second")
        try expect(.flushed, before)
        try expect(.flushed, flushed)
        try expect(.lost, meanwhile)
        try expect(.lost, after)
        try expect(.lost, changed)
    }

    @Test("are believed after an orderly end, also when the power is lost later")
    func orderlyEnd() throws {
        let first = try write("first")
        try upload()
        try flushDisk()
        try temporary.reopen(boot: "second")
        try expect(.flushed, first)
        let second = try write("second")
        try upload()
        try temporary.reopen(boot: "third")
        let third = try write("third")
        try upload()
        try flushDisk()
        try temporary.reopen(boot: "fourth")
        try expect(.flushed, first)
        try expect(.lost, second)
        try expect(.flushed, third)
    }

    @Test("are not believed after a flush that failed")
    func failedFlush() throws {
        let file = try write("f")
        try upload()
        _ = try #require(try catalog.diskWillBeFlushed())
        _ = try #require(try catalog.diskWillBeFlushed(), "it is tried again")
        try temporary.reopen(boot: "second")
        try expect(.lost, file)
    }

    @Test("are believed only after an orderly end where nobody can tell whether the machine was started anew")
    func unknownBoot() throws {
        let temporary = try TemporaryCatalog(boot: nil)
        let tests = TrustTests(temporary)
        let orderly = try tests.write("orderly")
        try tests.upload()
        try tests.flushDisk()
        try temporary.reopen(boot: nil)
        try tests.expect(.flushed, orderly)
        let file = try tests.write("f")
        try tests.upload()
        try temporary.reopen(boot: nil)
        try tests.expect(.lost, file)
        try tests.expect(.flushed, orderly)
    }

    private init(_ temporary: TemporaryCatalog) { self.temporary = temporary }

    @Test("are believed when it was after the loss of power that they were sent to the store: that is what was read")
    func uploadedLater() throws {
        let dirty = try write("dirty")
        let clean = try write("clean")
        try upload()
        try change(dirty)
        try temporary.reopen(boot: "second")
        try expect(.flushed, dirty, "what is nowhere else is taken as it is")
        #expect(try record(dirty).isDirty)
        // A copy on the store is no reading of the cache file.
        _ = try catalog.link(clean, named: name("link"), in: .root)
        try upload()
        #expect(try !record(dirty).isDirty)
        try expect(.flushed, dirty)
        try expect(.lost, clean)
        try temporary.reopen(boot: "third")
        try expect(.flushed, dirty)
        try expect(.lost, clean)
    }

    @Test("of which a transaction failed that had noted them are not believed either")
    func failedTransaction() throws {
        #expect(throws: CatalogError.self) {
            try catalog.write { tables throws(CatalogError) in
                _ = try tables.markedEpoch()
                throw CatalogError(.noSpace, "for the test")
            }
        }
        let file = try write("f")
        try upload()
        try temporary.reopen(boot: "second")
        try expect(.lost, file)
    }

    @Test("are believed from an older format until the machine goes down, and then when they were flushed")
    func olderFormat() throws {
        let path = temporary.folder + "/catalog.sqlite"
        let files = [try write("f"), try write("g")]
        try upload()
        try flushDisk()
        try catalog.write { tables throws(CatalogError) in
            try tables.database.run("ALTER TABLE content DROP COLUMN epoch")
            try tables.database.run("DROP TABLE sent")
            try tables.database.run("DROP INDEX inode_by_identity")
            try tables.database.run("DROP INDEX object_with_identity")
            try tables.database.run("DROP INDEX object_of_directories")
            try tables.database.run("ALTER TABLE inode DROP COLUMN identity")
            try tables.database.run("ALTER TABLE inode DROP COLUMN identity_generation")
            try tables.database.run("ALTER TABLE object DROP COLUMN identity")
            try tables.database.run("DROP TABLE move")
            try tables.database.run("DELETE FROM note WHERE key = 'epochs'")
            try tables.database.run("UPDATE format SET version = 2")
        }
        try temporary.reopen()
        for file in files { try expect(.unflushed, file) }
        try save(files[0], isChanged: false, isFlushed: true)
        try temporary.reopen(boot: "second")
        try expect(.flushed, files[0])
        try expect(.lost, files[1])
        #expect(access(path, F_OK) == 0)
    }

    @Test("are judged in a rebuilt catalog as they were in the damaged one", arguments: [false, true])
    func rescue(losesNote: Bool) throws {
        let flushed = try write("flushed", isFlushed: true)
        let disk = try write("disk")
        try upload()
        try flushDisk()
        let file = try write("f")
        try upload()
        if losesNote {
            try catalog.write { tables throws(CatalogError) in
                try tables.database.run("DELETE FROM note WHERE key = 'epochs'")
            }
        }
        catalog.close()
        let new = try TemporaryCatalog(boot: "second")
        let work = temporary.folder + "/work"
        mkdir(work, 0o700)
        defer { rmdir(work) }
        let damaged = CatalogFiles(path: temporary.folder + "/catalog.sqlite")
        _ = try CatalogRescue(from: damaged, to: new.catalog, workFolder: work, firstNewInode: 5000) { _ in true }
        for round in 0..<2 {
            let tests = TrustTests(new)
            try tests.expect(.flushed, flushed)
            try tests.expect(losesNote ? .lost : .flushed, disk)
            try tests.expect(.lost, file)
            if round == 0 { try new.reopen(boot: "second") }
        }
    }

    @Test("are replaced when that is noted on the disk, once for files near each other when there are many")
    func changes() throws {
        var durable: Int { catalog.durableTransactions }
        let files = try (0..<40).map { try write("f\($0)", isFlushed: true) }
        let unflushed = try write("unflushed")
        try upload()
        try change(unflushed)
        #expect(durable == 0, "they are not believed anyway")
        for file in files.prefix(Tables.changesOneByOne + 1) {
            _ = try catalog.beginChange(of: file)
            #expect(durable == catalog.transactions)
            try save(file, isChanged: true, isFlushed: false)
        }
        let last = durable
        for file in files.dropFirst(Tables.changesOneByOne + 1) { try change(file) }
        #expect(durable == last)
        // Of a process that ends nobody knows what it has brought to the disk.
        try temporary.reopen()
        _ = try catalog.beginChange(of: files[39])
        #expect(durable == catalog.transactions)
        try flushDisk()
        let again = durable
        try change(files[0])
        #expect(durable > again)
    }

    @Test("are not believed where changes may have come to the disk of which the catalog knows nothing")
    func unknownChanges() throws {
        let near = try (0..<Tables.changesOneByOne + 5).map { try write("f\($0)", isFlushed: true) }
        try upload()
        for file in near.prefix(Tables.changesOneByOne) { try change(file) }
        // What is done from here on is lost; the bytes of it may not be.
        let lonely = try afterLossOfPower()
        let known = near[Tables.changesOneByOne]
        try lonely.expect(.flushed, known)
        #expect(try lonely.record(near[0]).isDirty)
        _ = try catalog.beginChange(of: known)
        let tests = try afterLossOfPower()
        #expect(try tests.record(known).isDirty)
        let unknown = near.suffix(2)
        for file in unknown { try tests.expect(.lost, file, "nobody knows whether it was changed") }
        try tests.temporary.reopen(boot: "third")
        for file in unknown { try tests.expect(.lost, file) }
        // After a flush of the disk the next loss of power takes nothing more.
        try tests.save(unknown.last!, isChanged: false, isFlushed: true)
        try tests.flushDisk()
        try tests.temporary.reopen(boot: "fourth")
        try tests.expect(.flushed, unknown.last!)
    }

    /// What the catalog is when the machine has lost its power now and runs again.
    private func afterLossOfPower() throws -> TrustTests {
        let copy = try TemporaryCatalog(boot: "second")
        copy.catalog.close()
        for suffix in ["", "-wal", "-open"] {
            try copyBytes(temporary.folder + "/catalog.sqlite" + suffix, copy.folder + "/catalog.sqlite" + suffix)
        }
        try copy.reopen(boot: "second")
        return TrustTests(copy)
    }

    @Test("are known by a note that can be read again, and by none that makes no sense")
    func note() {
        var epochs = Epochs()
        #expect(Epochs(epochs.text) == epochs)
        epochs.marked = 7
        epochs.open(in: "a")
        epochs.flushed = 9
        epochs.marked = 12
        epochs.open(in: "b")
        #expect(epochs.lost == [0...7, 10...12])
        #expect(Epochs(epochs.text) == epochs)
        for text in ["", "1", "1 2", "a 2 b", "1 2 b 3", "1 2 b 4-3", "1 2 b 3-", "1 2 b x-y"] {
            #expect(Epochs(text) == nil, "\(text)")
        }
    }
}
