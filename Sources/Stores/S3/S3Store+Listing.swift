import FoundationEssentials
import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    // MARK: One path

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        if path.isRoot { return Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0)) }
        let key = try key(path)
        if !shadowed.withLock({ $0.contains(path) }), let response = try head(key, path) {
            return metadata(response, size: Self.length(response), isDirectoryKey: false)
        }
        guard let found = try directory(path) else {
            throw StoreError(.notFound, "'\(path)' does not exist in bucket '\(configuration.bucket)'", path: path)
        }
        return found
    }

    /// The directory at `path`; nil when nothing has a key below it.
    ///
    /// By a listing, whose answer tells a missing bucket from a missing key; HEAD's does not.
    func directory(_ path: StorePath) throws(StoreError) -> Metadata? {
        let marker = try key(path, asDirectory: true)
        let listing = try listKeys(prefix: marker, delimiter: false, maximum: 1, after: nil, path)
        guard let first = listing.objects.first else { return nil }
        if first.key == marker, let response = try head(marker, path) {
            return metadata(response, size: 0, isDirectoryKey: true)
        }
        return Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0))
    }

    // MARK: Listings

    /// Objects and common prefixes, by their whole keys, in the server's order.
    struct KeyListing {
        struct Object {
            var key: [UInt8]
            var size: Int64
            var modified: Timestamp
            var tag: String?
        }
        var objects: [Object] = []
        var prefixes: [[UInt8]] = []
        var next: String?
        /// Keys that the answer could not carry; for the log.
        var refused: [String] = []
    }

    func listKeys(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAfter: [UInt8]? = nil, after token: String?,
        _ path: StorePath
    ) throws(StoreError) -> KeyListing {
        var call = S3Call(
            "GET", nil, .requestsList, .storeList, action: "'/\(path)' could not be listed", path: path)
        call.query = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", String(maximum))]
        if delimiter { call.query.append(("delimiter", "/")) }
        if !prefix.isEmpty { call.query.append(("prefix", String(decoding: prefix, as: UTF8.self))) }
        if let startAfter { call.query.append(("start-after", String(decoding: startAfter, as: UTF8.self))) }
        if let token { call.query.append(("continuation-token", token)) }
        let response = try send(call)
        let root = try XMLElement.parse(response.body)
        guard root.name == "ListBucketResult" else {
            throw StoreError(
                .internal, "the server answered a listing of '/\(path)' with <\(root.name)>: is this an S3 endpoint?",
                path: path)
        }
        let isEncoded = root["EncodingType"]?.text == "url"
        func key(_ text: String) -> [UInt8] {
            isEncoded ? TextEncoding.percentDecode(text, plusIsSpace: true) ?? Array(text.utf8) : Array(text.utf8)
        }
        // XMLElement puts U+FFFD for what XML cannot carry; an encoded answer has none of its own.
        func isUnreadable(_ text: String) -> Bool {
            (isEncoded || root.isMended) && text.unicodeScalars.contains("\u{FFFD}")
        }
        var listing = KeyListing()
        for element in root.children {
            switch element.name {
            case "Contents":
                guard let name = element["Key"]?.text else { continue }
                if isUnreadable(name) {
                    listing.refused.append(name)
                    continue
                }
                listing.objects.append(
                    .init(
                        key: key(name), size: HTTPAnswer.size(element["Size"]?.text) ?? 0,
                        modified: element["LastModified"].flatMap { POSIXMetadata.parseTime($0.text) }
                            ?? Timestamp(nanoseconds: 0),
                        tag: HTTPAnswer.tag(element["ETag"]?.text)))
            case "CommonPrefixes":
                for prefix in element.all("Prefix") {
                    if isUnreadable(prefix.text) {
                        listing.refused.append(prefix.text)
                    } else {
                        listing.prefixes.append(key(prefix.text))
                    }
                }
            default: break
            }
        }
        if root["IsTruncated"]?.text == "true" {
            guard let next = root["NextContinuationToken"]?.text, !next.isEmpty, next != token else {
                throw StoreError(
                    .internal, "the server broke off the listing of '/\(path)' without saying where it goes on",
                    path: path)
            }
            listing.next = next
        }
        return listing
    }

    /// Where a listing goes on: the server's token, and objects that may turn out to have the key of a directory.
    private struct Cursor: Codable {
        struct Waiting: Codable {
            var key: [UInt8]
            var size: Int64
            var modified: Int64
            var tag: String?
        }
        var token: String
        var waiting: [Waiting]
    }

    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        let prefix = try key(directory, asDirectory: true)
        let start = try cursor.map { (cursor) throws(StoreError) -> Cursor in
            guard let start = try? JSONDecoder().decode(Cursor.self, from: Data(cursor.text.utf8)) else {
                throw StoreError(
                    .invalidArgument, "the cursor for a listing of '/\(directory)' is none of this store's")
            }
            return start
        }
        let listing = try listKeys(prefix: prefix, delimiter: true, maximum: 1000, after: start?.token, directory)
        let earlier = (start?.waiting ?? []).map {
            KeyListing.Object(key: $0.key, size: $0.size, modified: Timestamp(nanoseconds: $0.modified), tag: $0.tag)
        }
        var page = ListPage(entries: [], refusedNames: listing.refused)
        let directories = Set(listing.prefixes)
        for key in listing.prefixes {
            guard let name = try name(key, below: prefix, isDirectory: true, directory) else {
                page.refusedNames.append(String(decoding: key, as: UTF8.self))
                continue
            }
            page.entries.append(
                ListEntry(name: name, metadata: Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0))))
        }
        // "a" comes before "a/", but "a-b" comes between them: up to there nobody knows whether "a" is a directory.
        let last = max(listing.objects.last?.key ?? [], listing.prefixes.last ?? [], by: Self.precedes)
        var waiting: [Cursor.Waiting] = []
        for object in earlier + listing.objects where object.key != prefix {
            guard let name = try name(object.key, below: prefix, isDirectory: false, directory) else {
                page.refusedNames.append(String(decoding: object.key, as: UTF8.self))
                continue
            }
            let asDirectory = object.key + [UInt8(ascii: "/")]
            if directories.contains(asDirectory) {
                page.refusedNames.append(String(decoding: object.key, as: UTF8.self))
                remember(shadowed: directory.appending(name))
            } else if listing.next != nil, Self.precedes(last, asDirectory) {
                waiting.append(
                    .init(
                        key: object.key, size: object.size, modified: object.modified.nanoseconds, tag: object.tag))
            } else {
                page.entries.append(
                    ListEntry(
                        name: name,
                        metadata: Metadata(
                            kind: .file, size: object.size, modified: object.modified,
                            version: object.tag.map { Version($0) }, md5: nil)))
            }
        }
        page.next = try listing.next.map { (token) throws(StoreError) -> ListCursor in
            do {
                let data = try JSONEncoder().encode(Cursor(token: token, waiting: waiting))
                return ListCursor(String(decoding: data, as: UTF8.self))
            } catch { throw StoreError(.internal, "a listing's place could not be written down: \(error)") }
        }
        return page
    }

    /// The name that a key has in the directory with `prefix`; nil when it has no place in a file system.
    private func name(_ key: [UInt8], below prefix: [UInt8], isDirectory: Bool, _ directory: StorePath)
        throws(StoreError) -> FileName?
    {
        guard key.starts(with: prefix) else { return nil }
        var rest = key[prefix.count...]
        if isDirectory, rest.last == UInt8(ascii: "/") { rest = rest.dropLast() }
        return try codec(for: rest, directory).decode(rest)
    }

    private static func precedes(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.lexicographicallyPrecedes(b) }

    private func max(_ a: [UInt8], _ b: [UInt8], by precedes: ([UInt8], [UInt8]) -> Bool) -> [UInt8] {
        precedes(a, b) ? b : a
    }

    /// How many keys that are an object and a directory at once are remembered; more are not found in practice.
    private static let mostShadowed = 10_000

    private func remember(shadowed path: StorePath) {
        shadowed.withLock { if $0.count < Self.mostShadowed { $0.insert(path) } }
    }
}
