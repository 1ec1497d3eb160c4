import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension HTTPStore {
    // MARK: Asking

    private static let headers = [
        // Ranges and lengths are to be those of the file.
        (name: "Accept-Encoding", value: "identity")
    ]

    func request(_ method: String, _ counter: Counter, _ operation: TimedOperation) -> HTTPRequest {
        HTTPRequest(method, "", headers: Self.headers, counter: counter, operation: operation)
    }

    /// - Parameter accepted: Statuses beyond 2xx that are answers too.
    func send(_ request: HTTPRequest, _ url: WebURL, _ path: StorePath, action: String, accepted: Set<Int> = [])
        throws(StoreError) -> (response: HTTPResponse, url: WebURL)
    {
        let course = WebSite.Course(path: path, action: action, endsAtSlash: accepted.contains(301))
        return try site.send(request, to: url, course) { [isAnonymous] response in
            accepted.contains(response.status)
                ? nil : HTTPErrors.error(response, path, action: action, isAnonymous: isAnonymous)
        }
    }

    /// Asks for the head of what is at a URL, or where the server has no HEAD for the first byte.
    ///
    /// - Returns: Status 200, 206, 301 (a folder), 404, 410 or 416 (an empty file).
    private func head(_ url: WebURL, _ path: StorePath, action: String) throws(StoreError) -> (
        response: HTTPResponse, url: WebURL
    ) {
        if state.withLock({ $0.answersHead }) {
            let answer = try send(
                request("HEAD", .requestsHead, .storeHead), url, path, action: action,
                accepted: [301, 404, 405, 410, 501])
            let isRefused = answer.response.status == 405 || answer.response.status == 501
            if isRefused { state.withLock { $0.answersHead = false } }
            if !isRefused, answer.response.status != 200 || HTTPAnswer.toldSize(answer.response) != nil {
                return answer
            }
        }
        return try askForByte(url, path, action: action, accepted: [301, 404, 410])
    }

    func askForByte(_ url: WebURL, _ path: StorePath, action: String, accepted: Set<Int> = []) throws(StoreError) -> (
        response: HTTPResponse, url: WebURL
    ) {
        var request = request("GET", .requestsGet, .storeGet)
        request.headers.append(("Range", "bytes=0-0"))
        request.sink = Nowhere()
        return try send(request, url, path, action: action, accepted: accepted.union([416]))
    }

    /// What the server says of a file or directory.
    struct Found {
        var metadata: Metadata
        /// The server's clock then.
        var asked: Timestamp?
    }

    /// What lies at a URL; nil when the server has said that nothing does.
    ///
    /// - Parameter mayBeFolder: Some servers know of a folder only with a slash behind it.
    /// - Throws: ``StoreError``: `.unsupported` also for a file of which the server does not tell how long it is.
    func look(at url: WebURL, _ path: StorePath, mayBeFolder: Bool) throws(StoreError) -> Found? {
        let action = path.isRoot ? Self.opening(site.home) : "'\(path)' cannot be looked at"
        let (response, answered) = try head(url, path, action: action)
        switch response.status {
        case 301: return Found(metadata: Self.directory)
        case 404, 410:
            guard mayBeFolder, !url.path.hasSuffix("/") else { return nil }
            var folder = url
            folder.path += "/"
            let inside = try head(folder, path, action: action).response.status
            return inside == 404 || inside == 410 ? nil : Found(metadata: Self.directory)
        default: break
        }
        // By way of another place, as a rule.
        if answered.path.hasSuffix("/") { return Found(metadata: Self.directory) }
        return Found(
            metadata: try metadata(response, path, action: action),
            asked: response["Date"].flatMap { Timestamp(httpDate: $0) })
    }

    static let directory = Metadata(
        kind: .directory, modified: Timestamp(nanoseconds: 0), attributes: Attributes())

    private func metadata(_ response: HTTPResponse, _ path: StorePath, action: String) throws(StoreError) -> Metadata {
        guard let size = HTTPAnswer.toldSize(response) else {
            throw StoreError(
                .unsupported, "\(action): the server does not tell how long it is", path: path, cause: response.summary)
        }
        let modified = response["Last-Modified"].flatMap { Timestamp(httpDate: $0) }
        return Metadata(
            kind: .file, size: size, modified: modified ?? Timestamp(nanoseconds: 0),
            version: HTTPAnswer.version(tag: HTTPAnswer.tag(response["ETag"]), modified: modified, size: size),
            attributes: Attributes())
    }

    // MARK: One path

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        guard let metadata = try find(path) else { throw Self.notFound(path) }
        return metadata
    }

    /// What lies at `path`; nil when the server has said that nothing does.
    func find(_ path: StorePath) throws(StoreError) -> Metadata? {
        let root = try root()
        if path.isRoot { return Self.directory }
        if case .file(let name) = root, path != StorePath.root.appending(name) { return nil }
        return try look(at: url(path), path, mayBeFolder: root == .directory)?.metadata
    }

    // MARK: Reading

    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        if path.isRoot { throw Self.isADirectory(path) }
        if let range = request.range, range.isEmpty { return try check(path, request.version) }
        do throws(StoreError) {
            return try get(path, request, into: sink)
        } catch {
            // What was remembered of it is not so any more.
            if error.code == .preconditionFailed || error.code == .notFound {
                state.withLock { $0.seen.forget(path) }
            }
            throw error
        }
    }

    private func get(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let action = "'\(path)' cannot be read"
        let url = try url(path)
        var asked = self.request("GET", .requestsGet, .storeGet)
        asked.sink = sink
        if let range = request.range {
            asked.headers.append(("Range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)"))
            asked.sinkOffset = range.lowerBound
        }
        if let match = match(request.version) { asked.headers.append(("If-Match", match)) }
        let accepted: Set<Int> = [301, 404, 410, 412, 416]
        var (response, answered) = try send(asked, url, path, action: action, accepted: accepted)
        if response.status == 412 {
            // For a weak tag the condition fails always: the answer itself has to tell.
            guard try find(path)?.version == request.version else {
                throw StoreError.changed(path, request.version?.text)
            }
            state.withLock { $0.takesMatch = false }
            asked["If-Match"] = nil
            (response, answered) = try send(asked, url, path, action: action, accepted: accepted.subtracting([412]))
        }
        if answered.path.hasSuffix("/") { throw Self.isADirectory(path) }
        switch response.status {
        case 301: throw Self.isADirectory(path)
        case 404, 410:
            if try find(path)?.kind == .directory { throw Self.isADirectory(path) }
            throw Self.notFound(path)
        case 416: return try check(path, request.version)
        default: break
        }
        let metadata = try metadata(response, path, action: action)
        guard request.version == nil || metadata.version == request.version else {
            throw StoreError.changed(path, request.version?.text)
        }
        if request.range != nil, response.status == 200, metadata.size > 1 { setServesRanges(false) }
        // Who writes in place may have done so while this was read; and Apache looks at a file before it opens it, so that
        // it can send the new bytes with the entity tag and the length of the old ones.
        guard let after = try find(path), after.version == metadata.version, after.size == metadata.size else {
            throw StoreError.changed(path, metadata.version?.text)
        }
        return metadata
    }

    /// A condition that lets the server say no before it sends bytes of another version; nil where the version is no
    /// entity tag.
    private func match(_ version: Version?) -> String? {
        guard let text = version?.text, !text.utf8.contains(UInt8(ascii: "\"")),
            state.withLock({ $0.takesMatch }),
            text.utf8.contains(where: {
                $0 != UInt8(ascii: "-") && !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0)
            })
        else { return nil }
        return "\"\(text)\""
    }

    /// Metadata for a read that gives no bytes.
    private func check(_ path: StorePath, _ version: Version?) throws(StoreError) -> Metadata {
        let metadata = try metadata(of: path)
        if metadata.kind == .directory { throw Self.isADirectory(path) }
        guard version == nil || metadata.version == version else { throw StoreError.changed(path, version?.text) }
        return metadata
    }

    static func isADirectory(_ path: StorePath) -> StoreError {
        StoreError(.isADirectory, "'\(path)' is a directory on the server", path: path)
    }
}

/// Takes bytes that nobody wants.
private final class Nowhere: ReadSink {
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {}
}

/// What answers of web servers mean: the one table from an answer to a ``StoreError``.
enum HTTPErrors {
    /// - Returns: nil for success.
    static func error(_ response: HTTPResponse, _ path: StorePath, action: String, isAnonymous: Bool) -> StoreError? {
        let isMissing = response.status == 404 || response.status == 410
        guard let code = path.isRoot && isMissing ? .storeNotFound : response.errorCode else { return nil }
        return StoreError(
            code, "\(action): status \(response.status)\(advice(code, isAnonymous: isAnonymous))", path: path,
            cause: response.summary)
    }

    private static func advice(_ code: StoreError.Code, isAnonymous: Bool) -> String {
        switch code {
        case .authenticationFailed:
            isAnonymous ? "; the server wants credentials: set user and password" : "; check user and password"
        case .storeNotFound: "; there is nothing on the server: check url"
        case .accessDenied:
            isAnonymous
                ? "; the server does not permit this to everybody" : "; the server does not permit this to the user"
        default: ""
        }
    }
}
