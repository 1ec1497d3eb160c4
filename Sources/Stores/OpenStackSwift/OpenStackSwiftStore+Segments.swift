import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// The segments that a manifest of this program owns: `.cloudfusion/DIGEST/NAME/00000001` and so on, with the MD5 of the
/// manifest's key and a name that no other upload has.
struct OpenStackSwiftSegments: Hashable, Sendable {
    /// Of the metadata of the manifest that tells their name and number. Where another program has copied it to
    /// another key, it leads to segments that do not exist.
    static let markName = "cloudfusion-segments"

    /// Of the manifest.
    let owner: [UInt8]
    let name: String
    let count: Int

    init(owner: [UInt8], name: String, count: Int) {
        self.owner = owner
        self.name = name
        self.count = count
    }

    /// - Returns: nil for an object that has no segments, or those of another program.
    init?(_ head: HTTPResponse, of key: [UInt8]) {
        guard OpenStackSwiftStore.isStatic(head),
            let words = head[OpenStackSwiftStore.metadataPrefix + Self.markName]?.split(separator: "/"),
            words.count == 2, let count = Int(words[1]), (1...100_000).contains(count),
            words[0].utf8.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 || $0 >= 0x61 && $0 <= 0x7A })
        else { return nil }
        self.init(owner: key, name: String(words[0]), count: count)
    }

    var mark: (name: String, value: String) {
        (OpenStackSwiftStore.metadataPrefix + Self.markName, "\(name)/\(count)")
    }

    var prefix: [UInt8] { Array(".cloudfusion/\(TextEncoding.hex(Digest.md5(owner)))/\(name)/".utf8) }

    func key(_ index: Int) -> [UInt8] {
        let number = String(index + 1)
        return prefix + Array((String(repeating: "0", count: max(0, 8 - number.count)) + number).utf8)
    }

    var keys: [[UInt8]] { (0..<count).map(key) }
}

extension OpenStackSwiftStore {
    /// Segments of one object that are under way at once.
    private static let segmentsAtOnce = 6
    /// Those with bytes of stored objects in them, of all uploads together: these are put together in memory.
    private static let mixedSegmentsAtOnce = 4

    /// What is needed to take up an upload again.
    private struct Checkpoint: Codable {
        var name: String
        var count: Int
        var key: [UInt8]
        /// Of the plan and of the headers.
        var fingerprint: String

        var segments: OpenStackSwiftSegments { .init(owner: key, name: name, count: count) }
    }

    /// A segment that is on the store.
    private struct Sent: Hashable, Sendable {
        var tag: String
        var size: Int64
    }

    /// - Parameter headers: Those of the new object.
    func putInSegments(
        _ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions,
        headers: [(name: String, value: String)]
    ) throws(StoreError) -> Metadata {
        try options.requireWanted(path)
        // Nothing is sent that would be refused at the end.
        _ = try requireBefore(options.condition, key, path)
        let plan = PartPlan(
            body, copies: capabilities.contains(.rangeCopy), most: min(9_000, (traits.mostSegments ?? 1000) * 9 / 10))
        let described = headers.map { "\($0.name):\($0.value)" }.joined(separator: "\n")
        let fingerprint = TextEncoding.hex(Digest.md5(Array((plan.fingerprint + "\n" + described).utf8)))
        var done: [Int: Sent] = [:]
        let segments: OpenStackSwiftSegments
        if let known = try resumable(key, path, plan, fingerprint, options.checkpoint) {
            segments = known.segments
            done = known.done
        } else {
            segments = OpenStackSwiftSegments(owner: key, name: Trial.name(), count: plan.parts.count)
            if let checkpoint = options.checkpoint {
                let state = Checkpoint(
                    name: segments.name, count: segments.count, key: key, fingerprint: fingerprint)
                checkpoint.save((try? JSONEncoder().encode(state)).map { String(decoding: $0, as: UTF8.self) })
            }
        }
        var isDoubtful = false
        do throws(StoreError) {
            let sent = Lock(done)
            let missing = plan.parts.indices.filter { done[$0] == nil }
            let atOnce = min(Self.segmentsAtOnce, max(1, state.withLock { $0.tuning.connections }))
            try session.parallel.run(missing.count, parallel: atOnce) { [self] (position) throws(StoreError) in
                let index = missing[position]
                try options.requireWanted(path)
                let one = try send(plan, index, segments.key(index), path, options)
                sent.withLock { $0[index] = one }
            }
            let all = sent.withLock { sent in plan.parts.indices.map { sent[$0]! } }
            let metadata = try complete(segments, all, path, options, headers: headers, &isDoubtful)
            options.checkpoint?.save(nil)
            return metadata
        } catch {
            // What may be taken up again stays; all else is cleared away, so that nobody pays for it. But not what may
            // turn out to be the file.
            if options.checkpoint == nil || !error.isTransient {
                options.checkpoint?.save(nil)
                if !isDoubtful { discard(segments, path) }
            }
            throw error
        }
    }

    /// Clears away segments of an upload that is given up, unless its manifest is in place: then they are the file.
    private func discard(_ segments: OpenStackSwiftSegments, _ path: StorePath) {
        do throws(StoreError) {
            let found = try head(segments.owner, path, isNewest: true)
            if found.flatMap({ OpenStackSwiftSegments($0, of: segments.owner) })?.name != segments.name {
                remove(segments)
            }
        } catch {
            // Nobody knows: they stay. The error that led here is the one that counts.
        }
    }

    // MARK: Segments

    private func send(
        _ plan: PartPlan, _ index: Int, _ key: [UInt8], _ path: StorePath, _ options: PutOptions
    ) throws(StoreError) -> Sent {
        let part = plan.parts[index]
        if part.isCopy, case .stored(let source, let version, let range) = plan.segment(part.pieces[0]) {
            let reference = reference(.own, try self.key(source))
            let tag = try withSegmentsContainer { () throws(StoreError) in
                try copyObject(
                    reference, source, version, to: key, in: .segments, path, range: range,
                    headers: [("X-Fresh-Metadata", "true")], isWanted: options.isWanted)
            }
            guard let tag else {
                throw StoreError(.unavailable, "a range of '\(source)' was copied without a confirmation", path: path)
            }
            options.progress?(range.upperBound - range.lowerBound)
            return Sent(tag: tag, size: range.upperBound - range.lowerBound)
        }
        let isMixed = !plan.isLocal(part)
        if isMixed {
            _ = mixedParts.wait { count -> Void? in
                guard count < Self.mixedSegmentsAtOnce else { return nil }
                count += 1
                return ()
            }
        }
        defer { if isMixed { mixedParts.update { $0 -= 1 } } }
        let body = try fetchingStored(UploadBody(part.pieces.map { plan.segment($0) }))
        let digest = TextEncoding.hex(try Digest.md5(body))
        var call = OpenStackSwiftCall(
            "PUT", key, .requestsMultipart, .storePut,
            action: "segment \(index + 1) of '\(path)' could not be written", path: path)
        call.container = .segments
        call.headers = [("ETag", digest), ("Content-Type", ContentTypes.unknown)]
        call.body = body
        call.isWanted = options.isWanted
        call.progress = options.progress
        call.verify = { response in
            guard let tag = HTTPAnswer.tag(response["ETag"]), tag == digest else {
                return StoreError(
                    .corrupted, "segment \(index + 1) of '\(path)' is not on the store as it was sent", path: path)
            }
            return nil
        }
        let prepared = call
        _ = try withSegmentsContainer { () throws(StoreError) in try send(prepared) }
        return Sent(tag: digest, size: body.length)
    }

    /// Tries something with the container of segments, which is made when it is missing.
    private func withSegmentsContainer<Result>(_ body: () throws(StoreError) -> Result) throws(StoreError) -> Result {
        do throws(StoreError) { return try body() } catch {
            guard error.code == .storeNotFound || error.code == .notFound else { throw error }
            // Under the same storage policy, or segments could lie elsewhere than the files whose bytes they are.
            let own = try send(
                OpenStackSwiftCall("HEAD", nil, .requestsOther, .storeOther, action: "\(place) could not be looked at"))
            var call = OpenStackSwiftCall(
                "PUT", nil, .requestsOther, .storeOther,
                action: "the container '\(configuration.segmentsContainer)' for large files could not be made")
            call.container = .segments
            if let policy = own["X-Storage-Policy"] { call.headers.append(("X-Storage-Policy", policy)) }
            // 409: it was made with another policy, by somebody else.
            call.accepted = [409]
            _ = try send(call)
            return try body()
        }
    }

    /// An upload that was begun before, with those of its segments that are on the server as they are here.
    private func resumable(
        _ key: [UInt8], _ path: StorePath, _ plan: PartPlan, _ fingerprint: String,
        _ checkpoint: (any UploadCheckpoint)?
    ) throws(StoreError) -> (segments: OpenStackSwiftSegments, done: [Int: Sent])? {
        guard let checkpoint, let text = checkpoint.load() else { return nil }
        guard let state = try? JSONDecoder().decode(Checkpoint.self, from: Data(text.utf8)) else {
            checkpoint.save(nil)
            return nil
        }
        guard state.key == key, state.fingerprint == fingerprint, state.count == plan.parts.count else {
            checkpoint.save(nil)
            discard(state.segments, path)
            return nil
        }
        let listed = try list(state.segments, path)
        var done: [Int: Sent] = [:]
        for (index, part) in plan.parts.enumerated() {
            guard let sent = listed[index], sent.size == part.size else { continue }
            if part.isCopy {
                // The fingerprint has the version that it was copied from.
                if case .stored(_, .some, _) = plan.segment(part.pieces[0]) { done[index] = sent }
            } else if plan.isLocal(part),
                TextEncoding.hex(try Digest.md5(UploadBody(part.pieces.map { plan.segment($0) }))) == sent.tag
            {
                done[index] = sent
            }
        }
        return (state.segments, done)
    }

    /// Those of the segments that a listing tells of.
    private func list(_ segments: OpenStackSwiftSegments, _ path: StorePath) throws(StoreError) -> [Int: Sent] {
        var found: [Int: Sent] = [:]
        let indices = Dictionary(uniqueKeysWithValues: segments.keys.enumerated().map { ($1, $0) })
        var marker: String?
        repeat {
            let page: KeyListing
            do throws(StoreError) {
                page = try listKeys(
                    in: .segments, prefix: segments.prefix, delimiter: false, maximum: 1000, after: marker, path)
            } catch {
                // Nobody has made the container yet.
                if error.code == .storeNotFound { return [:] }
                throw error
            }
            for object in page.objects {
                if let index = indices[object.key], let tag = object.tag {
                    found[index] = Sent(tag: tag, size: object.size)
                }
            }
            marker = page.next
        } while marker != nil
        return found
    }

    /// Copies an object of this program by copying its segments.
    func copySegments(
        _ segments: OpenStackSwiftSegments, _ found: HTTPResponse, _ source: StorePath, _ to: [UInt8],
        _ destination: StorePath, _ options: PutOptions, headers: [(name: String, value: String)]
    ) throws(StoreError) -> Metadata {
        _ = try requireBefore(options.condition, to, destination)
        let listed = try list(segments, source)
        let all = (0..<segments.count).compactMap { listed[$0] }
        // The tag of the whole is made of those of all segments: what was listed is what the object is.
        guard all.count == segments.count, all.reduce(0, { $0 + $1.size }) == HTTPAnswer.length(found),
            Self.tag(of: all) == HTTPAnswer.tag(found["ETag"])
        else {
            throw StoreError(
                .unavailable, "the segments of '\(source)' are not all listed: another try may find them", path: source)
        }
        let copies = OpenStackSwiftSegments(owner: to, name: Trial.name(), count: segments.count)
        var isDoubtful = false
        do throws(StoreError) {
            try session.parallel.run(segments.count, parallel: Self.segmentsAtOnce) {
                [self] (index) throws(StoreError) in
                let tag = try copyObject(
                    reference(.segments, segments.key(index)), source, Version(all[index].tag), to: copies.key(index),
                    in: .segments, destination, range: nil, headers: [])
                guard tag == all[index].tag else {
                    throw StoreError(
                        .corrupted, "segment \(index + 1) of '\(source)' was not copied as it is", path: source)
                }
            }
            return try complete(copies, all, destination, options, headers: headers, &isDoubtful)
        } catch {
            if !isDoubtful { discard(copies, destination) }
            throw error
        }
    }

    // MARK: Ending

    /// The entity tag of an object in segments: the MD5 of theirs.
    private static func tag(of sent: [Sent]) -> String {
        TextEncoding.hex(Digest.md5(Array(sent.map(\.tag).joined().utf8)))
    }

    /// Puts the manifest in place.
    ///
    /// - Parameter isDoubtful: Set when nobody knows whether it is, or comes to be, in place.
    private func complete(
        _ segments: OpenStackSwiftSegments, _ sent: [Sent], _ path: StorePath, _ options: PutOptions,
        headers: [(name: String, value: String)], _ isDoubtful: inout Bool
    ) throws(StoreError) -> Metadata {
        struct Line: Encodable {
            var path: String
            var etag: String
            var size_bytes: Int64
        }
        let key = segments.owner
        let lines = sent.enumerated().map { index, one in
            Line(
                path: "/\(name(.segments))/" + String(decoding: segments.key(index), as: UTF8.self), etag: one.tag,
                size_bytes: one.size)
        }
        guard let manifest = try? JSONEncoder().encode(lines) else {
            throw StoreError(.internal, "the manifest of '\(path)' could not be written", path: path)
        }
        let before = try requireBefore(options.condition, key, path)
        var call = OpenStackSwiftCall(
            "PUT", key, .requestsMultipart, .storePut, action: "the upload of '\(path)' could not be completed",
            path: path)
        call.query = [("multipart-manifest", "put")]
        call.headers = headers + [segments.mark]
        if options.condition == .ifAbsent {
            call.headers.append(("If-None-Match", "*"))
            call.accepted = [412]
        }
        call.body = UploadBody(Array(manifest))
        call.isWanted = options.isWanted
        call.isRepeatable = false
        let size = sent.reduce(0) { $0 + $1.size }
        let tag = Self.tag(of: sent)
        var failure = StoreError(
            .unavailable, "'\(path)' was replaced by others again and again while it was written", path: path)
        for _ in 1...3 {
            try options.requireWanted(path)
            var response: HTTPResponse?
            do throws(StoreError) { response = try send(call) } catch {
                guard error.isTransient, error.code != .corrupted else { throw error }
                isDoubtful = true
                failure = error
            }
            let current = try head(key, path, isNewest: true)
            let isOurs = current.flatMap { OpenStackSwiftSegments($0, of: key) }?.name == segments.name
            if isOurs, let current {
                guard HTTPAnswer.length(current) == size, HTTPAnswer.tag(current["ETag"]) == tag else {
                    throw StoreError(
                        .corrupted, "'\(path)' was written in segments, and is not on the store as it was sent",
                        path: path)
                }
                response = current
            } else if response?.status == 412 {
                throw options.condition.failure(path)
            }
            // Without the tag: another write at the same time was taken for the later one, or nobody knows.
            guard let response, HTTPAnswer.tag(response["ETag"]) == tag else { continue }
            // An earlier attempt to end this upload may have been carried out: then they are the same.
            if let before, before.name != segments.name { remove(before) }
            var result = metadata(response, size: size, isDirectoryKey: false)
            result.version = Version(tag + Self.segmentsMark)
            result.md5 = nil
            return result
        }
        throw failure
    }
}
