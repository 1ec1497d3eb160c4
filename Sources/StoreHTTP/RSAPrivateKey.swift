import COpenSSL

/// A key that signs. Prints as nothing but its kind: secrets stay out of logs and errors.
///
/// Source: EVP_DigestSign(3), PEM_read_bio_PrivateKey(3).
public final class RSAPrivateKey: Sendable, CustomStringConvertible, CustomReflectable {
    /// Never changed, so that threads can share it.
    private nonisolated(unsafe) let key: OpaquePointer

    /// - Parameter pem: PKCS #8 or PKCS #1, not encrypted.
    /// - Returns: nil for what is no such key.
    public init?(pem: String) {
        // The source does not copy the bytes: they have to stay where they are while it is read.
        let found = Array(pem.utf8).withUnsafeBytes { bytes -> OpaquePointer? in
            guard let source = BIO_new_mem_buf(bytes.baseAddress, Int32(bytes.count)) else { return nil }
            defer { BIO_free(source) }
            // Without a function that knows no password OpenSSL would ask for one at the terminal.
            return PEM_read_bio_PrivateKey(source, nil, { _, _, _, _ in 0 }, nil)
        }
        guard let key = found else {
            ERR_clear_error()
            return nil
        }
        guard EVP_PKEY_get_base_id(key) == EVP_PKEY_RSA else {
            EVP_PKEY_free(key)
            return nil
        }
        self.key = key
    }

    deinit { EVP_PKEY_free(key) }

    public var description: String { "a private key" }
    public var customMirror: Mirror { Mirror(self, children: [], displayStyle: .class) }

    /// RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017, 8.2): the "RS256" of RFC 7518.
    ///
    /// - Returns: nil when OpenSSL refuses, such as a key that is too short for the machine's policy.
    public func signature(of message: [UInt8]) -> [UInt8]? {
        guard let context = EVP_MD_CTX_new() else { return nil }
        defer { EVP_MD_CTX_free(context) }
        var length = 0
        guard EVP_DigestSignInit(context, nil, EVP_sha256(), nil, key) == 1,
            EVP_DigestSign(context, nil, &length, message, message.count) == 1
        else {
            ERR_clear_error()
            return nil
        }
        var signature = [UInt8](repeating: 0, count: length)
        guard EVP_DigestSign(context, &signature, &length, message, message.count) == 1 else {
            ERR_clear_error()
            return nil
        }
        return Array(signature[..<length])
    }
}
