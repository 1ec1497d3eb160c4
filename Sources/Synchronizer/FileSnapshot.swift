import Glibc
import StoreAPI

/// Bytes of files as they were at one moment: a nameless file beside the original ones, which share their blocks
/// where the file system can do that.
final class FileSnapshot: Sendable {
    let body: UploadBody
    private let file: NamelessFile?

    /// - Throws: ``StoreError``: `.noLocalSpace`, `.internal`.
    init(of original: UploadBody) throws(StoreError) {
        let first = original.segments.compactMap { segment -> Int32? in
            if case .file(let descriptor, _, _) = segment { descriptor } else { nil }
        }.first
        guard let first else {
            body = original
            file = nil
            return
        }
        let file = try NamelessFile(beside: first)
        self.file = file
        let descriptor = file.descriptor
        var segments: [UploadBody.Segment] = []
        var end: Int64 = 0
        for segment in original.segments {
            guard case .file(let source, let offset, let length) = segment else {
                segments.append(segment)
                continue
            }
            try copyBytes(of: source, offset, length, to: descriptor, at: end)
            segments.append(.file(descriptor: descriptor, offset: end, length: length))
            end += length
        }
        body = UploadBody(segments)
    }
}

private func copyBytes(of source: Int32, _ offset: Int64, _ length: Int64, to target: Int32, at start: Int64)
    throws(StoreError)
{
    var from = off_t(offset)
    var to = off_t(start)
    let end = off_t(offset + length)
    while from < end {
        let count = copy_file_range(source, &from, target, &to, end - from, 0)
        if count > 0 { continue }
        // The file became shorter: what is missing reads as zero, and the upload counts as torn.
        if count == 0 { break }
        guard errno == EXDEV || errno == EINVAL || errno == ENOSYS || errno == EOPNOTSUPP else {
            throw copyFailed()
        }
        try copyByHand(of: source, from, end, to: target, at: to)
        break
    }
    if ftruncate(target, off_t(start + length)) != 0 { throw copyFailed() }
}

private func copyByHand(of source: Int32, _ offset: off_t, _ end: off_t, to target: Int32, at start: off_t)
    throws(StoreError)
{
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    var position = offset
    while position < end {
        let count = pread(source, &buffer, min(buffer.count, end - position), position)
        if count == 0 { return }
        guard count > 0 else { throw copyFailed() }
        var written = 0
        while written < count {
            let result = buffer.withUnsafeBytes {
                pwrite(target, $0.baseAddress! + written, count - written, start + position - offset + written)
            }
            guard result > 0 else { throw copyFailed() }
            written += result
        }
        position += count
    }
}

func copyFailed() -> StoreError { StoreError(ofSystemCall: "a cached file could not be copied") }
