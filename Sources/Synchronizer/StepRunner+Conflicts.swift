import Catalog
import Statistics
import StoreAPI

// Somebody else's version is never overwritten and never dropped: it gets another name on the store first.
extension StepRunner {
    func keepConflict(_ plan: ConflictPlan) throws(StoreError) {
        let kept: Metadata
        do {
            kept = plan.isDirectory ? try moveAside(plan) : try copyAside(plan)
        } catch {
            switch error.code {
            case .notFound:
                try lookAgain(at: plan.path, by: plan.item)
                return
            case .preconditionFailed where !plan.isDirectory, .alreadyExists where !plan.isDirectory:
                // The original changed once more, or the name is taken: perhaps by us, before a crash.
                let original = try found(at: plan.path)
                guard let original, original.version == plan.version else {
                    try tell(original, at: plan.path, by: plan.item)
                    return
                }
                guard let there = try found(at: plan.keepPath) else { return }
                guard try hasSameBytes(plan.path, original, plan.keepPath, there) else {
                    // Now that this is known, another name is found.
                    try tell(there, at: plan.keepPath, by: plan.item)
                    return
                }
                kept = there
            default: throw error
            }
        }
        let changes = try catalog { () throws(CatalogError) in try journal.conflictWasKept(plan, as: kept) }
        if !changes.isEmpty { onChange(changes) }
        statistics.add(.conflicts)
        statistics.report(
            kind: "conflict",
            message: "'\(plan.path)' was changed here and on the store; the store's version is kept as "
                + "'\(plan.keepPath)'",
            advice: "Compare the two files and delete the one that is not needed.")
    }

    /// A directory is moved where the store has that. Elsewhere it stays: ours waits, until somebody renames one.
    private func moveAside(_ plan: ConflictPlan) throws(StoreError) -> Metadata {
        guard let there = try found(at: plan.path), there.kind == .directory else {
            throw StoreError(.notFound, "'\(plan.path)' is no directory any more", path: plan.path)
        }
        guard store.capabilities.contains(.directoryMove), try found(at: plan.keepPath) == nil else {
            throw StoreError(
                .isADirectory,
                "'\(plan.path)' is a file here, and somebody else has made a directory of that name on the store",
                path: plan.path)
        }
        try store.move(plan.path, to: plan.keepPath)
        return try store.metadata(of: plan.keepPath)
    }

    private func copyAside(_ plan: ConflictPlan) throws(StoreError) -> Metadata {
        let condition = try checked(.ifAbsent, at: plan.keepPath)
        if store.capabilities.contains(.serverSideCopy) {
            do {
                return try store.copy(
                    plan.path, to: plan.keepPath, CopyOptions(sourceVersion: plan.version, condition: condition))
            } catch {
                // What a store can do may differ for this object (some copy only up to a size).
                guard error.code == .unsupported || error.code == .tooLarge else { throw error }
            }
        }
        let file = try NamelessFile.temporary()
        let metadata = try store.read(plan.path, ReadRequest(version: plan.version), into: file)
        return try store.put(
            UploadBody(descriptor: file.descriptor, length: metadata.size), at: plan.keepPath,
            PutOptions(
                condition: condition, kind: metadata.kind, attributes: metadata.attributes ?? Attributes(),
                isWanted: { [isStopping] in !isStopping() }))
    }

    /// Whether two objects have the same bytes: as their checksums say, or as reading them shows.
    func hasSameBytes(_ path: StorePath, _ metadata: Metadata, _ otherPath: StorePath, _ other: Metadata)
        throws(StoreError) -> Bool
    {
        guard metadata.kind == other.kind, metadata.size == other.size else { return false }
        if metadata.size == 0 { return true }
        if let md5 = metadata.md5, let otherMD5 = other.md5 { return md5 == otherMD5 }
        let file = try NamelessFile.temporary()
        _ = try store.read(path, ReadRequest(version: metadata.version), into: file)
        let comparison = ComparisonSink(UploadBody(descriptor: file.descriptor, length: metadata.size))
        do {
            _ = try store.read(otherPath, ReadRequest(version: other.version), into: comparison)
        } catch {
            guard comparison.differs else { throw error }
            return false
        }
        return comparison.isComplete
    }
}
