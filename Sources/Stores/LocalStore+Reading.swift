import Glibc
package import StoreAPI

extension LocalStore {
    /// How often a read begins anew because the file was changed in place under it.
    static let attempts = 3
    /// Bytes moved by one system call.
    static let pieceSize = 1 << 20

    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let root = try root()
        for _ in 1...Self.attempts {
            let (file, status) = try root.find(path)
            if status.kind == .directory { throw StoreError(.isADirectory, "'\(path)' is a directory", path: path) }
            try check(request.version, status, path, root)
            let metadata = root.metadata(status, try root.extended(file.magicLink, status.kind, path))
            let range = (request.range ?? 0..<Int64.max).clamped(to: 0..<status.size)
            switch status.kind {
            case .file:
                let isWhole = try copy(range, of: file, path, to: sink)
                guard isWhole, let after = LocalStatus(of: file.descriptor),
                    root.version(after) == metadata.version
                else {
                    if request.version == nil { continue }
                    throw StoreError(.preconditionFailed, "'\(path)' was changed while it was read", path: path)
                }
            case .symbolicLink:
                let target = try readLink(file, path)
                let piece = target[Int(range.lowerBound)..<Int(range.upperBound)]
                try Array(piece).withUnsafeBufferPointer { bytes throws(StoreError) in
                    if !bytes.isEmpty { try sink.write(UnsafeRawBufferPointer(bytes), at: range.lowerBound) }
                }
            default: break
            }
            return metadata
        }
        throw StoreError(.unavailable, "'\(path)' is being changed, again and again, while it is read", path: path)
    }

    /// Throws unless a file is the version that is meant.
    func check(_ version: Version?, _ status: LocalStatus, _ path: StorePath, _ root: LocalRoot) throws(StoreError) {
        guard let version, version != root.version(status) else { return }
        throw StoreError.changed(path, version.text)
    }

    /// - Returns: Whether the file is as long as was thought.
    private func copy(
        _ range: Range<Int64>, of file: LocalFile, _ path: StorePath, to sink: any ReadSink
    ) throws(StoreError) -> Bool {
        if range.isEmpty { return true }
        // By way of the descriptor, so that it is the file that was looked at, and no device or fifo.
        guard let open = file.reopened(O_RDONLY | O_NONBLOCK) else { throw StoreError(errno: errno, "reading", path) }
        let capacity = Int(min(Int64(Self.pieceSize), range.upperBound - range.lowerBound))
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: capacity, alignment: 4096)
        defer { buffer.deallocate() }
        var position = range.lowerBound
        while position < range.upperBound {
            try checkIsOpen()
            let wanted = Int(min(Int64(capacity), range.upperBound - position))
            let count = pread(open.descriptor, buffer.baseAddress, wanted, off_t(position))
            if count < 0, errno == EINTR { continue }
            if count < 0 { throw StoreError(errno: errno, "reading", path) }
            if count == 0 { return false }
            try sink.write(UnsafeRawBufferPointer(rebasing: buffer[..<count]), at: position)
            position += Int64(count)
        }
        return true
    }

    func readLink(_ file: LocalFile, _ path: StorePath) throws(StoreError) -> [UInt8] {
        var count = 0
        let bytes = [CChar](unsafeUninitializedCapacity: Int(PATH_MAX)) { buffer, filled in
            count = readlinkat(file.descriptor, "", buffer.baseAddress!, buffer.count)
            filled = max(count, 0)
        }
        guard count >= 0 else { throw StoreError(errno: errno, "reading the link", path) }
        return bytes.map { UInt8(bitPattern: $0) }
    }
}
