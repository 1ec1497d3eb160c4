import CFuse3
import Catalog
import Glibc
import StoreAPI
import Threading
import VFS

/// A request of the kernel that is to be answered once, from any thread.
struct Request: @unchecked Sendable {
    let pointer: fuse_req_t

    init(_ pointer: fuse_req_t?) { self.pointer = pointer! }

    var session: FUSESession {
        Unmanaged<FUSESession>.fromOpaque(fuse_req_userdata(pointer)!).takeUnretainedValue()
    }
    var fileSystem: FileSystem { session.fileSystem }

    var caller: Caller {
        let context = fuse_req_ctx(pointer)!.pointee
        return Caller(uid: context.uid, gid: context.gid, pid: context.pid)
    }

    func fail(_ error: FileSystemError) { fuse_reply_err(pointer, error.errno) }
    func fail(errno: Int32) { fuse_reply_err(pointer, errno) }

    func reply(_ result: Result<Void, FileSystemError>) {
        switch result {
        case .success: fuse_reply_err(pointer, 0)
        case .failure(let error): fail(error)
        }
    }

    func reply(_ result: Result<Entry, FileSystemError>) {
        switch result {
        case .success(let entry):
            var parameters = fuse_entry_param(entry)
            // A caller that was interrupted meanwhile has not taken the entry.
            if fuse_reply_entry(pointer, &parameters) != 0 { fileSystem.forget(entry.number, lookups: 1) }
        case .failure(let error): fail(error)
        }
    }

    func replyAttributes(_ result: Result<Entry, FileSystemError>) {
        switch result {
        case .success(let entry):
            var attributes = stat(entry.attributes, number: entry.number)
            fuse_reply_attr(pointer, &attributes, entry.attributeTimeout.inSeconds)
        case .failure(let error): fail(error)
        }
    }

    func reply(_ result: Result<UnsafeRawBufferPointer, FileSystemError>) {
        switch result {
        case .success(let bytes):
            fuse_reply_buf(pointer, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), bytes.count)
        case .failure(let error): fail(error)
        }
    }

    /// Answers getxattr or listxattr, which ask with `size` 0 how much there is.
    func reply(_ bytes: [UInt8], size: Int) {
        if size == 0 {
            fuse_reply_xattr(pointer, bytes.count)
        } else if bytes.count > size {
            fail(.outOfRange)
        } else {
            bytes.withUnsafeBytes { reply(.success($0)) }
        }
    }
}

extension fuse_entry_param {
    init(_ entry: Entry) {
        self.init()
        ino = entry.number
        // Numbers are never used again, so that there is only ever one generation.
        generation = 1
        attr = stat(entry.attributes, number: entry.number)
        attr_timeout = entry.attributeTimeout.inSeconds
        entry_timeout = entry.entryTimeout.inSeconds
    }
}

extension stat {
    init(_ record: InodeRecord, number: UInt64) {
        self.init()
        st_ino = UInt(number)
        st_mode = record.kind.modeBits | record.mode
        st_nlink = UInt(record.links)
        st_uid = record.uid
        st_gid = record.gid
        st_rdev = UInt(record.device)
        st_size = Int(record.size)
        st_blksize = 1 << 20
        st_blocks = Int((record.size + 511) / 512)
        st_atim = record.accessed.timespec
        st_mtim = record.modified.timespec
        st_ctim = record.changed.timespec
    }
}

extension FileKind {
    /// The kind as it stands in `st_mode`.
    var modeBits: UInt32 {
        switch self {
        case .file: Glibc.S_IFREG
        case .directory: Glibc.S_IFDIR
        case .symbolicLink: Glibc.S_IFLNK
        case .fifo: Glibc.S_IFIFO
        case .characterDevice: Glibc.S_IFCHR
        case .blockDevice: Glibc.S_IFBLK
        case .socket: Glibc.S_IFSOCK
        }
    }

    init?(modeBits: UInt32) {
        switch modeBits & Glibc.S_IFMT {
        case Glibc.S_IFREG, 0: self = .file
        case Glibc.S_IFDIR: self = .directory
        case Glibc.S_IFLNK: self = .symbolicLink
        case Glibc.S_IFIFO: self = .fifo
        case Glibc.S_IFCHR: self = .characterDevice
        case Glibc.S_IFBLK: self = .blockDevice
        case Glibc.S_IFSOCK: self = .socket
        default: return nil
        }
    }
}

/// The bytes of a name that the kernel gave.
func bytes(_ name: UnsafePointer<CChar>?) -> [UInt8] {
    Array(UnsafeRawBufferPointer(start: name!, count: strlen(name!)))
}

/// Collects entries of a directory in the form that the kernel wants, up to the size that it asked for.
final class DirectoryBuffer: @unchecked Sendable {
    private let request: fuse_req_t
    private let isPlus: Bool
    private let memory: UnsafeMutableRawBufferPointer
    private var used = 0

    init(_ request: Request, size: Int, isPlus: Bool) {
        self.request = request.pointer
        self.isPlus = isPlus
        memory = .allocate(byteCount: size, alignment: 8)
    }

    deinit { memory.deallocate() }

    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<used]) }

    /// - Returns: false when there is no room for the entry.
    func add(_ entry: ListedEntry) -> Bool {
        let target = memory.baseAddress?.advanced(by: used).assumingMemoryBound(to: CChar.self)
        let room = memory.count - used
        let needed = (entry.name + [0]).withUnsafeBufferPointer { name -> Int in
            name.withMemoryRebound(to: CChar.self) { name in
                if isPlus {
                    var parameters = entry.entry.map { fuse_entry_param($0) } ?? fuse_entry_param(unknown: entry)
                    return fuse_add_direntry_plus(
                        request, target, room, name.baseAddress, &parameters, Int(entry.cookie))
                }
                var attributes = stat()
                attributes.st_ino = UInt(entry.number)
                attributes.st_mode = entry.kind.modeBits
                return fuse_add_direntry(request, target, room, name.baseAddress, &attributes, Int(entry.cookie))
            }
        }
        guard needed <= room else { return false }
        used += needed
        return true
    }
}

extension fuse_entry_param {
    /// A name without attributes: the kernel looks it up when it needs them.
    fileprivate init(unknown entry: ListedEntry) {
        self.init()
        attr.st_ino = UInt(entry.number)
        attr.st_mode = entry.kind.modeBits
    }
}
