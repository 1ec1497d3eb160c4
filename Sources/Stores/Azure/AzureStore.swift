package import Statistics
package import StoreAPI
package import StoreHTTP
package import Threading

/// A container of Azure Blob Storage, or what lies below a prefix in one.
///
/// Keys are paths as they are (``KeyCodec``, ``FlatStore``); attributes are metadata of the blob (``POSIXMetadata``, whose
/// names are identifiers of C# and whose values are ASCII, as Azure wants them). A version is an entity tag without its
/// quotes. All blobs that are written are block blobs.
///
/// In an account with a hierarchical namespace directories are real. Here their keys end in a slash as those of markers in a
/// flat one do; on the wire they do not. They are made and described, and whatever is moved is moved, by the interface of
/// Data Lake Storage; all else by that of blobs.
///
/// What the service does that others do not:
/// - A dot at the end of a name is dropped, a backslash taken for a slash, control characters are refused. So keys have
///   none of these.
/// - A page of a listing may be short, or empty, though more follows.
/// - Blocks that are not committed yet belong to the blob's name, not to an upload: who commits, or writes the blob in one
///   piece, drops those of all others.
/// - Metadata come with a listing, but not those of the markers of directories.
///
/// Sources: <https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api>;
/// <https://learn.microsoft.com/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>;
/// <https://learn.microsoft.com/rest/api/storageservices/datalakestoragegen2/path>.
///
/// Locks: `state` and `shadowed` are never held together, nor across a request.
package final class AzureStore: FlatStore {
    struct State {
        var capabilities = StoreCapabilities([.rangedRead, .caseSensitive, .emptyDirectories])
        /// nil while that is not known.
        var isHierarchical: Bool?
        var tuning = StoreTuning()
    }

    /// The most characters of a blob's name; a byte is one at the most.
    /// Source: "Naming and Referencing Containers, Blobs, and Metadata".
    package let longestKey = 1024

    let configuration: AzureConfiguration
    let authentication: AzureAuthentication
    package let session: HTTPSession
    let state: Lock<State>
    /// How many blocks are being put together in memory.
    let mixedParts = Monitor(0)
    package let shadowed = Lock<Set<StorePath>>([])
    let pausing: any Pausing

    /// - Parameter transport: nil: libcurl.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package convenience init(
        _ settings: StoreSettings, statistics: Statistics, transport: (any HTTPTransport)? = nil
    ) throws(StoreError) {
        try self.init(
            settings, environment: .ofProcess, statistics: statistics, transport: transport)
    }

    init(
        _ settings: StoreSettings, environment: ProcessEnvironment, statistics: Statistics,
        transport: (any HTTPTransport)?, clock: any Clock = SystemClock(), pausing: any Pausing = SystemPause()
    ) throws(StoreError) {
        let configuration = try AzureConfiguration(settings, environment: environment)
        let transport = transport ?? HTTPClient(HTTPClientOptions(), statistics: statistics)
        self.configuration = configuration
        self.pausing = pausing
        authentication = AzureAuthentication(
            configuration, transport: transport, statistics: statistics, clock: clock, pausing: pausing)
        session = HTTPSession(
            transport: transport, signer: authentication, statistics: statistics, clock: clock, pausing: pausing)
        var state = State()
        state.capabilities.longestPath = longestKey - configuration.prefix.count
        self.state = Lock(state)
    }

    package var keyPrefix: [UInt8] { configuration.prefix }
    package var place: String { "container '\(configuration.container)'" }
    package var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }
    package var keepsControls: Bool? { false }
    package var keepsMarks: Bool { false }
    var isHierarchical: Bool { state.withLock { $0.isHierarchical } ?? false }

    // MARK: The account

    package func accountInformation() throws(StoreError) -> [AccountField] {
        var fields = [
            AccountField("store", "Azure Blob Storage"), AccountField("endpoint", configuration.endpoint.description),
            AccountField("account", configuration.account), AccountField("container", configuration.container),
        ]
        if !configuration.prefix.isEmpty {
            fields.append(AccountField("prefix", String(decoding: configuration.prefix, as: UTF8.self)))
        }
        let isHierarchical = state.withLock { $0.isHierarchical }
        fields.append(
            AccountField("namespace", isHierarchical.map { $0 ? "hierarchical" : "flat" } ?? "not told, taken for flat")
        )
        fields.append(AccountField("credentials", configuration.credentials.description))
        return fields
    }

    package func tune(_ tuning: StoreTuning) {
        state.withLock { $0.tuning = tuning }
        authentication.tune(tuning)
        session.tune(tuning)
    }

    package func reconnect() { session.reconnect() }

    package func shutdown() {
        pausing.interrupt()
        authentication.shutdown()
        session.shutdown()
    }
}

// MARK: Requests

/// What a request to an account is about, and how its answers are taken.
struct AzureSubject {
    enum Service { case blobs, dataLake }

    var service = Service.blobs
    /// The whole key; nil: the container.
    var key: [UInt8]?
    /// Errors that are answers too, by what they mean.
    var expected: Set<StoreError.Code> = []
}

typealias AzureCall = StoreCall<AzureSubject>

extension AzureCall {
    var service: AzureSubject.Service {
        get { target.service }
        set { target.service = newValue }
    }
    var expected: Set<StoreError.Code> {
        get { target.expected }
        set { target.expected = newValue }
    }
    var key: [UInt8]? { target.key }

    init(
        _ method: String, _ key: [UInt8]?, _ counter: Counter, _ operation: TimedOperation, action: String,
        path: StorePath? = nil
    ) {
        self.init(method, target: AzureSubject(key: key), counter, operation, action: action, path: path)
    }
}

/// What became of a request: an answer, or one of the errors that it expects.
enum AzureOutcome {
    case done(HTTPResponse)
    case refused(StoreError, HTTPResponse)

    /// nil: it was refused.
    var answer: HTTPResponse? { if case .done(let response) = self { response } else { nil } }
}

extension AzureStore {
    /// - Throws: ``StoreError``: also what the call expects.
    func send(_ call: AzureCall) throws(StoreError) -> HTTPResponse {
        switch try attempt(call) {
        case .done(let response): return response
        case .refused(let error, _): throw error
        }
    }

    func attempt(_ call: AzureCall) throws(StoreError) -> AzureOutcome {
        let request = call.request(try url(call.service, call.key, call.query))
        func fault(_ response: HTTPResponse) -> StoreError? {
            (200..<300).contains(response.status) ? nil : AzureErrors.error(response, call, configuration)
        }
        let response = try session.send(request) { response in
            guard let error = fault(response) else { return call.verify?(response) }
            return call.expected.contains(error.code) ? nil : error
        }
        if let error = fault(response) { return .refused(error, response) }
        return .done(response)
    }

    func url(_ service: AzureSubject.Service, _ key: [UInt8]?, _ query: [(name: String, value: String?)] = [])
        throws(StoreError) -> String
    {
        guard let base = service == .blobs ? configuration.endpoint : configuration.dataLakeEndpoint else {
            throw StoreError(
                .invalidArgument,
                "the account '\(configuration.account)' has a hierarchical namespace, whose address does not follow from "
                    + "endpoint: set dfs_endpoint")
        }
        var url = base.description + "/" + TextEncoding.percentEncode(configuration.container)
        if let key { url += "/" + TextEncoding.percentEncode(onWire(key), keeping: "/") }
        let pairs = query.map { TextEncoding.percentEncode($0) + "=" + TextEncoding.percentEncode($1 ?? "") }
        return pairs.isEmpty ? url : url + "?" + pairs.joined(separator: "&")
    }

    /// The name of a blob or directory as the service has it.
    func onWire(_ key: [UInt8]) -> ArraySlice<UInt8> {
        isHierarchical && key.last == UInt8(ascii: "/") ? key.dropLast() : key[...]
    }

    /// Of a key without a slash only a blob that is no directory.
    package func head(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> HTTPResponse? {
        guard let response = try headOfAny(key, path) else { return nil }
        let isDirectory = Self.isDirectory(response)
        if key.last == UInt8(ascii: "/") { return isHierarchical && !isDirectory ? nil : response }
        return isDirectory ? nil : response
    }

    /// Also where a blob, or a directory, has the key of the other.
    func headOfAny(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> HTTPResponse? {
        var call = AzureCall(
            "HEAD", key, .requestsHead, .storeHead, action: "the attributes of '\(path)' could not be read", path: path)
        // What would be below a file is a conflict in a hierarchical namespace.
        call.expected = [.notFound, .alreadyExists]
        return try attempt(call).answer
    }

    /// Where nothing has a key below it, there may still be the blob by which Hadoop marks a directory in a flat account.
    package func directory(_ path: StorePath) throws(StoreError) -> Metadata? {
        let marker = try key(path, asDirectory: true)
        if isHierarchical {
            return try head(marker, path).map { metadata($0, isDirectoryKey: true) }
        }
        if let found = try listedDirectory(path) { return found }
        return try markedDirectory(path).map { metadata($0, isDirectoryKey: true) }
    }

    /// Hadoop's marker, whose key is the directory's own: only of a flat account.
    func markedDirectory(_ path: StorePath) throws(StoreError) -> HTTPResponse? {
        let found = try headOfAny(try key(path), path)
        return found.flatMap { Self.isDirectory($0) ? $0 : nil }
    }

    // MARK: What a blob's head says

    static let metadataPrefix = "x-ms-meta-"
    /// Of directories: told of those of a hierarchical namespace, and written by Hadoop and by this program in a flat one.
    static let folderName = "hdi_isfolder"
    /// As ``FlatStore/markName``, whose dash Azure does not take. An underscore it would, but not every server sorts that
    /// alike.
    static let markName = "cloudfusionwrite"

    static func isDirectory(_ response: HTTPResponse) -> Bool {
        response[metadataPrefix + folderName]?.lowercased() == "true"
    }

    static func mark(_ response: HTTPResponse) -> String? { response[metadataPrefix + markName] }

    package func version(_ response: HTTPResponse) -> Version? {
        HTTPAnswer.tag(response["ETag"]).map { Version($0) }
    }

    /// The MD5 of a whole blob, where it is known. Of a range it is that of the range.
    static func md5(_ response: HTTPResponse) -> [UInt8]? {
        let text = response["x-ms-blob-content-md5"] ?? (response.status == 206 ? nil : response["Content-MD5"])
        return text.flatMap { TextEncoding.bytes(base64: $0) }.flatMap { $0.count == 16 ? $0 : nil }
    }

    package func metadata(_ head: HTTPResponse, isDirectoryKey: Bool) -> Metadata {
        metadata(head, size: HTTPAnswer.length(head), isDirectoryKey: isDirectoryKey)
    }

    func metadata(_ response: HTTPResponse, size: Int64, isDirectoryKey: Bool) -> Metadata {
        let isDirectory = isDirectoryKey || Self.isDirectory(response)
        let description = POSIXMetadata.decode(isDirectoryKey: isDirectory) { response[Self.metadataPrefix + $0] }
        let kind = description.kind ?? .file
        return Metadata(
            kind: kind, size: kind == .directory ? 0 : size, modified: HTTPAnswer.modified(response),
            version: kind == .directory ? nil : version(response), attributes: description.attributes,
            md5: kind == .directory ? nil : Self.md5(response))
    }

    // MARK: Metadata of a new blob

    /// The most bytes of all names and values of metadata.
    /// Source: <https://learn.microsoft.com/rest/api/storageservices/setting-and-retrieving-properties-and-metadata-for-blob-resources>.
    private static let longestMetadata = 8 << 10

    /// Metadata that describe a blob.
    ///
    /// - Parameter others: Bytes that other metadata take.
    /// - Returns: The attributes that they carry, too: without extended ones when those were too many.
    func described(_ kind: FileKind, _ attributes: Attributes, others: Int = 0) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        var kept = attributes
        let (values, keepsExtended) = POSIXMetadata.encode(
            kind, attributes, limit: max(POSIXMetadata.limit / 4, Self.longestMetadata - 256 - others))
        if !keepsExtended { kept.extended = nil }
        var headers = values.map { (name: Self.metadataPrefix + $0.name, value: $0.value) }
        if kind == .directory, !isHierarchical { headers.append((Self.metadataPrefix + Self.folderName, "true")) }
        return (headers, kept)
    }

    /// Metadata for a blob that is to have other attributes: all that it says of itself, with those changed.
    func described(_ found: HTTPResponse, isDirectoryKey: Bool, _ changes: Attributes) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        let known = POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { found[Self.metadataPrefix + $0] }
        let others = HTTPAnswer.described(found, prefix: Self.metadataPrefix, kept: []) { name in
            POSIXMetadata.names.contains(name) || name == Self.markName || name == Self.folderName
        }
        let size = others.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count }
        let own = described(known.kind ?? .file, known.attributes.merging(changes), others: size)
        return (others + own.headers, own.kept)
    }
}
