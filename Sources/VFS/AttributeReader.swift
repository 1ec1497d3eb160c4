import Catalog
import Statistics
import StoreAPI
import Threading

/// Asks the store for what its listings do not tell (mode, owner, times, the targets of symbolic links): for a whole
/// directory ahead, many at once, and first of all for those that somebody waits for.
///
/// Lock order: the state's lock is a leaf; the catalog and those who wait are called outside of it.
final class AttributeReader: Sendable {
    private struct Job {
        var isRunning = false
        var waiters: [Parked<Bool>] = []
    }

    private struct State {
        var jobs: [InodeID: Job] = [:]
        /// Somebody waits for these.
        var urgent = Queue<InodeID>()
        var ahead = Queue<InodeID>()
        /// Directories that may have more questions behind this entry.
        var sources = Queue<(directory: InodeID, after: Int64)>()
        var quietUntil: MonotonicTime?
        var isShutDown = false
    }

    /// Questions in flight at once: 1,000 files take 32 round trips instead of 1,000.
    private static let parallel = 32
    private static let page = 256
    /// Longest target of a symbolic link, as of symlink(2) on Linux.
    private static let longestTarget: Int64 = 4095

    private let state = Lock(State())
    private let backing: Backing
    private let pool = WorkerPool(name: "vfs-attributes", limit: AttributeReader.parallel)
    private let surroundings: Surroundings
    private let changed: @Sendable ([NamespaceChange]) -> Void
    private let vanished: @Sendable (StorePath) -> Void

    /// - Parameters:
    ///   - changed: Told what each answer changed.
    ///   - vanished: Told what is not on the store any more.
    init(
        backing: Backing, surroundings: Surroundings, changed: @escaping @Sendable ([NamespaceChange]) -> Void,
        vanished: @escaping @Sendable (StorePath) -> Void
    ) {
        self.backing = backing
        self.surroundings = surroundings
        self.changed = changed
        self.vanished = vanished
    }

    /// Fills in what is not known of the files in `directory`, in the background.
    func readAhead(_ directory: InodeID) {
        guard backing.store.capabilities.contains(.attributes) else { return }
        state.withLock { $0.sources.push((directory, 0)) }
        pool.submit { [self] in fill() }
    }

    /// Calls `body` once, on another thread, when the attributes of `inode` are known (true) or it is clear that
    /// they will not be for now (false): at once where the store has not answered a moment ago.
    func whenKnown(_ inode: InodeID, within bound: Duration, _ body: @escaping @Sendable (Bool) -> Void) {
        let now = surroundings.clock.monotonic
        let isQuiet = state.withLock { $0.isShutDown || ($0.quietUntil.map { $0 > now } ?? false) }
        if isQuiet { return body(false) }
        let parked = surroundings.parking.park(for: bound, late: false, ended: false, body)
        let isAccepted = state.withLock { state in
            guard !state.isShutDown else { return false }
            state.jobs[inode, default: Job()].waiters.append(parked)
            state.urgent.push(inode)
            return true
        }
        guard isAccepted else {
            parked.answer(false)
            return
        }
        pool.submit { [self] in step() }
    }

    func shutdown() {
        let waiters = state.withLock { state in
            state.isShutDown = true
            state.urgent = Queue()
            state.ahead = Queue()
            state.sources = Queue()
            defer { state.jobs = [:] }
            return state.jobs.values.flatMap(\.waiters)
        }
        pool.shutdown()
        for parked in waiters { parked.answer(false) }
    }

    /// Takes the next questions of a directory into the queue.
    private func fill() {
        var count = 0
        while count == 0, let source = state.withLock({ $0.sources.pop() }) {
            do {
                let (inodes, next) = try backing.catalog.unknownInodes(
                    in: source.directory, after: source.after, count: Self.page)
                count = state.withLock { state in
                    guard !state.isShutDown else { return 0 }
                    let new = inodes.filter { state.jobs[$0] == nil }
                    for inode in new {
                        state.jobs[inode] = Job()
                        state.ahead.push(inode)
                    }
                    if let next { state.sources.push((source.directory, next)) }
                    return new.count
                }
            } catch {
                surroundings.report(error)
            }
        }
        for _ in 0..<count { pool.submit { [self] in step() } }
    }

    /// Asks the most urgent question.
    private func step() {
        let work = state.withLock { state -> (inode: InodeID, isLowOnMore: Bool)? in
            while let inode = state.urgent.pop() {
                guard state.jobs[inode]?.isRunning == false else { continue }
                state.jobs[inode]?.isRunning = true
                return (inode, false)
            }
            while let inode = state.ahead.pop() {
                guard state.jobs[inode]?.isRunning == false else { continue }
                state.jobs[inode]?.isRunning = true
                return (inode, state.ahead.count == Self.parallel && !state.sources.isEmpty)
            }
            return nil
        }
        guard let work else { return fillIfEmpty() }
        if work.isLowOnMore { pool.submit { [self] in fill() } }
        do {
            // It may have become known since it was queued.
            if let question = try backing.catalog.unknownAttributes(of: work.inode) {
                ask(question)
            } else {
                end(work.inode, true)
            }
        } catch {
            surroundings.report(error)
            end(work.inode, false)
        }
    }

    private func fillIfEmpty() {
        if state.withLock({ $0.ahead.isEmpty && !$0.sources.isEmpty }) { fill() }
    }

    private func ask(_ question: ContentQuestion) {
        do {
            let metadata = try backing.store.metadata(of: question.path)
            var target: [UInt8]?
            if metadata.kind == .symbolicLink, metadata.size <= Self.longestTarget {
                let sink = MemorySink()
                _ = try backing.store.read(question.path, ReadRequest(version: metadata.version), into: sink)
                target = sink.bytes
            }
            surroundings.statistics.add(.attributesFetched)
            do {
                changed(try backing.catalog.learnAttributes(metadata, target: target, of: question))
                end(question.inode, true)
            } catch {
                surroundings.report(error)
                end(question.inode, false)
            }
        } catch {
            failed(question, error)
        }
    }

    private func failed(_ question: ContentQuestion, _ error: StoreError) {
        defer { end(question.inode, false) }
        if error.code == .notFound { return vanished(question.path) }
        surroundings.statistics.report(
            kind: error.code.rawValue, message: "cannot read the attributes of '\(question.path)': \(error.message)",
            advice: "Defaults are shown meanwhile. It is tried again when the file is looked at.")
        if error.isAboutWholeStore { beQuiet(for: max(.seconds(2), error.retryAfter ?? .zero)) }
    }

    /// The other questions would fail as well, each after its time: they are left for those who look.
    private func beQuiet(for duration: Duration) {
        let until = surroundings.clock.monotonic + duration
        let waiters = state.withLock { state in
            state.quietUntil = until
            state.urgent = Queue()
            state.ahead = Queue()
            state.sources = Queue()
            let dropped = state.jobs.filter { !$0.value.isRunning }
            for inode in dropped.keys { state.jobs[inode] = nil }
            return dropped.values.flatMap(\.waiters)
        }
        for parked in waiters { parked.answer(false) }
    }

    private func end(_ inode: InodeID, _ isKnown: Bool) {
        let waiters = state.withLock { $0.jobs.removeValue(forKey: inode)?.waiters ?? [] }
        for parked in waiters { parked.answer(isKnown) }
    }
}
