import SQLite
import StoreAPI
import Threading

// What is known of the bytes of files: which are in the cache, which are newer than the store's.
extension Catalog {
    /// - Returns: nil when the inode is no file, or is gone.
    package func content(of inode: InodeID) throws(CatalogError) -> ContentRecord? {
        try read { tables throws(CatalogError) in try tables.contentRecord(inode) }
    }

    /// Before the first byte of a clean content is changed: marks it dirty, and due. Where bytes are about to be changed
    /// that are believed after a loss of power, this has been brought to the disk, if need be, when it returns.
    ///
    /// - Returns: the new generation.
    package func beginChange(of inode: InodeID) throws(CatalogError) -> Int64 {
        let (generation, needed, kept) = try write { tables throws(CatalogError) in
            try tables.part(inode)
            let kept = try tables.keepDisplaced(inode)
            let record = try tables.existing(inode)
            let needed = try tables.noteChange(of: inode, in: transactions + 1)
            try tables.makeDirty(inode, isChanging: true)
            return (try tables.contentChanged(inode, size: record.size), needed, kept)
        }
        if let kept { tell([kept]) }
        if let needed, needed > durableTransactions { try makeDurable() }
        return generation
    }

    /// Saves what is known of contents: size and times of the files, and which ranges are here. All in one transaction.
    ///
    /// - Returns: the generations that the saved states have; nil for those whose inode is gone.
    package func save(_ states: [ContentState]) throws(CatalogError) -> [Int64?] {
        let (generations, kept) = try write { tables throws(CatalogError) in
            var generations: [Int64?] = []
            var kept: [KeptFile] = []
            for state in states {
                if state.isChanged, let file = try tables.keepDisplaced(state.inode) { kept.append(file) }
                generations.append(try tables.inode(state.inode) == nil ? nil : try tables.save(state))
            }
            return (generations, kept)
        }
        tell(kept)
        return generations
    }

    /// The inode's cache file was deleted. Only for clean content.
    ///
    /// - Returns: how many bytes of it were counted.
    @discardableResult
    package func contentWasEvicted(_ inode: InodeID) throws(CatalogError) -> Int64 {
        try write { tables throws(CatalogError) in
            let bytes = try tables.database.first(
                "SELECT cached_bytes FROM content WHERE inode = ? AND dirty = 0", .int(inode.row)
            ) { $0.int(0) }
            guard let bytes else { return 0 }
            try tables.deleteContent(inode)
            return bytes
        }
    }

    /// The contents were used now: they are evicted later than others.
    package func noteUse(of inodes: [InodeID]) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            let now = tables.now
            for inode in inodes {
                try tables.database.run("UPDATE content SET used_ns = ? WHERE inode = ?", .int(now), .int(inode.row))
            }
        }
    }

    /// Clean cached contents, least recently used first.
    package func evictionCandidates(limit: Int) throws(CatalogError) -> [EvictionCandidate] {
        try read { tables throws(CatalogError) in
            try tables.database.all(
                """
                SELECT inode, cached_bytes, used_ns FROM content WHERE dirty = 0 AND cached_bytes > 0
                ORDER BY used_ns LIMIT ?
                """, .int(Int64(limit))
            ) {
                EvictionCandidate(
                    inode: InodeID(UInt64($0.int(0))), cachedBytes: $0.int(1), used: Timestamp(nanoseconds: $0.int(2)))
            }
        }
    }

    package func contentTotals() throws(CatalogError) -> ContentTotals {
        try read { tables throws(CatalogError) in
            try tables.database.first("SELECT cached_bytes, dirty_bytes, dirty_files FROM total") {
                ContentTotals(cachedBytes: $0.int(0), dirtyBytes: $0.int(1), dirtyFiles: $0.int(2))
            } ?? ContentTotals(cachedBytes: 0, dirtyBytes: 0, dirtyFiles: 0)
        }
    }

    /// All bytes are in the cache file and must stay there until they are on the store: the content counts as changed.
    ///
    /// - Returns: its new generation.
    package func pinContent(of inode: InodeID) throws(CatalogError) -> Int64 {
        try write { tables throws(CatalogError) in
            let record = try tables.existing(inode)
            try tables.makeDirty(inode, isChanging: false)
            return try tables.contentChanged(inode, size: record.size)
        }
    }
}

extension Tables {
    /// - Returns: the generation that the saved state has.
    func save(_ state: ContentState) throws(CatalogError) -> Int64 {
        let bytes = state.present.count
        let epoch = state.isChanged && !state.isFlushed ? try markedEpoch() : nil
        // Whoever saves knows of all changes that were begun.
        try database.run(
            """
            INSERT INTO content(inode, dirty, changing, present, cached_bytes, used_ns, epoch)
            VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6)
            ON CONFLICT(inode) DO UPDATE SET dirty = max(dirty, ?2), changing = 0, present = ?3, cached_bytes = ?4,
                used_ns = ?5, epoch = CASE WHEN ?2 OR ?7 THEN ?6 ELSE epoch END
            """, .int(state.inode.row), SQLValue(state.isChanged), .blob(state.present.encoded), .int(bytes), .int(now),
            SQLValue(epoch), SQLValue(state.isFlushed))
        guard state.isChanged else { return try generations(of: state.inode).content }
        try database.run(
            "UPDATE inode SET size_bytes = ?, modified_ns = coalesce(?, modified_ns), changed_ns = ? WHERE id = ?",
            .int(state.size), SQLValue(state.modified?.nanoseconds), .int(fileTime), .int(state.inode.row))
        return try contentChanged(state.inode, size: state.size)
    }

    func makeDirty(_ inode: InodeID, isChanging: Bool) throws(CatalogError) {
        try database.run(
            """
            INSERT INTO content(inode, dirty, changing, present, cached_bytes, used_ns, epoch)
            VALUES (?1, 1, ?2, x'', 0, ?3, ?4)
            ON CONFLICT(inode) DO UPDATE SET dirty = 1, changing = max(changing, ?2), epoch = coalesce(?4, epoch)
            """, .int(inode.row), SQLValue(isChanging), .int(now), SQLValue(isChanging ? try markedEpoch() : nil))
    }

    /// The bytes have a new state. Returns its generation.
    func contentChanged(_ inode: InodeID, size: Int64) throws(CatalogError) -> Int64 {
        try database.run(
            "UPDATE inode SET content_generation = content_generation + 1 WHERE id = ?", .int(inode.row))
        try markNames(of: inode, bytes: size)
        return try generations(of: inode).content
    }

    func contentRecord(_ inode: InodeID) throws(CatalogError) -> ContentRecord? {
        let row = try database.first(
            """
            SELECT size_bytes, content_generation, object, source_version, source_size_bytes, dirty, changing, present,
                epoch
            FROM inode LEFT JOIN content ON content.inode = inode.id WHERE id = ? AND kind = ?
            """, .int(inode.row), .int(Int64(FileKind.file.rawValue))
        ) { row throws(CatalogError) in
            (
                size: row.int(0), generation: row.int(1), object: row.optionalInt(2), version: row.text(3),
                sourceSize: row.int(4), isDirty: row.bool(5), isChanging: row.bool(6),
                present: try presentRanges(row.blob(7) ?? []), epoch: row.optionalInt(8)
            )
        }
        guard let row else { return nil }
        // What lies at no object is nowhere else.
        let trust = trust(in: row.epoch, isDirty: row.isDirty || row.object == nil)
        var record = ContentRecord(
            inode: inode, size: row.size, generation: row.generation, isDirty: row.isDirty,
            present: trust == .lost ? RangeSet() : row.present,
            source: try row.object.map { object throws(CatalogError) in
                try source(object, inode, version: row.version, size: row.sourceSize)
            },
            sourceWork: try row.object.map { object throws(CatalogError) in try work(on: object, of: inode) } ?? .none,
            isChanging: row.isChanging, trust: trust)
        record.isLost =
            try row.object.map { object throws(CatalogError) in
                try self.object(object).map { $0.version != row.version.map { Version($0) } } ?? true
            } ?? false
        return record
    }

    private func source(_ object: Int64, _ inode: InodeID, version: String?, size: Int64) throws(CatalogError)
        -> ContentSource
    {
        guard object != Self.goneObject else {
            // The object is gone. Some stores have the version still; elsewhere the read fails, and gives no zeros.
            return ContentSource(
                path: try path(of: inode) ?? .root, version: Version(version ?? "gone"), size: size)
        }
        return ContentSource(path: try path(ofObject: object), version: version.map { Version($0) }, size: size)
    }
}
