import SQLite
import StoreAPI

/// What was found wrong in a catalog, and put right.
package struct MendedCatalog: Sendable {
    /// One sentence each.
    package var faults: [String] = []
    /// Files whose cache files hold bytes that may be nowhere else, but of which the catalog does not know any more
    /// where they belong or which ranges are valid. It has nothing of them now: their cache files are to be kept.
    package var strays: [InodeID] = []
}

extension Catalog {
    /// Finds what contradicts itself in the catalog and puts it right so that no bytes are lost: in doubt a file is
    /// uploaded once more, and a directory of the store listed anew.
    package func mend() throws(CatalogError) -> MendedCatalog {
        try write { tables throws(CatalogError) in
            // Those who crashed left them; nobody has them open.
            try Mending(tables).mend(isComplete: true)
        }
    }

    /// What SQLite itself finds wrong, at most a few lines; empty: nothing. Reads everything.
    package func structuralFaults() throws(CatalogError) -> [String] {
        try read { tables throws(CatalogError) in
            try tables.database.all("PRAGMA integrity_check(10)") { $0.text(0) ?? "" }.filter { $0 != "ok" }
        }
    }

    /// Files whose newest bytes are only in the cache.
    package func dirtyContents() throws(CatalogError) -> [ContentRecord] {
        try read { tables throws(CatalogError) in
            let inodes = try tables.database.all("SELECT inode FROM content WHERE dirty = 1") {
                InodeID(UInt64($0.int(0)))
            }
            return try inodes.map { inode throws(CatalogError) in try tables.contentRecord(inode) }.compactMap { $0 }
        }
    }

    /// All bytes of a file are in its cache file, as long as that is, and newer than any on the store.
    package func adoptCacheFile(of inode: InodeID) throws(CatalogError) {
        try write { tables throws(CatalogError) in try tables.claimWhole(inode) }
    }

    /// What was written to a file after its record was made counts: as after a crash in the middle of a change.
    package func distrustRecord(of inode: InodeID) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            try tables.makeDirty(inode, isChanging: true)
            try tables.markNames(of: inode)
        }
    }
}

extension Tables {
    /// What is longer than the record counts too: see ``ContentRecord/isChanging``.
    fileprivate func claimWhole(_ inode: InodeID) throws(CatalogError) {
        let size = try existing(inode).size
        var present = RangeSet()
        present.insert(0..<max(0, size))
        try database.run(
            """
            INSERT OR REPLACE INTO content(inode, dirty, changing, present, cached_bytes, used_ns, epoch)
            VALUES (?1, 1, 1, ?2, ?3, ?4, ?5)
            """, .int(inode.row), .blob(present.encoded), .int(present.count), .int(now), .int(markedEpoch()))
        try markNames(of: inode, bytes: size)
    }
}

/// The rules that hold between the tables, and what is done where one is broken. Each is a query over the whole
/// table: this is for a catalog that nobody uses.
struct Mending {
    let tables: Tables
    private var database: Database { tables.database }

    init(_ tables: Tables) { self.tables = tables }

    /// - Parameter isComplete: false: rows are missing, and of nothing it is known whether the store has it.
    func mend(isComplete: Bool) throws(CatalogError) -> MendedCatalog {
        var mended = MendedCatalog()
        try mendRoots(&mended)
        try mendNames(&mended)
        try mendObjects(&mended)
        try mendPlaces(&mended)
        try reattach(&mended)
        try cutOff(&mended)
        try mendLinks(&mended)
        try mendContents(&mended)
        try mendForgottenObjects(&mended)
        try mendJournal(&mended, isComplete: isComplete)
        if !isComplete { try database.run("UPDATE inode SET listed_ns = NULL") }
        return mended
    }

    private func note(_ count: Int, _ one: String, _ many: String, _ mended: inout MendedCatalog) {
        guard count > 0 else { return }
        mended.faults.append(count == 1 ? "1 \(one)" : "\(count) \(many)")
    }

    /// Runs a statement that mends something, and notes how many rows it changed.
    private func fix(_ sql: StaticString, _ one: String, _ many: String, _ mended: inout MendedCatalog)
        throws(CatalogError)
    {
        try database.run(sql)
        note(database.changes, one, many, &mended)
    }

    private func mendRoots(_ mended: inout MendedCatalog) throws(CatalogError) {
        try fix(
            """
            INSERT OR IGNORE INTO object(id, parent, name, directory, inode, size_bytes, modified_ns, seen_ns)
            VALUES (1, 0, x'', 1, 2, 0, 0, 0)
            """, "root of the store was missing", "roots of the store were missing", &mended)
        if try !database.exists("SELECT 1 FROM inode WHERE id = 2") {
            try tables.makeRoot()
            note(1, "root directory was missing", "", &mended)
        }
        try fix(
            "UPDATE inode SET kind = 1, object = 1, links = max(links, 2) WHERE id = 2 AND (kind != 1 OR object IS NOT 1)",
            "root directory was no directory", "", &mended)
        try fix(
            "DELETE FROM inode WHERE kind NOT BETWEEN 0 AND 6 OR id < 2",
            "inode was of no known kind", "inodes were of no known kind", &mended)
    }

    private func mendNames(_ mended: inout MendedCatalog) throws(CatalogError) {
        try fix(
            """
            DELETE FROM entry WHERE typeof(name) != 'blob' OR length(name) NOT BETWEEN 1 AND 255
                OR instr(name, x'2f') > 0 OR instr(name, x'00') > 0 OR name IN (x'2e', x'2e2e')
            """, "entry had a name that no file can have", "entries had names that no file can have", &mended)
        try fix(
            """
            DELETE FROM object WHERE id != 1 AND (typeof(name) != 'blob' OR length(name) NOT BETWEEN 1 AND 255
                OR instr(name, x'2f') > 0 OR instr(name, x'00') > 0 OR name IN (x'2e', x'2e2e'))
            """, "object had a name that no file can have", "objects had names that no file can have", &mended)
        try unlist("SELECT parent FROM entry WHERE inode NOT IN (SELECT id FROM inode) OR inode = 2")
        try fix(
            "DELETE FROM entry WHERE inode NOT IN (SELECT id FROM inode) OR inode = 2",
            "entry had no inode", "entries had no inode", &mended)
        try fix(
            "DELETE FROM entry WHERE parent NOT IN (SELECT id FROM inode WHERE kind = 1)",
            "entry was in no directory", "entries were in no directory", &mended)
        try fix(
            """
            DELETE FROM entry WHERE inode IN (SELECT id FROM inode WHERE kind = 1)
                AND id NOT IN (SELECT min(id) FROM entry GROUP BY inode)
            """, "directory had two names", "directories had several names", &mended)
    }

    /// Has the directories that a query finds listed anew.
    private func unlist(_ sql: StaticString) throws(CatalogError) {
        for id in try database.all(sql, body: { $0.int(0) }) {
            try database.run("UPDATE inode SET listed_ns = NULL WHERE id = ?", .int(id))
        }
    }

    private func mendObjects(_ mended: inout MendedCatalog) throws(CatalogError) {
        try fix(
            """
            WITH RECURSIVE reached(id) AS (SELECT 1 UNION
                SELECT o.id FROM reached JOIN object o ON o.parent = reached.id)
            DELETE FROM object WHERE id NOT IN (SELECT id FROM reached)
            """, "object lay in no directory of the store", "objects lay in no directory of the store", &mended)
        try fix(
            "UPDATE object SET inode = NULL WHERE inode IS NOT NULL AND inode NOT IN (SELECT id FROM inode)",
            "object belonged to no inode", "objects belonged to no inode", &mended)
    }

    /// Inodes whose object is not known.
    private func mendPlaces(_ mended: inout MendedCatalog) throws(CatalogError) {
        let inodes = try database.all(
            "SELECT id, kind FROM inode WHERE object > 0 AND object NOT IN (SELECT id FROM object)"
        ) { (id: InodeID(UInt64($0.int(0))), kind: $0.int(1)) }
        for (id, kind) in inodes {
            let isDirty = try tables.isDirty(id)
            if kind == Int64(FileKind.file.rawValue), !isDirty {
                // The store has it, and the next listing brings it back.
                for (parent, _) in try tables.names(of: id) {
                    try database.run("UPDATE inode SET listed_ns = NULL WHERE id = ?", .int(parent.row))
                }
                try database.run("DELETE FROM entry WHERE inode = ?", .int(id.row))
                try database.run("UPDATE inode SET object = -1 WHERE id = ?", .int(id.row))
            } else if kind == Int64(FileKind.file.rawValue) {
                let isWhole = try hasAllBytes(id)
                try database.run(
                    "UPDATE inode SET object = ?, source_version = NULL WHERE id = ?", isWhole ? .null : .int(-1),
                    .int(id.row))
                try tables.markNames(of: id)
            } else {
                try tables.setPlace(of: id, to: nil)
                try tables.markNames(of: id)
            }
        }
        note(
            inodes.count, "file lay at no known place of the store", "files lay at no known place of the store", &mended
        )
    }

    private func hasAllBytes(_ inode: InodeID) throws(CatalogError) -> Bool {
        guard let present = try? tables.isComplete(inode) else { return false }
        return present
    }

    /// What has lost its name gets the one back that it has on the store.
    private func reattach(_ mended: inout MendedCatalog) throws(CatalogError) {
        let nameless = try database.all(
            """
            SELECT id, kind, object FROM inode
            WHERE links > 0 AND id != 2 AND id NOT IN (SELECT inode FROM entry) ORDER BY kind != 1, id
            """
        ) { (id: InodeID(UInt64($0.int(0))), isDirectory: $0.int(1) == 1, object: $0.optionalInt(2) ?? -1) }
        for (id, isDirectory, object) in nameless {
            if object > 1, let place = try tables.object(object), let name = place.name,
                let directory = try tables.directory(at: place.parent), directory != id,
                try tables.entry(name, in: directory) == nil
            {
                try tables.insertEntry(name, in: directory, for: id)
            } else if isDirectory, object < 1, try tables.hasEntries(id), let name = FileName("recovered-\(id)") {
                guard try tables.entry(name, in: .root) == nil else { continue }
                try tables.insertEntry(name, in: .root, for: id)
                try tables.mark(name, in: .root)
            }
        }
        note(nameless.count, "inode had no name", "inodes had no name", &mended)
    }

    /// What cannot be reached from the root.
    private func cutOff(_ mended: inout MendedCatalog) throws(CatalogError) {
        try fix(
            """
            WITH RECURSIVE reached(id) AS (SELECT 2 UNION
                SELECT e.inode FROM reached JOIN entry e ON e.parent = reached.id)
            DELETE FROM entry WHERE parent NOT IN (SELECT id FROM reached)
            """, "entry could not be reached from the root", "entries could not be reached from the root", &mended)
        try fix(
            """
            DELETE FROM inode WHERE kind = 1 AND links > 0 AND id != 2 AND id NOT IN (SELECT inode FROM entry)
            """, "directory could not be reached from the root", "directories could not be reached from the root",
            &mended)
    }

    private func mendLinks(_ mended: inout MendedCatalog) throws(CatalogError) {
        // Of those with bytes that are nowhere else, the bytes are kept.
        let strays = try database.all(
            """
            SELECT i.id FROM inode i JOIN content c ON c.inode = i.id
            WHERE links > 0 AND dirty = 1 AND i.id NOT IN (SELECT inode FROM entry)
            """
        ) { InodeID(UInt64($0.int(0))) }
        for id in strays { try tables.deleteInode(id) }
        mended.strays += strays
        try fix(
            """
            UPDATE inode SET links = (SELECT count(*) FROM entry e WHERE e.inode = inode.id)
            WHERE kind != 1 AND links != (SELECT count(*) FROM entry e WHERE e.inode = inode.id)
            """, "file had a wrong number of names", "files had a wrong number of names", &mended)
        try fix(
            """
            UPDATE inode SET links = 2
                + (SELECT count(*) FROM entry e JOIN inode c ON c.id = e.inode WHERE e.parent = inode.id AND c.kind = 1)
            WHERE kind = 1 AND links > 0 AND links != 2
                + (SELECT count(*) FROM entry e JOIN inode c ON c.id = e.inode WHERE e.parent = inode.id AND c.kind = 1)
            """, "directory had a wrong number of links", "directories had a wrong number of links", &mended)
        try fix(
            "DELETE FROM attribute WHERE inode NOT IN (SELECT id FROM inode)",
            "extended attribute belonged to no inode", "extended attributes belonged to no inode", &mended)
    }

    private func mendContents(_ mended: inout MendedCatalog) throws(CatalogError) {
        mended.strays += try database.all(
            "SELECT inode FROM content WHERE dirty = 1 AND inode NOT IN (SELECT id FROM inode)"
        ) { InodeID(UInt64($0.int(0))) }
        try fix(
            "DELETE FROM content WHERE inode NOT IN (SELECT id FROM inode WHERE kind = 0)",
            "cached content belonged to no file", "cached contents belonged to no file", &mended)
        var wrong: [(inode: InodeID, present: RangeSet?)] = []
        try database.each("SELECT inode, present, cached_bytes FROM content") { row in
            let ranges = RangeSet(encoded: row.blob(1) ?? [])
            if ranges?.count != row.int(2) { wrong.append((InodeID(UInt64(row.int(0))), ranges)) }
        }
        for (inode, present) in wrong {
            if let present {
                try database.run(
                    "UPDATE content SET cached_bytes = ? WHERE inode = ?", .int(present.count), .int(inode.row))
            } else if try tables.place(of: inode) == nil {
                try tables.claimWhole(inode)
            } else {
                if try tables.isDirty(inode) { mended.strays.append(inode) }
                try database.run("DELETE FROM content WHERE inode = ?", .int(inode.row))
            }
        }
        note(
            wrong.count, "map of a cached file did not make sense", "maps of cached files did not make sense", &mended)
        // Changed since the store got it, and clean: the note of the change is lost, and with it which ranges are here.
        let forgotten = try database.all(
            """
            SELECT i.id FROM inode i JOIN object o ON o.id = i.object AND o.inode = i.id
            LEFT JOIN content c ON c.inode = i.id
            WHERE i.kind = 0 AND links > 0 AND coalesce(dirty, 0) = 0 AND o.content_generation < i.content_generation
            """
        ) { InodeID(UInt64($0.int(0))) }
        for inode in forgotten {
            try database.run("DELETE FROM content WHERE inode = ?", .int(inode.row))
            try database.run(
                """
                UPDATE object SET content_generation = (SELECT content_generation FROM inode WHERE id = ?1)
                WHERE inode = ?1
                """, .int(inode.row))
        }
        mended.strays += forgotten
        note(
            forgotten.count, "file had changes of which nothing is noted",
            "files had changes of which nothing is noted",
            &mended)
        let lost = try database.all(
            """
            SELECT id FROM inode LEFT JOIN content ON content.inode = inode.id
            WHERE kind = 0 AND links > 0 AND object IS NULL AND coalesce(dirty, 0) = 0
            """
        ) { InodeID(UInt64($0.int(0))) }
        for inode in lost { try tables.claimWhole(inode) }
        note(
            lost.count, "file was neither on the store nor noted for it",
            "files were neither on the store nor noted for it", &mended)
    }

    /// Objects that stand for nothing here and are not to be deleted: the next listing shows what they are.
    private func mendForgottenObjects(_ mended: inout MendedCatalog) throws(CatalogError) {
        // Where files have left that lie elsewhere now: from there they are copied, and then it goes.
        let left = try database.all(
            """
            WITH RECURSIVE going(id) AS (SELECT object FROM pending WHERE object IS NOT NULL UNION
                SELECT o.id FROM going JOIN object o ON o.parent = going.id)
            SELECT o.id FROM object o
            WHERE o.id != 1 AND o.directory = 0 AND o.id NOT IN (SELECT id FROM going)
                AND EXISTS (SELECT 1 FROM inode i WHERE i.object = o.id AND i.links > 0)
                AND NOT EXISTS (SELECT 1 FROM inode d JOIN entry e ON e.parent = d.id AND e.name = o.name
                    WHERE d.object = o.parent AND d.kind = 1)
            """
        ) { $0.int(0) }
        for id in left { try tables.markDeletion(of: id) }
        note(
            left.count, "object was left and not noted for deletion", "objects were left and not noted for deletion",
            &mended)
        let forgotten = try database.all(
            """
            WITH RECURSIVE going(id) AS (SELECT object FROM pending WHERE object IS NOT NULL UNION
                SELECT o.id FROM going JOIN object o ON o.parent = going.id)
            SELECT o.id, o.parent FROM object o
            WHERE o.id != 1 AND o.id NOT IN (SELECT id FROM going)
                AND NOT EXISTS (SELECT 1 FROM inode i WHERE i.object = o.id)
                AND NOT EXISTS (SELECT 1 FROM inode d JOIN entry e ON e.parent = d.id AND e.name = o.name
                    WHERE d.object = o.parent AND d.kind = 1)
            """
        ) { (id: $0.int(0), parent: $0.int(1)) }
        for (id, parent) in forgotten {
            try database.run("UPDATE inode SET listed_ns = NULL WHERE object = ? AND kind = 1", .int(parent))
            try database.run("DELETE FROM object WHERE id = ?", .int(id))
        }
        note(forgotten.count, "object of the store had no entry", "objects of the store had no entry", &mended)
        if !forgotten.isEmpty {
            var below = MendedCatalog()
            try mendObjects(&below)
            try mendPlaces(&below)
        }
    }

    private func mendJournal(_ mended: inout MendedCatalog, isComplete: Bool) throws(CatalogError) {
        try fix(
            """
            DELETE FROM pending WHERE (parent IS NULL) = (object IS NULL)
                OR (object IS NOT NULL AND object NOT IN (SELECT id FROM object))
                OR (parent IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM entry e WHERE e.parent = pending.parent AND e.name = pending.name))
            """, "row of the journal pointed to nothing", "rows of the journal pointed to nothing", &mended)
        // Names that the store does not have, and changed bytes, are to be brought there.
        let unnoted = try database.all(
            """
            SELECT e.parent, e.name, CASE i.kind WHEN 0 THEN i.size_bytes ELSE 0 END
            FROM entry e JOIN inode d ON d.id = e.parent JOIN inode i ON i.id = e.inode
            LEFT JOIN object o ON o.parent = d.object AND o.name = e.name LEFT JOIN content c ON c.inode = i.id
            WHERE NOT EXISTS (SELECT 1 FROM pending p WHERE p.parent = e.parent AND p.name = e.name)
                AND (o.id IS NULL
                    OR (c.dirty = 1 AND NOT EXISTS (SELECT 1 FROM entry e2 JOIN pending p2
                        ON p2.parent = e2.parent AND p2.name = e2.name WHERE e2.inode = i.id)))
            """
        ) { row throws(CatalogError) in
            (parent: InodeID(UInt64(row.int(0))), name: try tables.fileName(row.blob(1)), bytes: row.int(2))
        }
        for row in unnoted { try tables.mark(row.name, in: row.parent, bytes: row.bytes) }
        note(
            unnoted.count, "change was not noted for the store", "changes were not noted for the store", &mended)
        if !isComplete { try noteDoubtful() }
        try fix(
            """
            UPDATE total SET
                (items, bytes, parked) = (SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(parked), 0) FROM pending),
                (cached_bytes, dirty_bytes, dirty_files) = (
                    SELECT coalesce(sum(cached_bytes), 0), coalesce(sum(dirty * cached_bytes), 0), coalesce(sum(dirty), 0)
                    FROM content)
            WHERE (items, bytes, parked) IS NOT (SELECT count(*), coalesce(sum(bytes), 0), coalesce(sum(parked), 0) FROM pending)
                OR (cached_bytes, dirty_bytes, dirty_files) IS NOT (
                    SELECT coalesce(sum(cached_bytes), 0), coalesce(sum(dirty * cached_bytes), 0), coalesce(sum(dirty), 0)
                    FROM content)
            """, "total was wrong", "totals were wrong", &mended)
    }

    /// Everything of which the store seems to have another state: rows of the journal may be missing.
    private func noteDoubtful() throws(CatalogError) {
        let doubtful = try database.all(
            """
            SELECT e.parent, e.name FROM entry e JOIN inode d ON d.id = e.parent JOIN inode i ON i.id = e.inode
            JOIN object o ON o.parent = d.object AND o.name = e.name
            WHERE o.attribute_generation != i.attribute_generation
                OR (i.kind != 1 AND (o.inode IS NOT i.id OR o.content_generation != i.content_generation))
            """
        ) { row throws(CatalogError) in (InodeID(UInt64(row.int(0))), try tables.fileName(row.blob(1))) }
        for (parent, name) in doubtful where try tables.pendingRow(name, in: parent) == nil {
            try tables.mark(name, in: parent)
        }
    }
}
