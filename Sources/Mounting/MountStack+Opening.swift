import Caching
import Catalog
import Chunks
import Logging
import Statistics
import StoreAPI
import Synchronizer
import Threading

/// The steps of opening a stack, and of replacing its store.
extension MountStack {
    static let identityNote = "identity"

    /// The catalog of a cache that has been in use; rebuilt if it has gone or makes no sense.
    static func openCatalog(_ folder: CacheFolder, for identity: String, _ surroundings: Surroundings)
        throws(MountError) -> Catalog
    {
        let reason: String
        do throws(CatalogError) {
            if CatalogFiles(path: folder.catalogPath).isThere {
                let catalog = try Catalog(path: folder.catalogPath, clock: surroundings.clock)
                let isBlank = try catalog.note(identityNote) == nil
                if !isBlank || !holdsFiles(folder) { return watched(catalog, surroundings) }
                catalog.close()
                reason = "the catalog '\(folder.catalogPath)' knows nothing of the files in the cache"
            } else {
                reason = "the catalog '\(folder.catalogPath)' is gone or empty"
            }
        } catch {
            guard error.code == .corrupt else { throw refusal(error, folder.catalogPath) }
            reason = "the catalog '\(folder.catalogPath)' is damaged: \(error.message)"
        }
        let repair = CacheRepair(folder, identity: identity, clock: surroundings.clock)
        let (catalog, outcome) = try repair.rebuild(because: reason)
        let names = outcome.entries == 1 ? "1 name was" : "\(outcome.entries) names were"
        let files = outcome.keptFiles == 1 ? "1 file" : "\(outcome.keptFiles) files"
        let message =
            "\(reason). It was rebuilt: \(names) taken over from it. The old one, and \(files) of the cache of which "
            + "it is not known where they belong, are kept in '\(outcome.kept ?? "")'"
        let advice =
            "Everything that was uploaded is still on the store. What was not, and has no name any more, is listed in "
            + "list.txt there: copy what you need into the mount, then remove that folder."
        surroundings.statistics.report(kind: "catalogRebuilt", message: message, advice: advice)
        surroundings.logger.warning("\(message). \(advice)")
        for line in outcome.uncorrected {
            surroundings.statistics.report(kind: "cacheFile", message: line, advice: "stats/notuploaded lists it.")
        }
        return watched(catalog, surroundings)
    }

    static func holdsFiles(_ folder: CacheFolder) -> Bool {
        !ContentCache.files(in: folder.contentPath, limit: 1).isEmpty
    }

    static func newCatalog(_ path: String, _ surroundings: Surroundings) throws(MountError) -> Catalog {
        do { return watched(try Catalog(path: path, clock: surroundings.clock), surroundings) } catch {
            throw refusal(error, path)
        }
    }

    private static func watched(_ catalog: Catalog, _ surroundings: Surroundings) -> Catalog {
        catalog.onFault { [statistics = surroundings.statistics] error in
            let advice =
                switch error.code {
                case .corrupt: "Unmount and mount again: the catalog is then rebuilt, and nothing is dropped by that."
                case .noMemory: "Nothing is lost. Look at the program's limits, and at what else runs on the machine."
                default: "Check the disk that holds the catalog: it has to be writable and have free space."
                }
            statistics.report(kind: "catalog", message: error.message, advice: advice)
        }
        catalog.onKept { [statistics = surroundings.statistics] file in
            statistics.add(.conflicts)
            statistics.report(
                kind: "conflict",
                message: "'\(file.name)' was replaced or removed on the store by somebody else while it was open here; "
                    + "what is written to it is kept as '\(file.path)'",
                advice: "Compare the two files and delete the one that is not needed.")
        }
        return catalog
    }

    private static func refusal(_ error: CatalogError, _ path: String) -> MountError {
        switch error.code {
        case .tooNew:
            MountError(
                "the catalog '\(path)' was made by a newer version of CloudFusion: use that, or another cache_id.")
        case .noSpace:
            MountError("the disk with the catalog '\(path)' is full: make room, or choose another cache_dir.")
        default:
            MountError(
                "the catalog '\(path)' cannot be opened: \(error.message). Check the disk that holds it, and who may "
                    + "read and write there.")
        }
    }

    /// Whose catalog it is; nil for one that never saw a store.
    static func identity(of catalog: Catalog) throws(MountError) -> String? {
        do { return try catalog.note(identityNote) } catch {
            throw MountError("the catalog cannot be read: \(error.message)")
        }
    }

    static func note(_ identity: String, in catalog: Catalog) throws(MountError) {
        do { try catalog.setNote(identityNote, to: identity) } catch {
            throw MountError("the catalog cannot be written: \(error.message)")
        }
    }

    /// The first listing must find the catalog knowing what a listing of this store tells.
    static func note(_ capabilities: StoreCapabilities, in catalog: Catalog) throws(MountError) {
        do { try catalog.setCapabilities(capabilities) } catch {
            throw MountError("the catalog cannot be written: \(error.message)")
        }
    }

    /// A cache holds what was not uploaded to *its* store: it must never be brought to another one.
    static func check(
        _ catalog: Catalog, isFor identity: String, _ descriptor: StoreDescriptor, _ folder: String
    ) throws(MountError) {
        guard let noted = try Self.identity(of: catalog), noted != identity else { return }
        throw MountError(
            "the cache '\(folder)' belongs to another store (\(noted)), and these settings are for \(identity). "
                + "Choose another cache_id, or leave it out.")
    }

    static func makeStore(
        _ descriptor: StoreDescriptor, _ settings: Settings, _ chunks: (settings: ChunkSettings, map: MapHolder),
        _ statistics: Statistics
    ) throws(MountError) -> ChunkStore {
        let base: any Store
        do { base = try descriptor.make(settings.storeSettings(descriptor), statistics) } catch {
            throw MountError("the settings for \(descriptor.scheme) are not right: \(error.message)")
        }
        return ChunkStore(base, chunks.settings, map: chunks.map)
    }

    /// Reaches the store, or with a known catalog begins without it.
    ///
    /// - Throws: ``MountError`` when the store refuses, and when a store that nothing is known of does not answer in
    ///   time. Then the store has been shut down.
    static func connect(
        _ store: any Store, _ settings: Settings, _ surroundings: Surroundings, _ patience: Duration, isKnown: Bool
    ) throws(MountError) -> (connection: StoreConnection, isOffline: Bool) {
        // The store's own repetitions must not outlast the patience; later they may.
        var tuning = settings.tuning
        tuning.overallTimeout = min(tuning.overallTimeout, patience / 2)
        tuning.connectTimeout = min(tuning.connectTimeout, patience / 2)
        store.tune(tuning)
        let connection = StoreConnection(
            store: store, statistics: surroundings.statistics, logger: surroundings.logger)
        connection.start()
        let outcome = connection.firstOutcome(before: .now + patience + .seconds(1))
        let reason: String
        switch outcome {
        case .connected:
            store.tune(settings.tuning)
            return (connection, false)
        case .connecting:
            reason = "the store did not answer within \(Int(patience.inSeconds)) s"
        case .failed(let error):
            if !isKnown || error.refusesForGood {
                connection.close()
                throw MountError(error.message)
            }
            reason = error.message
        }
        guard isKnown else {
            connection.close()
            throw MountError(
                "\(reason). Look at the network and at the settings of the store (endpoint, proxy); "
                    + "connect_timeout and request_timeout say how long is waited.")
        }
        surroundings.logger.warning("mounting without the store: \(reason)")
        store.tune(settings.tuning)
        return (connection, true)
    }

    /// Puts a store with other credentials (or the like) in the place of the one in use; the cache stays.
    ///
    /// - Throws: ``MountError`` when the new one cannot be reached; then the old one stays in use.
    func replaceStore(_ settings: Settings, _ surroundings: Surroundings) throws(MountError) {
        let store = try Self.makeStore(
            descriptor, settings, (settings.chunks(in: folder.path, isReadOnly: surroundings.isReadOnly), chunkMap),
            surroundings.statistics)
        let (connection, _) = try Self.connect(
            store, settings, surroundings, surroundings.patienceForNew, isKnown: false)
        cache.setStore(store)
        synchronizer.setStore(store)
        exchange(store, connection).close()
        do {
            // What was given up on, for want of rights perhaps, is worth another attempt now.
            _ = try catalog.expedite(nil)
            synchronizer.wake()
        } catch {
            surroundings.logger.error("the catalog cannot be written: \(error.message)")
        }
    }

    /// Lets settings that are live take effect.
    func configure(_ settings: Settings) {
        store.tune(settings.tuning)
        store.trust(for: settings.metadataLifetime)
        cache.setLimits(settings.cacheLimits)
        synchronizer.configure(settings.synchronizer)
    }

    /// Brings everything at or below `path` to the store.
    ///
    /// - Parameter report: told how far it is; false ends the waiting.
    /// - Returns: what is left.
    func drain(_ path: StorePath?, report: (DrainProgress) -> Bool) throws(MountError) -> DrainProgress {
        do {
            let left = try synchronizer.drain(path, report: report)
            // A loss of power must not bring back a catalog that takes what is on the store for changes still to be
            // made: of the cache files less may be left.
            try catalog.makeDurable()
            return left
        } catch {
            throw MountError("the catalog cannot be used: \(error.message)")
        }
    }

    /// Ends everything and gives the folder back. What is not on the store is in the catalog, durably.
    ///
    /// The file system must have saved and let go of the stack before.
    func shutdown(_ logger: Logger) {
        archiveKeeper.stop()
        let isDone = Monitor(false)
        let stopping = WorkerThread(name: "stop sync") { [synchronizer, store] in
            synchronizer.stop()
            do throws(StoreError) { try store.releaseLease() } catch {
                logger.info("the right to pack files could not be given back: \(error.message)")
            }
            isDone.update { $0 = true }
        }
        // Requests under way get a moment to end well; a store that hangs is cut off.
        _ = isDone.wait(until: .now + .seconds(5)) { $0 ? true : nil }
        connection.close()
        stopping.join()
        archiveKeeper.join()
        cache.shutdown()
        do { try catalog.makeDurable() } catch { logger.error("the catalog could not be saved: \(error.message)") }
        catalog.close()
        folder.release()
    }
}

extension StoreError {
    /// Whether mounting makes no sense, even with a catalog of the store: it has answered, and said no.
    var refusesForGood: Bool {
        switch code {
        case .authenticationFailed, .storeNotFound, .certificateRejected, .accessDenied, .invalidArgument, .inUse: true
        default: false
        }
    }
}
