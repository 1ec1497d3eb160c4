import Caching
import Catalog
import StoreAPI
import Synchronization
import Threading

extension Volume {
    // MARK: What the kernel is told of an inode

    /// The inode as its users see it: with the size and times of content that is open.
    func current(_ record: InodeRecord) -> InodeRecord {
        guard record.kind == .file, let content = cache.opened(record.id) else { return record }
        var record = record
        record.size = content.size
        if let modified = content.modified {
            record.modified = modified
            record.changed = max(record.changed, modified)
        }
        return record
    }

    /// Without counting it as a lookup.
    func entry(_ record: InodeRecord, trust: Duration) -> Entry {
        Entry(
            number: numbers.number(record.id), attributes: current(record), entryTimeout: trust,
            attributeTimeout: record.attributesAreKnown ? trust : .zero)
    }

    /// Replies with a name's inode, counted as a lookup, when its attributes are known (or will not be).
    func present(
        _ found: InodeRecord, as name: FileName, in parent: InodeID, trust: Duration,
        _ reply: @escaping FileSystem.Reply<Entry>
    ) {
        complete(found) { [self] _ in
            answer(reply) { () throws(FileSystemError) in
                var record = found
                if !found.attributesAreKnown {
                    // What the store has told may be that it is a file which is here under another name.
                    let again = try asked { () throws(CatalogError) in try catalog.lookup(name, in: parent) }
                    guard let inode = again.inode else { throw .notFound }
                    record = inode
                }
                nodes.retain(record.id)
                return entry(record, trust: record.attributesAreKnown ? trust : .zero)
            }
        }
    }

    /// Calls `body` with the record, its attributes filled in where the store tells them in time, else with defaults.
    private func complete(
        _ record: InodeRecord, _ body: @escaping @Sendable (Result<InodeRecord, FileSystemError>) -> Void
    ) {
        if record.attributesAreKnown { return body(.success(record)) }
        if case .failing(_, isDown: true, _) = lister.outlook(for: .root) { return body(.success(record)) }
        reader.whenKnown(record.id, within: min(Self.refreshBound, settings.requestDeadline)) { [self] _ in
            answer(body) { () throws(FileSystemError) in try existing(record.id) }
        }
    }

    /// - Throws: `.stale`: the catalog knows no such inode (any more).
    func existing(_ inode: InodeID) throws(FileSystemError) -> InodeRecord {
        guard let record = try asked({ () throws(CatalogError) in try catalog.inode(inode) }) else { throw .stale }
        return record
    }

    /// What a path has led to, to be changed or written. Where others have another file there by now, which the kernel
    /// has not heard of yet, it looks the path up again.
    func named(_ inode: InodeID) throws(FileSystemError) -> InodeRecord {
        let record = try existing(inode)
        if record.links == 0, try asked({ () throws(CatalogError) in try catalog.isDisplaced(inode) }) { throw .stale }
        return record
    }

    func getAttributes(_ inode: InodeID, _ reply: @escaping FileSystem.Reply<Entry>) {
        let record: InodeRecord
        do { record = try existing(inode) } catch { return reply(.failure(error)) }
        let trust = settings.metadataLifetime
        complete(record) { [self] result in
            answer(reply) { () throws(FileSystemError) in entry(try result.get(), trust: trust) }
        }
    }

    func readLink(_ inode: InodeID, _ reply: @escaping FileSystem.Reply<[UInt8]>) {
        let record: InodeRecord
        do { record = try existing(inode) } catch { return reply(.failure(error)) }
        complete(record) { result in
            answer(reply) { () throws(FileSystemError) in
                let record = try result.get()
                guard record.kind == .symbolicLink else { throw .invalid }
                guard let target = record.target else { throw .inputOutput }
                return target
            }
        }
    }

    // MARK: Changes

    func setAttributes(
        _ changes: SetAttributes, of inode: InodeID, handle: FileHandle?, by caller: Caller,
        _ reply: @escaping FileSystem.Reply<Entry>
    ) {
        let record: InodeRecord
        do throws(FileSystemError) {
            try mayChange()
            // What is open here is perhaps meant by its descriptor.
            record = nodes.node(inode) == nil ? try named(inode) : try existing(inode)
        } catch { return reply(.failure(error)) }
        complete(record) { [self] result in
            answer(reply) { () throws(FileSystemError) in
                var record = try result.get()
                if let size = changes.size { record = try resize(record, to: size, handle, caller) }
                record = try change(record, changes)
                changedHere()
                return entry(record, trust: settings.metadataLifetime)
            }
        }
    }

    private func resize(_ record: InodeRecord, to size: Int64, _ handle: FileHandle?, _ caller: Caller)
        throws(FileSystemError) -> InodeRecord
    {
        switch record.kind {
        case .file: break
        case .directory: throw .isADirectory
        case .symbolicLink, .fifo, .characterDevice, .blockDevice, .socket: throw .invalid
        }
        guard size >= 0 else { throw .invalid }
        if let largest = backing.store.capabilities.largestObject, size > largest { throw .tooLarge }
        if let handle {
            try truncate(handle.content, to: size)
        } else {
            let content = try cached { () throws(CacheError) in try cache.open(record.id) }
            defer { content.close() }
            try truncate(content, to: size)
        }
        return try clearPrivileges(existing(record.id), by: caller)
    }

    private func truncate(_ content: CachedContent, to size: Int64) throws(FileSystemError) {
        try cached { () throws(CacheError) in
            try content.truncate(to: size)
            try content.save()
        }
    }

    private func change(_ record: InodeRecord, _ changes: SetAttributes) throws(FileSystemError) -> InodeRecord {
        if let changed = changes.changed { clock.noteFileTime(changed) }
        let now = clock.fileTime
        func moment(_ time: SetAttributes.Time?) -> Timestamp? {
            switch time {
            case nil: nil
            case .now: now
            case .at(let time): time
            }
        }
        var new = AttributeChanges(
            mode: changes.mode.map { $0 & 0o7777 }, uid: changes.uid, gid: changes.gid,
            accessed: moment(changes.accessed), modified: moment(changes.modified))
        if changes.uid != nil || changes.gid != nil, record.kind != .directory {
            // As Linux does it: a new owner gets no file that runs with the rights of the old one.
            let mode = new.mode ?? record.mode
            let safe = Self.withoutPrivileges(mode)
            if safe != mode { new.mode = safe }
            try removeCapabilities(record)
        }
        guard new != AttributeChanges() || changes.changed != nil else { return record }
        // The kernel sets the times of a file with each change of its names: what is there already is nothing that
        // the store would have to hear of, for every name that the file has.
        if new.modified == current(record).modified { new.modified = nil }
        new.changed = changes.changed ?? now
        if let mode = new.mode, mode & 0o6000 != 0 {
            nodes.node(record.id)?.mayHavePrivileges.store(true, ordering: .relaxed)
        }
        let complete = new
        guard complete.modified != nil, record.kind == .file, let content = cache.opened(record.id) else {
            return try asked { () throws(CatalogError) in try catalog.setAttributes(complete, of: record.id) }
        }
        // A time that somebody sets counts from then on, although content that was written before it is still open.
        // That is saved with it: a later save of the same change must not bring its time back.
        return try cached { () throws(CacheError) in
            try content.saveSettingTime { (unsaved) throws(CatalogError) in
                try catalog.setAttributes(complete, of: record.id, saving: unsaved)
            }
        }
    }

    // MARK: Privileges of programs

    /// Without set-user-ID, and without set-group-ID where it means one.
    static func withoutPrivileges(_ mode: UInt32) -> UInt32 {
        mode & ~0o4000 & ~(mode & 0o010 != 0 ? 0o2000 : 0)
    }

    /// A file whose bytes were changed must not run with more rights than those of who changed it: the kernel leaves
    /// that to us (FUSE_HANDLE_KILLPRIV_V2). Root keeps the mode bits, and nobody keeps capabilities.
    func clearPrivileges(_ record: InodeRecord, by caller: Caller) throws(FileSystemError) -> InodeRecord {
        try removeCapabilities(record)
        let mode = Self.withoutPrivileges(record.mode)
        guard caller.uid != 0, mode != record.mode else { return record }
        let changes = AttributeChanges(mode: mode, changed: clock.fileTime)
        return try asked { () throws(CatalogError) in try catalog.setAttributes(changes, of: record.id) }
    }

    private func removeCapabilities(_ record: InodeRecord) throws(FileSystemError) {
        try asked { () throws(CatalogError) in
            guard try catalog.extendedAttributes(of: record.id)[Self.capabilities] != nil else { return }
            do throws(CatalogError) {
                try catalog.removeExtendedAttribute(Self.capabilities, of: record.id)
            } catch {
                // Somebody else has done it in between.
                if error.code != .noSuchAttribute { throw error }
            }
        }
    }

    static let capabilities = "security.capability"

    // MARK: Checks

    func mayChange() throws(FileSystemError) {
        if settings.isReadOnly || backing.store.capabilities.isReadOnly { throw .readOnly }
    }
}
