import SQLite
package import StoreAPI
package import Threading

/// By what an object is known for one that this mount has sent without hearing that it came: nobody else sends the same
/// times, to the nanosecond. On a store that keeps whole seconds: a file of that size to that place in that second.
package struct SentState: Hashable, Sendable {
    /// Bytes.
    package var size: Int64
    package var modified: Timestamp
    /// nil: the store does not keep it.
    package var changed: Timestamp?

    /// - Returns: nil where the attributes do not have the times that the store keeps.
    package init?(size: Int64, _ attributes: Attributes?, on store: StoreCapabilities) {
        guard let modified = attributes?.modified else { return nil }
        self.size = size
        self.modified = store.times.kept(modified)
        guard store.contains(.changeTimes) else { return }
        guard let changed = attributes?.changed else { return nil }
        self.changed = store.times.kept(changed)
    }

    init?(_ text: some StringProtocol) {
        let numbers = text.split(separator: " ").compactMap { Int64($0) }
        guard numbers.count == 2 || numbers.count == 3 else { return nil }
        size = numbers[0]
        modified = Timestamp(nanoseconds: numbers[1])
        changed = numbers.count == 3 ? Timestamp(nanoseconds: numbers[2]) : nil
    }

    var text: String {
        ([size, modified.nanoseconds] + [changed?.nanoseconds].compactMap(\.self)).map(String.init)
            .joined(separator: " ")
    }
}

// What is sent is noted before, and forgotten when the store has said that it is there. When that is not heard (the
// program is killed, or the answer gets lost), the note stays: what then turns up on the store, perhaps much later, is
// known for ours, whatever has become of the name here by then. A removed file does not come back, and a file that was
// made anew is not changed by others. A store that keeps no attributes with its objects cannot tell.
extension Tables {
    /// What may lie at a place.
    struct Sent {
        var place: Place
        var inode: InodeID
        /// -1: the bytes may be between two states.
        var contentGeneration: Int64
        var attributeGeneration: Int64
    }

    /// How many states of a place are known at most.
    private static let mostSent: Int64 = 16

    /// What an upload is about to send.
    func noteSending(_ plan: inout UploadPlan) throws(CatalogError) {
        let place = Place(plan.placement)
        // Of that nothing will be sent.
        try forgetSent(plan.noted, at: place)
        let size: Int64
        if let body = plan.fixedBody {
            size = Int64(body.count)
        } else {
            size = try inode(plan.placement.inode)?.size ?? 0
        }
        let state = SentState(size: size, plan.attributes, on: capabilities)
        let isNew = try noteSending(state, Sent(plan.placement, areBytesCertain: plan.fixedBody != nil))
        plan.noted = isNew ? state : nil
    }

    /// What a step is about to send.
    func noteSending(_ step: inout SyncStep) throws(CatalogError) {
        switch step {
        case .move(let plan): try noteMove(plan)
        case .upload(var plan):
            try noteSending(&plan)
            step = .upload(plan)
        case .copy(let plan):
            guard let source = try place(of: plan.placement.inode), let object = try object(source) else { return }
            try noteSending(
                SentState(size: object.size, plan.attributes, on: capabilities),
                Sent(plan.placement, areBytesCertain: true))
        case .setAttributes(let plan):
            guard let object = try object(plan.object), !object.isDirectory, let name = object.name else { return }
            try noteSending(
                SentState(size: object.size, plan.attributes, on: capabilities),
                Sent(
                    place: Place(parent: object.parent, name: name), inode: plan.inode,
                    contentGeneration: object.contentGeneration, attributeGeneration: plan.attributeGeneration))
        case .done, .createDirectory, .settle, .delete, .keepConflict, .list, .fetch, .learn, .blocked, .busy: break
        }
    }

    /// - Returns: whether the note is new.
    @discardableResult
    func noteSending(_ state: SentState?, _ sent: Sent) throws(CatalogError) -> Bool {
        guard let state else { return false }
        let place = sent.place
        let isNew = try !sentStates(at: place).contains(state)
        try database.run(
            """
            INSERT OR REPLACE INTO sent(parent, name, state, inode, content_generation, attribute_generation, since_ns)
            VALUES (?, ?, ?, ?, ?, ?, ?)
            """, .int(place.parent), .blob(place.name.bytes), .text(state.text), .int(sent.inode.row),
            .int(sent.contentGeneration), .int(sent.attributeGeneration), .int(now))
        let oldest = try database.first(
            "SELECT since_ns FROM sent WHERE parent = ? AND name = ? ORDER BY since_ns DESC LIMIT 1 OFFSET ?",
            .int(place.parent), .blob(place.name.bytes), .int(Self.mostSent)
        ) { $0.int(0) }
        guard let oldest else { return isNew }
        try database.run(
            "DELETE FROM sent WHERE parent = ? AND name = ? AND since_ns <= ?", .int(place.parent),
            .blob(place.name.bytes), .int(oldest))
        return isNew
    }

    /// What was sent to the place and not heard of.
    func sentStates(at place: Place) throws(CatalogError) -> [SentState] {
        try database.all(
            "SELECT state FROM sent WHERE parent = ? AND name = ?", .int(place.parent), .blob(place.name.bytes)
        ) { SentState($0.text(0) ?? "") }.compactMap(\.self)
    }

    func isAnythingSent(to place: Place) throws(CatalogError) -> Bool {
        try database.exists(
            "SELECT 1 FROM sent WHERE parent = ? AND name = ?", .int(place.parent), .blob(place.name.bytes))
    }

    func isAnythingSent(below directory: Int64) throws(CatalogError) -> Bool {
        try database.exists("SELECT 1 FROM sent WHERE parent = ?", .int(directory))
    }

    /// It is known what became of it.
    func forgetSent(_ state: SentState?, at place: Place) throws(CatalogError) {
        guard let state else { return }
        try database.run(
            "DELETE FROM sent WHERE parent = ? AND name = ? AND state = ?", .int(place.parent),
            .blob(place.name.bytes), .text(state.text))
    }

    /// What was sent there is not there now. It may come yet, where a server stands still.
    func sentWasLookedFor(at place: Place) throws(CatalogError) {
        try database.run(
            "UPDATE sent SET looked = 1 WHERE parent = ? AND name = ?", .int(place.parent), .blob(place.name.bytes))
    }

    /// What was sent so long ago and has not turned up will not.
    func forgetSent(below directory: Int64, before time: Int64) throws(CatalogError) {
        let names = try database.all(
            "SELECT DISTINCT name FROM sent WHERE parent = ? AND since_ns < ?", .int(directory), .int(time)
        ) { row throws(CatalogError) in try fileName(row.blob(0)) }
        for name in names where try worker(at: Place(parent: directory, name: name)) == nil {
            try database.run(
                "DELETE FROM sent WHERE parent = ? AND name = ? AND since_ns < ?", .int(directory), .blob(name.bytes),
                .int(time))
        }
    }

    // MARK: What nothing here stands for

    /// Whether something was sent there that nothing here stands for, and that nobody has been told to look for.
    private func isAbandoned(_ place: Place) throws(CatalogError) -> Bool {
        let isToBeLookedFor = try database.exists(
            "SELECT 1 FROM sent WHERE parent = ? AND name = ? AND looked = 0", .int(place.parent),
            .blob(place.name.bytes))
        guard isToBeLookedFor, try object(place.name, below: place.parent) == nil,
            underWay.row(at: place, but: nil) == nil
        else { return false }
        for directory in try directories(at: place.parent) {
            if let inode = try entry(place.name, in: directory), inode.kind != .directory { return false }
        }
        return true
    }

    /// The places to which this work has sent something that it has not heard of, and that is not wanted any more.
    func abandonedPlaces(of work: Work?) throws(CatalogError) -> [Place] {
        var places: [Place] = []
        for place in work?.places ?? [] where try isAbandoned(place) { places.append(place) }
        return places
    }

    /// The name is not used here any more: what was sent there, perhaps, is looked for and deleted. While somebody is
    /// at it, the end of that work tells.
    func abandonSent(at place: Place) throws(CatalogError) {
        guard try isAbandoned(place), try object(place.parent) != nil else { return }
        try database.run(
            "INSERT INTO object(parent, name, directory, size_bytes, modified_ns, seen_ns) VALUES (?, ?, 0, 0, 0, 0)",
            .int(place.parent), .blob(place.name.bytes))
        try markDeletion(of: database.lastInsertedRow)
    }

    /// The same for all that was sent into a directory.
    func abandonSent(below directory: Int64) throws(CatalogError) {
        let names = try database.all("SELECT DISTINCT name FROM sent WHERE parent = ?", .int(directory)) {
            row throws(CatalogError) in try fileName(row.blob(0))
        }
        for name in names { try abandonSent(at: Place(parent: directory, name: name)) }
    }

    /// The last process may have been killed before it heard what became of what it had sent.
    func loadSent() throws(CatalogError) {
        try database.run("DELETE FROM sent WHERE parent NOT IN (SELECT id FROM object)")
        let places = try database.all("SELECT DISTINCT parent, name FROM sent") { row throws(CatalogError) in
            Place(parent: row.int(0), name: try fileName(row.blob(1)))
        }
        cause = Cause(since: now, changed: now, isExpedited: true)
        defer { cause = nil }
        for place in places { try abandonSent(at: place) }
    }

    // MARK: What turns up

    /// Whether what the store shows at a place is what was sent there and not heard of: then it is taken for that.
    ///
    /// A file that is still as it was sent is not decided on: whoever uploads it compares the bytes, of which this disk
    /// may have lost some.
    func takeSent(_ metadata: Metadata, at place: Place, in directory: InodeID) throws(CatalogError) -> Bool {
        guard metadata.kind != .directory,
            let state = SentState(size: metadata.size, metadata.attributes, on: capabilities)
        else {
            return false
        }
        let note = try database.first(
            """
            SELECT inode, content_generation, attribute_generation FROM sent WHERE parent = ? AND name = ? AND state = ?
            """, .int(place.parent), .blob(place.name.bytes), .text(state.text)
        ) {
            Sent(
                place: place, inode: InodeID(UInt64($0.int(0))), contentGeneration: $0.int(1),
                attributeGeneration: $0.int(2))
        }
        guard let note, try object(place.name, below: place.parent)?.isDirectory != true else { return false }
        let local = try entry(place.name, in: directory)
        if note.contentGeneration < 0, let local, local.id == note.inode,
            SentState(size: local.size, try storeAttributes(of: local), on: capabilities) == state
        {
            return false
        }
        try forgetSent(state, at: place)
        try objectWasPut(
            Placement(
                item: PendingID(0), revision: 0, inode: note.inode, contentGeneration: note.contentGeneration,
                attributeGeneration: note.attributeGeneration, parentObject: place.parent, entryParent: directory,
                entryName: place.name), metadata, identity: metadata.attributes?.identity)
        if local != nil, try pendingRow(place.name, in: directory) == nil { try mark(place.name, in: directory) }
        return true
    }
}

extension Tables.Sent {
    init(_ placement: Placement, areBytesCertain: Bool) {
        self.init(
            place: Tables.Place(placement), inode: placement.inode,
            contentGeneration: areBytesCertain ? placement.contentGeneration : -1,
            attributeGeneration: placement.attributeGeneration)
    }
}
