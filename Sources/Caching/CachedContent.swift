package import Catalog
import Glibc
import Statistics
import StoreAPI
package import Threading

/// The content of one open file: a sparse cache file, the ranges of it that have the bytes, and what is under way.
///
/// Lock order: the table of ``ContentCache``, then a content's own lock (several by ascending inode, for copies and to
/// save them together), then the catalog's and those of the cache's accounts. No content's lock is held during a request
/// to the store, nor while a reply is given.
package final class CachedContent: Sendable {
    package let inode: InodeID
    let cache: ContentCache
    let state: Monitor<LiveState>
    let path: String
    /// How many have it open; guarded by the table of the cache.
    let opens = Lock(0)
    /// How many bytes of the cache were given up when it was loaded: they were not to be believed.
    let distrusted: Int64

    /// - Parameter isNew: The file was just made, by whoever is going to write to it.
    /// - Throws: ``CacheError/catalog(_:)`` with `.notFound` when the catalog knows no such content.
    init(loading inode: InodeID, isNew: Bool, for cache: ContentCache) throws(CacheError) {
        self.inode = inode
        self.cache = cache
        path = cache.path(of: inode)
        guard let record = try asking({ () throws(CatalogError) in try cache.index.content(of: inode) }) else {
            throw .catalog(CatalogError(.notFound, "the catalog has no content for inode \(inode)"))
        }
        var state = LiveState(record)
        distrusted = record.trust == .lost ? try cache.giveUp(inode) : 0
        var status = stat()
        let fileSize: Int64? = stat(path, &status) == 0 ? Int64(status.st_size) : nil
        state.fileMayExist = fileSize != nil
        if record.isChanging {
            // A new file; or a crash came between a change and its save. Growth is always local and shrinking is saved at
            // once: so what is longer than the record was written after it.
            state.isChanging = true
            state.isUntouched = isNew
            if let fileSize, fileSize > record.size {
                state.present.insert(record.size..<fileSize)
                state.size = fileSize
            }
        }
        // Counted as it lies on the disk, so that holes do not count.
        state.charged = min(state.present.count, Int64(status.st_blocks) * 512)
        self.state = Monitor(state)
    }

    package func close() { cache.close(self) }

    /// Changes something that decides whether the content may be evicted. The one place that notices when it may be
    /// from now on, whatever was in the way (dirt, a view in use, somebody who needs all of it), and that tells those
    /// who wait for room: they would else learn of it by chance, or never.
    func update<Result, Failure: Error>(_ body: (inout LiveState) throws(Failure) -> Result) throws(Failure) -> Result {
        var isNews = false
        defer { if isNews { cache.roomMayBeFound() } }
        return try state.withLock { (state: inout LiveState) throws(Failure) -> Result in
            let mightBe = state.mayBeEvicted
            defer { isNews = !mightBe && state.mayBeEvicted }
            return try body(&state)
        }
    }

    /// Bytes, and the time of the last change made through this object (nil: none since it was loaded).
    package var size: Int64 { state.withLock { $0.size } }
    package var modified: Timestamp? { state.withLock { $0.modified } }

    /// How many bytes of the content are in the cache file.
    package var cachedBytes: Int64 { state.withLock { $0.present.count } }

    /// The cache file, opened or made. Call it with the lock held.
    func file(_ state: inout LiveState) throws(CacheError) -> CacheFile {
        if let file = state.file { return file }
        if let file = try existingFile(&state) { return file }
        guard let file = try CacheFile.open(path, creating: true, count: cache.descriptors) else {
            throw .system(ENOENT)
        }
        state.file = file
        state.fileMayExist = true
        state.nameIsUnsynced = true
        cache.fileWasOpened()
        return file
    }

    /// The cache file, opened when there is one. What the record says of it is put right by what it is. Call it
    /// with the lock held.
    ///
    /// - Parameter end: What lies behind it is not needed any more.
    func existingFile(_ state: inout LiveState, upTo end: Int64 = .max) throws(CacheError) -> CacheFile? {
        if let file = state.file { return file }
        guard state.fileMayExist, let file = try CacheFile.open(path, creating: false, count: cache.descriptors)
        else {
            try loseBytes(behind: 0, upTo: end, &state)
            state.fileMayExist = false
            return nil
        }
        let length = try file.size()
        if length > state.size {
            try file.truncate(to: state.size)
        } else {
            try loseBytes(behind: length, upTo: end, &state)
        }
        state.file = file
        // Nobody knows whether it was made durable after it was made.
        state.nameIsUnsynced = state.nameIsUnsynced || state.isDirty || state.hasUnsyncedChanges
        cache.fileWasOpened()
        return file
    }

    /// The cache file has only `length` bytes: somebody deleted it or cut it off, or the power was lost before the rest
    /// was on the disk. Clean bytes come again from the store.
    ///
    /// - Throws: `.lost` when bytes are lost that nobody else has: they must not be read as zeros, nor sent to the
    ///   store.
    private func loseBytes(behind length: Int64, upTo end: Int64, _ state: inout LiveState) throws(CacheError) {
        let lost = state.present.intersection(min(length, state.size)..<state.size)
        guard !lost.isEmpty else { return }
        if state.source != nil, !state.isDirty {
            cache.charge(-state.remove(length..<Int64.max))
        } else if lost[0].lowerBound < end {
            cache.statistics.report(
                kind: "cacheFile",
                message: "the cache file '\(path)' was deleted or cut off at \(length) bytes: what was not uploaded of "
                    + "it is lost",
                advice: "stats/notuploaded lists the file that it belongs to. Put the cache file back, or write the "
                    + "file anew, or delete it; what the store has of it stays until then.")
            throw .lost
        }
    }

    /// Somebody cut the cache file off while it was open.
    ///
    /// - Returns: Whether all that is lost can come from the store.
    func recoverCutFile() -> Bool {
        state.withLock { state in
            do throws(CacheError) {
                guard let file = state.file else { return true }
                try loseBytes(behind: file.size(), upTo: .max, &state)
                return true
            } catch { return false }
        }
    }

    /// Closes the descriptor if nobody uses it. - Returns: whether it was open and is closed.
    func closeIdleFile() -> Bool {
        state.withLock { state in
            guard state.file != nil, state.readers == (0, 0), state.fetches.isEmpty, state.views.isEmpty else {
                return false
            }
            state.file = nil
            return true
        }
    }

    /// Tells waiters that are served now. Call it without the lock.
    func serve(_ waiters: [Waiter]) {
        for waiter in waiters {
            switch waiter.completion {
            case .presence(let reply): reply(nil)
            case .read: read(for: waiter)
            }
        }
    }
}
