import SQLite
import StoreAPI
import Threading

/// The rows behind a ``Catalog``, and what several of its operations do with them. Used under the catalog's lock.
final class Tables {
    let database: Database
    let clock: any Clock
    let durabilityFlag: DurabilityFlag
    var capabilities = StoreCapabilities([])
    var defaults = AttributeDefaults()
    /// Rows of the journal that a worker is carrying out, and what this changes on the store. By place, since the row
    /// may go, and the name here change, while the worker works. Moves whose outcome is not known stay here without a
    /// worker, under numbers that no row has: see ``unsettled(_:)``.
    var underWay = WorkUnderWay()
    /// What takes back the changes of ``underWay`` since ``takingBack(_:)`` began, the last one last.
    var undo: [() -> Void] = []
    /// The rows that wait for the end of a row's step, and those that need not any more and have not been told yet.
    var refused: [Int64: Set<Int64>] = [:]
    var released: Set<Int64> = []
    /// When work of ours at a place ended, and on an object with all that is below it. What the store has said before
    /// may be from before the work. In memory: no listing outlasts the process.
    var ended: [Place: Moment] = [:]
    var subtreesEnded: [Int64: Moment] = [:]
    /// At how many of both what is too old to matter is taken out.
    var sweepAt = sweepInterval
    static let sweepInterval = 65_536
    /// Counts the work that has ended: tells in which order things were, whatever the clock does.
    var workCount: Int64 = 0
    /// Up to when (by that count) listings of a directory are from before somebody found them wrong.
    var distrusted: [InodeID: Int64] = [:]
    /// What a loss of power can have taken: see ``Epochs``.
    var epochs = Epochs()
    /// The one that is now, whether the catalog notes that contents carry it, and the run of the machine's kernel.
    var epoch: Int64 = 0
    var isEpochNoted = false
    var boot: String?
    /// Spans of inodes in which believed bytes were changed since the disk was flushed, and the transactions that have
    /// noted it; and how many such changes came before there were spans.
    var changedSpans: [Int64: Int] = [:]
    var lonelyChanges = 0
    /// Times and urgency of the row whose work brings about new rows; nil: a user's change does. See ``causing(_:_:)``.
    var cause: Cause?
    /// Where files and directories had their last name that others have taken away. In memory: nobody has them open in
    /// the next process.
    var displaced: [InodeID: (parent: InodeID, name: FileName)] = [:]
    /// Files that have become one with another one. In memory: nobody has them open in the next process.
    var joined: [InodeID: Joined] = [:]

    struct Joined {
        var gone: InodeID
        var kept: InodeID
        /// Of the entries that it has lost.
        var cookies: [Int64]
    }

    struct Cause {
        var since: Int64
        var changed: Int64
        var isExpedited: Bool
    }

    /// A name below an object.
    struct Place: Hashable {
        var parent: Int64
        var name: FileName

        init(parent: Int64, name: FileName) {
            self.parent = parent
            self.name = name
        }

        init(_ placement: Placement) { self.init(parent: placement.parentObject, name: placement.entryName) }
    }

    /// What a worker changes on the store.
    struct Work {
        /// These places change.
        var places: [Place] = []
        /// Directories that are still to be made, and that the store shows as soon as there is something in them.
        var implied: [Place] = []
        /// What the store makes a part of the new object of, by itself, lies there. Not every server reads what it has
        /// checked the version of: nobody may change it meanwhile.
        var sources: [Place] = []
        /// This object moves or goes, and with it the path of everything below.
        var subtree: Int64?
        /// Whose content is uploaded.
        var uploaded: InodeID?
        /// This object moves: should the outcome not be heard, it has to be found out.
        var moved: Int64?
        /// The count of ended work when it was planned.
        var begun: Int64
        /// Of the row when it was planned: the row may be gone before the work ends.
        var cause: Cause?
    }

    struct Moment {
        var count: Int64
        var time: Int64
    }

    init(_ database: Database, _ clock: any Clock, _ durabilityFlag: DurabilityFlag) {
        self.database = database
        self.clock = clock
        self.durabilityFlag = durabilityFlag
    }

    var now: Int64 { clock.calendar.nanoseconds }
    /// For the times that files show.
    var fileTime: Int64 { clock.fileTime.nanoseconds }

    func makeRoot() throws(CatalogError) {
        guard try !database.exists("SELECT 1 FROM inode WHERE id = 2") else { return }
        try database.run(
            """
            INSERT INTO inode(id, kind, links, size_bytes, device, accessed_ns, modified_ns, changed_ns, created_ns,
                known, object) VALUES (2, ?, 2, 0, 0, ?2, ?2, ?2, ?2, 1, 1)
            """, .int(Int64(FileKind.directory.rawValue)), .int(now))
    }

    /// A loss of power may have taken away inodes whose cache files are still there. A new inode must not find the bytes
    /// of another one: so numbers are never used again. What is lost at once fits into the log, with room to spare.
    func skipInodes() throws(CatalogError) {
        try database.run("UPDATE sqlite_sequence SET seq = seq + 1048576 WHERE name = 'inode'")
    }

    func loadCapabilities() throws(CatalogError) {
        let features = try database.first("SELECT value FROM note WHERE key = 'features'") { $0.text(0) } ?? nil
        if let number = features.flatMap({ UInt32($0) }) {
            capabilities = StoreCapabilities(.init(rawValue: number))
        }
    }

    // MARK: Inodes

    func record(_ row: borrowing Row) throws(CatalogError) -> InodeRecord {
        guard let kind = FileKind(rawValue: UInt8(truncatingIfNeeded: row.int(1))) else {
            throw CatalogError(.corrupt, "inode \(row.int(0)) has the unknown kind \(row.int(1))")
        }
        let isDirectory = kind == .directory
        return InodeRecord(
            id: InodeID(UInt64(row.int(0))), kind: kind,
            mode: row.optionalInt(2).map { UInt32($0) } ?? (isDirectory ? defaults.directoryMode : defaults.fileMode),
            uid: row.optionalInt(3).map { UInt32($0) } ?? defaults.uid,
            gid: row.optionalInt(4).map { UInt32($0) } ?? defaults.gid, links: UInt32(row.int(5)), size: row.int(6),
            device: UInt64(bitPattern: row.int(7)), accessed: Timestamp(nanoseconds: row.int(8)),
            modified: Timestamp(nanoseconds: row.int(9)), changed: Timestamp(nanoseconds: row.int(10)),
            created: Timestamp(nanoseconds: row.int(11)), target: row.blob(12), attributesAreKnown: row.bool(13))
    }

    func inode(_ id: InodeID) throws(CatalogError) -> InodeRecord? {
        try database.first(
            """
            SELECT id, kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns, changed_ns, created_ns,
                target, known FROM inode WHERE id = ?
            """, .int(id.row)
        ) { row throws(CatalogError) in try record(row) }
    }

    func existing(_ id: InodeID) throws(CatalogError) -> InodeRecord {
        guard let record = try inode(id) else { throw CatalogError(.notFound, "there is no inode \(id)") }
        return record
    }

    func existingDirectory(_ id: InodeID) throws(CatalogError) -> InodeRecord {
        let record = try existing(id)
        guard record.kind == .directory else { throw CatalogError(.notADirectory, "inode \(id) is no directory") }
        // A directory that was removed while somebody stands in it takes nothing new.
        guard record.links > 0 else { throw CatalogError(.notFound, "the directory \(id) was removed") }
        return record
    }

    func entry(_ name: FileName, in parent: InodeID) throws(CatalogError) -> InodeRecord? {
        try database.first(
            """
            SELECT i.id, kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns, changed_ns,
                created_ns, target, known FROM entry JOIN inode i ON i.id = entry.inode WHERE parent = ? AND name = ?
            """, .int(parent.row), .blob(name.bytes)
        ) { row throws(CatalogError) in try record(row) }
    }

    func insertInode(_ record: InodeRecord, isTold: (mode: Bool, uid: Bool, gid: Bool)) throws(CatalogError) -> InodeID
    {
        try database.run(
            """
            INSERT INTO inode(kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns, changed_ns,
                created_ns, target, known) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """, .int(Int64(record.kind.rawValue)), isTold.mode ? .int(Int64(record.mode)) : .null,
            isTold.uid ? .int(Int64(record.uid)) : .null, isTold.gid ? .int(Int64(record.gid)) : .null,
            .int(Int64(record.links)), .int(record.size), .int(Int64(bitPattern: record.device)),
            .int(record.accessed.nanoseconds), .int(record.modified.nanoseconds), .int(record.changed.nanoseconds),
            .int(record.created.nanoseconds), SQLValue(record.target), SQLValue(record.attributesAreKnown))
        return InodeID(UInt64(database.lastInsertedRow))
    }

    func insertEntry(_ name: FileName, in parent: InodeID, for inode: InodeID) throws(CatalogError) {
        try database.run(
            "INSERT INTO entry(parent, name, inode) VALUES (?, ?, ?)", .int(parent.row), .blob(name.bytes),
            .int(inode.row))
    }

    /// A name was added to or taken from `directory`; `subdirectories` is how many of them were directories.
    ///
    /// Where directories are real, what a worker is just giving to the directory is older than its new times.
    func directoryChanged(_ directory: InodeID, subdirectories: Int64 = 0) throws(CatalogError) {
        try database.run(
            """
            UPDATE inode SET modified_ns = ?1, changed_ns = ?1, links = links + ?2,
                attribute_generation = attribute_generation + (?4 AND known) WHERE id = ?3
            """, .int(fileTime), .int(subdirectories), .int(directory.row), SQLValue(keepsTimesOfDirectories))
    }

    func addLinks(_ change: Int64, to inode: InodeID) throws(CatalogError) {
        try database.run(
            "UPDATE inode SET links = max(0, links + ?), changed_ns = ? WHERE id = ?", .int(change), .int(fileTime),
            .int(inode.row))
    }

    /// Takes a name away from what it means. An inode without links stays, for those who have it open.
    func removeEntry(_ name: FileName, from parent: InodeID, of inode: InodeRecord) throws(CatalogError) {
        try database.run(
            "DELETE FROM entry WHERE parent = ? AND name = ?", .int(parent.row), .blob(name.bytes))
        let isDirectory = inode.kind == .directory
        try addLinks(isDirectory ? -Int64(inode.links) : -1, to: inode.id)
        try directoryChanged(parent, subdirectories: isDirectory ? -1 : 0)
        try database.run("DELETE FROM pending WHERE parent = ? AND name = ?", .int(parent.row), .blob(name.bytes))
    }

    /// Forgets an inode that has no links, and its content.
    func deleteInode(_ id: InodeID) throws(CatalogError) {
        joined[id] = nil
        displaced[id] = nil
        try deleteContent(id)
        try database.run("DELETE FROM attribute WHERE inode = ?", .int(id.row))
        try database.run("UPDATE object SET inode = NULL WHERE inode = ?", .int(id.row))
        try database.run("DELETE FROM inode WHERE id = ?", .int(id.row))
    }

    func hasEntries(_ directory: InodeID) throws(CatalogError) -> Bool {
        try database.exists("SELECT 1 FROM entry WHERE parent = ? LIMIT 1", .int(directory.row))
    }

    func parent(of inode: InodeID) throws(CatalogError) -> (parent: InodeID, name: FileName)? {
        try database.first("SELECT parent, name FROM entry WHERE inode = ? LIMIT 1", .int(inode.row)) {
            row throws(CatalogError) in (InodeID(UInt64(row.int(0))), try fileName(row.blob(1)))
        }
    }

    func names(of inode: InodeID) throws(CatalogError) -> [(parent: InodeID, name: FileName)] {
        try database.all("SELECT parent, name FROM entry WHERE inode = ?", .int(inode.row)) {
            row throws(CatalogError) in (InodeID(UInt64(row.int(0))), try fileName(row.blob(1)))
        }
    }

    func fileName(_ bytes: [UInt8]?) throws(CatalogError) -> FileName {
        guard let bytes, let name = FileName(bytes) else {
            throw CatalogError(.corrupt, "the catalog holds an illegal name")
        }
        return name
    }

    /// The path of a directory or of one of a file's names; nil when it is not linked to the root.
    func path(of inode: InodeID) throws(CatalogError) -> StorePath? {
        var names: [FileName] = []
        var position = inode
        while position != .root {
            guard let step = try parent(of: position), names.count < 4096 else { return nil }
            names.append(step.name)
            position = step.parent
        }
        return names.reversed().reduce(StorePath.root) { $0.appending($1) }
    }

    // MARK: Content

    func deleteContent(_ id: InodeID) throws(CatalogError) {
        try database.run("DELETE FROM content WHERE inode = ?", .int(id.row))
    }

    func isDirty(_ id: InodeID) throws(CatalogError) -> Bool {
        try database.exists("SELECT 1 FROM content WHERE inode = ? AND dirty = 1", .int(id.row))
    }

    /// Whether all bytes of the file are in the cache.
    func isComplete(_ id: InodeID) throws(CatalogError) -> Bool {
        try database.first(
            """
            SELECT coalesce(source_size_bytes, 0), size_bytes, present, object, dirty, epoch FROM inode
            LEFT JOIN content ON content.inode = inode.id WHERE id = ?
            """, .int(id.row)
        ) { row throws(CatalogError) -> Bool in
            if row.isNull(3) { return true }
            let needed = min(row.int(0), row.int(1))
            guard needed > 0 else { return true }
            let trust = trust(in: row.optionalInt(5), isDirty: row.bool(4))
            guard let bytes = row.blob(2), trust != .lost else { return false }
            return try presentRanges(bytes).contains(0..<needed)
        } ?? true
    }

    func presentRanges(_ bytes: [UInt8]) throws(CatalogError) -> RangeSet {
        guard let ranges = RangeSet(encoded: bytes) else {
            throw CatalogError(.corrupt, "the catalog's map of a cached file makes no sense")
        }
        return ranges
    }

    // MARK: Journal

    /// Notes that the store does not have the current state of a name.
    func mark(_ name: FileName, in parent: InodeID, bytes: Int64 = 0) throws(CatalogError) {
        try database.run(
            """
            INSERT INTO pending(parent, name, bytes, since_ns, changed_ns, expedited) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT(parent, name) WHERE parent IS NOT NULL DO UPDATE SET revision = revision + 1,
                since_ns = min(since_ns, ?4), changed_ns = CASE WHEN ?7 THEN changed_ns ELSE ?5 END,
                expedited = max(expedited, ?6), bytes = CASE WHEN ?3 > 0 THEN ?3 ELSE bytes END, attempts = 0,
                retry_ns = NULL, parked = 0
            """, .int(parent.row), .blob(name.bytes), .int(bytes), .int(cause?.since ?? now),
            .int(cause?.changed ?? now), SQLValue(cause?.isExpedited ?? false), SQLValue(cause != nil))
    }

    /// Notes that the store does not have the current state of any name of the inode.
    func markNames(of inode: InodeID, bytes: Int64 = 0) throws(CatalogError) {
        for (parent, name) in try names(of: inode) { try mark(name, in: parent, bytes: bytes) }
    }

    /// Notes that an object is to be deleted from the store.
    func markDeletion(of object: Int64) throws(CatalogError) {
        try database.run(
            """
            INSERT INTO pending(object, since_ns, changed_ns, expedited) VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT(object) WHERE object IS NOT NULL DO UPDATE SET revision = revision + 1,
                since_ns = min(since_ns, ?2), expedited = max(expedited, ?4), attempts = 0, retry_ns = NULL, parked = 0
            """, .int(object), .int(cause?.since ?? now), .int(cause?.changed ?? now),
            SQLValue(cause?.isExpedited ?? false))
    }

    /// Runs `body`; rows of the journal that it adds are as old and as urgent as the row that brings them about:
    /// whoever waits for that one waits for them too.
    func causing<Result>(_ row: Int64, _ body: () throws(CatalogError) -> Result) throws(CatalogError) -> Result {
        cause = try cause(row)
        defer { cause = nil }
        return try body()
    }

    func cause(_ row: Int64) throws(CatalogError) -> Cause? {
        let kept = try database.first("SELECT since_ns, changed_ns, expedited FROM pending WHERE id = ?", .int(row)) {
            Cause(since: $0.int(0), changed: $0.int(1), isExpedited: $0.bool(2))
        }
        return kept ?? underWay[row]?.cause
    }

    /// Whether the store has directories with times of their own, which can be set.
    private var keepsTimesOfDirectories: Bool { capabilities.contains([.realDirectories, .attributes]) }

    /// Something was put into or taken from the directory at `object`: where directories are real that changed the
    /// times of the directory on the store, which are to be set again.
    func childrenChanged(below object: Int64) throws(CatalogError) {
        guard object != 1, keepsTimesOfDirectories else { return }
        // A value that it has not had: see `attributesWereSet`.
        try database.run(
            "UPDATE object SET attribute_generation = min(attribute_generation, 0) - 1 WHERE id = ?", .int(object))
        // Of those that share it, one leaves, and the other one keeps it.
        for directory in try directories(at: object) { try markIfDone(directory) }
    }

    /// What was done to a name was taken back, so that nothing came or went on the store: the directory has other times
    /// here all the same.
    func nothingChanged(in directory: InodeID, at object: Int64) throws(CatalogError) {
        guard object != 1, keepsTimesOfDirectories, let known = try self.object(object)?.attributeGeneration,
            known != (try generations(of: directory).attributes)
        else { return }
        try markIfDone(directory)
    }

    private func markIfDone(_ directory: InodeID) throws(CatalogError) {
        guard let place = try parent(of: directory), try pendingRow(place.name, in: place.parent) == nil else { return }
        try mark(place.name, in: place.parent)
    }

    func unmarkDeletion(of object: Int64) throws(CatalogError) {
        try database.run("DELETE FROM pending WHERE object = ?", .int(object))
    }

    func pendingRow(_ name: FileName, in parent: InodeID) throws(CatalogError) -> Int64? {
        try database.first(
            "SELECT id FROM pending WHERE parent = ? AND name = ?", .int(parent.row), .blob(name.bytes)
        ) { $0.int(0) }
    }

    // MARK: Objects

    func objectRow(_ row: borrowing Row) throws(CatalogError) -> ObjectRow {
        ObjectRow(
            id: row.int(0), parent: row.int(1), name: row.int(0) == 1 ? nil : try fileName(row.blob(2)),
            isDirectory: row.bool(3), inode: row.optionalInt(4).map { InodeID(UInt64($0)) },
            version: row.text(5).map { Version($0) }, size: row.int(6), modified: row.int(7),
            contentGeneration: row.int(8), attributeGeneration: row.int(9), foreign: row.int(10), seen: row.int(11),
            written: row.int(12))
    }

    func object(_ id: Int64) throws(CatalogError) -> ObjectRow? {
        try database.first(
            """
            SELECT id, parent, name, directory, inode, version, size_bytes, modified_ns, content_generation,
                attribute_generation, foreign_version, seen_ns, written_ns FROM object WHERE id = ?
            """, .int(id)
        ) { row throws(CatalogError) in try objectRow(row) }
    }

    func object(_ name: FileName, below parent: Int64) throws(CatalogError) -> ObjectRow? {
        try database.first(
            """
            SELECT id, parent, name, directory, inode, version, size_bytes, modified_ns, content_generation,
                attribute_generation, foreign_version, seen_ns, written_ns FROM object WHERE parent = ? AND name = ?
            """, .int(parent), .blob(name.bytes)
        ) { row throws(CatalogError) in try objectRow(row) }
    }

    /// Where an object lies on the store.
    func path(ofObject id: Int64) throws(CatalogError) -> StorePath {
        var names: [FileName] = []
        var position = id
        while position != 1 {
            guard let object = try object(position), let name = object.name, names.count < 4096 else {
                throw CatalogError(.corrupt, "object \(position) of the catalog hangs in the air")
            }
            names.append(name)
            position = object.parent
        }
        return names.reversed().reduce(StorePath.root) { $0.appending($1) }
    }

    /// In place of an object: there was one, and it is gone from the store.
    static let goneObject: Int64 = -1

    /// The object of an inode: of a directory where its entries lie, of a file where its bytes are.
    func place(of inode: InodeID) throws(CatalogError) -> Int64? {
        try database.first("SELECT object FROM inode WHERE id = ?", .int(inode.row)) { $0.optionalInt(0) } ?? nil
    }

    func setPlace(of inode: InodeID, to object: Int64?) throws(CatalogError) {
        try database.run("UPDATE inode SET object = ? WHERE id = ?", SQLValue(object), .int(inode.row))
    }

    /// The version of its object that has a file's bytes.
    func sourceVersion(of inode: InodeID) throws(CatalogError) -> Version? {
        try database.first("SELECT source_version FROM inode WHERE id = ?", .int(inode.row)) {
            $0.text(0).map { Version($0) }
        } ?? nil
    }

    /// Makes the object the place of a file's bytes.
    func setSource(of inode: InodeID, object: Int64, version: Version?, size: Int64) throws(CatalogError) {
        try database.run(
            "UPDATE inode SET object = ?, source_version = ?, source_size_bytes = ? WHERE id = ?", .int(object),
            SQLValue(version?.text), .int(size), .int(inode.row))
    }

    private func isName(_ name: FileName, below object: Int64, of inode: InodeID) throws(CatalogError) -> Bool {
        for directory in try directories(at: object) where try entry(name, in: directory)?.id == inode { return true }
        return false
    }

    /// A file with several names has an object for each: another one with the same bytes becomes its source.
    ///
    /// - Returns: whether there is one.
    func takeOtherSource(_ inode: InodeID, than object: Int64) throws(CatalogError) -> Bool {
        let others = try database.all(
            """
            SELECT o.id, o.version, o.size_bytes, o.parent, o.name FROM object o JOIN inode i ON i.id = o.inode
            WHERE o.inode = ? AND o.id != ? AND o.content_generation = i.content_generation AND foreign_version = 0
                AND NOT EXISTS (SELECT 1 FROM pending p WHERE p.object = o.id)
            """, .int(inode.row), .int(object)
        ) { row throws(CatalogError) in
            (
                id: row.int(0), version: row.text(1).map { Version($0) }, size: row.int(2), parent: row.int(3),
                name: try fileName(row.blob(4))
            )
        }
        for other in others {
            // One that lies where the file has no name (any more) may be about to be replaced.
            guard try worker(at: Place(parent: other.parent, name: other.name)) == nil,
                try isName(other.name, below: other.parent, of: inode)
            else { continue }
            try setSource(of: inode, object: other.id, version: other.version, size: other.size)
            return true
        }
        return false
    }

    /// The object has the bytes of these files no more, but for those of `keeper`. Files whose bytes only it had keep
    /// that fact, so that their reads fail instead of giving zeros.
    func loseSource(_ object: Int64, but keeper: InodeID? = nil) throws(CatalogError) {
        let users = try database.all(
            "SELECT id FROM inode WHERE object = ? AND kind != ?", .int(object),
            .int(Int64(FileKind.directory.rawValue))
        ) { InodeID(UInt64($0.int(0))) }
        for user in users where user != keeper {
            if try takeOtherSource(user, than: object) { continue }
            try database.run(
                "UPDATE inode SET object = ? WHERE id = ?", .int(Self.goneObject), .int(user.row))
        }
    }

    /// The object is not on the store any more.
    func deleteObject(_ id: Int64) throws(CatalogError) {
        try loseSource(id)
        try database.run("UPDATE inode SET object = NULL WHERE object = ?", .int(id))
        try database.run("DELETE FROM object WHERE id = ?", .int(id))
        try database.run("DELETE FROM sent WHERE parent = ?", .int(id))
        try unmarkDeletion(of: id)
        if underWay[Self.unsettled(id)] != nil { try forgetMove(of: id) }
    }

    func places(of object: Int64) throws(CatalogError) -> [Place] {
        guard let object = try self.object(object), let name = object.name else { return [] }
        return [Place(parent: object.parent, name: name)]
    }

    /// The directory whose entries lie below the object.
    func directory(at object: Int64) throws(CatalogError) -> InodeID? {
        try database.first(
            "SELECT id FROM inode WHERE object = ? AND kind = ? AND links > 0", .int(object),
            .int(Int64(FileKind.directory.rawValue))
        ) { InodeID(UInt64($0.int(0))) }
    }

    /// All of them: one that moves entry by entry shares the object with the one that has taken its place.
    func directories(at object: Int64) throws(CatalogError) -> [InodeID] {
        try database.all(
            "SELECT id FROM inode WHERE object = ? AND kind = ? AND links > 0", .int(object),
            .int(Int64(FileKind.directory.rawValue))
        ) { InodeID(UInt64($0.int(0))) }
    }

    func generations(of inode: InodeID) throws(CatalogError) -> (content: Int64, attributes: Int64) {
        try database.first("SELECT content_generation, attribute_generation FROM inode WHERE id = ?", .int(inode.row)) {
            ($0.int(0), $0.int(1))
        } ?? (0, 0)
    }
}

/// One thing that is known to lie on the store.
struct ObjectRow {
    var id: Int64
    var parent: Int64
    /// nil for the root.
    var name: FileName?
    var isDirectory: Bool
    var inode: InodeID?
    var version: Version?
    var size: Int64
    var modified: Int64
    var contentGeneration: Int64
    var attributeGeneration: Int64
    var foreign: Int64
    var seen: Int64
    var written: Int64

    /// Of a directory: it has its place, for what is put into it, and is itself still to be made.
    var isUnmade: Bool { isDirectory && seen == 0 && written == 0 }

    /// Of a file: it stands for what was sent to this place, and perhaps never came. It has to be looked for.
    var isUncertain: Bool { !isDirectory && seen == 0 && written == 0 }
}

extension InodeID {
    var row: Int64 { Int64(bitPattern: value) }
}
