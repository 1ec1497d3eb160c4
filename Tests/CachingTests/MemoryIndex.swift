import Caching
import Catalog
import StoreAPI
import Threading

/// The catalog's memory of contents, kept in a dictionary.
final class MemoryIndex: ContentIndex {
    struct Row {
        var record: ContentRecord
        var used: Int64 = 0
    }
    struct State {
        var rows: [InodeID: Row] = [:]
        var time: Int64 = 0
        var saves = 0
        var durable = 0
    }
    let state: Lock<State>
    /// ``makeDurable()`` returns when it is not any more.
    let isDiskBusy = Monitor(false)

    init(_ state: State = State()) { self.state = Lock(state) }

    /// What a new process would find after this one was killed.
    func afterCrash() -> MemoryIndex { MemoryIndex(state.withLock { $0 }) }

    func add(_ inode: InodeID, source: ContentSource?) {
        state.withLock {
            $0.rows[inode] = Row(
                record: ContentRecord(
                    inode: inode, size: source?.size ?? 0, generation: 1, isDirty: false, present: RangeSet(),
                    source: source, isChanging: false))
        }
    }

    func record(_ inode: InodeID) -> ContentRecord { state.withLock { $0.rows[inode]!.record } }

    /// A worker has been sent to replace the object by the content.
    func beginUpload(_ inode: InodeID) { state.withLock { $0.rows[inode]!.record.sourceWork = .upload } }

    /// What the synchronizer tells after an upload.
    func uploaded(_ inode: InodeID, generation: Int64, source: ContentSource) {
        state.withLock {
            $0.rows[inode]!.record.source = source
            $0.rows[inode]!.record.sourceWork = .none
            if $0.rows[inode]!.record.generation == generation { $0.rows[inode]!.record.isDirty = false }
        }
    }
    func move(_ inode: InodeID, to path: String) {
        state.withLock { $0.rows[inode]!.record.source!.path = StorePath(path)! }
    }

    func content(of inode: InodeID) throws(CatalogError) -> ContentRecord? {
        state.withLock { $0.rows[inode]?.record }
    }
    func beginChange(of inode: InodeID) throws(CatalogError) -> Int64 {
        state.withLock {
            $0.rows[inode]!.record.isDirty = true
            $0.rows[inode]!.record.isChanging = true
            $0.rows[inode]!.record.generation += 1
            return $0.rows[inode]!.record.generation
        }
    }
    func pinContent(of inode: InodeID) throws(CatalogError) -> Int64 {
        state.withLock {
            $0.rows[inode]!.record.isDirty = true
            $0.rows[inode]!.record.generation += 1
            return $0.rows[inode]!.record.generation
        }
    }
    func save(_ contents: [ContentState]) throws(CatalogError) -> [Int64?] {
        state.withLock { state in
            state.saves += 1
            return contents.map { content in
                guard var record = state.rows[content.inode]?.record else { return nil }
                record.present = content.present
                record.isChanging = false
                if content.isChanged {
                    record.isDirty = true
                    record.size = content.size
                    record.generation += 1
                }
                state.time += 1
                state.rows[content.inode]!.record = record
                state.rows[content.inode]!.used = state.time
                return record.generation
            }
        }
    }
    func contentWasEvicted(_ inode: InodeID) throws(CatalogError) -> Int64 {
        state.withLock { state in
            if state.rows[inode]!.record.isDirty { return 0 }
            defer { state.rows[inode]!.record.present = RangeSet() }
            return state.rows[inode]!.record.present.count
        }
    }
    func noteUse(of inodes: [InodeID]) throws(CatalogError) {
        state.withLock {
            for inode in inodes {
                $0.time += 1
                $0.rows[inode]?.used = $0.time
            }
        }
    }
    func evictionCandidates(limit: Int) throws(CatalogError) -> [EvictionCandidate] {
        state.withLock { state in
            state.rows.values
                .filter { !$0.record.isDirty && !$0.record.present.isEmpty && $0.record.source != nil }
                .sorted { $0.used < $1.used }.prefix(limit)
                .map {
                    EvictionCandidate(
                        inode: $0.record.inode, cachedBytes: $0.record.present.count,
                        used: Timestamp(nanoseconds: $0.used))
                }
        }
    }
    func contentTotals() throws(CatalogError) -> ContentTotals {
        state.withLock { state in
            var totals = ContentTotals(cachedBytes: 0, dirtyBytes: 0, dirtyFiles: 0)
            for row in state.rows.values {
                totals.cachedBytes += row.record.present.count
                if row.record.isDirty {
                    totals.dirtyBytes += row.record.present.count
                    totals.dirtyFiles += 1
                }
            }
            return totals
        }
    }
    func makeDurable() throws(CatalogError) {
        state.withLock { $0.durable += 1 }
        _ = isDiskBusy.wait { $0 ? nil : true }
    }
    func diskWillBeFlushed() throws(CatalogError) -> Int64? { nil }
    func diskWasFlushed(_ epoch: Int64) throws(CatalogError) {}
}
