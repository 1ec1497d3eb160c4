import StoreAPI
import StoreHTTP
import Threading

/// Signatures with a key of the account.
///
/// Sources: <https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key>;
/// <https://learn.microsoft.com/rest/api/storageservices/create-service-sas>.
struct AzureSharedKey {
    let account: String
    let key: [UInt8]

    private static let signedHeaders = [
        "content-encoding", "content-language", "content-length", "content-md5", "content-type", "date",
        "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
    ]

    /// Puts the signature on a request that has all its other headers.
    func sign(_ request: inout HTTPRequest) {
        let signature = signature(of: stringToSign(request))
        request["Authorization"] = "SharedKey \(account):\(signature)"
    }

    func stringToSign(_ request: HTTPRequest) -> String {
        var known: [String: String] = [:]
        for (name, value) in request.headers { known[name.lowercased()] = value }
        let length = request.body?.length ?? 0
        known["content-length"] = length == 0 ? nil : String(length)
        // The time is in x-ms-date.
        known["date"] = nil
        var lines = [request.method] + Self.signedHeaders.map { known[$0] ?? "" }
        let own = known.keys.filter { $0.hasPrefix("x-ms-") }.sorted { Self.precedes($0, $1) }
        lines += own.map { name in
            "\(name):"
                + known[name]!.split(omittingEmptySubsequences: true) { $0 == " " || $0 == "\t" }
                .joined(separator: " ")
        }
        return (lines + [resource(request.url)]).joined(separator: "\n")
    }

    /// The service sorts headers as its own machines sort words: dashes count last, an underscore comes before digits and
    /// letters. (As Microsoft's client for Python has it since 12.14.)
    private static func precedes(_ a: String, _ b: String) -> Bool {
        func weights(_ text: String) -> [UInt8] {
            text.utf8.filter { $0 != UInt8(ascii: "-") }.map { $0 == UInt8(ascii: "_") ? 1 : $0 }
        }
        let (first, second) = (weights(a), weights(b))
        return first == second ? a < b : first.lexicographicallyPrecedes(second)
    }

    /// The path as it goes on the wire, and the query decoded.
    private func resource(_ url: String) -> String {
        let parts = url.split(separator: "?", maxSplits: 1)
        var path = parts[0]
        if let scheme = path.firstRange(of: "://") { path = path[scheme.upperBound...] }
        path = path.firstIndex(of: "/").map { path[$0...] } ?? "/"
        let pairs = parts.count < 2 ? [] : parts[1].split(separator: "&")
        let lines = pairs.map { pair in
            let words = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let value = words.count < 2 ? [] : TextEncoding.percentDecode(words[1]) ?? []
            return "\n\(words[0].lowercased()):\(String(decoding: value, as: UTF8.self))"
        }
        return "/\(account)\(path)" + lines.sorted().joined()
    }

    /// A shared access signature with which one blob can be read.
    ///
    /// - Parameter blob: Container and name, not encoded.
    func signature(ofBlob blob: String, until end: Timestamp) -> String {
        let time = Timestamp(seconds: end.seconds).iso8601
        let fields = [
            "r", "", time, "/blob/\(account)/\(blob)", "", "", "", AzureAuthentication.version, "b", "", "", "", "", "",
            "", "",
        ]
        let signature = signature(of: fields.joined(separator: "\n"))
        return [("sv", AzureAuthentication.version), ("se", time), ("sr", "b"), ("sp", "r"), ("sig", signature)]
            .map { "\($0)=\(TextEncoding.percentEncode($1))" }.joined(separator: "&")
    }

    private func signature(of text: String) -> String {
        TextEncoding.base64(Digest.hmacSHA256(key: key, Array(text.utf8)))
    }
}
