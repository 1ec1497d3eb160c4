import Glibc
import SQLite

/// The files of a catalog: the database, SQLite's log of what is not in it yet, and a mark that says that there is one.
package struct CatalogFiles: Sendable {
    package let path: String

    package init(path: String) { self.path = path }

    var log: String { path + "-wal" }
    /// Is there while the log is needed: from the opening of the catalog to the end of its use, or beyond a crash.
    var mark: String { path + "-open" }
    /// Says that the database made no sense while it was in use: it is to be looked through before the next use.
    private var suspicion: String { path + "-suspect" }
    /// Says how the files were left when their use ended in order.
    private var farewell: String { path + "-left" }
    /// In an order in which they can be taken away: whoever is interrupted leaves nothing that looks whole. (A log by
    /// itself would be taken for that of the next database.)
    package var all: [String] { [log, path + "-shm", path, mark, suspicion, farewell] }
    private var folder: String { path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "." }

    /// Whether there is more than an empty file.
    package var isThere: Bool {
        var status = stat()
        let isSomething =
            lstat(path, &status) == 0 && (status.st_mode & Glibc.S_IFMT != Glibc.S_IFREG || status.st_size > 0)
        return isSomething || Self.size(log) ?? 0 > 0
    }

    /// Whether the log was taken away from a catalog that needed it: what is left is from before.
    package var isOutdated: Bool { Self.size(path) != nil && access(mark, F_OK) == 0 && Self.size(log) ?? 0 == 0 }

    /// - Returns: nil when there is no such file.
    static func size(_ path: String) -> Int64? {
        var status = stat()
        return stat(path, &status) == 0 ? Int64(status.st_size) : nil
    }

    /// Finds what SQLite itself would take for a new or an older database, and would go on with.
    ///
    /// - Throws: ``CatalogError``: `.corrupt`.
    package func expectWhole() throws(CatalogError) {
        var status = stat()
        let isThere = lstat(path, &status) == 0
        guard !isThere || status.st_mode & Glibc.S_IFMT == Glibc.S_IFREG else {
            throw CatalogError(.corrupt, "'\(path)' is no file")
        }
        let logSize = Self.size(log)
        if !isThere || status.st_size == 0, let logSize, logSize > 0 {
            throw CatalogError(.corrupt, "'\(path)' is \(isThere ? "empty" : "gone"), and only its log is left")
        }
        if isThere, status.st_size > 0, isOutdated {
            throw CatalogError(.corrupt, "'\(log)' is gone: what is left is an older state")
        }
    }

    var isSuspect: Bool {
        get { access(suspicion, F_OK) == 0 }
        nonmutating set {
            if newValue {
                let descriptor = open(suspicion, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
                if descriptor >= 0 { close(descriptor) }
            } else {
                unlink(suspicion)
            }
        }
    }

    /// Whether nobody has touched the files since their use has ended in order: then they make the sense they made.
    var areAsLeft: Bool {
        let descriptor = open(farewell, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        var buffer = [UInt8](repeating: 0, count: 200)
        let count = read(descriptor, &buffer, buffer.count)
        return count > 0 && Array(buffer.prefix(count)) == state
    }

    /// Sizes and times of the files.
    private var state: [UInt8] {
        [path, log].flatMap { file -> [UInt8] in
            var status = stat()
            guard stat(file, &status) == 0 else { return Array("none\n".utf8) }
            return Array("\(status.st_size) \(status.st_mtim.tv_sec) \(status.st_mtim.tv_nsec)\n".utf8)
        }
    }

    /// Call it after the end of all use. What cannot be noted is looked through before the next use.
    func noteState() {
        let descriptor = open(farewell, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return }
        let state = state
        _ = write(descriptor, state, state.count)
        close(descriptor)
    }

    func markOpen() {
        unlink(farewell)
        let descriptor = open(mark, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        if descriptor >= 0 { close(descriptor) }
    }

    func markClosed() {
        unlink(mark)
        synchronizeFolder()
    }

    func synchronizeFolder() {
        let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        fsync(descriptor)
        close(descriptor)
    }

    /// Copies the database and its log, as far as they are files.
    package func copy(to copy: CatalogFiles) throws(CatalogError) {
        for (source, target) in [(path, copy.path), (log, copy.log)] {
            var status = stat()
            guard lstat(source, &status) == 0, status.st_mode & Glibc.S_IFMT == Glibc.S_IFREG else { continue }
            let error = Self.copyFile(source, target)
            guard error == 0 else {
                throw CatalogError(
                    error == ENOSPC || error == EDQUOT ? .noSpace : .damaged,
                    "'\(source)' cannot be copied: \(String(cString: strerror(error)))")
            }
        }
    }

    private static func copyFile(_ source: String, _ target: String) -> Int32 {
        let from = Glibc.open(source, O_RDONLY | O_CLOEXEC)
        guard from >= 0 else { return errno }
        defer { Glibc.close(from) }
        let to = Glibc.open(target, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard to >= 0 else { return errno }
        defer { Glibc.close(to) }
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        while true {
            let count = read(from, &buffer, buffer.count)
            if count == 0 { return 0 }
            if count < 0 {
                if errno == EINTR { continue }
                return errno
            }
            var done = 0
            while done < count {
                let put = buffer.withUnsafeBytes { write(to, $0.baseAddress! + done, count - done) }
                if put < 0 {
                    if errno == EINTR { continue }
                    return errno
                }
                done += put
            }
        }
    }
}
