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

    /// Whether somebody waits for it.
    var isUrgent: Bool { content.state.withLock { _ in isDemanded } }

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
