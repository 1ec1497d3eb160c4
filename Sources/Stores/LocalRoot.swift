import CShim
import Glibc
import StoreAPI
import Threading

/// The directory that a ``LocalStore`` is about, opened. Lives as long as a call uses it.
///
/// Every name is looked up in an open directory and no symbolic link is followed, so nothing on the store leads out
/// of it, whatever others do to it meanwhile.
final class LocalRoot: Sendable {
    static let temporaryName = FileName("tmp")!
    /// Where ``StoreAPI/FileName/control``'s directory is of no use for it, new files are written beside their place, so named.
    static let temporaryPrefix = Array(".cloudfusion-tmp-".utf8)

    /// Of directories that are made because something is put into them.
    static let directoryMode: mode_t = 0o755
    /// In bytes; longer ones could be made name by name, and then not be used by any other program.
    static let longestPath = 4095

    let path: String
    let descriptor: Int32
    /// The directory for new files; nil when there is none and none can be made.
    let temporary: LocalFile?
    /// Locked by conditional writes, against those of other processes on the same directory; nil where locks do not work.
    let lockFile: LocalFile?
    let features: StoreCapabilities.Features
    let fsync: Bool
    private let hasStableInodes: Bool

    /// - Throws: ``StoreError``: `.storeNotFound`, `.accessDenied`, `.unavailable`.
    init(path: String, fsync: Bool, now: Timestamp) throws(StoreError) {
        self.path = path
        self.fsync = fsync
        let opened = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard opened >= 0 else { throw Self.failure(errno, path) }
        descriptor = opened
        var fileSystem = statfs()
        hasStableInodes = fstatfs(opened, &fileSystem) == 0 && !Self.unstable.contains(Int64(fileSystem.f_type))
        let places = Self.makePlaces(in: opened)
        temporary = places.temporary
        lockFile = places.lockFile
        features = Self.probe(places, in: opened)
        if let temporary { Self.removeLeftovers(in: temporary.descriptor, now: now) }
    }

    deinit { close(descriptor) }

    /// File systems whose inode numbers may be others after a while: FAT, exFAT, FUSE, SMB, 9P.
    private static let unstable: Set<Int64> = [0x4d44, 0x2011_bab0, 0x6573_5546, 0xff53_4d42, 0xfe53_4d42, 0x0102_1997]

    private static func failure(_ number: Int32, _ path: String) -> StoreError {
        switch number {
        case ENOENT:
            StoreError(.storeNotFound, "the directory '\(path)' does not exist; make it, or correct the setting 'path'")
        case ENOTDIR: StoreError(.storeNotFound, "'\(path)' is not a directory; correct the setting 'path'")
        case EACCES: StoreError(.accessDenied, "the directory '\(path)' may not be opened by this user")
        default:
            StoreError(
                StoreError.code(errno: number),
                "the directory '\(path)' cannot be opened: \(String(cString: strerror(number)))")
        }
    }

    private struct Places {
        var temporary: LocalFile?
        var lockFile: LocalFile?
        var isReadOnly = false
    }

    /// Opens, and if need be makes, the directory for new files and the file for locks.
    private static func makePlaces(in root: Int32) -> Places {
        var places = Places()
        func directory(_ name: FileName, in parent: Int32, mode: mode_t) -> LocalFile? {
            let made = name.withCString { mkdirat(parent, $0, mode) }
            if made != 0, errno != EEXIST {
                places.isReadOnly = [EROFS, EACCES, EPERM].contains(errno)
                return nil
            }
            return LocalFile(name, in: parent, O_RDONLY | O_DIRECTORY)
        }
        if let control = directory(.control, in: root, mode: 0o755) {
            places.temporary = directory(temporaryName, in: control.descriptor, mode: 0o700)
            if let lock = LocalFile(FileName("lock")!, in: control.descriptor, O_RDWR | O_CREAT, mode: 0o600) {
                let locked = flock(lock.descriptor, LOCK_EX | LOCK_NB)
                if locked == 0 { flock(lock.descriptor, LOCK_UN) }
                if locked == 0 || errno == EWOULDBLOCK { places.lockFile = lock }
            }
        }
        return places
    }

    /// Finds out by trial what the file system can do.
    private static func probe(_ places: Places, in root: Int32) -> StoreCapabilities.Features {
        let always: StoreCapabilities.Features = [
            .rangedRead, .attributes, .attributesInListing, .realDirectories, .spaceUsage, .consistentListing,
            .emptyDirectories,
            .caseSensitive, .specialFiles, .extendedAttributes,
        ]
        if places.isReadOnly { return always }
        var features = always.union([
            .conditionalCreate, .conditionalDelete, .serverSideCopy, .rangeCopy, .atomicMove, .directoryMove,
        ])
        if places.lockFile != nil { features.insert(.conditionalReplace) }
        let name = FileName("probe-" + Trial.name())!
        guard let temporary = places.temporary?.descriptor,
            let file = LocalFile(name, in: temporary, O_RDWR | O_CREAT | O_EXCL, mode: 0o600)
        else { return features }
        defer { _ = name.withCString { unlinkat(temporary, $0, 0) } }
        fchmod(file.descriptor, 0o640)
        if LocalStatus(of: file.descriptor)?.mode != 0o640 { features.remove(.attributes) }
        if !LocalExtendedAttributes.write(Attributes(extended: ["user.cloudfusion.probe": [1]]), to: file.magicLink) {
            features.remove(.extendedAttributes)
        }
        if LocalStatus(of: FileName(name.description.uppercased())!, in: temporary) != nil {
            features.remove(.caseSensitive)
        }
        let fifo = FileName("probe-" + Trial.name())!
        if fifo.withCString({ mknodat(temporary, $0, S_IFIFO | 0o600, 0) }) == 0 {
            _ = fifo.withCString { unlinkat(temporary, $0, 0) }
        } else {
            features.remove(.specialFiles)
        }
        return features
    }

    /// Removes what a crash has left of uploads, when it is older than a day: nothing is written for so long.
    private static func removeLeftovers(in temporary: Int32, now: Timestamp) {
        guard let listing = LocalListing(of: temporary) else { return }
        while case .name(let name) = listing.next() { removeLeftover(name, in: temporary, now: now) }
    }

    static func removeLeftover(_ name: FileName, in directory: Int32, now: Timestamp) {
        let day: Int64 = 86_400
        guard let status = LocalStatus(of: name, in: directory), status.changed.seconds < now.seconds - day else {
            return
        }
        _ = name.withCString { unlinkat(directory, $0, 0) }
    }
}

extension LocalRoot {
    /// Opens a directory, step by step.
    ///
    /// - Parameter isMaking: Whether missing ones are made.
    /// - Throws: ``StoreError``: `.notFound`, `.notADirectory` …
    func openDirectory(_ path: StorePath, isMaking: Bool = false) throws(StoreError) -> LocalFile {
        try checkLength(path)
        let flags = O_PATH | O_DIRECTORY
        var directory = LocalFile(owning: openat(descriptor, ".", flags | O_CLOEXEC))
        guard directory.descriptor >= 0 else { throw StoreError(errno: errno, "opening", .root) }
        for name in path.components {
            var next = LocalFile(name, in: directory.descriptor, flags)
            if next == nil, errno == ENOENT, isMaking {
                let isMade = name.withCString { mkdirat(directory.descriptor, $0, Self.directoryMode) == 0 }
                guard isMade || errno == EEXIST else { throw StoreError(errno: errno, "making the directory", path) }
                // The umask of a mount keeps others from what is its own, which the store is not.
                if isMade { _ = name.withCString { fchmodat(directory.descriptor, $0, Self.directoryMode, 0) } }
                try syncDirectory(directory.descriptor, path)
                next = LocalFile(name, in: directory.descriptor, flags)
            }
            guard let next else { throw StoreError(errno: errno, "opening the directory", path) }
            directory = next
        }
        return directory
    }

    func checkLength(_ path: StorePath) throws(StoreError) {
        guard path.bytes.count > Self.longestPath else { return }
        throw StoreError(.invalidName, "the path of \(path.bytes.count) bytes is too long", path: path)
    }

    /// Opens the directory that `path` lies in, to look at what is there: below something that is no directory
    /// there is nothing.
    ///
    /// - Throws: ``StoreError``: `.notFound` …
    func openParent(of path: StorePath) throws(StoreError) -> LocalFile {
        try checkLength(path)
        do {
            return try openDirectory(path.parent ?? .root)
        } catch {
            guard error.code == .notADirectory else { throw error }
            throw StoreError(.notFound, "there is no '\(path)' in the store", path: path, cause: error.message)
        }
    }

    /// Opens what lies at `path` just to refer to it, and asks what it is.
    func find(_ path: StorePath) throws(StoreError) -> (file: LocalFile, status: LocalStatus) {
        let file: LocalFile
        if let name = path.name {
            let parent = try openParent(of: path)
            guard let found = LocalFile(name, in: parent.descriptor, O_PATH) else {
                throw StoreError(errno: errno, "opening", path)
            }
            file = found
        } else {
            file = try openDirectory(.root)
        }
        guard let status = LocalStatus(of: file.descriptor) else { throw StoreError(errno: errno, "asking for", path) }
        return (file, status)
    }

    /// Makes sure that the names in a directory survive power loss.
    func syncDirectory(_ directory: Int32, _ path: StorePath) throws(StoreError) {
        guard fsync else { return }
        let file = LocalFile(owning: openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC))
        // A directory that may be written but not read can't be opened; some file systems don't know fsync of one.
        let done = file.descriptor >= 0 ? Glibc.fsync(file.descriptor) : syncfs(descriptor)
        guard done == 0 || errno == EINVAL else { throw StoreError(errno: errno, "writing through", path) }
    }

    /// A name for the state of a file's bytes, which no other state gets: a file that is replaced is another inode,
    /// with another moment of birth; one that is changed in place has another time or size. Changes of the
    /// mode, owner or name leave it as it is, which is why the time of the last such change is no part of it.
    ///
    /// Not noticed: bytes that others change in place, leaving the size, and setting the old time again. Where inode
    /// numbers do not last (``unstable``) they are left out, and a replacement of equal size and time is not noticed.
    func version(_ status: LocalStatus) -> Version? {
        if status.kind == .directory { return nil }
        func hex(_ number: Int64) -> String { String(UInt64(bitPattern: number), radix: 16) }
        let inode = hasStableInodes ? String(status.inode, radix: 16) : ""
        let born = status.born.map { hex($0.nanoseconds) } ?? ""
        return Version("\(inode)-\(born)-\(hex(status.modified.nanoseconds))-\(hex(status.size))")
    }

    func metadata(_ status: LocalStatus, _ extended: [String: [UInt8]]?) -> Metadata {
        var extended = extended
        func own(_ name: String) -> String? {
            extended?.removeValue(forKey: name).map { String(decoding: $0, as: UTF8.self) }
        }
        let identity = own(LocalExtendedAttributes.identity)
        let replaces = own(LocalExtendedAttributes.replaces)
        return Metadata(
            kind: status.kind, size: status.size, modified: status.modified, version: version(status),
            attributes: Attributes(
                mode: status.mode, uid: status.uid, gid: status.gid, accessed: status.accessed,
                modified: status.modified, changed: status.changed,
                device: status.kind == .characterDevice || status.kind == .blockDevice ? status.device : nil,
                extended: extended, identity: identity, replaces: replaces))
    }

    /// What an open file is now, its extended attributes included.
    func metadata(of file: LocalFile, _ path: StorePath) throws(StoreError) -> Metadata {
        guard let status = LocalStatus(of: file.descriptor) else { throw StoreError(errno: errno, "asking for", path) }
        return metadata(status, try extended(file.magicLink, status.kind, path))
    }

    /// - Parameter file: A path that leads to the file.
    func extended(_ file: String, _ kind: FileKind, _ path: StorePath) throws(StoreError) -> [String: [UInt8]]? {
        // Only files and directories can have any of `user.`.
        guard features.contains(.extendedAttributes) else { return nil }
        guard kind == .file || kind == .directory else { return [:] }
        if let found = LocalExtendedAttributes.read(file) { return found }
        throw StoreError(errno: errno, "reading the extended attributes of", path)
    }

    /// Changes what is not nil, of any kind of file.
    ///
    /// The owner stays as it is where this user may not change it, as with every tool that is not run by root.
    func apply(_ attributes: Attributes, to file: LocalFile, _ path: StorePath) throws(StoreError) {
        guard let status = LocalStatus(of: file.descriptor) else { throw StoreError(errno: errno, "asking for", path) }
        let uid = attributes.uid ?? status.uid
        let gid = attributes.gid ?? status.gid
        if uid != status.uid || gid != status.gid,
            fchownat(file.descriptor, "", uid, gid, AT_EMPTY_PATH) != 0, errno != EPERM
        {
            throw StoreError(errno: errno, "changing the owner of", path)
        }
        // After the owner, whose change takes the set-uid bit away. Symbolic links have no mode of their own.
        if let mode = attributes.mode, status.kind != .symbolicLink, chmod(file.magicLink, mode_t(mode & 0o7777)) != 0 {
            throw StoreError(errno: errno, "changing the mode of", path)
        }
        let hasExtended = attributes.extended != nil || attributes.identity != nil || attributes.replaces != nil
        if hasExtended, features.contains(.extendedAttributes),
            status.kind == .file || status.kind == .directory,
            !LocalExtendedAttributes.write(attributes, to: file.magicLink)
        {
            throw StoreError(errno: errno, "changing the extended attributes of", path)
        }
        // UTIME_OMIT of <sys/stat.h>, which Swift does not import.
        let utimeOmit = (1 << 30) - 2
        guard attributes.accessed != nil || attributes.modified != nil else { return }
        let unchanged = timespec(tv_sec: 0, tv_nsec: utimeOmit)
        let times = [attributes.accessed?.timespec ?? unchanged, attributes.modified?.timespec ?? unchanged]
        guard utimensat(file.descriptor, "", times, AT_EMPTY_PATH) == 0 else {
            throw StoreError(errno: errno, "changing the times of", path)
        }
    }
}
