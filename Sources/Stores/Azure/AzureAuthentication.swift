import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// How a token of Microsoft Entra is got.
///
/// Sources: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>;
/// <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>;
/// <https://learn.microsoft.com/azure/app-service/overview-managed-identity> ("REST endpoint reference").
struct AzureLogin: Sendable, CustomStringConvertible, CustomReflectable {
    enum Method: Sendable {
        case clientSecret(authority: WebURL, tenant: String, client: String, secret: String)
        /// - Parameter header: What App Service wants to be told; nil: the address is that of a virtual machine.
        case managedIdentity(WebURL, header: String?, client: String?)
    }
    var method: Method

    /// Nobody waits longer to learn that this is no virtual machine of Azure.
    private static let patience: Duration = .seconds(5)
    private static let resource = "https://storage.azure.com/"

    var description: String {
        switch method {
        case .clientSecret(_, _, let client, _): "the application '\(client)'"
        case .managedIdentity(_, _, let client): client.map { "the managed identity '\($0)'" } ?? "a managed identity"
        }
    }
    var customMirror: Mirror { Mirror(self, children: [], displayStyle: .struct) }

    /// Where it is asked for.
    var url: WebURL {
        switch method {
        case .clientSecret(var authority, let tenant, _, _):
            authority.path += "/\(TextEncoding.percentEncode(tenant))/oauth2/v2.0/token"
            return authority
        case .managedIdentity(var url, let header, let client):
            var query = [
                ("api-version", header == nil ? "2018-02-01" : "2019-08-01"), ("resource", Self.resource),
            ]
            if let client { query.append(("client_id", client)) }
            url.query = Self.form(query)
            return url
        }
    }

    var request: HTTPRequest {
        switch method {
        case .clientSecret(_, _, let client, let secret):
            var request = HTTPRequest("POST", url.description, counter: .requestsOther, operation: .storeOther)
            request.headers = [("Content-Type", "application/x-www-form-urlencoded"), ("Accept", "application/json")]
            let form = [
                ("client_id", client), ("client_secret", secret), ("grant_type", "client_credentials"),
                ("scope", Self.resource + ".default"),
            ]
            request.body = UploadBody(Array(Self.form(form).utf8))
            return request
        case .managedIdentity(_, let header, _):
            var request = HTTPRequest("GET", url.description, counter: .requestsOther, operation: .storeOther)
            request.headers = [header.map { ("X-IDENTITY-HEADER", $0) } ?? ("Metadata", "true")]
            request.timeLimit = Self.patience
            return request
        }
    }

    private static func form(_ pairs: [(String, String)]) -> String {
        pairs.map { $0 + "=" + TextEncoding.percentEncode($1) }.joined(separator: "&")
    }

    /// What may help against a refusal.
    var advice: String {
        switch method {
        case .clientSecret: "check tenant_id, client_id and client_secret"
        case .managedIdentity(_, _, let client):
            client == nil
                ? "this machine has no managed identity, or several: set client_id"
                : "this machine has no such identity"
        }
    }
}

/// What a login gives.
struct AzureToken: Sendable {
    var text: String
    var expires: Timestamp?
}

/// Puts credentials on requests to an account.
///
/// Sources: <https://learn.microsoft.com/rest/api/storageservices/authorize-requests-to-azure-storage>.
final class AzureAuthentication: RequestSigning {
    /// Of the protocol, of November 2024.
    /// Source: <https://learn.microsoft.com/rest/api/storageservices/versioning-for-the-azure-storage-services>.
    static let version = "2024-11-04"

    private let account: String
    private let credentials: AzureCredentials
    private let clock: any Clock
    private let session: HTTPSession
    private let shared: SharedLogin<AzureToken>

    init(
        _ configuration: AzureConfiguration, transport: any HTTPTransport, statistics: Statistics,
        clock: any Clock = SystemClock(), pausing: any Pausing = SystemPause()
    ) {
        account = configuration.account
        credentials = configuration.credentials
        self.clock = clock
        var place = ""
        if case .token(let login) = configuration.credentials { place = login.url.origin }
        shared = SharedLogin(at: place, clock: clock) { $0.expires }
        session = HTTPSession(
            transport: transport, signer: nil, statistics: statistics, clock: clock, pausing: pausing)
    }

    func tune(_ tuning: StoreTuning) { session.tune(tuning) }
    func shutdown() { session.shutdown() }

    func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError) {
        request["x-ms-version"] = Self.version
        request["x-ms-date"] = time.httpDate
        switch credentials {
        case .sharedKey(let key): AzureSharedKey(account: account, key: key).sign(&request)
        case .signature(let query):
            // What the URL is, messages do not tell behind the question mark.
            request.url += (request.url.contains("?") ? "&" : "?") + query
        case .token(let login):
            let bearer = "Bearer " + (try token(login).text)
            request["Authorization"] = bearer
            if request[Self.sourceHeader] != nil { request[Self.sourceHeader] = bearer }
        case .anonymous: break
        }
    }

    /// Of a request that has the service read another blob: replaced by the token that the request itself goes with.
    private static let sourceHeader = "x-ms-copy-source-authorization"

    /// Headers that let the service read a blob of this account for another request.
    ///
    /// - Parameters:
    ///   - key: Of the blob, with its container: what a signature is for.
    ///   - isBlock: Whether a block is made of it: then the credentials of the request do not count for the source.
    func copySource(_ url: String, container: String, _ key: [UInt8], isBlock: Bool) -> [(name: String, value: String)]
    {
        switch credentials {
        case .signature(let query): [("x-ms-copy-source", url + "?" + query)]
        case .sharedKey(let secret) where isBlock:
            [
                (
                    "x-ms-copy-source",
                    url + "?"
                        + AzureSharedKey(account: account, key: secret).signature(
                            ofBlob: "\(container)/\(String(decoding: key, as: UTF8.self))",
                            until: Timestamp(nanoseconds: clock.calendar.nanoseconds + Self.signatureLifetime))
                )
            ]
        case .token where isBlock: [("x-ms-copy-source", url), (Self.sourceHeader, "")]
        default: [("x-ms-copy-source", url)]
        }
    }

    /// A day: longer than any copy of a range takes, with its repeats.
    private static let signatureLifetime: Int64 = 86_400 * 1_000_000_000

    /// What goes behind the source of a renaming, which is a path and no URL.
    var renameSuffix: String { if case .signature(let query) = credentials { "?" + query } else { "" } }

    func credentialsWereRefused() -> Bool {
        guard case .token(let login) = credentials else { return false }
        if shared.forgetAfterRefusal() { return true }
        // A failure is told to the caller of the request that is signed next.
        return (try? token(login)) != nil
    }

    // MARK: Tokens

    private func token(_ login: AzureLogin) throws(StoreError) -> AzureToken {
        try shared.access { (now) throws(StoreError) in
            struct Answer: Decodable {
                var access_token: String
                var expires_in: Seconds?
            }
            /// A number, or as virtual machines have it the text of one.
            enum Seconds: Decodable {
                case known(Int64)
                init(from decoder: any Decoder) throws {
                    let container = try decoder.singleValueContainer()
                    if let number = try? container.decode(Int64.self) {
                        self = .known(number)
                    } else {
                        self = .known(Int64(try container.decode(String.self)) ?? 0)
                    }
                }
            }
            let response = try ask(login)
            guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(response.body)),
                !answer.access_token.isEmpty, answer.access_token.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
            else {
                throw StoreError(
                    .invalidArgument, "\(login.url.origin) does not answer as Microsoft Entra does: check authority")
            }
            var expires: Timestamp?
            if case .known(let seconds)? = answer.expires_in, seconds > 0, seconds < 1 << 31 {
                expires = Timestamp(nanoseconds: now.nanoseconds + seconds * 1_000_000_000)
            }
            return AzureToken(text: answer.access_token, expires: expires)
        }
    }

    private func ask(_ login: AzureLogin) throws(StoreError) -> HTTPResponse {
        do throws(StoreError) {
            return try session.send(login.request) { response in
                let action = "the login at \(login.url.origin) failed"
                // The body may repeat what was sent: it is no part of any message.
                let cause = "HTTP \(response.status)"
                switch response.status {
                case 200..<300: return nil
                case 400, 401, 403, 404:
                    return StoreError(
                        .authenticationFailed, "\(action): status \(response.status); \(login.advice)", cause: cause)
                default:
                    return StoreError(
                        response.errorCode ?? .unavailable, "\(action): status \(response.status)", cause: cause)
                }
            }
        } catch {
            guard case .managedIdentity = login.method, error.code == .timedOut || error.code == .unavailable else {
                throw error
            }
            throw StoreError(
                error.code,
                "no managed identity could be asked for: \(error.message); is this a virtual machine or service of Azure?",
                cause: error.cause)
        }
    }
}
