import Threading

/// Requests that wait for something, and the thread that answers those whose time is up.
///
/// Lock order: the state, then a request's own lock; answers are given outside of both.
final class Parking: Sendable {
    private struct State {
        var nextID: UInt64 = 0
        /// How to end each request that is still waiting: true when its time is up, false at the end of the mount.
        var waiting: [UInt64: @Sendable (_ isLate: Bool) -> Void] = [:]
        var deadlines = DeadlineQueue()
        var isShutDown = false
    }

    private let state = Monitor(State())
    private let clock: any Clock
    private let thread: Lock<WorkerThread?>

    init(clock: any Clock) {
        self.clock = clock
        thread = Lock(nil)
        let worker = WorkerThread(name: "vfs-deadlines") { [self] in run() }
        thread.withLock { $0 = worker }
    }

    /// Keeps `body` until it is answered, or its time is up, or the mount ends; it is called exactly once.
    ///
    /// - Parameters:
    ///   - bound: How long; nil means until it is answered or the mount ends.
    ///   - late: The answer when the time is up.
    ///   - ended: The answer when the mount ends.
    func park<Value: Sendable>(
        for bound: Duration?, late: Value, ended: Value, _ body: @escaping @Sendable (Value) -> Void
    ) -> Parked<Value> {
        let parked = Parked(body, in: self)
        let deadline = bound.map { clock.monotonic + $0 }
        let isParked = state.withLock { state in
            guard !state.isShutDown else { return false }
            state.nextID += 1
            parked.setID(state.nextID)
            state.waiting[state.nextID] = { isLate in parked.answer(isLate ? late : ended) }
            return true
        }
        guard isParked else {
            parked.answer(ended)
            return parked
        }
        if let deadline {
            let isFirst = state.withLock { $0.deadlines.insert(deadline, parked.id) }
            if isFirst { wake() }
        }
        return parked
    }

    /// Calls `body` once when `bound` has passed; never when the mount ends first.
    func after(_ bound: Duration, _ body: @escaping @Sendable () -> Void) {
        _ = park(for: bound, late: true, ended: false) { isDue in if isDue { body() } }
    }

    /// Looks at the clock again: for clocks that somebody turned.
    func wake() { state.update { _ in } }

    /// How many requests wait.
    var count: Int { state.withLock { $0.waiting.count } }

    fileprivate func forget(_ id: UInt64) { state.withLock { _ = $0.waiting.removeValue(forKey: id) } }

    func shutdown() {
        let left = state.update { state in
            state.isShutDown = true
            defer { state.waiting = [:] }
            return Array(state.waiting.values)
        }
        for end in left { end(false) }
        thread.withLock { worker in
            worker?.join()
            worker = nil
        }
    }

    private func run() {
        while true {
            // Measured on our clock, waited for on the machine's: they differ in tests only.
            let first = state.withLock { $0.deadlines.first }
            let wakeAt = first.map { MonotonicTime.now + max($0 - clock.monotonic, .zero) }
            var isFirstRound = true
            let due: [@Sendable (Bool) -> Void]? = state.wait(until: wakeAt) { state in
                if state.isShutDown { return [] }
                let now = clock.monotonic
                var due: [@Sendable (Bool) -> Void] = []
                while let first = state.deadlines.first, first <= now {
                    if let end = state.waiting.removeValue(forKey: state.deadlines.removeFirst()) { due.append(end) }
                }
                // A wake-up means that there is a new first deadline: begin again with that.
                defer { isFirstRound = false }
                return due.isEmpty && isFirstRound ? nil : due
            }
            if state.withLock({ $0.isShutDown }) { return }
            for end in due ?? [] { end(true) }
        }
    }
}

/// One request that waits. Answering it again does nothing.
final class Parked<Value: Sendable>: Sendable {
    private struct State {
        var body: (@Sendable (Value) -> Void)?
        var id: UInt64 = 0
    }
    private let state: Lock<State>
    private let parking: Parking

    fileprivate init(_ body: @escaping @Sendable (Value) -> Void, in parking: Parking) {
        state = Lock(State(body: body))
        self.parking = parking
    }

    fileprivate func setID(_ id: UInt64) { state.withLock { $0.id = id } }
    fileprivate var id: UInt64 { state.withLock { $0.id } }

    var isAnswered: Bool { state.withLock { $0.body == nil } }

    /// - Returns: Whether this was the answer: false when another one came first.
    @discardableResult
    func answer(_ value: Value) -> Bool {
        let (body, id) = state.withLock { state in
            defer { state.body = nil }
            return (state.body, state.id)
        }
        guard let body else { return false }
        parking.forget(id)
        body(value)
        return true
    }
}

/// Deadlines in order: a binary heap.
private struct DeadlineQueue {
    private var heap: [(time: MonotonicTime, id: UInt64)] = []

    var first: MonotonicTime? { heap.first?.time }

    /// - Returns: Whether it is the first one now.
    mutating func insert(_ time: MonotonicTime, _ id: UInt64) -> Bool {
        heap.append((time, id))
        var child = heap.count - 1
        while child > 0, heap[child].time < heap[(child - 1) / 2].time {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
        return child == 0
    }

    mutating func removeFirst() -> UInt64 {
        heap.swapAt(0, heap.count - 1)
        let first = heap.removeLast()
        var parent = 0
        while true {
            var child = 2 * parent + 1
            guard child < heap.count else { break }
            if child + 1 < heap.count, heap[child + 1].time < heap[child].time { child += 1 }
            guard heap[child].time < heap[parent].time else { break }
            heap.swapAt(child, parent)
            parent = child
        }
        return first.id
    }
}
