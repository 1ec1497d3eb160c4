import StoreAPI
import StoreHTTP
import Threading

/// A server in memory that answers as a closure says, and remembers what it was asked.
final class StubServer: HTTPTransport {
    private let answer: @Sendable (HTTPRequest) -> HTTPResponse
    private let seen = Lock<[HTTPRequest]>([])

    init(_ answer: @escaping @Sendable (HTTPRequest) -> HTTPResponse) { self.answer = answer }

    var requests: [HTTPRequest] { seen.withLock { $0 } }

    func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
        seen.withLock { $0.append(request) }
        let response = answer(request)
        guard let sink = request.sink, response.status == 200 || response.status == 206 else { return response }
        try response.body.withUnsafeBufferPointer { bytes throws(StoreError) in
            try sink.write(UnsafeRawBufferPointer(bytes), at: request.sinkOffset)
        }
        return HTTPResponse(status: response.status, headers: response.headers)
    }

    func tune(_ tuning: StoreTuning) {}
    func reconnect() {}
    func shutdown() {}
}

extension HTTPRequest {
    /// The whole body, which is in memory or in a file.
    var bytes: [UInt8] {
        var all: [UInt8] = []
        for segment in body?.segments ?? [] {
            if case .bytes(let bytes) = segment { all += bytes }
        }
        return all
    }

    var path: String { WebURL(url)?.path ?? "" }
}

func text(_ text: String, status: Int = 200, _ headers: [(name: String, value: String)] = []) -> HTTPResponse {
    HTTPResponse(status: status, headers: headers, body: Array(text.utf8))
}
