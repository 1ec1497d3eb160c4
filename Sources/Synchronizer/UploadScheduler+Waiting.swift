import Catalog
import StoreAPI
import Threading

// Rows that need others to be done first.
extension UploadScheduler {
    mutating func block(
        _ item: PendingItem, by blocker: PendingID?, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        guard let blocker else {
            rest(item.id, now)
            return
        }
        let round = (rounds[item.id] ?? 0) + 1
        rounds[item.id] = round
        if let circle = circle(from: item, to: blocker) {
            guard round <= Self.mostCircles else {
                for member in circle { giveUp(member, "it waits for another change that waits for it", now, &actions) }
                return
            }
            // What the others wait for was found out earlier: names may have changed since, so they are asked again.
            for member in circle.dropFirst() {
                stopWaiting(member.id)
                urgent.append(member)
            }
        }
        guard round <= Self.mostRounds else {
            giveUp(item, "the change that it waits for does not get on", now, &actions)
            return
        }
        if let trouble = troubles[blocker], trouble.retryAt.map({ $0 > now }) ?? true, running[blocker] == nil {
            holdUp(item, trouble, now, &actions)
            return
        }
        waiting[item.id] = Waiting(item: item, blocker: blocker)
        waiters[blocker, default: []].append(item.id)
        guard running[blocker] == nil, waiting[blocker] == nil, !urgent.contains(where: { $0.id == blocker }) else {
            return
        }
        if lookingUp.insert(blocker).inserted { actions.append(.lookUp(blocker)) }
    }

    /// The rows that wait for each other in a circle if `item` waits for `blocker`; nil: there is none.
    func circle(from item: PendingItem, to blocker: PendingID) -> [PendingItem]? {
        var members = [item]
        var cursor = blocker
        while cursor != item.id {
            guard let next = waiting[cursor] else { return nil }
            members.append(next.item)
            cursor = next.blocker
        }
        return members
    }

    private mutating func stopWaiting(_ id: PendingID) {
        guard let entry = waiting.removeValue(forKey: id) else { return }
        waiters[entry.blocker]?.removeAll { $0 == id }
    }

    private mutating func giveUp(
        _ item: PendingItem, _ why: String, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        stopWaiting(item.id)
        rounds[item.id] = nil
        let error = StoreError(.internal, "'\(item.path)' cannot be uploaded: \(why)")
        trouble(item, error, ownWait(item.id), now, &actions)
        actions.append(.report(kind: error.code.rawValue, message: error.message, advice: error.code.advice))
    }

    mutating func lookedUp(
        _ id: PendingID, _ item: PendingItem?, _ now: MonotonicTime, _ actions: inout [Action]
    ) {
        lookingUp.remove(id)
        guard running[id] == nil, waiting[id] == nil else { return }
        guard let item else {
            forget(id)
            release(id, now, gotOn: false)
            return
        }
        guard !item.isParked else {
            let trouble = Trouble(retryAt: nil, message: item.lastError ?? "it failed before", path: item.path)
            remember(trouble, of: id)
            for waiter in waiters.removeValue(forKey: id) ?? [] {
                guard let entry = waiting.removeValue(forKey: waiter) else { continue }
                holdUp(entry.item, trouble, now, &actions)
            }
            return
        }
        rests[id] = nil
        urgent.append(item)
    }

    /// A row was worked on: what waited for it may go on. Rows that others wait for go on at once, since they may
    /// not be due by themselves; the rest comes with the next offer.
    mutating func release(_ id: PendingID, _ now: MonotonicTime, gotOn: Bool) {
        for waiter in waiters.removeValue(forKey: id) ?? [] {
            guard let entry = waiting.removeValue(forKey: waiter) else { continue }
            isNews = true
            if gotOn { rounds[waiter] = nil }
            if waiters[waiter]?.isEmpty == false { urgent.append(entry.item) }
        }
    }
}
