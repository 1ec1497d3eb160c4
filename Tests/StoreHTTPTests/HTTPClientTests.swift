import Glibc
import Statistics
import StoreAPI
import StoreHTTP
import Testing
import Threading

@Suite("HTTPClient")
struct HTTPClientTests {
    @Test("an answer comes with its status, headers and body, and the connection is used again")
    func plainGet() throws {
        let server = StubServer { request, connection in
            connection.answer(request.path == "/missing" ? 404 : 200, [("ETag", "\"x\"")], Array("hello".utf8))
        }
        defer { server.stop() }
        let statistics = Statistics()
        let client = makeClient(statistics)
        defer { client.shutdown() }
        let first = try client.send(get(server.url + "/a"))
        #expect(first.status == 200)
        #expect(first.body == Array("hello".utf8))
        #expect(first["etag"] == "\"x\"")
        #expect(try client.send(get(server.url + "/missing")).status == 404)
        #expect(server.connectionCount == 1)
        let figures = statistics.snapshot()
        #expect(figures[.requestsGet] == 2)
        #expect(figures[.requestsFailed] == 0)
        #expect(figures[.bytesReceived] == 10)
        #expect(figures[.storeGet].count == 2)
    }

    @Test("methods and bodies arrive as they were given")
    func methods() throws {
        let server = StubServer { request, connection in connection.answer(200, isHead: request.method == "HEAD") }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        for method in ["HEAD", "PUT", "POST", "DELETE", "PROPFIND", "GET"] {
            var request = get(server.url + "/a/../b%20c")
            request.method = method
            if method == "POST" { request.body = UploadBody(Array("<x/>".utf8)) }
            request.headers = [("X-Empty", ""), ("X-Full", "a b")]
            #expect(try client.send(request).status == 200)
        }
        let seen = server.requests
        #expect(seen.map(\.method) == ["HEAD", "PUT", "POST", "DELETE", "PROPFIND", "GET"])
        #expect(seen.allSatisfy { $0.path == "/a/../b%20c" })
        #expect(seen.map { $0.headers["content-length"] } == [nil, "0", "4", nil, nil, nil])
        #expect(seen[2].body == Array("<x/>".utf8))
        #expect(seen.allSatisfy { $0.headers["x-empty"] == "" && $0.headers["x-full"] == "a b" })
        #expect(seen.allSatisfy { $0.headers["expect"] == nil && $0.headers["content-type"] == nil })
    }

    @Test("a header cannot smuggle in another line")
    func headerInjection() {
        let client = makeClient()
        defer { client.shutdown() }
        for (name, value) in [("X", "a\r\nY: b"), ("X:Y", "a"), ("", "a"), ("X", "a\0")] {
            var request = get("http://127.0.0.1:1/")
            request.headers = [(name, value)]
            #expect(error { () throws(StoreError) in try client.send(request) }?.code == .invalidArgument)
        }
    }

    @Test("a body is put together from memory and files, and its progress adds up")
    func segments() throws {
        let server = StubServer { _, connection in connection.answer(200) }
        defer { server.stop() }
        let statistics = Statistics()
        let client = makeClient(statistics)
        defer { client.shutdown() }
        let content = pattern(3_000_000)
        let file = TemporaryFile(content)
        let sent = Lock<Int64>(0)
        var request = put(
            server.url + "/x",
            UploadBody([
                .bytes([1, 2, 3]), .file(descriptor: file.descriptor, offset: 1000, length: 2_000_000), .bytes([4, 5]),
            ]))
        request.progress = { amount in sent.withLock { $0 += amount } }
        #expect(try client.send(request).status == 200)
        #expect(server.requests[0].body == [1, 2, 3] + content[1000..<2_001_000] + [4, 5])
        #expect(sent.withLock { $0 } == 2_000_005)
        #expect(statistics.snapshot()[.bytesSent] == 2_000_005)
    }

    @Test("a file that ends too early ends the upload with an error")
    func shortFile() {
        let server = StubServer { _, connection in connection.answer(200) }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        let file = TemporaryFile(pattern(1000))
        let request = put(server.url, UploadBody(descriptor: file.descriptor, length: 2000))
        #expect(error { () throws(StoreError) in try client.send(request) }?.code == .internal)
    }

    @Test("a sink gets the bytes of a good answer at its offset; a bad answer's body stays in memory")
    func sinks() throws {
        let content = pattern(1_000_000)
        let server = StubServer { request, connection in
            if request.path == "/ok" {
                connection.answer(206, [("Content-Range", "bytes 500-1000499/2000000")], content)
            } else {
                connection.answer(403, [], Array("no".utf8))
            }
        }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        let sink = MemorySink(from: 500)
        var request = get(server.url + "/ok")
        request["Range"] = "bytes=500-1000499"
        request.sink = sink
        request.sinkOffset = 500
        #expect(try client.send(request).body.isEmpty)
        #expect(sink.bytes == content)
        request.url = server.url + "/bad"
        #expect(try client.send(request).body == Array("no".utf8))
        #expect(sink.bytes == content)
    }

    @Test("of a server that ignores the range, only what was asked for reaches the sink")
    func ignoredRange() throws {
        let content = pattern(400_000)
        let server = StubServer { _, connection in connection.answer(200, [], content) }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        for (first, last) in [(0, 99), (100_000, 299_999), (399_990, 399_999), (399_990, 500_000), (500_000, 500_001)] {
            let sink = MemorySink(from: Int64(first))
            var request = get(server.url)
            request["Range"] = "bytes=\(first)-\(last)"
            request.sink = sink
            request.sinkOffset = Int64(first)
            #expect(try client.send(request).status == 200)
            let start = min(first, content.count)
            #expect(sink.bytes == Array(content[start..<max(start, min(last + 1, content.count))]))
        }
    }

    @Test("a part that was not asked for is refused")
    func wrongRange() {
        let server = StubServer { request, connection in
            let start = request.path == "/shifted" ? 0 : 10
            connection.answer(206, [("Content-Range", "bytes \(start)-109/1000")], pattern(110 - start))
        }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        for path in ["/shifted", "/longer"] {
            var request = get(server.url + path)
            request["Range"] = "bytes=10-19"
            request.sink = MemorySink(from: 10)
            request.sinkOffset = 10
            #expect(error { () throws(StoreError) in try client.send(request) }?.code == .corrupted)
        }
    }

    @Test("what the sink throws ends the transfer and reaches the caller")
    func sinkError() {
        let server = StubServer { _, connection in connection.answer(200, [], pattern(5_000_000)) }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        final class FullSink: ReadSink {
            func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
                throw StoreError(.noLocalSpace, "full")
            }
        }
        var request = get(server.url)
        request.sink = FullSink()
        #expect(error { () throws(StoreError) in try client.send(request) }?.code == .noLocalSpace)
    }

    @Test("more than 64 MiB for memory is an error")
    func tooMuchForMemory() {
        let server = StubServer { _, connection in
            connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            let chunk = Array("100000\r\n".utf8) + [UInt8](repeating: 65, count: 1 << 20) + Array("\r\n".utf8)
            for _ in 0..<66 where !connection.isEnded { connection.write(chunk) }
            connection.write("0\r\n\r\n")
        }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        #expect(error { () throws(StoreError) in try client.send(get(server.url)) }?.code == .internal)
    }

    @Test(
        "an answer that is cut short, reset or empty is no answer",
        arguments: ["/short", "/reset", "/empty", "/chunked", "/garbage"])
    func brokenAnswers(path: String) {
        let server = StubServer { request, connection in
            switch request.path {
            case "/short": connection.answer(200, [], pattern(1000), declaring: 2000)
            case "/reset":
                connection.answer(200, [], pattern(1000), declaring: 2000)
                connection.reset()
            case "/chunked": connection.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc")
            case "/garbage": connection.write("\u{1}\u{2}nonsense\r\n\r\n")
            default: break
            }
            if !connection.isEnded { connection.end() }
        }
        defer { server.stop() }
        let statistics = Statistics()
        let client = makeClient(statistics)
        defer { client.shutdown() }
        for sink in [nil, MemorySink()] {
            var request = get(server.url + path)
            request.sink = sink
            let error = error { () throws(StoreError) in try client.send(request) }
            #expect(error?.code == .unavailable)
            #expect(error?.message.contains("127.0.0.1:\(server.port)") == true)
        }
        #expect(statistics.snapshot()[.requestsFailed] == 2)
    }

    @Test("a refused connection and an unknown name are told with host and port")
    func unreachable() {
        let server = StubServer { _, _ in }
        server.stop()
        let client = makeClient()
        defer { client.shutdown() }
        let refused = error { () throws(StoreError) in try client.send(get(server.url)) }
        #expect(refused?.code == .unavailable)
        #expect(refused?.message.contains("127.0.0.1:\(server.port)") == true)
        let report = HTTPAttempt()
        var request = get("http://no-such-host.invalid:8080/")
        request.attempt = report
        let unknown = error { () throws(StoreError) in try client.send(request) }
        #expect(unknown?.code == .unavailable)
        #expect(unknown?.message.contains("no-such-host.invalid:8080") == true)
        #expect(!report.mayHaveBeenSent)
        #expect(error { () throws(StoreError) in try client.send(get("ftp://127.0.0.1/")) }?.code == .invalidArgument)
    }

    @Test("silence ends a request after the stall limit", arguments: ["/head", "/body", "/upload"])
    func stalls(path: String) {
        let server = StubServer(saysContinue: false) { request, connection in
            if request.path == "/body" { connection.answer(200, [], pattern(1000), declaring: 1_000_000) }
            connection.stall()
        }
        defer { server.stop() }
        let client = makeClient { $0.tuning.stallTimeout = .milliseconds(300) }
        defer { client.shutdown() }
        let request = path == "/upload" ? put(server.url + path, UploadBody([1])) : get(server.url + path)
        #expect(error { () throws(StoreError) in try client.send(request) }?.code == .timedOut)
    }

    @Test("what of a request that is given up is still on its way is never sent", arguments: ["PUT", "GET"])
    func givenUp(method: String) {
        let wasReset = Monitor<Bool?>(nil)
        let server = StubServer { _, connection in
            let isReset = connection.stall()
            wasReset.update { $0 = isReset }
        }
        defer { server.stop() }
        let client = makeClient { $0.tuning.stallTimeout = .milliseconds(300) }
        defer { client.shutdown() }
        let request = method == "PUT" ? put(server.url + "/x", UploadBody(pattern(100_000))) : get(server.url + "/x")
        #expect(error { () throws(StoreError) in try client.send(request) }?.code == .timedOut)
        #expect(wasReset.wait(until: .now + .seconds(20)) { $0 } == true)
    }

    @Test("an upload that has left the program but not the machine does not stand still")
    func slowUpload() throws {
        let server = StubServer(isSlow: true) { _, connection in connection.answer(200) }
        defer { server.stop() }
        let client = makeClient { $0.tuning.stallTimeout = .seconds(1) }
        defer { client.shutdown() }
        let content = pattern(3 << 20)
        #expect(try client.send(put(server.url, UploadBody(content))).status == 200)
        #expect(server.requests[0].body == content)
    }

    @Test("a small answer that drips in ends at the overall limit, a large one may take its time")
    func overallLimit() throws {
        let server = StubServer { request, connection in
            if request.path == "/small" {
                connection.answer(200, [], [], declaring: 1000)
                while !connection.isEnded {
                    connection.write("x")
                    usleep(20_000)
                }
            } else {
                connection.answer(200, [], pattern(1 << 20), declaring: 2 << 20)
                for _ in 0..<16 {
                    usleep(500_000)
                    connection.write(pattern(1 << 16))
                }
            }
        }
        defer { server.stop() }
        let client = makeClient { $0.tuning.overallTimeout = .seconds(7) }
        defer { client.shutdown() }
        #expect(error { () throws(StoreError) in try client.send(get(server.url + "/small")) }?.code == .timedOut)
        #expect(try client.send(get(server.url + "/large")).body.count == 2 << 20)
    }

    @Test("a request that is no longer wanted ends")
    func cancelled() {
        let server = StubServer { _, connection in connection.stall() }
        defer { server.stop() }
        let client = makeClient { $0.tuning.connections = 1 }
        defer { client.shutdown() }
        let isWanted = Lock(true)
        var request = get(server.url)
        request.isWanted = { isWanted.withLock { $0 } }
        let sent = request
        // The second one waits for the only connection.
        let both = (0..<2).map { _ in
            Background { error { () throws(StoreError) in try client.send(sent) }?.code }
        }
        server.waitForRequests(1)
        isWanted.withLock { $0 = false }
        #expect(both.map(\.value) == [.cancelled, .cancelled])
    }

    @Test("shutdown ends what is under way, waiting and still to come")
    func shutdown() {
        let server = StubServer { _, connection in
            connection.answer(200, [], pattern(1000), declaring: 1_000_000)
            connection.stall()
        }
        defer { server.stop() }
        let client = makeClient { $0.tuning.connections = 8 }
        let all = (0..<20).map { _ in
            Background { error { () throws(StoreError) in try client.send(get(server.url)) }?.code }
        }
        server.waitForRequests(8)
        client.shutdown()
        #expect(all.map(\.value) == [StoreError.Code?](repeating: .cancelled, count: 20))
        #expect(error { () throws(StoreError) in try client.send(get(server.url)) }?.code == .cancelled)
        client.shutdown()
    }

    @Test("64 downloads at once each get their own bytes, over no more connections than allowed")
    func manyAtOnce() {
        let server = StubServer { request, connection in
            let seed = Int(request.path.dropFirst())!
            connection.answer(200, [], pattern(300_000 + seed, seed: seed))
        }
        defer { server.stop() }
        let client = makeClient { $0.tuning.connections = 16 }
        defer { client.shutdown() }
        let all = (0..<64).map { seed in
            Background {
                let sink = MemorySink()
                var request = get(server.url + "/\(seed)")
                request.sink = sink
                let isGood = (try? client.send(request))?.status == 200
                return isGood && sink.bytes == pattern(300_000 + seed, seed: seed)
            }
        }
        #expect(all.allSatisfy { $0.value })
        #expect(server.mostInFlight <= 16)
    }

    @Test("a kept connection that died costs no error, and the body is sent again from its beginning")
    func deadConnection() throws {
        let server = StubServer { request, connection in
            if request.number == 1 { connection.reset() } else { connection.answer(200) }
        }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        _ = try client.send(get(server.url))
        let content = pattern(500_000)
        let sent = Lock<Int64>(0)
        var request = put(server.url, UploadBody(content))
        request.progress = { amount in sent.withLock { $0 += amount } }
        #expect(try client.send(request).status == 200)
        #expect(server.requests.last?.body == content)
        #expect(server.requests.count == 3)
        #expect(sent.withLock { $0 } == 500_000)
    }

    @Test("a request that must not be sent twice is not, even when its connection dies")
    func notRepeatedInside() {
        let server = StubServer { request, connection in
            if request.method == "POST" { connection.reset() } else { connection.answer(200) }
        }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        _ = try? client.send(get(server.url))
        var request = put(server.url, UploadBody([1]))
        request.method = "POST"
        request.isRepeatable = false
        let report = HTTPAttempt()
        request.attempt = report
        #expect(error { () throws(StoreError) in try client.send(request) }?.code == .unavailable)
        #expect(report.mayHaveBeenSent)
        #expect(server.requests.count == 2)
    }

    @Test("a large body is not sent to a server that refuses it, and a small one does not ask first")
    func refusedUpload() throws {
        let server = StubServer(saysContinue: true) { _, connection in connection.answer(200) }
        defer { server.stop() }
        let silent = StubServer(saysContinue: false) { _, connection in connection.answer(200) }
        defer { silent.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        let body = UploadBody(pattern(2 << 20))
        _ = try client.send(put(server.url, body))
        _ = try client.send(put(server.url, UploadBody(pattern(1 << 10))))
        #expect(server.requests.map { $0.headers["expect"] } == ["100-continue", nil])
        // Who never says "100 Continue" is not asked a second time.
        _ = try client.send(put(silent.url, body))
        _ = try client.send(put(silent.url, body))
        #expect(silent.requests.map { $0.headers["expect"] } == ["100-continue", nil])
        #expect(silent.requests.allSatisfy { $0.body.count == 2 << 20 })
    }

    @Test("redirects are the caller's business")
    func redirect() throws {
        let server = StubServer { _, connection in connection.answer(307, [("Location", "http://127.0.0.1:1/")]) }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        let answer = try client.send(get(server.url))
        #expect(answer.status == 307)
        #expect(answer["Location"] == "http://127.0.0.1:1/")
    }

    @Test("under rate limits everything arrives whole, and lifting them lets it go on at once")
    func rateLimits() throws {
        let content = pattern(700_000)
        let server = StubServer { request, connection in
            connection.answer(200, [], request.method == "GET" ? content : [])
        }
        defer { server.stop() }
        let client = makeClient {
            $0.tuning.downloadRate = 2_000_000
            $0.tuning.uploadRate = 2_000_000
        }
        defer { client.shutdown() }
        let fetched = (0..<3).map { _ in Background { (try? client.send(get(server.url)))?.body } }
        let stored = (0..<3).map { _ in Background { (try? client.send(put(server.url, UploadBody(content))))?.status }
        }
        #expect(fetched.allSatisfy { $0.value == content })
        #expect(stored.allSatisfy { $0.value == 200 })
        #expect(server.requests.filter { $0.method == "PUT" }.allSatisfy { $0.body == content })

        // A byte per second would take a week.
        var tuning = StoreTuning(uploadRate: 1, downloadRate: 1)
        client.tune(tuning)
        let slow = [
            Background { (try? client.send(get(server.url)))?.body.count },
            Background { (try? client.send(put(server.url, UploadBody(content)))).map { $0.status + 699_800 } },
        ]
        server.waitForRequests(7)
        tuning.uploadRate = nil
        tuning.downloadRate = nil
        client.tune(tuning)
        #expect(slow.map(\.value) == [700_000, 700_000])
    }

    @Test("after a reconnect, connections that were kept are not used")
    func reconnect() throws {
        let server = StubServer { _, connection in connection.answer(200) }
        defer { server.stop() }
        let client = makeClient()
        defer { client.shutdown() }
        _ = try client.send(get(server.url))
        client.reconnect()
        _ = try client.send(get(server.url))
        #expect(server.connectionCount == 2)
    }
}

/// A file without a name.
final class TemporaryFile: Sendable {
    let descriptor: Int32

    init(_ content: [UInt8]) {
        descriptor = open("/tmp", O_TMPFILE | O_RDWR, 0o600)
        precondition(descriptor >= 0)
        precondition(content.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) } == content.count)
    }

    deinit { close(descriptor) }
}
