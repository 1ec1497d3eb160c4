import Glibc
import StoreAPI

/// An open file without a name that holds these bytes; for bodies of uploads.
struct TemporaryFile: ~Copyable {
    let descriptor: Int32

    init(_ bytes: [UInt8]) throws {
        descriptor = memfd_create("upload", UInt32(MFD_CLOEXEC))
        guard descriptor >= 0 else { throw ContractViolation("no memory file could be made: errno \(errno)") }
        var position = 0
        while position < bytes.count {
            let written = bytes[position...].withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress!, $0.count) }
            guard written > 0 else { throw ContractViolation("a memory file could not be written: errno \(errno)") }
            position += written
        }
    }

    deinit { close(descriptor) }
}
