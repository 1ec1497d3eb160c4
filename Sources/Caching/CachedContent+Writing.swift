import Catalog
import Glibc
import Statistics
import StoreAPI
import Threading

extension CachedContent {
    /// Writes to the cache file. Room was reserved with ``ContentCache/reserve(_:_:)``.
    ///
    /// - Parameter isPageCache: The kernel writes what programs have written before. It keeps the time of that itself,
    ///   and sets it where it is not what it was told last.
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64, isPageCache: Bool = false) throws(CacheError)
    {
        defer { cache.accounts.endPromise(Int64(bytes.count)) }
        guard !bytes.isEmpty else { return }
        guard offset >= 0, offset <= Int64.max - Int64(bytes.count) else { throw .system(EFBIG) }
        let range = offset..<(offset + Int64(bytes.count))
        try change(needing: range.length) { (state: inout LiveState, satisfied: inout [Waiter]) throws(CacheError) in
            try begin(&state, setsTime: !isPageCache)
            let file = try file(&state)
            // Not before the bytes are there: what is absent stays so when they can't be written.
            try file.write(bytes, at: offset)
            wrote(range, &state)
            if !state.waiters.isEmpty { satisfied = state.takeSatisfied() }
        }
        cache.statistics.add(.bytesWritten, range.length)
    }

    /// Bytes were written to the cache file: they count now. Call it with the lock held.
    func wrote(_ range: Range<Int64>, _ state: inout LiveState) {
        if range.lowerBound > state.size { markZeros(state.size..<range.lowerBound, &state) }
        let added = state.insert(range)
        if added > 0 { cache.charge(added) }
        state.forgetFetched(range)
        state.breakViews(from: range.lowerBound)
        state.size = max(state.size, range.upperBound)
    }

    package func truncate(to size: Int64) throws(CacheError) {
        guard size >= 0 else { throw .system(EINVAL) }
        try change(needing: 0) { (state: inout LiveState, satisfied: inout [Waiter]) throws(CacheError) in
            guard size != state.size else { return }
            try begin(&state)
            if size > state.size {
                try grow(to: size, &state)
                return
            }
            // In the catalog before the bytes go: after a crash the file must not show zeros where bytes were cut.
            let file = try existingFile(&state, upTo: size)
            var present = state.savable
            present.remove(size..<Int64.max)
            try save(
                ContentState(inode: inode, size: size, present: present, modified: state.modified, isChanged: true),
                &state)
            cache.charge(-state.remove(size..<Int64.max))
            for fetch in state.fetches { fetch.delivered.remove(size..<Int64.max) }
            state.syncing.remove(size..<Int64.max)
            state.size = size
            state.breakViews(from: size)
            try file?.truncate(to: min(size, file!.size()))
            satisfied = state.takeSatisfied()
        }
    }

    /// fallocate(2) in its modes: allocate (with or without keeping the size), punch a hole, zero a range.
    ///
    /// Blocks of the disk are taken where there is room for them now. Where there is none, the caller has what it asked
    /// for all the same: a later write there waits for room and does not fail for want of it. To wait here would be no
    /// use, since a file may be larger than the cache.
    package func allocate(_ range: Range<Int64>, keepSize: Bool) throws(CacheError) {
        guard !range.isEmpty, range.lowerBound >= 0 else { throw .system(EINVAL) }
        let takesBlocks = cache.reserveAtOnce(range.length)
        defer { if takesBlocks { cache.accounts.endPromise(range.length) } }
        try change(needing: range.length) { (state: inout LiveState, _) throws(CacheError) in
            let grows = range.upperBound > state.size && !keepSize
            // Taking blocks changes nothing that anybody can read, so that the content stays as clean as it is.
            if grows { try begin(&state) }
            if takesBlocks { try file(&state).allocate(range) }
            if grows { try grow(to: range.upperBound, &state) }
            if takesBlocks { for part in state.holes.intersection(range) { cache.charge(state.insert(part)) } }
        }
    }

    package func punchHole(_ range: Range<Int64>) throws(CacheError) {
        guard !range.isEmpty, range.lowerBound >= 0 else { throw .system(EINVAL) }
        try change(needing: 0) { (state: inout LiveState, satisfied: inout [Waiter]) throws(CacheError) in
            try makeZero(range, &state)
            satisfied = state.takeSatisfied()
        }
    }

    package func zero(_ range: Range<Int64>, keepSize: Bool) throws(CacheError) {
        guard !range.isEmpty, range.lowerBound >= 0 else { throw .system(EINVAL) }
        try change(needing: 0) { (state: inout LiveState, satisfied: inout [Waiter]) throws(CacheError) in
            try makeZero(range, &state)
            if range.upperBound > state.size, !keepSize {
                try begin(&state)
                try grow(to: range.upperBound, &state)
            }
            satisfied = state.takeSatisfied()
        }
    }

    private func makeZero(_ range: Range<Int64>, _ state: inout LiveState) throws(CacheError) {
        let range = range.clamped(to: 0..<state.size)
        guard !range.isEmpty else { return }
        try begin(&state)
        let file = try file(&state)
        if try file.size() < range.upperBound { try file.truncate(to: range.upperBound) }
        try file.punch(range)
        markZeros(range, &state)
        state.breakViews(from: range.lowerBound)
    }

    /// Makes the file longer, with zeros. Call it with the lock held, after ``begin(_:)``.
    func grow(to size: Int64, _ state: inout LiveState) throws(CacheError) {
        try file(&state).truncate(to: size)
        markZeros(state.size..<size, &state)
        state.size = size
    }

    private func markZeros(_ range: Range<Int64>, _ state: inout LiveState) {
        cache.charge(state.insertHole(range))
    }

    /// Runs a change under the lock; should the disk be full or too many files be open, again when that was helped. Then
    /// answers those whose wait it has ended.
    func change(
        needing bytes: Int64, _ body: (inout LiveState, inout [Waiter]) throws(CacheError) -> Void
    ) throws(CacheError) {
        var satisfied: [Waiter] = []
        func attempt() throws(CacheError) {
            try state.withLock { (state: inout LiveState) throws(CacheError) in
                guard !state.isDiscarded else { throw .discarded }
                try body(&state, &satisfied)
            }
        }
        do throws(CacheError) {
            try attempt()
        } catch {
            guard cache.mayHelp(after: error, needing: bytes) else { throw error }
            try attempt()
        }
        if !satisfied.isEmpty { serve(satisfied) }
    }

    /// Before the first change since the last save: the catalog knows before the bytes are others. Call it with the
    /// lock held.
    func begin(_ state: inout LiveState, setsTime: Bool = true) throws(CacheError) {
        state.changes += 1
        if setsTime { state.modified = cache.clock.fileTime }
        state.isUntouched = false
        guard !state.isChanging else { return }
        state.generation = try asking { () throws(CatalogError) in try cache.index.beginChange(of: inode) }
        state.isChanging = true
        state.isDirty = true
    }
}
