import SQLite
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

/// The way to a store, on which the process ends at one request: nothing passes from then on.
///
/// What is done between requests is in the chunk map's transactions, which come whole or not at all, and what is only
/// read leaves everything as it was; so the moments before and after each request that changes something are all that
/// there are.
private final class CrashPoint: StoreWrapper {
    private struct State {
        var steps = 0
        var isOver = false
    }

    let inner: any Store
    private let point: Int
    private let onCrash: @Sendable () -> Void
    private let state = Lock(State())

    /// - Parameter point: Counted from 0; of each request there are two, before and after the store has done it.
    init(_ inner: any Store, at point: Int, onCrash: @escaping @Sendable () -> Void) {
        self.inner = inner
        self.point = point
        self.onCrash = onCrash
    }

    var isOver: Bool { state.withLock { $0.isOver } }

    private func pass() throws(StoreError) {
        let (isOver, isNow) = state.withLock { state in
            defer { state.steps += 1 }
            guard !state.isOver, state.steps == point else { return (state.isOver, false) }
            state.isOver = true
            return (true, true)
        }
        if isNow { onCrash() }
        if isOver { throw StoreError(.cancelled, "the process has ended") }
    }

    private func perform<Result>(_ body: () throws(StoreError) -> Result) throws(StoreError) -> Result {
        try pass()
        let result = try body()
        try pass()
        return result
    }

    private func expectUp() throws(StoreError) {
        if isOver { throw StoreError(.cancelled, "the process has ended") }
    }

    func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        try expectUp()
        return try inner.metadata(of: path)
    }
    func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        try expectUp()
        return try inner.list(directory, after: cursor)
    }
    func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata {
        try expectUp()
        return try inner.read(path, request, into: sink)
    }
    func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        try perform { () throws(StoreError) in try inner.put(body, at: path, options) }
    }
    func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        try perform { () throws(StoreError) in try inner.setAttributes(attributes, at: path, ifVersion: version) }
    }
    func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        try perform { () throws(StoreError) in try inner.createDirectory(at: path, attributes) }
    }
    /// Stores delete one after the other what comes in one request.
    func delete(_ deletions: [Deletion]) -> [StoreError?] {
        deletions.map { deletion in
            do throws(StoreError) { return try perform { inner.delete([deletion])[0] } } catch { return error }
        }
    }
    func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        try perform { () throws(StoreError) in try inner.move(source, to: destination) }
    }
    func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError) -> Metadata {
        try perform { () throws(StoreError) in try inner.copy(source, to: destination, options) }
    }
    func shutdown() {}
}

@Suite("After the end of the process at any request")
struct CrashPointTests {
    private static func path(_ text: String) -> StorePath { StorePath(text)! }

    private static func put(_ text: String, _ size: Int, _ seed: UInt64) -> StoreChange {
        let time = Timestamp(seconds: 1_000_000 + Int64(seed), nanoseconds: 5)
        return .put(
            UploadBody(pattern(size, seed: seed)), at: path(text),
            PutOptions(attributes: Attributes(mode: 0o640, uid: 0, gid: 0, modified: time)))
    }

    /// What is done one after the other with one store.
    private enum Step {
        case changes([StoreChange])
        case snapshot
        case garbage
        case grace
    }

    /// All kinds of changes, in an order in which all of a step can be done again when a part of it was done.
    private static let story: [Step] = [
        // The first chunk, and plain objects.
        .changes((0..<12).map { put("d/f\($0)", 2_000, $0) } + [put("large", 20_000, 100), put("other", 20_000, 101)]),
        .snapshot,
        // A packed file becomes a plain object, and the reverse; names, links and attributes change.
        .changes([
            put("d/f0", 20_000, 20), put("large", 1_000, 21), .delete(path("other")), .delete(path("d/f1")),
            .move(path("d/f2"), to: path("e/f2")), .copy(path("d/f3"), to: path("e/f3"), CopyOptions()),
            .setAttributes(Attributes(mode: 0o400), at: path("d/f4"), ifVersion: nil),
            .createDirectory(path("empty"), Attributes(mode: 0o700)),
        ]),
        .changes([.move(path("e"), to: path("g")), put("g/new", 1_500, 30), put("h/large", 20_000, 31)]),
        .snapshot,
        // What there was once is not needed any more.
        .changes((4..<11).map { .delete(path("d/f\($0)")) } + [put("g/f2", 2_000, 40), .delete(path("h/large"))]),
        .changes((0..<4).map { put("i/f\($0)", 3_000, 50 + $0) }),
        .changes((0..<4).map { put("i/f\($0)", 3_000, 60 + $0) }),
        .garbage, .grace, .garbage, .snapshot,
        .changes([.delete(path("i/f1")), put("last", 100, 70)]),
        .snapshot,
    ]

    /// A store in a folder, with clock and machines.
    private final class Rig {
        let base: TemporaryFolder
        let clock = ManualClock()

        init() throws { base = try TemporaryFolder() }

        func local() -> LocalStore { LocalStore(path: base.path, fsync: false) }

        func machine(_ folder: TemporaryFolder, on store: any Store) -> ChunkStore {
            makeChunkStore(
                on: store, limit: 10_000, maxChunkSize: 20_000, trust: .zero, grace: .seconds(60), folder: folder,
                clock: clock)
        }

        /// What a machine shows that knows nothing yet.
        func newMachine() throws -> [[UInt8]: HostFile] {
            let folder = try TemporaryFolder()
            let store = machine(folder, on: local())
            defer { store.shutdown() }
            try store.connect()
            return try ReplayTests.view(store)
        }

        /// What GNU tar makes of the chunks, with the plain objects beside them.
        func extracted() throws -> [[UInt8]: HostFile] {
            var tar = try ReplayTests.extracted(base)
            for (path, file) in try HostFile.tree(base.path) where !path.starts(with: Array(".cloudfusion".utf8)) {
                if file.type & 0o170000 != 0o040000 || tar[path] == nil { tar[path] = file }
            }
            return tar
        }
    }

    /// Does a step, again perhaps.
    ///
    /// - Throws: What is not to be expected of one that is done again.
    private static func perform(_ step: Step, _ store: ChunkStore, _ clock: ManualClock) throws {
        switch step {
        case .changes(let changes):
            for (change, result) in zip(changes, store.apply(changes)) {
                guard case .failure(let error) = result else { continue }
                if case .move = change, error.code == .notFound { continue }
                throw error
            }
        case .snapshot: try store.putSnapshot()
        case .garbage: _ = try store.collectGarbage()
        case .grace: clock.advance(by: .seconds(61))
        }
    }

    /// The trees before and after each step.
    private static func expectedTrees() throws -> [[[UInt8]: HostFile]] {
        let (rig, folder) = (try Rig(), try TemporaryFolder())
        let store = rig.machine(folder, on: rig.local())
        defer { store.shutdown() }
        try store.connect()
        var trees = [try ReplayTests.view(store)]
        for step in story {
            try perform(step, store, rig.clock)
            trees.append(try ReplayTests.view(store))
        }
        return trees
    }

    @Test(
        "nothing is lost, nothing is there twice, and no archive is left that nobody needs",
        arguments: [true, false])
    func everyRequest(keepsMap: Bool) throws {
        let trees = try Self.expectedTrees()
        var (point, crashes) = (0, Array(repeating: 0, count: Self.story.count))
        while let step = try crash(at: point, keepsMap, trees) {
            crashes[step] += 1
            point += 1
        }
        // Each step was cut off.
        for (number, step) in Self.story.enumerated() {
            if case .grace = step { continue }
            #expect(crashes[number] > 0, "step \(number)")
        }
    }

    /// Ends the process at a request, and goes on with a new one.
    ///
    /// - Returns: The step that was cut off; nil when there are fewer requests.
    private func crash(at point: Int, _ keepsMap: Bool, _ trees: [[[UInt8]: HostFile]]) throws -> Int? {
        let (rig, before, after) = (try Rig(), try TemporaryFolder(), try TemporaryFolder())
        let way = CrashPoint(rig.local(), at: point) {
            if keepsMap { _ = try? Program.run("cp", "--archive", before.path + "/.", after.path) }
        }
        let first = rig.machine(before, on: way)
        defer { first.shutdown() }
        var cut: Int?
        do {
            try first.connect()
            for (number, step) in Self.story.enumerated() where !way.isOver {
                cut = number
                try Self.perform(step, first, rig.clock)
            }
        } catch {
            guard way.isOver else { throw error }
        }
        guard way.isOver, let cut else { return way.isOver ? 0 : nil }

        let name = "point \(point) in step \(cut)"
        let store = rig.machine(after, on: rig.local())
        defer { store.shutdown() }
        try store.connect()
        let seen = try ReplayTests.view(store)
        // Each path is as before or as after, and of no bytes that are in both is anything missing.
        let (old, new) = (trees[cut], trees[cut + 1])
        for path in Set(seen.keys).union(old.keys).union(new.keys) {
            let text = String(decoding: path, as: UTF8.self)
            let isEither = seen[path]?.known == old[path]?.known || seen[path]?.known == new[path]?.known
            #expect(isEither || seen[path]?.type == 0o040000, "'\(text)' at \(name): \(seen[path]?.description ?? "-")")
        }
        let contents = Set(old.values.map(\.bytes)).intersection(new.values.map(\.bytes))
        #expect(contents.subtracting(seen.values.map(\.bytes)).isEmpty, "bytes are lost at \(name)")
        ReplayTests.expectSame(try rig.newMachine(), seen, UInt64(point), "a new machine at \(name)")

        for step in Self.story[cut...] { try Self.perform(step, store, rig.clock) }
        for _ in 0..<3 {
            rig.clock.advance(by: .seconds(61))
            _ = try store.collectGarbage()
        }
        let last = try ReplayTests.view(store)
        ReplayTests.expectSame(last.mapValues(\.known), trees.last!.mapValues(\.known), UInt64(point), "in the end")
        ReplayTests.expectSame(try rig.newMachine(), last, UInt64(point), "a new machine in the end")
        // The same on the store with and without the map: once is enough.
        if keepsMap {
            ReplayTests.expectSame(
                try rig.extracted().mapValues(\.known), last.mapValues(\.known), UInt64(point), "GNU tar in the end")
        }
        try expectNoOrphans(store, rig, name)
        return cut
    }

    /// Everything on the store is something that somebody needs.
    private func expectNoOrphans(_ store: ChunkStore, _ rig: Rig, _ name: String) throws {
        let known = try store.map.use { map throws(ChunkMapError) in
            try map.database.all("SELECT sequence, superseded_ns FROM chunk ORDER BY sequence") {
                (sequence: $0.int(0), isNeeded: $0.isNull(1))
            }
        }
        let volume = try store.volume()
        let (chunks, snapshots) = (try store.storedChunks(of: volume), try store.storedSnapshots())
        #expect(chunks == known.map(\.sequence), "\(name)")
        #expect(known.filter { !$0.isNeeded }.isEmpty, "\(name)")
        #expect(snapshots.count <= 2, "\(name)")
        let objects = try HostFile.tree(rig.base.path).filter { $0.value.type == 0o100000 }
        let shown = try ReplayTests.view(store).filter { $0.value.bytes.count > 10_000 }
        let plain = objects.keys.filter { !$0.starts(with: Array(".cloudfusion".utf8)) }
        #expect(Set(plain) == Set(shown.keys), "\(name): plain objects")
        // The lock is the local store's.
        let own = objects.keys.filter { $0.starts(with: Array(".cloudfusion/".utf8)) }
            .map { String(decoding: $0, as: UTF8.self) }.filter { $0 != ".cloudfusion/lock" }
        #expect(own.count == known.count + snapshots.count + 1, "\(name): \(own.sorted())")
    }
}

extension HostFile {
    /// Without what depends on when and where it was put: directories that nobody has told the mode of.
    fileprivate var known: HostFile {
        var copy = self
        if type == 0o040000 { copy.mode = 0 }
        return copy
    }
}
