package import StoreAPI

/// Names of files as parts of object keys and of paths in URLs, and back.
///
/// A name that is legal UTF-8 is its own key. Bytes that a key cannot hold become U+201B followed by two upper-case
/// hexadecimal digits, and U+201B itself is doubled, so that `decode(encode(name)) == name` for every name. rclone
/// writes and reads the same form (<https://rclone.org/overview/#invalid-utf8>). Control characters, and the two
/// scalars that XML 1.0 forbids beside them, are treated so only for servers that do not take and list them as they are;
/// so are the marks that Azure changes in names.
///
/// A key that no name is encoded as (`a//b`, `../x`, a lone U+201B, a component of more than 255 bytes) has no place
/// in a file system: decoding answers nil, and nobody can be made to write to another key than the one they saw.
package struct KeyCodec: Sendable {
    /// Whether control characters stand for themselves.
    package var keepsControls: Bool
    /// Whether a backslash, a dot at the end of a name, DEL and U+0080 to U+009F do.
    package var keepsMarks: Bool

    package init(keepsControls: Bool, keepsMarks: Bool = true) {
        self.keepsControls = keepsControls
        self.keepsMarks = keepsMarks
    }

    private static let quote: [UInt8] = [0xE2, 0x80, 0x9B]

    /// The form of one name in a key.
    package func encode(_ name: FileName) -> [UInt8] {
        let bytes = name.bytes
        if isItself(bytes) { return bytes }
        var key: [UInt8] = []
        key.reserveCapacity(bytes.count + 8)
        var index = 0
        while index < bytes.count {
            let length = Self.scalarLength(bytes, at: index)
            let isRefused =
                length == 0 || (!keepsControls && Self.isControl(bytes[index..<index + length]))
                || (!keepsMarks && Self.isMark(bytes[index..<index + length], isLast: index + length == bytes.count))
            if isRefused {
                for byte in bytes[index..<index + max(length, 1)] { key += Self.quote + Self.hexadecimal(byte) }
            } else {
                let scalar = bytes[index..<index + length]
                if scalar.elementsEqual(Self.quote) { key += Self.quote }
                key += scalar
            }
            index += max(length, 1)
        }
        return key
    }

    /// The name that `component` stands for; nil when it is not the form of any.
    package func decode(_ component: some Collection<UInt8>) -> FileName? {
        let key = Array(component)
        if isItself(key) { return FileName(key) }
        var name: [UInt8] = []
        name.reserveCapacity(key.count)
        var index = 0
        while index < key.count {
            guard key[index...].starts(with: Self.quote) else {
                name.append(key[index])
                index += 1
                continue
            }
            let rest = key[(index + 3)...]
            if rest.starts(with: Self.quote) {
                name += Self.quote
                index += 6
            } else if let high = rest.first.flatMap(Self.digit), let low = rest.dropFirst().first.flatMap(Self.digit) {
                name.append(high << 4 | low)
                index += 5
            } else {
                return nil
            }
        }
        // Only the one form that encode() gives: else two keys would have one name.
        guard let name = FileName(name), encode(name) == key else { return nil }
        return name
    }

    /// The key of a path, without the store's prefix.
    package func key(for path: StorePath) -> [UInt8] {
        var key: [UInt8] = []
        for name in path.components {
            if !key.isEmpty { key.append(UInt8(ascii: "/")) }
            key += encode(name)
        }
        return key
    }

    /// What all keys begin with by a setting: empty, or with one slash at its end.
    static func prefix(_ text: String?) -> [UInt8] {
        let parts = (text ?? "").split(separator: "/")
        return parts.isEmpty ? [] : Array((parts.joined(separator: "/") + "/").utf8)
    }

    /// Whether a name or a key means the same to all codecs.
    package static func isPlain(_ bytes: some Collection<UInt8>) -> Bool {
        if bytes.allSatisfy({ $0 >= 0x20 && $0 < 0x80 }) { return true }
        return !holdsControls(bytes) && !Array(bytes).contains(quote)
    }

    /// Whether XML 1.0 cannot carry all of a key, or would change it (a carriage return).
    package static func holdsControls(_ bytes: some Collection<UInt8>) -> Bool {
        bytes.contains { $0 < 0x20 } || Array(bytes).contains([0xEF, 0xBF, 0xBE])
            || Array(bytes).contains([0xEF, 0xBF, 0xBF])
    }

    /// Whether it is ASCII that no server changes.
    private func isItself(_ bytes: [UInt8]) -> Bool {
        guard bytes.allSatisfy({ $0 >= 0x20 && $0 < 0x80 }) else { return false }
        return keepsMarks
            || !(bytes.last == UInt8(ascii: ".") || bytes.contains { $0 == UInt8(ascii: "\\") || $0 == 0x7F })
    }

    /// Bytes of the well-formed UTF-8 scalar at `index`; 0 when there is none.
    private static func scalarLength(_ bytes: [UInt8], at index: Int) -> Int {
        var iterator = bytes[index..<min(index + 4, bytes.count)].makeIterator()
        var decoder = UTF8()
        guard case .scalarValue(let scalar) = decoder.decode(&iterator) else { return 0 }
        return UTF8.width(scalar)
    }

    /// Control characters, and the two scalars that XML 1.0 forbids.
    private static func isControl(_ scalar: ArraySlice<UInt8>) -> Bool {
        scalar.count == 1
            ? scalar.first! < 0x20
            : scalar.elementsEqual([0xEF, 0xBF, 0xBE]) || scalar.elementsEqual([0xEF, 0xBF, 0xBF])
    }

    private static func isMark(_ scalar: ArraySlice<UInt8>, isLast: Bool) -> Bool {
        switch scalar.first! {
        case UInt8(ascii: "\\"), 0x7F: true
        case UInt8(ascii: "."): isLast
        case 0xC2: scalar.last! < 0xA0
        default: false
        }
    }

    private static func hexadecimal(_ byte: UInt8) -> [UInt8] {
        let digits = Array("0123456789ABCDEF".utf8)
        return [digits[Int(byte >> 4)], digits[Int(byte & 15)]]
    }

    private static func digit(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "A")...UInt8(ascii: "F"): character - UInt8(ascii: "A") + 10
        default: nil
        }
    }
}
