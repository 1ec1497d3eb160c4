package import Catalog
package import StoreAPI
package import Threading

/// Decides which rows of the journal are worked on, when, and by how many workers. Pure: events go in, actions come
/// out, time is passed in; somebody else has threads, the journal and the store.
///
/// Invariants: a row is with one worker at most, and so is a path; there are never more than `maximumWorkers`; while
/// the store is down one row at a time is tried; a row that was offered is either running, waiting for a row that is
/// not itself, at rest until a known time, or will be offered again by the journal.
package struct UploadScheduler: Sendable {
    var health = StoreHealth()
    var limits: [WorkerLimit]
    var settings: SynchronizerSettings
    var deleteBatch: Int
    var changeBatch: ChangeBatch?
    var random: SplitMix
    var isStopped = false
    var isPressed = false

    /// Rows that others wait for; taken first, and beyond the limit of their lane.
    var urgent: [PendingItem] = []
    var queues: [RowQueue]
    var running: [PendingID: Running] = [:]
    var busyPaths: [StorePath: PendingID] = [:]
    var workersBusy: [Int]
    var batchLeft: [Int: Int] = [:]
    var nextBatch = 0

    var waiting: [PendingID: Waiting] = [:]
    var waiters: [PendingID: [PendingID]] = [:]
    var lookingUp: Set<PendingID> = []
    var rounds: [PendingID: Int] = [:]
    var rests: [PendingID: Rest] = [:]
    /// Running rows whose reason to be busy may have ended before they tell of it.
    var releasedEarly: Set<PendingID> = []
    /// Not later than the end of any rest; nil: there are none.
    var nextRestEnd: MonotonicTime?
    /// How often a row failed by itself, not by an outage. Begins anew with each start of the program.
    var failures: [PendingID: Int] = [:]
    var troubles: [PendingID: Trouble] = [:]
    /// Rows that cannot go because a row that they need is parked.
    var stuck: Set<PendingID> = []

    var isAsking = false
    var isNews = true
    var askAt: MonotonicTime
    var wasFull = false
    var window = 512
    var offered = 0
    var picks = 0
    var lastProbe: PendingID?

    static let largestWindow = 16_384
    /// How many rows are asked for at least: a batch should find all that fits into it.
    var smallestWindow: Int { min(max(512, changeBatch?.changes ?? 0), Self.largestWindow) }
    static let rowBackoff = Backoff(from: .seconds(1), to: .seconds(300))
    static let resting = Backoff(from: .milliseconds(100), to: .seconds(5))
    /// How often a row may find itself blocked although what blocked it was worked on.
    static let mostRounds = 50
    /// How often it may find itself in a circle before that is taken for one.
    static let mostCircles = 3
    /// Every so many picks the oldest row is taken, whatever came first in the journal's order.
    static let oldestEvery = 4

    package init(
        settings: SynchronizerSettings, capabilities: StoreCapabilities, seed: UInt64, now: MonotonicTime
    ) {
        self.settings = settings
        deleteBatch = max(1, capabilities.deleteBatch)
        changeBatch = capabilities.batch
        random = SplitMix(seed: seed)
        askAt = now
        limits = Lane.allCases.map {
            WorkerLimit($0.range(minimum: settings.minimumWorkers, maximum: settings.maximumWorkers))
        }
        queues = Lane.allCases.map { _ in RowQueue() }
        workersBusy = Lane.allCases.map { _ in 0 }
    }

    /// Workers under way, and how many there could be now.
    package var busyWorkers: Int { workersBusy.reduce(0, +) }
    package var isIdle: Bool { running.isEmpty && urgent.isEmpty && queues.allSatisfy(\.isEmpty) && !isAsking }
    /// Rows that must not be offered: they are with a worker or wait for something.
    var busy: Set<PendingID> {
        Set(running.keys).union(waiting.keys).union(rests.keys).union(urgent.lazy.map(\.id))
    }

    package func isBusy(_ id: PendingID) -> Bool { running[id] != nil || waiting[id] != nil }
    package func limit(of lane: Lane) -> Int { limits[lane.rawValue].limit }

    /// When ``Event/ticked`` should come at the latest.
    package func nextTick(after now: MonotonicTime) -> MonotonicTime {
        let far = now + .seconds(10)
        if isPaused(now) {
            switch health.state {
            case .healthy: return far
            case .throttled(let until): return until
            case .down(let probeAt): return probeAt > now ? probeAt : far
            }
        }
        return min(isAsking ? far : askAt, nextRestEnd ?? far)
    }

    package mutating func handle(_ event: Event, at now: MonotonicTime) -> [Action] {
        var actions: [Action] = []
        switch event {
        case .woken: isNews = true
        case .ticked: break
        case .offered(let rows, let isFull, let wait): accept(rows, isFull, askAgainAt: now + wait)
        case .askingFailed:
            isAsking = false
            isNews = false
            askAt = now + .seconds(1)
        case .lookedUp(let id, let item): lookedUp(id, item, now, &actions)
        case .finished(let id, let outcome): finished(id, outcome, now, &actions)
        case .released(let ids): for id in ids { released(id, &actions) }
        case .sent(let bytes, let lane): note(Double(bytes), 0, lane, now)
        case .expedited:
            isNews = true
            health.tryNow(at: now)
            troubles = [:]
            stuck = []
            rests = [:]
            nextRestEnd = nil
            failures = [:]
        case .configured(let settings, let capabilities):
            self.settings = settings
            deleteBatch = max(1, capabilities.deleteBatch)
            changeBatch = capabilities.batch
            for lane in Lane.allCases {
                limits[lane.rawValue].setRange(
                    lane.range(minimum: settings.minimumWorkers, maximum: settings.maximumWorkers))
            }
            isNews = true
        case .pressed(let isPressed):
            if isPressed != self.isPressed { isNews = true }
            self.isPressed = isPressed
        case .stopped: isStopped = true
        }
        guard !isStopped else { return actions }
        endRests(now, &actions)
        start(now, &actions)
        ask(now, &actions)
        return actions
    }

    // MARK: Taking rows

    mutating func accept(_ rows: [PendingItem], _ isFull: Bool, askAgainAt: MonotonicTime) {
        isAsking = false
        askAt = askAgainAt
        wasFull = isFull
        offered = rows.count
        var lanes = Lane.allCases.map { _ in [PendingItem]() }
        for row in rows where running[row.id] == nil && waiting[row.id] == nil && rests[row.id] == nil {
            lanes[lane(of: row).rawValue].append(row)
        }
        for lane in Lane.allCases {
            // Writers wait for room: what frees most goes first.
            if isPressed && lane.isMeasuredInBytes { lanes[lane.rawValue].sort { $0.size > $1.size } }
            queues[lane.rawValue] = RowQueue(lanes[lane.rawValue])
        }
    }

    mutating func ask(_ now: MonotonicTime, _ actions: inout [Action]) {
        guard !isAsking, !isPaused(now) else { return }
        let left = queues.reduce(0) { $0 + $1.count }
        var isDue = isNews || now >= askAt
        if !isDue, wasFull, busyWorkers < settings.maximumWorkers {
            // Used up: more of the same. Else what is left cannot start, and what could is further back; a wider
            // window is worth a query now and then only, and that is what `askAt` is for.
            isDue = left == 0 || left < offered / 4
        }
        guard isDue else { return }
        window = wasFull && left > window / 2 ? min(window * 2, Self.largestWindow) : smallestWindow
        isNews = false
        isAsking = true
        actions.append(.ask(limit: window, busy: busy))
    }

    /// Whether nothing may begin now, so that it is no use to ask.
    func isPaused(_ now: MonotonicTime) -> Bool {
        switch health.state {
        case .healthy: false
        case .throttled(let until): until > now
        case .down(let probeAt): probeAt > now || running.values.contains(where: \.isProbe)
        }
    }

    mutating func endRests(_ now: MonotonicTime, _ actions: inout [Action]) {
        guard let next = nextRestEnd, next <= now else { return }
        for (id, rest) in rests where rest.until <= now {
            // The count stays for as long as the row does not get on: see `finished`.
            rests[id] = nil
            rounds[id] = max(rounds[id] ?? 0, rest.count)
            wake(id, &actions)
        }
        nextRestEnd = rests.values.map(\.until).min()
    }

    // MARK: Starting work

    mutating func start(_ now: MonotonicTime, _ actions: inout [Action]) {
        guard !isPaused(now) else { return }
        if health.isDown {
            probe(now, &actions)
            return
        }
        var index = 0
        while index < urgent.count, busyWorkers < settings.maximumWorkers {
            if canRun(urgent[index]) {
                let item = urgent.remove(at: index)
                let lane = lane(of: item)
                run(lane == .batch ? [item] + takeUrgentBatch() : [item], lane, now, &actions)
            } else {
                index += 1
            }
        }
        // One worker for each lane in turn, until no lane takes one.
        var isProgress = true
        while isProgress {
            isProgress = false
            for lane in Lane.allCases where hasRoom(lane) {
                let rows = take(from: lane)
                guard !rows.isEmpty else { continue }
                run(rows, lane, now, &actions)
                isProgress = true
            }
        }
    }

    func hasRoom(_ lane: Lane) -> Bool {
        let total = busyWorkers
        guard total < settings.maximumWorkers else { return false }
        let most = isPressed ? settings.maximumWorkers : limits[lane.rawValue].limit
        guard workersBusy[lane.rawValue] < most else { return false }
        // Lanes of long transfers leave a quarter of the workers to the short ones.
        guard lane.isMeasuredInBytes, settings.maximumWorkers > 1 else { return true }
        let long = Lane.allCases.filter(\.isMeasuredInBytes).reduce(0) { $0 + workersBusy[$1.rawValue] }
        return long < settings.maximumWorkers - max(1, settings.maximumWorkers / 4)
    }

    func canRun(_ item: PendingItem) -> Bool { running[item.id] == nil && busyPaths[item.path] == nil }

    /// The same as a value, for the time in which the queues change.
    var fitness: (PendingItem) -> Bool {
        { [running, busyPaths] item in running[item.id] == nil && busyPaths[item.path] == nil }
    }

    mutating func take(from lane: Lane) -> [PendingItem] {
        picks += 1
        let oldest = picks % Self.oldestEvery == 0 && !isPressed
        guard let first = queues[lane.rawValue].take(oldest: oldest, where: fitness) else { return [] }
        var rows = [first]
        var paths: Set<StorePath> = [first.path]
        var bytes = first.size
        let isFit = fitness
        func take(_ most: Int, _ mostBytes: Int64) {
            while rows.count < most,
                let next = queues[lane.rawValue].take(
                    oldest: false, where: { isFit($0) && bytes + $0.size <= mostBytes && !paths.contains($0.path) })
            {
                rows.append(next)
                paths.insert(next.path)
                bytes += next.size
            }
        }
        if lane == .deletion { take(deleteBatch, .max) }
        if lane == .batch, let changeBatch { take(changeBatch.changes, changeBatch.bytes) }
        return rows
    }

    func lane(of item: PendingItem) -> Lane { Lane(item, changeBatch) }

    /// Those of the rows that others wait for which go with another one of them.
    private mutating func takeUrgentBatch() -> [PendingItem] {
        var taken: [PendingItem] = []
        var left: [PendingItem] = []
        var paths: Set<StorePath> = []
        for item in urgent {
            if lane(of: item) == .batch, canRun(item), taken.count + 1 < changeBatch?.changes ?? 0,
                paths.insert(item.path).inserted
            {
                taken.append(item)
            } else {
                left.append(item)
            }
        }
        urgent = left
        return taken
    }

    mutating func probe(_ now: MonotonicTime, _ actions: inout [Action]) {
        // A row that always fails must not be the only one that is tried.
        let isFit = fitness
        let others = { [lastProbe] (item: PendingItem) in item.id != lastProbe && isFit(item) }
        for isSecondTry in [false, true] {
            for lane in [Lane.small, .deletion, .batch, .medium, .large, .huge] {
                let found =
                    isSecondTry
                    ? queues[lane.rawValue].take(oldest: false, where: isFit)
                    : queues[lane.rawValue].take(oldest: false, where: others)
                if let found {
                    lastProbe = found.id
                    run([found], lane, now, &actions, isProbe: true)
                    return
                }
            }
            if let index = urgent.firstIndex(where: canRun) {
                let item = urgent.remove(at: index)
                lastProbe = item.id
                run([item], lane(of: item), now, &actions, isProbe: true)
                return
            }
        }
    }

    mutating func run(
        _ rows: [PendingItem], _ lane: Lane, _ now: MonotonicTime, _ actions: inout [Action], isProbe: Bool = false
    ) {
        let batch = nextBatch
        nextBatch += 1
        batchLeft[batch] = rows.count
        workersBusy[lane.rawValue] += 1
        for row in rows {
            running[row.id] = Running(item: row, lane: lane, batch: batch, begun: now, isProbe: isProbe)
            busyPaths[row.path] = row.id
            stuck.remove(row.id)
        }
        actions.append(.run(rows, lane))
    }
}
