import FoundationEssentials
package import Statistics
package import StoreAPI
package import StoreHTTP
package import Threading

/// A bucket of Google Cloud Storage, by its JSON API, or what lies below a prefix in one.
///
/// Keys are paths (``KeyCodec``, ``FlatStore``), control characters quoted, since names must not have line ends;
/// attributes are metadata of the object (``POSIXMetadata``), and come with listings. A version is a generation, which
/// names one state of the bytes for good; attributes are kept apart by the metageneration.
///
/// Large files are sent as component objects, several at a time, and put together by the server.
///
/// Source: <https://cloud.google.com/storage/docs/json_api/v1/>. What other servers do differently is found out by
/// ``connect()``.
///
/// Locks: `state` and `shadowed` are never held together, nor across a request.
package final class GoogleStorageStore: FlatStore {
    struct State {
        var capabilities = StoreCapabilities([.rangedRead, .caseSensitive, .emptyDirectories])
        var traits = GoogleStorageTraits()
        var tuning = StoreTuning()
    }

    /// Source: <https://cloud.google.com/storage/docs/objects#naming>: in UTF-8.
    package let longestKey = 1024
    /// 5 TiB. Source: <https://cloud.google.com/storage/quotas>.
    static let largestObject: Int64 = 5 << 40

    let configuration: GoogleStorageConfiguration
    let authentication: GoogleAuthentication?
    package let session: HTTPSession
    let state: Lock<State>
    package let shadowed = Lock<Set<StorePath>>([])

    /// - Parameter transport: nil: libcurl.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package init(
        _ settings: StoreSettings, environment: ProcessEnvironment, statistics: Statistics,
        transport: (any HTTPTransport)? = nil
    ) throws(StoreError) {
        let configuration = try GoogleStorageConfiguration(settings)
        let transport = transport ?? HTTPClient(HTTPClientOptions(), statistics: statistics)
        self.configuration = configuration
        authentication =
            configuration.isAnonymous
            ? nil
            : GoogleAuthentication(
                credentialsFile: configuration.credentialsFile, environment: environment, transport: transport,
                statistics: statistics)
        session = HTTPSession(transport: transport, signer: authentication, statistics: statistics)
        var state = State()
        state.capabilities.longestPath = longestKey - configuration.prefix.count
        self.state = Lock(state)
    }

    package var keyPrefix: [UInt8] { configuration.prefix }
    package var place: String { "bucket '\(configuration.bucket)'" }
    package var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }
    /// Names must not have carriage returns and line feeds.
    /// Source: <https://cloud.google.com/storage/docs/objects#naming>.
    package var keepsControls: Bool? { false }
    var traits: GoogleStorageTraits { state.withLock { $0.traits } }

    // MARK: The account

    package func accountInformation() throws(StoreError) -> [AccountField] {
        var fields = [
            AccountField("store", "Google Cloud Storage"),
            AccountField("endpoint", configuration.endpoint.description),
            AccountField("bucket", configuration.bucket),
        ]
        if !configuration.prefix.isEmpty {
            fields.append(AccountField("prefix", String(decoding: configuration.prefix, as: UTF8.self)))
        }
        if let project = configuration.project { fields.append(AccountField("project", project)) }
        let origin = authentication.map { $0.origin ?? "not needed yet" }
        fields.append(AccountField("credentials", origin ?? "none (anonymous)"))
        return fields
    }

    package func tune(_ tuning: StoreTuning) {
        state.withLock { $0.tuning = tuning }
        authentication?.tune(tuning)
        session.tune(tuning)
    }

    package func reconnect() { session.reconnect() }

    package func shutdown() {
        authentication?.shutdown()
        session.shutdown()
    }
}

/// What a server has been seen to do, beyond the capabilities.
struct GoogleStorageTraits: Hashable, Sendable {
    /// `ifGenerationMatch` is checked where objects are written …
    var checksWrites = false
    /// … and deleted.
    var checksDeletions = false
    /// Answers with bytes tell of which generation they are.
    var tellsGeneration = true
    /// Objects can be put together of others.
    var composes = false
}

// MARK: Requests

/// What a request to Google Cloud Storage is about.
enum GoogleStorageTarget {
    /// All objects of the bucket.
    case objects
    case object([UInt8])
    /// An object that is to be made of bytes that come along or later.
    case upload
    /// An object that is to be made of others.
    case composition([UInt8])
    case rewriting([UInt8], to: [UInt8])
    /// An upload in the making, by path and query of its address.
    case session(String)
}

typealias GoogleStorageCall = StoreCall<GoogleStorageTarget>

extension GoogleStorageStore {
    func send(_ call: GoogleStorageCall) throws(StoreError) -> HTTPResponse {
        try session.send(request(call)) { response in fault(response, call) }
    }

    /// With its URL.
    func request(_ call: GoogleStorageCall) -> HTTPRequest {
        var request = call.request(url(call))
        if let project = configuration.project { request["X-Goog-User-Project"] = project }
        return request
    }

    func fault(_ response: HTTPResponse, _ call: GoogleStorageCall) -> StoreError? {
        if (200..<300).contains(response.status) || call.accepted.contains(response.status) {
            return call.verify?(response)
        }
        return GoogleStorageErrors.error(response, call, configuration)
    }

    private func url(_ call: GoogleStorageCall) -> String {
        let base = configuration.endpoint.description
        let objects = "/storage/v1/b/" + TextEncoding.percentEncode(configuration.bucket) + "/o"
        var url: String
        switch call.target {
        case .objects: url = base + objects
        case .object(let key): url = base + objects + "/" + TextEncoding.percentEncode(key)
        case .upload: url = base + "/upload" + objects
        case .composition(let key): url = base + objects + "/" + TextEncoding.percentEncode(key) + "/compose"
        case .rewriting(let source, let key):
            url = base + objects + "/" + TextEncoding.percentEncode(source) + "/rewriteTo/b/"
            url += TextEncoding.percentEncode(configuration.bucket) + "/o/" + TextEncoding.percentEncode(key)
        case .session(let target): return configuration.endpoint.origin + target
        }
        let pairs = call.query.map { name, value in name + "=" + TextEncoding.percentEncode(value ?? "") }
        return pairs.isEmpty ? url : url + "?" + pairs.joined(separator: "&")
    }

    /// Sends a call of which the answer is an object.
    ///
    /// - Returns: nil for an answer that ``StoreCall/accepted`` has.
    func object(_ call: GoogleStorageCall) throws(StoreError) -> GoogleStorageObject? {
        let response = try send(call)
        return call.accepted.contains(response.status) ? nil : try object(response, call)
    }

    func object(_ response: HTTPResponse, _ call: GoogleStorageCall) throws(StoreError) -> GoogleStorageObject {
        try decode(GoogleStorageObject.self, response, call)
    }

    func decode<Answer: Decodable>(_ type: Answer.Type, _ response: HTTPResponse, _ call: GoogleStorageCall)
        throws(StoreError) -> Answer
    {
        guard let answer = try? JSONDecoder().decode(type, from: Data(response.body)) else {
            throw StoreError(
                .internal,
                "\(call.action): the server did not answer as Google Cloud Storage does: check endpoint",
                path: call.path)
        }
        return answer
    }

    func encode(_ body: some Encodable) throws(StoreError) -> [UInt8] {
        let encoder = JSONEncoder()
        // The same each time: an upload that is taken up again is known by it.
        encoder.outputFormatting = .sortedKeys
        do { return Array(try encoder.encode(body)) } catch {
            throw StoreError(.internal, "a request could not be written: \(error)")
        }
    }

    static let jsonType = (name: "Content-Type", value: "application/json; charset=UTF-8")

    package func head(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> GoogleStorageObject? {
        var call = GoogleStorageCall(
            "GET", target: .object(key), .requestsHead, .storeHead,
            action: "the attributes of '\(path)' could not be read", path: path)
        call.query = [("projection", "noAcl")]
        call.accepted = [404]
        return try object(call)
    }

    package func metadata(_ head: GoogleStorageObject, isDirectoryKey: Bool) -> Metadata {
        head.metadata(isDirectoryKey: isDirectoryKey)
    }

    package func version(_ head: GoogleStorageObject) -> Version? { head.version }

    // MARK: What is said of a new object

    /// - Returns: Also the attributes that it carries: without extended ones when those were too many.
    func description(_ path: StorePath, _ kind: FileKind, _ attributes: Attributes) -> (
        description: GoogleStorageDescription, kept: Attributes
    ) {
        let own = values(kind, attributes)
        let type = kind == .file ? path.name.map { ContentTypes.type(of: $0) } : nil
        let directory = kind == .directory ? ContentTypes.directory : nil
        return (
            GoogleStorageDescription(contentType: directory ?? type ?? ContentTypes.unknown, metadata: own.values),
            own.kept
        )
    }

    private func values(_ kind: FileKind, _ attributes: Attributes) -> (values: [String: String?], kept: Attributes) {
        let encoded = POSIXMetadata.encode(kind, attributes, limit: GoogleStorageDescription.limit)
        var kept = attributes
        if !encoded.keepsExtended { kept.extended = nil }
        return (Dictionary(encoded.values.map { ($0.name, $0.value) }, uniquingKeysWith: { a, _ in a }), kept)
    }

    /// For an object that is to have other attributes: all that it says of itself, with those changed.
    func described(_ found: GoogleStorageObject, isDirectoryKey: Bool, _ changes: Attributes) -> (
        description: GoogleStorageDescription, kept: Attributes
    ) {
        let known = found.description.metadata ?? [:]
        let before = POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { known[$0] ?? nil }
        let own = values(before.kind ?? .file, before.attributes.merging(changes))
        var result = found.description
        // What other programs have written stays.
        let others = known.filter {
            $0.value != nil && !POSIXMetadata.names.contains($0.key) && $0.key != Self.markName
        }
        result.metadata = others.merging(own.values) { $1 }
        return (result, own.kept)
    }
}
