import Glibc
import StoreAPI

// The operations by handle.
extension FileSystem {
    package func open(_ number: UInt64, flags: Int32, by caller: Caller, _ reply: @escaping Reply<OpenFile>) {
        switch place(number) {
        case .stored(let volume, let inode): volume.open(inode, flags: flags, by: caller, reply)
        case .virtual(let id):
            answer(reply) { () throws(FileSystemError) in openFile(try tree.open(id, flags: flags)) }
        case .noStore: reply(.failure(.isADirectory))
        case .gone: reply(.failure(.stale))
        }
    }

    /// The buffer is valid during `reply` only.
    package func read(
        _ handle: HandleID, at offset: Int64, count: Int, _ reply: @escaping Reply<UnsafeRawBufferPointer>
    ) {
        switch handles[handle] {
        case .file(let file): file.volume.read(file, at: offset, count: count, reply)
        case .virtualFile(let file): tree.read(file, at: offset, count: count, reply)
        case .lost: reply(.failure(.noDevice))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    /// The buffer is taken (copied) before this returns.
    ///
    /// - Parameter isPageCache: The kernel writes what programs have written before; it keeps the time of that itself.
    package func write(
        _ handle: HandleID, at offset: Int64, _ bytes: UnsafeRawBufferPointer, isPageCache: Bool, by caller: Caller,
        _ reply: @escaping Reply<Int>
    ) {
        switch handles[handle] {
        case .file(let file): file.volume.write(file, at: offset, bytes, isPageCache, by: caller, reply)
        case .virtualFile(let file):
            answer(reply) { () throws(FileSystemError) in try tree.write(file, at: offset, bytes) }
        case .lost: reply(.failure(.noDevice))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    /// close(2) of one of the handle's descriptors.
    ///
    /// - Parameter interruption: Ends the wait for a store.
    package func flush(_ handle: HandleID, interruption: (any Interruptible)? = nil, _ reply: @escaping Reply<Void>) {
        switch handles[handle] {
        case .file(let file): file.volume.flush(file, interruption, reply)
        case .virtualFile(let file): tree.flush(file, reply)
        case .lost: reply(.failure(.noDevice))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    package func release(_ handle: HandleID, _ reply: @escaping Reply<Void>) {
        switch handles.remove(handle) {
        case .file(let file): answer(reply) { () throws(FileSystemError) in try file.volume.release(file) }
        case .virtualFile(let file): tree.release(file, reply)
        case .lost: reply(.success(()))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    /// fsync(2) and fdatasync(2).
    ///
    /// - Parameter interruption: Ends the wait for a store.
    package func synchronize(
        _ handle: HandleID, interruption: (any Interruptible)? = nil, _ reply: @escaping Reply<Void>
    ) {
        switch handles[handle] {
        case .file(let file): file.volume.synchronize(file, interruption, reply)
        // What is written to a control file is taken when it is closed.
        case .virtualFile: reply(.success(()))
        case .lost: reply(.failure(.noDevice))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    /// - Parameter mode: as of fallocate(2); what is not supported is refused.
    package func allocate(
        _ handle: HandleID, mode: Int32, range: Range<Int64>, by caller: Caller, _ reply: @escaping Reply<Void>
    ) {
        switch handles[handle] {
        case .file(let file): file.volume.allocate(file, mode: mode, range: range, by: caller, reply)
        case .virtualFile: reply(.failure(.unsupported))
        case .lost: reply(.failure(.noDevice))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    package func seek(_ handle: HandleID, _ offset: Int64, toHole: Bool, _ reply: @escaping Reply<Int64>) {
        switch handles[handle] {
        case .file(let file): file.volume.seek(file, offset, toHole: toHole, reply)
        case .virtualFile: reply(.failure(.unsupported))
        case .lost: reply(.failure(.noDevice))
        case .directory, .virtualDirectory, .emptyDirectory, nil: reply(.failure(.badHandle))
        }
    }

    package func copyRange(
        from handle: HandleID, at offset: Int64, to target: HandleID, at targetOffset: Int64, count: Int64,
        by caller: Caller, _ reply: @escaping Reply<Int64>
    ) {
        switch (handles[handle], handles[target]) {
        case (.file(let source), .file(let target)) where source.volume === target.volume:
            source.volume.copyRange(
                from: source, at: offset, to: target, at: targetOffset, count: count, by: caller, reply)
        case (.file, .virtualFile), (.virtualFile, .file), (.virtualFile, .virtualFile):
            reply(.failure(.crossDevice))
        case (.lost, _), (_, .lost): reply(.failure(.noDevice))
        default: reply(.failure(.badHandle))
        }
    }

    // MARK: Directories

    package func openDirectory(_ number: UInt64, _ reply: @escaping Reply<HandleID>) {
        answer(reply) { () throws(FileSystemError) in
            switch place(number) {
            case .stored(let volume, let inode): return try volume.openDirectory(inode)
            case .virtual(let id):
                guard case .directory = try tree.node(id).content else { throw .notADirectory }
                return handles.add(.virtualDirectory(id))
            case .noStore: return handles.add(.emptyDirectory)
            case .gone: throw .stale
            }
        }
    }

    /// Calls `add` for each entry from `cookie` on until it answers false (the buffer is full) or there are no more,
    /// then `reply`. `add` is called on the thread that calls `reply`. With `plus`, an entry that was taken counts
    /// as a lookup.
    package func readDirectory(
        _ handle: HandleID, after cookie: Int64, plus: Bool, add: @escaping @Sendable (ListedEntry) -> Bool,
        _ reply: @escaping Reply<Void>
    ) {
        switch handles[handle] {
        case .directory(let volume, let inode):
            volume.readDirectory(inode, after: cookie, plus: plus, add: add, reply)
        case .virtualDirectory(let id):
            answer(reply) { () throws(FileSystemError) in
                try tree.readDirectory(id, after: cookie, plus: plus, add: add)
            }
        case .emptyDirectory:
            let root = NumberSpace.storeRoot(isFlat: isFlat)
            if cookie < 1, !add(ListedEntry(name: [46], cookie: 1, number: root, kind: .directory)) {
                return reply(.success(()))
            }
            if cookie < 2 { _ = add(ListedEntry(name: [46, 46], cookie: 2, number: 1, kind: .directory)) }
            reply(.success(()))
        case .lost: reply(.failure(.noDevice))
        case .file, .virtualFile, nil: reply(.failure(.badHandle))
        }
    }

    package func releaseDirectory(_ handle: HandleID) {
        if case .directory(let volume, let inode) = handles.remove(handle) { volume.closed(inode) }
    }

    /// fsync(2) of a directory.
    ///
    /// - Parameter interruption: Ends the wait for a store.
    package func synchronizeDirectory(
        _ handle: HandleID, interruption: (any Interruptible)? = nil, _ reply: @escaping Reply<Void>
    ) {
        switch handles[handle] {
        case .directory(let volume, let inode): volume.synchronizeDirectory(inode, interruption, reply)
        case .virtualDirectory, .emptyDirectory: reply(.success(()))
        case .lost: reply(.failure(.noDevice))
        case .file, .virtualFile, nil: reply(.failure(.badHandle))
        }
    }
}
