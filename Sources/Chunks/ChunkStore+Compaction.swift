import SQLite
package import StoreAPI
import StoreHTTP
import Threading

/// What ``ChunkStore/collectGarbage()`` has removed from the store.
package struct FreedSpace: Hashable, Sendable {
    package var chunks = 0
    package var objects = 0
    /// Of both; what was packed anew is not taken off.
    package var bytes: Int64 = 0
}

extension ChunkStore {
    /// Packs anew what is left of chunks of which less than half is needed, and deletes those that nobody has needed for
    /// the time of grace, and plain objects that were replaced by packed files.
    ///
    /// At each moment the chunks that are there, extracted in order, give the tree.
    ///
    /// - Throws: ``StoreError``: what the store throws. What was done until then stays done.
    package func collectGarbage() throws(StoreError) -> FreedSpace {
        let request = ChangeRequest { [self] () throws(StoreError) in try collect() }
        perform(request)
        return try request.freed!.get()
    }

    private func collect() throws(StoreError) -> FreedSpace {
        var freed = FreedSpace()
        state.withLock { $0.refreshed = nil }
        try refresh()
        guard let volume = try map.use({ map throws(ChunkMapError) in try map.volume }) else { return freed }
        for (path, version) in try map.use({ map throws(ChunkMapError) in try map.replacements() }) {
            guard let object = try plain.metadata(of: path), object.version == version else { continue }
            try deleteHidden(path, version)
            freed.objects += 1
            freed.bytes += object.size
        }
        while try compactSome(volume) {}
        // In order: a chunk that is still there must not lack a later one that removes what is in it.
        let limit = clock.calendar.nanoseconds - settings.grace.nanoseconds
        for chunk in try map.use({ map throws(ChunkMapError) in try map.superseded(before: limit) }) {
            try base.delete(ChunkPaths.chunk(chunk.sequence, volume: volume))
            try map.use { map throws(ChunkMapError) in try map.forget(chunk.sequence) }
            freed.chunks += 1
            freed.bytes += chunk.size
        }
        return freed
    }

    /// - Returns: Whether there was a chunk to be packed anew.
    private func compactSome(_ volume: String) throws(StoreError) -> Bool {
        for _ in 0..<1_000 {
            let (sequence, plan) = try map.use { map throws(ChunkMapError) in
                (try map.applied + 1, try map.planCompaction(largest: settings.maxChunkSize))
            }
            guard !plan.chunks.isEmpty else { return false }
            var index = ChunkIndex(
                volume: volume, sequence: sequence, nonce: VolumeFormat.newName(), created: clock.calendar)
            index.supersedes = plan.chunks
            index.members = plan.nodes.map { $0.node.member(at: $0.path) }
            let chunk: ChunkFile
            do throws(StoreError) {
                chunk = try ChunkFile(index, in: settings.folder) { number throws(StoreError) in
                    try contents(of: plan.nodes[number].node, at: plan.nodes[number].path).1
                }
            } catch {
                if error.code == .preconditionFailed { continue }
                throw error
            }
            if try put(chunk) {
                try take(ChunkHead(of: chunk))
                return true
            }
            state.withLock { $0.refreshed = nil }
            try refresh()
        }
        throw StoreError(.unavailable, "other machines were faster a thousand times")
    }
}

/// What a chunk has to hold that makes others unnecessary.
struct CompactionPlan {
    var chunks: [Int64] = []
    /// Directories first, parents before children.
    var nodes: [(path: StorePath, node: PackedNode)] = []
}

extension ChunkMap {
    /// Chunks that a later one has made unnecessary, since before a moment, in the order in which they can go.
    func superseded(before limit: Int64) throws(ChunkMapError) -> [ChunkRecord] {
        let chunks = try database.all(
            """
            SELECT sequence, size_bytes, members_offset,
                superseded_ns IS NOT NULL AND superseded_ns <= ?
                    AND NOT EXISTS (SELECT 1 FROM node WHERE node.chunk = chunk.sequence),
                EXISTS (SELECT 1 FROM whiteout WHERE whiteout.sequence = chunk.sequence)
            FROM chunk ORDER BY sequence
            """, .int(limit)
        ) { (ChunkRecord(sequence: $0.int(0), size: $0.int(1), membersOffset: $0.int(2)), $0.bool(3), $0.bool(4)) }
        var (going, isFirst): ([ChunkRecord], Bool) = ([], true)
        for (chunk, isDue, hasWhiteouts) in chunks {
            // What it removes is in an older one that stays.
            if isDue, isFirst || !hasWhiteouts { going.append(chunk) } else { isFirst = false }
        }
        return going
    }

    func forget(_ sequence: Int64) throws(ChunkMapError) {
        try database.transaction { () throws(ChunkMapError) in
            try database.run("DELETE FROM chunk WHERE sequence = ?", .int(sequence))
            try database.run("DELETE FROM link WHERE sequence = ?", .int(sequence))
            try database.run("DELETE FROM whiteout WHERE sequence = ?", .int(sequence))
        }
    }

    /// Chunks that are better packed anew: the oldest ones as long as less than half of them together is needed, or
    /// any of which less than half is needed and which removes nothing.
    ///
    /// Without a chunk, extracting the others has to give the same tree as before. So everything is packed anew under
    /// its present name that the chunk has made what it is: nodes with bytes in it, nodes that its members define, and
    /// nodes whose name came, by links of later chunks, from a name that was a link in it. What a chunk removes is in
    /// older ones; a whiteout cannot be carried to a later place, since something else may have had the name in between.
    func planCompaction(largest: Int64) throws(ChunkMapError) -> CompactionPlan {
        let chunks = try database.all(
            """
            SELECT sequence, data_bytes, live_bytes, EXISTS (SELECT 1 FROM node WHERE defined = chunk.sequence),
                EXISTS (SELECT 1 FROM whiteout WHERE whiteout.sequence = chunk.sequence)
            FROM chunk WHERE superseded_ns IS NULL ORDER BY sequence
            """
        ) { (sequence: $0.int(0), data: $0.int(1), live: $0.int(2), defines: $0.bool(3), removes: $0.bool(4)) }
        var (data, live, isNeeded, best): (Int64, Int64, Bool, Int) = (0, 0, false, 0)
        for (number, chunk) in chunks.enumerated() {
            data += chunk.data
            live += chunk.live
            isNeeded = isNeeded || chunk.defines
            guard live <= largest else { break }
            if live * 2 < data || (data == 0 && !isNeeded && number > 0) { best = number + 1 }
        }
        var plan = CompactionPlan()
        plan.chunks = chunks.prefix(best).map(\.sequence)
        live = chunks.prefix(best).reduce(0) { $0 + $1.live }
        for chunk in chunks.dropFirst(best) where !chunk.removes && chunk.live * 2 < chunk.data {
            guard live + chunk.live <= largest else { break }
            plan.chunks.append(chunk.sequence)
            live += chunk.live
        }
        var ids: Set<Int64> = []
        for sequence in plan.chunks { ids.formUnion(try nodes(definedBy: sequence)) }
        for id in ids where id != Self.root {
            if let node = try node(id) { plan.nodes.append((try path(of: id), node)) }
        }
        plan.nodes.sort { one, other in
            let (first, second) = (one.node.kind == .directory, other.node.kind == .directory)
            return first != second ? first : one.path < other.path
        }
        return plan
    }

    private func nodes(definedBy sequence: Int64) throws(ChunkMapError) -> Set<Int64> {
        var ids = Set(
            try database.all("SELECT id FROM node WHERE defined = ? OR chunk = ?", .int(sequence), .int(sequence)) {
                $0.int(0)
            })
        func links(_ sql: StaticString, _ sequence: Int64) throws(ChunkMapError) -> [(Int64, [UInt8], [UInt8])] {
            try database.all(sql, .int(sequence)) { ($0.int(0), $0.blob(1) ?? [], $0.blob(2) ?? []) }
        }
        var names = Set(
            try links("SELECT sequence, source, path FROM link WHERE sequence = ?", sequence).map { $0.2 })
        guard !names.isEmpty else { return ids }
        let later = try links(
            "SELECT sequence, source, path FROM link WHERE sequence > ? ORDER BY sequence, rowid", sequence)
        for (later, source, path) in later where names.contains(source) {
            names.insert(path)
            guard let path = StorePath(path), let id = try id(of: path), try node(id)?.defined == later else {
                continue
            }
            ids.insert(id)
        }
        return ids
    }
}
