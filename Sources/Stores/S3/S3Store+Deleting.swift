import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    /// The keys of one request: at most 1,000 (S3 API Reference, DeleteObjects). Other servers than Amazon's may delete
    /// one after the other before they answer a word (OpenStack Swift: 20 ms each), so that a large batch would time out.
    var deleteBatch: Int { !traits.deletesInBulk ? 1 : configuration.isAmazon ? 1000 : 50 }

    package func deleteKeys(_ keys: [(index: Int, key: [UInt8])], of deletions: [Deletion]) -> [Int: StoreError] {
        let paths = deletions.map(\.path)
        // The list of a bulk deletion is XML, which cannot carry every key. Nor does every server that checks the
        // condition of one deletion check those of many.
        func mustGoAlone(_ entry: (index: Int, key: [UInt8])) -> Bool {
            KeyCodec.holdsControls(entry.key) || (traits.deleteTagForm != nil && deletions[entry.index].version != nil)
        }
        let listed = keys.filter { !mustGoAlone($0) }
        let isBulk = traits.deletesInBulk && listed.count > 1
        let size = isBulk ? deleteBatch : 1
        let batches =
            stride(from: 0, to: listed.count, by: size).map { Array(listed[$0..<min($0 + size, listed.count)]) }
            + keys.filter(mustGoAlone).map { [$0] }
        let failures = Lock<[Int: StoreError]>([:])
        do throws(StoreError) {
            try session.parallel.run(batches.count, parallel: isBulk && listed.count == keys.count ? 4 : 32) {
                [self] (number) throws(StoreError) in
                let batch = batches[number]
                do throws(StoreError) {
                    if batch.count > 1 {
                        let refused = try deleteInBulkOrSingly(batch, paths)
                        failures.withLock { $0.merge(refused) { $1 } }
                    } else {
                        let deletion = deletions[batch[0].index]
                        try deleteObject(batch[0].key, deletion.path, ifVersion: deletion.version)
                    }
                } catch {
                    failures.withLock { for entry in batch { $0[entry.index] = error } }
                }
            }
        } catch {
            return Dictionary(uniqueKeysWithValues: keys.map { ($0.index, error) })
        }
        return failures.withLock { $0 }
    }

    /// - Throws: ``StoreError``: `.preconditionFailed` where the server checks it and the object has another version.
    func deleteObject(_ key: [UInt8], _ path: StorePath, ifVersion version: Version? = nil) throws(StoreError) {
        var call = S3Call(
            "DELETE", key, .requestsDelete, .storeDelete, action: "'\(path)' could not be deleted", path: path)
        call.accepted = [404]
        if let version, let form = traits.deleteTagForm {
            call.headers = [("If-Match", form.text(of: version.text))]
        }
        let response: HTTPResponse
        do throws(StoreError) { response = try send(call) } catch {
            guard error.code == .preconditionFailed, !call.headers.isEmpty,
                let there = try head(key, path), self.version(there) == version
            else { throw error }
            // Some servers refuse the tags of objects in parts, right or not.
            return try deleteObject(key, path)
        }
        guard response.status == 404 else { return }
        let error = S3Errors.error(response, call.action, path: path, concernsKey: true, bucket: configuration.bucket)
        if error.code != .notFound { throw error }
    }

    /// One request for all of them; those for which that was too much, or which it answers with an error of the moment,
    /// get a request of their own, which is repeated as any other.
    ///
    /// - Returns: Why those that are still there are.
    private func deleteInBulkOrSingly(_ batch: [(index: Int, key: [UInt8])], _ paths: [StorePath]) throws(StoreError)
        -> [Int: StoreError]
    {
        var refused: [Int: StoreError] = [:]
        var singly = batch
        do throws(StoreError) {
            refused = try deleteInBulk(batch, paths)
            singly = batch.filter { refused[$0.index]?.isTransient ?? false }
        } catch {
            guard error.code == .timedOut else { throw error }
        }
        for (index, key) in singly {
            do throws(StoreError) {
                try deleteObject(key, paths[index])
                refused[index] = nil
            } catch { refused[index] = error }
        }
        return refused
    }

    /// - Returns: Why those that are still there are.
    private func deleteInBulk(_ batch: [(index: Int, key: [UInt8])], _ paths: [StorePath]) throws(StoreError)
        -> [Int: StoreError]
    {
        var writer = XMLWriter()
        writer.element("Delete", attributes: [("xmlns", "http://s3.amazonaws.com/doc/2006-03-01/")]) { writer in
            for (_, key) in batch {
                writer.element("Object") { $0.element("Key", String(decoding: key, as: UTF8.self)) }
            }
            writer.element("Quiet", "true")
        }
        var call = S3Call(
            "POST", nil, .requestsDelete, .storeDelete, action: "\(batch.count) files could not be deleted")
        call.query = [("delete", nil)]
        call.body = UploadBody(writer.bytes)
        call.headers = [
            ("Content-Type", "application/xml"), ("Content-MD5", TextEncoding.base64(Digest.md5(writer.bytes))),
        ]
        let root = try XMLElement.parse(try send(call).body)
        guard root.name == "DeleteResult" else {
            throw StoreError(.internal, "the server answered a deletion with <\(root.name)>")
        }
        let byKey = Dictionary(batch.map { ($0.key, $0.index) }, uniquingKeysWith: { a, _ in a })
        var refused: [Int: StoreError] = [:]
        for error in root.all("Error") {
            guard let index = byKey[Array((error["Key"]?.text ?? "").utf8)] else {
                throw StoreError(.internal, "the server answered a deletion with an error for another key")
            }
            let name = error["Code"]?.text ?? "unknown"
            let code = S3Errors.code(named: name) ?? .unavailable
            if code == .notFound { continue }
            refused[index] = StoreError(
                code, "'\(paths[index])' could not be deleted: \(name)", path: paths[index],
                cause: error["Message"]?.text)
        }
        return refused
    }
}
