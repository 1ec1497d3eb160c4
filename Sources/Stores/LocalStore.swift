import CShim
import Glibc
package import StoreAPI
package import Threading

/// A directory of the host: a disk, or a network share that is mounted already.
///
/// An object is a file under its own path. It is written beside the tree (`.cloudfusion/tmp`), made durable, given its
/// attributes, and then renamed into place, so that a reader sees the old or the new one and a crash leaves neither
/// half. Paths are walked name by name without following symbolic links; see ``LocalRoot``.
///
/// ``WriteCondition/ifVersion(_:)`` is decided under a lock that other processes of CloudFusion on the same directory
/// honour; a program that knows nothing of it can slip in between the look and the rename.
///
/// Locks: the commit lock is held while a name is looked at and replaced, the state's lock only to get at the root;
/// neither is taken while the other is held.
package final class LocalStore: StoreBackend {
    private struct State {
        var root: LocalRoot?
        var isShutDown = false
    }

    private let path: String
    private let fsync: Bool
    private let clock: any Clock
    private let pageSize: Int
    private let state = Lock(State())
    let commitLock = Lock(())
    let listings = LocalListings()

    /// - Parameters:
    ///   - path: The directory; a symbolic link here is followed.
    ///   - fsync: Whether ``put(_:at:_:)`` and its like return only when the disk has it.
    ///   - pageSize: The most entries of one page of a listing.
    package init(path: String, fsync: Bool = true, pageSize: Int = 1_000, clock: any Clock = SystemClock()) {
        self.path = path
        self.fsync = fsync
        self.pageSize = pageSize
        self.clock = clock
    }

    package var capabilities: StoreCapabilities {
        StoreCapabilities(
            state.withLock { $0.root?.features } ?? [.rangedRead, .realDirectories], longestPath: LocalRoot.longestPath)
    }

    package func connect() throws(StoreError) { _ = try root() }

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        let root = try root()
        let (file, status) = try root.find(path)
        return root.metadata(status, try root.extended(file.magicLink, status.kind, path))
    }

    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        let root = try root()
        func open() throws(StoreError) -> LocalListing {
            let file = try root.openDirectory(directory)
            guard let listing = LocalListing(of: file.descriptor) else {
                throw StoreError(errno: errno, "listing", directory)
            }
            return listing
        }
        let listing: LocalListing
        if let cursor { listing = try listings.take(cursor, reopen: open) } else { listing = try open() }
        var page = ListPage(entries: [])
        while page.entries.count < pageSize {
            switch listing.next() {
            case .name(let name):
                if let entry = try entry(name, of: directory, listing, root) { page.entries.append(entry) }
            case .end: return page
            case .failure(let number): throw StoreError(errno: number, "listing", directory)
            }
        }
        page.next = listings.park(listing)
        return page
    }

    /// - Returns: nil for what is CloudFusion's own, and for what is gone already.
    private func entry(
        _ name: FileName, of directory: StorePath, _ listing: LocalListing, _ root: LocalRoot
    ) throws(StoreError) -> ListEntry? {
        if directory.isRoot, name == .control { return nil }
        if name.bytes.starts(with: LocalRoot.temporaryPrefix) {
            LocalRoot.removeLeftover(name, in: listing.descriptor, now: clock.calendar)
            return nil
        }
        let path = directory.appending(name)
        guard let file = LocalFile(name, in: listing.descriptor, O_PATH), let status = LocalStatus(of: file.descriptor)
        else {
            if errno == ENOENT { return nil }
            throw StoreError(errno: errno, "asking for", path)
        }
        return ListEntry(
            name: name, metadata: root.metadata(status, try root.extended(file.magicLink, status.kind, path)))
    }

    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        let root = try root()
        let directory = try root.openDirectory(path, isMaking: true)
        guard attributes != Attributes() else { return }
        try root.apply(attributes, to: directory, path)
        try root.syncDirectory(directory.descriptor, path)
    }

    package func spaceUsage() throws(StoreError) -> SpaceUsage {
        let root = try root()
        var usage = statvfs()
        guard fstatvfs(root.descriptor, &usage) == 0 else { throw StoreError(errno: errno, "measuring", .root) }
        let block = Int64(usage.f_frsize)
        return SpaceUsage(
            total: Int64(usage.f_blocks) * block, used: Int64(usage.f_blocks - usage.f_bfree) * block,
            free: Int64(usage.f_bavail) * block)
    }

    package func accountInformation() throws(StoreError) -> [AccountField] {
        [AccountField("kind", "local directory"), AccountField("path", path)]
    }

    package func reconnect() {
        listings.closeAll()
        state.withLock { $0.root = nil }
    }

    package func shutdown() {
        listings.closeAll()
        state.withLock { state in
            state.root = nil
            state.isShutDown = true
        }
    }

    /// Throws when the store is shut down; asked between the pieces of a transfer.
    func checkIsOpen() throws(StoreError) {
        if state.withLock({ $0.isShutDown }) { throw StoreError(.cancelled, "the store '\(path)' is shut down") }
    }

    /// The opened root; opens it when that was not done yet or it was given up.
    func root() throws(StoreError) -> LocalRoot {
        try checkIsOpen()
        if let root = state.withLock({ $0.root }) { return root }
        let opened = try LocalRoot(path: path, fsync: fsync, now: clock.calendar)
        return state.withLock { state in
            // Another thread may have been faster.
            let root = state.root ?? opened
            state.root = root
            return root
        }
    }
}

extension StoreDescriptor {
    package static let local = StoreDescriptor(
        scheme: "local", summary: "A directory of this machine: a disk, or a network share that is mounted.",
        options: [
            StoreOption(
                "path", .path, aliases: ["root", "directory", "bucket_name"], isRequired: true,
                help: "The directory, with its full path."),
            StoreOption(
                "fsync", .flag, default: "yes",
                help: "Whether a file counts as stored only when the disk has it; 'no' is faster and loses what the "
                    + "system had in memory when the power fails."),
        ],
        identity: { settings in normal(settings["path"] ?? "") },
        settingsFromURL: { rest in rest.hasPrefix("/") ? ["path": rest] : nil }
    ) { settings, _ throws(StoreError) in
        guard let path = settings["path"], path.hasPrefix("/") else {
            throw StoreError(.invalidArgument, "the setting 'path' must be a full path, such as /srv/files")
        }
        return LocalStore(path: path, fsync: settings.flag("fsync", default: true))
    }

    /// Without the slashes that change nothing.
    private static func normal(_ path: String) -> String {
        "/" + path.split(separator: "/").filter { $0 != "." }.joined(separator: "/")
    }
}

extension LocalStore {
    /// Deletes what a store that has been shut down keeps for itself in its directory.
    package static func removeTraces(in directory: String) {
        let own = "\(directory)/\(FileName.control)"
        rmdir("\(own)/\(LocalRoot.temporaryName)")
        unlink("\(own)/lock")
        rmdir(own)
    }
}
