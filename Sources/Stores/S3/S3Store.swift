package import Statistics
package import StoreAPI
package import StoreHTTP
package import Threading

/// A bucket of Amazon S3, or of a server that speaks its protocol, or what lies below a prefix in one.
///
/// Keys are paths as they are (``KeyCodec``, ``FlatStore``); attributes are user metadata (``POSIXMetadata``). A version
/// is an entity tag without its quotes.
///
/// Source: <https://docs.aws.amazon.com/AmazonS3/latest/API/>; what other servers do differently is found out by
/// ``connect()``.
///
/// Locks: `state` and `shadowed` are never held together, nor across a request.
package final class S3Store: FlatStore {
    struct State {
        var capabilities = StoreCapabilities([.rangedRead, .caseSensitive, .emptyDirectories])
        var traits = S3Traits()
        var tuning = StoreTuning()
    }

    /// The most bytes of a key, as all servers count them.
    /// Source: S3 User Guide, "Naming Amazon S3 objects".
    package let longestKey = 1024

    let configuration: S3Configuration
    let signer: S3Signer
    package let session: HTTPSession
    private let credentials: AWSCredentialChain?
    let state: Lock<State>
    /// How many parts are being put together in memory.
    let mixedParts = Monitor(0)
    package let shadowed = Lock<Set<StorePath>>([])

    /// - Parameter transport: nil: libcurl.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package init(
        _ settings: StoreSettings, environment: ProcessEnvironment, statistics: Statistics,
        transport: (any HTTPTransport)? = nil
    ) throws(StoreError) {
        let configuration = try S3Configuration(settings, environment)
        var options = HTTPClientOptions()
        options.honoursAWSBundle = true
        let transport = transport ?? HTTPClient(options, statistics: statistics)
        let region = configuration.region ?? "us-east-1"
        self.configuration = configuration
        credentials = try Self.chain(settings, environment, transport, region)
        signer = S3Signer(credentials, region: region)
        session = HTTPSession(transport: transport, signer: signer, statistics: statistics)
        var state = State()
        state.capabilities.longestPath = longestKey - configuration.prefix.count
        state.traits.tagIsMD5 = configuration.isAmazon
        self.state = Lock(state)
    }

    package var keyPrefix: [UInt8] { configuration.prefix }
    package var place: String { "bucket '\(configuration.bucket)'" }
    package var keepsControls: Bool? { traits.keepsControls }
    package var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }
    var traits: S3Traits { state.withLock { $0.traits } }

    private static func chain(
        _ settings: StoreSettings, _ environment: ProcessEnvironment, _ transport: any HTTPTransport, _ region: String
    ) throws(StoreError) -> AWSCredentialChain? {
        if settings.flag("anonymous") { return nil }
        if let id = settings["access_key_id"] {
            guard let secret = settings["secret_access_key"] else {
                throw StoreError(.invalidArgument, "access_key_id is given, but secret_access_key is not")
            }
            let given = AWSCredentials(
                accessKeyID: id, secretAccessKey: secret, sessionToken: settings["session_token"])
            return AWSCredentialChain([StaticAWSCredentials(given, name: "the settings")])
        }
        if settings["secret_access_key"] != nil {
            throw StoreError(.invalidArgument, "secret_access_key is given, but access_key_id is not")
        }
        let service = AWSTokenService(environment, transport: transport, defaultRegion: region)
        let profile = ProfileAWSCredentials(environment, profile: settings["profile"], service: service)
        if settings["profile"] != nil { return AWSCredentialChain([profile]) }
        return AWSCredentialChain([
            EnvironmentAWSCredentials(environment), WebIdentityAWSCredentials(environment, service: service), profile,
            ContainerAWSCredentials(environment, transport: transport),
            InstanceAWSCredentials(environment, transport: transport),
        ])
    }

    // MARK: The account

    package func accountInformation() throws(StoreError) -> [AccountField] {
        var fields = [
            AccountField("store", "S3"),
            AccountField("endpoint", configuration.endpoint ?? "https://s3.\(signer.region).amazonaws.com"),
            AccountField("region", signer.region), AccountField("bucket", configuration.bucket),
        ]
        if !configuration.prefix.isEmpty {
            fields.append(AccountField("prefix", String(decoding: configuration.prefix, as: UTF8.self)))
        }
        fields.append(
            AccountField("credentials", credentials.map { $0.origin ?? "not needed yet" } ?? "none (anonymous)"))
        return fields
    }

    package func tune(_ tuning: StoreTuning) {
        state.withLock { $0.tuning = tuning }
        session.tune(tuning)
    }

    package func reconnect() {
        credentials?.forget()
        session.reconnect()
    }

    package func shutdown() { session.shutdown() }
}

/// What a server has been seen to do, beyond the capabilities.
struct S3Traits: Hashable, Sendable {
    enum TagForm: Sendable {
        case quoted, bare
        func text(of tag: String) -> String { self == .quoted ? "\"\(tag)\"" : tag }
    }

    /// PUT with `If-None-Match: *` is checked.
    var checksAbsence = false
    /// How `If-Match` of a PUT wants the entity tag; nil: it is not checked.
    var replaceTagForm: TagForm?
    /// How `If-Match` of a DELETE wants the entity tag; nil: it is not checked.
    var deleteTagForm: TagForm?
    /// Entity tags of 32 hexadecimal digits are the MD5 of the object, unless its encryption says otherwise.
    var tagIsMD5 = false
    /// Reads and copies with the entity tag of an object in parts as their condition fail though it is right.
    var refusesTagsOfParts = false
    /// Copies check the version of their source.
    var checksCopySource = false
    /// GET with `Range` answers with that range, in a way that can be told from the whole object.
    var readsRanges = true
    /// Keys with control characters are taken, and listed as they are; nil while that is not known.
    var keepsControls: Bool?
    var deletesInBulk = true
}

// MARK: Requests

/// Of a whole key; nil: of the bucket.
typealias S3Call = StoreCall<[UInt8]?>

extension S3Call {
    var key: [UInt8]? { target }

    init(
        _ method: String, _ key: [UInt8]?, _ counter: Counter, _ operation: TimedOperation, action: String,
        path: StorePath? = nil
    ) {
        self.init(method, target: key, counter, operation, action: action, path: path)
    }
}

extension S3Store {
    /// Sends a call, to the bucket's region once that has become known.
    func send(_ call: S3Call) throws(StoreError) -> HTTPResponse {
        var movedBefore = false
        var missedBefore = false
        while true {
            let region = signer.region
            var request = call.request(configuration.url(key: call.key, query: call.query, region: region))
            if configuration.isRequesterPaying { request["X-Amz-Request-Payer"] = "requester" }
            let response = try session.send(request) { response in
                if (200..<300).contains(response.status) || call.accepted.contains(response.status) {
                    return call.verify?(response)
                }
                if !missedBefore, Self.mayMiss(call, response) { return nil }
                if !movedBefore, Self.otherRegion(response, than: region) != nil { return nil }
                return S3Errors.error(
                    response, call.action, path: call.path, concernsKey: call.key != nil, bucket: configuration.bucket)
            }
            if !missedBefore, Self.mayMiss(call, response) {
                missedBefore = true
                continue
            }
            guard !movedBefore, let other = Self.otherRegion(response, than: region) else { return response }
            signer.region = other
            movedBefore = true
        }
    }

    private static func mayMiss(_ call: S3Call, _ response: HTTPResponse) -> Bool {
        call.key != nil && call.method != "DELETE" && HTTPAnswer.mayMissObject(response)
    }

    /// Where the bucket is, when the server refuses a request because it was sent or signed for another region.
    private static func otherRegion(_ response: HTTPResponse, than region: String) -> String? {
        guard [301, 307, 400, 403].contains(response.status), let other = S3ErrorAnswer(response).region,
            !other.isEmpty, other != region,
            other.utf8.allSatisfy({ $0 == 0x2d || $0 >= 0x30 && $0 <= 0x39 || $0 >= 0x61 && $0 <= 0x7a })
        else { return nil }
        return other
    }

    /// The MD5 that an answer's entity tag is; nil when it is something else.
    func md5(_ tag: String?, _ response: HTTPResponse?) -> [UInt8]? {
        guard let tag, tag.utf8.count == 32, traits.tagIsMD5 else { return nil }
        // Under these kinds of encryption the tag has the form of an MD5, and is none.
        if response?["x-amz-server-side-encryption-customer-algorithm"] != nil { return nil }
        if response?["x-amz-server-side-encryption"]?.hasPrefix("aws:kms") == true { return nil }
        return TextEncoding.bytes(hex: tag)
    }

    package func version(_ response: HTTPResponse) -> Version? {
        HTTPAnswer.tag(response["ETag"]).map { Version($0) }
    }

    package func metadata(_ head: HTTPResponse, isDirectoryKey: Bool) -> Metadata {
        metadata(head, size: HTTPAnswer.length(head), isDirectoryKey: isDirectoryKey)
    }

    func metadata(_ response: HTTPResponse, size: Int64, isDirectoryKey: Bool) -> Metadata {
        let description = POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { response["x-amz-meta-" + $0] }
        let kind = description.kind ?? .file
        return Metadata(
            kind: kind, size: kind == .directory ? 0 : size, modified: HTTPAnswer.modified(response),
            version: kind == .directory ? nil : version(response), attributes: description.attributes,
            md5: kind == .directory ? nil : md5(HTTPAnswer.tag(response["ETag"]), response))
    }

    package func head(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> HTTPResponse? {
        var call = S3Call(
            "HEAD", key, .requestsHead, .storeHead, action: "the attributes of '\(path)' could not be read", path: path)
        call.headers = configuration.customerKeyHeaders()
        call.accepted = [400, 403, 404]
        let response = try send(call)
        switch response.status {
        case 404: return nil
        case 400, 403: throw try refusal(of: key, path, response)
        default: return response
        }
    }

    /// Why HEAD was refused: its answer has no body that tells, that of GET has.
    private func refusal(of key: [UInt8], _ path: StorePath, _ response: HTTPResponse) throws(StoreError) -> StoreError
    {
        var call = S3Call(
            "GET", key, .requestsGet, .storeGet, action: "the attributes of '\(path)' could not be read", path: path)
        call.headers = configuration.customerKeyHeaders() + [("Range", "bytes=0-0")]
        call.accepted = [404, 416]
        _ = try send(call)
        return S3Errors.error(response, call.action, path: path, concernsKey: true, bucket: configuration.bucket)
    }
}
