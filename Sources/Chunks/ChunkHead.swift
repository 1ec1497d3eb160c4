import StoreAPI

/// What the beginning of a chunk tells of it.
struct ChunkHead: Sendable {
    var index: ChunkIndex
    /// Bytes of the whole object.
    var size: Int64
    /// Where the first member behind the index begins.
    var membersOffset: Int64

    /// One request brings the index of most chunks.
    static let firstPiece: Int64 = 64 << 10
    /// Room for some millions of members; what claims more is not read.
    static let longestIndex: Int64 = 512 << 20

    /// Reads the head of the chunk at `path`, in one request or two.
    ///
    /// - Throws: ``StoreError``: `.notFound`, `.corrupted`, or what the store throws.
    static func read(_ path: StorePath, of store: any Store) throws(StoreError) -> ChunkHead {
        let sink = MemorySink()
        let metadata = try store.read(path, ReadRequest(range: 0..<firstPiece), into: sink)
        var bytes = sink.bytes
        let length = try indexLength(bytes, size: metadata.size)
        let end = Int64(IndexHeader.length) + length
        if Int64(bytes.count) < end {
            let start = Int64(bytes.count)
            let rest = MemorySink(from: start)
            _ = try store.read(path, ReadRequest(range: start..<end, version: metadata.version), into: rest)
            bytes += rest.bytes
        }
        return try ChunkHead(bytes, size: metadata.size)
    }

    private static func indexLength(_ bytes: [UInt8], size: Int64) throws(StoreError) -> Int64 {
        let length = try IndexHeader.decode(bytes.prefix(IndexHeader.length))
        guard length <= longestIndex, Int64(IndexHeader.length) + IndexHeader.padded(length) <= size else {
            throw StoreError(.corrupted, "a chunk of \(size) bytes says that its index has \(length)")
        }
        return length
    }

    /// - Parameter bytes: The beginning of a chunk, up to the end of its index at least.
    init(_ bytes: [UInt8], size: Int64) throws(StoreError) {
        let length = try Self.indexLength(bytes, size: size)
        let end = IndexHeader.length + Int(length)
        guard bytes.count >= end else { throw StoreError(.corrupted, "a chunk ends within its index") }
        index = try ChunkIndex(parsing: Array(bytes[IndexHeader.length..<end]))
        self.size = size
        membersOffset = Int64(IndexHeader.length) + IndexHeader.padded(length)
        for member in index.members where member.kind == .file {
            let room = size - membersOffset
            guard let offset = member.offset, offset <= room, member.size <= room - offset else {
                throw ChunkIndex.nonsense("the bytes of '\(member.path)' lie outside")
            }
        }
    }
}
