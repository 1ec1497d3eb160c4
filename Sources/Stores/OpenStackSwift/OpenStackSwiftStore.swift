package import Statistics
package import StoreAPI
package import StoreHTTP
package import Threading

/// A container of OpenStack Swift, or of a server that speaks its protocol, or what lies below a prefix in one.
///
/// Keys are paths as they are (``KeyCodec``, ``FlatStore``); attributes are metadata of the object
/// (``POSIXMetadata``). A version is an entity tag without its quotes; that of an object in segments has a mark at its end.
///
/// Large files are static large objects: segments in the container `NAME_segments`, and a manifest in the object's place.
/// A manifest of this program owns the segments that lie below the digest of its own key and the name in its metadata
/// (``OpenStackSwiftSegments``): no two of them ever share one (copies have copies of the segments), so that they can be
/// deleted with it. Segments of other programs are left alone. (Ceph does not tell what is in a manifest.)
///
/// What servers do, beyond what is found out by ``connect()``:
/// - `If-None-Match: *` narrows a race and does not decide it: of 16 that create an object at once, 12 can win on Swift,
///   and all on Ceph. `If-Match` of a PUT is ignored. So there is no conditional writing.
/// - Swift answers 404 for an object that is just being replaced (``HTTPAnswer/mayMissObject(_:)``), and confirms the older
///   of two simultaneous writes with 202 and without an entity tag.
/// - A copy of an object in segments shares them on Ceph, and is an object in one piece on Swift.
/// - Listings tell neither metadata, nor on Ceph the size of an object in segments; that of a dynamic large object (made by
///   others) on neither. All these are listed with the MD5 of no bytes, and looked at one by one.
///
/// Sources: <https://docs.openstack.org/api-ref/object-store/>; <https://docs.openstack.org/swift/latest/overview_large_objects.html>;
/// the code of Swift 2.30; trials with that and with Ceph 16.
package final class OpenStackSwiftStore: FlatStore {
    struct State {
        var capabilities = StoreCapabilities([.rangedRead, .caseSensitive, .emptyDirectories])
        var traits = OpenStackSwiftTraits()
        var tuning = StoreTuning()
    }

    let configuration: OpenStackSwiftConfiguration
    let authentication: OpenStackAuthentication
    package let session: HTTPSession
    let state: Lock<State>
    /// How many segments are being put together in memory.
    let mixedParts = Monitor(0)
    package let shadowed = Lock<Set<StorePath>>([])
    /// Objects that were found to have no bytes, with the time that the listing tells of them.
    let empty = Lock<[[UInt8]: Timestamp]>([:])

    /// - Parameter transport: nil: libcurl.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package convenience init(
        _ settings: StoreSettings, statistics: Statistics, transport: (any HTTPTransport)? = nil
    ) throws(StoreError) {
        try self.init(
            settings, environment: OpenStackSwiftConfiguration.processEnvironment, statistics: statistics,
            transport: transport)
    }

    init(
        _ settings: StoreSettings, environment: @escaping (String) -> String?, statistics: Statistics,
        transport: (any HTTPTransport)?
    ) throws(StoreError) {
        let configuration = try OpenStackSwiftConfiguration(settings, environment: environment)
        let transport = transport ?? HTTPClient(HTTPClientOptions(), statistics: statistics)
        self.configuration = configuration
        authentication = OpenStackAuthentication(configuration, transport: transport, statistics: statistics)
        session = HTTPSession(transport: transport, signer: authentication, statistics: statistics)
        var state = State()
        state.capabilities.longestPath = state.traits.longestKey - configuration.prefix.count
        self.state = Lock(state)
    }

    package var keyPrefix: [UInt8] { configuration.prefix }
    package var longestKey: Int { traits.longestKey }
    package var place: String { "container '\(configuration.container)'" }
    package var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }
    package var keepsControls: Bool? { traits.keepsControls }
    var traits: OpenStackSwiftTraits { state.withLock { $0.traits } }

    // MARK: The account

    package func accountInformation() throws(StoreError) -> [AccountField] {
        var fields = [
            AccountField("store", "OpenStack Swift"), AccountField("login", configuration.login.url.description),
            AccountField("container", configuration.container),
        ]
        if let region = configuration.region { fields.append(AccountField("region", region)) }
        if !configuration.prefix.isEmpty {
            fields.append(AccountField("prefix", String(decoding: configuration.prefix, as: UTF8.self)))
        }
        return fields
    }

    /// What quotas of the container and of the account leave.
    package func spaceUsage() throws(StoreError) -> SpaceUsage {
        func number(_ response: HTTPResponse, _ name: String) -> Int64? { HTTPAnswer.size(response[name]) }
        let container = try send(
            OpenStackSwiftCall(
                "HEAD", nil, .requestsOther, .storeOther, action: "the space in \(place) could not be found out"))
        var call = OpenStackSwiftCall(
            "HEAD", nil, .requestsOther, .storeOther, action: "the space in the account could not be found out")
        call.container = nil
        // Who is let into one container only is not told of the account.
        call.accepted = [403, 404]
        let account = try send(call)
        var usage = SpaceUsage(used: number(container, "X-Container-Bytes-Used"))
        let quotas = [
            (number(container, "X-Container-Meta-Quota-Bytes"), usage.used),
            (number(account, "X-Account-Meta-Quota-Bytes"), number(account, "X-Account-Bytes-Used")),
        ]
        for case (let quota?, let used) in quotas {
            let free = max(0, quota - (used ?? 0))
            guard usage.free.map({ free < $0 }) ?? true else { continue }
            usage.free = free
            usage.total = (usage.used ?? 0) + free
        }
        return usage
    }

    package func tune(_ tuning: StoreTuning) {
        state.withLock { $0.tuning = tuning }
        authentication.tune(tuning)
        session.tune(tuning)
    }

    package func reconnect() { session.reconnect() }

    package func shutdown() {
        authentication.shutdown()
        session.shutdown()
    }
}

/// What a server says and has been seen to do, beyond the capabilities. What is not told is as Swift has it by default.
struct OpenStackSwiftTraits: Hashable, Sendable {
    var longestKey = 1024
    var largestFile: Int64 = 5 << 30
    /// The most bytes of one value of metadata, and of all names and values together.
    var longestValue = 256
    var longestMetadata = 4096
    var listingLimit = 1000
    /// The most segments of an object; nil: there are no static large objects.
    var mostSegments: Int?
    /// How many objects one request deletes; 1: there is no such request.
    var deleteBatch = 1
    /// Entity tags of 32 hexadecimal digits are the MD5 of the object, unless that is in segments.
    var tagIsMD5 = false
    /// Reads of objects in segments fail with their entity tag as the condition, though it is right.
    var refusesTagsOfSegments = false
    /// Copies check the version of their source.
    var checksCopySource = false
    /// Keys with control characters are taken, and listed as they are; nil while that is not known.
    var keepsControls: Bool?
}

// MARK: Requests

/// What a request to OpenStack Swift is about, and how its answers are taken.
struct OpenStackSwiftSubject {
    enum Place { case own, segments }

    /// nil: the account.
    var container: Place? = .own
    /// The whole key; nil: the container.
    var key: [UInt8]?
    /// Whether it is good enough to know what is missing at the first look.
    var believesMiss = false
}

typealias OpenStackSwiftCall = StoreCall<OpenStackSwiftSubject>

extension OpenStackSwiftCall {
    typealias Place = OpenStackSwiftSubject.Place

    var container: Place? {
        get { target.container }
        set { target.container = newValue }
    }
    var key: [UInt8]? { target.key }

    init(
        _ method: String, _ key: [UInt8]?, _ counter: Counter, _ operation: TimedOperation, action: String,
        path: StorePath? = nil
    ) {
        self.init(method, target: OpenStackSwiftSubject(key: key), counter, operation, action: action, path: path)
    }
}

extension OpenStackSwiftStore {
    func send(_ call: OpenStackSwiftCall) throws(StoreError) -> HTTPResponse {
        var missedBefore = call.target.believesMiss || call.key == nil || call.method == "DELETE"
        while true {
            let request = call.request(url(call, try authentication.access().storageURL))
            let response = try session.send(request) { response in
                if (200..<300).contains(response.status) { return call.verify?(response) }
                if call.accepted.contains(response.status) { return nil }
                if !missedBefore, HTTPAnswer.mayMissObject(response) { return nil }
                return OpenStackSwiftErrors.error(response, call, place)
            }
            guard !missedBefore, HTTPAnswer.mayMissObject(response) else { return response }
            missedBefore = true
        }
    }

    private func url(_ call: OpenStackSwiftCall, _ storage: WebURL) -> String {
        var url = storage.description
        if let container = call.container { url += "/" + TextEncoding.percentEncode(name(container)) }
        if let key = call.key { url += "/" + TextEncoding.percentEncode(key, keeping: "/") }
        let pairs = call.query.map { name, value in
            TextEncoding.percentEncode(name) + (value.map { "=" + TextEncoding.percentEncode($0) } ?? "")
        }
        return pairs.isEmpty ? url : url + "?" + pairs.joined(separator: "&")
    }

    func name(_ container: OpenStackSwiftCall.Place) -> String {
        container == .own ? configuration.container : configuration.segmentsContainer
    }

    /// As a header or a manifest names an object: "/container/key".
    func reference(_ container: OpenStackSwiftCall.Place, _ key: [UInt8]) -> String {
        "/" + TextEncoding.percentEncode(name(container)) + "/" + TextEncoding.percentEncode(key, keeping: "/")
    }

    package func head(_ key: [UInt8], _ path: StorePath) throws(StoreError) -> HTTPResponse? {
        try head(key, path, isNewest: false)
    }

    /// - Parameter isNewest: All replicas are asked, not any one of them: for what is decided by it.
    func head(_ key: [UInt8], _ path: StorePath, isNewest: Bool, believesMiss: Bool = false) throws(StoreError)
        -> HTTPResponse?
    {
        var call = OpenStackSwiftCall(
            "HEAD", key, .requestsHead, .storeHead, action: "the attributes of '\(path)' could not be read", path: path)
        if isNewest { call.headers.append(("X-Newest", "true")) }
        call.target.believesMiss = believesMiss
        call.accepted = [404]
        let response = try send(call)
        return response.status == 404 ? nil : response
    }

    // MARK: What an object's head says

    static let metadataPrefix = "X-Object-Meta-"
    /// At the end of the versions of objects in segments.
    static let segmentsMark = "-segments"

    static func isInSegments(_ response: HTTPResponse) -> Bool { isStatic(response) || isDynamic(response) }
    static func isStatic(_ response: HTTPResponse) -> Bool {
        response["X-Static-Large-Object"]?.lowercased() == "true"
    }
    static func isDynamic(_ response: HTTPResponse) -> Bool { response["X-Object-Manifest"] != nil }

    static func version(_ response: HTTPResponse) -> Version? {
        HTTPAnswer.tag(response["ETag"]).map { Version($0 + (isInSegments(response) ? segmentsMark : "")) }
    }

    /// The entity tag of a version, and whether it is of an object in segments.
    static func tag(_ version: Version) -> (text: String, isInSegments: Bool) {
        let isInSegments = version.text.hasSuffix(segmentsMark)
        return (isInSegments ? String(version.text.dropLast(segmentsMark.count)) : version.text, isInSegments)
    }

    /// The MD5 that an answer's entity tag is; nil when it is something else.
    func md5(_ response: HTTPResponse) -> [UInt8]? {
        guard let tag = HTTPAnswer.tag(response["ETag"]), tag.utf8.count == 32, traits.tagIsMD5,
            !Self.isInSegments(response)
        else { return nil }
        return TextEncoding.bytes(hex: tag)
    }

    func description(_ response: HTTPResponse, isDirectoryKey: Bool) -> POSIXMetadata.Description {
        POSIXMetadata.decode(isDirectoryKey: isDirectoryKey) { name in
            guard var value = response[Self.metadataPrefix + name] else { return nil }
            var number = 1
            while let more = response["\(Self.metadataPrefix)\(name)-\(number)"] {
                value += more
                number += 1
            }
            return value
        }
    }

    package func version(_ response: HTTPResponse) -> Version? { Self.version(response) }

    package func metadata(_ head: HTTPResponse, isDirectoryKey: Bool) -> Metadata {
        metadata(head, size: HTTPAnswer.length(head), isDirectoryKey: isDirectoryKey)
    }

    func metadata(_ response: HTTPResponse, size: Int64, isDirectoryKey: Bool) -> Metadata {
        let description = description(response, isDirectoryKey: isDirectoryKey)
        let kind = description.kind ?? .file
        return Metadata(
            kind: kind, size: kind == .directory ? 0 : size, modified: HTTPAnswer.modified(response),
            version: kind == .directory ? nil : Self.version(response), attributes: description.attributes,
            md5: kind == .directory ? nil : md5(response))
    }

    // MARK: Metadata of a new object

    /// Values that are longer than the server takes go on under the same name with a number.
    func headers(_ kind: FileKind, _ attributes: Attributes) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        let traits = traits
        var kept = attributes
        let encoded = POSIXMetadata.encode(
            kind, attributes, limit: min(POSIXMetadata.limit, traits.longestMetadata / 2))
        if !encoded.keepsExtended { kept.extended = nil }
        var headers: [(name: String, value: String)] = []
        for (name, value) in encoded.values {
            var rest = Substring(value)
            var number = 0
            repeat {
                let suffix = number == 0 ? "" : "-\(number)"
                headers.append((Self.metadataPrefix + name + suffix, String(rest.prefix(traits.longestValue))))
                rest = rest.dropFirst(traits.longestValue)
                number += 1
            } while !rest.isEmpty
        }
        return (headers, kept)
    }

    /// Headers for an object that is to have other attributes: all that it says of itself, with those changed.
    func described(_ found: HTTPResponse, isDirectoryKey: Bool, _ changes: Attributes) -> (
        headers: [(name: String, value: String)], kept: Attributes
    ) {
        let known = description(found, isDirectoryKey: isDirectoryKey)
        let own = headers(known.kind ?? .file, known.attributes.merging(changes))
        let others = HTTPAnswer.described(found, prefix: Self.metadataPrefix, kept: Self.keptHeaders) { name in
            let words = name.split(separator: "-", maxSplits: 1)
            let isAttribute = POSIXMetadata.names.contains(String(words.first ?? ""))
            return isAttribute && (words.count < 2 || words[1].allSatisfy(\.isNumber)) || name == Self.markName
                || name == OpenStackSwiftSegments.markName || name == "static-large-object"
        }
        return (others + own.headers, own.kept)
    }

    /// What is lost by a POST that does not repeat it, and by a copy with fresh metadata.
    private static let keptHeaders = [
        "Content-Type", "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Expires",
        "X-Delete-At", "X-Robots-Tag",
    ]
}

/// What answers mean to a caller: the one table from an answer to a ``StoreError``.
enum OpenStackSwiftErrors {
    static func error(_ response: HTTPResponse, _ call: OpenStackSwiftCall, _ place: String) -> StoreError {
        let body = String(decoding: response.body.prefix(1000), as: UTF8.self).lowercased()
        let code: StoreError.Code =
            switch response.status {
            case 404 where call.key == nil || call.method == "PUT": .storeNotFound
            // The middleware for quotas: "Upload exceeds quota."; Ceph: "QuotaExceeded".
            case 413 where body.contains("quota"), 403 where body.contains("quotaexceeded"): .quotaExceeded
            // The bytes that came have not the MD5 that was said.
            case 422: .corrupted
            case let status: HTTPResponse(status: status).errorCode ?? .internal
            }
        var cause = response.summary
        if let id = response["X-Openstack-Request-Id"] ?? response["X-Trans-Id"] { cause += ", request \(id)" }
        return StoreError(
            code, "\(call.action): status \(response.status)\(advice(code, call, place))", path: call.path,
            cause: cause)
    }

    private static func advice(_ code: StoreError.Code, _ call: OpenStackSwiftCall, _ place: String) -> String {
        switch code {
        case .storeNotFound where call.container == .own:
            "; there is no \(place) in this account: check container, project and region"
        case .authenticationFailed: "; the server does not take the token: check user, password and project"
        case .accessDenied: "; the user's role or the container's access list does not permit this"
        case .quotaExceeded: "; the quota of the container or of the account is used up, or the store is full"
        case .tooLarge: "; the store does not take objects of this size"
        case .invalidName: "; the store does not take this name"
        case .corrupted: "; the bytes did not arrive as they were sent"
        default: ""
        }
    }
}
