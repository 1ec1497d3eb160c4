import SQLite
package import StoreAPI
package import Threading

// The names: looking them up, making and removing them.
extension Catalog {
    package func inode(_ id: InodeID) throws(CatalogError) -> InodeRecord? {
        try read { tables throws(CatalogError) in try tables.inode(id) }
    }

    /// What is known of a name; see ``LookupResult`` for what "nothing" means.
    ///
    /// - Throws: ``CatalogError``: `.notFound` when there is no such directory, `.notADirectory`.
    package func lookup(_ name: FileName, in parent: InodeID) throws(CatalogError) -> LookupResult {
        try read { tables throws(CatalogError) in
            let listed = try tables.listed(of: parent)
            let inode = try tables.entry(name, in: parent)
            return LookupResult(
                inode: inode, isPending: inode != nil ? try tables.pendingRow(name, in: parent) != nil : false,
                listed: listed)
        }
    }

    /// All names of an inode.
    package func names(of inode: InodeID) throws(CatalogError) -> [(parent: InodeID, name: FileName)] {
        try read { tables throws(CatalogError) in try tables.names(of: inode) }
    }

    /// When `directory` was last listed completely, as in ``LookupResult/listed``.
    ///
    /// - Throws: ``CatalogError``: `.notFound`, `.notADirectory`.
    package func listed(of directory: InodeID) throws(CatalogError) -> Timestamp? {
        try read { tables throws(CatalogError) in try tables.listed(of: directory) }
    }

    /// The directory of one of the inode's names; nil for the root and for what was removed.
    package func parent(of inode: InodeID) throws(CatalogError) -> InodeID? {
        try read { tables throws(CatalogError) in try tables.parent(of: inode)?.parent }
    }

    /// The path of one of the inode's names; nil when it has none.
    package func path(of inode: InodeID) throws(CatalogError) -> StorePath? {
        try read { tables throws(CatalogError) in try tables.path(of: inode) }
    }

    /// What lies at `path`, as far as it is known here.
    package func inode(at path: StorePath) throws(CatalogError) -> InodeRecord? {
        try read { tables throws(CatalogError) in
            var position = try tables.inode(.root)
            for name in path.components {
                guard let directory = position else { return nil }
                position = try tables.entry(name, in: directory.id)
            }
            return position
        }
    }

    /// Up to `limit` entries whose cookie is greater than `cookie`, in the order of their cookies. Entries that are
    /// there all the time come exactly once, whatever else comes and goes.
    package func entries(of directory: InodeID, after cookie: Int64, limit: Int) throws(CatalogError)
        -> [DirectoryEntry]
    {
        try read { tables throws(CatalogError) in
            try tables.database.all(
                """
                SELECT i.id, kind, mode, uid, gid, links, size_bytes, device, accessed_ns, modified_ns, changed_ns,
                    created_ns, target, known, e.id, name FROM entry e INDEXED BY entry_in_order
                JOIN inode i ON i.id = e.inode WHERE parent = ? AND e.id > ? ORDER BY e.id LIMIT ?
                """, .int(directory.row), .int(cookie), .int(Int64(limit))
            ) { row throws(CatalogError) in
                DirectoryEntry(
                    cookie: row.int(14), name: try tables.fileName(row.blob(15)), inode: try tables.record(row))
            }
        }
    }

    /// Makes a file, directory, symbolic link or special file.
    ///
    /// - Throws: ``CatalogError``: `.exists`, `.notFound` (the parent), `.notADirectory`.
    package func create(_ new: NewInode, named name: FileName, in parent: InodeID) throws(CatalogError) -> InodeRecord {
        try write { tables throws(CatalogError) in
            _ = try tables.existingDirectory(parent)
            guard try tables.entry(name, in: parent) == nil else {
                throw CatalogError(.exists, "'\(name)' exists")
            }
            let now = Timestamp(nanoseconds: tables.fileTime)
            let isDirectory = new.kind == .directory
            var record = InodeRecord(
                id: InodeID(0), kind: new.kind, mode: new.mode & 0o7777, uid: new.uid, gid: new.gid,
                links: isDirectory ? 2 : 1, size: Int64(new.target?.count ?? 0), device: new.device, accessed: now,
                modified: now, changed: now, created: now, target: new.target)
            record.id = try tables.insertInode(record, isTold: (true, true, true))
            try tables.insertEntry(name, in: parent, for: record.id)
            try tables.directoryChanged(parent, subdirectories: isDirectory ? 1 : 0)
            try tables.mark(name, in: parent)
            if new.kind == .file { try tables.makeDirty(record.id, isChanging: new.isToBeWritten) }
            return record
        }
    }

    /// Gives a file one more name.
    ///
    /// - Throws: ``CatalogError``: `.exists`, `.notFound`, `.isADirectory`, `.tooManyLinks`.
    package func link(_ inode: InodeID, named name: FileName, in parent: InodeID) throws(CatalogError) -> InodeRecord {
        try write { tables throws(CatalogError) in
            let record = try tables.existing(inode)
            guard record.kind != .directory else {
                throw CatalogError(.isADirectory, "a directory has one name only")
            }
            guard record.links > 0 else { throw CatalogError(.notFound, "the file was removed") }
            // The same as ext4's.
            guard record.links < 65_000 else { throw CatalogError(.tooManyLinks, "the file has 65,000 names") }
            _ = try tables.existingDirectory(parent)
            guard try tables.entry(name, in: parent) == nil else {
                throw CatalogError(.exists, "'\(name)' exists")
            }
            try tables.insertEntry(name, in: parent, for: inode)
            try tables.addLinks(1, to: inode)
            try tables.directoryChanged(parent)
            try tables.mark(name, in: parent, bytes: record.size)
            // The object of the only name so far does not say yet that there is another one.
            if record.kind == .file, record.links == 1, tables.keepsIdentities { try tables.markNames(of: inode) }
            return try tables.existing(inode)
        }
    }

    /// Removes a name of a file (`isDirectory` false) or an empty directory. The inode stays, with 0 links, until
    /// ``forget(_:)``.
    ///
    /// - Throws: ``CatalogError``: `.notFound`, `.isADirectory`, `.notADirectory`, `.notEmpty`.
    package func remove(_ name: FileName, from parent: InodeID, isDirectory: Bool) throws(CatalogError) -> InodeRecord {
        try write { tables throws(CatalogError) in
            _ = try tables.existingDirectory(parent)
            guard let record = try tables.entry(name, in: parent) else {
                throw CatalogError(.notFound, "there is no '\(name)'")
            }
            if isDirectory {
                guard record.kind == .directory else { throw CatalogError(.notADirectory, "'\(name)' is no directory") }
                guard try !tables.hasEntries(record.id) else {
                    throw CatalogError(.notEmpty, "the directory '\(name)' is not empty")
                }
            } else if record.kind == .directory {
                throw CatalogError(.isADirectory, "'\(name)' is a directory")
            }
            try tables.removeEntry(name, from: parent, of: record)
            try tables.leave(name, in: parent, record, isMoved: false)
            return try tables.existing(record.id)
        }
    }

    /// Forgets an inode that has no links and that nobody has open any more, and its content.
    ///
    /// - Returns: whether it is gone; false: it has links.
    package func forget(_ inode: InodeID) throws(CatalogError) -> Bool {
        try write { tables throws(CatalogError) in
            guard let record = try tables.inode(inode) else { return true }
            guard record.links == 0 else { return false }
            try tables.deleteInode(inode)
            return true
        }
    }

    /// Inodes without links that a crash left behind.
    package func orphans() throws(CatalogError) -> [InodeID] {
        try read { tables throws(CatalogError) in
            try tables.database.all("SELECT id FROM inode WHERE links = 0") { InodeID(UInt64($0.int(0))) }
        }
    }

    // MARK: Rename

    /// rename(2), in one step.
    ///
    /// - Throws: ``CatalogError``: `.notFound`, `.exists`, `.notEmpty`, `.isADirectory`, `.notADirectory`,
    ///   `.insideItself`.
    package func rename(
        _ name: FileName, in parent: InodeID, to newName: FileName, in newParent: InodeID, _ mode: RenameMode
    ) throws(CatalogError) -> RenameOutcome {
        try write { tables throws(CatalogError) in
            _ = try tables.existingDirectory(parent)
            _ = try tables.existingDirectory(newParent)
            guard let moved = try tables.entry(name, in: parent) else {
                throw CatalogError(.notFound, "there is no '\(name)'")
            }
            let other = try tables.entry(newName, in: newParent)
            let cookie = try tables.cookie(of: newName, in: newParent)
            if moved.kind == .directory { try tables.refuseInside(moved.id, newParent) }
            switch mode {
            case .exchange:
                guard let other else { throw CatalogError(.notFound, "there is no '\(newName)'") }
                if other.kind == .directory { try tables.refuseInside(other.id, parent) }
                try tables.exchange((moved, name, parent), (other, newName, newParent))
                return RenameOutcome(moved: try tables.existing(moved.id), other: try tables.existing(other.id))
            case .noReplace:
                guard other == nil else { throw CatalogError(.exists, "'\(newName)' exists") }
            case .replace:
                if let other {
                    // Two names of one file: POSIX has nothing done.
                    if other.id == moved.id { return RenameOutcome(moved: moved, other: nil) }
                    try tables.refuseReplacing(other, newName, by: moved)
                    try tables.removeEntry(newName, from: newParent, of: other)
                    if other.kind == .directory { try tables.markDeletionOfPlace(of: other.id) }
                }
            }
            try tables.moveEntry(moved, from: name, in: parent, to: newName, in: newParent)
            // The name was there all the time: a reading of the directory under way must not miss it.
            if let cookie { try tables.setCookie(of: newName, in: newParent, to: cookie) }
            return RenameOutcome(
                moved: try tables.existing(moved.id),
                other: try other.map { other throws(CatalogError) in try tables.existing(other.id) })
        }
    }
}

extension Tables {
    fileprivate func cookie(of name: FileName, in parent: InodeID) throws(CatalogError) -> Int64? {
        try database.first("SELECT id FROM entry WHERE parent = ? AND name = ?", .int(parent.row), .blob(name.bytes)) {
            $0.int(0)
        }
    }

    fileprivate func setCookie(of name: FileName, in parent: InodeID, to cookie: Int64) throws(CatalogError) {
        try database.run(
            "UPDATE entry SET id = ? WHERE parent = ? AND name = ?", .int(cookie), .int(parent.row), .blob(name.bytes))
    }

    fileprivate func listed(of directory: InodeID) throws(CatalogError) -> Timestamp? {
        let row = try database.first(
            "SELECT kind, object, listed_ns FROM inode WHERE id = ?", .int(directory.row)
        ) { (kind: $0.int(0), isOnStore: !$0.isNull(1), listed: $0.optionalInt(2)) }
        guard let row else { throw CatalogError(.notFound, "there is no inode \(directory)") }
        guard row.kind == Int64(FileKind.directory.rawValue) else {
            throw CatalogError(.notADirectory, "inode \(directory) is no directory")
        }
        return row.isOnStore ? row.listed.map { Timestamp(nanoseconds: $0) } : Timestamp(nanoseconds: .max)
    }

    /// A name was taken away from `record` and is free now: what lies there on the store is to be deleted, once
    /// nobody needs it any more.
    func leave(_ name: FileName, in parent: InodeID, _ record: InodeRecord, isMoved: Bool) throws(CatalogError) {
        if record.kind == .directory, !isMoved { try markDeletionOfPlace(of: record.id) }
        guard let place = try place(of: parent) else { return }
        guard let object = try object(name, below: place) else {
            try abandonSent(at: Place(parent: place, name: name))
            // Nothing will come or go there, and so nothing else will give the directory the time that it has here.
            return try childrenChanged(below: place)
        }
        // A directory that moves takes its object along, or empties it first.
        if record.kind == .directory, isMoved, try self.place(of: record.id) == object.id { return }
        // Somebody else's version, which no user of this mount has seen, is not deleted with ours: it shows up anew with
        // the next listing, to which it must be new.
        guard object.foreign == 0 else {
            try forgetObjects(below: object.id)
            try deleteObject(object.id)
            // It may be ours all the same, sent and not heard of.
            return try abandonSent(at: Place(parent: place, name: name))
        }
        try markDeletion(of: object.id)
    }

    /// A directory was removed that may have been renamed before, without the store knowing yet.
    func markDeletionOfPlace(of directory: InodeID) throws(CatalogError) {
        if let own = try place(of: directory), own != 1 { try markDeletion(of: own) }
    }

    /// A directory cannot move below itself.
    func refuseInside(_ directory: InodeID, _ target: InodeID) throws(CatalogError) {
        var position = target
        while position != .root {
            if position == directory { throw CatalogError(.insideItself, "a directory cannot move into itself") }
            guard let step = try parent(of: position) else { return }
            position = step.parent
        }
    }

    func refuseReplacing(_ other: InodeRecord, _ name: FileName, by moved: InodeRecord) throws(CatalogError) {
        switch (moved.kind == .directory, other.kind == .directory) {
        case (true, true):
            guard try !hasEntries(other.id) else {
                throw CatalogError(.notEmpty, "the directory '\(name)' is not empty")
            }
        case (true, false): throw CatalogError(.notADirectory, "'\(name)' is no directory")
        case (false, true): throw CatalogError(.isADirectory, "'\(name)' is a directory")
        case (false, false): break
        }
    }

    func moveEntry(
        _ moved: InodeRecord, from name: FileName, in parent: InodeID, to newName: FileName, in newParent: InodeID
    ) throws(CatalogError) {
        try database.run(
            "UPDATE entry SET parent = ?, name = ? WHERE parent = ? AND name = ?", .int(newParent.row),
            .blob(newName.bytes), .int(parent.row), .blob(name.bytes))
        let directories: Int64 = moved.kind == .directory ? 1 : 0
        try directoryChanged(parent, subdirectories: -directories)
        try directoryChanged(newParent, subdirectories: directories)
        try addLinks(0, to: moved.id)
        try database.run("DELETE FROM pending WHERE parent = ? AND name = ?", .int(parent.row), .blob(name.bytes))
        try leave(name, in: parent, moved, isMoved: true)
        try mark(newName, in: newParent, bytes: moved.kind == .directory ? 0 : moved.size)
    }

    func exchange(
        _ a: (inode: InodeRecord, name: FileName, parent: InodeID),
        _ b: (inode: InodeRecord, name: FileName, parent: InodeID)
    ) throws(CatalogError) {
        for (one, other) in [(a, b), (b, a)] {
            try database.run(
                "UPDATE entry SET inode = ? WHERE parent = ? AND name = ?", .int(other.inode.id.row),
                .int(one.parent.row), .blob(one.name.bytes))
            let change: Int64 = (other.inode.kind == .directory ? 1 : 0) - (one.inode.kind == .directory ? 1 : 0)
            try directoryChanged(one.parent, subdirectories: change)
            try addLinks(0, to: one.inode.id)
            try mark(one.name, in: one.parent, bytes: other.inode.size)
        }
    }
}
