public import StoreAPI
public import Threading

extension HTTPResponse {
    /// What the status means where the service's own answer tells nothing more exact; nil for success.
    ///
    /// Source: RFC 9110, 15; RFC 4918, 11; RFC 6585; 498 as OpenStack Swift has it (too many requests).
    public var errorCode: StoreError.Code? {
        switch status {
        case 100..<300: nil
        case 300..<400: .unavailable
        case 400: .invalidArgument
        case 401, 407, 511: .authenticationFailed
        case 402, 403, 451: .accessDenied
        case 404, 410: .notFound
        case 405, 415, 501, 505: .unsupported
        case 406, 422: .invalidArgument
        case 408: .timedOut
        case 409, 423, 425: .unavailable
        case 411, 416: .invalidArgument
        case 412, 428: .preconditionFailed
        case 413: .tooLarge
        case 414, 431: .invalidName
        case 429, 498, 503: .throttled
        case 507: .quotaExceeded
        case 500..<600: .unavailable
        case 400..<500: .invalidArgument
        default: .internal
        }
    }

    /// How long the server wants to be left alone (RFC 9110, 10.2.3): seconds or a date.
    public func retryAfter(at now: Timestamp) -> Duration? {
        guard let text = self["Retry-After"] else { return nil }
        if let seconds = Double(text), seconds.isFinite, seconds >= 0 {
            return .nanoseconds(Int64(min(seconds, 1e9) * 1e9))
        }
        // Against the server's own clock, where it is told, since ours may differ.
        let reference = self["Date"].flatMap { Timestamp(httpDate: $0) } ?? now
        guard let date = Timestamp(httpDate: text) else { return nil }
        return max(.nanoseconds(date.nanoseconds - reference.nanoseconds), .zero)
    }

    /// Status and the head of the body, for ``StoreError/cause``.
    public var summary: String {
        let head = String(decoding: body.prefix(1000), as: UTF8.self)
        return head.isEmpty ? "HTTP \(status)" : "HTTP \(status): \(head)"
    }
}
