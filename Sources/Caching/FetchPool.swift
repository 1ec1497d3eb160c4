import Threading

/// The threads that wait for the store on behalf of the cache: as many as there is work for, up to a limit. What
/// somebody waits for goes before read-ahead, which never has all threads.
///
/// Lock order: a content's lock is never taken under the pool's, nor the other way round.
final class FetchPool: Sendable {
    private struct State {
        var demanded = FetchQueue()
        var ahead = FetchQueue()
        var idle: [Mailbox] = []
        var threads = 0
        var runningAhead = 0
        var isShutDown = false
    }

    private struct Job: Sendable {
        var fetch: Fetch
        var isAhead: Bool
    }

    private enum Mail: Sendable {
        case job(Job), end
    }

    private typealias Mailbox = Monitor<Mail?>

    private let state = Lock(State())
    private let limit: Int
    /// How long a thread without work stays.
    private static let patience: Duration = .seconds(10)

    init(limit: Int) { self.limit = max(1, limit) }

    func add(_ fetches: [Fetch]) {
        for fetch in fetches { add(fetch, isAhead: !fetch.isDemanded) }
    }

    /// Somebody waits now for what was read-ahead.
    func promote(_ fetches: [Fetch]) {
        // It stays in the other queue too; whoever comes to it second finds that it is not queued any more.
        for fetch in fetches where fetch.isQueued { add(fetch, isAhead: false) }
    }

    /// Ends idle threads; those that wait for the store end when it answers. Nothing is begun any more.
    func shutdown() {
        let idle = state.withLock { state in
            state.isShutDown = true
            state.demanded = FetchQueue()
            state.ahead = FetchQueue()
            defer { state.idle = [] }
            return state.idle
        }
        for mailbox in idle { mailbox.update { $0 = .end } }
    }

    private func add(_ fetch: Fetch, isAhead: Bool) {
        state.withLock { state in
            guard !state.isShutDown else { return }
            if isAhead { state.ahead.append(fetch) } else { state.demanded.append(fetch) }
        }
        dispatch()
    }

    /// Gives queued work to threads that have none, and to new ones.
    private func dispatch() {
        while true {
            var starts: Job?
            var hand: (Mailbox, Job)?
            state.withLock { state in
                guard !state.idle.isEmpty || state.threads < limit, let job = next(&state) else { return }
                if let mailbox = state.idle.popLast() {
                    hand = (mailbox, job)
                } else {
                    state.threads += 1
                    starts = job
                }
            }
            if let (mailbox, job) = hand {
                mailbox.update { $0 = .job(job) }
            } else if let job = starts {
                WorkerThread(name: "cache-fetch", stackSize: 256 << 10) { self.work(job) }.detach()
            } else {
                return
            }
        }
    }

    private func next(_ state: inout State) -> Job? {
        if let fetch = state.demanded.popFirst() { return Job(fetch: fetch, isAhead: false) }
        guard state.runningAhead < max(1, limit - limit / 4), let fetch = state.ahead.popFirst() else { return nil }
        state.runningAhead += 1
        return Job(fetch: fetch, isAhead: true)
    }

    private enum Step {
        case run(Job), wait, end
    }

    private func work(_ first: Job) {
        let mailbox = Mailbox(nil)
        var job = first
        while true {
            job.fetch.content.carryOut(job.fetch)
            let step: Step = state.withLock { state in
                if job.isAhead { state.runningAhead -= 1 }
                if let job = next(&state) { return .run(job) }
                if state.isShutDown { return .end }
                state.idle.append(mailbox)
                return .wait
            }
            switch step {
            case .run(let next): job = next
            case .end: return
            case .wait:
                guard let next = waitForWork(mailbox) else { return }
                job = next
            }
        }
    }

    /// - Returns: nil: the thread is to end, and is not counted any more.
    private func waitForWork(_ mailbox: Mailbox) -> Job? {
        let take: (inout Mail?) -> Mail? = { mail in
            defer { mail = nil }
            return mail
        }
        var mail = mailbox.wait(until: MonotonicTime.now + Self.patience, for: take)
        if mail == nil {
            let isRetired = state.withLock { state in
                guard let index = state.idle.firstIndex(where: { $0 === mailbox }) else { return false }
                state.idle.remove(at: index)
                state.threads -= 1
                return true
            }
            if isRetired { return nil }
            // Somebody took this thread from the idle ones in the same moment, and is about to write.
            mail = mailbox.wait(for: take)
        }
        guard case .job(let job) = mail else { return nil }
        return job
    }
}

/// Fetches in the order in which they were asked for; forgets what was cancelled meanwhile.
private struct FetchQueue {
    private var items = Queue<Fetch>()
    /// When the store hangs, what was given up must not pile up: from so many on it is looked for.
    private var purgeAt = smallestPurge
    private static let smallestPurge = 64

    mutating func append(_ fetch: Fetch) {
        if items.count >= purgeAt {
            items.removeAll { !$0.isQueued }
            purgeAt = max(items.count * 2, Self.smallestPurge)
        }
        items.push(fetch)
    }

    mutating func popFirst() -> Fetch? {
        while let fetch = items.pop() {
            if fetch.isQueued { return fetch }
        }
        return nil
    }
}
