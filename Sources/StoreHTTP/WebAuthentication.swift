public import StoreAPI
public import Threading

/// Credentials of HTTP itself: a name with a password (Basic, Digest), or a bearer token.
///
/// A password goes out only when the server has asked for one, and in the way that it asked for; to no other server than
/// the one it is for, and over nothing weaker than that. Whoever gets an answer with status 401 hands it to
/// ``note(_:from:)`` before ``HTTPSession`` asks whether another attempt is worth while.
///
/// Sources: RFC 7617 (Basic), RFC 7616 (Digest), RFC 6750 (Bearer).
public final class WebAuthentication: RequestSigning {
    private enum Scheme {
        /// The server has not asked yet.
        case none
        case basic
        case digest(DigestChallenge)
    }

    private struct State {
        var home: WebURL
        var scheme = Scheme.none
        var requests: UInt32 = 0
    }

    private let user: String?
    private let password: String
    private let token: String?
    private let state: Lock<State>

    /// - Parameters:
    ///   - user: nil: requests go without credentials, but for `token`.
    ///   - home: Where the credentials belong.
    public init(user: String?, password: String?, token: String?, home: WebURL) {
        self.user = user
        self.password = password ?? ""
        self.token = token
        state = Lock(State(home: home))
    }

    /// The same server under TLS, to which it has redirected.
    public func move(to home: WebURL) {
        state.withLock { state in
            if home.host == state.home.host, home.isSecure, !state.home.isSecure { state.home = home }
        }
    }

    /// What goes along with requests, for ``Store/accountInformation()``.
    public var origin: String {
        if token != nil { return "a token" }
        return user.map { "user '\($0)'" } ?? "none (anonymous)"
    }

    public func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError) {
        guard let url = WebURL(request.url) else { return }
        let header = state.withLock { state -> String? in
            guard url.origin == state.home.origin else { return nil }
            if let token { return "Bearer \(token)" }
            guard let user else { return nil }
            switch state.scheme {
            case .none: return nil
            case .basic: return "Basic " + TextEncoding.base64(Array("\(user):\(password)".utf8))
            case .digest(let challenge):
                state.requests += 1
                return challenge.answer(
                    user: user, password: password, method: request.method,
                    uri: url.path + (url.query.map { "?" + $0 } ?? ""), count: state.requests, nonce: Self.nonce())
            }
        }
        request["Authorization"] = header
    }

    /// Takes over how the server wants to be told who asks, from an answer with status 401. What another server wants, to
    /// which a request was redirected, does not count.
    public func note(_ response: HTTPResponse, from url: WebURL) {
        guard state.withLock({ $0.home.origin }) == url.origin else { return }
        let challenges = response.headers.filter { $0.name.lowercased() == "www-authenticate" }
            .flatMap { AuthenticationChallenge.parse($0.value) }
        let digests = challenges.compactMap(DigestChallenge.init)
        if let strongest = digests.first(where: { $0.algorithm == .sha256 }) ?? digests.first {
            state.withLock { state in
                state.scheme = .digest(strongest)
                state.requests = 0
            }
        } else if challenges.contains(where: { $0.scheme == "basic" }) {
            state.withLock { $0.scheme = .basic }
        }
    }

    /// Another attempt answers what the server has asked for: the first one went without credentials, or with a nonce
    /// that had become too old. Wrong ones cost one request more.
    public func credentialsWereRefused() -> Bool {
        guard user != nil, token == nil else { return false }
        return state.withLock { state in
            if case .none = state.scheme { return false }
            return true
        }
    }

    private static func nonce() -> String {
        TextEncoding.hex((0..<16).map { _ in UInt8.random(in: 0...255) })
    }
}

/// One of the ways in which a server wants to be told who asks.
struct AuthenticationChallenge: Hashable {
    /// In lower case.
    var scheme: String
    /// Names in lower case, values without their quotes.
    var parameters: [String: String]

    /// The challenges of one `WWW-Authenticate` header, which may list several (RFC 9110, 11.6.1).
    static func parse(_ header: String) -> [AuthenticationChallenge] {
        var result: [AuthenticationChallenge] = []
        var rest = Array(header.utf8)[...]
        func skip(_ bytes: String) { rest = rest.drop { bytes.utf8.contains($0) } }
        func word() -> String {
            let word = rest.prefix { !" \t,=\"".utf8.contains($0) }
            rest = rest.dropFirst(word.count)
            return String(decoding: word, as: UTF8.self)
        }
        while true {
            skip(" \t,")
            let name = word().lowercased()
            guard !name.isEmpty else {
                // What is no word where one belongs: nothing behind it can be trusted to be one.
                return result
            }
            skip(" \t")
            guard rest.first == UInt8(ascii: "="), !result.isEmpty else {
                result.append(AuthenticationChallenge(scheme: name, parameters: [:]))
                continue
            }
            skip("=")
            skip(" \t")
            var value: [UInt8] = []
            if rest.first == UInt8(ascii: "\"") {
                rest = rest.dropFirst()
                while let byte = rest.popFirst(), byte != UInt8(ascii: "\"") {
                    if byte == UInt8(ascii: "\\"), let escaped = rest.popFirst() {
                        value.append(escaped)
                    } else {
                        value.append(byte)
                    }
                }
            } else {
                value = Array(word().utf8)
            }
            result[result.count - 1].parameters[name] = String(decoding: value, as: UTF8.self)
        }
    }
}

/// A server's challenge of the Digest scheme, and the answer to it (RFC 7616, 3.4).
struct DigestChallenge: Hashable {
    var realm: String
    var nonce: String
    var opaque: String?
    var algorithm: Digest.Algorithm
    /// As the server wrote it, for the answer; nil: it did not.
    var algorithmName: String?
    /// Whether the nonces go into the key.
    var isSession: Bool
    /// Whether the answer is protected against being used again; servers before RFC 2617 do not know it.
    var hasQuality: Bool

    /// - Returns: nil for other schemes, and for digests that are not known here or want the body in them.
    init?(_ challenge: AuthenticationChallenge) {
        guard challenge.scheme == "digest", let nonce = challenge.parameters["nonce"] else { return nil }
        self.nonce = nonce
        realm = challenge.parameters["realm"] ?? ""
        opaque = challenge.parameters["opaque"]
        algorithmName = challenge.parameters["algorithm"]
        var name = (algorithmName ?? "md5").lowercased()
        isSession = name.hasSuffix("-sess")
        if isSession { name.removeLast(5) }
        switch name {
        case "md5": algorithm = .md5
        case "sha-256": algorithm = .sha256
        default: return nil
        }
        let qualities = challenge.parameters["qop"]?.split(separator: ",").map { $0.trimmingHTTPWhitespace() }
        hasQuality = qualities?.contains("auth") ?? false
        if qualities != nil, !hasQuality { return nil }
    }

    /// The value of `Authorization`.
    func answer(user: String, password: String, method: String, uri: String, count: UInt32, nonce clientNonce: String)
        -> String
    {
        func hash(_ text: String) -> String {
            TextEncoding.hex(Array(text.utf8).withUnsafeBytes { Digest.of($0, algorithm) })
        }
        let hexCount = String(count, radix: 16)
        let padded = String(repeating: "0", count: 8 - hexCount.count) + hexCount
        var key = hash("\(user):\(realm):\(password)")
        if isSession { key = hash("\(key):\(nonce):\(clientNonce)") }
        let request = hash("\(method):\(uri)")
        let response =
            hasQuality
            ? hash("\(key):\(nonce):\(padded):\(clientNonce):auth:\(request)") : hash("\(key):\(nonce):\(request)")
        func quoted(_ text: String) -> String {
            "\"" + text.reduce(into: "") { $0 += $1 == "\"" || $1 == "\\" ? "\\\($1)" : String($1) } + "\""
        }
        var parts = [
            "username=\(quoted(user))", "realm=\(quoted(realm))", "nonce=\(quoted(nonce))", "uri=\(quoted(uri))",
            "response=\"\(response)\"",
        ]
        if let algorithmName { parts.append("algorithm=\(algorithmName)") }
        if hasQuality { parts += ["qop=auth", "nc=\(padded)"] }
        if hasQuality || isSession { parts.append("cnonce=\"\(clientNonce)\"") }
        if let opaque { parts.append("opaque=\(quoted(opaque))") }
        return "Digest " + parts.joined(separator: ", ")
    }
}
