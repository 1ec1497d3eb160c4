import StoreAPI
import Testing
import Threading

@testable import Stores

@Suite("Attributes as user metadata")
struct POSIXMetadataTests {
    @Test(
        "a mode is read as s3fs and rclone write it",
        arguments: [
            ("33188", 0o100644), ("0100644", 0o100644), ("100644", 0o100644), ("16877", 0o040755), ("40755", 0o040755),
            ("41471", 0o120777), ("4516", 0o010644), ("10644", 0o010644), ("493", 493), ("0644", 0o644),
            ("42755", 0o042755), ("41777", 0o041777), ("17407", 0o041777), ("60644", 0o060644), ("8612", 0o020644),
        ] as [(String, UInt32)])
    func modes(text: String, mode: UInt32) {
        #expect(POSIXMetadata.parseMode(text) == mode)
    }

    @Test("what is no mode is none", arguments: ["", "rwxr-xr-x", "-1", "9999999999"])
    func badModes(text: String) { #expect(POSIXMetadata.parseMode(text) == nil) }

    @Test("each regular mode is read alike in the three forms")
    func allModes() {
        for permissions in UInt32(0)...0o7777 {
            let mode = 0o100000 | permissions
            #expect(POSIXMetadata.parseMode(String(mode)) == mode)
            #expect(POSIXMetadata.parseMode(String(mode, radix: 8)) == mode)
            #expect(POSIXMetadata.parseMode("0" + String(mode, radix: 8)) == mode)
        }
    }

    @Test(
        "times are read with and without fractions, and as RFC 3339",
        arguments: [
            ("1700000000", 1_700_000_000_000_000_000), ("1700000000.5", 1_700_000_000_500_000_000),
            ("1700000000.123456789", 1_700_000_000_123_456_789), ("-1.5", -1_500_000_000),
            ("2024-02-29T12:34:56.000000001Z", 1_709_210_096_000_000_001),
            ("2024-02-29T13:34:56+01:00", 1_709_210_096_000_000_000),
        ] as [(String, Int64)])
    func times(text: String, nanoseconds: Int64) {
        #expect(POSIXMetadata.parseTime(text)?.nanoseconds == nanoseconds)
    }

    @Test("what is no time is none", arguments: ["", ".", "1.x", "yesterday", "99999999999999999999", "NaN", "1e9"])
    func badTimes(text: String) { #expect(POSIXMetadata.parseTime(text) == nil) }

    @Test(
        "all attributes of all kinds come back",
        arguments: [FileKind.file, .symbolicLink, .fifo, .blockDevice, .socket])
    func roundTrip(kind: FileKind) {
        let attributes = Attributes(
            mode: 0o4751, uid: 4_294_967_294, gid: 7, accessed: Timestamp(nanoseconds: 5),
            modified: Timestamp(nanoseconds: -86_399_000_000_001), changed: Timestamp(seconds: 1_700_000_000),
            device: kind == .blockDevice ? 0x801 : nil,
            extended: ["user.ä \"\\": Array(0...255), "user.empty": []])
        let values = Dictionary(
            uniqueKeysWithValues: POSIXMetadata.encode(kind, attributes).values.map { ($0.name, $0.value) })
        let found = POSIXMetadata.decode(isDirectoryKey: false) { values[$0] }
        #expect(found.kind == kind)
        #expect(found.attributes == attributes)
    }

    @Test("s3fs's extended attributes are read")
    func s3fsExtended() {
        // As s3fs 1.90 has written them.
        let text = "%7B%22user.bin%22%3A%22AAH/%22%2C%22user.colour%22%3A%22Ymx1ZSAieCI%3D%22%7D"
        let found = POSIXMetadata.decode(isDirectoryKey: false) { $0 == "xattr" ? text : nil }
        #expect(found.attributes.extended == ["user.bin": [0, 1, 0xff], "user.colour": Array("blue \"x\"".utf8)])
    }

    @Test("extended attributes that do not fit are left out, and that is said")
    func tooLarge() {
        let large = Attributes(mode: 0o600, extended: ["user.large": [UInt8](repeating: 1, count: 3000)])
        let encoded = POSIXMetadata.encode(.file, large)
        #expect(!encoded.keepsExtended)
        #expect(encoded.values.map(\.name) == ["mode"])
    }

    @Test("types go by the end of a name")
    func contentTypes() {
        #expect(ContentTypes.type(of: FileName("A.JPG")!) == "image/jpeg")
        #expect(ContentTypes.type(of: FileName("archive.tar.gz")!) == "application/gzip")
        #expect(ContentTypes.type(of: FileName(".txt")!) == ContentTypes.unknown)
        #expect(ContentTypes.type(of: FileName("no ending")!) == ContentTypes.unknown)
    }
}
