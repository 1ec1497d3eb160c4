import Glibc
import StoreAPI

/// Bytes of files as they were at one moment: a nameless file beside the original ones, which share their blocks
/// where the file system can do that.
final class FileSnapshot: Sendable {
    let body: UploadBody
    private let descriptor: Int32

    /// - Throws: ``StoreError``: `.noLocalSpace`, `.internal`.
    init(of original: UploadBody) throws(StoreError) {
        let first = original.segments.compactMap { segment -> Int32? in
            if case .file(let descriptor, _, _) = segment { descriptor } else { nil }
        }.first
        guard let first else {
            body = original
            descriptor = -1
            return
        }
        let file = try namelessFile(beside: first)
        descriptor = file
        var segments: [UploadBody.Segment] = []
        var end: Int64 = 0
        do {
            for segment in original.segments {
                guard case .file(let source, let offset, let length) = segment else {
                    segments.append(segment)
                    continue
                }
                try copyBytes(of: source, offset, length, to: file, at: end)
                segments.append(.file(descriptor: file, offset: end, length: length))
                end += length
            }
        } catch {
            close(file)
            throw error
        }
        body = UploadBody(segments)
    }

    deinit { if descriptor >= 0 { close(descriptor) } }
}

/// A file without a name in the folder of an open one; it is gone when its descriptor is closed.
func namelessFile(beside descriptor: Int32) throws(StoreError) -> Int32 {
    var buffer = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
    let length = readlink("/proc/self/fd/\(descriptor)", &buffer, Int(PATH_MAX))
    guard length > 0 else { throw localError("a temporary file") }
    let path = String(decoding: buffer[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let folder = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "/"
    return try namelessFile(in: folder.isEmpty ? "/" : folder)
}

/// A file without a name in `folder`; it is gone when its descriptor is closed.
func namelessFile(in folder: String) throws(StoreError) -> Int32 {
    let file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600)
    if file >= 0 { return file }
    // Not every file system knows O_TMPFILE.
    var template = Array("\(folder)/.upload-XXXXXX".utf8CString)
    let named = mkostemp(&template, O_CLOEXEC)
    guard named >= 0 else { throw localError("a temporary file in '\(folder)'") }
    unlink(template)
    return named
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
            throw localError("a copy of a cached file")
        }
        try copyByHand(of: source, from, end, to: target, at: to)
        break
    }
    if ftruncate(target, off_t(start + length)) != 0 { throw localError("a copy of a cached file") }
}

private func copyByHand(of source: Int32, _ offset: off_t, _ end: off_t, to target: Int32, at start: off_t)
    throws(StoreError)
{
    var buffer = [UInt8](repeating: 0, count: 1 << 20)
    var position = offset
    while position < end {
        let count = pread(source, &buffer, min(buffer.count, end - position), position)
        if count == 0 { return }
        guard count > 0 else { throw localError("a copy of a cached file") }
        var written = 0
        while written < count {
            let result = buffer.withUnsafeBytes {
                pwrite(target, $0.baseAddress! + written, count - written, start + position - offset + written)
            }
            guard result > 0 else { throw localError("a copy of a cached file") }
            written += result
        }
        position += count
    }
}

/// The error of the system call that has just failed.
func localError(_ what: String) -> StoreError {
    let number = errno
    return StoreError(
        number == ENOSPC || number == EDQUOT ? .noLocalSpace : .internal,
        "\(what) could not be made: \(String(cString: strerror(number)))")
}
