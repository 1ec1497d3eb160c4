import CShim
package import Catalog
import Glibc
package import Statistics
package import StoreAPI
import Synchronization
package import Threading

/// The folder of sparse files that hold (parts of) file contents: one file per inode that has bytes here.
///
/// Lock order: the table of contents, then a content, then the accounts; see ``CachedContent``. No lock is held
/// during a request to the store.
package final class ContentCache: Sendable {
    let index: any ContentIndex
    let statistics: Statistics
    let clock: any Clock
    let pool: FetchPool
    let accounts: CacheAccounts
    let descriptors = DescriptorCount()
    /// Cache files that may be open at a time.
    let descriptorLimit: Int
    /// `<folder>/content`, where the cache files are, in directories by the last two hexadecimal digits of the inode.
    let folder: String

    struct Table {
        var contents: [InodeID: CachedContent] = [:]
        /// Opened since the catalog was told.
        var used: Set<InodeID> = []
    }
    let table = Lock(Table())
    /// Held by whoever evicts, one at a time.
    let eviction = Lock(())
    /// Held while it is decided whether there is room, and the room is taken.
    let admission = Lock(())
    private let storeInUse: Lock<any Store>
    let deadline = Atomic<Int64>(Duration.seconds(60).nanoseconds)
    private let hasEnded = Atomic<Bool>(false)

    /// Contents somebody waits on, for the thread that watches deadlines.
    let awaited = Monitor(Awaited())
    struct Awaited {
        var contents: [InodeID: CachedContent] = [:]
        var isOver = false
    }
    /// What the thread that saves and closes has to do.
    let keeping = Monitor(Keeping())
    struct Keeping {
        var isNeeded = false
        var hasTooManyFiles = false
        var isOver = false
    }
    /// What the thread that evicts has to do.
    let evicting = Monitor(Evicting())
    struct Evicting {
        var isNeeded = false
        /// Something happened that may help where eviction could not.
        var hasHope = false
        /// A search has found nothing, and nothing has happened since.
        var isFruitless = false
        var isOver = false
    }
    /// Writers who wait for room, in their order.
    let parked = Lock(Queue<ParkedWriter>())
    struct ParkedWriter: Sendable {
        var bytes: Int64
        var ready: @Sendable (CacheError?) -> Void
    }
    let pressure = Lock<(@Sendable () -> Void)?>(nil)
    /// Those who wait for the disk: see ``commit(_:)``.
    let commits = Gathering<CachedContent, [InodeID: CacheError]>()
    private let threads = Lock<[WorkerThread]>([])

    /// - Parameter folder: Made with mode 0700 if absent. Nothing in it is scanned.
    package convenience init(
        folder: String, catalog: Catalog, store: any Store, limits: CacheLimits, statistics: Statistics,
        clock: any Clock
    ) throws(StoreError) {
        try self.init(
            folder: folder, index: catalog, store: store, limits: limits, statistics: statistics, clock: clock)
    }

    /// - Parameter fetchThreads: How many requests to the store are made at a time, at most.
    package init(
        folder: String, index: any ContentIndex, store: any Store, limits: CacheLimits, statistics: Statistics,
        clock: any Clock, fetchThreads: Int = 64
    ) throws(StoreError) {
        self.folder = folder + "/content"
        self.index = index
        self.statistics = statistics
        self.clock = clock
        pool = FetchPool(limit: fetchThreads)
        storeInUse = Lock(store)
        let content = self.folder
        for directory in [folder, content] + (0...0xff).map({ Self.directory(of: InodeID($0), in: content) }) {
            guard mkdir(directory, 0o700) == 0 || errno == EEXIST else {
                let reason = String(cString: strerror(errno))
                throw StoreError(
                    errno == ENOSPC || errno == EDQUOT ? .noLocalSpace : .invalidArgument,
                    "the cache directory '\(directory)' cannot be made: \(reason)")
            }
        }
        // The names of cache files are synced with the files; those of the directories once, here.
        do {
            for directory in [folder, content] { try CacheFile.synchronize(directory: directory) }
        } catch {
            throw StoreError(.internal, "the cache directory '\(folder)' cannot be brought to the disk: \(error)")
        }
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        descriptorLimit = Int(min(max(limit.rlim_cur / 2, 16), 65536))
        let totals: ContentTotals
        do throws(CatalogError) { totals = try index.contentTotals() } catch {
            throw StoreError(.internal, "the catalog cannot tell what is in the cache: \(error.message)")
        }
        // Holes count in the catalog, but not here: the cache cannot hold more than the disk does.
        var used = totals.cachedBytes
        let disk = DiskSpace(of: self.folder)
        if let disk { used = min(used, disk.total - disk.free) }
        accounts = CacheAccounts(limits: limits, used: used, disk: disk)
        statistics.set(.cachedBytes, used)
        threads.withLock {
            $0 = [
                WorkerThread(name: "cache-timer", stackSize: 256 << 10) { self.watchDeadlines() },
                WorkerThread(name: "cache-keeper", stackSize: 256 << 10) { self.keep() },
                WorkerThread(name: "cache-evictor", stackSize: 256 << 10) { self.evictWhenNeeded() },
            ]
        }
    }

    /// The content of a file, shared by all who have it open; loaded from the catalog on first use.
    /// Call ``CachedContent/close()`` once per open.
    ///
    /// - Parameter isNew: The file was just made, by whoever is going to write to it.
    package func open(_ inode: InodeID, isNew: Bool = false) throws(CacheError) -> CachedContent {
        let content = try load(inode, isUse: true, isNew: isNew)
        contentNeedsKeeping()
        return content
    }

    /// - Parameter isUse: Whether it counts as a use, for what is evicted first.
    func load(_ inode: InodeID, isUse: Bool, isNew: Bool = false) throws(CacheError) -> CachedContent {
        if isShutDown { throw .shutDown }
        return try table.withLock { (table: inout Table) throws(CacheError) -> CachedContent in
            if isUse { table.used.insert(inode) }
            if let content = table.contents[inode] {
                content.opens.withLock { $0 += 1 }
                return content
            }
            // Under the table's lock, so that nobody saves and lets go of the same content meanwhile.
            let content = try CachedContent(loading: inode, isNew: isNew, for: self)
            content.opens.withLock { $0 = 1 }
            table.contents[inode] = content
            return content
        }
    }

    /// Begins to bring all of a file that somebody is likely to open soon.
    ///
    /// - Returns: false: there is no room for it.
    package func fetchAhead(_ inode: InodeID) throws(CacheError) -> Bool {
        let content = try load(inode, isUse: false)
        defer { close(content) }
        return content.fetchAhead()
    }

    /// One more who has it open.
    func retain(_ content: CachedContent) { content.opens.withLock { $0 += 1 } }

    func close(_ content: CachedContent) {
        let needsKeeping = table.withLock { table in
            let opens = content.opens.withLock { opens in
                opens -= 1
                return opens
            }
            guard opens == 0 else { return false }
            return !release(content, &table)
        }
        if needsKeeping { contentNeedsKeeping() }
    }

    /// Lets go of a content that nobody has open, unless something is left to do.
    /// - Returns: Whether it is gone.
    func release(_ content: CachedContent, _ table: inout Table) -> Bool {
        let isIdle = content.update { state in
            guard content.isIdle(state) else { return false }
            // Whoever still holds the object must not hold the blocks of a deleted file with it.
            state.file = nil
            return true
        }
        if isIdle, table.contents[content.inode] === content { table.contents[content.inode] = nil }
        return isIdle
    }

    /// The content if somebody has it open; for the size and times that `getattr` shows.
    package func opened(_ inode: InodeID) -> CachedContent? {
        table.withLock { table in
            guard let content = table.contents[inode], content.opens.withLock({ $0 > 0 }) else { return nil }
            return content
        }
    }

    /// The inode is gone from the catalog: deletes its cache file.
    package func discard(_ inode: InodeID) {
        let content = table.withLock { table in
            table.used.remove(inode)
            return table.contents.removeValue(forKey: inode)
        }
        let path = path(of: inode)
        if let content {
            content.discard()
        } else {
            var status = stat()
            guard stat(path, &status) == 0 else { return }
            charge(-min(Int64(status.st_size), Int64(status.st_blocks) * 512))
        }
        if unlink(path) != 0, errno != ENOENT { report(.ofSystemCall(), "delete a file of the cache") }
    }

    /// The cache file of a clean content, which is not loaded, is not to be believed: the bytes come again from the
    /// store.
    ///
    /// - Returns: how many bytes that frees.
    func giveUp(_ inode: InodeID) throws(CacheError) -> Int64 {
        let bytes = try asking { () throws(CatalogError) in try index.contentWasEvicted(inode) }
        charge(-bytes)
        guard unlink(path(of: inode)) == 0 || errno == ENOENT else { throw .ofSystemCall() }
        return bytes
    }

    package func setStore(_ store: any Store) { storeInUse.withLock { $0 = store } }

    var store: any Store { storeInUse.withLock { $0 } }

    /// How long a reader waits for bytes from the store. For those who begin to wait from now on.
    package func setReadDeadline(_ duration: Duration) { deadline.store(duration.nanoseconds, ordering: .relaxed) }

    var readDeadline: MonotonicTime { .now + .nanoseconds(deadline.load(ordering: .relaxed)) }

    /// Ends threads; saves what is not saved, and brings it to the disk.
    package func shutdown() {
        guard !hasEnded.exchange(true, ordering: .sequentiallyConsistent) else { return }
        pool.shutdown()
        awaited.update { $0.isOver = true }
        keeping.update { $0.isOver = true }
        evicting.update { $0.isOver = true }
        for thread in threads.withLock({ $0 }) { thread.join() }
        threads.withLock { $0 = [] }
        let contents = table.withLock { Array($0.contents.values) }
        for content in contents { content.takeWaiters(because: .shutDown) { _ in true } }
        for writer in takeParked(all: true) { writer.ready(.shutDown) }
        saveAll(contents)
        flushDisk()
        table.withLock { $0.contents = [:] }
    }

    var isShutDown: Bool { hasEnded.load(ordering: .acquiring) }

    func path(of inode: InodeID) -> String { "\(Self.directory(of: inode, in: folder))/\(inode.value)" }

    private static func directory(of inode: InodeID, in folder: String) -> String {
        let digits: [UInt8] = Array("0123456789abcdef".utf8)
        let low = Int(inode.value & 0xff)
        return folder + "/" + String(decoding: [digits[low >> 4], digits[low & 15]], as: UTF8.self)
    }

    /// Makes the name of a new cache file survive a loss of power.
    func synchronizeDirectory(of inode: InodeID) throws(CacheError) {
        let directory = Self.directory(of: inode, in: folder)
        do { try CacheFile.synchronize(directory: directory) } catch {
            guard mayHelp(after: error, needing: 0) else { throw error }
            try CacheFile.synchronize(directory: directory)
        }
    }

    /// An error of work that nobody waits for.
    func report(_ error: CacheError, _ what: String) {
        let reason: String
        switch error {
        case .store(let error): reason = error.message
        case .catalog(let error): reason = error.message
        case .system(let number): reason = String(cString: strerror(number))
        case .lost: reason = "bytes that were written are not in the cache any more"
        case .timedOut: reason = "the store did not answer in time"
        case .discarded, .shutDown: return
        }
        statistics.report(
            kind: "cache", message: "could not \(what): \(reason)",
            advice: "look at the disk that holds the cache directory")
    }
}
