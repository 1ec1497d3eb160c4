import Catalog
import Glibc
import Statistics
import StoreAPI
import Testing
import Threading

@testable import Caching

/// A cache over a fake store, in a directory of its own.
final class Rig {
    let folder: String
    let store: FakeStore
    private(set) var index: MemoryIndex
    private(set) var cache: ContentCache
    private(set) var statistics = Statistics()
    private let ownsFolder: Bool
    private let limits: CacheLimits
    private let fetchThreads: Int

    init(
        soft: Int64 = 1 << 40, hard: Int64 = 1 << 41, floor: Int64 = 0, fetchThreads: Int = 16, folder: String? = nil,
        store: FakeStore = FakeStore()
    ) throws {
        var template = Array("/tmp/cloudfusion-cache-XXXXXX".utf8CString)
        if let folder {
            self.folder = folder
        } else {
            self.folder = String(cString: mkdtemp(&template)!)
        }
        ownsFolder = folder == nil
        self.store = store
        index = MemoryIndex()
        limits = CacheLimits(soft: soft, hard: hard, freeSpaceFloor: floor)
        self.fetchThreads = fetchThreads
        cache = try ContentCache(
            folder: self.folder, index: index, store: store, limits: limits, statistics: statistics,
            clock: SystemClock(), fetchThreads: fetchThreads)
    }

    deinit {
        store.shutdown()
        cache.shutdown()
        if ownsFolder { system("rm -rf '\(folder)'") }
    }

    /// A generated object, and the inode that stands for it.
    func addObject(_ inode: UInt64, size: Int64, isZero: Bool = false) {
        store.add("o\(inode)", size: size, isZero: isZero)
        index.add(
            InodeID(inode),
            source: ContentSource(path: StorePath("o\(inode)")!, version: Version("v1"), size: size))
    }
    func addEmpty(_ inode: UInt64) { index.add(InodeID(inode), source: nil) }
    func open(_ inode: UInt64) throws -> CachedContent { try cache.open(InodeID(inode)) }
    func path(_ inode: UInt64) -> String { cache.path(of: InodeID(inode)) }

    /// Goes on as another process would after this one was killed, or after its end.
    func restart(afterCrash: Bool) throws {
        let old = index
        if afterCrash {
            index = old.afterCrash()
            cache.shutdown()
        } else {
            cache.shutdown()
            index = old.afterCrash()
        }
        statistics = Statistics()
        cache = try ContentCache(
            folder: folder, index: index, store: store, limits: limits, statistics: statistics,
            clock: SystemClock(), fetchThreads: fetchThreads)
    }

    /// Carries an upload out as the synchronizer does, and gives back what was sent.
    func upload(_ content: CachedContent, version: String) throws -> [UInt8] {
        let view = try content.prepareUpload(store.capabilities)
        let bytes = try self.bytes(of: view)
        let path = StorePath("o\(content.inode)")!
        store.set(path.description, bytes, version: version)
        index.uploaded(
            content.inode, generation: view.generation,
            source: ContentSource(path: path, version: Version(version), size: view.size))
        cache.contentWasUploaded(content.inode)
        view.end()
        return bytes
    }

    func bytes(of view: UploadView) throws -> [UInt8] {
        var bytes: [UInt8] = []
        for segment in view.body.segments {
            switch segment {
            case .bytes(let piece): bytes += piece
            case .file(let descriptor, let offset, let length):
                var piece = [UInt8](repeating: 0, count: Int(length))
                #expect(pread(descriptor, &piece, Int(length), off_t(offset)) <= Int(length))
                bytes += piece
            case .stored(let path, let version, let range):
                let object = try #require(store.state.withLock { $0.objects[path] })
                #expect(object.version == version)
                bytes += Array(object.bytes![Int(range.lowerBound)..<Int(range.upperBound)])
            }
        }
        return bytes
    }
}

/// Collects answers that come on any thread.
final class Answers<Value: Sendable>: Sendable {
    private let state = Monitor<[Value]>([])
    func add(_ value: Value) { state.update { $0.append(value) } }
    var all: [Value] { state.withLock { $0 } }
    /// - Returns: nil when they did not come within a generous time.
    func wait(for count: Int) -> [Value]? {
        state.wait(until: .now + .seconds(60)) { $0.count >= count ? $0 : nil }
    }
}

extension CachedContent {
    /// Reads and waits for the answer.
    func bytes(at offset: Int64, count: Int, _ pattern: ReadPattern = ReadPattern()) throws -> [UInt8] {
        let answers = Answers<Result<[UInt8], CacheError>>()
        read(at: offset, count: count, pattern: pattern) { answers.add($0.map { Array($0) }) }
        return try #require(answers.wait(for: 1))[0].get()
    }

    func write(_ bytes: [UInt8], at offset: Int64) throws {
        var failure: CacheError?
        bytes.withUnsafeBytes { buffer in
            do throws(CacheError) { try write(buffer, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
    }
}
