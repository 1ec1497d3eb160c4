package import Caching
package import Catalog
package import Statistics
package import StoreAPI
package import Threading

/// Live settings of the synchronizer.
package struct SynchronizerSettings: Hashable, Sendable {
    /// From a file's last change to its upload.
    package var delay: Duration
    /// Longest time that a file which is changed again and again is kept back.
    package var deadline: Duration
    package var minimumWorkers: Int
    package var maximumWorkers: Int
    package init(
        delay: Duration = .seconds(60), deadline: Duration = .seconds(300), minimumWorkers: Int = 4,
        maximumWorkers: Int = 64
    ) {
        self.delay = delay
        self.deadline = deadline
        self.minimumWorkers = minimumWorkers
        self.maximumWorkers = maximumWorkers
    }
}

/// How far a drain has come.
package struct DrainProgress: Hashable, Sendable {
    package var itemsLeft: Int64
    package var bytesLeft: Int64
    /// Rows that will not go without somebody doing something (permission, quota, name).
    package var parked: Int64
    package init(itemsLeft: Int64, bytesLeft: Int64, parked: Int64) {
        self.itemsLeft = itemsLeft
        self.bytesLeft = bytesLeft
        self.parked = parked
    }
}

/// Makes the store follow the namespace: takes rows of the catalog's journal when they are due and lets workers
/// carry them out.
///
/// One thread asks the journal for rows (``Synchronizer/coordinate()``), threads that come and go with the work
/// carry them out (``StepRunner``), and ``UploadScheduler`` decides. Locks: `state` (the scheduler), `jobs` (rows
/// handed to workers), `progress` (for those who wait in ``drain(_:report:)``), `waits`. None is held while another is taken,
/// nor during a call to the journal, the cache or the store.
package final class Synchronizer: Sendable {
    let journal: any Journal
    let contents: any ContentProvider
    let statistics: Statistics
    let clock: any Clock
    let onChange: @Sendable ([NamespaceChange]) -> Void
    let memory = UploadMemory()
    let state: Monitor<State>
    let jobs = Monitor(Jobs())
    let progress = Monitor(Progress())
    /// Those who wait for single files.
    let waits = Lock(Waits())

    struct State {
        var scheduler: UploadScheduler
        var store: any Store
        var settings: SynchronizerSettings
        /// What the journal is to be asked for.
        var question: (limit: Int, busy: Set<PendingID>)?
        var isWoken = false
        /// Until when the coordinator sleeps, and whether that has become too long.
        var sleepsUntil: MonotonicTime?
        var isAwaited = false
        var isStarted = false
        var isStopping = false
        var isCoordinating = false
        /// When writers last waited for room in the cache.
        var pressedAt: MonotonicTime?
        /// Drains under way, and those of everything: then nothing waits for its `delay`.
        var drains = 0
        var completeDrains = 0
        var totals: (totals: PendingTotals, goodUntil: MonotonicTime)?
        var toldCapabilities: StoreCapabilities?
        /// Where the search for rows beyond their deadline goes on.
        var overdueAfter: PendingID?
    }

    struct Jobs {
        struct Job {
            var rows: [PendingItem]
            var lane: UploadScheduler.Lane
        }
        var ready: [Job] = []
        var threads = 0
        var idle = 0
        var isStopping = false

        mutating func take() -> Job? { ready.isEmpty ? nil : ready.removeFirst() }
    }

    struct Progress {
        /// Counts finished jobs.
        var finished: UInt64 = 0
        var waiters = 0
        /// By drain: when it began, and the rows that were uploaded since then in a state that was not older, but
        /// have a newer one by now.
        var settled: [Int: (begun: MonotonicTime, rows: Set<PendingID>)] = [:]
        var nextDrain = 0

        mutating func settle(_ row: PendingID, _ begun: MonotonicTime) {
            for drain in settled.keys where settled[drain]!.begun <= begun { settled[drain]!.rows.insert(row) }
        }
    }

    package convenience init(
        catalog: Catalog, cache: ContentCache, store: any Store, settings: SynchronizerSettings,
        statistics: Statistics, clock: any Clock, onChange: @escaping @Sendable ([NamespaceChange]) -> Void
    ) {
        self.init(
            journal: catalog, contents: cache, store: store, settings: settings, statistics: statistics, clock: clock,
            onChange: onChange)
    }

    package init(
        journal: any Journal, contents: any ContentProvider, store: any Store, settings: SynchronizerSettings,
        statistics: Statistics, clock: any Clock, onChange: @escaping @Sendable ([NamespaceChange]) -> Void
    ) {
        self.journal = journal
        self.contents = contents
        self.statistics = statistics
        self.clock = clock
        self.onChange = onChange
        let settings = settings.sane
        state = Monitor(
            State(
                scheduler: UploadScheduler(
                    settings: settings, capabilities: store.capabilities, seed: .random(in: 0 ... .max),
                    now: clock.monotonic),
                store: store, settings: settings))
    }

    /// Begins to work on what is in the journal. Once.
    package func start() {
        let isFirst = state.withLock { state in
            defer {
                state.isStarted = true
                state.isCoordinating = !state.isStopping
            }
            return !state.isStarted && !state.isStopping
        }
        guard isFirst else { return }
        contents.onPressure { [weak self] in self?.press() }
        WorkerThread(name: "synchronizer", urgency: .background) { [self] in coordinate() }.detach()
    }

    /// There may be new rows; cheap, from any thread.
    package func wake() {
        // Only the first of many wakes anybody.
        guard state.withLock({ !$0.isWoken }) else { return }
        state.update { $0.isWoken = true }
    }

    package func configure(_ settings: SynchronizerSettings) {
        let settings = settings.sane
        let store = state.withLock {
            $0.settings = settings
            // Under new limits there may be room: else the cache complains again, and at once.
            $0.pressedAt = nil
            return $0.store
        }
        process(.configured(settings, store.capabilities))
    }

    /// Uses `store` from the next row on; what was parked is tried again, since the reason may be gone.
    package func setStore(_ store: any Store) {
        let settings = state.withLock {
            $0.store = store
            $0.toldCapabilities = nil
            return $0.settings
        }
        process(.configured(settings, store.capabilities))
        do {
            _ = try journal.expedite(nil)
        } catch {
            report(error)
        }
        process(.expedited)
    }

    /// Ends workers after the requests under way; what is pending stays in the catalog. Uploads end at the next
    /// piece and leave a checkpoint; other requests within the store's own time limits.
    package func stop() {
        state.update {
            $0.isStopping = true
            _ = $0.scheduler.handle(.stopped, at: clock.monotonic)
        }
        jobs.update {
            $0.isStopping = true
            $0.ready = []
        }
        progress.update { _ in }
        _ = state.wait { $0.isCoordinating ? nil : true }
        _ = jobs.wait { $0.threads > 0 ? nil : true }
    }

    /// Writers wait for room in the cache: dirty files go out now, the largest first.
    private func press() {
        state.update {
            $0.pressedAt = clock.monotonic
            $0.isWoken = true
        }
    }

    func report(_ error: CatalogError) {
        // Those of the disk and of the memory are reported by whoever has the catalog.
        guard ![.damaged, .corrupt, .noSpace, .noMemory].contains(error.code) else { return }
        statistics.report(
            kind: "catalog", message: error.message,
            advice: "Check the disk that holds the catalog: it has to be writable and have free space.")
    }
}

extension SynchronizerSettings {
    /// With values that make sense together.
    fileprivate var sane: SynchronizerSettings {
        var copy = self
        copy.maximumWorkers = max(1, maximumWorkers)
        copy.minimumWorkers = min(max(1, minimumWorkers), copy.maximumWorkers)
        copy.delay = max(delay, .zero)
        copy.deadline = max(deadline, copy.delay)
        return copy
    }
}
