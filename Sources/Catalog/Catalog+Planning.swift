import SQLite
import StoreAPI
import Threading

// What has to be done next, found by comparing the namespace with what is known of the store.
extension Catalog {
    /// What to do for a row of the journal. Rows that need nothing are removed and answered with ``SyncStep/done``.
    ///
    /// After every other answer the row counts as under way until an outcome is reported, ``failed(_:revision:error:retryAt:)``
    /// included.
    package func plan(_ item: PendingItem) throws(CatalogError) -> SyncStep {
        try write { tables throws(CatalogError) in
            // Whoever asks again is not at work any more.
            tables.workEnded(item.id.value)
            guard let row = try tables.pendingRow(id: item.id.value) else { return .done }
            var planner = Planner(tables: tables, row: row)
            var step = try tables.causing(row.id) { () throws(CatalogError) in try planner.step() }
            if let other = try tables.obstacle(to: step, of: row.id) { step = try tables.refuse(row, while: other) }
            guard var work = try tables.work(of: step) else {
                if case .done = step {
                    try tables.database.run("DELETE FROM pending WHERE id = ?", .int(row.id))
                }
                return step
            }
            try tables.noteSending(&step)
            work.cause = try tables.cause(row.id)
            tables.setUnderWay(row.id, work)
            if let object = work.moved { tables.setUnderWay(Tables.unsettled(object), nil) }
            return step
        }
    }

    /// The same upload of a newer state of the content, with the attributes that the file has now: the times belong to
    /// the bytes. What was sent of the older state is of no use.
    package func plan(_ plan: UploadPlan, for generation: Int64) throws(CatalogError) -> UploadPlan {
        guard plan.placement.contentGeneration != generation else { return plan }
        return try write { tables throws(CatalogError) in
            var plan = plan
            plan.placement.contentGeneration = generation
            plan.checkpoint = nil
            guard let inode = try tables.inode(plan.placement.inode) else { return plan }
            let generations = try tables.generations(of: inode.id)
            plan.attributes = try tables.storeAttributes(of: inode, at: plan.target)
            // What is sent is no more what the identity is for.
            if generation != generations.content { plan.attributes.identity = nil }
            plan.placement.attributeGeneration = generations.attributes
            try tables.noteSending(&plan)
            return plan
        }
    }
}

extension Tables {
    /// What a step changes on the store; nil: it asks nothing of it.
    fileprivate func work(of step: SyncStep) throws(CatalogError) -> Work? {
        var work = Work(begun: workCount)
        switch step {
        case .done, .blocked, .busy: return nil
        case .list, .fetch, .learn: break
        case .upload(let plan):
            work.places = [Place(plan.placement)]
            work.uploaded = plan.placement.inode
            work.sources = try sources(of: plan.placement)
        case .copy(let plan):
            work.places = [Place(plan.placement)]
            work.sources = try sources(of: plan.placement)
        case .createDirectory(let plan): work.places = [Place(parent: plan.parentObject, name: plan.name)]
        case .setAttributes(let plan): work.places = try places(of: plan.object)
        case .move(let plan), .settle(let plan):
            work.places = try places(of: plan.object) + [Place(parent: plan.parentObject, name: plan.name)]
            work.subtree = plan.isDirectory ? plan.object : nil
            work.moved = plan.object
        case .delete(let plan):
            work.places = try places(of: plan.object)
            work.subtree = try object(plan.object)?.isDirectory == true ? plan.object : nil
        case .keepConflict(let plan):
            work.places = try places(of: plan.object)
            work.places += work.places.map { Place(parent: $0.parent, name: plan.keepAs) }
            work.subtree = plan.isDirectory ? plan.object : nil
        }
        for parent in Set(work.places.map(\.parent)) { work.implied += try unmadePlaces(to: parent) }
        return work
    }

    /// Where, besides its own place, the bytes of a file lie on the store.
    private func sources(of placement: Placement) throws(CatalogError) -> [Place] {
        guard let object = try place(of: placement.inode) else { return [] }
        return try places(of: object).filter { $0 != Place(placement) }
    }

    /// The row whose work does not go together with this step.
    fileprivate func obstacle(to step: SyncStep, of row: Int64) throws(CatalogError) -> Int64? {
        guard !underWay.isEmpty, let work = try work(of: step) else { return nil }
        if let other = try obstacle(to: work, of: row) { return other }
        // A file with several names may be replaced at one of them by what is read there for another.
        if let inode = work.uploaded, let other = underWay.row(uploading: inode, but: row) { return other }
        // What it reads from. A reader waits for a worker by itself, but nobody may be at a move.
        let reader: InodeID
        let waitsByItself: Bool
        switch step {
        case .copy(let plan): (reader, waitsByItself) = (plan.placement.inode, false)
        case .list(let directory): (reader, waitsByItself) = (directory, false)
        case .upload(let plan): (reader, waitsByItself) = (plan.placement.inode, true)
        case .fetch(let inode): (reader, waitsByItself) = (inode, true)
        default: return nil
        }
        guard let source = try place(of: reader) else { return nil }
        for place in try places(of: source) {
            if let other = try worker(at: place, but: row), !waitsByItself || other < 0 { return other }
        }
        return nil
    }
}

/// Finds the next step for one row of the journal.
///
/// The rules that keep bytes safe: an object is overwritten or deleted only when no other file still needs the bytes
/// in it; what needs them goes first, and where that would wait in a circle (two files that exchanged their names)
/// the bytes are fetched into the cache. A version that is not ours is kept under another name before ours takes
/// the place.
private struct Planner {
    let tables: Tables
    let row: PendingRow

    var item: PendingID { PendingID(row.id) }

    mutating func step() throws(CatalogError) -> SyncStep {
        if let object = row.object { return try deletion(of: object) }
        guard let parent = row.parent else { return .done }
        let name = try tables.fileName(row.name)
        guard let inode = try tables.entry(name, in: parent) else { return .done }
        try placeDirectories(to: inode.kind == .directory ? inode.id : parent)
        if let directory = try misplacedAncestor(of: parent) { return .blocked(by: try rowOfDirectory(directory)) }
        guard let place = try tables.place(of: parent) else { return .blocked(by: nil) }
        // What lies there is about to change: nothing can be found in order now.
        if let worker = try tables.worker(at: Tables.Place(parent: place, name: name), but: row.id) {
            return try tables.refuse(row, while: worker)
        }
        var slot = Slot(
            name: name, parent: parent, place: place, object: try tables.object(name, below: place),
            path: try tables.path(ofObject: place).appending(name))
        if inode.kind == .directory {
            if slot.object == nil {
                // A file that was here before may have come there without our hearing of it.
                try tables.abandonSent(at: slot.whole)
                slot.object = try tables.object(name, below: place)
            }
            return try directory(inode, slot)
        }
        // Whoever puts something there finds out whether anything lies there.
        if let object = slot.object, object.isUncertain { slot.object = nil }
        return try file(inode, slot)
    }

    /// Where an entry's object belongs, and what lies there.
    private struct Slot {
        var name: FileName
        var parent: InodeID
        var place: Int64
        var object: ObjectRow?
        var path: StorePath

        var whole: Tables.Place { Tables.Place(parent: place, name: name) }
    }

    /// Where the store has no real directories, a file may be put into one that is still to be made: so each new
    /// directory on the way to `directory` gets its place at once.
    private func placeDirectories(to directory: InodeID) throws(CatalogError) {
        guard !tables.capabilities.contains(.realDirectories) else { return }
        var new: [(id: InodeID, step: (parent: InodeID, name: FileName))] = []
        var position = directory
        while position != .root, try tables.place(of: position) == nil, let step = try tables.parent(of: position) {
            new.append((position, step))
            position = step.parent
        }
        guard !new.isEmpty, try misplacedAncestor(of: position) == nil else { return }
        for (id, step) in new.reversed() {
            guard let place = try tables.place(of: step.parent), try tables.object(step.name, below: place) == nil,
                try tables.worker(at: Tables.Place(parent: place, name: step.name), but: row.id) == nil
            else { return }
            try tables.database.run(
                """
                INSERT INTO object(parent, name, directory, size_bytes, modified_ns, attribute_generation, seen_ns)
                VALUES (?, ?, 1, 0, ?, -1, 0)
                """, .int(place), .blob(step.name.bytes), .int(tables.now))
            try tables.setPlace(of: id, to: tables.database.lastInsertedRow)
            try tables.database.run("UPDATE inode SET listed_ns = ? WHERE id = ?", .int(tables.now), .int(id.row))
        }
    }

    /// What belongs there lies there.
    private func done(_ slot: Slot) throws(CatalogError) -> SyncStep {
        try tables.nothingChanged(in: slot.parent, at: slot.place)
        return .done
    }

    /// The outermost directory, from the root to `directory`, that is not on the store where it belongs: what is below
    /// it waits, so that nothing is put where it would have to be moved from again.
    private func misplacedAncestor(of directory: InodeID) throws(CatalogError) -> InodeID? {
        var misplaced: InodeID?
        var position = directory
        while position != .root, let step = try tables.parent(of: position) {
            if try !isInPlace(position) { misplaced = position }
            position = step.parent
        }
        return misplaced
    }

    /// Whether the directory lies on the store by its name, in the place of the one that holds it here.
    private func isInPlace(_ directory: InodeID) throws(CatalogError) -> Bool {
        if directory == .root { return true }
        guard let step = try tables.parent(of: directory), let place = try tables.place(of: directory),
            let object = try tables.object(place)
        else { return false }
        let parent = try tables.place(of: step.parent)
        return object.name == step.name && object.parent == parent
    }

    private func rowOfDirectory(_ directory: InodeID) throws(CatalogError) -> PendingID? {
        guard let step = try tables.parent(of: directory) else { return nil }
        if let id = try tables.pendingRow(step.name, in: step.parent) { return PendingID(id) }
        try tables.mark(step.name, in: step.parent)
        return try tables.pendingRow(step.name, in: step.parent).map { PendingID($0) }
    }

    /// A row of the journal that puts the inode's bytes at one of its names.
    private func rowOfFile(_ inode: InodeID) throws(CatalogError) -> PendingID? {
        try tables.database.first(
            """
            SELECT p.id FROM entry e JOIN pending p ON p.parent = e.parent AND p.name = e.name WHERE e.inode = ? LIMIT 1
            """, .int(inode.row)
        ) { PendingID($0.int(0)) }
    }

    // MARK: Deletions

    private func deletion(of id: Int64) throws(CatalogError) -> SyncStep {
        guard let object = try tables.object(id), let name = object.name else { return .done }
        // What is being put there is not what was to be deleted: then it is found out anew.
        if let worker = try tables.worker(at: Tables.Place(parent: object.parent, name: name), but: row.id) {
            return try tables.refuse(row, while: worker)
        }
        // What belongs to a directory that shares the object, and has yet to leave it, is not meant for this place.
        let holders = try tables.directories(at: object.parent)
        for holder in holders {
            if holders.count > 1, try !isInPlace(holder) { continue }
            guard let entry = try tables.entry(name, in: holder),
                entry.kind == .directory ? object.isDirectory : !object.isDirectory
            else { continue }
            // The name is in use again: what is made there replaces the object.
            if try tables.pendingRow(name, in: holder) == nil { try tables.mark(name, in: holder) }
            return .done
        }
        if object.isDirectory {
            if try tables.directory(at: id) != nil { return .done }
            if let child = try tables.database.first(
                "SELECT o.id, p.id FROM object o LEFT JOIN pending p ON p.object = o.id WHERE o.parent = ? LIMIT 1",
                .int(id), body: { (object: $0.int(0), row: $0.optionalInt(1)) })
            {
                if let row = child.row { return .blocked(by: PendingID(row)) }
                // Nothing in the namespace stands for it any more.
                try tables.markDeletion(of: child.object)
                return .blocked(by: nil)
            }
        } else if let needy = try inodeThatNeeds(object, but: nil) {
            // A directory that has to go may lie where the bytes belong, and wait for this. And a file without a name
            // goes nowhere: it is open, for who knows how long, and keeps its bytes here.
            let isNameless = try tables.parent(of: needy) == nil
            let isBehindDirectory = try objectWhereBelongs(needy)?.isDirectory ?? false
            if isNameless || isBehindDirectory { return .fetch(needy) }
            return .blocked(by: try rowOfFile(needy))
        } else {
            // From here on it may be gone, whether the answer arrives or not. Whoever takes the name again, were it the
            // same file, must not find it in order.
            try tables.database.run("UPDATE object SET content_generation = -1 WHERE id = ?", .int(id))
        }
        return .delete(
            DeletePlan(
                item: item, revision: row.revision, path: try tables.path(ofObject: id), object: id,
                isDirectory: object.isDirectory, version: object.isDirectory ? nil : object.version,
                isUncertain: object.isUncertain,
                sent: try tables.sentStates(at: Tables.Place(parent: object.parent, name: name))))
    }

    /// The file, other than `inode`, whose bytes are only in this object.
    private func inodeThatNeeds(_ object: ObjectRow, but inode: InodeID?) throws(CatalogError) -> InodeID? {
        let users = try tables.database.all(
            // Of special files the catalog itself has all that is to be known, once the store was asked.
            "SELECT id FROM inode WHERE object = ?1 AND (kind = ?2 OR (known = 0 AND kind != ?3))", .int(object.id),
            .int(Int64(FileKind.file.rawValue)), .int(Int64(FileKind.directory.rawValue))
        ) { InodeID(UInt64($0.int(0))) }
        for user in users where user != inode {
            let isHere = try tables.isDirty(user) ? try tables.isComplete(user) : false
            if isHere { continue }
            if try !tables.takeOtherSource(user, than: object.id) { return user }
        }
        return nil
    }

    /// What lies on the store where the file belongs; nil: nothing, or there is no such place yet.
    private func objectWhereBelongs(_ inode: InodeID) throws(CatalogError) -> ObjectRow? {
        guard let step = try tables.parent(of: inode), let place = try tables.place(of: step.parent) else {
            return nil
        }
        return try tables.object(step.name, below: place)
    }

    // MARK: Directories

    // Directories wait for their parents only, so that nothing can wait in a circle: where a directory of another name
    // still lies at the place of a new one, both share it until the entries of the other one have left.

    private func directory(_ inode: InodeRecord, _ slot: Slot) throws(CatalogError) -> SyncStep {
        if let object = slot.object, !object.isDirectory {
            return object.foreign != 0 ? try keepConflict(slot, object) : try clear(object, for: inode.id)
        }
        guard let own = try tables.place(of: inode.id) else {
            guard let object = slot.object else { return try makeDirectory(inode, slot) }
            return try directory(inode, try adopt(object, by: inode.id, slot))
        }
        if let object = slot.object, object.id == own {
            if object.isUnmade { return try makeDirectory(inode, slot) }
            guard tables.capabilities.contains(.attributes),
                object.attributeGeneration != (try tables.generations(of: inode.id)).attributes
            else { return try done(slot) }
            // What is still to be put into it would change its times again. Nothing in it waits for this row.
            if tables.capabilities.contains(.realDirectories),
                let child = try tables.database.first(
                    "SELECT id FROM pending WHERE parent = ? AND parked = 0 LIMIT 1", .int(inode.id.row),
                    body: { PendingID($0.int(0)) })
            {
                return .blocked(by: child)
            }
            return try setAttributes(inode, slot, object)
        }
        return try moveDirectory(inode, own, slot)
    }

    /// - Returns: the slot as it is now: the object has the attributes of another directory.
    private func adopt(_ object: ObjectRow, by inode: InodeID, _ slot: Slot) throws(CatalogError) -> Slot {
        try tables.setPlace(of: inode, to: object.id)
        try tables.unmarkDeletion(of: object.id)
        try tables.database.run("UPDATE object SET attribute_generation = -1 WHERE id = ?", .int(object.id))
        var slot = slot
        slot.object = try tables.object(object.id)
        return slot
    }

    /// Whether the store has attributes of it that are not known here.
    private func mustLearn(_ inode: InodeRecord) throws(CatalogError) -> Bool {
        guard !inode.attributesAreKnown, tables.capabilities.contains(.attributes) else { return false }
        return try tables.question(inode.id) != nil
    }

    private func makeDirectory(_ inode: InodeRecord, _ slot: Slot) throws(CatalogError) -> SyncStep {
        if try mustLearn(inode) { return .learn(inode.id) }
        return .createDirectory(
            DirectoryPlan(
                item: item, revision: row.revision, inode: inode.id, target: slot.path,
                attributes: try tables.storeAttributes(of: inode),
                attributeGeneration: try tables.generations(of: inode.id).attributes, parentObject: slot.place,
                name: slot.name))
    }

    /// The directory lies elsewhere on the store: it was renamed.
    private func moveDirectory(_ inode: InodeRecord, _ own: Int64, _ slot: Slot) throws(CatalogError) -> SyncStep {
        if slot.object == nil, try isWhollyUnmade(own) {
            if let worker = try tables.worker(below: own) { return try tables.refuse(row, while: worker) }
            try tables.database.run(
                "UPDATE object SET parent = ?, name = ? WHERE id = ?", .int(slot.place), .blob(slot.name.bytes),
                .int(own))
            return try makeDirectory(inode, slot)
        }
        let source = try tables.path(ofObject: own)
        let isShared = try tables.database.exists(
            "SELECT 1 FROM inode WHERE object = ? AND kind = ? AND links > 0 AND id != ?", .int(own),
            .int(Int64(FileKind.directory.rawValue)), .int(inode.id.row))
        if tables.capabilities.contains(.directoryMove), slot.object == nil, !isShared, !slot.path.isInside(source) {
            return .move(
                MovePlan(
                    item: item, revision: row.revision, inode: inode.id, isDirectory: true, source: source,
                    version: nil, target: slot.path, object: own, parentObject: slot.place, name: slot.name))
        }
        // Entry by entry. All of them have to be known.
        let isListed = try tables.database.first("SELECT listed_ns FROM inode WHERE id = ?", .int(inode.id.row)) {
            !$0.isNull(0)
        }
        guard isListed == true else { return .list(inode.id) }
        guard let object = slot.object else { return try makeDirectory(inode, slot) }
        let slot = try adopt(object, by: inode.id, slot)
        let names = try tables.database.all("SELECT name, inode FROM entry WHERE parent = ?", .int(inode.id.row)) {
            row throws(CatalogError) in (try tables.fileName(row.blob(0)), InodeID(UInt64(row.int(1))))
        }
        for (name, child) in names {
            let bytes = try tables.inode(child).map { $0.kind == .directory ? 0 : $0.size } ?? 0
            try tables.mark(name, in: inode.id, bytes: bytes)
        }
        try tables.database.run("UPDATE inode SET listed_ns = ? WHERE id = ?", .int(tables.now), .int(inode.id.row))
        if try tables.directory(at: own) == nil { try tables.markDeletion(of: own) }
        try tables.abandonSent(below: own)
        // Its files there are copied from before they go; one that another directory uses by now stays. So does a
        // directory that somebody here is still in.
        let left = try tables.database.all("SELECT id, directory FROM object WHERE parent = ?", .int(own)) {
            (id: $0.int(0), isDirectory: $0.bool(1))
        }
        for (id, isDirectory) in left {
            if isDirectory, try tables.directory(at: id) != nil { continue }
            try tables.markDeletion(of: id)
        }
        return try directory(inode, slot)
    }

    /// Whether neither the directory nor anything in it has ever been on the store.
    private func isWhollyUnmade(_ directory: Int64) throws(CatalogError) -> Bool {
        guard let object = try tables.object(directory), object.isUnmade, try !tables.isAnythingSent(below: directory)
        else { return false }
        let children = try tables.database.all("SELECT id FROM object WHERE parent = ?", .int(directory)) { $0.int(0) }
        for child in children where try !isWhollyUnmade(child) { return false }
        return true
    }

    // MARK: Files

    private func file(_ inode: InodeRecord, _ slot: Slot) throws(CatalogError) -> SyncStep {
        let generations = try tables.generations(of: inode.id)
        let isDirty = try tables.isDirty(inode.id) || inode.kind != .file
        if let object = slot.object {
            if object.isDirectory {
                return object.foreign != 0 ? try keepConflict(slot, object) : try clear(object, for: inode.id)
            }
            let isInPlace =
                object.inode == inode.id && object.contentGeneration == generations.content && object.foreign == 0
            if isInPlace {
                try tables.unmarkDeletion(of: object.id)
                guard tables.capabilities.contains(.attributes) else { return try done(slot) }
                if object.attributeGeneration == generations.attributes,
                    try !tables.lacksIdentity(object, of: inode)
                {
                    return try done(slot)
                }
                return try setAttributes(inode, slot, object)
            }
            if object.foreign != 0 {
                // It may be ours, written right before a crash, when it is as large as what was sent. Whoever uploads finds
                // out, since there is something.
                let sizes = try tables.sentStates(at: slot.whole).map(\.size) + [inode.size]
                guard object.foreign != 2, sizes.contains(object.size) else {
                    return try keepConflict(slot, object)
                }
                return try upload(inode, slot, generations, .ifAbsent)
            }
            if let needy = try inodeThatNeeds(object, but: inode.id) {
                let other = try rowOfFile(needy)
                let isCircle = try circle(from: needy, to: inode.id)
                if other == nil || isCircle { return .fetch(needy) }
                return .blocked(by: other)
            }
        }
        let condition: WriteCondition =
            slot.object.map { $0.version.map { .ifVersion($0) } ?? .always } ?? .ifAbsent
        let source = try tables.place(of: inode.id)
        if !isDirty || (inode.kind != .file && source != nil), let source {
            if let object = try tables.object(source), object.id != slot.object?.id,
                try tables.sourceVersion(of: inode.id) == object.version
            {
                return try bring(inode, object, slot, generations, condition)
            }
            // Somebody else has replaced what it was made of: what is here of it is all that there is.
            if inode.kind == .file, slot.object?.id != source { return .fetch(inode.id) }
        }
        return try upload(inode, slot, generations, condition)
    }

    /// The bytes are on the store, elsewhere.
    private func bring(
        _ inode: InodeRecord, _ object: ObjectRow, _ slot: Slot, _ generations: (content: Int64, attributes: Int64),
        _ condition: WriteCondition
    ) throws(CatalogError) -> SyncStep {
        let source = try tables.path(ofObject: object.id)
        let isLeft = try isLeft(object, by: inode.id)
        if tables.capabilities.contains(.atomicMove), isLeft, object.inode == inode.id, slot.object == nil {
            return .move(
                MovePlan(
                    item: item, revision: row.revision, inode: inode.id, isDirectory: false, source: source,
                    version: object.version, target: slot.path, object: object.id, parentObject: slot.place,
                    name: slot.name))
        }
        // What is no file and known here needs no other place, and so keeps nothing from taking that place: while it is
        // copied, something else may come there.
        if try mustLearn(inode) { return .learn(inode.id) }
        if tables.capabilities.contains(.serverSideCopy), inode.kind == .file {
            return .copy(
                CopyPlan(
                    placement: placement(of: inode, slot, generations), source: source, sourceVersion: object.version,
                    target: slot.path, condition: condition,
                    attributes: try tables.storeAttributes(of: inode, at: slot.path)))
        }
        // The upload fetches what is not in the cache.
        return try upload(inode, slot, generations, condition)
    }

    /// Whether the file has left the place of the object. What was left and has the file again, by another of its
    /// names, is still noted for deletion.
    private func isLeft(_ object: ObjectRow, by inode: InodeID) throws(CatalogError) -> Bool {
        guard let name = object.name,
            try tables.database.exists("SELECT 1 FROM pending WHERE object = ?", .int(object.id))
        else { return false }
        for directory in try tables.directories(at: object.parent) {
            if try tables.entry(name, in: directory)?.id == inode { return false }
        }
        return true
    }

    private func upload(
        _ inode: InodeRecord, _ slot: Slot, _ generations: (content: Int64, attributes: Int64),
        _ condition: WriteCondition
    ) throws(CatalogError) -> SyncStep {
        if try mustLearn(inode) { return .learn(inode.id) }
        let attributes = try tables.storeAttributes(of: inode, at: slot.path)
        let body = inode.kind == .file ? nil : inode.target ?? []
        return .upload(
            UploadPlan(
                placement: placement(of: inode, slot, generations), kind: inode.kind, target: slot.path,
                condition: condition, attributes: attributes, fixedBody: body,
                checkpoint: try tables.database.first(
                    "SELECT checkpoint FROM pending WHERE id = ?", .int(row.id), body: { $0.text(0) }) ?? nil,
                sentBefore: try tables.sentStates(at: slot.whole)))
    }

    private func placement(
        of inode: InodeRecord, _ slot: Slot, _ generations: (content: Int64, attributes: Int64)
    ) -> Placement {
        Placement(
            item: item, revision: row.revision, inode: inode.id, contentGeneration: generations.content,
            attributeGeneration: generations.attributes, parentObject: slot.place, entryParent: slot.parent,
            entryName: slot.name)
    }

    private func setAttributes(_ inode: InodeRecord, _ slot: Slot, _ object: ObjectRow) throws(CatalogError) -> SyncStep
    {
        if try mustLearn(inode) { return .learn(inode.id) }
        return .setAttributes(
            AttributesPlan(
                item: item, revision: row.revision, inode: inode.id, path: slot.path, version: object.version,
                attributes: try tables.storeAttributes(of: inode, at: slot.path),
                attributeGeneration: try tables.generations(of: inode.id).attributes, object: object.id,
                before: object.attributeGeneration))
    }

    /// Whether the file at `start`, to be put where it belongs, may wait for `inode` to leave: over any number of others,
    /// or over a directory that lies there and has to go with all that is in it.
    private func circle(from start: InodeID, to inode: InodeID) throws(CatalogError) -> Bool {
        var position = start
        for _ in 0..<64 {
            guard let object = try objectWhereBelongs(position) else { return false }
            if object.isDirectory { return true }
            guard let next = try inodeThatNeeds(object, but: position) else { return false }
            if next == inode { return true }
            position = next
        }
        return true
    }

    /// Something of the other kind (file or directory) lies at the slot: it has to go first.
    private func clear(_ object: ObjectRow, for inode: InodeID) throws(CatalogError) -> SyncStep {
        // To wait until the bytes are where they belong could be to wait in a circle.
        if !object.isDirectory, let needy = try inodeThatNeeds(object, but: inode) { return .fetch(needy) }
        if object.isDirectory, let other = try tables.directory(at: object.id), other != inode {
            return .blocked(by: try rowOfDirectory(other))
        }
        try tables.markDeletion(of: object.id)
        return .blocked(
            by: try tables.database.first(
                "SELECT id FROM pending WHERE object = ?", .int(object.id)
            ) { PendingID($0.int(0)) })
    }

    private func keepConflict(_ slot: Slot, _ object: ObjectRow) throws(CatalogError) -> SyncStep {
        guard let parentPath = slot.path.parent else {
            throw CatalogError(.damaged, "the root of the store cannot be in conflict")
        }
        let name = try tables.conflictName(for: slot.name, of: row.changed, in: slot.parent, slot.place)
        return .keepConflict(
            ConflictPlan(
                item: item, revision: row.revision, path: slot.path, version: object.version, directory: slot.parent,
                object: object.id, isDirectory: object.isDirectory, keepAs: name,
                keepPath: parentPath.appending(name)))
    }
}
