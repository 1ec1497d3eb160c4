import FoundationEssentials
import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// What a login gives.
struct OpenStackAccess: Hashable, Sendable {
    /// The account's object store, without a slash at its end.
    var storageURL: WebURL
    var token: String
    /// nil: not told.
    var expires: Timestamp?
}

/// Logs in to an OpenStack cloud and puts the token on requests.
///
/// All threads share one token (``SharedLogin``).
///
/// Sources: <https://docs.openstack.org/api-ref/identity/v3/> ("Password authentication with scoped authorization",
/// "Authenticating with an Application Credential"); <https://docs.openstack.org/api-ref/identity/v2-ext/>;
/// `swift/common/middleware/tempauth.py`.
final class OpenStackAuthentication: RequestSigning {
    private let login: OpenStackLogin
    private let region: String?
    private let interface: String
    private let storageURL: WebURL?
    private let session: HTTPSession
    private let shared: SharedLogin<OpenStackAccess>

    init(
        _ configuration: OpenStackSwiftConfiguration, transport: any HTTPTransport, statistics: Statistics,
        clock: any Clock = SystemClock(), pausing: any Pausing = SystemPause()
    ) {
        login = configuration.login
        region = configuration.region
        interface = configuration.interface
        storageURL = configuration.storageURL
        shared = SharedLogin(at: login.url.description, clock: clock) { $0.expires }
        session = HTTPSession(
            transport: transport, signer: nil, statistics: statistics, clock: clock, pausing: pausing)
    }

    func tune(_ tuning: StoreTuning) { session.tune(tuning) }
    func shutdown() { session.shutdown() }

    func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError) {
        request["X-Auth-Token"] = try access().token
    }

    func credentialsWereRefused() -> Bool {
        if shared.forgetAfterRefusal() { return true }
        // A failure is told to the caller of the request that is signed next.
        return (try? access()) != nil
    }

    /// A token that is valid now, and what it is for.
    ///
    /// - Throws: ``StoreError``: `.authenticationFailed`, `.invalidArgument` when a setting does not fit the answer,
    ///   `.storeNotFound` when there is no object store, `.unavailable`, `.timedOut`.
    func access() throws(StoreError) -> OpenStackAccess {
        try shared.access { (now) throws(StoreError) in try authenticate(now) }
    }

    // MARK: Logging in

    private func authenticate(_ now: Timestamp) throws(StoreError) -> OpenStackAccess {
        switch login.method {
        case .version1(let user, let key): return try authenticate(user, key, now)
        case .version2(let user, let password, let project):
            var auth: [String: JSONText] = [
                "passwordCredentials": .object(["username": .text(user), "password": .text(password)])
            ]
            if let id = project.id { auth["tenantId"] = .text(id) }
            if let name = project.name, project.id == nil { auth["tenantName"] = .text(name) }
            let response = try send(post("/tokens", ["auth": .object(auth)]))
            let answer = try decode(Version2.self, response)
            return try access(
                answer.access.token.id, expires: answer.access.token.expires,
                (answer.access.serviceCatalog ?? []).filter { $0.type == "object-store" }.flatMap { service in
                    service.endpoints.compactMap { endpoint in
                        let url =
                            switch interface {
                            case "internal": endpoint.internalURL
                            case "admin": endpoint.adminURL
                            default: endpoint.publicURL
                            }
                        return url.map { (endpoint.region, $0) }
                    }
                })
        case .password, .applicationCredential, .namedApplicationCredential:
            let response = try send(post("/auth/tokens", ["auth": .object(version3())]))
            let answer = try decode(Version3.self, response)
            return try access(
                response["X-Subject-Token"] ?? "", expires: answer.token.expires_at,
                (answer.token.catalog ?? []).filter { $0.type == "object-store" }.flatMap { service in
                    service.endpoints.filter { $0.interface == interface }.map { ($0.region_id ?? $0.region, $0.url) }
                })
        }
    }

    /// As tempauth and Ceph have it.
    private func authenticate(_ user: String, _ key: String, _ now: Timestamp) throws(StoreError) -> OpenStackAccess {
        var request = HTTPRequest("GET", login.url.description, counter: .requestsOther, operation: .storeOther)
        request.headers = [("X-Auth-User", user), ("X-Auth-Key", key)]
        let response = try send(request)
        let seconds = response["X-Auth-Token-Expires"].flatMap { Int64($0) }
        let expires = seconds.flatMap { $0 > 0 && $0 < 1 << 31 ? $0 * 1_000_000_000 + now.nanoseconds : nil }
        return try access(
            response["X-Auth-Token"] ?? response["X-Storage-Token"] ?? "",
            expires: expires.map { Timestamp(nanoseconds: $0) },
            url: response["X-Storage-Url"])
    }

    private func version3() -> [String: JSONText] {
        func domain(_ named: OpenStackLogin.Named) -> JSONText {
            .object(named.domainID.map { ["id": .text($0)] } ?? ["name": .text(named.domainName ?? "Default")])
        }
        func fields(_ named: OpenStackLogin.Named) -> [String: JSONText] {
            named.id.map { ["id": .text($0)] } ?? ["name": .text(named.name ?? ""), "domain": domain(named)]
        }
        switch login.method {
        case .applicationCredential(let id, let secret):
            return [
                "identity": .object([
                    "methods": .list([.text("application_credential")]),
                    "application_credential": .object(["id": .text(id), "secret": .text(secret)]),
                ])
            ]
        case .namedApplicationCredential(let name, let user, let secret):
            return [
                "identity": .object([
                    "methods": .list([.text("application_credential")]),
                    "application_credential": .object([
                        "name": .text(name), "user": .object(fields(user)), "secret": .text(secret),
                    ]),
                ])
            ]
        case .password(let user, let password, let project):
            return [
                "identity": .object([
                    "methods": .list([.text("password")]),
                    "password": .object([
                        "user": .object(fields(user).merging(["password": .text(password)]) { $1 })
                    ]),
                ]), "scope": .object(["project": .object(fields(project))]),
            ]
        case .version1, .version2: return [:]
        }
    }

    private func post(_ path: String, _ body: [String: JSONText]) throws(StoreError) -> HTTPRequest {
        var url = login.url
        url.path += path
        var request = HTTPRequest("POST", url.description, counter: .requestsOther, operation: .storeOther)
        request.headers = [("Content-Type", "application/json"), ("Accept", "application/json")]
        do { request.body = UploadBody(Array(try JSONEncoder().encode(JSONText.object(body)))) } catch {
            throw StoreError(.internal, "the request to log in could not be written: \(error)")
        }
        return request
    }

    private func send(_ request: HTTPRequest) throws(StoreError) -> HTTPResponse {
        try session.send(request) { [login] response in
            let action = "the login at \(login.url) failed"
            // The body may repeat what was sent: it is no part of any message.
            let cause = "HTTP \(response.status)"
            switch response.status {
            case 200..<300: return nil
            case 401, 403:
                let what =
                    switch login.method {
                    case .version1: "check user and password"
                    case .version2: "check user, password and project"
                    case .password: "check user, password, project and their domains"
                    default: "check the application credential and its secret"
                    }
                return StoreError(
                    .authenticationFailed, "\(action): status \(response.status); \(what)", cause: cause)
            case 300..<500 where response.errorCode != .throttled && response.errorCode != .timedOut:
                return StoreError(
                    .invalidArgument,
                    "\(action): status \(response.status); is this where the cloud's identity service is? "
                        + "Check auth_url and auth_version", cause: cause)
            default:
                return StoreError(
                    response.errorCode ?? .unavailable, "\(action): status \(response.status)", cause: cause)
            }
        }
    }

    // MARK: Answers

    private struct Version2: Decodable {
        struct Access: Decodable {
            var token: Token
            var serviceCatalog: [Service]?
        }
        struct Token: Decodable {
            var id: String
            var expires: String?
        }
        struct Service: Decodable {
            var type: String
            var endpoints: [Endpoint]
        }
        struct Endpoint: Decodable {
            var region: String?
            var publicURL: String?
            var internalURL: String?
            var adminURL: String?
        }
        var access: Access
    }

    private struct Version3: Decodable {
        struct Token: Decodable {
            var expires_at: String?
            var catalog: [Service]?
        }
        struct Service: Decodable {
            var type: String
            var endpoints: [Endpoint]
        }
        struct Endpoint: Decodable {
            var interface: String
            var region: String?
            var region_id: String?
            var url: String
        }
        var token: Token
    }

    private func decode<Answer: Decodable>(_ type: Answer.Type, _ response: HTTPResponse) throws(StoreError) -> Answer {
        guard let answer = try? JSONDecoder().decode(type, from: Data(response.body)) else {
            throw StoreError(
                .invalidArgument,
                "\(login.url) does not answer as an OpenStack identity service does: check auth_url and auth_version")
        }
        return answer
    }

    private func access(_ token: String, expires: String?, _ endpoints: [(region: String?, url: String)])
        throws(StoreError) -> OpenStackAccess
    {
        let known = Set(endpoints.compactMap(\.region)).sorted().joined(separator: ", ")
        let fitting = region.map { region in endpoints.filter { $0.region == region } } ?? endpoints
        if storageURL == nil {
            if endpoints.isEmpty {
                throw StoreError(
                    .storeNotFound, "the login at \(login.url) tells of no object store: check project and interface")
            }
            if fitting.isEmpty {
                throw StoreError(
                    .storeNotFound,
                    "there is no object store in region '\(region ?? "")': set region to one of \(known)")
            }
            if Set(fitting.map { $0.url }).count > 1 {
                throw StoreError(.invalidArgument, "there are several object stores: set region to one of \(known)")
            }
        }
        return try access(token, expires: expires.flatMap { Timestamp(iso8601: $0) }, url: fitting.first?.url)
    }

    private func access(_ token: String, expires: Timestamp?, url: String?) throws(StoreError) -> OpenStackAccess {
        guard !token.isEmpty, token.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
            var storage = storageURL ?? url.flatMap({ WebURL($0) }), storage.query == nil
        else {
            throw StoreError(
                .invalidArgument,
                "the login at \(login.url) gives no token, or no address to use it at: check auth_url and auth_version")
        }
        guard storage.isSecure || !login.url.isSecure || storageURL != nil else {
            throw StoreError(
                .invalidArgument,
                "the object store at \(storage.origin) is not reached by https: set storage_url to it if you trust it")
        }
        while storage.path.hasSuffix("/") { storage.path.removeLast() }
        return OpenStackAccess(storageURL: storage, token: token, expires: expires)
    }
}

/// The little of JSON that a login needs.
private indirect enum JSONText: Encodable {
    case text(String)
    case list([JSONText])
    case object([String: JSONText])

    func encode(to encoder: any Encoder) throws {
        var container = encoder.singleValueContainer()
        switch self {
        case .text(let text): try container.encode(text)
        case .list(let list): try container.encode(list)
        case .object(let object): try container.encode(object)
        }
    }
}
