import Catalog
import Statistics
import StoreAPI
import Testing
import Threading

@testable import Mounting

@Suite struct ControlFilesTests {
    private func status(_ state: MountStatus.State = .connected) -> MountStatus {
        MountStatus(
            state: state, version: "1", pid: 7, mountPoint: "/mnt", startedAt: 1_700_000_000,
            heartbeatAt: 1_700_000_060,
            store: .init(
                name: "s3", identity: "https://x/b", problem: nil, information: [.init(name: "region", value: "eu")]),
            pending: .init(items: 2, bytes: 1_500_000, parked: 1, oldestSeconds: 61),
            transfers: .init(
                uploadBytesPerSecond: 2_000_000, downloadBytesPerSecond: 1_500, uploadedBytes: 123_456_789,
                downloadedBytes: 0, uploadsInFlight: 1, downloadsInFlight: 0),
            cache: .init(
                folder: "/c", bytes: 5_000_000, dirtyBytes: 1_500_000, dirtyFiles: 2, softLimitBytes: 1,
                hardLimitBytes: 2, hits: 10, misses: 3),
            settings: ["cache": "60"],
            errors: [
                .init(kind: "a\"b\\", count: 2, first: 1, last: 2, message: "no\nyes", advice: "do it")
            ], cancelledCommands: 0)
    }

    @Test("stats/stats begins with the predecessor's lines, in their order")
    func stats() {
        let lines = StatsFile.text(status()).split(separator: "\n", omittingEmptySubsequences: false).map(String.init)
        #expect(
            lines.prefix(11) == [
                "0.002 MBs download rate", "2.000 MBs upload rate", "123 MB uploaded", "0.000 MB downloaded", "",
                "3 cache misses", "10 cache hits", "", "5.000 MB of cached data", "", "Status:",
            ])
        #expect(lines[11] == "uploading")
        #expect(lines[12].hasPrefix("last heartbeat: 20"))
    }

    @Test("that a store is for reading only is said where it is named")
    func readOnly() throws {
        var status = status()
        #expect(StatsFile.text(status).contains("\nstore: s3 https://x/b\n"))
        status.store?.isReadOnly = true
        #expect(StatsFile.text(status).contains("\nstore: s3 https://x/b, for reading only\n"))
        #expect(StatusFile.read(StatusFile.text(status)) == status)
        #expect(String(decoding: StatusFile.text(status), as: UTF8.self).contains("\"read_only\" : true"))
    }

    @Test("status.json is read back as it was written")
    func json() throws {
        let status = status()
        let text = StatusFile.text(status)
        #expect(StatusFile.read(text) == status)
        #expect(String(decoding: text, as: UTF8.self).contains("\"upload_bytes_per_second\""))
        #expect(StatusFile.read(Array("{".utf8)) == nil)
    }

    @Test("stats/metrics is valid: each metric has one head, each sample belongs to it, labels are escaped")
    func metrics() throws {
        let statistics = Statistics()
        statistics.add(.bytesUploaded, 5)
        statistics.record(.milliseconds(3), for: .storePut)
        let text = MetricsFile.text(statistics.snapshot(), status())
        var kinds: [String: String] = [:]
        var current = ""
        var seen: Set<String> = []
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ", maxSplits: 3)
            if line.hasPrefix("# TYPE ") {
                current = String(words[2])
                #expect(kinds[current] == nil, "\(current) has two heads")
                kinds[current] = String(words[3])
            } else if line.hasPrefix("# HELP ") {
                #expect(words.count == 4)
            } else {
                let sample = try #require(
                    try #/([a-z_]+)(\{([a-z]+="([^"\\]|\\.)*",?)+\})? (-?[0-9.e+-]+|NaN)/#.wholeMatch(in: line))
                var name = String(sample.1)
                if kinds[current] == "histogram" {
                    for suffix in ["_bucket", "_sum", "_count"] where name.hasSuffix(suffix) {
                        name.removeLast(suffix.count)
                    }
                }
                #expect(name == current, "\(line)")
                if kinds[current] == "counter" { #expect(name.hasSuffix("_total")) }
                #expect(seen.insert(String(line.split(separator: " ").dropLast().joined(separator: " "))).inserted)
                #expect(Double(String(sample.5)) != nil)
            }
        }
        #expect(text.contains("cloudfusion_uploaded_bytes_total 5\n"))
        #expect(
            text.contains(#"cloudfusion_store_request_duration_seconds_bucket{operation="put",le="+Inf"} 1"#))
        #expect(text.contains(#"cloudfusion_errors_total{kind="a\"b\\"} 2"#))
    }

    @Test("stats/errors keeps a message of several lines inside its entry")
    func errors() {
        let text = ErrorsFile.text(status().errors)
        #expect(text.hasPrefix("a\"b\\: 2 times, last at 1970"))
        #expect(text.contains("\n    no\n    yes\n    do it\n"))
        #expect(ErrorsFile.text([]) == "")
    }

    @Test("stats/notuploaded has a line for each change, whatever is in its name, and an end")
    func notUploaded() throws {
        let rows = (0..<25_000).map { (number: Int) -> PendingItem in
            let error: String? = number == 2 ? "denied\nreally" : nil
            return PendingItem(
                id: PendingID(Int64(number)), revision: 1, path: StorePath("d/a\nb\t\(number)")!,
                isDeletion: number == 1, inode: nil, size: 5, since: Timestamp(seconds: 100),
                changed: Timestamp(seconds: 100), attempts: 2, lastError: error,
                isParked: number == 2)
        }
        let text = try NotUploadedFile.text(
            now: Timestamp(seconds: 130),
            items: { last, limit in Array(rows.drop { $0.id <= last ?? PendingID(-1) }.prefix(limit)) }, total: 25_000)
        let lines = String(decoding: text, as: UTF8.self).split(separator: "\n")
        #expect(lines.count == 25_000)
        #expect(lines[0] == #"/d/a\012b\0110"# + "\t5\t30\t2\t")
        #expect(lines[1].hasSuffix("\tto be deleted"))
        #expect(lines[2].hasSuffix(#"given up until something changes: denied\012really"#))
        var asked = 0
        let endless = try NotUploadedFile.text(
            now: Timestamp(seconds: 0),
            items: { _, limit in
                asked += limit
                return Array(repeating: rows[0], count: limit)
            }, total: 1_000_000)
        #expect(asked == NotUploadedFile.limit)
        #expect(String(decoding: endless.suffix(30), as: UTF8.self).hasSuffix("… and 900000 more\n"))
    }

    @Test("commands and their paths are understood")
    func commands() throws {
        func parse(_ text: String) -> [CommandFile.Command]? {
            try? CommandFile.parse(Array(text.utf8), mountPoint: "/mnt/x").get()
        }
        #expect(parse("sync\n") == [.synchronize(nil)])
        #expect(parse("  drain \r\n\ncancel") == [.synchronize(nil), .cancel])
        #expect(parse("sync a b/c \n") == [.synchronize(StorePath("a b/c"))])
        #expect(parse("now /mnt/x/data/d//e/") == [.synchronize(StorePath("d/e"))])
        #expect(parse("sync /mnt/x/data") == [.synchronize(.root)])
        #expect(parse("sync /mnt/xy") == [.synchronize(StorePath("mnt/xy"))])
        #expect(parse("") == [])
        for wrong in ["sing", "now", "drain x", "sync a/../b", "sync ..", "sync a\nsing"] {
            #expect(parse(wrong) == nil)
        }
    }

    @Test("ages and amounts are readable")
    func words() {
        #expect(age(59.9) == "59 s" && age(61) == "1 min 1 s" && age(7_300) == "2 h 1 min" && age(1e9) == "11574 d 1 h")
        #expect(megabytes(0) == "0.000" && megabytes(99_999_499) == "99.999" && megabytes(1e12) == "1000000")
    }
}
