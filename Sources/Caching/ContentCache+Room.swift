package import Catalog
import Glibc
import Statistics
import StoreAPI
import Synchronization
import Threading

extension ContentCache {
    package func setLimits(_ limits: CacheLimits) {
        accounts.soft.store(limits.soft, ordering: .relaxed)
        accounts.hard.store(limits.hard, ordering: .relaxed)
        accounts.setFloor(limits, disk: DiskSpace(of: folder))
        roomMayBeFound()
    }

    /// Calls `ready` when there is room for `bytes` more: at once below the hard limit, else when uploads and
    /// eviction have made room, on another thread. With an error when the cache is shut down first. The room is held
    /// until the write that it was asked for has been done or has failed: each call is followed by one.
    package func reserve(_ bytes: Int64, _ ready: @escaping @Sendable (CacheError?) -> Void) {
        if takeRoom(bytes, ifThereIs: enough(for: bytes)) { return ready(nil) }
        // Seen before the end of the cache, or it is the one who parks that sees the end.
        let isParked = parked.withLock { parked in
            guard !isShutDown else { return false }
            parked.push(ParkedWriter(bytes: bytes, ready: ready))
            accounts.waiting.add(1, ordering: .relaxed)
            return true
        }
        guard isParked else { return ready(.shutDown) }
        statistics.add(.writersDelayed)
        evicting.update {
            $0.isNeeded = true
            $0.hasHope = true
        }
    }

    /// - Returns: Whether there was room for all, and nobody who waits for it.
    func reserveAtOnce(_ bytes: Int64) -> Bool { takeRoom(bytes, ifThereIs: bytes) }

    private func takeRoom(_ bytes: Int64, ifThereIs needed: Int64) -> Bool {
        guard accounts.waiting.load(ordering: .relaxed) == 0 else { return false }
        // One at a time, so that no two take the same room.
        return admission.withLock { _ in
            guard hasRoom(for: needed) else { return false }
            accounts.promise(bytes)
            return true
        }
    }

    /// How much has to be free for a writer to go on. One who wants much must not wait for a cache that is empty: some
    /// of what is in it may never go.
    private func enough(for bytes: Int64) -> Int64 { min(bytes, accounts.hard.load(ordering: .relaxed) / 2) }

    /// Waits on this thread until there is room, and takes it. ``CacheAccounts/endPromise(_:)`` gives it back.
    func waitForRoom(_ bytes: Int64) throws(CacheError) {
        let result = Monitor<Result<Void, CacheError>?>(nil)
        reserve(bytes) { error in result.update { $0 = error.map { .failure($0) } ?? .success(()) } }
        try result.wait { $0 }!.get()
    }

    /// Whether a write of `bytes` would not have to wait.
    package func hasRoom(for bytes: Int64) -> Bool { missingRoom(for: bytes) <= 0 }

    /// How much has to go before `bytes` more have room; 0 or less: nothing.
    private func missingRoom(for bytes: Int64) -> Int64 {
        let outstanding = accounts.outstanding
        let hard = accounts.hard.load(ordering: .relaxed)
        let overLimit = accounts.total + outstanding + bytes - hard
        return max(overLimit, outstanding + bytes + accounts.spare - freeAboveFloor())
    }

    /// Free bytes on the disk above the floor. The disk is asked a few times a second at most; what this cache has
    /// written since then counts, what others have written does not.
    private func freeAboveFloor(lookNow: Bool = false) -> Int64 {
        let now = MonotonicTime.now.nanoseconds
        let looked = accounts.diskLooked.load(ordering: .relaxed)
        if lookNow || now - looked > 250_000_000,
            accounts.diskLooked.compareExchange(expected: looked, desired: now, ordering: .relaxed).exchanged
        {
            accounts.diskFree.store(DiskSpace(of: folder)?.free ?? .max / 2, ordering: .relaxed)
        }
        return accounts.diskFree.load(ordering: .relaxed) - accounts.floor.load(ordering: .relaxed)
    }

    /// Bytes came to the cache (or went: negative).
    func charge(_ bytes: Int64) {
        guard bytes != 0 else { return }
        let used = accounts.used.add(bytes, ordering: .relaxed).newValue
        statistics.set(.cachedBytes, max(0, used))
        if bytes < 0 {
            if accounts.waiting.load(ordering: .relaxed) > 0 { roomMayBeFound() }
        } else {
            accounts.diskFree.subtract(bytes, ordering: .relaxed)
            if used > accounts.soft.load(ordering: .relaxed) || freeAboveFloor() <= accounts.spare { wakeEvictor() }
        }
    }

    private func wakeEvictor() {
        guard !evicting.withLock({ $0.isNeeded }) else { return }
        evicting.update { $0.isNeeded = true }
    }

    /// How much read-ahead may ask for.
    var readAheadRoom: Int64 {
        let soft = accounts.soft.load(ordering: .relaxed)
        let hard = accounts.hard.load(ordering: .relaxed)
        return max(0, min(soft / 4, hard - accounts.total - accounts.outstanding, freeAboveFloor() - accounts.spare))
    }

    /// Something has happened after which there may be more room, or more to evict: waiting writers and eviction that
    /// found nothing go on. For contents see ``CachedContent/update(_:)``.
    func roomMayBeFound() {
        evicting.update {
            $0.hasHope = true
            $0.isFruitless = false
        }
    }

    /// The synchronizer has told the catalog that the content is on the store (or where it is now).
    package func contentWasUploaded(_ inode: InodeID) {
        guard let content = table.withLock({ $0.contents[inode] }) else { return roomMayBeFound() }
        do throws(CacheError) { try content.refresh() } catch { report(error, "read the catalog") }
    }

    /// Set once, by the synchronizer: asked to upload at once because writers wait.
    package func onPressure(_ body: @escaping @Sendable () -> Void) { pressure.withLock { $0 = body } }

    /// Does what there is to do about an error of a system call on a cache file.
    /// - Returns: Whether it is worth another attempt.
    func mayHelp(after error: CacheError, needing bytes: Int64) -> Bool {
        switch error {
        case .system(ENOSPC): makeRoom(for: bytes)
        case .system(EMFILE), .system(ENFILE): closeIdleFiles(downTo: 0)
        default: return false
        }
        return true
    }

    /// Evicts at once what `bytes` more need, as far as that is possible: the disk is full.
    func makeRoom(for bytes: Int64) {
        _ = evict { max(bytes, 8 << 20) }
        _ = freeAboveFloor(lookNow: true)
    }

    /// - Returns: Whether there is room now.
    @discardableResult
    func makeRoomIfNeeded(for bytes: Int64) -> Bool {
        guard missingRoom(for: bytes) > 0 else { return true }
        let eviction = evict { missingRoom(for: bytes) }
        return eviction.freed >= eviction.goal
    }

    /// Makes room for a fetch, and counts it. One that somebody waits for may go above the hard limit, and may use what
    /// writers leave free on the disk. When even that is used up it waits, on this thread, as long as a reader does.
    /// - Returns: false: nobody waits for it, and there is no room.
    /// - Throws: ``CacheError/system(_:)`` with ENOSPC when an upload needs it: to wait would keep others from it.
    func admit(_ fetch: Fetch) throws(CacheError) -> Bool {
        let length = fetch.range.length
        func isAdmitted(_ hasRoom: () -> Bool) -> Bool {
            admission.withLock { _ in
                guard hasRoom() else { return false }
                accounts.incoming.add(length, ordering: .relaxed)
                return true
            }
        }
        while true {
            keepSoftLimit(length)
            makeRoomIfNeeded(for: length)
            if isAdmitted({ keepsSoftLimit(length) && hasRoom(for: length) }) { return true }
            // Others have taken what was just freed.
            if !keepsSoftLimit(length) { continue }
            let wish = fetch.wish
            guard wish != .none, !isShutDown else { return false }
            if isAdmitted({ diskHasRoom(for: length) }) { return true }
            reportFullDisk()
            guard wish == .reader else { throw .system(ENOSPC) }
            wakeEvictor()
            _ = awaited.wait(until: .now + .milliseconds(100)) { $0.isOver ? () : nil }
        }
    }

    /// How far the cache is above its size when `length` more are fetched.
    private func overSoftLimit(_ length: Int64) -> Int64 {
        accounts.total + accounts.underWay + length - accounts.soft.load(ordering: .relaxed)
    }

    /// Whether a fetch of `length` keeps the cache at its size, or nothing can be done about it.
    private func keepsSoftLimit(_ length: Int64) -> Bool {
        overSoftLimit(length) <= accounts.soft.load(ordering: .relaxed) / 50 || evicting.withLock { $0.isFruitless }
    }

    /// Evicts on the time of one who fetches where the thread that evicts does not keep up.
    private func keepSoftLimit(_ length: Int64) {
        guard !keepsSoftLimit(length) else { return }
        let eviction = evict { overSoftLimit(length) }
        if eviction.goal > 0, eviction.freed == 0 { evicting.withLock { $0.isFruitless = true } }
    }

    /// Whether `bytes` more leave the disk above its floor; whatever the limits of the cache say.
    func diskHasRoom(for bytes: Int64) -> Bool { accounts.underWay + bytes + accounts.spare / 2 <= freeAboveFloor() }

    /// Whether there is room for `bytes` that come on top of the cache and go soon: the copy of a file.
    package func hasRoomOnDisk(for bytes: Int64) -> Bool { diskHasRoom(for: bytes + accounts.spare) }

    func fetchIsOver(_ fetch: Fetch) {
        accounts.incoming.subtract(fetch.range.length, ordering: .relaxed)
        evicting.withLock { $0.isFruitless = false }
        if accounts.waiting.load(ordering: .relaxed) > 0 { roomMayBeFound() }
    }

    // MARK: Eviction

    /// The body of the thread that evicts, and that serves writers who wait.
    func evictWhenNeeded() {
        while true {
            let someoneWaits = accounts.waiting.load(ordering: .relaxed) > 0
            // Others may fill the disk meanwhile, or empty it.
            let end = evicting.wait(until: .now + (someoneWaits ? .seconds(1) : .seconds(5))) { state -> Bool? in
                if state.isOver { return true }
                return state.isNeeded || state.hasHope ? false : nil
            }
            if end == true { return }
            evicting.withLock {
                $0.isNeeded = false
                $0.hasHope = false
            }
            let eviction = excess() > 0 ? evict(excess) : (goal: 0, freed: 0)
            serveParked()
            guard excess() > 0 else { continue }
            // Only uploads help now.
            if eviction.freed < eviction.goal { pressure.withLock { $0 }?() }
            if accounts.waiting.load(ordering: .relaxed) > 0, freeAboveFloor() <= accounts.spare { reportFullDisk() }
            // What comes in meanwhile need not start one fruitless search after the other.
            let pause = MonotonicTime.now + .milliseconds(250)
            if eviction.goal > 0, eviction.freed == 0 {
                _ = evicting.wait(until: pause) { $0.isOver || $0.hasHope ? () : nil }
            } else {
                wakeEvictor()
            }
        }
    }

    /// How much ought to go.
    private func excess() -> Int64 {
        let soft = accounts.soft.load(ordering: .relaxed)
        let total = accounts.total
        // A little more than needed, so that not every write has to wait for an eviction.
        let overSoft = total > soft ? total - soft + soft / 20 : 0
        let free = freeAboveFloor()
        let overFloor = free <= accounts.spare ? 1 - free + 2 * accounts.spare : 0
        let next = parked.withLock { $0.first?.bytes ?? 0 }
        return max(overSoft, overFloor, next > 0 ? missingRoom(for: enough(for: next)) : 0)
    }

    /// Somebody waits, and it is not for the limit of the cache.
    private func reportFullDisk() {
        let needed = accounts.floor.load(ordering: .relaxed) + accounts.spare
        statistics.report(
            kind: StoreError.Code.noLocalSpace.rawValue,
            message: "programs wait: less than \(needed / 1_000_000) MB are free on the disk that holds the cache, "
                + "and nothing in the cache can be given up before it is uploaded",
            advice: "Free some space on the disk that holds the cache; nothing is lost, and they go on by themselves.")
    }

    /// A write failed although the disk tells of free space.
    package func reportUsedUpQuota() {
        statistics.report(
            kind: StoreError.Code.noLocalSpace.rawValue,
            message: "the disk that holds the cache takes no more, and tells of free space: a quota is used up",
            advice: "Raise the quota, or set cache_size and hard_cache_size_limit well below it.")
    }

    private struct Victim {
        var inode: InodeID
        /// nil: not loaded, all of it.
        var content: CachedContent?
        var range: Range<Int64>
        var used: Int64
        var bytes: Int64
    }

    /// Takes clean bytes out of the cache, those used longest ago first, until as many are free as `needed` says. It
    /// is asked when the evictions before have ended: what they free need not go twice.
    /// - Returns: How many that were, and how many are free.
    func evict(_ needed: () -> Int64) -> (goal: Int64, freed: Int64) {
        tellUses()
        return eviction.withLock { _ in
            let goal = needed()
            var freed: Int64 = 0
            while freed < goal {
                var round: Int64 = 0
                var taken: [Taken] = []
                for victim in victims() where freed + round < goal {
                    do throws(CacheError) { round += try take(victim, &taken) } catch {
                        report(error, "evict from the cache")
                    }
                }
                clear(taken)
                if round == 0 { break }
                freed += round
            }
            return (goal, freed)
        }
    }

    /// What is in the cache no more, and still on the disk.
    private struct Taken {
        var content: CachedContent
        var removed: RangeSet
        var freed: Int64
    }

    /// - Returns: How many bytes that will free, or has freed.
    private func take(_ victim: Victim, _ taken: inout [Taken]) throws(CacheError) -> Int64 {
        let content: CachedContent
        var freed: Int64 = 0
        if let loaded = victim.content {
            content = loaded
            let isThere = table.withLock { table in
                guard table.contents[victim.inode] === content else { return false }
                retain(content)
                return true
            }
            guard isThere else { return 0 }
        } else {
            content = try load(victim.inode, isUse: false)
            freed = content.distrusted
        }
        do throws(CacheError) {
            let outcome = try content.takeOut(victim.range)
            taken.append(Taken(content: content, removed: outcome.removed, freed: outcome.freed))
            return freed + outcome.freed
        } catch {
            content.close()
            throw error
        }
    }

    /// After a loss of power no catalog must take holes for bytes: so it comes to the disk first, for all at once.
    private func clear(_ taken: [Taken]) {
        var failure: CacheError?
        if taken.contains(where: { !$0.removed.isEmpty }) {
            do throws(CacheError) {
                try asking { () throws(CatalogError) in try index.makeDurable() }
            } catch {
                failure = error
                report(error, "evict from the cache")
            }
        }
        for part in taken {
            defer {
                charge(-part.freed)
                part.content.close()
            }
            guard failure == nil, !part.removed.isEmpty else { continue }
            do throws(CacheError) {
                try part.content.clear(part.removed)
                statistics.add(.bytesEvicted, part.freed)
            } catch { report(error, "evict from the cache") }
        }
    }

    private func victims() -> [Victim] {
        let loaded = table.withLock { $0.contents }
        var victims: [Victim] = []
        for (inode, content) in loaded {
            for part in content.evictionCandidates() {
                victims.append(
                    Victim(inode: inode, content: content, range: part.range, used: part.used, bytes: part.bytes))
            }
        }
        do throws(CatalogError) {
            let offset = MonotonicTime.now.nanoseconds - Timestamp.now.nanoseconds
            for candidate in try index.evictionCandidates(limit: 64 + loaded.count)
            where loaded[candidate.inode] == nil {
                victims.append(
                    Victim(
                        inode: candidate.inode, content: nil, range: 0..<Int64.max,
                        used: candidate.used.nanoseconds + offset, bytes: candidate.cachedBytes))
            }
        } catch { report(.catalog(error), "find what to evict") }
        return victims.sorted { $0.used < $1.used }
    }

    // MARK: Writers who wait

    private func serveParked() {
        for writer in takeParked(all: false) { writer.ready(nil) }
    }

    func takeParked(all: Bool) -> [ParkedWriter] {
        var served: [ParkedWriter] = []
        parked.withLock { parked in
            while let next = parked.first {
                let isServed = admission.withLock { _ in
                    guard !all, hasRoom(for: enough(for: next.bytes)) else { return all }
                    accounts.promise(next.bytes)
                    return true
                }
                guard isServed else { break }
                served.append(next)
                parked.pop()
            }
            accounts.waiting.subtract(served.count, ordering: .relaxed)
        }
        return served
    }
}
