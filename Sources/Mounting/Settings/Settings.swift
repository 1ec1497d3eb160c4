package import Caching
package import Catalog
import Chunks
package import StoreAPI
package import Synchronizer
import Threading

/// Settings that were checked: every value here is of its option's kind and in its range.
package struct Settings: Hashable, Sendable {
    /// The kind of store; nil: none is connected.
    package var scheme: String?
    /// What was given, by the option's own name; `name` is ``scheme``.
    package var values: [String: String]

    package init(scheme: String? = nil, values: [String: String] = [:]) {
        self.scheme = scheme
        self.values = values
    }

    private static let defaults: [String: String] = SettingsSchema.common.reduce(into: [:]) {
        $0[$1.name] = $1.defaultValue
    }

    /// The value given for one of ``SettingsSchema/common``, or its default.
    package subscript(_ name: String) -> String? { values[name] ?? Self.defaults[name] }

    private func number(_ name: String) -> Double { self[name].flatMap { Double($0) } ?? 0 }
    private func duration(_ name: String) -> Duration { .nanoseconds(Int64(number(name) * 1e9)) }
    private func bytes(_ megabytes: Double) -> Int64 { Int64((megabytes * 1e6).rounded()) }

    package var uploadDelay: Duration { duration("cache") }
    package var metadataLifetime: Duration { duration("metadata_cache") }
    package var requestTimeout: Duration { duration("request_timeout") }
    package var connectTimeout: Duration { duration("connect_timeout") }
    package var durability: Durability { self["durability"].flatMap { Durability(rawValue: $0) } ?? .local }
    package var drainsAtExit: Bool { self["drain_at_exit"] == "yes" }
    package var logLevel: String { self["log_level"] ?? "notice" }
    package var logFile: String? { values["log_file"] }

    package var cacheLimits: CacheLimits {
        let soft = number("cache_size")
        let hard = values["hard_cache_size_limit"].flatMap { Double($0) } ?? max(10_000, 2 * soft)
        return CacheLimits(soft: bytes(soft), hard: bytes(hard))
    }

    package var synchronizer: SynchronizerSettings {
        let delay = uploadDelay
        return SynchronizerSettings(
            delay: delay, deadline: max(.seconds(300), delay * 5), minimumWorkers: Int(number("workers")),
            maximumWorkers: Int(max(number("workers"), number("max_workers"))))
    }

    /// - Parameter folder: for temporary files.
    func chunks(in folder: String, isReadOnly: Bool = false) -> ChunkSettings {
        ChunkSettings(
            smallFileLimit: self["type"] == "chunk" ? Int64(number("small_file_limit") * 1_000) : nil,
            maxChunkSize: bytes(number("max_chunk_size")), trust: metadataLifetime, folder: folder,
            isReadOnly: isReadOnly)
    }

    package var tuning: StoreTuning {
        func rate(_ name: String) -> Int64? { number(name) > 0 ? max(1, bytes(number(name))) : nil }
        return StoreTuning(
            uploadRate: rate("upload_limit"), downloadRate: rate("download_limit"),
            connections: max(64, Int(number("max_workers"))), connectTimeout: connectTimeout,
            stallTimeout: duration("stall_timeout"), overallTimeout: requestTimeout)
    }

    /// What the store is made from: its own options, those with defaults included.
    package func storeSettings(_ descriptor: StoreDescriptor) -> StoreSettings {
        var own: [String: String] = [:]
        for option in descriptor.options { own[option.name] = values[option.name] ?? option.defaultValue }
        return StoreSettings(own)
    }

    /// Whether the store may be given secrets, from wherever they come: they must not end up in a core file.
    package func usesSecrets(_ schema: SettingsSchema) -> Bool {
        guard let scheme else { return false }
        return schema.storeOptions(of: scheme).contains(where: \.isSecret)
    }

    /// Whether the values have a secret.
    package func holdsSecrets(_ schema: SettingsSchema) -> Bool {
        guard let scheme else { return false }
        return schema.storeOptions(of: scheme).contains { $0.isSecret && values[$0.name] != nil }
    }
}
