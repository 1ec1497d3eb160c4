import Glibc
package import StoreAPI
import Threading

extension LocalStore {
    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        let root = try root()
        guard let name = path.name, let parentPath = path.parent, options.kind != .directory else {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        try root.checkLength(path)
        try checkEarly(options.condition, at: path, root)
        if let temporary = root.temporary {
            do {
                let upload = try LocalUpload(body, of: path, options, in: temporary, Trial.name(), self, root)
                let parent = try root.openDirectory(parentPath, isMaking: true)
                return try commit(upload, to: name, in: parent, path, options, root)
            } catch {
                guard error.code == .unsupported, error.cause == "errno \(EXDEV)" else { throw error }
                // The directory is on another file system than the root, or a mount of its own: written there again.
                options.progress?(-body.lengthToSend)
            }
        }
        let parent = try root.openDirectory(parentPath, isMaking: true)
        let temporaryName = String(decoding: LocalRoot.temporaryPrefix, as: UTF8.self) + Trial.name()
        let upload = try LocalUpload(body, of: path, options, in: parent, temporaryName, self, root)
        return try commit(upload, to: name, in: parent, path, options, root)
    }

    /// Refuses at once what would be refused after the transfer.
    private func checkEarly(_ condition: WriteCondition, at path: StorePath, _ root: LocalRoot) throws(StoreError) {
        let parent: LocalFile
        do { parent = try root.openDirectory(path.parent ?? .root) } catch {
            guard error.code == .notFound else { throw error }
            try condition.check(nil, at: path)
            return
        }
        let status = LocalStatus(of: path.name!, in: parent.descriptor)
        if status == nil, errno != ENOENT { throw StoreError(errno: errno, "asking for", path) }
        if status?.kind == .directory { throw StoreError(.isADirectory, "'\(path)' is a directory", path: path) }
        try condition.check(status.flatMap(root.version), at: path)
    }

    /// Gives a finished upload its name.
    private func commit(
        _ upload: LocalUpload, to name: FileName, in parent: LocalFile, _ path: StorePath,
        _ options: PutOptions, _ root: LocalRoot
    ) throws(StoreError) -> Metadata {
        try checkIsOpen()
        try options.requireWanted(path)
        let directory = parent.descriptor
        try withCommitLock(forCondition: options.condition, root) { () throws(StoreError) in
            switch options.condition {
            case .always: try upload.rename(to: name, in: directory, path)
            case .ifAbsent: try upload.create(name, in: directory, path)
            case .ifVersion:
                let status = LocalStatus(of: name, in: directory)
                if status == nil, errno != ENOENT { throw StoreError(errno: errno, "asking for", path) }
                try options.condition.check(status.flatMap(root.version), at: path)
                try upload.rename(to: name, in: directory, path)
            }
        }
        try root.syncDirectory(directory, path)
        return try root.metadata(of: upload.file, path)
    }

    /// Runs `body` while no other thread replaces a name, and no other process does so on a condition.
    private func withCommitLock<Result>(
        forCondition condition: WriteCondition, _ root: LocalRoot, _ body: () throws(StoreError) -> Result
    ) throws(StoreError) -> Result {
        try commitLock.withLock { (_: inout Void) throws(StoreError) in
            guard case .ifVersion = condition, let lockFile = root.lockFile else { return try body() }
            while flock(lockFile.descriptor, LOCK_EX) != 0 {
                guard errno == EINTR else { throw StoreError(errno: errno, "locking", .root) }
            }
            defer { flock(lockFile.descriptor, LOCK_UN) }
            return try body()
        }
    }

    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        let root = try root()
        let (file, status) = try root.find(path)
        try check(version, status, path, root)
        try root.apply(attributes, to: file, path)
        if root.fsync {
            // What cannot be opened (a link, a fifo, a file that may not be read) is written through with all others.
            let isPlain = status.kind == .file || status.kind == .directory
            let open = isPlain ? file.reopened(O_RDONLY | O_NONBLOCK) : nil
            let done = if let open { Glibc.fsync(open.descriptor) } else { syncfs(root.descriptor) }
            guard done == 0 || errno == EINVAL else { throw StoreError(errno: errno, "writing through", path) }
        }
        return try root.metadata(of: file, path)
    }

    package func delete(_ deletions: [Deletion]) -> [StoreError?] {
        var parents: [StorePath: [Int]] = [:]
        var answers = [StoreError?](repeating: nil, count: deletions.count)
        for (index, deletion) in deletions.enumerated() {
            do throws(StoreError) {
                if try remove(deletion, root()) { parents[deletion.path.parent!, default: []].append(index) }
            } catch { answers[index] = error }
        }
        for (path, indices) in parents {
            do throws(StoreError) {
                let root = try root()
                let parent = try root.openDirectory(path)
                try root.syncDirectory(parent.descriptor, path)
            } catch {
                // The parent may have been deleted in the same call.
                if error.code == .notFound { continue }
                for index in indices { answers[index] = error }
            }
        }
        return answers
    }

    /// - Returns: Whether there was something to remove.
    private func remove(_ deletion: Deletion, _ root: LocalRoot) throws(StoreError) -> Bool {
        let path = deletion.path
        guard let name = path.name else {
            throw StoreError(.invalidArgument, "the root of a store cannot be deleted", path: path)
        }
        let parent: LocalFile
        do { parent = try root.openParent(of: path) } catch {
            guard error.code == .notFound else { throw error }
            return false
        }
        guard let version = deletion.version else { return try remove(name, path, from: parent) }
        return try withCommitLock(forCondition: .ifVersion(version), root) { () throws(StoreError) in
            guard let status = LocalStatus(of: name, in: parent.descriptor) else {
                guard errno == ENOENT else { throw StoreError(errno: errno, "asking for", path) }
                return false
            }
            try check(version, status, path, root)
            return try remove(name, path, from: parent)
        }
    }

    private func remove(_ name: FileName, _ path: StorePath, from parent: LocalFile) throws(StoreError) -> Bool {
        var result = name.withCString { unlinkat(parent.descriptor, $0, 0) }
        if result != 0, errno == EISDIR || errno == EPERM,
            LocalStatus(of: name, in: parent.descriptor)?.kind == .directory
        {
            result = name.withCString { unlinkat(parent.descriptor, $0, AT_REMOVEDIR) }
            if result != 0, errno == EEXIST { errno = ENOTEMPTY }
        }
        if result == 0 { return true }
        if errno == ENOENT { return false }
        throw StoreError(errno: errno, "deleting", path)
    }

    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        let root = try root()
        guard let sourceName = source.name, let name = destination.name, let parentPath = destination.parent else {
            throw StoreError(.invalidArgument, "the root of a store cannot be moved", path: source)
        }
        try root.checkLength(destination)
        let from = try root.openParent(of: source)
        guard let moved = LocalStatus(of: sourceName, in: from.descriptor) else {
            throw StoreError(errno: errno, "asking for", source)
        }
        if source == destination { return }
        let to = try root.openDirectory(parentPath, isMaking: true)
        try withCommitLock(forCondition: .always, root) { () throws(StoreError) in
            let replaced = LocalStatus(of: name, in: to.descriptor)
            if let replaced, replaced.inode == moved.inode, replaced.fileSystem == moved.fileSystem {
                // Two links to one file: rename(2) leaves both.
                let result = sourceName.withCString { unlinkat(from.descriptor, $0, 0) }
                guard result == 0 else { throw StoreError(errno: errno, "moving", source) }
                return
            }
            let result = sourceName.withCString { old in
                name.withCString { renameat(from.descriptor, old, to.descriptor, $0) }
            }
            if result != 0 {
                throw StoreError(errno: errno == EEXIST ? ENOTEMPTY : errno, "moving '\(source)' to", destination)
            }
        }
        try root.syncDirectory(to.descriptor, destination)
        if source.parent != destination.parent { try root.syncDirectory(from.descriptor, source) }
    }

    /// Gives a file another name, which must be free.
    ///
    /// - Throws: ``StoreError``: `.notFound`, `.alreadyExists`; `.isADirectory` or `.accessDenied` for a directory.
    package func link(_ file: StorePath, to name: StorePath) throws(StoreError) {
        let root = try root()
        guard let oldName = file.name, let newName = name.name, let parent = name.parent else {
            throw StoreError(.isADirectory, "the root of a store has no other names", path: file)
        }
        try root.checkLength(name)
        let from = try root.openParent(of: file)
        let to = try root.openDirectory(parent, isMaking: true)
        let result = oldName.withCString { old in
            newName.withCString { linkat(from.descriptor, old, to.descriptor, $0, 0) }
        }
        guard result == 0 else { throw StoreError(errno: errno, "linking '\(file)' to", name) }
        try root.syncDirectory(to.descriptor, name)
    }

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        let root = try root()
        for attempt in 1...Self.attempts {
            let (file, status) = try root.find(source)
            if status.kind == .directory { throw StoreError(.isADirectory, "'\(source)' is a directory", path: source) }
            try check(options.sourceVersion, status, source, root)
            let metadata = root.metadata(status, try root.extended(file.magicLink, status.kind, source))
            let body =
                switch status.kind {
                case .file:
                    UploadBody(
                        [.stored(path: source, version: metadata.version, range: 0..<status.size)]
                            as [UploadBody.Segment])
                case .symbolicLink: UploadBody(try readLink(file, source))
                default: UploadBody([] as [UInt8])
                }
            var attributes = options.attributes ?? metadata.attributes ?? Attributes()
            attributes.device = metadata.attributes?.device
            do throws(StoreError) {
                return try put(
                    body, at: destination,
                    PutOptions(condition: options.condition, kind: status.kind, attributes: attributes))
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

extension UploadBody {
    /// Without what is on the store already.
    var lengthToSend: Int64 {
        segments.reduce(0) {
            if case .stored = $1 { return $0 }
            return $0 + $1.length
        }
    }
}
