import Glibc
import StoreAPI

/// A file that is written under a temporary name, which it loses when it gets its own, or is given up.
final class LocalUpload {
    /// The file, open; a mere reference (`O_PATH`) when it is no plain one.
    let file: LocalFile
    private let directory: LocalFile
    private let name: FileName
    private var isNamed = false

    /// Writes the whole file, with its attributes, and makes it durable.
    ///
    /// - Parameters:
    ///   - directory: May be a mere reference.
    ///   - name: Is not in it yet.
    init(
        _ body: UploadBody, of path: StorePath, _ options: PutOptions, in directory: LocalFile, _ name: String,
        _ store: LocalStore, _ root: LocalRoot
    ) throws(StoreError) {
        self.directory = directory
        self.name = FileName(name)!
        // From here on, an error takes the name away: see deinit.
        file = try Self.make(self.name, in: directory.descriptor, body, options, path)
        if options.kind == .file { try Self.write(body, of: path, options, to: file, store, root) }
        var attributes = options.attributes
        attributes.mode = attributes.mode ?? 0o644
        try root.apply(attributes, to: file, path)
        if options.kind == .file, root.fsync, fsync(file.descriptor) != 0 {
            throw StoreError(errno: errno, "writing through", path)
        }
    }

    deinit {
        if !isNamed { _ = name.withCString { unlinkat(directory.descriptor, $0, 0) } }
    }

    private static func make(
        _ name: FileName, in directory: Int32, _ body: UploadBody, _ options: PutOptions, _ path: StorePath
    ) throws(StoreError) -> LocalFile {
        let made: Int32
        switch options.kind {
        case .file:
            if let file = LocalFile(name, in: directory, O_RDWR | O_CREAT | O_EXCL, mode: 0o600) { return file }
            throw StoreError(errno: errno, "writing", path)
        case .symbolicLink:
            let target = try gather(body)
            guard !target.isEmpty, !target.contains(0), target.count < Int(PATH_MAX) else {
                throw StoreError(.invalidArgument, "the target of the link '\(path)' is not legal", path: path)
            }
            made = (target + [0]).withUnsafeBytes { target in
                name.withCString { symlinkat(target.bindMemory(to: CChar.self).baseAddress!, directory, $0) }
            }
        case .fifo: made = name.withCString { mknodat(directory, $0, S_IFIFO | 0o600, 0) }
        case .socket: made = name.withCString { mknodat(directory, $0, S_IFSOCK | 0o600, 0) }
        case .characterDevice, .blockDevice:
            let type = options.kind == .characterDevice ? S_IFCHR : S_IFBLK
            let device = dev_t(options.attributes.device ?? 0)
            made = name.withCString { mknodat(directory, $0, type | 0o600, device) }
        case .directory: throw StoreError(.isADirectory, "'\(path)' cannot be put as a directory", path: path)
        }
        guard made == 0, let file = LocalFile(name, in: directory, O_PATH) else {
            throw StoreError(errno: errno, "making", path)
        }
        return file
    }

    /// The bytes of a body that is short.
    private static func gather(_ body: UploadBody) throws(StoreError) -> [UInt8] {
        var all: [UInt8] = []
        for segment in body.segments {
            switch segment {
            case .bytes(let bytes): all += bytes
            case .file(let descriptor, let offset, let length):
                all += try readFile(descriptor, from: offset, min(length, Int64(PATH_MAX)))
            case .stored: throw StoreError(.unsupported, "a link's target cannot be a part of a stored object")
            }
        }
        return all
    }

    private static func write(
        _ body: UploadBody, of path: StorePath, _ options: PutOptions, to file: LocalFile,
        _ store: LocalStore, _ root: LocalRoot
    ) throws(StoreError) {
        var position: Int64 = 0
        func goOn(_ sent: Int64) throws(StoreError) {
            if sent > 0 { options.progress?(sent) }
            try store.checkIsOpen()
            try options.requireWanted(path)
        }
        for segment in body.segments {
            try goOn(0)
            switch segment {
            case .bytes(let bytes):
                try writeAll(bytes, at: position, to: file, path)
                try goOn(Int64(bytes.count))
            case .file(let descriptor, let offset, let length):
                var done: Int64 = 0
                while done < length {
                    let piece = min(Int64(LocalStore.pieceSize), length - done)
                    try writeAll(readFile(descriptor, from: offset + done, piece), at: position + done, to: file, path)
                    done += piece
                    try goOn(piece)
                }
            case .stored(let source, let version, let range):
                try copy(range, of: source, version, to: file, at: position, store, root, goOn)
            }
            position += segment.length
        }
    }

    private static func writeAll(
        _ bytes: [UInt8], at offset: Int64, to file: LocalFile, _ path: StorePath
    ) throws(StoreError) {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes {
                pwrite(file.descriptor, $0.baseAddress! + done, $0.count - done, off_t(offset) + off_t(done))
            }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw StoreError(errno: count == 0 ? EIO : errno, "writing", path) }
            done += count
        }
    }

    /// Takes a range of a file of the store, shared with it where the file system can.
    private static func copy(
        _ range: Range<Int64>, of source: StorePath, _ version: Version?, to file: LocalFile,
        at position: Int64, _ store: LocalStore, _ root: LocalRoot, _ goOn: (Int64) throws(StoreError) -> Void
    ) throws(StoreError) {
        let (found, status) = try root.find(source)
        guard status.kind == .file else { throw StoreError(.isADirectory, "'\(source)' is no file", path: source) }
        try store.check(version, status, source, root)
        guard range.lowerBound >= 0, range.upperBound <= status.size else {
            throw StoreError(.invalidArgument, "'\(source)' ends before \(range.upperBound)", path: source)
        }
        guard let open = found.reopened(O_RDONLY | O_NONBLOCK) else {
            throw StoreError(errno: errno, "reading", source)
        }
        var from = off_t(range.lowerBound)
        var to = off_t(position)
        var isDirect = true
        while from < range.upperBound {
            let left = Int(range.upperBound - Int64(from))
            if isDirect {
                // At most 256 MiB in one go, so that a copy can be ended.
                let count = copy_file_range(open.descriptor, &from, file.descriptor, &to, min(left, 256 << 20), 0)
                if count < 0, errno == EINTR { continue }
                if count > 0 {
                    try goOn(0)
                    continue
                }
                if count < 0, ![EXDEV, EINVAL, ENOSYS, ENOTSUP, EBADF].contains(errno) {
                    throw StoreError(errno: errno, "copying", source)
                }
                isDirect = false
            }
            let piece = Int64(min(left, LocalStore.pieceSize))
            let bytes = try readFile(open.descriptor, from: Int64(from), piece)
            try writeAll(bytes, at: Int64(to), to: file, source)
            from += off_t(piece)
            to += off_t(piece)
            try goOn(0)
        }
        guard let after = LocalStatus(of: open.descriptor), root.version(after) == root.version(status) else {
            throw StoreError(.preconditionFailed, "'\(source)' was changed while it was copied", path: source)
        }
    }

    /// Gives the file its name, in place of a file that has it.
    func rename(to final: FileName, in parent: Int32, _ path: StorePath) throws(StoreError) {
        let result = name.withCString { old in final.withCString { renameat(directory.descriptor, old, parent, $0) } }
        guard result == 0 else { throw StoreError(errno: errno, "giving its name to", path) }
        isNamed = true
    }

    /// Gives the file its name, unless there is one already.
    func create(_ final: FileName, in parent: Int32, _ path: StorePath) throws(StoreError) {
        var result = name.withCString { old in
            final.withCString { renameat2(directory.descriptor, old, parent, $0, UInt32(RENAME_NOREPLACE)) }
        }
        if result == 0 { isNamed = true }
        if result != 0, errno == EINVAL || errno == ENOSYS {
            // NFS has no such rename; there a second link does it, and the first name goes with this value.
            result = name.withCString { old in final.withCString { linkat(directory.descriptor, old, parent, $0, 0) } }
        }
        if result == 0 { return }
        if errno == EEXIST { throw WriteCondition.ifAbsent.failure(path) }
        throw StoreError(errno: errno, "giving its name to", path)
    }
}
