import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let key = try key(path)
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be read as a file", path: path) }
        if let range = request.range, range.isEmpty { return try check(path, key, request.version) }
        // Some servers refuse the tag of an object in parts even if it is the right one.
        let tag = request.version?.text
        let asks = tag.map { !($0.contains("-") && traits.refusesTagsOfParts) } ?? false
        let digest = request.range == nil || !traits.readsRanges ? DigestingSink(sink, only: request.range) : nil
        var call = S3Call("GET", key, .requestsGet, .storeGet, action: "'\(path)' could not be read", path: path)
        call.headers = configuration.customerKeyHeaders()
        if asks, let tag { call.headers.append(("If-Match", "\"\(tag)\"")) }
        call.sink = digest ?? sink
        if let range = request.range, digest == nil {
            // The last byte that can be asked for: the end of Int64 minus one.
            call.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            call.sinkOffset = range.lowerBound
        }
        call.accepted = [404, 412, 416]
        call.verify = { [self] response in
            guard response.status == 200, let expected = md5(HTTPAnswer.tag(response["ETag"]), response),
                let found = digest?.finish(), found != expected
            else { return nil }
            return StoreError(
                .corrupted,
                "'\(path)' arrived with the MD5 \(TextEncoding.hex(found)) instead of \(TextEncoding.hex(expected))",
                path: path)
        }
        let response = try send(call)
        switch response.status {
        case 404: throw try missing(response, path)
        case 416: return try check(path, key, request.version)
        case 412:
            guard try head(key, path).map({ HTTPAnswer.tag($0["ETag"]) == tag }) ?? false, asks,
                tag?.contains("-") == true
            else { throw StoreError.changed(path, tag) }
            state.withLock { $0.traits.refusesTagsOfParts = true }
            return try read(path, request, into: sink)
        default: break
        }
        if digest == nil, response.status == 200, response["Content-Range"] != nil {
            // A part, said to be the whole (rclone serve s3 does so): nobody can have put it in its place.
            state.withLock { $0.traits.readsRanges = false }
            return try read(path, request, into: sink)
        }
        let size = HTTPAnswer.wholeSize(response)
        let metadata = metadata(response, size: size, isDirectoryKey: false)
        if let version = request.version, metadata.version != version { throw StoreError.changed(path, version.text) }
        return metadata
    }

    /// Why GET found nothing: no such bucket, a directory, or nothing there.
    private func missing(_ response: HTTPResponse, _ path: StorePath) throws(StoreError) -> StoreError {
        let error = S3Errors.error(
            response, "'\(path)' could not be read", path: path, concernsKey: true, bucket: configuration.bucket)
        guard error.code == .notFound, try directory(path) != nil else { return error }
        return StoreError(.isADirectory, "'\(path)' is a directory", path: path)
    }
}
