public import Statistics
public import StoreAPI
public import Threading

/// A request, ready to be signed and sent. Names of headers compare without regard to case.
public struct HTTPRequest: Sendable {
    public var method: String
    /// `http://…` or `https://…`, percent-encoded as it goes on the wire.
    public var url: String
    public var headers: [(name: String, value: String)]
    /// ``UploadBody/Segment/bytes(_:)`` and `.file` only; read again when the request is repeated.
    public var body: UploadBody?
    /// Where a body with status 200 or 206 goes; other bodies, and all when this is nil, go to ``HTTPResponse/body``.
    public var sink: (any ReadSink)?
    /// The offset of the object that the first byte for `sink` has.
    public var sinkOffset: Int64 = 0
    /// How the request is counted.
    public var counter: Counter
    public var operation: TimedOperation
    /// Asked from time to time while bytes move; false ends the request with `.cancelled`.
    public var isWanted: (@Sendable () -> Bool)?
    /// Told how many bytes of the body more have gone out.
    public var progress: (@Sendable (Int64) -> Void)?
    /// Whether the session may send it again when it cannot know whether it was carried out.
    public var isRepeatable = true
    /// Asked before the session sends it again: some of it may have arrived. nil: it is sent as it was.
    public var renewed: (@Sendable () throws(StoreError) -> HTTPRenewal)?
    /// How long this sending may take when next to nothing has to be moved; nil: ``StoreTuning/overallTimeout``.
    public var timeLimit: Duration?
    /// Told by the transport what became of this sending.
    public var attempt: HTTPAttempt?

    public init(
        _ method: String, _ url: String, headers: [(name: String, value: String)] = [], body: UploadBody? = nil,
        counter: Counter, operation: TimedOperation
    ) {
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.counter = counter
        self.operation = operation
    }

    public subscript(_ header: String) -> String? {
        get { headers.first { $0.name.lowercased() == header.lowercased() }?.value }
        set {
            headers.removeAll { $0.name.lowercased() == header.lowercased() }
            if let newValue { headers.append((header, newValue)) }
        }
    }
}

/// What becomes of a request that was sent, and not heard of.
public enum HTTPRenewal: Sendable {
    /// This is sent in its place; asked about in the same way.
    case send(HTTPRequest)
    /// It needs no sending: this would be its answer.
    case answer(HTTPResponse)
}

/// What a transport tells about one sending of a request, beyond the answer or the error.
public final class HTTPAttempt: Sendable {
    private let state = Lock<(sent: Bool, moved: Int64)>((true, 0))

    public init() {}

    /// Whether a byte of the request may have reached the server. True until the transport knows better.
    public var mayHaveBeenSent: Bool { state.withLock { $0.sent } }
    /// Bytes of bodies that went out and came in.
    public var bytesMoved: Int64 { state.withLock { $0.moved } }

    public func note(mayHaveBeenSent: Bool, bytesMoved: Int64) { state.withLock { $0 = (mayHaveBeenSent, bytesMoved) } }
}

/// An answer with whatever status.
public struct HTTPResponse: Sendable {
    public var status: Int
    public var headers: [(name: String, value: String)]
    /// Empty when the body went to a sink. At most 64 MiB are taken; more is an error.
    public var body: [UInt8]

    public init(status: Int, headers: [(name: String, value: String)] = [], body: [UInt8] = []) {
        self.status = status
        self.headers = headers
        self.body = body
    }

    public subscript(_ header: String) -> String? {
        headers.last { $0.name.lowercased() == header.lowercased() }?.value
    }
}

/// Sends one request, once. `HTTPClient` does it with libcurl; tests put others in its place.
public protocol HTTPTransport: Sendable {
    /// - Throws: ``StoreError``: `.timedOut`, `.unavailable` (no connection, reset, cut short), `.certificateRejected`,
    ///   `.cancelled`, or what the sink threw. An answer with a bad status is no error here.
    func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse
    func tune(_ tuning: StoreTuning)
    /// Drops idle connections.
    func reconnect()
    func shutdown()
}

/// Puts credentials on requests.
public protocol RequestSigning: Sendable {
    /// Signs `request` as of `time`. Called before each attempt; may fetch or renew credentials over the network.
    func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError)
    /// The server refused the credentials.
    ///
    /// - Returns: true when others could be had, so that another attempt is worth while.
    func credentialsWereRefused() -> Bool
}
