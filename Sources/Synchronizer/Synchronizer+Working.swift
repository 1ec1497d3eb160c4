import Catalog
import Statistics
import StoreAPI
import Threading

// The threads: one that asks the journal, and workers that come and go with the work.
extension Synchronizer {
    /// How long after the cache last complained its writers are still taken to be waiting.
    private static let pressureLasts = Duration.seconds(5)
    /// How often the journal is asked at most because of ``wake()``.
    private static let wakeInterval = Duration.milliseconds(20)
    /// How long a worker waits for another row before its thread ends.
    private static let idleTime = Duration.seconds(5)
    /// How many rows are looked at in one search for those beyond their deadline.
    private static let overduePage = 256

    // MARK: The coordinator

    func coordinate() {
        var lastWake = MonotonicTime(nanoseconds: 0)
        process(.woken)
        while let (question, isWoken) = nextTask(lastWake) {
            if isWoken { lastWake = .now }
            let isPressed = state.withLock { state in
                state.pressedAt.map { clock.monotonic - $0 < Self.pressureLasts } ?? false
            }
            process(.pressed(isPressed))
            lookAtWaits()
            if let question {
                answer(question.limit, question.busy, isPressed)
            } else {
                process(isWoken ? .woken : .ticked)
            }
        }
        state.update { $0.isCoordinating = false }
    }

    /// Waits until there is something to do. nil: the end.
    private func nextTask(_ lastWake: MonotonicTime) -> (question: (limit: Int, busy: Set<PendingID>)?, isWoken: Bool)?
    {
        let now = clock.monotonic
        let wait = state.withLock { state in
            let wait = min(max(state.scheduler.nextTick(after: now) - now, .milliseconds(1)), .seconds(10))
            state.sleepsUntil = now + wait
            state.isAwaited = false
            return wait
        }
        let earliestWake = lastWake + Self.wakeInterval
        var deadline = MonotonicTime.now + wait
        while true {
            enum Task { case stop, work((limit: Int, busy: Set<PendingID>)?, isWoken: Bool), soon, tick }
            let task = state.wait(until: deadline) { state -> Task? in
                if state.isStopping { return .stop }
                if let question = state.question {
                    state.question = nil
                    return .work(question, isWoken: false)
                }
                if state.isAwaited { return .tick }
                guard state.isWoken else { return nil }
                guard MonotonicTime.now >= earliestWake else { return deadline > earliestWake ? .soon : nil }
                state.isWoken = false
                return .work(nil, isWoken: true)
            }
            switch task {
            case .stop: return nil
            case .work(let question, let isWoken): return (question, isWoken)
            case .soon: deadline = earliestWake
            case .tick, nil: return (nil, false)
            }
        }
    }

    private func answer(_ limit: Int, _ busy: Set<PendingID>, _ isPressed: Bool) {
        // Before the settings are looked at: what is changed under new ones, or after a drain, is not due by the old.
        let now = clock.calendar
        let (settings, isDraining, store, told) = state.withLock {
            ($0.settings, $0.completeDrains > 0, $0.store, $0.toldCapabilities)
        }
        let capabilities = store.capabilities
        let delay = isPressed || isDraining ? .zero : settings.delay
        do {
            if told != capabilities {
                try journal.setCapabilities(capabilities)
                state.withLock { $0.toldCapabilities = capabilities }
                process(.configured(settings, capabilities))
            }
            var rows = try journal.pending(
                dueBefore: Timestamp(nanoseconds: now.nanoseconds - delay.nanoseconds), limit: limit, busy: busy)
            let isFull = rows.count >= limit
            if let batch = capabilities.batch, !isFull, delay > .zero,
                rows.contains(where: { UploadScheduler.Lane($0, batch) == .batch })
            {
                rows += try companions(of: rows, now, delay, limit - rows.count, busy, batch)
            }
            let totals = try pendingTotals()
            if let oldest = totals.oldest, now.nanoseconds - oldest.nanoseconds >= settings.deadline.nanoseconds {
                let known = Set(rows.map(\.id))
                rows = try overdue(now, settings.deadline, busy).filter { !known.contains($0.id) } + rows
            }
            statistics.set(.pendingOperations, totals.items)
            process(.offered(rows, isFull: isFull, wait: try nextAsk(now, delay, totals)))
        } catch {
            report(error)
            process(.askingFailed)
        }
    }

    /// A batch goes out when its oldest row is due: what has been left alone for half the time goes with it.
    private func companions(
        of rows: [PendingItem], _ now: Timestamp, _ delay: Duration, _ count: Int, _ busy: Set<PendingID>,
        _ batch: ChangeBatch
    ) throws(CatalogError) -> [PendingItem] {
        let latest = Timestamp(nanoseconds: now.nanoseconds - (delay / 2).nanoseconds)
        return try journal.pending(dueBefore: latest, limit: count, busy: busy.union(rows.lazy.map(\.id)))
            .filter { UploadScheduler.Lane($0, batch) == .batch }
    }

    /// The totals, which cost more the more is pending: they may be a little old then.
    private func pendingTotals() throws(CatalogError) -> PendingTotals {
        let begun = MonotonicTime.now
        if let known = state.withLock({ $0.totals }), begun < known.goodUntil { return known.totals }
        let totals = try journal.pendingTotals()
        let end = MonotonicTime.now
        let cost = end - begun
        state.withLock { $0.totals = (totals, end + min(cost * 50, .seconds(10))) }
        return totals
    }

    /// Files that are changed again and again, so that they never have been left alone for `delay`.
    private func overdue(_ now: Timestamp, _ deadline: Duration, _ busy: Set<PendingID>) throws(CatalogError)
        -> [PendingItem]
    {
        let page = try journal.allPending(after: state.withLock { $0.overdueAfter }, limit: Self.overduePage)
        let latest = now.nanoseconds - deadline.nanoseconds
        // Oldest first: the search goes on behind this page only while all of it is old.
        let isWholeOld = page.count == Self.overduePage && page.allSatisfy { $0.since.nanoseconds <= latest }
        state.withLock { $0.overdueAfter = isWholeOld ? page.last?.id : nil }
        return page.filter { item in
            let since = max(item.since, memory.lastUpload(of: item.id) ?? item.since)
            // What failed waits for its own next attempt.
            return !item.isParked && item.lastError == nil && since.nanoseconds <= latest && !busy.contains(item.id)
        }
    }

    /// How long there can be no other rows than those just given.
    private func nextAsk(_ now: Timestamp, _ delay: Duration, _ totals: PendingTotals) throws(CatalogError) -> Duration
    {
        guard totals.items > totals.parked else { return .seconds(10) }
        // Rows that were changed again and again come into their deadline without being due: hence a look each second.
        guard let next = try journal.nextDue(delay: delay) else { return .seconds(1) }
        return .nanoseconds(min(max(next.nanoseconds - now.nanoseconds, 5_000_000), 1_000_000_000))
    }

    // MARK: Events and actions

    /// Lets the scheduler decide, and does what it says. From any thread, without locks.
    func process(_ event: UploadScheduler.Event) {
        var events = [event]
        while let event = events.popLast() {
            let now = clock.monotonic
            let (actions, isAwaited) = state.withLock { state in
                let actions = state.scheduler.handle(event, at: now)
                let next = state.scheduler.nextTick(after: now)
                return (actions, state.sleepsUntil.map { next + .milliseconds(1) < $0 } ?? false)
            }
            if isAwaited {
                state.update {
                    $0.isAwaited = true
                    $0.sleepsUntil = nil
                }
            }
            for action in actions {
                if let next = perform(action) { events.append(next) }
            }
        }
    }

    private func perform(_ action: UploadScheduler.Action) -> UploadScheduler.Event? {
        switch action {
        case .run(let rows, let lane): hand(rows, lane)
        case .record(let id, let revision, let message, let wait):
            let retryAt = wait.map { Timestamp(nanoseconds: clock.calendar.nanoseconds + $0.nanoseconds) }
            do {
                try journal.failed(id, revision: revision, error: message, retryAt: retryAt)
            } catch {
                report(error)
            }
        case .report(let kind, let message, let advice):
            statistics.report(kind: kind, message: message, advice: advice)
        case .ask(let limit, let busy): state.update { $0.question = (limit, busy) }
        case .lookUp(let id):
            do {
                return .lookedUp(id, try journal.pendingItem(id))
            } catch {
                report(error)
                return .lookedUp(id, nil)
            }
        }
        return nil
    }

    // MARK: Workers

    private func hand(_ rows: [PendingItem], _ lane: UploadScheduler.Lane) {
        let needsThread = jobs.update { jobs in
            guard !jobs.isStopping else { return false }
            jobs.ready.append(Jobs.Job(rows: rows, lane: lane))
            guard jobs.idle < jobs.ready.count else { return false }
            jobs.threads += 1
            return true
        }
        guard needsThread else { return }
        statistics.set(.workers, Int64(jobs.withLock { $0.threads }))
        WorkerThread(name: "upload", urgency: .background) { [self] in work() }.detach()
    }

    private func work() {
        while let job = nextJob() {
            let runner = makeRunner(job.lane)
            let begun = clock.monotonic
            if job.lane == .deletion {
                for (id, outcome) in runner.run(deletions: job.rows) { finish(id, nil, outcome, begun) }
            } else if job.lane == .batch, let limits = runner.store.capabilities.batch {
                let inodes = Dictionary(uniqueKeysWithValues: job.rows.map { ($0.id, $0.inode) })
                for (id, outcome) in runner.run(batch: job.rows, limits) {
                    finish(id, inodes[id] ?? nil, outcome, begun)
                }
            } else {
                for row in job.rows { finish(row.id, row.inode, runner.run(row), begun) }
            }
        }
        statistics.set(
            .workers,
            Int64(
                jobs.update { jobs in
                    jobs.threads -= 1
                    return jobs.threads
                }))
    }

    private func nextJob() -> Jobs.Job? {
        // Without waiting first: a busy worker goes on, nobody is woken for it.
        let (next, isEnd) = jobs.withLock { jobs -> (Jobs.Job?, Bool) in
            if jobs.isStopping { return (nil, true) }
            if let job = jobs.take() { return (job, false) }
            jobs.idle += 1
            return (nil, false)
        }
        if next != nil || isEnd { return next }
        // `idle` goes down in the same moment as a job is taken: else the next one would be left to this thread.
        let answer = jobs.wait(until: MonotonicTime.now + Self.idleTime) { jobs -> Jobs.Job?? in
            guard !jobs.ready.isEmpty || jobs.isStopping else { return nil }
            jobs.idle -= 1
            return .some(jobs.isStopping ? nil : jobs.take())
        }
        if let answer { return answer }
        return jobs.withLock { jobs in
            jobs.idle -= 1
            return jobs.take()
        }
    }

    private func makeRunner(_ lane: UploadScheduler.Lane) -> StepRunner {
        // Somebody waits: then the deadline of every file is now.
        let isAwaited = hasWaits
        let (store, deadline) = state.withLock {
            ($0.store, $0.drains > 0 || isAwaited ? .zero : $0.settings.deadline)
        }
        let unreported = Lock<Int64>(0)
        let sent: @Sendable (Int64) -> Void = { [weak self] bytes in
            guard let self, lane.isMeasuredInBytes else { return }
            let amount = unreported.withLock { sum -> Int64 in
                sum += bytes
                guard abs(sum) >= 1 << 20 else { return 0 }
                defer { sum = 0 }
                return sum
            }
            if amount != 0 { process(.sent(amount, lane)) }
        }
        return StepRunner(
            journal: journal, contents: contents, store: store, statistics: statistics, clock: clock,
            deadline: deadline, memory: memory, onChange: onChange, sent: sent,
            isStopping: { [weak self] in self?.jobs.withLock { $0.isStopping } ?? true },
            release: { [weak self] in self?.process(.released($0)) })
    }

    private func finish(
        _ id: PendingID, _ inode: InodeID?, _ outcome: UploadScheduler.Outcome, _ begun: MonotonicTime
    ) {
        if case .done = outcome { memory.forget(id) }
        process(.finished(id, outcome))
        workEnded(on: inode, outcome)
        progress.withLock { progress in
            progress.finished &+= 1
            if case .outdated = outcome { progress.settle(id, begun) }
        }
        if progress.withLock({ $0.waiters > 0 }) { progress.update { _ in } }
    }
}
