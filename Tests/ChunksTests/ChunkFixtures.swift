import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Threading

@testable import Chunks
@testable import Stores

/// A store that packs, with a folder of its own for what is on this machine.
func makeChunkStore(
    on base: any Store, limit: Int64? = 100_000, maxChunkSize: Int64 = 1_000_000, trust: Duration = .zero,
    grace: Duration = .seconds(3600), snapshotInterval: Int64 = 0, isReadOnly: Bool = false, folder: TemporaryFolder,
    clock: any Clock = SystemClock()
) -> ChunkStore {
    ChunkStore(
        base,
        ChunkSettings(
            smallFileLimit: limit, maxChunkSize: maxChunkSize, trust: trust, grace: grace, leastAge: grace,
            snapshotInterval: snapshotInterval, folder: folder.path, isReadOnly: isReadOnly),
        map: MapHolder(path: folder.path + "/chunks.sqlite"), clock: clock)
}

extension StoreFixture {
    /// Every kind of store on which small files can be packed on this machine.
    static let all: [StoreFixture] =
        [
            .packing("memory", memoryFeatures) { (MemoryStore(pageSize: 100), {}) },
            .packing("memory, all", memoryFeatures, limit: 10_000_000) { (MemoryStore(pageSize: 100), {}) },
            .packing("memory, nothing", memoryFeatures, limit: nil) { (MemoryStore(hasRealDirectories: false), {}) },
            .packing("memory without directories", memoryFeatures) { (MemoryStore(hasRealDirectories: false), {}) },
            .packing("faulty(memory)", memoryFeatures) { (FaultyStore(MemoryStore()), {}) },
            .packing("local", memoryFeatures.subtracting(.changeTimes)) {
                let folder = try TemporaryFolder()
                return (LocalStore(path: folder.path, pageSize: 100), { _ = folder })
            },
        ] + ["radosgw", "rclone"].compactMap(s3)

    static let memoryFeatures: StoreCapabilities.Features = [
        .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .rangeCopy,
        .atomicMove,
        .directoryMove, .attributes, .extendedAttributes, .attributesInListing, .specialFiles, .spaceUsage,
        .caseSensitive, .consistentListing, .emptyDirectories, .changeTimes,
    ]

    private static func packing(
        _ name: String, _ features: StoreCapabilities.Features, limit: Int64? = 100_000,
        deviations: [String: String] = [:],
        base: @escaping @Sendable () throws -> (store: any Store, cleanUp: @Sendable () -> Void)
    ) -> StoreFixture {
        let own: StoreCapabilities.Features = limit == nil ? [] : .formerVersions
        return StoreFixture("packing(\(name))", features: features.union(own), deviations: deviations) {
            let folder = try TemporaryFolder()
            let (base, cleanUp) = try base()
            return (
                makeChunkStore(on: base, limit: limit, folder: folder),
                {
                    cleanUp()
                    _ = folder
                }
            )
        }
    }

    /// - Returns: nil when the server was not started.
    private static func s3(_ server: String) -> StoreFixture? {
        guard let value = getenv("CLOUDFUSION_TEST_S3_\(server.uppercased())") else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 5 else { return nil }
        var features: StoreCapabilities.Features = [
            .rangedRead, .conditionalCreate, .conditionalReplace, .serverSideCopy, .rangeCopy, .attributes,
            .extendedAttributes, .specialFiles, .caseSensitive, .resumableUpload, .consistentListing,
            .emptyDirectories, .changeTimes,
        ]
        if server == "swift" || server == "rclone" {
            features.subtract([.conditionalCreate, .conditionalReplace])
        }
        if server == "rclone" { features.subtract([.rangedRead, .rangeCopy]) }
        return packing("s3 on \(server)", features) {
            let settings = try StoreDescriptor.s3.settings(from: [
                "endpoint": words[0], "region": words[1], "access_key_id": words[2], "secret_access_key": words[3],
                "bucket_name": words[4], "prefix": "chunks-\(UInt64.random(in: 0...UInt64.max))",
            ])
            return (try StoreDescriptor.s3.make(settings, Statistics()), {})
        }
    }
}
