import Caching
import Catalog
import StoreAPI
import Threading

extension Volume {
    /// - Throws: `.nameTooLong`, `.invalid`.
    static func name(_ bytes: [UInt8]) throws(FileSystemError) -> FileName {
        guard bytes.count <= 255 else { throw .nameTooLong }
        guard let name = FileName(bytes) else { throw .invalid }
        return name
    }

    /// A name that something here is to get or lose.
    ///
    /// - Throws: also `.readOnly`, and `.accessDenied` for what the program keeps for itself.
    private func changeable(_ bytes: [UInt8], _ parent: InodeID) throws(FileSystemError) -> FileName {
        let name = try Self.name(bytes)
        try mayChange()
        if parent == .root, name == .control { throw .accessDenied }
        return name
    }

    func lookup(_ bytes: [UInt8], in parent: InodeID, _ reply: @escaping FileSystem.Reply<Entry>) {
        let name: FileName
        let found: LookupResult
        do throws(FileSystemError) {
            name = try Self.name(bytes)
            if parent == .root, name == .control { throw .notFound }
            found = try asked { () throws(CatalogError) in try catalog.lookup(name, in: parent) }
        } catch { return reply(.failure(error)) }
        if found.isPending || isCurrent(found.listed) {
            guard let inode = found.inode else { return reply(.failure(.notFound)) }
            let trust = found.isPending ? settings.metadataLifetime : trust(found.listed)
            return present(inode, as: name, in: parent, trust: trust, reply)
        }
        refresh(parent, listed: found.listed, wanting: name) { [self] knowledge in
            let again: LookupResult
            do throws(CatalogError) { again = try catalog.lookup(name, in: parent) } catch {
                return reply(.failure(FileSystemError(error)))
            }
            switch (again.inode, knowledge) {
            case (let inode?, .current):
                present(inode, as: name, in: parent, trust: settings.metadataLifetime, reply)
            case (let inode?, _):
                let trust = min(Self.outdatedTrust, settings.metadataLifetime)
                present(inode, as: name, in: parent, trust: trust, reply)
            case (nil, .current), (nil, .outdated): reply(.failure(.notFound))
            case (nil, .unknown(let error)): reply(.failure(error))
            }
        }
    }

    // MARK: New names

    func make(
        _ bytes: [UInt8], in parent: InodeID, kind: FileKind, mode: UInt32, device: UInt64 = 0,
        target: [UInt8]? = nil, isToBeWritten: Bool = false, by caller: Caller,
        _ reply: @escaping FileSystem.Reply<InodeRecord>
    ) {
        let name: FileName
        do throws(FileSystemError) {
            name = try changeable(bytes, parent)
            if let target, target.isEmpty || target.count > 4095 {
                throw target.isEmpty ? .notFound : .nameTooLong
            }
        } catch { return reply(.failure(error)) }
        whenNameIsFree(name, in: parent, reply) { [self] in
            answer(reply) { () throws(FileSystemError) in
                let directory = try existing(parent)
                // A set-group-ID directory gives its group, and new directories the bit as well.
                let inherits = directory.mode & 0o2000 != 0
                let new = NewInode(
                    kind: kind, mode: (mode & 0o7777) | (inherits && kind == .directory ? 0o2000 : 0),
                    uid: caller.uid, gid: inherits ? directory.gid : caller.gid, device: device, target: target,
                    isToBeWritten: isToBeWritten)
                let record = try asked { () throws(CatalogError) in
                    try catalog.create(new, named: name, in: parent)
                }
                nodes.retain(record.id)
                changedHere()
                return record
            }
        }
    }

    func link(
        _ inode: InodeID, named bytes: [UInt8], in parent: InodeID, _ reply: @escaping FileSystem.Reply<Entry>
    ) {
        let name: FileName
        do throws(FileSystemError) {
            name = try changeable(bytes, parent)
            if try named(inode).kind == .directory { throw .notPermitted }
        } catch { return reply(.failure(error)) }
        whenNameIsFree(name, in: parent, reply) { [self] in
            answer(reply) { () throws(FileSystemError) in
                let record = try asked { () throws(CatalogError) in
                    try catalog.link(inode, named: name, in: parent)
                }
                nodes.retain(inode)
                changedHere()
                return entry(record, trust: settings.metadataLifetime)
            }
        }
    }

    /// Calls `body` when it is known that `name` is not taken in `parent`; the kernel has looked it up, so this
    /// waits only where that could not be found out then.
    private func whenNameIsFree<Value>(
        _ name: FileName, in parent: InodeID, _ reply: @escaping FileSystem.Reply<Value>,
        _ body: @escaping @Sendable () -> Void
    ) {
        let found: LookupResult
        do { found = try catalog.lookup(name, in: parent) } catch { return reply(.failure(FileSystemError(error))) }
        if found.inode != nil { return reply(.failure(.exists)) }
        if found.listed != nil { return body() }
        refresh(parent, listed: nil, wanting: name) { knowledge in
            switch knowledge {
            case .current, .outdated: body()
            case .unknown(let error): reply(.failure(error))
            }
        }
    }

    // MARK: Names that go

    func unlink(_ bytes: [UInt8], in parent: InodeID, _ reply: @escaping FileSystem.Reply<Void>) {
        answer(reply) { () throws(FileSystemError) in
            try remove(try changeable(bytes, parent), from: parent, isDirectory: false)
        }
    }

    func removeDirectory(_ bytes: [UInt8], in parent: InodeID, _ reply: @escaping FileSystem.Reply<Void>) {
        let name: FileName
        let victim: InodeRecord?
        do throws(FileSystemError) {
            name = try changeable(bytes, parent)
            victim = try asked { () throws(CatalogError) in try catalog.lookup(name, in: parent).inode }
        } catch { return reply(.failure(error)) }
        whenEmptinessIsKnown(victim, reply) { [self] in
            answer(reply) { () throws(FileSystemError) in try remove(name, from: parent, isDirectory: true) }
        }
    }

    private func remove(_ name: FileName, from parent: InodeID, isDirectory: Bool) throws(FileSystemError) {
        let record = try asked { () throws(CatalogError) in
            try catalog.remove(name, from: parent, isDirectory: isDirectory)
        }
        if record.links == 0 || isDirectory { lostName(record.id) }
        changedHere()
    }

    /// Calls `body` when the catalog knows all that lies in `victim`, if that is a directory: what was never listed
    /// may only look empty.
    private func whenEmptinessIsKnown<Value>(
        _ victim: InodeRecord?, _ reply: @escaping FileSystem.Reply<Value>, _ body: @escaping @Sendable () -> Void
    ) {
        guard let victim, victim.kind == .directory else { return body() }
        whenListed(victim.id) { knowledge in
            switch knowledge {
            case .current, .outdated: body()
            case .unknown(let error): reply(.failure(error))
            }
        }
    }

    func rename(
        _ bytes: [UInt8], in parent: InodeID, to newBytes: [UInt8], in newParent: InodeID, _ mode: RenameMode,
        _ reply: @escaping FileSystem.Reply<Void>
    ) {
        let name: FileName
        let newName: FileName
        let victim: InodeRecord?
        do throws(FileSystemError) {
            name = try changeable(bytes, parent)
            newName = try changeable(newBytes, newParent)
            victim =
                mode == .exchange
                ? nil : try asked { () throws(CatalogError) in try catalog.lookup(newName, in: newParent).inode }
        } catch { return reply(.failure(error)) }
        if mode == .noReplace, victim != nil { return reply(.failure(.exists)) }
        whenEmptinessIsKnown(victim, reply) { [self] in
            answer(reply) { () throws(FileSystemError) in
                let outcome = try asked { () throws(CatalogError) in
                    try catalog.rename(name, in: parent, to: newName, in: newParent, mode)
                }
                if let other = outcome.other, mode != .exchange { lostName(other.id) }
                changedHere()
            }
        }
    }
}
