import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// Uploads that the server keeps in the making, one piece after the other.
///
/// Source: <https://cloud.google.com/storage/docs/performing-resumable-uploads>;
/// <https://cloud.google.com/storage/docs/resumable-uploads>: a session lasts a week, pieces but the last are multiples of
/// 256 KiB, and bytes at offsets that the server has already are ignored.
extension GoogleStorageStore {
    /// 16 MiB: long enough that the round trip of a piece does not count, and little enough to be sent again.
    private static let piece: Int64 = 16 << 20

    /// What is needed to take up an upload again. The session's address is as good as a password for it.
    private struct Checkpoint: Codable {
        var session: String
        /// Of the bytes and of what is said of the object.
        var fingerprint: String
    }

    /// How far an upload has come.
    enum Standing {
        /// The server has so many bytes.
        case open(Int64)
        case done(HTTPResponse)
        /// The server does not know the session any more.
        case gone
    }

    func putResumably(
        _ body: UploadBody, _ key: [UInt8], _ path: StorePath, _ options: PutOptions,
        _ description: GoogleStorageDescription
    ) throws(StoreError) -> Metadata {
        // Nothing is sent that would be refused at the end.
        try requireBefore(options.condition, key, path)
        let sums = try GoogleStorageChecksums.of(body)
        let made = try write(options, key, path) { (query, mark) throws(StoreError) in
            var request = GoogleStorageRequest(
                name: String(decoding: key, as: UTF8.self), storageClass: configuration.storageClass,
                description: description)
            request.crc32c = TextEncoding.base64(sums.crc32c)
            request.md5Hash = TextEncoding.base64(sums.md5)
            // Without the mark, which is another one each time.
            let words = try encode(request) + Array("\(body.length) \(query)".utf8)
            let fingerprint = TextEncoding.hex(Digest.md5(words))
            request.description = description.marked(mark)
            return try send(
                body, request, query: query, fingerprint: fingerprint, counter: .requestsMultipart, path, options)
        }
        try require(made, body.length, sums, path)
        return made.metadata(isDirectoryKey: false)
    }

    /// Makes an object by an upload that can be taken up again.
    ///
    /// - Returns: nil when a condition does not hold.
    func send(
        _ body: UploadBody, _ request: GoogleStorageRequest, query: [(name: String, value: String?)],
        fingerprint: String, counter: Counter, _ path: StorePath, _ options: PutOptions
    ) throws(StoreError) -> GoogleStorageObject? {
        var session: String
        var standing = Standing.open(0)
        if let text = options.checkpoint?.load(),
            let known = try? JSONDecoder().decode(Checkpoint.self, from: Data(text.utf8)),
            known.session.hasPrefix("/")
        {
            session = known.session
            standing = .gone
            if known.fingerprint == fingerprint { standing = try self.standing(session, body.length, path) }
            if known.fingerprint != fingerprint { abandon(session, path) }
            if case .gone = standing { session = try begin(request, query, body.length, fingerprint, path, options) }
        } else {
            session = try begin(request, query, body.length, fingerprint, path, options)
        }
        var beginnings = 1
        // What the server has already is not told of.
        let start: Int64 = if case .open(let count) = standing { count } else { 0 }
        let progress = UploadPosition(start, options.progress)
        do throws(StoreError) {
            while true {
                switch standing {
                case .open(let offset):
                    standing = try sendPiece(of: body, from: offset, session, path, options, progress, counter)
                    if case .open(let now) = standing, now <= offset {
                        throw StoreError(
                            .unavailable, "the server does not take more than \(now) bytes of '\(path)'", path: path)
                    }
                case .gone:
                    beginnings += 1
                    guard beginnings <= 3 else {
                        throw StoreError(
                            .unavailable, "the upload of '\(path)' was ended by the server; it begins anew", path: path)
                    }
                    session = try begin(request, query, body.length, fingerprint, path, options)
                    standing = .open(0)
                    progress.settle(at: 0)
                case .done(let response):
                    options.checkpoint?.save(nil)
                    if response.status == 412 { return nil }
                    return try object(response, statusCall(session, body.length, path))
                }
            }
        } catch {
            // What may be taken up again stays; all else is cleared away.
            if options.checkpoint == nil || !error.isTransient {
                options.checkpoint?.save(nil)
                abandon(session, path)
            }
            throw error
        }
    }

    private func begin(
        _ request: GoogleStorageRequest, _ query: [(name: String, value: String?)], _ length: Int64,
        _ fingerprint: String, _ path: StorePath, _ options: PutOptions
    ) throws(StoreError) -> String {
        let session = try beginSession(request, query, length, path)
        if let checkpoint = options.checkpoint {
            let state = Checkpoint(session: session, fingerprint: fingerprint)
            checkpoint.save((try? JSONEncoder().encode(state)).map { String(decoding: $0, as: UTF8.self) })
        }
        return session
    }

    /// - Returns: Path and query of the session's address: a token goes to nobody but the endpoint.
    func beginSession(
        _ request: GoogleStorageRequest, _ query: [(name: String, value: String?)], _ length: Int64, _ path: StorePath
    ) throws(StoreError) -> String {
        var call = GoogleStorageCall(
            "POST", target: .upload, .requestsMultipart, .storeOther,
            action: "the upload of '\(path)' could not be begun", path: path)
        call.query = [("uploadType", "resumable"), ("name", request.name)] + query
        call.headers = [
            Self.jsonType, ("X-Upload-Content-Type", request.description.contentType ?? ContentTypes.unknown),
            ("X-Upload-Content-Length", String(length)),
        ]
        call.body = UploadBody(try encode(request))
        call.accepted = [412]
        let response = try send(call)
        if response.status == 412 {
            throw StoreError(
                .preconditionFailed, "'\(path)' changed on the store before its upload was begun", path: path)
        }
        guard let location = response["Location"], let url = WebURL(location) else {
            throw StoreError(.internal, "the server began the upload of '\(path)' without saying where", path: path)
        }
        return url.path + (url.query.map { "?" + $0 } ?? "")
    }

    private func sendPiece(
        of body: UploadBody, from offset: Int64, _ session: String, _ path: StorePath, _ options: PutOptions,
        _ progress: UploadPosition, _ counter: Counter
    ) throws(StoreError) -> Standing {
        let end = min(offset + Self.piece, body.length)
        try options.requireWanted(path)
        @Sendable func call(from start: Int64) -> GoogleStorageCall {
            var call = GoogleStorageCall(
                "PUT", target: .session(session), counter, .storePut, action: "'\(path)' could not be written",
                path: path)
            let bytes = start < end ? "\(start)-\(end - 1)" : "*"
            call.headers = [("Content-Range", "bytes \(bytes)/\(body.length)")]
            call.body = body.cut(start..<end)
            call.isWanted = options.isWanted
            call.progress = { progress.note($0) }
            call.accepted = [308, 404, 410, 412, 499]
            return call
        }
        let first = call(from: offset)
        var request = request(first)
        // How much of it has arrived is asked for, rather than sending all of it again.
        request.renewed = { [self] () throws(StoreError) in
            switch try standing(session, body.length, path) {
            case .open(let now) where now >= end: return .answer(Self.incomplete(now))
            case .open(let now):
                progress.settle(at: now)
                return .send(self.request(call(from: now)))
            case .done(let response): return .answer(response)
            case .gone: return .answer(HTTPResponse(status: 410))
            }
        }
        let result = Self.standing(try self.session.send(request) { fault($0, first) })
        switch result {
        case .open(let now): progress.settle(at: now)
        case .done: progress.settle(at: body.length)
        case .gone: break
        }
        return result
    }

    private func statusCall(_ session: String, _ length: Int64, _ path: StorePath) -> GoogleStorageCall {
        var call = GoogleStorageCall(
            "PUT", target: .session(session), .requestsMultipart, .storeOther,
            action: "the upload of '\(path)' could not be asked about", path: path)
        call.headers = [("Content-Range", "bytes */\(length)")]
        call.body = UploadBody([UInt8]())
        call.accepted = [308, 400, 404, 410, 412, 499]
        return call
    }

    func standing(_ session: String, _ length: Int64, _ path: StorePath) throws(StoreError) -> Standing {
        Self.standing(try send(statusCall(session, length, path)))
    }

    private static func standing(_ response: HTTPResponse) -> Standing {
        switch response.status {
        case 308:
            // "bytes=0-42"; nothing while there is nothing.
            let last = response["Range"].flatMap { HTTPAnswer.size($0.split(separator: "-").last) }
            return .open(last.map { $0 + 1 } ?? 0)
        case 400, 404, 410, 499: return .gone
        default: return .done(response)
        }
    }

    private static func incomplete(_ count: Int64) -> HTTPResponse {
        HTTPResponse(status: 308, headers: [("Range", "bytes=0-\(count - 1)")])
    }

    /// Has the server forget an upload. Where that fails it does so after a week: the error that led here counts.
    func abandon(_ session: String, _ path: StorePath) {
        var call = GoogleStorageCall(
            "DELETE", target: .session(session), .requestsMultipart, .storeDelete,
            action: "the upload of '\(path)' could not be called off", path: path)
        call.accepted = [400, 404, 405, 410, 499]
        _ = try? send(call)
    }
}

/// Tells of the progress of an upload that the server may know to be somewhere else.
private final class UploadPosition: Sendable {
    private let position: Lock<Int64>
    private let report: (@Sendable (Int64) -> Void)?

    init(_ start: Int64, _ report: (@Sendable (Int64) -> Void)?) {
        position = Lock(start)
        self.report = report
    }

    func note(_ amount: Int64) {
        position.withLock { $0 += amount }
        report?(amount)
    }

    func settle(at now: Int64) {
        let change = position.withLock { position in
            defer { position = now }
            return now - position
        }
        if change != 0 { report?(change) }
    }
}
