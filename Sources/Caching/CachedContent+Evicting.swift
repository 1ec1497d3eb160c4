import Catalog
import Glibc
import Statistics
import Threading

extension CachedContent {
    /// The parts that may be evicted, and when they were used last (on ``MonotonicTime``).
    func evictionCandidates() -> [(range: Range<Int64>, used: Int64, bytes: Int64)] {
        state.withLock { state in
            guard state.mayBeEvicted, !state.present.isEmpty else { return [] }
            return state.uses.parts(of: state.size).compactMap { part in
                let bytes = state.present.intersection(part.range).reduce(0) { $0 + $1.length }
                return bytes > 0 ? (part.range, part.used, bytes) : nil
            }
        }
    }

    /// Takes clean bytes out of what counts as present, here and in the catalog. They are still on the disk: when the
    /// catalog has been brought there, ``clear(_:)`` ends it. One at a time: see ``ContentCache/evict(_:)``.
    ///
    /// - Returns: which, and how many bytes that will free: they count as used until then.
    func takeOut(_ range: Range<Int64>) throws(CacheError) -> (removed: RangeSet, freed: Int64) {
        try state.withLock { (state: inout LiveState) throws(CacheError) -> (RangeSet, Int64) in
            guard state.mayBeEvicted else { return (RangeSet(), 0) }
            var removed = RangeSet()
            for part in state.present.intersection(range) { removed.insert(part) }
            for waiter in state.waiters { removed.remove(waiter.range) }
            guard !removed.isEmpty else { return (removed, 0) }
            var saved = state.saved
            for part in removed.ranges { saved.remove(part) }
            if saved.isEmpty, !state.saved.isEmpty {
                _ = try asking { () throws(CatalogError) in try cache.index.contentWasEvicted(inode) }
            } else if saved != state.saved {
                try save(
                    ContentState(inode: inode, size: state.size, present: saved, modified: nil, isChanged: false),
                    &state)
            }
            state.saved = saved
            var freed: Int64 = 0
            for part in removed.ranges {
                freed += state.remove(part)
                state.syncing.remove(part)
                for fetch in state.fetches { fetch.delivered.remove(part) }
            }
            return (removed, freed)
        }
    }

    /// Frees the blocks of what was taken out, when those who read it are through.
    func clear(_ ranges: RangeSet) throws(CacheError) {
        awaitReaders()
        try free(ranges)
    }

    /// Waits until all have left who entered before.
    private func awaitReaders() {
        let turn: Int = state.withLock { state in
            defer { state.readersTurn = 1 - state.readersTurn }
            state.isAwaitingReaders = true
            return state.readersTurn
        }
        state.wait { state in (turn == 0 ? state.readers.0 : state.readers.1) == 0 ? () : nil }
        state.withLock { $0.isAwaitingReaders = false }
    }

    /// Frees the blocks of `ranges`, but for what has come again meanwhile.
    private func free(_ ranges: RangeSet) throws(CacheError) {
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            if state.present.isEmpty, state.fetches.isEmpty {
                guard unlink(path) == 0 || errno == ENOENT else { throw .ofSystemCall() }
                state.file = nil
                state.fileMayExist = false
                return
            }
            guard let file = try existingFile(&state) else { return }
            for range in ranges.ranges {
                var absent = RangeSet()
                for gap in state.present.gaps(in: range) { absent.insert(gap) }
                for fetch in state.fetches { for part in fetch.delivered.ranges { absent.remove(part) } }
                for part in absent.ranges { try file.punch(part) }
            }
        }
    }

    /// The inode is gone: nothing is saved any more, and what waits gets an error.
    func discard() {
        let freed = state.withLock { state in
            state.isDiscarded = true
            defer { state.charged = 0 }
            return state.charged
        }
        cache.charge(-freed)
        takeWaiters(because: .discarded) { _ in true }
    }
}
