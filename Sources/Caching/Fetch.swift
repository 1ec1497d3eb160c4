import Catalog
import StoreAPI
import Synchronization
import Threading

/// A range of a content on its way from the store.
final class Fetch: ReadSink, @unchecked Sendable {
    enum Phase: Int {
        case queued, running, over
    }

    let content: CachedContent
    let range: Range<Int64>
    /// Whether bytes count as present as they come; else all at the end, when the store has verified them.
    let isProgressive: Bool
    /// Guarded by the content's lock: what this fetch wrote, and nobody else since.
    var delivered = RangeSet()
    /// Guarded by the content's lock.
    var isDemanded: Bool
    /// Guarded by the content's lock: why what came could not be kept.
    var localError: CacheError?
    private let phase = Atomic<Int>(Phase.queued.rawValue)

    init(content: CachedContent, range: Range<Int64>, isDemanded: Bool, isWhole: Bool) {
        self.content = content
        self.range = range
        self.isDemanded = isDemanded
        isProgressive = range.length > (isWhole ? 8 << 20 : 1 << 20)
    }

    /// Who waits for it.
    enum Wish {
        /// Nobody: it is read ahead, or was given up.
        case none
        /// Somebody whose patience has an end.
        case reader
        case upload
    }

    var wish: Wish {
        content.state.withLock { state in
            guard !state.isDiscarded else { return .none }
            let waiters = state.waiters.filter { $0.range.overlaps(range) }
            if waiters.isEmpty { return .none }
            return waiters.contains { $0.deadline != nil } ? .reader : .upload
        }
    }

    var isQueued: Bool { phase.load(ordering: .acquiring) == Phase.queued.rawValue }

    /// - Returns: Whether it is the caller's now to carry it out.
    func begin() -> Bool { move(from: .queued, to: .running) }
    /// - Returns: Whether it will not be carried out.
    func cancel() -> Bool { move(from: .queued, to: .over) }
    func end() { phase.store(Phase.over.rawValue, ordering: .releasing) }

    private func move(from old: Phase, to new: Phase) -> Bool {
        phase.compareExchange(expected: old.rawValue, desired: new.rawValue, ordering: .acquiringAndReleasing)
            .exchanged
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        try content.deliver(bytes, at: offset, by: self)
    }
}
