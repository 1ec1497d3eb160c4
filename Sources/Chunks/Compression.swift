import CArchive
import Glibc
import StoreAPI

/// gzip (RFC 1952), from file to file.
enum Compression {
    /// Compresses the file at `path` to the end of an open file.
    static func compress(_ path: String, to descriptor: Int32) throws(StoreError) {
        let source = open(path, O_RDONLY | O_CLOEXEC)
        guard source >= 0 else { throw failure("read", String(cString: strerror(errno))) }
        defer { close(source) }
        guard let archive = archive_write_new(), let entry = archive_entry_new() else {
            throw failure("written", "out of memory")
        }
        defer {
            archive_entry_free(entry)
            archive_write_free(archive)
        }
        archive_entry_set_mode(entry, S_IFREG | 0o600)
        for status in [
            archive_write_set_format_raw(archive), archive_write_add_filter_gzip(archive),
            // Without the time of its making, the same bytes give the same bytes.
            archive_write_set_filter_option(archive, "gzip", "timestamp", nil),
            archive_write_open_fd(archive, descriptor), archive_write_header(archive, entry),
        ] where status < ARCHIVE_WARN { throw failure("written", reason(archive)) }
        var buffer = [UInt8](repeating: 0, count: 1 << 18)
        while true {
            let count = read(source, &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure("read", String(cString: strerror(errno))) }
            if count == 0 { break }
            guard archive_write_data(archive, buffer, count) == count else {
                throw failure("written", reason(archive), archive_errno(archive))
            }
        }
        guard archive_write_close(archive) == ARCHIVE_OK else {
            throw failure("written", reason(archive), archive_errno(archive))
        }
    }

    /// Makes of a compressed file the file at `path`.
    ///
    /// - Parameter longest: Bytes; more are refused.
    static func decompress(_ descriptor: Int32, to path: String, longest: Int64) throws(StoreError) {
        let target = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard target >= 0 else { throw failure("written", String(cString: strerror(errno)), errno) }
        defer { close(target) }
        guard let archive = archive_read_new() else { throw failure("read", "out of memory") }
        defer { archive_read_free(archive) }
        lseek(descriptor, 0, SEEK_SET)
        var entry: OpaquePointer?
        for status in [
            archive_read_support_format_raw(archive), archive_read_support_filter_gzip(archive),
            archive_read_open_fd(archive, descriptor, 1 << 16), archive_read_next_header(archive, &entry),
        ] where status < ARCHIVE_WARN { throw StoreError(.corrupted, "a snapshot is no gzip: \(reason(archive))") }
        var (buffer, total) = ([UInt8](repeating: 0, count: 1 << 18), Int64(0))
        while true {
            let count = archive_read_data(archive, &buffer, buffer.count)
            guard count >= 0 else { throw StoreError(.corrupted, "a snapshot is damaged: \(reason(archive))") }
            if count == 0 { return }
            total += Int64(count)
            guard total <= longest else { throw StoreError(.corrupted, "a snapshot is larger than \(longest) bytes") }
            var done = 0
            while done < count {
                let written = buffer.withUnsafeBytes { write(target, $0.baseAddress! + done, count - done) }
                if written < 0, errno == EINTR { continue }
                guard written > 0 else { throw failure("written", String(cString: strerror(errno)), errno) }
                done += written
            }
        }
    }

    private static func reason(_ archive: OpaquePointer) -> String {
        archive_error_string(archive).map { String(cString: $0) } ?? "no reason is told"
    }

    private static func failure(_ what: String, _ reason: String, _ number: Int32 = 0) -> StoreError {
        StoreError(
            number == ENOSPC || number == EDQUOT ? .noLocalSpace : .internal,
            "a snapshot of the chunk map could not be \(what): \(reason)")
    }
}
