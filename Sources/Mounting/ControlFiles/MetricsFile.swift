package import Statistics

/// `stats/metrics`: the figures for Prometheus, in its text exposition format (version 0.0.4).
///
/// https://prometheus.io/docs/instrumenting/exposition_formats/
package enum MetricsFile {
    package static func text(_ snapshot: StatisticsSnapshot, _ status: MountStatus) -> String {
        var writer = Writer()
        for counter in Counter.allCases {
            let description = describe(counter)
            writer.sample(
                "cloudfusion_\(description.name)_total", "counter", description.help, description.labels,
                String(snapshot[counter]))
        }
        gauges(snapshot, status, &writer)
        for operation in TimedOperation.allCases { writer.histogram(label(operation), snapshot[operation]) }
        for error in status.errors {
            writer.sample(
                "cloudfusion_errors_total", "counter", "Errors that stats/errors lists, by kind.",
                [("kind", error.kind)], String(error.count))
        }
        return writer.text
    }

    private static func gauges(_ snapshot: StatisticsSnapshot, _ status: MountStatus, _ writer: inout Writer) {
        func gauge(_ name: String, _ help: String, _ value: String, _ labels: [(String, String)] = []) {
            writer.sample("cloudfusion_\(name)", "gauge", help, labels, value)
        }
        gauge("cached_bytes", "Bytes of file contents in the cache.", String(status.cache.bytes))
        gauge("dirty_bytes", "Bytes of files that are newer here than on the store.", String(status.cache.dirtyBytes))
        gauge("dirty_files", "Files that are newer here than on the store.", String(status.cache.dirtyFiles))
        gauge(
            "recovered_files", "Files of the cache that a repair has put aside.", String(status.cache.recoveredFiles))
        gauge("recovered_bytes", "Bytes of what repairs have put aside.", String(status.cache.recoveredBytes))
        gauge("pending_operations", "Changes that are not on the store.", String(status.pending.items))
        gauge("pending_bytes", "Bytes that are still to be uploaded.", String(status.pending.bytes))
        gauge("parked_operations", "Changes that wait for somebody to act.", String(status.pending.parked))
        gauge(
            "pending_oldest_age_seconds", "Age of the oldest change that is not on the store.",
            number(status.pending.oldestSeconds ?? 0))
        gauge("uploads_in_flight", "Uploads under way.", String(snapshot[.uploadsInFlight]))
        gauge("downloads_in_flight", "Downloads under way.", String(snapshot[.downloadsInFlight]))
        gauge("workers", "Uploads that may be under way at once.", String(snapshot[.workers]))
        gauge("upload_bytes_per_second", "Over the last ten seconds.", number(snapshot.uploadRate))
        gauge("download_bytes_per_second", "Over the last ten seconds.", number(snapshot.downloadRate))
        gauge("cache_soft_limit_bytes", "The setting cache_size.", String(status.cache.softLimitBytes))
        gauge("cache_hard_limit_bytes", "The setting hard_cache_size_limit.", String(status.cache.hardLimitBytes))
        gauge(
            "store_connected", "1 when the store has answered since it was configured.",
            status.state == .connected ? "1" : "0")
        gauge("start_time_seconds", "When the mount was made.", number(status.startedAt))
        gauge("heartbeat_time_seconds", "When the mount last looked after itself.", number(status.heartbeatAt))
        gauge("build_info", "Always 1.", "1", [("version", status.version)])
    }

    private static func describe(_ counter: Counter) -> (name: String, labels: [(String, String)], help: String) {
        func requests(_ kind: String) -> (String, [(String, String)], String) {
            ("store_requests", [("operation", kind)], "Requests to the store, by kind.")
        }
        return switch counter {
        case .bytesUploaded: ("uploaded_bytes", [], "Bytes of files sent to the store.")
        case .bytesDownloaded: ("downloaded_bytes", [], "Bytes of files fetched from the store.")
        case .bytesSent: ("store_sent_bytes", [], "Bytes of all bodies that went out, those of repeats too.")
        case .bytesReceived: ("store_received_bytes", [], "Bytes of all bodies that came in, those of listings too.")
        case .filesUploaded: ("uploaded_files", [], "Files sent to the store.")
        case .filesDownloaded: ("downloaded_files", [], "Files fetched from the store.")
        case .cacheHits: ("cache_hits", [], "Reads that the cache answered.")
        case .cacheMisses: ("cache_misses", [], "Reads that had to wait for the store.")
        case .bytesRead: ("read_bytes", [], "Bytes that programs read.")
        case .bytesWritten: ("written_bytes", [], "Bytes that programs wrote.")
        case .bytesEvicted: ("evicted_bytes", [], "Bytes given up to make room in the cache.")
        case .requestsHead: requests("head")
        case .requestsGet: requests("get")
        case .requestsList: requests("list")
        case .requestsPut: requests("put")
        case .requestsCopy: requests("copy")
        case .requestsDelete: requests("delete")
        case .requestsMultipart: requests("multipart")
        case .requestsOther: requests("other")
        case .requestsFailed: ("store_requests_failed", [], "Requests that failed in the end.")
        case .requestsRepeated: ("store_requests_repeated", [], "Requests that were sent again.")
        case .requestsThrottled: ("store_requests_throttled", [], "Requests that the store refused as too many.")
        case .attributesFetched: ("attributes_fetched", [], "Files whose attributes were asked for one by one.")
        case .directoriesListed: ("directories_listed", [], "Directories listed on the store.")
        case .conflicts: ("conflicts", [], "Files that were changed both here and on the store.")
        case .writersDelayed: ("writers_delayed", [], "Writes that had to wait for room in the cache.")
        case .archivesPackedAnew: ("archives_packed_anew", [], "Archives of which the rest was packed anew.")
        case .archivesDeleted: ("archives_deleted", [], "Archives deleted because nobody needed them any more.")
        case .archiveBytesFreed: ("archive_freed_bytes", [], "Bytes of the archives that were deleted.")
        }
    }

    private static func label(_ operation: TimedOperation) -> String {
        switch operation {
        case .storeHead: "head"
        case .storeGet: "get"
        case .storeList: "list"
        case .storePut: "put"
        case .storeCopy: "copy"
        case .storeDelete: "delete"
        case .storeOther: "other"
        }
    }

    fileprivate static func number(_ value: Double) -> String { value.isFinite ? plain(value) : "0" }

    /// Groups samples of one metric below one HELP and TYPE, as the format asks.
    private struct Writer {
        private var families: [(name: String, head: String, samples: String)] = []

        var text: String { families.map { $0.head + $0.samples }.joined() }

        private mutating func add(_ family: String, _ type: String, _ help: String, _ samples: String) {
            if let index = families.firstIndex(where: { $0.name == family }) {
                families[index].samples += samples
            } else {
                families.append((family, "# HELP \(family) \(help)\n# TYPE \(family) \(type)\n", samples))
            }
        }

        mutating func sample(
            _ name: String, _ type: String, _ help: String, _ labels: [(String, String)], _ value: String
        ) { add(name, type, help, "\(name)\(text(labels)) \(value)\n") }

        mutating func histogram(_ operation: String, _ histogram: Histogram) {
            let name = "cloudfusion_store_request_duration_seconds"
            var samples = ""
            var sum: Int64 = 0
            for (index, count) in histogram.buckets.enumerated() {
                sum += count
                let bound = index < Histogram.bounds.count ? plain(Histogram.bounds[index]) : "+Inf"
                samples += "\(name)_bucket\(text([("operation", operation), ("le", bound)])) \(sum)\n"
            }
            samples += "\(name)_sum\(text([("operation", operation)])) \(number(histogram.sumSeconds))\n"
            samples += "\(name)_count\(text([("operation", operation)])) \(histogram.count)\n"
            add(name, "histogram", "How long requests to the store took.", samples)
        }

        private func text(_ labels: [(String, String)]) -> String {
            guard !labels.isEmpty else { return "" }
            let pairs = labels.map { name, value in
                let escaped = value.map { character -> String in
                    switch character {
                    case "\\": "\\\\"
                    case "\"": "\\\""
                    case "\n": "\\n"
                    default: String(character)
                    }
                }
                return "\(name)=\"\(escaped.joined())\""
            }
            return "{\(pairs.joined(separator: ","))}"
        }
    }
}
