/// FNV-1a with 64 bits, as 16 hexadecimal digits: tells texts apart that nobody has made up to be mistaken.
///
/// Source: <http://www.isthe.com/chongo/tech/comp/fnv/>.
public func fingerprint(_ bytes: some Sequence<UInt8>) -> String {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x0000_0100_0000_01b3 }
    return hexadecimal(hash)
}

/// 16 digits.
public func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}
