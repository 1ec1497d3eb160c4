import Glibc
import StoreAPI

/// An open file without a name, in a folder of this machine; gone when it is closed.
final class UnlinkedFile: Sendable {
    let descriptor: Int32

    init(in folder: String) throws(StoreError) {
        descriptor = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else {
            throw StoreError(
                errno == ENOSPC || errno == EDQUOT ? .noLocalSpace : .internal,
                "no temporary file could be made in '\(folder)': \(String(cString: strerror(errno)))")
        }
    }

    deinit { close(descriptor) }

    var size: Int64 {
        get throws(StoreError) {
            var status = stat()
            guard fstat(descriptor, &status) == 0 else {
                throw StoreError(.internal, "a temporary file cannot be looked at: \(String(cString: strerror(errno)))")
            }
            return Int64(status.st_size)
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        var done = 0
        while done < bytes.count {
            let count = pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                throw StoreError(
                    errno == ENOSPC || errno == EDQUOT ? .noLocalSpace : .internal,
                    "a temporary file cannot be written", cause: String(cString: strerror(errno)))
            }
            done += count
        }
    }

    /// - Throws: ``StoreError``: `.internal` when there are fewer bytes.
    func read(_ range: Range<Int64>) throws(StoreError) -> [UInt8] {
        try readFile(descriptor, from: range.lowerBound, range.upperBound - range.lowerBound)
    }
}

/// A chunk that was written on this machine and can be put on a store.
struct ChunkFile: Sendable {
    /// With the places of all bytes.
    let index: ChunkIndex
    let body: UploadBody
    let membersOffset: Int64
    /// Keeps the body readable.
    private let file: UnlinkedFile

    var size: Int64 { body.length }

    /// Writes a chunk of `index.members`, in their order.
    ///
    /// - Parameters:
    ///   - bytes: Gives the bytes of a member that is a file, by its number.
    /// - Throws: ``StoreError``: what `bytes` throws, `.noLocalSpace`, `.internal`.
    init(
        _ index: ChunkIndex, in folder: String, bytes: (Int) throws(StoreError) -> [UInt8]
    ) throws(StoreError) {
        file = try UnlinkedFile(in: folder)
        let writer = try TarWriter(descriptor: file.descriptor)
        var index = index
        for (number, member) in index.members.enumerated() {
            let name = member.kind == .whiteout ? member.path.whiteout : member.path.bytes
            let contents = member.kind == .file ? try bytes(number) : []
            let offset = try writer.add(member, as: name, contents, time: index.created)
            if member.kind == .file { index.members[number].offset = offset }
        }
        let length = try writer.finish()
        let encoded = index.encoded
        let padding = IndexHeader.padded(Int64(encoded.count)) - Int64(encoded.count)
        let head =
            IndexHeader.encode(size: encoded.count, modified: index.created) + encoded
            + [UInt8](repeating: 0, count: Int(padding))
        self.index = index
        membersOffset = Int64(head.count)
        body = UploadBody([.bytes(head), .file(descriptor: file.descriptor, offset: 0, length: length)])
    }
}
