import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension AzureStore {
    private static let deletionsAtOnce = 32

    package func delete(_ deletions: [Deletion]) -> [StoreError?] {
        guard isHierarchical else { return deleteListed(deletions) }
        let answers = Lock([StoreError?](repeating: nil, count: deletions.count))
        // What is in a directory goes before it; the service refuses to delete one that is not empty.
        let byDepth = Dictionary(grouping: deletions.indices) { index in
            deletions[index].path.bytes.count { $0 == UInt8(ascii: "/") }
        }
        for (_, level) in byDepth.sorted(by: { $0.key > $1.key }) {
            do throws(StoreError) {
                try session.parallel.run(level.count, parallel: Self.deletionsAtOnce) {
                    [self] (position) throws(StoreError) in
                    let deletion = deletions[level[position]]
                    do throws(StoreError) {
                        guard !deletion.path.isRoot else {
                            throw StoreError(.accessDenied, "the root of the store cannot be deleted", path: .root)
                        }
                        try deleteBlob(try key(deletion.path), deletion.path, ifVersion: deletion.version)
                    } catch {
                        answers.withLock { $0[level[position]] = error }
                    }
                }
            } catch {
                answers.withLock { for index in level where $0[index] == nil { $0[index] = error } }
            }
        }
        return answers.withLock { $0 }
    }

    package func deleteKeys(_ keys: [(index: Int, key: [UInt8])], of deletions: [Deletion]) -> [Int: StoreError] {
        let failures = Lock<[Int: StoreError]>([:])
        do throws(StoreError) {
            try session.parallel.run(keys.count, parallel: Self.deletionsAtOnce) { [self] (number) throws(StoreError) in
                let (index, key) = keys[number]
                let (path, version) = (deletions[index].path, deletions[index].version)
                do throws(StoreError) {
                    let wasThere = try deleteBlob(key, path, ifVersion: version)
                    // A directory may have Hadoop's marker instead.
                    if !wasThere, key.last == UInt8(ascii: "/"), let other = try markedDirectory(path) {
                        try deleteBlob(try self.key(path), path, ifVersion: self.version(other))
                    }
                } catch { failures.withLock { $0[index] = error } }
            }
        } catch {
            return Dictionary(uniqueKeysWithValues: keys.map { ($0.index, error) })
        }
        return failures.withLock { $0 }
    }

    /// - Returns: Whether there was anything to delete.
    @discardableResult
    private func deleteBlob(_ key: [UInt8], _ path: StorePath, ifVersion version: Version?, withSnapshots: Bool = false)
        throws(StoreError) -> Bool
    {
        var call = AzureCall(
            "DELETE", key, .requestsDelete, .storeDelete, action: "'\(path)' could not be deleted", path: path)
        if let version { call.headers.append(("If-Match", "\"\(version.text)\"")) }
        if withSnapshots { call.headers.append(("x-ms-delete-snapshots", "include")) }
        call.expected = [.notFound, .preconditionFailed, .alreadyExists, .directoryNotEmpty]
        guard case .refused(let error, let answer) = try attempt(call) else { return true }
        switch error.code {
        case .notFound: return false
        case .preconditionFailed: throw StoreError.changed(path, version?.text)
        case .directoryNotEmpty:
            throw StoreError(.directoryNotEmpty, "'\(path)' is not empty on the store", path: path, cause: error.cause)
        case .alreadyExists where AzureErrorAnswer(answer).name == "SnapshotsPresent" && !withSnapshots:
            return try deleteBlob(key, path, ifVersion: version, withSnapshots: true)
        // What would be below a file.
        case .alreadyExists where isHierarchical: return false
        default: throw error
        }
    }
}
