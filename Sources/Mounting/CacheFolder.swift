import Catalog
import Chunks
import Glibc
import StoreAPI
import Threading

/// A cache's folder on the local disk, which one process at a time has for itself.
///
/// The right to it is an flock(2) on the file `lock` in it, which ends with the process, however that ends. The
/// file's text says who has it, so that others can tell people, and ask a process that only drains to hand over.
package final class CacheFolder: Sendable {
    package let path: String
    private let descriptor: Int32

    /// Whether the owner serves a mount, or only brings to the store what is left of one.
    package enum Phase: String, Sendable { case mounted, draining }

    /// What the lock's text says of its owner.
    package struct Owner: Sendable, Equatable {
        package var process: Int32
        package var started: UInt64
        package var phase: Phase
        package var mountPoint: String
    }

    package var catalogPath: String { path + "/catalog.sqlite" }
    /// Where file contents are: `ContentCache` makes a folder `content` in it.
    package var contentPath: String { path }
    package var chunkMapPath: String { path + "/chunks.sqlite" }
    package var logPath: String { path + "/log" }
    /// Where ``CacheRepair`` keeps what cannot be attributed to a file any more.
    package var recoveredPath: String { path + "/recovered" }

    /// What repairs have put aside, and nobody has removed.
    ///
    /// - Returns: How many files of the cache, and the bytes of these, of damaged catalogs and of lists.
    package func recovered() -> (files: Int64, bytes: Int64) {
        var files: Int64 = 0
        var bytes: Int64 = 0
        for repair in Self.names(in: recoveredPath) {
            let folder = "\(recoveredPath)/\(repair)"
            let contents = Self.names(in: folder + "/files")
            files += Int64(contents.count)
            for path in Self.names(in: folder).map({ "\(folder)/\($0)" }) + contents.map({ "\(folder)/files/\($0)" }) {
                var status = stat()
                if lstat(path, &status) == 0, status.st_mode & Glibc.S_IFMT == Glibc.S_IFREG {
                    bytes += Int64(status.st_size)
                }
            }
        }
        return (files, bytes)
    }

    /// Of a folder that is not there, none.
    private static func names(in folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }

    /// The folder's name for a store: readable, the same on each mount, without credentials in it.
    package static func defaultID(scheme: String, identity: String) -> String {
        // A catalog also notes the identity itself, so a collision would be an error and nothing worse.
        "\(scheme)-\(fingerprint("\(scheme)\n\(identity)".utf8))"
    }

    /// Makes the folder if need be, and takes it.
    ///
    /// - Parameter patience: How long a process that only drains is given to hand over.
    /// - Throws: ``MountError`` naming the process and the mount point that have it.
    package init(path: String, mountPoint: String, patience: Duration = .seconds(30)) throws(MountError) {
        let error = makeDirectories(path, mode: 0o700)
        guard error == 0 else {
            throw MountError(
                "the cache folder '\(path)' cannot be made: \(errorText(error)). Choose another one with cache_dir.")
        }
        // It may have been made by hand with more rights than file contents should have.
        chmod(path, 0o700)
        self.path = path
        let descriptor = open(path + "/lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else {
            throw MountError(
                "the lock file '\(path)/lock' cannot be opened: \(errorText(errno)). Look at the folder's owner and "
                    + "permissions, or choose another one with cache_dir.")
        }
        self.descriptor = descriptor
        do { try take(patience: patience) } catch {
            close(descriptor)
            throw error
        }
        announce(.mounted, at: mountPoint)
    }

    /// Takes a folder that is there, if nobody uses it.
    ///
    /// - Throws: ``MountError`` naming the process that has it.
    package convenience init(unused path: String) throws(MountError) {
        guard access(path + "/lock", F_OK) == 0 || CatalogFiles(path: path + "/catalog.sqlite").isThere else {
            throw MountError("'\(path)' is no cache of CloudFusion.")
        }
        try self.init(path: path, mountPoint: "fsck", patience: .zero)
    }

    private func take(patience: Duration) throws(MountError) {
        let deadline = MonotonicTime.now + patience
        var asked: Owner?
        while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
            guard errno == EWOULDBLOCK || errno == EINTR else {
                throw MountError("the lock file '\(path)/lock' cannot be locked: \(errorText(errno)).")
            }
            let owner = Self.owner(of: path)
            if let owner, owner.phase == .mounted {
                throw MountError(
                    "the cache '\(path)' is in use by process \(owner.process), mounted at '\(owner.mountPoint)'. "
                        + "Stop that mount with 'cloudfusion stop \(owner.mountPoint)', or choose another cache_id.")
            }
            if patience > .zero, let owner, owner != asked, startTime(of: owner.process) == owner.started {
                // What is not on the store yet is in the catalog: whoever has the folder next goes on with it.
                kill(owner.process, SIGTERM)
                asked = owner
            }
            guard MonotonicTime.now < deadline else {
                let process = owner.map { " \($0.process)" } ?? ""
                throw MountError(
                    "the cache '\(path)' is still in use by process\(process), which uploads what an earlier mount "
                        + "left, and did not hand over. Wait for it, or end it.")
            }
            usleep(20_000)
        }
    }

    /// Says in the lock's text what the owner does now.
    package func announce(_ phase: Phase, at mountPoint: String) {
        let process = getpid()
        let text = "\(process) \(startTime(of: process) ?? 0) \(phase.rawValue) \(mountPoint)\n"
        // One write of a short text: a reader sees the old one or the new one.
        ftruncate(descriptor, 0)
        lseek(descriptor, 0, SEEK_SET)
        writeAll(text.utf8, to: descriptor)
    }

    /// What the lock in a folder says; it counts only while the lock is held.
    package static func owner(of path: String) -> Owner? {
        guard let bytes = readFile(path + "/lock", limit: 8192) else { return nil }
        let words = String(decoding: bytes, as: UTF8.self).split(
            separator: " ", maxSplits: 3, omittingEmptySubsequences: false)
        guard words.count == 4, let process = Int32(words[0]), process > 1, let started = UInt64(words[1]),
            let phase = Phase(rawValue: String(words[2]))
        else { return nil }
        return Owner(
            process: process, started: started, phase: phase,
            mountPoint: words[3].hasSuffix("\n") ? String(words[3].dropLast()) : String(words[3]))
    }

    private var statusPath: String { path + "/status.json" }

    /// Leaves a word on how the draining goes, since there is no mount any more that could tell.
    func saveStatus(_ status: MountStatus) {
        let draft = statusPath + ".new"
        let descriptor = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { return }
        let error = writeAll(StatusFile.text(status), to: descriptor)
        close(descriptor)
        if error == 0 { rename(draft, statusPath) } else { unlink(draft) }
    }

    /// What a process that drains one of the caches in `folder` for this mount point has said last.
    package static func statusOfDraining(mountPoint: String, in folder: String) -> MountStatus? {
        guard let directory = opendir(folder) else { return nil }
        defer { closedir(directory) }
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            let path = folder + "/" + name
            guard !name.hasPrefix("."), let owner = owner(of: path), owner.phase == .draining,
                owner.mountPoint == mountPoint, startTime(of: owner.process) == owner.started,
                let text = readFile(path + "/status.json"), let status = StatusFile.read(text)
            else { continue }
            return status
        }
        return nil
    }

    /// Gives the folder back. Call it once, after everything in it has been closed.
    package func release() {
        unlink(statusPath)
        ftruncate(descriptor, 0)
        close(descriptor)
    }

    /// Gives back a folder that was made for a mount that came to nothing, and removes it if it is empty.
    func discardIfEmpty() {
        MapHolder.remove(chunkMapPath)
        unlink(path + "/lock")
        rmdir(path)
        close(descriptor)
    }
}
