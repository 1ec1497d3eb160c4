import Caching
import Catalog
import Statistics
import StoreAPI
import Synchronizer
import Threading

/// What all parts of a file system share.
final class Surroundings: Sendable {
    let clock: any Clock
    let statistics: Statistics
    let parking: Parking
    let notices = KernelNotices()
    /// For calls that may take their time but are no requests to a store: fsync, control files.
    let pool = WorkerPool(name: "vfs-work", limit: 16)
    private let current: Lock<FileSystemSettings>

    init(settings: FileSystemSettings, statistics: Statistics, clock: any Clock) {
        current = Lock(settings)
        self.statistics = statistics
        self.clock = clock
        parking = Parking(clock: clock)
    }

    var settings: FileSystemSettings {
        get { current.withLock { $0 } }
        set { current.withLock { $0 = newValue } }
    }

    /// Runs `body`, which may wait, on another thread and answers with its result; with `.noDevice` when the mount
    /// ends first.
    func work<Value: Sendable>(
        _ reply: @escaping FileSystem.Reply<Value>, _ body: @escaping @Sendable () -> Result<Value, FileSystemError>
    ) {
        let parked = parking.park(for: nil, late: .failure(.timedOut), ended: .failure(.noDevice), reply)
        pool.submit { parked.answer(body()) }
    }

    func report(_ error: CatalogError) {
        statistics.report(
            kind: "catalog", message: error.message, advice: "Check the disk that holds the cache folder.")
    }
}

/// POSIX semantics over one store: its catalog, its cache and its synchronizer.
///
/// Its operations are those of ``FileSystem``, for inodes of the catalog. They are in extensions by aspect.
final class Volume: Sendable {
    /// How long a caller waits for a listing that would only refresh what is here.
    static let refreshBound = Duration.seconds(5)
    /// How long the kernel may trust what could not be asked of the store.
    static let outdatedTrust = Duration.seconds(1)

    let backing: Backing
    let surroundings: Surroundings
    let numbers: NumberSpace
    let nodes = NodeTable()
    let handles: HandleTable
    let lister: DirectoryLister
    let reader: AttributeReader
    let siblings: SiblingReader
    let space: StoreSpace
    private let storePool: WorkerPool
    /// For those who wait until all below a directory is on the store.
    let remotePool = WorkerPool(name: "vfs-remote", limit: 8)
    /// Forgets inodes that nobody uses any more: deleting a large cache file takes a moment.
    private let reaper = WorkerPool(name: "vfs-reaper", limit: 1)
    private let changes: ChangeSink
    /// How long the kernel was told to trust names, at most.
    private let trustGiven = Lock(Duration.zero)

    var catalog: Catalog { backing.catalog }
    var cache: ContentCache { backing.cache }
    var settings: FileSystemSettings { surroundings.settings }
    var clock: any Clock { surroundings.clock }

    init(_ backing: Backing, numbers: NumberSpace, handles: HandleTable, surroundings: Surroundings) {
        self.backing = backing
        self.numbers = numbers
        self.handles = handles
        self.surroundings = surroundings
        let changes = ChangeSink()
        self.changes = changes
        let storePool = WorkerPool(name: "vfs-store", limit: 8, urgency: .background)
        self.storePool = storePool
        reader = AttributeReader(
            backing: backing, surroundings: surroundings, changed: { changes.changed($0) },
            vanished: { changes.vanished($0) })
        lister = DirectoryLister(
            backing: backing, pool: storePool, surroundings: surroundings, changed: { changes.changed($0) },
            learnMore: { [reader] in reader.readAhead($0) })
        siblings = SiblingReader(backing: backing, surroundings: surroundings)
        space = StoreSpace(store: backing.store, clock: surroundings.clock, pool: storePool)
        changes.volume.withLock { $0 = WeakVolume(self) }
        configure()
        reaper.submit { [self] in reapOrphans() }
    }

    /// The settings are others now.
    func configure() {
        let settings = settings
        catalog.setDefaults(
            AttributeDefaults(
                uid: settings.defaultUID, gid: settings.defaultGID, fileMode: settings.fileMode,
                directoryMode: settings.directoryMode))
        cache.setReadDeadline(settings.requestDeadline)
        let before = trustGiven.withLock { trust in
            defer { trust = settings.metadataLifetime }
            return trust
        }
        if settings.metadataLifetime < before { reaper.submit { [self] in withdrawTrust() } }
    }

    /// The kernel was told to trust names for longer than it is to do now.
    private func withdrawTrust() {
        do {
            for inode in nodes.knownToKernel {
                let names = try catalog.names(of: inode)
                surroundings.notices.send(
                    names.map { .entry(parent: numbers.number($0.parent), name: $0.name.bytes) })
            }
        } catch {
            surroundings.report(error)
        }
    }

    /// Answers all who wait. Requests to the store that are under way are not waited for; what they bring is dropped.
    func shutdown() {
        changes.volume.withLock { $0 = nil }
        lister.shutdown()
        reader.shutdown()
        siblings.shutdown()
        storePool.shutdown()
        remotePool.shutdown()
        reaper.shutdown()
    }

    // MARK: Changes

    /// The namespace changed here: what is to be done on the store may be due.
    func changedHere() { backing.synchronizer.wake() }

    /// The store changed the namespace.
    func changedThere(_ changes: [NamespaceChange]) {
        var notices: [KernelNotices.Notice] = []
        for change in changes {
            switch change {
            case .entry(let parent, let name, let inode):
                // The kernel remembers no names that were not there.
                guard let inode else { continue }
                lostName(inode)
                if parent == .root || nodes.isKnownToKernel(parent) {
                    notices.append(.entry(parent: numbers.number(parent), name: name.bytes))
                }
            case .attributes(let inode):
                if nodes.isKnownToKernel(inode) { notices.append(.attributes(numbers.number(inode))) }
            }
        }
        surroundings.notices.send(notices)
    }

    func vanished(_ path: StorePath) {
        do {
            guard let parent = path.parent, let directory = try catalog.inode(at: parent) else { return }
            try lister.distrust(directory.id)
            lister.refresh(directory.id)
        } catch {
            surroundings.report(error)
        }
    }

    // MARK: Inodes without names

    func lostName(_ inode: InodeID) {
        if nodes.lostName(inode) { reap(inode) }
    }

    func forget(_ inode: InodeID, lookups: UInt64) {
        if nodes.release(inode, lookups: lookups) { reap(inode) }
    }

    func closed(_ inode: InodeID) {
        if nodes.close(inode) { reap(inode) }
    }

    private func reap(_ inode: InodeID) {
        reaper.submit { [self] in reapNow(inode) }
    }

    private func reapNow(_ inode: InodeID) {
        do {
            if try catalog.forget(inode) { cache.discard(inode) }
        } catch {
            // It stays an orphan of the catalog, which the next connection forgets.
            surroundings.report(error)
        }
    }

    /// Those that a crash left behind: nobody can have them open.
    private func reapOrphans() {
        do {
            for inode in try catalog.orphans() where nodes.lostName(inode) { reapNow(inode) }
        } catch {
            surroundings.report(error)
        }
    }

    // MARK: Listings

    /// What a directory's names in the catalog are worth: three outcomes.
    enum Knowledge: Sendable {
        /// The listing is trusted, or came just now (at least the part with the name that was asked for).
        case current
        /// A complete listing, older than it should be; the store cannot be asked.
        case outdated
        /// It could not be found out what there is.
        case unknown(FileSystemError)
    }

    /// How long the names of a directory can still be trusted that was listed then.
    func trust(_ listed: Timestamp?) -> Duration {
        guard let listed else { return .zero }
        let lifetime = settings.metadataLifetime
        if listed.nanoseconds == .max { return lifetime }
        let age = Duration.nanoseconds(clock.calendar.nanoseconds - listed.nanoseconds)
        // A listing of the future: the machine's clock was set back. Nobody knows how old it is.
        guard age >= .zero else { return .zero }
        return max(lifetime - age, .zero)
    }

    /// Whether the names of a directory that was listed then need not be asked for again.
    func isCurrent(_ listed: Timestamp?) -> Bool { listed?.nanoseconds == .max || trust(listed) > .zero }

    /// Finds out what the store has in `directory`, as far as that can be done, and then calls `body` once: at once
    /// where the store has not answered a moment ago, else on another thread.
    ///
    /// - Parameter listed: As of the catalog.
    func refresh(
        _ directory: InodeID, listed: Timestamp?, wanting name: FileName?,
        _ body: @escaping @Sendable (Knowledge) -> Void
    ) {
        let bound = listed == nil ? settings.requestDeadline : min(Self.refreshBound, settings.requestDeadline)
        switch lister.outlook(for: directory) {
        case .failing(let error, let isDown, let isWorthATry):
            if isDown, listed != nil {
                if isWorthATry { lister.refresh(directory) }
                return body(.outdated)
            }
            if !isWorthATry { return body(.unknown(error)) }
        case .good: break
        }
        lister.list(directory, wanting: name, within: bound, needsIt: listed == nil) { [self] outcome in
            switch outcome {
            case .listed, .named: body(.current)
            case .ended: body(.unknown(.noDevice))
            case .late:
                // A large directory takes its time. As long as it comes in, that is no failure.
                if listed == nil, lister.isComing(directory, within: bound) {
                    return refresh(directory, listed: nil, wanting: name, body)
                }
                lister.noteLate(directory, after: bound)
                body(listed == nil ? .unknown(.timedOut) : .outdated)
            case .failed(let error):
                if case .failing(_, isDown: true, _) = lister.outlook(for: directory), listed != nil {
                    body(.outdated)
                } else {
                    body(.unknown(error))
                }
            }
        }
    }

    /// ``refresh(_:listed:wanting:_:)`` when the listing is not trusted.
    func whenListed(_ directory: InodeID, _ body: @escaping @Sendable (Knowledge) -> Void) {
        do {
            let listed = try catalog.listed(of: directory)
            if isCurrent(listed) { return body(.current) }
            refresh(directory, listed: listed, wanting: nil, body)
        } catch {
            body(.unknown(FileSystemError(error)))
        }
    }
}

private struct WeakVolume: Sendable {
    private(set) weak var volume: Volume?
    init(_ volume: Volume) { self.volume = volume }
}

/// Breaks the circle between a volume and its parts, which tell it what they found.
private final class ChangeSink: Sendable {
    let volume = Lock<WeakVolume?>(nil)

    func changed(_ changes: [NamespaceChange]) {
        guard !changes.isEmpty else { return }
        volume.withLock { $0?.volume }?.changedThere(changes)
    }

    func vanished(_ path: StorePath) { volume.withLock { $0?.volume }?.vanished(path) }
}

/// How the catalog's inodes and the kernel's numbers correspond.
///
/// 1 is the root of the mount, 2 the root of the store, which in a flat mount are one. Inodes of the first store that
/// is connected keep their numbers; those of a later one carry its ordinal, so that a file the kernel still remembers
/// of another store is never taken for one of this. The top bit marks what lies on no store.
struct NumberSpace: Sendable {
    static let virtualBit: UInt64 = 1 << 63
    private static let inodeBits: UInt64 = 44

    let isFlat: Bool
    let ordinal: UInt64

    static func storeRoot(isFlat: Bool) -> UInt64 { isFlat ? 1 : InodeID.root.value }

    func number(_ inode: InodeID) -> UInt64 {
        inode == .root ? Self.storeRoot(isFlat: isFlat) : inode.value | ordinal << Self.inodeBits
    }

    /// nil: not one of this store.
    func inode(_ number: UInt64) -> InodeID? {
        if number == Self.storeRoot(isFlat: isFlat) { return .root }
        guard number >> Self.inodeBits == ordinal else { return nil }
        return InodeID(number & (1 << Self.inodeBits - 1))
    }
}
