package import StoreAPI

/// Names of files as parts of object keys, and back.
///
/// A name that is legal UTF-8 without control characters is its own key. Bytes that a key, or the XML in which
/// keys travel, cannot hold become U+201B followed by two upper-case hexadecimal digits, and U+201B itself is
/// doubled, so that `decode(encode(name)) == name` for every name. rclone writes and reads the same form
/// (<https://rclone.org/overview/#invalid-utf8>).
///
/// A key that no name is encoded as (`a//b`, `../x`, a lone U+201B, a component of more than 255 bytes) has no place
/// in a file system: decoding answers nil, and nobody can be made to write to another key than the one they saw.
package enum S3KeyCodec {
    /// The most bytes of a key, as all servers count them.
    /// Source: S3 User Guide, "Naming Amazon S3 objects".
    package static let longestKey = 1024

    private static let quote: [UInt8] = [0xE2, 0x80, 0x9B]

    /// The form of one name in a key.
    package static func encode(_ name: FileName) -> [UInt8] {
        let bytes = name.bytes
        if bytes.allSatisfy({ $0 >= 0x20 && $0 < 0x80 }) { return bytes }
        var key: [UInt8] = []
        key.reserveCapacity(bytes.count + 8)
        var index = 0
        while index < bytes.count {
            let length = scalarLength(bytes, at: index)
            if length == 0 || isUnspeakable(bytes[index..<index + length]) {
                for byte in bytes[index..<index + max(length, 1)] { key += quote + hexadecimal(byte) }
            } else {
                let scalar = bytes[index..<index + length]
                if scalar.elementsEqual(quote) { key += quote }
                key += scalar
            }
            index += max(length, 1)
        }
        return key
    }

    /// The name that `component` stands for; nil when it is not the form of any.
    package static func decode(_ component: some Collection<UInt8>) -> FileName? {
        let key = Array(component)
        if key.allSatisfy({ $0 >= 0x20 && $0 < 0x80 }) { return FileName(key) }
        var name: [UInt8] = []
        name.reserveCapacity(key.count)
        var index = 0
        while index < key.count {
            guard key[index...].starts(with: quote) else {
                name.append(key[index])
                index += 1
                continue
            }
            let rest = key[(index + 3)...]
            if rest.starts(with: quote) {
                name += quote
                index += 6
            } else if let high = rest.first.flatMap(digit), let low = rest.dropFirst().first.flatMap(digit) {
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
    package static func key(for path: StorePath) -> [UInt8] {
        var key: [UInt8] = []
        for name in path.components {
            if !key.isEmpty { key.append(UInt8(ascii: "/")) }
            key += encode(name)
        }
        return key
    }

    /// Bytes of the well-formed UTF-8 scalar at `index`; 0 when there is none.
    private static func scalarLength(_ bytes: [UInt8], at index: Int) -> Int {
        var iterator = bytes[index..<min(index + 4, bytes.count)].makeIterator()
        var decoder = UTF8()
        guard case .scalarValue(let scalar) = decoder.decode(&iterator) else { return 0 }
        return UTF8.width(scalar)
    }

    /// Control characters, and the two scalars that XML 1.0 forbids.
    private static func isUnspeakable(_ scalar: ArraySlice<UInt8>) -> Bool {
        scalar.count == 1
            ? scalar.first! < 0x20
            : scalar.elementsEqual([0xEF, 0xBF, 0xBE]) || scalar.elementsEqual([0xEF, 0xBF, 0xBF])
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
