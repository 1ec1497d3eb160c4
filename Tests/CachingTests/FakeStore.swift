import StoreAPI
import Threading

/// A store in memory that notes requests, and that can be held, broken and left silent.
final class FakeStore: StoreBackend {
    struct Object {
        var bytes: [UInt8]?
        var size: Int64
        var version: Version?
    }
    struct Request: Equatable {
        var path: StorePath
        var range: Range<Int64>?
    }
    struct State {
        var objects: [StorePath: Object] = [:]
        var requests: [Request] = []
        var bytesSent: Int64 = 0
        var inFlight = 0
        /// How many pieces may still be sent; nil: all.
        var allowance: Int?
        var errors: [StoreError] = []
        /// How many bytes are left out at the end of so many answers.
        var shortAnswers = 0
        /// Bytes are wrong in the first half and then the answer is `.corrupted`, so often.
        var corruptAnswers = 0
        var isShutDown = false
        var capabilities = StoreCapabilities([.rangedRead])
        var pieceSize = 64 << 10
    }
    let state = Monitor(State())

    var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }

    /// What generated objects are made of, again and again.
    private static let pattern: [UInt8] = {
        var state: UInt64 = 1
        return (0..<1_000_003).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return UInt8(truncatingIfNeeded: state >> 33)
        }
    }()

    /// The bytes of a generated object.
    static func bytes(_ range: Range<Int64>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Int(range.upperBound - range.lowerBound))
        var position = range.lowerBound
        while position < range.upperBound {
            let start = Int(position % Int64(pattern.count))
            let end = min(pattern.count, start + Int(range.upperBound - position))
            bytes += pattern[start..<end]
            position += Int64(end - start)
        }
        return bytes
    }

    /// Puts a generated object at `path`; `isZero`: all bytes are zero.
    func add(_ path: String, size: Int64, version: String = "v1", isZero: Bool = false) {
        state.withLock {
            $0.objects[StorePath(path)!] = Object(
                bytes: isZero ? nil : Self.bytes(0..<size), size: size, version: Version(version))
        }
    }
    func set(_ path: String, _ bytes: [UInt8], version: String) {
        state.withLock {
            $0.objects[StorePath(path)!] = Object(bytes: bytes, size: Int64(bytes.count), version: Version(version))
        }
    }

    /// Sends no more than `pieces` more pieces, until ``release()``.
    func hold(after pieces: Int = 0) { state.update { $0.allowance = pieces } }
    func release() { state.update { $0.allowance = nil } }
    func allow(_ pieces: Int) { state.update { $0.allowance = ($0.allowance ?? 0) + pieces } }
    var requests: [Request] { state.withLock { $0.requests } }
    var bytesSent: Int64 { state.withLock { $0.bytesSent } }
    /// Waits until so many requests are there.
    func awaitRequests(_ count: Int) -> Bool {
        state.wait(until: .now + .seconds(30)) { $0.requests.count >= count ? () : nil } != nil
    }

    func connect() throws(StoreError) {}
    func metadata(of path: StorePath) throws(StoreError) -> Metadata { throw StoreError(.unsupported, "not here") }
    func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        throw StoreError(.unsupported, "not here")
    }
    func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        throw StoreError(.unsupported, "not here")
    }
    func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {}
    func delete(_ deletions: [Deletion]) -> [StoreError?] { deletions.map { _ in nil } }
    func accountInformation() throws(StoreError) -> [AccountField] { [] }
    func shutdown() {
        state.update {
            $0.isShutDown = true
            $0.allowance = nil
        }
    }

    func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata {
        let (found, failure, isShort, isCorrupt, pieceSize) = state.update { state in
            state.requests.append(Request(path: path, range: request.range))
            state.inFlight += 1
            let failure = state.errors.isEmpty ? nil : state.errors.removeFirst()
            let isShort = state.shortAnswers > 0
            let isCorrupt = state.corruptAnswers > 0
            state.shortAnswers -= isShort ? 1 : 0
            state.corruptAnswers -= isCorrupt ? 1 : 0
            return (state.objects[path], failure, isShort, isCorrupt, state.pieceSize)
        }
        defer { state.update { $0.inFlight -= 1 } }
        if let failure {
            try waitForAllowance()
            throw failure
        }
        guard let object = found else {
            throw StoreError(.notFound, "nothing at '\(path)'", path: path)
        }
        if let version = request.version, version != object.version {
            throw StoreError(.preconditionFailed, "'\(path)' has another version", path: path)
        }
        let range = (request.range ?? 0..<object.size).clamped(to: 0..<object.size)
        let end = isShort ? range.lowerBound + (range.upperBound - range.lowerBound) / 2 : range.upperBound
        var position = range.lowerBound
        while position < end {
            try waitForAllowance()
            let next = min(position + Int64(pieceSize), end)
            var bytes =
                object.bytes.map { Array($0[Int(position)..<Int(next)]) }
                ?? [UInt8](repeating: 0, count: Int(next - position))
            if isCorrupt { for index in bytes.indices { bytes[index] ^= 0x55 } }
            state.withLock { $0.bytesSent += Int64(bytes.count) }
            var failure: StoreError?
            bytes.withUnsafeBytes { buffer in
                do throws(StoreError) { try sink.write(buffer, at: position) } catch { failure = error }
            }
            if let failure { throw failure }
            position = next
        }
        if isCorrupt { throw StoreError(.corrupted, "a checksum was wrong", path: path) }
        return Metadata(
            kind: .file, size: object.size, modified: Timestamp(seconds: 0), version: object.version)
    }

    private func waitForAllowance() throws(StoreError) {
        let isOver: Bool = state.wait { state in
            if state.isShutDown { return true }
            guard let left = state.allowance else { return false }
            guard left > 0 else { return nil }
            state.allowance = left - 1
            return false
        }!
        if isOver { throw StoreError(.cancelled, "the store was shut down") }
    }
}
