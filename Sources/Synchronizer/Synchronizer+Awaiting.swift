package import Catalog
import Statistics
package import StoreAPI
import Threading

// Waiting until the store has a file, for programs whose close() and fsync() return only then. No thread is kept: who
// waits is told by the worker that has brought the file there. Now and then all are looked at anew, since a file may
// also be renamed or removed, which no worker sees.
extension Synchronizer {
    /// Somebody who waits for a file.
    package struct Wait: Hashable, Sendable {
        fileprivate let number: UInt64
    }

    /// Guarded by its own lock; nothing else is locked, and nobody called, while that is held.
    struct Waits {
        struct Entry {
            var goal: FileGoal
            /// Its time is over: it ends as soon as nobody is at work on the file.
            var isLate = false
            /// How much had gone out when its time was over.
            var sent: Int64 = 0
            var body: @Sendable (StoreError?) -> Void
        }

        var entries: [UInt64: Entry] = [:]
        var byInode: [InodeID: Set<UInt64>] = [:]
        var next: UInt64 = 0
        /// When all were last looked at.
        var looked = MonotonicTime(nanoseconds: 0)

        mutating func remove(_ number: UInt64) -> Entry? {
            guard let entry = entries.removeValue(forKey: number) else { return nil }
            byInode[entry.goal.inode]?.remove(number)
            if byInode[entry.goal.inode]?.isEmpty == true { byInode[entry.goal.inode] = nil }
            return entry
        }
    }

    /// How often those who wait are looked at although no worker has reported anything.
    private static let lookInterval = Duration.seconds(1)

    /// Brings the file to the store now, before all that nobody waits for, and calls `body` once: when the store has it
    /// in the present or a later state under all its names, or when it refuses it for good (with the reason), or after
    /// ``hurry(_:)``. Never when the synchronizer is stopped first.
    ///
    /// - Parameter goal: ``Catalog/goal(of:)``.
    package func whenOnStore(_ goal: FileGoal, _ body: @escaping @Sendable (StoreError?) -> Void) -> Wait {
        // Known before it is looked for what is to be done: else the end of that could be missed.
        let number = waits.withLock { waits in
            waits.next += 1
            waits.entries[waits.next] = Waits.Entry(goal: goal, body: body)
            waits.byInode[goal.inode, default: []].insert(waits.next)
            return waits.next
        }
        look(at: number, isFirst: true)
        wake()
        return Wait(number: number)
    }

    /// Whoever waits has waited long enough: the wait ends with `.timedOut` unless a worker is about to send the file; then
    /// it ends with that attempt, or when this is called again and nothing was sent to the store meanwhile.
    ///
    /// - Returns: whether it goes on.
    package func hurry(_ wait: Wait) -> Bool {
        let sent = statistics.snapshot()[.bytesUploaded]
        let found = waits.withLock { waits -> (inode: InodeID, isStuck: Bool)? in
            guard let entry = waits.entries[wait.number] else { return nil }
            defer {
                waits.entries[wait.number]?.isLate = true
                waits.entries[wait.number]?.sent = sent
            }
            return (entry.goal.inode, entry.isLate && entry.sent == sent)
        }
        guard let found else { return false }
        let isBeingSent = state.withLock { $0.scheduler.running.values.contains { $0.item.inode == found.inode } }
        if isBeingSent, !found.isStuck { return true }
        end(wait.number, Self.late)
        return false
    }

    private static let late = StoreError(.timedOut, "the store did not take the file in time")

    /// A worker is done with a row of this inode.
    func workEnded(on inode: InodeID?, _ outcome: UploadScheduler.Outcome) {
        guard let inode, let numbers = waits.withLock({ $0.byInode[inode] }) else { return }
        for number in numbers {
            let isLate = waits.withLock { $0.entries[number]?.isLate ?? false }
            switch outcome {
            case .failed(let error) where isLate || error.code.failureKind == .park: end(number, error)
            case .failed: break
            // What went out may be an older state: then the file is sent again at once.
            case .done, .outdated: look(at: number, isFirst: !isLate)
            case .overtaken, .blocked, .busy: look(at: number, isFirst: false)
            }
            if isLate { end(number, Self.late) }
        }
    }

    /// Whether anybody waits.
    var hasWaits: Bool { waits.withLock { !$0.entries.isEmpty } }

    /// Looks at all who wait, if that is due.
    func lookAtWaits() {
        let now = MonotonicTime.now
        let numbers = waits.withLock { waits -> [UInt64] in
            guard !waits.entries.isEmpty, now - waits.looked >= Self.lookInterval else { return [] }
            waits.looked = now
            return Array(waits.entries.keys)
        }
        for number in numbers { look(at: number, isFirst: false) }
    }

    /// - Parameter isFirst: What is left goes to the workers at once.
    private func look(at number: UInt64, isFirst: Bool) {
        guard let goal = waits.withLock({ $0.entries[number]?.goal }) else { return }
        do {
            let rows = try journal.rowsLeft(to: goal, isFirst: isFirst)
            if rows.isEmpty { return end(number, nil) }
            if isFirst { for row in rows { process(.lookedUp(row.id, row)) } }
        } catch {
            end(number, StoreError(error))
        }
    }

    private func end(_ number: UInt64, _ error: StoreError?) {
        waits.withLock { $0.remove(number) }?.body(error)
    }
}
