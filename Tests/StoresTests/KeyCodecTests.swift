import StoreAPI
import Testing
import Threading

@testable import Stores

@Suite("Names as keys")
struct KeyCodecTests {
    private let quoting = KeyCodec(keepsControls: false)
    private let keeping = KeyCodec(keepsControls: true)

    @Test(
        "a legal name is its own key", arguments: ["a", "Grüße", "日本 語", "100%25", "a+b?c#d", "...", "␀／．", "e\u{301}"])
    func plain(text: String) {
        #expect(quoting.encode(FileName(text)!) == Array(text.utf8))
        #expect(quoting.decode(Array(text.utf8)) == FileName(text))
    }

    @Test("what a key cannot hold is quoted as rclone does it")
    func quoted() {
        func key(_ bytes: [UInt8]) -> String { String(decoding: quoting.encode(FileName(bytes)!), as: UTF8.self) }
        #expect(key([0x61, 0xff, 0x62]) == "a‛FFb")
        #expect(key([0x0a]) == "‛0A")
        #expect(key(Array("it‛s".utf8)) == "it‛‛s")
        #expect(key([0xed, 0xa0, 0x80]) == "‛ED‛A0‛80")
        #expect(key([0xef, 0xbf, 0xbf]) == "‛EF‛BF‛BF")
    }

    @Test(
        "a key that is the form of no name is refused",
        arguments: ["", ".", "..", "‛", "‛x", "‛61", "‛ff", "a\nb", "‛E2‛80‛9B", "‛C3‛BC"])
    func refused(text: String) {
        #expect(quoting.decode(Array(text.utf8)) == nil)
    }

    @Test("more than 255 bytes are no name, and invalid UTF-8 is no key")
    func lengths() {
        #expect(quoting.decode([UInt8](repeating: 0x61, count: 256)) == nil)
        #expect(quoting.decode([0x61, 0xff]) == nil)
    }

    @Test("where the server carries control characters, they stand for themselves")
    func controls() {
        let controls = Array(1...0x1F) + [0x7F] + Array("\u{FFFE}\u{FFFF}".utf8)
        #expect(keeping.encode(FileName(controls)!) == controls)
        #expect(keeping.decode(controls) == FileName(controls))
        #expect(keeping.encode(FileName([0x0a, 0xff])!) == [0x0a] + Array("‛FF".utf8))
        #expect(keeping.decode(Array("‛0A".utf8)) == nil)
        #expect(!KeyCodec.isPlain(controls) && !KeyCodec.isPlain(Array("‛0A".utf8)) && KeyCodec.isPlain([0xff]))
    }

    @Test("where the server changes some marks in names, no key has them")
    func marks() {
        let codec = KeyCodec(keepsControls: false, keepsMarks: false)
        func key(_ name: String) -> String { String(decoding: codec.encode(FileName(name)!), as: UTF8.self) }
        #expect(key("a.b") == "a.b" && key(".a") == ".a" && key("ä") == "ä")
        #expect(key("a.") == "a‛2E" && key("...") == "..‛2E" && key("a\\b") == "a‛5Cb")
        #expect(key("\u{7F}\u{81}") == "‛7F‛C2‛81" && key("\u{A0}") == "\u{A0}")
        // Others may have made such a key: it stands for no name that is written so.
        for foreign in ["a.", "a\\b", "\u{7F}", "\u{81}"] { #expect(codec.decode(Array(foreign.utf8)) == nil) }
    }

    @Test("every name comes back, and two names never have one key", arguments: [false, true], [false, true])
    func roundTrip(keepsControls: Bool, keepsMarks: Bool) {
        let codec = KeyCodec(keepsControls: keepsControls, keepsMarks: keepsMarks)
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SplitMix(seed: seed)
        let pieces: [[UInt8]] = [
            [0x61], [0xff], [0xc3], [0xbc], [0xe2, 0x80, 0x9b], [0xe2], [0x80], [0x9b], [0x41], [0x46], [0x30], [0x0a],
            [0x7f], [0xef, 0xbf, 0xbe], [0xf0, 0x9f, 0x8e, 0x89], [0x20], [0x2e], [0x5c],
            [0xc2, 0x81],
        ]
        var names: [[UInt8]: FileName] = [:]
        for _ in 0..<20_000 {
            let bytes = (0..<Int.random(in: 1...8, using: &random)).flatMap { _ in pieces.randomElement(using: &random)!
            }
            guard let name = FileName(bytes) else { continue }
            let key = codec.encode(name)
            #expect(codec.decode(key) == name, "seed \(seed), name \(bytes)")
            #expect(names[key] == nil || names[key] == name, "seed \(seed), key \(key)")
            names[key] = name
            // A key as somebody else may have made it: either it is shown and found again, or it is refused.
            if let foreign = codec.decode(bytes) { #expect(codec.encode(foreign) == bytes, "seed \(seed)") }
        }
    }
}
