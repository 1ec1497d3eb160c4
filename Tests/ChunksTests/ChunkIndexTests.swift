import StoreAPI
import Testing
import Threading

@testable import Chunks

@Suite("The index of a chunk")
struct ChunkIndexTests {
    static let sample: ChunkIndex = {
        var index = ChunkIndex(
            volume: "0f1e", sequence: 17, nonce: "abc", created: Timestamp(seconds: 1_700_000_000, nanoseconds: 5))
        index.supersedes = [3, 4]
        var file = ChunkMember(.file, StorePath(Array("a/two\nlines \u{ff}=".utf8) + [0xff, 0xfe])!)
        file.size = 12
        file.offset = 512
        file.version = Version("c17.1")
        file.md5 = Array(0..<16)
        file.replaces = Version("\"an etag\"")
        file.attributes = Attributes(
            mode: 0o4755, uid: .max, gid: 0, accessed: Timestamp(seconds: -1, nanoseconds: 999_999_999),
            modified: Timestamp(seconds: -86_400, nanoseconds: 1), changed: Timestamp(nanoseconds: 0),
            extended: ["user.a=b%25%": [0, 10, 61], "user.empty": []], identity: "0123456789abcdef-01")
        var link = ChunkMember(.link, StorePath("b")!)
        link.link = StorePath("a/old")!
        var symbolicLink = ChunkMember(.symbolicLink, StorePath("s")!)
        symbolicLink.target = Array("../../etc".utf8)
        symbolicLink.size = 9
        symbolicLink.version = Version("c17.2")
        symbolicLink.attributes.extended = [:]
        var device = ChunkMember(.blockDevice, StorePath("dev")!)
        device.attributes.device = .max
        device.version = Version("c17.3")
        index.members = [
            link, file, symbolicLink, device, ChunkMember(.directory, StorePath("d/e")!),
            ChunkMember(.whiteout, StorePath("gone")!),
        ]
        return index
    }()

    @Test("comes back as it was written")
    func roundTrip() throws {
        #expect(try ChunkIndex(parsing: Self.sample.encoded) == Self.sample)
        let empty = ChunkIndex(volume: "", sequence: 1, nonce: "", created: Timestamp(nanoseconds: 0))
        #expect(try ChunkIndex(parsing: empty.encoded) == empty)
    }

    @Test("is written as the documentation says")
    func bytes() {
        var index = ChunkIndex(volume: "v", sequence: 2, nonce: "n", created: Timestamp(seconds: 1, nanoseconds: 2))
        var member = ChunkMember(.whiteout, StorePath("a/b")!)
        index.members = [member]
        member = ChunkMember(.file, StorePath("ab")!)
        member.size = 3
        member.offset = 1024
        member.version = Version("c2.0")
        member.attributes.mode = 0o644
        index.members.append(member)
        let expected = """
            cloudfusion-index 1
            12 volume=v
            14 sequence=2
            11 nonce=n
            23 created=1.000000002

            12 path=a/b
            9 type=w

            11 path=ab
            9 type=f
            9 size=3
            13 data=1024
            12 mode=644
            16 version=c2.0

            """
        #expect(String(decoding: index.encoded, as: UTF8.self) == expected)
    }

    @Test("a length that has one digit more because of its own digits is right")
    func lengths() throws {
        for count in 0..<1_200 {
            var records = Records()
            records.add("k", [UInt8](repeating: 0x78, count: count))
            var reader = RecordReader(records.bytes[...])
            let record = try #require(try reader.next())
            #expect(record.value.count == count)
            #expect(reader.isAtEnd)
        }
    }

    @Test("that is cut off has no member but those that are whole, and the one that was cut")
    func truncated() {
        let bytes = Self.sample.encoded
        var refused = 0
        for count in 0..<bytes.count {
            guard let index = try? ChunkIndex(parsing: Array(bytes[..<count])) else {
                refused += 1
                continue
            }
            #expect(index.members.dropLast() == Self.sample.members.prefix(max(0, index.members.count - 1)))
            #expect(index.members.last?.path == Self.sample.members.prefix(index.members.count).last?.path)
        }
        #expect(refused > bytes.count * 9 / 10)
    }

    @Test(
        "nonsense is refused",
        arguments: [
            "path=../up", "path=/absolute", "path=a//b", "path=", "path=a/", "path=.cloudfusion/format",
            "path=.wh.x", "path=a/.wh..wh..opq", "path=a\0b", "path=a/./b", "link=../up", "size=-1",
            "size=9223372036854775808", "size=1e3", "size=", "data=-5", "mode=10000", "mode=9", "uid=4294967296",
            "mtime=5", "mtime=5.5", "mtime=a.000000000", "md5=00", "md5=zz112233445566778899aabbccddeeff", "type=x",
            "type=", "type=ff", "rdev=-1", "path=" + String(repeating: "n", count: 252), "link=b",
        ])
    func nonsense(record: String) {
        let parts = record.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        var records = Records()
        records.bytes = ChunkIndex(volume: "v", sequence: 9, nonce: "n", created: Timestamp(nanoseconds: 0)).encoded
        records.bytes.append(0x0a)
        for (key, value) in [
            ("path", "b"), ("type", parts[0] == "link" ? "l" : "f"), ("size", "1"), ("data", "0"), ("version", "c9.0"),
            (parts[0], parts[1]),
        ] { records.add(key, value) }
        #expect(throws: StoreError.self) { try ChunkIndex(parsing: records.bytes) }
    }

    @Test("lengths that lie are refused, and none of them takes memory")
    func lyingLengths() {
        let head = "cloudfusion-index 1\n"
        for text in [
            "999999999 volume=v\n", "9999999999999999999999 volume=v\n", "5 volume=v\n", "0 volume=v\n", "-3 v=v\n",
            "011 volume=v\n", "11volume=v\n", "11 volume=v", "6 =vvv\n", "7 novalu\n", "\n\n", "x", "1",
        ] {
            #expect(throws: StoreError.self) { try ChunkIndex(parsing: Array((head + text).utf8)) }
        }
        let header = IndexHeader.encode(size: 0o77777777777, modified: Timestamp(nanoseconds: 0))
        #expect(throws: StoreError.self) { try ChunkHead(header, size: 600) }
        #expect(throws: StoreError.self) { try ChunkHead(header, size: .max) }
        #expect(throws: StoreError.self) { try ChunkHead([], size: 0) }
        #expect(throws: StoreError.self) { try ChunkHead([UInt8](repeating: 0, count: 2048), size: 2048) }
    }

    @Test("random changes are refused or read, and end no program")
    func mutations() {
        var random = SplitMix(seed: 20_261_122)
        let bytes = Self.sample.encoded
        var refused = 0
        for _ in 0..<20_000 {
            var changed = bytes
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let position = Int.random(in: 0..<changed.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: changed[position] = UInt8.random(in: 0...255, using: &random)
                case 1: changed.remove(at: position)
                default: changed.insert(UInt8.random(in: 0...255, using: &random), at: position)
                }
            }
            do {
                for member in try ChunkIndex(parsing: changed).members { #expect(member.path.canBePacked) }
            } catch { refused += 1 }
        }
        #expect(refused > 10_000)
    }
}
