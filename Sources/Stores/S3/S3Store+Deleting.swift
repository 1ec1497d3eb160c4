import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    /// The keys of one request: at most 1,000 (S3 API Reference, DeleteObjects). Other servers than Amazon's may delete
    /// one after the other before they answer a word (OpenStack Swift: 20 ms each), so that a large batch would time out.
    var deleteBatch: Int { !traits.deletesInBulk ? 1 : configuration.isAmazon ? 1000 : 50 }

    /// Files go in bulk; what is a directory is found by listings, one per thousand neighbours at best, and goes after
    /// what is in it, deepest first, when it is empty by then.
    package func delete(_ paths: [StorePath]) -> [StoreError?] {
        var answers = [StoreError?](repeating: nil, count: paths.count)
        var files: [Int] = []
        var directories: [Int] = []
        for (parent, group) in Dictionary(grouping: paths.indices, by: { paths[$0].parent }) {
            guard let parent else {
                for index in group {
                    answers[index] = StoreError(.accessDenied, "the root of the store cannot be deleted", path: .root)
                }
                continue
            }
            do throws(StoreError) {
                let found = try findDirectories(among: group.map { paths[$0] }, in: parent)
                for index in group {
                    if found.contains(paths[index]) { directories.append(index) } else { files.append(index) }
                }
            } catch {
                for index in group { answers[index] = error }
            }
        }
        deleteKeys(of: files, asDirectories: false, paths, &answers)
        let byDepth = Dictionary(grouping: directories) { paths[$0].bytes.filter { $0 == UInt8(ascii: "/") }.count }
        for (_, level) in byDepth.sorted(by: { $0.key > $1.key }) {
            let full = Lock<[Int: StoreError]>([:])
            do throws(StoreError) {
                try session.parallel.run(level.count, parallel: 16) { [self] (position) throws(StoreError) in
                    let path = paths[level[position]]
                    let listing = try listKeys(
                        prefix: try key(path, asDirectory: true), delimiter: false, maximum: 2, after: nil, path)
                    let marker = try key(path, asDirectory: true)
                    if listing.objects.contains(where: { $0.key != marker }) {
                        full.withLock {
                            $0[level[position]] = StoreError(
                                .directoryNotEmpty, "'\(path)' is not empty on the store", path: path)
                        }
                    }
                }
                let kept = full.withLock { $0 }
                for (index, error) in kept { answers[index] = error }
                deleteKeys(of: level.filter { kept[$0] == nil }, asDirectories: true, paths, &answers)
            } catch {
                for index in level { answers[index] = error }
            }
        }
        return answers
    }

    /// Which of some neighbours are directories.
    private func findDirectories(among paths: [StorePath], in parent: StorePath) throws(StoreError) -> Set<StorePath> {
        let found = Lock<Set<StorePath>>([])
        // A walk from the first to the last of them, unless so much lies between that asking for each is cheaper.
        if paths.count > 1 {
            let prefix = try key(parent, asDirectory: true)
            let keys = try paths.map { (path) throws(StoreError) in try key(path) }.sorted {
                $0.lexicographicallyPrecedes($1)
            }
            let wanted = Dictionary(zip(keys.map { $0 + [UInt8(ascii: "/")] }, keys), uniquingKeysWith: { a, _ in a })
            var names: [[UInt8]: StorePath] = [:]
            for path in paths { names[try key(path)] = path }
            let end = keys.last! + [UInt8(ascii: "0")]
            var token: String?
            var isComplete = false
            for _ in 0..<(paths.count / 4 + 1) {
                let page = try listKeys(
                    prefix: prefix, delimiter: true, maximum: 1000,
                    startAfter: token == nil ? Self.before(keys[0]) : nil,
                    after: token, parent)
                for prefix in page.prefixes {
                    if let key = wanted[prefix], let path = names[key] { _ = found.withLock { $0.insert(path) } }
                }
                token = page.next
                let last = [page.objects.last?.key, page.prefixes.last].compactMap { $0 }
                if token == nil || last.contains(where: { !$0.lexicographicallyPrecedes(end) }) {
                    isComplete = true
                    break
                }
            }
            if isComplete { return found.withLock { $0 } }
        }
        try session.parallel.run(paths.count, parallel: 32) { [self] (index) throws(StoreError) in
            let listing = try listKeys(
                prefix: try key(paths[index], asDirectory: true), delimiter: false, maximum: 1, after: nil, paths[index]
            )
            if !listing.objects.isEmpty { _ = found.withLock { $0.insert(paths[index]) } }
        }
        return found.withLock { $0 }
    }

    /// A key after which a listing shows `key`, and nothing that matters before it.
    private static func before(_ key: [UInt8]) -> [UInt8] {
        var shorter = key
        // Cut at a whole character: keys travel as UTF-8.
        repeat { shorter.removeLast() } while shorter.last.map { $0 & 0xC0 == 0x80 || $0 >= 0xC0 } ?? false
        return shorter
    }

    /// Deletes what is known to be no directory.
    func deleteFiles(_ paths: [StorePath]) -> [StoreError?] {
        var answers = [StoreError?](repeating: nil, count: paths.count)
        deleteKeys(of: Array(paths.indices), asDirectories: false, paths, &answers)
        return answers
    }

    private func deleteKeys(
        of indices: [Int], asDirectories: Bool, _ paths: [StorePath], _ answers: inout [StoreError?]
    ) {
        var keys: [(index: Int, key: [UInt8])] = []
        for index in indices {
            do throws(StoreError) {
                keys.append((index, try key(paths[index], asDirectory: asDirectories)))
            } catch { answers[index] = error }
        }
        // The list of a bulk deletion is XML, which cannot carry every key.
        let listed = keys.filter { !KeyCodec.holdsControls($0.key) }
        let isBulk = traits.deletesInBulk && listed.count > 1
        let size = isBulk ? deleteBatch : 1
        let batches =
            stride(from: 0, to: listed.count, by: size).map { Array(listed[$0..<min($0 + size, listed.count)]) }
            + keys.filter { KeyCodec.holdsControls($0.key) }.map { [$0] }
        let failures = Lock<[Int: StoreError]>([:])
        do throws(StoreError) {
            try session.parallel.run(batches.count, parallel: isBulk ? 4 : 32) { [self] (number) throws(StoreError) in
                let batch = batches[number]
                do throws(StoreError) {
                    if batch.count > 1 {
                        let refused = try deleteInBulkOrSingly(batch, paths)
                        failures.withLock { $0.merge(refused) { $1 } }
                    } else {
                        try deleteObject(batch[0].key, paths[batch[0].index])
                    }
                } catch {
                    failures.withLock { for entry in batch { $0[entry.index] = error } }
                }
            }
        } catch {
            for entry in keys { answers[entry.index] = error }
        }
        for (index, error) in failures.withLock({ $0 }) { answers[index] = error }
    }

    func deleteObject(_ key: [UInt8], _ path: StorePath) throws(StoreError) {
        var call = S3Call(
            "DELETE", key, .requestsDelete, .storeDelete, action: "'\(path)' could not be deleted", path: path)
        call.accepted = [404]
        let response = try send(call)
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
