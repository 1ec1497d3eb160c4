import CShim
import Glibc
import StoreAPI
import Threading

/// The directory where a mount is to be, or is.
package struct MountPoint: Hashable, Sendable {
    /// Absolute, without symbolic links on the way to it.
    package let path: String

    /// - Throws: ``MountError`` when there is no such place.
    package init(_ path: String) throws(MountError) {
        guard !path.isEmpty else { throw MountError("the mount point is empty", isUsage: true) }
        guard !path.utf8.contains(0) else { throw MountError("the mount point has a zero byte in it", isUsage: true) }
        var whole = path.hasPrefix("/") ? path : (currentDirectory() ?? "") + "/" + path
        while whole.count > 1, whole.hasSuffix("/") { whole.removeLast() }
        // The last component is not touched: if it is a mount whose process hangs, whoever touches it hangs too.
        let name = whole[whole.index(after: whole.lastIndex(of: "/") ?? whole.startIndex)...]
        if whole == "/" || name == "." || name == ".." {
            self.path = try Self.resolve(whole)
            return
        }
        let parent = try Self.resolve(String(whole.dropLast(name.count)))
        let joined = parent == "/" ? "/" + name : parent + "/" + name
        self.path = Self.isMounted(joined) ? joined : (Self.resolveIfPossible(joined) ?? joined)
    }

    private static func resolveIfPossible(_ path: String) -> String? {
        guard let resolved = realpath(path, nil) else { return nil }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    private static func resolve(_ path: String) throws(MountError) -> String {
        if let resolved = resolveIfPossible(path) { return resolved }
        throw MountError("'\(path)' cannot be reached: \(errorText(errno))")
    }

    // MARK: - What is mounted

    private struct Line {
        /// Of the mount, as long as it is there.
        var number: String
        var kind: String
        var source: String
    }

    /// The topmost mount at a path, by /proc/self/mountinfo (see proc_pid_mountinfo(5)).
    private static func line(at path: String) -> Line? {
        guard let bytes = readFile("/proc/self/mountinfo") else { return nil }
        var found: Line?
        for line in bytes.split(separator: UInt8(ascii: "\n")) {
            let words = line.split(separator: UInt8(ascii: " "))
            guard words.count > 6, let dash = words.firstIndex(where: { $0.elementsEqual("-".utf8) }),
                dash + 2 < words.count
            else { continue }
            guard unescape(words[4]) == path else { continue }
            found = Line(number: unescape(words[0]), kind: unescape(words[dash + 1]), source: unescape(words[dash + 2]))
        }
        return found
    }

    /// Undoes the octal escapes of blanks and the like.
    private static func unescape(_ word: ArraySlice<UInt8>) -> String {
        var result: [UInt8] = []
        var index = word.startIndex
        while index < word.endIndex {
            if word[index] == UInt8(ascii: "\\"), index + 3 < word.endIndex,
                let value = UInt8(String(decoding: word[(index + 1)...(index + 3)], as: UTF8.self), radix: 8)
            {
                result.append(value)
                index += 4
            } else {
                result.append(word[index])
                index += 1
            }
        }
        return String(decoding: result, as: UTF8.self)
    }

    private static func isMounted(_ path: String) -> Bool { line(at: path) != nil }

    package var isMounted: Bool { Self.isMounted(path) }

    /// Whether a mount of this program is there, alive or not.
    package var isOurs: Bool { Self.line(at: path)?.kind == Self.kind }

    private static let kind = "fuse.cloudfusion"

    // MARK: - Mounting

    /// Finds out whether a mount can be made here, and takes away what is left of one of ours whose process has gone.
    ///
    /// - Throws: ``MountError`` that says what is in the way.
    package func prepare(mayBeNonEmpty: Bool) throws(MountError) {
        while let line = Self.line(at: path) {
            // Of the others, none can die, and a disk is not to be waited for.
            let condition = line.kind.hasPrefix("fuse") ? condition() : .answers
            // Somebody else may be at it.
            if Self.line(at: path)?.number != line.number { continue }
            switch condition {
            case .dead(let root):
                guard line.kind == Self.kind else {
                    throw MountError(
                        "'\(path)' is what is left of a mount of another program (\(line.kind), \(line.source)) whose "
                            + "process has gone. 'fusermount3 -uz \(path)' removes it; then mount again.")
                }
                let code = remove(dead: root)
                guard Self.line(at: path)?.number == line.number else { continue }
                throw MountError(
                    "'\(path)' is what is left of a mount whose process has gone, and cannot be removed: "
                        + "\(errorText(code)). Whoever mounted it can do that with 'fusermount3 -uz \(path)'.")
            case .isSilent:
                throw MountError(
                    "'\(path)' is mounted already (\(line.source)), and the mount does not answer: its process stands "
                        + "still. If it does not go on, end it; then mount again.")
            case .answers where line.kind == Self.kind:
                throw MountError(
                    "'\(path)' is mounted already (\(line.source)). 'cloudfusion status \(path)' shows it.")
            case .answers where !mayBeNonEmpty:
                throw MountError(
                    "'\(path)' is a mount point already (\(line.kind)). Choose another directory, or mount over it "
                        + "with -o nonempty.")
            case .answers: break
            }
            break
        }
        var status = stat()
        guard stat(path, &status) == 0 else {
            if errno == ENOENT {
                throw MountError("the mount point '\(path)' does not exist. Make it with 'mkdir \(path)'.")
            }
            throw MountError("the mount point '\(path)' cannot be used: \(errorText(errno))")
        }
        guard status.st_mode & Glibc.S_IFMT == Glibc.S_IFDIR else {
            throw MountError("the mount point '\(path)' is not a directory.")
        }
        if !mayBeNonEmpty, try !isEmpty() {
            throw MountError(
                "the mount point '\(path)' is not empty, and what is in it would be hidden. Choose an empty directory, "
                    + "or mount over it with -o nonempty.")
        }
        try Self.checkDevice()
    }

    /// Whether somebody serves a mount.
    private enum Condition: Sendable {
        case answers
        /// Nobody has answered within some seconds.
        case isSilent
        case dead(MountRoot)
    }

    /// Asks a FUSE mount for its space: the kernel passes that on each time, while it may still know the attributes of a
    /// directory whose server has gone. It says ENOTCONN when nobody serves the mount any more.
    private func condition() -> Condition {
        let found = Monitor<Condition?>(nil)
        // On a thread of its own: one that stands still keeps it for as long as it likes.
        WorkerThread(name: "mount point") { [path] in
            var condition = Condition.answers
            if let root = MountRoot(path) {
                var space = statfs()
                if fstatfs(root.descriptor, &space) != 0, errno == ENOTCONN { condition = .dead(root) }
            }
            found.update { $0 = condition }
        }.detach()
        return found.wait(until: .now + .seconds(10)) { $0 } ?? .isSilent
    }

    /// Takes a dead mount out of the tree, also when others have files in it open.
    ///
    /// - Returns: 0, or an errno.
    private func remove(dead root: MountRoot) -> Int32 {
        // By the descriptor: at the path there may be a live mount by now, of somebody who has done the same.
        if umount2("/proc/self/fd/\(root.descriptor)", Int32(MNT_DETACH)) == 0 { return 0 }
        let code = errno
        guard code == EPERM || code == EACCES else { return code }
        return runProgram(["fusermount3", "-u", "-z", "--", path]) == 0 ? 0 : code
    }

    private func isEmpty() throws(MountError) -> Bool {
        guard let directory = opendir(path) else {
            throw MountError("the mount point '\(path)' cannot be read: \(errorText(errno))")
        }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { return false }
        }
        return true
    }

    private static func checkDevice() throws(MountError) {
        let descriptor = open("/dev/fuse", O_RDWR | O_CLOEXEC)
        guard descriptor < 0 else {
            close(descriptor)
            return
        }
        let code = errno
        let advice =
            switch code {
            case ENOENT, ENODEV, ENXIO:
                "Load the kernel's module with 'modprobe fuse'; a container needs '--device /dev/fuse --cap-add SYS_ADMIN'."
            default:
                "A container needs '--device /dev/fuse --cap-add SYS_ADMIN'; else look at the device's permissions."
            }
        throw MountError("/dev/fuse cannot be opened: \(errorText(code)). \(advice)")
    }

    // MARK: - Unmounting

    package enum UnmountOutcome: Equatable, Sendable {
        case done
        /// Files in it are open, or are somebody's working directory.
        case busy
        case failed(String)
    }

    /// Unmounts as umount(8) does, without force.
    package func unmount() -> UnmountOutcome {
        if umount2(path, Int32(UMOUNT_NOFOLLOW)) == 0 { return .done }
        switch errno {
        case EBUSY: return .busy
        case EINVAL, ENOENT: return isMounted ? .failed(errorText(EINVAL)) : .done
        case EPERM, EACCES: break
        default: return .failed(errorText(errno))
        }
        let status = runProgram(["fusermount3", "-u", "--", path])
        if status == 0 || !isMounted { return .done }
        return status == 127 ? .failed("fusermount3 was not found") : .busy
    }

    /// Processes that have something open in the mount, as far as we may know, for a message.
    package func users() -> [String] {
        guard let directory = opendir("/proc") else { return [] }
        defer { closedir(directory) }
        var result: [String] = []
        while let entry = readdir(directory), result.count < 5 {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard let process = Int32(name), process != getpid() else { continue }
            if uses(process) {
                let command = readFile("/proc/\(process)/comm", limit: 64) ?? []
                result.append("\(process) (\(String(decoding: command, as: UTF8.self).filter { !$0.isNewline }))")
            }
        }
        return result
    }

    private func uses(_ process: Int32) -> Bool {
        func leadsHere(_ link: String) -> Bool {
            var buffer = [UInt8](repeating: 0, count: 4096)
            let count = buffer.withUnsafeMutableBytes {
                readlink(link, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
            }
            guard count > 0 else { return false }
            let target = String(decoding: buffer[..<count], as: UTF8.self)
            return target == path || target.hasPrefix(path + "/")
        }
        if leadsHere("/proc/\(process)/cwd") || leadsHere("/proc/\(process)/root") { return true }
        guard let directory = opendir("/proc/\(process)/fd") else { return false }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name.first?.isNumber == true, leadsHere("/proc/\(process)/fd/\(name)") { return true }
        }
        return false
    }
}

/// The root of one certain mount, however many others come and go at its path. Nothing is asked of its file system.
private final class MountRoot: Sendable {
    let descriptor: Int32

    /// - Returns: nil when the path cannot be opened; errno says why.
    init?(_ path: String) {
        descriptor = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
        if descriptor < 0 { return nil }
    }

    deinit { close(descriptor) }
}

/// Runs a program from PATH, quietly, and waits for it.
///
/// - Returns: its exit code; 127 when it could not be started.
func runProgram(_ words: [String]) -> Int32 {
    var arguments: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
    defer { for argument in arguments { free(argument) } }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0)
    var process: pid_t = 0
    guard posix_spawnp(&process, words[0], &actions, nil, &arguments, environ) == 0 else { return 127 }
    var status: Int32 = 0
    while waitpid(process, &status, 0) < 0, errno == EINTR {}
    return status & 0x7f == 0 ? (status >> 8) & 0xff : 1
}
