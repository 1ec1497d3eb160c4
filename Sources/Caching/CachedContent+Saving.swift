package import Catalog
import Glibc
import Threading

extension CachedContent {
    /// Saves size, times and present ranges to the catalog, so that they survive the end of the process (close(2)).
    package func save() throws(CacheError) {
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            try saveChanges(&state)
        }
    }

    /// Saves as ``save()`` does, by a call of the catalog that also sets the time of the last change to what somebody
    /// wants it to be (utimensat(2)). That is left alone by later saves of what was changed before.
    ///
    /// - Parameter body: Is given what is to be saved, nil when that is nothing; returns its new generation, and what
    ///   this is to return.
    package func saveSettingTime<Result>(
        _ body: (ContentState?) throws(CatalogError) -> (generation: Int64?, result: Result)
    ) throws(CacheError) -> Result {
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            let unsaved = state.isChanging ? unsaved(state) : nil
            let saved = try asking { () throws(CatalogError) in try body(unsaved) }
            if let unsaved, let generation = saved.generation { wasSaved(unsaved, generation, &state) }
            state.modified = nil
            return saved.result
        }
    }

    /// Makes bytes and catalog survive a loss of power (fsync(2)): first the bytes, with the name of the cache file
    /// where that is new, and then the catalog, which everybody shares who is there at the same time.
    package func synchronize() throws(CacheError) {
        let sync = state.withLock { beginSync(&$0) }
        let failure = sync.carryOut { () throws(CacheError) in
            if sync.isNameNew { try cache.synchronizeDirectory(of: inode) }
        }
        try endSync(sync, failure, nameIsSynced: sync.isNameNew)
        try cache.commit(self)
    }

    /// If the content was changed since the last save. Call it with the lock held.
    func saveChanges(_ state: inout LiveState) throws(CacheError) {
        guard state.isChanging, let unsaved = unsaved(state) else { return }
        try save(unsaved, &state)
    }

    /// What the catalog does not know yet; nil: it knows all, or nobody needs it any more. Call it with the lock held.
    func unsaved(_ state: borrowing LiveState) -> ContentState? {
        guard !state.isDiscarded else { return nil }
        let present = state.savable
        let isFlushed = !state.hasUnsyncedChanges
        guard state.isChanging || present != state.saved || (isFlushed && state.isNotedAsUnflushed) else { return nil }
        return ContentState(
            inode: inode, size: state.size, present: present, modified: state.isChanging ? state.modified : nil,
            isChanged: state.isChanging && !state.isUntouched, isFlushed: isFlushed)
    }

    /// Tells the catalog. Call it with the lock held.
    func save(_ content: ContentState, _ state: inout LiveState) throws(CacheError) {
        let generation = try asking { () throws(CatalogError) in
            guard let generation = try cache.index.save([content]).first ?? nil else {
                throw CatalogError(.notFound, "the catalog has no inode \(inode)")
            }
            return generation
        }
        wasSaved(content, generation, &state)
    }

    /// Call it with the lock held since the content was asked for what is unsaved.
    func wasSaved(_ content: ContentState, _ generation: Int64, _ state: inout LiveState) {
        state.generation = generation
        state.isChanging = false
        state.isUntouched = false
        state.saved = content.present
        state.isNotedAsUnflushed = !content.isFlushed && (content.isChanged || state.isNotedAsUnflushed)
    }

    /// What is about to be brought to the disk.
    struct Sync {
        /// nil: nothing is to be brought there.
        var file: CacheFile?
        /// Why the file could not be opened.
        var failure: CacheError?
        var isNameNew: Bool
        /// How many changes of the bytes there were before.
        var changes: Int

        /// Flushes the file, then does `more`.
        /// - Returns: why that failed.
        func carryOut(_ more: () throws(CacheError) -> Void = {}) -> CacheError? {
            guard failure == nil else { return failure }
            do throws(CacheError) {
                try file?.synchronize()
                try more()
                return nil
            } catch { return error }
        }
    }

    /// What was written and fetched so far is about to be brought to the disk. Call it with the lock held.
    ///
    /// - Parameter isByItself: The file is to be flushed, and not the whole disk.
    func beginSync(_ state: inout LiveState, isByItself: Bool = true) -> Sync {
        state.syncers += 1
        for range in state.unsynced.ranges { state.syncing.insert(range) }
        state.unsynced = RangeSet()
        var sync = Sync(isNameNew: false, changes: state.changes)
        if isByItself, state.hasUnsyncedChanges || !state.syncing.isEmpty || state.nameIsUnsynced {
            // It may have been closed since the bytes came.
            do throws(CacheError) { sync.file = try existingFile(&state) } catch { sync.failure = error }
            sync.isNameNew = sync.file != nil && state.nameIsUnsynced
        }
        return sync
    }

    /// What was there before is on the disk (or, with an error, which this throws, is not): the catalog may be told.
    func endSync(_ sync: Sync, _ failure: CacheError?, nameIsSynced: Bool) throws(CacheError) {
        state.withLock { state in
            state.syncers -= 1
            if failure == nil {
                state.changesSynced = max(state.changesSynced, sync.changes)
                // Those who came later have not told yet that their bytes are there; the last one speaks for all.
                if state.syncers == 0 { state.syncing = RangeSet() }
                if nameIsSynced { state.nameIsUnsynced = false }
            } else {
                for range in state.syncing.ranges { state.unsynced.insert(range) }
                state.syncing = RangeSet()
            }
        }
        if let failure { throw failure }
    }

    /// Whether there is something that only memory knows and that can be saved without more ado.
    var needsSaving: Bool {
        state.withLock { state in
            !state.isDiscarded && (state.isChanging || !state.unsynced.isEmpty || state.savable != state.saved)
        }
    }

    /// Whether nothing is lost when this object goes. Call it with the lock held.
    func isIdle(_ state: borrowing LiveState) -> Bool {
        state.isDiscarded
            || (!state.isChanging && state.unsynced.isEmpty && state.syncing.isEmpty && state.fetches.isEmpty
                && state.waiters.isEmpty && state.views.isEmpty && state.present == state.saved)
    }
}

extension ContentCache {
    /// Tells the catalog of the content and makes that survive a loss of power. Those who come while that is done for
    /// others share one transaction and one flush of the disk.
    func commit(_ content: CachedContent) throws(CacheError) {
        let failures = commits.perform(content) { contents in
            var failures = save(contents)
            do throws(CatalogError) { try index.makeDurable() } catch {
                for content in contents { failures[content.inode] = .catalog(error) }
            }
            return failures
        }
        if let failure = failures[content.inode] { throw failure }
    }

    /// Tells the catalog what it does not know yet of the contents.
    ///
    /// - Returns: why it could not, by inode.
    func save(_ contents: [CachedContent]) -> [InodeID: CacheError] {
        var failures: [InodeID: CacheError] = [:]
        // By ascending inode, as the order of locks wants it.
        let ordered = Dictionary(contents.map { ($0.inode, $0) }) { first, _ in first }
            .sorted { $0.key.value < $1.key.value }.map(\.value)
        var rest = ordered[...]
        while !rest.isEmpty {
            saveTogether(Array(rest.prefix(Self.savedTogether)), &failures)
            rest = rest.dropFirst(Self.savedTogether)
        }
        return failures
    }

    /// How many contents are locked at a time: as many as can ask for it at once.
    private static let savedTogether = 16

    private func saveTogether(_ contents: [CachedContent], _ failures: inout [InodeID: CacheError]) {
        var states: [ContentState] = []
        var saved: [InodeID: (content: ContentState, generation: Int64)] = [:]
        func lock(_ rest: ArraySlice<CachedContent>) {
            guard let first = rest.first else { return tell() }
            first.state.withLock { state in
                if let unsaved = first.unsaved(state) { states.append(unsaved) }
                lock(rest.dropFirst())
                if let (content, generation) = saved[first.inode] { first.wasSaved(content, generation, &state) }
            }
        }
        func tell() {
            guard !states.isEmpty else { return }
            do throws(CatalogError) {
                for (state, generation) in zip(states, try index.save(states)) {
                    if let generation {
                        saved[state.inode] = (state, generation)
                    } else {
                        failures[state.inode] = .catalog(
                            CatalogError(.notFound, "the catalog has no inode \(state.inode)"))
                    }
                }
            } catch {
                for state in states { failures[state.inode] = .catalog(error) }
            }
        }
        lock(contents[...])
    }
}
