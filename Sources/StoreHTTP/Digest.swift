import COpenSSL
public import StoreAPI

/// What is made of bytes in the order in which they come. Not for use from two threads at a time.
public protocol RunningDigest: AnyObject {
    func update(_ bytes: UnsafeRawBufferPointer)
    /// That of all that was given, after which this one begins anew.
    func finish() -> [UInt8]
}

extension RunningDigest {
    public func update(_ bytes: [UInt8]) { bytes.withUnsafeBytes { update($0) } }

    /// Takes all bytes of `body`, a piece at a time.
    ///
    /// - Throws: ``StoreError``: `.internal` when a file cannot be read, `.unsupported` for a stored segment.
    public func update(_ body: UploadBody) throws(StoreError) {
        var reader = try BodyReader(body)
        let size = Int(min(max(body.length, 1), 256 << 10))
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 16)
        defer { buffer.deallocate() }
        while true {
            let count = try reader.read(into: buffer)
            if count == 0 { return }
            update(UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
    }
}

/// A digest in the making.
///
/// Source: EVP_DigestInit(3). Algorithms are fetched once: an implicit fetch costs more than a short digest.
public final class Digest: RunningDigest {
    public enum Algorithm: CaseIterable, Sendable {
        case md5, sha1, sha256

        fileprivate var implementation: OpaquePointer {
            switch self {
            case .md5: Self.fetchedMD5.pointer
            case .sha1: Self.fetchedSHA1.pointer
            case .sha256: Self.fetchedSHA256.pointer
            }
        }

        private static let fetchedMD5 = Fetched("MD5")
        private static let fetchedSHA1 = Fetched("SHA1")
        private static let fetchedSHA256 = Fetched("SHA256")

        /// Immutable once fetched, and kept for good.
        private struct Fetched: @unchecked Sendable {
            let pointer: OpaquePointer

            init(_ name: String) {
                // "-fips": also where the machine is set to FIPS mode. MD5 is a checksum here, not a protection.
                guard let pointer = EVP_MD_fetch(nil, name, nil) ?? EVP_MD_fetch(nil, name, "-fips") else {
                    fatalError("OpenSSL on this machine does not provide \(name)")
                }
                self.pointer = pointer
            }
        }
    }

    private let context: OpaquePointer
    private let algorithm: Algorithm

    public init(_ algorithm: Algorithm) {
        self.algorithm = algorithm
        guard let made = EVP_MD_CTX_new() else { fatalError("no memory for a digest") }
        context = made
        begin()
    }

    /// What OpenSSL refuses here is for want of memory only; a wrong digest must never be taken for a right one.
    private func begin() {
        guard EVP_DigestInit_ex2(context, algorithm.implementation, nil) == 1 else {
            fatalError("no memory for a digest")
        }
    }

    deinit { EVP_MD_CTX_free(context) }

    public func update(_ bytes: UnsafeRawBufferPointer) {
        guard let start = bytes.baseAddress else { return }
        guard EVP_DigestUpdate(context, start, bytes.count) == 1 else { fatalError("no memory for a digest") }
    }

    public func finish() -> [UInt8] {
        let digest = [UInt8](unsafeUninitializedCapacity: Int(EVP_MAX_MD_SIZE)) { buffer, count in
            var length: UInt32 = 0
            guard EVP_DigestFinal_ex(context, buffer.baseAddress, &length) == 1 else {
                fatalError("no memory for a digest")
            }
            count = Int(length)
        }
        begin()
        return digest
    }
}

extension Digest {
    public static func of(_ bytes: UnsafeRawBufferPointer, _ algorithm: Algorithm) -> [UInt8] {
        let digest = Digest(algorithm)
        digest.update(bytes)
        return digest.finish()
    }

    public static func of(_ body: UploadBody, _ algorithm: Algorithm) throws(StoreError) -> [UInt8] {
        let digest = Digest(algorithm)
        try digest.update(body)
        return digest.finish()
    }

    public static func md5(_ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { of($0, .md5) } }
    public static func sha1(_ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { of($0, .sha1) } }
    public static func sha256(_ bytes: [UInt8]) -> [UInt8] { bytes.withUnsafeBytes { of($0, .sha256) } }
    public static func md5(_ body: UploadBody) throws(StoreError) -> [UInt8] { try of(body, .md5) }
    public static func sha256(_ body: UploadBody) throws(StoreError) -> [UInt8] { try of(body, .sha256) }

    /// The keyed digest of RFC 2104.
    public static func hmac(_ algorithm: Algorithm, key: [UInt8], _ message: [UInt8]) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: Int(EVP_MAX_MD_SIZE)) { buffer, count in
            var length: UInt32 = 0
            // Keys are padded with zeros anyhow, and an empty one might be passed as nil, which is an error to OpenSSL.
            let key = key.isEmpty ? [0] : key
            guard
                nil
                    != HMAC(
                        algorithm.implementation, key, Int32(key.count), message, message.count, buffer.baseAddress,
                        &length)
            else { fatalError("no memory for a digest") }
            count = Int(length)
        }
    }

    public static func hmacSHA256(key: [UInt8], _ message: [UInt8]) -> [UInt8] { hmac(.sha256, key: key, message) }
    public static func hmacSHA1(key: [UInt8], _ message: [UInt8]) -> [UInt8] { hmac(.sha1, key: key, message) }
}
