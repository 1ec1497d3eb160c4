import Glibc
package import StoreAPI
import StoreHTTP

extension StoreDescriptor {
    package static let openStackSwift = StoreDescriptor(
        scheme: "swift", otherSchemes: ["ovh"],
        summary: "A container of OpenStack Swift or Ceph, by its own protocol: OVHcloud, Infomaniak, Rackspace …",
        options: [
            .init(
                "container", .text, aliases: ["bucket_name", "bucket"], isRequired: true,
                help: "The container; it must exist."),
            .init("prefix", .text, help: "Use only the objects below this, as if they were the whole container."),
            .init(
                "auth_url", .url, aliases: ["url", "endpoint", "host", "auth"],
                help: "Where to log in, such as https://auth.example.org/v3; not given: all of the login is taken from "
                    + "the variables OS_* or ST_* of the environment."),
            .init(
                "auth_version", .choice(["auto", "1", "2", "3"]), default: "auto",
                help: "1 is that of Swift itself and of Ceph, 2 and 3 are Keystone's; auto: by auth_url."),
            .init("user", .text, aliases: ["username", "login", "id"], help: "The user's name."),
            .init("user_id", .text, help: "The user's id, in place of user."),
            .init("password", .secret, aliases: ["secret", "key"], help: "The password or key of user."),
            .init(
                "project", .text, aliases: ["project_name", "tenant", "tenant_name"],
                help: "The name of the project (tenant) whose container it is."),
            .init("project_id", .text, aliases: ["tenant_id"], help: "The id of the project, in place of project."),
            .init(
                "user_domain", .text, aliases: ["user_domain_name", "domain"], default: "Default",
                help: "The name of the domain of user."),
            .init("user_domain_id", .text, help: "Its id, in place of user_domain."),
            .init(
                "project_domain", .text, aliases: ["project_domain_name"],
                help: "The name of the domain of project; not given: that of user."),
            .init("project_domain_id", .text, help: "Its id, in place of project_domain."),
            .init("application_credential_id", .text, help: "An application credential, in place of user."),
            .init(
                "application_credential_name", .text,
                help: "Its name, in place of its id; goes with user and user_domain."),
            .init("application_credential_secret", .secret, help: "The secret of the application credential."),
            .init(
                "region", .text, aliases: ["region_name"],
                help: "The region whose object store is meant; needed where there are several."),
            .init(
                "interface", .choice(["public", "internal", "admin"]), aliases: ["endpoint_type"], default: "public",
                help: "Which of the addresses of the object store is used."),
            .init(
                "storage_url", .url,
                help: "The address of the account's object store, in place of the one that the login tells."),
        ],
        identity: { OpenStackSwiftConfiguration.identity($0) },
        settingsFromURL: { scheme, rest in
            let parts = rest.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            guard let container = parts.first, !container.isEmpty, !container.contains("@") else { return nil }
            var settings = ["container": String(container)]
            if parts.count == 2, !parts[1].isEmpty { settings["prefix"] = String(parts[1]) }
            if scheme == "ovh" { settings["auth_url"] = "https://auth.cloud.ovh.net/v3" }
            return settings
        },
        make: { settings, statistics throws(StoreError) in try OpenStackSwiftStore(settings, statistics: statistics) })
}

/// Who logs in to an OpenStack cloud, and how.
struct OpenStackLogin: Sendable {
    /// What has a name in a domain, or an id.
    struct Named: Hashable, Sendable {
        var name: String?
        var id: String?
        var domainName: String?
        var domainID: String?
    }
    enum Method: Sendable {
        /// Of Swift's tempauth, and of Ceph.
        case version1(user: String, key: String)
        case version2(user: String, password: String, project: Named)
        case password(user: Named, password: String, project: Named)
        case applicationCredential(id: String, secret: String)
        case namedApplicationCredential(name: String, user: Named, secret: String)
    }

    var url: WebURL
    var method: Method
}

/// The settings of an OpenStack Swift store, checked.
struct OpenStackSwiftConfiguration: Sendable {
    var container: String
    /// What all keys begin with: empty, or with a slash at its end.
    var prefix: [UInt8]
    var login: OpenStackLogin
    var region: String?
    var interface: String
    var storageURL: WebURL?

    /// Where the bytes of large objects lie: as with the `swift` command and rclone.
    var segmentsContainer: String { container + "_segments" }

    static let processEnvironment: @Sendable (String) -> String? = { name in getenv(name).map { String(cString: $0) } }

    /// - Parameter environment: The value of a variable.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    init(_ settings: StoreSettings, environment: @escaping (String) -> String?) throws(StoreError) {
        guard let container = settings["container"] else {
            throw StoreError(.invalidArgument, "container is missing: the name of the container to use")
        }
        guard !container.contains("/"), container.utf8.count <= 256 - "_segments".utf8.count else {
            throw StoreError(.invalidArgument, "container '\(container)' is no possible name of a container")
        }
        self.container = container
        prefix = KeyCodec.prefix(settings["prefix"])
        let values = Values(settings: settings, environment: environment)
        login = try Self.login(values)
        region = values["region"]
        interface = settings["interface"] ?? values.interface ?? "public"
        guard ["public", "internal", "admin"].contains(interface) else {
            throw StoreError(.invalidArgument, "interface is '\(interface)': it must be public, internal or admin")
        }
        storageURL = try values["storage_url"].map { (text) throws(StoreError) in try Self.url(text, "storage_url") }
    }

    /// What a cache of this store is known by: no credentials, but whose container it is.
    static func identity(_ settings: StoreSettings, environment: @escaping (String) -> String? = processEnvironment)
        -> String
    {
        let values = Values(settings: settings, environment: environment)
        // A user of version 1 is "account:user".
        var account = values["project_id"] ?? values["project"] ?? values["application_credential_id"]
        if account == nil, let user = values["user"] ?? values["user_id"] {
            account = String(user.prefix { $0 != ":" })
        }
        let place = values["storage_url"] ?? values["auth_url"]
        let address: String? = place.flatMap { try? url($0, "auth_url").description }
        let below = String(decoding: KeyCodec.prefix(settings["prefix"]), as: UTF8.self)
        let words: [String] = [
            address ?? "", values["region"] ?? "", account ?? "", settings["container"] ?? "", below,
        ]
        return words.joined(separator: "|")
    }

    private static func url(_ text: String, _ name: String) throws(StoreError) -> WebURL {
        guard var url = WebURL(text.contains("://") ? text : "https://" + text), url.query == nil, url.user == nil
        else {
            throw StoreError(
                .invalidArgument, "\(name) must look like https://auth.example.org/v3, without a name and without '?'")
        }
        while url.path.hasSuffix("/") { url.path.removeLast() }
        return url
    }

    /// Settings, and where `auth_url` is not among them, the variables that OpenStack's own tools read.
    ///
    /// Source: <https://docs.openstack.org/python-openstackclient/latest/cli/man/openstack.html>;
    /// <https://docs.openstack.org/python-swiftclient/latest/cli/index.html>.
    private struct Values {
        let settings: StoreSettings
        let environment: (String) -> String?

        private static let variables: [String: [String]] = [
            "auth_url": ["OS_AUTH_URL", "ST_AUTH"],
            "auth_version": ["OS_IDENTITY_API_VERSION", "OS_AUTH_VERSION", "ST_AUTH_VERSION"],
            "user": ["OS_USERNAME", "ST_USER"], "user_id": ["OS_USER_ID"], "password": ["OS_PASSWORD", "ST_KEY"],
            "project": ["OS_PROJECT_NAME", "OS_TENANT_NAME"], "project_id": ["OS_PROJECT_ID", "OS_TENANT_ID"],
            "user_domain": ["OS_USER_DOMAIN_NAME"], "user_domain_id": ["OS_USER_DOMAIN_ID"],
            "project_domain": ["OS_PROJECT_DOMAIN_NAME"], "project_domain_id": ["OS_PROJECT_DOMAIN_ID"],
            "application_credential_id": ["OS_APPLICATION_CREDENTIAL_ID"],
            "application_credential_name": ["OS_APPLICATION_CREDENTIAL_NAME"],
            "application_credential_secret": ["OS_APPLICATION_CREDENTIAL_SECRET"],
            "region": ["OS_REGION_NAME"], "storage_url": ["OS_STORAGE_URL"],
        ]

        subscript(_ name: String) -> String? {
            if let value = settings[name] { return value }
            guard settings["auth_url"] == nil else { return nil }
            return variable(Self.variables[name] ?? [])
        }

        /// "public", also where it is told as "publicURL".
        var interface: String? {
            guard settings["auth_url"] == nil else { return nil }
            let text = variable(["OS_INTERFACE", "OS_ENDPOINT_TYPE"])
            return text.map { $0.hasSuffix("URL") ? String($0.dropLast(3)) : $0 }
        }

        private func variable(_ names: [String]) -> String? {
            names.lazy.compactMap { environment($0) }.first { !$0.isEmpty }
        }
    }

    private static func login(_ values: Values) throws(StoreError) -> OpenStackLogin {
        guard let text = values["auth_url"] else {
            throw StoreError(
                .invalidArgument,
                "auth_url is missing, and the environment has neither OS_AUTH_URL nor ST_AUTH: where to log in?")
        }
        var url = try Self.url(text, "auth_url")
        func needed(_ name: String) throws(StoreError) -> String {
            guard let value = values[name] else {
                throw StoreError(.invalidArgument, "\(name) is missing: it is needed to log in at \(url)")
            }
            return value
        }
        let hasCredential =
            values["application_credential_id"] != nil || values["application_credential_name"] != nil
        switch try version(values["auth_version"] ?? "auto", url, values, hasCredential: hasCredential) {
        case 1:
            return OpenStackLogin(
                url: url, method: .version1(user: try needed("user"), key: try needed("password")))
        case 2:
            if !url.path.hasSuffix("/v2.0") { url.path += "/v2.0" }
            return OpenStackLogin(
                url: url,
                method: .version2(
                    user: try needed("user"), password: try needed("password"),
                    project: .init(name: values["project"], id: values["project_id"])))
        default: break
        }
        if !url.path.hasSuffix("/v3") { url.path += "/v3" }
        let domainID = values["user_domain_id"]
        let user = OpenStackLogin.Named(
            name: values["user"], id: values["user_id"],
            domainName: domainID == nil ? values["user_domain"] ?? "Default" : nil, domainID: domainID)
        if let id = values["application_credential_id"] {
            return OpenStackLogin(
                url: url,
                method: .applicationCredential(id: id, secret: try needed("application_credential_secret")))
        }
        if user.id == nil { _ = try needed("user") }
        if let name = values["application_credential_name"] {
            return OpenStackLogin(
                url: url,
                method: .namedApplicationCredential(
                    name: name, user: user, secret: try needed("application_credential_secret")))
        }
        let hasOwnDomain = values["project_domain"] != nil || values["project_domain_id"] != nil
        let project = OpenStackLogin.Named(
            name: values["project"], id: values["project_id"],
            domainName: hasOwnDomain ? values["project_domain"] : user.domainName,
            domainID: hasOwnDomain ? values["project_domain_id"] : user.domainID)
        if project.id == nil { _ = try needed("project") }
        return OpenStackLogin(
            url: url, method: .password(user: user, password: try needed("password"), project: project))
    }

    private static func version(_ text: String, _ url: WebURL, _ values: Values, hasCredential: Bool)
        throws(StoreError) -> Int
    {
        switch text {
        case "1", "1.0": return 1
        case "2", "2.0": return 2
        case "3": return 3
        case "auto": break
        default: throw StoreError(.invalidArgument, "auth_version is '\(text)': it must be auto, 1, 2 or 3")
        }
        if hasCredential || url.path.hasSuffix("/v3") { return 3 }
        if url.path.hasSuffix("/v2.0") { return 2 }
        if url.path.hasSuffix("/v1.0") || url.path.hasSuffix("/v1") || url.path.hasSuffix("/1.0") { return 1 }
        return url.path.split(separator: "/").contains("auth") ? 1 : 3
    }
}
