import Glibc
import StoreAPI
import StoreHTTP
import Testing
import Threading

@testable import Stores

@Suite("Where AWS credentials come from")
struct AWSCredentialTests {
    private static func none() -> StubTransport {
        StubTransport { _ throws(StoreError) in throw StoreError(.unavailable, "nobody answers") }
    }

    /// A folder with files of AWS's tools, and the environment that names them.
    private final class Home {
        let path: String
        init(config: String = "", credentials: String = "") throws {
            var template = Array("/tmp/s3-credentials-XXXXXX".utf8CString)
            path = String(cString: try #require(mkdtemp(&template)))
            write(config, "config")
            write(credentials, "credentials")
        }
        func write(_ text: String, _ name: String) {
            let file = fopen(path + "/" + name, "w")!
            fputs(text, file)
            fclose(file)
        }
        func environment(_ more: [String: String] = [:]) -> ProcessEnvironment {
            ProcessEnvironment(
                [
                    "AWS_CONFIG_FILE": path + "/config", "AWS_SHARED_CREDENTIALS_FILE": path + "/credentials",
                    "AWS_EC2_METADATA_DISABLED": "true",
                ].merging(more) { $1 })
        }
        deinit {
            for name in ["config", "credentials", "token"] { unlink(path + "/" + name) }
            rmdir(path)
        }
    }

    private func profile(
        _ environment: ProcessEnvironment, _ name: String? = nil, _ transport: any HTTPTransport = none()
    )
        -> ProfileAWSCredentials
    {
        ProfileAWSCredentials(
            environment, profile: name,
            service: AWSTokenService(environment, transport: transport, defaultRegion: "eu-west-1"))
    }

    @Test("the environment's variables")
    func environment() throws {
        let source = EnvironmentAWSCredentials(
            ProcessEnvironment(["AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"]))
        let found = try source.credentials(at: .now)
        #expect(found == AWSCredentials(accessKeyID: "i", secretAccessKey: "s", sessionToken: "t"))
        #expect(try EnvironmentAWSCredentials(ProcessEnvironment([:])).credentials(at: .now) == nil)
        #expect(throws: StoreError.self) {
            try EnvironmentAWSCredentials(ProcessEnvironment(["AWS_ACCESS_KEY_ID": "i"])).credentials(at: .now)
        }
    }

    @Test("profiles of both files, where the credentials file wins")
    func profiles() throws {
        let home = try Home(
            config: """
                # comment
                [default]
                region = eu-north-1
                aws_access_key_id = old
                aws_secret_access_key = old
                [profile work]
                s3 =
                    aws_access_key_id = nested
                aws_access_key_id = w
                aws_secret_access_key = ws ; comment
                """,
            credentials: "[default]\naws_access_key_id=d\naws_secret_access_key=ds\naws_session_token = dt\n")
        let found = try profile(home.environment()).credentials(at: .now)
        #expect(found == AWSCredentials(accessKeyID: "d", secretAccessKey: "ds", sessionToken: "dt"))
        let work = try profile(home.environment(["AWS_PROFILE": "work"])).credentials(at: .now)
        #expect(work == AWSCredentials(accessKeyID: "w", secretAccessKey: "ws"))
        #expect(throws: StoreError.self) { try profile(home.environment(), "nobody").credentials(at: .now) }
        let settings = StoreSettings(["bucket_name": "b"])
        #expect(try S3Configuration(settings, home.environment()).region == "eu-north-1")
    }

    private static let assumed = """
        <AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId>
        <SecretAccessKey>temporary</SecretAccessKey><SessionToken>token</SessionToken>
        <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>
        """

    @Test("a role is taken on with the keys of another profile")
    func role() throws {
        let home = try Home(
            config: "[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\nexternal_id = x y\n",
            credentials: "[base]\naws_access_key_id = b\naws_secret_access_key = bs\n")
        let transport = StubTransport { _ in text(Self.assumed) }
        let found = try profile(home.environment(), "role", transport).credentials(at: Timestamp(seconds: 0))
        #expect(found?.accessKeyID == "ASIA")
        #expect(found?.sessionToken == "token")
        #expect(found?.expiration == Timestamp(iso8601: "2099-01-01T00:00:00Z"))
        let request = try #require(transport.requests.first)
        #expect(request.url == "https://sts.eu-west-1.amazonaws.com/")
        #expect(request["Authorization"]?.contains("Credential=b/19700101/eu-west-1/sts/aws4_request") == true)
        guard case .bytes(let body)? = request.body?.segments.first else { throw StoreError(.internal, "no body") }
        #expect(String(decoding: body, as: UTF8.self).contains("ExternalId=x%20y"))
    }

    @Test("profiles that name each other are an error, not a circle")
    func circle() throws {
        let home = try Home(
            config: "[profile a]\nrole_arn=r\nsource_profile=b\n[profile b]\nrole_arn=r\nsource_profile=a\n")
        #expect(throws: StoreError.self) { try profile(home.environment(), "a").credentials(at: .now) }
    }

    @Test("a web identity token is exchanged for keys")
    func webIdentity() throws {
        let home = try Home()
        home.write("the.jwt\n", "token")
        let environment = home.environment([
            "AWS_ROLE_ARN": "arn", "AWS_WEB_IDENTITY_TOKEN_FILE": home.path + "/token",
            "AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1/",
        ])
        let body = Self.assumed.split(separator: "AssumeRole").joined(separator: "AssumeRoleWithWebIdentity")
        let transport = StubTransport { _ in text(body) }
        let service = AWSTokenService(environment, transport: transport, defaultRegion: "us-east-1")
        let found = try WebIdentityAWSCredentials(environment, service: service).credentials(at: .now)
        #expect(found?.accessKeyID == "ASIA")
        #expect(transport.requests.first?["Authorization"] == nil)
    }

    @Test("a role that is refused says so, without secrets")
    func refusedRole() throws {
        let home = try Home(
            config: "[profile r]\nrole_arn=arn\nsource_profile=base\n",
            credentials: "[base]\naws_access_key_id=b\naws_secret_access_key=very-secret\n")
        let transport = StubTransport { _ in
            text("<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>", status: 403)
        }
        do throws(StoreError) {
            _ = try profile(home.environment(), "r", transport).credentials(at: .now)
            Issue.record("it was not refused")
        } catch {
            #expect(error.code == .authenticationFailed)
            #expect(error.message.contains("AccessDenied"))
            #expect(!"\(error)\(error.cause ?? "")".contains("very-secret"))
        }
    }

    private static let document = """
        {"Code":"Success","AccessKeyId":"ASIA","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}
        """

    @Test("a container's endpoint, with its token")
    func container() throws {
        let transport = StubTransport { _ in text(Self.document) }
        let environment = ProcessEnvironment([
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:9/creds",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": "bearer",
        ])
        let found = try ContainerAWSCredentials(environment, transport: transport).credentials(at: .now)
        #expect(found?.sessionToken == "t")
        #expect(transport.requests.first?["Authorization"] == "bearer")
        let relative = ProcessEnvironment(["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/x"])
        _ = try ContainerAWSCredentials(relative, transport: transport).credentials(at: .now)
        #expect(transport.requests.last?.url == "http://169.254.170.2/v2/x")
    }

    @Test(
        "a container's endpoint elsewhere is not trusted without TLS",
        arguments: ["http://example.org/", "http://127.0.0.1@example.org/", "http://127.0.0.1.example.org/", "ftp://x"])
    func hostileContainer(url: String) {
        let transport = StubTransport { _ in text(Self.document) }
        let environment = ProcessEnvironment(["AWS_CONTAINER_CREDENTIALS_FULL_URI": url])
        #expect(throws: StoreError.self) {
            try ContainerAWSCredentials(environment, transport: transport).credentials(at: .now)
        }
        #expect(transport.requests.isEmpty)
    }

    @Test("an instance's role, by a session token")
    func instance() throws {
        let transport = StubTransport { request in
            if request.url.hasSuffix("/latest/api/token") { return text("session") }
            guard request["X-aws-ec2-metadata-token"] == "session" else { return text("", status: 401) }
            return request.url.hasSuffix("security-credentials/") ? text("my role\n") : text(Self.document)
        }
        let environment = ProcessEnvironment(["AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9/"])
        let found = try InstanceAWSCredentials(environment, transport: transport).credentials(at: .now)
        #expect(found?.accessKeyID == "ASIA")
        #expect(transport.requests.map(\.method) == ["PUT", "GET", "GET"])
        #expect(
            transport.requests.last?.url == "http://127.0.0.1:9/latest/meta-data/iam/security-credentials/my%20role")
        #expect(transport.requests.allSatisfy { $0.timeLimit != nil })
        #expect(try InstanceAWSCredentials(environment, transport: Self.none()).credentials(at: .now) == nil)
        let disabled = ProcessEnvironment(["AWS_EC2_METADATA_DISABLED": "true"])
        #expect(try InstanceAWSCredentials(disabled, transport: transport).credentials(at: .now) == nil)
    }

    /// Gives keys that expire, and counts.
    private final class Expiring: AWSCredentialSource {
        let name = "a test"
        let asked = Lock(0)
        let lifetime: Duration
        let failsAfter: Int
        init(lifetime: Duration, failsAfter: Int = .max) {
            self.lifetime = lifetime
            self.failsAfter = failsAfter
        }
        func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? {
            let number = asked.withLock { count in
                count += 1
                return count
            }
            if number > failsAfter { throw StoreError(.unavailable, "the service is away") }
            return AWSCredentials(
                accessKeyID: "key \(number)", secretAccessKey: "s", sessionToken: "t",
                expiration: Timestamp(nanoseconds: time.nanoseconds + lifetime.nanoseconds))
        }
    }

    @Test("keys are kept, and renewed before they expire")
    func renewal() throws {
        let clock = ManualClock()
        let source = Expiring(lifetime: .seconds(3600))
        let chain = AWSCredentialChain([source], clock: clock)
        #expect(try chain.credentials().accessKeyID == "key 1")
        clock.advance(by: .seconds(2900))
        #expect(try chain.credentials().accessKeyID == "key 1")
        clock.advance(by: .seconds(200))
        #expect(try chain.credentials().accessKeyID == "key 2")
        #expect(chain.origin == "a test")
    }

    @Test("keys that are still valid serve on while they cannot be renewed, and not after")
    func failedRenewal() throws {
        let clock = ManualClock()
        let chain = AWSCredentialChain([Expiring(lifetime: .seconds(3600), failsAfter: 1)], clock: clock)
        _ = try chain.credentials()
        clock.advance(by: .seconds(3300))
        #expect(try chain.credentials().accessKeyID == "key 1")
        clock.advance(by: .seconds(400))
        #expect(throws: StoreError.self) { try chain.credentials() }
    }

    @Test("many threads ask a source once")
    func singleFlight() throws {
        let source = Expiring(lifetime: .seconds(3600))
        let chain = AWSCredentialChain([source])
        let threads = (0..<16).map { _ in WorkerThread(name: "asker") { _ = try? chain.credentials() } }
        for thread in threads { thread.join() }
        #expect(source.asked.withLock { $0 } == 1)
    }

    @Test("refused keys are asked for again only if there may be others, and not in a storm")
    func refusal() throws {
        let fixed = AWSCredentialChain([
            StaticAWSCredentials(AWSCredentials(accessKeyID: "a", secretAccessKey: "b"), name: "the settings")
        ])
        _ = try fixed.credentials()
        #expect(!fixed.renewAfterRefusal())
        let clock = ManualClock()
        let source = Expiring(lifetime: .seconds(3600))
        let chain = AWSCredentialChain([source], clock: clock)
        _ = try chain.credentials()
        clock.advance(by: .seconds(60))
        #expect(chain.renewAfterRefusal())
        #expect(chain.renewAfterRefusal())
        #expect(source.asked.withLock { $0 } == 2)
    }

    @Test("nothing found is an error that says where was looked")
    func nothing() throws {
        let home = try Home()
        let chain = AWSCredentialChain([
            EnvironmentAWSCredentials(ProcessEnvironment([:])), profile(home.environment()),
        ])
        do throws(StoreError) {
            _ = try chain.credentials()
            Issue.record("something was found")
        } catch {
            #expect(error.code == .authenticationFailed)
            #expect(error.message.contains("the environment"))
        }
    }

    @Test("credentials print nothing of themselves")
    func printing() {
        let credentials = AWSCredentials(accessKeyID: "id", secretAccessKey: "hidden", sessionToken: "hidden")
        var dumped = ""
        dump(credentials, to: &dumped)
        #expect(!"\(credentials) \(String(reflecting: credentials)) \(dumped)".contains("hidden"))
    }
}
