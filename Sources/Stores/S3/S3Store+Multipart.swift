import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    /// Parts of one object that are under way at once.
    private static let partsAtOnce = 6
    /// Parts with bytes of stored objects in them, of all uploads together: these are put together in memory.
    private static let mixedPartsAtOnce = 4

    /// What is needed to take up an upload again.
    private struct Checkpoint: Codable {
        var upload: String
        var key: [UInt8]
        /// Of the plan and of the headers that the upload was begun with.
        var fingerprint: String
    }

    /// An upload in the making.
    private struct Upload: Sendable {
        var id: String
        var key: [UInt8]
        var path: StorePath
        var plan: PartPlan
        var options: PutOptions
    }

    func putInParts(_ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions)
        throws(StoreError) -> Metadata
    {
        let (headers, kept) = description(path, options.kind, options.attributes)
        var metadata = try putInParts(body, key, path, options, headers: headers)
        if metadata.attributes != nil { metadata.attributes = capabilities.contains(.attributes) ? kept : nil }
        return metadata
    }

    /// - Parameter headers: Those of the new object.
    func putInParts(
        _ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions,
        headers: [(name: String, value: String)]
    ) throws(StoreError) -> Metadata {
        try options.requireWanted(path)
        // Nothing is sent that would be refused at the end.
        try requireCondition(options.condition, key, path)
        let plan = PartPlan(body, copies: capabilities.contains(.rangeCopy))
        let described = headers.map { "\($0.name):\($0.value)" }.joined(separator: "\n")
        let fingerprint = TextEncoding.hex(Digest.md5(Array((plan.fingerprint + "\n" + described).utf8)))
        var done: [Int: String] = [:]
        let upload: Upload
        if let known = try resumable(key, path, plan, fingerprint, options.checkpoint) {
            upload = Upload(id: known.id, key: key, path: path, plan: plan, options: options)
            done = known.done
        } else {
            let id = try createUpload(key, path, headers)
            upload = Upload(id: id, key: key, path: path, plan: plan, options: options)
            if let checkpoint = options.checkpoint {
                let state = Checkpoint(upload: id, key: key, fingerprint: fingerprint)
                checkpoint.save((try? JSONEncoder().encode(state)).map { String(decoding: $0, as: UTF8.self) })
            }
        }
        do throws(StoreError) {
            let tags = try sendParts(upload, done)
            let metadata = try complete(upload, tags)
            options.checkpoint?.save(nil)
            return metadata
        } catch {
            // What may be taken up again stays; all else is cleared away, so that nobody pays for it.
            if options.checkpoint == nil || !error.isTransient {
                options.checkpoint?.save(nil)
                abort(upload.id, key, path)
            }
            throw error
        }
    }

    // MARK: Beginning

    /// Begins an upload that is not meant to be completed.
    func beginTrial(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> String {
        try createUpload(key, path, description(path, .file, Attributes()).headers)
    }

    private func createUpload(_ key: [UInt8], _ path: StorePath, _ headers: [(name: String, value: String)])
        throws(StoreError) -> String
    {
        var call = S3Call(
            "POST", key, .requestsMultipart, .storeOther, action: "the upload of '\(path)' could not be begun",
            path: path)
        call.query = [("uploads", nil)]
        call.headers = headers
        let root = try XMLElement.parse(try send(call).body)
        guard let id = root["UploadId"]?.text, !id.isEmpty else {
            throw StoreError(.internal, "the server began the upload of '\(path)' without giving it an id", path: path)
        }
        return id
    }

    /// An upload that was begun before, with those of its parts that are on the server as they are here.
    private func resumable(
        _ key: [UInt8], _ path: StorePath, _ plan: PartPlan, _ fingerprint: String,
        _ checkpoint: (any UploadCheckpoint)?
    ) throws(StoreError) -> (id: String, done: [Int: String])? {
        guard let checkpoint, let text = checkpoint.load() else { return nil }
        guard let state = try? JSONDecoder().decode(Checkpoint.self, from: Data(text.utf8)) else {
            checkpoint.save(nil)
            return nil
        }
        guard state.key == key, state.fingerprint == fingerprint, let listed = try listParts(state.upload, key, path)
        else {
            checkpoint.save(nil)
            abort(state.upload, state.key, path)
            return nil
        }
        var done: [Int: String] = [:]
        for (index, part) in plan.parts.enumerated() {
            guard let (tag, size) = listed[index + 1], size == part.size else { continue }
            if part.isCopy {
                // The fingerprint has the version that it was copied from.
                if case .stored(_, .some, _) = plan.segment(part.pieces[0]) { done[index] = tag }
            } else if plan.isLocal(part), let digest = md5(tag, nil),
                try Digest.md5(UploadBody(part.pieces.map { plan.segment($0) })) == digest
            {
                done[index] = tag
            }
        }
        return (state.upload, done)
    }

    /// The parts that the server has, by number; nil when it does not know the upload.
    private func listParts(_ id: String, _ key: [UInt8], _ path: StorePath) throws(StoreError)
        -> [Int: (tag: String, size: Int64)]?
    {
        var parts: [Int: (tag: String, size: Int64)] = [:]
        var marker = 0
        while true {
            var call = S3Call(
                "GET", key, .requestsMultipart, .storeOther,
                action: "the parts of '\(path)' could not be listed", path: path)
            call.query = [("uploadId", id), ("max-parts", "1000"), ("part-number-marker", String(marker))]
            call.accepted = [400, 404]
            let response = try send(call)
            guard response.status == 200 else { return nil }
            let root = try XMLElement.parse(response.body)
            for part in root.all("Part") {
                guard let number = part["PartNumber"].flatMap({ Int($0.text) }),
                    let tag = HTTPAnswer.tag(part["ETag"]?.text),
                    let size = part["Size"].flatMap({ Int64($0.text) })
                else { continue }
                parts[number] = (tag, size)
            }
            // A server that does not get any further is not asked for ever.
            guard root["IsTruncated"]?.text == "true",
                let next = root["NextPartNumberMarker"].flatMap({ Int($0.text) }), next > marker
            else {
                return parts
            }
            marker = next
        }
    }

    // MARK: Parts

    /// - Returns: The entity tags of all parts, in order.
    private func sendParts(_ upload: Upload, _ done: [Int: String]) throws(StoreError) -> [String] {
        let tags = Lock(done)
        let missing = upload.plan.parts.indices.filter { done[$0] == nil }
        let atOnce = min(Self.partsAtOnce, max(1, state.withLock { $0.tuning.connections }))
        try session.parallel.run(missing.count, parallel: atOnce) { [self] (position) throws(StoreError) in
            let index = missing[position]
            try upload.options.requireWanted(upload.path)
            let part = upload.plan.parts[index]
            let tag = part.isCopy ? try copyPart(upload, index) : try sendPart(upload, index)
            tags.withLock { $0[index] = tag }
        }
        return tags.withLock { tags in upload.plan.parts.indices.map { tags[$0]! } }
    }

    private func sendPart(_ upload: Upload, _ index: Int) throws(StoreError) -> String {
        let part = upload.plan.parts[index]
        let isMixed = !upload.plan.isLocal(part)
        if isMixed {
            _ = mixedParts.wait { count -> Void? in
                guard count < Self.mixedPartsAtOnce else { return nil }
                count += 1
                return ()
            }
        }
        defer { if isMixed { mixedParts.update { $0 -= 1 } } }
        let body = try fetchingStored(UploadBody(part.pieces.map { upload.plan.segment($0) }))
        let digest = try Digest.md5(body)
        var call = partCall(upload, index)
        call.headers = [("Content-MD5", TextEncoding.base64(digest))] + configuration.customerKeyHeaders()
        if !configuration.isSecure {
            call.headers.append(("X-Amz-Content-SHA256", TextEncoding.hex(try Digest.sha256(body))))
        }
        call.body = body
        call.progress = upload.options.progress
        call.verify = { [self] response in
            guard let found = md5(HTTPAnswer.tag(response["ETag"]), response), found != digest else { return nil }
            return StoreError(
                .corrupted, "part \(index + 1) of '\(upload.path)' is not on the store as it was sent",
                path: upload.path)
        }
        guard let tag = HTTPAnswer.tag(try send(call)["ETag"]) else {
            throw StoreError(
                .internal, "the server took part \(index + 1) of '\(upload.path)' without an entity tag",
                path: upload.path)
        }
        return tag
    }

    private func copyPart(_ upload: Upload, _ index: Int) throws(StoreError) -> String {
        guard case .stored(let source, let version, let range) = upload.plan.segment(upload.plan.parts[index].pieces[0])
        else { preconditionFailure("a part that is copied is a range of a stored object") }
        var call = partCall(upload, index)
        call.counter = .requestsCopy
        call.operation = .storeCopy
        call.headers = configuration.customerKeyHeaders() + configuration.customerKeyHeaders(ofSource: true)
        call.headers.append(("X-Amz-Copy-Source-Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
        let response = try sendCopy(call, from: source, version)
        guard let tag = HTTPAnswer.tag(try XMLElement.parse(response.body)["ETag"]?.text) else {
            throw StoreError(
                .internal, "the server copied part \(index + 1) of '\(upload.path)' without an entity tag",
                path: upload.path)
        }
        upload.options.progress?(range.upperBound - range.lowerBound)
        return tag
    }

    private func partCall(_ upload: Upload, _ index: Int) -> S3Call {
        var call = S3Call(
            "PUT", upload.key, .requestsMultipart, .storePut,
            action: "part \(index + 1) of '\(upload.path)' could not be written", path: upload.path)
        call.query = [("partNumber", String(index + 1)), ("uploadId", upload.id)]
        call.isWanted = upload.options.isWanted
        return call
    }

    // MARK: Ending

    private func complete(_ upload: Upload, _ tags: [String]) throws(StoreError) -> Metadata {
        let path = upload.path
        let condition = upload.options.condition
        // Sources whose version could not be made a condition of the copies.
        for case .stored(let source, .some(let version), _) in upload.plan.body.segments
        where !traits.checksCopySource || version.text.contains("-") && traits.refusesTagsOfParts {
            guard let current = try head(try key(source), source), HTTPAnswer.tag(current["ETag"]) == version.text
            else {
                throw StoreError.changed(source, version.text)
            }
        }
        var writer = XMLWriter()
        writer.element("CompleteMultipartUpload", attributes: [("xmlns", "http://s3.amazonaws.com/doc/2006-03-01/")]) {
            for (index, tag) in tags.enumerated() {
                $0.element("Part") {
                    $0.element("PartNumber", String(index + 1))
                    $0.element("ETag", "\"\(tag)\"")
                }
            }
        }
        var call = S3Call(
            "POST", upload.key, .requestsMultipart, .storePut, action: "the upload of '\(path)' could not be completed",
            path: path)
        call.query = [("uploadId", upload.id)]
        call.headers = [("Content-Type", "application/xml")] + configuration.customerKeyHeaders()
        // Here and once more by the server, where it does that: some that check PUT do not check this.
        try requireCondition(condition, upload.key, path)
        if condition != .always { _ = try self.condition(condition, upload.key, path, &call.headers) }
        call.body = UploadBody(writer.bytes)
        call.isWanted = upload.options.isWanted
        call.accepted = [404, 412]
        call.verify = { [configuration] response in
            // The status is sent before the work is done; what went wrong then is in the body.
            guard response.status == 200, S3ErrorAnswer(response).name != nil else { return nil }
            return S3Errors.error(response, call.action, path: path, concernsKey: true, bucket: configuration.bucket)
        }
        try upload.options.requireWanted(path)
        let response = try send(call)
        let size = upload.plan.body.length
        switch response.status {
        case 200..<300: break
        case 412 where condition != .always: throw condition.failure(path)
        case 404 where S3ErrorAnswer(response).name == "NoSuchUpload":
            // A repeat of a request that was carried out.
            guard let current = try head(upload.key, path), HTTPAnswer.length(current) == size,
                isCompleted(HTTPAnswer.tag(current["ETag"]), tags)
            else {
                throw StoreError(
                    .unavailable, "the upload of '\(path)' was ended by the server; it begins anew", path: path)
            }
        default:
            throw S3Errors.error(response, call.action, path: path, concernsKey: true, bucket: configuration.bucket)
        }
        guard let current = try head(upload.key, path), HTTPAnswer.length(current) == size else {
            throw StoreError(
                .corrupted, "'\(path)' was written in parts, but has another size on the store", path: path)
        }
        return metadata(current, size: size, isDirectoryKey: false)
    }

    /// Whether an object's entity tag is that of the parts: the MD5 of their MD5s, and their number.
    private func isCompleted(_ tag: String?, _ parts: [String]) -> Bool {
        let digests = parts.compactMap { $0.utf8.count == 32 ? TextEncoding.bytes(hex: $0) : nil }
        guard digests.count == parts.count else { return false }
        return tag == TextEncoding.hex(Digest.md5(digests.flatMap { $0 })) + "-\(parts.count)"
    }

    /// Throws when a condition does not hold now.
    private func requireCondition(_ condition: WriteCondition, _ key: [UInt8], _ path: StorePath) throws(StoreError) {
        switch condition {
        case .always: return
        case .ifAbsent:
            if try head(key, path) != nil { throw condition.failure(path) }
        case .ifVersion(let version):
            guard let current = try head(key, path), HTTPAnswer.tag(current["ETag"]) == version.text else {
                throw condition.failure(path)
            }
        }
    }

    /// Clears away what was sent. When that fails too, the bucket's own rules for incomplete uploads have to do it: the
    /// error that led here is the one that counts.
    func abort(_ id: String, _ key: [UInt8], _ path: StorePath) {
        var call = S3Call(
            "DELETE", key, .requestsMultipart, .storeDelete, action: "the upload of '\(path)' could not be called off",
            path: path)
        call.query = [("uploadId", id)]
        call.accepted = [404]
        _ = try? send(call)
    }
}
