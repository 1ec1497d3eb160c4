extension Store {
    /// Calls `body` with each page of a directory's listing, in order.
    public func forEachPage(of directory: StorePath, _ body: (ListPage) throws(StoreError) -> Void) throws(StoreError) {
        var cursor: ListCursor?
        repeat {
            let page = try list(directory, after: cursor)
            try body(page)
            cursor = page.next
        } while cursor != nil
    }

    /// ``delete(_:)-([Deletion])`` without conditions.
    public func delete(_ paths: [StorePath]) -> [StoreError?] { delete(paths.map { Deletion($0) }) }

    /// Deletes one file or empty directory.
    public func delete(_ path: StorePath) throws(StoreError) {
        if let error = delete([path])[0] { throw error }
    }
}

/// Collects what is read in memory; for small objects and for tests.
public final class MemorySink: ReadSink, @unchecked Sendable {
    /// What has come, from `start` on. Read it when the read has returned.
    public private(set) var bytes: [UInt8] = []
    private let start: Int64

    /// - Parameter start: The offset of the object that becomes the first byte.
    public init(from start: Int64 = 0) { self.start = start }

    public func write(_ piece: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        let position = Int(offset - start)
        guard position >= 0, position <= bytes.count else {
            throw StoreError(.internal, "bytes came for offset \(offset), after \(bytes.count) from \(start) on")
        }
        bytes.removeSubrange(position...)
        bytes.append(contentsOf: piece)
    }
}
