import CShim
import Catalog
import Glibc
import Synchronization
import Threading

/// Work in the background that is no eviction: deadlines of those who wait, and what is saved lazily.
extension ContentCache {
    /// How long facts whose loss costs a download are kept in memory only.
    private static let saveInterval: Duration = .seconds(5)
    /// From so many files on they are brought to the disk all at once.
    private static let manyFiles = 8
    /// How long bytes that were written and that no program has brought to the disk may have to be fetched again after a
    /// loss of power. The kernel itself leaves none of them in memory for as long.
    private static let flushInterval: Duration = .seconds(300)

    // MARK: Deadlines

    func watchDeadlines(of content: CachedContent) {
        awaited.update { $0.contents[content.inode] = content }
    }

    /// The body of the thread that tells those whose time is over.
    func watchDeadlines() {
        while true {
            let contents = awaited.wait { state -> [CachedContent]? in
                if state.isOver { return [] }
                return state.contents.isEmpty ? nil : Array(state.contents.values)
            }
            guard let contents, !contents.isEmpty else { return }
            for content in contents where !content.expireWaiters(at: .now) {
                // Somebody may have begun to wait since: that one has put it back, or is seen here.
                awaited.withLock { _ = $0.contents.removeValue(forKey: content.inode) }
                if content.state.withLock({ !$0.waiters.isEmpty }) { watchDeadlines(of: content) }
            }
            let pace = min(max(deadline.load(ordering: .relaxed) / 20, 5_000_000), 1_000_000_000)
            _ = awaited.wait(until: .now + .nanoseconds(pace)) { $0.isOver ? () : nil }
        }
    }

    // MARK: Saving

    func contentNeedsKeeping() {
        guard !keeping.withLock({ $0.isNeeded }) else { return }
        keeping.update { $0.isNeeded = true }
    }

    func fileWasOpened() {
        guard descriptors.open.load(ordering: .relaxed) > descriptorLimit else { return }
        keeping.update { $0.hasTooManyFiles = true }
    }

    /// The body of the thread that saves and closes.
    func keep() {
        var nextFlush = MonotonicTime.now + Self.flushInterval
        while true {
            var mayWaitLonger = true
            while mayWaitLonger {
                let task = keeping.wait(until: nextFlush) { state -> Keeping? in
                    state.isNeeded || state.hasTooManyFiles || state.isOver ? state : nil
                }
                if task?.isOver == true { return }
                if MonotonicTime.now >= nextFlush {
                    flushDisk()
                    nextFlush = .now + Self.flushInterval
                }
                if task?.hasTooManyFiles == true { closeIdleFiles() }
                mayWaitLonger = task?.isNeeded != true
            }
            // Gather what comes in a while: most of it is saved once instead of many times.
            _ = keeping.wait(until: .now + Self.saveInterval) { state in
                state.isOver || state.hasTooManyFiles ? () : nil
            }
            if keeping.withLock({ $0.hasTooManyFiles }) { closeIdleFiles() }
            keeping.withLock { $0.isNeeded = false }
            keepNow()
        }
    }

    /// Saves what was left to be saved later, and lets go of what nobody has open.
    func keepNow() {
        tellUses()
        let contents = table.withLock { Array($0.contents.values) }
        saveAll(contents)
        table.withLock { table in
            for content in contents where content.opens.withLock({ $0 == 0 }) { _ = release(content, &table) }
        }
    }

    func tellUses() {
        let used = table.withLock { table in
            defer { table.used = [] }
            return Array(table.used)
        }
        guard !used.isEmpty else { return }
        do throws(CatalogError) { try index.noteUse(of: used) } catch { report(.catalog(error), "note uses") }
    }

    func saveAll(_ contents: [CachedContent]) {
        let unsaved = contents.filter(\.needsSaving)
        guard !unsaved.isEmpty else { return }
        let isEachByItself = unsaved.count <= Self.manyFiles
        let syncs = unsaved.map { content in
            (content, content.state.withLock { content.beginSync(&$0, isByItself: isEachByItself) })
        }
        let failure = isEachByItself ? nil : synchronizeDisk()
        var synced: [CachedContent] = []
        for (content, begun) in syncs {
            var (sync, own) = (begun, failure ?? begun.carryOut())
            if case .lost = own {
                // Of a file whose bytes are gone the rest is saved all the same.
                own = nil
                sync.changes = 0
            }
            do throws(CacheError) {
                try content.endSync(sync, own, nameIsSynced: false)
                synced.append(content)
            } catch { report(error, "save what is in the cache") }
        }
        for error in save(synced).values {
            // The file was deleted in this moment: nobody needs it to be saved.
            if case .catalog(let error) = error, error.code == .notFound { continue }
            report(error, "save what is in the cache")
        }
    }

    /// Brings all that was written here to the disk, also what no program has asked for: after a loss of power it need
    /// not come again from the store.
    func flushDisk() {
        do throws(CacheError) {
            guard let epoch = try asking({ () throws(CatalogError) in try index.diskWillBeFlushed() }) else { return }
            if let failure = synchronizeDisk() { throw failure }
            try asking { () throws(CatalogError) in try index.diskWasFlushed(epoch) }
        } catch { report(error, "bring the cache to the disk") }
    }

    private func synchronizeDisk() -> CacheError? {
        let descriptor = Glibc.open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return .ofSystemCall() }
        defer { Glibc.close(descriptor) }
        return syncfs(descriptor) == 0 ? nil : .ofSystemCall()
    }

    private func closeIdleFiles() {
        keeping.withLock { $0.hasTooManyFiles = false }
        closeIdleFiles(downTo: descriptorLimit * 3 / 4)
    }

    /// Closes cache files that nobody is reading from, until no more than `count` are open.
    func closeIdleFiles(downTo count: Int) {
        for content in table.withLock({ Array($0.contents.values) }) {
            guard descriptors.open.load(ordering: .relaxed) > count else { return }
            _ = content.closeIdleFile()
        }
    }
}
