package import Catalog
import Glibc
package import StoreAPI

// The operations by name: each decides what its numbers stand for, and hands over.
extension FileSystem {
    package func lookup(_ name: [UInt8], in parent: UInt64, _ reply: @escaping Reply<Entry>) {
        // The two places where one tree hangs in the other.
        if parent == 1, isFlat, name == FileName.control.bytes, let root = tree.hiddenRoot {
            return answer(reply) { () throws(FileSystemError) in tree.entry(try tree.node(root)) }
        }
        if parent == 1, !isFlat, name == VirtualTree.storeName.bytes {
            return getAttributes(NumberSpace.storeRoot(isFlat: isFlat), reply)
        }
        switch place(parent) {
        case .stored(let volume, let inode): volume.lookup(name, in: inode, reply)
        case .virtual(let id): answer(reply) { () throws(FileSystemError) in try tree.lookup(name, in: id) }
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func forget(_ number: UInt64, lookups: UInt64) {
        switch place(number) {
        case .stored(let volume, let inode): volume.forget(inode, lookups: lookups)
        case .virtual(let id): tree.forget(id, lookups: lookups)
        case .noStore, .gone: break
        }
    }

    package func makeNode(
        _ name: [UInt8], in parent: UInt64, kind: FileKind, mode: UInt32, device: UInt64, by caller: Caller,
        _ reply: @escaping Reply<Entry>
    ) {
        switch place(parent) {
        case .stored(let volume, let inode):
            guard kind != .directory, kind != .symbolicLink else { return reply(.failure(.invalid)) }
            volume.make(name, in: inode, kind: kind, mode: mode, device: device, by: caller) {
                volume.presentNew($0, reply)
            }
        case .virtual(let id):
            guard kind == .file else { return reply(.failure(.notPermitted)) }
            answer(reply) { () throws(FileSystemError) in
                tree.entry(try tree.create(name, in: id, mode: mode, by: caller))
            }
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func makeDirectory(
        _ name: [UInt8], in parent: UInt64, mode: UInt32, by caller: Caller, _ reply: @escaping Reply<Entry>
    ) {
        switch place(parent) {
        case .stored(let volume, let inode):
            volume.make(name, in: inode, kind: .directory, mode: mode, by: caller) {
                volume.presentNew($0, reply)
            }
        case .virtual: reply(.failure(.notPermitted))
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func makeSymbolicLink(
        _ name: [UInt8], in parent: UInt64, to target: [UInt8], by caller: Caller, _ reply: @escaping Reply<Entry>
    ) {
        switch place(parent) {
        case .stored(let volume, let inode):
            volume.make(name, in: inode, kind: .symbolicLink, mode: 0o777, target: target, by: caller) {
                volume.presentNew($0, reply)
            }
        case .virtual: reply(.failure(.notPermitted))
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func link(
        _ number: UInt64, named name: [UInt8], in parent: UInt64, _ reply: @escaping Reply<Entry>
    ) {
        switch (place(number), place(parent)) {
        case (.stored(let volume, let inode), .stored(let other, let directory)) where volume === other:
            volume.link(inode, named: name, in: directory, reply)
        case (.gone, _), (_, .gone): reply(.failure(.stale))
        case (.virtual, .virtual): reply(.failure(.notPermitted))
        case (.noStore, _), (_, .noStore): reply(.failure(.noDevice))
        default: reply(.failure(.crossDevice))
        }
    }

    package func unlink(_ name: [UInt8], in parent: UInt64, _ reply: @escaping Reply<Void>) {
        switch place(parent) {
        case .stored(let volume, let inode): volume.unlink(name, in: inode, reply)
        case .virtual(let id): tree.unlink(name, in: id, reply)
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func removeDirectory(_ name: [UInt8], in parent: UInt64, _ reply: @escaping Reply<Void>) {
        switch place(parent) {
        case .stored(let volume, let inode): volume.removeDirectory(name, in: inode, reply)
        case .virtual: reply(.failure(.notPermitted))
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func rename(
        _ name: [UInt8], in parent: UInt64, to newName: [UInt8], in newParent: UInt64, _ mode: RenameMode,
        _ reply: @escaping Reply<Void>
    ) {
        switch (place(parent), place(newParent)) {
        case (.stored(let volume, let inode), .stored(let other, let newInode)) where volume === other:
            volume.rename(name, in: inode, to: newName, in: newInode, mode, reply)
        case (.virtual(let id), .virtual(let newID)): tree.rename(name, in: id, to: newName, in: newID, mode, reply)
        case (.gone, _), (_, .gone): reply(.failure(.stale))
        case (.noStore, _), (_, .noStore): reply(.failure(.noDevice))
        default: reply(.failure(.crossDevice))
        }
    }

    /// - Parameter flags: as of open(2): the access mode, O_TRUNC, O_APPEND.
    package func create(
        _ name: [UInt8], in parent: UInt64, mode: UInt32, flags: Int32, by caller: Caller,
        _ reply: @escaping Reply<(Entry, OpenFile)>
    ) {
        switch place(parent) {
        case .stored(let volume, let inode):
            let isToBeWritten = flags & O_ACCMODE != O_RDONLY
            volume.make(name, in: inode, kind: .file, mode: mode, isToBeWritten: isToBeWritten, by: caller) { made in
                answer(reply) { () throws(FileSystemError) in
                    let record = try made.get()
                    do throws(FileSystemError) {
                        let file = try volume.open(record.id, flags: flags, isNew: isToBeWritten, by: caller)
                        return (volume.entry(record, trust: volume.settings.metadataLifetime), file)
                    } catch {
                        // The kernel hears of no inode.
                        volume.forget(record.id, lookups: 1)
                        throw error
                    }
                }
            }
        case .virtual(let id):
            answer(reply) { () throws(FileSystemError) in
                let node = try tree.create(name, in: id, mode: mode, by: caller)
                let handle = try tree.open(node.id, flags: flags)
                return (tree.entry(node), openFile(handle))
            }
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    /// Control files are read and written past the page cache: their size is not known before.
    func openFile(_ handle: VirtualHandle) -> OpenFile {
        OpenFile(handle: handles.add(.virtualFile(handle)), keepCache: false, directIO: true)
    }
}

extension Volume {
    /// Replies with an inode that was just made; it has been counted as a lookup.
    func presentNew(_ made: Result<InodeRecord, FileSystemError>, _ reply: @escaping FileSystem.Reply<Entry>) {
        answer(reply) { () throws(FileSystemError) in entry(try made.get(), trust: settings.metadataLifetime) }
    }
}
