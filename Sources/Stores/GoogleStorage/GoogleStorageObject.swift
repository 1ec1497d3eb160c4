import FoundationEssentials
import StoreAPI
import StoreHTTP
import Threading

/// What Google Cloud Storage tells of an object.
///
/// Source: <https://cloud.google.com/storage/docs/json_api/v1/objects#resource>.
package struct GoogleStorageObject: Decodable, Sendable {
    var name: String
    var size: Int64
    var generation: String
    var metageneration: String
    /// When the bytes were stored.
    var created: Timestamp
    var md5: [UInt8]?
    /// The highest byte first.
    var crc32c: [UInt8]?
    var description: GoogleStorageDescription

    private enum Keys: String, CodingKey {
        case name, size, generation, metageneration, timeCreated, updated, md5Hash, crc32c
    }

    package init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: Keys.self)
        func bytes(_ key: Keys, count: Int) throws -> [UInt8]? {
            let text = try values.decodeIfPresent(String.self, forKey: key)
            return text.flatMap { TextEncoding.bytes(base64: $0) }.flatMap { $0.count == count ? $0 : nil }
        }
        name = try values.decode(String.self, forKey: .name)
        // 64 bits are text in JSON; some emulators take numbers.
        if let text = try? values.decode(String.self, forKey: .size) {
            size = HTTPAnswer.size(text) ?? 0
        } else {
            size = max(0, try values.decode(Int64.self, forKey: .size))
        }
        generation = try values.decode(String.self, forKey: .generation)
        metageneration = try values.decodeIfPresent(String.self, forKey: .metageneration) ?? ""
        let told = try values.decodeIfPresent(String.self, forKey: .timeCreated)
        let time = try told ?? values.decodeIfPresent(String.self, forKey: .updated)
        created = time.flatMap { Timestamp(iso8601: $0) } ?? Timestamp(nanoseconds: 0)
        md5 = try bytes(.md5Hash, count: 16)
        crc32c = try bytes(.crc32c, count: 4)
        description = try GoogleStorageDescription(from: decoder)
    }

    var version: Version { Version(generation) }

    func metadata(isDirectoryKey: Bool) -> Metadata {
        let own = POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { description.metadata?[$0] ?? nil }
        let kind = own.kind ?? .file
        return Metadata(
            kind: kind, size: kind == .directory ? 0 : size, modified: created,
            version: kind == .directory ? nil : version, attributes: own.attributes,
            md5: kind == .directory ? nil : md5)
    }
}

/// What a person or a program can say of an object.
///
/// Source: <https://cloud.google.com/storage/docs/metadata>.
struct GoogleStorageDescription: Codable, Hashable, Sendable {
    var contentType: String?
    var cacheControl: String?
    var contentDisposition: String?
    var contentEncoding: String?
    var contentLanguage: String?
    var customTime: String?
    /// nil as a value: that name is to be taken away.
    var metadata: [String: String?]?

    /// The most bytes that all names and values may have, with a margin for what other programs add.
    /// Source: <https://cloud.google.com/storage/quotas>: 8 KiB.
    static let limit = 7 << 10
}

/// An object that is to be made: the body of requests.
struct GoogleStorageRequest: Encodable, Sendable {
    var name: String?
    var crc32c: String?
    var md5Hash: String?
    var storageClass: String?
    var description: GoogleStorageDescription

    private enum Keys: String, CodingKey { case name, crc32c, md5Hash, storageClass }

    func encode(to encoder: any Encoder) throws {
        try description.encode(to: encoder)
        var values = encoder.container(keyedBy: Keys.self)
        try values.encodeIfPresent(name, forKey: .name)
        try values.encodeIfPresent(crc32c, forKey: .crc32c)
        try values.encodeIfPresent(md5Hash, forKey: .md5Hash)
        try values.encodeIfPresent(storageClass, forKey: .storageClass)
    }
}

/// Both checksums that Google keeps of objects, in one pass: four bytes and sixteen.
///
/// Source: <https://cloud.google.com/storage/docs/hashes-etags>. Composed objects have the first one only.
final class GoogleStorageChecksums: RunningDigest {
    struct Values: Hashable, Sendable {
        var crc32c: [UInt8]
        var md5: [UInt8]

        init(_ both: [UInt8]) {
            crc32c = Array(both[..<4])
            md5 = Array(both[4...])
        }

        /// Whether a server that says this has the same bytes; what it does not say counts as the same.
        func match(crc32c: [UInt8]?, md5: [UInt8]?) -> Bool {
            (crc32c.map { $0 == self.crc32c } ?? true) && (md5.map { $0 == self.md5 } ?? true)
        }
    }

    private let crc32c = CRC32C()
    private let md5 = Digest(.md5)

    func update(_ bytes: UnsafeRawBufferPointer) {
        crc32c.update(bytes)
        md5.update(bytes)
    }

    func finish() -> [UInt8] { crc32c.finish() + md5.finish() }

    /// - Throws: ``StoreError``: `.internal` when a file cannot be read.
    static func of(_ body: UploadBody) throws(StoreError) -> Values {
        let sums = GoogleStorageChecksums()
        try sums.update(body)
        return Values(sums.finish())
    }

    /// What the headers of an answer with bytes say of the whole object.
    static func told(_ response: HTTPResponse) -> (crc32c: [UInt8]?, md5: [UInt8]?) {
        var found: (crc32c: [UInt8]?, md5: [UInt8]?) = (nil, nil)
        for (name, value) in response.headers where name.lowercased() == "x-goog-hash" {
            for word in value.split(separator: ",") {
                let pair = word.trimmingSpaces()
                if pair.hasPrefix("crc32c=") { found.crc32c = TextEncoding.bytes(base64: pair.dropFirst(7)) }
                if pair.hasPrefix("md5=") { found.md5 = TextEncoding.bytes(base64: pair.dropFirst(4)) }
            }
        }
        return found
    }
}
