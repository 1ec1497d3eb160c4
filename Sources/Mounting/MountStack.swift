package import Caching
package import Catalog
package import Chunks
import Glibc
package import Logging
package import Statistics
package import StoreAPI
package import Synchronizer
package import Threading
package import VFS

/// Everything that stands behind `data/` while a store is connected: the cache's folder, the catalog and the content
/// in it, the store, and the synchronizer that brings the one to the other.
package final class MountStack: Sendable {
    package let descriptor: StoreDescriptor
    package let identity: String
    package let folder: CacheFolder
    package let catalog: Catalog
    package let cache: ContentCache
    package let synchronizer: Synchronizer
    /// What is in chunks; kept when the store is replaced.
    let chunkMap: MapHolder
    let archiveKeeper: ArchiveKeeper
    /// The store and the connection to it are replaced together when credentials change.
    private let current: Lock<Link>
    /// Whether it came up without the store, from what the catalog knew.
    package let isOffline: Bool

    private struct Link {
        var store: ChunkStore
        var connection: StoreConnection
    }

    package var connection: StoreConnection { current.withLock { $0.connection } }
    package var store: ChunkStore { current.withLock { $0.store } }
    package var backing: Backing {
        Backing(catalog: catalog, cache: cache, synchronizer: synchronizer, store: store)
    }

    /// - Returns: the connection that was in use.
    func exchange(_ store: ChunkStore, _ connection: StoreConnection) -> StoreConnection {
        current.withLock { (current) -> StoreConnection in
            defer { current = Link(store: store, connection: connection) }
            return current.connection
        }
    }

    /// What all the stacks of one mount share.
    package struct Surroundings: Sendable {
        package var schema: SettingsSchema
        package var places: SettingsPlaces
        package var mountPoint: String
        package var isReadOnly: Bool
        package var statistics: Statistics
        package var clock: any Clock
        package var logger: Logger
        package var onChange: @Sendable ([NamespaceChange]) -> Void
        /// How long a mount waits for a store that it has never seen, and for one that it has a catalog of.
        package var patienceForNew: Duration = .seconds(20)
        package var patienceForKnown: Duration = .seconds(5)

        package init(
            schema: SettingsSchema, places: SettingsPlaces, mountPoint: String, isReadOnly: Bool,
            statistics: Statistics,
            clock: any Clock, logger: Logger, onChange: @escaping @Sendable ([NamespaceChange]) -> Void
        ) {
            self.schema = schema
            self.places = places
            self.mountPoint = mountPoint
            self.isReadOnly = isReadOnly
            self.statistics = statistics
            self.clock = clock
            self.logger = logger
            self.onChange = onChange
        }
    }

    /// The folder of the cache that belongs to these settings; nil when no store is named.
    package static func folderPath(_ settings: Settings, _ schema: SettingsSchema, _ places: SettingsPlaces) -> String?
    {
        guard let scheme = settings.scheme, let descriptor = schema.descriptor(named: scheme) else { return nil }
        let identity = descriptor.identity(settings.storeSettings(descriptor))
        let id = settings["cache_id"] ?? CacheFolder.defaultID(scheme: scheme, identity: identity)
        return (settings["cache_dir"] ?? places.defaultCacheFolder) + "/" + id
    }

    /// Opens the store and the cache that belong to the settings, and begins to synchronize.
    ///
    /// - Throws: ``MountError``. Then everything is as before.
    package convenience init(_ settings: Settings, _ surroundings: Surroundings) throws(MountError) {
        guard let scheme = settings.scheme, let descriptor = surroundings.schema.descriptor(named: scheme),
            let folderPath = Self.folderPath(settings, surroundings.schema, surroundings.places)
        else { throw MountError("the settings name no store") }
        let identity = descriptor.identity(settings.storeSettings(descriptor))
        let folder = try CacheFolder(path: folderPath, mountPoint: surroundings.mountPoint)
        let wasThere = CatalogFiles(path: folder.catalogPath).isThere || Self.holdsFiles(folder)

        // Whatever was opened is closed again, in reverse, when a later step fails.
        var undo: [() -> Void] = [{ wasThere ? folder.release() : folder.discardIfEmpty() }]
        do throws(MountError) {
            let catalog: Catalog?
            if wasThere {
                let opened = try Self.openCatalog(folder, for: identity, surroundings)
                undo.append { opened.close() }
                try Self.check(opened, isFor: identity, descriptor, folderPath)
                catalog = opened
            } else {
                catalog = nil
            }
            let isKnown =
                try catalog.map { (catalog) throws(MountError) in try Self.identity(of: catalog) != nil } ?? false

            let chunkMap = MapHolder(path: folder.chunkMapPath)
            let store = try Self.makeStore(
                descriptor, settings, (settings.chunks(in: folder.path, isReadOnly: surroundings.isReadOnly), chunkMap),
                surroundings.statistics)
            let patience = isKnown ? surroundings.patienceForKnown : surroundings.patienceForNew
            let (connection, isOffline) = try Self.connect(store, settings, surroundings, patience, isKnown: isKnown)
            undo.append { connection.close() }

            let opened: Catalog
            if let catalog {
                opened = catalog
            } else {
                opened = try Self.newCatalog(folder.catalogPath, surroundings)
                undo.append { opened.close() }
            }
            if !isKnown { try Self.note(identity, in: opened) }
            if !isOffline { try Self.note(store.capabilities, in: opened) }

            let cache: ContentCache
            do {
                cache = try ContentCache(
                    folder: folder.contentPath, catalog: opened, store: store, limits: settings.cacheLimits,
                    statistics: surroundings.statistics, clock: surroundings.clock)
            } catch {
                throw MountError("the cache folder '\(folder.contentPath)' cannot be used: \(error.message)")
            }
            let synchronizer = Synchronizer(
                catalog: opened, cache: cache, store: store, settings: settings.synchronizer,
                statistics: surroundings.statistics, clock: surroundings.clock, onChange: surroundings.onChange)
            self.init(
                descriptor: descriptor, identity: identity, folder: folder, catalog: opened, cache: cache,
                synchronizer: synchronizer, chunkMap: chunkMap,
                archiveKeeper: ArchiveKeeper(opened, surroundings.statistics, surroundings.logger),
                link: Link(store: store, connection: connection), isOffline: isOffline)
            synchronizer.start()
            archiveKeeper.start { [weak self] in
                guard let self, case .connected = self.connection.phase else { return nil }
                return self.store
            }
            if isOffline {
                // What failed while there was no connection need not wait for its next attempt.
                connection.whenConnected { synchronizer.setStore(store) }
            }
        } catch {
            for step in undo.reversed() { step() }
            throw error
        }
    }

    private init(
        descriptor: StoreDescriptor, identity: String, folder: CacheFolder, catalog: Catalog, cache: ContentCache,
        synchronizer: Synchronizer, chunkMap: MapHolder, archiveKeeper: ArchiveKeeper, link: Link, isOffline: Bool
    ) {
        self.descriptor = descriptor
        self.identity = identity
        self.folder = folder
        self.catalog = catalog
        self.cache = cache
        self.synchronizer = synchronizer
        self.chunkMap = chunkMap
        self.archiveKeeper = archiveKeeper
        current = Lock(link)
        self.isOffline = isOffline
    }
}
