import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// Requests below one URL of a web server, also to where it redirects them.
///
/// Credentials go to the server of that URL only, and to the same host under TLS; nothing that was asked for under TLS is
/// asked for without it. Locks: one, a leaf.
final class WebSite: Sendable {
    let session: HTTPSession
    let authentication: WebAuthentication
    /// As the settings have it.
    let home: WebURL
    private let current: Lock<WebURL>
    private let mayLeave: @Sendable (_ method: String, _ from: WebURL, _ to: WebURL) -> Bool

    private static let mostRedirects = 5

    /// - Parameters:
    ///   - transport: nil: libcurl.
    ///   - mayLeave: Whether a request may be redirected to another host.
    init(
        _ place: WebPlace, statistics: Statistics, transport: (any HTTPTransport)?,
        mayLeave: @escaping @Sendable (_ method: String, _ from: WebURL, _ to: WebURL) -> Bool
    ) {
        home = place.base
        authentication = WebAuthentication(
            user: place.user, password: place.password, token: place.token, home: place.base)
        session = HTTPSession(
            transport: transport ?? HTTPClient(HTTPClientOptions(), statistics: statistics), signer: authentication,
            statistics: statistics)
        current = Lock(place.base)
        self.mayLeave = mayLeave
    }

    /// Without a slash at the end: as the settings have it, or where the server has redirected to for good.
    var base: WebURL { current.withLock { $0 } }

    /// - Parameters:
    ///   - key: What is to be below the base; empty for the base itself.
    ///   - isCollection: Whether the URL ends in a slash.
    func url(_ key: [UInt8], isCollection: Bool) -> WebURL {
        var url = base
        if !key.isEmpty { url.path += "/" + TextEncoding.percentEncode(key, keeping: "/") }
        if isCollection { url.path += "/" }
        return url
    }

    /// What has to be known of a request to follow a redirect of it.
    struct Course {
        /// For messages.
        var path: StorePath
        var action: String
        /// Whether the URL is made from the base, which moves with it.
        var isBelowBase = true
        /// Whether a redirect to the same URL with a slash is an answer too: status 301.
        var endsAtSlash = false
    }

    /// Sends a request, also to where the server redirects it.
    ///
    /// - Parameter classify: As ``HTTPSession/send(_:classify:)`` has it; not asked about redirects.
    /// - Returns: also the URL that has answered.
    func send(
        _ request: HTTPRequest, to url: WebURL, _ course: Course, classify: (HTTPResponse) -> StoreError?
    ) throws(StoreError) -> (response: HTTPResponse, url: WebURL) {
        var (request, url) = (request, url)
        for _ in 0..<Self.mostRedirects {
            request.url = url.description
            let asked = url
            let response = try session.send(request) { [self] response in
                if response.status == 401 { authentication.note(response, from: asked) }
                return Self.target(of: response, asked) == nil ? classify(response) : nil
            }
            guard let target = Self.target(of: response, url) else { return (response, url) }
            if course.endsAtSlash, Self.isSame(target.path, url.path + "/") {
                return (HTTPResponse(status: 301, headers: response.headers), url)
            }
            try follow(request.method, from: url, to: target, course)
            url = target
        }
        throw StoreError(
            .unavailable, "\(course.action): the server redirects in circles; check url", path: course.path)
    }

    /// Servers encode what they need to, which may be less than what was encoded in the request.
    private static func isSame(_ path: String, _ other: String) -> Bool {
        path == other || TextEncoding.percentDecode(path) == TextEncoding.percentDecode(other)
    }

    /// Where a redirect leads; nil when the answer is none.
    private static func target(of response: HTTPResponse, _ url: WebURL) -> WebURL? {
        guard [301, 302, 307, 308].contains(response.status), let location = response["Location"] else { return nil }
        return url.resolving(location)
    }

    /// Takes a redirect to TLS, and one of the root, for all that comes; refuses those that lead to where bytes or
    /// credentials do not belong.
    private func follow(_ method: String, from url: WebURL, to target: WebURL, _ course: Course) throws(StoreError) {
        let staysHome = target.host == url.host && (target.isSecure || !url.isSecure)
        guard staysHome || mayLeave(method, url, target) else {
            throw StoreError(
                .invalidArgument,
                "\(course.action): the server redirects to \(target.origin): set url to it if you trust it",
                path: course.path)
        }
        guard staysHome else { return }
        authentication.move(to: target)
        current.withLock { base in
            let suffix = url.path.dropFirst(base.path.count)
            guard course.isBelowBase, url.path.hasPrefix(base.path), target.path.hasSuffix(suffix), target.query == nil
            else { return }
            var moved = target
            moved.path.removeLast(suffix.utf8.count)
            while moved.path.hasSuffix("/") { moved.path.removeLast() }
            if course.path.isRoot || moved.path == base.path { base = moved }
        }
    }

    func shutdown() { session.shutdown() }
}
