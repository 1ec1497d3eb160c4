import SQLite
import StoreAPI

// What workers are changing on the store. Two rules hold here, and nowhere else:
//
// - Two workers never change the same place at once, nor what the store is copying from for another, and nobody works
//   below a directory that moves or goes.
// - What the store was heard to say of a place is worth nothing when work of ours at this place, or on a directory
//   above, was under way or ended after the question was put: it may be from before that work or from after it.
extension Tables {
    /// The row whose work is changing what lies at a place; nil: nobody does.
    func worker(at place: Place, but row: Int64? = nil) throws(CatalogError) -> Int64? {
        if underWay.isEmpty { return nil }
        if let other = underWay.row(at: place, but: row) { return other }
        guard underWay.hasSubtrees else { return nil }
        for object in try chain(of: place.parent) {
            if let other = underWay.row(ofSubtree: object, but: row) { return other }
        }
        return nil
    }

    /// What is being done with the object that has the inode's bytes.
    func work(on object: Int64, of inode: InodeID) throws(CatalogError) -> SourceWork {
        guard !underWay.isEmpty, let row = try self.object(object), let name = row.name,
            let worker = try worker(at: Place(parent: row.parent, name: name))
        else { return .none }
        return underWay[worker]?.uploaded == inode ? .upload : .other
    }

    /// The places of the directories at and above an object that are still to be made.
    func unmadePlaces(to directory: Int64) throws(CatalogError) -> [Place] {
        var places: [Place] = []
        var position = directory
        while let object = try object(position), object.isUnmade, let name = object.name {
            places.append(Place(parent: object.parent, name: name))
            position = object.parent
        }
        return places
    }

    /// The row whose work does not go together with this one.
    func obstacle(to work: Work, of row: Int64) throws(CatalogError) -> Int64? {
        for place in work.places {
            if let other = try worker(at: place, but: row) { return other }
            if let other = underWay.row(copyingFrom: place, but: row) { return other }
        }
        return try work.subtree.flatMap { subtree throws(CatalogError) in try worker(below: subtree, but: row) }
    }

    /// The row whose work is changing something in a directory of the store, or further below, or has the store read it;
    /// nil: nobody does.
    func worker(below directory: Int64, but row: Int64? = nil) throws(CatalogError) -> Int64? {
        for parent in underWay.parents {
            guard let other = underWay.row(in: parent, but: row) else { continue }
            if try chain(of: parent).contains(directory) { return other }
        }
        return nil
    }

    /// The row has to wait until the other one's step has ended. Not for that row to be done: it holds the place for
    /// one step only, and may itself wait for this one next. Where it is a move that nobody knows the outcome of, this
    /// row's worker finds that out.
    func refuse(_ row: PendingRow, while worker: Int64) throws(CatalogError) -> SyncStep {
        guard worker < 0 else {
            refused[worker, default: []].insert(row.id)
            return .busy
        }
        guard let plan = try settlement(of: -worker, by: row) else {
            try forgetMove(of: -worker)
            return .blocked(by: nil)
        }
        return .settle(plan)
    }

    /// Runs `body`; with an error ``underWay`` is as it was before, as the rows are after a transaction that failed.
    func takingBack<Result>(_ body: () throws(CatalogError) -> Result) throws(CatalogError) -> Result {
        undo = []
        defer { undo = [] }
        do throws(CatalogError) { return try body() } catch {
            for step in undo.reversed() { step() }
            throw error
        }
    }

    func setUnderWay(_ row: Int64, _ work: Work?) {
        let before = underWay[row]
        if before == nil, work == nil { return }
        undo.append { [unowned self] in underWay[row] = before }
        underWay[row] = work
    }

    /// The worker that carried out the row's step is back, whatever came of it.
    func workEnded(_ row: Int64) {
        guard let work = underWay[row] else { return }
        setUnderWay(row, nil)
        if let object = work.moved { setUnderWay(Self.unsettled(object), work) }
        released.formUnion(refused.removeValue(forKey: row) ?? [])
        workCount += 1
        let moment = Moment(count: workCount, time: now)
        for place in work.places + work.implied { ended[place] = moment }
        if let subtree = work.subtree { subtreesEnded[subtree] = moment }
        guard ended.count + subtreesEnded.count >= sweepAt else { return }
        ended = ended.filter { $0.value.time > moment.time - Self.longestLag }
        subtreesEnded = subtreesEnded.filter { $0.value.time > moment.time - Self.longestLag }
        sweepAt = ended.count + subtreesEnded.count + Self.sweepInterval
    }

    // MARK: Moves whose outcome is not known

    // A copy or an upload that was done and not heard of is found when it is done again. A move is not: the namespace may
    // have gone on, or back, by the time, and then nobody would look where the move has gone. So it is noted before it is
    // begun. Until it is known what became of it, all that lies where it came from or went to counts as being changed.

    /// Under which number a move of the object is kept that no worker is at.
    static func unsettled(_ object: Int64) -> Int64 { -object }

    func noteMove(_ plan: MovePlan) throws(CatalogError) {
        try database.run(
            "INSERT OR REPLACE INTO move(object, parent, name) VALUES (?, ?, ?)", .int(plan.object),
            .int(plan.parentObject), .blob(plan.name.bytes))
    }

    /// It is known what became of the move.
    func forgetMove(of object: Int64) throws(CatalogError) {
        try database.run("DELETE FROM move WHERE object = ?", .int(object))
        setUnderWay(Self.unsettled(object), nil)
        let rows = underWay.moveIsKnown(of: object)
        undo.append { [unowned self] in underWay.moveIsNotKnown(of: object, at: rows) }
    }

    /// Moves that were under way when the last process ended. What they are about is due at once.
    func loadMoves() throws(CatalogError) {
        let moves = try database.all("SELECT object, parent, name FROM move") { row throws(CatalogError) in
            (object: row.int(0), parent: row.int(1), name: try fileName(row.blob(2)))
        }
        for move in moves {
            guard let object = try object(move.object), try self.object(move.parent) != nil else {
                try forgetMove(of: move.object)
                continue
            }
            underWay[Self.unsettled(object.id)] = Work(
                places: try places(of: object.id) + [Place(parent: move.parent, name: move.name)],
                subtree: object.isDirectory ? object.id : nil, moved: object.id, begun: workCount)
            let inode = object.isDirectory ? try directory(at: object.id) : object.inode
            let names = try inode.map { inode throws(CatalogError) in try self.names(of: inode) } ?? []
            cause = Cause(since: now, changed: now, isExpedited: true)
            defer { cause = nil }
            for (parent, name) in names { try mark(name, in: parent) }
            if names.isEmpty { try markDeletion(of: object.id) }
        }
    }

    /// The move anew, as it was begun. nil: what it was about is not known any more.
    private func settlement(of id: Int64, by row: PendingRow) throws(CatalogError) -> MovePlan? {
        guard let object = try object(id),
            let target = try database.first(
                "SELECT parent, name FROM move WHERE object = ?", .int(id),
                body: { row throws(CatalogError) in (parent: row.int(0), name: try fileName(row.blob(1))) }),
            try self.object(target.parent) != nil
        else { return nil }
        let inode = object.isDirectory ? try directory(at: id) : object.inode
        return MovePlan(
            item: PendingID(row.id), revision: row.revision, inode: inode ?? InodeID(0),
            isDirectory: object.isDirectory, source: try path(ofObject: id),
            version: object.isDirectory ? nil : object.version,
            target: try path(ofObject: target.parent).appending(target.name), object: id, parentObject: target.parent,
            name: target.name)
    }

    /// Whether what the store was heard to say of a place, to a question put when `begun` pieces of work had ended, may
    /// be from before or from within work of ours. `row` asks itself.
    func isOurWork(at place: Place, since begun: Int64, by row: Int64? = nil) throws(CatalogError) -> Bool {
        if try worker(at: place, but: row) != nil { return true }
        if underWay.row(implying: place, but: row) != nil { return true }
        if let moment = ended[place], moment.count > begun { return true }
        return try isMoved(place.parent, since: begun, by: row)
    }

    /// Whether a directory lies elsewhere than it did, or may: what was heard of its path is about something else.
    func isMoved(_ directory: Int64, since begun: Int64, by row: Int64? = nil) throws(CatalogError) -> Bool {
        for object in try chain(of: directory) {
            if let moment = subtreesEnded[object], moment.count > begun { return true }
            if underWay.row(ofSubtree: object, but: row) != nil { return true }
        }
        return false
    }

    /// The object and those above it, without the root.
    private func chain(of object: Int64) throws(CatalogError) -> [Int64] {
        var chain: [Int64] = []
        var position = object
        while position != 1, chain.count < 4096, let row = try self.object(position) {
            chain.append(position)
            position = row.parent
        }
        return chain
    }
}
