import Catalog
import Glibc
import Statistics
import StoreAPI
import Threading

extension CachedContent {
    private enum Outcome {
        case hit(CacheFile, Range<Int64>, turn: Int)
        case miss
        case nothing
    }

    /// Gives up to `count` bytes from `offset` on to `reply`: on this thread, before returning, when they are here;
    /// else on another thread when the store has brought them or it is clear that it will not. Fewer at the end.
    ///
    /// The bytes are the calling thread's own until it reads from the cache again.
    package func read(
        at offset: Int64, count: Int, pattern: ReadPattern,
        _ reply: @escaping @Sendable (Result<UnsafeRawBufferPointer, CacheError>) -> Void
    ) {
        read(at: offset, count: count, pattern: pattern, isRepeated: false, reply)
    }

    private func read(
        at offset: Int64, count: Int, pattern: ReadPattern, isRepeated: Bool,
        _ reply: @escaping @Sendable (Result<UnsafeRawBufferPointer, CacheError>) -> Void
    ) {
        var work = FetchPlan()
        let outcome: Result<Outcome, CacheError> = state.withLock { state in
            let range = self.range(at: offset, count: count, in: state)
            if range.isEmpty { return .success(.nothing) }
            if !state.isComplete {
                let ahead = pattern.note(range, end: state.sourceEnd, room: cache.readAheadRoom)
                if let ahead { plan(ahead.range, .ahead(piece: ahead.piece), &state, &work) }
            }
            do throws(CacheError) {
                if let hit = try enter(range, &state) { return .success(hit) }
            } catch { return .failure(error) }
            let waiter = Waiter(
                range: range, grain: pattern.grain, deadline: cache.readDeadline, completion: .read(reply))
            park(waiter, &state, &work)
            return .success(.miss)
        }
        start(work)
        switch outcome {
        case .success(.miss): cache.statistics.add(.cacheMisses)
        case .success(.nothing): reply(.success(UnsafeRawBufferPointer(start: nil, count: 0)))
        case .success(.hit(let file, let range, let turn)):
            cache.statistics.add(.cacheHits)
            give(range, of: file, turn, reply)
        case .failure(let error):
            guard !isRepeated, cache.mayHelp(after: error, needing: 0) else { return reply(.failure(error)) }
            read(at: offset, count: count, pattern: pattern, isRepeated: true, reply)
        }
    }

    /// Answers one who has waited; lets it wait again should its bytes have gone already.
    func read(for waiter: Waiter) {
        guard case .read(let reply) = waiter.completion else { return }
        var work = FetchPlan()
        let outcome: Result<Outcome, CacheError> = state.withLock { state in
            let range = waiter.range.clamped(to: 0..<state.size)
            if range.isEmpty { return .success(.nothing) }
            do throws(CacheError) {
                if let hit = try enter(range, &state) { return .success(hit) }
            } catch { return .failure(error) }
            park(waiter, &state, &work)
            return .success(.miss)
        }
        start(work)
        switch outcome {
        case .success(.miss): break
        case .success(.nothing): reply(.success(UnsafeRawBufferPointer(start: nil, count: 0)))
        case .success(.hit(let file, let range, let turn)): give(range, of: file, turn, reply)
        case .failure(let error): reply(.failure(error))
        }
    }

    private func range(at offset: Int64, count: Int, in state: borrowing LiveState) -> Range<Int64> {
        guard offset >= 0, count > 0, offset < state.size else { return 0..<0 }
        return offset..<(Int64(count) > state.size - offset ? state.size : offset + Int64(count))
    }

    /// Registers a reader of `range` if all of it is here.
    private func enter(_ range: Range<Int64>, _ state: inout LiveState) throws(CacheError) -> Outcome? {
        guard state.present.contains(range) else { return nil }
        var file = state.file
        if file == nil {
            file = try existingFile(&state)
            guard file != nil, state.present.contains(range) else { return nil }
        }
        if state.source != nil, !state.isDirty { state.uses.note(range.lowerBound, at: .now) }
        return .hit(file!, range, turn: state.enter())
    }

    /// Reads outside of the lock: what is registered in `turn` is not taken away meanwhile.
    private func give(
        _ range: Range<Int64>, of file: CacheFile, _ turn: Int,
        _ reply: @escaping @Sendable (Result<UnsafeRawBufferPointer, CacheError>) -> Void
    ) {
        let result: Result<(bytes: UnsafeMutableRawBufferPointer, isWhole: Bool), CacheError>
        do throws(CacheError) {
            let buffer = try ThreadBuffer.bytes(Int(range.length))
            result = .success((buffer, try file.read(into: buffer, at: range.lowerBound)))
        } catch { result = .failure(error) }
        if state.withLock({ $0.leave(turn) }) { state.update { _ in } }
        switch result {
        case .failure(let error): reply(.failure(error))
        case .success(let read) where !read.isWhole && state.withLock({ $0.size }) >= range.upperBound:
            guard recoverCutFile() else { return reply(.failure(.lost)) }
            self.read(for: Waiter(range: range, deadline: cache.readDeadline, completion: .read(reply)))
        case .success(let read):
            cache.statistics.add(.bytesRead, range.length)
            reply(.success(UnsafeRawBufferPointer(read.bytes)))
        }
    }

    /// Puts `waiter` among those who wait and sees to it that all it needs is under way.
    func park(_ waiter: Waiter, _ state: inout LiveState, _ work: inout FetchPlan) {
        if cache.isShutDown {
            work.refused.append((waiter, .shutDown))
            return
        }
        guard demand(waiter, &state, &work) else {
            work.refused.append((waiter, .system(EIO)))
            return
        }
        if state.waiters.isEmpty { work.beganToWait = true }
        state.waiters.append(waiter)
    }

    /// - Returns: Whether all that `waiter` needs is under way now; false: nobody has it, as in a damaged catalog.
    func demand(_ waiter: Waiter, _ state: inout LiveState, _ work: inout FetchPlan) -> Bool {
        let range = waiter.range.clamped(to: 0..<state.size)
        plan(range, .demanded(grain: waiter.grain), &state, &work)
        return state.present.gaps(in: range).allSatisfy { gap in
            state.fetches.contains { $0.range.overlaps(gap) }
        }
    }

    /// Waits on this thread until `range` (as far as it is inside the file) is here.
    ///
    /// - Parameter deadline: nil: as long as the store takes to give it or to fail.
    func waitForBytes(_ range: Range<Int64>, until deadline: MonotonicTime?) throws(CacheError) {
        let result = Monitor<Result<Void, CacheError>?>(nil)
        var work = FetchPlan()
        let isHere = state.withLock { state in
            let range = range.clamped(to: 0..<state.size)
            if state.present.contains(range) { return true }
            let waiter = Waiter(
                range: range, deadline: deadline,
                completion: .presence { error in result.update { $0 = error.map { .failure($0) } ?? .success(()) } })
            park(waiter, &state, &work)
            return false
        }
        start(work)
        if isHere { return }
        try result.wait { $0 }!.get()
    }

    /// Gives those up whose time is over.
    /// - Returns: Whether somebody waits on.
    func expireWaiters(at now: MonotonicTime) -> Bool {
        takeWaiters(because: .timedOut) { $0.deadline.map { $0 <= now } ?? false }
    }

    /// - Returns: Whether somebody waits on.
    @discardableResult
    func takeWaiters(because error: CacheError, where isOver: (Waiter) -> Bool) -> Bool {
        let (over, waitsOn) = state.withLock { state in
            let over = state.waiters.filter(isOver)
            guard !over.isEmpty else { return (over, !state.waiters.isEmpty) }
            state.waiters.removeAll(where: isOver)
            // What nobody waits for any more need not be begun.
            let wanted = state.waiters
            state.fetches.removeAll { fetch in
                fetch.isDemanded && !wanted.contains { $0.range.overlaps(fetch.range) } && fetch.cancel()
            }
            return (over, !state.waiters.isEmpty)
        }
        for waiter in over { waiter.fail(error) }
        return waitsOn
    }
}

extension CachedContent {
    /// Whether the first byte has to come from the store.
    package var beginsOnTheStore: Bool {
        state.withLock { state in state.sourceEnd > 0 && !state.present.contains(0..<1) }
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE; bytes that lie only on the store count as data.
    /// - Returns: nil where lseek gives ENXIO.
    package func seek(_ offset: Int64, toHole: Bool) throws(CacheError) -> Int64? {
        try state.withLock { (state: inout LiveState) throws(CacheError) -> Int64? in
            guard offset >= 0, offset < state.size else { return nil }
            var position = offset
            while position < state.size {
                guard let here = state.present.intersection(position..<state.size).first else { break }
                if here.lowerBound > position {
                    if !toHole { return position }
                    position = here.lowerBound
                }
                let file = try existingFile(&state)
                // Behind the end of the cache file all is hole.
                let found = try file?.seek(position, toHole ? SEEK_HOLE : SEEK_DATA)
                if toHole {
                    let hole = found ?? position
                    if hole < here.upperBound { return hole }
                } else if let found, found < here.upperBound {
                    return found
                }
                position = here.upperBound
            }
            if toHole { return state.size }
            return position < state.size ? position : nil
        }
    }
}
