import Glibc

/// The whole of a small file.
///
/// - Parameter limit: Bytes; of a longer file, what is behind is left out.
/// - Returns: nil when it cannot be read; `errno` says why.
public func readFile(_ path: String, limit: Int = 64 << 20) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var result: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 64 << 10)
    while result.count < limit {
        let count = read(descriptor, &buffer, min(buffer.count, limit - result.count))
        if count < 0 {
            if errno == EINTR { continue }
            return nil
        }
        if count == 0 { break }
        result += buffer[..<count]
    }
    return result
}

/// Exactly `length` bytes of an open file.
///
/// - Throws: ``StoreError``: `.internal` when it ends earlier or cannot be read.
public func readFile(_ descriptor: Int32, from offset: Int64, _ length: Int64) throws(StoreError) -> [UInt8] {
    var failure: StoreError?
    let bytes = [UInt8](unsafeUninitializedCapacity: Int(length)) { buffer, filled in
        while filled < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress! + filled, buffer.count - filled, off_t(offset) + off_t(filled))
            if count < 0, errno == EINTR { continue }
            if count <= 0 {
                failure = StoreError(
                    .internal, "a file of this machine ends at byte \(offset + Int64(filled)), or cannot be read",
                    cause: count < 0 ? String(cString: strerror(errno)) : nil)
                return
            }
            filled += count
        }
    }
    if let failure { throw failure }
    return bytes
}
