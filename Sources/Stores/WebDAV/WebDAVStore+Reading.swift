import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension WebDAVStore {
    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        if path.isRoot { throw Self.isADirectory(path) }
        if let range = request.range, range.isEmpty { return try check(path, request.version) }
        var metadata = try get(path, request, into: sink)
        for _ in 0..<Self.mostLooks where metadata == nil && !traits.putsWhole {
            // Elsewhere a file that is being replaced is missing for a moment.
            guard pausing.pause(for: .milliseconds(50)) else { break }
            metadata = try get(path, request, into: sink)
        }
        guard let metadata else {
            throw StoreError(.notFound, "'\(path)' does not exist on the server", path: path)
        }
        try expect(request.version, metadata, path)
        // Who writes in place may have done so while this was read; and Apache looks at a file before it opens it, so that
        // it can send the new bytes with the entity tag and the length of the old ones.
        guard let after = try find(path), after.version == metadata.version else {
            throw StoreError.changed(path, metadata.version?.text)
        }
        return metadata
    }

    private static let mostLooks = 3

    /// - Returns: nil when there is nothing.
    private func get(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata?
    {
        var call = WebDAVCall("GET", path, .requestsGet, .storeGet, action: "'\(path)' could not be read")
        call.sink = sink
        if let range = request.range {
            call.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            call.sinkOffset = range.lowerBound
        }
        // Directories: 301 to the same URL with a slash, 405, or as if there were nothing.
        call.accepted = [301, 400, 403, 404, 405, 409, 410, 416]
        let response = try send(call)
        switch response.status {
        case 200, 206: break
        case 416: return try check(path, request.version)
        case 301: throw Self.isADirectory(path)
        default:
            guard let there = try find(path) else { return nil }
            if there.kind == .directory { throw Self.isADirectory(path) }
            // Made in the meantime, by who replaces it.
            if [404, 410].contains(response.status) { return nil }
            call.accepted = []
            throw WebDAVErrors.error(response, call, isAnonymous: isAnonymous)
                ?? StoreError(.internal, "\(call.action): status \(response.status)", path: path)
        }
        guard let size = HTTPAnswer.toldSize(response) else {
            throw StoreError(.internal, "\(call.action): the server does not tell how long it is", path: path)
        }
        let modified = response["Last-Modified"].flatMap { Timestamp(httpDate: $0) }
        return Metadata(
            kind: .file, size: size, modified: modified ?? Timestamp(nanoseconds: 0),
            version: HTTPAnswer.version(tag: HTTPAnswer.tag(response["ETag"]), modified: modified, size: size))
    }

    /// Metadata for a read that gives no bytes.
    private func check(_ path: StorePath, _ version: Version?) throws(StoreError) -> Metadata {
        let metadata = try metadata(of: path)
        if metadata.kind == .directory { throw Self.isADirectory(path) }
        try expect(version, metadata, path)
        return metadata
    }

    private func expect(_ version: Version?, _ metadata: Metadata, _ path: StorePath) throws(StoreError) {
        guard version == nil || metadata.version == version else { throw StoreError.changed(path, version?.text) }
    }

    static func isADirectory(_ path: StorePath) -> StoreError {
        StoreError(.isADirectory, "'\(path)' is a directory on the server", path: path)
    }
}
