import FoundationEssentials
package import StoreAPI
package import StoreHTTP
package import Threading

/// A store of objects under keys: a bucket of S3, a container of OpenStack Swift or of Azure.
///
/// Directories are what keys have in common up to a slash, and empty objects whose key ends in one. Where a key is an
/// object and a directory at once, the directory is shown.
package protocol FlatStore: StoreBackend {
    /// What the server tells of one object.
    associatedtype Head

    var session: HTTPSession { get }
    /// What the keys are in, for messages: "bucket 'photos'".
    var place: String { get }
    /// Objects that a listing has found to have the key of a directory.
    var shadowed: Lock<Set<StorePath>> { get }

    /// What all keys begin with: empty, or with a slash at its end.
    var keyPrefix: [UInt8] { get }
    /// The most bytes of a key.
    var longestKey: Int { get }

    /// Whether keys with control characters are taken, and listed as they are; nil while that is not known.
    var keepsControls: Bool? { get }

    /// Whether keys keep the marks that ``KeyCodec/keepsMarks`` is about.
    var keepsMarks: Bool { get }

    /// nil when there is no such object.
    func head(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> Head?

    func metadata(_ head: Head, isDirectoryKey: Bool) -> Metadata

    func version(_ head: Head) -> Version?

    /// A page of the keys that begin with `prefix`, in the server's order, which is that of their bytes.
    ///
    /// - Parameters:
    ///   - delimiter: Whether what the keys have in common up to the next slash is told in place of them.
    ///   - startAfter: The first page begins behind this, or earlier where the server cannot do that.
    ///   - token: ``KeyListing/next`` of the page before.
    func listKeys(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAfter: [UInt8]?, after token: String?, _ path: StorePath
    ) throws(StoreError) -> KeyListing

    /// The directory at `path`; nil when there is none.
    func directory(_ path: StorePath) throws(StoreError) -> Metadata?

    /// Looks up what a page of the listing of a directory does not tell, or tells wrongly.
    func complete(_ listing: inout KeyListing, _ directory: StorePath) throws(StoreError)

    /// Writes the empty object that stands for a directory.
    func putMarker(_ key: [UInt8], _ path: StorePath, _ attributes: Attributes) throws(StoreError)

    /// Gives an object the attributes that are not nil, in place of those that `found` has.
    ///
    /// - Parameter found: The head of the object.
    func replaceAttributes(
        of found: Head, _ key: [UInt8], _ path: StorePath, isDirectoryKey: Bool, _ attributes: Attributes
    ) throws(StoreError) -> Metadata

    /// Deletes objects by their keys.
    ///
    /// - Returns: Why those that are still there are, by the index that came with the key.
    func deleteKeys(_ keys: [(index: Int, key: [UInt8])], of deletions: [Deletion]) -> [Int: StoreError]
}

/// Objects and common prefixes, by their whole keys, in the server's order.
package struct KeyListing {
    package struct Object {
        package var key: [UInt8]
        package var size: Int64
        package var modified: Timestamp
        package var tag: String?
        /// Its user metadata, where the listing tells it (``POSIXMetadata``).
        package var described: [String: String]?
        package var md5: [UInt8]?

        package init(
            key: [UInt8], size: Int64, modified: Timestamp, tag: String?, described: [String: String]? = nil,
            md5: [UInt8]? = nil
        ) {
            self.key = key
            self.size = size
            self.modified = modified
            self.tag = tag
            self.described = described
            self.md5 = md5
        }

        fileprivate func metadata(isDirectoryKey: Bool) -> Metadata {
            let description = described.map { values in
                POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { values[$0] }
            }
            let kind = description?.kind ?? (isDirectoryKey ? .directory : .file)
            return Metadata(
                kind: kind, size: kind == .directory ? 0 : size, modified: modified,
                version: kind == .directory ? nil : tag.map { Version($0) }, attributes: description?.attributes,
                md5: kind == .directory ? nil : md5)
        }
    }
    package var objects: [Object] = []
    package var prefixes: [[UInt8]] = []
    package var next: String?
    /// Keys that the answer could not carry; for the log.
    package var refused: [String] = []

    package init() {}
}

extension FlatStore {
    /// The key of a path, of an object or of a directory's marker.
    ///
    /// - Throws: ``StoreError``: `.invalidName` when it is too long.
    func key(_ path: StorePath, asDirectory: Bool = false) throws(StoreError) -> [UInt8] {
        var key = keyPrefix + (try codec(for: path.bytes, path)).key(for: path)
        if asDirectory, !path.isRoot { key.append(UInt8(ascii: "/")) }
        let longest = longestKey
        guard key.count <= longest else {
            throw StoreError(
                .invalidName, "'\(path)' makes a key of \(key.count) bytes: the store takes \(longest)", path: path)
        }
        return key
    }

    /// The name of the metadata that tells which attempt wrote an object under a condition: of the repeats of one
    /// request only the first may find the condition true.
    static var markName: String { "cloudfusion-write" }

    func listKeys(prefix: [UInt8], delimiter: Bool, maximum: Int, after token: String?, _ path: StorePath)
        throws(StoreError) -> KeyListing
    {
        try listKeys(
            prefix: prefix, delimiter: delimiter, maximum: maximum, startAfter: nil, after: token, path)
    }

    package var keepsMarks: Bool { true }

    package func complete(_ listing: inout KeyListing, _ directory: StorePath) throws(StoreError) {}

    package func directory(_ path: StorePath) throws(StoreError) -> Metadata? { try listedDirectory(path) }

    /// How names and keys become each other.
    ///
    /// - Parameter bytes: The name or key in question. Some mean different things to different servers.
    /// - Throws: ``StoreError``: `.unavailable` while it is not known what this one means.
    func codec(for bytes: some Collection<UInt8>, _ path: StorePath) throws(StoreError) -> KeyCodec {
        if let keepsControls { return KeyCodec(keepsControls: keepsControls, keepsMarks: keepsMarks) }
        guard KeyCodec.isPlain(bytes) else {
            throw StoreError(
                .unavailable, "there is no connection yet that tells under which key '\(path)' lies", path: path)
        }
        return KeyCodec(keepsControls: true, keepsMarks: keepsMarks)
    }

    func absent(_ path: StorePath) -> StoreError {
        StoreError(.notFound, "'\(path)' does not exist in \(place)", path: path)
    }

    // MARK: One path

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        if path.isRoot { return Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0)) }
        let key = try key(path)
        if !shadowed.withLock({ $0.contains(path) }), let head = try head(key, path) {
            return metadata(head, isDirectoryKey: false)
        }
        guard let found = try directory(path) else {
            throw absent(path)
        }
        return found
    }

    /// The directory at `path`; nil when nothing has a key below it.
    ///
    /// By a listing, whose answer tells a missing bucket from a missing key; HEAD's does not.
    func listedDirectory(_ path: StorePath) throws(StoreError) -> Metadata? {
        let marker = try key(path, asDirectory: true)
        let listing = try listKeys(prefix: marker, delimiter: false, maximum: 1, after: nil, path)
        guard let first = listing.objects.first else { return nil }
        if first.key == marker, let head = try head(marker, path) {
            return metadata(head, isDirectoryKey: true)
        }
        return Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0))
    }

    /// Metadata for a read that gives no bytes.
    func check(_ path: StorePath, _ key: [UInt8], _ version: Version?) throws(StoreError) -> Metadata {
        guard let head = try head(key, path) else { throw absent(path) }
        let metadata = metadata(head, isDirectoryKey: false)
        if let version, metadata.version != version { throw StoreError.changed(path, version.text) }
        return metadata
    }

    // MARK: Stored segments

    /// The body with the bytes of stored objects in it.
    func fetchingStored(_ body: UploadBody) throws(StoreError) -> UploadBody {
        var segments: [UploadBody.Segment] = []
        for segment in body.segments {
            if case .stored(let path, let version, let range) = segment, !range.isEmpty {
                segments.append(.bytes(try fetch(path, version, range)))
            } else if segment.length > 0 {
                segments.append(segment)
            }
        }
        return UploadBody(segments)
    }

    func fetch(_ path: StorePath, _ version: Version?, _ range: Range<Int64>) throws(StoreError) -> [UInt8] {
        let sink = MemorySink(from: range.lowerBound)
        _ = try read(path, ReadRequest(range: range, version: version), into: sink)
        guard sink.bytes.count == range.upperBound - range.lowerBound else {
            throw StoreError(
                .preconditionFailed, "'\(path)' is shorter than the range \(range) that was to be taken from it",
                path: path)
        }
        return sink.bytes
    }

    // MARK: Directories and attributes

    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        if path.isRoot { return }
        let marker = try key(path, asDirectory: true)
        var attributes = attributes
        if let existing = try head(marker, path) {
            let known = metadata(existing, isDirectoryKey: true).attributes ?? Attributes()
            let merged = known.merging(attributes)
            if merged == known { return }
            attributes = merged
        } else if try head(try key(path), path) != nil {
            throw StoreError(.notADirectory, "'\(path)' is a file on the store", path: path)
        }
        guard capabilities.contains(.emptyDirectories) else { return }
        try putMarker(marker, path, attributes)
    }

    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        guard capabilities.contains(.attributes) else {
            throw StoreError(.unsupported, "this server does not keep the attributes of '\(path)'", path: path)
        }
        var target = try key(path)
        var found = path.isRoot ? nil : try head(target, path)
        let isDirectoryKey = found == nil || shadowed.withLock { $0.contains(path) }
        if isDirectoryKey {
            target = try key(path, asDirectory: true)
            guard !target.isEmpty else {
                throw StoreError(.unsupported, "the root of \(place) has no attributes of its own", path: path)
            }
            found = try head(target, path)
            if found == nil, !path.isRoot, try directory(path) == nil { throw absent(path) }
        }
        guard let found else {
            try createDirectory(at: path, attributes)
            return Metadata(kind: .directory, modified: .now, attributes: attributes)
        }
        if let version, self.version(found) != version { throw StoreError.changed(path, version.text) }
        let before = metadata(found, isDirectoryKey: isDirectoryKey)
        if (before.attributes ?? Attributes()).merging(attributes) == before.attributes { return before }
        return try replaceAttributes(of: found, target, path, isDirectoryKey: isDirectoryKey, attributes)
    }

    // MARK: Listings

    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        let prefix = try key(directory, asDirectory: true)
        let start = try cursor.map { (cursor) throws(StoreError) -> KeyCursor in
            guard let start = try? JSONDecoder().decode(KeyCursor.self, from: Data(cursor.text.utf8)) else {
                throw StoreError(
                    .invalidArgument, "the cursor for a listing of '/\(directory)' is none of this store's")
            }
            return start
        }
        var listing = try listKeys(prefix: prefix, delimiter: true, maximum: 1000, after: start?.token, directory)
        try complete(&listing, directory)
        let earlier = (start?.waiting ?? []).map {
            KeyListing.Object(
                key: $0.key, size: $0.size, modified: Timestamp(nanoseconds: $0.modified), tag: $0.tag,
                described: $0.described, md5: $0.md5)
        }
        var page = ListPage(entries: [], refusedNames: listing.refused)
        let directories = Set(listing.prefixes)
        let slash = UInt8(ascii: "/")
        // Where the listing shows them beside the prefixes.
        let markers = Dictionary(
            listing.objects.lazy.filter { $0.key.last == slash && $0.key != prefix }.map { ($0.key, $0) },
            uniquingKeysWith: { a, _ in a })
        for key in listing.prefixes {
            guard let name = try name(key, below: prefix, isDirectory: true, directory) else {
                page.refusedNames.append(String(decoding: key, as: UTF8.self))
                continue
            }
            let marker = markers[key]?.metadata(isDirectoryKey: true)
            page.entries.append(
                ListEntry(
                    name: name, metadata: marker ?? Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0))))
        }
        // "a" comes before "a/", but "a-b" comes between them: up to there nobody knows whether "a" is a directory.
        let last = max(listing.objects.last?.key ?? [], listing.prefixes.last ?? [], by: Self.precedes)
        var waiting: [KeyCursor.Waiting] = []
        var previous = prefix
        // `rclone serve s3` can list a key twice that several requests have just made at once.
        for object in earlier + listing.objects where object.key != previous {
            defer { previous = object.key }
            if object.key == prefix || markers[object.key] != nil { continue }
            guard let name = try name(object.key, below: prefix, isDirectory: false, directory) else {
                page.refusedNames.append(String(decoding: object.key, as: UTF8.self))
                continue
            }
            let asDirectory = object.key + [slash]
            if directories.contains(asDirectory) {
                page.refusedNames.append(String(decoding: object.key, as: UTF8.self))
                remember(shadowed: directory.appending(name))
            } else if listing.next != nil, Self.precedes(last, asDirectory) {
                waiting.append(
                    .init(
                        key: object.key, size: object.size, modified: object.modified.nanoseconds, tag: object.tag,
                        described: object.described, md5: object.md5))
            } else {
                page.entries.append(ListEntry(name: name, metadata: object.metadata(isDirectoryKey: false)))
            }
        }
        page.next = try listing.next.map { (token) throws(StoreError) -> ListCursor in
            do {
                let data = try JSONEncoder().encode(KeyCursor(token: token, waiting: waiting))
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

    private func remember(shadowed path: StorePath) {
        shadowed.withLock { if $0.count < mostShadowed { $0.insert(path) } }
    }
}

/// How many keys that are an object and a directory at once are remembered; more are not found in practice.
private let mostShadowed = 10_000

/// Where a listing goes on: the server's token, and objects that may turn out to have the key of a directory.
private struct KeyCursor: Codable {
    struct Waiting: Codable {
        var key: [UInt8]
        var size: Int64
        var modified: Int64
        var tag: String?
        var described: [String: String]?
        var md5: [UInt8]?
    }
    var token: String
    var waiting: [Waiting]
}
