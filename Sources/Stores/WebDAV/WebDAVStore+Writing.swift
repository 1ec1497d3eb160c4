import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension WebDAVStore {
    static let temporary = StorePath(".cloudfusion/tmp")!

    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        if path.isRoot { throw Self.isADirectory(path) }
        try options.requireWanted(path)
        return try under(options.condition, path, length: body.length) { () throws(StoreError) in
            try write(body, at: path, options)
        }
    }

    /// Does something only if a condition holds; where the server has locks, with others kept from changing that.
    private func under(
        _ condition: WriteCondition, _ path: StorePath, length: Int64, _ body: () throws(StoreError) -> Metadata
    ) throws(StoreError) -> Metadata {
        func checked() throws(StoreError) -> Metadata {
            switch condition {
            case .always: break
            case .ifAbsent:
                if let there = try find(path) {
                    if there.kind == .directory { throw Self.isADirectory(path) }
                    throw condition.failure(path)
                }
            case .ifVersion(let version):
                guard let there = try find(path), there.version == version else {
                    throw condition.failure(path)
                }
            }
            return try body()
        }
        guard condition != .always, traits.locks else { return try checked() }
        return try withLock(of: path, length: length, checked)
    }

    private func write(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        let inParts = traits.uploads != nil && body.length >= Self.multipartThreshold
        // What is no plain file is to show up as what it is at once.
        guard traits.putsWhole, options.kind == .file else {
            let staged = Self.temporary.appending(FileName(Trial.name())!)
            do throws(StoreError) {
                try send(body, to: staged, options)
                let written = try describe(staged, body.length, options.kind, options.attributes, as: path)
                try options.requireWanted(path)
                try place(staged, at: path, body.length)
                if traits.keepsTags { return written }
                return try describe(path, body.length, options.kind, options.attributes, as: path)
            } catch {
                // Leftovers are swept by a later connect(); the error that led here is the one that counts.
                remove(staged)
                throw error
            }
        }
        if inParts {
            try sendInParts(body, to: path, options)
        } else {
            try send(body, to: path, options)
        }
        return try describe(path, body.length, options.kind, options.attributes, as: path)
    }

    private func remove(_ path: StorePath) {
        var call = WebDAVCall(
            "DELETE", path, .requestsDelete, .storeDelete, action: "a temporary file could not be deleted")
        call.accepted = [404]
        _ = try? send(call)
    }

    // MARK: PUT

    /// Sends bytes to a path by one PUT; makes its directories if they are missing.
    func send(_ body: UploadBody, to path: StorePath, _ options: PutOptions) throws(StoreError) {
        var call = WebDAVCall("PUT", path, .requestsPut, .storePut, action: "'\(path)' could not be written")
        call.body = body
        call.isWanted = options.isWanted
        call.headers = try transferHeaders(body, options.attributes)
        let sent = Lock<Int64>(0)
        if let progress = options.progress {
            call.progress = { amount in
                sent.withLock { $0 += amount }
                progress(amount)
            }
        }
        do throws(StoreError) {
            _ = try send(call)
        } catch {
            guard try isRepairable(error, path) else { throw error }
            let again = sent.withLock { $0 }
            if again != 0 { options.progress?(-again) }
            call.progress = options.progress
            _ = try send(call)
        }
    }

    /// What servers of ownCloud's kind take along with the bytes: a digest that they check, and the file's own time.
    func transferHeaders(_ body: UploadBody, _ attributes: Attributes) throws(StoreError)
        -> [(name: String, value: String)]
    {
        var headers = [(name: "Content-Type", value: "application/octet-stream")]
        if traits.checksums { headers.append(("OC-Checksum", "MD5:" + TextEncoding.hex(try Digest.md5(body)))) }
        if traits.takesTimes, let time = attributes.modified, time.seconds > 0 {
            headers.append(("X-OC-Mtime", String(time.seconds)))
        }
        return headers
    }

    /// Whether directories were missing, which are there now, by this call or by another at the same time.
    ///
    /// - Throws: ``StoreError``: what is in the way, where that is why the server refused.
    func isRepairable(_ error: StoreError, _ path: StorePath) throws(StoreError) -> Bool {
        switch error.code {
        case .notFound, .accessDenied, .invalidArgument, .unsupported, .unavailable: break
        default: return false
        }
        if try find(path)?.kind == .directory { throw Self.isADirectory(path) }
        guard let parent = path.parent, !parent.isRoot else { return false }
        if let there = try find(parent) {
            if there.kind != .directory { throw Self.notADirectory(parent) }
            // rclone calls it forbidden when it was missing.
            return error.code == .notFound || error.code == .accessDenied
        }
        try makeDirectory(parent)
        return true
    }

    /// Makes sure that what was sent is there, and gives it its attributes.
    ///
    /// - Parameter target: Where it is to be in the end.
    func describe(
        _ path: StorePath, _ length: Int64, _ kind: FileKind, _ attributes: Attributes, as target: StorePath
    ) throws(StoreError) -> Metadata {
        guard var written = try find(path), written.kind != .directory, written.size == length else {
            throw StoreError(
                .corrupted, "'\(target)' was written, but is not on the server as it was sent", path: target)
        }
        written.kind = .file
        written.attributes = Attributes()
        guard traits.keepsProperties else { return written }
        let described = try setProperty(kind, attributes, tag: written.version?.text, at: path)
        written.kind = kind
        written.attributes = described
        return written
    }

    /// - Returns: The attributes that were kept.
    private func setProperty(_ kind: FileKind, _ attributes: Attributes, tag: String?, at path: StorePath)
        throws(StoreError) -> Attributes
    {
        /// - Returns: Whether extended attributes were among them, or would have been.
        func attempt(keepsExtended: Bool) throws(StoreError) -> Bool {
            var call = WebDAVCall(
                "PROPPATCH", path, isCollection: kind == .directory,
                action: "the attributes of '\(path)' could not be written")
            call.headers = [("Content-Type", "application/xml; charset=utf-8")]
            let encoded = WebDAVAttributes.encode(kind, attributes, tag: tag, keepsExtended: keepsExtended)
            call.body = UploadBody(WebDAVAttributes.update(encoded.text))
            let response = try send(call)
            if let status = try WebDAVMultistatus(response.body).failures.first {
                throw StoreError(
                    HTTPResponse(status: status).errorCode ?? .internal, "\(call.action): status \(status)",
                    path: path, cause: response.summary)
            }
            return encoded.keepsExtended
        }
        var kept = attributes
        do throws(StoreError) {
            if try !attempt(keepsExtended: true) { kept.extended = nil }
            return kept
        } catch {
            guard Self.isRefused(error) else { throw error }
        }
        // Some keep only short properties (Apache: 1 KB): those of POSIX come before those of programs.
        kept.extended = nil
        do throws(StoreError) {
            _ = try attempt(keepsExtended: false)
            return kept
        } catch {
            // Apache keeps none for names above 250 bytes. What is no plain file would be lost without.
            guard Self.isRefused(error), kind == .file || kind == .directory else { throw error }
            return Attributes()
        }
    }

    /// Whether the server has answered that it does not take a property.
    private static func isRefused(_ error: StoreError) -> Bool {
        switch error.code {
        case .accessDenied, .invalidArgument, .unsupported, .unavailable, .quotaExceeded, .tooLarge: true
        default: false
        }
    }

    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        var metadata = try metadata(of: path)
        guard version == nil || version == metadata.version else { throw StoreError.changed(path, version?.text) }
        guard traits.keepsProperties else {
            throw StoreError(.unsupported, "this server keeps no attributes of files ('\(path)')", path: path)
        }
        let merged = (metadata.attributes ?? Attributes()).merging(attributes)
        metadata.attributes = try setProperty(metadata.kind, merged, tag: metadata.version?.text, at: path)
        return metadata
    }

    // MARK: Directories

    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        if !path.isRoot { try makeDirectory(path) }
        guard traits.keepsProperties, attributes != Attributes() else { return }
        let known = try metadata(of: path).attributes ?? Attributes()
        let merged = known.merging(attributes)
        if merged != known { _ = try setProperty(.directory, merged, tag: nil, at: path) }
    }

    /// Makes a directory and those above it that are missing.
    func makeDirectory(_ path: StorePath) throws(StoreError) {
        var call = WebDAVCall(
            "MKCOL", path, isCollection: true, action: "the directory '\(path)' could not be made")
        call.accepted = [301, 405]
        do throws(StoreError) {
            let response = try send(call)
            if (200..<300).contains(response.status) { return }
        } catch {
            switch error.code {
            case .notFound, .accessDenied, .invalidArgument, .unavailable: break
            default: throw error
            }
            // A parent is missing, or no directory, or another fault is to be told.
            if let there = try find(path) {
                if there.kind != .directory { throw Self.notADirectory(path) }
                return
            }
            guard let parent = path.parent, !parent.isRoot else { throw error }
            if let above = try find(parent) {
                if above.kind != .directory { throw Self.notADirectory(parent) }
                // It may have been made meanwhile, by others that needed it too.
            } else {
                try makeDirectory(parent)
            }
            for attempt in 1... {
                do throws(StoreError) {
                    let response = try send(call)
                    if (200..<300).contains(response.status) { return }
                    break
                } catch {
                    // Apache calls it forbidden to make what others have made just now.
                    if try find(path)?.kind == .directory { return }
                    // rclone has it locked for as long as others make something in the same directory.
                    guard error.code == .unavailable, attempt < Self.mostAttempts,
                        pausing.pause(for: .milliseconds(Int64.random(in: 5...50)))
                    else { throw error }
                }
            }
        }
        guard try find(path)?.kind == .directory else { throw Self.notADirectory(path) }
    }

    // MARK: COPY and MOVE

    private func transfer(
        _ method: String, _ source: StorePath, to destination: StorePath, isCollection: Bool = false, overwrites: Bool,
        accepted: Set<Int> = []
    ) throws(StoreError) -> HTTPResponse {
        var call = WebDAVCall(
            method, source, isCollection: isCollection, .requestsCopy, .storeCopy,
            action: "'\(source)' could not be \(method == "MOVE" ? "moved" : "copied") to '\(destination)'")
        guard destination.bytes.count <= Self.longestPath else {
            throw StoreError(.invalidName, "the path '\(destination)' is too long for WebDAV", path: destination)
        }
        guard traits.keepsMarks || !destination.bytes.contains(where: { "?#;".utf8.contains($0) }) else {
            throw StoreError(
                .invalidName, "this server cannot have the name '\(destination)': it cuts names at '?', '#' or ';'",
                path: destination)
        }
        call.headers = [
            ("Destination", url(destination, isCollection: isCollection).description),
            ("Overwrite", overwrites ? "T" : "F"),
        ]
        call.accepted = accepted.union([500])
        let response = try send(call)
        guard response.status == 500 else { return response }
        // What Apache answers when the directory for it is missing. As a fault of the server it would be asked again and
        // again for a minute.
        if let parent = destination.parent, !parent.isRoot, try find(parent) == nil { try makeDirectory(parent) }
        call.accepted = accepted
        return try send(call)
    }

    /// Moves what was written to its place, whatever file is there.
    private func place(_ staged: StorePath, at path: StorePath, _ length: Int64) throws(StoreError) {
        var isRepaired = false
        for _ in 0..<Self.mostAttempts {
            let there = try find(path)
            if there?.kind == .directory { throw Self.isADirectory(path) }
            do throws(StoreError) {
                let response = try transfer("MOVE", staged, to: path, overwrites: there != nil, accepted: [404, 412])
                switch response.status {
                // Others have made or replaced it just now.
                case 412: continue
                case 404:
                    // An earlier attempt whose answer was lost may have done it.
                    if try find(staged) == nil, let moved = try find(path), moved.size == length { return }
                    if there != nil { continue }
                    throw StoreError(.notFound, "'\(path)' could not be put into its place", path: path)
                default: return
                }
            } catch {
                if error.isTransient, try find(staged) != nil, there != nil { continue }
                guard !isRepaired, try isRepairable(error, path) else { throw error }
                isRepaired = true
            }
        }
        throw StoreError(
            .unavailable, "'\(path)' could not be put into its place: others write it all the time", path: path)
    }

    private static let mostAttempts = 20

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        guard capabilities.contains(.serverSideCopy) else {
            throw StoreError(.unsupported, "this server cannot copy files ('\(source)')", path: source)
        }
        let before = try metadata(of: source)
        if before.kind == .directory { throw Self.isADirectory(source) }
        guard options.sourceVersion == nil || options.sourceVersion == before.version else {
            throw StoreError.changed(source, options.sourceVersion?.text)
        }
        return try under(options.condition, destination, length: before.size) { () throws(StoreError) in
            if try find(destination)?.kind == .directory { throw Self.isADirectory(destination) }
            do throws(StoreError) {
                _ = try transfer("COPY", source, to: destination, overwrites: true)
            } catch {
                guard try isRepairable(error, destination) else { throw error }
                _ = try transfer("COPY", source, to: destination, overwrites: true)
            }
            let attributes = options.attributes ?? before.attributes ?? Attributes()
            return try describe(destination, before.size, before.kind, attributes, as: destination)
        }
    }

    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        let moved = try metadata(of: source)
        if source == destination { return }
        let isDirectory = moved.kind == .directory
        if destination.isInside(source) {
            throw StoreError(.invalidArgument, "'\(source)' cannot be moved into itself", path: destination)
        }
        let there = try find(destination)
        switch (there?.kind, isDirectory) {
        case (.directory?, false): throw Self.isADirectory(destination)
        case (.directory?, true):
            // What MOVE would replace, it would delete with all that is in it.
            if let error = delete([destination])[0] { throw error }
        case (_?, true): throw Self.notADirectory(destination)
        default: break
        }
        let overwrites = there != nil && !isDirectory
        do throws(StoreError) {
            _ = try transfer("MOVE", source, to: destination, isCollection: isDirectory, overwrites: overwrites)
        } catch {
            // An earlier attempt whose answer was lost may have done it.
            if try find(source) == nil, try find(destination)?.kind == moved.kind { return }
            guard try isRepairable(error, destination) else { throw error }
            _ = try transfer("MOVE", source, to: destination, isCollection: isDirectory, overwrites: overwrites)
        }
    }
}
