import Catalog
package import StoreAPI

/// All settings that there are: those of every mount and, for each kind of store, its own.
package struct SettingsSchema: Sendable {
    /// The kinds of stores that this program knows.
    package let descriptors: [StoreDescriptor]

    package init(descriptors: [StoreDescriptor]) { self.descriptors = descriptors }

    /// What is shown in place of a secret; written back, it means "as it was".
    package static let mask = "********"

    /// The settings of every mount, in the order in which they are shown.
    package static let common: [SettingOption] = [
        .init(
            name: "cache", aliases: ["cache_time"], kind: .seconds(0...2_592_000), section: .store,
            defaultValue: "60", help: "How long after its last change a file is uploaded.", isLive: true),
        .init(
            name: "metadata_cache", aliases: ["metadata_cache_time"], kind: .seconds(0...31_536_000), section: .store,
            defaultValue: "120", help: "How long the listing of a directory is trusted.", isLive: true),
        .init(
            name: "cache_size", aliases: ["cache_size_in_mb"], kind: .megabytes(1...1_000_000_000), section: .store,
            defaultValue: "5000",
            help: "Above this, cached data that is on the store is given up, least recently used first.",
            isLive: true),
        .init(
            name: "hard_cache_size_limit", aliases: ["hard_cache_size_limit_in_mb"],
            kind: .megabytes(1...1_000_000_000), section: .store,
            defaultValue: nil,
            help: "Above this, writers wait for uploads. By default 10000, or twice cache_size if that is more.",
            isLive: true),
        .init(
            name: "type", kind: .choice(["object", "chunk"]), section: .store, defaultValue: "object",
            help: "Whether each file is an object of its own, or small ones are packed into tar archives: "
                + "docs/chunk-format.md. What is there in the other form can be read and changed all the same.",
            isLive: false),
        .init(
            name: "small_file_limit", kind: .kilobytes(0...100_000), section: .store, defaultValue: "64",
            help: "With type = chunk: files up to this size are packed.", isLive: false),
        .init(
            name: "max_chunk_size", kind: .megabytes(1...1000), section: .store, defaultValue: "8",
            help: "With type = chunk: the most bytes of files in one archive.", isLive: false),
        .init(
            name: "upload_limit", kind: .megabytesPerSecond(0...1_000_000), section: .store, defaultValue: "0",
            help: "The most that is sent per second; 0: no limit.", isLive: true),
        .init(
            name: "download_limit", kind: .megabytesPerSecond(0...1_000_000), section: .store, defaultValue: "0",
            help: "The most that is fetched per second; 0: no limit.", isLive: true),
        .init(
            name: "workers", aliases: ["min_workers", "upload_workers"], kind: .count(1...1024), section: .store,
            defaultValue: "4", help: "How many uploads there are at once at least, when there is work.", isLive: true),
        .init(
            name: "max_workers", aliases: ["max_upload_workers"], kind: .count(1...1024), section: .store,
            defaultValue: "64", help: "How many uploads there are at once at most.", isLive: true),
        .init(
            name: "connect_timeout", kind: .seconds(0.1...600), section: .store, defaultValue: "10",
            help: "How long it may take to reach the store.", isLive: true),
        .init(
            name: "stall_timeout", kind: .seconds(0.1...3600), section: .store, defaultValue: "20",
            help: "How long a transfer may stand still before it is tried again.", isLive: true),
        .init(
            name: "request_timeout", kind: .seconds(0.1...3600), section: .store, defaultValue: "60",
            help: "How long a program waits for the store, repetitions included, before it gets an error.",
            isLive: true),
        .init(
            name: "durability", kind: .choice(Durability.allCases.map(\.rawValue)), section: .store,
            defaultValue: "local",
            help: "What fsync waits for: nothing, this machine's disk, or the store, for which close then waits too. "
                + "A directory can say otherwise for what is in it: docs/semantics.md.",
            isLive: true),
        .init(
            name: "drain_at_exit", aliases: ["drain_on_exit"], kind: .flag, section: .store, defaultValue: "no",
            help: "Whether SIGTERM waits until everything is on the store; otherwise the next mount goes on with it.",
            isLive: true),
        .init(
            name: "log_level", aliases: ["loglevel"],
            kind: .choice(["trace", "debug", "info", "notice", "warning", "error", "critical"]), section: .store,
            defaultValue: "notice", help: "What is worth a line in the log.", isLive: true),
        .init(
            name: "log_file", aliases: ["logfile"], kind: .path, section: .store, defaultValue: nil,
            help:
                "Where the log goes. By default to the file 'log' in the cache folder, in the foreground to the terminal.",
            isLive: true),
        .init(
            name: "cache_dir", kind: .path, section: .store, defaultValue: nil,
            help: "Folder of all caches. By default $XDG_CACHE_HOME/cloudfusion or ~/.cache/cloudfusion.",
            isLive: false),
        .init(
            name: "cache_id", kind: .directoryName, section: .store, defaultValue: nil,
            help: "Name of the cache in cache_dir. By default derived from the store; a cache belongs to one store.",
            isLive: false),
    ]

    /// `name`: which kind of store.
    package var storeName: SettingOption {
        .init(
            name: "name", aliases: ["store"], kind: .choice(descriptors.map(\.scheme)), section: .store,
            defaultValue: nil, help: "The kind of store.", isLive: false)
    }

    /// Other names of the stores, most of them those of the predecessor.
    private static let otherNames = [
        "file": "local",
        "amazon s3": "s3", "amazon": "s3", "amazons3": "s3", "google storage": "gs", "google": "gs",
        "google drive": "gdrive", "local drive": "local", "folder": "local", "harddrive": "local",
    ]

    package func descriptor(named name: String) -> StoreDescriptor? {
        let name = name.lowercased()
        return descriptors.first { $0.scheme == name || $0.otherSchemes.contains(name) }
            ?? Self.otherNames[name].flatMap { other in descriptors.first { $0.scheme == other } }
    }

    /// The settings that a store of this kind has besides those of every mount.
    package func storeOptions(of scheme: String) -> [SettingOption] {
        descriptor(named: scheme)?.options.map { SettingOption($0) } ?? []
    }

    /// All settings for a mount with this kind of store, `name` not among them.
    package func options(for scheme: String?) -> [SettingOption] {
        (scheme.map { storeOptions(of: $0) } ?? []) + Self.common
    }

    /// The setting that is meant by a key: its name or another one of it.
    package func option(_ key: String, for scheme: String?) -> SettingOption? {
        let key = key.lowercased()
        let options = [storeName] + options(for: scheme)
        return options.first { $0.name == key } ?? options.first { $0.aliases.contains(key) }
    }

    /// Kinds of stores that have a setting of this name.
    func schemes(with key: String) -> [String] {
        let key = key.lowercased()
        return descriptors.filter { $0.options.contains { $0.name == key || $0.aliases.contains(key) } }.map(\.scheme)
    }
}
