import CShim
import Glibc
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import Chunks
@testable import Stores

@Suite("A chunk as an archive")
struct TarTests {
    static func member(
        _ kind: ChunkMember.Kind, _ path: [UInt8], mode: UInt32 = 0o644, uid: UInt32 = 0, gid: UInt32 = 0,
        time: Timestamp = Timestamp(seconds: 1_234_567_890), target: String? = nil, link: String? = nil,
        device: UInt64? = nil, extended: [String: [UInt8]]? = nil
    ) -> ChunkMember {
        var member = ChunkMember(kind, StorePath(path)!)
        member.attributes = Attributes(
            mode: mode, uid: uid, gid: gid, modified: time, device: device, extended: extended)
        member.target = target.map { Array($0.utf8) }
        member.size = Int64(target?.utf8.count ?? 0)
        member.link = link.map { StorePath($0)! }
        member.version = Version("c1.0")
        return member
    }

    static func pack(
        _ members: [(ChunkMember, [UInt8])], in folder: TemporaryFolder, as name: String = "chunk.tar"
    ) throws -> ChunkFile {
        var index = ChunkIndex(volume: "v", sequence: 1, nonce: "n", created: Timestamp(seconds: 1_700_000_000))
        index.members = members.map { member, bytes in
            var member = member
            if member.kind == .file { member.size = Int64(bytes.count) }
            return member
        }
        let chunk = try ChunkFile(index, in: folder.path) { members[$0].1 }
        let store = LocalStore(path: folder.path, fsync: false)
        defer { store.shutdown() }
        _ = try store.put(chunk.body, at: StorePath(name)!, PutOptions())
        return chunk
    }

    static let extraction = [
        "tar", "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs",
        "--xattrs-include=*", "--warning=no-unknown-keyword", "--warning=no-timestamp", "--anchored",
        "--exclude=.cloudfusion/index",
    ]

    @Test("GNU tar makes of it what was packed: all kinds, any names, times and owners")
    func everyKind() throws {
        let folder = try TemporaryFolder()
        let time = Timestamp(seconds: 1_600_000_000, nanoseconds: 123_456_789)
        let long = Array(String(repeating: "long name ", count: 25).utf8)
        var members: [(ChunkMember, [UInt8])] = [
            (Self.member(.directory, Array("dir".utf8), mode: 0o2750, uid: 7, gid: 8), []),
            (Self.member(.directory, Array("dir/empty".utf8), mode: 0o555), []),
            (Self.member(.file, Array("dir/plain".utf8)), pattern(1_000)),
            (Self.member(.file, Array("dir/empty file".utf8), mode: 0o4711), []),
            (Self.member(.file, Array("dir/nanoseconds".utf8), mode: 0, time: time), pattern(513)),
            (Self.member(.file, Array("before 1970".utf8), time: Timestamp(seconds: -5, nanoseconds: 7)), [1]),
            (Self.member(.file, Array("after 2242".utf8), time: Timestamp(seconds: 8_600_000_000)), [2]),
            (Self.member(.file, Array("owner".utf8), uid: 3_000_000_000, gid: 2_097_152), [3]),
            (Self.member(.file, Array("-rf".utf8)), [4]), (Self.member(.file, Array("two\nlines\t".utf8)), [5]),
            (Self.member(.file, Array("*?[a]".utf8)), [6]), (Self.member(.file, [0xff, 0xfe, 0x80]), [7]),
            (Self.member(.file, Array("grüß".utf8)), [8]), (Self.member(.file, Array("u\u{308}".utf8)), [14]),
            (Self.member(.file, long), [9]),
            (Self.member(.file, Array("d".utf8) + long + [0x2f] + long + [0x2f] + Array("deep".utf8)), [10]),
            (Self.member(.file, Array(".cloudfusion-not".utf8)), [11]),
            (Self.member(.file, Array("in/.cloudfusion/index".utf8)), [12]),
            (Self.member(.symbolicLink, Array("link".utf8), mode: 0o777, time: time, target: "dir/plain"), []),
            (
                Self.member(
                    .symbolicLink, Array("far".utf8), mode: 0o777, target: String(repeating: "../", count: 600)), []
            ),
            (Self.member(.fifo, Array("fifo".utf8), mode: 0o600, time: time), []),
            (
                Self.member(.file, Array("attributed".utf8), extended: ["user.binary": [0, 1, 255], "user.e": []]), [13]
            ),
        ]
        // A device can be made by nobody but root, and not in every container.
        if mknod(folder.path + "/try", Glibc.S_IFCHR | 0o600, Glibc.dev_t(0x103)) == 0 {
            members.append((Self.member(.characterDevice, Array("null".utf8), mode: 0o666, device: 0x103), []))
            members.append((Self.member(.blockDevice, Array("disk".utf8), mode: 0o660, device: 0x4931_03e0), []))
        }
        let chunk = try Self.pack(members, in: folder)
        let archive = folder.path + "/chunk.tar"
        let listed = try Program.run("tar", "--list", "--verbose", "--file", archive, "--warning=no-unknown-keyword")
        #expect(listed.split(separator: 0x0a).count == members.count + 1)

        let target = folder.path + "/out"
        mkdir(target, 0o755)
        var words = Self.extraction
        words += ["--file", archive, "--directory", target]
        try Program.runAll(words)
        let found = try HostFile.tree(target)
        let implied: Set<[UInt8]> = [
            Array("d".utf8) + long, Array("d".utf8) + long + [0x2f] + long, Array("in".utf8),
            Array("in/.cloudfusion".utf8),
        ]
        #expect(Set(found.keys).subtracting(implied) == Set(members.map(\.0.path.bytes)))
        for (member, bytes) in members {
            let file = try #require(found[member.path.bytes])
            #expect(file.mode == member.attributes.mode, "\(member.path)")
            #expect(file.uid == member.attributes.uid && file.gid == member.attributes.gid, "\(member.path)")
            if let time = file.modified { #expect(time == member.attributes.modified?.nanoseconds, "\(member.path)") }
            switch member.kind {
            case .file: #expect(file.type == Glibc.S_IFREG && file.bytes == bytes, "\(member.path)")
            case .symbolicLink: #expect(file.type == Glibc.S_IFLNK && file.bytes == member.target, "\(member.path)")
            case .directory: #expect(file.type == Glibc.S_IFDIR, "\(member.path)")
            case .fifo: #expect(file.type == Glibc.S_IFIFO, "\(member.path)")
            case .characterDevice: #expect(file.type == Glibc.S_IFCHR && file.device == 0x103)
            case .blockDevice: #expect(file.type == Glibc.S_IFBLK && file.device == 0x4931_03e0)
            case .link, .whiteout: Issue.record("unexpected")
            }
        }
        var value = [UInt8](repeating: 0, count: 10)
        #expect(getxattr(target + "/attributed", "user.binary", &value, 10) == 3 && Array(value[..<3]) == [0, 1, 255])
        #expect(getxattr(target + "/attributed", "user.e", &value, 10) == 0)

        // The index tells the same, and where the bytes are.
        let store = LocalStore(path: folder.path, fsync: false)
        defer { store.shutdown() }
        let head = try ChunkHead.read(StorePath("chunk.tar")!, of: store)
        #expect(head.index == chunk.index && head.size == chunk.size && head.membersOffset == chunk.membersOffset)
        for (member, (_, bytes)) in zip(head.index.members, members) where member.kind == .file {
            let start = head.membersOffset + member.offset!
            let found = try store.contents(of: StorePath("chunk.tar")!, start..<(start + member.size))
            #expect(found == bytes, "\(member.path)")
        }
    }

    @Test("hard links and whiteouts are members that GNU tar knows")
    func links() throws {
        let folder = try TemporaryFolder()
        let target = folder.path + "/out"
        mkdir(target, 0o755)
        _ = try Self.pack(
            [
                (Self.member(.directory, Array("d".utf8), mode: 0o755), []),
                (Self.member(.file, Array("d/a".utf8)), [1]),
            ],
            in: folder, as: "1.tar")
        _ = try Self.pack(
            [
                (Self.member(.link, Array("new/dir/b".utf8), link: "d/a"), []),
                (Self.member(.file, Array("d/c".utf8)), [2]), (Self.member(.whiteout, Array("d/a".utf8)), []),
            ], in: folder, as: "2.tar")
        for name in ["1.tar", "2.tar"] {
            var words = Self.extraction
            words += ["--file", folder.path + "/" + name, "--directory", target]
            try Program.runAll(words)
        }
        let found = try HostFile.tree(target)
        #expect(
            Set(found.keys.map { String(decoding: $0, as: UTF8.self) }) == [
                "d", "d/a", "d/c", "d/.wh.a", "new", "new/dir", "new/dir/b",
            ])
        #expect(found[Array("new/dir/b".utf8)]?.bytes == [1])
    }

    @Test("an index longer than the first piece of a chunk is read in two requests")
    func longIndex() throws {
        let folder = try TemporaryFolder()
        let members = (0..<2_000).map { number in
            (Self.member(.file, Array("directory/file number \(number)".utf8)), pattern(100, seed: UInt64(number)))
        }
        let chunk = try Self.pack(members, in: folder)
        let local = LocalStore(path: folder.path, fsync: false)
        let store = FaultyStore(local)
        defer { store.shutdown() }
        #expect(chunk.membersOffset > ChunkHead.firstPiece)
        let head = try ChunkHead.read(StorePath("chunk.tar")!, of: store)
        #expect(head.index == chunk.index)
        #expect(store.calls(.read) == 2)
    }

    @Test("a chunk that is cut off, and a file that is no chunk, are refused")
    func cutOff() throws {
        let folder = try TemporaryFolder()
        _ = try Self.pack([(Self.member(.file, Array("a".utf8)), pattern(10_000))], in: folder)
        let store = LocalStore(path: folder.path, fsync: false)
        defer { store.shutdown() }
        let bytes = try store.contents(of: StorePath("chunk.tar")!)
        for count in [0, 1, 511, 512, 600, 1_024, 5_000] {
            try store.write(Array(bytes[..<count]), at: StorePath("cut.tar")!)
            #expect(throws: StoreError.self) { try ChunkHead.read(StorePath("cut.tar")!, of: store) }
        }
        var changed = bytes
        changed[130] ^= 1
        try store.write(changed, at: StorePath("cut.tar")!)
        #expect(throws: StoreError.self) { try ChunkHead.read(StorePath("cut.tar")!, of: store) }
    }
}
