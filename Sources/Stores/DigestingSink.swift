import StoreAPI
import StoreHTTP

/// Takes a whole object, makes its digest, and passes on the bytes that are wanted.
final class DigestingSink: ReadSink, @unchecked Sendable {
    // Used by one thread at a time: `write` during the read, `finish` when it has returned.
    private let sink: any ReadSink
    private let range: Range<Int64>
    private let digest: any RunningDigest
    private var position: Int64 = 0
    private var isSequential = true

    /// - Parameter range: What is passed on; nil: all.
    init(_ sink: any ReadSink, only range: Range<Int64>?, _ digest: any RunningDigest = Digest(.md5)) {
        self.sink = sink
        self.digest = digest
        self.range = range ?? 0..<Int64.max
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        if offset == 0, position != 0 {
            // The request is repeated.
            _ = digest.finish()
            position = 0
            isSequential = true
        }
        isSequential = isSequential && offset == position
        digest.update(bytes)
        position = offset + Int64(bytes.count)
        let wanted = (offset..<position).clamped(to: range)
        guard !wanted.isEmpty else { return }
        let first = Int(wanted.lowerBound - offset)
        try sink.write(
            UnsafeRawBufferPointer(rebasing: bytes[first..<first + wanted.count]), at: wanted.lowerBound)
    }

    /// nil when bytes did not come in order.
    func finish() -> [UInt8]? { isSequential ? digest.finish() : nil }
}
