import Statistics
import StoreAPI
import StoreHTTP

/// A request to a store, before it has a URL and credentials.
///
/// `Target` is what it is about, in the words of the protocol: a key, or that of a container.
struct StoreCall<Target> {
    var method: String
    var target: Target
    var query: [(name: String, value: String?)] = []
    var headers: [(name: String, value: String)] = []
    var body: UploadBody?
    var sink: (any ReadSink)?
    var sinkOffset: Int64 = 0
    var counter: Counter
    var operation: TimedOperation
    var isWanted: (@Sendable () -> Bool)?
    var progress: (@Sendable (Int64) -> Void)?
    /// What is tried, and on what: for the message of an error.
    var action: String
    var path: StorePath?
    /// Statuses beyond 2xx that are answers too.
    var accepted: Set<Int> = []
    /// What is wrong with an answer of a good status; a fault that may pass makes the session ask again.
    var verify: ((HTTPResponse) -> StoreError?)?
    /// Whether the session may send it again when it cannot know whether it was carried out.
    var isRepeatable = true

    init(
        _ method: String, target: Target, _ counter: Counter, _ operation: TimedOperation, action: String,
        path: StorePath? = nil
    ) {
        self.method = method
        self.target = target
        self.counter = counter
        self.operation = operation
        self.action = action
        self.path = path
    }

    func request(_ url: String) -> HTTPRequest {
        var request = HTTPRequest(
            method, url, headers: headers, body: body, counter: counter, operation: operation)
        request.sink = sink
        request.sinkOffset = sinkOffset
        request.isWanted = isWanted
        request.progress = progress
        request.isRepeatable = isRepeatable
        return request
    }
}
