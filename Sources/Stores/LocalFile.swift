import CShim
import Glibc
import StoreAPI
import Threading

/// An open file of the host, closed when nobody holds it any more.
final class LocalFile: Sendable {
    let descriptor: Int32

    init(owning descriptor: Int32) { self.descriptor = descriptor }

    deinit { close(descriptor) }

    /// Opens a name in a directory, never through a symbolic link.
    ///
    /// - Returns: nil when it could not be opened; `errno` says why.
    init?(_ name: FileName, in directory: Int32, _ flags: Int32, mode: mode_t = 0) {
        let opened = name.withCString { openat(directory, $0, flags | O_NOFOLLOW | O_CLOEXEC, mode) }
        guard opened >= 0 else { return nil }
        descriptor = opened
    }

    /// Another descriptor of the same file, with other rights than this one, which may be a mere `O_PATH`.
    func reopened(_ flags: Int32) -> LocalFile? {
        let opened = open(magicLink, flags | O_CLOEXEC)
        return opened >= 0 ? LocalFile(owning: opened) : nil
    }

    /// Leads to this very file, also to a symbolic link itself, in calls that take only a path.
    var magicLink: String { "/proc/self/fd/\(descriptor)" }
}

extension FileName {
    func withCString<Result>(_ body: (UnsafePointer<CChar>) throws -> Result) rethrows -> Result {
        try (bytes.map { CChar(bitPattern: $0) } + [0]).withUnsafeBufferPointer { try body($0.baseAddress!) }
    }
}

/// What the host knows of a file.
struct LocalStatus: Hashable {
    var kind: FileKind
    var mode: UInt32
    var uid: UInt32
    var gid: UInt32
    var size: Int64
    var inode: UInt64
    var links: UInt32
    /// Of the file system that the file is on, and of the device that the file is.
    var fileSystem: UInt64
    var device: UInt64
    var accessed: Timestamp
    var modified: Timestamp
    var changed: Timestamp
    /// nil where the file system does not keep it.
    var born: Timestamp?

    /// - Returns: nil when the file could not be asked; `errno` says why.
    init?(of name: FileName, in directory: Int32) {
        var status = statx()
        let result = name.withCString { statx(directory, $0, AT_SYMLINK_NOFOLLOW, Self.wanted, &status) }
        guard result == 0 else { return nil }
        self.init(status)
    }

    init?(of descriptor: Int32) {
        var status = statx()
        guard statx(descriptor, "", AT_EMPTY_PATH, Self.wanted, &status) == 0 else { return nil }
        self.init(status)
    }

    private static let wanted = UInt32(STATX_BASIC_STATS | STATX_BTIME)

    private init(_ status: statx) {
        kind =
            switch mode_t(status.stx_mode) & S_IFMT {
            case S_IFDIR: .directory
            case S_IFLNK: .symbolicLink
            case S_IFIFO: .fifo
            case S_IFCHR: .characterDevice
            case S_IFBLK: .blockDevice
            case S_IFSOCK: .socket
            default: .file
            }
        mode = UInt32(status.stx_mode) & 0o7777
        uid = status.stx_uid
        gid = status.stx_gid
        size = kind == .directory ? 0 : Int64(status.stx_size)
        inode = status.stx_ino
        links = status.stx_nlink
        fileSystem = Self.device(status.stx_dev_major, status.stx_dev_minor)
        device = Self.device(status.stx_rdev_major, status.stx_rdev_minor)
        accessed = Self.timestamp(status.stx_atime)
        modified = Self.timestamp(status.stx_mtime)
        changed = Self.timestamp(status.stx_ctime)
        born = status.stx_mask & UInt32(STATX_BTIME) != 0 ? Self.timestamp(status.stx_btime) : nil
    }

    private static func timestamp(_ time: statx_timestamp) -> Timestamp {
        Timestamp(seconds: time.tv_sec, nanoseconds: Int64(time.tv_nsec))
    }

    /// As glibc's `makedev`.
    private static func device(_ major: UInt32, _ minor: UInt32) -> UInt64 {
        let (major, minor) = (UInt64(major), UInt64(minor))
        return (major & 0xffff_f000) << 32 | (major & 0xfff) << 8 | (minor & 0xffff_ff00) << 12 | minor & 0xff
    }
}

/// Extended attributes of the `user.` namespace; the others are the host's own affair.
enum LocalExtendedAttributes {
    private static let prefix = "user."
    /// Under these names are ``Attributes/identity`` and ``Attributes/replaces``.
    static let identity = "user.cloudfusion.identity"
    static let replaces = "user.cloudfusion.replaces"

    /// Those of a file that a ``LocalFile/magicLink`` leads to.
    ///
    /// - Returns: nil when they could not be read; `errno` says why.
    static func read(_ path: String) -> [String: [UInt8]]? {
        guard let list = grow({ listxattr(path, $0, $1) }) else { return errno == ENOTSUP ? [:] : nil }
        var found: [String: [UInt8]] = [:]
        for bytes in list.split(separator: 0) {
            let name = String(decoding: bytes, as: UTF8.self)
            guard name.hasPrefix(prefix) else { continue }
            guard let value = grow({ getxattr(path, name, $0, $1) }) else {
                // Removed in the meantime.
                if errno == ENODATA { continue }
                return nil
            }
            found[name] = value
        }
        return found
    }

    /// Gives a file just these extended attributes, and takes away what else it has; nil leaves them as they are. What
    /// is the program's own stays where nothing else is said of it.
    ///
    /// - Returns: Whether it was done; else `errno` says why not.
    static func write(_ attributes: Attributes, to path: String) -> Bool {
        guard let old = read(path) else { return false }
        var wanted = attributes.extended ?? old
        for (name, value) in [(identity, attributes.identity), (replaces, attributes.replaces)] {
            wanted[name] = value.map { Array($0.utf8) } ?? old[name]
        }
        for (name, value) in wanted where name.hasPrefix(prefix) && old[name] != value {
            guard setxattr(path, name, value, value.count, 0) == 0 else { return false }
        }
        for name in old.keys where wanted[name] == nil {
            guard removexattr(path, name) == 0 || errno == ENODATA else { return false }
        }
        return true
    }

    /// Calls `fill` with a larger buffer until what it wants to tell fits.
    private static func grow(_ fill: (UnsafeMutablePointer<CChar>?, Int) -> Int) -> [UInt8]? {
        var capacity = 256
        while true {
            var count = 0
            let bytes = [CChar](unsafeUninitializedCapacity: capacity) { buffer, filled in
                count = fill(buffer.baseAddress!, capacity)
                filled = max(count, 0)
            }
            if count >= 0 { return bytes.map { UInt8(bitPattern: $0) } }
            guard errno == ERANGE, capacity < 1 << 20 else { return nil }
            capacity *= 4
        }
    }
}
