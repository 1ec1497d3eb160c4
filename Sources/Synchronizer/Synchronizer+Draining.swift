package import Catalog
package import StoreAPI
import Threading

// Waiting until everything that was changed before the call is on the store. Rows of the journal are numbered in
// the order in which they came to be: those count with a number up to the largest at the begin (whatever happens to
// the clock), and those that came later but in consequence of such ones (the files of a renamed directory), which
// have the time of their cause. A row is finished when it is gone, or when its file was uploaded in a state taken
// after the begin: so a drain ends although files go on being made and changed.
extension Synchronizer {
    /// Makes all at or below `path` (nil: everything) due, and waits until it is on the store, verified.
    ///
    /// What is changed after the call was made is not waited for.
    ///
    /// - Parameter report: told at least five times a second, when the journal answers that fast, how far it is;
    ///   answers false to stop waiting (nothing is undone).
    /// - Returns: what is left: `itemsLeft` 0 means all is on the store. Ends early when only rows are left that are
    ///   parked or wait for parked ones, and when the synchronizer is stopped.
    package func drain(_ path: StorePath?, report: (DrainProgress) -> Bool) throws(CatalogError) -> DrainProgress {
        let path = path.flatMap { $0.isRoot ? nil : $0 }
        let number = progress.withLock { progress in
            defer { progress.nextDrain += 1 }
            progress.waiters += 1
            progress.settled[progress.nextDrain] = (clock.monotonic, [])
            return progress.nextDrain
        }
        state.withLock {
            $0.drains += 1
            if path == nil { $0.completeDrains += 1 }
        }
        defer {
            progress.withLock {
                $0.waiters -= 1
                $0.settled[number] = nil
            }
            state.withLock {
                $0.drains -= 1
                if path == nil { $0.completeDrains -= 1 }
            }
        }
        var scope = try DrainScope(journal, path, clock.calendar)
        _ = try journal.expedite(path)
        process(.expedited)
        wake()
        return try wait(for: &scope, number, report)
    }

    private func wait(for scope: inout DrainScope, _ number: Int, _ report: (DrainProgress) -> Bool)
        throws(CatalogError) -> DrainProgress
    {
        var lastRetry = MonotonicTime.now
        while true {
            let begun = MonotonicTime.now
            let (finished, settled) = progress.withLock { ($0.finished, $0.settled[number]?.rows ?? []) }
            let look = try scope.look(settled) { [state] id in
                state.withLock { $0.scheduler.stuck.contains(id) && !$0.scheduler.isBusy(id) }
            }
            guard report(look.progress) else { return look.progress }
            if !look.isGoingOn, try !isWorkWithoutRow(begunBefore: progress.withLock { $0.settled[number]?.begun }) {
                return look.progress
            }
            if state.withLock({ $0.isStopping || !$0.isStarted }) { return look.progress }
            // A row that has failed is due by its age alone again; somebody waits for it here.
            if look.hasFailures, MonotonicTime.now - lastRetry >= .seconds(5), !isDown {
                _ = try scope.expedite()
                process(.woken)
                lastRetry = .now
            }
            // Waiting takes ten times as long as looking, so that it does not hold up the work.
            let now = MonotonicTime.now
            let pause = max(min((now - begun) * 10, .seconds(5)), .milliseconds(2))
            _ = progress.wait(until: now + max(pause, .milliseconds(200))) { progress -> Bool? in
                progress.finished != finished && MonotonicTime.now - now >= pause ? true : nil
            }
        }
    }

    /// Whether somebody is still at work for a row that is gone: a file was renamed or removed while it was being
    /// uploaded. What has to be taken away after that belongs to what was changed before.
    private func isWorkWithoutRow(begunBefore begin: MonotonicTime?) throws(CatalogError) -> Bool {
        guard let begin else { return false }
        let running = state.withLock { $0.scheduler.running.filter { $0.value.begun <= begin }.map(\.key) }
        for id in running where try journal.pendingItem(id) == nil { return true }
        return false
    }

    private var isDown: Bool { state.withLock { $0.scheduler.health.isDown } }
}

/// The rows that a drain waits for.
private struct DrainScope {
    /// What one look at the journal tells.
    struct Look {
        var progress = DrainProgress(itemsLeft: 0, bytesLeft: 0, parked: 0)
        /// Whether rows are left that may get done.
        var isGoingOn = false
        var hasFailures = false
    }

    private let journal: any Journal
    private let path: StorePath?
    private let lastRow: PendingID
    private let begin: Timestamp
    /// Below a path the rows are found once, and then asked for one by one.
    private var rows: [PendingID]?

    private static let page = 1_000

    init(_ journal: any Journal, _ path: StorePath?, _ now: Timestamp) throws(CatalogError) {
        self.journal = journal
        self.path = path
        let newest = try journal.newestPending()
        lastRow = newest?.id ?? PendingID(0)
        begin = max(now, newest?.since ?? now)
        if let path { rows = try journal.pendingRows(below: path, upTo: lastRow, orSince: begin) }
    }

    private func counts(_ row: PendingItem) -> Bool { row.id <= lastRow || row.since <= begin }

    /// Calls `body` with all rows, in order, until it answers false.
    private func forEachRow(_ body: (PendingItem) -> Bool) throws(CatalogError) {
        var last: PendingID?
        while true {
            let page = try journal.allPending(after: last, limit: Self.page)
            for row in page {
                guard body(row) else { return }
            }
            guard page.count == Self.page else { return }
            last = page.last?.id
        }
    }

    func expedite() throws(CatalogError) -> Int { try journal.expedite(path) }

    mutating func look(_ settled: Set<PendingID>, isStuck: (PendingID) -> Bool) throws(CatalogError) -> Look {
        var look = Look()
        func count(_ row: PendingItem) {
            guard counts(row), !settled.contains(row.id) else { return }
            look.progress.itemsLeft += 1
            look.progress.bytesLeft += row.size
            if row.isParked || isStuck(row.id) {
                look.progress.parked += 1
            } else {
                look.isGoingOn = true
                if row.attempts > 0 { look.hasFailures = true }
            }
        }
        if let path, let rows {
            var left: [PendingID] = []
            for id in rows where !settled.contains(id) {
                guard let row = try journal.pendingItem(id) else { continue }
                left.append(id)
                count(row)
            }
            if !look.isGoingOn {
                // Before it is over: what came in consequence of these.
                let now = try journal.pendingRows(below: path, upTo: lastRow, orSince: begin)
                    .filter { !settled.contains($0) }
                look.isGoingOn = !Set(now).isSubset(of: left)
                left = now
                look.progress.itemsLeft = Int64(now.count)
            }
            self.rows = left
            return look
        }
        // Everything: the first page of rows tells whether it goes on; the sum is near enough for a progress bar.
        var isExact = true
        var rowsSeen = 0
        try forEachRow { row in
            count(row)
            rowsSeen += 1
            if look.isGoingOn, rowsSeen >= Self.page { isExact = false }
            return isExact
        }
        guard !isExact else { return look }
        let totals = try journal.pendingTotals()
        look.progress = DrainProgress(itemsLeft: totals.items, bytesLeft: totals.bytes, parked: totals.parked)
        look.isGoingOn = true
        return look
    }
}
