import Catalog
import Glibc
import Statistics
import StoreAPI
import Threading

/// What was decided under a content's lock and is done after it.
struct FetchPlan {
    var new: [Fetch] = []
    var promoted: [Fetch] = []
    var refused: [(Waiter, CacheError)] = []
    var beganToWait = false
}

extension CachedContent {
    /// What is fetched at least, and where fetches begin and end: requests cost more than these bytes.
    static let alignment: Int64 = 128 << 10
    /// Files up to this size are fetched whole: only of a whole object a store like S3 has a checksum, and the rest
    /// costs less than the next request.
    package static let largestWhole: Int64 = 512 << 10

    /// How often one fetch asks the store, for an object that is moved or replaced again and again.
    static let mostAttempts = 8

    /// Why something is fetched, and in what portions.
    enum FetchReason {
        /// Somebody waits. Begins and ends at multiples of `grain`, at least ``alignment``.
        case demanded(grain: Int64)
        /// Nobody does yet. In requests of `piece` bytes.
        case ahead(piece: Int64)
    }

    /// Adds fetches for what is missing of `range` and not under way. Call it with the lock held.
    func plan(
        _ range: Range<Int64>, _ reason: FetchReason, _ state: inout LiveState, _ work: inout FetchPlan
    ) {
        let (grain, piece, isDemanded) =
            switch reason {
            case .demanded(let grain): (grain, ReadPattern.pieces.upperBound, true)
            case .ahead(let piece): (Self.alignment, piece, false)
            }
        let end = state.sourceEnd
        guard !range.isEmpty, range.lowerBound < end, !state.isDiscarded else { return }
        let canRead = cache.store.capabilities.contains(.rangedRead)
        var bounds = 0..<end
        if canRead, end > Self.largestWhole {
            bounds =
                range.lowerBound.rounded(
                    downTo: grain)..<min(
                    range.upperBound.rounded(upTo: grain), end)
        }
        var missing = RangeSet()
        for gap in state.present.gaps(in: bounds) { missing.insert(gap) }
        guard !missing.isEmpty else { return }
        for fetch in state.fetches where fetch.range.overlaps(bounds) {
            missing.remove(fetch.range)
            if isDemanded, !fetch.isDemanded, fetch.range.overlaps(range) {
                fetch.isDemanded = true
                work.promoted.append(fetch)
            }
        }
        guard !missing.isEmpty else { return }
        if !canRead {
            add(0..<end, isDemanded, &state, &work)
            return
        }
        // Islands of present bytes are fetched again rather than asked for around, when they are small.
        var current: Range<Int64>?
        for gap in missing.ranges {
            if let before = current {
                let island = before.upperBound..<gap.lowerBound
                if island.length <= Self.alignment, state.present.contains(island) {
                    current = before.lowerBound..<gap.upperBound
                    continue
                }
                addPieces(before, piece, isDemanded, &state, &work)
            }
            current = gap
        }
        if let current { addPieces(current, piece, isDemanded, &state, &work) }
    }

    /// Begins to bring all that is missing, for nobody who waits.
    ///
    /// - Returns: false: there is no room for it.
    func fetchAhead() -> Bool {
        var work = FetchPlan()
        let hasRoom = state.withLock { state in
            guard state.sourceEnd <= cache.readAheadRoom else { return false }
            plan(0..<state.sourceEnd, .ahead(piece: ReadPattern.pieces.upperBound), &state, &work)
            return true
        }
        start(work)
        return hasRoom
    }

    private func addPieces(
        _ range: Range<Int64>, _ piece: Int64, _ isDemanded: Bool, _ state: inout LiveState, _ work: inout FetchPlan
    ) {
        var position = range.lowerBound
        while position < range.upperBound {
            let next = min((position + 1).rounded(upTo: piece), range.upperBound)
            add(position..<next, isDemanded, &state, &work)
            position = next
        }
    }

    private func add(
        _ range: Range<Int64>, _ isDemanded: Bool, _ state: inout LiveState, _ work: inout FetchPlan
    ) {
        let isWhole = range == 0..<(state.source?.size ?? 0)
        let fetch = Fetch(content: self, range: range, isDemanded: isDemanded, isWhole: isWhole)
        state.fetches.append(fetch)
        work.new.append(fetch)
    }

    /// Does what was planned. Call it without the lock.
    func start(_ work: borrowing FetchPlan) {
        for (waiter, error) in work.refused { waiter.fail(error) }
        if work.beganToWait { cache.watchDeadlines(of: self) }
        if !work.new.isEmpty { cache.pool.add(work.new) }
        if !work.promoted.isEmpty { cache.pool.promote(work.promoted) }
    }

    /// Brings a range from the store; on a thread of the pool.
    func carryOut(_ fetch: Fetch) {
        guard fetch.begin() else { return }
        do throws(CacheError) {
            guard try cache.admit(fetch) else { return finish(fetch, nil) }
        } catch { return finish(fetch, error) }
        cache.statistics.add(.downloadsInFlight, 1)
        var error: CacheError?
        attempts: for attempt in 1...Self.mostAttempts {
            do throws(CacheError) {
                guard let (source, range) = try prepare(fetch) else { break }
                error = transfer(fetch, range, from: source)
                guard case .store(let failure) = error else { break }
                switch try verdict(on: failure, of: fetch, source, attempt) {
                case .isWorthRepeating: continue
                case .isFinal: break attempts
                case .concernsNobody:
                    // Nor those who come from now on: the bytes may be there in a moment, for whom they are fetched anew.
                    error = nil
                    break attempts
                }
            } catch let failure {
                error = failure
                break
            }
        }
        cache.statistics.add(.downloadsInFlight, -1)
        cache.fetchIsOver(fetch)
        finish(fetch, error)
    }

    /// - Returns: Where to read what is still missing, and which range; nil: nothing.
    private func prepare(_ fetch: Fetch) throws(CacheError) -> (ContentSource, Range<Int64>?)? {
        try state.withLock { (state: inout LiveState) throws(CacheError) -> (ContentSource, Range<Int64>?)? in
            try findSource(&state)
            fetch.localError = nil
            guard !state.isDiscarded, let source = state.source else { return nil }
            let gaps = state.present.gaps(in: fetch.range.clamped(to: 0..<max(0, state.sourceEnd)))
            guard let first = gaps.first, let last = gaps.last else { return nil }
            let range = first.lowerBound..<last.upperBound
            let isWhole = range == 0..<source.size || !cache.store.capabilities.contains(.rangedRead)
            return (source, isWhole ? nil : range)
        }
    }

    /// The object that has what is absent may have been moved on the store, or have become another one, since the content
    /// was loaded. Call it with the lock held.
    func findSource(_ state: inout LiveState) throws(CacheError) {
        if let source = try record()?.source { state.source = source }
    }

    private func record() throws(CacheError) -> ContentRecord? {
        try asking { () throws(CatalogError) in try cache.index.content(of: inode) }
    }

    private enum Verdict {
        /// The bytes were damaged, or the object has another place or version now.
        case isWorthRepeating
        case isFinal
        /// A worker may be changing the object, and nobody waits for the bytes.
        case concernsNobody
    }

    private func verdict(
        on failure: StoreError, of fetch: Fetch, _ source: ContentSource, _ attempt: Int
    ) throws(CacheError) -> Verdict {
        switch failure.code {
        case .corrupted: return attempt == 1 ? .isWorthRepeating : .isFinal
        case .notFound, .preconditionFailed:
            while true {
                guard let record = try record() else { return .isFinal }
                if record.source != source { return .isWorthRepeating }
                // What a worker has done to it there is not noted here yet. An upload of this content has done nothing
                // before it has its view: it may be what waits here.
                let mayBeOurs =
                    switch record.sourceWork {
                    case .none: false
                    case .upload: state.withLock { !$0.views.isEmpty }
                    case .other: true
                    }
                guard mayBeOurs, !cache.isShutDown else { return .isFinal }
                guard fetch.wish != .none else { return .concernsNobody }
                usleep(20_000)
            }
        default: return .isFinal
        }
    }

    private func transfer(_ fetch: Fetch, _ range: Range<Int64>?, from source: ContentSource) -> CacheError? {
        var failure: StoreError?
        do throws(StoreError) {
            let metadata = try cache.store.read(
                source.path, ReadRequest(range: range, version: source.version), into: fetch)
            if metadata.size != source.size || (source.version != nil && metadata.version != source.version) {
                failure = StoreError(
                    .preconditionFailed, "'\(source.path)' changed on the store while it was read", path: source.path)
            }
        } catch { failure = error }
        return state.withLock { state in
            var code = failure?.code
            if failure == nil {
                // What the store said is all, is all.
                let wanted = fetch.range.clamped(to: 0..<max(0, state.sourceEnd))
                let isShort = state.present.gaps(in: wanted).contains { !fetch.delivered.contains($0) }
                if isShort, !state.isDiscarded {
                    code = .corrupted
                    failure = StoreError(
                        .corrupted, "the store gave less of '\(source.path)' than was asked for", path: source.path)
                }
            }
            switch code {
            case .corrupted, .preconditionFailed: discardDelivered(of: fetch, &state)
            default: keepDelivered(of: fetch, &state)
            }
            if let local = fetch.localError { return local }
            return failure.map { .store($0) }
        }
    }

    private func keepDelivered(of fetch: Fetch, _ state: inout LiveState) {
        for range in fetch.delivered.ranges { markFetched(range.clamped(to: 0..<state.size), &state) }
    }

    private func discardDelivered(of fetch: Fetch, _ state: inout LiveState) {
        for range in fetch.delivered.ranges where fetch.isProgressive {
            cache.charge(-state.remove(range))
            state.breakViews(from: range.lowerBound)
        }
        fetch.delivered = RangeSet()
    }

    private func markFetched(_ range: Range<Int64>, _ state: inout LiveState) {
        guard !range.isEmpty else { return }
        for gap in state.present.gaps(in: range) {
            cache.charge(state.insert(gap))
            state.unsynced.insert(gap)
        }
        state.uses.note(range.lowerBound, at: .now)
    }

    /// Takes bytes that `fetch` brings. What was written here meanwhile wins.
    func deliver(_ bytes: UnsafeRawBufferPointer, at offset: Int64, by fetch: Fetch) throws(StoreError) {
        cache.statistics.add(.bytesDownloaded, Int64(bytes.count))
        do throws(CacheError) {
            let satisfied: [Waiter]
            do throws(CacheError) {
                satisfied = try take(bytes, at: offset, by: fetch)
            } catch {
                guard cache.mayHelp(after: error, needing: Int64(bytes.count)) else { throw error }
                satisfied = try take(bytes, at: offset, by: fetch)
            }
            serve(satisfied)
        } catch {
            state.withLock { _ in fetch.localError = error }
            switch error {
            case .store(let error): throw error
            case .system(ENOSPC): throw StoreError(.noLocalSpace, "the disk of the cache is full")
            default: throw StoreError(.cancelled, "the bytes are not wanted any more")
            }
        }
    }

    private func take(_ bytes: UnsafeRawBufferPointer, at offset: Int64, by fetch: Fetch) throws(CacheError)
        -> [Waiter]
    {
        if cache.isShutDown { throw .shutDown }
        return try state.withLock { (state: inout LiveState) throws(CacheError) -> [Waiter] in
            guard !state.isDiscarded else { throw .discarded }
            let end = state.sourceEnd
            guard offset >= 0, offset < end else { return [] }
            let range = (offset..<(offset + min(Int64(bytes.count), end - offset))).clamped(to: fetch.range)
            guard !range.isEmpty else { return [] }
            var wanted = state.present.gaps(in: range)
            // When the store repeats a request, the later bytes count.
            if fetch.isProgressive { wanted += fetch.delivered.intersection(range) }
            guard !wanted.isEmpty else { return [] }
            let file = try file(&state)
            for part in wanted {
                let start = Int(part.lowerBound - offset)
                try file.write(
                    UnsafeRawBufferPointer(rebasing: bytes[start..<(start + Int(part.length))]), at: part.lowerBound)
                fetch.delivered.insert(part)
                if fetch.isProgressive { markFetched(part, &state) }
            }
            return fetch.isProgressive ? state.takeSatisfied() : []
        }
    }

    /// Ends a fetch: answers those who waited for it, or tells them why not.
    private func finish(_ fetch: Fetch, _ error: CacheError?) {
        fetch.end()
        var work = FetchPlan()
        var failed: [Waiter] = []
        let satisfied: [Waiter] = state.withLock { state in
            state.fetches.removeAll { $0 === fetch }
            let satisfied = state.takeSatisfied()
            if error != nil {
                state.waiters.removeAll { waiter in
                    let range = waiter.range.clamped(to: 0..<state.size)
                    guard state.present.gaps(in: range).contains(where: { $0.overlaps(fetch.range) }) else {
                        return false
                    }
                    failed.append(waiter)
                    return true
                }
            }
            // Evicted meanwhile, or given up by others: asked for again.
            let waiters = state.waiters
            state.waiters = waiters.filter { waiter in
                if demand(waiter, &state, &work) { return true }
                work.refused.append((waiter, .system(EIO)))
                return false
            }
            state.isBeingDownloaded = state.isBeingDownloaded || !fetch.delivered.isEmpty
            // Several requests bring it: the last one to end counts.
            if state.isBeingDownloaded, state.isComplete, state.fetches.isEmpty {
                state.isBeingDownloaded = false
                cache.statistics.add(.filesDownloaded)
            }
            return satisfied
        }
        start(work)
        serve(satisfied)
        if let error { for waiter in failed { waiter.fail(error) } }
        cache.contentNeedsKeeping()
    }
}
