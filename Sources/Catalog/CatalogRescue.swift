import Glibc
import SQLite

/// Takes what can be read of a damaged catalog over into a new one.
package struct CatalogRescue: Sendable {
    /// Names that were taken over.
    package private(set) var entries: Int64 = 0
    /// Whether all of the list of cached contents could be read: then what is not in it was not dirty.
    package private(set) var knowsAllContents = false
    /// Whose cache files are to be kept: see ``MendedCatalog/strays``.
    package private(set) var strays: [InodeID] = []
    /// Which store the damaged catalog was for; nil when that cannot be read.
    package private(set) var identity: String?

    /// - Parameters:
    ///   - damaged: The files of the old catalog; they are copied into `workFolder` and stay as they are.
    ///   - accepting: Whether anything may be taken from a catalog of this identity.
    ///   - firstNewInode: From where on inodes are numbered: above all those that cache files are named after.
    package init(
        from damaged: CatalogFiles, to new: Catalog, workFolder: String, firstNewInode: UInt64,
        accepting: (String?) -> Bool
    ) throws(CatalogError) {
        let copy = CatalogFiles(path: workFolder + "/copy.sqlite")
        defer { for file in copy.all { unlink(file) } }
        try damaged.copy(to: copy)
        Self.prepare(copy)
        let old = Self.open(copy, workFolder: workFolder)
        if let old {
            identity = try? old.first("SELECT value FROM note WHERE key = 'identity'") { $0.text(0) } ?? nil
        }
        let reader = accepting(identity) ? old.map { SalvageReader(old: $0, lastInode: Int64(firstNewInode)) } : nil
        try new.write { tables throws(CatalogError) in
            if let reader {
                knowsAllContents = try reader.read(into: tables.database)
                try tables.loadEpochs(tables.boot)
                strays = try Mending(tables).mend(isComplete: false).strays
                entries = try tables.database.first("SELECT count(*) FROM entry") { $0.int(0) } ?? 0
            }
            try tables.reserveInodes(below: Int64(firstNewInode))
            try tables.loadCapabilities()
        }
    }

    private static func prepare(_ copy: CatalogFiles) {
        guard CatalogFiles.size(copy.path) ?? 0 < 512 else { return }
        // SQLite throws the log of an empty database away. With a page of zeros it takes the log for what it is.
        let descriptor = Glibc.open(copy.path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return }
        ftruncate(descriptor, off_t(Database.pageSize))
        Glibc.close(descriptor)
    }

    /// - Returns: nil when nothing can be read of it.
    private static func open(_ copy: CatalogFiles, workFolder: String) -> Database? {
        if let database = readable(copy.path) { return database }
        // The definitions of the tables lie at the same place in each catalog: those of a new one will do.
        let pattern = CatalogFiles(path: workFolder + "/pattern.sqlite")
        defer { for file in pattern.all { unlink(file) } }
        guard let pages = definitionPages(pattern) else { return nil }
        let descriptor = Glibc.open(copy.path, O_RDWR | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        for (number, page) in pages {
            _ = page.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, off_t(number * Database.pageSize)) }
        }
        Glibc.close(descriptor)
        if let database = readable(copy.path) { return database }
        unlink(copy.log)
        return readable(copy.path)
    }

    private static func readable(_ path: String) -> Database? {
        guard let database = try? Database(damagedCopy: path),
            (try? database.exists("SELECT 1 FROM sqlite_schema WHERE name = 'inode'")) == true
        else { return nil }
        return database
    }

    /// The pages of a new catalog that are no table's or index's, by number from 0.
    private static func definitionPages(_ pattern: CatalogFiles) -> [(Int, [UInt8])]? {
        var roots: Set<Int64> = []
        do {
            let database = try Database(path: pattern.path)
            try Schema.migrate(database)
            roots = Set(try database.all("SELECT rootpage FROM sqlite_schema WHERE rootpage > 0") { $0.int(0) })
        } catch { return nil }
        guard let size = CatalogFiles.size(pattern.path) else { return nil }
        let descriptor = Glibc.open(pattern.path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { Glibc.close(descriptor) }
        return (0..<Int(size) / Database.pageSize).compactMap { number in
            guard !roots.contains(Int64(number + 1)) else { return nil }
            var page = [UInt8](repeating: 0, count: Database.pageSize)
            guard pread(descriptor, &page, page.count, off_t(number * page.count)) == page.count else { return nil }
            // Bytes 92 to 95 of a database unlike 24 to 27: the number of its pages is what its length says.
            if number == 0 { page.replaceSubrange(92..<96, with: [0xff, 0xff, 0xff, 0xff]) }
            return (number, page)
        }
    }
}

/// Reads rows out of a database of which parts make no sense.
private struct SalvageReader {
    let old: Database
    /// No inode that counts has a higher number.
    let lastInode: Int64

    /// - Returns: whether all cached contents could be read.
    func read(into new: Database) throws(CatalogError) -> Bool {
        try new.run("DELETE FROM inode")
        try new.run("DELETE FROM object")
        try new.run("DELETE FROM note")
        // A catalog of an older format gets the column that it lacks; in the others it is there.
        try? old.execute("ALTER TABLE content ADD COLUMN epoch INTEGER DEFAULT 0")
        for table in [Self.inodes, Self.entries, Self.objects, Self.pending] { _ = try copy(table, to: new) }
        let isComplete = try copy(Self.contents, to: new)
        try copyAll("SELECT key, value FROM note", "INSERT OR IGNORE INTO note(key, value) VALUES (?, ?)", to: new)
        try copyAll(
            "SELECT inode, name, value FROM attribute",
            "INSERT OR IGNORE INTO attribute(inode, name, value) VALUES (?, ?, ?)", to: new)
        try copyAll("SELECT object, parent, name FROM move", "INSERT OR IGNORE INTO move VALUES (?, ?, ?)", to: new)
        try copyAll(
            "SELECT parent, name, state, inode, content_generation, attribute_generation, since_ns, looked FROM sent",
            "INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?)", to: new)
        return isComplete
    }

    /// Of a table without row numbers, or of a short one: up to the damage.
    private func copyAll(_ query: StaticString, _ insert: StaticString, to new: Database) throws(CatalogError) {
        var rows: [[SQLValue]] = []
        try? old.each(query) { rows.append(Self.values($0)) }
        for row in rows { try new.run(insert, row) }
    }

    /// How rows of a table are read in the order of their numbers from one on, each by its number, and written.
    private struct Table {
        var last: StaticString
        var from: StaticString
        var one: StaticString
        var insert: StaticString
    }

    /// - Returns: whether no damage was met.
    private func copy(_ table: Table, to new: Database) throws(CatalogError) -> Bool {
        var position = Int64.min
        var isWhole = true
        // What lies behind the damage is found row by row, up to the highest number.
        lazy var highest: Int64 = {
            let last = (try? old.first(table.last) { $0.int(0) }) ?? nil
            return max(last ?? 0, lastInode, position) + 4096
        }()
        while true {
            var rows: [[SQLValue]] = []
            var failed = false
            do throws(CatalogError) {
                try old.each(table.from, .int(position)) { row in rows.append(Self.values(row)) }
            } catch { failed = true }
            for row in rows {
                guard case .int(let id) = row[0] else { continue }
                try new.run(table.insert, row)
                position = max(position, id)
            }
            if failed {
                isWhole = false
                position = max(position, 0)
                guard let next = try skipDamage(table, from: position, upTo: highest, to: new) else { return false }
                position = next
            } else if rows.isEmpty {
                return isWhole
            }
        }
    }

    /// Row by row where the rows of the damaged page may end; then, since numbers may have wide gaps, in steps that
    /// grow, and back to where the damage ends.
    ///
    /// - Returns: behind which number rows can be read again; nil: nowhere.
    private func skipDamage(_ table: Table, from start: Int64, upTo highest: Int64, to new: Database)
        throws(CatalogError) -> Int64?
    {
        var position = start
        while position < min(highest, start + 20_000) {
            position += 1
            guard let row = (try? old.first(table.one, .int(position)) { Self.values($0) }) ?? nil else { continue }
            try new.run(table.insert, row)
            return position
        }
        var bad = position
        var step: Int64 = 1
        while !canRead(table, after: bad + step) {
            bad += step
            step *= 2
            if bad > highest { return nil }
        }
        var good = bad + step
        while good - bad > 1 {
            let middle = bad + (good - bad) / 2
            if canRead(table, after: middle) { good = middle } else { bad = middle }
        }
        return good
    }

    private func canRead(_ table: Table, after position: Int64) -> Bool {
        do throws(CatalogError) {
            _ = try old.first(table.from, .int(position)) { $0.int(0) }
            return true
        } catch { return false }
    }

    private static func values(_ row: borrowing Row) -> [SQLValue] {
        var values: [SQLValue] = []
        for column in 0..<row.count { values.append(row.value(column)) }
        return values
    }

    private static let inodes = Table(
        last: "SELECT id FROM inode ORDER BY id DESC LIMIT 1",
        from: """
            SELECT id, kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns, changed_ns, created_ns,
                target, known, content_generation, attribute_generation, object, source_version, source_size_bytes
            FROM inode WHERE id > ? ORDER BY id LIMIT 500
            """,
        one: """
            SELECT id, kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns, changed_ns, created_ns,
                target, known, content_generation, attribute_generation, object, source_version, source_size_bytes
            FROM inode WHERE id = ?
            """,
        // What a directory holds on the store is asked anew.
        insert: """
            INSERT OR IGNORE INTO inode(id, kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns,
                changed_ns, created_ns, target, known, content_generation, attribute_generation, object,
                source_version, source_size_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)

    private static let entries = Table(
        last: "SELECT id FROM entry ORDER BY id DESC LIMIT 1",
        from: "SELECT id, parent, name, inode FROM entry WHERE id > ? ORDER BY id LIMIT 500",
        one: "SELECT id, parent, name, inode FROM entry WHERE id = ?",
        insert: "INSERT OR IGNORE INTO entry(id, parent, name, inode) VALUES (?, ?, ?, ?)")

    private static let objects = Table(
        last: "SELECT id FROM object ORDER BY id DESC LIMIT 1",
        from: """
            SELECT id, parent, name, directory, inode, version, size_bytes, modified_ns, content_generation,
                attribute_generation, foreign_version, seen_ns, written_ns
            FROM object WHERE id > ? ORDER BY id LIMIT 500
            """,
        one: """
            SELECT id, parent, name, directory, inode, version, size_bytes, modified_ns, content_generation,
                attribute_generation, foreign_version, seen_ns, written_ns FROM object WHERE id = ?
            """,
        insert: """
            INSERT OR IGNORE INTO object(id, parent, name, directory, inode, version, size_bytes, modified_ns,
                content_generation, attribute_generation, foreign_version, seen_ns, written_ns)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)

    private static let pending = Table(
        last: "SELECT id FROM pending ORDER BY id DESC LIMIT 1",
        from: """
            SELECT id, parent, name, object, revision, bytes, since_ns, changed_ns, checkpoint
            FROM pending WHERE id > ? ORDER BY id LIMIT 500
            """,
        one: """
            SELECT id, parent, name, object, revision, bytes, since_ns, changed_ns, checkpoint
            FROM pending WHERE id = ?
            """,
        insert: """
            INSERT OR IGNORE INTO pending(id, parent, name, object, revision, bytes, since_ns, changed_ns, checkpoint)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """)

    private static let contents = Table(
        last: "SELECT inode FROM content ORDER BY inode DESC LIMIT 1",
        from: """
            SELECT inode, dirty, changing, present, cached_bytes, used_ns, epoch FROM content WHERE inode > ?
            ORDER BY inode LIMIT 500
            """,
        one: "SELECT inode, dirty, changing, present, cached_bytes, used_ns, epoch FROM content WHERE inode = ?",
        insert: """
            INSERT OR IGNORE INTO content(inode, dirty, changing, present, cached_bytes, used_ns, epoch)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """)
}

extension Tables {
    /// New inodes get higher numbers.
    fileprivate func reserveInodes(below first: Int64) throws(CatalogError) {
        try database.run("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = 'inode'", .int(first))
        guard try !database.exists("SELECT 1 FROM sqlite_sequence WHERE name = 'inode'") else { return }
        try database.run("INSERT INTO sqlite_sequence(name, seq) VALUES ('inode', ?)", .int(first))
    }
}
