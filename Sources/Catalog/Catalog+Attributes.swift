import SQLite
import StoreAPI
import Threading

// Mode, owner, times and extended attributes.
extension Catalog {
    /// - Throws: ``CatalogError``: `.notFound`.
    package func setAttributes(_ changes: AttributeChanges, of inode: InodeID) throws(CatalogError) -> InodeRecord {
        try write { tables throws(CatalogError) in try tables.setAttributes(changes, of: inode) }
    }

    /// Saves a content, as ``save(_:)`` does, and then sets attributes, in one transaction.
    ///
    /// - Returns: the generation that the saved state has (nil where there was none to save), and the inode.
    /// - Throws: ``CatalogError``: `.notFound`.
    package func setAttributes(_ changes: AttributeChanges, of inode: InodeID, saving content: ContentState?)
        throws(CatalogError) -> (generation: Int64?, result: InodeRecord)
    {
        try write { tables throws(CatalogError) in
            _ = try tables.existing(inode)
            let generation = try content.map { (content) throws(CatalogError) in try tables.save(content) }
            return (generation, try tables.setAttributes(changes, of: inode))
        }
    }

    package func extendedAttributes(of inode: InodeID) throws(CatalogError) -> [String: [UInt8]] {
        try read { tables throws(CatalogError) in try tables.extendedAttributes(of: inode) }
    }

    /// What ``setExtendedAttribute(_:to:of:_:)`` does when the attribute exists, or does not.
    package enum AttributeMode: Sendable { case either, create, replace }

    /// - Throws: ``CatalogError``: `.attributeExists` (`.create`), `.noSuchAttribute` (`.replace`), `.notFound`.
    package func setExtendedAttribute(
        _ name: String, to value: [UInt8], of inode: InodeID, _ mode: AttributeMode
    ) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            _ = try tables.existing(inode)
            let exists = try tables.hasAttribute(name, inode)
            switch mode {
            case .create where exists: throw CatalogError(.attributeExists, "the attribute '\(name)' exists")
            case .replace where !exists: throw CatalogError(.noSuchAttribute, "there is no attribute '\(name)'")
            default: break
            }
            try tables.insertAttribute(name, value, inode)
            try tables.attributesChanged(inode)
        }
    }

    /// - Throws: ``CatalogError``: `.noSuchAttribute`.
    package func removeExtendedAttribute(_ name: String, of inode: InodeID) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            guard try tables.hasAttribute(name, inode) else {
                throw CatalogError(.noSuchAttribute, "there is no attribute '\(name)'")
            }
            try tables.database.run("DELETE FROM attribute WHERE inode = ? AND name = ?", .int(inode.row), .text(name))
            try tables.attributesChanged(inode)
        }
    }
}

extension Tables {
    fileprivate func setAttributes(_ changes: AttributeChanges, of inode: InodeID) throws(CatalogError) -> InodeRecord {
        _ = try existing(inode)
        // The time of a mere reading is no change that the store has to hear of.
        let isWorthSending =
            changes.mode != nil || changes.uid != nil || changes.gid != nil || changes.modified != nil
        try database.run(
            """
            UPDATE inode SET mode = coalesce(?, mode), uid = coalesce(?, uid), gid = coalesce(?, gid),
                accessed_ns = coalesce(?, accessed_ns), modified_ns = coalesce(?, modified_ns),
                changed_ns = coalesce(?, changed_ns), attribute_generation = attribute_generation + ? WHERE id = ?
            """, SQLValue(changes.mode.map { Int64($0 & 0o7777) }), SQLValue(changes.uid.map { Int64($0) }),
            SQLValue(changes.gid.map { Int64($0) }), SQLValue(changes.accessed?.nanoseconds),
            SQLValue(changes.modified?.nanoseconds), SQLValue(changes.changed?.nanoseconds),
            SQLValue(isWorthSending), .int(inode.row))
        if isWorthSending { try markNames(of: inode) }
        return try existing(inode)
    }

    func extendedAttributes(of inode: InodeID) throws(CatalogError) -> [String: [UInt8]] {
        let pairs = try database.all("SELECT name, value FROM attribute WHERE inode = ?", .int(inode.row)) {
            ($0.text(0) ?? "", $0.blob(1) ?? [])
        }
        return Dictionary(pairs) { _, last in last }
    }

    fileprivate func hasAttribute(_ name: String, _ inode: InodeID) throws(CatalogError) -> Bool {
        try database.exists("SELECT 1 FROM attribute WHERE inode = ? AND name = ?", .int(inode.row), .text(name))
    }

    fileprivate func attributesChanged(_ inode: InodeID) throws(CatalogError) {
        try database.run(
            "UPDATE inode SET changed_ns = ?, attribute_generation = attribute_generation + 1 WHERE id = ?",
            .int(fileTime), .int(inode.row))
        try markNames(of: inode)
    }

    /// What the store is to keep of an inode, beside its bytes.
    func storeAttributes(of record: InodeRecord) throws(CatalogError) -> Attributes {
        guard capabilities.contains(.attributes) else { return Attributes() }
        let extended = capabilities.contains(.extendedAttributes) ? try extendedAttributes(of: record.id) : nil
        return Attributes(
            mode: record.mode, uid: record.uid, gid: record.gid, accessed: record.accessed, modified: record.modified,
            changed: record.changed, device: record.device == 0 ? nil : record.device,
            // Also when there are none: the last one may have been removed.
            extended: extended)
    }
}
