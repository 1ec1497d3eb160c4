import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

extension AzureStore {
    /// Blocks of one blob that are under way at once.
    private static let blocksAtOnce = 6
    /// Blocks with bytes of stored blobs in them, of all uploads together: these are put together in memory.
    private static let mixedBlocksAtOnce = 4

    /// What is needed to take up an upload again.
    private struct Checkpoint: Codable {
        var name: String
        var key: [UInt8]
        /// Of the plan and of the headers that the upload was begun with.
        var fingerprint: String
    }

    /// An upload in the making.
    private struct Upload: Sendable {
        /// 16 characters that no other upload has.
        var name: String
        var key: [UInt8]
        var path: StorePath
        var plan: PartPlan
        var options: PutOptions
        var headers: [(name: String, value: String)]
    }

    /// The name of a block, which says what is in it: where it belongs, and the MD5 of its bytes. All have one length, as
    /// the service wants it, and are shorter than its 64 bytes.
    private struct BlockID: Hashable {
        private static let copied = String(repeating: "-", count: 32)

        var index: Int
        var upload: String
        /// In hexadecimal digits.
        var digest: String

        init(_ index: Int, of upload: String, md5: [UInt8]?) {
            self.index = index
            self.upload = upload
            digest = md5.map { TextEncoding.hex($0) } ?? Self.copied
        }

        /// - Returns: nil for the name of a block of another program.
        init?(_ text: String) {
            guard let bytes = TextEncoding.bytes(base64: text) else { return nil }
            let words = String(decoding: bytes, as: UTF8.self).split(separator: "+", omittingEmptySubsequences: false)
            guard words.count == 3, let index = Int(words[0]), words[2].utf8.count == 32 else { return nil }
            (self.index, upload, digest) = (index, String(words[1]), String(words[2]))
        }

        var text: String {
            let number = String(index)
            let padded = String(repeating: "0", count: max(0, 5 - number.utf8.count)) + number
            return TextEncoding.base64(Array("\(padded)+\(upload)+\(digest)".utf8))
        }
    }

    func putInBlocks(_ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions)
        throws(StoreError) -> Metadata
    {
        // Nothing is sent that would be refused at the end.
        if options.condition != .always {
            try options.condition.check(try head(key, path).flatMap { version($0) }, at: path)
        }
        let (headers, kept) = description(path, options.kind, options.attributes)
        let plan = PartPlan(body, copies: capabilities.contains(.rangeCopy), most: Self.mostBlocks * 9 / 10)
        let described = headers.map { "\($0.name):\($0.value)" }.joined(separator: "\n")
        let fingerprint = TextEncoding.hex(Digest.md5(Array((plan.fingerprint + "\n" + described).utf8)))
        var upload = Upload(
            name: TextEncoding.hex((0..<8).map { _ in UInt8.random(in: 0...255) }), key: key, path: path, plan: plan,
            options: options, headers: headers)
        var done: [Int: BlockID] = [:]
        if let known = resumable(key, fingerprint, options.checkpoint) {
            upload.name = known
            done = try sent(upload)
        } else if let checkpoint = options.checkpoint {
            let state = Checkpoint(name: upload.name, key: key, fingerprint: fingerprint)
            checkpoint.save((try? JSONEncoder().encode(state)).map { String(decoding: $0, as: UTF8.self) })
        }
        do throws(StoreError) {
            let blocks = try sendBlocks(upload, done)
            let written = try complete(upload, blocks)
            options.checkpoint?.save(nil)
            return Metadata(
                kind: options.kind, size: body.length, modified: HTTPAnswer.modified(written),
                version: version(written), attributes: capabilities.contains(.attributes) ? kept : nil)
        } catch {
            // Blocks that nobody commits are dropped by the service after a week, and cost nothing.
            if !error.isTransient { options.checkpoint?.save(nil) }
            throw error
        }
    }

    // MARK: Taking up

    /// The name of an upload of the same that was begun before.
    private func resumable(_ key: [UInt8], _ fingerprint: String, _ checkpoint: (any UploadCheckpoint)?) -> String? {
        guard let checkpoint, let text = checkpoint.load() else { return nil }
        guard let state = try? JSONDecoder().decode(Checkpoint.self, from: Data(text.utf8)), state.key == key,
            state.fingerprint == fingerprint
        else {
            checkpoint.save(nil)
            return nil
        }
        return state.name
    }

    /// Those blocks of an upload that are on the server as they are here.
    private func sent(_ upload: Upload) throws(StoreError) -> [Int: BlockID] {
        let listed = try uncommittedBlocks(upload.key, upload.path)
        var done: [Int: BlockID] = [:]
        for (text, size) in listed {
            guard let block = BlockID(text), block.upload == upload.name,
                upload.plan.parts.indices.contains(block.index),
                upload.plan.parts[block.index].size == size
            else { continue }
            let part = upload.plan.parts[block.index]
            if part.isCopy {
                // The fingerprint has the version that it was copied from.
                if case .stored(_, .some, _) = upload.plan.segment(part.pieces[0]) { done[block.index] = block }
            } else if upload.plan.isLocal(part),
                TextEncoding.hex(try Digest.md5(UploadBody(part.pieces.map { upload.plan.segment($0) })))
                    == block.digest
            {
                done[block.index] = block
            }
        }
        return done
    }

    /// Names and sizes of the blocks that a blob may come to have.
    func uncommittedBlocks(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> [(name: String, size: Int64)] {
        var call = AzureCall(
            "GET", key, .requestsMultipart, .storeOther, action: "the blocks of '\(path)' could not be listed",
            path: path)
        call.query = [("comp", "blocklist"), ("blocklisttype", "uncommitted")]
        call.expected = [.notFound]
        guard let response = try attempt(call).answer else { return [] }
        let root = try XMLElement.parse(response.body)
        return (root["UncommittedBlocks"]?.all("Block") ?? []).compactMap { block in
            guard let name = block["Name"]?.text, let size = HTTPAnswer.size(block["Size"]?.text) else { return nil }
            return (name, size)
        }
    }

    // MARK: Blocks

    /// - Returns: The names of all blocks, in order.
    private func sendBlocks(_ upload: Upload, _ done: [Int: BlockID]) throws(StoreError) -> [BlockID] {
        let blocks = Lock(done)
        let missing = upload.plan.parts.indices.filter { done[$0] == nil }
        let atOnce = min(Self.blocksAtOnce, max(1, state.withLock { $0.tuning.connections }))
        try session.parallel.run(missing.count, parallel: atOnce) { [self] (position) throws(StoreError) in
            let index = missing[position]
            try upload.options.requireWanted(upload.path)
            let block = upload.plan.parts[index].isCopy ? try copyBlock(upload, index) : try sendBlock(upload, index)
            blocks.withLock { $0[index] = block }
        }
        return blocks.withLock { blocks in upload.plan.parts.indices.map { blocks[$0]! } }
    }

    private func sendBlock(_ upload: Upload, _ index: Int) throws(StoreError) -> BlockID {
        let part = upload.plan.parts[index]
        let isMixed = !upload.plan.isLocal(part)
        if isMixed {
            _ = mixedParts.wait { count -> Void? in
                guard count < Self.mixedBlocksAtOnce else { return nil }
                count += 1
                return ()
            }
        }
        defer { if isMixed { mixedParts.update { $0 -= 1 } } }
        let body = try fetchingStored(UploadBody(part.pieces.map { upload.plan.segment($0) }))
        let digest = try Digest.md5(body)
        let block = BlockID(index, of: upload.name, md5: digest)
        var call = blockCall(
            upload.key, block.text, upload.path, "block \(index + 1) of '\(upload.path)' could not be written")
        call.headers = [("Content-MD5", TextEncoding.base64(digest))]
        call.body = body
        call.isWanted = upload.options.isWanted
        call.progress = upload.options.progress
        call.verify = { response in
            guard let told = response["Content-MD5"], TextEncoding.bytes(base64: told) != digest else { return nil }
            return StoreError(
                .corrupted, "block \(index + 1) of '\(upload.path)' is not on the store as it was sent",
                path: upload.path)
        }
        call.expected = [.alreadyExists, .invalidArgument]
        if case .refused(let error, _) = try attempt(call) { throw try obstacle(upload.path) ?? error }
        return block
    }

    private func copyBlock(_ upload: Upload, _ index: Int) throws(StoreError) -> BlockID {
        guard case .stored(let source, let version, let range) = upload.plan.segment(upload.plan.parts[index].pieces[0])
        else { preconditionFailure("a block that is copied is a range of a stored blob") }
        let block = BlockID(index, of: upload.name, md5: nil)
        _ = try copyBlock(source, version, range, to: upload.key, block.text, upload.path, upload.options.isWanted)
        upload.options.progress?(range.upperBound - range.lowerBound)
        return block
    }

    /// Has the server make a block of a range of another blob.
    ///
    /// - Returns: Its answer, which tells the MD5.
    func copyBlock(
        _ source: StorePath, _ version: Version?, _ range: Range<Int64>, to key: [UInt8], _ block: String,
        _ path: StorePath, _ isWanted: (@Sendable () -> Bool)? = nil
    ) throws(StoreError) -> HTTPResponse {
        let from = try self.key(source)
        var call = blockCall(key, block, path, "a range of '\(source)' could not be copied to '\(path)'")
        call.counter = .requestsCopy
        call.operation = .storeCopy
        call.headers = authentication.copySource(
            try url(.blobs, from), container: configuration.container, from, isBlock: true)
        call.headers.append(("x-ms-source-range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
        if let version { call.headers.append(("x-ms-source-if-match", "\"\(version.text)\"")) }
        call.body = UploadBody([UInt8]())
        call.isWanted = isWanted
        call.expected = [.preconditionFailed]
        if let response = try attempt(call).answer { return response }
        throw StoreError.changed(source, version?.text)
    }

    private func blockCall(_ key: [UInt8], _ block: String, _ path: StorePath, _ action: String) -> AzureCall {
        var call = AzureCall("PUT", key, .requestsMultipart, .storePut, action: action, path: path)
        call.query = [("comp", "block"), ("blockid", block)]
        return call
    }

    // MARK: Ending

    private func complete(_ upload: Upload, _ blocks: [BlockID]) throws(StoreError) -> HTTPResponse {
        var writer = XMLWriter()
        writer.element("BlockList") { writer in
            for block in blocks { writer.element("Latest", block.text) }
        }
        var call = AzureCall(
            "PUT", upload.key, .requestsMultipart, .storePut,
            action: "the upload of '\(upload.path)' could not be completed", path: upload.path)
        call.query = [("comp", "blocklist")]
        call.headers =
            upload.headers + [
                (Self.metadataPrefix + Self.markName, upload.name), ("Content-Type", "application/xml"),
                ("Content-MD5", TextEncoding.base64(Digest.md5(writer.bytes))),
            ]
        call.body = UploadBody(writer.bytes)
        call.isWanted = upload.options.isWanted
        try upload.options.requireWanted(upload.path)
        do throws(StoreError) { return try make(call, upload.options.condition, mark: upload.name) } catch {
            guard error.code == .invalidArgument else { throw error }
            // Somebody else has written the file meanwhile, which drops all blocks that were not committed.
            throw StoreError(
                .unavailable, "the upload of '\(upload.path)' was ended by another one; it begins anew",
                path: upload.path, cause: error.message)
        }
    }
}
