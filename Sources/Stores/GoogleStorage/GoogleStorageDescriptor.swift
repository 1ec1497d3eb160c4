package import StoreAPI
import StoreHTTP

extension StoreDescriptor {
    package static let googleStorage = StoreDescriptor(
        scheme: "gs", otherSchemes: ["gcs"],
        summary: "A bucket of Google Cloud Storage.",
        options: [
            .init("bucket_name", .text, aliases: ["bucket"], isRequired: true, help: "The bucket; it must exist."),
            .init("prefix", .text, help: "Use only the objects below this, as if they were the whole bucket."),
            .init(
                "credentials_file", .path, aliases: ["key_file", "service_account_file"],
                help: "The JSON key of a service account, or what `gcloud auth application-default login` has made; "
                    + "not given: the file that GOOGLE_APPLICATION_CREDENTIALS names, else gcloud's own, else the machine's "
                    + "service account where this is one of Google's."),
            .init("anonymous", .flag, default: "no", help: "Send no credentials, for a public bucket."),
            .init(
                "access_key_id", .text, aliases: ["id", "user"],
                help: "An HMAC key, in place of credentials_file: the bucket is then used through the protocol of S3."),
            .init(
                "secret_access_key", .secret, aliases: ["secret", "password"],
                help: "The secret that belongs to access_key_id."),
            .init(
                "project", .text, aliases: ["billing_project", "user_project"],
                help: "The project that pays for requests to a bucket whose owner does not."),
            .init("storage_class", .text, help: "Of new objects, such as NEARLINE; not given: the bucket's."),
            .init(
                "composite_uploads", .flag, default: "yes",
                help: "Send large files as several objects at once, which are put together and removed by the server; "
                    + "no: in one piece after the other, for who may not delete or where deleting costs."),
            .init(
                "endpoint", .url, aliases: ["endpoint_url", "host"],
                default: GoogleStorageConfiguration.defaultEndpoint,
                help: "Where the service is."),
        ],
        identity: { GoogleStorageConfiguration.identity($0) },
        settingsFromURL: { _, rest in
            let parts = rest.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            guard let bucket = parts.first, !bucket.isEmpty, !bucket.contains("@") else { return nil }
            var settings = ["bucket_name": String(bucket)]
            if parts.count == 2, !parts[1].isEmpty { settings["prefix"] = String(parts[1]) }
            return settings
        },
        make: { settings, statistics throws(StoreError) in
            // By HMAC keys only the XML API is reached, which is the protocol of S3.
            // Source: <https://cloud.google.com/storage/docs/interoperability>.
            if let interoperable = try GoogleStorageConfiguration.interoperable(settings) {
                return try S3Store(interoperable, environment: ProcessEnvironment([:]), statistics: statistics)
            }
            return try GoogleStorageStore(settings, environment: .ofProcess, statistics: statistics)
        })
}

/// The settings of a Google Cloud Storage store, checked.
struct GoogleStorageConfiguration: Sendable {
    var bucket: String
    /// What all keys begin with: empty, or with a slash at its end.
    var prefix: [UInt8]
    /// Without a slash at its end.
    var endpoint: WebURL
    /// nil: it is looked for.
    var credentialsFile: String?
    var isAnonymous: Bool
    var project: String?
    var storageClass: String?
    /// Whether large objects may be put together of others.
    var composes: Bool

    static let defaultEndpoint = "https://storage.googleapis.com"

    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    init(_ settings: StoreSettings) throws(StoreError) {
        guard let bucket = settings["bucket_name"] else {
            throw StoreError(.invalidArgument, "bucket_name is missing: the name of the bucket to use")
        }
        // Source: <https://cloud.google.com/storage/docs/buckets#naming>; older ones have capitals.
        guard bucket.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && !"/?#%".utf8.contains($0) }), bucket.utf8.count <= 222
        else {
            throw StoreError(.invalidArgument, "bucket_name '\(bucket)' is no possible name of a bucket")
        }
        self.bucket = bucket
        prefix = KeyCodec.prefix(settings["prefix"])
        endpoint = try Self.endpoint(settings["endpoint"])
        credentialsFile = settings["credentials_file"]
        isAnonymous = settings.flag("anonymous")
        project = settings["project"]
        storageClass = settings["storage_class"]
        composes = settings.flag("composite_uploads", default: true)
        if isAnonymous, credentialsFile != nil {
            throw StoreError(.invalidArgument, "credentials_file is given, and anonymous = yes: which of them?")
        }
        guard isAnonymous || endpoint.mayHaveSecrets else {
            throw StoreError(
                .invalidArgument, "endpoint must begin with https://: everybody on the way could read the token else")
        }
        if let project, !project.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) {
            throw StoreError(.invalidArgument, "project '\(project)' is no possible name of a project")
        }
    }

    private static func endpoint(_ text: String?) throws(StoreError) -> WebURL {
        let text = text ?? defaultEndpoint
        guard var url = WebURL(text.contains("://") ? text : "https://" + text), url.query == nil, url.user == nil
        else {
            throw StoreError(
                .invalidArgument, "endpoint must look like \(defaultEndpoint), without a name and without '?'")
        }
        while url.path.hasSuffix("/") { url.path.removeLast() }
        return url
    }

    /// The settings of an S3 store for the same bucket by HMAC keys; nil where there are none.
    ///
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    static func interoperable(_ settings: StoreSettings) throws(StoreError) -> StoreSettings? {
        guard settings["access_key_id"] != nil || settings["secret_access_key"] != nil else { return nil }
        for other in ["credentials_file", "project"] where settings[other] != nil {
            throw StoreError(
                .invalidArgument, "access_key_id and \(other) do not go together: the former is for the protocol of S3")
        }
        if settings.flag("anonymous") {
            throw StoreError(.invalidArgument, "access_key_id is given, and anonymous = yes: which of them?")
        }
        // Its address is made of the bucket's, and signed for this "region".
        var values = ["endpoint": settings["endpoint"] ?? defaultEndpoint, "region": "auto", "addressing": "path"]
        for name in ["bucket_name", "prefix", "access_key_id", "secret_access_key", "storage_class"] {
            values[name] = settings[name]
        }
        return StoreSettings(values)
    }

    /// What a cache of this store is known by: no credentials. Through the protocol of S3 versions are others.
    static func identity(_ settings: StoreSettings) -> String {
        let address = (try? endpoint(settings["endpoint"]).description) ?? defaultEndpoint
        let place =
            "\(address)/\(settings["bucket_name"] ?? "")/"
            + String(decoding: KeyCodec.prefix(settings["prefix"]), as: UTF8.self)
        return settings["access_key_id"] == nil ? place : "s3|" + place
    }
}
