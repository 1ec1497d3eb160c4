import StoreAPI
import StoreHTTP
import Threading

/// Answers requests by a closure, and remembers them.
final class StubTransport: HTTPTransport {
    private let answer: @Sendable (HTTPRequest) throws(StoreError) -> HTTPResponse
    private let seen = Lock<[HTTPRequest]>([])

    init(_ answer: @escaping @Sendable (HTTPRequest) throws(StoreError) -> HTTPResponse) { self.answer = answer }

    var requests: [HTTPRequest] { seen.withLock { $0 } }
    func count(_ matching: (HTTPRequest) -> Bool) -> Int { requests.filter(matching).count }

    func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
        seen.withLock { $0.append(request) }
        let response = try answer(request)
        guard let sink = request.sink, response.status == 200 || response.status == 206 else { return response }
        let failure = response.body.withUnsafeBytes { bytes -> StoreError? in
            do throws(StoreError) { try sink.write(bytes, at: request.sinkOffset) } catch { return error }
            return nil
        }
        if let failure { throw failure }
        return HTTPResponse(status: response.status, headers: response.headers)
    }

    func tune(_ tuning: StoreTuning) {}
    func reconnect() {}
    func shutdown() {}
}

func text(_ text: String, status: Int = 200, _ headers: [(name: String, value: String)] = []) -> HTTPResponse {
    HTTPResponse(status: status, headers: headers, body: Array(text.utf8))
}
