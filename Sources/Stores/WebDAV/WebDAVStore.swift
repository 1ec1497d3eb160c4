package import Statistics
package import StoreAPI
package import StoreHTTP
import Threading

/// A folder on a WebDAV server.
///
/// Files and directories lie under their own paths; names that a URL or a server could not carry are quoted as on S3
/// (``KeyCodec``). Attributes, and what is no plain file, are told by a property of the file (``WebDAVAttributes``), where
/// the server keeps properties. A version is an entity tag without its quotes and without `W/`, or time and size where
/// there is none.
///
/// What servers do differs more than their headers tell; ``connect()`` finds out by trial:
/// - Where an upload that breaks off leaves the old file, a file is written in its place by one PUT. Elsewhere it is
///   written to `.cloudfusion/tmp` and moved. Servers delete what a MOVE replaces before they move (Apache, WsgiDAV and
///   rclone do), so there a reader may find nothing for a moment.
/// - No server is trusted with `If-Match` or `If-None-Match` on PUT: few check them atomically. Where exclusive locks
///   hold, which Apache's never do for certain, writes under a condition are made with one of the locks in `.cloudfusion/locks` held, which other machines
///   with CloudFusion honour.
/// - WsgiDAV cuts the destination of a MOVE at a question mark: such names are refused where they do not arrive.
/// - PUT with Content-Range is never used: it destroys the file on some servers.
///
/// Sources: RFC 4918; <https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/>.
package final class WebDAVStore: StoreBackend {
    struct State {
        var capabilities = StoreCapabilities(
            [.rangedRead, .realDirectories], longestPath: WebDAVStore.longestPath)
        var traits = WebDAVTraits()
        var tuning = StoreTuning()
    }

    /// Percent-encoded it has to fit into a line of 8 KB, which is what Apache takes.
    static let longestPath = 2000

    let site: WebSite
    let isAnonymous: Bool
    let state = Lock(State())
    /// Numbers of the locks that this process has or is waiting for.
    let busyLocks = Monitor<Set<Int>>([])
    let pausing = SystemPause()
    let codec = KeyCodec(keepsControls: false)

    /// - Parameter transport: nil: libcurl.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package init(_ settings: StoreSettings, statistics: Statistics, transport: (any HTTPTransport)? = nil)
        throws(StoreError)
    {
        let place = try WebPlace(settings, example: "https://cloud.example.org/dav/folder")
        isAnonymous = place.user == nil
        // What is sent must not end up with somebody else.
        site = WebSite(place, statistics: statistics, transport: transport) { $0 == "GET" && $2.isSecure }
    }

    package var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }
    var traits: WebDAVTraits { state.withLock { $0.traits } }
    var base: WebURL { site.base }
    var session: HTTPSession { site.session }

    package func accountInformation() throws(StoreError) -> [AccountField] {
        [
            AccountField("store", "WebDAV"), AccountField("url", base.description),
            AccountField("credentials", site.authentication.origin),
        ]
    }

    package func tune(_ tuning: StoreTuning) {
        state.withLock { $0.tuning = tuning }
        session.tune(tuning)
    }

    package func reconnect() { session.reconnect() }

    package func shutdown() {
        pausing.interrupt()
        site.shutdown()
    }
}

/// What a server has been seen to do, beyond the capabilities.
struct WebDAVTraits: Hashable, Sendable {
    /// A PUT that breaks off leaves what was there.
    var putsWhole = false
    /// Exclusive locks keep others out, also when many are taken at once.
    var locks = false
    /// Properties are kept, and told in listings.
    var keepsProperties = false
    /// A wrong checksum in `OC-Checksum` is refused.
    var checksums = false
    /// `X-OC-Mtime` is taken, and two contents with the same time and size have different entity tags all the same.
    var takesTimes = false
    /// What is moved has the entity tag that it had before.
    var keepsTags = false
    /// MOVE and COPY to a name with a question mark, number sign or semicolon arrive at that name.
    var keepsMarks = false
    /// Uploads in parts are taken here.
    var uploads: WebURL?
}

// MARK: Requests

/// A request to a WebDAV server, before it has a URL.
struct WebDAVCall {
    var method: String
    var path: StorePath
    /// Whether the URL ends in a slash, as those of collections do.
    var isCollection = false
    /// In place of the URL of `path`.
    var url: WebURL?
    var headers: [(name: String, value: String)] = []
    var body: UploadBody?
    var sink: (any ReadSink)?
    var sinkOffset: Int64 = 0
    var counter: Counter
    var operation: TimedOperation
    var isWanted: (@Sendable () -> Bool)?
    var progress: (@Sendable (Int64) -> Void)?
    /// What could not be done, for the message of an error.
    var action: String
    /// Statuses beyond 2xx that are answers too; among them 301 for a redirect to the same URL with a slash.
    var accepted: Set<Int> = []

    init(
        _ method: String, _ path: StorePath, isCollection: Bool = false, _ counter: Counter = .requestsOther,
        _ operation: TimedOperation = .storeOther, action: String
    ) {
        self.method = method
        self.path = path
        self.isCollection = isCollection
        self.counter = counter
        self.operation = operation
        self.action = action
    }
}

extension WebDAVStore {
    /// Sends a call, also to where the server redirects it.
    func send(_ call: WebDAVCall) throws(StoreError) -> HTTPResponse {
        guard call.path.bytes.count <= Self.longestPath else {
            throw StoreError(
                .invalidName,
                "'\(call.path)' has \(call.path.bytes.count) bytes: with WebDAV paths have \(Self.longestPath) at most",
                path: call.path)
        }
        let url = call.url ?? self.url(call.path, isCollection: call.isCollection)
        var request = HTTPRequest(
            call.method, url.description, headers: call.headers, body: call.body, counter: call.counter,
            operation: call.operation)
        request.sink = call.sink
        request.sinkOffset = call.sinkOffset
        request.isWanted = call.isWanted
        request.progress = call.progress
        let course = WebSite.Course(
            path: call.path, action: call.action, isBelowBase: call.url == nil,
            endsAtSlash: call.accepted.contains(301))
        return try site.send(request, to: url, course) { [isAnonymous] response in
            if call.accepted.contains(response.status) { return nil }
            return WebDAVErrors.error(response, call, isAnonymous: isAnonymous)
        }.response
    }

    func url(_ path: StorePath, isCollection: Bool = false) -> WebURL {
        site.url(codec.key(for: path), isCollection: isCollection || path.isRoot)
    }
}

/// What answers of WebDAV servers mean: the one table from an answer to a ``StoreError``.
enum WebDAVErrors {
    /// - Returns: nil for success.
    static func error(_ response: HTTPResponse, _ call: WebDAVCall, isAnonymous: Bool) -> StoreError? {
        guard let status = failure(response, call), let code = code(status, call) else { return nil }
        return StoreError(
            code, "\(call.action): status \(status)\(advice(code, status, call, isAnonymous: isAnonymous))",
            path: call.path, cause: response.summary)
    }

    /// The status that tells of a failure: that of the answer, or one inside it.
    ///
    /// 207 is success only for requests whose answer is a list of properties: Apache answers a PUT into a locked
    /// collection so.
    private static func failure(_ response: HTTPResponse, _ call: WebDAVCall) -> Int? {
        guard response.status == 207, call.method != "PROPFIND", call.method != "PROPPATCH" else {
            return response.status
        }
        let statuses = (try? WebDAVMultistatus(response.body))?.failures ?? []
        return statuses.first { $0 != 424 } ?? statuses.first ?? 200
    }

    private static func code(_ status: Int, _ call: WebDAVCall) -> StoreError.Code? {
        if call.path.isRoot, call.url == nil, status == 404 || status == 410 { return .storeNotFound }
        let generic = HTTPResponse(status: status).errorCode
        switch status {
        // What RFC 4918 uses this for: a parent that is missing.
        case 409: return .notFound
        case 424: return .unavailable
        // A property that it does not take is a fault of its own to many a server; asking again is no use.
        case 500 where call.method == "PROPPATCH": return .unsupported
        default: return generic
        }
    }

    private static func advice(_ code: StoreError.Code, _ status: Int, _ call: WebDAVCall, isAnonymous: Bool) -> String
    {
        switch code {
        case .authenticationFailed:
            return isAnonymous ? "; the server wants credentials: set user and password" : "; check user and password"
        case .storeNotFound: return "; there is no such folder on the server: check url"
        case .accessDenied: return "; the server does not permit this to the user"
        case .quotaExceeded: return "; the server is full, or the quota is used up"
        case .tooLarge: return "; the server does not take files of this size"
        case .unsupported where call.path.isRoot: return "; is this the address of a WebDAV folder? Check url"
        case .unavailable where status == 423: return "; somebody else has locked it"
        default: return ""
        }
    }
}
