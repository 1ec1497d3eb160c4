import Caching
import Catalog
import Glibc
import Statistics
import StoreAPI
import Threading

/// Carries out rows of the journal on the store, on a worker's thread: asks the catalog for the next step, does it,
/// reports it, until there is none. Every step may be repeated: after a crash it is planned again.
struct StepRunner: Sendable {
    let journal: any Journal
    let contents: any ContentProvider
    let store: any Store
    let statistics: Statistics
    let clock: any Clock
    let deadline: Duration
    let memory: UploadMemory
    let onChange: @Sendable ([NamespaceChange]) -> Void
    /// Bytes that went out, for the scheduler's measure.
    let sent: @Sendable (Int64) -> Void
    let isStopping: @Sendable () -> Bool
    /// Rows that another worker's step has kept waiting can be planned again.
    let release: @Sendable ([PendingID]) -> Void

    /// A row that needs more than this is given back, so that others get their turn.
    static let mostSteps = 64
    /// How often the same kind of step may come for one row, each time done with success, before that is taken for
    /// a fault: somebody who changes the same object again and again, or a contradiction in the catalog.
    private static let mostRepeats = 12

    enum StepOutcome {
        /// Ask for the next step.
        case goOn
        /// The content went out, as planned at this revision of the row.
        case uploaded(revision: Int64)
        /// Nobody wants the result any more, or not in this state.
        case overtaken
    }

    /// A row that is being worked on.
    struct RowWork {
        let row: PendingItem
        /// Whether the store was asked for anything.
        var askedStore = false
        fileprivate var counts: [StepKind: Int] = [:]

        init(_ row: PendingItem) { self.row = row }
    }

    enum Next {
        case ended(UploadScheduler.Outcome)
        /// To be carried out, and then reported with ``end(_:_:)``.
        case step(SyncStep)
    }

    /// Works on one row until it is done, blocked or failed.
    func run(_ row: PendingItem) -> UploadScheduler.Outcome {
        var work = RowWork(row)
        do throws(StoreError) {
            for _ in 0..<Self.mostSteps {
                if isStopping() { return .overtaken }
                switch try begin(&work) {
                case .ended(let outcome): return outcome
                case .step(let step):
                    let result = Result { () throws(StoreError) in try perform(step, of: row) }
                    if let outcome = try end(&work, result) { return outcome }
                }
            }
            return .overtaken
        } catch {
            return .failed(error)
        }
    }

    /// Asks the catalog what to do next for a row.
    func begin(_ work: inout RowWork) throws(StoreError) -> Next {
        let row = work.row
        let step = try catalog { () throws(CatalogError) in try planned(row) }
        guard let kind = StepKind(step) else {
            switch step {
            case .blocked(let blocker): return .ended(.blocked(by: blocker))
            case .busy: return .ended(.busy)
            default: return .ended(.done(askedStore: work.askedStore))
            }
        }
        work.counts[kind, default: 0] += 1
        guard work.counts[kind]! <= Self.mostRepeats else {
            throw StoreError(
                .internal, "'\(row.path)' does not get on: \(kind) was needed \(Self.mostRepeats) times")
        }
        return .step(step)
    }

    /// Notes that a step was carried out.
    ///
    /// - Returns: what became of the row; nil: there is more to do for it.
    func end(_ work: inout RowWork, _ result: Result<StepOutcome, StoreError>) throws(StoreError)
        -> UploadScheduler.Outcome?
    {
        let id = work.row.id
        try catalog { () throws(CatalogError) in try stepEnded(id) }
        switch try result.get() {
        case .goOn:
            work.askedStore = true
            return nil
        case .overtaken: return .overtaken
        case .uploaded(let revision):
            work.askedStore = true
            // A file that was changed meanwhile is not sent again at once: it is due when its time comes.
            let now = try catalog { () throws(CatalogError) in try journal.pendingItem(id) }
            guard let now else { return .done(askedStore: true) }
            guard now.revision != revision else { return nil }
            memory.noteUpload(of: id, at: clock.calendar)
            return .outdated
        }
    }

    /// Has the catalog know that the row's step has ended. Until it does, nobody else may work at the same places: so
    /// a catalog that has no memory, or no space on its disk, is given some time.
    func stepEnded(_ item: PendingID) throws(CatalogError) {
        for attempt in 1... {
            do throws(CatalogError) {
                let released = try journal.stepEnded(item)
                if !released.isEmpty { release(released) }
                return
            } catch {
                guard attempt < Self.mostAttempts, !isStopping() else { throw error }
                usleep(100_000)
            }
        }
    }

    private static let mostAttempts = 100

    /// The plan; where it is blocked by something that it has just found out about, that is asked for at once.
    private func planned(_ row: PendingItem) throws(CatalogError) -> SyncStep {
        var step = try journal.plan(row)
        for _ in 0..<3 {
            guard case .blocked(by: nil) = step else { break }
            step = try journal.plan(row)
        }
        return step
    }

    func perform(_ step: SyncStep, of row: PendingItem) throws(StoreError) -> StepOutcome {
        switch step {
        case .done, .blocked, .busy: break
        case .upload(let plan): return try upload(plan)
        case .setAttributes(let plan): return try carryOut(setAttributes(plan))
        case .copy(let plan): return try carryOut(copy(plan))
        case .createDirectory(let plan): return try carryOut(createDirectory(plan))
        case .move(let plan): return try carryOut(move(plan))
        case .settle(let plan): try settle(plan)
        case .delete(let plan):
            for (_, outcome) in delete([plan]) {
                if case .failed(let error) = outcome { throw error }
            }
        case .keepConflict(let plan): try keepConflict(plan)
        case .list(let directory): try list(directory, for: row.id)
        case .fetch(let inode): try fetch(inode, for: row.id)
        case .learn(let inode): try learn(inode, for: row.id)
        }
        return .goOn
    }

    // MARK: Steps

    /// What a step asks of the store, and what its answer means.
    struct Request {
        var change: StoreChange
        var conclude: (Result<Metadata?, StoreError>) throws(StoreError) -> StepOutcome
    }

    enum Prepared {
        case request(Request)
        /// It turned out that nothing is to be asked, and the catalog has been told why.
        case ended(StepOutcome)
    }

    func carryOut(_ prepared: Prepared) throws(StoreError) -> StepOutcome {
        switch prepared {
        case .request(let request): try request.conclude(store.apply([request.change])[0])
        case .ended(let outcome): outcome
        }
    }

    func setAttributes(_ plan: AttributesPlan) -> Prepared {
        let request = Request(change: .setAttributes(plan.attributes, at: plan.path, ifVersion: plan.version)) {
            answer throws(StoreError) in
            do throws(StoreError) {
                let metadata = try self.metadata(in: answer, of: plan.path)
                try catalog { () throws(CatalogError) in try journal.attributesWereSet(plan, to: metadata) }
            } catch {
                guard error.code == .preconditionFailed || error.code == .notFound else { throw error }
                try lookAgain(at: plan.path, by: plan.item)
            }
            return .goOn
        }
        return .request(request)
    }

    func createDirectory(_ plan: DirectoryPlan) -> Prepared {
        let request = Request(change: .createDirectory(plan.target, plan.attributes)) { answer throws(StoreError) in
            do throws(StoreError) {
                _ = try answer.get()
                try catalog { () throws(CatalogError) in try journal.directoryWasMade(plan) }
            } catch {
                guard error.code == .notADirectory || error.code == .alreadyExists else { throw error }
                try lookAgain(at: plan.target, by: plan.item)
            }
            return .goOn
        }
        return .request(request)
    }

    func copy(_ plan: CopyPlan) throws(StoreError) -> Prepared {
        let condition: WriteCondition
        do { condition = try checked(plan.condition, at: plan.target) } catch {
            try notCopied(plan, error)
            return .ended(.goOn)
        }
        let options = CopyOptions(
            sourceVersion: plan.sourceVersion, condition: condition, attributes: plan.attributes)
        let request = Request(change: .copy(plan.source, to: plan.target, options)) { answer throws(StoreError) in
            do throws(StoreError) {
                let metadata = try self.metadata(in: answer, of: plan.target)
                try catalog { () throws(CatalogError) in try journal.copied(plan, as: metadata) }
            } catch { try notCopied(plan, error) }
            return .goOn
        }
        return .request(request)
    }

    private func notCopied(_ plan: CopyPlan, _ error: StoreError) throws(StoreError) {
        switch error.code {
        case .notFound: try lookAgain(at: plan.source, by: plan.placement.item)
        case .preconditionFailed:
            // It is one of the two that changed, or the copy was made before a crash.
            let source = try found(at: plan.source)
            let target = try found(at: plan.target)
            if let source, let target, try isCopy(target, of: source, plan) {
                try catalog { () throws(CatalogError) in try journal.copied(plan, as: target) }
            } else {
                if source?.version != plan.sourceVersion {
                    try tell(source, at: plan.source, by: plan.placement.item)
                }
                try tell(target, at: plan.target, by: plan.placement.item)
            }
        case .unavailable, .timedOut:
            // Done, perhaps, and only the answer was lost.
            guard let source = try? found(at: plan.source), let target = try? found(at: plan.target),
                (try? isCopy(target, of: source, plan)) == true
            else { throw error }
            try catalog { () throws(CatalogError) in try journal.copied(plan, as: target) }
        default: throw error
        }
    }

    private func isCopy(_ target: Metadata, of source: Metadata, _ plan: CopyPlan) throws(StoreError) -> Bool {
        guard plan.sourceVersion == source.version, plan.condition != target.version.map({ .ifVersion($0) }) else {
            return false
        }
        return try hasSameBytes(plan.source, source, plan.target, target)
    }

    func move(_ plan: MovePlan) throws(StoreError) -> Prepared {
        // Stores move whatever is there, onto whatever is there. That is no protection against a change at the same
        // moment, but against all before it.
        if let version = plan.version, let there = try found(at: plan.source), there.version != version {
            try wasNotDone(plan, there)
            return .ended(.goOn)
        }
        if let there = try found(at: plan.target) {
            try catalog { () throws(CatalogError) in try journal.moveWasNotDone(plan) }
            try tell(there, at: plan.target, by: plan.item)
            return .ended(.goOn)
        }
        let change = StoreChange.move(plan.source, to: plan.target, ifVersion: plan.version, condition: .ifAbsent)
        let request = Request(change: change) { answer throws(StoreError) in
            do throws(StoreError) { _ = try answer.get() } catch {
                guard try isMovedAllTheSame(plan, error) else { return .goOn }
            }
            let metadata = plan.isDirectory ? nil : try store.metadata(of: plan.target)
            try catalog { () throws(CatalogError) in try journal.moved(plan, as: metadata) }
            return .goOn
        }
        return .request(request)
    }

    /// After a move that the store has refused, or not confirmed. If it is not done, the catalog has been told why.
    private func isMovedAllTheSame(_ plan: MovePlan, _ error: StoreError) throws(StoreError) -> Bool {
        switch error.code {
        case .notFound:
            // Somebody else has taken it away; or a request of ours was carried out twice.
            try settle(plan)
            return false
        case .unavailable, .timedOut:
            // Done, perhaps, and only the answer was lost. If that cannot be found out now, it will be before the next
            // step.
            guard (try? found(at: plan.source)) == .some(nil), let target = try? found(at: plan.target),
                Self.isMoved(target, plan)
            else { throw error }
            return true
        case .directoryNotEmpty, .alreadyExists, .notADirectory, .isADirectory:
            try catalog { () throws(CatalogError) in try journal.moveWasNotDone(plan) }
            try lookAgain(at: plan.target, by: plan.item)
            return false
        case .preconditionFailed:
            // One of the two has changed.
            try wasNotDone(plan, try found(at: plan.source))
            try lookAgain(at: plan.target, by: plan.item)
            return false
        default: throw error
        }
    }

    /// Whether it is what was to be moved, and nothing else that has come to that place. A move keeps a file's version.
    private static func isMoved(_ there: Metadata, _ plan: MovePlan) -> Bool {
        if plan.isDirectory { return there.kind == .directory }
        return there.kind != .directory && (plan.version == nil || there.version == plan.version)
    }

    /// Finds out where it lies what was to be moved.
    private func settle(_ plan: MovePlan) throws(StoreError) {
        let source = try found(at: plan.source)
        if source.map({ Self.isMoved($0, plan) }) != true, let target = try found(at: plan.target),
            Self.isMoved(target, plan)
        {
            try catalog { () throws(CatalogError) in try journal.moved(plan, as: plan.isDirectory ? nil : target) }
        } else {
            try wasNotDone(plan, source)
        }
    }

    /// - Parameter source: what lies where it was to be moved from.
    private func wasNotDone(_ plan: MovePlan, _ source: Metadata?) throws(StoreError) {
        try catalog { () throws(CatalogError) in try journal.moveWasNotDone(plan) }
        if source.map({ Self.isMoved($0, plan) }) != true { try tell(source, at: plan.source, by: plan.item) }
    }

    private func list(_ directory: InodeID, for item: PendingID) throws(StoreError) {
        guard
            let listing = try catalog({ () throws(CatalogError) in try journal.beginListing(of: directory) })
        else { return }
        do {
            try store.forEachPage(of: listing.path) { page throws(StoreError) in
                let doubts = try catalog { () throws(CatalogError) in
                    try journal.doubts(about: page.entries, in: listing)
                }
                var entries: [ListEntry] = []
                for entry in page.entries {
                    if !doubts.contains(entry.name) {
                        entries.append(entry)
                    } else if let there = try found(at: listing.path.appending(entry.name)) {
                        entries.append(ListEntry(name: entry.name, metadata: there))
                    }
                }
                let changes = try catalog { [entries] () throws(CatalogError) in
                    try journal.merge(entries, into: listing)
                }
                if !changes.isEmpty { onChange(changes) }
            }
        } catch {
            guard error.code == .notFound || error.code == .notADirectory else { throw error }
            try lookAgain(at: listing.path, by: item)
            return
        }
        statistics.add(.directoriesListed)
        let absent = try catalog { () throws(CatalogError) in try journal.doubtfulAbsences(in: listing) }
        for name in absent {
            guard let there = try found(at: listing.path.appending(name)) else { continue }
            let changes = try catalog { () throws(CatalogError) in
                try journal.merge([ListEntry(name: name, metadata: there)], into: listing)
            }
            if !changes.isEmpty { onChange(changes) }
        }
        try catalog { () throws(CatalogError) in try journal.endListing(listing, changed: onChange) }
    }

    private func fetch(_ inode: InodeID, for item: PendingID) throws(StoreError) {
        guard try catalog({ () throws(CatalogError) in try journal.content(of: inode) }) != nil else {
            try learn(inode, for: item)
            return
        }
        let content = try contents.openContent(of: inode)
        defer { content.close() }
        do { try content.keepEverything() } catch { try lookForSource(of: inode, after: error, by: item) }
    }

    /// What is no plain file has no content in the cache: all that there is to it is in the catalog, once the store was
    /// asked.
    private func learn(_ inode: InodeID, for item: PendingID) throws(StoreError) {
        let asked = try catalog { () throws(CatalogError) in try journal.unknownAttributes(of: inode) }
        guard let question = asked else { return }
        do {
            let metadata = try store.metadata(of: question.path)
            var target: [UInt8]?
            if metadata.kind == .symbolicLink {
                let sink = MemorySink()
                _ = try store.read(question.path, ReadRequest(version: metadata.version), into: sink)
                target = sink.bytes
            }
            let changes = try catalog { [target] () throws(CatalogError) in
                try journal.learnAttributes(metadata, target: target, of: question)
            }
            if !changes.isEmpty { onChange(changes) }
        } catch {
            guard error.code == .notFound || error.code == .preconditionFailed else { throw error }
            try lookAgain(at: question.path, by: item)
        }
    }

    /// Bytes that are needed of a file could not be read where the catalog says that they lie: it is told what is there
    /// now, and the next plan takes that into account.
    ///
    /// - Throws: `error`, where it says something else; `.contentLost` when the store has the bytes no more.
    func lookForSource(of inode: InodeID, after error: StoreError, by item: PendingID) throws(StoreError) {
        guard error.code == .notFound || error.code == .preconditionFailed, let path = error.path else { throw error }
        try lookAgain(at: path, by: item)
        try expectSource(of: inode, after: error)
    }

    /// Removes a file whose bytes nothing has any more, and of which none were written here.
    ///
    /// - Throws: `.contentLost` when the object from which `error` says that it cannot be read is not what the file's
    ///   bytes were in, and some were written here.
    func expectSource(of inode: InodeID, after error: StoreError) throws(StoreError) {
        let isLost = try catalog { () throws(CatalogError) in try journal.content(of: inode)?.isLost ?? false }
        guard isLost else { return }
        let changes = try catalog { () throws(CatalogError) in try journal.removeIfLost(inode) }
        if case .entry(_, let name, _)? = changes.first {
            onChange(changes)
            statistics.add(.conflicts)
            statistics.report(
                kind: "conflict",
                message:
                    "'\(name)' was renamed or changed here, but somebody else had removed or replaced it on the store: "
                    + error.message,
                advice: "It is gone here too; nothing of it was written here.")
            return
        }
        throw StoreError(
            .contentLost,
            "somebody else has replaced or removed the object with the rest of the file's bytes: \(error.message)",
            path: error.path)
    }

    // MARK: Helpers

    /// The answer to a change that leaves something at `path`.
    func metadata(in answer: Result<Metadata?, StoreError>, of path: StorePath) throws(StoreError) -> Metadata {
        guard let metadata = try answer.get() else {
            throw StoreError(.internal, "the store has not said what lies at '\(path)' now", path: path)
        }
        return metadata
    }

    /// What lies at `path` now; nil when the store says that nothing does.
    func found(at path: StorePath) throws(StoreError) -> Metadata? {
        do {
            return try store.metadata(of: path)
        } catch {
            guard error.code == .notFound else { throw error }
            return nil
        }
    }

    /// Tells the catalog what really lies at `path`: the next plan takes it into account.
    func lookAgain(at path: StorePath, by item: PendingID) throws(StoreError) {
        if let there = try found(at: path) { return try tell(there, at: path, by: item) }
        // Where directories are real, a file that somebody has put in the place of one above is why nothing is there.
        var above: [StorePath] = []
        while let next = (above.last ?? path).parent, !next.isRoot { above.append(next) }
        for directory in above.reversed() where store.capabilities.contains(.realDirectories) {
            guard let there = try found(at: directory) else { break }
            if there.kind != .directory { return try tell(there, at: directory, by: item) }
        }
        try tell(nil, at: path, by: item)
    }

    func tell(_ metadata: Metadata?, at path: StorePath, by item: PendingID) throws(StoreError) {
        let changes = try catalog { () throws(CatalogError) in try journal.foundOnStore(metadata, at: path, by: item) }
        if !changes.isEmpty { onChange(changes) }
    }

    /// Asks in advance where a store does not check the condition of a write itself. That is no protection against
    /// a write at the same moment, but against all before it.
    ///
    /// - Throws: `.preconditionFailed` as such a store would.
    func checked(_ condition: WriteCondition, at path: StorePath) throws(StoreError) -> WriteCondition {
        switch condition {
        case .always: return .always
        case .ifAbsent:
            if store.capabilities.contains(.conditionalCreate) { return condition }
            guard try found(at: path) == nil else {
                throw StoreError(.preconditionFailed, "'\(path)' exists on the store", path: path)
            }
        case .ifVersion(let version):
            if store.capabilities.contains(.conditionalReplace) { return condition }
            guard let metadata = try found(at: path), metadata.version == version else {
                throw StoreError(.preconditionFailed, "'\(path)' changed on the store", path: path)
            }
        }
        return .always
    }

    func catalog<Result>(_ body: () throws(CatalogError) -> Result) throws(StoreError) -> Result {
        do throws(CatalogError) {
            return try body()
        } catch {
            throw StoreError(error)
        }
    }
}

/// The kinds of step that ask something of the store.
fileprivate enum StepKind: Hashable, CustomStringConvertible {
    case upload, setAttributes, copy, createDirectory, move, settle, delete, keepConflict, list, fetch, learn

    init?(_ step: SyncStep) {
        switch step {
        case .done, .blocked, .busy: return nil
        case .upload: self = .upload
        case .setAttributes: self = .setAttributes
        case .copy: self = .copy
        case .createDirectory: self = .createDirectory
        case .move: self = .move
        case .settle: self = .settle
        case .delete: self = .delete
        case .keepConflict: self = .keepConflict
        case .list: self = .list
        case .fetch: self = .fetch
        case .learn: self = .learn
        }
    }

    var description: String {
        switch self {
        case .upload: "an upload"
        case .setAttributes: "a change of its attributes"
        case .copy: "a copy"
        case .createDirectory: "a new directory"
        case .move: "a move"
        case .settle: "a look for what was moved"
        case .delete: "a deletion"
        case .keepConflict: "a conflict copy"
        case .list: "a listing"
        case .fetch: "a download"
        case .learn: "a question for its attributes"
        }
    }
}
