package import Caching
package import Catalog
package import Statistics
package import StoreAPI
package import Synchronizer
package import Threading

/// Why an operation failed, in the terms that POSIX has for it. `FUSEAdapter` has the one table to errno.
package enum FileSystemError: Error, Hashable, Sendable {
    case notFound, exists, notADirectory, isADirectory, notEmpty, invalid, notPermitted, accessDenied
    case noSuchAttribute, nameTooLong, tooManyLinks, badHandle, noSpace, quotaExceeded, tooLarge, readOnly
    case unsupported, timedOut, inputOutput, stale, busy, noDevice, outOfRange, crossDevice, interrupted, loop
    /// A cache file's system call failed with this errno.
    case system(Int32)
}

/// What `lookup` and its kin answer.
package struct Entry: Sendable {
    /// The number that the kernel sees.
    package var number: UInt64
    package var attributes: InodeRecord
    /// How long the kernel may trust the name and the attributes.
    package var entryTimeout: Duration
    package var attributeTimeout: Duration
}

package struct HandleID: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}

/// An open file: how the kernel should treat it.
package struct OpenFile: Sendable {
    package var handle: HandleID
    /// The page cache of the last open is still right.
    package var keepCache: Bool
    /// No page cache at all: control files, whose size is not known.
    package var directIO: Bool
}

/// Who asks.
package struct Caller: Hashable, Sendable {
    package var uid: UInt32
    package var gid: UInt32
    package var pid: Int32
    package init(uid: UInt32, gid: UInt32, pid: Int32) {
        self.uid = uid
        self.gid = gid
        self.pid = pid
    }
}

/// setattr(2) in all its forms; nil leaves one as it is.
package struct SetAttributes: Sendable {
    package enum Time: Hashable, Sendable { case now, at(Timestamp) }
    package var mode: UInt32?
    package var uid: UInt32?
    package var gid: UInt32?
    package var size: Int64?
    package var accessed: Time?
    package var modified: Time?
    package var changed: Timestamp?
    package init() {}
}

/// One line of a directory for the kernel.
package struct ListedEntry: Sendable {
    package var name: [UInt8]
    /// Offset at which the next reading goes on.
    package var cookie: Int64
    package var number: UInt64
    package var kind: FileKind
    /// For readdirplus: counts as a lookup. nil: the attributes are not known yet.
    package var entry: Entry?
}

/// Space of the whole file system, for statfs, in bytes.
package struct FileSystemSpace: Sendable {
    package var total: Int64
    package var free: Int64
    package var files: Int64
}

/// Tells the kernel that what it has cached is not right any more. Called from `FileSystem`'s own thread, never from
/// one that answers a request.
package protocol KernelNotifier: AnyObject, Sendable {
    func invalidateEntry(parent: UInt64, name: [UInt8])
    func invalidateAttributes(of number: UInt64)
    /// Returns when the kernel has sent all that was written to the file; it keeps none of its bytes.
    func writeBack(_ number: UInt64)
}

/// A caller who can be interrupted while it waits.
package protocol Interruptible: Sendable {
    /// Has `body` called, on any thread, when a signal for the caller comes; at once if one has come. `body` does not
    /// answer the caller itself, but lets another thread do that. Call it before anybody can answer.
    func whenInterrupted(_ body: @escaping @Sendable () -> Void)
}

/// Settings of the file system that may change while it is mounted.
package struct FileSystemSettings: Sendable {
    /// How long a listing is trusted.
    package var metadataLifetime: Duration
    /// How long a caller waits for the store before it gets an error.
    package var requestDeadline: Duration
    /// Also where the store can be changed.
    package var isReadOnly: Bool
    /// For files in directories of which none says anything else: see ``Durability/attribute``.
    package var durability: Durability
    /// Shown for files whose store keeps no owner and mode: those of the mount's options, else of who mounted.
    package var defaultUID: UInt32
    package var defaultGID: UInt32
    package var fileMode: UInt32
    package var directoryMode: UInt32
    package init(
        metadataLifetime: Duration = .seconds(120), requestDeadline: Duration = .seconds(60), isReadOnly: Bool = false,
        durability: Durability = .local, defaultUID: UInt32 = 0, defaultGID: UInt32 = 0, fileMode: UInt32 = 0o644,
        directoryMode: UInt32 = 0o755
    ) {
        self.metadataLifetime = metadataLifetime
        self.requestDeadline = requestDeadline
        self.isReadOnly = isReadOnly
        self.durability = durability
        self.defaultUID = defaultUID
        self.defaultGID = defaultGID
        self.fileMode = fileMode
        self.directoryMode = directoryMode
    }
}

/// A file of the control directories.
package struct VirtualFile: Sendable {
    package var name: String
    /// 0o600 for those with settings, 0o644 or 0o444 else.
    package var mode: UInt32
    /// The content now; called when the file is opened. Must not wait for a store.
    package var read: @Sendable () -> [UInt8]
    /// Takes what was written when the file is closed; may wait (the caller of close waits with it). nil: read-only.
    package var write: (@Sendable ([UInt8]) -> Result<Void, FileSystemError>)?
    /// What removing the file does; nil: it cannot be removed.
    package var remove: (@Sendable () -> Result<Void, FileSystemError>)?
    /// What is written is a command and not a new version of what is read: a writer begins with nothing, also
    /// without O_TRUNC.
    package var takesCommands: Bool
    package init(
        name: String, mode: UInt32, takesCommands: Bool = false, read: @escaping @Sendable () -> [UInt8],
        write: (@Sendable ([UInt8]) -> Result<Void, FileSystemError>)? = nil,
        remove: (@Sendable () -> Result<Void, FileSystemError>)? = nil
    ) {
        self.name = name
        self.mode = mode
        self.takesCommands = takesCommands
        self.read = read
        self.write = write
        self.remove = remove
    }
}

/// A directory of control files.
package struct VirtualDirectory: Sendable {
    package var name: String
    package var files: [VirtualFile]
    package init(name: String, files: [VirtualFile]) {
        self.name = name
        self.files = files
    }
}

/// The parts that stand behind `data/`, when a store is connected.
package struct Backing: Sendable {
    package var catalog: Catalog
    package var cache: ContentCache
    package var synchronizer: Synchronizer
    package var store: any Store
    package init(catalog: Catalog, cache: ContentCache, synchronizer: Synchronizer, store: any Store) {
        self.catalog = catalog
        self.cache = cache
        self.synchronizer = synchronizer
        self.store = store
    }
}

/// POSIX semantics over catalog and cache, without FUSE: every operation of the low-level interface, by inode number.
///
/// Operations may be called from any thread, many at a time. Each calls its `reply` exactly once: on the calling
/// thread before it returns when the catalog and the cache have the answer, else later on another thread; the
/// calling thread never waits for a store.
///
/// This class decides what a number stands for, once per operation: ``Volume`` has the operations for what lies on
/// the store, ``VirtualTree`` for the control files.
///
/// Lock order: the state's lock is a leaf.
package final class FileSystem: Sendable {
    package typealias Reply<Value> = @Sendable (Result<Value, FileSystemError>) -> Void

    /// What a number stands for.
    enum Place {
        case stored(Volume, InodeID)
        case virtual(VirtualTree.ID)
        /// Where a store's root will be, when one is connected.
        case noStore
        /// A file of a store that is not connected any more.
        case gone
    }

    private struct State {
        var volume: Volume?
        /// How many catalogs have been connected before the current one.
        var ordinal: UInt64 = 0
        var lastCatalog: Catalog?
    }

    let surroundings: Surroundings
    let tree: VirtualTree
    let handles = HandleTable()
    let isFlat: Bool
    private let state = Lock(State())

    /// - Parameters:
    ///   - isFlat: the store is the root and `virtual` is in the hidden `.cloudfusion`; else the root holds `data`
    ///     and the virtual directories.
    package init(
        virtual: [VirtualDirectory], isFlat: Bool, settings: FileSystemSettings, statistics: Statistics,
        clock: any Clock
    ) {
        let surroundings = Surroundings(settings: settings, statistics: statistics, clock: clock)
        self.surroundings = surroundings
        self.isFlat = isFlat
        tree = VirtualTree(virtual, isFlat: isFlat, surroundings: surroundings)
    }

    /// Connects (or with nil disconnects) what stands behind `data/`; the old one is drained by the caller before.
    package func setBacking(_ backing: Backing?) {
        let ordinal = state.withLock { state in
            if let backing, let last = state.lastCatalog, last !== backing.catalog { state.ordinal += 1 }
            if let backing { state.lastCatalog = backing.catalog }
            return state.ordinal
        }
        let new = backing.map {
            Volume(
                $0, numbers: NumberSpace(isFlat: isFlat, ordinal: ordinal), handles: handles,
                surroundings: surroundings)
        }
        let old = state.withLock { state in
            defer { state.volume = new }
            return state.volume
        }
        if let old { retire(old) }
        surroundings.notices.send([.attributes(NumberSpace.storeRoot(isFlat: isFlat))])
    }

    private func retire(_ volume: Volume) {
        volume.shutdown()
        for file in handles.lose(volume) { file.content.close() }
    }

    package func configure(_ settings: FileSystemSettings) {
        surroundings.settings = settings
        volume?.configure()
    }

    package func setNotifier(_ notifier: (any KernelNotifier)?) { surroundings.notices.setNotifier(notifier) }

    /// The store (or a listing of it) changed the namespace: the kernel is told.
    package func namespaceChanged(_ changes: [NamespaceChange]) { volume?.changedThere(changes) }

    /// Saves everything that is only in memory; for the end of the mount.
    package func saveAll() {
        for file in handles.files {
            do { try file.content.save() } catch {
                surroundings.statistics.report(
                    kind: "cache", message: "a file that is open could not be saved: \(error)",
                    advice: "Check the disk that holds the cache folder.")
            }
        }
    }

    /// Answers all requests that wait with `.noDevice` and ends the threads. Requests to the store that are under
    /// way are not waited for.
    package func shutdown() {
        surroundings.notices.shutdown()
        let volume = state.withLock { state in
            defer { state.volume = nil }
            return state.volume
        }
        if let volume { retire(volume) }
        surroundings.parking.shutdown()
        surroundings.pool.shutdown()
    }

    var volume: Volume? { state.withLock { $0.volume } }

    func place(_ number: UInt64) -> Place {
        if number & NumberSpace.virtualBit != 0 {
            return .virtual(VirtualTree.ID(index: number & ~NumberSpace.virtualBit))
        }
        if number == 1, !isFlat { return .virtual(.mountRoot) }
        guard let volume else { return number == NumberSpace.storeRoot(isFlat: isFlat) ? .noStore : .gone }
        guard let inode = volume.numbers.inode(number) else { return .gone }
        return .stored(volume, inode)
    }

    /// The directory that stands where the store's root will be.
    var emptyRoot: Entry {
        let settings = surroundings.settings
        let started = surroundings.statistics.started
        let number = NumberSpace.storeRoot(isFlat: isFlat)
        let record = InodeRecord(
            id: InodeID(number), kind: .directory, mode: 0o555, uid: settings.defaultUID, gid: settings.defaultGID,
            links: 2, accessed: started, modified: started, changed: started, created: started)
        return Entry(number: number, attributes: record, entryTimeout: .zero, attributeTimeout: .zero)
    }
}
