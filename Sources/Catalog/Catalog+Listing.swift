import SQLite
package import StoreAPI
import Threading

// What the store says of itself: listings and attributes, merged into the namespace.
extension Catalog {
    /// Begins a listing of `directory`, which ``merge(_:into:)`` and ``endListing(_:)`` go on with.
    ///
    /// - Returns: nil while the directory lies only here: its listing is what is here.
    package func beginListing(of directory: InodeID) throws(CatalogError) -> ListingPlan? {
        try read { tables throws(CatalogError) in
            guard let object = try tables.place(of: directory) else { return nil }
            return ListingPlan(
                directory: directory, path: try tables.path(ofObject: object), object: object, number: tables.now,
                begun: tables.workCount)
        }
    }

    /// Takes a page of the listing. A name with a change of ours that the store does not have yet keeps it.
    package func merge(_ entries: [ListEntry], into listing: ListingPlan) throws(CatalogError) -> [NamespaceChange] {
        try write { tables throws(CatalogError) in
            var changes: [NamespaceChange] = []
            guard try tables.isCurrent(listing) else { return [] }
            for entry in entries { try tables.merge(entry, into: listing, isDefinite: false, &changes) }
            return changes
        }
    }

    /// Names in a page of a listing that contradict what this program has done there lately: what it has taken away is
    /// shown, or what it has put there is shown as something else. A listing may lag behind by minutes on some stores,
    /// whatever a trial has shown: before it is believed, the store has to be asked for them one by one.
    package func doubts(about entries: [ListEntry], in listing: ListingPlan) throws(CatalogError) -> Set<FileName> {
        try read { tables throws(CatalogError) in
            var names: Set<FileName> = []
            for entry in entries where try tables.contradicts(entry, listing) { names.insert(entry.name) }
            return names
        }
    }

    /// The same for what the whole listing did not show. Ask before ``endListing(_:changed:)``.
    package func doubtfulAbsences(in listing: ListingPlan) throws(CatalogError) -> [FileName] {
        var names: [FileName] = []
        var span: NameSpan? = NameSpan()
        while let asked = span {
            span = try read { tables throws(CatalogError) in
                let (unseen, next) = try tables.unseenObjects(in: listing, asked)
                names += unseen.filter { $0.written > listing.number - Tables.longestLag }.compactMap(\.name)
                return next
            }
        }
        return names
    }

    /// All pages have been merged: what was not among them is gone from the store.
    ///
    /// - Parameter changed: told what that changes, some at a time: others use the catalog in between.
    package func endListing(_ listing: ListingPlan, changed: ([NamespaceChange]) -> Void) throws(CatalogError) {
        var span: NameSpan? = NameSpan()
        while let asked = span {
            // What lay in a directory that is gone goes first, as if it had been listed and were empty.
            for inner in try read({ tables throws(CatalogError) in try tables.vanishedDirectories(listing, asked) }) {
                try endListing(inner, changed: changed)
            }
            var changes: [NamespaceChange] = []
            span = try write { tables throws(CatalogError) -> NameSpan? in
                guard try tables.isCurrent(listing) else { return nil }
                let (unseen, next) = try tables.vanishedObjects(listing, asked)
                for object in unseen { try tables.objectVanished(object, from: listing.directory, &changes) }
                if next == nil {
                    try tables.forgetSent(below: listing.object, before: listing.number - Tables.longestLag)
                    try tables.trust(listing)
                }
                return next
            }
            if !changes.isEmpty { changed(changes) }
        }
    }

    /// Whether the directory still lies where the listing looks: else what it shows is taken for nothing, and it has to
    /// be begun anew.
    package func isCurrent(_ listing: ListingPlan) throws(CatalogError) -> Bool {
        try read { tables throws(CatalogError) in try tables.isCurrent(listing) }
    }

    /// Marks the directory's listing as not to be trusted any more, nor one of it that is under way.
    package func distrustListing(of directory: InodeID) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            tables.workCount += 1
            tables.distrusted[directory] = tables.workCount
            try tables.database.run("UPDATE inode SET listed_ns = NULL WHERE id = ?", .int(directory.row))
        }
    }

    /// Those of the next `count` entries of `directory` of which the store has to be asked, because the listing did not
    /// tell: see ``unknownAttributes(of:)``.
    ///
    /// - Parameter cookie: of the last entry that was looked at before; 0 to begin.
    /// - Returns: also where to go on; nil at the end.
    package func unknownInodes(in directory: InodeID, after cookie: Int64, count: Int) throws(CatalogError)
        -> (inodes: [InodeID], next: Int64?)
    {
        try read { tables throws(CatalogError) in
            let entries = try tables.database.all(
                """
                SELECT e.id, i.id, known = 0 AND object > 0 FROM entry e INDEXED BY entry_in_order
                JOIN inode i ON i.id = e.inode WHERE parent = ? AND e.id > ? ORDER BY e.id LIMIT ?
                """, .int(directory.row), .int(cookie), .int(Int64(count))
            ) { (cookie: $0.int(0), inode: InodeID(UInt64($0.int(1))), isUnknown: $0.bool(2)) }
            return (
                entries.filter(\.isUnknown).map(\.inode), entries.count == count ? entries.last?.cookie : nil
            )
        }
    }

    /// The directory in which an inode has a name (the first, if it has several), and the name's cookie; nil: it has none.
    package func position(of inode: InodeID) throws(CatalogError) -> (directory: InodeID, cookie: Int64)? {
        try read { tables throws(CatalogError) in
            try tables.database.first(
                "SELECT parent, id FROM entry WHERE inode = ? ORDER BY id LIMIT 1", .int(inode.row)
            ) { (directory: InodeID(UInt64($0.int(0))), cookie: $0.int(1)) }
        }
    }

    /// One of the entries of a directory, as far as reading ahead has to know it.
    package struct Neighbour {
        package var cookie: Int64
        package var file: InodeID
        /// Bytes on the store.
        package var size: Int64
        /// It is a file of which all bytes are on the store, and none here.
        package var isAbsent: Bool
    }

    /// The next `count` entries of `directory` behind `cookie`.
    package func neighbours(in directory: InodeID, after cookie: Int64, count: Int) throws(CatalogError)
        -> [Neighbour]
    {
        try read { tables throws(CatalogError) in
            try tables.database.all(
                """
                SELECT e.id, i.id, i.source_size_bytes,
                    i.kind = ?4 AND i.object > 0 AND i.source_size_bytes > 0 AND c.inode IS NULL
                FROM entry e INDEXED BY entry_in_order JOIN inode i ON i.id = e.inode
                LEFT JOIN content c ON c.inode = i.id AND (c.dirty = 1 OR c.cached_bytes > 0)
                WHERE e.parent = ?1 AND e.id > ?2 ORDER BY e.id LIMIT ?3
                """, .int(directory.row), .int(cookie), .int(Int64(count)), .int(Int64(FileKind.file.rawValue))
            ) {
                Neighbour(
                    cookie: $0.int(0), file: InodeID(UInt64($0.int(1))), size: $0.optionalInt(2) ?? 0,
                    isAbsent: $0.bool(3))
            }
        }
    }

    /// The question to ask the store for one inode; nil when its attributes are known.
    package func unknownAttributes(of inode: InodeID) throws(CatalogError) -> ContentQuestion? {
        try read { tables throws(CatalogError) in try tables.question(inode) }
    }

    /// The store's answer; `target` for symbolic links. An answer about another version than the catalog knows is
    /// taken as a listing of it would be.
    package func learnAttributes(_ metadata: Metadata, target: [UInt8]?, of question: ContentQuestion)
        throws(CatalogError) -> [NamespaceChange]
    {
        try write { tables throws(CatalogError) in
            guard let record = try tables.inode(question.inode), !record.attributesAreKnown,
                let object = try tables.object(question.object)
            else { return [] }
            var changes: [NamespaceChange] = []
            guard try tables.path(ofObject: object.id) == question.path,
                try !tables.isMoved(object.parent, since: question.begun)
            else { return [] }
            if object.version != metadata.version, object.version != nil, metadata.version != nil,
                let directory = try tables.directory(at: object.parent), let name = object.name
            {
                let listing = ListingPlan(
                    directory: directory, path: question.path, object: object.parent, number: tables.now,
                    begun: question.begun)
                try tables.merge(
                    ListEntry(name: name, metadata: metadata), into: listing, isDefinite: false, &changes)
                return changes
            }
            try tables.learn(metadata, target, record, object.id, &changes)
            return changes + [.attributes(record.id)]
        }
    }

    /// The worker on a row was told by the store, during its step, that there is a version at `path` that this catalog
    /// did not know (a precondition failed); nil: nothing is there. What to do about it is in the next ``plan(_:)``.
    package func foundOnStore(_ metadata: Metadata?, at path: StorePath, by item: PendingID) throws(CatalogError)
        -> [NamespaceChange]
    {
        try write { tables throws(CatalogError) in
            guard let begun = tables.underWay[item.value]?.begun else { return [] }
            var place: Int64 = 1
            for name in path.parent?.components ?? [] {
                guard let object = try tables.object(name, below: place) else { return [] }
                place = object.id
            }
            guard let name = path.name,
                try !tables.isOurWork(at: Tables.Place(parent: place, name: name), since: begun, by: item.value)
            else { return [] }
            let known = try tables.object(name, below: place)
            var changes: [NamespaceChange] = []
            guard let directory = try tables.directory(at: place) else {
                // The directory has another place by now, to which its entries go one by one. What lies here instead
                // of one of them is seen once the old place has turned out not to be empty.
                if let known, !(metadata.map { tables.isSame(known, $0) } ?? false) {
                    try tables.objectVanished(known, from: nil, &changes)
                }
                return changes
            }
            if let metadata {
                let listing = ListingPlan(
                    directory: directory, path: path, object: place, number: tables.now, begun: begun)
                try tables.merge(ListEntry(name: name, metadata: metadata), into: listing, isDefinite: true, &changes)
            } else if let known {
                try tables.objectVanished(known, from: directory, &changes)
            }
            return changes
        }
    }
}

/// A number of names in order that are looked at in one transaction, where there may be a million.
private struct NameSpan {
    static let length: Int64 = 256
    /// No name is longer than 255 bytes.
    static let behindAll = [UInt8](repeating: 0xff, count: 256)
    /// The last name of the span before. No name is empty.
    var after: [UInt8] = []
}

extension Tables {
    /// How long a listing may lag behind writes, in nanoseconds: what this program wrote so recently is taken neither
    /// for gone nor for changed by others.
    private var listingLag: Int64 { capabilities.contains(.consistentListing) ? 0 : 5_000_000_000 }

    /// How long a listing may lag behind at all, in nanoseconds: afterwards it is believed.
    static let longestLag: Int64 = 600_000_000_000

    /// Whether what was done then is so recent that the listing may not show it yet. What was done in the future was
    /// done long ago: somebody has turned the clock back.
    private func isRecent(_ time: Int64, for listing: ListingPlan) -> Bool {
        time > listing.number - listingLag && time <= max(now, listing.number)
    }

    fileprivate func contradicts(_ entry: ListEntry, _ listing: ListingPlan) throws(CatalogError) -> Bool {
        let earliest = listing.number - Self.longestLag
        let place = Place(parent: listing.object, name: entry.name)
        let known = try object(entry.name, below: listing.object)
        // Whether it is what was sent there is told by its attributes.
        if entry.metadata.attributes == nil, entry.metadata.kind != .directory,
            known.map({ !sameVersion($0, entry.metadata) }) ?? true, try isAnythingSent(to: place)
        {
            return true
        }
        guard let object = known else { return ended[place].map { $0.time > earliest } ?? false }
        guard object.written > earliest, !object.isDirectory || entry.metadata.kind != .directory else { return false }
        return !isSame(object, entry.metadata)
    }

    fileprivate func isCurrent(_ listing: ListingPlan) throws(CatalogError) -> Bool {
        guard try object(listing.object) != nil, try place(of: listing.directory) == listing.object else {
            return false
        }
        return try !isMoved(listing.object, since: listing.begun)
    }

    /// What is gone from the store, among the names in `span`: no work of ours can be why the listing has not shown it.
    fileprivate func vanishedObjects(_ listing: ListingPlan, _ span: NameSpan) throws(CatalogError)
        -> (vanished: [ObjectRow], next: NameSpan?)
    {
        let (unseen, next) = try unseenObjects(in: listing, span)
        var vanished: [ObjectRow] = []
        for object in unseen {
            guard let name = object.name,
                try !isOurWork(at: Place(parent: listing.object, name: name), since: listing.begun)
            else { continue }
            vanished.append(object)
        }
        return (vanished, next)
    }

    /// The directories among them that are here under the same name, each as a listing that showed nothing.
    fileprivate func vanishedDirectories(_ listing: ListingPlan, _ span: NameSpan) throws(CatalogError) -> [ListingPlan]
    {
        guard try isCurrent(listing) else { return [] }
        var plans: [ListingPlan] = []
        for object in try vanishedObjects(listing, span).vanished where object.isDirectory {
            guard let name = object.name, let local = try entry(name, in: listing.directory),
                local.id == (try directory(at: object.id))
            else { continue }
            plans.append(
                ListingPlan(
                    directory: local.id, path: listing.path.appending(name), object: object.id, number: listing.number,
                    begun: listing.begun))
        }
        return plans
    }

    /// What a listing has not shown, among the names in `span`.
    ///
    /// - Returns: also the span to go on with; nil at the end.
    fileprivate func unseenObjects(in listing: ListingPlan, _ span: NameSpan) throws(CatalogError)
        -> (unseen: [ObjectRow], next: NameSpan?)
    {
        let last = try database.first(
            "SELECT name FROM object WHERE parent = ? AND name > ? ORDER BY name LIMIT 1 OFFSET ?",
            .int(listing.object), .blob(span.after), .int(NameSpan.length - 1)
        ) { $0.blob(0) ?? [] }
        let unseen = try database.all(
            """
            SELECT id, parent, name, directory, inode, version, size_bytes, modified_ns, content_generation,
                attribute_generation, foreign_version, seen_ns, written_ns FROM object
            WHERE parent = ?1 AND name > ?4 AND name <= ?5
                -- A directory that is still to be made was never there to vanish.
                AND (seen_ns != 0 OR written_ns != 0)
                -- What was seen or written in the future was so long ago: somebody has turned the clock back.
                AND seen_ns != ?2 AND (seen_ns < ?2 OR seen_ns > ?6) AND (written_ns < ?2 - ?3 OR written_ns > ?6)
            """, .int(listing.object), .int(listing.number), .int(listingLag), .blob(span.after),
            .blob(last ?? NameSpan.behindAll), .int(max(now, listing.number))
        ) { row throws(CatalogError) in try objectRow(row) }
        return (unseen, last.map { NameSpan(after: $0) })
    }

    /// One line of a listing.
    ///
    /// - Parameter isDefinite: the store was asked for just this object, after a write found it changed.
    func merge(
        _ entry: ListEntry, into listing: ListingPlan, isDefinite: Bool, _ changes: inout [NamespaceChange]
    ) throws(CatalogError) {
        // What this program keeps on the store for itself is no part of the namespace.
        if listing.directory == .root, entry.name == .control { return }
        let metadata = entry.metadata
        let local = try self.entry(entry.name, in: listing.directory)
        let pending = local == nil ? nil : try pendingRow(entry.name, in: listing.directory)
        let place = Place(parent: listing.object, name: entry.name)
        let isOurWork = isDefinite ? false : try self.isOurWork(at: place, since: listing.begun)
        if !isOurWork, try takeSent(metadata, at: place, in: listing.directory) { return }
        guard let object = try object(entry.name, below: listing.object) else {
            if let local {
                // Made here and there. What a worker is just putting there is ours.
                if isOurWork { return }
                if local.kind == .directory, metadata.kind == .directory {
                    _ = try insertObject(entry, below: listing, inode: nil)
                } else {
                    let id = try insertObject(entry, below: listing, inode: nil)
                    try setForeign(id, isDefinite ? 2 : 1)
                    if pending == nil { try mark(entry.name, in: listing.directory) }
                }
            } else {
                if isOurWork { return }
                if let moment = ended[place], !isDefinite, isRecent(moment.time, for: listing) { return }
                try insertForeign(entry, listing, object: nil, &changes)
            }
            return
        }
        // One of the same name that was there before, perhaps.
        if object.isUnmade, isOurWork { return }
        try database.run("UPDATE object SET seen_ns = ? WHERE id = ?", .int(listing.number), .int(object.id))
        if isSame(object, metadata) {
            // The store itself has said of it by now that it is not ours: a listing could only suspect that.
            if isDefinite, object.foreign == 1 { try setForeign(object.id, 2) }
            // The bytes are the same as ever, and may have got another name since.
            if !isOurWork, !isRecent(object.written, for: listing), let local, local.id == object.inode {
                _ = try noteIdentity(metadata, of: local.id, object.id, isOlder: true, &changes)
            }
            return
        }
        // A listing begun before our own write ended shows what was there before it.
        if !isDefinite, isRecent(object.written, for: listing) { return }
        if isOurWork { return }
        try objectChanged(object, entry, listing, local, isDefinite: isDefinite, &changes)
    }

    /// Whether what lies on the store is what is known of it.
    fileprivate func isSame(_ object: ObjectRow, _ metadata: Metadata) -> Bool {
        object.isDirectory == (metadata.kind == .directory) && (object.isDirectory || sameVersion(object, metadata))
    }

    private func sameVersion(_ object: ObjectRow, _ metadata: Metadata) -> Bool {
        if let known = object.version, let told = metadata.version { return known == told }
        return object.size == metadata.size && object.modified == metadata.modified.nanoseconds
    }

    /// The store holds another version of a known object.
    private func objectChanged(
        _ object: ObjectRow, _ entry: ListEntry, _ listing: ListingPlan, _ local: InodeRecord?, isDefinite: Bool,
        _ changes: inout [NamespaceChange]
    ) throws(CatalogError) {
        let kindChanged = object.isDirectory != (entry.metadata.kind == .directory)
        if kindChanged {
            // The old thing is gone and another is there.
            try objectVanished(object, from: listing.directory, &changes)
            if try self.object(entry.name, below: listing.object) == nil {
                try merge(entry, into: listing, isDefinite: isDefinite, &changes)
            }
            return
        }
        try updateObject(object.id, entry.metadata)
        guard let local else {
            // It was removed or moved away here, and changed there since. The change is kept, under its old name.
            try unmarkDeletion(of: object.id)
            try insertForeign(entry, listing, object: object.id, &changes)
            return
        }
        // Under another name of the file its newest content may be on the store already.
        let generation = try generations(of: local.id).content
        if local.id == object.inode, generation == object.contentGeneration, try !isDirty(local.id) {
            // Our pending change, if any, was one of attributes: of a content that is no more.
            try database.run(
                "DELETE FROM pending WHERE parent = ? AND name = ?", .int(listing.directory.row),
                .blob(entry.name.bytes))
            try database.run(
                "DELETE FROM entry WHERE parent = ? AND name = ?", .int(listing.directory.row),
                .blob(entry.name.bytes))
            try addLinks(-1, to: local.id)
            noteDisplaced(local.id, entry.name, listing.directory)
            try insertForeign(entry, listing, object: object.id, &changes)
            changes[changes.count - 1] = .entry(parent: listing.directory, name: entry.name, inode: local.id)
        } else {
            // Changed here and there.
            try database.run("UPDATE object SET inode = NULL WHERE id = ?", .int(object.id))
            try setForeign(object.id, isDefinite ? 2 : 1)
            try mark(entry.name, in: listing.directory)
        }
    }

    /// All that a listing shows has been merged.
    fileprivate func trust(_ listing: ListingPlan) throws(CatalogError) {
        if let wrong = distrusted[listing.directory] {
            guard wrong <= listing.begun else { return }
            distrusted[listing.directory] = nil
        }
        try database.run(
            "UPDATE inode SET listed_ns = ? WHERE id = ?", .int(listing.number), .int(listing.directory.row))
    }

    /// An object is not on the store any more: nor is its name, unless a change of ours waits for it.
    ///
    /// - Parameter directory: The one whose entries lie there; nil: it has left that place.
    func objectVanished(_ object: ObjectRow, from directory: InodeID?, _ changes: inout [NamespaceChange])
        throws(CatalogError)
    {
        guard let name = object.name else { return }
        guard let directory, let local = try entry(name, in: directory),
            local.kind == .directory ? local.id == (try self.directory(at: object.id)) : local.id == object.inode
        else {
            // Moved away here, or to be deleted anyway.
            let moved = object.isDirectory ? try self.directory(at: object.id) : nil
            if object.isDirectory { try forgetObjects(below: object.id) }
            try deleteObject(object.id)
            // What others have taken out of it is nowhere, under its new name as under the old one.
            if let moved, let (parent, name) = try parent(of: moved) {
                try directoryVanished(try existing(moved), name, from: parent, &changes)
            }
            return
        }
        if local.kind == .directory {
            try forgetObjects(below: object.id)
            try deleteObject(object.id)
            try directoryVanished(local, name, from: directory, &changes)
            return
        }
        let isPending = try pendingRow(name, in: directory) != nil
        let isDirty = try isDirty(local.id)
        try deleteObject(object.id)
        // What it is to be made of may lie elsewhere: the object went when the name was used for something else, by a
        // deletion of ours that was not heard of.
        let source = try place(of: local.id) ?? Self.goneObject
        let isElsewhere = isPending && source != Self.goneObject
        if isDirty || isElsewhere {
            try mark(name, in: directory, bytes: local.size)
            return
        }
        try displace(name, from: directory, of: local)
        changes.append(.entry(parent: directory, name: name, inode: local.id))
    }

    /// A directory is not on the store any more: it goes with all that is not to be put there again.
    private func directoryVanished(
        _ directory: InodeRecord, _ name: FileName, from parent: InodeID, _ changes: inout [NamespaceChange]
    ) throws(CatalogError) {
        if try removeClean(below: directory.id, &changes) {
            try mark(name, in: parent)
        } else {
            try displace(name, from: parent, of: directory)
            changes.append(.entry(parent: parent, name: name, inode: directory.id))
        }
    }

    /// Removes all entries below a directory that is gone from the store, but for those with changes of ours and the
    /// directories on the way to them, which are to be made again. What lies elsewhere on the store was moved here, and
    /// stays as it is.
    ///
    /// - Returns: whether anything was kept.
    private func removeClean(below directory: InodeID, _ changes: inout [NamespaceChange]) throws(CatalogError) -> Bool
    {
        var keepsAny = false
        let entries = try database.all(
            "SELECT name, inode FROM entry WHERE parent = ?", .int(directory.row)
        ) { row throws(CatalogError) in (try fileName(row.blob(0)), InodeID(UInt64(row.int(1)))) }
        for (name, id) in entries {
            let child = try existing(id)
            let isPending = try pendingRow(name, in: directory) != nil
            let keeps: Bool
            if let object = try place(of: id), object != Self.goneObject {
                keeps = true
            } else if child.kind == .directory {
                keeps = try removeClean(below: id, &changes) || isPending
            } else {
                let hasBytes = try isDirty(id) ? true : try isComplete(id)
                keeps = isPending && hasBytes
            }
            if keeps {
                keepsAny = true
                try mark(name, in: directory)
            } else {
                try displace(name, from: directory, of: child)
                changes.append(.entry(parent: directory, name: name, inode: id))
            }
        }
        return keepsAny
    }

    func forgetObjects(below object: Int64) throws(CatalogError) {
        let children = try database.all("SELECT id, directory FROM object WHERE parent = ?", .int(object)) {
            ($0.int(0), $0.bool(1))
        }
        for (id, isDirectory) in children {
            if isDirectory { try forgetObjects(below: id) }
            try deleteObject(id)
        }
    }

    func insertObject(_ entry: ListEntry, below listing: ListingPlan, inode: InodeID?) throws(CatalogError) -> Int64 {
        try database.run(
            """
            INSERT INTO object(parent, name, directory, inode, version, size_bytes, modified_ns, seen_ns)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?)
            """, .int(listing.object), .blob(entry.name.bytes), SQLValue(entry.metadata.kind == .directory),
            SQLValue(inode?.row), SQLValue(entry.metadata.version?.text), .int(entry.metadata.size),
            .int(entry.metadata.modified.nanoseconds), .int(listing.number))
        return database.lastInsertedRow
    }

    func updateObject(_ id: Int64, _ metadata: Metadata) throws(CatalogError) {
        try database.run(
            "UPDATE object SET version = ?, size_bytes = ?, modified_ns = ?, identity = NULL WHERE id = ?",
            SQLValue(metadata.version?.text), .int(metadata.size), .int(metadata.modified.nanoseconds), .int(id))
    }

    private func setForeign(_ object: Int64, _ value: Int64) throws(CatalogError) {
        try database.run("UPDATE object SET foreign_version = ? WHERE id = ?", .int(value), .int(object))
    }

    /// A thing that others put on the store becomes a file or directory here.
    private func insertForeign(
        _ entry: ListEntry, _ listing: ListingPlan, object known: Int64?, _ changes: inout [NamespaceChange]
    ) throws(CatalogError) {
        let metadata = entry.metadata
        let told = metadata.attributes
        let isDirectory = metadata.kind == .directory
        let modified = told?.modified ?? metadata.modified
        let now = Timestamp(nanoseconds: now)
        // Where a link leads no listing tells.
        let isKnown = metadata.kind != .symbolicLink && (told != nil || !capabilities.contains(.attributes))
        let inode = try insertInode(
            InodeRecord(
                id: InodeID(0), kind: metadata.kind, mode: told?.mode ?? 0, uid: told?.uid ?? 0, gid: told?.gid ?? 0,
                links: isDirectory ? 2 : 1, size: isDirectory ? 0 : metadata.size, device: told?.device ?? 0,
                accessed: told?.accessed ?? modified, modified: modified, changed: told?.changed ?? modified,
                created: now, target: nil, attributesAreKnown: isKnown),
            isTold: (told?.mode != nil, told?.uid != nil, told?.gid != nil))
        for (name, value) in told?.extended ?? [:] { try insertAttribute(name, value, inode) }
        try insertEntry(entry.name, in: listing.directory, for: inode)
        let object: Int64
        if let known { object = known } else { object = try insertObject(entry, below: listing, inode: inode) }
        if known != nil {
            // Files that were moved away from here and not copied on the store yet have lost their bytes there.
            try loseSource(object)
            try database.run(
                "UPDATE object SET inode = ?, content_generation = 0, attribute_generation = 0, foreign_version = 0 WHERE id = ?",
                .int(inode.row), .int(object))
        }
        if isDirectory {
            try setPlace(of: inode, to: object)
            try database.run("UPDATE inode SET links = links + 1 WHERE id = ?", .int(listing.directory.row))
        } else {
            try setSource(of: inode, object: object, version: metadata.version, size: metadata.size)
        }
        if try noteIdentity(metadata, of: inode, object, isOlder: false, &changes) {
            // Nobody has heard of it.
            changes.removeAll { $0 == .entry(parent: listing.directory, name: entry.name, inode: inode) }
            try deleteInode(inode)
        }
        changes.append(.entry(parent: listing.directory, name: entry.name, inode: nil))
    }

    /// What to ask the store about a file of which a listing has not told all; nil: all is known.
    func question(_ inode: InodeID) throws(CatalogError) -> ContentQuestion? {
        try database.first(
            """
            SELECT o.id, o.version, o.size_bytes FROM inode i JOIN object o ON o.id = i.object
            WHERE i.id = ? AND known = 0
            """, .int(inode.row)
        ) { row throws(CatalogError) in
            ContentQuestion(
                inode: inode, path: try path(ofObject: row.int(0)), version: row.text(1).map { Version($0) },
                size: row.int(2), object: row.int(0), begun: workCount)
        }
    }

    /// What a bare listing left out is known now. Changes made here meanwhile stay.
    fileprivate func learn(
        _ metadata: Metadata, _ target: [UInt8]?, _ record: InodeRecord, _ object: Int64,
        _ changes: inout [NamespaceChange]
    ) throws(CatalogError) {
        let told = metadata.attributes ?? Attributes()
        let isUntouched = try generations(of: record.id).attributes == 0
        try database.run("UPDATE inode SET known = 1 WHERE id = ?", .int(record.id.row))
        guard isUntouched else {
            _ = try noteIdentity(metadata, of: record.id, object, isOlder: false, &changes)
            return
        }
        let modified = told.modified ?? metadata.modified
        let isDirectory = record.kind == .directory
        // A local change of the bytes counts more than what the store holds.
        let size = try isDirty(record.id) ? record.size : isDirectory ? 0 : metadata.size
        try database.run(
            """
            UPDATE inode SET kind = ?, mode = ?, uid = ?, gid = ?, device = ?, accessed_ns = ?, modified_ns = ?,
                changed_ns = ?, target = ?, size_bytes = ? WHERE id = ?
            """, .int(Int64(isDirectory ? FileKind.directory.rawValue : metadata.kind.rawValue)),
            SQLValue(told.mode.map { Int64($0 & 0o7777) }), SQLValue(told.uid.map { Int64($0) }),
            SQLValue(told.gid.map { Int64($0) }), .int(Int64(bitPattern: told.device ?? 0)),
            .int((told.accessed ?? modified).nanoseconds), .int(modified.nanoseconds),
            .int((told.changed ?? modified).nanoseconds), SQLValue(target),
            .int(target.map { Int64($0.count) } ?? size),
            .int(record.id.row))
        for (name, value) in told.extended ?? [:] { try insertAttribute(name, value, record.id) }
        _ = try noteIdentity(metadata, of: record.id, object, isOlder: false, &changes)
    }
}
