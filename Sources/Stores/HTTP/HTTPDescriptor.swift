package import StoreAPI

extension StoreDescriptor {
    package static let http = StoreDescriptor(
        scheme: "http", otherSchemes: ["https"],
        summary: "Files on a web server, for reading: a folder with an index page (Apache, nginx …), or one file.",
        options: [
            StoreOption(
                "url", .url, aliases: ["endpoint", "host", "bucket_name"], isRequired: true,
                help: "The folder, such as https://www.example.org/pub/, or the file.")
        ] + WebPlace.credentials(password: "The password of user."),
        identity: { WebPlace.identity($0) },
        settingsFromURL: { scheme, rest in WebPlace.settings(fromURL: "\(scheme)://\(rest)") },
        make: { settings, statistics throws(StoreError) in try HTTPStore(settings, statistics: statistics) })
}
