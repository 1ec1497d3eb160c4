package import StoreAPI
import StoreHTTP

extension StoreDescriptor {
    package static let webdav = StoreDescriptor(
        scheme: "webdav", otherSchemes: ["webdavs", "dav", "davs"],
        summary: "A folder on a WebDAV server: Nextcloud, ownCloud, Apache, `rclone serve webdav` …",
        options: [
            StoreOption(
                "url", .url, aliases: ["endpoint", "host", "bucket_name"], isRequired: true,
                help: "The folder, such as https://cloud.example.org/remote.php/dav/files/anna/photos; it must exist.")
        ]
            + WebPlace.credentials(
                password: "The password of user; with Nextcloud one made for this program (an app password)."),
        identity: { WebPlace.identity($0) },
        settingsFromURL: { scheme, rest in
            // As KDE and GNOME read them.
            let isSecure = scheme == "webdavs" || scheme == "davs"
            return WebPlace.settings(fromURL: (isSecure ? "https://" : "http://") + rest)
        },
        make: { settings, statistics throws(StoreError) in try WebDAVStore(settings, statistics: statistics) })
}

extension WebDAVTraits {
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
