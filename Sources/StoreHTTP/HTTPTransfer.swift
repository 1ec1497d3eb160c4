import CCurl
import Glibc
import StoreAPI
import Threading

/// One request on its way: what was asked for, what has come, and where it stands.
///
/// The caller makes it and waits for ``result()``; in between it belongs to the engine thread, which alone touches
/// everything but ``outcome``.
final class HTTPTransfer: @unchecked Sendable {
    /// Bodies above this are bulk: they may take as long as they move. Also from where on libcurl would ask the
    /// server for leave first (`Expect: 100-continue`).
    static let bulk: Int64 = 1 << 20
    static let largestBodyInMemory = 64 << 20

    let request: HTTPRequest
    private let outcome = Monitor<Result<HTTPResponse, StoreError>?>(nil)

    // MARK: While it runs; engine thread only

    var engine: HTTPEngine!
    var handle: UnsafeMutableRawPointer?
    var headerList: UnsafeMutablePointer<curl_slist>?
    /// Whether libcurl had the memory for all that it was told.
    var hasMemory = true
    let errorText = UnsafeMutablePointer<CChar>.allocate(capacity: Int(CURL_ERROR_SIZE))
    var body: BodyReader
    /// The part that the request's Range header asks for.
    let asked: RequestedRange?

    var status = 0
    var headers: [(name: String, value: String)] = []
    var sawContinue = false
    var expectsContinue = false
    var received: [UInt8] = []
    /// Bytes of the body of this answer that came, and that the sink got.
    var bytesReceived: Int64 = 0
    var bytesDelivered: Int64 = 0
    /// Bytes of the request's body that libcurl has taken, repeats not counted twice.
    var bytesSent: Int64 = 0
    var declaredLength: Int64?
    /// Why a callback ended the transfer.
    var failure: StoreError?
    /// All that was asked for has come, although the server has more to say.
    var hasEnough = false

    /// On the machine's clock, and on ``HTTPEngine/now``.
    var startedAt = MonotonicTime(nanoseconds: 0)
    var begun = MonotonicTime(nanoseconds: 0)
    var limits = HTTPLimits()
    var isSendingPaused = false
    var isReceivingPaused = false

    init(_ request: HTTPRequest) throws(StoreError) {
        for (name, value) in request.headers {
            guard !name.isEmpty, name.utf8.allSatisfy(Self.isTokenByte), value.utf8.allSatisfy(Self.isValueByte) else {
                throw StoreError(.invalidArgument, "the HTTP header '\(name)' holds a character that is not allowed")
            }
        }
        self.request = request
        body = try BodyReader(request.body)
        asked = request["Range"].flatMap { RequestedRange($0) }
        errorText.pointee = 0
    }

    deinit { errorText.deallocate() }

    /// Waits until the transfer is over.
    func result() throws(StoreError) -> HTTPResponse { try outcome.wait { $0 }!.get() }

    func complete(_ result: Result<HTTPResponse, StoreError>) { outcome.update { $0 = result } }

    /// Both bodies, as far as they have moved.
    var bytesMoved: Int64 { bytesSent + bytesReceived }

    /// Whether there is enough to move that only standing still counts, not the time it takes in all.
    var isBulk: Bool { max(body.length, declaredLength ?? 0, bytesReceived) > Self.bulk }

    /// Host and port for messages.
    var host: String { Self.host(of: request.url) }

    static func host(of url: String) -> String {
        let parts = url.prefix { $0 != "?" }.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: true)
        guard parts.count > 1 else { return url }
        return String(parts[1].split(separator: "@").last ?? parts[1])
    }

    private static func isTokenByte(_ byte: UInt8) -> Bool { byte > 0x20 && byte < 0x7f && byte != UInt8(ascii: ":") }
    private static func isValueByte(_ byte: UInt8) -> Bool { (byte >= 0x20 && byte != 0x7f) || byte == 0x09 }
}

/// `Range: bytes=first-last`, in the one form that has a definite first byte.
struct RequestedRange {
    var first: Int64
    /// Inclusive; nil: to the end.
    var last: Int64?

    init?(_ header: String) {
        let prefix = "bytes="
        guard header.hasPrefix(prefix) else { return nil }
        let bounds = header.dropFirst(prefix.count).split(separator: "-", omittingEmptySubsequences: false)
        guard bounds.count == 2, let first = Int64(bounds[0]), first >= 0 else { return nil }
        self.first = first
        if bounds[1].isEmpty { return }
        guard let last = Int64(bounds[1]), last >= first else { return nil }
        self.last = last
    }

    var length: Int64? { last.map { $0 - first + 1 } }
}

// MARK: What libcurl calls, on the engine thread

extension HTTPTransfer {
    /// A line of the head; of interim and proxy answers too.
    func takeHeader(_ line: UnsafeRawBufferPointer) {
        limits.noteMoved(line.count)
        var text = Substring(decoding: line, as: UTF8.self)
        while let last = text.unicodeScalars.last, last == "\r" || last == "\n" { text.unicodeScalars.removeLast() }
        if text.hasPrefix("HTTP/"), let space = text.firstIndex(of: " ") {
            status = Int(text[text.index(after: space)...].prefix(3)) ?? 0
            sawContinue = sawContinue || status == 100
            headers = []
            declaredLength = nil
        } else if let colon = text.firstIndex(of: ":") {
            let name = String(text[..<colon])
            let value = text[text.index(after: colon)...].trimmingHTTPWhitespace()
            headers.append((name, value))
            if name.lowercased() == "content-length" { declaredLength = Int64(value) }
        }
    }

    /// Bytes of the answer's body.
    ///
    /// - Returns: How many were taken: fewer ends the transfer; `CURL_WRITEFUNC_PAUSE` holds it.
    func takeBody(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard engine.download.available(at: .now) > 0 else {
            isReceivingPaused = true
            engine.noteReceivingPaused(self)
            return Int(CURL_WRITEFUNC_PAUSE)
        }
        engine.download.take(bytes.count)
        engine.downloaded += Int64(bytes.count)
        if bytesReceived == 0, let error = checkHead() {
            failure = error
            return 0
        }
        bytesReceived += Int64(bytes.count)
        limits.noteMoved(bytes.count)
        do throws(StoreError) {
            if request.sink != nil, status == 200 || status == 206 {
                try deliver(bytes)
            } else {
                try collect(bytes)
            }
        } catch {
            failure = error
            return 0
        }
        return hasEnough ? 0 : bytes.count
    }

    /// A partial answer must be the part that was asked for.
    private func checkHead() -> StoreError? {
        guard request.sink != nil, status == 206, let asked, let header = headers.last("content-range") else {
            return nil
        }
        let start = header.split(separator: " ").last?.split(separator: "-").first.flatMap { Int64($0) }
        guard let start, start != asked.first else { return nil }
        return StoreError(
            .corrupted, "\(host) sent bytes from offset \(start) on when those from \(asked.first) on were asked for")
    }

    private func deliver(_ bytes: UnsafeRawBufferPointer) throws(StoreError) {
        // Where these bytes begin, counted from the first one that was asked for. A server that ignores ranges
        // begins before it and goes on behind the end.
        let begin = bytesReceived - Int64(bytes.count) - (status == 200 ? asked?.first ?? 0 : 0)
        let end = begin + Int64(bytes.count)
        let wanted = max(begin, 0)..<max(min(end, asked?.length ?? .max), max(begin, 0))
        if status == 206, let length = asked?.length, end > length {
            throw StoreError(.corrupted, "\(host) sent more than the \(length) bytes that were asked for")
        }
        if !wanted.isEmpty {
            let piece = UnsafeRawBufferPointer(
                rebasing: bytes[Int(wanted.lowerBound - begin)..<Int(wanted.upperBound - begin)])
            try request.sink!.write(piece, at: request.sinkOffset + wanted.lowerBound)
            bytesDelivered += Int64(piece.count)
        }
        if let length = asked?.length, status == 200, end > length { hasEnough = true }
    }

    private func collect(_ bytes: UnsafeRawBufferPointer) throws(StoreError) {
        guard received.count + bytes.count <= Self.largestBodyInMemory else {
            throw StoreError(.internal, "\(host) answered with more than 64 MiB where a short answer was expected")
        }
        if received.isEmpty, let declaredLength, declaredLength <= Self.largestBodyInMemory {
            received.reserveCapacity(Int(declaredLength))
        }
        received.append(contentsOf: bytes)
    }

    /// Fills `buffer` with what comes next of the request's body.
    ///
    /// - Returns: The number of bytes, `CURL_READFUNC_PAUSE` or `CURL_READFUNC_ABORT`.
    func giveBody(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
        guard body.position < body.length else { return 0 }
        let available = engine.upload.available(at: .now)
        guard available > 0 else {
            isSendingPaused = true
            engine.noteSendingPaused(self)
            return Int(CURL_READFUNC_PAUSE)
        }
        let piece = UnsafeMutableRawBufferPointer(rebasing: buffer.prefix(max(available, 4096)))
        let count: Int
        do throws(StoreError) { count = try body.read(into: piece) } catch {
            failure = error
            return Int(CURL_READFUNC_ABORT)
        }
        engine.upload.take(count)
        engine.uploaded += Int64(count)
        bytesSent = body.position
        limits.noteMoved(count)
        request.progress?(Int64(count))
        return count
    }

    /// Goes back, so that libcurl can send the body once more.
    func rewindBody(to offset: Int64) -> Bool {
        let before = body.position
        guard body.seek(to: offset) else { return false }
        if before != offset { request.progress?(offset - before) }
        bytesSent = offset
        return true
    }
}

extension [(name: String, value: String)] {
    func last(_ name: String) -> String? { last { $0.name.lowercased() == name }?.value }
}

extension Substring {
    /// Without the spaces and tabs around it (RFC 9110, 5.6.3).
    func trimmingHTTPWhitespace() -> String {
        var text = self
        while let first = text.first, first == " " || first == "\t" { text.removeFirst() }
        while let last = text.last, last == " " || last == "\t" { text.removeLast() }
        return String(text)
    }
}
