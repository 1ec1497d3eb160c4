import Glibc
package import SQLite
import StoreAPI
import Threading

/// Why the chunk map could not be used.
package struct ChunkMapError: SQLiteFailure, CustomStringConvertible {
    package var fault: SQLiteFault
    package init(_ fault: SQLiteFault) { self.fault = fault }

    package var description: String {
        switch fault.kind {
        case .cannotOpen: "the chunk map: \(fault.text)"
        case .noSpace: "no space on the disk that holds the chunk map"
        case .noMemory: "no memory for what the chunk map was to do"
        case .busy: "another process has the chunk map open: \(fault.text)"
        case .corrupt: "the chunk map makes no sense: \(fault.text)"
        case .failed: "the chunk map failed: \(fault.text)"
        }
    }

    var storeError: StoreError { StoreError(fault.kind == .noSpace ? .noLocalSpace : .internal, description) }
}

/// Where the bytes of a packed file lie.
struct PackedBytes: Hashable, Sendable {
    var chunk: Int64
    /// From the chunk's first member behind the index on.
    var offset: Int64
    var size: Int64
    var md5: [UInt8]?
}

/// What is in chunks at a path.
struct PackedNode: Hashable, Sendable {
    var kind: FileKind
    /// Of a symbolic link the length of its target.
    var size: Int64 = 0
    var attributes = Attributes()
    var target: [UInt8]?
    /// nil for directories.
    var version: Version?
    /// Of a file that is not empty or was packed as a member of its own.
    var bytes: PackedBytes?
    var replaces: Version?
    /// When the chunk was made that its bytes are in.
    var recorded = Timestamp(nanoseconds: 0)
    /// The chunk whose member made it what it is.
    var defined: Int64 = 0

    var metadata: Metadata {
        Metadata(
            kind: kind, size: size, modified: recorded, version: version, attributes: attributes, md5: bytes?.md5)
    }
}

extension PackedNode {
    /// What a full member of a chunk makes.
    init(_ member: ChunkMember, in chunk: Int64, created: Timestamp) {
        self.init(kind: member.fileKind!, size: member.size, attributes: member.attributes)
        target = member.target
        version = member.version
        replaces = member.replaces
        recorded = created
        if let offset = member.offset {
            bytes = PackedBytes(chunk: chunk, offset: offset, size: member.size, md5: member.md5)
        }
    }
}

/// A chunk as the map knows it.
struct ChunkRecord: Hashable, Sendable {
    var sequence: Int64
    var size: Int64
    var membersOffset: Int64
}

/// What is in all chunks together, in one SQLite file: the outcome of extracting them one after the other.
///
/// Calls come under a lock of the caller's. It can always be made anew from the chunks; a copy of it is the snapshot
/// that lies beside them on the store (docs/chunk-format.md has its tables).
final class ChunkMap {
    typealias Database = SQLiteDatabase<ChunkMapError>
    let database: Database

    static let format: Int64 = 1
    static let tables = """
        CREATE TABLE note(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
        -- live_bytes: how many of data_bytes, those of all files in it, belong to files that are there now.
        CREATE TABLE chunk(
            sequence INTEGER PRIMARY KEY, size_bytes INTEGER NOT NULL, members_offset INTEGER NOT NULL,
            data_bytes INTEGER NOT NULL, live_bytes INTEGER NOT NULL, created_ns INTEGER NOT NULL,
            superseded_ns INTEGER);
        -- The tree; the root is node 1, of parent 0. Names are bytes. NULL: not known, or nothing of the kind.
        CREATE TABLE node(
            id INTEGER PRIMARY KEY, parent INTEGER NOT NULL, name BLOB NOT NULL, kind INTEGER NOT NULL,
            mode INTEGER, uid INTEGER, gid INTEGER, size_bytes INTEGER NOT NULL, modified_ns INTEGER,
            accessed_ns INTEGER, changed_ns INTEGER, device INTEGER, target BLOB, extended BLOB, version TEXT, md5 BLOB,
            chunk INTEGER, offset_bytes INTEGER, replaces TEXT, recorded_ns INTEGER NOT NULL, defined INTEGER NOT NULL);
        CREATE UNIQUE INDEX node_by_name ON node(parent, name);
        CREATE INDEX node_of_chunk ON node(chunk) WHERE chunk IS NOT NULL;
        CREATE INDEX node_defined ON node(defined);
        -- Links and whiteouts that stand in chunks, for compaction.
        CREATE TABLE link(sequence INTEGER NOT NULL, source BLOB NOT NULL, path BLOB NOT NULL);
        CREATE INDEX link_of_chunk ON link(sequence);
        CREATE TABLE whiteout(sequence INTEGER NOT NULL, path BLOB NOT NULL);
        CREATE INDEX whiteout_of_chunk ON whiteout(sequence);
        INSERT INTO node(id, parent, name, kind, size_bytes, recorded_ns, defined) VALUES (1, 0, x'', 1, 0, 0, 0);
        """

    /// Opens the map at `path`, or makes it. One that makes no sense, or of another format, is made anew.
    init(path: String) throws(ChunkMapError) {
        let file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        if file >= 0 { close(file) }
        do throws(ChunkMapError) {
            database = try Self.opened(path)
        } catch {
            guard error.fault.kind == .corrupt else { throw error }
            for suffix in ["", "-wal", "-shm"] { unlink(path + suffix) }
            database = try Self.opened(path)
        }
    }

    private static func opened(_ path: String) throws(ChunkMapError) -> Database {
        let database = try Database(path: path)
        let version = try database.first("SELECT version FROM format") { $0.int(0) }
        if version == format {
            // One that is read in a moment is looked through; what is wrong with a larger one is found when it is used.
            var status = stat()
            guard stat(path, &status) == 0, status.st_size <= 32 << 20 else { return database }
            guard try database.first("PRAGMA quick_check(1)", body: { $0.text(0) }) == "ok" else {
                throw ChunkMapError(SQLiteFault(kind: .corrupt, text: "a check of it finds faults"))
            }
            return database
        }
        guard version == nil else {
            throw ChunkMapError(SQLiteFault(kind: .corrupt, text: "it is of format \(version!)"))
        }
        try database.transaction { () throws(ChunkMapError) in
            try database.execute(tables)
            try database.run("INSERT INTO format(version) VALUES (?)", .int(format))
        }
        return database
    }

    // MARK: Notes

    func note(_ key: String) throws(ChunkMapError) -> String? {
        try database.first("SELECT value FROM note WHERE key = ?", .text(key)) { $0.text(0) } ?? nil
    }

    private func setNote(_ key: String, _ value: String) throws(ChunkMapError) {
        try database.run("INSERT OR REPLACE INTO note(key, value) VALUES (?, ?)", .text(key), .text(value))
    }

    /// The last chunk that the map has in it; 0 before the first.
    var applied: Int64 {
        get throws(ChunkMapError) { try note("applied").flatMap { Int64($0) } ?? 0 }
    }

    var volume: String? {
        get throws(ChunkMapError) { try note("volume") }
    }

    /// Forgets everything, and is the map of this volume from now on; nil: of one that is not there yet.
    func begin(volume: String?) throws(ChunkMapError) {
        try database.transaction { () throws(ChunkMapError) in
            try database.execute(
                """
                DELETE FROM chunk; DELETE FROM link; DELETE FROM whiteout; DELETE FROM note;
                DELETE FROM node WHERE id != 1
                """)
            if let volume { try setNote("volume", volume) }
        }
    }

    // MARK: Looking up

    static let root: Int64 = 1

    /// - Returns: nil when nothing of that name is there.
    func child(_ name: some Collection<UInt8>, of parent: Int64) throws(ChunkMapError) -> (id: Int64, kind: FileKind)? {
        try database.first(
            "SELECT id, kind FROM node WHERE parent = ? AND name = ?", .int(parent), .blob(Array(name))
        ) { row throws(ChunkMapError) in (row.int(0), try kind(row.int(1))) }
    }

    func id(of path: StorePath) throws(ChunkMapError) -> Int64? {
        var id = Self.root
        for name in path.bytes.split(separator: 0x2f) {
            guard let child = try child(name, of: id) else { return nil }
            id = child.id
        }
        return id
    }

    func node(at path: StorePath) throws(ChunkMapError) -> PackedNode? {
        guard let id = try id(of: path) else { return nil }
        return try node(id)
    }

    func node(_ name: FileName, in directory: Int64) throws(ChunkMapError) -> PackedNode? {
        guard let child = try child(name.bytes, of: directory) else { return nil }
        return try node(child.id)
    }

    func node(_ id: Int64) throws(ChunkMapError) -> PackedNode? {
        try database.first(
            """
            SELECT name, kind, mode, uid, gid, size_bytes, modified_ns, accessed_ns, changed_ns, device, target,
                extended, version, md5, chunk, offset_bytes, replaces, recorded_ns, defined FROM node WHERE id = ?
            """, .int(id)
        ) { row throws(ChunkMapError) in try node(row) }
    }

    /// A page of a directory's children, by name, behind `name`.
    func children(
        of directory: Int64, after name: [UInt8]?, limit: Int
    ) throws(ChunkMapError) -> [(name: FileName, node: PackedNode)] {
        try database.all(
            """
            SELECT name, kind, mode, uid, gid, size_bytes, modified_ns, accessed_ns, changed_ns, device, target,
                extended, version, md5, chunk, offset_bytes, replaces, recorded_ns, defined
            FROM node WHERE parent = ? AND name > ? ORDER BY name LIMIT ?
            """, .int(directory), .blob(name ?? []), .int(Int64(limit))
        ) { row throws(ChunkMapError) in
            guard let name = FileName(row.blob(0) ?? []) else { throw Self.nonsense("a name is illegal") }
            return (name, try node(row))
        }
    }

    func hasChildren(_ directory: Int64) throws(ChunkMapError) -> Bool {
        try database.exists("SELECT 1 FROM node WHERE parent = ? LIMIT 1", .int(directory))
    }

    /// Everything below a directory, parents first.
    func descendants(of directory: StorePath) throws(ChunkMapError) -> [(path: StorePath, node: PackedNode)] {
        guard let id = try id(of: directory) else { return [] }
        var all: [(path: StorePath, node: PackedNode)] = []
        var waiting = [(directory, id)]
        while let (path, id) = waiting.popLast() {
            let rows = try database.all(
                """
                SELECT name, kind, mode, uid, gid, size_bytes, modified_ns, accessed_ns, changed_ns, device, target,
                    extended, version, md5, chunk, offset_bytes, replaces, recorded_ns, defined, id
                FROM node WHERE parent = ?
                """, .int(id)
            ) { row throws(ChunkMapError) -> (FileName, PackedNode, Int64) in
                guard let name = FileName(row.blob(0) ?? []) else { throw Self.nonsense("a name is illegal") }
                return (name, try node(row), row.int(19))
            }
            for (name, node, id) in rows {
                all.append((path.appending(name), node))
                if node.kind == .directory { waiting.append((path.appending(name), id)) }
            }
        }
        return all
    }

    func chunk(_ sequence: Int64) throws(ChunkMapError) -> ChunkRecord? {
        try database.first("SELECT size_bytes, members_offset FROM chunk WHERE sequence = ?", .int(sequence)) {
            ChunkRecord(sequence: sequence, size: $0.int(0), membersOffset: $0.int(1))
        }
    }

    /// When a chunk was made, by its maker's clock.
    func created(_ sequence: Int64) throws(ChunkMapError) -> Timestamp? {
        try database.first("SELECT created_ns FROM chunk WHERE sequence = ?", .int(sequence)) {
            Timestamp(nanoseconds: $0.int(0))
        }
    }

    /// The chunk behind this one that is still there.
    func chunk(after sequence: Int64) throws(ChunkMapError) -> ChunkRecord? {
        try database.first(
            """
            SELECT sequence, size_bytes, members_offset FROM chunk WHERE sequence > ? AND superseded_ns IS NULL
            ORDER BY sequence LIMIT 1
            """, .int(sequence)
        ) { ChunkRecord(sequence: $0.int(0), size: $0.int(1), membersOffset: $0.int(2)) }
    }

    /// Members that stand in for plain objects.
    func replacements() throws(ChunkMapError) -> [(path: StorePath, replaces: Version)] {
        let found = try database.all("SELECT id, replaces FROM node WHERE replaces IS NOT NULL") {
            ($0.int(0), Version($0.text(1) ?? ""))
        }
        var all: [(path: StorePath, replaces: Version)] = []
        for (id, version) in found { all.append((try path(of: id), version)) }
        return all
    }

    func path(of id: Int64) throws(ChunkMapError) -> StorePath {
        var (names, id): ([[UInt8]], Int64) = ([], id)
        while id != Self.root {
            let found = try database.first("SELECT parent, name FROM node WHERE id = ?", .int(id)) {
                ($0.int(0), $0.blob(1) ?? [])
            }
            guard let found, names.count < 4096 else { throw Self.nonsense("a node has no parent") }
            names.append(found.1)
            id = found.0
        }
        guard let path = StorePath(Array(names.reversed().joined(separator: [0x2f]))) else {
            throw Self.nonsense("a name is illegal")
        }
        return path
    }

    private func kind(_ number: Int64) throws(ChunkMapError) -> FileKind {
        guard let kind = UInt8(exactly: number).flatMap(FileKind.init(rawValue:)) else {
            throw Self.nonsense("a node is of kind \(number)")
        }
        return kind
    }

    /// - Parameter row: The columns as ``node(_:)`` asks for them.
    private func node(_ row: borrowing Row) throws(ChunkMapError) -> PackedNode {
        func time(_ column: Int32) -> Timestamp? { row.optionalInt(column).map { Timestamp(nanoseconds: $0) } }
        func number(_ column: Int32) -> UInt32? { row.optionalInt(column).map { UInt32(truncatingIfNeeded: $0) } }
        var node = PackedNode(kind: try kind(row.int(1)))
        node.size = row.int(5)
        node.attributes = Attributes(
            mode: number(2), uid: number(3), gid: number(4), accessed: time(7), modified: time(6), changed: time(8),
            device: row.optionalInt(9).map { UInt64(bitPattern: $0) })
        if let extended = row.blob(11) {
            var reader = RecordReader(extended[...])
            do throws(StoreError) {
                while let record = try reader.next() { _ = try node.attributes.take(record) }
            } catch { throw Self.nonsense(error.message) }
        }
        node.target = row.blob(10)
        node.version = row.text(12).map { Version($0) }
        if let chunk = row.optionalInt(14) {
            node.bytes = PackedBytes(chunk: chunk, offset: row.int(15), size: node.size, md5: row.blob(13))
        }
        node.replaces = row.text(16).map { Version($0) }
        node.recorded = Timestamp(nanoseconds: row.int(17))
        node.defined = row.int(18)
        return node
    }

    private static func nonsense(_ text: String) -> ChunkMapError {
        ChunkMapError(SQLiteFault(kind: .corrupt, text: text))
    }
}
