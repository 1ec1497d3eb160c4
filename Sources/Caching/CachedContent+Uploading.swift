import Catalog
import Glibc
package import StoreAPI
import Synchronization
import Threading

extension CachedContent {
    /// A view of the content for an upload: what is here as ranges of the cache file, what is not as ranges of the
    /// object on the store (in pieces that `capabilities` allow; what does not fit is fetched first, blocking, or where
    /// there is no room for it is left to the store to fetch).
    ///
    /// - Throws: ``CacheError/system(_:)`` with ENOSPC when bytes are needed for which the disk has no room.
    package func prepareUpload(_ capabilities: StoreCapabilities) throws(CacheError) -> UploadView {
        state.withLock { $0.holds += 1 }
        defer { update { $0.holds -= 1 } }
        while true {
            let attempt = try state.withLock { (state: inout LiveState) throws(CacheError) -> UploadAttempt in
                try saveChanges(&state)
                if !state.isComplete { try findSource(&state) }
                let copies =
                    capabilities.contains(.rangeCopy) && state.source?.version != nil
                    ? capabilities.rangeCopySizes : nil
                let layout = UploadLayout(size: state.size, present: state.present, copySizes: copies)
                guard layout.missing.isEmpty else {
                    return .fetch(layout.missing, mayLeave: copies != nil)
                }
                return .view(try makeView(of: layout, &state))
            }
            switch attempt {
            case .view(let view): return view
            case .fetch(let ranges, let mayLeave):
                // Bytes of a file that is dirty stay until it is uploaded: all of them need room at once.
                let length = ranges.reduce(0) { $0 + $1.length }
                let hasRoom = cache.makeRoomIfNeeded(for: length)
                if !hasRoom, mayLeave {
                    return try state.withLock { (state: inout LiveState) throws(CacheError) -> UploadView in
                        try saveChanges(&state)
                        return try makeView(of: UploadLayout(size: state.size, leaving: state.present), &state)
                    }
                }
                // Above the hard limit too, since what an upload needs must not wait for uploads; but not on a full disk.
                guard hasRoom || cache.diskHasRoom(for: length) else { throw .system(ENOSPC) }
                cache.accounts.completing.add(length, ordering: .relaxed)
                defer { cache.accounts.completing.subtract(length, ordering: .relaxed) }
                for range in ranges { try fetch(range) }
            }
        }
    }

    private enum UploadAttempt {
        case view(UploadView)
        case fetch([Range<Int64>], mayLeave: Bool)
    }

    private func makeView(of layout: UploadLayout, _ state: inout LiveState) throws(CacheError) -> UploadView {
        let file = layout.parts.contains { !$0.isStored } ? try file(&state) : nil
        let segments = layout.parts.map { part -> UploadBody.Segment in
            if part.isStored, let source = state.source {
                return .stored(path: source.path, version: source.version, range: part.range)
            }
            return .file(descriptor: file!.descriptor, offset: part.range.lowerBound, length: part.range.length)
        }
        let token = ViewToken(size: state.size)
        state.views.append(token)
        cache.retain(self)
        return UploadView(
            body: UploadBody(segments), size: state.size, generation: state.generation,
            isIntact: { self.state.withLock { state in !token.isBroken && !state.isDiscarded } },
            pin: UploadPin(content: self, token: token, file: file))
    }

    /// Whether all bytes are here.
    package var isComplete: Bool { state.withLock { $0.present.contains(0..<$0.size) } }

    /// Fetches all that is not here, blocking, and keeps it until it is on the store, as if it had been changed here:
    /// the object that has the bytes is about to be overwritten.
    package func pin() throws(CacheError) {
        state.withLock { $0.holds += 1 }
        defer { update { $0.holds -= 1 } }
        try fetchAll()
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            guard !state.isDiscarded else { return }
            let generation = try asking { () throws(CatalogError) in try cache.index.pinContent(of: inode) }
            // From here on nobody takes it for clean.
            state.isDirty = true
            if !state.isChanging { state.generation = generation }
        }
    }

    /// Fetches all that is not here, blocking.
    func fetchAll() throws(CacheError) {
        state.withLock { $0.holds += 1 }
        defer { update { $0.holds -= 1 } }
        try fetch(0..<Int64.max)
        let sync = state.withLock { beginSync(&$0) }
        try endSync(sync, sync.carryOut(), nameIsSynced: false)
        try state.withLock { (state: inout LiveState) throws(CacheError) in
            if let unsaved = unsaved(state) { try save(unsaved, &state) }
        }
    }

    /// Brings what is missing of `range`, a part after the other, on this thread's time.
    private func fetch(_ range: Range<Int64>) throws(CacheError) {
        var position = range.lowerBound
        while true {
            let gap = state.withLock { state -> Range<Int64>? in
                let rest = range.clamped(to: position..<Int64.max).clamped(to: 0..<state.size)
                return rest.isEmpty ? nil : state.present.gaps(in: rest).first
            }
            guard let gap else { return }
            let part = gap.clamped(to: gap.lowerBound..<(gap.lowerBound + (64 << 20)))
            try waitForBytes(part, until: nil)
            position = part.upperBound
        }
    }

    /// The catalog has new facts about the content's place on the store.
    func refresh() throws(CacheError) {
        try update { (state: inout LiveState) throws(CacheError) in
            guard !state.isDiscarded else { return }
            // Every change is begun in the catalog under this lock: so what it says of dirt is the latest.
            guard let record = try asking({ () throws(CatalogError) in try cache.index.content(of: inode) }) else {
                return
            }
            state.source = record.source
            state.isDirty = record.isDirty
            if !state.isChanging { state.generation = record.generation }
        }
    }
}

/// Keeps what a view needs, until its end.
final class UploadPin: Sendable {
    private struct Kept {
        var content: CachedContent
        var token: ViewToken
        var file: CacheFile?
    }
    private let kept: Lock<Kept?>

    init(content: CachedContent, token: ViewToken, file: CacheFile?) {
        kept = Lock(Kept(content: content, token: token, file: file))
    }

    deinit { end() }

    func end() {
        let kept = kept.withLock { kept in
            defer { kept = nil }
            return kept
        }
        guard let kept else { return }
        kept.content.update { $0.views.removeAll { $0 === kept.token } }
        kept.content.close()
    }
}

/// How a content is put together for an upload.
struct UploadLayout: Equatable {
    struct Part: Equatable {
        var range: Range<Int64>
        /// Whether it is copied on the store, from the object that has it; else it is read from the cache file.
        var isStored: Bool
    }
    var parts: [Part] = []
    /// What has to be fetched before that.
    var missing: [Range<Int64>] = []

    /// All that is not here is left to the store: it copies what it can and fetches the rest.
    init(size: Int64, leaving present: RangeSet) {
        var position: Int64 = 0
        for gap in present.gaps(in: 0..<size) {
            if gap.lowerBound > position { parts.append(Part(range: position..<gap.lowerBound, isStored: false)) }
            parts.append(Part(range: gap, isStored: true))
            position = gap.upperBound
        }
        if position < size { parts.append(Part(range: position..<size, isStored: false)) }
    }

    /// - Parameter copySizes: Smallest and largest range that the store copies; nil: it cannot. Where there is a
    ///   smallest one, it goes for the other parts too, but for the last: they are parts of the same upload.
    init(size: Int64, present: RangeSet, copySizes: ClosedRange<Int64>?) {
        guard let copySizes else {
            missing = present.gaps(in: 0..<size)
            if missing.isEmpty, size > 0 { parts = [Part(range: 0..<size, isStored: false)] }
            return
        }
        let smallest = max(1, copySizes.lowerBound)
        var position: Int64 = 0
        for gap in present.gaps(in: 0..<size) {
            var lower = gap.lowerBound
            if lower > position, lower - position < smallest { lower = position + smallest }
            guard lower < gap.upperBound, gap.upperBound - lower >= smallest else {
                missing.append(gap)
                continue
            }
            if lower > gap.lowerBound { missing.append(gap.lowerBound..<lower) }
            if lower > position { parts.append(Part(range: position..<lower, isStored: false)) }
            let length = gap.upperBound - lower
            let count = (length - 1) / copySizes.upperBound + 1
            for index in 0..<count {
                // Equal pieces, so that none is too small.
                let from = lower + length / count * index + min(index, length % count)
                let to = lower + length / count * (index + 1) + min(index + 1, length % count)
                parts.append(Part(range: from..<to, isStored: true))
            }
            position = gap.upperBound
        }
        if position < size { parts.append(Part(range: position..<size, isStored: false)) }
    }
}
