import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension AzureStore {
    /// Azure has no listing that begins behind a name: it begins at the prefix.
    package func listKeys(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAfter: [UInt8]?, after token: String?, _ path: StorePath
    ) throws(StoreError) -> KeyListing {
        var listing = KeyListing()
        listing.next = token
        // Pages may be short, and empty, though more follows.
        repeat {
            let page = try listPage(
                prefix: prefix, delimiter: delimiter, maximum: maximum, after: listing.next, path,
                action: "'/\(path)' could not be listed")
            guard page.next == nil || page.next != listing.next else {
                throw StoreError(
                    .internal, "the server begins the listing of '/\(path)' anew where it should go on", path: path)
            }
            listing.objects += page.objects
            listing.prefixes += page.prefixes
            listing.refused += page.refused
            listing.next = page.next
        } while listing.next != nil && listing.objects.count + listing.prefixes.count < min(maximum, Self.fewest)
        return listing
    }

    /// Who asks for so few wants to know whether there are any.
    private static let fewest = 2

    func listPage(
        prefix: [UInt8], delimiter: Bool, maximum: Int, after token: String?, _ path: StorePath, action: String
    ) throws(StoreError) -> KeyListing {
        var call = AzureCall("GET", nil, .requestsList, .storeList, action: action, path: path)
        call.query = [
            ("restype", "container"), ("comp", "list"), ("maxresults", String(maximum)), ("include", "metadata"),
        ]
        if delimiter { call.query.append(("delimiter", "/")) }
        if !prefix.isEmpty { call.query.append(("prefix", String(decoding: prefix, as: UTF8.self))) }
        if let token { call.query.append(("marker", token)) }
        let root: XMLElement
        do throws(StoreError) { root = try XMLElement.parse(try send(call).body) } catch {
            // A file in the middle of the prefix is an error of this kind.
            guard isHierarchical, error.code == .alreadyExists || error.code == .invalidArgument else { throw error }
            try requireDirectory(path)
            throw error
        }
        guard root.name == "EnumerationResults", let blobs = root["Blobs"] else {
            throw StoreError(
                .internal, "the server did not answer a listing of '/\(path)' as Azure does: check endpoint", path: path
            )
        }
        var listing = KeyListing()
        var folders: [[UInt8]] = []
        for entry in blobs.children {
            guard let name = entry["Name"] else { continue }
            // What XML cannot carry is percent-encoded, and no key of this program.
            if name.attributes["Encoded"] == "true" {
                listing.refused.append(name.text)
                continue
            }
            let key = Array(name.text.utf8)
            if entry.name == "BlobPrefix" { listing.prefixes.append(key) }
            guard entry.name == "Blob" else { continue }
            let object = Self.object(entry, key)
            // A directory of a hierarchical namespace, or Hadoop's marker of one.
            if delimiter, object.described?[Self.folderName]?.lowercased() == "true", key.last != UInt8(ascii: "/") {
                folders.append(key + [UInt8(ascii: "/")])
            } else {
                listing.objects.append(object)
            }
        }
        if !folders.isEmpty {
            // What is in it may have told it, too.
            listing.prefixes = Set(listing.prefixes + folders).sorted { $0.lexicographicallyPrecedes($1) }
        }
        let next = root["NextMarker"]?.text ?? ""
        if !next.isEmpty { listing.next = next }
        return listing
    }

    private static func object(_ entry: XMLElement, _ key: [UInt8]) -> KeyListing.Object {
        var described: [String: String] = [:]
        for value in entry["Metadata"]?.children ?? [] { described[value.name.lowercased()] = value.text }
        let properties = entry["Properties"]
        let modified = properties?["Last-Modified"].flatMap { Timestamp(httpDate: $0.text) }
        let digest = properties?["Content-MD5"].flatMap { TextEncoding.bytes(base64: $0.text) }
        var object = KeyListing.Object(
            key: key, size: HTTPAnswer.size(properties?["Content-Length"]?.text) ?? 0,
            modified: modified ?? Timestamp(nanoseconds: 0), tag: HTTPAnswer.tag(properties?["Etag"]?.text))
        object.described = described
        object.md5 = digest?.count == 16 ? digest : nil
        return object
    }

    /// In a hierarchical namespace a directory that has nothing in it, and one that is not there, are listed alike.
    package func complete(_ listing: inout KeyListing, _ directory: StorePath) throws(StoreError) {
        guard isHierarchical, listing.next == nil, listing.objects.isEmpty, listing.prefixes.isEmpty else { return }
        try requireDirectory(directory)
    }

    /// - Throws: ``StoreError``: `.notADirectory`, `.notFound`.
    func requireDirectory(_ path: StorePath) throws(StoreError) {
        guard !path.isRoot else { return }
        guard let found = try headOfAny(try key(path), path) else { throw absent(path) }
        guard Self.isDirectory(found) else { throw Self.notADirectory(path) }
    }
}
