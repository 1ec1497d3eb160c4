import Catalog
import StoreAPI
import Threading

/// What is known of one content while it is loaded. Guarded by the lock of its ``CachedContent``.
///
/// Invariants: what is absent (below `size` and not `present`) lies on the store, inside `source`, with the bytes
/// that it has had since the content was loaded; so a file that grows has its new bytes present, as zeros. The
/// cache file is never longer than `size`. Absent ranges of the cache file hold anything.
struct LiveState {
    var size: Int64
    var generation: Int64
    /// Whether the content is newer than the store's. The catalog knows the same: see ``isChanging``.
    var isDirty: Bool
    var source: ContentSource?
    var present: RangeSet
    /// Present ranges that are known to take no room on the disk.
    var holes = RangeSet()
    /// Present ranges that were fetched and may be lost with the power: the catalog is not told of them before they
    /// are on the disk.
    var unsynced = RangeSet()
    /// The same, while somebody is about to bring them to the disk.
    var syncing = RangeSet()
    var syncers = 0
    /// How often this side has changed the bytes of the cache file, and how many of these changes are on the disk.
    var changes = 0
    var changesSynced = 0
    /// The catalog notes that bytes of this side may be lost with the power.
    var isNotedAsUnflushed: Bool
    /// What the catalog holds to be present.
    var saved: RangeSet
    var modified: Timestamp?
    /// The catalog knows that the content changes, by ``Catalog/beginChange(of:)``, and was told of no change since.
    var isChanging = false
    /// ``isChanging``, and yet nothing was changed: of a file that was just made, for whoever is going to write to it.
    var isUntouched = false
    /// What this content counts for in the sum of the cache.
    var charged: Int64 = 0

    var file: CacheFile?
    /// The file's name in its directory may be lost with the power.
    var nameIsUnsynced = false
    /// Whether the cache file may exist.
    var fileMayExist = true

    /// Those who read from the file without the lock, in two generations, so that one who waits for them is not kept
    /// waiting by later ones.
    var readers = (0, 0)
    var readersTurn = 0
    var isAwaitingReaders = false

    var fetches: [Fetch] = []
    /// Bytes have come since the content was last counted as downloaded.
    var isBeingDownloaded = false
    var waiters: [Waiter] = []
    var views: [ViewToken] = []
    /// Those who need all bytes to stay; nothing is evicted meanwhile.
    var holds = 0
    var isDiscarded = false
    var uses = UseTimes()

    init(_ record: ContentRecord) {
        size = record.size
        generation = record.generation
        isDirty = record.isDirty
        source = record.source
        present = record.present
        saved = record.present
        isNotedAsUnflushed = record.trust == .unflushed
        // By an earlier process, or as an earlier object of this class.
        changes = record.trust == .unflushed || record.isChanging ? 1 : 0
    }

    var hasUnsyncedChanges: Bool { changesSynced < changes }

    /// Whether nothing has to come from the store.
    var isComplete: Bool {
        size == 0 || (present.ranges.count == 1 && present.contains(0..<size))
    }

    /// Where the bytes end that the store has.
    var sourceEnd: Int64 { min(source?.size ?? 0, size) }

    var mayBeEvicted: Bool {
        !isDirty && !isChanging && source != nil && views.isEmpty && holds == 0 && !isDiscarded
    }

    /// What the catalog may be told: survives a loss of power, or was written here.
    var savable: RangeSet {
        guard !unsynced.isEmpty || !syncing.isEmpty else { return present }
        var ranges = present
        for range in unsynced.ranges { ranges.remove(range) }
        for range in syncing.ranges { ranges.remove(range) }
        return ranges
    }

    /// Marks `range` as present with bytes that take room.
    /// - Returns: How much more room that is.
    mutating func insert(_ range: Range<Int64>) -> Int64 {
        var added = range.length
        if (present.ranges.last?.upperBound ?? 0) > range.lowerBound {
            if holes.isEmpty, present.contains(range) { return 0 }
            for part in present.intersection(range) { added -= part.length }
            if !holes.isEmpty {
                for part in holes.intersection(range) { added += part.length }
                holes.remove(range)
            }
        }
        present.insert(range)
        charged += added
        return added
    }

    /// Marks `range` as present with zeros that take no room.
    /// - Returns: How much more room that is: negative or 0.
    mutating func insertHole(_ range: Range<Int64>) -> Int64 {
        let freed = charge(of: range)
        present.insert(range)
        holes.insert(range)
        charged -= freed
        forgetFetched(range)
        return -freed
    }

    /// Marks `range` as not present.
    /// - Returns: How much room that frees.
    mutating func remove(_ range: Range<Int64>) -> Int64 {
        let freed = charge(of: range)
        present.remove(range)
        holes.remove(range)
        unsynced.remove(range)
        charged -= freed
        return freed
    }

    private func charge(of range: Range<Int64>) -> Int64 {
        var sum: Int64 = 0
        for part in present.intersection(range) { sum += part.length }
        for part in holes.intersection(range) { sum -= part.length }
        return sum
    }

    /// The bytes of `range` are this side's own now: a fetch under way must not touch them any more.
    mutating func forgetFetched(_ range: Range<Int64>) {
        if !unsynced.isEmpty { unsynced.remove(range) }
        if !syncing.isEmpty { syncing.remove(range) }
        for fetch in fetches { fetch.delivered.remove(range) }
    }

    /// Bytes from `offset` on are not what they were: views that have them are worthless.
    func breakViews(from offset: Int64) {
        for view in views where offset < view.size { view.isBroken = true }
    }

    /// Takes those waiters out whose bytes are all here.
    mutating func takeSatisfied() -> [Waiter] {
        guard !waiters.isEmpty else { return [] }
        var satisfied: [Waiter] = []
        waiters.removeAll { waiter in
            guard present.contains(waiter.range.clamped(to: 0..<size)) else { return false }
            satisfied.append(waiter)
            return true
        }
        return satisfied
    }

    mutating func enter() -> Int {
        if readersTurn == 0 { readers.0 += 1 } else { readers.1 += 1 }
        return readersTurn
    }

    /// - Returns: Whether somebody waits for it.
    mutating func leave(_ turn: Int) -> Bool {
        if turn == 0 { readers.0 -= 1 } else { readers.1 -= 1 }
        return isAwaitingReaders
    }
}

/// When the parts of a content were used last, for eviction of what lies behind the readers of an open file.
struct UseTimes {
    /// Log2 of a part's size: 8 MiB, and more where that would be too many parts.
    private(set) var shift = 23
    private var times: [Int64] = []

    mutating func note(_ offset: Int64, at time: MonotonicTime) {
        while offset >> shift >= 4096 {
            shift += 1
            times = stride(from: 0, to: times.count, by: 2).map { max(times[$0], times.dropFirst($0 + 1).first ?? 0) }
        }
        let index = Int(offset >> shift)
        while times.count <= index { times.append(0) }
        times[index] = time.nanoseconds
    }

    /// The parts of `0..<size` and when each was used.
    func parts(of size: Int64) -> [(range: Range<Int64>, used: Int64)] {
        var parts: [(range: Range<Int64>, used: Int64)] = []
        var position: Int64 = 0
        for time in times where position < size {
            let next = min(position + (1 << shift), size)
            parts.append((position..<next, time))
            position = next
        }
        // What was never used since the content was loaded, in one.
        if position < size { parts.append((position..<size, 0)) }
        return parts
    }
}

/// Somebody who waits until `range` is here.
final class Waiter: Sendable {
    enum Completion: Sendable {
        case read(@Sendable (Result<UnsafeRawBufferPointer, CacheError>) -> Void)
        case presence(@Sendable (CacheError?) -> Void)
    }

    let range: Range<Int64>
    /// What is fetched for it is rounded to a multiple of this.
    let grain: Int64
    /// nil: as long as it takes.
    let deadline: MonotonicTime?
    let completion: Completion

    init(
        range: Range<Int64>, grain: Int64 = CachedContent.alignment, deadline: MonotonicTime?, completion: Completion
    ) {
        self.range = range
        self.grain = grain
        self.deadline = deadline
        self.completion = completion
    }

    func fail(_ error: CacheError) {
        switch completion {
        case .read(let reply): reply(.failure(error))
        case .presence(let reply): reply(error)
        }
    }
}

/// What a content knows of a view of it that is in use. Guarded by the content's lock.
final class ViewToken: @unchecked Sendable {
    let size: Int64
    var isBroken = false
    init(size: Int64) { self.size = size }
}
