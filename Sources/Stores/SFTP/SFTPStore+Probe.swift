import StoreAPI
import StoreSSH

extension SFTPStore {
    static let temporary = StorePath(".cloudfusion/tmp")!
    /// Where ``temporary`` is of no use, new files are written beside their place, so named.
    static let temporaryPrefix = Array(".cloudfusion-tmp-".utf8)

    /// Finds out by trial what a server does, and removes what is left of uploads that were broken off.
    func findTraits(_ connection: SFTPConnection) throws(StoreError) -> SFTPTraits {
        let root = try attributes(connection.submit(.status(bytes(.root))), "opening", .root)
        guard root.kind == .directory else {
            throw StoreError(
                .storeNotFound,
                "'\(String(decoding: bytes(.root), as: UTF8.self))' is no directory; correct the setting 'path'")
        }
        var features: StoreCapabilities.Features = [
            .wholeSeconds, .rangedRead, .attributes, .attributesInListing, .realDirectories, .caseSensitive,
            .consistentListing,
            .emptyDirectories,
        ]
        if connection.extensions.contains(.statvfs) { features.insert(.spaceUsage) }
        // Without it nothing can be replaced in one step, and so nothing is written.
        guard connection.extensions.contains(.posixRename) else {
            return SFTPTraits(features: features, hasTemporary: false)
        }
        features.formUnion([.atomicMove, .directoryMove])
        let offered: [(SFTPExtension, StoreCapabilities.Features)] = [
            (.hardlink, .conditionalCreate), (.copyData, [.serverSideCopy, .rangeCopy]),
        ]
        for (name, gained) in offered where connection.extensions.contains(name) { features.formUnion(gained) }
        guard try makeTemporary(connection) else { return SFTPTraits(features: features, hasTemporary: false) }
        return try SFTPTrial(self, connection).traits(features)
    }

    /// - Returns: whether files can be written there, as far as can be seen.
    func makeTemporary(_ connection: SFTPConnection) throws(StoreError) -> Bool {
        for (path, mode) in [(.control, Self.directoryMode), (Self.temporary, 0o700)] {
            let made = connection.submit(.makeDirectory(bytes(path), permissions: mode))
            _ = try made.answer()
            guard try find(path, connection)?.kind == .directory else { return false }
        }
        return true
    }

    /// Removes a file that an upload has left, when it is older than a day: nothing is written for so long.
    func removeLeftover(
        _ name: FileName, _ found: SFTPAttributes, in directory: StorePath, now: Int64, _ connection: SFTPConnection
    ) throws(StoreError) {
        let day: Int64 = 86_400
        guard found.kind != .directory, let times = found.times, Int64(times.modified) < now - day,
            Int64(times.accessed) < now - day
        else { return }
        _ = try connection.submit(.remove(bytes(directory.appending(name)))).answer()
    }
}

/// Small files in `.cloudfusion/tmp`, which show what a server does.
private struct SFTPTrial {
    private let store: SFTPStore
    private let connection: SFTPConnection
    private let name = "probe-" + Trial.name()

    init(_ store: SFTPStore, _ connection: SFTPConnection) {
        self.store = store
        self.connection = connection
    }

    private func path(_ suffix: String) -> StorePath { SFTPStore.temporary.appending(FileName(name + suffix)!) }
    private func bytes(_ suffix: String) -> [UInt8] { store.bytes(path(suffix)) }

    func traits(_ offered: StoreCapabilities.Features) throws(StoreError) -> SFTPTraits {
        var features = offered
        let opened = try connection.submit(
            .open(bytes(""), [.read, .write, .create, .exclusive], permissions: 0o600)
        ).answer()
        guard case .handle(let handle) = opened else { return SFTPTraits(features: features, hasTemporary: false) }
        let result: Result<Void, StoreError>
        do throws(StoreError) { result = .success(try tryAll(handle, &features)) } catch { result = .failure(error) }
        _ = connection.submit(.close(handle))
        for removal in ["", "-copy", "-link"].map({ connection.submit(.remove(bytes($0))) }) {
            _ = try removal.answer()
        }
        try result.get()
        return SFTPTraits(features: features, hasTemporary: true)
    }

    private func tryAll(_ handle: SFTP.Handle, _ features: inout StoreCapabilities.Features) throws(StoreError) {
        _ = try connection.submit(.set(SFTPAttributes(permissions: 0o640), of: handle)).answer()
        let made = try store.attributes(connection.submit(.status(handle)), "asking for", path(""))
        if made.permissions.map({ $0 & 0o7777 }) != 0o640 { features.remove(.attributes) }
        if try store.find(SFTPStore.temporary.appending(FileName(name.uppercased())!), connection) != nil {
            features.remove(.caseSensitive)
        }
        if features.contains(.conditionalCreate), try !linksOnce() { features.remove(.conditionalCreate) }
        if let times = made.times { try removeLeftovers(now: Int64(times.modified)) }
        // On a disk that is full this cannot be tried; what is offered counts then.
        if features.contains(.rangeCopy),
            case .status(.ok, _) = try connection.submit(.write(handle, at: 0, [1])).answer(),
            try !copies(handle)
        {
            features.subtract([.rangeCopy, .serverSideCopy])
        }
    }

    /// Whether a second name is made where there is none, and refused where there is one.
    private func linksOnce() throws(StoreError) -> Bool {
        let first = connection.submit(.link(bytes(""), to: bytes("-link")))
        let second = connection.submit(.link(bytes(""), to: bytes("-link")))
        guard case .status(.ok, _) = try first.answer(), case .status(let status, _) = try second.answer() else {
            return false
        }
        return status != .ok
    }

    private func copies(_ source: SFTP.Handle) throws(StoreError) -> Bool {
        let opened = connection.submit(.open(bytes("-copy"), [.write, .create, .exclusive], permissions: 0o600))
        guard case .handle(let handle) = try opened.answer() else { return false }
        let copied = connection.submit(.copy(source, at: 0, count: 1, to: handle, at: 0))
        let found = connection.submit(.status(handle))
        _ = connection.submit(.close(handle))
        guard case .status(.ok, _) = try copied.answer(), case .attributes(let copy) = try found.answer() else {
            return false
        }
        return copy.size == 1
    }

    private func removeLeftovers(now: Int64) throws(StoreError) {
        try store.forEachName(in: SFTPStore.temporary, connection) { name, found throws(StoreError) in
            try store.removeLeftover(name, found, in: SFTPStore.temporary, now: now, connection)
        }
    }
}
