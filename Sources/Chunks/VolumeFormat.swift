import FoundationEssentials
import StoreAPI

/// `.cloudfusion/format`: which format, and which volume, the chunks of a store are of.
struct VolumeFormat: Codable {
    var format = 1
    var volume: String

    init(volume: String) { self.volume = volume }

    /// - Throws: ``StoreError``: `.unsupported` for a format of a newer program, `.corrupted` for anything else.
    init(_ bytes: [UInt8]) throws(StoreError) {
        do { self = try JSONDecoder().decode(Self.self, from: Data(bytes)) } catch {
            throw StoreError(.corrupted, "'\(ChunkPaths.format)' on the store makes no sense: \(error)")
        }
        guard format == 1 else {
            throw StoreError(
                .unsupported, "the chunks on the store are of format \(format); this version of CloudFusion knows 1")
        }
        guard (1...64).contains(volume.utf8.count),
            volume.utf8.allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x7a).contains($0) || $0 == 0x2d })
        else { throw StoreError(.corrupted, "'\(ChunkPaths.format)' on the store names no volume") }
    }

    var bytes: [UInt8] { Array("{\"format\": \(format), \"volume\": \"\(volume)\"}\n".utf8) }

    static func newName() -> String { UUID().uuidString.lowercased() }
}
