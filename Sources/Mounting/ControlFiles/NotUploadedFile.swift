package import Catalog
import StoreAPI
package import Threading

/// `stats/notuploaded`: a line for each change that is not on the store, oldest first, with tabs between path, bytes,
/// age in seconds, attempts, and the last error. Empty when everything is on the store.
package enum NotUploadedFile {
    /// Lines at most; then one that says how many more there are.
    package static let limit = 100_000
    private static let page = 1_000

    package static func text(
        now: Timestamp, items: (_ last: PendingID?, _ limit: Int) throws(CatalogError) -> [PendingItem], total: Int64
    ) throws(CatalogError) -> [UInt8] {
        var text: [UInt8] = []
        var count = 0
        var last: PendingID?
        while count < limit {
            let rows = try items(last, min(page, limit - count))
            for row in rows { append(row, now, to: &text) }
            count += rows.count
            last = rows.last?.id
            if rows.count < page { break }
        }
        if total > Int64(count), count >= limit { text += Array("… and \(total - Int64(count)) more\n".utf8) }
        return text
    }

    private static func append(_ row: PendingItem, _ now: Timestamp, to text: inout [UInt8]) {
        text.append(UInt8(ascii: "/"))
        escape(row.path.bytes, to: &text)
        let age = max(0, (now.nanoseconds - row.since.nanoseconds) / 1_000_000_000)
        text += Array("\t\(row.size)\t\(age)\t\(row.attempts)\t".utf8)
        var remark = row.lastError ?? ""
        if row.isDeletion { remark = remark.isEmpty ? "to be deleted" : "to be deleted: \(remark)" }
        if row.isParked { remark = "given up until something changes: \(remark)" }
        escape(Array(remark.utf8), to: &text)
        text.append(UInt8(ascii: "\n"))
    }

    /// Backslashes and control characters as `\ooo`, so that each change is one line and no terminal is upset.
    private static func escape(_ bytes: [UInt8], to text: inout [UInt8]) {
        for byte in bytes {
            if byte < 32 || byte == 127 || byte == UInt8(ascii: "\\") {
                let digits = String(byte, radix: 8)
                text += Array("\\\(String(repeating: "0", count: 3 - digits.count))\(digits)".utf8)
            } else {
                text.append(byte)
            }
        }
    }
}
