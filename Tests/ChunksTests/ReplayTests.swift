import Glibc
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

/// Random batches of changes of a small tree, the same for the same seed.
struct RandomChanges {
    var random: SplitMix

    static let names: [[UInt8]] =
        ["a", "b", "c", "two words", "-f", "new\nline", "gr\u{fc}n"].map { Array($0.utf8) } + [[0xff, 0x80]]

    mutating func path() -> StorePath {
        var path = StorePath.root
        for _ in 0...Int.random(in: 0...2, using: &random) {
            path = path.appending(FileName(Self.names.randomElement(using: &random)!)!)
        }
        return path
    }

    mutating func attributes() -> Attributes {
        Attributes(
            mode: [0o644, 0o600, 0o4755, 0o444].randomElement(using: &random)!,
            uid: UInt32.random(in: 0...3, using: &random),
            gid: 0,
            modified: Timestamp(
                seconds: Int64.random(in: 1...2_000_000_000, using: &random),
                nanoseconds: Bool.random(using: &random) ? 0 : 123_456_789))
    }

    /// - Parameter extent: Bytes of the largest file.
    mutating func change(extent: Int = 3_000) -> StoreChange {
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<35:
            let bytes = pattern(Int.random(in: 0...extent, using: &random), seed: random.next())
            return .put(UploadBody(bytes), at: path(), PutOptions(attributes: attributes()))
        case 35..<40:
            return .put(
                UploadBody(Array("../target \(random.next())".utf8)), at: path(),
                PutOptions(kind: .symbolicLink, attributes: Attributes(mode: 0o777, modified: attributes().modified)))
        case 40..<42: return .put(UploadBody([UInt8]()), at: path(), PutOptions(kind: .fifo, attributes: attributes()))
        case 42..<50:
            return .createDirectory(path(), Attributes(mode: [0o755, 0o700].randomElement(using: &random)!))
        case 50..<60: return .setAttributes(attributes(), at: path(), ifVersion: nil)
        case 60..<75: return .move(path(), to: path())
        case 75..<82:
            let other = Bool.random(using: &random) ? attributes() : nil
            return .copy(path(), to: path(), CopyOptions(attributes: other))
        default: return .delete(path())
        }
    }

    mutating func batch(extent: Int = 3_000) -> [StoreChange] {
        (0..<Int.random(in: 1...20, using: &random)).map { _ in change(extent: extent) }
    }
}

@Suite("Chunks extracted one after the other with GNU tar")
struct ReplayTests {
    /// What a store shows, as a disk would.
    static func view(_ store: any Store, _ directory: StorePath = .root) throws -> [[UInt8]: HostFile] {
        var all: [[UInt8]: HostFile] = [:]
        for entry in try store.entries(of: directory) {
            let path = directory.appending(entry.name)
            let attributes = try #require(entry.metadata.attributes)
            let (type, mode): (UInt32, UInt32) =
                switch entry.metadata.kind {
                case .directory: (Glibc.S_IFDIR, 0o755)
                case .symbolicLink: (Glibc.S_IFLNK, 0o777)
                case .fifo: (Glibc.S_IFIFO, 0o644)
                default: (Glibc.S_IFREG, 0o644)
                }
            let isDirectory = entry.metadata.kind == .directory
            // A disk keeps no permissions of symbolic links.
            let told = entry.metadata.kind == .symbolicLink ? nil : attributes.mode
            all[path.bytes] = HostFile(
                type: type, mode: told ?? mode, uid: attributes.uid ?? 0, gid: attributes.gid ?? 0,
                modified: isDirectory ? nil : attributes.modified?.nanoseconds, device: 0,
                bytes: isDirectory ? [] : try store.contents(of: path, version: entry.metadata.version))
            if isDirectory { all.merge(try view(store, path)) { $1 } }
        }
        return all
    }

    /// What the documented script makes of the chunks of a local store.
    static func extracted(_ store: TemporaryFolder) throws -> [[UInt8]: HostFile] {
        let target = try TemporaryFolder()
        let script = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        try Program.run("sh", "/\(script)/docs/extract-chunks.sh", store.path + "/.cloudfusion/chunks", target.path)
        return try HostFile.tree(target.path)
    }

    static func expectSame(
        _ found: [[UInt8]: HostFile], _ expected: [[UInt8]: HostFile], _ seed: UInt64, _ who: String = "GNU tar"
    ) {
        for path in Set(found.keys).union(expected.keys).sorted(by: { $0.lexicographicallyPrecedes($1) }) {
            let (one, other) = (found[path], expected[path])
            let name = String(decoding: path, as: UTF8.self)
            #expect(
                one == other,
                "\(who): '\(name)', seed \(seed): \(one?.description ?? "-") and \(other?.description ?? "-")")
        }
    }

    @Test("the documentation shows the script that is tested")
    func documentedScript() throws {
        let top = "/" + #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        func text(_ name: String) throws -> String {
            String(decoding: try Program.run("cat", top + "/docs/" + name), as: UTF8.self)
        }
        let script = try text("extract-chunks.sh").split(separator: "\n").filter { !$0.hasPrefix("#") }
        #expect(try text("chunk-format.md").contains(script.joined(separator: "\n")))
    }

    @Test("give the tree that the store shows, after any history", arguments: 1...12)
    func replay(seed: UInt64) throws {
        let (base, here) = (try TemporaryFolder(), try TemporaryFolder())
        let local = LocalStore(path: base.path, fsync: false)
        let store = makeChunkStore(on: local, maxChunkSize: 20_000, trust: .seconds(60), folder: here)
        defer { store.shutdown() }
        try store.connect()
        // The same on a store that does one after the other: who is right about what a batch does.
        let memory = MemoryStore()
        var changes = RandomChanges(random: SplitMix(seed: seed))
        var done = 0
        for round in 0..<30 {
            let batch = changes.batch()
            for (change, result) in zip(batch, store.apply(batch)) {
                let expected = memory.applyEach([change])[0]
                switch (result, expected) {
                case (.success, .success): done += 1
                case (.failure(let one), .failure(let other)):
                    #expect(
                        one.code == other.code || other.code == .notADirectory || one.code == .notADirectory,
                        "\(change)")
                default: Issue.record("\(change), seed \(seed): \(result), expected \(expected)")
                }
            }
            guard round % 10 == 9 else { continue }
            let seen = try Self.view(store)
            Self.expectSame(seen.mapValues(\.withoutOwner), try Self.view(memory).mapValues(\.withoutOwner), seed)
            Self.expectSame(try Self.extracted(base), seen, seed)
        }
        #expect(done > 50)
    }
}

extension HostFile {
    /// Stores differ in what they say where nothing was told them.
    var withoutOwner: HostFile {
        var copy = self
        if type == Glibc.S_IFDIR || type == Glibc.S_IFLNK { copy.mode = 0 }
        copy.uid = 0
        copy.gid = 0
        return copy
    }
}
