import CCurl
import Glibc
public import Statistics
public import StoreAPI
import Threading

/// How an ``HTTPClient`` reaches its servers.
public struct HTTPClientOptions: Sendable {
    public var tuning: StoreTuning
    /// PEM file, or directory as made by `openssl rehash`, with the authorities to trust. nil: see ``init(tuning:)``.
    public var certificateAuthorities: String?
    /// Whether `AWS_CA_BUNDLE` counts, before the variables that count for all.
    public var honoursAWSBundle = false
    /// Such as `http://proxy.example.org:3128`; an empty string means none. nil: `https_proxy`, `http_proxy`,
    /// `all_proxy` and `no_proxy` of the environment, as libcurl reads them.
    public var proxy: String?
    public var userAgent = "cloudfusion"

    /// Certificates are verified against ``certificateAuthorities``, else the file that `SSL_CERT_FILE` or
    /// `CURL_CA_BUNDLE` names, else the system's authorities.
    public init(tuning: StoreTuning = StoreTuning()) { self.tuning = tuning }

    /// The file or directory of authorities; nil means the system's.
    func trustedAuthorities(environment: (String) -> String? = Self.environment) -> String? {
        if let certificateAuthorities { return certificateAuthorities }
        let names = (honoursAWSBundle ? ["AWS_CA_BUNDLE"] : []) + ["SSL_CERT_FILE", "CURL_CA_BUNDLE"]
        return names.compactMap { environment($0) }.first { !$0.isEmpty }
    }

    private static func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
}

/// Sends HTTP/1.1 requests with libcurl: all transfers run on one engine thread, callers wait on their own.
///
/// Sinks, bodies, ``HTTPRequest/isWanted`` and ``HTTPRequest/progress`` are used on the engine thread: they must
/// not wait for another request of the same client. Redirects are not followed. What runs beyond
/// ``StoreTuning/connections`` waits its turn, in order.
public final class HTTPClient: HTTPTransport {
    private let engine: HTTPEngine
    private let thread: Lock<WorkerThread?>

    public init(_ options: HTTPClientOptions = HTTPClientOptions(), statistics: Statistics) {
        let engine = HTTPEngine(options, statistics: statistics)
        self.engine = engine
        thread = Lock(WorkerThread(name: "http") { engine.run() })
    }

    deinit { shutdown() }

    public func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
        assert(HeldLocks.count == 0, "a lock is held during a request: others wait for as long as a server takes")
        let transfer = try HTTPTransfer(request)
        engine.submit(transfer)
        return try transfer.result()
    }

    public func tune(_ tuning: StoreTuning) { engine.tune(tuning) }

    public func reconnect() { engine.reconnect() }

    public func shutdown() {
        engine.stop()
        thread.withLock { thread in
            thread?.join()
            thread = nil
        }
    }
}
