import Glibc
import StoreAPI

/// What the C library says of an errno.
func errorText(_ code: Int32) -> String { String(cString: strerror(code)) }

/// Writes all of `bytes`; an interrupted or short write goes on.
///
/// - Returns: 0, or the errno of what failed.
@discardableResult
package func writeAll(_ bytes: some Sequence<UInt8>, to descriptor: Int32) -> Int32 {
    let bytes = Array(bytes)
    var done = 0
    while done < bytes.count {
        let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress! + done, $0.count - done) }
        if count < 0 {
            if errno == EINTR { continue }
            return errno
        }
        done += count
    }
    return 0
}

/// A line on standard error.
package func complain(_ message: String) { writeAll((message + "\n").utf8, to: 2) }

/// Makes a directory and its parents, each with `mode` if it is new. New ones survive a loss of power.
///
/// - Returns: 0, or the errno of what failed.
func makeDirectories(_ path: String, mode: mode_t) -> Int32 {
    if mkdir(path, mode) == 0 { return synchronizeParent(of: path) }
    switch errno {
    case EEXIST:
        var status = stat()
        guard stat(path, &status) == 0 else { return errno }
        return status.st_mode & Glibc.S_IFMT == Glibc.S_IFDIR ? 0 : ENOTDIR
    case ENOENT:
        guard let slash = path.lastIndex(of: "/"), slash != path.startIndex else { return ENOENT }
        let error = makeDirectories(String(path[..<slash]), mode: mode)
        guard error == 0 else { return error }
        if mkdir(path, mode) == 0 { return synchronizeParent(of: path) }
        return errno == EEXIST ? 0 : errno
    default: return errno
    }
}

/// Brings the name of a new directory to the disk. Where that is not possible (a parent that may not be read), the
/// directory is as good as any.
private func synchronizeParent(of path: String) -> Int32 {
    let parent = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
    let descriptor = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { return errno == EACCES ? 0 : errno }
    defer { close(descriptor) }
    return fsync(descriptor) == 0 || errno == EINVAL ? 0 : errno
}

/// When a process was started, in clock ticks since boot: with its number it names a process for good.
///
/// Field 22 of /proc/PID/stat, see proc(5); the second field may have blanks and brackets in it.
func startTime(of process: Int32) -> UInt64? {
    guard let words = statusWords(of: process), words.count > 19 else { return nil }
    return UInt64(words[19])
}

/// Whether the process runs. One that has ended and that its parent has not asked for yet does not.
package func isRunning(_ process: Int32) -> Bool {
    guard let words = statusWords(of: process) else { return false }
    return words.first != "Z"
}

/// The words of /proc/PID/stat behind the program's name, which may hold anything: the first is the state.
private func statusWords(of process: Int32) -> [Substring]? {
    guard let bytes = readFile("/proc/\(process)/stat", limit: 4096) else { return nil }
    let text = String(decoding: bytes, as: UTF8.self)
    guard let bracket = text.lastIndex(of: ")") else { return nil }
    return text[text.index(after: bracket)...].split(separator: " ")
}

/// The directory in which the process is; nil when it has been deleted.
package func currentDirectory() -> String? {
    guard let path = getcwd(nil, 0) else { return nil }
    defer { free(path) }
    return String(cString: path)
}

/// A variable of the environment; nil when it is not set or empty.
package func environmentVariable(_ name: String) -> String? {
    guard let value = getenv(name) else { return nil }
    let text = String(cString: value)
    return text.isEmpty ? nil : text
}
