import CShim
import Glibc

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
        var path: String
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
            found = Line(path: path, kind: unescape(words[dash + 1]), source: unescape(words[dash + 2]))
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
    package var isOurs: Bool { Self.line(at: path)?.kind == "fuse.cloudfusion" }

    // MARK: - Mounting

    /// Finds out whether a mount can be made here.
    ///
    /// - Throws: ``MountError`` that says what is in the way.
    package func check(mayBeNonEmpty: Bool) throws(MountError) {
        if let line = Self.line(at: path) {
            if line.kind == "fuse.cloudfusion" {
                var status = stat()
                if stat(path, &status) != 0, errno == ENOTCONN {
                    throw MountError(
                        "'\(path)' is what is left of a mount whose process has gone. "
                            + "'fusermount3 -uz \(path)' removes it; then mount again.")
                }
                throw MountError(
                    "'\(path)' is mounted already (\(line.source)). 'cloudfusion status \(path)' shows it.")
            }
            guard mayBeNonEmpty else {
                throw MountError(
                    "'\(path)' is a mount point already (\(line.kind)). Choose another directory, or mount over it "
                        + "with -o nonempty.")
            }
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
