import SQLite
import StoreAPI
import Threading

extension ObjectIdentity {
    /// What the file's object at `path` has to say.
    init(of file: String, _ record: InodeRecord, at path: StorePath) {
        self.init(of: file, at: path, size: record.size, modified: record.modified)
    }
}

// Names of one file are told by what their objects say: see ``ObjectIdentity``. An inode's identity counts as long as
// its content has the generation that the identity is for.
extension Tables {
    var keepsIdentities: Bool { capabilities.contains([.attributes, .extendedAttributes]) }

    /// The identity that the file is known to have in its present state.
    private func knownIdentity(of inode: InodeID) throws(CatalogError) -> String? {
        try database.first(
            "SELECT identity FROM inode WHERE id = ? AND identity_generation = content_generation", .int(inode.row)
        ) { $0.text(0) } ?? nil
    }

    /// The identity of a file in its present state; nil: it has one name, and had no more since its bytes were changed.
    private func identity(of record: InodeRecord) throws(CatalogError) -> String? {
        guard record.kind == .file, keepsIdentities else { return nil }
        if let known = try knownIdentity(of: record.id) { return known }
        guard record.links > 1 else { return nil }
        let new = ObjectIdentity.newFile()
        try setIdentity(of: record.id, to: new)
        return new
    }

    /// The identity of the file in the state that it has now.
    private func setIdentity(of inode: InodeID, to identity: String) throws(CatalogError) {
        try database.run(
            "UPDATE inode SET identity = ?, identity_generation = content_generation WHERE id = ?", .text(identity),
            .int(inode.row))
    }

    /// What the store is to keep of a file whose object lies, or comes to lie, at `path`.
    func storeAttributes(of record: InodeRecord, at path: StorePath) throws(CatalogError) -> Attributes {
        var attributes = try storeAttributes(of: record)
        attributes.identity = try identity(of: record).map { ObjectIdentity(of: $0, record, at: path).text }
        return attributes
    }

    /// Whether the object, which has the file's bytes and attributes, does not say of itself what it should.
    func lacksIdentity(_ object: ObjectRow, of record: InodeRecord) throws(CatalogError) -> Bool {
        guard let identity = try identity(of: record) else { return false }
        let wanted = ObjectIdentity(of: identity, record, at: try path(ofObject: object.id))
        return try self.identity(ofObject: object.id) != wanted.text
    }

    private func identity(ofObject id: Int64) throws(CatalogError) -> String? {
        try database.first("SELECT identity FROM object WHERE id = ?", .int(id)) { $0.text(0) } ?? nil
    }

    /// What the object says of itself now.
    func setIdentity(ofObject id: Int64, to text: String) throws(CatalogError) {
        try database.run("UPDATE object SET identity = ? WHERE id = ?", .text(text), .int(id))
    }

    /// A directory was moved on the store: what the objects in it say of themselves has to be said anew.
    func remarkNames(below directory: Int64) throws(CatalogError) {
        let objects = try database.all(
            """
            WITH RECURSIVE below(id) AS (
                SELECT ?1
                UNION ALL
                SELECT o.id FROM below JOIN object o INDEXED BY object_of_directories
                    ON o.parent = below.id AND o.directory = 1)
            SELECT f.parent, f.name, f.inode FROM below JOIN object f INDEXED BY object_with_identity
                ON f.parent = below.id AND f.identity IS NOT NULL
            """, .int(directory)
        ) { row throws(CatalogError) in
            (parent: row.int(0), name: try fileName(row.blob(1)), inode: row.optionalInt(2))
        }
        for object in objects {
            for holder in try directories(at: object.parent) {
                guard let inode = try entry(object.name, in: holder)?.id, inode.row == object.inode else { continue }
                try mark(object.name, in: holder)
            }
        }
    }

    // MARK: What turns up

    /// The store has told the attributes of the object of a file: where another file has the same bytes, by the same
    /// identity, both are one. The other one may have been written to here since: then it keeps what was written, under
    /// all names.
    ///
    /// - Parameter isOlder: The file may have been in use before: then it is the one that stays if it is older.
    /// - Returns: whether `inode` has lost its names to another one.
    func noteIdentity(
        _ metadata: Metadata, of inode: InodeID, _ object: Int64, isOlder: Bool, _ changes: inout [NamespaceChange]
    ) throws(CatalogError) -> Bool {
        guard let text = metadata.attributes?.identity, keepsIdentities, let row = try self.object(object),
            row.inode == inode, row.foreign == 0, try identity(ofObject: object) != text
        else { return false }
        guard let told = ObjectIdentity(metadata, at: try path(ofObject: object)),
            try generations(of: inode).content == row.contentGeneration, let record = try file(inode),
            try !isDirty(inode)
        else {
            try setIdentity(ofObject: object, to: text)
            return false
        }
        let before = try knownIdentity(of: inode)
        // Two machines have given the file another name at the same time: both decide for the same identity.
        let chosen = before.map { min($0, told.file) } ?? told.file
        let twins = try files([told.file, chosen], but: inode)
        // A later listing tells it again.
        for file in twins + [record] where try isUnderWork(file.id) { return false }
        try setIdentity(ofObject: object, to: text)
        try setIdentity(of: inode, to: chosen)
        if let before, before != told.file { try markNames(of: inode) }
        for twin in twins {
            let isAhead = try isAhead(twin.id)
            guard isAhead || twin.size == record.size else { continue }
            let isKept = isOlder && !isAhead && inode < twin.id
            let (gone, kept) = isKept ? (twin, record) : (record, twin)
            try join(gone, to: kept, isAhead: isAhead, &changes)
            if isAhead {
                try markNames(of: kept.id)
            } else if try knownIdentity(of: kept.id) != chosen {
                try setIdentity(of: kept.id, to: chosen)
                try markNames(of: kept.id)
            }
            return !isKept
        }
        return false
    }

    /// The files that have one of these identities, or had it before they were written to here.
    private func files(_ identities: Set<String>, but inode: InodeID) throws(CatalogError) -> [InodeRecord] {
        var found: [InodeRecord] = []
        for identity in identities.sorted() {
            let ids = try database.all("SELECT id FROM inode WHERE identity = ? ORDER BY id", .text(identity)) {
                InodeID(UInt64($0.int(0)))
            }
            for id in ids where id != inode {
                if let file = try file(id) { found.append(file) }
            }
        }
        return found
    }

    private func file(_ id: InodeID) throws(CatalogError) -> InodeRecord? {
        guard let record = try inode(id), record.kind == .file, record.links > 0, record.attributesAreKnown else {
            return nil
        }
        return record
    }

    /// Whether the file has been written to since it was in the state that its identity is for.
    private func isAhead(_ inode: InodeID) throws(CatalogError) -> Bool {
        try database.exists(
            """
            SELECT 1 FROM inode LEFT JOIN content ON content.inode = inode.id
            WHERE id = ? AND (identity_generation != content_generation OR dirty = 1)
            """, .int(inode.row))
    }

    /// Whether somebody is changing an object of the file.
    private func isUnderWork(_ inode: InodeID) throws(CatalogError) -> Bool {
        if underWay.isEmpty { return false }
        if underWay.row(uploading: inode, but: nil) != nil { return true }
        var places = try database.all("SELECT parent, name FROM object WHERE inode = ?", .int(inode.row)) {
            row throws(CatalogError) in Place(parent: row.int(0), name: try fileName(row.blob(1)))
        }
        for (parent, name) in try names(of: inode) {
            if let place = try place(of: parent) { places.append(Place(parent: place, name: name)) }
        }
        for place in places where try worker(at: place) != nil { return true }
        return false
    }

    /// Gives all names of one file to another one. The first one stays, without names, for those who have it open.
    ///
    /// - Parameter isAhead: The one that is kept has newer bytes.
    private func join(
        _ gone: InodeRecord, to kept: InodeRecord, isAhead: Bool, _ changes: inout [NamespaceChange]
    ) throws(CatalogError) {
        let names = try database.all("SELECT id, parent, name FROM entry WHERE inode = ?", .int(gone.id.row)) {
            row throws(CatalogError) in
            (cookie: row.int(0), parent: InodeID(UInt64(row.int(1))), name: try fileName(row.blob(2)))
        }
        for (_, parent, name) in names { changes.append(.entry(parent: parent, name: name, inode: gone.id)) }
        changes.append(.attributes(kept.id))
        try database.run("UPDATE entry SET inode = ? WHERE inode = ?", .int(kept.id.row), .int(gone.id.row))
        try database.run("UPDATE inode SET links = 0 WHERE id = ?", .int(gone.id.row))
        try database.run(
            "UPDATE inode SET links = links + ? WHERE id = ?", .int(Int64(names.count)), .int(kept.id.row))
        let isHeldBack = try reconcile(gone, kept) || isAhead
        let before = try generations(of: gone.id)
        let now = try generations(of: kept.id)
        try database.run(
            """
            UPDATE object SET inode = ?1, content_generation = CASE WHEN content_generation = ?3 AND NOT ?8 THEN ?4 ELSE -1 END,
                attribute_generation = CASE WHEN attribute_generation = ?5 AND NOT ?7 THEN ?6 ELSE -1 END
            WHERE inode = ?2
            """, .int(kept.id.row), .int(gone.id.row), .int(before.content), .int(now.content), .int(before.attributes),
            .int(now.attributes), SQLValue(isHeldBack), SQLValue(isAhead))
        if isHeldBack { for (_, parent, name) in names { try mark(name, in: parent, bytes: kept.size) } }
        // What the kept one was made of may have gone.
        let source = try place(of: kept.id)
        if source == nil || source == Self.goneObject {
            try database.run(
                """
                UPDATE inode SET (object, source_version, source_size_bytes) =
                    (SELECT object, source_version, source_size_bytes FROM inode WHERE id = ?) WHERE id = ?
                """, .int(gone.id.row), .int(kept.id.row))
        }
        let earlier = joined.values.filter { $0.kept == gone.id }
        for join in earlier { joined[join.gone]?.kept = kept.id }
        joined[gone.id] = Joined(gone: gone.id, kept: kept.id, cookies: names.map(\.cookie))
    }

    /// Somebody who has had a file open since before it became one with another one writes to it: it gets its names
    /// back, so that what is written has a name.
    func part(_ inode: InodeID) throws(CatalogError) {
        guard let join = joined.removeValue(forKey: inode) else { return }
        for cookie in join.cookies {
            let name = try database.first(
                "SELECT parent, name FROM entry WHERE id = ? AND inode = ?", .int(cookie), .int(join.kept.row)
            ) { row throws(CatalogError) in (parent: InodeID(UInt64(row.int(0))), name: try fileName(row.blob(1))) }
            guard let (parent, name) = name else { continue }
            try database.run("UPDATE entry SET inode = ? WHERE id = ?", .int(inode.row), .int(cookie))
            try addLinks(1, to: inode)
            try addLinks(-1, to: join.kept)
            guard let place = try place(of: parent), let object = try object(name, below: place),
                object.inode == join.kept
            else { continue }
            // The bytes are the same; what it says of itself is no more true of this file.
            try database.run(
                """
                UPDATE object SET inode = ?1, attribute_generation = -1, content_generation =
                    CASE WHEN content_generation = ?3 THEN ?4 ELSE -1 END WHERE id = ?2
                """, .int(inode.row), .int(object.id), .int(try generations(of: join.kept).content),
                .int(try generations(of: inode).content))
        }
    }

    /// Gives the one that is kept the attributes that were changed last.
    ///
    /// - Returns: whether the other one's objects have to get them. What differs without a change from here is a change
    ///   that somebody else is about to make under all names.
    private func reconcile(_ gone: InodeRecord, _ kept: InodeRecord) throws(CatalogError) -> Bool {
        let told = try storedAttributes(of: gone.id)
        let known = try storedAttributes(of: kept.id)
        guard told != known else { return false }
        guard gone.changed > kept.changed else { return try generations(of: kept.id).attributes > 0 }
        try database.run(
            """
            UPDATE inode SET (mode, uid, gid, accessed_ns, modified_ns, changed_ns) =
                (SELECT mode, uid, gid, accessed_ns, modified_ns, changed_ns FROM inode WHERE id = ?1),
                attribute_generation = attribute_generation + 1 WHERE id = ?2
            """, .int(gone.id.row), .int(kept.id.row))
        try database.run("DELETE FROM attribute WHERE inode = ?", .int(kept.id.row))
        try database.run(
            "INSERT INTO attribute(inode, name, value) SELECT ?, name, value FROM attribute WHERE inode = ?",
            .int(kept.id.row), .int(gone.id.row))
        if try generations(of: gone.id).attributes > 0 { try markNames(of: kept.id) }
        return false
    }

    /// What is shown of a file and kept on the store, but for the times that every name has for itself.
    private func storedAttributes(of inode: InodeID) throws(CatalogError) -> Attributes {
        var attributes = Attributes(extended: try extendedAttributes(of: inode))
        let row = try database.first("SELECT mode, uid, gid, modified_ns FROM inode WHERE id = ?", .int(inode.row)) {
            (
                mode: $0.optionalInt(0).map { UInt32($0) }, uid: $0.optionalInt(1).map { UInt32($0) },
                gid: $0.optionalInt(2).map { UInt32($0) }, modified: Timestamp(nanoseconds: $0.int(3))
            )
        }
        attributes.mode = row?.mode
        attributes.uid = row?.uid
        attributes.gid = row?.gid
        attributes.modified = row?.modified
        return attributes
    }
}
