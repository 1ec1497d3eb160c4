import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension GoogleStorageStore {
    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let key = try key(path)
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be read as a file", path: path) }
        if let range = request.range, range.isEmpty { return try check(path, key, request.version) }
        if traits.tellsGeneration { return try readTold(path, key, request, sink) }
        // The bytes are of the generation that is there before and after.
        for _ in 1...5 {
            guard let before = try head(key, path) else { throw try missing(path) }
            if let version = request.version, before.version != version {
                throw StoreError.changed(path, version.text)
            }
            _ = try readTold(path, key, request, sink)
            if let after = try head(key, path), after.generation == before.generation {
                return before.metadata(isDirectoryKey: false)
            }
        }
        throw StoreError(
            .unavailable, "'\(path)' was replaced by others again and again while it was read", path: path)
    }

    private func readTold(_ path: StorePath, _ key: [UInt8], _ request: ReadRequest, _ sink: any ReadSink)
        throws(StoreError) -> Metadata
    {
        let digest = request.range == nil ? DigestingSink(sink, only: nil, GoogleStorageChecksums()) : nil
        var call = GoogleStorageCall(
            "GET", target: .object(key), .requestsGet, .storeGet, action: "'\(path)' could not be read", path: path)
        call.query = [("alt", "media")]
        if let version = request.version {
            guard Self.isGeneration(version) else { throw StoreError.changed(path, version.text) }
            call.query.append(("generation", version.text))
        }
        // The bytes as they are stored: what is compressed there would be expanded otherwise.
        // Source: <https://cloud.google.com/storage/docs/transcoding>.
        call.headers = [("Accept-Encoding", "gzip")]
        call.sink = digest ?? sink
        if let range = request.range {
            // The last byte that can be asked for: the end of Int64 minus one.
            call.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            call.sinkOffset = range.lowerBound
        }
        call.accepted = [404, 416]
        call.verify = { response in
            guard response.status == 200, let found = digest?.finish() else { return nil }
            let told = GoogleStorageChecksums.told(response)
            guard !GoogleStorageChecksums.Values(found).match(crc32c: told.crc32c, md5: told.md5) else { return nil }
            return StoreError(.corrupted, "'\(path)' arrived with another checksum than it has", path: path)
        }
        let response = try send(call)
        switch response.status {
        case 404:
            if let version = request.version, try head(key, path) != nil {
                throw StoreError.changed(path, version.text)
            }
            throw try missing(path)
        case 416: return try check(path, key, request.version)
        default: break
        }
        let size = HTTPAnswer.wholeSize(response)
        let told = response.headers.contains { $0.name.lowercased().hasPrefix(Self.metadataPrefix) }
        let own = told ? POSIXMetadata.decode(isDirectoryKey: false) { response[Self.metadataPrefix + $0] } : nil
        let metadata = Metadata(
            kind: own?.kind ?? .file, size: size, modified: HTTPAnswer.modified(response),
            version: response["X-Goog-Generation"].map { Version($0) }, attributes: own?.attributes,
            md5: GoogleStorageChecksums.told(response).md5)
        if traits.tellsGeneration, let version = request.version, metadata.version != version {
            throw StoreError.changed(path, version.text)
        }
        return metadata
    }

    private static let metadataPrefix = "x-goog-meta-"

    /// Others come from another store, or from nowhere.
    static func isGeneration(_ version: Version) -> Bool { Int64(version.text).map { $0 > 0 } ?? false }

    /// Why there was nothing to be read: no such bucket, a directory, or nothing there.
    private func missing(_ path: StorePath) throws(StoreError) -> StoreError {
        guard try directory(path) == nil else {
            return StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        return absent(path)
    }
}
