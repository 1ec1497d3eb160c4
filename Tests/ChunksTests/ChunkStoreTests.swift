import Glibc
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

@Suite("Small files in chunks")
struct ChunkStoreTests {
    /// A store in memory with faults, and machines that pack on it, each with a folder of its own.
    final class Rig {
        let memory: MemoryStore
        let faulty: FaultyStore
        let clock = ManualClock()
        private(set) var folders: [TemporaryFolder] = []

        init(hasRealDirectories: Bool = false) {
            memory = MemoryStore(hasRealDirectories: hasRealDirectories, clock: clock)
            faulty = FaultyStore(memory)
        }

        func machine(
            limit: Int64? = 100_000, maxChunkSize: Int64 = 1_000_000, trust: Duration = .zero,
            grace: Duration = .seconds(3600), in folder: TemporaryFolder? = nil
        ) throws -> ChunkStore {
            let folder = try folder ?? TemporaryFolder()
            folders.append(folder)
            let store = makeChunkStore(
                on: faulty, limit: limit, maxChunkSize: maxChunkSize, trust: trust, grace: grace, folder: folder,
                clock: clock)
            try store.connect()
            return store
        }

        var chunks: [String] {
            get throws { try memory.exists(ChunkPaths.chunks) ? memory.names(in: ChunkPaths.chunks) : [] }
        }

        func head(_ number: Int) throws -> ChunkHead {
            try ChunkHead.read(ChunkPaths.chunks / chunks[number], of: memory)
        }
    }

    static func path(_ text: String) -> StorePath { StorePath(text)! }

    /// Kind, bytes and attributes of everything below a directory.
    static func tree(_ store: any Store, _ directory: StorePath = .root) throws -> [StorePath: [String]] {
        var all: [StorePath: [String]] = [:]
        for entry in try store.entries(of: directory) {
            let path = directory.appending(entry.name)
            let metadata = try store.metadata(of: path)
            #expect(metadata == entry.metadata, "\(path)")
            if metadata.kind == .directory {
                all[path] = ["directory", "\(metadata.attributes?.mode ?? 0)"]
                all.merge(try tree(store, path)) { $1 }
            } else {
                let bytes = try store.contents(of: path, version: metadata.version)
                all[path] = ["\(metadata.kind)", "\(bytes)", "\(metadata.attributes?.mode ?? 0)"]
            }
        }
        return all
    }

    static func succeed(_ results: [Result<Metadata?, StoreError>]) throws {
        for result in results { _ = try result.get() }
    }

    @Test("an empty store stays empty until something is packed")
    func emptyStore() throws {
        let rig = Rig()
        let store = try rig.machine()
        #expect(try store.names(in: .root) == [])
        _ = try? store.metadata(of: Self.path("nothing"))
        try store.delete(Self.path("nothing"))
        #expect(try rig.memory.names(in: .root) == [])
        try store.write([1], at: Self.path("a/b"))
        #expect(try rig.memory.names(in: .root) == [".cloudfusion"])
        #expect(try rig.memory.names(in: .control) == ["chunks", "format"])
        let format = try VolumeFormat(rig.memory.contents(of: ChunkPaths.format))
        #expect(try rig.chunks == ["00000000000000000001-\(format.volume).tar"])
        #expect(try store.names(in: .root) == ["a"])
        #expect(throws: StoreError.self) { try store.metadata(of: ChunkPaths.format) }
        #expect(throws: StoreError.self) { try store.write([1], at: ChunkPaths.format) }
    }

    @Test("1,500 files of many directories take one chunk, and no request for each directory")
    func batch() throws {
        let rig = Rig()
        let store = try rig.machine(maxChunkSize: 100_000_000, trust: .seconds(120))
        let changes = (0..<1_500).map { number in
            StoreChange.put(
                UploadBody(pattern(1_000, seed: UInt64(number))), at: Self.path("d \(number % 200)/file \(number)"),
                PutOptions(attributes: Attributes(mode: 0o640, modified: Timestamp(nanoseconds: Int64(number)))))
        }
        let before = FaultyStore.Operation.allCases.reduce(0) { $0 + rig.faulty.calls($1) }
        try Self.succeed(store.apply(changes))
        #expect(try rig.chunks.count == 1)
        // The root's listing, the format in three steps, and the chunk.
        #expect(FaultyStore.Operation.allCases.reduce(0) { $0 + rig.faulty.calls($1) } - before <= 6)
        let other = try rig.machine(trust: .seconds(120))
        let reads = rig.faulty.calls(.read)
        let lists = rig.faulty.calls(.list)
        for number in 0..<200 { #expect(try other.entries(of: Self.path("d \(number)")).count >= 7) }
        for number in 0..<1_500 {
            let found = try other.contents(of: Self.path("d \(number % 200)/file \(number)"))
            #expect(found == pattern(1_000, seed: UInt64(number)))
        }
        #expect(rig.faulty.calls(.read) - reads == 2)
        #expect(rig.faulty.calls(.list) - lists <= 1)
    }

    @Test("a batch is one after the other: later changes find what earlier ones did, and each fails for itself")
    func order() throws {
        let rig = Rig()
        let store = try rig.machine()
        let (a, b) = (Self.path("a"), Self.path("b"))
        let results = store.apply([
            .put(UploadBody([1]), at: a, PutOptions()),
            .put(UploadBody([2]), at: a, PutOptions(condition: .ifAbsent)),
            .put(UploadBody([3]), at: a, PutOptions()),
            .move(a, to: b), .delete(a), .move(a, to: b),
            .copy(b, to: a, CopyOptions(attributes: Attributes(mode: 0o600))),
            .delete(Self.path("nothing")), .createDirectory(b, Attributes()),
        ])
        func code(_ result: Result<Metadata?, StoreError>) -> StoreError.Code? {
            if case .failure(let error) = result { error.code } else { nil }
        }
        #expect(
            results.map(code) == [
                nil, .preconditionFailed, nil, nil, nil, .notFound, nil, nil, .notADirectory,
            ])
        #expect(try rig.chunks.count == 1)
        #expect(try Self.tree(store) == [a: ["file", "[3]", "384"], b: ["file", "[3]", "0"]])
        #expect(try results[2].get()?.version == store.metadata(of: b).version)
        #expect(try results[6].get() == store.metadata(of: a))
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("what is not different in the end is not packed")
    func noEffect() throws {
        let rig = Rig()
        let store = try rig.machine()
        try store.write([1], at: Self.path("d/a"), PutOptions(attributes: Attributes(mode: 0o600)))
        let (a, b) = (Self.path("d/a"), Self.path("d/b"))
        try Self.succeed(
            store.apply([
                .move(a, to: b), .move(b, to: a), .put(UploadBody([2]), at: b, PutOptions()), .delete(b),
                .createDirectory(Self.path("e"), Attributes()), .delete(Self.path("e")),
                .setAttributes(Attributes(mode: 0o600), at: a, ifVersion: nil),
                .createDirectory(Self.path("d"), Attributes()),
            ]))
        #expect(try rig.chunks.count == 1)
    }

    @Test("renames and copies move no bytes, also of a directory, in circles and chains")
    func renames() throws {
        let rig = Rig()
        let store = try rig.machine()
        for name in ["a", "b", "c"] {
            try store.write(pattern(50_000, seed: UInt64(name.utf8.first!)), at: Self.path("d/\(name)"))
        }
        let versions = try store.entries(of: Self.path("d")).map(\.metadata.version)
        try store.move(Self.path("d"), to: Self.path("new/e"))
        #expect(try rig.head(3).size < 10_000)
        #expect(try rig.head(3).index.members.map(\.kind) == [.link, .link, .link, .directory, .directory, .whiteout])
        #expect(try store.names(in: .root) == ["new"])
        #expect(try store.entries(of: Self.path("new/e")).map(\.metadata.version) == versions)
        // A chain: each name takes the file of the one before it.
        let (a, b, c, e) = (Self.path("new/e/a"), Self.path("new/e/b"), Self.path("new/e/c"), Self.path("new/e/d"))
        try Self.succeed(store.apply([.move(c, to: e), .move(b, to: c), .move(a, to: b)]))
        #expect(try rig.head(4).index.members.map(\.kind) == [.link, .link, .link, .whiteout])
        #expect(try rig.head(4).index.members.map(\.path) == [e, c, b, a])
        // A circle: one of the two is packed anew.
        try Self.succeed(store.apply([.move(b, to: a), .move(c, to: b), .move(a, to: c)]))
        #expect(try rig.head(5).index.members.map(\.kind) == [.link, .file])
        for machine in [store, try rig.machine()] {
            #expect(try machine.contents(of: c) == pattern(50_000, seed: UInt64(UInt8(ascii: "a"))))
            #expect(try machine.contents(of: b) == pattern(50_000, seed: UInt64(UInt8(ascii: "b"))))
            #expect(try machine.contents(of: e) == pattern(50_000, seed: UInt64(UInt8(ascii: "c"))))
            #expect(try machine.names(in: Self.path("new/e")) == ["b", "c", "d"])
        }
    }

    @Test("a directory that becomes a file, and the reverse, take one chunk more")
    func kinds() throws {
        let rig = Rig()
        let store = try rig.machine()
        let a = Self.path("a")
        try store.write([1], at: a)
        try Self.succeed(
            store.apply([
                .delete(a), .put(UploadBody([2]), at: a / "b", PutOptions()), .delete(a / "b"), .delete(a),
                .put(UploadBody([3]), at: a, PutOptions()),
            ]))
        #expect(try rig.chunks.count == 3)
        #expect(try Self.tree(store) == [a: ["file", "[3]", "0"]])
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("a chunk holds no more than it should")
    func cut() throws {
        let rig = Rig()
        let store = try rig.machine(maxChunkSize: 10_000)
        try Self.succeed(
            store.apply((0..<10).map { .put(UploadBody(pattern(4_000)), at: Self.path("\($0)"), PutOptions()) }))
        #expect(try rig.chunks.count == 5)
        #expect(try store.names(in: .root).count == 10)
    }

    // MARK: Plain objects

    @Test("plain objects are seen beside what is packed, and win unless the member was packed in their place")
    func overlay() throws {
        let rig = Rig()
        let old = try rig.memory.write([9, 9], at: Self.path("d/plain"))
        let store = try rig.machine()
        try store.write([1], at: Self.path("d/packed"))
        #expect(try store.names(in: Self.path("d")) == ["packed", "plain"])
        #expect(try store.contents(of: Self.path("d/plain")) == [9, 9])
        // A small file in the place of a plain object.
        try store.write([2], at: Self.path("d/plain"), PutOptions(condition: .ifVersion(old.version!)))
        #expect(try rig.memory.exists(Self.path("d/plain")) == false)
        #expect(try rig.head(1).index.members.last?.replaces == old.version)
        #expect(try store.contents(of: Self.path("d/plain")) == [2])
        // Another program puts an object there, long after everybody could see what was there.
        rig.clock.advance(by: .seconds(7_200))
        try rig.memory.write([3, 3, 3], at: Self.path("d/plain"))
        for machine in [store, try rig.machine()] {
            #expect(try machine.contents(of: Self.path("d/plain")) == [3, 3, 3])
            #expect(try machine.entries(of: Self.path("d")).map(\.metadata.size).sorted() == [1, 3])
        }
        try store.delete(Self.path("d/plain"))
        #expect(try store.names(in: Self.path("d")) == ["packed"])
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("a large file in the place of a packed one, and back")
    func largeAndSmall() throws {
        let rig = Rig()
        let store = try rig.machine(limit: 1_000)
        let a = Self.path("d/a")
        let small = try store.write([1], at: a)
        let large = try store.write(pattern(5_000), at: a, PutOptions(condition: .ifVersion(small.version!)))
        #expect(try rig.memory.contents(of: a) == pattern(5_000))
        #expect(try rig.head(1).index.members.map(\.kind) == [.whiteout])
        #expect(throws: StoreError.self) {
            try store.write([2], at: a, PutOptions(condition: .ifVersion(small.version!)))
        }
        try store.write([2], at: a, PutOptions(condition: .ifVersion(large.version!)))
        #expect(try rig.memory.exists(a) == false)
        #expect(try store.contents(of: a) == [2])
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("a plain object that could not be deleted after it was packed stays hidden")
    func hidden() throws {
        let rig = Rig()
        try rig.memory.write([9, 9], at: Self.path("a"))
        let store = try rig.machine()
        rig.faulty.inject(.fail(StoreError(.unavailable, "no")), on: .delete)
        try store.write([1], at: Self.path("a"))
        rig.faulty.heal()
        #expect(try rig.memory.exists(Self.path("a")))
        for machine in [store, try rig.machine()] {
            #expect(try machine.contents(of: Self.path("a")) == [1])
            #expect(try machine.entries(of: .root).map(\.metadata.size) == [1])
        }
        try store.move(Self.path("a"), to: Self.path("b"))
        #expect(try store.names(in: .root) == ["b"])
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("plain objects are deleted many in one request, packed files in one chunk")
    func deletions() throws {
        let rig = Rig()
        let store = try rig.machine(limit: 100, trust: .seconds(60))
        let paths = (0..<40).map { Self.path("d/\($0)") }
        try Self.succeed(
            store.apply(
                paths.enumerated().map { number, path in
                    .put(UploadBody(pattern(number < 20 ? 50 : 500)), at: path, PutOptions())
                }))
        let deletions = rig.faulty.calls(.delete)
        #expect(store.delete(paths + [Self.path("d")]).allSatisfy { $0 == nil })
        #expect(rig.faulty.calls(.delete) - deletions <= 3)
        // The directory goes when the plain objects in it have gone.
        #expect(try rig.chunks.count == 3)
        #expect(try store.names(in: .root) == [])
        #expect(try Self.tree(rig.machine()).isEmpty)
    }

    @Test("a plain object is deleted only when the chunk is on the store that may hold its bytes")
    func deletionWaits() throws {
        let rig = Rig()
        let plain = try rig.memory.write([1, 2, 3], at: Self.path("d/plain"))
        let store = try rig.machine(trust: .seconds(60))
        let changes: [StoreChange] = [
            .put(
                UploadBody([.stored(path: Self.path("d/plain"), version: plain.version, range: 0..<3), .bytes([4])]),
                at: Self.path("d/new"), PutOptions()),
            .delete(Self.path("d/plain")), .delete(Self.path("e")),
            .put(UploadBody(pattern(200_000)), at: Self.path("d/plain"), PutOptions(condition: .ifAbsent)),
            .delete(Self.path("d/plain")), .move(Self.path("d/new"), to: Self.path("f")), .delete(Self.path("d")),
        ]
        rig.faulty.inject(.fail(StoreError(.quotaExceeded, "full")), on: .put, below: .control)
        #expect(throws: StoreError.self) { try Self.succeed(store.apply(changes)) }
        #expect(try rig.memory.contents(of: Self.path("d/plain")) == [1, 2, 3])
        rig.faulty.heal()
        try Self.succeed(store.apply(changes))
        #expect(try Self.tree(store) == [Self.path("f"): ["file", "[1, 2, 3, 4]", "0"]])
        #expect(try rig.memory.names(in: .root) == [".cloudfusion"])
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("names that no whiteout can have, and sockets, are plain objects")
    func unpackable() throws {
        let rig = Rig()
        let store = try rig.machine()
        let long = String(repeating: "n", count: 252)
        try store.write([1], at: Self.path(long))
        try store.write([2], at: Self.path(".wh.a"))
        try store.write([3], at: Self.path(".wh.d/b"))
        try store.write([], at: Self.path("socket"), PutOptions(kind: .socket))
        #expect(try rig.chunks == [])
        try store.write([4], at: Self.path(String(repeating: "n", count: 251)))
        #expect(try rig.chunks.count == 1)
        #expect(try store.names(in: .root).count == 5)
        try store.write([5], at: Self.path("a"))
        try store.move(Self.path("a"), to: Self.path(".wh.x"))
        #expect(try rig.memory.contents(of: Self.path(".wh.x")) == [5])
        #expect(try store.exists(Self.path("a")) == false)
    }

    /// A store that can only be read, and that may keep to itself what begins with a dot.
    private struct Frozen: StoreWrapper {
        let inner: any Store
        var hidesDots = false
        var capabilities: StoreCapabilities {
            var capabilities = inner.capabilities
            capabilities.isReadOnly = true
            return capabilities
        }
        func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata {
            if hidesDots, path.isInside(.control) { throw StoreError(.accessDenied, "this is not shown") }
            return try inner.read(path, request, into: sink)
        }
    }

    @Test("where nothing can be changed nothing is packed, and what is in chunks is shown if it can be read")
    func readOnly() throws {
        let rig = Rig()
        let packing = try rig.machine()
        for name in ["a", "b"] { try packing.write([1], at: Self.path("d/\(name)")) }
        try rig.memory.write([2], at: Self.path("plain"))
        for hidesDots in [false, true] {
            let folder = try TemporaryFolder()
            let store = makeChunkStore(on: Frozen(inner: rig.memory, hidesDots: hidesDots), folder: folder)
            try store.connect()
            #expect(store.capabilities.isReadOnly && store.capabilities.batch == nil)
            #expect(try store.exists(Self.path("d/a")) == !hidesDots)
            #expect(try store.contents(of: Self.path("plain")) == [2])
        }
    }

    @Test("without packing, what is in chunks is read, changed, renamed and removed, and new files are plain")
    func switchedOff() throws {
        let rig = Rig()
        let packing = try rig.machine()
        for name in ["a", "b", "c", "d"] { try packing.write([1], at: Self.path("d/\(name)")) }
        let store = try rig.machine(limit: nil)
        try store.write([2], at: Self.path("d/a"))
        try store.delete(Self.path("d/b"))
        try store.move(Self.path("d/c"), to: Self.path("d/e"))
        _ = try store.setAttributes(Attributes(mode: 0o600), at: Self.path("d/d"), ifVersion: nil)
        try store.write([3], at: Self.path("n/new"))
        #expect(try rig.memory.contents(of: Self.path("d/a")) == [2])
        #expect(try rig.memory.contents(of: Self.path("n/new")) == [3])
        #expect(try store.names(in: Self.path("d")) == ["a", "d", "e"])
        #expect(try Self.tree(packing) == Self.tree(store))
    }

    // MARK: Several machines

    @Test("machines that write at once lose nothing and agree")
    func races() throws {
        let rig = Rig()
        let machines = try (0..<3).map { _ in try rig.machine() }
        let results = race(6) { racer in
            for round in 0..<15 {
                let store = machines[racer % 3]
                try store.write([UInt8(racer), UInt8(round)], at: Self.path("d\(racer % 2)/\(racer) \(round)"))
                if round % 5 == 4 {
                    try store.move(
                        Self.path("d\(racer % 2)/\(racer) \(round)"), to: Self.path("moved/\(racer) \(round)"))
                }
            }
        }
        for result in results { try result.get() }
        let trees = try machines.map { try Self.tree($0) }
        #expect(trees[0] == trees[1] && trees[1] == trees[2])
        #expect(trees[0].values.filter { $0[0] == "file" }.count == 90)
        #expect(try Self.tree(rig.machine()) == trees[0])
        let numbers = try rig.chunks.map { Int($0.prefix(20))! }
        #expect(numbers == Array(1...numbers.count))
    }

    @Test("of machines that create one name, or replace one version, one wins")
    func conditions() throws {
        let rig = Rig()
        let machines = try (0..<4).map { _ in try rig.machine() }
        let path = Self.path("name")
        for _ in 0..<5 {
            let version = try? machines[0].metadata(of: path).version
            let condition = version.map { WriteCondition.ifVersion($0) } ?? .ifAbsent
            let results = race(4) { try machines[$0].write([UInt8($0)], at: path, PutOptions(condition: condition)) }
            let winners = results.enumerated().filter { (try? $0.element.get()) != nil }.map(\.offset)
            #expect(winners.count == 1)
            for machine in machines { #expect(try machine.contents(of: path) == [UInt8(winners[0])]) }
        }
    }

    @Test("what another machine has put there at the same moment is neither removed, nor moved, nor replaced by a move")
    func changedByTheFaster() throws {
        let (a, b) = (Self.path("a"), Self.path("b"))
        let changes: [(theirs: StorePath, change: (Version?) -> StoreChange)] = [
            (a, { .delete(a, ifVersion: $0) }), (a, { .move(a, to: b, ifVersion: $0) }),
            (b, { .move(a, to: b, ifVersion: $0, condition: .ifAbsent) }),
        ]
        for (theirs, change) in changes {
            let rig = Rig()
            let slow = try rig.machine(trust: .seconds(60))
            let known = try slow.write([1], at: a).version
            let fast = try rig.machine()
            try fast.write([2], at: theirs)
            #expect { try slow.apply([change(known)])[0].get() } throws: {
                ($0 as? StoreError)?.code == .preconditionFailed
            }
            #expect(try slow.contents(of: theirs) == [2], "\(change(known))")
            #expect(try Self.tree(rig.machine()) == Self.tree(slow))
            if theirs == b { #expect(try slow.contents(of: a) == [1]) }
        }
    }

    @Test("a file that others have replaced or removed is still whole for those who know its version")
    func formerVersions() throws {
        let rig = Rig()
        let (machine, other) = (try rig.machine(), try rig.machine(trust: .seconds(60)))
        let (a, b) = (Self.path("a"), Self.path("d/b"))
        let versions = try [a, b].map { try machine.write(Array("\($0)".utf8), at: $0).version! }
        rig.clock.advance(by: .seconds(61))
        #expect(try other.names(in: .root) == ["a", "d"])
        try machine.write([2], at: a)
        try machine.delete(b)
        try machine.delete(Self.path("d"))
        for store in [machine, other, try rig.machine()] {
            for (path, version) in zip([a, b], versions) {
                #expect(try store.contents(of: path, version: version) == Array("\(path)".utf8))
            }
        }
        let moved = UploadBody([.stored(path: b, version: versions[1], range: 0..<3)])
        _ = try other.put(moved, at: Self.path("moved"), PutOptions())
        #expect(try machine.contents(of: Self.path("moved")) == Array("d/b".utf8))
        // Not what never was, nor from a chunk that is not there.
        for version in ["c1.77", "c77.1", "c.1", "c1", "other"] {
            #expect { try machine.contents(of: a, version: Version(version)) } throws: {
                ($0 as? StoreError)?.code == .preconditionFailed
            }
            #expect { try machine.contents(of: b, version: Version(version)) } throws: {
                ($0 as? StoreError)?.code == .notFound
            }
        }
    }

    @Test("a small and a large file that two machines put at one path without knowing of each other are both kept")
    func hiddenByOthers() throws {
        let large = pattern(5_000)
        for isSmallFirst in [true, false] {
            let rig = Rig()
            let packer = try rig.machine(limit: 1_000, trust: .seconds(60))
            let other = try rig.machine(limit: 1_000, trust: .seconds(60))
            let path = Self.path("d/a")
            // Both know that nothing is there.
            for machine in [packer, other] { #expect(try machine.names(in: .root) == []) }
            let puts = [
                { try packer.write([1, 2], at: path, PutOptions(condition: .ifAbsent)) },
                { try other.write(large, at: path, PutOptions(condition: .ifAbsent)) },
            ]
            for put in isSmallFirst ? puts : puts.reversed() { _ = try put() }
            rig.clock.advance(by: .seconds(61))
            _ = try other.names(in: .root)
            for machine in [other, packer, try rig.machine(limit: 1_000)] {
                let files = try Self.tree(machine).values.filter { $0[0] == "file" }.map { $0[1] }
                #expect(Set(files) == ["\(large)", "[1, 2]"])
                #expect(try machine.contents(of: path) == large)
            }
            // It is kept once.
            rig.clock.advance(by: .seconds(61))
            _ = try other.names(in: .root)
            #expect(try other.names(in: path.parent!).count == 2)
        }
    }

    @Test("a small file that a large one hides without knowing of it is kept when that is replaced or goes next")
    func hiddenAndReplaced() throws {
        let (path, other) = (Self.path("d/a"), Self.path("d/b"))
        let changes: [(ChunkStore, Version) throws -> Void] = [
            { _ = try $0.write([3], at: path, PutOptions(condition: .ifVersion($1))) },
            { try $0.apply([.delete(path, ifVersion: $1)]).forEach { _ = try $0.get() } },
            { try $0.apply([.move(path, to: other, ifVersion: $1)]).forEach { _ = try $0.get() } },
        ]
        for change in changes {
            for isOwner in [true, false] {
                let rig = Rig()
                let packer = try rig.machine(limit: 1_000, trust: .seconds(60))
                let owner = try rig.machine(limit: 1_000, trust: .seconds(60))
                for machine in [packer, owner] { #expect(try machine.names(in: .root) == []) }
                let large = try owner.write(pattern(5_000), at: path, PutOptions(condition: .ifAbsent))
                try packer.write([1, 2], at: path, PutOptions(condition: .ifAbsent))
                // Somebody else, who knows of neither how it has come there.
                let changer = isOwner ? owner : try rig.machine(limit: 1_000)
                try change(changer, #require(large.version))
                rig.clock.advance(by: .seconds(61))
                for machine in [changer, packer, try rig.machine(limit: 1_000)] {
                    #expect(try Self.tree(machine).values.contains { $0[0] == "file" && $0[1] == "[1, 2]" })
                }
            }
        }
    }

    @Test(
        "a small file that a large one hides without knowing of it shows up when the machine is gone that put that there"
    )
    func hiddenByTheDead() throws {
        let (path, folder) = (Self.path("d/a"), Self.path("e"))
        for isMoved in [false, true] {
            let rig = Rig()
            let packer = try rig.machine(limit: 1_000, trust: .seconds(60))
            do {
                let owner = try rig.machine(limit: 1_000, trust: .seconds(60))
                if isMoved { try owner.write(pattern(5_000), at: Self.path("e/a")) }
                #expect(try packer.names(in: .root) == (isMoved ? ["e"] : []))
                if isMoved {
                    try owner.move(folder, to: path.parent!)
                } else {
                    try owner.write(pattern(5_000), at: path, PutOptions(condition: .ifAbsent))
                }
            }
            try packer.write([1, 2], at: path, PutOptions(condition: .ifAbsent))
            // Who only reads changes nothing.
            let reader = try rig.machine(limit: 1_000, trust: .zero)
            for _ in 0..<2 { #expect(try reader.names(in: path.parent!) == ["a"]) }
            rig.clock.advance(by: .seconds(61))
            #expect(try packer.names(in: path.parent!).first == "a")
            for machine in [packer, reader] {
                let files = try Self.tree(machine).values.filter { $0[0] == "file" }.map { $0[1] }
                #expect(files.sorted() == ["[1, 2]", "\(pattern(5_000))"].sorted())
                #expect(try machine.contents(of: path) == pattern(5_000))
            }
        }
    }

    @Test("what another machine packs at a place to which a directory is just being moved is kept")
    func packedMeanwhile() throws {
        for isDirectory in [true, false] {
            let rig = Rig()
            let mover = try rig.machine(limit: 1_000)
            let other = try rig.machine(limit: 1_000)
            let (source, target) = isDirectory ? ("a", "b") : ("a/big", "b/x")
            try mover.write([1], at: Self.path("a/x"))
            try mover.write([7], at: Self.path("a/big"))
            // A plain object, which goes first; the packed one that it hides is to follow.
            rig.faulty.inject(.fail(StoreError(.unavailable, "no")), on: .put, below: .control)
            try mover.write(pattern(5_000), at: Self.path("a/big"))
            rig.faulty.heal()
            let gate = Gate()
            rig.faulty.inject(.wait(gate), on: .put, .only(1), below: .control)
            let thread = WorkerThread(name: "move") {
                _ = mover.apply([.move(Self.path(source), to: Self.path(target), condition: .ifAbsent)])
            }
            #expect(gate.waitForCallers(1))
            try other.write([2], at: Self.path("b/x"))
            gate.open()
            thread.join()
            for machine in [mover, other, try rig.machine(limit: 1_000)] {
                let files = try Self.tree(machine).values.filter { $0[0] == "file" }.map { $0[1] }
                #expect(files.sorted() == ["[1]", "[2]", "\(pattern(5_000))"].sorted())
            }
        }
    }

    @Test("a file that takes the place of a packed one is no conflict, also when the chunk comes late that says so")
    func replacedOnPurpose() throws {
        let rig = Rig()
        let machine = try rig.machine(limit: 1_000)
        let path = Self.path("d/a")
        let small = try machine.write([1], at: path)
        rig.faulty.inject(.fail(StoreError(.unavailable, "no")), on: .put, below: .control)
        try machine.write(pattern(5_000), at: path, PutOptions(condition: .ifVersion(small.version!)))
        rig.faulty.heal()
        for _ in 0..<2 { #expect(try machine.names(in: path.parent!) == ["a"]) }
        try machine.write([3], at: Self.path("d/b"))
        try machine.delete(path)
        #expect(try machine.names(in: path.parent!) == ["b"])
        #expect(try Self.tree(rig.machine()) == Self.tree(machine))
    }

    @Test("small files are packed while a large one is on its way")
    func largeOnItsWay() throws {
        let rig = Rig()
        let machine = try rig.machine(limit: 1_000)
        let gate = Gate()
        rig.faulty.inject(.wait(gate), on: .put, below: Self.path("large"))
        let upload = WorkerThread(name: "large") { _ = try? machine.write(pattern(5_000), at: Self.path("large/a")) }
        #expect(gate.waitForCallers(1))
        try machine.write([1], at: Self.path("small"))
        #expect(try machine.names(in: .root) == ["small"])
        gate.open()
        upload.join()
        #expect(try machine.names(in: .root) == ["large", "small"])
    }

    @Test("within the time of trust no machine asks for news, afterwards it sees what others did")
    func trust() throws {
        let rig = Rig()
        let (writer, reader) = (try rig.machine(), try rig.machine(trust: .seconds(60)))
        try writer.write([1], at: Self.path("a"))
        #expect(try reader.names(in: .root) == [])
        let reads = rig.faulty.calls(.read)
        for _ in 0..<10 { #expect(try reader.names(in: .root) == []) }
        #expect(rig.faulty.calls(.read) == reads)
        rig.clock.advance(by: .seconds(61))
        #expect(try reader.names(in: .root) == ["a"])
        // Whoever writes sees all that was before.
        try writer.write([2], at: Self.path("a"))
        try reader.write([3], at: Self.path("b"))
        #expect(try reader.contents(of: Self.path("a")) == [2])
    }

    // MARK: Faults

    @Test("an answer that is lost is found on the store", arguments: 1...4)
    func lostAnswer(call: Int) throws {
        let rig = Rig()
        let store = try rig.machine()
        rig.faulty.inject(.loseAnswer, on: .put, .only(call))
        for number in 0..<3 { try store.write([UInt8(number)], at: Self.path("\(number)")) }
        #expect(try rig.chunks.count == 3)
        #expect(try store.names(in: .root) == ["0", "1", "2"])
    }

    @Test("a chunk that the store refuses changes nothing, and the next one goes on")
    func refused() throws {
        let rig = Rig()
        let store = try rig.machine()
        try store.write([1], at: Self.path("a"))
        rig.faulty.inject(.fail(StoreError(.quotaExceeded, "full")), on: .put)
        let results = store.apply([.delete(Self.path("a")), .put(UploadBody([2]), at: Self.path("b"), PutOptions())])
        for result in results { #expect(throws: StoreError.self) { try result.get() } }
        #expect(try Self.tree(store) == [Self.path("a"): ["file", "[1]", "0"]])
        rig.faulty.heal()
        try store.write([3], at: Self.path("b"))
        #expect(try store.names(in: .root) == ["a", "b"])
        #expect(try Self.tree(rig.machine()) == Self.tree(store))
    }

    @Test("a chunk that came to the store without the machine knowing is found at the next start")
    func crash() throws {
        let rig = Rig()
        let folder = try TemporaryFolder()
        do {
            let store = try rig.machine(trust: .seconds(60), in: folder)
            try store.write([1], at: Self.path("a"))
            rig.faulty.inject(.loseAnswer, on: .put)
            rig.faulty.inject(.fail(StoreError(.unavailable, "no")), on: .read)
            #expect(throws: StoreError.self) { try store.write([2], at: Self.path("a")) }
            rig.faulty.heal()
            #expect(try rig.chunks.count == 2)
        }
        let again = try rig.machine(in: folder)
        #expect(try again.contents(of: Self.path("a")) == [2])
        #expect(try Self.tree(rig.machine()) == Self.tree(again))
    }

    @Test("an older packed state does not come back when the large file that hides it is removed or renamed in a crash")
    func hiddenMember() throws {
        for isMove in [false, true] {
            let rig = Rig()
            let (a, b) = (Self.path("a"), Self.path("b"))
            do {
                let store = try rig.machine(limit: 1_000)
                try store.write([1], at: a)
                // The large one comes to the store, and the whiteout of the small one does not.
                rig.faulty.inject(.fail(StoreError(.quotaExceeded, "full")), on: .put, .only(2))
                try store.write(pattern(5_000), at: a)
                #expect(try rig.chunks.count == 1)
            }
            let store = try rig.machine(limit: 1_000)
            #expect(try store.contents(of: a) == pattern(5_000))
            rig.faulty.heal()
            rig.faulty.inject(.fail(StoreError(.quotaExceeded, "full")), on: .put)
            #expect(throws: StoreError.self) { if isMove { try store.move(a, to: b) } else { try store.delete(a) } }
            #expect(try rig.machine().contents(of: a) == pattern(5_000))
            rig.faulty.heal()
            if isMove { try store.move(a, to: b) } else { try store.delete(a) }
            #expect(try Self.tree(rig.machine()).keys.sorted() == (isMove ? [b] : []))
            #expect(try Self.tree(rig.machine()) == Self.tree(store))
        }
    }

    @Test("the chunk map of another store is not used")
    func foreignMap() throws {
        let folder = try TemporaryFolder()
        do { try Rig().machine(in: folder).write([1], at: Self.path("a")) }
        let rig = Rig()
        #expect(try rig.machine(in: folder).names(in: .root) == [])
        let other = Rig()
        try other.machine().write([2], at: Self.path("b"))
        #expect(try other.machine(in: folder).names(in: .root) == ["b"])
    }

    // MARK: Reading

    @Test("one file of a chunk is read alone, the second brings the whole chunk")
    func locality() throws {
        let rig = Rig()
        let store = try rig.machine(trust: .seconds(60))
        try Self.succeed(
            store.apply(
                (0..<10).map { .put(UploadBody(pattern(1_000, seed: $0)), at: Self.path("\($0)"), PutOptions()) }))
        let reads = rig.faulty.calls(.read)
        for number in 0..<10 as Range<UInt64> {
            let path = Self.path("\(number)")
            let version = try store.metadata(of: path).version
            #expect(try store.contents(of: path, version: version) == pattern(1_000, seed: number))
            #expect(
                try store.contents(of: path, 10..<20, version: version) == Array(pattern(1_000, seed: number)[10..<20]))
        }
        #expect(rig.faulty.calls(.read) - reads == 2)
    }

    @Test("wrong bytes are noticed, and read again")
    func corruption() throws {
        let rig = Rig()
        let store = try rig.machine(trust: .seconds(60))
        try store.write(pattern(1_000), at: Self.path("a"))
        rig.faulty.inject(.flipBit, on: .read, .only(1))
        #expect(try store.contents(of: Self.path("a")) == pattern(1_000))
        rig.faulty.heal()
        let path = try ChunkPaths.chunks / rig.chunks[0]
        var bytes = try rig.memory.contents(of: path)
        let head = try rig.head(0)
        bytes[Int(head.membersOffset + head.index.members[0].offset!) + 100] ^= 1
        try rig.memory.write(bytes, at: path)
        let fresh = try rig.machine()
        do {
            _ = try fresh.contents(of: Self.path("a"))
            Issue.record("wrong bytes were read")
        } catch { #expect(error.code == .corrupted) }
    }
}
