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
    /// Chunks of which the rest was packed anew.
    package var packedAnew = 0
    /// Chunks that nobody needs and that have to stay for a while.
    package var waiting = 0
}

extension ChunkStore {
    /// Packs anew what is left of chunks of which less than half is needed, and deletes those that nobody has needed for
    /// the time of grace, and plain objects that were replaced by packed files.
    ///
    /// At each moment the chunks that are there, extracted in order, give the tree.
    ///
    /// - Throws: ``StoreError``: what the store throws. What was done until then stays done.
    package func collectGarbage() throws(StoreError) -> FreedSpace {
        var freed = try deleteReplaced()
        while let chunks = try packAnew(ifWorth: false) { freed.packedAnew += chunks }
        while let some = try deleteSuperseded() {
            freed.chunks += some.chunks
            freed.bytes += some.bytes
        }
        freed.waiting = try map.use { map throws(ChunkMapError) in
            try map.database.first("SELECT count(*) FROM chunk WHERE superseded_ns IS NOT NULL") { Int($0.int(0)) } ?? 0
        }
        return freed
    }

    /// Does a part of what ``collectGarbage()`` does, if there is something that is worth a request: one new chunk, or
    /// some deletions.
    ///
    /// - Returns: nil when there is nothing to be done, which is found out without the store.
    package func collectSomeGarbage() throws(StoreError) -> FreedSpace? {
        try expectOpen()
        guard !isPassive, settings.smallFileLimit != nil, !settings.isReadOnly else { return nil }
        if let chunks = try packAnew(ifWorth: true) { return FreedSpace(packedAnew: chunks) }
        return try deleteSuperseded()
    }

    /// Chunks that are left alone as long as there are not as many, and they have not as many bytes that nobody needs:
    /// else each small change would be followed by a chunk that packs anew the one before it.
    private static let fewChunks = 8
    private var fewBytes: Int64 { settings.maxChunkSize / 2 }

    private func deleteReplaced() throws(StoreError) -> FreedSpace {
        try collect { [self] () throws(StoreError) in
            var freed = FreedSpace()
            state.withLock { $0.refreshed = nil }
            try refresh()
            for (path, version) in try map.use({ map throws(ChunkMapError) in try map.replacements() }) {
                guard let object = try plain.metadata(of: path), object.version == version else { continue }
                try deleteHidden(path, version)
                freed.objects += 1
                freed.bytes += object.size
            }
            return freed
        }
    }

    /// Deletes chunks, older ones first: one that is still there must not lack a later one that removes what is in it.
    ///
    /// - Returns: nil when none can go now.
    private func deleteSuperseded() throws(StoreError) -> FreedSpace? {
        let now = clock.calendar.nanoseconds
        let (last, volume) = try map.use { map throws(ChunkMapError) in
            let going = try map.superseded(
                before: now - settings.grace.nanoseconds, madeBefore: now - settings.leastAge.nanoseconds)
            return (going.prefix(Self.deletionsAtOnce).last, try map.volume)
        }
        guard let last, let volume else { return nil }
        // A snapshot behind which chunks are missing is of no use, and to read all the chunks instead takes long.
        if let snapshot = try storedSnapshots().last, snapshot < last.sequence { try putSnapshot() }
        return try collect { [self] () throws(StoreError) in
            var freed = FreedSpace()
            let going = try map.use { map throws(ChunkMapError) in
                try map.superseded(
                    before: now - settings.grace.nanoseconds, madeBefore: now - settings.leastAge.nanoseconds)
            }
            for chunk in going where chunk.sequence <= last.sequence {
                try base.delete(ChunkPaths.chunk(chunk.sequence, volume: volume))
                try map.use { map throws(ChunkMapError) in try map.forget(chunk.sequence) }
                freed.chunks += 1
                freed.bytes += chunk.size
            }
            return freed
        }
    }

    private static let deletionsAtOnce = 100

    /// Makes one chunk of what is left of others.
    ///
    /// - Parameter ifWorth: Only where there is enough to be won.
    /// - Returns: Of how many chunks; nil: there are none.
    private func packAnew(ifWorth: Bool) throws(StoreError) -> Int? {
        guard !(try chunksToPackAnew(ifWorth: ifWorth)).isEmpty else { return nil }
        var count: Int?
        _ = try collect { [self] () throws(StoreError) in
            count = try packAnewAlone(ifWorth)
            return FreedSpace()
        }
        return count
    }

    private func chunksToPackAnew(ifWorth: Bool) throws(StoreError) -> [Int64] {
        let (chunks, bytes) = try map.use { map throws(ChunkMapError) in
            try map.chunksToPackAnew(largest: settings.maxChunkSize)
        }
        return ifWorth && chunks.count < Self.fewChunks && bytes < fewBytes ? [] : chunks
    }

    private func packAnewAlone(_ ifWorth: Bool) throws(StoreError) -> Int? {
        try refreshIfStale()
        guard let volume = try map.use({ map throws(ChunkMapError) in try map.volume }) else { return nil }
        for _ in 0..<1_000 {
            let chunks = try chunksToPackAnew(ifWorth: ifWorth)
            guard !chunks.isEmpty else { return nil }
            let (sequence, plan) = try map.use { map throws(ChunkMapError) in
                (try map.applied + 1, try map.planCompaction(of: chunks))
            }
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
                return chunks.count
            }
            state.withLock { $0.refreshed = nil }
            try refresh()
        }
        throw StoreError(.unavailable, "other machines were faster a thousand times")
    }

    /// Does it while no chunk is being made.
    private func collect(_ work: @escaping () throws(StoreError) -> FreedSpace) throws(StoreError) -> FreedSpace {
        let request = ChangeRequest(work)
        perform(request)
        return try request.freed!.get()
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
    ///
    /// - Parameter youngest: When they were made at the latest.
    func superseded(before limit: Int64, madeBefore youngest: Int64) throws(ChunkMapError) -> [ChunkRecord] {
        let chunks = try database.all(
            """
            SELECT sequence, size_bytes, members_offset,
                superseded_ns IS NOT NULL AND superseded_ns <= ? AND created_ns <= ?
                    AND NOT EXISTS (SELECT 1 FROM node WHERE node.chunk = chunk.sequence),
                EXISTS (SELECT 1 FROM whiteout WHERE whiteout.sequence = chunk.sequence)
            FROM chunk ORDER BY sequence
            """, .int(limit), .int(youngest)
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
    /// any of which less than half is needed and which removes nothing. With how many bytes of them nobody needs.
    ///
    /// - Parameter largest: How many bytes are packed anew at most.
    func chunksToPackAnew(largest: Int64) throws(ChunkMapError) -> (chunks: [Int64], bytes: Int64) {
        let chunks = try database.all(
            """
            SELECT sequence, data_bytes, live_bytes, EXISTS (SELECT 1 FROM node WHERE defined = chunk.sequence),
                EXISTS (SELECT 1 FROM whiteout WHERE whiteout.sequence = chunk.sequence), size_bytes
            FROM chunk WHERE superseded_ns IS NULL ORDER BY sequence
            """
        ) { row in
            // About as many members as are left: of a file the archive has 1 KiB at least, of a link 512 bytes.
            let (data, live, size) = (row.int(1), row.int(2), row.int(5))
            let members = data > 0 ? Int64(Double(size >> 10) * Double(live) / Double(data)) : size >> 9
            return (
                sequence: row.int(0), data: data, live: live, defines: row.bool(3), removes: row.bool(4),
                members: members
            )
        }
        var (data, live, members, isNeeded, best): (Int64, Int64, Int64, Bool, Int) = (0, 0, 0, false, 0)
        for (number, chunk) in chunks.enumerated() {
            data += chunk.data
            live += chunk.live
            members += chunk.members
            isNeeded = isNeeded || chunk.defines
            guard live <= largest, number == 0 || members <= Self.mostPackedAnew else { break }
            if live * 2 < data || (data == 0 && !isNeeded && number > 0) { best = number + 1 }
        }
        var found = Array(chunks.prefix(best))
        (live, members) = found.reduce((0, 0)) { ($0.0 + $1.live, $0.1 + $1.members) }
        for chunk in chunks.dropFirst(best) where !chunk.removes && chunk.live * 2 < chunk.data {
            live += chunk.live
            members += chunk.members
            guard found.isEmpty || (live <= largest && members <= Self.mostPackedAnew) else { break }
            found.append(chunk)
        }
        return (found.map(\.sequence), found.reduce(0) { $0 + $1.data - $1.live })
    }

    /// All of them are in memory for a while.
    private static let mostPackedAnew: Int64 = 20_000

    /// What a chunk has to hold that makes these unnecessary.
    ///
    /// Without a chunk, extracting the others has to give the same tree as before. So everything is packed anew under
    /// its present name that the chunk has made what it is: nodes with bytes in it, nodes that its members define, and
    /// nodes whose name came, by links of later chunks, from a name that was a link in it. What a chunk removes is in
    /// older ones; a whiteout cannot be carried to a later place, since something else may have had the name in between.
    func planCompaction(of chunks: [Int64]) throws(ChunkMapError) -> CompactionPlan {
        var plan = CompactionPlan(chunks: chunks)
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
