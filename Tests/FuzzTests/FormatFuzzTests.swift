import StoreAPI
import StoreHTTP
import Testing
import Threading

@testable import Catalog
@testable import Stores

/// What comes in from stores, byte by byte: any input is either refused or gives a value that makes sense.
@Suite("Hostile input")
struct FormatFuzzTests {
    @Test("XML is a tree no larger than the text, or an error")
    func xml() throws {
        try Fuzzer("xml", words: ["<Contents>", "</Contents>", "<a>", "<!DOCTYPE a [", "<?xml", "xmlns:a=\"b\""]).run {
            input, _ in
            guard let root = try? XMLElement.parse(input) else { return nil }
            let size = weight(root)
            // U+FFFD takes three bytes in the place of one.
            return size > 3 * input.count + 8 ? "\(size) bytes of text came out of \(input.count)" : nil
        }
    }

    private func weight(_ element: XMLElement) -> Int {
        element.text.utf8.count + element.name.utf8.count + element.children.reduce(0) { $0 + weight($1) }
    }

    @Test("percent-encoding, Base64 and hexadecimal give back what was put in")
    func textEncodings() throws {
        try Fuzzer("text").run { input, _ in
            let text = String(decoding: input, as: UTF8.self)
            guard TextEncoding.percentDecode(TextEncoding.percentEncode(input)) == input else { return "percent" }
            guard TextEncoding.bytes(base64: TextEncoding.base64(input)) == input else { return "Base64" }
            guard TextEncoding.bytes(hex: TextEncoding.hex(input)) == input else { return "hexadecimal" }
            for plus in [false, true] {
                if let bytes = TextEncoding.percentDecode(text, plusIsSpace: plus), bytes.count > text.utf8.count {
                    return "percent-decoding made it longer"
                }
            }
            if let bytes = TextEncoding.bytes(base64: text), bytes.count > text.utf8.count { return "Base64 grew" }
            if let bytes = TextEncoding.bytes(hex: text), 2 * bytes.count != text.utf8.count { return "hexadecimal" }
            return nil
        }
    }

    @Test("times are read as what they are written as")
    func times() throws {
        try Fuzzer("times", words: ["GMT", "Z", "+14:00", "-99:99", "Feb", "T", "."]).run { input, random in
            let text = String(decoding: input, as: UTF8.self)
            for time in [Timestamp(httpDate: text), Timestamp(iso8601: text), POSIXMetadata.parseTime(text)] {
                guard let time else { continue }
                let parts = CivilTime(time)
                guard (1...12).contains(parts.month), (1...31).contains(parts.day) else { return "\(parts)" }
            }
            let time = Timestamp(nanoseconds: Int64(bitPattern: random.next()))
            let written = POSIXMetadata.encode(.file, Attributes(modified: time)).values
            guard let value = written.first(where: { $0.name == "mtime" })?.value,
                POSIXMetadata.parseTime(value) == time
            else { return "\(time) is written as \(written)" }
            return nil
        }
    }

    @Test("attributes of objects are legal ones, and are read as they were written")
    func attributes() throws {
        try Fuzzer("attributes", words: ["mode:", "0100644", "33188", "mtime:", "xattr:", "%7B%22", "uid:4294967296"])
            .run { input, _ in
                let values = headers(input)
                for isDirectoryKey in [false, true] {
                    let told = POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { values[$0] }
                    if let mode = told.attributes.mode, mode > 0o7777 { return "mode \(mode)" }
                    if isDirectoryKey, told.kind != .directory { return "\(String(describing: told.kind))" }
                    guard !isDirectoryKey else { continue }
                    let kind = told.kind ?? .file
                    let (written, isWhole) = POSIXMetadata.encode(kind, told.attributes)
                    for (name, value) in written where value.utf8.contains(where: { $0 < 0x20 || $0 > 0x7E }) {
                        return "the header \(name) would be \(value.debugDescription)"
                    }
                    let again = POSIXMetadata.decode(isDirectoryKey: false) { name in
                        written.first { $0.name == name }?.value
                    }
                    var expected = told.attributes
                    if !isWhole || expected.extended?.isEmpty == true { expected.extended = nil }
                    if kind != .characterDevice, kind != .blockDevice { expected.device = nil }
                    if expected.mode == nil, kind != .file, kind != .directory {
                        expected.mode = kind == .symbolicLink ? 0o777 : 0o644
                    }
                    guard again.attributes == expected else { return "\(expected) became \(again.attributes)" }
                }
                return nil
            }
    }

    private func headers(_ input: [UInt8]) -> [String: String] {
        var values: [String: String] = [:]
        for line in String(decoding: input, as: UTF8.self).split(separator: "\n") {
            guard let colon = line.firstIndex(of: ":") else { continue }
            values[line[..<colon].lowercased()] = String(line[line.index(after: colon)...])
        }
        return values
    }

    @Test("a key stands for one name, and a name for one key")
    func keys() throws {
        try Fuzzer("keys", words: ["‛", "‛0A", "‛‛", "\u{FFFE}", "\u{FFFF}", "\u{1}"]).run { input, _ in
            for codec in [KeyCodec(keepsControls: true), KeyCodec(keepsControls: false)] {
                if let name = codec.decode(input), codec.encode(name) != input { return "decoded \(name.bytes)" }
                if let name = FileName(input) {
                    let key = codec.encode(name)
                    guard codec.decode(key) == name else { return "encoded as \(key)" }
                    guard String(validating: key, as: UTF8.self) != nil else { return "the key is no UTF-8" }
                }
            }
            if let path = StorePath(input) {
                guard path.components.reduce(StorePath.root, { $0.appending($1) }) == path else { return "\(path)" }
            }
            return nil
        }
    }

    @Test("the map of a cached file is refused, or is in order and written as it was read")
    func ranges() throws {
        try Fuzzer("ranges").run { input, _ in
            guard let set = RangeSet(encoded: input) else { return nil }
            guard set.encoded == input else { return "written as \(set.encoded)" }
            var end: Int64 = -1
            for range in set.ranges {
                guard range.lowerBound > end, !range.isEmpty, range.lowerBound >= 0 else { return "\(set.ranges)" }
                end = range.upperBound
            }
            return set.count >= 0 ? nil : "it has \(set.count) bytes"
        }
    }
}
