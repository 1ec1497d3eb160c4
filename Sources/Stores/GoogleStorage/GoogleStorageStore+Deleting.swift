import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension GoogleStorageStore {
    package func deleteKeys(_ keys: [(index: Int, key: [UInt8])], of deletions: [Deletion]) -> [Int: StoreError] {
        let failed = deleteObjects(keys.map { ($0.key, deletions[$0.index].version) }, nil) {
            deletions[keys[$0].index].path
        }
        return Dictionary(uniqueKeysWithValues: failed.map { (keys[$0.key].index, $0.value) })
    }

    /// - Parameters:
    ///   - path: Of what they belong to.
    ///   - named: The path of each, where they have their own.
    /// - Returns: Why those that are still there are, by their place among `objects`.
    func deleteObjects(
        _ objects: [(key: [UInt8], version: Version?)], _ path: StorePath?,
        named: @escaping @Sendable (Int) -> StorePath? = { _ in nil }
    ) -> [Int: StoreError] {
        let failures = Lock<[Int: StoreError]>([:])
        do throws(StoreError) {
            try session.parallel.run(objects.count, parallel: 32) { [self] (number) throws(StoreError) in
                let (key, version) = objects[number]
                do throws(StoreError) { try deleteObject(key, named(number) ?? path, ifVersion: version) } catch {
                    failures.withLock { $0[number] = error }
                }
            }
        } catch {
            return Dictionary(uniqueKeysWithValues: objects.indices.map { ($0, error) })
        }
        return failures.withLock { $0 }
    }

    /// What is not there counts as deleted.
    ///
    /// - Throws: ``StoreError``: `.preconditionFailed` where the server checks it and the object has another generation.
    func deleteObject(_ key: [UInt8], _ path: StorePath?, ifVersion version: Version? = nil) throws(StoreError) {
        let name = path.map(\.description) ?? String(decoding: key, as: UTF8.self)
        var call = GoogleStorageCall(
            "DELETE", target: .object(key), .requestsDelete, .storeDelete, action: "'\(name)' could not be deleted",
            path: path)
        if let version, traits.checksDeletions {
            guard Self.isGeneration(version) else { throw StoreError.changed(path ?? .root, version.text) }
            call.query = [("ifGenerationMatch", version.text)]
        }
        call.accepted = [404]
        let response = try send(call)
        guard response.status == 404 else { return }
        let error = GoogleStorageErrors.error(response, call, configuration)
        if error.code != .notFound { throw error }
    }
}
