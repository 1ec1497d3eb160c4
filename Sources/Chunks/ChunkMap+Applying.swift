import SQLite
import StoreAPI
import Threading

extension ChunkMap {
    /// Takes in what a chunk changes, in one transaction: the same for chunks made here and by others.
    ///
    /// Members come in their order, and each makes of the tree what extracting it would: a link whose source is not
    /// there changes nothing, a directory that is there gets new attributes, anything else takes the place of what is
    /// there.
    ///
    /// - Parameter now: Since when the chunks that it supersedes are known not to be needed, here.
    func apply(_ head: ChunkHead, now: Timestamp) throws(ChunkMapError) {
        try database.transaction { () throws(ChunkMapError) in
            var application = Application(map: self, sequence: head.index.sequence, created: head.index.created)
            var bytes: Int64 = 0
            for member in head.index.members where member.kind == .file { bytes += member.size }
            try database.run(
                """
                INSERT INTO chunk(sequence, size_bytes, members_offset, data_bytes, live_bytes, created_ns)
                VALUES (?, ?, ?, ?, 0, ?)
                """, .int(head.index.sequence), .int(head.size), .int(head.membersOffset), .int(bytes),
                .int(head.index.created.nanoseconds))
            for member in head.index.members { try application.apply(member) }
            try application.finish()
            for sequence in head.index.supersedes {
                try database.run(
                    "UPDATE chunk SET superseded_ns = ? WHERE sequence = ? AND superseded_ns IS NULL",
                    .int(now.nanoseconds), .int(sequence))
            }
            try database.run(
                "INSERT OR REPLACE INTO note(key, value) VALUES ('applied', ?)", .text(String(head.index.sequence)))
        }
    }
}

/// A chunk being taken into the map.
private struct Application {
    let map: ChunkMap
    let sequence: Int64
    let created: Timestamp
    /// Directories that were needed already. Members of one directory stand together.
    private var directories: [StorePath: Int64] = [.root: ChunkMap.root]
    /// What chunks gain or lose of files that are there.
    private var live: [Int64: Int64] = [:]

    init(map: ChunkMap, sequence: Int64, created: Timestamp) {
        self.map = map
        self.sequence = sequence
        self.created = created
    }

    private var database: ChunkMap.Database { map.database }

    mutating func apply(_ member: ChunkMember) throws(ChunkMapError) {
        switch member.kind {
        case .whiteout:
            try database.run(
                "INSERT INTO whiteout(sequence, path) VALUES (?, ?)", .int(sequence), .blob(member.path.bytes))
            try remove(member.path)
        case .link:
            let source = member.link!
            try database.run(
                "INSERT INTO link(sequence, source, path) VALUES (?, ?, ?)", .int(sequence), .blob(source.bytes),
                .blob(member.path.bytes))
            guard var node = try map.node(at: source), node.kind == .file else { return }
            node.replaces = member.replaces
            try place(node, at: member.path)
        case .directory:
            try place(PackedNode(kind: .directory, attributes: member.attributes), at: member.path)
        case .file, .symbolicLink, .fifo, .characterDevice, .blockDevice:
            try place(PackedNode(member, in: sequence, created: created), at: member.path)
        }
    }

    mutating func finish() throws(ChunkMapError) {
        for (chunk, bytes) in live where bytes != 0 {
            try database.run(
                "UPDATE chunk SET live_bytes = live_bytes + ? WHERE sequence = ?", .int(bytes), .int(chunk))
        }
    }

    private mutating func directory(_ path: StorePath) throws(ChunkMapError) -> Int64 {
        if let id = directories[path] { return id }
        let parent = try directory(path.parent!)
        let id: Int64
        if let child = try map.child(path.name!.bytes, of: parent), child.kind == .directory {
            id = child.id
        } else {
            // Extracting makes what is missing above a member.
            id = try put(
                PackedNode(kind: .directory, recorded: created), path.name!, in: parent,
                over: try map.child(path.name!.bytes, of: parent))
        }
        directories[path] = id
        return id
    }

    private mutating func place(_ node: PackedNode, at path: StorePath) throws(ChunkMapError) {
        var node = node
        if node.kind == .directory { node.recorded = created }
        let parent = try directory(path.parent!)
        let id = try put(node, path.name!, in: parent, over: try map.child(path.name!.bytes, of: parent))
        if node.kind == .directory { directories[path] = id }
    }

    private mutating func put(
        _ node: PackedNode, _ name: FileName, in parent: Int64, over found: (id: Int64, kind: FileKind)?
    ) throws(ChunkMapError) -> Int64 {
        if let found, found.kind == .directory, node.kind == .directory {
            // Its contents stay.
            try write(node, name, in: parent, id: found.id)
            return found.id
        }
        if let found { try removeTree(found.id, found.kind) }
        try write(node, name, in: parent, id: nil)
        if let bytes = node.bytes { live[bytes.chunk, default: 0] += bytes.size }
        return database.lastInsertedRow
    }

    private func write(_ node: PackedNode, _ name: FileName, in parent: Int64, id: Int64?) throws(ChunkMapError) {
        let attributes = node.attributes
        var extended: [UInt8]?
        if attributes.extended != nil || attributes.identity != nil {
            var records = Records()
            records.add(Attributes(extended: attributes.extended, identity: attributes.identity))
            extended = records.bytes
        }
        try database.run(
            """
            INSERT OR REPLACE INTO node(id, parent, name, kind, mode, uid, gid, size_bytes, modified_ns, accessed_ns,
                changed_ns, device, target, extended, version, md5, chunk, offset_bytes, replaces, recorded_ns, defined)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            [
                SQLValue(id), .int(parent), .blob(name.bytes), .int(Int64(node.kind.rawValue)),
                SQLValue(attributes.mode.map { Int64($0) }), SQLValue(attributes.uid.map { Int64($0) }),
                SQLValue(attributes.gid.map { Int64($0) }), .int(node.size),
                SQLValue(attributes.modified?.nanoseconds), SQLValue(attributes.accessed?.nanoseconds),
                SQLValue(attributes.changed?.nanoseconds),
                SQLValue(attributes.device.map { Int64(bitPattern: $0) }), SQLValue(node.target), SQLValue(extended),
                SQLValue(node.version?.text), SQLValue(node.bytes?.md5), SQLValue(node.bytes?.chunk),
                SQLValue(node.bytes?.offset), SQLValue(node.replaces?.text), .int(node.recorded.nanoseconds),
                .int(sequence),
            ])
    }

    private mutating func remove(_ path: StorePath) throws(ChunkMapError) {
        guard let parent = try map.id(of: path.parent!), let found = try map.child(path.name!.bytes, of: parent) else {
            return
        }
        try removeTree(found.id, found.kind)
    }

    private mutating func removeTree(_ id: Int64, _ kind: FileKind) throws(ChunkMapError) {
        if kind == .directory {
            let children = try database.all("SELECT id, kind FROM node WHERE parent = ?", .int(id)) {
                ($0.int(0), $0.int(1))
            }
            for (child, kind) in children {
                try removeTree(child, kind == Int64(FileKind.directory.rawValue) ? .directory : .file)
            }
            directories = [.root: ChunkMap.root]
        } else {
            let bytes = try database.first(
                "SELECT chunk, size_bytes FROM node WHERE id = ? AND chunk IS NOT NULL", .int(id)
            ) { ($0.int(0), $0.int(1)) }
            if let (chunk, size) = bytes { live[chunk, default: 0] -= size }
        }
        try database.run("DELETE FROM node WHERE id = ?", .int(id))
    }
}
