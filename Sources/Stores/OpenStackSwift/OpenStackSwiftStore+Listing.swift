import FoundationEssentials
import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension OpenStackSwiftStore {
    /// A line of a container's listing: an object, or what objects have in common up to a slash.
    private struct Row: Decodable {
        var name: String?
        var subdir: String?
        var bytes: Int64?
        var hash: String?
        var last_modified: String?
        /// Of a static large object: its entity tag; `hash` is that of the manifest.
        var slo_etag: String?
    }

    package func listKeys(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAfter: [UInt8]?, after token: String?, _ path: StorePath
    ) throws(StoreError) -> KeyListing {
        try listKeys(
            in: .own, prefix: prefix, delimiter: delimiter, maximum: maximum,
            after: token ?? startAfter.map { String(decoding: $0, as: UTF8.self) }, path)
    }

    func listKeys(
        in container: OpenStackSwiftCall.Place, prefix: [UInt8], delimiter: Bool, maximum: Int, after marker: String?,
        _ path: StorePath
    ) throws(StoreError) -> KeyListing {
        let maximum = min(maximum, traits.listingLimit)
        var call = OpenStackSwiftCall(
            "GET", nil, .requestsList, .storeList, action: "'/\(path)' could not be listed", path: path)
        call.container = container
        call.query = [("format", "json"), ("limit", String(maximum))]
        if delimiter { call.query.append(("delimiter", "/")) }
        if !prefix.isEmpty { call.query.append(("prefix", String(decoding: prefix, as: UTF8.self))) }
        if let marker { call.query.append(("marker", marker)) }
        let response = try send(call)
        // 204: there is nothing.
        let rows =
            response.status == 204 ? [] : try? JSONDecoder().decode([Row].self, from: Data(response.body))
        guard let rows else {
            throw StoreError(
                .internal, "the server did not answer a listing of '/\(path)' in JSON: is this OpenStack Swift?",
                path: path)
        }
        var listing = KeyListing()
        for row in rows {
            if let subdir = row.subdir { listing.prefixes.append(Array(subdir.utf8)) }
            guard let name = row.name else { continue }
            let tag = HTTPAnswer.tag(row.slo_etag).map { $0 + Self.segmentsMark } ?? HTTPAnswer.tag(row.hash)
            listing.objects.append(
                .init(
                    key: Array(name.utf8), size: HTTPAnswer.size(row.bytes.map(String.init)) ?? 0,
                    modified: row.last_modified.flatMap { Timestamp(iso8601: $0) } ?? Timestamp(nanoseconds: 0),
                    tag: tag))
        }
        // A page may be a bit shorter than the limit though more follows; the last one is an empty one.
        guard let last = rows.last.flatMap({ $0.name ?? $0.subdir }), rows.count >= max(1, maximum / 2) else {
            return listing
        }
        guard last != marker else {
            throw StoreError(
                .internal, "the server begins the listing of '/\(path)' anew where it should go on", path: path)
        }
        listing.next = last
        return listing
    }

    /// The MD5 of no bytes: that of empty objects, and said of some objects in segments.
    private static let emptyTag = "d41d8cd98f00b204e9800998ecf8427e"
    private static let mostEmpty = 10_000

    package func complete(_ listing: inout KeyListing, _ directory: StorePath) throws(StoreError) {
        let known = empty.withLock { $0 }
        let doubtful = listing.objects.indices.filter { index in
            let object = listing.objects[index]
            return object.tag == Self.emptyTag && object.key.last != UInt8(ascii: "/")
                && known[object.key] != object.modified
        }
        guard !doubtful.isEmpty else { return }
        let objects = listing.objects
        let heads = Lock<[Int: HTTPResponse]>([:])
        try session.parallel.run(doubtful.count, parallel: 16) { [self] (number) throws(StoreError) in
            let index = doubtful[number]
            let found = try head(objects[index].key, directory)
            if let found { heads.withLock { $0[index] = found } }
        }
        let found = heads.withLock { $0 }
        for index in doubtful {
            guard let head = found[index] else { continue }
            if Self.isInSegments(head) {
                listing.objects[index].size = HTTPAnswer.length(head)
                listing.objects[index].tag = Self.version(head)?.text
            } else if HTTPAnswer.length(head) == 0 {
                empty.withLock { empty in
                    if empty.count >= Self.mostEmpty { empty = [:] }
                    empty[objects[index].key] = objects[index].modified
                }
            }
        }
        // Deleted since it was listed.
        for index in doubtful.reversed() where found[index] == nil { listing.objects.remove(at: index) }
    }
}
