import Glibc
import StoreAPI

/// Reads exactly `length` bytes of an open file.
///
/// - Throws: ``StoreError``: `.internal` when the file ends earlier or cannot be read.
func readFile(_ descriptor: Int32, from offset: Int64, _ length: Int64) throws(StoreError) -> [UInt8] {
    var failure: StoreError?
    let bytes = [UInt8](unsafeUninitializedCapacity: Int(length)) { buffer, filled in
        while filled < buffer.count {
            let count = pread(
                descriptor, buffer.baseAddress! + filled, buffer.count - filled, off_t(offset) + off_t(filled))
            if count < 0, errno == EINTR { continue }
            if count <= 0 {
                failure = StoreError(
                    .internal, "the file to be stored ends at byte \(offset + Int64(filled)), or cannot be read",
                    cause: count < 0 ? String(cString: strerror(errno)) : nil)
                return
            }
            filled += count
        }
    }
    if let failure { throw failure }
    return bytes
}
