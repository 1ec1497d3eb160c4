import Caching
import Catalog
import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Stores
import Synchronizer
import Testing
import Threading

@testable import VFS

/// A file system over a store in memory that fails when a test says so, in a folder that goes with it.
final class Rig: Sendable {
    let memory: MemoryStore
    let store: FaultyStore
    let clock = ManualClock()
    let statistics = Statistics()
    let folder: String
    let catalog: Catalog
    let backing: Backing
    let files: FileSystem
    let notices = NoticeLog()
    static let user = Caller(uid: 1000, gid: 1000, pid: 1)
    static let superuser = Caller(uid: 0, gid: 0, pid: 1)

    /// - Parameter wrap: Puts something between the file system and the store.
    init(
        virtual: [VirtualDirectory] = [], isFlat: Bool = false, isConnected: Bool = true,
        settings: FileSystemSettings = FileSystemSettings(), pageSize: Int = 1000,
        wrap: (any Store) -> any Store = { $0 }
    ) throws {
        var template = Array("/tmp/vfs-XXXXXX".utf8CString)
        folder = String(cString: mkdtemp(&template))
        memory = MemoryStore(pageSize: pageSize)
        store = FaultyStore(memory)
        let outer = wrap(store)
        catalog = try Catalog(path: folder + "/catalog.sqlite", clock: clock)
        try catalog.setCapabilities(outer.capabilities)
        let cache = try ContentCache(
            folder: folder + "/cache", catalog: catalog, store: outer,
            limits: CacheLimits(soft: 1 << 30, hard: 2 << 30, freeSpaceFloor: 0), statistics: statistics, clock: clock)
        let synchronizer = Synchronizer(
            catalog: catalog, cache: cache, store: outer, settings: SynchronizerSettings(), statistics: statistics,
            clock: clock, onChange: { _ in })
        backing = Backing(catalog: catalog, cache: cache, synchronizer: synchronizer, store: outer)
        files = FileSystem(virtual: virtual, isFlat: isFlat, settings: settings, statistics: statistics, clock: clock)
        files.setNotifier(notices)
        if isConnected { files.setBacking(backing) }
    }

    deinit {
        store.heal()
        files.shutdown()
        backing.cache.shutdown()
        catalog.close()
        var argument = Array("rm -rf \(folder)".utf8CString)
        _ = system(&argument)
    }

    func put(_ text: String, at path: String, _ attributes: Attributes = Attributes()) throws {
        _ = try memory.put(UploadBody(Array(text.utf8)), at: StorePath(path)!, PutOptions(attributes: attributes))
    }

    /// Goes on by `duration` and lets the thread of deadlines look.
    func advance(by duration: Duration) {
        clock.advance(by: duration)
        files.surroundings.parking.wake()
    }

    // MARK: Operations that wait for their answer

    static let root: UInt64 = 2

    func lookup(_ name: String, in parent: UInt64 = root) throws -> Entry {
        try answer { files.lookup(Array(name.utf8), in: parent, $0) }
    }
    func walk(_ path: String, from start: UInt64 = 1) throws -> Entry {
        var entry = try attributes(start)
        for name in path.split(separator: "/") { entry = try lookup(String(name), in: entry.number) }
        return entry
    }
    func attributes(_ number: UInt64) throws -> Entry { try answer { files.getAttributes(number, $0) } }
    func create(
        _ name: String, in parent: UInt64 = root, mode: UInt32 = 0o644, flags: Int32 = O_RDWR,
        by caller: Caller = user
    ) throws -> (Entry, OpenFile) {
        try answer { files.create(Array(name.utf8), in: parent, mode: mode, flags: flags, by: caller, $0) }
    }
    func makeDirectory(_ name: String, in parent: UInt64 = root, mode: UInt32 = 0o755) throws -> Entry {
        try answer { files.makeDirectory(Array(name.utf8), in: parent, mode: mode, by: Self.user, $0) }
    }
    func link(_ number: UInt64, _ name: String, in parent: UInt64 = root) throws -> Entry {
        try answer { files.link(number, named: Array(name.utf8), in: parent, $0) }
    }
    func unlink(_ name: String, in parent: UInt64 = root) throws {
        try answer { files.unlink(Array(name.utf8), in: parent, $0) }
    }
    func removeDirectory(_ name: String, in parent: UInt64 = root) throws {
        try answer { files.removeDirectory(Array(name.utf8), in: parent, $0) }
    }
    func rename(
        _ name: String, in parent: UInt64 = root, to newName: String, into newParent: UInt64 = root,
        _ mode: RenameMode = .replace
    ) throws {
        try answer { files.rename(Array(name.utf8), in: parent, to: Array(newName.utf8), in: newParent, mode, $0) }
    }
    func open(_ number: UInt64, _ flags: Int32 = O_RDONLY, by caller: Caller = user) throws -> HandleID {
        let file: OpenFile = try answer { files.open(number, flags: flags, by: caller, $0) }
        return file.handle
    }
    func read(_ handle: HandleID, at offset: Int64 = 0, count: Int = 1 << 20) throws -> String {
        let box = Monitor<Result<[UInt8], FileSystemError>?>(nil)
        files.read(handle, at: offset, count: count) { result in
            let copy = result.map { Array($0) }
            box.update { $0 = copy }
        }
        return String(decoding: try wait(box).get(), as: UTF8.self)
    }
    func write(_ text: String, to handle: HandleID, at offset: Int64 = 0, by caller: Caller = user) throws {
        let count: Int = try answer { reply in
            Array(text.utf8).withUnsafeBytes {
                files.write(handle, at: offset, $0, isPageCache: false, by: caller, reply)
            }
        }
        #expect(count == text.utf8.count)
    }
    func flush(_ handle: HandleID) throws { try answer { files.flush(handle, $0) } }
    func release(_ handle: HandleID) throws { try answer { files.release(handle, $0) } }
    func close(_ handle: HandleID) throws {
        try flush(handle)
        try release(handle)
    }
    func change(
        _ number: UInt64, handle: HandleID? = nil, by caller: Caller = user, _ edit: (inout SetAttributes) -> Void
    ) throws -> Entry {
        var changes = SetAttributes()
        edit(&changes)
        return try answer { files.setAttributes(changes, of: number, handle: handle, by: caller, $0) }
    }

    /// A whole directory, without "." and "..".
    func list(_ number: UInt64 = root, plus: Bool = false) throws -> [ListedEntry] {
        let handle: HandleID = try answer { files.openDirectory(number, $0) }
        defer { files.releaseDirectory(handle) }
        var all: [ListedEntry] = []
        var cookie: Int64 = 0
        while true {
            let page = try readDirectory(handle, after: cookie, plus: plus)
            guard let last = page.last else { break }
            all += page
            cookie = last.cookie
        }
        return Array(all.dropFirst(2))
    }
    func readDirectory(_ handle: HandleID, after cookie: Int64, plus: Bool = false, limit: Int = 10) throws
        -> [ListedEntry]
    {
        let page = Monitor<[ListedEntry]>([])
        try answer { reply in
            files.readDirectory(
                handle, after: cookie, plus: plus,
                add: { entry in
                    page.withLock { page in
                        guard page.count < limit else { return false }
                        page.append(entry)
                        return true
                    }
                }, reply)
        }
        return page.withLock { $0 }
    }
    func names(_ number: UInt64 = root) throws -> [String] {
        try list(number).map { String(decoding: $0.name, as: UTF8.self) }.sorted()
    }

    /// Reads a file by its path.
    func text(_ path: String) throws -> String {
        let handle = try open(walk(path).number)
        defer { files.release(handle) { _ in } }
        return try read(handle)
    }
}

/// Calls an operation and waits for its answer; a second answer is a failure.
func answer<Value: Sendable>(_ operation: (@escaping FileSystem.Reply<Value>) -> Void) throws -> Value {
    let box = Monitor<Result<Value, FileSystemError>?>(nil)
    operation { result in
        box.update {
            #expect($0 == nil, "answered twice")
            $0 = result
        }
    }
    return try wait(box).get()
}

func wait<Value>(_ box: Monitor<Value?>) throws -> Value {
    try #require(box.wait(until: .now + .seconds(60)) { $0 }, "no answer")
}

/// Waits until `condition` holds.
func eventually(_ condition: () -> Bool) -> Bool {
    let end = MonotonicTime.now + .seconds(60)
    while !condition() {
        if MonotonicTime.now > end { return false }
        usleep(1000)
    }
    return true
}

/// Calls an operation that must be answered before it returns.
func atOnce<Value: Sendable>(_ operation: (@escaping FileSystem.Reply<Value>) -> Void) throws -> Value {
    let box = Monitor<Result<Value, FileSystemError>?>(nil)
    operation { result in box.update { $0 = result } }
    return try #require(box.withLock { $0 }, "it waits").get()
}

/// Calls an operation that must wait; tells its answer later.
func later<Value: Sendable>(_ operation: (@escaping FileSystem.Reply<Value>) -> Void)
    -> Monitor<Result<Value, FileSystemError>?>
{
    let box = Monitor<Result<Value, FileSystemError>?>(nil)
    operation { result in
        box.update {
            #expect($0 == nil, "answered twice")
            $0 = result
        }
    }
    return box
}

func error<Value>(_ body: () throws -> Value) -> FileSystemError? {
    do {
        _ = try body()
        return nil
    } catch { return error as? FileSystemError }
}

final class NoticeLog: KernelNotifier {
    private let log = Monitor<[String]>([])
    func invalidateEntry(parent: UInt64, name: [UInt8]) {
        log.update { $0.append("entry \(parent) \(String(decoding: name, as: UTF8.self))") }
    }
    func writeBack(_ number: UInt64) {}
    func invalidateAttributes(of number: UInt64) { log.update { $0.append("attributes \(number)") } }
    func waitFor(_ notice: String) -> Bool {
        log.wait(until: .now + .seconds(60)) { $0.contains(notice) ? () : nil } != nil
    }
}
