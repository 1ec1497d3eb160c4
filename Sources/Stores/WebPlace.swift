import StoreAPI
import StoreHTTP

/// Where something is on a web server, and who asks: the settings that the stores have in common that are named by a URL.
struct WebPlace: Sendable {
    /// Without a slash at the end.
    var base: WebURL
    var user: String?
    var password: String?
    var token: String?

    /// - Parameter example: A URL as it should be, for messages.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    init(_ settings: StoreSettings, example: String) throws(StoreError) {
        guard let text = settings["url"] else {
            throw StoreError(.invalidArgument, "url is missing: an address such as \(example)")
        }
        guard let base = Self.base(text) else {
            throw StoreError(
                .invalidArgument, "url must look like \(example), without a password and without '?'")
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

    /// nil for what is no such address.
    static func base(_ text: String?) -> WebURL? {
        guard let text, var url = WebURL(text.contains("://") ? text : "https://" + text), url.query == nil else {
            return nil
        }
        while url.path.hasSuffix("/") { url.path.removeLast() }
        return url
    }

    /// What tells it apart from other places.
    static func identity(_ settings: StoreSettings) -> String { base(settings["url"])?.description ?? "" }

    /// The settings that a URL on the command line stands for; nil where it is none.
    static func settings(fromURL text: String) -> [String: String]? {
        guard let url = WebURL(text), url.query == nil else { return nil }
        var settings = ["url": url.description]
        if let user = url.user { settings["user"] = user }
        return settings
    }

    /// - Parameter password: What is said of that setting.
    static func credentials(password help: String) -> [StoreOption] {
        [
            .init(
                "user", .text, aliases: ["username", "login", "id"],
                help: "The name for Basic or Digest authentication, whichever the server asks for."),
            .init("password", .secret, aliases: ["secret"], help: help),
            .init(
                "token", .secret, aliases: ["bearer_token"], help: "A bearer token, in place of user and password."),
        ]
    }
}
