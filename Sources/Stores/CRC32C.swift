import CShim
import StoreHTTP

/// A CRC32C in the making: four bytes, the highest first, as Google writes it.
///
/// Source: RFC 3720, B.4; <https://cloud.google.com/storage/docs/hashes-etags>.
final class CRC32C: RunningDigest {
    private var value: UInt32 = 0

    func update(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress else { return }
        value = cf_crc32c(value, start, bytes.count)
    }

    func finish() -> [UInt8] {
        defer { value = 0 }
        return [UInt8(value >> 24), UInt8(value >> 16 & 255), UInt8(value >> 8 & 255), UInt8(value & 255)]
    }

    /// That of bytes followed by others, from those of both.
    ///
    /// - Parameter length: How many bytes `second` is of.
    static func joined(_ first: UInt32, _ second: UInt32, length: Int64) -> UInt32 {
        // A CRC is what remains of a polynomial; each byte behind it multiplies it by x^8.
        multiply(first, power(of: length)) ^ second
    }

    /// The polynomial, reflected: the highest bit is that of x^0.
    private static let polynomial: UInt32 = 0x82F6_3B78

    /// x^(8 · bytes), modulo the polynomial.
    private static func power(of bytes: Int64) -> UInt32 {
        var result: UInt32 = 1 << 31
        var square: UInt32 = 1 << 23
        var rest = bytes
        while rest > 0 {
            if rest & 1 == 1 { result = multiply(result, square) }
            square = multiply(square, square)
            rest >>= 1
        }
        return result
    }

    private static func multiply(_ a: UInt32, _ b: UInt32) -> UInt32 {
        var (a, b, product): (UInt32, UInt32, UInt32) = (a, b, 0)
        // From x^0 of `a` on, while `b` is multiplied by x.
        while a != 0 {
            if a & (1 << 31) != 0 { product ^= b }
            a <<= 1
            b = b >> 1 ^ (b & 1 == 1 ? polynomial : 0)
        }
        return product
    }
}
