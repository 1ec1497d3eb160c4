import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension GoogleStorageStore {
    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be written as a file", path: path) }
        let key = try key(path)
        guard body.length <= Self.largestObject else {
            throw StoreError(
                .tooLarge, "'\(path)' has \(body.length) bytes: the server takes \(Self.largestObject)", path: path)
        }
        try options.requireWanted(path)
        // No range of an object can be made a part of another one on the server.
        let hasStored = body.segments.contains { if case .stored = $0 { true } else { false } }
        let local = hasStored ? try fetchingStored(body) : body
        let own = description(path, options.kind, options.attributes)
        var metadata: Metadata
        if let threshold = capabilities.multipartThreshold, body.length >= threshold {
            metadata =
                traits.composes && configuration.composes
                ? try putInComponents(local, key, path, options, own.description)
                : try putResumably(local, key, path, options, own.description)
        } else {
            metadata = try putWhole(local, key, path, options, own.description)
        }
        metadata.attributes = capabilities.contains(.attributes) ? own.kept : nil
        return metadata
    }

    private func putWhole(
        _ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions,
        _ description: GoogleStorageDescription
    ) throws(StoreError) -> Metadata {
        let action = "'\(path)' could not be written"
        let made = try write(options, key, path) { (query, mark) throws(StoreError) in
            let request = GoogleStorageRequest(
                name: String(decoding: key, as: UTF8.self), storageClass: configuration.storageClass,
                description: description.marked(mark))
            return try insert(
                body, request, action: action, path, query: query, counter: .requestsPut, isWanted: options.isWanted,
                progress: options.progress, accepted: [412])
        }
        return made.metadata(isDirectoryKey: options.kind == .directory)
    }

    /// Makes an object in one request, with what is said of it in front of its bytes.
    ///
    /// Source: <https://cloud.google.com/storage/docs/uploading-objects#rest-upload-objects>, "multipart upload".
    ///
    /// - Returns: nil for a status among `accepted`.
    func insert(
        _ body: UploadBody, _ request: GoogleStorageRequest, action: String, _ path: StorePath,
        query: [(name: String, value: String?)] = [], counter: Counter, isWanted: (@Sendable () -> Bool)?,
        progress: (@Sendable (Int64) -> Void)?, accepted: Set<Int> = []
    ) throws(StoreError) -> GoogleStorageObject? {
        let sums = try GoogleStorageChecksums.of(body)
        var request = request
        // The server refuses bytes that have others.
        request.crc32c = TextEncoding.base64(sums.crc32c)
        request.md5Hash = TextEncoding.base64(sums.md5)
        let boundary = "cloudfusion-" + Trial.name()
        let type = request.description.contentType ?? ContentTypes.unknown
        let head =
            Array("--\(boundary)\r\n\(Self.jsonType.name): \(Self.jsonType.value)\r\n\r\n".utf8) + (try encode(request))
            + Array("\r\n--\(boundary)\r\nContent-Type: \(type)\r\n\r\n".utf8)
        var call = GoogleStorageCall("POST", target: .upload, counter, .storePut, action: action, path: path)
        call.query = [("uploadType", "multipart")] + query
        call.headers = [("Content-Type", "multipart/related; boundary=\(boundary)")]
        call.body = UploadBody([.bytes(head)] + body.segments + [.bytes(Array("\r\n--\(boundary)--\r\n".utf8))])
        call.isWanted = isWanted
        call.accepted = accepted
        if let progress {
            let inner = InnerProgress(Int64(head.count)..<Int64(head.count) + body.length, progress)
            call.progress = { inner.note($0) }
        }
        guard let made = try object(call) else { return nil }
        try require(made, body.length, sums, path)
        return made
    }

    /// - Throws: ``StoreError``: `.corrupted` when what the server has is not what was sent.
    func require(_ made: GoogleStorageObject, _ size: Int64, _ sums: GoogleStorageChecksums.Values, _ path: StorePath)
        throws(StoreError)
    {
        guard made.size == size, sums.match(crc32c: made.crc32c, md5: made.md5) else {
            throw StoreError(.corrupted, "'\(path)' was written, but is not on the store as it was sent", path: path)
        }
    }

    // MARK: Conditions

    /// Writes an object under a condition, which the server checks, or which is looked at before where it does not.
    ///
    /// - Parameter attempt: Writes, with what the query has to have and a mark that the object has to carry; nil for a
    ///   condition that did not hold.
    func write(
        _ options: PutOptions, _ key: [UInt8], _ path: StorePath,
        _ attempt: (_ query: [(name: String, value: String?)], _ mark: String?) throws(StoreError) ->
            GoogleStorageObject?
    ) throws(StoreError) -> GoogleStorageObject {
        let condition = options.condition
        let query = try conditionQuery(condition, key, path)
        try options.requireWanted(path)
        let mark = query.isEmpty ? nil : Trial.name()
        if let made = try attempt(query, mark) { return made }
        // Of the repeats of one request the later ones are refused by what the first has done.
        if let mark, let current = try head(key, path), current.description.metadata?[Self.markName] == mark {
            return current
        }
        throw condition.failure(path)
    }

    /// What has the server check a condition.
    ///
    /// Source: <https://cloud.google.com/storage/docs/request-preconditions>.
    func conditionQuery(_ condition: WriteCondition, _ key: [UInt8], _ path: StorePath) throws(StoreError)
        -> [(name: String, value: String?)]
    {
        guard traits.checksWrites else {
            try requireBefore(condition, key, path)
            return []
        }
        switch condition {
        case .always: return []
        case .ifAbsent: return [("ifGenerationMatch", "0")]
        case .ifVersion(let version):
            guard Self.isGeneration(version) else { throw condition.failure(path) }
            return [("ifGenerationMatch", version.text)]
        }
    }

    /// - Throws: ``StoreError``: `.preconditionFailed` when a condition does not hold now.
    func requireBefore(_ condition: WriteCondition, _ key: [UInt8], _ path: StorePath) throws(StoreError) {
        if condition != .always { try condition.check(try head(key, path)?.version, at: path) }
    }

    package func putMarker(_ key: [UInt8], _ path: StorePath, _ attributes: Attributes) throws(StoreError) {
        let options = PutOptions(kind: .directory, attributes: attributes)
        _ = try putWhole(
            UploadBody([UInt8]()), key, path, options, description(path, .directory, attributes).description)
    }

    // MARK: Attributes

    package func replaceAttributes(
        of found: GoogleStorageObject, _ key: [UInt8], _ path: StorePath, isDirectoryKey: Bool,
        _ attributes: Attributes
    ) throws(StoreError) -> Metadata {
        var current = found
        for _ in 1...5 {
            let (description, kept) = described(current, isDirectoryKey: isDirectoryKey, attributes)
            if let changed = try patch(current, key, path, description.metadata ?? [:]) {
                var result = changed.metadata(isDirectoryKey: isDirectoryKey)
                result.attributes = kept
                return result
            }
            // Other attributes of the same bytes are taken into account; other bytes are not meant.
            guard let now = try head(key, path) else { throw absent(path) }
            guard now.generation == found.generation else { throw StoreError.changed(path, found.generation) }
            current = now
        }
        throw StoreError(
            .unavailable, "the attributes of '\(path)' were changed by others again and again", path: path)
    }

    /// Gives an object other metadata.
    ///
    /// - Parameter metadata: All of it; names that are not in it are taken away.
    /// - Returns: nil when the object is not as it was.
    func patch(_ found: GoogleStorageObject, _ key: [UInt8], _ path: StorePath, _ metadata: [String: String?])
        throws(StoreError) -> GoogleStorageObject?
    {
        // A name that is left out stays as it was.
        let gone = (found.description.metadata ?? [:]).mapValues { _ in String?.none }
        var call = GoogleStorageCall(
            "PATCH", target: .object(key), .requestsPut, .storePut,
            action: "the attributes of '\(path)' could not be changed", path: path)
        call.query = [
            ("ifGenerationMatch", found.generation), ("ifMetagenerationMatch", found.metageneration),
            ("projection", "noAcl"),
        ].filter { !$0.1.isEmpty }
        call.headers = [Self.jsonType]
        call.body = UploadBody(try encode(GoogleStorageDescription(metadata: gone.merging(metadata) { $1 })))
        call.accepted = [404, 412]
        return try object(call)
    }
}

extension GoogleStorageDescription {
    /// With a mark that tells which attempt has written it (``FlatStore/markName``).
    func marked(_ mark: String?) -> GoogleStorageDescription {
        guard let mark else { return self }
        var copy = self
        copy.metadata = (metadata ?? [:]).merging([GoogleStorageStore.markName: mark]) { $1 }
        return copy
    }
}

/// Tells of the progress of a request only what concerns the bytes inside its body.
private final class InnerProgress: Sendable {
    private let inner: Range<Int64>
    private let report: @Sendable (Int64) -> Void
    private let sent = Lock<Int64>(0)

    init(_ inner: Range<Int64>, _ report: @escaping @Sendable (Int64) -> Void) {
        self.inner = inner
        self.report = report
    }

    func note(_ amount: Int64) {
        let change = sent.withLock { sent in
            let before = min(max(sent, inner.lowerBound), inner.upperBound)
            sent += amount
            return min(max(sent, inner.lowerBound), inner.upperBound) - before
        }
        if change != 0 { report(change) }
    }
}
