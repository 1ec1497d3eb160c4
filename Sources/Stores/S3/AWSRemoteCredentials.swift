import FoundationEssentials
import Statistics
package import StoreAPI
package import StoreHTTP
package import Threading

/// A JSON document with temporary credentials, as containers and instances get it.
private struct CredentialDocument: Decodable {
    var Code: String?
    var Message: String?
    var AccessKeyId: String?
    var SecretAccessKey: String?
    var Token: String?
    var Expiration: String?

    /// - Throws: ``StoreError``: `.authenticationFailed`. The document is never part of a message.
    static func credentials(_ body: [UInt8], from place: String) throws(StoreError) -> AWSCredentials {
        guard let document = try? JSONDecoder().decode(Self.self, from: Data(body)),
            document.Code ?? "Success" == "Success",
            let id = document.AccessKeyId, let secret = document.SecretAccessKey,
            let credentials = AWSCredentials(
                told: id, secret, document.Token, expiration: document.Expiration.flatMap(POSIXMetadata.parseTime))
        else { throw StoreError(.authenticationFailed, "\(place) answered without credentials") }
        return credentials
    }
}

extension AWSCredentials {
    /// Credentials that came over the network; they go into headers of requests.
    ///
    /// - Returns: nil when one is empty or has characters that no header can carry.
    fileprivate init?(told id: String, _ secret: String, _ token: String?, expiration: Timestamp?) {
        for value in [id, secret, token].compactMap({ $0 }) {
            guard !value.isEmpty, value.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { return nil }
        }
        self.init(accessKeyID: id, secretAccessKey: secret, sessionToken: token, expiration: expiration)
    }
}

/// Credentials of the task or pod that this runs in.
///
/// Source: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>.
package struct ContainerAWSCredentials: AWSCredentialSource {
    let environment: ProcessEnvironment
    let transport: any HTTPTransport

    package init(_ environment: ProcessEnvironment, transport: any HTTPTransport) {
        self.environment = environment
        self.transport = transport
    }

    package var name: String { "the container's credentials endpoint" }

    package func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? {
        let url: String
        if let relative = environment["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] {
            url = "http://169.254.170.2" + relative
        } else if let full = environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"] {
            guard Self.isTrustworthy(full) else {
                throw StoreError(
                    .invalidArgument,
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI must use https or an address of this machine or container")
            }
            url = full
        } else {
            return nil
        }
        var request = HTTPRequest("GET", url, counter: .requestsOther, operation: .storeOther)
        request["Accept"] = "application/json"
        var token = environment["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
        if let file = environment["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] {
            token = try ProcessEnvironment.contents(of: file)?.trimmingSpaces()
        }
        request["Authorization"] = token
        let response = try transport.send(request)
        guard response.status == 200 else {
            throw StoreError(
                .authenticationFailed, "\(name) answered with status \(response.status) instead of credentials")
        }
        return try CredentialDocument.credentials(response.body, from: name)
    }

    /// Plain HTTP only to loopback and to the addresses of ECS and EKS.
    private static func isTrustworthy(_ text: String) -> Bool {
        guard let url = WebURL(text), url.user == nil else { return false }
        return url.mayHaveSecrets || ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"].contains(url.host)
    }
}

/// Credentials of the role of the EC2 instance that this runs on (IMDSv2).
///
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html>.
package struct InstanceAWSCredentials: AWSCredentialSource {
    /// Nobody waits longer to learn that this is no instance.
    private static let patience: Duration = .seconds(2)

    let environment: ProcessEnvironment
    let transport: any HTTPTransport

    package init(_ environment: ProcessEnvironment, transport: any HTTPTransport) {
        self.environment = environment
        self.transport = transport
    }

    package var name: String { "the instance's metadata service" }

    package func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? {
        if environment.flag("AWS_EC2_METADATA_DISABLED") { return nil }
        var base = environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] ?? "http://169.254.169.254"
        while base.hasSuffix("/") { base.removeLast() }
        let session: HTTPResponse
        do throws(StoreError) {
            session = try ask("PUT", base + "/latest/api/token", [("X-aws-ec2-metadata-token-ttl-seconds", "21600")])
        } catch {
            switch error.code {
            case .timedOut, .unavailable: return nil  // no instance, or none with metadata
            default: throw error
            }
        }
        guard session.status == 200 else { return nil }
        let header = ("X-aws-ec2-metadata-token", String(decoding: session.body, as: UTF8.self))
        let roles = base + "/latest/meta-data/iam/security-credentials/"
        let list = try ask("GET", roles, [header])
        let role = String(decoding: list.body, as: UTF8.self).split(whereSeparator: \.isNewline).first
        guard list.status == 200, let role else { return nil }
        let answer = try ask("GET", roles + TextEncoding.percentEncode(role), [header])
        guard answer.status == 200 else {
            throw StoreError(.authenticationFailed, "\(name) answered with status \(answer.status) for the role's keys")
        }
        return try CredentialDocument.credentials(answer.body, from: name)
    }

    private func ask(_ method: String, _ url: String, _ headers: [(name: String, value: String)]) throws(StoreError)
        -> HTTPResponse
    {
        var request = HTTPRequest(method, url, headers: headers, counter: .requestsOther, operation: .storeOther)
        if method == "PUT" { request.body = UploadBody([UInt8]()) }
        request.timeLimit = Self.patience
        return try transport.send(request)
    }
}

/// The role and token file that a Kubernetes service account or a CI system gives.
package struct WebIdentityAWSCredentials: AWSCredentialSource {
    let environment: ProcessEnvironment
    let service: AWSTokenService

    package init(_ environment: ProcessEnvironment, service: AWSTokenService) {
        self.environment = environment
        self.service = service
    }

    package var name: String { "AWS_WEB_IDENTITY_TOKEN_FILE" }

    package func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? {
        guard let file = environment["AWS_WEB_IDENTITY_TOKEN_FILE"], let role = environment["AWS_ROLE_ARN"] else {
            return nil
        }
        return try service.assumeRoleWithWebIdentity(
            role, session: environment["AWS_ROLE_SESSION_NAME"] ?? "cloudfusion", tokenFile: environment.path(file),
            region: nil)
    }
}

/// AWS's Security Token Service.
///
/// Source: <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html>.
package struct AWSTokenService: Sendable {
    let environment: ProcessEnvironment
    let transport: any HTTPTransport
    /// Of the store; used where nothing closer names one.
    let defaultRegion: String

    package init(_ environment: ProcessEnvironment, transport: any HTTPTransport, defaultRegion: String) {
        self.environment = environment
        self.transport = transport
        self.defaultRegion = defaultRegion
    }

    func assumeRole(
        _ role: String, session: String, externalID: String?, duration: String?, region: String?,
        with source: AWSCredentials, at time: Timestamp
    ) throws(StoreError) -> AWSCredentials {
        var form = [
            ("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", role), ("RoleSessionName", session),
        ]
        if let externalID { form.append(("ExternalId", externalID)) }
        if let duration { form.append(("DurationSeconds", duration)) }
        let region = self.region(region)
        var request = request(form, region: region)
        let signature = AWSSignature(region: region, service: "sts")
        let day = String(CivilTime(time).basic.prefix(8))
        signature.sign(
            &request, source, key: signature.signingKey(secret: source.secretAccessKey, day: day),
            payloadHash: TextEncoding.hex(Digest.sha256(Self.body(form))), at: time)
        return try send(request, "AssumeRole", role)
    }

    func assumeRoleWithWebIdentity(_ role: String, session: String, tokenFile: String, region: String?)
        throws(StoreError) -> AWSCredentials
    {
        guard let token = try ProcessEnvironment.contents(of: tokenFile)?.trimmingSpaces(), !token.isEmpty else {
            throw StoreError(.authenticationFailed, "the web identity token file '\(tokenFile)' is missing or empty")
        }
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"), ("Version", "2011-06-15"), ("RoleArn", role),
            ("RoleSessionName", session), ("WebIdentityToken", token),
        ]
        return try send(request(form, region: self.region(region)), "AssumeRoleWithWebIdentity", role)
    }

    private func region(_ closest: String?) -> String {
        closest ?? environment["AWS_REGION"] ?? environment["AWS_DEFAULT_REGION"] ?? defaultRegion
    }

    private static func body(_ form: [(String, String)]) -> [UInt8] {
        Array(form.map { $0 + "=" + TextEncoding.percentEncode($1) }.joined(separator: "&").utf8)
    }

    private func request(_ form: [(String, String)], region: String) -> HTTPRequest {
        let suffix = region.hasPrefix("cn-") ? "amazonaws.com.cn" : "amazonaws.com"
        let url = environment["AWS_ENDPOINT_URL_STS"] ?? "https://sts.\(region).\(suffix)/"
        return HTTPRequest(
            "POST", url, headers: [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")],
            body: UploadBody(Self.body(form)), counter: .requestsOther, operation: .storeOther)
    }

    private func send(_ request: HTTPRequest, _ action: String, _ role: String) throws(StoreError) -> AWSCredentials {
        let response = try transport.send(request)
        let answer = try? XMLElement.parse(response.body)
        if response.status == 200, let credentials = answer?["\(action)Result"]?["Credentials"],
            let id = credentials["AccessKeyId"]?.text, let secret = credentials["SecretAccessKey"]?.text,
            let told = AWSCredentials(
                told: id, secret, credentials["SessionToken"]?.text,
                expiration: credentials["Expiration"].flatMap { POSIXMetadata.parseTime($0.text) })
        {
            return told
        }
        let code = answer?["Error"]?["Code"]?.text ?? "status \(response.status)"
        let isTransient = response.status >= 500 || response.status == 429
        throw StoreError(
            isTransient ? .unavailable : .authenticationFailed,
            "AWS did not let this take on the role '\(role)': \(code); check the role's trust policy and the source's keys",
            cause: answer?["Error"]?["Message"]?.text)
    }
}
