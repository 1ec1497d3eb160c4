import Catalog
import Glibc
import Statistics
import StoreAPI
import Threading

/// Lists directories of the store into the catalog: each at most once at a time, for all who wait for it.
///
/// Lock order: the state's lock is a leaf; the catalog and those who wait are called outside of it.
final class DirectoryLister: Sendable {
    enum Outcome: Sendable {
        /// Up to now, as far as the store tells.
        case listed
        /// The name that was asked for has been merged; the rest may still be to come.
        case named
        case failed(FileSystemError)
        /// The listing has not ended within the bound, of this caller or of an earlier one.
        case late
        case ended
    }

    /// What is to be expected of a listing.
    enum Outlook: Sendable {
        case good
        /// The last attempt failed. `isWorthATry`: some time has passed since.
        case failing(FileSystemError, isDown: Bool, isWorthATry: Bool)
    }

    private struct Waiter {
        let name: FileName?
        let parked: Parked<Outcome>
    }

    private struct Job {
        var waiters: [Waiter] = []
        /// Names that this listing has merged, as far as it is worth remembering.
        var merged: Set<FileName> = []
        /// When the last of them came.
        var lastMerge: MonotonicTime?
        /// Somebody has waited in vain.
        var isLate = false
        /// What it brings is out of date. Those who have asked since then wait for the next one.
        var isOutdated = false
        var next: [Waiter] = []
    }

    private struct Failure {
        var error: FileSystemError
        var count = 0
        var tryAgainAt: MonotonicTime
    }

    private struct State {
        var jobs: [InodeID: Job] = [:]
        /// Directories that the store refuses to list, while it answers for others.
        var refused: [InodeID: Failure] = [:]
        /// The store cannot be asked at all.
        var down: Failure?
        var lastSuccess: MonotonicTime?
        var isShutDown = false
    }

    private static let longestBackoff = Duration.seconds(15)
    private static let namesRemembered = 100_000
    /// Entries merged in one transaction: others wait for the catalog in between.
    private static let slice = 256
    private static let backlogLimit = 1000

    private let state = Lock(State())
    private let backing: Backing
    private let pool: WorkerPool
    private let surroundings: Surroundings
    private let changed: @Sendable ([NamespaceChange]) -> Void
    private let learnMore: @Sendable (InodeID) -> Void

    /// - Parameters:
    ///   - changed: Told what each merge changed.
    ///   - learnMore: Told when a directory has been listed.
    init(
        backing: Backing, pool: WorkerPool, surroundings: Surroundings,
        changed: @escaping @Sendable ([NamespaceChange]) -> Void, learnMore: @escaping @Sendable (InodeID) -> Void
    ) {
        self.backing = backing
        self.pool = pool
        self.surroundings = surroundings
        self.changed = changed
        self.learnMore = learnMore
    }

    func outlook(for directory: InodeID) -> Outlook {
        let now = surroundings.clock.monotonic
        return state.withLock { state in
            if let down = state.down {
                return .failing(down.error, isDown: true, isWorthATry: down.tryAgainAt <= now)
            }
            if let refused = state.refused[directory] {
                return .failing(refused.error, isDown: false, isWorthATry: refused.tryAgainAt <= now)
            }
            return .good
        }
    }

    /// Lists `directory` (or joins the listing under way) and calls `body` once: on another thread, but for a name
    /// that the listing under way has merged already, and for a listing that is known to be late.
    ///
    /// - Parameter needsIt: The caller waits also for a listing that others have waited for in vain.
    func list(
        _ directory: InodeID, wanting name: FileName?, within bound: Duration, needsIt: Bool,
        _ body: @escaping @Sendable (Outcome) -> Void
    ) {
        let known = state.withLock { state -> Outcome? in
            guard let job = state.jobs[directory] else { return nil }
            if let name, !job.isOutdated, job.merged.contains(name) { return .named }
            return job.isLate && !needsIt ? .late : nil
        }
        if let known { return body(known) }
        let parked = surroundings.parking.park(for: bound, late: Outcome.late, ended: .ended, body)
        enqueue(directory, Waiter(name: name, parked: parked))
    }

    /// Whether a listing of `directory` is under way that has brought something within the last `bound`.
    func isComing(_ directory: InodeID, within bound: Duration) -> Bool {
        let now = surroundings.clock.monotonic
        return state.withLock { $0.jobs[directory]?.lastMerge.map { $0 + bound > now } ?? false }
    }

    /// What was listed of `directory` has turned out to be wrong: who asks from now on gets what the store says then.
    func distrust(_ directory: InodeID) throws(CatalogError) {
        try backing.catalog.distrustListing(of: directory)
        state.withLock { $0.jobs[directory]?.isOutdated = true }
    }

    /// The store has something else at the path of `inode`, or nothing. The kernel looks the whole path up once more
    /// when it hears of that, and once only: each directory on the way is listed anew for it, since any of them may
    /// be the one that has gone.
    func distrustPath(to inode: InodeID) {
        do {
            var inode = inode
            while let parent = try backing.catalog.parent(of: inode) {
                try distrust(parent)
                inode = parent
            }
        } catch {
            surroundings.report(error)
        }
    }

    /// Lists `directory` for nobody in particular.
    func refresh(_ directory: InodeID) {
        if pool.backlog < Self.backlogLimit { enqueue(directory, nil) }
    }

    /// Somebody waited in vain. When nothing has come from the store meanwhile, it counts as down.
    func noteLate(_ directory: InodeID, after bound: Duration) {
        let now = surroundings.clock.monotonic
        state.withLock { state in
            state.jobs[directory]?.isLate = true
            if let success = state.lastSuccess, success + bound > now { return }
            if state.down == nil { state.down = Failure(error: .timedOut, tryAgainAt: now) }
        }
    }

    func shutdown() {
        let waiters = state.withLock { state in
            state.isShutDown = true
            defer { state.jobs = [:] }
            return state.jobs.values.flatMap { $0.waiters + $0.next }
        }
        for waiter in waiters { waiter.parked.answer(.ended) }
    }

    private func enqueue(_ directory: InodeID, _ waiter: Waiter?) {
        enum Step { case start, join, named, ended }
        let step = state.withLock { state -> Step in
            if state.isShutDown { return .ended }
            guard var job = state.jobs.removeValue(forKey: directory) else {
                state.jobs[directory] = Job(waiters: waiter.map { [$0] } ?? [])
                return .start
            }
            defer { state.jobs[directory] = job }
            guard !job.isOutdated else {
                if let waiter { job.next.append(waiter) }
                return .join
            }
            // The page may have come since it was asked for.
            let isNamed = waiter?.name.map { job.merged.contains($0) } ?? false
            if let waiter, !isNamed { job.waiters.append(waiter) }
            return isNamed ? .named : .join
        }
        switch step {
        case .start: pool.submit { [self] in run(directory) }
        case .named: waiter?.parked.answer(.named)
        case .ended: waiter?.parked.answer(.ended)
        case .join: break
        }
    }

    private func run(_ directory: InodeID) {
        do {
            try listAll(directory)
            end(directory, .listed)
            learnMore(directory)
        } catch {
            end(directory, .failed(error))
        }
    }

    private func listAll(_ directory: InodeID) throws(FileSystemError) {
        let catalog = backing.catalog
        for _ in 0..<Self.mostMoves {
            guard let plan = try asked({ () throws(CatalogError) in try catalog.beginListing(of: directory) }) else {
                return
            }
            let outcome = Result { () throws(FileSystemError) in try list(directory, plan) }
            // One that is just being moved on the store is listed where it lies afterwards.
            if try asked({ () throws(CatalogError) in try catalog.isCurrent(plan) }) { return try outcome.get() }
            usleep(20_000)
        }
        throw .timedOut
    }

    private static let mostMoves = 500

    private func list(_ directory: InodeID, _ plan: ListingPlan) throws(FileSystemError) {
        let catalog = backing.catalog
        var cursor: ListCursor?
        var refused: [String] = []
        repeat {
            let page: ListPage
            do { page = try backing.store.list(plan.path, after: cursor) } catch {
                guard try asked({ () throws(CatalogError) in try catalog.isCurrent(plan) }) else { throw .stale }
                throw failed(directory, plan.path, error)
            }
            succeeded(directory)
            refused += page.refusedNames
            let entries = prepared(page.entries, isRoot: directory == .root)
            var rest = entries[...]
            while !rest.isEmpty {
                let listed = Array(rest.prefix(Self.slice))
                rest = rest.dropFirst(listed.count)
                let slice = try confirmed(listed, directory, plan)
                let changes = try asked { () throws(CatalogError) in try catalog.merge(slice, into: plan) }
                changed(changes)
                merged(listed.map(\.name), directory)
            }
            cursor = page.next
        } while cursor != nil
        report(refused, in: plan.path)
        let absent = try asked { () throws(CatalogError) in try catalog.doubtfulAbsences(in: plan) }
        var present = try told(of: Array(absent.prefix(Self.sample)), directory, plan)
        // When all of so many are gone indeed, somebody has cleared away: then the others are, too.
        if !present.isEmpty {
            present.merge(try told(of: Array(absent.dropFirst(Self.sample)), directory, plan)) { $1 }
        }
        let entries = present.map { ListEntry(name: $0.key, metadata: $0.value) }
        changed(try asked { () throws(CatalogError) in try catalog.merge(entries, into: plan) })
        try asked { () throws(CatalogError) in try catalog.endListing(plan, changed: changed) }
        surroundings.statistics.add(.directoriesListed)
    }

    private static let sample = 100

    /// The entries of a page, those that contradict what was done here lately as the store itself has them.
    private func confirmed(_ entries: [ListEntry], _ directory: InodeID, _ plan: ListingPlan) throws(FileSystemError)
        -> [ListEntry]
    {
        let doubts = try asked { () throws(CatalogError) in try backing.catalog.doubts(about: entries, in: plan) }
        if doubts.isEmpty { return entries }
        let told = try told(of: entries.map(\.name).filter(doubts.contains), directory, plan)
        return entries.compactMap { entry in
            doubts.contains(entry.name) ? told[entry.name].map { ListEntry(name: entry.name, metadata: $0) } : entry
        }
    }

    /// What the store says when it is asked for each; those that are not there are not in the answer.
    private func told(of names: [FileName], _ directory: InodeID, _ plan: ListingPlan) throws(FileSystemError)
        -> [FileName: Metadata]
    {
        var found: [FileName: Metadata] = [:]
        for name in names {
            do {
                found[name] = try backing.store.metadata(of: plan.path.appending(name))
            } catch {
                guard error.code == .notFound || error.code == .notADirectory else {
                    throw failed(directory, plan.path, error)
                }
            }
        }
        return found
    }

    private static let mostRefusedShown = 20

    /// What lies on the store and cannot be shown is said to be there.
    private func report(_ refused: [String], in path: StorePath) {
        guard !refused.isEmpty else { return }
        let shown = refused.prefix(Self.mostRefusedShown).map { "'\($0)'" }.joined(separator: ", ")
        let more = refused.count - Self.mostRefusedShown
        surroundings.statistics.report(
            kind: "refusedName",
            message:
                "what the store has in '/\(path)' under these names is no legal file name and is not shown: \(shown)"
                + (more > 0 ? " and \(more) more" : ""),
            advice: "Rename it with the provider's own tools.")
    }

    /// Without what is the program's own, and with "the store keeps none" told apart from "the listing does not say".
    private func prepared(_ entries: [ListEntry], isRoot: Bool) -> [ListEntry] {
        let capabilities = backing.store.capabilities
        let isTold = !capabilities.contains(.attributes) || capabilities.contains(.attributesInListing)
        return entries.compactMap { entry in
            if isRoot, entry.name == .control { return nil }
            guard isTold, entry.metadata.attributes == nil else { return entry }
            var entry = entry
            entry.metadata.attributes = Attributes()
            return entry
        }
    }

    private func merged(_ names: [FileName], _ directory: InodeID) {
        let now = surroundings.clock.monotonic
        let found = state.withLock { state -> [Waiter] in
            guard var job = state.jobs.removeValue(forKey: directory) else { return [] }
            defer { state.jobs[directory] = job }
            job.lastMerge = now
            if job.merged.count < Self.namesRemembered { job.merged.formUnion(names) }
            guard job.waiters.contains(where: { $0.name != nil }) else { return [] }
            let new = Set(names)
            let split = job.waiters.partition { $0.name.map { new.contains($0) } ?? false }
            defer { job.waiters.removeSubrange(split...) }
            return Array(job.waiters[split...])
        }
        for waiter in found { waiter.parked.answer(.named) }
    }

    private func end(_ directory: InodeID, _ outcome: Outcome) {
        let ended = state.withLock { state in
            let ended = state.jobs.removeValue(forKey: directory) ?? Job()
            if !ended.next.isEmpty { state.jobs[directory] = Job(waiters: ended.next) }
            return ended
        }
        for waiter in ended.waiters { waiter.parked.answer(outcome) }
        if !ended.next.isEmpty { pool.submit { [self] in run(directory) } }
    }

    private func succeeded(_ directory: InodeID) {
        let now = surroundings.clock.monotonic
        state.withLock {
            $0.down = nil
            $0.lastSuccess = now
            $0.refused[directory] = nil
        }
    }

    private func failed(_ directory: InodeID, _ path: StorePath, _ error: StoreError) -> FileSystemError {
        let cause = FileSystemError(error)
        let now = surroundings.clock.monotonic
        state.withLock { state in
            if error.isAboutWholeStore {
                // Those that were under way together count as one.
                guard state.down.map({ $0.tryAgainAt <= now }) ?? true else { return }
                state.down = Self.next(state.down, cause, error, now)
            } else {
                if state.refused.count > 10_000 { state.refused = [:] }
                state.refused[directory] = Self.next(state.refused[directory], cause, error, now)
                state.lastSuccess = now
            }
        }
        surroundings.statistics.report(
            kind: error.code.rawValue, message: "cannot list '\(path)': \(error.message)",
            advice: "What has been listed before is still shown. It is tried again when the directory is used.")
        if error.code == .notFound || error.code == .notADirectory { distrustPath(to: directory) }
        return cause
    }

    private static func next(_ last: Failure?, _ cause: FileSystemError, _ error: StoreError, _ now: MonotonicTime)
        -> Failure
    {
        let count = (last?.count ?? 0) + 1
        let backoff = min(.seconds(1 << min(count - 1, 4)), longestBackoff)
        return Failure(error: cause, count: count, tryAgainAt: now + max(backoff, error.retryAfter ?? .zero))
    }
}

extension StoreError {
    /// Whether other requests to the same store can be expected to fail as well.
    var isAboutWholeStore: Bool {
        switch code {
        case .storeNotFound, .authenticationFailed, .throttled, .timedOut, .unavailable, .certificateRejected: true
        case .notFound, .alreadyExists, .notADirectory, .isADirectory, .directoryNotEmpty, .preconditionFailed,
            .accessDenied, .quotaExceeded, .tooLarge, .invalidName, .invalidArgument, .unsupported, .corrupted,
            .cancelled, .readOnly, .inUse, .noLocalSpace, .contentLost, .internal:
            false
        }
    }
}
