import Catalog
import Glibc
import StoreAPI
import Threading

extension CachedContent {
    /// What is copied under the locks of both contents at a time.
    private static let copyPiece: Int64 = 4 << 20

    /// Copies inside or between contents; bytes that are not here are fetched first, then `reply` is called.
    package func copy(
        from offset: Int64, to target: CachedContent, at targetOffset: Int64, count: Int64,
        _ reply: @escaping @Sendable (Result<Int64, CacheError>) -> Void
    ) {
        guard offset >= 0, targetOffset >= 0, count >= 0, targetOffset <= Int64.max - count,
            target !== self || offset + count <= targetOffset || targetOffset + count <= offset
        else { return reply(.failure(.system(EINVAL))) }
        let (range, isHere) = state.withLock { state in
            let range =
                min(
                    offset, state.size)..<(count > state.size - min(offset, state.size)
                ? state.size : offset + count)
            return (range, state.present.contains(range))
        }
        guard !range.isEmpty else { return reply(.success(0)) }
        cache.retain(self)
        cache.retain(target)
        let work: @Sendable () -> Void = {
            let result = self.copy(range, to: target, at: targetOffset)
            self.close()
            target.close()
            reply(result)
        }
        if isHere, range.length <= Self.copyPiece, let copied = copyAtOnce(range, to: target, at: targetOffset) {
            self.close()
            target.close()
            return reply(.success(copied))
        }
        WorkerThread(name: "cache-copy", stackSize: 256 << 10, work).detach()
    }

    /// Copies if nothing has to be waited for.
    private func copyAtOnce(_ range: Range<Int64>, to target: CachedContent, at targetOffset: Int64) -> Int64? {
        guard cache.reserveAtOnce(range.length) else { return nil }
        defer { cache.accounts.endPromise(range.length) }
        var satisfied: [Waiter] = []
        // What goes wrong here goes wrong again on the other way, which tells why.
        let copied = try? copyUnderLocks(range, to: target, at: targetOffset, &satisfied)
        target.serve(satisfied)
        return copied
    }

    /// - Returns: How many bytes were copied: fewer than asked for when an error came after some.
    private func copy(_ range: Range<Int64>, to target: CachedContent, at targetOffset: Int64)
        -> Result<Int64, CacheError>
    {
        var position = range.lowerBound
        do throws(CacheError) {
            while position < range.upperBound {
                let piece = position..<min(position + Self.copyPiece, range.upperBound)
                try cache.waitForRoom(piece.length)
                defer { cache.accounts.endPromise(piece.length) }
                let copied = try copyPiece(piece, to: target, at: targetOffset + position - range.lowerBound)
                if copied == 0 { break }
                position += copied
            }
        } catch {
            guard position > range.lowerBound else { return .failure(error) }
        }
        return .success(position - range.lowerBound)
    }

    private func copyPiece(_ range: Range<Int64>, to target: CachedContent, at targetOffset: Int64)
        throws(CacheError) -> Int64
    {
        var hasMadeRoom = false
        while true {
            try waitForBytes(range, until: cache.readDeadline)
            var satisfied: [Waiter] = []
            let copied: Int64?
            do throws(CacheError) {
                copied = try copyUnderLocks(range, to: target, at: targetOffset, &satisfied)
            } catch {
                guard case .system(ENOSPC) = error, !hasMadeRoom else { throw error }
                hasMadeRoom = true
                cache.makeRoom(for: range.length)
                if !cache.hasRoom(for: range.length) {
                    hasMadeRoom = false
                    try cache.waitForRoom(range.length)
                    cache.accounts.endPromise(range.length)
                }
                continue
            }
            target.serve(satisfied)
            if let copied { return copied }
            // Evicted in between: once more.
        }
    }

    private func copyUnderLocks(
        _ range: Range<Int64>, to target: CachedContent, at targetOffset: Int64, _ satisfied: inout [Waiter]
    ) throws(CacheError) -> Int64? {
        if target === self {
            return try state.withLock { (state: inout LiveState) throws(CacheError) -> Int64? in
                guard let (file, here) = try giving(range, &state) else { return nil }
                if let file { try receive(here, of: file, at: targetOffset, &state, &satisfied) }
                return here.length
            }
        }
        let (first, second) = inode < target.inode ? (self, target) : (target, self)
        return try first.state.withLock { (a: inout LiveState) throws(CacheError) -> Int64? in
            try second.state.withLock { (b: inout LiveState) throws(CacheError) -> Int64? in
                let isForward = first === self
                guard let (file, here) = try isForward ? giving(range, &a) : giving(range, &b) else { return nil }
                guard let file else { return here.length }
                if isForward {
                    try target.receive(here, of: file, at: targetOffset, &b, &satisfied)
                } else {
                    try target.receive(here, of: file, at: targetOffset, &a, &satisfied)
                }
                return here.length
            }
        }
    }

    /// - Returns: What there is of `range`, and the file that has it (nil when it is empty); nil when not all of it
    ///   is here.
    private func giving(_ range: Range<Int64>, _ state: inout LiveState) throws(CacheError)
        -> (CacheFile?, Range<Int64>)?
    {
        let here =
            range.lowerBound < state.size ? range.clamped(to: 0..<state.size) : range.lowerBound..<range.lowerBound
        guard !here.isEmpty else { return (nil, here) }
        guard state.present.contains(here), let file = try existingFile(&state), state.present.contains(here) else {
            return nil
        }
        return (file, here)
    }

    private func receive(
        _ range: Range<Int64>, of source: CacheFile, at offset: Int64, _ state: inout LiveState,
        _ satisfied: inout [Waiter]
    ) throws(CacheError) {
        guard !state.isDiscarded else { throw .discarded }
        try begin(&state)
        try source.copy(range, to: file(&state), at: offset)
        wrote(offset..<(offset + range.length), &state)
        satisfied = state.takeSatisfied()
    }
}
