import Statistics
import StoreAPI
import Testing
import Threading

@testable import StoreHTTP

@Suite("Credentials of HTTP, and URLs")
struct WebAuthenticationTests {
    private static let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"

    @Test(
        "digests are those of RFC 7616, 3.9.1",
        arguments: [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ])
    func vectors(algorithm: String, response: String) throws {
        let header =
            "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm=\(algorithm), "
            + "nonce=\"\(Self.nonce)\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
        let challenge = try #require(DigestChallenge(AuthenticationChallenge.parse(header)[0]))
        let answer = challenge.answer(
            user: "Mufasa", password: "Circle of Life", method: "GET", uri: "/dir/index.html", count: 1,
            nonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
        #expect(answer.contains("response=\"\(response)\""))
        #expect(answer.contains("nc=00000001") && answer.contains("qop=auth,") && answer.contains("opaque=\"FQhe"))
    }

    @Test("the digest of RFC 2069, without a quality")
    func oldDigest() throws {
        let header = "Digest realm=\"testrealm@host.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\""
        let challenge = try #require(DigestChallenge(AuthenticationChallenge.parse(header)[0]))
        let answer = challenge.answer(
            user: "Mufasa", password: "CircleOfLife", method: "GET", uri: "/dir/index.html", count: 1, nonce: "x")
        #expect(answer.contains("response=\"1949323746fe6a43ef61f9606e7febea\""))
        #expect(!answer.contains("nc="))
    }

    @Test("several challenges in one header are told apart, and nonsense is none")
    func challenges() {
        let found = AuthenticationChallenge.parse("Negotiate, Basic realm=\"a, b=\\\"c\\\"\",Digest nonce=n , qop=auth")
        #expect(found.map(\.scheme) == ["negotiate", "basic", "digest"])
        #expect(found[1].parameters == ["realm": "a, b=\"c\""])
        #expect(found[2].parameters == ["nonce": "n", "qop": "auth"])
        #expect(AuthenticationChallenge.parse("").isEmpty)
        #expect(AuthenticationChallenge.parse("=\"\"").isEmpty)
        #expect(DigestChallenge(AuthenticationChallenge.parse("Digest nonce=n, qop=auth-int")[0]) == nil)
        #expect(DigestChallenge(AuthenticationChallenge.parse("Digest nonce=n, algorithm=X")[0]) == nil)
    }

    @Test("the strongest scheme that is offered is used, and counts its requests")
    func strongest() throws {
        let home = try #require(WebURL("http://h/"))
        let credentials = WebAuthentication(user: "u", password: "p", token: nil, home: home)
        func header(_ url: String) throws -> String? {
            var request = HTTPRequest("GET", url, counter: .requestsGet, operation: .storeGet)
            try credentials.sign(&request, at: .now)
            return request["Authorization"]
        }
        #expect(try header("http://h/a") == nil)
        #expect(!credentials.credentialsWereRefused())
        credentials.note(
            HTTPResponse(
                status: 401,
                headers: [
                    ("WWW-Authenticate", "Basic realm=r"), ("WWW-Authenticate", "Digest nonce=a, qop=auth"),
                    ("www-authenticate", "Digest nonce=b, qop=auth, algorithm=SHA-256"),
                ]), from: home)
        #expect(credentials.credentialsWereRefused())
        #expect(try header("http://h/a?b")?.contains("nc=00000001") == true)
        let second = try header("http://h/a?b")
        #expect(second?.contains("nc=00000002") == true && second?.contains("uri=\"/a?b\"") == true)
        #expect(second?.contains("algorithm=SHA-256") == true)
        #expect(try header("http://other/a") == nil)
        #expect(try header("https://h/a") == nil)
        credentials.move(to: try #require(WebURL("https://other/")))
        #expect(try header("https://other/a") == nil)
        credentials.move(to: try #require(WebURL("http://h:8080/")))
        #expect(try header("http://h:8080/a") == nil)
        credentials.note(
            HTTPResponse(status: 401, headers: [("WWW-Authenticate", "Basic realm=r")]),
            from: try #require(WebURL("http://other/")))
        #expect(try header("http://h/a")?.hasPrefix("Digest ") == true)
        credentials.move(to: try #require(WebURL("https://h/")))
        #expect(try header("https://h/a") != nil)
        #expect(try header("http://h/a") == nil)
    }

    @Test(
        "references lead where RFC 3986 says",
        arguments: [
            ("g", "http://a/b/c/g"), ("./g", "http://a/b/c/g"), ("g/", "http://a/b/c/g/"), ("/g", "http://a/g"),
            ("//g", "http://g/"), ("?y", "http://a/b/c/d;p?y"), ("g?y", "http://a/b/c/g?y"), ("", "http://a/b/c/d;p?q"),
            (".", "http://a/b/c/"), ("..", "http://a/b/"), ("../g", "http://a/b/g"), ("../../../g", "http://a/g"),
            ("/../g", "http://a/g"), ("g#s", "http://a/b/c/g"), ("https://x/y", "https://x/y"), ("mailto:a", nil),
        ] as [(String, String?)])
    func references(reference: String, expected: String?) throws {
        let base = try #require(WebURL("http://a/b/c/d;p?q"))
        #expect(base.resolving(reference)?.description == expected)
    }

    @Test("URLs with a password, without a host or with another scheme are none")
    func refused() {
        for text in [
            "http://", "http:///x", "ftp://h/", "h/x", "http://u:p@h/", "http://h ost/", "http://:80/", "http://@h/",
        ] {
            #expect(WebURL(text) == nil, "\(text)")
        }
        #expect(WebURL("HTTP://H:80/a b#c")?.description == "http://h/a%20b")
        #expect(WebURL("https://anna%40x@h:444?q")?.user == "anna@x")
        #expect(WebURL("https://[::1]:80")?.host == "[::1]")
    }
}
