import Statistics
package import StoreAPI
package import StoreHTTP
import Threading

extension S3Store {
    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        let from = try key(source)
        let to = try key(destination)
        var headers: [(name: String, value: String)] = []
        // No server was seen to check a copy's destination.
        try requireBefore(options.condition, to, destination)
        var current: HTTPResponse?
        if let attributes = options.attributes {
            guard let found = try head(from, source) else { throw absent(source) }
            if let version = options.sourceVersion, HTTPAnswer.tag(found["ETag"]) != version.text {
                throw StoreError.changed(source, version.text)
            }
            headers = [("X-Amz-Metadata-Directive", "REPLACE")] + described(found, isDirectoryKey: false, attributes)
            current = found
        }
        if let current, HTTPAnswer.length(current) > Self.largestPart {
            return try copyInParts(current, source, to, destination, options.condition, headers: headers)
        }
        do throws(StoreError) {
            _ = try copyObject(source, options.sourceVersion, to, destination, headers)
        } catch {
            // Only now is it worth asking how large it is.
            guard error.code == .tooLarge || error.code == .invalidArgument, let found = try head(from, source),
                HTTPAnswer.length(found) > Self.largestPart
            else { throw error }
            let same = described(found, isDirectoryKey: false, Attributes())
            return try copyInParts(
                found, source, to, destination, options.condition, headers: headers.isEmpty ? same : headers)
        }
        if let version = options.sourceVersion, !traits.checksCopySource || traits.refusesTagsOfParts,
            try head(from, source).map({ HTTPAnswer.tag($0["ETag"]) }) != version.text
        {
            throw StoreError.changed(source, version.text)
        }
        guard let copied = try head(to, destination) else {
            throw StoreError(.unavailable, "'\(destination)' is not there after it was copied", path: destination)
        }
        return metadata(copied, size: HTTPAnswer.length(copied), isDirectoryKey: false)
    }

    package func replaceAttributes(
        of found: HTTPResponse, _ target: [UInt8], _ path: StorePath, isDirectoryKey: Bool, _ attributes: Attributes
    ) throws(StoreError) -> Metadata {
        let tag = HTTPAnswer.tag(found["ETag"])
        let size = HTTPAnswer.length(found)
        let headers =
            [("X-Amz-Metadata-Directive", "REPLACE")] + described(found, isDirectoryKey: isDirectoryKey, attributes)
        if size > Self.largestPart {
            return try copyInParts(
                found, path, target, path, tag.map { .ifVersion(Version($0)) } ?? .always, headers: headers)
        }
        let result = try copyObject(path, tag.map { Version($0) }, target, path, headers, sourceKey: target)
        // An object in parts becomes one in a single part: what its tag is then, only the server knows.
        guard let newTag = result.tag, tag?.contains("-") == false else {
            guard let current = try head(target, path) else { throw absent(path) }
            return metadata(current, size: HTTPAnswer.length(current), isDirectoryKey: isDirectoryKey)
        }
        var after = metadata(found, size: size, isDirectoryKey: isDirectoryKey)
        let merged = (after.attributes ?? Attributes()).merging(attributes)
        after.attributes = merged
        if !POSIXMetadata.encode(after.kind, merged).keepsExtended { after.attributes?.extended = nil }
        if !isDirectoryKey { after.version = Version(newTag) }
        after.modified = result.modified ?? .now
        return after
    }

    /// Headers for a copy that is to have other attributes: all that the object says of itself, with those changed.
    private func described(_ found: HTTPResponse, isDirectoryKey: Bool, _ changes: Attributes)
        -> [(name: String, value: String)]
    {
        let known = POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { found["x-amz-meta-" + $0] }
        let merged = known.attributes.merging(changes)
        var headers = HTTPAnswer.described(
            found, prefix: "X-Amz-Meta-",
            kept: [
                "Content-Type", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language",
                "Expires",
            ]
        ) { POSIXMetadata.names.contains($0) || $0 == Self.markName }
        headers += POSIXMetadata.encode(known.kind ?? .file, merged).values.map { ("X-Amz-Meta-" + $0.name, $0.value) }
        return headers
    }

    private func requireBefore(_ condition: WriteCondition, _ key: [UInt8], _ path: StorePath) throws(StoreError) {
        guard condition != .always else { return }
        let tag = try head(key, path).map { HTTPAnswer.tag($0["ETag"]) ?? "" }
        if case .ifVersion(let version) = condition { if tag == version.text { return } } else if tag == nil { return }
        throw condition.failure(path)
    }

    // MARK: One request

    func copyObject(
        _ source: StorePath, _ version: Version?, _ to: [UInt8], _ destination: StorePath,
        _ headers: [(name: String, value: String)], sourceKey: [UInt8]? = nil
    ) throws(StoreError) -> (tag: String?, modified: Timestamp?) {
        var call = S3Call(
            "PUT", to, .requestsCopy, .storeCopy, action: "'\(source)' could not be copied to '\(destination)'",
            path: source)
        call.headers = headers + configuration.creationHeaders + configuration.customerKeyHeaders(ofSource: true)
        let response = try sendCopy(call, from: source, version, sourceKey: sourceKey)
        let root = try XMLElement.parse(response.body)
        return (HTTPAnswer.tag(root["ETag"]?.text), root["LastModified"].flatMap { POSIXMetadata.parseTime($0.text) })
    }

    /// Sends a request that copies, and sees to its source's version: by the server, or right before where that does not
    /// check it. Then the caller has to look again afterwards.
    func sendCopy(_ call: S3Call, from source: StorePath, _ version: Version?, sourceKey: [UInt8]? = nil)
        throws(StoreError) -> HTTPResponse
    {
        var call = call
        let key: [UInt8]
        if let sourceKey { key = sourceKey } else { key = try self.key(source) }
        call.headers.append(
            (
                "X-Amz-Copy-Source",
                "/" + TextEncoding.percentEncode(configuration.bucket) + "/"
                    + TextEncoding.percentEncode(key, keeping: "/")
            ))
        let isOfParts = version?.text.contains("-") ?? false
        let asks = version != nil && traits.checksCopySource && !(isOfParts && traits.refusesTagsOfParts)
        if let version {
            if asks {
                call.headers.append(("X-Amz-Copy-Source-If-Match", "\"\(version.text)\""))
            } else if try head(key, source).map({ HTTPAnswer.tag($0["ETag"]) }) != version.text {
                throw StoreError.changed(source, version.text)
            }
        }
        call.accepted.insert(412)
        call.verify = { [configuration] response in
            guard response.status == 200, S3ErrorAnswer(response).name != nil else { return nil }
            return S3Errors.error(
                response, call.action, path: source, concernsKey: true, bucket: configuration.bucket)
        }
        let response = try send(call)
        guard response.status == 412 else { return response }
        guard let version, asks else { throw StoreError.changed(source, version?.text) }
        guard isOfParts, let current = try head(key, source), HTTPAnswer.tag(current["ETag"]) == version.text else {
            throw StoreError.changed(source, version.text)
        }
        // Swift's S3 API refuses the right tag of an object in parts.
        state.withLock { $0.traits.refusesTagsOfParts = true }
        call.headers.removeAll { $0.name == "X-Amz-Copy-Source-If-Match" || $0.name == "X-Amz-Copy-Source" }
        return try sendCopy(call, from: source, version, sourceKey: key)
    }

    // MARK: Beyond 5 GiB

    private func copyInParts(
        _ found: HTTPResponse, _ source: StorePath, _ to: [UInt8], _ destination: StorePath,
        _ condition: WriteCondition,
        headers: [(name: String, value: String)]
    ) throws(StoreError) -> Metadata {
        guard capabilities.contains(.rangeCopy) else {
            throw StoreError(
                .unsupported, "'\(source)' is larger than 5 GiB, and this server does not copy in parts", path: source)
        }
        let version = HTTPAnswer.tag(found["ETag"]).map { Version($0) }
        let body = UploadBody([.stored(path: source, version: version, range: 0..<HTTPAnswer.length(found))])
        let own = headers.filter { $0.name != "X-Amz-Metadata-Directive" } + configuration.creationHeaders
        return try putInParts(body, to, destination, PutOptions(condition: condition), headers: own)
    }
}
