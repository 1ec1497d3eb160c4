import Caching
import Catalog
import Glibc
import Statistics
import StoreAPI
import Threading

// A file that is changed while it is uploaded: normally the upload ends at the first changed byte, the row stays, and
// the file is due again `delay` after that change (appending does not count: what was read is a whole prefix). A file
// that is changed so often that it would never get out is uploaded all the same once its deadline has passed and an
// attempt was torn: up to `largestSnapshot` from a copy of the cache file that no writer touches, and what is larger,
// after `mostTorn` attempts, as it is, in a state between two; either way the row stays, and the next upload follows.
extension StepRunner {
    /// The largest file that is copied for a consistent upload, in bytes.
    static let largestSnapshot: Int64 = 256 << 20
    static let mostTorn = 3
    /// How often the journal is asked whether the upload under way is still wanted.
    private static let askEvery = Duration.milliseconds(100)

    func upload(_ plan: UploadPlan) throws(StoreError) -> StepOutcome {
        guard plan.fixedBody == nil else { return try put(plan, UploadBody(plan.fixedBody ?? []), nil) }
        do {
            return try uploadContent(plan)
        } catch {
            try lookForSource(of: plan.placement.inode, after: error, by: plan.placement.item)
            return .goOn
        }
    }

    private func uploadContent(_ plan: UploadPlan) throws(StoreError) -> StepOutcome {
        let capabilities = store.capabilities
        let content = try contents.openContent(of: plan.placement.inode)
        defer { content.close() }
        var view = try content.uploadView(capabilities)
        defer { view.end() }
        if let largest = capabilities.largestObject, view.size > largest {
            throw StoreError(
                .tooLarge, "'\(plan.target)' has \(view.size) bytes; the store takes \(largest) at most",
                path: plan.target)
        }
        // The file may have gone on since the plan was made.
        let plan = try renewed(plan, for: view)
        guard memory.timesTorn(plan.placement.item) > 0, isOverdue(plan.placement.item) else {
            return try put(plan, view.body, view)
        }
        guard view.size <= Self.largestSnapshot, contents.hasRoomOnDisk(for: view.size) else {
            let isLastResort = memory.timesTorn(plan.placement.item) >= Self.mostTorn
            var plan = plan
            if isLastResort { plan.attributes.identity = nil }
            return try put(plan, view.body, view, evenIfTorn: isLastResort)
        }
        var snapshot: FileSnapshot?
        for _ in 0..<Self.mostTorn {
            snapshot = nil
            let copy = try FileSnapshot(of: view.body)
            snapshot = copy
            if view.isIntact() { break }
            let newer = try content.uploadView(capabilities)
            view.end()
            view = newer
        }
        var latest = try renewed(plan, for: view)
        // What is sent may be between two states, as which other names of the file have other bytes.
        latest.attributes.identity = nil
        return try withExtendedLifetime(snapshot) { () throws(StoreError) -> StepOutcome in
            try put(latest, snapshot?.body ?? view.body, view, evenIfTorn: true)
        }
    }

    func renewed(_ plan: UploadPlan, for view: UploadView) throws(StoreError) -> UploadPlan {
        try catalog { () throws(CatalogError) in try journal.plan(plan, for: view.generation) }
    }

    private func isOverdue(_ id: PendingID) -> Bool {
        guard let item = try? journal.pendingItem(id) else { return false }
        let since = max(item.since, memory.lastUpload(of: id) ?? item.since)
        return clock.calendar.nanoseconds - since.nanoseconds >= deadline.nanoseconds
    }

    /// - Parameter view: nil for a body that does not change.
    private func put(_ plan: UploadPlan, _ body: UploadBody, _ view: UploadView?, evenIfTorn: Bool = false)
        throws(StoreError) -> StepOutcome
    {
        statistics.add(.uploadsInFlight, 1)
        defer { statistics.add(.uploadsInFlight, -1) }
        return try carryOut(try prepared(plan, body, view, evenIfTorn: evenIfTorn))
    }

    func prepared(_ plan: UploadPlan, _ body: UploadBody, _ view: UploadView?, evenIfTorn: Bool = false)
        throws(StoreError) -> Prepared
    {
        let wanted = Wanted(self, plan, view, evenIfTorn: evenIfTorn)
        let checkpoint =
            view != nil && !evenIfTorn && store.capabilities.contains(.resumableUpload)
            ? JournalCheckpoint(journal, plan.placement.item, plan.checkpoint, statistics) : nil
        let condition: WriteCondition
        do { condition = try checked(plan.condition, at: plan.target) } catch {
            return .ended(try conclude(plan, body, view, .failure(error)))
        }
        let options = PutOptions(
            condition: condition, kind: plan.kind, attributes: plan.attributes,
            isWanted: { wanted.answer() },
            progress: { [statistics, sent] bytes in
                if bytes > 0 { statistics.add(.bytesUploaded, bytes) }
                sent(bytes)
            }, checkpoint: checkpoint)
        return .request(
            Request(change: .put(body, at: plan.target, options)) { answer throws(StoreError) in
                try conclude(plan, body, view, answer)
            })
    }

    private func conclude(
        _ plan: UploadPlan, _ body: UploadBody, _ view: UploadView?, _ answer: Result<Metadata?, StoreError>
    ) throws(StoreError) -> StepOutcome {
        var metadata: Metadata
        do throws(StoreError) {
            metadata = try self.metadata(in: answer, of: plan.target)
            guard metadata.size == body.length else {
                // What lies there is ours, but not what was to be there: the next attempt replaces it.
                try noteUnfinished(plan, metadata)
                throw StoreError(
                    .corrupted,
                    "the store holds \(metadata.size) bytes of '\(plan.target)' where \(body.length) were sent",
                    path: plan.target)
            }
        } catch {
            switch error.code {
            case .preconditionFailed:
                // Ours, when it was put there before a crash.
                let there = try found(at: plan.target)
                switch try there.map({ there throws(StoreError) in try origin(of: there, plan, body, view) }) {
                case .thisUpload: metadata = try withOurAttributes(there!, plan)
                case .olderUpload:
                    try noteUnfinished(plan, there!)
                    return .goOn
                case .somebodyElse, nil:
                    try tell(there, at: plan.target, by: plan.placement.item)
                    // Or it is not the target that has changed, but what it was to be made of; which may be the same.
                    for source in body.sources {
                        if source != plan.target { try lookAgain(at: source, by: plan.placement.item) }
                        try expectSource(of: plan.placement.inode, after: error)
                    }
                    return .goOn
                }
            case .unavailable, .timedOut:
                // It may have been done and only the answer be lost. To find that out now, while the file is as it
                // was sent, saves taking our own bytes for somebody else's later.
                guard let there = try? found(at: plan.target), plan.condition != there.version.map({ .ifVersion($0) })
                else { throw error }
                switch try? origin(of: there, plan, body, view) {
                case .thisUpload: metadata = try withOurAttributes(there, plan)
                case .olderUpload:
                    try noteUnfinished(plan, there)
                    return .goOn
                case .somebodyElse, nil: throw error
                }
            case .isADirectory, .notADirectory, .alreadyExists:
                try lookAgain(at: plan.target, by: plan.placement.item)
                return .goOn
            case .cancelled:
                if let view, !view.isIntact() { _ = memory.noteTorn(plan.placement.item) }
                // A server may have had all of it by then, or carry it out yet.
                if let sent = SentState(size: body.length, plan.attributes, on: store.capabilities), !isStopping(),
                    let there = try? found(at: plan.target),
                    SentState(size: there.size, there.attributes, on: store.capabilities) == sent
                {
                    try noteUnfinished(plan, there)
                }
                return .overtaken
            default: throw error
            }
        }
        var plan = plan
        // What was read between two states of the file is no state that the catalog knows.
        if let view, !view.isIntact() { plan.placement.contentGeneration = -1 }
        try catalog { [plan, metadata] () throws(CatalogError) in try journal.uploaded(plan, as: metadata) }
        contents.contentWasUploaded(plan.placement.inode)
        statistics.add(.filesUploaded)
        return .uploaded(revision: plan.placement.revision)
    }

    /// Tells the catalog that the object at the plan's target is ours and has to be replaced.
    private func noteUnfinished(_ plan: UploadPlan, _ metadata: Metadata) throws(StoreError) {
        var plan = plan
        plan.placement.contentGeneration = -1
        try catalog { [plan] () throws(CatalogError) in try journal.uploaded(plan, as: metadata) }
    }

    private enum Origin {
        case thisUpload
        /// From this file, which has been changed since.
        case olderUpload
        case somebodyElse
    }

    /// Where the object comes from that is unexpectedly there.
    ///
    /// Its bytes are compared with those of this upload, which every store can answer, whatever its versions and
    /// checksums are. Parts that were to be taken from the object itself are not compared: there it cannot differ
    /// from what was wanted. When the file has changed since it was sent, so that there is nothing to compare with,
    /// size and all times to the nanosecond have to be those that were sent.
    private func origin(of there: Metadata, _ plan: UploadPlan, _ body: UploadBody, _ view: UploadView?)
        throws(StoreError) -> Origin
    {
        guard there.kind == plan.kind || (there.kind == .file && !store.capabilities.contains(.specialFiles)) else {
            return .somebodyElse
        }
        func isIntact() -> Bool { view?.isIntact() ?? true }
        if there.size == body.length, isIntact() {
            guard there.size > 0 else { return .thisUpload }
            let comparison = ComparisonSink(body)
            do {
                _ = try store.read(plan.target, ReadRequest(version: there.version), into: comparison)
            } catch {
                guard comparison.differs || error.code == .preconditionFailed || error.code == .notFound else {
                    throw error
                }
            }
            if comparison.isComplete, isIntact() { return .thisUpload }
        }
        guard let found = SentState(size: there.size, there.attributes, on: store.capabilities) else {
            return .somebodyElse
        }
        // What has the times of this very state, and other bytes, is kept: a damaged disk may have lost them here.
        if found == SentState(size: body.length, plan.attributes, on: store.capabilities) {
            return isIntact() ? .somebodyElse : .olderUpload
        }
        return plan.sentBefore.contains(found) ? .olderUpload : .somebodyElse
    }

    private func withOurAttributes(_ there: Metadata, _ plan: UploadPlan) throws(StoreError) -> Metadata {
        guard store.capabilities.contains(.attributes) else { return there }
        return try store.setAttributes(plan.attributes, at: plan.target, ifVersion: there.version)
    }

    /// Whether an upload under way is still worth it.
    private final class Wanted: Sendable {
        private let runner: StepRunner
        private let plan: UploadPlan
        private let view: UploadView?
        private let evenIfTorn: Bool
        private let last: Lock<(asked: MonotonicTime, answer: Bool)>

        init(_ runner: StepRunner, _ plan: UploadPlan, _ view: UploadView?, evenIfTorn: Bool) {
            self.runner = runner
            self.plan = plan
            self.view = view
            self.evenIfTorn = evenIfTorn
            last = Lock((asked: .now, answer: true))
        }

        func answer() -> Bool {
            if runner.isStopping() { return false }
            if let view, !evenIfTorn, !view.isIntact() { return false }
            let now = MonotonicTime.now
            return last.withLock {
                if $0.answer, now - $0.asked >= StepRunner.askEvery {
                    $0 = (now, rowIsWanted())
                }
                return $0.answer
            }
        }

        /// The row stands for another file, or for none: deleted, replaced or renamed. Where the store can copy or
        /// move, a renamed file's upload is still good.
        private func rowIsWanted() -> Bool {
            do {
                guard let item = try runner.journal.pendingItem(plan.placement.item) else { return false }
                return item.inode == plan.placement.inode && item.path == plan.target
            } catch {
                // That is found out, and reported, when the outcome is.
                return true
            }
        }
    }
}

extension UploadBody {
    /// The objects of the store that parts of it are to be taken from.
    fileprivate var sources: Set<StorePath> {
        Set(segments.compactMap { if case .stored(let path, _, _) = $0 { path } else { nil } })
    }
}

/// Keeps the state of an interrupted upload in the journal.
final class JournalCheckpoint: UploadCheckpoint {
    private let journal: any Journal
    private let item: PendingID
    private let statistics: Statistics
    private let state: Lock<String?>

    init(_ journal: any Journal, _ item: PendingID, _ state: String?, _ statistics: Statistics) {
        self.journal = journal
        self.item = item
        self.statistics = statistics
        self.state = Lock(state)
    }

    func load() -> String? { state.withLock { $0 } }

    func save(_ state: String?) {
        self.state.withLock { $0 = state }
        do {
            try journal.saveCheckpoint(state, for: item)
        } catch {
            statistics.report(
                kind: "catalog", message: error.message,
                advice: "An interrupted upload would begin anew. Check the disk that holds the catalog.")
        }
    }
}
