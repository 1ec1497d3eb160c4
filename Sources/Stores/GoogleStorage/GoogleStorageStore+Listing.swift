import Statistics
package import StoreAPI
import StoreHTTP

extension GoogleStorageStore {
    /// A page of objects, and of what objects have in common up to a slash.
    struct Page: Decodable {
        var items: [GoogleStorageObject]?
        var prefixes: [String]?
        var nextPageToken: String?
    }

    /// What of each object is asked for.
    static let listedFields = "name,size,generation,metageneration,timeCreated,updated,md5Hash,crc32c,metadata"

    package func listKeys(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAfter: [UInt8]?, after token: String?, _ path: StorePath
    ) throws(StoreError) -> KeyListing {
        let page = try listObjects(
            prefix: prefix, delimiter: delimiter, maximum: maximum, startAt: startAfter, after: token, path)
        var listing = KeyListing()
        listing.prefixes = (page.prefixes ?? []).map { Array($0.utf8) }
        listing.objects = (page.items ?? []).map(Self.listed)
        listing.next = page.nextPageToken
        // Where a page begins or ends between a directory and its marker, the marker is looked up.
        let markers = Set(listing.objects.lazy.map(\.key).filter { $0.last == UInt8(ascii: "/") })
        if delimiter, capabilities.contains(.attributesInListing) {
            let edges = [
                token == nil ? nil : listing.prefixes.first, page.nextPageToken == nil ? nil : listing.prefixes.last,
            ]
            for key in Set(edges.compactMap { $0 }) where !markers.contains(key) {
                if let marker = try head(key, path) { listing.objects.append(Self.listed(marker)) }
            }
        }
        return listing
    }

    private static func listed(_ object: GoogleStorageObject) -> KeyListing.Object {
        KeyListing.Object(
            key: Array(object.name.utf8), size: object.size, modified: object.created, tag: object.generation,
            described: (object.description.metadata ?? [:]).compactMapValues { $0 })
    }

    /// - Parameter startAt: The page begins with this, or behind it.
    func listObjects(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAt: [UInt8]?, after token: String?, _ path: StorePath
    ) throws(StoreError) -> Page {
        var call = GoogleStorageCall(
            "GET", target: .objects, .requestsList, .storeList, action: "'/\(path)' could not be listed", path: path)
        call.query = [
            ("maxResults", String(maximum)),
            ("fields", "nextPageToken,prefixes,items(\(Self.listedFields))"),
        ]
        // Directories show beside what is in them, with their attributes.
        if delimiter { call.query += [("delimiter", "/"), ("includeTrailingDelimiter", "true")] }
        if !prefix.isEmpty { call.query.append(("prefix", String(decoding: prefix, as: UTF8.self))) }
        if let startAt { call.query.append(("startOffset", String(decoding: startAt, as: UTF8.self))) }
        if let token { call.query.append(("pageToken", token)) }
        let page = try decode(Page.self, try send(call), call)
        guard page.nextPageToken == nil || page.nextPageToken != token else {
            throw StoreError(
                .internal, "the server begins the listing of '/\(path)' anew where it should go on", path: path)
        }
        return page
    }
}
