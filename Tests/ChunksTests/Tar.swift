import Glibc
import Testing

/// GNU tar and other programs of the machine, as judges of what is written for them.
enum Program {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// Runs a program and waits for its end, with the locale C, so that no byte of a name means something to it.
    ///
    /// - Returns: What it wrote to its standard output.
    @discardableResult
    static func run(_ words: String...) throws -> [UInt8] { try runAll(words) }

    @discardableResult
    static func runAll(_ words: [String]) throws -> [UInt8] {
        var pipes: [Int32] = [0, 0]
        guard pipe2(&pipes, O_CLOEXEC) == 0 else { throw Failure(description: "no pipe: errno \(errno)") }
        defer { close(pipes[0]) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_adddup2(&actions, pipes[1], 1)
        posix_spawn_file_actions_adddup2(&actions, pipes[1], 2)
        var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        let settings = ["PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"]
        var environment: [UnsafeMutablePointer<CChar>?] = settings.map { strdup($0) } + [nil]
        defer { for text in arguments + environment { free(text) } }
        var process = pid_t()
        let status = posix_spawnp(&process, words[0], &actions, nil, &arguments, &environment)
        close(pipes[1])
        guard status == 0 else { throw Failure(description: "\(words[0]) was not started: errno \(status)") }
        var output: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(pipes[0], &buffer, buffer.count)
            if count < 0, errno == EINTR { continue }
            if count <= 0 { break }
            output += buffer[..<count]
        }
        var result: Int32 = 0
        while waitpid(process, &result, 0) < 0, errno == EINTR {}
        guard result == 0 else {
            throw Failure(
                description: "\(words) ended with \(result): \(String(decoding: output.prefix(2_000), as: UTF8.self))")
        }
        return output
    }
}

/// A fresh directory of the host, removed with all that is in it at its end.
final class TemporaryFolder: Sendable {
    let path: String

    init(in parent: String = "/var/tmp") throws {
        var template = Array("\(parent)/cloudfusion-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Program.Failure(description: "no folder: errno \(errno)") }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit { _ = nftw(path, { file, _, _, _ in Glibc.remove(file!) }, 16, Int32(FTW_DEPTH | FTW_PHYS)) }
}

/// What lies in a folder of the host.
struct HostFile: Hashable, CustomStringConvertible {
    var type: UInt32
    var mode: UInt32
    var uid: UInt32
    var gid: UInt32
    /// Nanoseconds since 1970; nil for directories, whose times change with what is in them.
    var modified: Int64?
    var device: UInt64
    /// Of a file its bytes, of a symbolic link its target.
    var bytes: [UInt8]

    var description: String {
        "\(String(type, radix: 8)) mode \(String(mode, radix: 8)) \(uid):\(gid) time \(modified ?? 0) device \(device) \(bytes.count) bytes"
    }

    /// All below a folder, by path relative to it, as bytes.
    static func tree(_ folder: String) throws -> [[UInt8]: HostFile] {
        var found: [[UInt8]: HostFile] = [:]
        try visit(Array(folder.utf8), [], &found)
        return found
    }

    private static func visit(_ folder: [UInt8], _ prefix: [UInt8], _ found: inout [[UInt8]: HostFile]) throws {
        let text = (folder + [0]).map { CChar(bitPattern: $0) }
        guard let stream = opendir(text) else { throw Program.Failure(description: "opendir: errno \(errno)") }
        defer { closedir(stream) }
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: UInt8.self, capacity: 256) { start in
                    Array(
                        UnsafeBufferPointer(
                            start: start, count: strlen(UnsafeRawPointer(start).assumingMemoryBound(to: CChar.self))))
                }
            }
            if name == Array(".".utf8) || name == Array("..".utf8) { continue }
            let (path, key) = (folder + [0x2f] + name, prefix + name)
            let file = (path + [0]).map { CChar(bitPattern: $0) }
            var status = stat()
            guard lstat(file, &status) == 0 else { throw Program.Failure(description: "lstat: errno \(errno)") }
            let type = status.st_mode & Glibc.S_IFMT
            var bytes: [UInt8] = []
            if type == Glibc.S_IFREG {
                let descriptor = open(file, O_RDONLY | O_NOFOLLOW)
                defer { close(descriptor) }
                bytes = [UInt8](repeating: 0, count: Int(status.st_size))
                guard pread(descriptor, &bytes, bytes.count, 0) == bytes.count else {
                    throw Program.Failure(description: "pread: errno \(errno)")
                }
            } else if type == Glibc.S_IFLNK {
                bytes = [UInt8](repeating: 0, count: 5_000)
                bytes.removeLast(bytes.count - max(0, readlink(file, &bytes, bytes.count)))
            }
            let isDirectory = type == Glibc.S_IFDIR
            let time = Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec)
            found[key] = HostFile(
                type: type, mode: status.st_mode & 0o7777, uid: status.st_uid, gid: status.st_gid,
                modified: isDirectory ? nil : time, device: UInt64(status.st_rdev), bytes: bytes)
            if isDirectory { try visit(path, key + [0x2f], &found) }
        }
    }
}
