import CFuse3
import Glibc
import Threading

/// What libfuse says: kept, because its calls only answer "failed", and its sentences say why.
enum LibraryLog {
    private static let line = Lock<String?>(nil)

    static var last: String? { line.withLock { $0 } }

    static func install() {
        line.withLock { $0 = nil }
        fuse_set_log_func { _, format, arguments in
            guard let format, let arguments else { return }
            var buffer = [CChar](repeating: 0, count: 1024)
            vsnprintf(&buffer, buffer.count, format, arguments)
            var text = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            while text.last?.isWhitespace == true { text.removeLast() }
            if !text.isEmpty { LibraryLog.line.withLock { $0 = text } }
        }
    }
}

/// Runs a program of the system and waits for its end; its output goes where ours goes.
///
/// - Returns: its exit status, or nil when it could not be started or was killed.
@discardableResult
func runProgram(_ name: String, _ arguments: [String]) -> Int32? {
    var pointers: [UnsafeMutablePointer<CChar>?] = ([name] + arguments).map { strdup($0) } + [nil]
    defer { for pointer in pointers { free(pointer) } }
    var process = pid_t()
    guard posix_spawnp(&process, name, nil, nil, &pointers, environ) == 0 else { return nil }
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0 { if errno != EINTR { return nil } }
    return status & 0x7f == 0 ? (status >> 8) & 0xff : nil
}
