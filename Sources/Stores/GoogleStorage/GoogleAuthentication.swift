import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// Gets tokens from Google and puts them on requests.
///
/// Sources: <https://developers.google.com/identity/protocols/oauth2/service-account#httprest> (a signed statement for a
/// token); <https://developers.google.com/identity/protocols/oauth2/web-server#offline> (a refresh token for one);
/// <https://cloud.google.com/compute/docs/access/authenticate-workloads#applications> (the metadata server).
final class GoogleAuthentication: RequestSigning {
    /// Changing metadata takes this scope. What an account may do is said by its roles.
    /// Source: <https://cloud.google.com/storage/docs/json_api/v1/objects/patch>, "Authorization".
    private static let scope = "https://www.googleapis.com/auth/devstorage.full_control"
    /// Nobody waits longer to learn that this is no machine of Google's.
    private static let patience: Duration = .seconds(3)
    /// What Google gives at most. Source: as above.
    private static let lifetime: Int64 = 3600

    private struct Access {
        var token: String
        /// nil: not told.
        var expires: Timestamp?
    }

    private let credentialsFile: String?
    private let environment: ProcessEnvironment
    private let transport: any HTTPTransport
    private let session: HTTPSession
    private let shared: SharedLogin<Access>
    private let found = Lock<String?>(nil)

    init(
        credentialsFile: String?, environment: ProcessEnvironment, transport: any HTTPTransport,
        statistics: Statistics, clock: any Clock = SystemClock(), pausing: any Pausing = SystemPause()
    ) {
        self.credentialsFile = credentialsFile
        self.environment = environment
        self.transport = transport
        shared = SharedLogin(at: "Google", clock: clock) { $0.expires }
        session = HTTPSession(
            transport: transport, signer: nil, statistics: statistics, clock: clock, pausing: pausing)
    }

    /// Where the token in use comes from; nil before the first one.
    var origin: String? { found.withLock { $0 } }

    func tune(_ tuning: StoreTuning) { session.tune(tuning) }
    func shutdown() { session.shutdown() }

    func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError) {
        request["Authorization"] = "Bearer " + (try shared.access(logIn)).token
    }

    func credentialsWereRefused() -> Bool {
        if shared.forgetAfterRefusal() { return true }
        // A failure is told to the caller of the request that is signed next.
        return (try? shared.access(logIn)) != nil
    }

    // MARK: Logging in

    private func logIn(_ now: Timestamp) throws(StoreError) -> Access {
        // Read again each time: keys are replaced by new ones.
        if let credentials = try GoogleCredentials.find(credentialsFile, environment) {
            let token = try token(of: credentials, now)
            found.withLock { $0 = credentials.description }
            return token
        }
        if let token = try tokenOfMachine(now) {
            found.withLock { $0 = "the machine's service account" }
            return token
        }
        throw StoreError(
            .authenticationFailed,
            "no credentials were found in GOOGLE_APPLICATION_CREDENTIALS, ~/.config/gcloud and the machine's metadata "
                + "service: set credentials_file, or anonymous = yes for a public bucket")
    }

    private func token(of credentials: GoogleCredentials, _ now: Timestamp) throws(StoreError) -> Access {
        switch credentials.kind {
        case .user(let clientID, let clientSecret, let refreshToken):
            let form = [
                ("grant_type", "refresh_token"), ("client_id", clientID), ("client_secret", clientSecret),
                ("refresh_token", refreshToken),
            ]
            return try token(try send(form, credentials), credentials.tokenURL.description, now)
        case .serviceAccount(let email, let keyID, let key):
            var time = now
            for _ in 1...2 {
                let statement = try statement(email, keyID, key, credentials.tokenURL, time)
                let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", statement)]
                let serverTime = Lock<Timestamp?>(nil)
                do throws(StoreError) {
                    let response = try send(form, credentials) { response in
                        serverTime.withLock { $0 = response["Date"].flatMap { Timestamp(httpDate: $0) } }
                    }
                    return try token(response, credentials.tokenURL.description, now)
                } catch {
                    // A statement is valid for an hour by the server's clock, which may be another than ours.
                    guard error.code == .authenticationFailed, time == now, let told = serverTime.withLock({ $0 }),
                        abs(told.nanoseconds - now.nanoseconds) > 60 * 1_000_000_000
                    else { throw error }
                    time = told
                }
            }
            preconditionFailure("the second attempt returns or throws")
        }
    }

    /// A JSON Web Token (RFC 7519), signed with RS256 (RFC 7518).
    private func statement(
        _ email: String, _ keyID: String?, _ key: RSAPrivateKey, _ audience: WebURL, _ time: Timestamp
    ) throws(StoreError) -> String {
        struct Header: Encodable {
            var alg = "RS256"
            var typ = "JWT"
            var kid: String?
        }
        struct Claims: Encodable {
            var iss: String
            var scope: String
            var aud: String
            var iat: Int64
            var exp: Int64
        }
        let claims = Claims(
            iss: email, scope: Self.scope, aud: audience.description, iat: time.seconds,
            exp: time.seconds + Self.lifetime)
        guard let header = try? JSONEncoder().encode(Header(kid: keyID)), let body = try? JSONEncoder().encode(claims)
        else { throw StoreError(.internal, "the request for a token could not be written") }
        let text = TextEncoding.base64URL(Array(header)) + "." + TextEncoding.base64URL(Array(body))
        guard let signature = key.signature(of: Array(text.utf8)) else {
            throw StoreError(.invalidArgument, "OpenSSL on this machine does not sign with the key of \(email)")
        }
        return text + "." + TextEncoding.base64URL(signature)
    }

    private func send(
        _ form: [(String, String)], _ credentials: GoogleCredentials, note: (HTTPResponse) -> Void = { _ in }
    ) throws(StoreError) -> HTTPResponse {
        struct Refusal: Decodable { var error: String? }
        let body = form.map { $0 + "=" + TextEncoding.percentEncode($1) }.joined(separator: "&")
        let request = HTTPRequest(
            "POST", credentials.tokenURL.description,
            headers: [("Content-Type", "application/x-www-form-urlencoded")], body: UploadBody(Array(body.utf8)),
            counter: .requestsOther, operation: .storeOther)
        return try session.send(request) { response in
            note(response)
            if response.status == 200 { return nil }
            // What is said beyond the word may repeat what was sent: it is no part of any message.
            let word = (try? JSONDecoder().decode(Refusal.self, from: Data(response.body)))?.error ?? ""
            let isWord =
                !word.isEmpty && word.utf8.count <= 60
                && word.utf8.allSatisfy { $0 == 0x5F || $0 >= 0x61 && $0 <= 0x7A }
            let said = isWord ? word : "status \(response.status)"
            let action = "the login of \(credentials) at \(credentials.tokenURL) failed: \(said)"
            let cause = "HTTP \(response.status)"
            switch response.status {
            case 400, 401, 403:
                let advice =
                    switch credentials.kind {
                    case .serviceAccount:
                        "the key is not valid any more, or this machine's clock is wrong: make a new key"
                    case .user: "it is not valid any more: run `gcloud auth application-default login`"
                    }
                return StoreError(.authenticationFailed, "\(action); \(advice)", cause: cause)
            case 300..<500 where response.errorCode != .throttled && response.errorCode != .timedOut:
                return StoreError(.invalidArgument, "\(action); check token_uri in the file", cause: cause)
            default: return StoreError(response.errorCode ?? .unavailable, action, cause: cause)
            }
        }
    }

    private func token(_ response: HTTPResponse, _ place: String, _ now: Timestamp) throws(StoreError) -> Access {
        struct Answer: Decodable {
            var access_token: String
            var expires_in: Int64?
        }
        // The metadata server pads tokens with dots at times, which are a part of them.
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(response.body)),
            !answer.access_token.isEmpty, answer.access_token.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
        else { throw StoreError(.authenticationFailed, "\(place) answers without a token") }
        let seconds = answer.expires_in.flatMap { (1..<1 << 31).contains($0) ? $0 : nil }
        return Access(
            token: answer.access_token,
            expires: seconds.map { Timestamp(nanoseconds: now.nanoseconds + $0 * 1_000_000_000) })
    }

    /// - Returns: nil where this is no machine of Google's, or one without an account.
    private func tokenOfMachine(_ now: Timestamp) throws(StoreError) -> Access? {
        // As Google's own libraries have it.
        if environment.flag("NO_GCE_CHECK") { return nil }
        let host = environment["GCE_METADATA_HOST"] ?? "metadata.google.internal"
        var request = HTTPRequest(
            "GET", "http://\(host)/computeMetadata/v1/instance/service-accounts/default/token",
            headers: [("Metadata-Flavor", "Google")], counter: .requestsOther, operation: .storeOther)
        request.timeLimit = Self.patience
        let response: HTTPResponse
        do throws(StoreError) { response = try transport.send(request) } catch {
            switch error.code {
            case .timedOut, .unavailable:
                // It was there before.
                if origin != nil { throw error }
                return nil
            default: throw error
            }
        }
        if response.status == 404 || response["Metadata-Flavor"] != "Google" { return nil }
        guard response.status == 200 else {
            throw StoreError(
                response.errorCode == .throttled || response.status >= 500 ? .unavailable : .authenticationFailed,
                "the machine's metadata service answered with status \(response.status) instead of a token")
        }
        return try token(response, "the machine's metadata service", now)
    }
}
