import StoreAPI
import Threading

// Files that somebody else has replaced or removed on the store while a program here has them open. What is written to
// them afterwards belongs to no name any more, and would go with the last descriptor, although nobody here has removed
// anything: so with the first byte the file gets a name again.
extension Catalog {
    /// Has `body` told under which path such a file is kept, on the thread of whoever writes to it. Once.
    package func onKept(_ body: @escaping @Sendable (KeptFile) -> Void) { keptHandler.withLock { $0 = body } }

    /// Whether the inode has lost its last name to others: what a path led to a moment ago, and leads to no more.
    package func isDisplaced(_ inode: InodeID) throws(CatalogError) -> Bool {
        try read { tables throws(CatalogError) in
            guard tables.displaced[inode] != nil else { return false }
            return try tables.inode(inode)?.links == 0
        }
    }

    func tell(_ kept: [KeptFile]) {
        guard !kept.isEmpty, let handler = keptHandler.withLock({ $0 }) else { return }
        for file in kept { handler(file) }
    }
}

extension Tables {
    /// Takes away a name that is gone from the store, or is somebody else's there.
    func displace(_ name: FileName, from parent: InodeID, of inode: InodeRecord) throws(CatalogError) {
        try removeEntry(name, from: parent, of: inode)
        noteDisplaced(inode.id, name, parent)
    }

    func noteDisplaced(_ inode: InodeID, _ name: FileName, _ parent: InodeID) {
        setDisplaced(inode, (parent, name))
    }

    private func setDisplaced(_ inode: InodeID, _ place: (parent: InodeID, name: FileName)?) {
        let before = displaced[inode]
        undo.append { [unowned self] in displaced[inode] = before }
        displaced[inode] = place
    }

    /// Before bytes of a file are changed: gives it a name again if others have taken the last one away. The old one
    /// where that is free, else that of a conflict copy; where the directory has gone too, in the next one above.
    ///
    /// - Returns: nil when it has a name, or was removed here.
    func keepDisplaced(_ inode: InodeID) throws(CatalogError) -> KeptFile? {
        guard let (parent, name) = displaced[inode], let record = try self.inode(inode), record.links == 0 else {
            return nil
        }
        setDisplaced(inode, nil)
        var directory = parent
        while directory != .root, try (self.inode(directory)?.links ?? 0) == 0 {
            directory = displaced[directory]?.parent ?? .root
        }
        let place = try place(of: directory)
        var free = name
        if try isTaken(name, in: directory, place) {
            free = try conflictName(for: name, of: Timestamp(nanoseconds: now), in: directory, place)
        }
        try insertEntry(free, in: directory, for: inode)
        try addLinks(1, to: inode)
        try directoryChanged(directory)
        return KeptFile(name: name, path: try path(of: inode) ?? .root)
    }

    /// A name for a conflict copy that is free here and, as far as is known, on the store.
    ///
    /// - Parameter place: Where the directory lies on the store; nil: it does not yet.
    func conflictName(for name: FileName, of time: Timestamp, in directory: InodeID, _ place: Int64?)
        throws(CatalogError) -> FileName
    {
        for number in 1... {
            guard let free = name.conflictCopy(of: time, number: number) else { break }
            if try !isTaken(free, in: directory, place) { return free }
        }
        throw CatalogError(.damaged, "no name was found for the conflict copy of '\(name)'")
    }

    private func isTaken(_ name: FileName, in directory: InodeID, _ place: Int64?) throws(CatalogError) -> Bool {
        if try entry(name, in: directory) != nil { return true }
        return try place.map { place throws(CatalogError) in try object(name, below: place) != nil } ?? false
    }
}
