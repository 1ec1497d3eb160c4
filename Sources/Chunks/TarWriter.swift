import CArchive
import Glibc
import StoreAPI
import Threading

/// Writes the members of a chunk, behind its index, to an open file.
///
/// The format is pax: an extended header only for what the plain one cannot hold, fractions of a second among it, and extended
/// attributes under `SCHILY.xattr.`, which GNU tar reads. Names are the bytes that they are: the program has the locale C,
/// in which libarchive cannot make UTF-8 of any other name than of ASCII, and writes it as it is, marked with
/// `hdrcharset=BINARY`. (Asked to do so for all names, it would give each member an extended header.)
final class TarWriter {
    private let archive: OpaquePointer
    private let entry: OpaquePointer

    /// - Parameter descriptor: A regular file, written from where it stands.
    init(descriptor: Int32) throws(StoreError) {
        guard let archive = archive_write_new(), let entry = archive_entry_new2(archive) else {
            throw StoreError(.internal, "no archive could be begun: out of memory")
        }
        self.archive = archive
        self.entry = entry
        for status in [
            archive_write_set_format_pax(archive), archive_write_add_filter_none(archive),
            archive_write_set_format_option(archive, "pax", "xattrheader", "SCHILY"),
            archive_write_set_bytes_per_block(archive, 1 << 16), archive_write_open_fd(archive, descriptor),
        ] where status != ARCHIVE_OK { throw failure("begun") }
    }

    deinit {
        archive_entry_free(entry)
        // Without a failure in between nothing is left to be written.
        archive_write_free(archive)
    }

    /// - Parameters:
    ///   - name: As it stands in the archive, without a directory's `/` at the end.
    ///   - time: The file's time of change where its attributes have none.
    /// - Returns: Where the bytes begin, from the first member on.
    @discardableResult
    func add(_ member: ChunkMember, as name: [UInt8], _ bytes: [UInt8], time: Timestamp) throws(StoreError) -> Int64 {
        archive_entry_clear(entry)
        let attributes = member.attributes
        let (type, mode): (UInt32, UInt32) =
            switch member.kind {
            case .file, .link, .whiteout: (S_IFREG, 0o644)
            case .symbolicLink: (S_IFLNK, 0o777)
            case .directory: (S_IFDIR, 0o755)
            case .fifo: (S_IFIFO, 0o644)
            case .characterDevice: (S_IFCHR, 0o644)
            case .blockDevice: (S_IFBLK, 0o644)
            }
        withText(member.kind == .directory ? name + [0x2f] : name) { archive_entry_copy_pathname(entry, $0) }
        archive_entry_set_mode(entry, type | (attributes.mode ?? mode))
        archive_entry_set_uid(entry, Int64(attributes.uid ?? 0))
        archive_entry_set_gid(entry, Int64(attributes.gid ?? 0))
        let modified = attributes.modified ?? time
        // libarchive writes the two with a dot between them, also below zero, where the fraction counts backwards. What is
        // less than a second before 1970 cannot be told so.
        let isBefore = modified.seconds < -1 && modified.subsecond > 0
        archive_entry_set_mtime(
            entry, time_t(isBefore ? modified.seconds + 1 : modified.seconds),
            isBefore ? Int(1_000_000_000 - modified.subsecond) : modified.seconds == -1 ? 0 : Int(modified.subsecond))
        archive_entry_set_size(entry, Int64(bytes.count))
        if let link = member.link { withText(link.bytes) { archive_entry_copy_hardlink(entry, $0) } }
        if let target = member.target { withText(target) { archive_entry_copy_symlink(entry, $0) } }
        if let device = attributes.device, [.characterDevice, .blockDevice].contains(member.kind) {
            archive_entry_set_rdev(entry, dev_t(device))
        }
        if member.kind != .link {
            for (name, value) in (attributes.extended ?? [:]).sorted(by: { $0.key < $1.key }) {
                archive_entry_xattr_add_entry(entry, name, value, value.count)
            }
        }
        // A name of other bytes than ASCII comes with a warning: see the type's comment.
        guard archive_write_header(archive, entry) >= ARCHIVE_WARN else { throw failure("told of '\(member.path)'") }
        let offset = archive_filter_bytes(archive, 0)
        if !bytes.isEmpty {
            guard archive_write_data(archive, bytes, bytes.count) == bytes.count else {
                throw failure("given the bytes of '\(member.path)'")
            }
        }
        guard archive_write_finish_entry(archive) == ARCHIVE_OK else { throw failure("given '\(member.path)'") }
        return offset
    }

    /// Writes the end of the archive.
    ///
    /// - Returns: How many bytes there are in all.
    func finish() throws(StoreError) -> Int64 {
        guard archive_write_close(archive) == ARCHIVE_OK else { throw failure("ended") }
        return archive_filter_bytes(archive, 0)
    }

    private func withText(_ bytes: [UInt8], _ body: (UnsafePointer<CChar>) -> Void) {
        (bytes + [0]).withUnsafeBufferPointer { buffer in
            buffer.withMemoryRebound(to: CChar.self) { body($0.baseAddress!) }
        }
    }

    private func failure(_ what: String) -> StoreError {
        let reason = archive_error_string(archive).map { String(cString: $0) } ?? "no reason is told"
        return StoreError(
            [ENOSPC, EDQUOT].contains(archive_errno(archive)) ? .noLocalSpace : .internal,
            "the archive of a chunk could not be \(what): \(reason)")
    }
}

/// The header of the first member of a chunk, a plain one (ustar), written and read without more ado.
///
/// Source: POSIX, pax, "ustar Interchange Format".
enum IndexHeader {
    static let length = 512

    /// The header of an index of so many bytes.
    static func encode(size: Int, modified: Timestamp) -> [UInt8] {
        var block = [UInt8](repeating: 0, count: length)
        func put(_ text: String, at offset: Int) {
            block.replaceSubrange(offset..<(offset + text.utf8.count), with: text.utf8)
        }
        func octal(_ number: Int64, _ width: Int) -> String {
            let digits = String(number, radix: 8)
            return String(repeating: "0", count: max(0, width - digits.count)) + digits
        }
        block.replaceSubrange(0..<ChunkPaths.index.count, with: ChunkPaths.index)
        put("0000644", at: 100)
        put("0000000", at: 108)
        put("0000000", at: 116)
        put(octal(Int64(size), 11), at: 124)
        put(octal(min(max(modified.seconds, 0), 0o77777777777), 11), at: 136)
        put("0", at: 156)
        put("ustar\0" + "00", at: 257)
        put(octal(Int64(checksum(block)), 6) + "\0 ", at: 148)
        return block
    }

    /// The size of the index that this header is of.
    ///
    /// - Throws: ``StoreError``: `.corrupted` where it is no such header.
    static func decode(_ block: ArraySlice<UInt8>) throws(StoreError) -> Int64 {
        let block = Array(block)
        func octal(_ range: Range<Int>) -> Int64? {
            let digits = block[range].prefix { $0 != 0 && $0 != 0x20 }
            return Int64(String(decoding: digits, as: UTF8.self), radix: 8)
        }
        guard block.count == length, block.starts(with: ChunkPaths.index), block[ChunkPaths.index.count] == 0,
            block[156] == 0x30, block[257..<262].elementsEqual("ustar".utf8),
            octal(148..<156) == Int64(checksum(block)), let size = octal(124..<136), size >= 0
        else { throw StoreError(.corrupted, "this is no chunk: it does not begin with '.cloudfusion/index'") }
        return size
    }

    /// The sum of all bytes, those of the sum itself taken for spaces.
    private static func checksum(_ block: [UInt8]) -> Int {
        block.reduce(0) { $0 + Int($1) } - block[148..<156].reduce(0) { $0 + Int($1) } + 8 * 0x20
    }

    /// Bytes with zeros up to the next block.
    static func padded(_ size: Int64) -> Int64 { (size + 511) / 512 * 512 }
}
