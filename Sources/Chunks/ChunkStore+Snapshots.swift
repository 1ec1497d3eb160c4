import Glibc
import SQLite
package import StoreAPI
import Threading

/// Copies of the chunk map beside the chunks, so that a machine that has none needs the newest of them and the chunks
/// after it.
extension ChunkStore {
    /// Puts a copy of the map beside the chunks, unless there is one of its state.
    ///
    /// - Throws: ``StoreError``: what the store throws, `.noLocalSpace`, `.internal`.
    package func putSnapshot() throws(StoreError) {
        let failure = snapshots.perform(()) { [self] _ -> StoreError? in
            do throws(StoreError) {
                try putSnapshotAlone()
                return nil
            } catch { return error }
        }
        if let failure { throw failure }
    }

    private func putSnapshotAlone() throws(StoreError) {
        try refreshIfStale()
        let copy = map.path + ".snapshot"
        MapHolder.remove(copy)
        defer { MapHolder.remove(copy) }
        guard let applied = try copyMap(to: copy) else { return }
        let file = try UnlinkedFile(in: settings.folder)
        try Compression.compress(copy, to: file.descriptor)
        let size = try file.size
        do throws(StoreError) {
            let condition: WriteCondition = base.capabilities.contains(.conditionalCreate) ? .ifAbsent : .always
            _ = try base.put(
                UploadBody(descriptor: file.descriptor, length: size), at: ChunkPaths.snapshot(applied),
                PutOptions(condition: condition))
        } catch {
            // Another machine has made the same.
            guard error.code == .preconditionFailed else { throw error }
        }
        state.withLock { $0.snapshot = max($0.snapshot ?? 0, applied) }
        // The one before stays, for those who read it now.
        let old = try storedSnapshots().dropLast(2)
        for error in base.delete(old.map(ChunkPaths.snapshot)) {
            if let error { throw error }
        }
    }

    /// - Returns: The last chunk that is in the copy; nil where nothing was packed yet.
    private func copyMap(to path: String) throws(StoreError) -> Int64? {
        // The map is used by others meanwhile.
        let copy = try map.use { map throws(ChunkMapError) in SharedCopy(try map.database.copy(to: path)) }
        var applied: Int64 = 0
        while true {
            let isWhole = try map.use { map throws(ChunkMapError) in
                guard try copy.step(pages: 2_000) else { return false }
                applied = try map.applied
                copy.end()
                return true
            }
            if isWhole { return applied > 0 ? applied : nil }
        }
    }

    /// Snapshots on the store, the newest last.
    func storedSnapshots() throws(StoreError) -> [Int64] {
        var found: [Int64] = []
        do throws(StoreError) {
            try base.forEachPage(of: ChunkPaths.catalog) { (page: ListPage) throws(StoreError) in
                found += page.entries.compactMap { ChunkPaths.sequence(ofSnapshot: $0.name) }
            }
        } catch {
            guard error.code == .notFound else { throw error }
        }
        return found.sorted()
    }

    /// Makes of a snapshot on the store the map at `path`.
    ///
    /// - Throws: ``StoreError``: `.corrupted` for what is none of this volume.
    func fetchSnapshot(_ sequence: Int64, of volume: String, to path: String) throws(StoreError) {
        let file = try UnlinkedFile(in: settings.folder)
        let metadata = try base.read(ChunkPaths.snapshot(sequence), ReadRequest(), into: FileSink(file))
        try Compression.decompress(file.descriptor, to: path, longest: max(1 << 20, metadata.size) * 200)
        do throws(ChunkMapError) {
            try ChunkMap.expectSnapshot(at: path, of: volume, sequence)
        } catch {
            guard error.fault.kind != .corrupt else { throw StoreError(.corrupted, "a snapshot: \(error)") }
            throw error.storeError
        }
    }

    /// Puts a snapshot in the background when many chunks have come since the last one.
    func putSnapshotIfDue() {
        guard settings.snapshotInterval > 0,
            let applied = try? map.use({ map throws(ChunkMapError) in try map.applied })
        else { return }
        state.withLock { state in
            let since = applied - (state.snapshot ?? 0)
            guard since >= settings.snapshotInterval, !state.isMakingSnapshot, !state.isShutDown else { return }
            state.isMakingSnapshot = true
            // It has ended: nothing is waited for.
            state.snapshotThread?.join()
            state.snapshotThread = WorkerThread(name: "snapshot", urgency: .background) { [self] in
                let newest = try? storedSnapshots().last
                if let newest, applied - newest < settings.snapshotInterval {
                    self.state.withLock { $0.snapshot = newest }
                } else {
                    // One that fails is tried again when as many chunks have come.
                    do throws(StoreError) { try putSnapshot() } catch {
                        self.state.withLock { $0.snapshot = applied }
                    }
                }
                self.state.withLock { $0.isMakingSnapshot = false }
            }
        }
    }
}

/// A copy in the making; used under the map's lock only.
private final class SharedCopy: @unchecked Sendable {
    private var copy: SQLiteCopy<ChunkMapError>?
    init(_ copy: SQLiteCopy<ChunkMapError>) { self.copy = copy }
    func step(pages: Int32) throws(ChunkMapError) -> Bool { try copy!.step(pages: pages) }
    func end() { copy = nil }
}

extension ChunkMap {
    /// - Throws: ``ChunkMapError``: `.corrupt` unless the file is a map of this volume, up to this chunk, as this
    ///   program makes it: the same tables and nothing that acts, and legal names.
    static func expectSnapshot(at path: String, of volume: String, _ sequence: Int64) throws(ChunkMapError) {
        func nonsense(_ text: String) -> ChunkMapError { ChunkMapError(SQLiteFault(kind: .corrupt, text: text)) }
        let found = try Database(path: path)
        let own = try Database(path: path + ".own")
        defer { MapHolder.remove(path + ".own") }
        try own.execute(tables)
        func definition(_ database: Database) throws(ChunkMapError) -> [String] {
            try database.all("SELECT type || name || tbl_name || coalesce(sql, '') FROM sqlite_master") {
                $0.text(0) ?? ""
            }.sorted()
        }
        guard try definition(found) == definition(own) else { throw nonsense("its tables are not those of a map") }
        guard try found.first("PRAGMA quick_check(1)", body: { $0.text(0) }) == "ok",
            try found.first("SELECT version FROM format", body: { $0.int(0) }) == format
        else { throw nonsense("it is damaged") }
        let notes = try found.all("SELECT key, value FROM note WHERE key IN ('volume', 'applied') ORDER BY key") {
            $0.text(1) ?? ""
        }
        guard notes == [String(sequence), volume] else { throw nonsense("it is of another volume") }
        let illegal = try found.exists(
            """
            SELECT 1 FROM node WHERE id != 1 AND (typeof(name) != 'blob' OR length(name) NOT BETWEEN 1 AND 251
                OR instr(name, x'2f') OR instr(name, x'00') OR name IN (x'2e', x'2e2e')
                OR substr(name, 1, 4) = x'2e77682e' OR (parent = 1 AND name = CAST('.cloudfusion' AS BLOB))) LIMIT 1
            """)
        guard !illegal else { throw nonsense("a name is illegal") }
    }
}
