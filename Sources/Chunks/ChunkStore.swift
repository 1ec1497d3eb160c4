import Glibc
package import StoreAPI
import StoreHTTP
package import Threading

/// How a store packs small files.
package struct ChunkSettings: Sendable {
    /// Files up to so many bytes are packed. nil: nothing new is; what is in chunks stays there.
    package var smallFileLimit: Int64?
    /// Bytes of all files of one chunk together.
    package var maxChunkSize: Int64
    /// How long is believed what was found on the store.
    package var trust: Duration
    /// How long chunks stay that nobody needs any more.
    package var grace: Duration
    /// How old chunks are at least when they are deleted. Whoever asks for the next number within this time has seen each
    /// before it goes; who comes back later looks for gaps.
    package var leastAge: Duration
    /// After how many chunks a snapshot is put beside them; 0: never by itself.
    package var snapshotInterval: Int64
    /// A folder for files without names: a chunk in the making, and chunks that are kept for reading.
    package var folder: String
    /// Bytes of chunks that are kept for reading.
    package var readRoom: Int64
    /// Nobody is to change anything; what waits to be brought to the store is brought there all the same.
    package var isReadOnly: Bool

    package init(
        smallFileLimit: Int64?, maxChunkSize: Int64 = 8_000_000, trust: Duration = .seconds(120),
        grace: Duration = .seconds(3600), leastAge: Duration = .seconds(3600), snapshotInterval: Int64 = 64,
        folder: String, readRoom: Int64? = nil, isReadOnly: Bool = false
    ) {
        self.smallFileLimit = smallFileLimit
        self.maxChunkSize = maxChunkSize
        self.trust = trust
        self.grace = grace
        self.leastAge = leastAge
        self.snapshotInterval = snapshotInterval
        self.folder = folder
        self.readRoom = readRoom ?? 8 * maxChunkSize
        self.isReadOnly = isReadOnly
    }
}

/// A store that packs small files into tar archives on another one, and shows what is in them together with the plain
/// objects beside them.
///
/// The store itself decides which machine's chunk comes next: a chunk's number is taken by conditional creation. Who
/// loses reads the winner's chunk and does its changes again on that. docs/chunk-format.md says what lies on the store.
///
/// Changes are carried out on a ``Draft``; what becomes different by them is packed and put, and only then taken into
/// the map, as a chunk of another machine is. So there is nothing to take back when the store refuses it, and nobody sees
/// what is not on the store. Callers that come while a chunk is on its way share the next one.
///
/// No lock is held while the store is asked.
package final class ChunkStore: Store {
    struct State {
        /// Nothing is packed, and nothing new is to be: all goes to the store as it is.
        var isPassive: Bool
        /// The format file was compared with the map.
        var isVerified = false
        var refreshed: MonotonicTime?
        /// When it was last known which chunk is the newest.
        var known: ClockReading?
        /// The newest snapshot that is known.
        var snapshot: Int64?
        var isMakingSnapshot = false
        var snapshotThread: WorkerThread?
        var isShutDown = false
        /// Something was changed through this store: what is to be put in order is its affair, too.
        var isUsedForChanges = false
    }

    let base: any Store
    let settings: ChunkSettings
    let clock: any Clock
    let map: MapHolder
    let plain: BaseListings
    let reader: ChunkReader
    let plainPuts: PlainPuts
    private let lease: WriterLease
    let state: Lock<State>
    private let requests = Gathering<ChangeRequest, Void>()
    private let refreshes = Gathering<Void, StoreError?>()
    let snapshots = Gathering<Void, StoreError?>()

    package init(_ base: any Store, _ settings: ChunkSettings, map: MapHolder, clock: any Clock = SystemClock()) {
        self.base = base
        var settings = settings
        // What is in chunks is shown all the same.
        if base.capabilities.isReadOnly { settings.smallFileLimit = nil }
        self.settings = settings
        self.clock = clock
        self.map = map
        state = Lock(State(isPassive: settings.smallFileLimit == nil && !map.isThere))
        plain = BaseListings(of: base, trust: settings.trust, clock: clock)
        plainPuts = PlainPuts(clock: clock)
        reader = ChunkReader(of: base, folder: settings.folder, room: settings.readRoom)
        lease = WriterLease(folder: settings.folder, clock: clock)
    }

    package var capabilities: StoreCapabilities {
        let own = base.capabilities
        if isPassive { return own }
        var capabilities = own.subtracting(.realDirectories)
        // Of two machines that replace a version one may not win by the store's own condition alone.
        if !own.contains(.conditionalCreate) { capabilities.features.subtract(.conditionalReplace) }
        guard let limit = settings.smallFileLimit else { return capabilities }
        capabilities.features.formUnion([.emptyDirectories, .formerVersions])
        capabilities.batch = ChangeBatch(changes: 4_000, bytes: settings.maxChunkSize, largestBody: limit)
        capabilities.deleteBatch = max(own.deleteBatch, 4_000)
        return capabilities
    }

    package func connect() throws(StoreError) {
        try base.connect()
        state.withLock { $0.refreshed = nil }
        try refresh()
        guard settings.smallFileLimit != nil, !settings.isReadOnly else { return }
        do throws(StoreError) { try holdLease() } catch {
            // Where nothing can be written at all, what is there can still be read.
            if error.code == .inUse || error.isTransient { throw error }
        }
    }

    // MARK: The right to pack

    /// Makes sure that no other machine makes chunks, where the store cannot decide which of two was first.
    ///
    /// - Throws: ``StoreError``: `.inUse`.
    func holdLease() throws(StoreError) {
        if !base.capabilities.contains(.conditionalCreate) { try lease.hold(on: base) }
    }

    /// Keeps the right to pack, if this store has taken it; to be called every minute or so.
    package func renewLease() throws(StoreError) { try lease.renew(on: base) }

    /// Lets others pack, when nothing is to be changed through this store any more. It is not done by ``shutdown()``:
    /// another one on the same folder may have come in its place, and both have the same right.
    package func releaseLease() throws(StoreError) { try lease.release(on: base) }

    /// Whether all is left to the store below, where nothing is in chunks. Another machine's first chunk ends that.
    var isPassive: Bool { state.withLock { $0.isPassive } }

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        try lookForNews()
        if isPassive { return try base.metadata(of: path) }
        try expectLegal(path)
        if path.isRoot { return try base.metadata(of: path) }
        let packed = try map.use { map throws(ChunkMapError) in try map.node(at: path) }
        guard let found = Overlay(packed: packed, plain: try plain.metadata(of: path)).metadata else {
            throw Self.notFound(path)
        }
        return found
    }

    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        try expectOpen()
        if isPassive { return try base.read(path, request, into: sink) }
        try expectLegal(path)
        var packed = try map.use { map throws(ChunkMapError) in try map.node(at: path) }
        if request.version == nil || packed?.version != request.version {
            try refreshIfStale()
            packed = try map.use { map throws(ChunkMapError) in try map.node(at: path) }
            let seen = Overlay(packed: packed, plain: try plain.metadata(of: path))
            if let version = request.version, seen.metadata?.version != version, let former = try former(version) {
                packed = former
            } else {
                switch seen {
                case .nothing: throw Self.notFound(path)
                case .plain: return try base.read(path, request, into: sink)
                case .packed: break
                }
            }
        }
        guard let packed, packed.kind != .directory else {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        if let version = request.version, version != packed.version { throw StoreError.changed(path, version.text) }
        let (node, bytes) = try contents(of: packed, at: path)
        let range = (request.range ?? 0..<Int64.max).clamped(to: 0..<Int64(bytes.count))
        if !range.isEmpty {
            try bytes.withUnsafeBufferPointer { bytes throws(StoreError) in
                let piece = bytes[Int(range.lowerBound)..<Int(range.upperBound)]
                try sink.write(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: piece)), at: range.lowerBound)
            }
        }
        return node.metadata
    }

    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        try applyOne(.put(body, at: path, options))!
    }

    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        try applyOne(.setAttributes(attributes, at: path, ifVersion: version))!
    }

    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        _ = try applyOne(.createDirectory(path, attributes))
    }

    package func delete(_ deletions: [Deletion]) -> [StoreError?] {
        if isPassive { return base.delete(deletions) }
        return apply(deletions.map { .delete($0.path, ifVersion: $0.version) }).map { result -> StoreError? in
            if case .failure(let error) = result { error } else { nil }
        }
    }

    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        _ = try applyOne(.move(source, to: destination))
    }

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        try applyOne(.copy(source, to: destination, options))!
    }

    package func apply(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>] {
        guard !changes.isEmpty else { return [] }
        if isPassive { return base.apply(changes) }
        state.withLock { $0.isUsedForChanges = true }
        var results: [Result<Metadata?, StoreError>] = []
        var rest = changes[...]
        while let change = rest.first {
            if case .put(let body, at: let path, let options) = change, isPlain(body, path, options) {
                results.append(Result { () throws(StoreError) in try putPlain(body, at: path, options) })
                rest.removeFirst()
                continue
            }
            let packed = rest.prefix {
                if case .put(let body, at: let path, let options) = $0 { !isPlain(body, path, options) } else { true }
            }
            let request = ChangeRequest(packed.map { .change($0) })
            perform(request)
            results += request.results
            rest = rest.dropFirst(packed.count)
            // A later change may take away what an earlier one was to keep.
            if let failure = request.failure { return results + rest.map { _ in .failure(failure) } }
        }
        return results
    }

    /// Waits until it is done, alone or together with what others ask for at the same time.
    func perform(_ request: ChangeRequest) { requests.perform(request) { [self] requests in perform(requests) } }

    private func applyOne(_ change: StoreChange) throws(StoreError) -> Metadata? { try apply([change])[0].get() }

    package func spaceUsage() throws(StoreError) -> SpaceUsage {
        try expectOpen()
        return try base.spaceUsage()
    }

    package func accountInformation() throws(StoreError) -> [AccountField] {
        try expectOpen()
        return try base.accountInformation()
    }

    package func tune(_ tuning: StoreTuning) { base.tune(tuning) }

    /// How long is believed what was found on the store, from now on.
    package func trust(for lifetime: Duration) { plain.lifetime.withLock { $0 = lifetime } }

    package func reconnect() { base.reconnect() }

    package func shutdown() {
        let thread = state.withLock { state in
            state.isShutDown = true
            defer { state.snapshotThread = nil }
            return state.snapshotThread
        }
        reader.shutdown()
        base.shutdown()
        thread?.join()
    }
}

/// The head of a chunk that a thread fetches.
private final class FetchedHead: Sendable {
    let result = Lock<Result<ChunkHead, StoreError>?>(nil)
}

/// What is seen at a path where chunks and the store both may have something.
///
/// A plain object wins over a member, unless it is the version that the member was packed to stand in for and which is
/// about to be deleted. Two directories are one.
enum Overlay {
    case nothing
    case packed(PackedNode)
    case plain(Metadata)

    init(packed: PackedNode?, plain: Metadata?) {
        switch (packed, plain) {
        case (nil, nil): self = .nothing
        case (let packed?, nil): self = .packed(packed)
        case (nil, let plain?): self = .plain(plain)
        case (var packed?, let plain?):
            if packed.kind == .directory, plain.kind == .directory {
                if packed.attributes == Attributes() { packed.attributes = plain.attributes ?? Attributes() }
                self = .packed(packed)
            } else if packed.replaces != nil, packed.replaces == plain.version {
                self = .packed(packed)
            } else {
                self = .plain(plain)
            }
        }
    }

    var metadata: Metadata? {
        switch self {
        case .nothing: nil
        case .packed(let node): node.metadata
        case .plain(let metadata): metadata
        }
    }
}

// MARK: - Listing

extension ChunkStore {
    private static let pageSize = 1_000

    /// First comes what the store itself lists, then what is in chunks only. A cursor tells which of the two it goes on
    /// with, the names that were shown and are in chunks too, and where.
    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        if cursor == nil { try lookForNews() } else { try expectOpen() }
        if isPassive { return try base.list(directory, after: cursor) }
        try expectLegal(directory)
        var place = try ListPlace(cursor)
        let packed = try map.use { map throws(ChunkMapError) in try map.node(at: directory) }
        var page = ListPage(entries: [])
        if !place.isInMap {
            let object = directory.isRoot ? nil : try plain.entry(at: directory)
            if case .packed(let node) = Overlay(packed: packed, plain: object), node.kind != .directory {
                throw StoreError(.notADirectory, "'\(directory)' is not a directory", path: directory)
            }
            if let object, object.kind != .directory {
                throw StoreError(.notADirectory, "'\(directory)' is not a directory", path: directory)
            }
            if directory.isRoot || object != nil,
                let own = try plain.page(of: directory, after: place.position.map { ListCursor($0) })
            {
                page.refusedNames = own.refusedNames
                let hidden = try map.use { map throws(ChunkMapError) in
                    let id = try map.id(of: directory)
                    var hidden: [StorePath] = []
                    for entry in own.entries {
                        let member = try id.flatMap { id throws(ChunkMapError) in try map.node(entry.name, in: id) }
                        if member != nil { place.shown.insert(entry.name) }
                        let seen = Overlay(packed: member, plain: entry.metadata)
                        page.entries.append(ListEntry(name: entry.name, metadata: seen.metadata!))
                        if case .plain = seen, let member, member.kind != .directory, entry.metadata.kind != .directory
                        {
                            hidden.append(directory.appending(entry.name))
                        }
                    }
                    return hidden
                }
                if !hidden.isEmpty, state.withLock({ $0.isUsedForChanges }) {
                    plainPuts.noteHidden(hidden)
                    try lookForNews()
                }
                if let next = own.next {
                    place.position = next.text
                    page.next = place.cursor
                    return page
                }
            }
            place.isInMap = true
            place.position = nil
            // What is left of the page.
            guard page.entries.count < Self.pageSize else {
                page.next = place.cursor
                return page
            }
        }
        let children = try map.use { map throws(ChunkMapError) in
            guard let id = try map.id(of: directory) else { return [(name: FileName, node: PackedNode)]() }
            return try map.children(of: id, after: place.name, limit: Self.pageSize)
        }
        for child in children where !place.shown.contains(child.name) {
            page.entries.append(ListEntry(name: child.name, metadata: child.node.metadata))
        }
        if children.count == Self.pageSize {
            place.position = hexadecimal(children.last!.name.bytes)
            page.next = place.cursor
        }
        return page
    }
}

/// Where a listing goes on.
private struct ListPlace {
    var isInMap = false
    var shown: Set<FileName> = []
    /// The store's own cursor, or the last name of the map in hexadecimal digits.
    var position: String?

    init(_ cursor: ListCursor?) throws(StoreError) {
        guard let cursor else { return }
        let parts = cursor.text.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == "map" || parts[0] == "store" else {
            throw StoreError(.invalidArgument, "'\(cursor.text)' is no cursor of this store")
        }
        isInMap = parts[0] == "map"
        shown = Set(parts[1].split(separator: ",").compactMap { FileName(Self.bytes($0)) })
        position = parts[2].isEmpty ? nil : String(parts[2])
    }

    var cursor: ListCursor {
        let names = shown.map { hexadecimal($0.bytes) }.joined(separator: ",")
        return ListCursor("\(isInMap ? "map" : "store"):\(names):\(position ?? "")")
    }

    var name: [UInt8]? { isInMap ? position.map { Self.bytes($0[...]) } : nil }

    private static func bytes(_ digits: Substring) -> [UInt8] {
        let digits = Array(digits.utf8)
        return stride(from: 0, to: digits.count - 1, by: 2).map { position in
            UInt8(String(decoding: digits[position...(position + 1)], as: UTF8.self), radix: 16) ?? 0
        }
    }
}

// MARK: - Helpers

extension ChunkStore {
    static func notFound(_ path: StorePath) -> StoreError {
        StoreError(.notFound, "there is no '\(path)' in the store", path: path)
    }

    func expectOpen() throws(StoreError) {
        if state.withLock({ $0.isShutDown }) { throw StoreError(.cancelled, "the store is shut down") }
    }

    /// What is CloudFusion's own is not shown, and what could not be on the store is refused.
    func expectLegal(_ path: StorePath) throws(StoreError) {
        if path.isInside(.control) { throw Self.notFound(path) }
    }

    /// A file as it was in a version that nothing has any more, as long as the chunk is there in which it came: one that
    /// others have replaced or removed is still whole for those who had moved it before, or are reading it.
    func former(_ version: Version) throws(StoreError) -> PackedNode? {
        guard let sequence = version.chunk else { return nil }
        let (isKnown, volume) = try map.use { map throws(ChunkMapError) in
            (try map.chunk(sequence) != nil, try map.volume)
        }
        guard isKnown, let volume else { return nil }
        do throws(StoreError) {
            let index = try readHead(sequence, of: volume).index
            return index.members.first { $0.version == version && $0.kind == .file }
                .map { PackedNode($0, in: sequence, created: index.created) }
        } catch {
            guard error.code == .notFound else { throw error }
            return nil
        }
    }

    /// All bytes of a packed file, from where they lie now.
    func contents(of node: PackedNode, at path: StorePath) throws(StoreError) -> (PackedNode, [UInt8]) {
        if let target = node.target { return (node, target) }
        var node = node
        for isLast in [false, true] {
            guard let bytes = node.bytes else { return (node, []) }
            let (chunk, volume) = try map.use { map throws(ChunkMapError) in
                (try map.chunk(bytes.chunk), try map.volume)
            }
            do throws(StoreError) {
                guard let chunk, let volume else {
                    throw StoreError(.notFound, "chunk \(bytes.chunk) is gone", path: path)
                }
                let map = map
                let found = try reader.read(bytes, in: chunk, of: volume) {
                    try? map.use { map throws(ChunkMapError) in try map.chunk(after: chunk.sequence) }
                }
                return (node, found)
            } catch {
                guard error.code == .notFound, !isLast else {
                    guard error.code == .notFound else { throw error }
                    throw StoreError(
                        .corrupted, "the bytes of '\(path)' are in chunk \(bytes.chunk), which is gone", path: path)
                }
                // Another machine has packed it anew, and deleted the chunk since.
                state.withLock { $0.refreshed = nil }
                try refresh()
                guard let now = try map.use({ map throws(ChunkMapError) in try map.node(at: path) }),
                    now.version == node.version
                else { throw StoreError(.preconditionFailed, "'\(path)' is no longer what it was", path: path) }
                node = now
            }
        }
        throw Self.notFound(path)
    }
}

// MARK: - What others do

extension ChunkStore {
    func refreshIfStale() throws(StoreError) {
        try expectOpen()
        let (refreshed, now) = (state.withLock { $0.refreshed }, clock.monotonic)
        if let refreshed, now - refreshed < min(plain.lifetime.withLock({ $0 }), settings.leastAge) { return }
        try refresh()
    }

    /// Takes in all chunks that others have made.
    func refresh() throws(StoreError) {
        let failure = refreshes.perform(()) { [self] _ -> StoreError? in
            do throws(StoreError) {
                try takeNews()
                return nil
            } catch { return error }
        }
        if let failure { throw failure }
    }

    private func takeNews() throws(StoreError) {
        try expectOpen()
        let (begun, now) = (clock.monotonic, ClockReading(clock))
        let (isVerified, known) = state.withLock { ($0.isVerified, $0.known) }
        if !isVerified {
            let found = try storedVolume()
            let isPassive = found == nil && settings.smallFileLimit == nil && !map.isThere
            state.withLock {
                $0.isPassive = isPassive
                if isPassive { $0.refreshed = begun }
            }
            if isPassive { return }
            try map.use { map throws(ChunkMapError) in
                if try map.volume != found { try map.begin(volume: found) }
            }
            // Where there is no format yet, somebody may be about to make it.
            state.withLock { $0.isVerified = found != nil }
        }
        if let volume = try map.use({ map throws(ChunkMapError) in try map.volume }) {
            // Chunks that came and went since cannot be told from chunks that are still to come.
            if known?.isWithin(settings.leastAge, of: clock) != true { try rebuildIfGap(volume) }
            while try takeNext(volume) {}
        }
        state.withLock {
            $0.refreshed = begun
            $0.known = now
        }
        plainPuts.newsWereTaken()
    }

    /// - Returns: Whether there was another chunk.
    private func takeNext(_ volume: String) throws(StoreError) -> Bool {
        let next = try map.use { map throws(ChunkMapError) in try map.applied + 1 }
        let head: ChunkHead
        do throws(StoreError) { head = try readHead(next, of: volume) } catch {
            if error.code == .notFound { return false }
            throw error
        }
        try take(head)
        return true
    }

    func readHead(_ sequence: Int64, of volume: String) throws(StoreError) -> ChunkHead {
        let head = try ChunkHead.read(ChunkPaths.chunk(sequence, volume: volume), of: base)
        guard head.index.sequence == sequence, head.index.volume == volume else {
            throw ChunkIndex.nonsense("chunk \(sequence) says that it is \(head.index.sequence)")
        }
        return head
    }

    /// Takes a chunk into the map, unless that was done meanwhile.
    func take(_ head: ChunkHead) throws(StoreError) {
        try map.use { map throws(ChunkMapError) in
            guard try map.applied + 1 == head.index.sequence else { return }
            try map.apply(head, now: clock.calendar)
        }
        plainPuts.compare(with: head.index)
    }

    /// The chunks that are on the store, by number.
    func storedChunks(of volume: String) throws(StoreError) -> [Int64] {
        var found: [Int64] = []
        do throws(StoreError) {
            try base.forEachPage(of: ChunkPaths.chunks) { (page: ListPage) throws(StoreError) in
                found += page.entries.compactMap { ChunkPaths.sequence(ofChunk: $0.name, volume: volume) }
            }
        } catch {
            guard error.code == .notFound else { throw error }
        }
        return found.sorted()
    }

    /// Makes the map anew where it is empty and there is much, or where chunks between it and the newest one are gone.
    private func rebuildIfGap(_ volume: String) throws(StoreError) {
        let applied = try map.use { map throws(ChunkMapError) in try map.applied }
        let sequences = try storedChunks(of: volume)
        let later = sequences.filter { $0 > applied }
        guard let newest = later.last else { return }
        let snapshots = try storedSnapshots()
        state.withLock { $0.snapshot = snapshots.last }
        let isFarBehind = applied == 0 && newest > 1
        guard newest - applied != later.count || isFarBehind else { return }
        try map.replace { path throws(StoreError) in
            var start: Int64 = 0
            // What a chunk has removed that is gone may be in an older snapshot.
            let whole = snapshots.filter { snapshot in
                snapshot >= newest || sequences.count { $0 > snapshot } == newest - snapshot
            }
            for snapshot in whole.reversed() {
                do throws(StoreError) {
                    try fetchSnapshot(snapshot, of: volume, to: path)
                    start = snapshot
                    break
                } catch {
                    // An older one, or the chunks themselves, tell the same.
                    guard error.code == .corrupted || error.code == .notFound else { throw error }
                    MapHolder.remove(path)
                }
            }
            let new = MapHolder(path: path)
            if start == 0 { try new.use { map throws(ChunkMapError) in try map.begin(volume: volume) } }
            try forEachHead(of: sequences.filter { $0 > start }, volume) { head throws(StoreError) in
                try new.use { map throws(ChunkMapError) in try map.apply(head, now: clock.calendar) }
            }
        }
    }

    private static let headsAtOnce = 8

    /// Reads the heads of chunks, several at a time.
    private func forEachHead(
        of sequences: [Int64], _ volume: String, _ body: (ChunkHead) throws(StoreError) -> Void
    ) throws(StoreError) {
        for start in stride(from: 0, to: sequences.count, by: Self.headsAtOnce) {
            let heads = sequences[start..<min(start + Self.headsAtOnce, sequences.count)].map { sequence in
                let head = FetchedHead()
                let thread = WorkerThread(name: "chunk head", urgency: .foreground) { [self] in
                    let result = Result { () throws(StoreError) in try readHead(sequence, of: volume) }
                    head.result.withLock { $0 = result }
                }
                return (head, thread)
            }
            for (_, thread) in heads { thread.join() }
            for (head, _) in heads { try body(try head.result.withLock { $0 }!.get()) }
        }
    }

    // MARK: The format

    /// The volume on the store; nil where nothing was packed yet.
    private func storedVolume() throws(StoreError) -> String? {
        let sink = MemorySink()
        do throws(StoreError) { _ = try base.read(ChunkPaths.format, ReadRequest(range: 0..<4096), into: sink) } catch {
            switch error.code {
            case .notFound: return nil
            // Many a web server keeps names that begin with a dot to itself. Nothing is written over them there.
            case .accessDenied where base.capabilities.isReadOnly: return nil
            default: throw error
            }
        }
        return try VolumeFormat(sink.bytes).volume
    }

    /// The volume, which is made where nothing was packed yet.
    func volume() throws(StoreError) -> String {
        if let volume = try map.use({ map throws(ChunkMapError) in try map.volume }) { return volume }
        try holdLease()
        let made = VolumeFormat(volume: VolumeFormat.newName())
        do throws(StoreError) {
            let condition: WriteCondition = base.capabilities.contains(.conditionalCreate) ? .ifAbsent : .always
            _ = try base.put(UploadBody(made.bytes), at: ChunkPaths.format, PutOptions(condition: condition))
        } catch {
            // Made by somebody else, or by us without the answer coming back.
            guard error.code == .preconditionFailed || error.isTransient else { throw error }
        }
        guard let volume = try storedVolume() else {
            throw StoreError(.unavailable, "'\(ChunkPaths.format)' was written and is not there")
        }
        try map.use { map throws(ChunkMapError) in
            if try map.volume == nil { try map.begin(volume: volume) }
        }
        state.withLock { $0.isVerified = true }
        return volume
    }
}
