import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// Large objects in parallel: component objects, which the server then puts together.
///
/// Source: <https://cloud.google.com/storage/docs/composite-objects>, <https://cloud.google.com/storage/docs/parallel-composite-uploads>.
extension GoogleStorageStore {
    /// Of how many objects one request makes one. Source: as above.
    static let mostSources = 32
    /// Components of one object that are under way at once.
    private static let componentsAtOnce = 6
    /// From this size on a component is sent so that it can go on after an interruption.
    private static let largestInOne: Int64 = 64 << 20

    /// What is needed to take up an upload again.
    private struct Checkpoint: Codable {
        var components: String
        /// Of the plan and of what is said of the object.
        var fingerprint: String
    }

    /// A component that is on the store.
    private struct Sent: Hashable, Sendable {
        var name: String
        var generation: String
        var size: Int64
        var crc32c: [UInt8]

        init(_ object: GoogleStorageObject, _ sums: GoogleStorageChecksums.Values) {
            name = object.name
            generation = object.generation
            size = object.size
            crc32c = sums.crc32c
        }
    }

    /// What all components of an upload begin with.
    private func components(_ name: String) -> [UInt8] {
        configuration.prefix + Array(".cloudfusion/parts/\(name)/".utf8)
    }

    private static func number(_ index: Int) -> String {
        let number = String(index + 1)
        return String(repeating: "0", count: max(0, 8 - number.count)) + number
    }

    func putInComponents(
        _ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions,
        _ description: GoogleStorageDescription
    ) throws(StoreError) -> Metadata {
        // Nothing is sent that would be refused at the end.
        try requireBefore(options.condition, key, path)
        // So that components of components are enough: 32 times 32.
        let plan = PartPlan(body, copies: false, most: 900)
        let words = Array(plan.fingerprint.utf8) + key + (try encode(description))
        let fingerprint = TextEncoding.hex(Digest.md5(words))
        let name: String
        var done: [Int: Sent] = [:]
        if let known = try resumable(plan, fingerprint, path, options.checkpoint) {
            name = known.name
            done = known.done
        } else {
            name = Trial.name()
            if let checkpoint = options.checkpoint {
                let state = Checkpoint(components: name, fingerprint: fingerprint)
                checkpoint.save((try? JSONEncoder().encode(state)).map { String(decoding: $0, as: UTF8.self) })
            }
        }
        do throws(StoreError) {
            let sent = try sendComponents(plan, done, name, path, options)
            let made = try compose(sent, name, key, path, options, description)
            options.checkpoint?.save(nil)
            removeComponents(name, path)
            return made.metadata(isDirectoryKey: false)
        } catch {
            // What may be taken up again stays; all else is cleared away, so that nobody pays for it.
            if options.checkpoint == nil || !error.isTransient {
                options.checkpoint?.save(nil)
                removeComponents(name, path)
            }
            throw error
        }
    }

    // MARK: Sending

    /// - Returns: All components, in order.
    private func sendComponents(
        _ plan: PartPlan, _ done: [Int: Sent], _ name: String, _ path: StorePath, _ options: PutOptions
    ) throws(StoreError) -> [Sent] {
        let sent = Lock(done)
        let missing = plan.parts.indices.filter { done[$0] == nil }
        let atOnce = min(Self.componentsAtOnce, max(1, state.withLock { $0.tuning.connections }))
        let prefix = components(name)
        try session.parallel.run(missing.count, parallel: atOnce) { [self] (position) throws(StoreError) in
            let index = missing[position]
            try options.requireWanted(path)
            let body = UploadBody(plan.parts[index].pieces.map { plan.segment($0) })
            let sums = try GoogleStorageChecksums.of(body)
            let one = try sendComponent(
                body, String(decoding: prefix, as: UTF8.self) + Self.number(index), sums, path, options)
            sent.withLock { $0[index] = Sent(one, sums) }
        }
        return sent.withLock { sent in plan.parts.indices.map { sent[$0]! } }
    }

    private func sendComponent(
        _ body: UploadBody, _ name: String, _ sums: GoogleStorageChecksums.Values, _ path: StorePath,
        _ options: PutOptions
    ) throws(StoreError) -> GoogleStorageObject {
        var request = GoogleStorageRequest(
            name: name, storageClass: "STANDARD",
            description: GoogleStorageDescription(contentType: ContentTypes.unknown))
        guard body.length > Self.largestInOne else {
            let made = try insert(
                body, request, action: "a part of '\(path)' could not be written", path, counter: .requestsMultipart,
                isWanted: options.isWanted, progress: options.progress)
            return made!
        }
        request.crc32c = TextEncoding.base64(sums.crc32c)
        request.md5Hash = TextEncoding.base64(sums.md5)
        let own = PutOptions(isWanted: options.isWanted, progress: options.progress)
        let made = try send(
            body, request, query: [], fingerprint: "", counter: .requestsMultipart, path, own)
        guard let made else {
            throw StoreError(.internal, "the server found a condition in the upload of '\(path)'", path: path)
        }
        try require(made, body.length, sums, path)
        return made
    }

    /// An upload that was begun before, with those of its components that are on the server as they are here.
    private func resumable(
        _ plan: PartPlan, _ fingerprint: String, _ path: StorePath, _ checkpoint: (any UploadCheckpoint)?
    ) throws(StoreError) -> (name: String, done: [Int: Sent])? {
        guard let checkpoint, let text = checkpoint.load() else { return nil }
        guard let state = try? JSONDecoder().decode(Checkpoint.self, from: Data(text.utf8)),
            !state.components.isEmpty, state.components.utf8.allSatisfy({ Self.isOwn($0) })
        else {
            checkpoint.save(nil)
            return nil
        }
        guard state.fingerprint == fingerprint else {
            checkpoint.save(nil)
            removeComponents(state.components, path)
            return nil
        }
        let prefix = String(decoding: components(state.components), as: UTF8.self)
        let listed = Dictionary(
            try listComponents(state.components, path).map { ($0.name, $0) }, uniquingKeysWith: { a, _ in a })
        var done: [Int: Sent] = [:]
        for (index, part) in plan.parts.enumerated() {
            guard let object = listed[prefix + Self.number(index)], object.size == part.size else { continue }
            let sums = try GoogleStorageChecksums.of(UploadBody(part.pieces.map { plan.segment($0) }))
            guard object.crc32c == sums.crc32c, sums.match(crc32c: nil, md5: object.md5) else { continue }
            done[index] = Sent(object, sums)
        }
        return (state.components, done)
    }

    /// Of a name that ``Trial/name()`` has made.
    private static func isOwn(_ byte: UInt8) -> Bool {
        byte >= UInt8(ascii: "0") && byte <= UInt8(ascii: "9") || byte >= UInt8(ascii: "a") && byte <= UInt8(ascii: "z")
    }

    private func listComponents(_ name: String, _ path: StorePath) throws(StoreError) -> [GoogleStorageObject] {
        var found: [GoogleStorageObject] = []
        var token: String?
        repeat {
            let page = try listObjects(
                prefix: components(name), delimiter: false, maximum: 1000, startAt: nil, after: token, path)
            found += page.items ?? []
            token = page.nextPageToken
        } while token != nil
        return found
    }

    /// Clears away what an upload has needed. What that fails for takes room, and does no harm: the upload is over.
    private func removeComponents(_ name: String, _ path: StorePath) {
        guard let listed = try? listComponents(name, path) else { return }
        _ = deleteObjects(listed.map { (Array($0.name.utf8), nil) }, path)
    }

    // MARK: Putting together

    private func compose(
        _ sent: [Sent], _ name: String, _ key: [UInt8], _ path: StorePath, _ options: PutOptions,
        _ description: GoogleStorageDescription
    ) throws(StoreError) -> GoogleStorageObject {
        var level = sent
        var number = 0
        let own = GoogleStorageRequest(
            storageClass: "STANDARD", description: GoogleStorageDescription(contentType: ContentTypes.unknown))
        while level.count > Self.mostSources {
            number += 1
            let groups = stride(from: 0, to: level.count, by: Self.mostSources).map {
                Array(level[$0..<min($0 + Self.mostSources, level.count)])
            }
            let made = Lock<[Int: Sent]>([:])
            let prefix = components(name) + Array("joined-\(number)-".utf8)
            try session.parallel.run(groups.count, parallel: Self.componentsAtOnce) {
                [self] (index) throws(StoreError) in
                try options.requireWanted(path)
                let key = prefix + Array(Self.number(index).utf8)
                let one = try compose(groups[index], key, own, [], path, options)!
                made.withLock { $0[index] = one.sent }
            }
            level = made.withLock { made in groups.indices.map { made[$0]! } }
        }
        let last = level
        return try write(options, key, path) { (query, mark) throws(StoreError) in
            let request = GoogleStorageRequest(
                storageClass: configuration.storageClass, description: description.marked(mark))
            return try compose(last, key, request, query, path, options)?.object
        }
    }

    /// - Returns: nil when a condition of the query does not hold.
    private func compose(
        _ sources: [Sent], _ key: [UInt8], _ request: GoogleStorageRequest, _ query: [(name: String, value: String?)],
        _ path: StorePath, _ options: PutOptions
    ) throws(StoreError) -> (object: GoogleStorageObject, sent: Sent)? {
        let made = try compose(
            sources.map { ($0.name, $0.generation) }, key, request, query, path, isWanted: options.isWanted)
        guard let made else { return nil }
        let whole = sources.reduce((crc: UInt32(0), size: Int64(0))) { whole, one in
            let crc = one.crc32c.reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
            return (CRC32C.joined(whole.crc, crc, length: one.size), whole.size + one.size)
        }
        let crc = [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: whole.crc >> UInt32($0)) }
        let sums = GoogleStorageChecksums.Values(crc + [UInt8](repeating: 0, count: 16))
        guard made.size == whole.size, sums.match(crc32c: made.crc32c, md5: nil) else {
            throw StoreError(
                .corrupted, "'\(path)' was put together of parts, and is not on the store as it was sent", path: path)
        }
        return (made, Sent(made, sums))
    }

    /// Has the server make one object of others.
    ///
    /// - Returns: nil when a condition of the query does not hold.
    func compose(
        _ sources: [(name: String, generation: String)], _ key: [UInt8], _ request: GoogleStorageRequest,
        _ query: [(name: String, value: String?)], _ path: StorePath, isWanted: (@Sendable () -> Bool)?
    ) throws(StoreError) -> GoogleStorageObject? {
        struct Body: Encodable {
            struct Source: Encodable {
                var name: String
                var generation: String
            }
            var sourceObjects: [Source]
            var destination: GoogleStorageRequest
        }
        var call = GoogleStorageCall(
            "POST", target: .composition(key), .requestsMultipart, .storePut,
            action: "the upload of '\(path)' could not be completed", path: path)
        call.query = query
        call.headers = [Self.jsonType]
        call.body = UploadBody(
            try encode(
                Body(
                    sourceObjects: sources.map { .init(name: $0.name, generation: $0.generation) },
                    destination: request)))
        call.isWanted = isWanted
        call.accepted = query.isEmpty ? [404] : [404, 412]
        let response = try send(call)
        switch response.status {
        case 404:
            let error = GoogleStorageErrors.error(response, call, configuration)
            if error.code != .notFound { throw error }
            throw StoreError(
                .unavailable, "parts of '\(path)' were removed by others before it was whole; they are sent again",
                path: path)
        case 412: return nil
        default: return try self.object(response, call)
        }
    }
}
