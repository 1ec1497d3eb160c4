import Glibc
import StoreAPI
import Threading

/// Compares what is read with a body; ends the reading at the first difference.
final class ComparisonSink: ReadSink {
    private struct State {
        var differs = false
        var end: Int64 = 0
    }
    private let body: UploadBody
    private let state = Lock(State())

    init(_ body: UploadBody) { self.body = body }

    var differs: Bool { state.withLock { $0.differs } }
    /// Whether all bytes came, and none differed.
    var isComplete: Bool { state.withLock { !$0.differs && $0.end == body.length } }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        let isSame = try matches(bytes, offset)
        state.withLock {
            if !isSame { $0.differs = true }
            $0.end = offset + Int64(bytes.count)
        }
        if !isSame { throw StoreError(.cancelled, "the object on the store has other bytes") }
    }

    private func matches(_ bytes: UnsafeRawBufferPointer, _ offset: Int64) throws(StoreError) -> Bool {
        var start: Int64 = 0
        for segment in body.segments {
            let range = (start..<start + segment.length).clamped(to: offset..<offset + Int64(bytes.count))
            defer { start += segment.length }
            guard !range.isEmpty else { continue }
            let piece = UnsafeRawBufferPointer(
                rebasing: bytes[Int(range.lowerBound - offset)..<Int(range.upperBound - offset)])
            let within = range.lowerBound - start
            switch segment {
            case .bytes(let own):
                guard own[Int(within)..<Int(within) + piece.count].elementsEqual(piece) else { return false }
            case .file(let descriptor, let base, _):
                guard try fileMatches(piece, descriptor, base + within) else { return false }
            case .stored: continue
            }
        }
        return true
    }

    private func fileMatches(_ piece: UnsafeRawBufferPointer, _ descriptor: Int32, _ offset: Int64)
        throws(StoreError) -> Bool
    {
        var own = [UInt8](repeating: 0, count: piece.count)
        var done = 0
        while done < own.count {
            let count = own.withUnsafeMutableBytes {
                pread(descriptor, $0.baseAddress! + done, $0.count - done, off_t(offset) + off_t(done))
            }
            if count == 0 { return false }
            guard count > 0 else { throw StoreError(ofSystemCall: "a cached file could not be read") }
            done += count
        }
        return own.withUnsafeBytes { memcmp($0.baseAddress!, piece.baseAddress!, piece.count) == 0 }
    }
}
