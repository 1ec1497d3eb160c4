import Statistics
package import StoreAPI
import StoreHTTP

extension AzureStore {
    /// By Data Lake Storage, in one step, whatever is in a directory.
    ///
    /// Source: <https://learn.microsoft.com/rest/api/storageservices/datalakestoragegen2/path/create>. That the entity tag
    /// stays is what Hadoop's driver relies on (`fs.capability.etags.preserved.in.rename`).
    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        guard isHierarchical else {
            throw StoreError(
                .unsupported, "an account without a hierarchical namespace cannot move files ('\(source)')",
                path: source)
        }
        guard let moved = try headOfAny(try key(source), source) else { throw absent(source) }
        if source == destination { return }
        let isDirectory = Self.isDirectory(moved)
        if destination.isInside(source) {
            throw StoreError(.invalidArgument, "'\(source)' cannot be moved into itself", path: destination)
        }
        if let there = try headOfAny(try key(destination), destination) {
            switch (Self.isDirectory(there), isDirectory) {
            case (true, false): throw Self.isADirectory(destination)
            case (false, true): throw Self.notADirectory(destination)
            case (true, true): if let error = delete([Deletion(destination)])[0] { throw error }
            case (false, false): break
            }
        }
        try rename(source, to: destination, moved, makesParent: true)
    }

    private func rename(_ source: StorePath, to destination: StorePath, _ moved: HTTPResponse, makesParent: Bool)
        throws(StoreError)
    {
        let isDirectory = Self.isDirectory(moved)
        var call = AzureCall(
            "PUT", try key(destination), .requestsCopy, .storeCopy,
            action: "'\(source)' could not be moved to '\(destination)'", path: source)
        call.service = .dataLake
        call.headers = [
            (
                "x-ms-rename-source",
                "/" + TextEncoding.percentEncode(configuration.container) + "/"
                    + TextEncoding.percentEncode(try key(source), keeping: "/") + authentication.renameSuffix
            )
        ]
        // A file replaces the one that is there.
        if isDirectory { call.headers.append(("If-None-Match", "*")) }
        call.body = UploadBody([UInt8]())
        call.expected = [.notFound, .preconditionFailed, .alreadyExists, .invalidArgument]
        guard case .refused(let error, let answer) = try attempt(call) else { return }
        // An earlier attempt whose answer was lost may have done it.
        if try headOfAny(try key(source), source) == nil, let there = try headOfAny(try key(destination), destination),
            isDirectory ? Self.isDirectory(there) : version(there) == version(moved)
        {
            return
        }
        if makesParent, error.code == .notFound, AzureErrorAnswer(answer).name != "SourcePathNotFound",
            let parent = destination.parent, !parent.isRoot
        {
            try createDirectory(at: parent, Attributes())
            return try rename(source, to: destination, moved, makesParent: false)
        }
        if error.code == .notFound { throw absent(source) }
        throw try obstacle(destination) ?? error
    }
}
