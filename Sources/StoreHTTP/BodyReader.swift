import Glibc
import StoreAPI

/// Reads the bytes of an ``UploadBody`` in order, from memory and from files.
struct BodyReader {
    let length: Int64
    private let segments: [UploadBody.Segment]
    private var index = 0
    /// Offset inside the segment at `index`.
    private var offset: Int64 = 0
    private(set) var position: Int64 = 0

    /// - Throws: ``StoreError``: `.unsupported` for a body with a part that lies on a store.
    init(_ body: UploadBody?) throws(StoreError) {
        segments = body?.segments ?? []
        length = body?.length ?? 0
        for case .stored(let path, _, _) in segments {
            throw StoreError(.unsupported, "a range of '\(path)' on the store cannot be sent over HTTP", path: path)
        }
    }

    /// - Returns: How many bytes were read: 0 only at the end or when `buffer` is empty.
    /// - Throws: ``StoreError``: `.internal` when a file cannot be read or is shorter than was said.
    mutating func read(into buffer: UnsafeMutableRawBufferPointer) throws(StoreError) -> Int {
        while index < segments.count, !buffer.isEmpty {
            let segment = segments[index]
            let count = Int(min(segment.length - offset, Int64(buffer.count)))
            guard count > 0 else {
                index += 1
                offset = 0
                continue
            }
            let done: Int
            switch segment {
            case .bytes(let bytes):
                bytes.withUnsafeBytes { source in
                    buffer.copyMemory(
                        from: UnsafeRawBufferPointer(rebasing: source[Int(offset)..<(Int(offset) + count)]))
                }
                done = count
            case .file(let descriptor, let start, _):
                done = try Self.pread(descriptor, buffer.baseAddress!, count, start + offset)
            case .stored:
                preconditionFailure("refused by init")
            }
            offset += Int64(done)
            position += Int64(done)
            return done
        }
        return 0
    }

    /// Goes to an offset of the whole body.
    ///
    /// - Returns: false when it lies outside.
    mutating func seek(to target: Int64) -> Bool {
        guard (0...length).contains(target) else { return false }
        index = 0
        offset = target
        while index < segments.count, offset >= segments[index].length {
            offset -= segments[index].length
            index += 1
        }
        position = target
        return true
    }

    private static func pread(_ descriptor: Int32, _ buffer: UnsafeMutableRawPointer, _ count: Int, _ offset: Int64)
        throws(StoreError) -> Int
    {
        while true {
            let done = Glibc.pread(descriptor, buffer, count, off_t(offset))
            if done > 0 { return done }
            if done == 0 {
                throw StoreError(.internal, "a file ended at offset \(offset) while it was being uploaded")
            }
            let code = errno
            if code != EINTR {
                throw StoreError(
                    .internal, "a file could not be read for its upload: \(String(cString: strerror(code)))")
            }
        }
    }
}
