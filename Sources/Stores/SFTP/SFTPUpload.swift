import Glibc
import StoreAPI
import StoreHTTP
import StoreSSH
import Threading

/// One upload: a file that is written under a temporary name, which it loses when it gets its own, or is given up.
///
/// It goes on where it was when a connection is lost. An answer that was not heard is not taken for a failure: when the
/// temporary name is gone, the renaming was done; when the final name is there although it should not be, it is found out
/// whether it is another name of the temporary file, by giving that a time of access that nobody else would.
///
/// Versions are seconds and sizes (``SFTPStore``). What replaces a file of the same size, and whose time would not be
/// later although both are about now, gets the second after that file's: readers who know the old version must not take
/// the new bytes for it.
final class SFTPUpload {
    private let store: SFTPStore
    private let body: UploadBody
    private let path: StorePath
    private let options: PutOptions
    private let parent: StorePath

    /// Tells how much was sent.
    private let sent: SentCount
    /// Where the temporary name is: in ``SFTPStore/temporary``, else beside the final one.
    private var isBeside = false
    private var temporary: StorePath?
    /// How much of the body is in the temporary file for certain.
    private var acknowledged: Int64 = 0
    /// Of the segment that is being sent in parts.
    private var parts: Parts?
    /// The file is whole, and this is what it is.
    private var finished: SFTPAttributes?
    private var mayBeNamed = false
    /// The directory that the file gets its name in, opened to be written through.
    private var directory: (connection: SFTPConnection, handle: SFTP.Handle)?

    init(_ body: UploadBody, at path: StorePath, _ options: PutOptions, _ store: SFTPStore) throws(StoreError) {
        guard let parent = path.parent, options.kind != .directory else {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        guard options.kind == .file || options.kind == .symbolicLink else {
            throw StoreError(
                .unsupported, "SFTP makes no fifos, sockets and devices: '\(path)' cannot be on this store", path: path)
        }
        try store.checkLength(path)
        self.store = store
        self.body = body
        self.path = path
        self.options = options
        sent = SentCount(options.progress)
        self.parent = parent
    }

    /// Does what is still to be done.
    func run(_ connection: SFTPConnection, _ attempt: SFTPAttempt) throws(StoreError) -> Metadata {
        guard connection.extensions.contains(.posixRename) else {
            throw StoreError(
                .unsupported,
                "the SFTP server cannot replace a file in one step (posix-rename@openssh.com): this store is for reading only",
                path: path)
        }
        defer { closeDirectory() }
        if finished == nil {
            if try !store.traits(connection).hasTemporary { isBeside = true }
            try makeAgainIfNeeded(connection, attempt)
        }
        do throws(StoreError) {
            return try commit(connection)
        } catch {
            // The directory may be on another file system than the root; OpenSSH does not say so.
            guard error.code == .unavailable, error.cause == Self.plainFailure, !isBeside else {
                throw store.explained(error, connection)
            }
        }
        closeDirectory()
        sent.takeBack()
        abandon(connection)
        isBeside = true
        try make(connection, attempt)
        do throws(StoreError) { return try commit(connection) } catch { throw store.explained(error, connection) }
    }

    private static let plainFailure = "SFTP status \(SFTP.Status.failure.rawValue)"

    /// Whether a request was carried out or not is known after this error.
    private static func isDefinite(_ error: StoreError) -> Bool { error.cause?.hasPrefix("SFTP status") ?? false }

    /// Removes the temporary file, if it is still there under that name. The upload can begin anew then.
    ///
    /// - Returns: The request for that, when one was sent.
    @discardableResult
    func abandon(_ connection: SFTPConnection) -> SFTPPending? {
        defer { forget() }
        return temporary.map { connection.submit(.remove(store.bytes($0))) }
    }

    private func forget() {
        temporary = nil
        acknowledged = 0
        parts = nil
        finished = nil
        mayBeNamed = false
    }

    private func closeDirectory() {
        if let (connection, handle) = directory { _ = connection.submit(.close(handle)) }
        directory = nil
    }

    private func checkIsWanted() throws(StoreError) {
        try store.pool.checkIsOpen()
        try options.requireWanted(path)
    }

    /// - Parameter found: What is there now; nil: nothing.
    private func check(_ found: SFTPAttributes?) throws(StoreError) {
        if found?.kind == .directory { throw StoreError(.isADirectory, "'\(path)' is a directory", path: path) }
        switch options.condition {
        case .always: return
        case .ifAbsent:
            if found != nil { throw options.condition.failure(path) }
        case .ifVersion(let version):
            if let found { return try store.check(version, found, path) }
            throw options.condition.failure(path)
        }
    }

    // MARK: The temporary file

    /// Somebody may have removed the directory for new files since it was found.
    private func makeAgainIfNeeded(_ connection: SFTPConnection, _ attempt: SFTPAttempt) throws(StoreError) {
        do throws(StoreError) {
            return try make(connection, attempt)
        } catch {
            guard error.code == .notFound, error.path == path, !isBeside else { throw error }
        }
        if try !store.makeTemporary(connection) { isBeside = true }
        sent.takeBack()
        abandon(connection)
        try make(connection, attempt)
    }

    /// Writes the whole file under its temporary name, with its attributes, and makes it durable.
    private func make(_ connection: SFTPConnection, _ attempt: SFTPAttempt) throws(StoreError) {
        try checkIsWanted()
        let there = connection.submit(.linkStatus(store.bytes(path)))
        if isBeside { try makeParent(connection) }
        let isNew = temporary == nil
        let place = temporary ?? makeName()
        temporary = place
        if options.kind == .symbolicLink { return try makeLink(place, there, connection) }
        var flags: SFTP.OpenFlags = [.read, .write]
        // What is there of it after a lost connection is kept; and when it is gone, all of it has to be sent again.
        if acknowledged == 0, parts == nil { flags.formUnion([.create, isNew ? .exclusive : .truncate]) }
        let opening = connection.submit(.open(store.bytes(place), flags, permissions: 0o600))
        let opened = try opening.answer()
        defer {
            if case .handle(let handle) = opened { _ = connection.submit(.close(handle)) }
        }
        // Refused at once is what would be refused after the transfer.
        try check(store.attributesIfThere(there, path))
        guard case .handle(let handle) = opened else {
            if case .status(let status, let message) = opened {
                throw store.explained(store.failure(status, message, "writing", path), connection)
            }
            throw SFTPStore.senseless("writing", path)
        }
        let finishing = try write(to: handle, connection, attempt)
        try finish(finishing, handle, connection)
    }

    private func makeName() -> StorePath {
        let prefix = isBeside ? String(decoding: SFTPStore.temporaryPrefix, as: UTF8.self) : ""
        return (isBeside ? parent : SFTPStore.temporary).appending(FileName(prefix + Trial.name())!)
    }

    private func makeParent(_ connection: SFTPConnection) throws(StoreError) {
        if !parent.isRoot, try store.find(parent, connection)?.kind == .directory { return }
        try store.makeDirectory(parent, connection)
    }

    private func makeLink(_ place: StorePath, _ there: SFTPPending, _ connection: SFTPConnection) throws(StoreError) {
        let target = try target()
        guard !target.isEmpty, !target.contains(0) else {
            throw StoreError(.invalidArgument, "the target of the link '\(path)' is not legal", path: path)
        }
        // One that is there is from an attempt that was not heard of.
        _ = try connection.submit(.remove(store.bytes(place))).answer()
        let made = connection.submit(.makeLink(to: target, at: store.bytes(place)))
        try check(store.attributesIfThere(there, path))
        try store.done(made, "making the link", path)
        let found = try store.attributes(connection.submit(.linkStatus(store.bytes(place))), "asking for", path)
        try store.change(options.attributes, found, at: place, connection)
        let after = try store.attributes(connection.submit(.linkStatus(store.bytes(place))), "asking for", path)
        guard after.kind == .symbolicLink else { throw SFTPStore.senseless("making the link", path) }
        sent.add(body.length - acknowledged)
        acknowledged = body.length
        finished = after
    }

    /// - Returns: The requests that follow the last bytes.
    private func write(to handle: SFTP.Handle, _ connection: SFTPConnection, _ attempt: SFTPAttempt)
        throws(StoreError) -> Finishing
    {
        var start: Int64 = 0
        var finishing: Finishing?
        for segment in body.segments {
            defer { start += segment.length }
            let end = start + segment.length
            guard acknowledged < end else { continue }
            let rest = max(acknowledged, start)..<end
            if case .stored(let source, let version, let range) = segment {
                let part = (range.lowerBound + rest.lowerBound - start)..<range.upperBound
                try copy(part, of: source, version, to: handle, at: rest.lowerBound, connection, attempt)
                acknowledged = end
                continue
            }
            if segment.length >= Self.smallestInParts, store.configuration.sessions > 1 {
                try writeInParts(segment, from: start, attempt)
                acknowledged = end
                continue
            }
            var transfer = SFTPTransfer(store.pool, connection, attempt)
            try transfer.write(
                rest, to: handle, path, store, isWanted: options.isWanted,
                fill: { offset, count throws(StoreError) in try segment.bytes(offset - start, count) },
                whenSent: { () throws(StoreError) in
                    // A request is carried out after those that were sent before it: nobody has to wait in between.
                    if end == body.length { finishing = try beginToFinish(handle, connection) }
                },
                acknowledge: { end throws(StoreError) in
                    sent.add(end - acknowledged)
                    acknowledged = end
                    try checkIsWanted()
                })
        }
        if let finishing { return finishing }
        return try beginToFinish(handle, connection)
    }

    /// A segment of so many bytes goes over several connections: servers take 2 MB ahead on each (OpenSSH does), which is
    /// less than a fast line holds, and one processor encrypts each.
    private static let smallestInParts: Int64 = 16 << 20
    private static let partSize: Int64 = 4 << 20

    /// Which parts of a segment are there; kept when a connection is lost.
    private final class Parts: Sendable {
        let first: Int64
        private let done = Lock<Set<Int64>>([])

        init(from first: Int64) { self.first = first }

        func contains(_ start: Int64) -> Bool { done.withLock { $0.contains(start) } }
        func insert(_ start: Int64) { _ = done.withLock { $0.insert(start) } }
        var count: Int { done.withLock { $0.count } }
    }

    /// Sends a segment over several connections at once.
    private func writeInParts(
        _ segment: UploadBody.Segment, from start: Int64, _ attempt: SFTPAttempt
    ) throws(StoreError) {
        let parts = parts.flatMap { $0.first == start ? $0 : nil } ?? Parts(from: start)
        self.parts = parts
        let end = start + segment.length
        let starts = Array(stride(from: start, to: end, by: Int64.Stride(Self.partSize)))
        let before = parts.count
        defer { attempt.note(moved: (parts.count - before) * Int(Self.partSize)) }
        let (store, path, options, sent, place) = (store, path, options, sent, store.bytes(temporary!))
        try store.parallel.run(starts.count, parallel: store.configuration.sessions) { index throws(StoreError) in
            let first = starts[index]
            if parts.contains(first) { return }
            try store.pool.withConnection(isBulk: true, isWanted: options.isWanted) { connection throws(StoreError) in
                let handle = try store.handle(connection.submit(.open(place, .write)), "writing", path)
                defer { _ = connection.submit(.close(handle)) }
                var transfer = SFTPTransfer(store.pool, connection, SFTPAttempt())
                try transfer.write(
                    first..<min(first + Self.partSize, end), to: handle, path, store, isWanted: options.isWanted,
                    fill: { offset, count throws(StoreError) in try segment.bytes(offset - start, count) },
                    whenSent: {},
                    acknowledge: { _ throws(StoreError) in try options.requireWanted(path) })
            }
            parts.insert(first)
            sent.add(min(Self.partSize, end - first))
        }
    }

    /// The bytes of a body that is short.
    private func target() throws(StoreError) -> [UInt8] {
        guard body.length < 4096 else { return [] }
        var all: [UInt8] = []
        for segment in body.segments { all += try segment.bytes(0, Int(segment.length)) }
        return all
    }

    /// Takes a range of a file of the store, by the server itself where it does that.
    private func copy(
        _ range: Range<Int64>, of source: StorePath, _ version: Version?, to handle: SFTP.Handle, at position: Int64,
        _ connection: SFTPConnection, _ attempt: SFTPAttempt
    ) throws(StoreError) {
        let before = try store.attributes(connection.submit(.linkStatus(store.bytes(source))), "copying", source)
        guard before.kind == .file else { throw StoreError(.isADirectory, "'\(source)' is no file", path: source) }
        try store.check(version, before, source)
        guard range.lowerBound >= 0, range.upperBound <= Int64(clamping: before.size ?? 0) else {
            throw StoreError(.invalidArgument, "'\(source)' ends before \(range.upperBound)", path: source)
        }
        let from = try store.handle(connection.submit(.open(store.bytes(source), .read)), "copying", source)
        defer { _ = connection.submit(.close(from)) }
        if connection.extensions.contains(.copyData) {
            // In pieces, so that a copy can be ended.
            var done: Int64 = 0
            while done < Int64(range.count) {
                try checkIsWanted()
                let count = min(Int64(range.count) - done, 64 << 20)
                let copying = connection.submit(
                    .copy(
                        from, at: UInt64(range.lowerBound + done), count: UInt64(count), to: handle,
                        at: UInt64(position + done)))
                do throws(StoreError) { try store.done(copying, "copying", source) } catch {
                    throw store.explained(error, connection, isWriting: true)
                }
                done += count
                attempt.note(moved: Int(count))
            }
        } else {
            try relay(range, from: from, source, to: handle, at: position, connection, attempt)
        }
        let after = try store.attributes(connection.submit(.status(from)), "copying", source)
        guard store.version(after) == store.version(before) else {
            throw StoreError(.preconditionFailed, "'\(source)' was changed while it was copied", path: source)
        }
    }

    /// Fetches the range and sends it, a piece at a time.
    private func relay(
        _ range: Range<Int64>, from: SFTP.Handle, _ source: StorePath, to handle: SFTP.Handle, at position: Int64,
        _ connection: SFTPConnection, _ attempt: SFTPAttempt
    ) throws(StoreError) {
        var start = range.lowerBound
        while start < range.upperBound {
            try checkIsWanted()
            let end = min(start + (4 << 20), range.upperBound)
            var piece: [UInt8] = []
            var reading = SFTPTransfer(store.pool, connection, attempt)
            guard
                try reading.read(
                    start..<end, of: from, source, store,
                    { bytes, _ throws(StoreError) in piece.append(contentsOf: bytes) }) != nil
            else { throw StoreError(.preconditionFailed, "'\(source)' was changed while it was copied", path: source) }
            let shift = position - range.lowerBound
            var writing = SFTPTransfer(store.pool, connection, attempt)
            try writing.write(
                (start + shift)..<(end + shift), to: handle, path, store, isWanted: options.isWanted,
                fill: { offset, count throws(StoreError) in
                    let first = Int(offset - start - shift)
                    return Array(piece[first..<(first + count)])
                }, whenSent: {}, acknowledge: { _ throws(StoreError) in })
            start = end
        }
    }

    /// What gives a file its attributes and makes it durable, on its way.
    private struct Finishing {
        var owner: SFTPPending?
        var rest: SFTPPending?
        var synced: SFTPPending?
        var result: SFTPPending
        /// What the file is going to replace.
        var there: SFTPPending
        var directory: SFTPPending?
    }

    private func beginToFinish(_ handle: SFTP.Handle, _ connection: SFTPConnection) throws(StoreError) -> Finishing {
        var attributes = options.attributes
        attributes.mode = attributes.mode ?? 0o644
        var made = SFTPAttributes(permissions: 0o100600)
        // The protocol has owner and group, and both times, in one.
        if (attributes.uid == nil) != (attributes.gid == nil)
            || (attributes.accessed == nil) != (attributes.modified == nil)
        {
            made = try store.attributes(connection.submit(.status(handle)), "asking for", path)
        }
        let changes = SFTPStore.Changes(attributes, made)
        let mustSync = store.configuration.fsync && connection.extensions.contains(.fsync)
        return Finishing(
            owner: changes.owner.map { connection.submit(.set($0, of: handle)) },
            rest: changes.rest.map { connection.submit(.set($0, of: handle)) },
            synced: mustSync ? connection.submit(.sync(handle)) : nil, result: connection.submit(.status(handle)),
            there: connection.submit(.linkStatus(store.bytes(path))),
            directory: mustSync ? connection.submit(.open(store.bytes(parent), .read)) : nil)
    }

    /// Waits until the file has its attributes and is durable.
    private func finish(_ finishing: Finishing, _ handle: SFTP.Handle, _ connection: SFTPConnection) throws(StoreError)
    {
        if case .handle(let opened) = try finishing.directory?.answer() { directory = (connection, opened) }
        if let owner = finishing.owner, case .status(let status, let message) = try owner.answer(), status != .ok,
            status != .permissionDenied
        {
            throw store.failure(status, message, "changing the owner of", path)
        }
        if let rest = finishing.rest { try store.done(rest, "changing the attributes of", path) }
        if let synced = finishing.synced {
            do throws(StoreError) { try store.done(synced, "writing through", path) } catch {
                throw store.explained(error, connection, isWriting: true)
            }
        }
        let made = try store.attributes(finishing.result, "asking for", path)
        guard made.size.map({ Int64(clamping: $0) }) == body.length else {
            throw StoreError(
                .corrupted, "'\(path)' has \(made.size ?? 0) bytes after \(body.length) were sent", path: path)
        }
        let there = try store.attributesIfThere(finishing.there, path)
        try check(there)
        finished = try distinguish(made, from: there, handle, connection)
    }

    /// Gives the file another time where it would be taken for the one that it replaces.
    private func distinguish(
        _ new: SFTPAttributes, from old: SFTPAttributes?, _ handle: SFTP.Handle, _ connection: SFTPConnection
    ) throws(StoreError) -> SFTPAttributes {
        guard let old, old.kind == .file, old.size == new.size, new.size != 0, let before = old.times?.modified,
            let times = new.times, times.modified <= before, before < UInt32.max
        else { return new }
        // Old times that somebody gives to a file are kept, but for the very same one.
        let isOfNow = options.attributes.modified.map { abs($0.seconds - store.clock.calendar.seconds) < 3600 } ?? true
        guard times.modified == before || (isOfNow && before - times.modified < 3600) else { return new }
        if times.modified == before, try isSame(handle, connection, size: Int64(clamping: new.size ?? 0)) { return new }
        let later = SFTPAttributes.Times(accessed: times.accessed, modified: before + 1)
        try store.done(
            connection.submit(.set(SFTPAttributes(times: later), of: handle)), "changing the time of", path)
        return try store.attributes(connection.submit(.status(handle)), "asking for", path)
    }

    /// Whether the file that is there has the same bytes; large ones are taken for different.
    private func isSame(_ handle: SFTP.Handle, _ connection: SFTPConnection, size: Int64) throws(StoreError) -> Bool {
        guard size <= 1 << 20,
            case .handle(let other) = try connection.submit(.open(store.bytes(path), .read)).answer()
        else { return false }
        defer { _ = connection.submit(.close(other)) }
        var contents: [[UInt8]] = []
        for file in [handle, other] {
            var transfer = SFTPTransfer(store.pool, connection, SFTPAttempt())
            var bytes: [UInt8] = []
            guard
                try transfer.read(
                    0..<size, of: file, path, store, { piece, _ throws(StoreError) in bytes.append(contentsOf: piece) })
                    != nil
            else { return false }
            contents.append(bytes)
        }
        return contents[0] == contents[1]
    }

    // MARK: The name

    /// Gives the file its name.
    private func commit(_ connection: SFTPConnection) throws(StoreError) -> Metadata {
        guard let temporary, let finished else { throw StoreError(.internal, "'\(path)' was not written", path: path) }
        try checkIsWanted()
        for _ in 1...SFTPStore.attempts {
            do throws(StoreError) {
                switch options.condition {
                case .always: try rename(temporary, connection)
                case .ifAbsent: try create(temporary, connection)
                case .ifVersion:
                    if try !isNamedAlready(temporary, connection) { try check(store.find(path, connection)) }
                    try rename(temporary, connection)
                }
                return store.metadata(finished)
            } catch {
                guard error.code == .notFound else { throw error }
                if try isNamedAlready(temporary, connection) {
                    try store.syncDirectory(parent, connection)
                    self.temporary = nil
                    return store.metadata(finished)
                }
                try makeParent(connection)
            }
        }
        abandon(connection)
        throw StoreError(
            .unavailable, "'\(path)' cannot be named: others remove what is above it, or the file while it is written",
            path: path)
    }

    /// Whether a renaming of which nothing was heard was done.
    private func isNamedAlready(_ temporary: StorePath, _ connection: SFTPConnection) throws(StoreError) -> Bool {
        guard mayBeNamed else { return false }
        return try store.find(temporary, connection) == nil
    }

    /// Waits for what gives the file its name, and writes the directory through.
    private func give(_ request: SFTPRequest, _ connection: SFTPConnection) throws(StoreError) {
        let naming = connection.submit(request)
        let synced = directory.map { $0.connection.submit(.sync($0.handle)) }
        do throws(StoreError) {
            try store.done(naming, "giving its name to", path)
            if let synced { _ = try synced.answer() } else { try store.syncDirectory(parent, connection) }
        } catch {
            if !Self.isDefinite(error) { mayBeNamed = true }
            throw error
        }
    }

    private func rename(_ temporary: StorePath, _ connection: SFTPConnection) throws(StoreError) {
        do throws(StoreError) {
            try give(.rename(store.bytes(temporary), to: store.bytes(path)), connection)
            self.temporary = nil
        } catch {
            guard Self.isDefinite(error), try store.find(path, connection)?.kind == .directory else { throw error }
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
    }

    private func create(_ temporary: StorePath, _ connection: SFTPConnection) throws(StoreError) {
        guard try store.traits(connection).features.contains(.conditionalCreate) else {
            if try !isNamedAlready(temporary, connection) { try check(store.find(path, connection)) }
            return try rename(temporary, connection)
        }
        do throws(StoreError) {
            try give(.link(store.bytes(temporary), to: store.bytes(path)), connection)
        } catch {
            guard error.code == .unavailable, error.cause == Self.plainFailure else { throw error }
            guard let there = try store.find(path, connection) else { throw error }
            guard mayBeNamed, try isSameFile(temporary, connection) else {
                try check(there)
                throw error
            }
        }
        mayBeNamed = true
        // The other name is gone with this one.
        try store.done(connection.submit(.remove(store.bytes(temporary))), "giving its name to", path)
        self.temporary = nil
    }

    /// Whether the temporary and the final name are those of one file.
    private func isSameFile(_ temporary: StorePath, _ connection: SFTPConnection) throws(StoreError) -> Bool {
        guard let finished, let times = finished.times else { return false }
        let mark = SFTPAttributes.Times(accessed: UInt32.random(in: 1...UInt32.max), modified: times.modified)
        try store.done(
            connection.submit(.set(SFTPAttributes(times: mark), at: store.bytes(temporary))), "marking", path)
        let isSame = try store.find(path, connection)?.times == mark
        try store.done(
            connection.submit(.set(SFTPAttributes(times: times), at: store.bytes(temporary))), "marking", path)
        return isSame
    }
}

/// What whoever waits for an upload was told of its progress.
private final class SentCount: Sendable {
    private let progress: (@Sendable (Int64) -> Void)?
    private let sum = Lock<Int64>(0)

    init(_ progress: (@Sendable (Int64) -> Void)?) { self.progress = progress }

    func add(_ amount: Int64) {
        sum.withLock { $0 += amount }
        progress?(amount)
    }

    /// All has to be sent again.
    func takeBack() {
        let amount = sum.withLock { sum in
            defer { sum = 0 }
            return sum
        }
        if amount > 0 { progress?(-amount) }
    }
}

extension UploadBody.Segment {
    /// So many bytes of a segment that is not on the store.
    fileprivate func bytes(_ offset: Int64, _ count: Int) throws(StoreError) -> [UInt8] {
        switch self {
        case .bytes(let bytes): return Array(bytes[Int(offset)..<(Int(offset) + count)])
        case .file(let descriptor, let start, _): return try readFile(descriptor, from: start + offset, Int64(count))
        case .stored: throw StoreError(.unsupported, "a link's target cannot be a part of a stored object")
        }
    }
}
