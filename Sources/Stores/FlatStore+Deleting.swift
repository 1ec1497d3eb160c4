package import StoreAPI
import StoreHTTP
import Threading

extension FlatStore {
    package func delete(_ deletions: [Deletion]) -> [StoreError?] { deleteListed(deletions) }

    /// Files go in bulk; what is a directory is found by listings, one per thousand neighbours at best, and goes after
    /// what is in it, deepest first, when it is empty by then.
    func deleteListed(_ deletions: [Deletion]) -> [StoreError?] {
        let paths = deletions.map(\.path)
        var answers = [StoreError?](repeating: nil, count: paths.count)
        var files: [Int] = []
        var directories: [Int] = []
        // Only files have versions.
        for (index, deletion) in deletions.enumerated() where deletion.version != nil { files.append(index) }
        let others = paths.indices.filter { deletions[$0].version == nil }
        for (parent, group) in Dictionary(grouping: others, by: { paths[$0].parent }) {
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
        deleteKeys(of: files, asDirectories: false, deletions, &answers)
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
                deleteKeys(of: level.filter { kept[$0] == nil }, asDirectories: true, deletions, &answers)
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
                    startAfter: token == nil ? before(keys[0]) : nil,
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

    /// Deletes what is known to be no directory.
    func deleteFiles(_ paths: [StorePath]) -> [StoreError?] {
        var answers = [StoreError?](repeating: nil, count: paths.count)
        deleteKeys(of: Array(paths.indices), asDirectories: false, paths.map { Deletion($0) }, &answers)
        return answers
    }

    private func deleteKeys(
        of indices: [Int], asDirectories: Bool, _ deletions: [Deletion], _ answers: inout [StoreError?]
    ) {
        var keys: [(index: Int, key: [UInt8])] = []
        for index in indices {
            do throws(StoreError) {
                keys.append((index, try key(deletions[index].path, asDirectory: asDirectories)))
            } catch { answers[index] = error }
        }
        for (index, error) in deleteKeys(keys, of: deletions) { answers[index] = error }
    }
}

/// A key after which a listing shows `key`, and nothing that matters before it.
private func before(_ key: [UInt8]) -> [UInt8] {
    var shorter = key
    // Cut at a whole character: keys travel as UTF-8.
    repeat { shorter.removeLast() } while shorter.last.map { $0 & 0xC0 == 0x80 || $0 >= 0xC0 } ?? false
    return shorter
}
