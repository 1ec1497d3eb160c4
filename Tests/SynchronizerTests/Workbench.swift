import Caching
import Catalog
import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import Synchronizer

/// A store that can do less than the one inside, and that tells a test when it is about to write.
final class NarrowStore: StoreWrapper {
    let inner: any Store
    let capabilities: StoreCapabilities
    private let hooks = Lock(Hooks())

    struct Hooks {
        var beforePut: (@Sendable (StorePath, UploadBody) -> Void)?
        var afterPut: (@Sendable (StorePath) -> Void)?
        var afterLostMove: (@Sendable () -> Void)?
        var puts: [StorePath] = []
        var deletions: [[StorePath]] = []
        var batches: [Int] = []
        var mostAtOnce: [StorePath: Int] = [:]
        var atOnce: [StorePath: Int] = [:]
    }

    init(
        _ inner: any Store, without features: StoreCapabilities.Features = [],
        _ change: (inout StoreCapabilities) -> Void = { _ in }
    ) {
        self.inner = inner
        var capabilities = inner.capabilities.subtracting(features)
        change(&capabilities)
        self.capabilities = capabilities
    }

    func beforePut(_ body: (@Sendable (StorePath, UploadBody) -> Void)?) { hooks.withLock { $0.beforePut = body } }
    func afterPut(_ body: (@Sendable (StorePath) -> Void)?) { hooks.withLock { $0.afterPut = body } }
    /// The next move is carried out, its answer gets lost, and then `body` is run.
    func loseNextMove(_ body: @escaping @Sendable () -> Void) { hooks.withLock { $0.afterLostMove = body } }
    var puts: [StorePath] { hooks.withLock { $0.puts } }
    var deletions: [[StorePath]] { hooks.withLock { $0.deletions } }
    /// How many changes came at once.
    var batches: [Int] { hooks.withLock { $0.batches } }
    var mostAtOnce: Int { hooks.withLock { $0.mostAtOnce.values.max() ?? 0 } }

    func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        let before = hooks.withLock { hooks in
            hooks.puts.append(path)
            hooks.atOnce[path, default: 0] += 1
            hooks.mostAtOnce[path] = max(hooks.mostAtOnce[path] ?? 0, hooks.atOnce[path]!)
            return hooks.beforePut
        }
        before?(path, body)
        defer { hooks.withLock { $0.atOnce[path]! -= 1 } }
        var options = options
        // As stores do that cannot check conditions.
        if case .ifAbsent = options.condition, !capabilities.contains(.conditionalCreate) {
            options.condition = .always
        }
        if case .ifVersion = options.condition, !capabilities.contains(.conditionalReplace) {
            options.condition = .always
        }
        let metadata = try inner.put(body, at: path, options)
        hooks.withLock { $0.afterPut }?(path)
        return metadata
    }

    func apply(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>] {
        hooks.withLock { $0.batches.append(changes.count) }
        return applyEach(changes)
    }

    func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError) -> Metadata {
        guard capabilities.contains(.serverSideCopy) else { throw StoreError(.unsupported, "no copy") }
        return try inner.copy(source, to: destination, options)
    }

    func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        let isDirectory = try inner.metadata(of: source).kind == .directory
        guard capabilities.contains(isDirectory ? .directoryMove : .atomicMove) else {
            throw StoreError(.unsupported, "no move")
        }
        try inner.move(source, to: destination)
        let lost = hooks.withLock { hooks in
            defer { hooks.afterLostMove = nil }
            return hooks.afterLostMove
        }
        guard let lost else { return }
        lost()
        throw StoreError(.unavailable, "the connection broke", path: source)
    }

    func delete(_ deletions: [Deletion]) -> [StoreError?] {
        hooks.withLock { $0.deletions.append(deletions.map(\.path)) }
        return inner.delete(deletions)
    }
}

extension ChangeBatch {
    /// What a test fills quickly.
    static let small = ChangeBatch(changes: 1_000, bytes: 1 << 20, largestBody: 4_096)
}

/// A catalog, a cache, a store in memory that fails on demand, and a synchronizer between them.
final class Workbench {
    let folder: String
    let clock: any Clock
    let memory: MemoryStore
    let faults: FaultyStore
    let store: NarrowStore
    let statistics: Statistics
    private(set) var catalog: Catalog
    private(set) var cache: ContentCache
    private(set) var synchronizer: Synchronizer
    let changes = ChangeList()
    var settings: SynchronizerSettings

    final class ChangeList: Sendable {
        let all = Lock<[NamespaceChange]>([])
    }

    init(
        without features: StoreCapabilities.Features = [], realDirectories: Bool = true, delay: Duration = .zero,
        deadline: Duration = .seconds(300), maximumWorkers: Int = 8, clock: any Clock = SystemClock(),
        limits: CacheLimits = CacheLimits(soft: 1 << 30, hard: 2 << 30, freeSpaceFloor: 0),
        _ change: (inout StoreCapabilities) -> Void = { _ in }
    ) throws {
        var template = Array("/tmp/synchronizer-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw StoreError(.internal, "no temporary folder") }
        folder = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        self.clock = clock
        statistics = Statistics(clock: clock)
        memory = MemoryStore(hasRealDirectories: realDirectories)
        faults = FaultyStore(memory)
        store = NarrowStore(faults, without: features, change)
        settings = SynchronizerSettings(
            delay: delay, deadline: deadline, minimumWorkers: 2, maximumWorkers: maximumWorkers)
        catalog = try Catalog(path: folder + "/catalog", clock: clock)
        cache = try ContentCache(
            folder: folder + "/cache", catalog: catalog, store: store, limits: limits, statistics: statistics,
            clock: clock)
        try catalog.setCapabilities(store.capabilities)
        synchronizer = Self.make(catalog, cache, store, settings, statistics, clock, changes)
        self.limits = limits
    }
    private let limits: CacheLimits

    private static func make(
        _ catalog: Catalog, _ cache: ContentCache, _ store: any Store, _ settings: SynchronizerSettings,
        _ statistics: Statistics, _ clock: any Clock, _ changes: ChangeList
    ) -> Synchronizer {
        Synchronizer(
            catalog: catalog, cache: cache, store: store, settings: settings, statistics: statistics, clock: clock,
            onChange: { [changes] list in changes.all.withLock { $0 += list } })
    }

    /// Ends everything and begins anew from what is on the disk, as a restart does.
    func restart() throws {
        synchronizer.stop()
        cache.shutdown()
        catalog.close()
        catalog = try Catalog(path: folder + "/catalog", clock: clock)
        try catalog.setCapabilities(store.capabilities)
        cache = try ContentCache(
            folder: folder + "/cache", catalog: catalog, store: store, limits: limits, statistics: statistics,
            clock: clock)
        synchronizer = Self.make(catalog, cache, store, settings, statistics, clock, changes)
    }

    deinit {
        synchronizer.stop()
        cache.shutdown()
        catalog.close()
        remove(folder)
    }

    private func remove(_ path: String) {
        if let directory = opendir(path) {
            while let entry = readdir(directory) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if name != ".", name != ".." { remove(path + "/" + name) }
            }
            closedir(directory)
            rmdir(path)
        } else {
            unlink(path)
        }
    }

    // MARK: What users do

    func parent(_ path: String) throws -> (parent: InodeID, name: FileName) {
        let path = StorePath(path)!
        let parent = try #require(try catalog.inode(at: path.parent!), "no parent of \(path)")
        return (parent.id, path.name!)
    }

    @discardableResult
    func makeDirectory(_ path: String) throws -> InodeID {
        let (parent, name) = try parent(path)
        return try catalog.create(NewInode(kind: .directory, mode: 0o755, uid: 0, gid: 0), named: name, in: parent).id
    }

    /// Writes a whole file, made if need be, and closes it.
    @discardableResult
    func write(_ path: String, _ text: String) throws -> InodeID { try write(path, Array(text.utf8)) }

    @discardableResult
    func write(_ path: String, _ bytes: [UInt8]) throws -> InodeID {
        let (parent, name) = try parent(path)
        let inode =
            try catalog.inode(at: StorePath(path)!)?.id
            ?? catalog.create(NewInode(kind: .file, mode: 0o644, uid: 0, gid: 0), named: name, in: parent).id
        let content = try cache.open(inode)
        defer { content.close() }
        try content.truncate(to: 0)
        try content.write(bytes, at: 0)
        try content.save()
        synchronizer.wake()
        return inode
    }

    /// Writes a file and starts the synchronizer. Returns when the upload has come to the store, which it does not enter
    /// before the gate is opened.
    func beginUpload(of path: String, _ text: String) throws -> Gate {
        let gate = Gate()
        faults.inject(.wait(gate), on: .put, .first(1))
        try write(path, text)
        synchronizer.start()
        #expect(gate.waitForCallers(1))
        return gate
    }

    func append(_ path: String, _ text: String) throws {
        let inode = try #require(try catalog.inode(at: StorePath(path)!)).id
        let content = try cache.open(inode)
        defer { content.close() }
        try content.write(Array(text.utf8), at: content.size)
        try content.save()
        synchronizer.wake()
    }

    func delete(_ path: String) throws {
        let (parent, name) = try parent(path)
        let isDirectory = try #require(try catalog.inode(at: StorePath(path)!)).kind == .directory
        let record = try catalog.remove(name, from: parent, isDirectory: isDirectory)
        if try record.links == 0 && catalog.forget(record.id) { cache.discard(record.id) }
        synchronizer.wake()
    }

    func rename(_ path: String, to newPath: String, _ mode: RenameMode = .replace) throws {
        let (parent, name) = try parent(path)
        let (newParent, newName) = try self.parent(newPath)
        let outcome = try catalog.rename(name, in: parent, to: newName, in: newParent, mode)
        if mode == .replace, let other = outcome.other, other.links == 0, try catalog.forget(other.id) {
            cache.discard(other.id)
        }
        synchronizer.wake()
    }

    /// Shows the mount what the store has in a directory.
    func list(_ path: String) throws {
        let directory = try #require(try catalog.inode(at: StorePath(path)!)).id
        guard let plan = try catalog.beginListing(of: directory) else { return }
        try memory.forEachPage(of: plan.path) { page throws(StoreError) in
            do throws(CatalogError) { _ = try catalog.merge(page.entries, into: plan) } catch {
                throw StoreError(error)
            }
        }
        try catalog.endListing(plan) { _ in }
    }

    // MARK: What is on the store

    func bytes(_ path: String) throws -> [UInt8] {
        let sink = MemorySink()
        _ = try memory.read(StorePath(path)!, ReadRequest(), into: sink)
        return sink.bytes
    }

    func text(_ path: String) -> String? { (try? bytes(path)).map { String(decoding: $0, as: UTF8.self) } }

    /// All paths of files on the store, sorted.
    func files(below path: StorePath = .root) throws -> [String] {
        var found: [String] = []
        try memory.forEachPage(of: path) { page throws(StoreError) in
            for entry in page.entries {
                let child = path.appending(entry.name)
                if entry.metadata.kind == .directory {
                    do { found += try files(below: child) } catch { throw StoreError(.internal, "\(error)") }
                } else {
                    found.append(child.description)
                }
            }
        }
        return found.sorted()
    }

    /// Somebody else writes a file.
    func writeForeign(_ path: String, _ text: String) throws {
        _ = try memory.put(UploadBody(Array(text.utf8)), at: StorePath(path)!, PutOptions())
    }

    // MARK: Waiting

    /// Waits until all is on the store, for a minute at most.
    @discardableResult
    func drain(_ path: String? = nil, within limit: Duration = .seconds(60)) throws -> DrainProgress {
        synchronizer.start()
        let end = MonotonicTime.now + limit
        return try synchronizer.drain(path.map { StorePath($0)! }) { _ in MonotonicTime.now < end }
    }

    /// Waits until `condition` holds, for a minute at most.
    func wait(_ what: String, until condition: () throws -> Bool) throws {
        let end = MonotonicTime.now + .seconds(60)
        while try !condition() {
            try #require(MonotonicTime.now < end, "it did not come to this: \(what)")
            usleep(2_000)
        }
    }

    func pending() throws -> [PendingItem] { try catalog.allPending(after: nil, limit: 10_000) }
}

extension CachedContent {
    func write(_ bytes: [UInt8], at offset: Int64) throws {
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        defer { copy.deallocate() }
        copy.copyBytes(from: bytes)
        try write(UnsafeRawBufferPointer(copy), at: offset)
    }
}
