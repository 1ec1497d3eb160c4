import Catalog
import Chunks
import Logging
import Statistics
import StoreAPI
import Threading

/// Frees the room of archives on the store of which little is needed, a little at a time and only while nothing waits to
/// be uploaded: see ``ChunkStore/collectSomeGarbage()``. Keeps the right to make them, where that has to be renewed.
final class ArchiveKeeper: Sendable {
    private struct State {
        var isStopped = false
        var thread: WorkerThread?
    }

    private let catalog: Catalog
    private let statistics: Statistics
    private let logger: Logger
    private let state = Monitor(State())

    /// How often it is looked whether there is something to do, which asks nothing of the store.
    private static let interval = Duration.seconds(15)
    /// How long it is left alone after a failure.
    private static let longestInterval = Duration.seconds(600)

    init(_ catalog: Catalog, _ statistics: Statistics, _ logger: Logger) {
        self.catalog = catalog
        self.statistics = statistics
        self.logger = logger
    }

    /// - Parameter store: The one in use now; nil while it cannot be reached.
    func start(_ store: @escaping @Sendable () -> ChunkStore?) {
        state.withLock { state in
            guard !state.isStopped else { return }
            state.thread = WorkerThread(name: "archives", urgency: .background) { [self] in run(store) }
        }
    }

    /// Begins nothing new.
    func stop() { state.update { $0.isStopped = true } }

    /// Waits for the end of what is under way, which comes soon when the store is shut down.
    func join() {
        let thread = state.update { state in
            defer { state.thread = nil }
            return state.thread
        }
        thread?.join()
    }

    private func run(_ store: () -> ChunkStore?) {
        var (pause, next) = (Self.interval, MonotonicTime.now)
        while !isStopped(after: Self.interval) {
            do { try store()?.renewLease() } catch {
                // Who wants to pack something asks again, and tells people.
                logger.info("the right to pack files could not be renewed: \(error.message)")
            }
            guard .now >= next else { continue }
            do {
                while try isIdle(), let store = store(), let freed = try store.collectSomeGarbage() {
                    statistics.add(.archivesPackedAnew, Int64(freed.packedAnew))
                    statistics.add(.archivesDeleted, Int64(freed.chunks))
                    statistics.add(.archiveBytesFreed, freed.bytes)
                }
                pause = Self.interval
            } catch let error as StoreError {
                guard !isStopped(after: .zero) else { return }
                pause = min(pause * 2, Self.longestInterval)
                statistics.report(
                    kind: "archives", message: "archives that are not needed could not be freed: \(error.message)",
                    advice: "Files are not concerned. It is tried again; 'cloudfusion gc' does it at once.")
                logger.warning("archives could not be freed: \(error.message)")
            } catch {
                // The catalog says for itself what is wrong with it.
                pause = min(pause * 2, Self.longestInterval)
            }
            next = .now + pause
        }
    }

    private func isIdle() throws(CatalogError) -> Bool {
        guard !state.withLock({ $0.isStopped }) else { return false }
        let pending = try catalog.pendingTotals()
        return pending.items == pending.parked
    }

    private func isStopped(after pause: Duration) -> Bool {
        state.wait(until: .now + pause) { $0.isStopped ? true : nil } ?? false
    }
}
