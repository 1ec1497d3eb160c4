import StoreAPI
import Threading

/// How much fits on the store, as it last said; asked again in the background.
final class StoreSpace: Sendable {
    /// What is shown where a store does not tell: enough for every program that looks before it writes.
    static let unknownTotal: Int64 = 1 << 50
    private static let lifetime = Duration.seconds(60)

    private struct State {
        var usage = SpaceUsage()
        var askAgainAt: MonotonicTime?
        var isAsking = false
    }

    private let state = Lock(State())
    private let store: any Store
    private let clock: any Clock
    private let pool: WorkerPool

    init(store: any Store, clock: any Clock, pool: WorkerPool) {
        self.store = store
        self.clock = clock
        self.pool = pool
    }

    /// What is known now; never waits.
    var space: FileSystemSpace {
        let now = clock.monotonic
        let (usage, mustAsk) = state.withLock { state in
            let mustAsk = !state.isAsking && state.askAgainAt.map { $0 <= now } ?? true
            if mustAsk { state.isAsking = true }
            return (state.usage, mustAsk)
        }
        if mustAsk { pool.submit { [self] in ask() } }
        let used = usage.used ?? 0
        let total = usage.total ?? usage.free.map { $0 + used } ?? Self.unknownTotal
        return FileSystemSpace(total: total, free: min(max(usage.free ?? total - used, 0), total), files: 0)
    }

    private func ask() {
        let usage: SpaceUsage?
        // A store that cannot be asked now keeps its last answer: statfs must not fail for it.
        do { usage = try store.spaceUsage() } catch { usage = nil }
        state.withLock {
            if let usage { $0.usage = usage }
            $0.askAgainAt = clock.monotonic + Self.lifetime
            $0.isAsking = false
        }
    }
}
