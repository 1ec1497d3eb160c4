import Catalog
import StoreAPI
import Testing
import Threading

@testable import Synchronizer

/// Runs a scheduler against a journal and a store that are nothing but numbers, and turns the clock.
struct Simulation {
    var scheduler: UploadScheduler
    var now = MonotonicTime(nanoseconds: 1_000_000_000_000)
    let calendarStart: Int64 = 1_700_000_000_000_000_000
    /// Rows in the journal, in the order in which they came.
    var rows: [PendingID: PendingItem] = [:]
    var retryAt: [PendingID: MonotonicTime] = [:]
    var expedited: Set<PendingID> = []
    var running: [PendingID: (lane: UploadScheduler.Lane, end: MonotonicTime)] = [:]
    var finishedAt: [PendingID: MonotonicTime] = [:]
    var begun: [PendingID] = []
    var records: [(id: PendingID, message: String, wait: Duration?)] = []
    var reports: [String] = []
    var batches: [Int] = []
    var mostRunning = 0
    var lookUps = 0
    private var nextID: Int64 = 1
    /// How long a row takes, and how it ends.
    var duration: (PendingItem) -> Duration = { _ in .milliseconds(50) }
    var outcome: (PendingItem, MonotonicTime) -> UploadScheduler.Outcome = { _, _ in .done(askedStore: true) }
    /// The rows that it brings about when it is done, as a directory does that got its new name.
    var consequences: (PendingItem) -> [String] = { _ in [] }

    init(
        minimum: Int = 4, maximum: Int = 16, deleteBatch: Int = 100,
        settings: (inout SynchronizerSettings) -> Void = { _ in }
    ) {
        var value = SynchronizerSettings(minimumWorkers: minimum, maximumWorkers: maximum)
        settings(&value)
        scheduler = UploadScheduler(
            settings: value, capabilities: StoreCapabilities([], deleteBatch: deleteBatch), seed: 7, now: now)
    }

    var calendar: Timestamp { Timestamp(nanoseconds: calendarStart + now.nanoseconds) }

    @discardableResult
    mutating func add(
        _ path: String? = nil, size: Int64 = 1000, isDeletion: Bool = false, isParked: Bool = false,
        isExpedited: Bool = false, at time: Timestamp? = nil
    ) -> PendingID {
        let id = PendingID(nextID)
        nextID += 1
        rows[id] = PendingItem(
            id: id, revision: 1, path: StorePath(path ?? "row\(id.value)")!, isDeletion: isDeletion, inode: nil,
            size: size, since: time ?? calendar, changed: time ?? calendar, attempts: 0,
            lastError: isParked ? "no" : nil,
            isParked: isParked)
        if isExpedited { expedited.insert(id) }
        return id
    }

    mutating func send(_ event: UploadScheduler.Event) {
        var events = [event]
        while let event = events.popLast() {
            for action in scheduler.handle(event, at: now) {
                switch action {
                case .run(let items, let lane):
                    batches.append(items.count)
                    for item in items {
                        precondition(running[item.id] == nil, "a row is with two workers")
                        precondition(
                            !running.keys.contains { rows[$0]?.path == item.path }, "a path is with two workers")
                        begun.append(item.id)
                        running[item.id] = (lane, now + duration(item))
                    }
                    mostRunning = max(mostRunning, scheduler.busyWorkers)
                case .record(let id, _, let message, let wait):
                    records.append((id, message, wait))
                    retryAt[id] = wait.map { now + $0 }
                    rows[id]?.isParked = wait == nil
                    rows[id]?.lastError = message
                case .report(let kind, _, _): reports.append(kind)
                case .lookUp(let id):
                    lookUps += 1
                    events.append(.lookedUp(id, rows[id]))
                case .ask(let limit, let busy):
                    let due = rows.values.filter { row in
                        !row.isParked && !busy.contains(row.id) && (retryAt[row.id].map { $0 <= now } ?? true)
                    }.sorted {
                        let first = expedited.contains($0.id)
                        return first != expedited.contains($1.id) ? first : ($0.changed, $0.id) < ($1.changed, $1.id)
                    }
                    events.append(
                        .offered(Array(due.prefix(limit)), isFull: due.count > limit, wait: .seconds(1)))
                }
            }
        }
    }

    /// Lets time pass to the next thing that happens, but not beyond `end`. Returns false when that is reached.
    mutating func step(until end: MonotonicTime) -> Bool {
        let nextEnd = running.values.map(\.end).min()
        let tick = max(scheduler.nextTick(after: now), now + .milliseconds(1))
        let next = min(nextEnd ?? end, tick, end)
        now = max(now, next)
        let finished = running.filter { $0.value.end <= now }.keys.sorted()
        for id in finished {
            running[id] = nil
            guard let item = rows[id] else { continue }
            let outcome = outcome(item, now)
            if case .done = outcome {
                rows[id] = nil
                finishedAt[id] = now
                for path in consequences(item) { add(path) }
            }
            send(.finished(id, outcome))
        }
        if finished.isEmpty { send(.ticked) }
        return now < end
    }

    mutating func run(for duration: Duration) {
        let end = now + duration
        send(.woken)
        while step(until: end) {}
    }

    /// Runs until nothing is left; at most an hour of simulated time.
    mutating func finish() {
        let end = now + .seconds(3600)
        send(.woken)
        while !rows.isEmpty, step(until: end) {}
    }
}

@Suite("The upload scheduler") struct UploadSchedulerTests {
    @Test("all rows are done, each once, and never with more workers than allowed")
    func allAreDone() {
        var simulation = Simulation(maximum: 10)
        let ids = (0..<5_000).map { _ in simulation.add() }
        simulation.finish()
        #expect(simulation.rows.isEmpty)
        #expect(Set(simulation.begun) == Set(ids))
        #expect(simulation.begun.count == ids.count)
        #expect(simulation.mostRunning <= 10)
    }

    @Test("workers grow to the maximum while more of them bring more, and not beyond what helps")
    func workersFollowThroughput() {
        var scaling = Simulation(maximum: 64)
        for _ in 0..<8_000 { scaling.add() }
        scaling.run(for: .seconds(10))
        #expect(scaling.scheduler.limit(of: .small) == 64)

        // A store that does 100 files a second, however many are in flight.
        var flat = Simulation(maximum: 64)
        for _ in 0..<8_000 { flat.add() }
        let end = flat.now + .seconds(60)
        flat.send(.woken)
        repeat {
            let inFlight = flat.running.count
            flat.duration = { _ in .milliseconds(10 * max(inFlight, 1)) }
        } while flat.step(until: end)
        #expect(flat.scheduler.limit(of: .small) <= 16)
    }

    @Test("a few very large files leave workers to small ones that come later")
    func largeOnesLeaveRoom() {
        var simulation = Simulation(minimum: 4, maximum: 8)
        simulation.duration = { $0.size > 1 << 30 ? .seconds(3000) : .milliseconds(50) }
        for _ in 0..<700 { simulation.add(size: 100 << 30) }
        simulation.run(for: .seconds(5))
        let small = (0..<2_000).map { _ in simulation.add(size: 4096) }
        simulation.run(for: .seconds(100))
        #expect(small.allSatisfy { simulation.finishedAt[$0] != nil })
        // And medium ones are not behind the huge ones either.
        let medium = simulation.add(size: 5 << 20)
        simulation.run(for: .seconds(20))
        #expect(simulation.finishedAt[medium] != nil)
    }

    @Test("under constant new arrivals, also of rows that somebody put first, the oldest does not starve")
    func nothingStarves() {
        var simulation = Simulation(minimum: 4, maximum: 4) { $0.deadline = .seconds(300) }
        simulation.duration = { _ in .milliseconds(100) }
        let old = (0..<20).map { _ in simulation.add() }
        // 4 workers do 40 a second; 30 a second come, each to be done first.
        simulation.send(.woken)
        for _ in 0..<3_000 {
            for _ in 0..<3 { simulation.add(isExpedited: true) }
            let end = simulation.now + .milliseconds(100)
            simulation.send(.woken)
            while simulation.step(until: end) {}
        }
        #expect(old.allSatisfy { simulation.finishedAt[$0] != nil })
        let oldest = simulation.rows.values.map(\.since).min() ?? simulation.calendar
        #expect(simulation.calendar.nanoseconds - oldest.nanoseconds < Duration.seconds(300).nanoseconds)
    }

    @Test("expedited rows go before a large backlog")
    func expeditedFirst() {
        var simulation = Simulation(minimum: 4, maximum: 4)
        for _ in 0..<5_000 { simulation.add() }
        simulation.run(for: .seconds(1))
        let first = simulation.add(isExpedited: true)
        simulation.send(.woken)
        simulation.run(for: .milliseconds(200))
        #expect(simulation.finishedAt[first] != nil)
    }

    @Test("two rows of one path are never worked on at once")
    func onePathOneWorker() {
        var simulation = Simulation()
        // `send` fails the test when it happens.
        for _ in 0..<50 { simulation.add("same", isDeletion: Bool.random()) }
        for _ in 0..<50 { simulation.add("other") }
        simulation.finish()
        #expect(simulation.rows.isEmpty)
    }

    @Test("deletions go out in batches as large as the store takes")
    func deletionsAreBatched() {
        var simulation = Simulation(deleteBatch: 100)
        for _ in 0..<350 { simulation.add(isDeletion: true) }
        simulation.finish()
        #expect(simulation.batches == [100, 100, 100, 50])
        var single = Simulation(deleteBatch: 1)
        for _ in 0..<30 { single.add(isDeletion: true) }
        single.finish()
        #expect(single.batches.allSatisfy { $0 == 1 })
    }

    @Test("a storm of 429 halves the workers, pauses everything, and loses nothing")
    func throttling() {
        var simulation = Simulation(minimum: 2, maximum: 64)
        for _ in 0..<8_000 { simulation.add() }
        simulation.run(for: .seconds(4))
        #expect(simulation.scheduler.limit(of: .small) == 64)
        let storm = simulation.now + .seconds(2)
        simulation.outcome = { _, now in
            now < storm ? .failed(StoreError(.throttled, "slow down")) : .done(askedStore: true)
        }
        let begun = simulation.begun.count
        simulation.run(for: .seconds(2))
        let limit = simulation.scheduler.limit(of: .small)
        #expect(limit <= 32 && limit >= 2)
        // All that were under way came back; hardly anything new was begun.
        #expect(simulation.begun.count - begun < 200)
        simulation.finish()
        #expect(simulation.rows.isEmpty)
        #expect(simulation.reports.contains("throttled"))
    }

    @Test("the wait that the store asks for is kept")
    func retryAfter() {
        var simulation = Simulation(maximum: 4)
        for _ in 0..<100 { simulation.add() }
        let storm = simulation.now + .milliseconds(60)
        simulation.outcome = { _, now in
            now < storm
                ? .failed(StoreError(.throttled, "slow down", retryAfter: .seconds(20))) : .done(askedStore: true)
        }
        simulation.run(for: .milliseconds(100))
        let begun = simulation.begun.count
        simulation.run(for: .seconds(19))
        #expect(simulation.begun.count == begun)
        simulation.run(for: .seconds(60))
        #expect(simulation.rows.isEmpty)
    }

    @Test("in an outage one row at a time probes, and all go on at once when it is over")
    func outage() {
        var simulation = Simulation(maximum: 32)
        for _ in 0..<2_000 { simulation.add() }
        simulation.run(for: .seconds(1))
        let end = simulation.now + .seconds(1800)
        simulation.outcome = { _, now in
            now < end ? .failed(StoreError(.unavailable, "no route to host")) : .done(askedStore: true)
        }
        let before = simulation.begun.count
        simulation.run(for: .seconds(10))
        #expect(simulation.scheduler.health.isDown)
        simulation.mostRunning = 0
        simulation.run(for: .seconds(1785))
        #expect(simulation.mostRunning <= 1)
        // About one probe in half a minute, plus what was under way and the first quick ones.
        #expect(simulation.begun.count - before < 300)
        let left = simulation.rows.count
        #expect(left > 1_000)
        // Within the longest wait of a probe (30 s) and the time for the work all are done: none waits for itself.
        simulation.run(for: .seconds(5 + 30 + 25))
        #expect(simulation.rows.isEmpty, "\(simulation.rows.count) of \(left) are left")
        #expect(!simulation.scheduler.health.isDown)
    }

    @Test("with refused credentials the store is probed every few minutes, and nothing is parked")
    func refusedCredentials() {
        var simulation = Simulation(maximum: 8)
        for _ in 0..<200 { simulation.add() }
        let end = simulation.now + .seconds(3600)
        simulation.outcome = { _, now in
            now < end ? .failed(StoreError(.authenticationFailed, "the key is not valid")) : .done(askedStore: true)
        }
        simulation.run(for: .seconds(3599))
        #expect(simulation.begun.count < 80)
        #expect(simulation.records.allSatisfy { $0.wait != nil })
        // New credentials: tried at once.
        simulation.outcome = { _, _ in .done(askedStore: true) }
        simulation.send(.expedited)
        simulation.run(for: .seconds(30))
        #expect(simulation.rows.isEmpty)
    }

    @Test("one row that always times out does not hold up the others")
    func poison() {
        var simulation = Simulation(maximum: 4)
        let poison = simulation.add()
        simulation.outcome = { row, _ in
            row.id == poison ? .failed(StoreError(.unavailable, "error 500")) : .done(askedStore: true)
        }
        simulation.run(for: .seconds(60))
        let others = (0..<1_000).map { _ in simulation.add() }
        simulation.run(for: .seconds(60))
        #expect(others.allSatisfy { simulation.finishedAt[$0] != nil })
        #expect(simulation.begun.filter { $0 == poison }.count < 60)
    }

    @Test("a row that fails by itself waits longer and longer, up to five minutes")
    func rowBackoff() {
        var simulation = Simulation()
        let id = simulation.add()
        simulation.outcome = { _, _ in .failed(StoreError(.corrupted, "other bytes came back")) }
        simulation.run(for: .seconds(3600))
        let waits = simulation.records.filter { $0.id == id }.compactMap(\.wait)
        #expect(waits.count >= 12 && waits.count < 80)
        #expect(waits.allSatisfy { $0 <= .seconds(300) && $0 > .zero })
        #expect(waits[0] <= .seconds(1))
        #expect(waits.max()! > .seconds(60))
    }

    @Test("a permanent error parks the row, and only that")
    func parking() {
        var simulation = Simulation()
        let forbidden = simulation.add()
        let allowed = simulation.add()
        simulation.outcome = { row, _ in
            row.id == forbidden
                ? .failed(StoreError(.accessDenied, "not permitted")) : .done(askedStore: true)
        }
        simulation.run(for: .seconds(600))
        #expect(simulation.records.count == 1)
        #expect(simulation.records[0].id == forbidden && simulation.records[0].wait == nil)
        #expect(simulation.finishedAt[allowed] != nil)
        #expect(simulation.begun.filter { $0 == forbidden }.count == 1)
    }

    @Test("what a row brings about when it is done is begun at once")
    func consequences() {
        var simulation = Simulation()
        let directory = simulation.add("d")
        simulation.consequences = { $0.id == directory ? (0..<5).map { "d/\($0)" } : [] }
        simulation.run(for: .milliseconds(150))
        #expect(simulation.finishedAt.count == 6)
    }

    @Test("a row that needs another one waits for just that, even when the other one is not due")
    func blockedByAnother() {
        var simulation = Simulation()
        // The journal does not offer this one by itself.
        let directory = simulation.add("d")
        simulation.retryAt[directory] = simulation.now + .seconds(100_000)
        let files = (0..<500).map { simulation.add("d/\($0)") }
        var done: Set<PendingID> = []
        simulation.outcome = { row, _ in
            if row.id == directory || done.contains(directory) {
                done.insert(row.id)
                return .done(askedStore: true)
            }
            return .blocked(by: directory)
        }
        simulation.run(for: .seconds(30))
        #expect(files.allSatisfy { simulation.finishedAt[$0] != nil })
        #expect(simulation.begun.filter { $0 == directory }.count == 1)
    }

    @Test("a chain of rows that need each other is worked off from its end")
    func chain() {
        var simulation = Simulation()
        let ids = (0..<100).map { _ in simulation.add() }
        for id in ids.dropFirst() { simulation.retryAt[id] = simulation.now + .seconds(100_000) }
        var done: Set<PendingID> = []
        simulation.outcome = { row, _ in
            let next = PendingID(row.id.value + 1)
            if row.id != ids.last, !done.contains(next) { return .blocked(by: next) }
            done.insert(row.id)
            return .done(askedStore: true)
        }
        simulation.run(for: .seconds(60))
        #expect(simulation.rows.isEmpty, "\(simulation.rows.count) are left")
    }

    @Test("rows that wait for each other in a circle are reported, not spun on")
    func circle() {
        var simulation = Simulation()
        let ids = (0..<3).map { _ in simulation.add() }
        simulation.outcome = { row, _ in .blocked(by: ids[(ids.firstIndex(of: row.id)! + 1) % 3]) }
        simulation.run(for: .seconds(300))
        #expect(simulation.reports.contains("internal"))
        #expect(Set(simulation.records.map(\.id)) == Set(ids))
        #expect(simulation.begun.count < 200)
    }

    @Test("rows that no longer wait for each other when they are asked again go on without a word")
    func formerCircle() {
        var simulation = Simulation()
        let ids = (0..<3).map { _ in simulation.add() }
        var asked: [PendingID: Int] = [:]
        var done: Set<PendingID> = []
        simulation.outcome = { row, _ in
            asked[row.id, default: 0] += 1
            let next = ids[(ids.firstIndex(of: row.id)! + 1) % 3]
            // The first one waited for the second only as long as that had another name.
            let isFree = row.id == ids[0] && asked[row.id]! > 1
            guard isFree || done.contains(next) else { return .blocked(by: next) }
            done.insert(row.id)
            return .done(askedStore: true)
        }
        simulation.run(for: .seconds(30))
        #expect(simulation.rows.isEmpty && simulation.reports.isEmpty && simulation.records.isEmpty)
        #expect(simulation.begun.count < 12)
    }

    @Test("what needs a parked row says so, is tried now and then, and goes on when that one is revived")
    func blockedByParked() {
        var simulation = Simulation()
        let directory = simulation.add("d", isParked: true)
        let file = simulation.add("d/f")
        var isRevived = false
        simulation.outcome = { [directory] row, _ in
            if row.id == directory || isRevived { return .done(askedStore: true) }
            return .blocked(by: directory)
        }
        simulation.run(for: .seconds(1200))
        #expect(simulation.records.allSatisfy { $0.id == file && $0.message.hasPrefix("waits for 'd'") })
        #expect(!simulation.records.isEmpty && simulation.records.count < 20)
        #expect(simulation.scheduler.stuck.contains(file))
        #expect(!simulation.begun.contains(directory))
        isRevived = true
        simulation.rows[directory]!.isParked = false
        simulation.retryAt = [:]
        simulation.send(.expedited)
        simulation.run(for: .seconds(10))
        #expect(simulation.rows.isEmpty)
    }

    @Test("a row that another worker keeps busy goes on when that one's step has ended, and who waits for it as well")
    func busy() {
        for isTold in [true, false] {
            var simulation = Simulation()
            let directory = simulation.add("d")
            simulation.add("d/f")
            var (isHeld, isMade) = (true, false)
            simulation.outcome = { row, _ in
                if row.id != directory { return isMade ? .done(askedStore: true) : .blocked(by: directory) }
                if isHeld { return .busy }
                isMade = true
                return .done(askedStore: true)
            }
            // It rests longer and longer.
            simulation.run(for: .seconds(60))
            #expect(simulation.begun.filter { $0 == directory }.count < 40)
            isHeld = false
            if isTold { simulation.send(.released([directory])) }
            simulation.run(for: .milliseconds(300))
            #expect(simulation.rows.isEmpty == isTold)
        }
    }

    @Test("the end of what kept a row busy counts also when it is told before the row's own answer")
    func releasedEarly() {
        for isTold in [true, false] {
            var simulation = Simulation()
            let row = simulation.add()
            var refusals = Int.max
            simulation.outcome = { _, _ in
                refusals -= 1
                return refusals >= 0 ? .busy : .done(askedStore: true)
            }
            simulation.run(for: .seconds(60))
            let begun = simulation.begun.count
            while simulation.begun.count == begun { _ = simulation.step(until: simulation.now + .seconds(10)) }
            refusals = 1
            if isTold { simulation.send(.released([row])) }
            simulation.run(for: .milliseconds(300))
            #expect(simulation.rows.isEmpty == isTold)
        }
    }

    @Test("a row that is changed all the time is not worked on in a loop")
    func noLoop() {
        var simulation = Simulation()
        simulation.duration = { _ in .milliseconds(1) }
        simulation.add()
        for outcome in [UploadScheduler.Outcome.overtaken, .outdated, .blocked(by: nil)] {
            simulation.outcome = { _, _ in outcome }
            let before = simulation.begun.count
            simulation.run(for: .seconds(100))
            let runs = simulation.begun.count - before
            #expect(runs > 10 && runs < 150, "\(runs) runs with \(outcome)")
        }
    }

    @Test("when writers wait for room, the largest files go first and get the workers")
    func pressure() {
        var simulation = Simulation(minimum: 2, maximum: 8)
        simulation.duration = { .milliseconds($0.size >> 20) }
        for _ in 0..<50 { simulation.add(size: 2 << 20) }
        let large = (0..<10).map { _ in simulation.add(size: 50 << 20) }
        simulation.send(.pressed(true))
        simulation.run(for: .milliseconds(10))
        #expect(Set(simulation.begun).isSubset(of: large))
        #expect(simulation.begun.count == 6)
        simulation.finish()
        #expect(simulation.rows.isEmpty)
    }

    @Test("nothing is begun after the end")
    func stopped() {
        var simulation = Simulation()
        for _ in 0..<10 { simulation.add() }
        simulation.send(.stopped)
        simulation.run(for: .seconds(5))
        #expect(simulation.begun.isEmpty)
    }
}
