package import Statistics
package import StoreAPI
import StoreHTTP
import StoreSSH
package import Threading

/// A folder on an SSH server.
///
/// Objects are files under their own paths; modes, owners and times are the files' own. A file is written beside the tree
/// (`.cloudfusion/tmp`), or where that cannot be, beside its place, made durable, and renamed.
///
/// The protocol (version 3) tells nothing of a file but its size, mode, owner, and times in whole seconds: a version is
/// the time of the last change and the size. So that two contents of the same size that this program puts within a
/// second have different versions, the later one is given a later second; see ``SFTPUpload``.
///
/// Paths are looked up by the server, which follows symbolic links in the middle of them: see docs/stores/sftp.md.
package final class SFTPStore: StoreBackend {
    struct State {
        /// What was found out by trial; nil: nothing yet.
        var traits: SFTPTraits?
    }

    /// In bytes: what Linux takes.
    static let longestPath = 4095
    static let directoryMode: UInt32 = 0o755
    /// How often something is done anew because others change a file under it.
    static let attempts = 3

    let configuration: SFTPConfiguration
    let pool: SFTPPool
    let clock: any Clock
    let pageSize: Int
    let listings = SFTPListings()
    /// For the parts of large uploads.
    let parallel: ParallelTransfers
    private let state = Lock(State())

    /// - Parameter pageSize: The most entries of one page of a listing, about.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package init(
        _ settings: StoreSettings, statistics: Statistics, pageSize: Int = 5_000, clock: any Clock = SystemClock()
    ) throws(StoreError) {
        configuration = try SFTPConfiguration(settings)
        pool = SFTPPool(configuration.endpoint, connections: configuration.sessions, statistics: statistics)
        parallel = ParallelTransfers(threads: configuration.sessions)
        self.pageSize = pageSize
        self.clock = clock
    }

    package var capabilities: StoreCapabilities {
        let features = state.withLock { $0.traits?.features } ?? [.rangedRead, .realDirectories, .wholeSeconds]
        return StoreCapabilities(features, longestPath: Self.longestPath - configuration.root.count - 1)
    }

    package func connect() throws(StoreError) {
        try pool.attempt(.requestsOther, .storeOther) { connection, _ throws(StoreError) in
            let traits = try findTraits(connection)
            state.withLock { $0.traits = traits }
        }
    }

    /// What the server does; found out now where that was not done yet.
    func traits(_ connection: SFTPConnection) throws(StoreError) -> SFTPTraits {
        if let known = state.withLock({ $0.traits }) { return known }
        let found = try findTraits(connection)
        state.withLock { $0.traits = found }
        return found
    }

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        try checkLength(path)
        return try pool.attempt(.requestsHead, .storeHead) { connection, _ throws(StoreError) in
            let request: SFTPRequest = path.isRoot ? .status(bytes(path)) : .linkStatus(bytes(path))
            let found = try attributes(connection.submit(request), "asking for", path)
            return metadata(found)
        }
    }

    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        try checkLength(path)
        try pool.attempt(.requestsPut, .storePut) { connection, _ throws(StoreError) in
            try makeDirectory(path, connection)
            guard attributes != Attributes() else { return }
            let found = try self.attributes(connection.submit(.status(bytes(path))), "asking for", path)
            try change(attributes, found, at: path, connection)
        }
    }

    package func spaceUsage() throws(StoreError) -> SpaceUsage {
        try pool.attempt(.requestsOther, .storeOther) { connection, _ throws(StoreError) in
            guard connection.extensions.contains(.statvfs) else { return SpaceUsage() }
            let space = try self.space(connection)
            return SpaceUsage(total: space.total, used: space.used, free: space.free)
        }
    }

    package func accountInformation() throws(StoreError) -> [AccountField] {
        let endpoint = configuration.endpoint
        return [
            AccountField("store", "SFTP"), AccountField("host", endpoint.host),
            AccountField("port", String(endpoint.port)),
            AccountField("user", endpoint.user),
            AccountField("path", String(decoding: bytes(.root), as: UTF8.self)),
        ]
    }

    package func tune(_ tuning: StoreTuning) { pool.tune(tuning) }

    package func reconnect() {
        listings.removeAll()
        pool.reconnect()
    }

    package func shutdown() {
        listings.removeAll()
        pool.shutdown()
        parallel.shutdown()
    }
}

/// What a server has been seen to do.
struct SFTPTraits: Hashable, Sendable {
    var features: StoreCapabilities.Features
    /// Files can be written in `.cloudfusion/tmp`.
    var hasTemporary: Bool
}

// MARK: - Paths and metadata

extension SFTPStore {
    /// What a request calls a path.
    func bytes(_ path: StorePath) -> [UInt8] {
        let root = configuration.root
        if path.isRoot { return root.isEmpty ? Array(".".utf8) : root }
        if root.isEmpty { return path.bytes }
        return root + (configuration.isRootOfServer ? [] : [UInt8(ascii: "/")]) + path.bytes
    }

    func checkLength(_ path: StorePath) throws(StoreError) {
        guard path.bytes.count > Self.longestPath - configuration.root.count - 1 else { return }
        throw StoreError(.invalidName, "the path of \(path.bytes.count) bytes is too long", path: path)
    }

    func metadata(_ attributes: SFTPAttributes) -> Metadata {
        let kind = attributes.kind ?? .file
        let size = kind == .directory ? 0 : Int64(clamping: attributes.size ?? 0)
        func time(_ part: KeyPath<SFTPAttributes.Times, UInt32>) -> Timestamp? {
            attributes.times.map { Timestamp(seconds: Int64($0[keyPath: part])) }
        }
        return Metadata(
            kind: kind, size: size, modified: time(\.modified) ?? Timestamp(seconds: 0), version: version(attributes),
            attributes: Attributes(
                mode: attributes.permissions.map { $0 & 0o7777 }, uid: attributes.owner?.uid,
                gid: attributes.owner?.gid,
                accessed: time(\.accessed), modified: time(\.modified)))
    }

    /// The second of the last change and the size; what is no plain file says so.
    func version(_ attributes: SFTPAttributes) -> Version? {
        let kind = attributes.kind ?? .file
        guard kind != .directory, let times = attributes.times else { return nil }
        let text = "\(times.modified)-\(attributes.size ?? 0)"
        return Version(kind == .file ? text : "\(kind)-\(text)")
    }

    /// Whether a version is that of a plain file.
    func isOfFile(_ version: Version) -> Bool { version.text.first?.isNumber ?? false }

    func check(_ version: Version?, _ found: SFTPAttributes, _ path: StorePath) throws(StoreError) {
        guard let version, version != self.version(found) else { return }
        throw StoreError.changed(path, version.text)
    }

    /// The seconds that the protocol has for a time.
    static func seconds(_ time: Timestamp) -> UInt32 { UInt32(StoreTimes.unsignedSeconds.kept(time).seconds) }
}

// MARK: - Answers

extension SFTPStore {
    /// Waits for an answer that has nothing to tell but that it was done.
    func done(
        _ pending: SFTPPending, _ what: String, _ path: StorePath, isWanted: (@Sendable () -> Bool)? = nil
    ) throws(StoreError) {
        guard case .status(let status, let message) = try pending.answer(isWanted: isWanted) else {
            throw Self.senseless(what, path)
        }
        if status != .ok { throw failure(status, message, what, path) }
    }

    func attributes(_ pending: SFTPPending, _ what: String, _ path: StorePath) throws(StoreError) -> SFTPAttributes {
        switch try pending.answer() {
        case .attributes(let attributes): return attributes
        case .status(let status, let message): throw failure(status, message, what, path)
        default: throw Self.senseless(what, path)
        }
    }

    /// - Returns: nil when nothing is there.
    func attributesIfThere(_ pending: SFTPPending, _ path: StorePath) throws(StoreError) -> SFTPAttributes? {
        do { return try attributes(pending, "asking for", path) } catch {
            guard error.code == .notFound || error.code == .storeNotFound else { throw error }
            return nil
        }
    }

    func find(_ path: StorePath, _ connection: SFTPConnection) throws(StoreError) -> SFTPAttributes? {
        try attributesIfThere(connection.submit(.linkStatus(bytes(path))), path)
    }

    func handle(_ pending: SFTPPending, _ what: String, _ path: StorePath) throws(StoreError) -> SFTP.Handle {
        switch try pending.answer() {
        case .handle(let handle): return handle
        case .status(let status, let message): throw failure(status, message, what, path)
        default: throw Self.senseless(what, path)
        }
    }

    /// The one table of what a status means.
    ///
    /// OpenSSH says "failure" of everything that the draft has no word for (a full disk, a name that is there, a directory
    /// that is not empty); who asks has to find out which. Source: `errno_to_portable` in OpenSSH's sftp-server.c.
    func failure(_ status: SFTP.Status, _ message: String, _ what: String, _ path: StorePath) -> StoreError {
        let code: StoreError.Code =
            switch status {
            case .noSuchFile: path.isRoot ? .storeNotFound : .notFound
            case .permissionDenied: .accessDenied
            case .badMessage: .invalidName
            case .unsupported: .unsupported
            case .ok, .endOfFile: .internal
            case .failure, .noConnection, .connectionLost: .unavailable
            }
        let place = path.isRoot ? "the folder '\(String(decoding: bytes(.root), as: UTF8.self))'" : "'\(path)'"
        let reason =
            switch status {
            case .noSuchFile where path.isRoot: "there is none; make it, or correct the setting 'path'"
            case .noSuchFile: "there is no such file"
            case .permissionDenied: "the server does not permit it to '\(configuration.endpoint.user)'"
            default: "the server says '\(message)'"
            }
        return StoreError(
            code, "\(what) \(place) failed: \(reason)", path: path, cause: "SFTP status \(status.rawValue)")
    }

    static func senseless(_ what: String, _ path: StorePath) -> StoreError {
        StoreError(
            .unavailable, "\(what) '\(path)' failed: the server has sent an answer that makes no sense", path: path)
    }

    func space(_ connection: SFTPConnection) throws(StoreError) -> SFTPSpace {
        switch try connection.submit(.space(bytes(.root))).answer() {
        case .extended(let reply):
            do { return try SFTPSpace(reply) } catch { throw Self.senseless("measuring", .root) }
        case .status(let status, let message): throw failure(status, message, "measuring", .root)
        default: throw Self.senseless("measuring", .root)
        }
    }

    /// What a failure may come from that the server has no word for: a disk that is full or for reading only.
    func explained(_ error: StoreError, _ connection: SFTPConnection, isWriting: Bool = false) -> StoreError {
        guard error.code == .unavailable, error.cause == "SFTP status \(SFTP.Status.failure.rawValue)",
            connection.extensions.contains(.statvfs), let space = try? space(connection)
        else { return error }
        var error = error
        if space.isReadOnly {
            error.code = .readOnly
            error.message += "; its disk is for reading only"
        } else if space.free < 1 << 20 {
            error.code = .quotaExceeded
            error.message += "; its disk is full"
        } else if isWriting {
            error.code = .quotaExceeded
            error.message +=
                "; its disk has \(space.free / 1_000_000) MB of room, so a quota or another limit is used up"
        }
        return error
    }
}

// MARK: - Directories

extension SFTPStore {
    /// Makes a directory, with those above it. One that is there is left as it is.
    func makeDirectory(_ path: StorePath, _ connection: SFTPConnection) throws(StoreError) {
        for _ in 1...Self.attempts {
            guard let parent = path.parent else {
                _ = try attributes(connection.submit(.status(bytes(.root))), "opening", .root)
                return
            }
            let failure: StoreError
            do throws(StoreError) {
                try done(
                    connection.submit(.makeDirectory(bytes(path), permissions: Self.directoryMode)),
                    "making the directory", path)
                return try syncDirectory(parent, connection)
            } catch {
                failure = error
            }
            if let there = try find(path, connection) {
                if there.kind == .directory { return }
                throw StoreError(.notADirectory, "'\(path)' is no directory", path: path)
            }
            guard failure.code == .notFound else { throw explained(failure, connection) }
            try makeDirectory(parent, connection)
        }
        throw StoreError(.unavailable, "'\(path)' cannot be made: others remove what is above it", path: path)
    }

    /// Makes sure that the names in a directory survive a power failure of the server, where it can be asked for that.
    ///
    /// The protocol knows no fsync of directories, but OpenSSH opens them as files.
    func syncDirectory(_ path: StorePath, _ connection: SFTPConnection) throws(StoreError) {
        guard configuration.fsync, connection.extensions.contains(.fsync),
            case .handle(let handle) = try connection.submit(.open(bytes(path), .read)).answer()
        else { return }
        let synced = connection.submit(.sync(handle))
        _ = connection.submit(.close(handle))
        _ = try synced.answer()
    }

    /// Changes what is not nil of a file, directory or link that is there.
    func change(
        _ attributes: Attributes, _ found: SFTPAttributes, at path: StorePath, _ connection: SFTPConnection
    ) throws(StoreError) {
        let isLink = found.kind == .symbolicLink
        if isLink, !connection.extensions.contains(.lsetstat) { return }
        let place = bytes(path)
        let changes = Changes(attributes, found)
        let requests = [changes.owner, changes.rest].map { change in
            change.map { connection.submit(isLink ? .setOfLink($0, at: place) : .set($0, at: place)) }
        }
        // The owner stays as it is where this user may not change it, as with every tool that is not run by root.
        if let owner = requests[0], case .status(let status, let message) = try owner.answer(), status != .ok,
            status != .permissionDenied
        {
            throw explained(failure(status, message, "changing the owner of", path), connection)
        }
        if let rest = requests[1] {
            do { try done(rest, "changing the attributes of", path) } catch { throw explained(error, connection) }
        }
    }

    /// What has to be sent in order to change attributes.
    struct Changes {
        /// Before the rest: a new owner takes the set-uid bit away.
        var owner: SFTPAttributes?
        var rest: SFTPAttributes?

        init(_ attributes: Attributes, _ found: SFTPAttributes) {
            if let uid = attributes.uid ?? found.owner?.uid, let gid = attributes.gid ?? found.owner?.gid {
                let new = SFTPAttributes.Owner(uid: uid, gid: gid)
                if new != found.owner { owner = SFTPAttributes(owner: new) }
            }
            var rest = SFTPAttributes()
            // Symbolic links have no mode of their own.
            if found.kind != .symbolicLink { rest.permissions = attributes.mode.map { $0 & 0o7777 } }
            if owner != nil, rest.permissions == nil, let old = found.permissions, found.kind == .file,
                old & 0o6000 != 0
            {
                rest.permissions = old & 0o7777
            }
            if attributes.accessed != nil || attributes.modified != nil {
                let modified = attributes.modified.map(SFTPStore.seconds) ?? found.times?.modified ?? 0
                let accessed = attributes.accessed.map(SFTPStore.seconds) ?? found.times?.accessed ?? modified
                rest.times = .init(accessed: accessed, modified: modified)
            }
            if rest != SFTPAttributes() { self.rest = rest }
        }
    }
}
