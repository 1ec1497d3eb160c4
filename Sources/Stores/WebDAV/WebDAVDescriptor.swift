package import StoreAPI
import StoreHTTP

extension StoreDescriptor {
    package static let webdav = StoreDescriptor(
        scheme: "webdav", otherSchemes: ["webdavs", "dav", "davs"],
        summary: "A folder on a WebDAV server: Nextcloud, ownCloud, Apache, `rclone serve webdav` …",
        options: [
            .init(
                "url", .url, aliases: ["endpoint", "host", "bucket_name"], isRequired: true,
                help: "The folder, such as https://cloud.example.org/remote.php/dav/files/anna/photos; it must exist."),
            .init(
                "user", .text, aliases: ["username", "login", "id"],
                help: "The name for Basic or Digest authentication, whichever the server asks for."),
            .init(
                "password", .secret, aliases: ["secret"],
                help: "The password of user; with Nextcloud one made for this program (an app password)."),
            .init(
                "token", .secret, aliases: ["bearer_token"],
                help: "A bearer token, in place of user and password."),
        ],
        identity: { settings in WebDAVConfiguration.base(settings["url"])?.description ?? "" },
        settingsFromURL: { scheme, rest in
            // As KDE and GNOME read them.
            let isSecure = scheme == "webdavs" || scheme == "davs"
            guard let url = WebURL((isSecure ? "https://" : "http://") + rest), url.query == nil else { return nil }
            var settings = ["url": url.description]
            if let user = url.user { settings["user"] = user }
            return settings
        },
        make: { settings, statistics throws(StoreError) in try WebDAVStore(settings, statistics: statistics) })
}

/// The settings of a WebDAV store, checked.
struct WebDAVConfiguration: Sendable {
    /// The folder, without a slash at its end.
    var base: WebURL
    var user: String?
    var password: String?
    var token: String?

    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    init(_ settings: StoreSettings) throws(StoreError) {
        guard let text = settings["url"] else {
            throw StoreError(.invalidArgument, "url is missing: the folder on the WebDAV server to use")
        }
        guard let base = Self.base(text) else {
            throw StoreError(
                .invalidArgument,
                "url must look like https://cloud.example.org/dav/folder, without a password and without '?'")
        }
        self.base = base
        user = settings["user"] ?? WebURL(text)?.user
        password = settings["password"]
        token = settings["token"]
        if password != nil, user == nil {
            throw StoreError(.invalidArgument, "password is given, but user is not")
        }
        if token != nil, password != nil {
            throw StoreError(.invalidArgument, "both token and password are given: which of them is meant?")
        }
    }

    static func base(_ text: String?) -> WebURL? {
        guard let text, var url = WebURL(text.contains("://") ? text : "https://" + text), url.query == nil else {
            return nil
        }
        while url.path.hasSuffix("/") { url.path.removeLast() }
        return url
    }

    /// Where Nextcloud and ownCloud take uploads in parts: for `…/remote.php/dav/files/USER/…` it is
    /// `…/remote.php/dav/uploads/USER`; nil for other servers.
    static func uploads(_ base: WebURL) -> WebURL? {
        let parts = base.path.split(separator: "/")
        guard
            let files = parts.indices.first(where: { index in
                index >= 2 && parts[index] == "files" && parts[index - 1] == "dav" && parts[index - 2] == "remote.php"
            }), parts.indices.contains(files + 1)
        else { return nil }
        var result = base
        result.path = "/" + (parts[..<files] + ["uploads", parts[files + 1]]).joined(separator: "/")
        return result
    }
}
