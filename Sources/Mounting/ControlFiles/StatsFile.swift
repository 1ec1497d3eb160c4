package import Threading

/// `stats/stats`: figures for people. The first lines and their order are those of the predecessor, which programs
/// read; 1 MB is 1,000,000 bytes, and "MBs" is MB per second.
package enum StatsFile {
    package static func text(_ status: MountStatus, now: Timestamp = .now) -> String {
        let transfers = status.transfers
        var lines = [
            "\(megabytes(transfers.downloadBytesPerSecond)) MBs download rate",
            "\(megabytes(transfers.uploadBytesPerSecond)) MBs upload rate",
            "\(megabytes(Double(transfers.uploadedBytes))) MB uploaded",
            "\(megabytes(Double(transfers.downloadedBytes))) MB downloaded",
            "",
            "\(status.cache.misses) cache misses",
            "\(status.cache.hits) cache hits",
            "",
            "\(megabytes(Double(status.cache.bytes))) MB of cached data",
            "",
            "Status:",
            sentence(status),
            "last heartbeat: \(localTime(Timestamp(nanoseconds: Int64(status.heartbeatAt * 1e9))))",
            "",
            "\(status.pending.items) changes not on the store, \(megabytes(Double(status.pending.bytes))) MB"
                + (status.pending.oldestSeconds.map { ", the oldest since \(age($0))" } ?? ""),
            "\(status.pending.parked) of them wait for somebody (see notuploaded)",
            "\(status.cache.dirtyFiles) files with \(megabytes(Double(status.cache.dirtyBytes))) MB are newer here than on the store",
            "\(transfers.uploadsInFlight) uploads and \(transfers.downloadsInFlight) downloads are under way",
            "\(megabytes(Double(status.cache.softLimitBytes))) MB cache size, "
                + "\(megabytes(Double(status.cache.hardLimitBytes))) MB hard limit",
        ]
        if let folder = status.cache.folder {
            lines.append("cache folder: \(folder)")
            if status.cache.recoveredBytes > 0 {
                lines.append(
                    "\(status.cache.recoveredFiles) files, \(megabytes(Double(status.cache.recoveredBytes))) MB with the "
                        + "damaged catalogs, were put aside by a repair (see recovered/*/list.txt in the cache folder)")
            }
        }
        if let store = status.store {
            lines.append("store: \(store.name) \(store.identity)" + (store.isReadOnly ? ", for reading only" : ""))
            for field in store.information { lines.append("    \(field.name): \(field.value)") }
            if let used = store.usedBytes { lines.append("    \(megabytes(Double(used))) MB used") }
            if let free = store.freeBytes { lines.append("    \(megabytes(Double(free))) MB free") }
        }
        lines.append("process \(status.pid), version \(status.version)")
        lines.append("mounted \(age(Double(now.nanoseconds) / 1e9 - status.startedAt)) ago at \(status.mountPoint)")
        return lines.joined(separator: "\n") + "\n"
    }

    /// The state in a sentence.
    package static func sentence(_ status: MountStatus) -> String {
        switch status.state {
        case .unconfigured: return "no store is connected: write a configuration to config/config"
        case .offline:
            return "the store cannot be reached, changes are kept here"
                + (status.store?.problem.map { ": \($0)" } ?? "")
        case .connected:
            if status.pending.items == 0 { return "everything is on the store" }
            if status.transfers.uploadsInFlight > 0 { return "uploading" }
            return status.pending.parked == status.pending.items
                ? "uploads wait for somebody" : "changes wait for their upload"
        case .draining: return "unmounted, uploading what is left"
        case .stopping: return "ending"
        }
    }
}

/// Bytes in MB, with as many digits as are worth reading.
package func megabytes(_ bytes: Double) -> String {
    let thousandths = Int64((bytes / 1000).rounded())
    guard thousandths < 100_000 else { return String((thousandths + 500) / 1000) }
    let rest = String(thousandths % 1000)
    return "\(thousandths / 1000).\(String(repeating: "0", count: 3 - rest.count))\(rest)"
}

/// A length of time in words, such as "2 h 5 min".
package func age(_ seconds: Double) -> String {
    let seconds = Int64(max(0, min(seconds, 1e12)))
    if seconds < 60 { return "\(seconds) s" }
    if seconds < 3600 { return "\(seconds / 60) min \(seconds % 60) s" }
    if seconds < 86_400 { return "\(seconds / 3600) h \(seconds % 3600 / 60) min" }
    return "\(seconds / 86_400) d \(seconds % 86_400 / 3600) h"
}
