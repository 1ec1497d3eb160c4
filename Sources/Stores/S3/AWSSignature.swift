package import StoreHTTP
package import Threading

/// AWS Signature Version 4 by header.
///
/// Paths are taken as they are on the wire, encoded once and not normalised: S3's rule. All headers are signed but
/// those that transports and proxies own.
///
/// Source: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>.
package struct AWSSignature: Sendable {
    package var region: String
    package var service: String

    package init(region: String, service: String) {
        self.region = region
        self.service = service
    }

    /// The value of `x-amz-content-sha256` for a body that TLS and Content-MD5 protect.
    package static let unsignedPayload = "UNSIGNED-PAYLOAD"
    /// The SHA-256 of no bytes.
    package static let emptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    private static let unsigned: Set<String> = [
        "authorization", "connection", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id",
    ]

    /// Puts date, session token and signature on `request`.
    ///
    /// - Parameters:
    ///   - payloadHash: Lower-case hexadecimal SHA-256 of the body, or ``unsignedPayload``.
    ///   - key: See ``signingKey(secret:day:)``, for the day of `time`.
    package func sign(
        _ request: inout HTTPRequest, _ credentials: AWSCredentials, key: [UInt8], payloadHash: String,
        at time: Timestamp
    ) {
        let date = CivilTime(time).basic
        request["Authorization"] = nil
        request["X-Amz-Date"] = date
        request["X-Amz-Security-Token"] = credentials.sessionToken
        let (canonical, signedHeaders) = canonicalRequest(request, payloadHash: payloadHash)
        let scope = scope(day: String(date.prefix(8)))
        let signature = TextEncoding.hex(
            Digest.hmacSHA256(key: key, Array(stringToSign(canonical, date: date, scope: scope).utf8)))
        request["Authorization"] =
            "AWS4-HMAC-SHA256 Credential=\(credentials.accessKeyID)/\(scope), SignedHeaders=\(signedHeaders), "
            + "Signature=\(signature)"
    }

    /// The key of one day, region and service.
    package func signingKey(secret: String, day: String) -> [UInt8] {
        [day, region, service, "aws4_request"].reduce(Array(("AWS4" + secret).utf8)) { key, text in
            Digest.hmacSHA256(key: key, Array(text.utf8))
        }
    }

    func scope(day: String) -> String { "\(day)/\(region)/\(service)/aws4_request" }

    func stringToSign(_ canonicalRequest: String, date: String, scope: String) -> String {
        "AWS4-HMAC-SHA256\n\(date)\n\(scope)\n" + TextEncoding.hex(Digest.sha256(Array(canonicalRequest.utf8)))
    }

    func canonicalRequest(_ request: HTTPRequest, payloadHash: String) -> (text: String, signedHeaders: String) {
        let target = RequestTarget(request.url)
        var values: [String: [String]] = [:]
        for (name, value) in request.headers where !Self.unsigned.contains(name.lowercased()) {
            values[name.lowercased(), default: []].append(Self.collapsed(value))
        }
        if values["host"] == nil { values["host"] = [target.host] }
        let names = values.keys.sorted()
        let headers = names.map { "\($0):\(values[$0]!.joined(separator: ","))\n" }.joined()
        let signedHeaders = names.joined(separator: ";")
        let text = [request.method, target.path, target.query, headers, signedHeaders, payloadHash]
            .joined(separator: "\n")
        return (text, signedHeaders)
    }

    /// Without spaces around, and single ones within.
    private static func collapsed(_ value: String) -> String {
        value.split(whereSeparator: { $0 == " " || $0 == "\t" }).joined(separator: " ")
    }
}

/// The parts of a URL in the form that is signed.
private struct RequestTarget {
    /// As in the header `Host`: with the port unless it is the scheme's own.
    var host: String
    var path: String
    var query: String

    init(_ url: String) {
        let isSecure = url.hasPrefix("https:")
        let rest = url.utf8.dropFirst(isSecure ? 8 : 7).prefix { $0 != UInt8(ascii: "#") }
        let hostEnd = rest.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") } ?? rest.endIndex
        host = String(Substring(rest[..<hostEnd])).lowercased()
        let defaultPort = isSecure ? ":443" : ":80"
        if host.hasSuffix(defaultPort) { host.removeLast(defaultPort.count) }
        let questionMark = rest[hostEnd...].firstIndex(of: UInt8(ascii: "?")) ?? rest.endIndex
        let rawPath = Substring(rest[hostEnd..<questionMark])
        path = rawPath.isEmpty ? "/" : Self.reencoded(rawPath, keepingSlashes: true)
        let rawQuery = questionMark == rest.endIndex ? "" : Substring(rest[rest.index(after: questionMark)...])
        query = rawQuery.split(separator: "&").map { pair in
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            return (
                Self.reencoded(parts[0], keepingSlashes: false),
                parts.count == 2 ? Self.reencoded(parts[1], keepingSlashes: false) : ""
            )
        }
        // By bytes: all of them are ASCII.
        .sorted {
            Array($0.0.utf8) != Array($1.0.utf8)
                ? $0.0.utf8.lexicographicallyPrecedes($1.0.utf8)
                : $0.1.utf8.lexicographicallyPrecedes($1.1.utf8)
        }
        .map { "\($0.0)=\($0.1)" }.joined(separator: "&")
    }

    /// As the server encodes it again after it has decoded what came, whichever way we had encoded it.
    private static func reencoded(_ text: Substring, keepingSlashes: Bool) -> String {
        TextEncoding.percentEncode(
            TextEncoding.percentDecode(text) ?? Array(text.utf8), keeping: keepingSlashes ? "/" : "")
    }
}
