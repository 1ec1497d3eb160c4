import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension OpenStackSwiftStore {
    /// From this size on an object in one piece is copied in segments, several at a time: a request in which nothing
    /// moves must not take too long.
    private static let largestCopy: Int64 = 256 << 20

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        let from = try key(source)
        let to = try key(destination)
        guard let found = try head(from, source) else { throw absent(source) }
        let version = Self.version(found)
        if let wanted = options.sourceVersion, wanted != version { throw StoreError.changed(source, wanted.text) }
        let headers = described(found, isDirectoryKey: false, options.attributes ?? Attributes()).headers
        let put = PutOptions(condition: options.condition)
        if let segments = OpenStackSwiftSegments(found, of: from) {
            return try copySegments(segments, found, source, to, destination, put, headers: headers)
        }
        let size = HTTPAnswer.length(found)
        if Self.isInSegments(found) || size > Self.largestCopy, capabilities.contains(.rangeCopy), size > 0 {
            let body = UploadBody([.stored(path: source, version: version, range: 0..<size)])
            return try putInSegments(body, to, destination, put, headers: headers)
        }
        // Here and there the copy would have the same segments: one of the two could not be deleted any more.
        guard !Self.isInSegments(found) else {
            throw StoreError(
                .unsupported, "'\(source)' is in segments of another program, which this server does not copy",
                path: source)
        }
        let before = try requireBefore(options.condition, to, destination)
        let copied = try copyObject(
            reference(.own, from), source, version, to: to, in: .own, destination, range: nil,
            headers: options.attributes == nil ? [] : [("X-Fresh-Metadata", "true")] + headers)
        guard let current = try head(to, destination, isNewest: true) else {
            throw StoreError(.unavailable, "'\(destination)' is not there after it was copied", path: destination)
        }
        if Self.isInSegments(current), from != to {
            // The source was replaced in between, by an object whose segments this must not share.
            try deleteObjectOnly(to, destination)
            throw StoreError.changed(source, version?.text)
        }
        if let before { remove(before) }
        if let version, copied != Self.tag(version).text { throw StoreError.changed(source, version.text) }
        return metadata(current, size: HTTPAnswer.length(current), isDirectoryKey: false)
    }

    private func deleteObjectOnly(_ key: [UInt8], _ path: StorePath) throws(StoreError) {
        var call = OpenStackSwiftCall(
            "DELETE", key, .requestsDelete, .storeDelete, action: "'\(path)' could not be deleted", path: path)
        call.accepted = [404]
        _ = try send(call)
    }

    /// Has the server copy an object, or a range of one.
    ///
    /// - Parameters:
    ///   - reference: Of the source.
    ///   - version: Of the source: checked by servers that do that.
    /// - Returns: The entity tag of the copy; nil where it is not told.
    func copyObject(
        _ reference: String, _ source: StorePath, _ version: Version?, to key: [UInt8],
        in container: OpenStackSwiftCall.Place, _ destination: StorePath, range: Range<Int64>?,
        headers: [(name: String, value: String)], isWanted: (@Sendable () -> Bool)? = nil
    ) throws(StoreError) -> String? {
        var call = OpenStackSwiftCall(
            "PUT", key, .requestsCopy, .storeCopy, action: "'\(source)' could not be copied to '\(destination)'",
            path: source)
        call.container = container
        call.headers = headers + [("X-Copy-From", reference)]
        if let version { call.headers.append(("If-Match", "\"\(Self.tag(version).text)\"")) }
        if let range {
            call.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
        }
        call.body = UploadBody([UInt8]())
        call.isWanted = isWanted
        call.accepted = [404, 412]
        let response = try send(call)
        if response.status == 412 { throw StoreError.changed(source, version?.text) }
        if response.status == 404 {
            throw StoreError(.notFound, "'\(source)', which is to be copied, is not there", path: source)
        }
        return HTTPAnswer.tag(response["ETag"])
    }
}
