/// What `stats/status.json` says, for those who write it and those who read it. Durations are in seconds, amounts in
/// bytes, moments in seconds since 1970.
package struct MountStatus: Codable, Sendable, Equatable {
    package enum State: String, Codable, Sendable {
        /// There is no store.
        case unconfigured
        /// The store cannot be reached; what is cached can be used.
        case offline
        case connected
        /// Unmounted; what is left is being uploaded.
        case draining
        case stopping
    }

    package struct Store: Codable, Sendable, Equatable {
        package var name: String
        /// What tells it apart from others of its kind; without credentials.
        package var identity: String
        /// Nothing on it can be changed, whatever the mount's options say.
        package var isReadOnly = false
        /// Why it cannot be reached.
        package var problem: String?
        package var information: [Field]
        package var totalBytes: Int64?
        package var usedBytes: Int64?
        package var freeBytes: Int64?
    }

    package struct Field: Codable, Sendable, Equatable {
        package var name: String
        package var value: String
    }

    package struct Pending: Codable, Sendable, Equatable {
        package var items: Int64 = 0
        package var bytes: Int64 = 0
        /// Those that wait for somebody to do something about their error.
        package var parked: Int64 = 0
        package var oldestSeconds: Double?
    }

    package struct Transfers: Codable, Sendable, Equatable {
        package var uploadBytesPerSecond: Double
        package var downloadBytesPerSecond: Double
        package var uploadedBytes: Int64
        package var downloadedBytes: Int64
        package var uploadsInFlight: Int64
        package var downloadsInFlight: Int64
    }

    package struct Cache: Codable, Sendable, Equatable {
        package var folder: String?
        package var bytes: Int64 = 0
        package var dirtyBytes: Int64 = 0
        package var dirtyFiles: Int64 = 0
        /// What repairs have put aside, and nobody has removed: see ``CacheFolder/recovered()``.
        package var recoveredFiles: Int64 = 0
        package var recoveredBytes: Int64 = 0
        package var softLimitBytes: Int64
        package var hardLimitBytes: Int64
        package var hits: Int64
        package var misses: Int64
    }

    package struct Problem: Codable, Sendable, Equatable {
        package var kind: String
        package var count: Int64
        package var first: Double
        package var last: Double
        package var message: String
        package var advice: String
    }

    package var state: State
    package var version: String
    package var pid: Int32
    package var mountPoint: String
    package var startedAt: Double
    package var heartbeatAt: Double
    package var store: Store?
    package var pending: Pending
    package var transfers: Transfers
    package var cache: Cache
    /// Those in force, by name; secrets are masked.
    package var settings: [String: String]
    /// Newest first.
    package var errors: [Problem]
    /// How often a command was given up because somebody wrote `cancel`.
    package var cancelledCommands: Int64

    private enum CodingKeys: String, CodingKey {
        case state, version, pid, store, pending, transfers, cache, settings, errors
        case mountPoint = "mount_point"
        case startedAt = "started_at"
        case heartbeatAt = "heartbeat_at"
        case cancelledCommands = "cancelled_commands"
    }
}

extension MountStatus.Store {
    private enum CodingKeys: String, CodingKey {
        case name, identity, problem, information
        case isReadOnly = "read_only"
        case totalBytes = "total_bytes"
        case usedBytes = "used_bytes"
        case freeBytes = "free_bytes"
    }
}

extension MountStatus.Pending {
    private enum CodingKeys: String, CodingKey {
        case items, bytes, parked
        case oldestSeconds = "oldest_seconds"
    }
}

extension MountStatus.Transfers {
    private enum CodingKeys: String, CodingKey {
        case uploadBytesPerSecond = "upload_bytes_per_second"
        case downloadBytesPerSecond = "download_bytes_per_second"
        case uploadedBytes = "uploaded_bytes"
        case downloadedBytes = "downloaded_bytes"
        case uploadsInFlight = "uploads_in_flight"
        case downloadsInFlight = "downloads_in_flight"
    }
}

extension MountStatus.Cache {
    private enum CodingKeys: String, CodingKey {
        case folder, bytes, hits, misses
        case dirtyBytes = "dirty_bytes"
        case dirtyFiles = "dirty_files"
        case recoveredFiles = "recovered_files"
        case recoveredBytes = "recovered_bytes"
        case softLimitBytes = "soft_limit_bytes"
        case hardLimitBytes = "hard_limit_bytes"
    }
}
