import Statistics
package import StoreAPI
package import StoreHTTP
import Threading

extension OpenStackSwiftStore {
    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        guard !path.isRoot else { throw StoreError(.isADirectory, "the root cannot be written as a file", path: path) }
        let key = try key(path)
        let capabilities = capabilities
        if let largest = capabilities.largestObject, body.length > largest {
            throw StoreError(
                .tooLarge, "'\(path)' has \(body.length) bytes: the server takes \(largest)", path: path)
        }
        try options.requireWanted(path)
        let hasStored = body.segments.contains { if case .stored = $0 { $0.length > 0 } else { false } }
        if let threshold = capabilities.multipartThreshold,
            body.length >= threshold || hasStored && body.length > PartPlan.smallestPart
        {
            let own = description(path, options.kind, options.attributes)
            var metadata = try putInSegments(body, key, path, options, headers: own.headers)
            if metadata.attributes != nil { metadata.attributes = capabilities.contains(.attributes) ? own.kept : nil }
            return metadata
        }
        let local = hasStored ? try fetchingStored(body) : body
        return try putWhole(local, key, path, options)
    }

    /// Headers that describe a new object.
    ///
    /// - Returns: The attributes that they carry, too: without extended ones when those were too many.
    func description(_ path: StorePath, _ kind: FileKind, _ attributes: Attributes) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        let own = headers(kind, attributes)
        let type = kind == .file ? path.name.map { ContentTypes.type(of: $0) } : nil
        let directory = kind == .directory ? ContentTypes.directory : nil
        return ([("Content-Type", directory ?? type ?? ContentTypes.unknown)] + own.headers, own.kept)
    }

    /// Looks at what is in the place of a new object, whose segments have to go when that counts.
    ///
    /// - Throws: ``StoreError``: `.preconditionFailed` when it is not as `condition` says.
    func requireBefore(_ condition: WriteCondition, _ key: [UInt8], _ path: StorePath) throws(StoreError)
        -> OpenStackSwiftSegments?
    {
        // What is missed here was just being replaced by somebody else, who sees to its segments. The version that is
        // meant must not be missed.
        let isVersion = if case .ifVersion = condition { true } else { false }
        let found = try head(key, path, isNewest: true, believesMiss: !isVersion)
        switch condition {
        case .always: break
        case .ifAbsent: if found != nil { throw condition.failure(path) }
        case .ifVersion(let version):
            guard let found, Self.version(found) == version else { throw condition.failure(path) }
        }
        return found.flatMap { OpenStackSwiftSegments($0, of: key) }
    }

    private func putWhole(_ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions)
        throws(StoreError) -> Metadata
    {
        let (headers, kept) = description(path, options.kind, options.attributes)
        let before = try requireBefore(options.condition, key, path)
        let digest = try Digest.md5(body)
        var call = OpenStackSwiftCall(
            "PUT", key, .requestsPut, .storePut, action: "'\(path)' could not be written", path: path)
        call.headers = headers + [("ETag", TextEncoding.hex(digest))]
        call.body = body
        call.isWanted = options.isWanted
        call.progress = options.progress
        // It narrows the race; of the repeats of one request only the first may find the condition true. So the object
        // carries a mark that tells whose it is.
        let mark = Trial.name()
        if options.condition == .ifAbsent {
            call.headers += [("If-None-Match", "*"), (Self.metadataPrefix + Self.markName, mark)]
            call.accepted = [412]
        }
        var attempt = 1
        while true {
            try options.requireWanted(path)
            let response = try send(call)
            if response.status == 412 {
                guard let current = try head(key, path), current[Self.metadataPrefix + Self.markName] == mark else {
                    throw options.condition.failure(path)
                }
                return metadata(current, size: HTTPAnswer.length(current), isDirectoryKey: false)
            }
            do throws(StoreError) {
                let written = try written(response, key, path, body.length, digest, options.kind, kept)
                if let before { remove(before) }
                return written
            } catch {
                // Of two writes at once Swift keeps the later one, and confirms the other without an ETag: the last one
                // to be acknowledged must be the one that remains.
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
            guard let current = try head(key, path, isNewest: true), HTTPAnswer.length(current) == size else {
                throw StoreError(
                    .corrupted, "'\(path)' was written, but is not on the store as it was sent", path: path)
            }
            response = current
        }
        if let found = md5(response), found != digest {
            throw StoreError(
                .corrupted,
                "the store has '\(path)' with the MD5 \(TextEncoding.hex(found)) instead of \(TextEncoding.hex(digest))",
                path: path)
        }
        return Metadata(
            kind: kind, size: kind == .directory ? 0 : size, modified: HTTPAnswer.modified(response),
            version: kind == .directory ? nil : Self.version(response),
            attributes: capabilities.contains(.attributes) ? attributes : nil, md5: kind == .directory ? nil : digest)
    }

    package func putMarker(_ key: [UInt8], _ path: StorePath, _ attributes: Attributes) throws(StoreError) {
        _ = try putWhole(UploadBody([UInt8]()), key, path, PutOptions(kind: .directory, attributes: attributes))
    }

    package func replaceAttributes(
        of found: HTTPResponse, _ key: [UInt8], _ path: StorePath, isDirectoryKey: Bool, _ attributes: Attributes
    ) throws(StoreError) -> Metadata {
        let (headers, kept) = described(found, isDirectoryKey: isDirectoryKey, attributes)
        var call = OpenStackSwiftCall(
            "POST", key, .requestsPut, .storePut, action: "the attributes of '\(path)' could not be changed", path: path
        )
        call.headers = headers
        // What makes these objects what they are is lost by a POST that does not repeat it.
        if let manifest = found["X-Object-Manifest"] { call.headers.append(("X-Object-Manifest", manifest)) }
        if let mark = OpenStackSwiftSegments(found, of: key)?.mark { call.headers.append(mark) }
        call.accepted = [404]
        guard try send(call).status != 404 else { throw absent(path) }
        var result = metadata(found, size: HTTPAnswer.length(found), isDirectoryKey: isDirectoryKey)
        result.attributes = kept
        return result
    }
}
