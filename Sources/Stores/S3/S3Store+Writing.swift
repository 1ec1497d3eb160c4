import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be written as a file", path: path) }
        let key = try key(path)
        let size = body.length
        guard size <= Self.largestObject else {
            throw StoreError(.tooLarge, "'\(path)' has \(size) bytes: S3 takes \(Self.largestObject)", path: path)
        }
        let hasStored = body.segments.contains { if case .stored = $0 { $0.length > 0 } else { false } }
        // The answers to uploads in parts carry the key in XML, and some servers fail at those that XML cannot carry.
        let threshold = capabilities.multipartThreshold.map { KeyCodec.holdsControls(key) ? Self.largestPart : $0 }
        if threshold.map({ size >= $0 || hasStored && size > PartPlan.smallestPart }) ?? false {
            return try putInParts(body, key, path, options)
        }
        try options.requireWanted(path)
        let local = hasStored ? try fetchingStored(body) : body
        return try putWhole(local, key, path, options)
    }

    /// 5 TiB. Source: S3 User Guide, "Amazon S3 multipart upload limits".
    static let largestObject: Int64 = 5 << 40
    /// 5 GiB: of a part, of a PUT and of a copy in one request. Source: as above.
    static let largestPart: Int64 = 5 << 30

    /// Headers that describe a new object.
    ///
    /// - Returns: The attributes that they carry, too: without extended ones when those were too many.
    func description(_ path: StorePath, _ kind: FileKind, _ attributes: Attributes) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        var kept = attributes
        let (values, keepsExtended) = POSIXMetadata.encode(kind, attributes)
        if !keepsExtended { kept.extended = nil }
        let type = kind == .file ? path.name.map { ContentTypes.type(of: $0) } : nil
        var headers = [("Content-Type", kind == .directory ? ContentTypes.directory : type ?? ContentTypes.unknown)]
        headers += values.map { ("X-Amz-Meta-" + $0.name, $0.value) }
        return (headers + configuration.creationHeaders, kept)
    }

    private func putWhole(_ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions)
        throws(StoreError) -> Metadata
    {
        let (headers, kept) = description(path, options.kind, options.attributes)
        let digest = try Digest.md5(body)
        var call = S3Call("PUT", key, .requestsPut, .storePut, action: "'\(path)' could not be written", path: path)
        call.headers = headers + [("Content-MD5", TextEncoding.base64(digest))]
        call.body = body
        call.isWanted = options.isWanted
        call.progress = options.progress
        call.accepted = [404, 412]
        // Of the repeats of one request only the first may find the condition true: the later ones would be refused
        // by what the first has done. So a conditional object carries a mark that tells whose it is.
        let mark = options.condition == .always ? nil : Trial.name()
        let isChecked = try condition(options.condition, key, path, &call.headers)
        if let mark, isChecked { call.headers.append(("X-Amz-Meta-" + Self.markName, mark)) }
        if !configuration.isSecure {
            call.headers.append(("X-Amz-Content-SHA256", TextEncoding.hex(try Digest.sha256(body))))
        }
        var attempt = 1
        while true {
            try options.requireWanted(path)
            let response = try send(call)
            switch response.status {
            case 404 where options.condition != .always: throw options.condition.failure(path)
            case 412 where options.condition != .always:
                guard let mark, let current = try head(key, path), current["x-amz-meta-" + Self.markName] == mark else {
                    throw options.condition.failure(path)
                }
                return metadata(current, size: HTTPAnswer.length(current), isDirectoryKey: false)
            case 200..<300: break
            default:
                throw S3Errors.error(
                    response, call.action, path: path, concernsKey: true, bucket: configuration.bucket)
            }
            do throws(StoreError) {
                return try written(response, key, path, body.length, digest, options.kind, kept)
            } catch {
                // Of two writes at once OpenStack Swift keeps the later one, and confirms the other without an ETag:
                // the last one to be acknowledged must be the one that remains.
                guard error.code == .corrupted, HTTPAnswer.tag(response["ETag"]) == nil, attempt < 3 else {
                    throw error
                }
                attempt += 1
            }
        }
    }

    /// What the store holds after a PUT, checked against what was sent.
    private func written(
        _ response: HTTPResponse, _ key: [UInt8], _ path: StorePath, _ size: Int64, _ digest: [UInt8], _ kind: FileKind,
        _ attributes: Attributes
    ) throws(StoreError) -> Metadata {
        var response = response
        if HTTPAnswer.tag(response["ETag"]) == nil {
            guard let current = try head(key, path), HTTPAnswer.length(current) == size else {
                throw StoreError(
                    .corrupted, "'\(path)' was written, but is not on the store as it was sent", path: path)
            }
            response = current
        }
        let tag = HTTPAnswer.tag(response["ETag"])
        if let found = md5(tag, response), found != digest {
            throw StoreError(
                .corrupted,
                "the store has '\(path)' with the MD5 \(TextEncoding.hex(found)) instead of \(TextEncoding.hex(digest))",
                path: path)
        }
        return Metadata(
            kind: kind, size: kind == .directory ? 0 : size, modified: HTTPAnswer.modified(response),
            version: kind == .directory ? nil : tag.map { Version($0) },
            attributes: capabilities.contains(.attributes) ? attributes : nil, md5: kind == .directory ? nil : digest)
    }

    // MARK: Conditions

    /// Has the server check a condition, or checks it now where the server does not.
    ///
    /// - Returns: Whether the server does.
    func condition(
        _ condition: WriteCondition, _ key: [UInt8], _ path: StorePath, _ headers: inout [(name: String, value: String)]
    ) throws(StoreError) -> Bool {
        switch condition {
        case .always: return false
        case .ifAbsent:
            if traits.checksAbsence {
                headers.append(("If-None-Match", "*"))
                return true
            }
            if try head(key, path) != nil { throw condition.failure(path) }
        case .ifVersion(let version):
            if let form = traits.replaceTagForm {
                headers.append(("If-Match", form.text(of: version.text)))
                return true
            }
            guard let current = try head(key, path), HTTPAnswer.tag(current["ETag"]) == version.text else {
                throw condition.failure(path)
            }
        }
        return false
    }

    package func putMarker(_ key: [UInt8], _ path: StorePath, _ attributes: Attributes) throws(StoreError) {
        _ = try putWhole(UploadBody([UInt8]()), key, path, PutOptions(kind: .directory, attributes: attributes))
    }
}
