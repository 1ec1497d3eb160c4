import StoreAPI
import StoreHTTP
import Testing
import Threading

@Suite("Digests and encodings")
struct DigestTests {
    @Test("digests are those of the published vectors")
    func vectors() {
        let abc = Array("abc".utf8)
        #expect(TextEncoding.hex(Digest.md5(abc)) == "900150983cd24fb0d6963f7d28e17f72")
        #expect(TextEncoding.hex(Digest.md5([])) == "d41d8cd98f00b204e9800998ecf8427e")
        #expect(TextEncoding.hex(Digest.sha1(abc)) == "a9993e364706816aba3e25717850c26c9cd0d89d")
        #expect(
            TextEncoding.hex(Digest.sha256(abc)) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        #expect(
            TextEncoding.hex(Digest.sha256([])) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    }

    @Test("keyed digests are those of RFC 4231 and RFC 2202, with an empty key too")
    func keyed() {
        let key = Array("Jefe".utf8)
        let message = Array("what do ya want for nothing?".utf8)
        #expect(
            TextEncoding.hex(Digest.hmacSHA256(key: key, message))
                == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        #expect(TextEncoding.hex(Digest.hmacSHA1(key: key, message)) == "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")
        #expect(
            TextEncoding.hex(Digest.hmacSHA256(key: [], []))
                == "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad")
    }

    @Test("a digest grows piece by piece, over memory and files, and can be used again")
    func incremental() throws {
        let content = pattern(1_000_000)
        let file = TemporaryFile(content)
        let body = UploadBody([
            .bytes(Array(content[..<10])), .file(descriptor: file.descriptor, offset: 10, length: 999_980),
            .bytes(Array(content[999_990...])),
        ])
        #expect(try Digest.sha256(body) == Digest.sha256(content))
        #expect(try Digest.md5(body) == Digest.md5(content))
        let digest = Digest(.sha1)
        for start in stride(from: 0, to: content.count, by: 77_777) {
            digest.update(Array(content[start..<min(start + 77_777, content.count)]))
        }
        #expect(digest.finish() == Digest.sha1(content))
        digest.update(Array("abc".utf8))
        #expect(digest.finish() == Digest.sha1(Array("abc".utf8)))
        let short = UploadBody(descriptor: file.descriptor, length: 1_000_001)
        #expect(error { () throws(StoreError) in try Digest.md5(short) }?.code == .internal)
    }

    @Test("Base64 follows RFC 4648")
    func base64() {
        for (text, encoded) in [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            #expect(TextEncoding.base64(Array(text.utf8)) == encoded)
            #expect(TextEncoding.bytes(base64: encoded) == Array(text.utf8))
        }
        #expect(TextEncoding.bytes(base64: "-_8") == [0xfb, 0xff])
        for wrong in ["A", "A===", "Zg=", "Z g=", "=Zg=", "Zm9v="] { #expect(TextEncoding.bytes(base64: wrong) == nil) }
        let all = (0...255).map { UInt8($0) }
        #expect(TextEncoding.bytes(base64: TextEncoding.base64(all)) == all)
    }

    @Test("hexadecimal and percent-encoding go there and back")
    func hexAndPercent() {
        let all = (0...255).map { UInt8($0) }
        #expect(TextEncoding.bytes(hex: TextEncoding.hex(all)) == all)
        #expect(TextEncoding.bytes(hex: "0AfF") == [0x0a, 0xff])
        #expect(TextEncoding.bytes(hex: "0") == nil && TextEncoding.bytes(hex: "0g") == nil)
        #expect(TextEncoding.percentEncode("a b/ä~-._+") == "a%20b%2F%C3%A4~-._%2B")
        #expect(TextEncoding.percentEncode("a/b", keeping: "/") == "a/b")
        #expect(TextEncoding.percentDecode(TextEncoding.percentEncode(all)) == all)
        #expect(TextEncoding.percentDecode("a+b%20") == Array("a+b ".utf8))
        #expect(TextEncoding.percentDecode("a+b", plusIsSpace: true) == Array("a b".utf8))
        #expect(TextEncoding.percentDecode("%4") == nil && TextEncoding.percentDecode("%zz") == nil)
    }
}

@Suite("XML")
struct XMLTests {
    @Test("a document becomes a tree with local names, and text is kept as it was")
    func tree() throws {
        let root = try XMLElement.parse(
            Array(
                """
                <?xml version="1.0"?><D:list xmlns:D="DAV:"><D:a x="1"> one &amp;&#10;<b>two</b></D:a><D:a>thr&#xe9;e</D:a>\
                <![CDATA[<raw>]]></D:list>
                """.utf8))
        #expect(root.name == "list")
        #expect(root.all("a").map(\.text) == [" one &\n", "thrée"])
        #expect(root["a"]?["b"]?.text == "two")
        #expect(root["a"]?.attributes == ["x": "1"] && root["a"]?["b"]?.attributes == [:])
        #expect(root["none"] == nil)
        #expect(root.text == "<raw>")
    }

    @Test(
        "what is not well-formed, or could grow or nest without end, is refused",
        arguments: [
            "", "text", "<a>", "<a></b>", "<a/><b/>", "<a>&nbsp;</a>",
            "<!DOCTYPE a><a/>",
            """
            <!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]><l>&c;</l>
            """,
            "<!DOCTYPE a SYSTEM \"file:///etc/passwd\"><a/>",
            String(repeating: "<a>", count: 65) + String(repeating: "</a>", count: 65),
            String(repeating: "<a>", count: 100_000),
        ])
    func refused(text: String) {
        #expect(error { () throws(StoreError) in try XMLElement.parse(Array(text.utf8)) }?.code == .internal)
    }

    @Test("what XML cannot carry is marked, as it is or as a reference, and the rest is read")
    func mended() throws {
        let bytes = Array("<l><a>x</a><a>1\u{1}&#1;&#xFFFE;\u{FFFF}&#0;2</a><a>\t&#10;é\u{FFFC}</a></l>".utf8)
        let root = try XMLElement.parse(bytes)
        #expect(root.isMended)
        #expect(root.all("a").map(\.text) == ["x", "1\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}2", "\t\né\u{FFFC}"])
        #expect(try !XMLElement.parse(Array("<l>\u{FFFD}</l>".utf8)).isMended)
    }

    @Test("what is written is read back the same")
    func roundTrip() throws {
        let text = "<&>\"' \t\r\n ä€😀 ]]>"
        var writer = XMLWriter()
        writer.element("Delete", attributes: [("xmlns", "http://x/\"<")]) { writer in
            writer.element("Quiet", "true")
            writer.element("Object") { $0.element("Key", text) }
        }
        let root = try XMLElement.parse(writer.bytes)
        #expect(root["Object"]?["Key"]?.text == text)
        #expect(root["Quiet"]?.text == "true")
    }
}

@Suite("Times in text")
struct CivilTimeTests {
    private let example = Timestamp(seconds: 784_111_777)

    @Test("all three forms of HTTP dates are read, the first is written")
    func httpDates() {
        #expect(Timestamp(httpDate: "Sun, 06 Nov 1994 08:49:37 GMT") == example)
        #expect(Timestamp(httpDate: "Sunday, 06-Nov-94 08:49:37 GMT") == example)
        #expect(Timestamp(httpDate: "Sun Nov  6 08:49:37 1994") == example)
        #expect(example.httpDate == "Sun, 06 Nov 1994 08:49:37 GMT")
        for wrong in [
            "", "yesterday", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 99999 08:49:37 GMT", "Sun, -6 Nov 1994 08:49:37 GMT",
        ] { #expect(Timestamp(httpDate: wrong) == nil, "\(wrong)") }
    }

    @Test("ISO 8601 is read with fractions and zones, and written")
    func iso8601() {
        #expect(Timestamp(iso8601: "1994-11-06T08:49:37Z") == example)
        #expect(Timestamp(iso8601: "1994-11-06T09:49:37+01:00") == example)
        #expect(Timestamp(iso8601: "1994-11-06T00:19:37-0830") == example)
        let fraction = Timestamp(iso8601: "1994-11-06T08:49:37.123456789123Z")
        #expect(fraction?.nanoseconds == example.nanoseconds + 123_456_789)
        #expect(fraction?.iso8601 == "1994-11-06T08:49:37.123456789Z")
        #expect(CivilTime(example).basic == "19941106T084937Z")
        for wrong in ["", "1994-11-06", "1994-13-06T08:49:37Z", "1994-11-06T08:49:37.Z", "1994-11-06T08:49:37+1"] {
            #expect(Timestamp(iso8601: wrong) == nil, "\(wrong)")
        }
    }

    @Test("every day from 1678 to 2261 goes there and back")
    func days() {
        var day = Timestamp(iso8601: "1678-01-01T12:34:56Z")!
        let end = Timestamp(iso8601: "2261-12-31T00:00:00Z")!
        var weekday = CivilTime(day).weekday
        while day < end {
            #expect(Timestamp(iso8601: day.iso8601) == day)
            #expect(CivilTime(day).weekday == weekday)
            day.nanoseconds += 86_400_000_000_000
            weekday = (weekday + 1) % 7
        }
    }
}

@Suite("HTTP status")
struct HTTPStatusTests {
    @Test("each status has its code")
    func table() {
        let expected: [Int: StoreError.Code?] = [
            200: nil, 204: nil, 206: nil, 301: .unavailable, 400: .invalidArgument, 401: .authenticationFailed,
            403: .accessDenied, 404: .notFound, 405: .unsupported, 408: .timedOut, 409: .unavailable, 410: .notFound,
            412: .preconditionFailed, 413: .tooLarge, 414: .invalidName, 416: .invalidArgument, 423: .unavailable,
            428: .preconditionFailed, 429: .throttled, 498: .throttled, 500: .unavailable, 501: .unsupported,
            502: .unavailable, 503: .throttled, 504: .unavailable, 507: .quotaExceeded, 418: .invalidArgument,
            599: .unavailable, 0: .internal,
        ]
        for (status, code) in expected { #expect(HTTPResponse(status: status).errorCode == code, "\(status)") }
    }
}

@Suite("ParallelTransfers")
struct ParallelTransfersTests {
    @Test("every part is done once, not more than allowed at a time")
    func all() throws {
        let parallel = ParallelTransfers(threads: 8)
        defer { parallel.shutdown() }
        let state = Lock((done: [Int](), running: 0, most: 0))
        try parallel.run(100, parallel: 4) { index in
            state.withLock {
                $0.running += 1
                $0.most = max($0.most, $0.running)
            }
            _ = SystemPause().pause(for: .milliseconds(1))
            state.withLock {
                $0.running -= 1
                $0.done.append(index)
            }
        }
        #expect(state.withLock { $0.done.sorted() } == Array(0..<100))
        #expect((2...4).contains(state.withLock { $0.most }))
        try parallel.run(0, parallel: 4) { _ in Issue.record("there is no part") }
    }

    @Test("the first error ends the run when nothing of it goes on any more")
    func firstError() {
        let parallel = ParallelTransfers(threads: 4)
        defer { parallel.shutdown() }
        let state = Lock((begun: 0, running: 0))
        let thrown = error { () throws(StoreError) in
            try parallel.run(1000, parallel: 4) { index throws(StoreError) in
                state.withLock {
                    $0.begun += 1
                    $0.running += 1
                }
                defer { state.withLock { $0.running -= 1 } }
                if index == 5 { throw StoreError(.accessDenied, "no") }
                _ = SystemPause().pause(for: .milliseconds(1))
            }
        }
        #expect(thrown?.code == .accessDenied)
        #expect(state.withLock { $0.running } == 0)
        #expect(state.withLock { $0.begun } < 20)
    }

    @Test("64 runs at once, each with one inside, end with few threads or none", arguments: [0, 3])
    func nested(threads: Int) {
        let parallel = ParallelTransfers(threads: threads)
        defer { parallel.shutdown() }
        let count = Lock(0)
        let runs = (0..<64).map { _ in
            Background {
                try? parallel.run(5, parallel: 5) { _ throws(StoreError) in
                    try parallel.run(3, parallel: 3) { _ in count.withLock { $0 += 1 } }
                }
            }
        }
        for run in runs { run.value }
        #expect(count.withLock { $0 } == 64 * 15)
    }
}
