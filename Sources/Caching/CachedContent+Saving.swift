import Catalog
import Glibc
import Threading

extension CachedContent {
    /// Saves size, times and present ranges to the catalog, so that they survive the end of the process (close(2)).
    package func save() throws(CacheError) {
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            try saveChanges(&state)
        }
    }

    /// Makes bytes and catalog survive a loss of power (fsync(2)).
    package func synchronize() throws(CacheError) {
        let (file, isNew) = state.withLock { state in
            beginSync(&state)
            return (state.file, state.nameIsUnsynced)
        }
        var failure: CacheError?
        do throws(CacheError) {
            try file?.synchronize()
            if file != nil, isNew { try cache.synchronizeDirectory(of: inode) }
        } catch { failure = error }
        try endSync(failure, nameIsSynced: isNew)
        try asking { () throws(CatalogError) in try cache.index.makeDurable() }
    }

    /// If the content was changed since the last save. Call it with the lock held.
    func saveChanges(_ state: inout LiveState) throws(CacheError) {
        guard state.isChanging, !state.isDiscarded else { return }
        state.generation = try save(state.savable, size: state.size, &state)
    }

    /// Tells the catalog. Call it with the lock held.
    func save(_ present: RangeSet, size: Int64, _ state: inout LiveState) throws(CacheError) -> Int64 {
        let record = ContentState(
            inode: inode, size: size, present: present, modified: state.isChanging ? state.modified : nil)
        let isChanged = state.isChanging
        let generation = try asking { () throws(CatalogError) in
            try cache.index.save(record, isChanged: isChanged)
        }
        state.isChanging = false
        state.saved = present
        return generation
    }

    /// What was fetched so far is about to be brought to the disk. Call it with the lock held.
    func beginSync(_ state: inout LiveState) {
        state.syncers += 1
        for range in state.unsynced.ranges { state.syncing.insert(range) }
        state.unsynced = RangeSet()
    }

    /// What was fetched before is on the disk (or, with an error, is not): now the catalog may know.
    func endSync(_ failure: CacheError?, nameIsSynced: Bool) throws(CacheError) {
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            state.syncers -= 1
            if failure == nil {
                // Those who came later have not told yet that their bytes are there; the last one speaks for all.
                if state.syncers == 0 { state.syncing = RangeSet() }
                if nameIsSynced { state.nameIsUnsynced = false }
            } else {
                for range in state.syncing.ranges { state.unsynced.insert(range) }
                state.syncing = RangeSet()
            }
            if let failure { throw failure }
            guard !state.isDiscarded else { return }
            try saveChanges(&state)
            try savePresence(&state)
        }
    }

    /// Call it with the lock held.
    func savePresence(_ state: inout LiveState) throws(CacheError) {
        let present = state.savable
        guard present != state.saved, !state.isDiscarded else { return }
        state.generation = try save(present, size: state.size, &state)
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
