import Catalog
import StoreAPI
import Threading

// What follows from the outcome of a row.
extension UploadScheduler {
    mutating func finished(
        _ id: PendingID, _ outcome: Outcome, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        guard let run = running.removeValue(forKey: id) else { return }
        if busyPaths[run.item.path] == id { busyPaths[run.item.path] = nil }
        // Measured before the worker is free: was there more to do than workers?
        switch outcome {
        case .done(askedStore: true), .outdated: note(run.lane.isMeasuredInBytes ? 0 : 1, 1, run.lane, now)
        case .done, .overtaken, .blocked, .busy, .failed: break
        }
        if let left = batchLeft[run.batch] {
            batchLeft[run.batch] = left > 1 ? left - 1 : nil
            if left == 1 { workersBusy[run.lane.rawValue] -= 1 }
        }
        let wasReleased = releasedEarly.remove(id) != nil
        switch outcome {
        case .done(let askedStore):
            if askedStore {
                health.answered(at: now)
                // It may have brought about other rows, as a directory does that got its new name. Where there is
                // more to do anyway, they are found with that.
                if urgent.isEmpty, queues.allSatisfy(\.isEmpty) { isNews = true }
            }
            forget(id)
            release(id, now, gotOn: true)
        case .outdated:
            health.answered(at: now)
            failures[id] = nil
            troubles[id] = nil
            rest(id, now)
            release(id, now, gotOn: true)
        case .overtaken:
            rest(id, now)
            release(id, now, gotOn: false)
        case .blocked(by: let blocker): block(run.item, by: blocker, now, &actions)
        case .busy:
            rest(id, now)
            if wasReleased { released(id, &actions) }
        case .failed(let error): failed(run, error, now, &actions)
        }
    }

    mutating func note(_ amount: Double, _ completions: Int, _ lane: Lane, _ now: MonotonicTime) {
        let isSaturated =
            workersBusy[lane.rawValue] >= limits[lane.rawValue].limit && !queues[lane.rawValue].isEmpty
        limits[lane.rawValue].note(amount, completions: completions, isSaturated: isSaturated, at: now)
    }

    mutating func failed(
        _ run: Running, _ error: StoreError, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        let id = run.item.id
        let kind = error.code.failureKind
        // Told before the row is: who waits for the row looks here next.
        if kind != .none {
            actions.append(.report(kind: error.code.rawValue, message: error.message, advice: error.code.advice))
        }
        switch kind {
        case .none:
            rest(id, now)
            release(id, now, gotOn: false)
            return
        case .retry:
            health.answered(at: now)
            trouble(run.item, error, ownWait(id), now, &actions)
        case .park:
            health.answered(at: now)
            trouble(run.item, error, nil, now, &actions)
        case .throttle:
            let (wait, halve) = health.throttled(
                retryAfter: error.retryAfter, begun: run.begun, at: now, &random)
            if halve { for lane in Lane.allCases { limits[lane.rawValue].halve() } }
            trouble(run.item, error, wait, now, &actions)
        case .outage, .refusal:
            let wasDown = health.isDown
            let wentDown = health.failed(
                isRefusal: kind == .refusal, isProbe: run.isProbe, at: now, &random)
            // While the store is down its probes are what waits, so that all rows go on at once when it is back.
            let wait = wasDown || wentDown ? Duration.zero : ownWait(id)
            trouble(run.item, error, wait, now, &actions)
            if wentDown {
                failures = [:]
                askAt = now
            }
        }
    }

    mutating func ownWait(_ id: PendingID) -> Duration {
        let count = (failures[id] ?? 0) + 1
        failures[id] = count
        return Self.rowBackoff.wait(afterFailures: count, &random)
    }

    /// Notes why a row cannot go on, and the same for all that wait for it.
    mutating func trouble(
        _ item: PendingItem, _ error: StoreError, _ wait: Duration?, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        let retryAt = wait.map { now + $0 }
        let trouble = Trouble(retryAt: retryAt, message: error.message, path: item.path)
        actions.append(.record(item.id, revision: item.revision, message: error.message, retryIn: wait))
        if wait != .zero {
            remember(trouble, of: item.id)
            // The journal ignores the failure when the row was changed meanwhile; it must not be tried in a loop.
            leaveAlone(item.id, until: now + min(wait ?? .seconds(1), .seconds(1)), count: rounds[item.id] ?? 0)
        }
        if let retryAt { askAt = min(askAt, retryAt) }
        for waiter in waiters.removeValue(forKey: item.id) ?? [] {
            guard let entry = waiting.removeValue(forKey: waiter) else { continue }
            holdUp(entry.item, trouble, now, &actions)
        }
    }

    mutating func remember(_ trouble: Trouble, of id: PendingID) {
        if troubles.count > 20_000 { troubles = [:] }
        troubles[id] = trouble
    }

    /// A row cannot go because one that it needs cannot.
    mutating func holdUp(
        _ item: PendingItem, _ cause: Trouble, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        let prefix = "waits for '\(cause.path)': "
        let message = cause.message.hasPrefix("waits for ") ? cause.message : prefix + cause.message
        let wait = cause.retryAt.map { max($0 - now, .zero) + .milliseconds(Int.random(in: 50...500, using: &random)) }
        if wait == nil { stuck.insert(item.id) }
        let retryIn = wait ?? .seconds(Int.random(in: 120...300, using: &random))
        let error = StoreError(.internal, message)
        leaveAlone(item.id, until: now + min(retryIn, .seconds(1)), count: rounds[item.id] ?? 0)
        let own = Trouble(retryAt: wait.map { now + $0 }, message: error.message, path: cause.path)
        actions.append(.record(item.id, revision: item.revision, message: message, retryIn: retryIn))
        askAt = min(askAt, now + retryIn)
        for waiter in waiters.removeValue(forKey: item.id) ?? [] {
            guard let entry = waiting.removeValue(forKey: waiter) else { continue }
            holdUp(entry.item, own, now, &actions)
        }
    }

    mutating func rest(_ id: PendingID, _ now: MonotonicTime) {
        let count = (rounds[id] ?? 0) + 1
        leaveAlone(id, until: now + Self.resting.wait(afterFailures: count, &random), count: count)
    }

    /// What the row was busy for has ended: it may be tried again.
    mutating func released(_ id: PendingID, _ actions: inout [Action]) {
        if running[id] != nil {
            releasedEarly.insert(id)
        } else if rests.removeValue(forKey: id) != nil {
            wake(id, &actions)
        }
    }

    /// A row that need not rest any more comes with the next offer, if it is due by itself; at once, if others wait for
    /// it.
    mutating func wake(_ id: PendingID, _ actions: inout [Action]) {
        isNews = true
        if waiters[id]?.isEmpty == false, lookingUp.insert(id).inserted { actions.append(.lookUp(id)) }
    }

    mutating func leaveAlone(_ id: PendingID, until: MonotonicTime, count: Int) {
        rests[id] = Rest(until: until, count: count)
        nextRestEnd = nextRestEnd.map { min($0, until) } ?? until
    }

    mutating func forget(_ id: PendingID) {
        rounds[id] = nil
        failures[id] = nil
        troubles[id] = nil
        rests[id] = nil
    }
}
