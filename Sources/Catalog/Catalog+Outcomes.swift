import SQLite
package import StoreAPI
import Threading

// What became of the steps that `plan` asked for.
extension Catalog {
    /// The content lies on the store now, as `metadata` says.
    package func uploaded(_ plan: UploadPlan, as metadata: Metadata) throws(CatalogError) {
        try wasPut(plan.placement, plan.attributes, metadata)
    }

    package func copied(_ plan: CopyPlan, as metadata: Metadata) throws(CatalogError) {
        try wasPut(plan.placement, plan.attributes, metadata)
    }

    private func wasPut(_ placement: Placement, _ attributes: Attributes, _ metadata: Metadata) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            try tables.ending(placement.item) { () throws(CatalogError) in
                let place = Tables.Place(placement)
                try tables.forgetSent(
                    SentState(size: metadata.size, metadata.attributes, on: tables.capabilities), at: place)
                try tables.forgetSent(SentState(size: metadata.size, attributes, on: tables.capabilities), at: place)
                try tables.objectWasPut(placement, metadata, identity: attributes.identity)
            }
        }
    }

    package func attributesWereSet(_ plan: AttributesPlan, to metadata: Metadata) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            tables.workEnded(plan.item.value)
            guard let object = try tables.object(plan.object) else { return }
            if !object.isDirectory {
                try tables.updateObject(plan.object, metadata)
                if let identity = plan.attributes.identity {
                    try tables.setIdentity(ofObject: plan.object, to: identity)
                }
                for place in try tables.places(of: plan.object) {
                    try tables.forgetSent(
                        SentState(size: metadata.size, plan.attributes, on: tables.capabilities), at: place)
                }
            }
            // Where something has come into a directory meanwhile, its times may have changed after they were set.
            let isCurrent = object.attributeGeneration == plan.before
            try tables.database.run(
                "UPDATE object SET attribute_generation = ?, written_ns = ?3, seen_ns = ?3 WHERE id = ?2",
                .int(isCurrent ? plan.attributeGeneration : object.attributeGeneration), .int(plan.object),
                .int(tables.now))
            if !object.isDirectory {
                // The bytes are the same under the new version.
                try tables.database.run(
                    "UPDATE inode SET source_version = ? WHERE object = ? AND kind != ?",
                    SQLValue(metadata.version?.text), .int(plan.object), .int(Int64(FileKind.directory.rawValue)))
            }
        }
    }

    package func directoryWasMade(_ plan: DirectoryPlan) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            try tables.ending(plan.item) { () throws(CatalogError) in try tables.directoryWasMade(plan) }
        }
    }

    /// - Parameter metadata: of a file: what lies at its new place.
    package func moved(_ plan: MovePlan, as metadata: Metadata?) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            try tables.ending(plan.item) { () throws(CatalogError) in try tables.objectWasMoved(plan, metadata) }
        }
    }

    /// The object does not lie where the move was to bring it. (Where it was, perhaps not either.)
    package func moveWasNotDone(_ plan: MovePlan) throws(CatalogError) {
        try write { tables throws(CatalogError) in try tables.forgetMove(of: plan.object) }
    }

    /// The objects are not on the store any more, or (a directory that others have put something into) not ours.
    package func deleted(_ plans: [DeletePlan]) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            for plan in plans {
                try tables.ending(plan.item) { () throws(CatalogError) in try tables.objectWentAway(plan) }
            }
        }
    }

    /// Nothing has the bytes of this file any more, as far as the store was asked: where none of them was written here,
    /// it is removed as others have removed it, although its name or attributes were changed here since.
    ///
    /// - Returns: the names that are gone; none: it has bytes of ours, or lies on the store after all.
    package func removeIfLost(_ inode: InodeID) throws(CatalogError) -> [NamespaceChange] {
        try write { tables throws(CatalogError) in
            guard let content = try tables.contentRecord(inode), content.isLost, !content.isDirty, !content.isChanging,
                let record = try tables.inode(inode)
            else { return [] }
            var changes: [NamespaceChange] = []
            for (parent, name) in try tables.names(of: inode) {
                try tables.displace(name, from: parent, of: record)
                changes.append(.entry(parent: parent, name: name, inode: inode))
            }
            return changes
        }
    }

    /// Somebody else's version lies under its new name, as `metadata` says: ours may take the old one.
    package func conflictWasKept(_ plan: ConflictPlan, as metadata: Metadata) throws(CatalogError) -> [NamespaceChange]
    {
        try write { tables throws(CatalogError) in
            var changes: [NamespaceChange] = []
            try tables.ending(plan.item) { () throws(CatalogError) in
                try tables.conflictWasKept(plan, metadata, &changes)
            }
            return changes
        }
    }
}

extension Tables {
    /// An object has come to its place. The name here may be another one by now, or gone: then it is not to stay.
    fileprivate func settle(_ id: Int64, in inode: InodeID) throws(CatalogError) {
        guard let object = try object(id), let name = object.name else { return }
        for directory in try directories(at: object.parent) where try entry(name, in: directory)?.id == inode {
            return
        }
        // Where something else is to take its place meanwhile, the deletion gives way to that.
        try markDeletion(of: id)
    }

    /// Records what became of a row's step. What that brings about is as old and as urgent as the row, also when the
    /// row has gone meanwhile.
    fileprivate func ending(_ item: PendingID, _ body: () throws(CatalogError) -> Void) throws(CatalogError) {
        try causing(item.value) { () throws(CatalogError) in
            workEnded(item.value)
            try body()
        }
    }

    fileprivate func directoryWasMade(_ plan: DirectoryPlan) throws(CatalogError) {
        guard try object(plan.parentObject) != nil else { return }
        let object: Int64
        if let known = try self.object(plan.name, below: plan.parentObject) {
            object = known.id
        } else {
            try database.run(
                """
                INSERT INTO object(parent, name, directory, size_bytes, modified_ns, seen_ns)
                VALUES (?, ?, 1, 0, ?3, ?3)
                """, .int(plan.parentObject), .blob(plan.name.bytes), .int(now))
            object = database.lastInsertedRow
        }
        try database.run(
            "UPDATE object SET attribute_generation = ?, written_ns = ?3, seen_ns = ?3 WHERE id = ?2",
            .int(plan.attributeGeneration), .int(object), .int(now))
        guard let record = try inode(plan.inode), record.links > 0 else {
            // It was removed meanwhile.
            try markDeletion(of: object)
            return
        }
        try settle(object, in: plan.inode)
        try childrenChanged(below: plan.parentObject)
        // One that moves entry by entry keeps its place until `plan` has found this one.
        if try place(of: plan.inode) == nil {
            try setPlace(of: plan.inode, to: object)
            try database.run("UPDATE inode SET listed_ns = ? WHERE id = ?", .int(now), .int(plan.inode.row))
        }
    }

    fileprivate func conflictWasKept(_ plan: ConflictPlan, _ metadata: Metadata, _ changes: inout [NamespaceChange])
        throws(CatalogError)
    {
        guard let object = try object(plan.object) else { return }
        if plan.isDirectory {
            try forgetObjects(below: plan.object)
            try deleteObject(plan.object)
        } else {
            try database.run(
                "UPDATE object SET foreign_version = 0, inode = NULL WHERE id = ? AND version IS ?",
                .int(plan.object), SQLValue(plan.version?.text))
        }
        try childrenChanged(below: object.parent)
        // When it was removed here meanwhile, the copy is what keeps it on the store, and is found with it.
        guard let directory = try inode(plan.directory), directory.links > 0 else { return }
        let listing = ListingPlan(
            directory: plan.directory, path: plan.keepPath, object: object.parent, number: now, begun: workCount)
        try merge(ListEntry(name: plan.keepAs, metadata: metadata), into: listing, isDefinite: true, &changes)
        // When it was renamed meanwhile, its entries go one by one, and so does this.
        if try place(of: plan.directory) != object.parent,
            let copy = try self.object(plan.keepAs, below: object.parent)
        {
            try mark(plan.keepAs, in: plan.directory)
            try markDeletion(of: copy.id)
        }
    }

    fileprivate func objectWasMoved(_ plan: MovePlan, _ metadata: Metadata?) throws(CatalogError) {
        try forgetMove(of: plan.object)
        guard let moved = try object(plan.object) else { return }
        try childrenChanged(below: moved.parent)
        try childrenChanged(below: plan.parentObject)
        if let replaced = try object(plan.name, below: plan.parentObject), replaced.id != plan.object {
            try deleteObject(replaced.id)
        }
        try database.run(
            "UPDATE object SET parent = ?, name = ?, written_ns = ?4, seen_ns = ?4 WHERE id = ?3",
            .int(plan.parentObject), .blob(plan.name.bytes), .int(plan.object), .int(now))
        try unmarkDeletion(of: plan.object)
        if let metadata, !plan.isDirectory {
            try updateObject(plan.object, metadata)
            try database.run(
                "UPDATE inode SET source_version = ? WHERE object = ?", SQLValue(metadata.version?.text),
                .int(plan.object))
        }
        if plan.isDirectory { try remarkNames(below: plan.object) }
        try settle(plan.object, in: plan.inode)
    }

    fileprivate func objectWentAway(_ plan: DeletePlan) throws(CatalogError) {
        if let object = try object(plan.object) {
            for place in try places(of: plan.object) { try sentWasLookedFor(at: place) }
            try childrenChanged(below: object.parent)
            guard try !database.exists("SELECT 1 FROM object WHERE parent = ?", .int(plan.object)) else {
                // Something that was sent there may still turn up: it is looked for first, and then this comes again.
                try database.run(
                    "UPDATE object SET attribute_generation = -1, seen_ns = 0, written_ns = 0 WHERE id = ?",
                    .int(plan.object))
                return
            }
            try deleteObject(plan.object)
        }
        try database.run("DELETE FROM pending WHERE id = ?", .int(plan.item.value))
    }

    /// Whether what was put is what the name stands for now, and where it belongs.
    private func isSettled(_ placement: Placement, _ object: ObjectRow) throws(CatalogError) -> Bool {
        let generations = try generations(of: placement.inode)
        guard generations.content == placement.contentGeneration,
            generations.attributes == placement.attributeGeneration || !capabilities.contains(.attributes),
            try place(of: placement.entryParent) == placement.parentObject
        else { return false }
        guard let record = try entry(placement.entryName, in: placement.entryParent), record.id == placement.inode
        else {
            return false
        }
        return try !lacksIdentity(object, of: record)
    }

    /// - Parameter identity: What the object says of itself: see ``ObjectIdentity``.
    func objectWasPut(_ placement: Placement, _ metadata: Metadata, identity: String?) throws(CatalogError) {
        // The directory may have been listed away meanwhile; then the next listing finds the object.
        guard try object(placement.parentObject) != nil else { return }
        try database.run(
            """
            INSERT INTO object(parent, name, directory, inode, version, size_bytes, modified_ns, content_generation,
                attribute_generation, seen_ns, written_ns, identity)
            VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10)
            ON CONFLICT(parent, name) DO UPDATE SET directory = 0, inode = ?3, version = ?4, size_bytes = ?5,
                modified_ns = ?6, content_generation = ?7, attribute_generation = ?8, foreign_version = 0, seen_ns = ?9,
                written_ns = ?9, identity = ?10
            """, .int(placement.parentObject), .blob(placement.entryName.bytes), .int(placement.inode.row),
            SQLValue(metadata.version?.text), .int(metadata.size), .int(metadata.modified.nanoseconds),
            .int(placement.contentGeneration), .int(placement.attributeGeneration), .int(now), SQLValue(identity))
        guard let object = try object(placement.entryName, below: placement.parentObject) else { return }
        // Files whose bytes lay there before have lost them, but for those who are this file.
        try loseSource(object.id, but: placement.inode)
        try unmarkDeletion(of: object.id)
        guard let record = try inode(placement.inode) else {
            // Removed meanwhile.
            try database.run("UPDATE object SET inode = NULL WHERE id = ?", .int(object.id))
            try markDeletion(of: object.id)
            return
        }
        let isNewest = try generations(of: record.id).content == placement.contentGeneration
        // What is older does not replace a newer state that has come to the store under another name meanwhile.
        let isSource = try place(of: record.id) == object.id
        if isNewest || isSource {
            try setSource(of: record.id, object: object.id, version: metadata.version, size: metadata.size)
        }
        if isNewest {
            // What a loss of power has left of it was read for the upload: that much is on the disk.
            try database.run(
                """
                UPDATE content SET dirty = 0, epoch = CASE WHEN dirty AND epoch <= ?2 THEN NULL ELSE epoch END
                WHERE inode = ?1
                """, .int(record.id.row), .int(epochs.flushed))
        }
        try settle(object.id, in: record.id)
        // A file that was changed meanwhile is due again as if that had been its first change.
        try database.run(
            """
            UPDATE pending SET checkpoint = NULL, expedited = CASE WHEN revision = ?2 THEN expedited ELSE 0 END,
                since_ns = CASE WHEN revision = ?2 THEN since_ns ELSE changed_ns END WHERE id = ?1
            """, .int(placement.item.value), .int(placement.revision))
        // The row is done with, if nothing has changed since: to plan it once more would tell nothing else.
        if try isSettled(placement, object) {
            try database.run(
                "DELETE FROM pending WHERE id = ? AND revision = ?", .int(placement.item.value),
                .int(placement.revision))
        }
        try childrenChanged(below: placement.parentObject)
    }
}
