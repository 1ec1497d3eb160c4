import Caching
import Catalog
import Glibc
import StoreAPI
import Synchronization
import Threading

/// A write that may have to wait for room in the cache: the bytes are copied only then.
private final class WriteParcel: Sendable {
    enum State {
        /// The caller's buffer is still valid: the calling thread writes.
        case early
        /// There is room (or there will be none), before the calling thread has looked.
        case decided(CacheError?)
        /// The calling thread has gone; these are its bytes.
        case waiting([UInt8])
    }
    let state = Lock(State.early)
}

extension Volume {
    // MARK: Opening

    /// Opens for a caller who waits. The first bytes of a file of which none are here are brought before the answer:
    /// whoever opens a file that has another version on the store by now is told to look the name up again (as the
    /// kernel does by itself), and gets the new one.
    func open(_ inode: InodeID, flags: Int32, by caller: Caller, _ reply: @escaping FileSystem.Reply<OpenFile>) {
        let open: OpenFile
        do { open = try self.open(inode, flags: flags, by: caller) } catch { return reply(.failure(error)) }
        guard flags & O_ACCMODE == O_RDONLY, case .file(let file)? = handles[open.handle],
            case .good = lister.outlook(for: .root)
        else { return reply(.success(open)) }
        let isAbsent = file.content.beginsOnTheStore
        siblings.opened(inode, isAbsent: isAbsent)
        guard isAbsent else { return reply(.success(open)) }
        // Other errors than that are told to those who read: what is needed may be here.
        let parked = surroundings.parking.park(
            for: min(Self.refreshBound, settings.requestDeadline), late: .success(open), ended: .success(open), reply)
        file.content.read(at: 0, count: 1, pattern: file.pattern) { [self] result in
            guard case .failure(let error) = result, FileSystemError(error) == .stale else {
                parked.answer(.success(open))
                return
            }
            lister.distrustPath(to: inode)
            if parked.answer(.failure(.stale)), case .file(let file) = handles.remove(open.handle) {
                file.content.close()
                closed(inode)
            }
        }
    }

    /// - Parameter isNew: The file was just made, by whoever is going to write to it.
    func open(_ inode: InodeID, flags: Int32, isNew: Bool = false, by caller: Caller) throws(FileSystemError)
        -> OpenFile
    {
        let isWritable = flags & O_ACCMODE != O_RDONLY
        let isToChange = isWritable || flags & O_TRUNC != 0
        if isToChange { try mayChange() }
        var record = isToChange ? try named(inode) : try existing(inode)
        switch record.kind {
        case .file: break
        case .directory: throw .isADirectory
        case .symbolicLink: throw .loop
        case .fifo, .characterDevice, .blockDevice, .socket: throw .unsupported
        }
        let content = try cached { () throws(CacheError) in try cache.open(inode, isNew: isNew) }
        do {
            if flags & O_TRUNC != 0, !isNew {
                try cached { () throws(CacheError) in
                    try content.truncate(to: 0)
                    try content.save()
                }
                record = try clearPrivileges(record, by: caller)
                changedHere()
            }
        } catch {
            content.close()
            throw error
        }
        let node = nodes.open(inode)
        // The first write finds out.
        if isWritable {
            node.mayHavePrivileges.store(true, ordering: .relaxed)
            node.wasOpenedForWriting.store(true, ordering: .relaxed)
        }
        let handle = FileHandle(volume: self, inode: inode, node: node, content: content, isWritable: isWritable)
        // The bytes of an inode change through this mount only: what the kernel has of it is right.
        return OpenFile(handle: handles.add(.file(handle)), keepCache: true, directIO: false)
    }

    func release(_ handle: FileHandle) throws(FileSystemError) {
        defer {
            handle.content.close()
            closed(handle.inode)
        }
        if handle.isWritable { try save(handle) }
    }

    // MARK: Reading

    func read(
        _ handle: FileHandle, at offset: Int64, count: Int,
        _ reply: @escaping FileSystem.Reply<UnsafeRawBufferPointer>
    ) {
        guard offset >= 0, count >= 0 else { return reply(.failure(.invalid)) }
        handle.content.read(at: offset, count: count, pattern: handle.pattern) { result in
            switch result {
            case .success(let bytes): reply(.success(bytes))
            case .failure(let error):
                let error = FileSystemError(error)
                if error == .stale { self.lister.distrustPath(to: handle.inode) }
                reply(.failure(error))
            }
        }
    }

    /// Bytes that are still in the kernel's page cache are data too: it does not send them by itself before it asks.
    func seek(_ handle: FileHandle, _ offset: Int64, toHole: Bool, _ reply: @escaping FileSystem.Reply<Int64>) {
        guard handle.node.wasOpenedForWriting.load(ordering: .relaxed) else {
            return answer(reply) { () throws(FileSystemError) in try seek(handle, offset, toHole: toHole) }
        }
        let parked = surroundings.parking.park(
            for: settings.requestDeadline, late: .failure(.timedOut), ended: .failure(.noDevice), reply)
        surroundings.notices.writeBack(numbers.number(handle.inode)) { [self] in
            answer({ parked.answer($0) }) { () throws(FileSystemError) in try seek(handle, offset, toHole: toHole) }
        }
    }

    private func seek(_ handle: FileHandle, _ offset: Int64, toHole: Bool) throws(FileSystemError) -> Int64 {
        guard offset >= 0,
            let found = try cached({ () throws(CacheError) in try handle.content.seek(offset, toHole: toHole) })
        else { throw .system(ENXIO) }
        return found
    }

    // MARK: Writing

    func write(
        _ handle: FileHandle, at offset: Int64, _ bytes: UnsafeRawBufferPointer, _ isPageCache: Bool, by caller: Caller,
        _ reply: @escaping FileSystem.Reply<Int>
    ) {
        do { try mayWrite(handle, at: offset, count: Int64(bytes.count), by: caller) } catch {
            return reply(.failure(error))
        }
        let parcel = WriteParcel()
        cache.reserve(Int64(bytes.count)) { [self] failure in
            let waiting: [UInt8]? = parcel.state.withLock { state in
                guard case .waiting(let copy) = state else {
                    state = .decided(failure)
                    return nil
                }
                return copy
            }
            waiting?.withUnsafeBytes { writeNow(handle, at: offset, $0, isPageCache, failure, reply) }
        }
        enum Step { case wait, write(CacheError?) }
        let step = parcel.state.withLock { state -> Step in
            if case .decided(let failure) = state { return .write(failure) }
            state = .waiting(Array(bytes))
            return .wait
        }
        switch step {
        case .write(let failure): writeNow(handle, at: offset, bytes, isPageCache, failure, reply)
        case .wait: break
        }
    }

    /// - Parameter failure: Why there is no room.
    private func writeNow(
        _ handle: FileHandle, at offset: Int64, _ bytes: UnsafeRawBufferPointer, _ isPageCache: Bool,
        _ failure: CacheError?, _ reply: @escaping FileSystem.Reply<Int>
    ) {
        let count = bytes.count
        do throws(CacheError) {
            if let failure { throw failure }
            try handle.content.write(bytes, at: offset, isPageCache: isPageCache)
            reply(.success(count))
        } catch {
            // Others have filled the disk since there was room. That is no reason to fail: as any other writer in a full
            // cache this one waits.
            guard case .system(ENOSPC) = error else { return reply(.failure(FileSystemError(error))) }
            guard !cache.hasRoom(for: Int64(count)) else {
                // Nothing tells when there will be more.
                cache.reportUsedUpQuota()
                return reply(.failure(.noSpace))
            }
            let copy = Array(bytes)
            cache.reserve(Int64(count)) { [self] failure in
                copy.withUnsafeBytes { writeNow(handle, at: offset, $0, isPageCache, failure, reply) }
            }
        }
    }

    private func mayWrite(_ handle: FileHandle, at offset: Int64, count: Int64, by caller: Caller)
        throws(FileSystemError)
    {
        try mayChange()
        guard handle.isWritable else { throw .badHandle }
        guard offset >= 0 else { throw .invalid }
        let (end, isTooLarge) = offset.addingReportingOverflow(count)
        guard !isTooLarge else { throw .tooLarge }
        if let largest = backing.store.capabilities.largestObject, end > largest { throw .tooLarge }
        if handle.node.mayHavePrivileges.load(ordering: .relaxed) {
            let record = try clearPrivileges(existing(handle.inode), by: caller)
            handle.node.mayHavePrivileges.store(record.mode & 0o6000 != 0, ordering: .relaxed)
        }
    }

    // MARK: Space

    func allocate(
        _ handle: FileHandle, mode: Int32, range: Range<Int64>, by caller: Caller,
        _ reply: @escaping FileSystem.Reply<Void>
    ) {
        enum Kind { case allocate, punch, zero }
        let keepsSize = mode & FALLOC_FL_KEEP_SIZE != 0
        let kind: Kind
        switch mode {
        case 0, FALLOC_FL_KEEP_SIZE: kind = .allocate
        case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE: kind = .punch
        case FALLOC_FL_ZERO_RANGE, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE: kind = .zero
        default: return reply(.failure(.unsupported))
        }
        do throws(FileSystemError) {
            guard range.lowerBound >= 0, !range.isEmpty else { throw .invalid }
            try mayWrite(handle, at: range.lowerBound, count: range.upperBound - range.lowerBound, by: caller)
        } catch { return reply(.failure(error)) }
        answer(reply) { () throws(FileSystemError) in
            try cached { () throws(CacheError) in
                switch kind {
                case .allocate: try handle.content.allocate(range, keepSize: keepsSize)
                case .punch: try handle.content.punchHole(range)
                case .zero: try handle.content.zero(range, keepSize: keepsSize)
                }
            }
        }
    }

    func copyRange(
        from source: FileHandle, at offset: Int64, to target: FileHandle, at targetOffset: Int64, count: Int64,
        by caller: Caller, _ reply: @escaping FileSystem.Reply<Int64>
    ) {
        // What lies behind the source's end is not copied, and does not count against the largest size.
        let count = min(count, max(source.content.size - offset, 0))
        do throws(FileSystemError) {
            guard offset >= 0, count >= 0 else { throw .invalid }
            try mayWrite(target, at: targetOffset, count: count, by: caller)
        } catch { return reply(.failure(error)) }
        guard count > 0 else { return reply(.success(0)) }
        source.content.copy(from: offset, to: target.content, at: targetOffset, count: count) { result in
            switch result {
            case .success(let copied): reply(.success(copied))
            case .failure(let error): reply(.failure(FileSystemError(error)))
            }
        }
    }
}
