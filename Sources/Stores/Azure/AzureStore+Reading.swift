import Statistics
package import StoreAPI
import StoreHTTP

extension AzureStore {
    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let key = try key(path)
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be read as a file", path: path) }
        if let range = request.range, range.isEmpty { return try check(path, key, request.version) }
        let digest = request.range == nil ? DigestingSink(sink, only: nil) : nil
        var call = AzureCall("GET", key, .requestsGet, .storeGet, action: "'\(path)' could not be read", path: path)
        if let version = request.version { call.headers.append(("If-Match", "\"\(version.text)\"")) }
        call.sink = digest ?? sink
        if let range = request.range {
            // The last byte that can be asked for: the end of Int64 minus one.
            call.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            call.sinkOffset = range.lowerBound
        }
        call.expected = [.notFound, .preconditionFailed, .invalidArgument]
        call.verify = { response in
            guard response.status == 200, let expected = Self.md5(response), let found = digest?.finish(),
                found != expected
            else { return nil }
            return StoreError(
                .corrupted,
                "'\(path)' arrived with the MD5 \(TextEncoding.hex(found)) instead of \(TextEncoding.hex(expected))",
                path: path)
        }
        let response: HTTPResponse
        switch try attempt(call) {
        case .done(let answer): response = answer
        case .refused(_, let answer) where answer.status == 416:
            if isHierarchical, let found = try headOfAny(key, path), Self.isDirectory(found) {
                throw Self.isADirectory(path)
            }
            return try check(path, key, request.version)
        case .refused(let error, _) where error.code == .preconditionFailed:
            throw StoreError.changed(path, request.version?.text)
        case .refused(let error, _) where error.code == .notFound:
            guard try directory(path) == nil else { throw Self.isADirectory(path) }
            throw absent(path)
        case .refused(let error, _): throw error
        }
        if Self.isDirectory(response) { throw Self.isADirectory(path) }
        let metadata = metadata(response, size: HTTPAnswer.wholeSize(response), isDirectoryKey: false)
        if let version = request.version, metadata.version != version { throw StoreError.changed(path, version.text) }
        return metadata
    }

    static func isADirectory(_ path: StorePath) -> StoreError {
        StoreError(.isADirectory, "'\(path)' is a directory", path: path)
    }
}
