import CFuse3
import Catalog
import Glibc
import StoreAPI
import Threading
import VFS

/// libfuse's table of callbacks: each turns a request of the kernel into a call of the file system and the outcome
/// into a reply. Runs on the session's threads; nothing here waits.
enum Operations {
    static var table: fuse_lowlevel_ops {
        var operations = fuse_lowlevel_ops()
        addSession(&operations)
        addNames(&operations)
        addAttributes(&operations)
        addFiles(&operations)
        addDirectories(&operations)
        return operations
    }

    // MARK: Session

    private static func addSession(_ operations: inout fuse_lowlevel_ops) {
        operations.`init` = { user, connection in
            guard let user, let connection else { return }
            for capability in [
                // Small writes become large ones in the page cache; see docs/decisions/.
                FUSE_CAP_WRITEBACK_CACHE, FUSE_CAP_READDIRPLUS, FUSE_CAP_READDIRPLUS_AUTO, FUSE_CAP_ASYNC_READ,
                FUSE_CAP_ASYNC_DIO, FUSE_CAP_ATOMIC_O_TRUNC, FUSE_CAP_PARALLEL_DIROPS, FUSE_CAP_HANDLE_KILLPRIV,
                FUSE_CAP_CACHE_SYMLINKS,
            ] {
                connection.pointee.want |= connection.pointee.capable & UInt32(capability)
            }
            // The whole request is in memory anyway; splicing would cost two system calls more.
            for capability in [FUSE_CAP_SPLICE_READ, FUSE_CAP_SPLICE_WRITE, FUSE_CAP_SPLICE_MOVE] {
                connection.pointee.want &= ~UInt32(capability)
            }
            connection.pointee.max_write = 1 << 20
            connection.pointee.max_readahead = 1 << 20
            // Requests that the kernel makes on its own (write-back, read-ahead), under way at once.
            connection.pointee.max_background = 128
            connection.pointee.congestion_threshold = 96
            connection.pointee.time_gran = 1
            Unmanaged<FUSESession>.fromOpaque(user).takeUnretainedValue().initialized()
        }
        operations.statfs = { request, _ in
            let request = Request(request)
            request.fileSystem.space { result in
                switch result {
                case .success(let space):
                    var answer = statvfs()
                    answer.f_bsize = 1 << 20
                    answer.f_frsize = 4096
                    answer.f_blocks = UInt(max(0, space.total) / 4096)
                    answer.f_bfree = UInt(max(0, space.free) / 4096)
                    answer.f_bavail = answer.f_bfree
                    answer.f_files = UInt(max(0, space.files))
                    answer.f_namemax = 255
                    fuse_reply_statfs(request.pointer, &answer)
                case .failure(let error): request.fail(error)
                }
            }
        }
    }

    // MARK: Names

    private static func addNames(_ operations: inout fuse_lowlevel_ops) {
        operations.lookup = { request, parent, name in
            let request = Request(request)
            request.fileSystem.lookup(bytes(name), in: parent) { request.reply($0) }
        }
        operations.forget = { request, number, lookups in
            let request = Request(request)
            request.fileSystem.forget(number, lookups: lookups)
            fuse_reply_none(request.pointer)
        }
        operations.forget_multi = { request, count, list in
            let request = Request(request)
            for index in 0..<count { request.fileSystem.forget(list![index].ino, lookups: list![index].nlookup) }
            fuse_reply_none(request.pointer)
        }
        operations.mknod = { request, parent, name, mode, device in
            let request = Request(request)
            guard let kind = FileKind(modeBits: mode), kind != .directory, kind != .symbolicLink else {
                return request.fail(.invalid)
            }
            request.fileSystem.makeNode(
                bytes(name), in: parent, kind: kind, mode: mode & 0o7777, device: UInt64(device), by: request.caller
            ) { request.reply($0) }
        }
        operations.mkdir = { request, parent, name, mode in
            let request = Request(request)
            request.fileSystem.makeDirectory(bytes(name), in: parent, mode: mode & 0o7777, by: request.caller) {
                request.reply($0)
            }
        }
        operations.symlink = { request, target, parent, name in
            let request = Request(request)
            request.fileSystem.makeSymbolicLink(bytes(name), in: parent, to: bytes(target), by: request.caller) {
                request.reply($0)
            }
        }
        operations.link = { request, number, parent, name in
            let request = Request(request)
            request.fileSystem.link(number, named: bytes(name), in: parent) { request.reply($0) }
        }
        operations.unlink = { request, parent, name in
            let request = Request(request)
            request.fileSystem.unlink(bytes(name), in: parent) { request.reply($0) }
        }
        operations.rmdir = { request, parent, name in
            let request = Request(request)
            request.fileSystem.removeDirectory(bytes(name), in: parent) { request.reply($0) }
        }
        operations.rename = { request, parent, name, newParent, newName, flags in
            let request = Request(request)
            let mode: RenameMode
            // As in linux/fs.h; flags of other meaning (RENAME_WHITEOUT) are refused.
            switch flags {
            case 0: mode = .replace
            case 1: mode = .noReplace
            case 2: mode = .exchange
            default: return request.fail(.invalid)
            }
            request.fileSystem.rename(bytes(name), in: parent, to: bytes(newName), in: newParent, mode) {
                request.reply($0)
            }
        }
    }

    // MARK: Attributes

    private static func addAttributes(_ operations: inout fuse_lowlevel_ops) {
        operations.getattr = { request, number, _ in
            let request = Request(request)
            request.fileSystem.getAttributes(number) { request.replyAttributes($0) }
        }
        operations.setattr = { request, number, attributes, given, file in
            let request = Request(request)
            let handle = file.map { HandleID($0.pointee.fh) }
            request.fileSystem.setAttributes(
                SetAttributes(attributes!.pointee, given), of: number, handle: handle, by: request.caller
            ) { request.replyAttributes($0) }
        }
        operations.readlink = { request, number in
            let request = Request(request)
            request.fileSystem.readLink(number) { result in
                switch result {
                case .success(let target):
                    (target + [0]).withUnsafeBytes {
                        _ = fuse_reply_readlink(request.pointer, $0.baseAddress!.assumingMemoryBound(to: CChar.self))
                    }
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.getxattr = { request, number, name, size in
            let request = Request(request)
            guard let name = String(validatingCString: name!) else { return request.fail(.noSuchAttribute) }
            request.fileSystem.extendedAttribute(name, of: number) { result in
                switch result {
                case .success(let value): request.reply(value, size: size)
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.listxattr = { request, number, size in
            let request = Request(request)
            request.fileSystem.extendedAttributeNames(of: number, for: request.caller) { result in
                switch result {
                case .success(let names): request.reply(names.flatMap { Array($0.utf8) + [0] }, size: size)
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.setxattr = { request, number, name, value, size, flags in
            let request = Request(request)
            let mode: Catalog.AttributeMode
            switch flags {
            case 0: mode = .either
            case 1: mode = .create
            case 2: mode = .replace
            default: return request.fail(.invalid)
            }
            // Stores keep the names as text.
            guard let name = String(validatingCString: name!) else { return request.fail(.invalid) }
            let bytes = Array(UnsafeRawBufferPointer(start: value, count: size))
            request.fileSystem.setExtendedAttribute(name, to: bytes, of: number, mode) {
                request.reply($0)
            }
        }
        operations.removexattr = { request, number, name in
            let request = Request(request)
            guard let name = String(validatingCString: name!) else { return request.fail(.noSuchAttribute) }
            request.fileSystem.removeExtendedAttribute(name, of: number) { request.reply($0) }
        }
    }

    // MARK: Files

    private static func addFiles(_ operations: inout fuse_lowlevel_ops) {
        operations.create = { request, parent, name, mode, file in
            let request = Request(request)
            var info = file!.pointee
            request.fileSystem.create(
                bytes(name), in: parent, mode: mode & 0o7777, flags: info.flags, by: request.caller
            ) { [info] result in
                switch result {
                case .success(let (entry, open)):
                    var parameters = fuse_entry_param(entry)
                    var answer = info
                    answer.take(open)
                    if fuse_reply_create(request.pointer, &parameters, &answer) != 0 {
                        request.fileSystem.release(open.handle) { _ in }
                        request.fileSystem.forget(entry.number, lookups: 1)
                    }
                case .failure(let error): request.fail(error)
                }
            }
            info.fh = 0
        }
        operations.open = { request, number, file in
            let request = Request(request)
            let info = file!.pointee
            request.fileSystem.open(number, flags: info.flags, by: request.caller) { result in
                switch result {
                case .success(let open):
                    var answer = info
                    answer.take(open)
                    if fuse_reply_open(request.pointer, &answer) != 0 {
                        request.fileSystem.release(open.handle) { _ in }
                    }
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.read = { request, _, size, offset, file in
            let request = Request(request)
            request.fileSystem.read(HandleID(file!.pointee.fh), at: Int64(offset), count: size) { request.reply($0) }
        }
        operations.write = { request, _, buffer, size, offset, file in
            let request = Request(request)
            request.fileSystem.write(
                HandleID(file!.pointee.fh), at: Int64(offset), UnsafeRawBufferPointer(start: buffer, count: size),
                isPageCache: file!.pointee.writepage != 0, by: request.caller
            ) { result in
                switch result {
                case .success(let count): fuse_reply_write(request.pointer, count)
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.flush = { request, _, file in
            let request = Request(request)
            let interruption = Interruption(of: request)
            request.fileSystem.flush(HandleID(file!.pointee.fh), interruption: interruption) {
                interruption.end()
                request.reply($0)
            }
        }
        operations.release = { request, _, file in
            let request = Request(request)
            request.fileSystem.release(HandleID(file!.pointee.fh)) { request.reply($0) }
        }
        operations.fsync = { request, _, _, file in
            let request = Request(request)
            let interruption = Interruption(of: request)
            request.fileSystem.synchronize(HandleID(file!.pointee.fh), interruption: interruption) {
                interruption.end()
                request.reply($0)
            }
        }
        operations.fallocate = { request, _, mode, offset, length, file in
            let request = Request(request)
            let (end, overflow) = Int64(offset).addingReportingOverflow(Int64(length))
            guard offset >= 0, length > 0 else { return request.fail(.invalid) }
            guard !overflow else { return request.fail(.tooLarge) }
            request.fileSystem.allocate(
                HandleID(file!.pointee.fh), mode: mode, range: Int64(offset)..<end, by: request.caller
            ) {
                request.reply($0)
            }
        }
        operations.lseek = { request, _, offset, whence, file in
            let request = Request(request)
            guard whence == SEEK_DATA || whence == SEEK_HOLE else { return request.fail(.invalid) }
            request.fileSystem.seek(HandleID(file!.pointee.fh), Int64(offset), toHole: whence == SEEK_HOLE) { result in
                switch result {
                case .success(let position): fuse_reply_lseek(request.pointer, Int(position))
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.copy_file_range = { request, _, offset, file, _, targetOffset, target, length, flags in
            let request = Request(request)
            guard flags == 0 else { return request.fail(.invalid) }
            request.fileSystem.copyRange(
                from: HandleID(file!.pointee.fh), at: Int64(offset), to: HandleID(target!.pointee.fh),
                at: Int64(targetOffset), count: Int64(min(length, 1 << 30)), by: request.caller
            ) { result in
                switch result {
                case .success(let count): fuse_reply_write(request.pointer, Int(count))
                case .failure(let error): request.fail(error)
                }
            }
        }
    }

    // MARK: Directories

    private static func addDirectories(_ operations: inout fuse_lowlevel_ops) {
        operations.opendir = { request, number, file in
            let request = Request(request)
            let info = file!.pointee
            request.fileSystem.openDirectory(number) { result in
                switch result {
                case .success(let handle):
                    var answer = info
                    answer.fh = handle.value
                    if fuse_reply_open(request.pointer, &answer) != 0 { request.fileSystem.releaseDirectory(handle) }
                case .failure(let error): request.fail(error)
                }
            }
        }
        operations.readdir = { request, _, size, offset, file in
            Operations.read(Request(request), HandleID(file!.pointee.fh), size: size, offset: offset, isPlus: false)
        }
        operations.readdirplus = { request, _, size, offset, file in
            Operations.read(Request(request), HandleID(file!.pointee.fh), size: size, offset: offset, isPlus: true)
        }
        operations.releasedir = { request, _, file in
            let request = Request(request)
            request.fileSystem.releaseDirectory(HandleID(file!.pointee.fh))
            request.reply(.success(()))
        }
        operations.fsyncdir = { request, _, _, file in
            let request = Request(request)
            let interruption = Interruption(of: request)
            request.fileSystem.synchronizeDirectory(HandleID(file!.pointee.fh), interruption: interruption) {
                interruption.end()
                request.reply($0)
            }
        }
    }

    fileprivate static func read(_ request: Request, _ handle: HandleID, size: Int, offset: Int, isPlus: Bool) {
        let buffer = DirectoryBuffer(request, size: size, isPlus: isPlus)
        request.fileSystem.readDirectory(
            handle, after: Int64(offset), plus: isPlus, add: { buffer.add($0) }
        ) { result in
            request.reply(result.map { buffer.bytes })
        }
    }
}

extension fuse_file_info {
    fileprivate mutating func take(_ open: OpenFile) {
        fh = open.handle.value
        keep_cache = open.keepCache ? 1 : 0
        direct_io = open.directIO ? 1 : 0
    }
}

extension SetAttributes {
    /// - Parameter given: bits of FUSE_SET_ATTR_…: which of the attributes count.
    fileprivate init(_ attributes: stat, _ given: Int32) {
        self.init()
        func isGiven(_ bit: Int32) -> Bool { given & bit != 0 }
        if isGiven(FUSE_SET_ATTR_MODE) { mode = attributes.st_mode & 0o7777 }
        if isGiven(FUSE_SET_ATTR_UID) { uid = attributes.st_uid }
        if isGiven(FUSE_SET_ATTR_GID) { gid = attributes.st_gid }
        if isGiven(FUSE_SET_ATTR_SIZE) { size = Int64(attributes.st_size) }
        if isGiven(FUSE_SET_ATTR_ATIME_NOW) {
            accessed = .now
        } else if isGiven(FUSE_SET_ATTR_ATIME) {
            accessed = .at(Timestamp(attributes.st_atim))
        }
        if isGiven(FUSE_SET_ATTR_MTIME_NOW) {
            modified = .now
        } else if isGiven(FUSE_SET_ATTR_MTIME) {
            modified = .at(Timestamp(attributes.st_mtim))
        }
        if isGiven(FUSE_SET_ATTR_CTIME) { changed = Timestamp(attributes.st_ctim) }
    }
}
