import Statistics
package import StoreAPI
import StoreSSH
import Threading

extension SFTPStore {
    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        let upload = try SFTPUpload(body, at: path, options, self)
        do throws(StoreError) {
            return try pool.attempt(.requestsPut, .storePut, isWanted: options.isWanted) {
                connection, attempt throws(StoreError) in
                try upload.run(connection, attempt)
            }
        } catch {
            // What cannot be removed soon is when it is a day old. A server that has refused something still answers.
            let patience = Duration.seconds(error.isTransient || error.code == .cancelled ? 1 : 10)
            pool.withConnectionIfThere { connection in
                let limit = MonotonicTime.now + patience
                _ = try? upload.abandon(connection)?.answer(isWanted: { .now < limit })
            }
            throw error
        }
    }

    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        try checkLength(path)
        let place = bytes(path)
        return try pool.attempt(.requestsPut, .storePut) { connection, attempt throws(StoreError) in
            let status: SFTPRequest = path.isRoot ? .status(place) : .linkStatus(place)
            let found = try self.attributes(connection.submit(status), "asking for", path)
            // An attempt of which nothing was heard may have made the new version.
            let isDone = attempt.number > 0 && attributes.modified.map(Self.seconds) == found.times?.modified
            if !isDone { try check(version, found, path) }
            try change(attributes, found, at: path, connection)
            return metadata(try self.attributes(connection.submit(status), "asking for", path))
        }
    }

    package func delete(_ deletions: [Deletion]) -> [StoreError?] {
        guard !deletions.isEmpty else { return [] }
        let paths = deletions.map(\.path)
        let progress = DeletionProgress(paths.count)
        do throws(StoreError) {
            try pool.attempt(.requestsDelete, .storeDelete) { connection, _ throws(StoreError) in
                try delete(paths, progress, connection)
            }
        } catch {
            for index in paths.indices where progress.answers[index] == nil {
                progress.answers[index] = .failure(error)
            }
        }
        return progress.answers.map { answer in
            if case .failure(let error) = answer { return error }
            return nil
        }
    }

    /// What has become of each path; kept when a connection is lost.
    private final class DeletionProgress {
        var answers: [Result<Bool, StoreError>?]
        init(_ count: Int) { answers = Array(repeating: nil, count: count) }
    }

    /// How many are asked for at once.
    private static let deletions = 256

    private func delete(_ paths: [StorePath], _ progress: DeletionProgress, _ connection: SFTPConnection)
        throws(StoreError)
    {
        var start = 0
        while start < paths.count {
            let batch = start..<min(start + Self.deletions, paths.count)
            start = batch.upperBound
            let open = batch.filter { progress.answers[$0] == nil }
            let pending = open.map { index in
                paths[index].isRoot ? nil : connection.submit(.remove(bytes(paths[index])))
            }
            for (index, request) in zip(open, pending) {
                progress.answers[index] = try answer(request, paths[index], connection)
            }
        }
        let parents = Set(
            paths.indices.filter {
                if case .success(true) = progress.answers[$0] { return true }
                return false
            }.compactMap { paths[$0].parent })
        for parent in parents { try syncDirectory(parent, connection) }
    }

    /// - Returns: Whether there was something to be deleted; why it was not.
    private func answer(_ request: SFTPPending?, _ path: StorePath, _ connection: SFTPConnection) throws(StoreError)
        -> Result<Bool, StoreError>
    {
        guard let request else {
            return .failure(StoreError(.invalidArgument, "the root of a store cannot be deleted", path: path))
        }
        guard path.bytes.count <= Self.longestPath - configuration.root.count - 1 else { return .success(false) }
        guard case .status(let status, let message) = try request.answer() else {
            throw Self.senseless("deleting", path)
        }
        switch status {
        case .ok: return .success(true)
        case .noSuchFile: return .success(false)
        default: break
        }
        // Neither is a directory removed as a file is, nor does OpenSSH say so.
        let failure = failure(status, message, "deleting", path)
        guard let there = try find(path, connection) else { return .success(false) }
        guard there.kind == .directory else { return .failure(explained(failure, connection)) }
        guard case .status(let removed, let reason) = try connection.submit(.removeDirectory(bytes(path))).answer()
        else {
            throw Self.senseless("deleting", path)
        }
        switch removed {
        case .ok: return .success(true)
        case .noSuchFile: return .success(false)
        case .failure where try !isEmpty(path, connection):
            return .failure(StoreError(.directoryNotEmpty, "the directory '\(path)' is not empty", path: path))
        default: return .failure(explained(self.failure(removed, reason, "deleting", path), connection))
        }
    }

    private func isEmpty(_ directory: StorePath, _ connection: SFTPConnection) throws(StoreError) -> Bool {
        var isEmpty = true
        try forEachName(in: directory, connection) { _, _ throws(StoreError) in isEmpty = false }
        return isEmpty
    }

    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        guard !source.isRoot, !destination.isRoot else {
            throw StoreError(.invalidArgument, "the root of a store cannot be moved", path: source)
        }
        try checkLength(destination)
        let progress = MoveProgress()
        try pool.attempt(.requestsCopy, .storeCopy) { connection, _ throws(StoreError) in
            try move(source, to: destination, connection, progress)
        }
    }

    /// What was seen of the source before it was moved.
    private final class MoveProgress {
        var source: SFTPAttributes?
        var mayBeMoved = false
    }

    private func move(
        _ source: StorePath, to destination: StorePath, _ connection: SFTPConnection, _ progress: MoveProgress
    ) throws(StoreError) {
        guard connection.extensions.contains(.posixRename) else {
            throw StoreError(.unsupported, "the SFTP server cannot replace a file in one step", path: source)
        }
        guard let moved = try find(source, connection) else {
            // An attempt of which nothing was heard may have done it.
            if progress.mayBeMoved, let there = try find(destination, connection), isSame(there, progress.source) {
                return try syncDirectories(source, destination, connection)
            }
            throw StoreError(.notFound, "there is no '\(source)' in the store", path: source)
        }
        if source == destination { return }
        if moved.kind == .directory, destination.isInside(source) {
            throw StoreError(.invalidArgument, "'\(source)' cannot be moved into itself", path: destination)
        }
        progress.source = moved
        for _ in 1...Self.attempts {
            let renaming = connection.submit(.rename(bytes(source), to: bytes(destination)))
            progress.mayBeMoved = true
            let failure: StoreError
            do throws(StoreError) {
                try done(renaming, "moving '\(source)' to", destination)
                try removeOtherName(source, destination, connection)
                return try syncDirectories(source, destination, connection)
            } catch {
                failure = error
            }
            guard failure.code == .notFound else {
                throw try reason(failure, moved, at: destination, connection)
            }
            guard try find(source, connection) != nil else {
                throw StoreError(.notFound, "there is no '\(source)' in the store", path: source)
            }
            // OpenSSH says so too of a directory that is to replace a file.
            if try find(destination, connection) != nil {
                throw try reason(failure, moved, at: destination, connection)
            }
            try makeDirectory(destination.parent!, connection)
        }
        throw StoreError(
            .unavailable, "'\(source)' cannot be moved: others remove what is above its place", path: source)
    }

    private func isSame(_ a: SFTPAttributes, _ b: SFTPAttributes?) -> Bool {
        guard let b else { return false }
        return a.kind == b.kind
            && (a.kind == .directory || (a.size == b.size && a.times?.modified == b.times?.modified))
    }

    /// Two names of one file: rename(2) leaves both.
    private func removeOtherName(_ source: StorePath, _ destination: StorePath, _ connection: SFTPConnection)
        throws(StoreError)
    {
        guard let left = try find(source, connection), left.kind != .directory,
            left == (try find(destination, connection))
        else { return }
        try done(connection.submit(.remove(bytes(source))), "moving", source)
    }

    private func syncDirectories(_ source: StorePath, _ destination: StorePath, _ connection: SFTPConnection)
        throws(StoreError)
    {
        for parent in Set([source.parent!, destination.parent!]) { try syncDirectory(parent, connection) }
    }

    /// Why something cannot be renamed, which the server has not said.
    private func reason(
        _ failure: StoreError, _ moved: SFTPAttributes, at destination: StorePath, _ connection: SFTPConnection
    ) throws(StoreError) -> StoreError {
        guard [.unavailable, .notFound].contains(failure.code), let there = try find(destination, connection) else {
            return explained(failure, connection)
        }
        switch (moved.kind == .directory, there.kind == .directory) {
        case (false, true): return StoreError(.isADirectory, "'\(destination)' is a directory", path: destination)
        case (true, false): return StoreError(.notADirectory, "'\(destination)' is no directory", path: destination)
        case (true, true) where try !isEmpty(destination, connection):
            return StoreError(.directoryNotEmpty, "the directory '\(destination)' is not empty", path: destination)
        default: return explained(failure, connection)
        }
    }

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        for attempt in 1...Self.attempts {
            let found = try metadata(of: source)
            if found.kind == .directory { throw StoreError(.isADirectory, "'\(source)' is a directory", path: source) }
            if let version = options.sourceVersion, version != found.version {
                throw StoreError.changed(source, version.text)
            }
            let body: UploadBody
            if found.kind == .symbolicLink {
                body = UploadBody(
                    try pool.attempt(.requestsGet, .storeGet) { connection, _ throws(StoreError) in
                        try readLink(source, connection)
                    })
            } else {
                body = UploadBody(
                    [.stored(path: source, version: found.version, range: 0..<found.size)] as [UploadBody.Segment])
            }
            do throws(StoreError) {
                return try put(
                    body, at: destination,
                    PutOptions(
                        condition: options.condition, kind: found.kind,
                        attributes: options.attributes ?? found.attributes ?? Attributes()))
            } catch {
                // Somebody replaced the source in the meantime: that one is copied, unless just this was meant.
                let isSource = error.code == .preconditionFailed && error.path == source && source != destination
                guard isSource, options.sourceVersion == nil, attempt < Self.attempts else { throw error }
            }
        }
        throw StoreError(
            .unavailable, "'\(source)' is being changed, again and again, while it is copied", path: source)
    }
}
