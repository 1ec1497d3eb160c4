import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension OpenStackSwiftStore {
    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let key = try key(path)
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be read as a file", path: path) }
        if let range = request.range, range.isEmpty { return try check(path, key, request.version) }
        let tag = request.version.map(Self.tag)
        let asks = tag.map { !($0.isInSegments && traits.refusesTagsOfSegments) } ?? false
        let digest = request.range == nil ? DigestingSink(sink, only: nil) : nil
        var call = OpenStackSwiftCall(
            "GET", key, .requestsGet, .storeGet, action: "'\(path)' could not be read", path: path)
        if asks, let tag { call.headers.append(("If-Match", "\"\(tag.text)\"")) }
        call.sink = digest ?? sink
        if let range = request.range {
            // The last byte that can be asked for: the end of Int64 minus one.
            call.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            call.sinkOffset = range.lowerBound
        }
        call.accepted = [404, 412, 416]
        call.verify = { [self] response in
            guard response.status == 200, let expected = md5(response), let found = digest?.finish(), found != expected
            else { return nil }
            return StoreError(
                .corrupted,
                "'\(path)' arrived with the MD5 \(TextEncoding.hex(found)) instead of \(TextEncoding.hex(expected))",
                path: path)
        }
        let response = try send(call)
        switch response.status {
        case 404:
            guard try directory(path) == nil else {
                throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
            }
            throw absent(path)
        case 416: return try check(path, key, request.version)
        case 412:
            guard asks, tag?.isInSegments == true, try head(key, path).flatMap(Self.version) == request.version else {
                throw StoreError.changed(path, request.version?.text)
            }
            // Ceph compares with another tag than the one that it tells.
            state.withLock { $0.traits.refusesTagsOfSegments = true }
            return try read(path, request, into: sink)
        default: break
        }
        let metadata = metadata(response, size: HTTPAnswer.wholeSize(response), isDirectoryKey: false)
        if let version = request.version, metadata.version != version { throw StoreError.changed(path, version.text) }
        return metadata
    }
}
