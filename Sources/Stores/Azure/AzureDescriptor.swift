package import StoreAPI
import StoreHTTP

extension StoreDescriptor {
    package static let azure = StoreDescriptor(
        scheme: "azure", otherSchemes: ["az", "abfss", "abfs", "wasbs", "wasb"],
        summary: "A container of Azure Blob Storage, flat or with the directories of Data Lake Storage.",
        options: [
            .init(
                "container", .text, aliases: ["bucket_name", "bucket", "filesystem"], isRequired: true,
                help: "The container; it must exist."),
            .init("prefix", .text, help: "Use only the blobs below this, as if they were the whole container."),
            .init(
                "account", .text, aliases: ["account_name", "storage_account"],
                help: "The name of the storage account; not given: that of connection_string, or of endpoint."),
            .init(
                "endpoint", .url, aliases: ["blob_endpoint", "url", "host"],
                help: "Where the account's blobs are; not given: https://ACCOUNT.blob.core.windows.net."),
            .init(
                "dfs_endpoint", .url, aliases: ["data_lake_endpoint"],
                help: "Where its Data Lake Storage is; not given: endpoint with dfs in place of blob."),
            .init("account_key", .secret, aliases: ["key", "access_key", "shared_key"], help: "A key of the account."),
            .init(
                "sas_token", .secret, aliases: ["sas"],
                help: "A shared access signature: what stands behind the '?' of a URL."),
            .init(
                "connection_string", .secret,
                help: "Account, endpoint, and a key or a shared access signature in one, as the portal shows it."),
            .init(
                "tenant_id", .text, aliases: ["tenant"], help: "The directory of Microsoft Entra that knows client_id."),
            .init(
                "client_id", .text, aliases: ["application_id"],
                help: "An application of Microsoft Entra; with managed_identity, which of several identities."),
            .init("client_secret", .secret, aliases: ["secret", "password"], help: "The secret of client_id."),
            .init(
                "authority", .url, aliases: ["authority_host"],
                help: "Where client_id logs in; not given: https://login.microsoftonline.com."),
            .init(
                "managed_identity", .flag, default: "no",
                help: "Use the identity that Azure has given to this virtual machine or service."),
            .init("anonymous", .flag, default: "no", help: "Send no credentials, for a public container."),
            .init(
                "access_tier", .choice(["default", "Hot", "Cool", "Cold"]), aliases: ["storage_class"],
                default: "default", help: "Of new blobs; default: the account's."),
        ],
        identity: { AzureConfiguration.identity($0) },
        settingsFromURL: AzureConfiguration.settings,
        make: { settings, statistics throws(StoreError) in try AzureStore(settings, statistics: statistics) })
}

/// What lets somebody in. Prints as nothing but its kind: secrets stay out of logs and errors.
enum AzureCredentials: Sendable, CustomStringConvertible, CustomReflectable {
    /// The bytes of the account's key.
    case sharedKey([UInt8])
    /// A query without the question mark.
    case signature(String)
    case token(AzureLogin)
    case anonymous

    var description: String {
        switch self {
        case .sharedKey: "the account's key"
        case .signature: "a shared access signature"
        case .token(let login): login.description
        case .anonymous: "none (anonymous)"
        }
    }
    var customMirror: Mirror { Mirror(self, children: [], displayStyle: .enum) }
}

/// The settings of an Azure store, checked.
struct AzureConfiguration: Sendable {
    var account: String
    var container: String
    /// What all keys begin with: empty, or with a slash at its end.
    var prefix: [UInt8]
    /// Without a slash at the end.
    var endpoint: WebURL
    /// The same; nil where it cannot be told from ``endpoint``.
    var dataLakeEndpoint: WebURL?
    var credentials: AzureCredentials
    var accessTier: String?

    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    init(_ settings: StoreSettings, environment: ProcessEnvironment) throws(StoreError) {
        guard let container = settings["container"] else {
            throw StoreError(.invalidArgument, "container is missing: the name of the container to use")
        }
        guard container.utf8.allSatisfy(Self.isNameByte) else {
            throw StoreError(
                .invalidArgument,
                "container '\(container)' is no possible name of a container: letters in lower case, digits and '-'")
        }
        self.container = container
        prefix = KeyCodec.prefix(settings["prefix"])
        let values = try Values(settings, environment)
        let place = try Self.place(values)
        (account, endpoint) = place
        if let text = values.settings["dfs_endpoint"] {
            dataLakeEndpoint = try Self.url(text, "dfs_endpoint")
        } else {
            dataLakeEndpoint =
                endpoint.host.contains(".blob.")
                ? try Self.url(endpoint.description.replacing(".blob.", with: ".dfs.", maxReplacements: 1), "endpoint")
                : nil
        }
        credentials = try Self.credentials(values)
        let isReadable =
            switch credentials {
            // What goes over the wire is no secret.
            case .sharedKey, .anonymous: true
            case .signature, .token: endpoint.mayHaveSecrets && dataLakeEndpoint?.mayHaveSecrets ?? true
            }
        guard isReadable else {
            throw StoreError(
                .invalidArgument,
                "endpoint and dfs_endpoint must begin with https://: anybody could read the credentials")
        }
        accessTier = settings["access_tier"].flatMap { $0 == "default" ? nil : $0 }
    }

    /// What a cache of this store is known by: no credentials.
    static func identity(_ settings: StoreSettings, environment: ProcessEnvironment = .ofProcess)
        -> String
    {
        var address = ""
        do throws(StoreError) {
            address = try place(try Values(settings, environment)).endpoint.description
        } catch {
            // Nothing can be made of these settings: whoever tries is told.
        }
        return "\(address)|\(settings["container"] ?? "")|"
            + String(decoding: KeyCodec.prefix(settings["prefix"]), as: UTF8.self)
    }

    /// `azure://container/prefix`, and as Hadoop has it: `abfss://container@account.dfs.core.windows.net/prefix`.
    static func settings(scheme: String, rest: String) -> [String: String]? {
        let parts = rest.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let head = parts.first, !head.isEmpty else { return nil }
        var settings: [String: String] = [:]
        if parts.count == 2, !parts[1].isEmpty { settings["prefix"] = String(parts[1]) }
        let names = head.split(separator: "@", omittingEmptySubsequences: false)
        guard names.count == 2 else {
            guard names.count == 1, ["azure", "az"].contains(scheme) else { return nil }
            settings["container"] = String(head)
            return settings
        }
        let labels = names[1].split(separator: ".", maxSplits: 2)
        guard !names[0].isEmpty, labels.count == 3, ["blob", "dfs"].contains(labels[1]) else { return nil }
        settings["container"] = String(names[0])
        settings["account"] = String(labels[0])
        if labels[2] != publicSuffix { settings["endpoint"] = "https://\(labels[0]).blob.\(labels[2])" }
        return settings
    }

    private static let publicSuffix = "core.windows.net"

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
        // "$root" and "$web" are Azure's own.
        default: "-$".utf8.contains(byte)
        }
    }

    private static func url(_ text: String, _ name: String) throws(StoreError) -> WebURL {
        guard var url = WebURL(text.contains("://") ? text : "https://" + text), url.query == nil, url.user == nil
        else {
            throw StoreError(
                .invalidArgument,
                "\(name) must look like https://account.blob.core.windows.net, without a name and without '?'")
        }
        while url.path.hasSuffix("/") { url.path.removeLast() }
        return url
    }

    // MARK: Where it is

    private static func place(_ values: Values) throws(StoreError) -> (account: String, endpoint: WebURL) {
        let told = values.settings["endpoint"] ?? values.connection["blobendpoint"]
        let endpoint: WebURL? = try told.map { (text) throws(StoreError) in try url(text, "endpoint") }
        var account = values.settings["account"] ?? values.connection["accountname"]
        if account == nil, let endpoint {
            // "account.blob.core.windows.net", or as emulators have it "127.0.0.1:10000/account".
            account =
                endpoint.host.contains(".blob.")
                ? endpoint.host.split(separator: ".").first.map(String.init)
                : endpoint.path.split(separator: "/").last.map(String.init)
        }
        account = account ?? values.environment["AZURE_STORAGE_ACCOUNT"]
        guard let account else {
            throw StoreError(
                .invalidArgument,
                "account is missing, and the environment has no AZURE_STORAGE_ACCOUNT: the name of the storage account")
        }
        guard account.utf8.allSatisfy({ isNameByte($0) && $0 != UInt8(ascii: "$") }) else {
            throw StoreError(
                .invalidArgument,
                "account '\(account)' is no possible name of a storage account: letters in lower case and digits")
        }
        if let endpoint { return (account, endpoint) }
        let suffix = values.connection["endpointsuffix"] ?? publicSuffix
        let scheme = values.connection["defaultendpointsprotocol"] ?? "https"
        return (account, try url("\(scheme)://\(account).blob.\(suffix)", "connection_string"))
    }

    // MARK: Who asks

    /// Settings, and where no credentials are among them, the variables that Azure's own tools read.
    ///
    /// Sources: <https://learn.microsoft.com/cli/azure/azure-cli-configuration>;
    /// <https://learn.microsoft.com/dotnet/api/azure.identity.environmentcredential>.
    private struct Values {
        let settings: StoreSettings
        /// Of a connection string, by names in lower case.
        let connection: [String: String]
        let ownKinds: [String]
        let environment: ProcessEnvironment

        init(_ settings: StoreSettings, _ environment: ProcessEnvironment) throws(StoreError) {
            self.settings = settings
            self.environment = environment
            ownKinds =
                ["anonymous", "managed_identity"].filter { settings.flag($0) }
                + ["account_key", "sas_token", "connection_string", "client_secret"].filter { settings[$0] != nil }
            guard ownKinds.count <= 1 else {
                throw StoreError(
                    .invalidArgument, "\(ownKinds.joined(separator: " and ")) are given: which of them is meant?")
            }
            var text = settings["connection_string"]
            let name = text == nil ? "AZURE_STORAGE_CONNECTION_STRING" : "connection_string"
            if ownKinds.isEmpty { text = environment[name] }
            connection = try Self.parse(text ?? "", name)
            if let own = settings["account"], let other = connection["accountname"], own != other {
                throw StoreError(.invalidArgument, "\(name) is for the account '\(other)', and account is '\(own)'")
            }
        }

        /// A credential: not from the environment, where the settings have one of another kind.
        func secret(_ name: String, _ variableName: String) -> String? {
            settings[name] ?? (ownKinds.isEmpty ? environment[variableName] : nil)
        }

        /// `Name=value;Name=value`; values may have '=' in them.
        private static func parse(_ text: String, _ name: String) throws(StoreError) -> [String: String] {
            var pairs: [String: String] = [:]
            for part in text.split(separator: ";") {
                guard let mark = part.firstIndex(of: "="), mark != part.startIndex else {
                    throw StoreError(
                        .invalidArgument,
                        "\(name) must look like AccountName=…;AccountKey=…;EndpointSuffix=core.windows.net")
                }
                pairs[part[..<mark].trimmingSpaces().lowercased()] = part[part.index(after: mark)...].trimmingSpaces()
            }
            return pairs
        }
    }

    private static func credentials(_ values: Values) throws(StoreError) -> AzureCredentials {
        if values.settings.flag("anonymous") { return .anonymous }
        if values.settings.flag("managed_identity") { return .token(try managedIdentity(values)) }
        if let key = values.connection["accountkey"] ?? values.secret("account_key", "AZURE_STORAGE_KEY") {
            guard let bytes = TextEncoding.bytes(base64: key), !bytes.isEmpty else {
                throw StoreError(
                    .invalidArgument, "the account's key is not what Azure shows: it must be in Base64, whole")
            }
            return .sharedKey(bytes)
        }
        let signature =
            values.connection["sharedaccesssignature"] ?? values.secret("sas_token", "AZURE_STORAGE_SAS_TOKEN")
        if var query = signature {
            // Some paste the whole URL.
            if let mark = query.firstIndex(of: "?") { query = String(query[query.index(after: mark)...]) }
            let names = query.split(separator: "&").map { $0.prefix { $0 != "=" } }
            guard names.contains("sig"), query.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "#") })
            else {
                throw StoreError(
                    .invalidArgument,
                    "sas_token is no shared access signature: it must have a part that begins with sig=")
            }
            return .signature(query)
        }
        if let secret = values.secret("client_secret", "AZURE_CLIENT_SECRET") {
            func needed(_ name: String, _ variable: String) throws(StoreError) -> String {
                guard let value = values.settings[name] ?? values.environment[variable] else {
                    throw StoreError(.invalidArgument, "\(name) is missing: it is needed with client_secret")
                }
                return value
            }
            let authority =
                values.settings["authority"] ?? values.environment["AZURE_AUTHORITY_HOST"]
                ?? "https://login.microsoftonline.com"
            let address = try url(authority, "authority")
            guard address.mayHaveSecrets else {
                throw StoreError(
                    .invalidArgument, "authority must begin with https://: anybody could read client_secret")
            }
            return .token(
                AzureLogin(
                    method: .clientSecret(
                        authority: address, tenant: try needed("tenant_id", "AZURE_TENANT_ID"),
                        client: try needed("client_id", "AZURE_CLIENT_ID"), secret: secret)))
        }
        throw StoreError(
            .authenticationFailed,
            "no credentials were found in the settings or the environment: set account_key, sas_token, "
                + "connection_string or client_secret, or managed_identity = yes, or anonymous = yes for a public container"
        )
    }

    private static func managedIdentity(_ values: Values) throws(StoreError) -> AzureLogin {
        let client = values.settings["client_id"]
        // App Service and Functions tell an address of their own.
        if let address = values.environment["IDENTITY_ENDPOINT"], let header = values.environment["IDENTITY_HEADER"] {
            return AzureLogin(
                method: .managedIdentity(try url(address, "IDENTITY_ENDPOINT"), header: header, client: client))
        }
        var address = try url(
            values.environment["AZURE_POD_IDENTITY_AUTHORITY_HOST"] ?? "http://169.254.169.254",
            "AZURE_POD_IDENTITY_AUTHORITY_HOST")
        address.path += "/metadata/identity/oauth2/token"
        return AzureLogin(method: .managedIdentity(address, header: nil, client: client))
    }
}
