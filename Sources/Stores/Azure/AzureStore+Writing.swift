import Statistics
package import StoreAPI
package import StoreHTTP

extension AzureStore {
    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be written as a file", path: path) }
        let key = try key(path)
        let size = body.length
        guard size <= Self.largestBlob else {
            throw StoreError(.tooLarge, "'\(path)' has \(size) bytes: Azure takes \(Self.largestBlob)", path: path)
        }
        try options.requireWanted(path)
        let hasStored = body.segments.contains { if case .stored = $0 { $0.length > 0 } else { false } }
        if let threshold = capabilities.multipartThreshold,
            size >= threshold || hasStored && size > PartPlan.smallestPart
        {
            do throws(StoreError) {
                return try putInBlocks(body, key, path, options)
            } catch {
                // Blocks of another program are in the way, or it was written by the interface of Data Lake Storage: in
                // one piece it replaces both.
                guard error.code == .unsupported, size <= Self.largestWhole, !hasStored else { throw error }
            }
        }
        return try putWhole(hasStored ? try fetchingStored(body) : body, key, path, options)
    }

    /// 5,000 MiB: in one request. Source: <https://learn.microsoft.com/rest/api/storageservices/put-blob>.
    private static let largestWhole: Int64 = 5000 << 20
    /// 4,000 MiB: of a block. Source: <https://learn.microsoft.com/rest/api/storageservices/put-block>.
    static let largestBlock: Int64 = 4000 << 20
    /// Source: <https://learn.microsoft.com/rest/api/storageservices/put-block-list>.
    static let mostBlocks = 50_000
    /// About 190 TiB.
    static let largestBlob = Int64(mostBlocks) * largestBlock

    /// Headers that describe a new blob.
    ///
    /// - Returns: The attributes that they carry, too: without extended ones when those were too many.
    func description(_ path: StorePath, _ kind: FileKind, _ attributes: Attributes) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        let own = described(kind, attributes)
        let type = kind == .file ? path.name.map { ContentTypes.type(of: $0) } : nil
        let directory = kind == .directory ? ContentTypes.directory : nil
        var headers = [("x-ms-blob-content-type", directory ?? type ?? ContentTypes.unknown)]
        if let tier = configuration.accessTier, kind != .directory { headers.append(("x-ms-access-tier", tier)) }
        return (headers + own.headers, own.kept)
    }

    private func putWhole(_ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions)
        throws(StoreError) -> Metadata
    {
        let (headers, kept) = description(path, options.kind, options.attributes)
        let digest = try Digest.md5(body)
        let sent = TextEncoding.base64(digest)
        var call = AzureCall("PUT", key, .requestsPut, .storePut, action: "'\(path)' could not be written", path: path)
        call.headers = headers + [("x-ms-blob-type", "BlockBlob"), ("Content-MD5", sent)]
        call.body = body
        call.isWanted = options.isWanted
        call.progress = options.progress
        call.verify = { response in
            guard let told = response["Content-MD5"], told != sent else { return nil }
            return StoreError(.corrupted, "'\(path)' is not on the store as it was sent", path: path)
        }
        let mark = options.condition == .always ? nil : Trial.name()
        if let mark { call.headers.append((Self.metadataPrefix + Self.markName, mark)) }
        try options.requireWanted(path)
        let written = try make(call, options.condition, mark: mark)
        return Metadata(
            kind: options.kind, size: options.kind == .directory ? 0 : body.length,
            modified: HTTPAnswer.modified(written), version: options.kind == .directory ? nil : version(written),
            attributes: capabilities.contains(.attributes) ? kept : nil,
            md5: options.kind == .directory ? nil : digest)
    }

    // MARK: Conditions

    /// Sends a request that makes a blob, if a condition holds.
    ///
    /// - Parameter mark: Of the repeats of one request only the first may find the condition true: the later ones would be
    ///   refused by what the first has done. So the blob carries a mark that tells whose it is.
    /// - Returns: An answer with the blob's entity tag and time.
    /// - Throws: ``StoreError``: `.preconditionFailed`, `.isADirectory`, `.notADirectory`, and what the request threw.
    func make(_ call: AzureCall, _ condition: WriteCondition, mark: String?) throws(StoreError) -> HTTPResponse {
        var call = call
        switch condition {
        case .always: break
        case .ifAbsent: call.headers.append(("If-None-Match", "*"))
        case .ifVersion(let version): call.headers.append(("If-Match", "\"\(version.text)\""))
        }
        call.expected.formUnion([.preconditionFailed, .alreadyExists, .invalidArgument, .unsupported])
        guard let key = call.key, let path = call.path else { preconditionFailure("a blob is made at a path") }
        let (error, answer): (StoreError, HTTPResponse)
        switch try attempt(call) {
        case .done(let response): return response
        case .refused(let refusal, let response): (error, answer) = (refusal, response)
        }
        if let mark, let current = try head(key, path), Self.mark(current) == mark { return current }
        if error.code == .preconditionFailed, condition != .always,
            AzureErrorAnswer(answer).name != "SourceConditionNotMet"
        {
            throw condition.failure(path)
        }
        throw try obstacle(path) ?? error
    }

    /// Why nothing can be written at a path of a hierarchical namespace; nil when nothing is in the way.
    func obstacle(_ path: StorePath) throws(StoreError) -> StoreError? {
        guard isHierarchical else { return nil }
        if let found = try headOfAny(try key(path), path), Self.isDirectory(found) { return Self.isADirectory(path) }
        var above = path.parent
        while let parent = above, !parent.isRoot {
            if let found = try headOfAny(try key(parent), parent) {
                return Self.isDirectory(found) ? nil : Self.notADirectory(parent)
            }
            above = parent.parent
        }
        return nil
    }

    static func notADirectory(_ path: StorePath) -> StoreError {
        StoreError(.notADirectory, "'\(path)' is a file on the store", path: path)
    }

    // MARK: Directories and attributes

    package func putMarker(_ key: [UInt8], _ path: StorePath, _ attributes: Attributes) throws(StoreError) {
        guard isHierarchical else {
            _ = try putWhole(UploadBody([UInt8]()), key, path, PutOptions(kind: .directory, attributes: attributes))
            return
        }
        if let there = try head(key, path) {
            _ = try replaceAttributes(of: there, key, path, isDirectoryKey: true, attributes)
            return
        }
        var call = AzureCall(
            "PUT", key, .requestsPut, .storePut, action: "the directory '\(path)' could not be made", path: path)
        call.service = .dataLake
        call.query = [("resource", "directory")]
        call.headers = [
            ("If-None-Match", "*"), ("x-ms-properties", Self.properties(described(.directory, attributes).headers)),
        ]
        call.expected = [.preconditionFailed, .alreadyExists, .invalidArgument]
        guard case .refused(let error, _) = try attempt(call) else { return }
        // Made just now by others, or by an earlier attempt whose answer was lost.
        if let there = try head(key, path) {
            _ = try replaceAttributes(of: there, key, path, isDirectoryKey: true, attributes)
            return
        }
        if try headOfAny(key, path) != nil { throw Self.notADirectory(path) }
        throw try obstacle(path) ?? error
    }

    /// Metadata as Data Lake Storage wants them.
    private static func properties(_ headers: [(name: String, value: String)]) -> String {
        headers.map { name, value in
            name.dropFirst(metadataPrefix.utf8.count) + "=" + TextEncoding.base64(Array(value.utf8))
        }.joined(separator: ",")
    }

    package func replaceAttributes(
        of found: HTTPResponse, _ key: [UInt8], _ path: StorePath, isDirectoryKey: Bool, _ attributes: Attributes
    ) throws(StoreError) -> Metadata {
        let (headers, kept) = described(found, isDirectoryKey: isDirectoryKey, attributes)
        var call = AzureCall(
            "PUT", key, .requestsPut, .storePut, action: "the attributes of '\(path)' could not be changed", path: path)
        if isHierarchical, isDirectoryKey {
            call.method = "PATCH"
            call.service = .dataLake
            call.query = [("action", "setProperties")]
            call.headers = [("x-ms-properties", Self.properties(headers))]
        } else {
            call.query = [("comp", "metadata")]
            call.headers = headers
            // What others have written since does not get the attributes of what was there before.
            if let version = version(found) { call.headers.append(("If-Match", "\"\(version.text)\"")) }
        }
        call.expected = [.preconditionFailed, .notFound]
        var result = metadata(found, size: HTTPAnswer.length(found), isDirectoryKey: isDirectoryKey)
        result.attributes = kept
        var current: HTTPResponse
        switch try attempt(call) {
        case .done(let response): current = response
        case .refused(let error, _):
            guard error.code == .preconditionFailed, let now = try head(key, path) else { throw absent(path) }
            // An earlier attempt whose answer was lost may have done it.
            guard metadata(now, size: result.size, isDirectoryKey: isDirectoryKey).attributes == kept else {
                throw StoreError.changed(path, version(found)?.text)
            }
            current = now
        }
        if result.kind != .directory { result.version = version(current) }
        result.modified = HTTPAnswer.modified(current)
        return result
    }
}
