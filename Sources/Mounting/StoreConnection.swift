package import Logging
package import Statistics
package import StoreAPI
package import Threading

/// Keeps trying to reach a store until it answers, on a thread of its own, and remembers what it said of itself, so
/// that nobody who wants to show it has to ask the store.
package final class StoreConnection: Sendable {
    package enum Phase: Sendable {
        case connecting
        case connected
        /// The last attempt failed; another one will be made.
        case failed(StoreError)
    }

    private struct State {
        var phase = Phase.connecting
        var information: [AccountField] = []
        var space = SpaceUsage()
        var isClosed = false
        var onConnected: (@Sendable () -> Void)?
    }

    private let state = Monitor(State())
    private let store: any Store
    private let statistics: Statistics
    private let logger: Logger
    private let thread = Lock<WorkerThread?>(nil)

    /// How long an account's figures are shown before they are asked for again.
    private static let refresh = Duration.seconds(600)

    package init(store: any Store, statistics: Statistics, logger: Logger) {
        self.store = store
        self.statistics = statistics
        self.logger = logger
    }

    package func start() {
        thread.withLock { $0 = WorkerThread(name: "connect") { [self] in run() } }
    }

    /// Waits for the outcome of the first attempt; `.connecting` when there is none by the deadline.
    package func firstOutcome(before deadline: MonotonicTime) -> Phase {
        state.wait(until: deadline) { state in
            if case .connecting = state.phase { return state.isClosed ? state.phase : nil }
            return state.phase
        } ?? .connecting
    }

    /// Calls `body` when the store has answered: at once, or once on the connection's thread.
    package func whenConnected(_ body: @escaping @Sendable () -> Void) {
        let isConnected = state.withLock { (state) -> Bool in
            if case .connected = state.phase { return true }
            state.onConnected = body
            return false
        }
        if isConnected { body() }
    }

    package var phase: Phase { state.withLock { $0.phase } }
    package var information: [AccountField] { state.withLock { $0.information } }
    package var space: SpaceUsage { state.withLock { $0.space } }

    /// Gives up trying. The store is shut down by it, so that a request under way ends.
    package func close() {
        state.update { $0.isClosed = true }
        store.shutdown()
        let worker = thread.withLock { (thread) -> WorkerThread? in
            let worker = thread
            thread = nil
            return worker
        }
        worker?.join()
    }

    private func run() {
        var pause = Duration.seconds(1)
        while true {
            do {
                try store.connect()
                break
            } catch {
                if state.withLock({ $0.isClosed }) { return }
                state.update { $0.phase = .failed(error) }
                statistics.report(
                    kind: error.code.rawValue, message: error.message,
                    advice:
                        "The store is tried again every \(Int(pause.inSeconds)) s; what is cached can be used meanwhile."
                )
                logger.warning("no connection to the store: \(error.message)")
            }
            if isClosed(after: pause) { return }
            pause = min(pause * 2, .seconds(60))
            store.reconnect()
        }
        askForInformation()
        let onConnected = state.update { (state) -> (@Sendable () -> Void)? in
            state.phase = .connected
            defer { state.onConnected = nil }
            return state.onConnected
        }
        logger.info("connected to the store")
        warn(of: store.capabilities)
        onConnected?()
        while !isClosed(after: Self.refresh) { askForInformation() }
    }

    /// Says what people expect of a file system and this store does not keep.
    private func warn(of capabilities: StoreCapabilities) {
        guard !capabilities.contains(.emptyDirectories) else { return }
        let message = "the store keeps no empty directories: one that nothing is in is gone at the next mount"
        statistics.report(
            kind: "emptyDirectories", message: message,
            advice:
                "Put a file into directories that have to stay. Files and the directories that they are in are safe.")
        logger.warning("\(message)")
    }

    /// Waits, and answers early when the connection is closed.
    private func isClosed(after pause: Duration) -> Bool {
        state.wait(until: .now + pause) { $0.isClosed ? true : nil } ?? false
    }

    private func askForInformation() {
        do {
            let information = try store.accountInformation()
            state.withLock { $0.information = information }
            if store.capabilities.contains(.spaceUsage) {
                let space = try store.spaceUsage()
                state.withLock { $0.space = space }
            }
        } catch {
            // Nice to show, needed for nothing: what was known before stays.
            logger.info("the store tells nothing about the account: \(error.message)")
        }
    }
}
