import StoreAPI

// What workers are changing on the store. Two rules hold here, and nowhere else:
//
// - Two workers never change the same place at once, and nobody works below a directory that moves or goes.
// - What the store was heard to say of a place is worth nothing when work of ours at this place, or on a directory
//   above, was under way or ended after the question was put: it may be from before that work or from after it.
extension Tables {
    /// The row whose work is changing what lies at a place; nil: nobody does.
    func worker(at place: Place, but row: Int64? = nil) throws(CatalogError) -> Int64? {
        if underWay.isEmpty { return nil }
        if let other = underWay.first(where: { $0.key != row && $0.value.places.contains(place) }) { return other.key }
        guard underWay.contains(where: { $0.key != row && $0.value.subtree != nil }) else { return nil }
        for object in try chain(of: place.parent) {
            if let other = underWay.first(where: { $0.key != row && $0.value.subtree == object }) { return other.key }
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
        }
        return try work.subtree.flatMap { subtree throws(CatalogError) in try worker(below: subtree, but: row) }
    }

    /// The row whose work is changing something in a directory of the store, or further below; nil: nobody does.
    func worker(below directory: Int64, but row: Int64? = nil) throws(CatalogError) -> Int64? {
        for (other, its) in underWay where other != row {
            for place in its.places where try chain(of: place.parent).contains(directory) { return other }
        }
        return nil
    }

    /// The row has to wait until the other one's step has ended. Not for that row to be done: it holds the place for
    /// one step only, and may itself wait for this one next.
    func refuse(_ row: Int64, while worker: Int64) -> SyncStep {
        refused[worker, default: []].insert(row)
        return .busy
    }

    /// The worker that carried out the row's step is back, whatever came of it.
    func workEnded(_ row: Int64) {
        guard let work = underWay.removeValue(forKey: row) else { return }
        released.formUnion(refused.removeValue(forKey: row) ?? [])
        workCount += 1
        let moment = Moment(count: workCount, time: now)
        for place in work.places + work.implied { ended[place] = moment }
        if let subtree = work.subtree { subtreesEnded[subtree] = moment }
        guard (ended.count + subtreesEnded.count) % 65_536 == 65_535 else { return }
        ended = ended.filter { $0.value.time > moment.time - Self.longestLag }
        subtreesEnded = subtreesEnded.filter { $0.value.time > moment.time - Self.longestLag }
    }

    /// Whether what the store was heard to say of a place, to a question put when `begun` pieces of work had ended, may
    /// be from before or from within work of ours. `row` asks itself.
    func isOurWork(at place: Place, since begun: Int64, by row: Int64? = nil) throws(CatalogError) -> Bool {
        if try worker(at: place, but: row) != nil { return true }
        if underWay.contains(where: { $0.key != row && $0.value.implied.contains(place) }) { return true }
        if let moment = ended[place], moment.count > begun { return true }
        return try isMoved(place.parent, since: begun, by: row)
    }

    /// Whether a directory lies elsewhere than it did, or may: what was heard of its path is about something else.
    func isMoved(_ directory: Int64, since begun: Int64, by row: Int64? = nil) throws(CatalogError) -> Bool {
        for object in try chain(of: directory) {
            if let moment = subtreesEnded[object], moment.count > begun { return true }
            if underWay.contains(where: { $0.key != row && $0.value.subtree == object }) { return true }
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
