import Caching
import Catalog
import Statistics
import StoreAPI
import Synchronizer
import Threading

// What close(2) and fsync(2) wait for: decided here, by the setting and by what directories say (``Durability``).
extension Volume {
    func durability(of inode: InodeID) throws(FileSystemError) -> Durability {
        try asked { () throws(CatalogError) in try catalog.durability(of: inode) } ?? settings.durability
    }

    /// What was written survives the end of this process.
    func save(_ handle: FileHandle) throws(FileSystemError) {
        try cached { () throws(CacheError) in try handle.content.save() }
        changedHere()
    }

    /// close(2): saves, and waits for the store where that is to be.
    func flush(_ handle: FileHandle, _ interruption: (any Interruptible)?, _ reply: @escaping FileSystem.Reply<Void>) {
        guard handle.isWritable else { return reply(.success(())) }
        do throws(FileSystemError) {
            try save(handle)
            guard try durability(of: handle.inode) == .remote,
                try asked({ () throws(CatalogError) in try catalog.goal(of: handle.inode) }) != nil
            else { return reply(.success(())) }
        } catch { return reply(.failure(error)) }
        bringToStore(handle, interruption, reply)
    }

    /// fsync(2).
    func synchronize(
        _ handle: FileHandle, _ interruption: (any Interruptible)?, _ reply: @escaping FileSystem.Reply<Void>
    ) {
        let durability: Durability
        do { durability = try self.durability(of: handle.inode) } catch { return reply(.failure(error)) }
        switch durability {
        case .writeback: answer(reply) { () throws(FileSystemError) in try save(handle) }
        case .local:
            surroundings.work(reply) { [self] in
                do throws(CacheError) { try handle.content.synchronize() } catch {
                    return .failure(FileSystemError(error))
                }
                changedHere()
                return .success(())
            }
        case .remote: bringToStore(handle, interruption, reply)
        }
    }

    /// fsync(2) of a directory: the names in it survive a loss of power; or all that lies below it is on the store, and
    /// what was taken away from there is not.
    func synchronizeDirectory(
        _ inode: InodeID, _ interruption: (any Interruptible)?, _ reply: @escaping FileSystem.Reply<Void>
    ) {
        let durability: Durability
        do { durability = try self.durability(of: inode) } catch { return reply(.failure(error)) }
        switch durability {
        case .writeback: reply(.success(()))
        case .local:
            surroundings.work(reply) { [self] in
                do throws(CatalogError) { try catalog.makeDurable() } catch { return .failure(FileSystemError(error)) }
                return .success(())
            }
        case .remote:
            let parked = park(interruption, reply)
            let begun = clock.monotonic
            remotePool.submit { [self] in parked.answer(drain(inode, begun) { !parked.isAnswered }) }
        }
    }

    // MARK: Waiting for the store

    /// A request that waits for the store, which a signal for the caller ends.
    private func park(_ interruption: (any Interruptible)?, _ reply: @escaping FileSystem.Reply<Void>)
        -> Parked<Result<Void, FileSystemError>>
    {
        let parking = surroundings.parking
        let interrupted = Monitor<(isInterrupted: Bool, parked: Parked<Result<Void, FileSystemError>>?)>((false, nil))
        @Sendable func end(_ parked: Parked<Result<Void, FileSystemError>>) {
            parking.after(.zero) { parked.answer(.failure(.interrupted)) }
        }
        interruption?.whenInterrupted {
            let parked = interrupted.withLock { state in
                state.isInterrupted = true
                return state.parked
            }
            if let parked { end(parked) }
        }
        let parked = parking.park(for: nil, late: .failure(.timedOut), ended: .failure(.noDevice), reply)
        let isInterrupted = interrupted.withLock { state in
            state.parked = parked
            return state.isInterrupted
        }
        if isInterrupted { end(parked) }
        return parked
    }

    /// Brings a file to the disk and then to the store. To the disk as well, since what this machine knows of it has to be
    /// right after a loss of power.
    private func bringToStore(
        _ handle: FileHandle, _ interruption: (any Interruptible)?, _ reply: @escaping FileSystem.Reply<Void>
    ) {
        let parked = park(interruption, reply)
        surroundings.pool.submit { [self] in
            do throws(FileSystemError) {
                try cached { () throws(CacheError) in try handle.content.synchronize() }
                let goal = try asked { () throws(CatalogError) in try catalog.goal(of: handle.inode) }
                guard let goal else {
                    parked.answer(.success(()))
                    return
                }
                let wait = backing.synchronizer.whenOnStore(goal) { [self] error in
                    parked.answer(error.map { .failure(refusal($0, of: goal.inode)) } ?? .success(()))
                }
                limit(wait, parked)
            } catch { parked.answer(.failure(error)) }
        }
    }

    /// Nobody waits for a store that takes nothing.
    private func limit(_ wait: Synchronizer.Wait, _ parked: Parked<Result<Void, FileSystemError>>) {
        guard !parked.isAnswered else { return }
        surroundings.parking.after(settings.requestDeadline) { [weak self] in
            guard let self, !parked.isAnswered, backing.synchronizer.hurry(wait) else { return }
            limit(wait, parked)
        }
    }

    /// What a program is told whose file is not on the store. It is kept here, and tried again.
    private func refusal(_ error: StoreError, of inode: InodeID) -> FileSystemError {
        let path = (try? catalog.path(of: inode)).flatMap { $0 }?.description ?? "a file without a name"
        surroundings.statistics.report(
            kind: "durability",
            message: "close or fsync of '/\(path)' has failed, it is not on the store: \(error.message)",
            advice: "The file is kept here, and stays in stats/notuploaded until the store has it.")
        switch error.code {
        case .quotaExceeded: return .quotaExceeded
        case .tooLarge: return .tooLarge
        default: return .inputOutput
        }
    }

    /// Waits on this thread until everything at and below a directory is on the store, or until nothing was sent for as
    /// long as a program waits for the store.
    private func drain(_ directory: InodeID, _ begun: MonotonicTime, isWanted: () -> Bool) -> Result<
        Void, FileSystemError
    > {
        do throws(CatalogError) {
            try catalog.makeDurable()
            // It was removed: nothing of it is to be on the store.
            guard let path = try catalog.path(of: directory) else { return .success(()) }
            var last: (progress: DrainProgress, sent: Int64)?
            var moved = begun
            let left = try backing.synchronizer.drain(path) { progress in
                let sent = surroundings.statistics.snapshot()[.bytesUploaded]
                if let last, last.progress != progress || last.sent != sent { moved = clock.monotonic }
                last = (progress, sent)
                return isWanted() && clock.monotonic - moved <= settings.requestDeadline
            }
            guard left.itemsLeft > 0 else { return .success(()) }
            if isWanted() {
                surroundings.statistics.report(
                    kind: "durability",
                    message:
                        "fsync of the directory '/\(path)' has failed: \(left.itemsLeft) changes are not on the store",
                    advice: "They are kept here, and stay in stats/notuploaded until the store has them.")
            }
            return .failure(.inputOutput)
        } catch { return .failure(FileSystemError(error)) }
    }
}
