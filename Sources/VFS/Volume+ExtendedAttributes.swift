import Caching
import Catalog
import StoreAPI
import Synchronization

extension Volume {
    private static let longestName = 255
    private static let longestValue = 64 << 10

    /// What a name of an extended attribute means: decided here alone.
    private enum AttributeName {
        /// One that the user, or the kernel's security modules, set.
        case kept
        /// What the program tells about the file.
        case told(Told)
        /// What is promised of all that is in a directory; of everything it can be asked what holds.
        case durability
        /// A kind that is not kept: POSIX ACLs, and what is none of the kinds that Linux has.
        case unsupported

        /// Under these names a local folder keeps what tells that two names are one file, and what was replaced.
        private static let reserved: Set = ["user.cloudfusion.identity", "user.cloudfusion.replaces"]

        init(_ name: String) {
            if let told = Told(rawValue: name) {
                self = .told(told)
            } else if name == Durability.attribute {
                self = .durability
            } else if Self.reserved.contains(name) {
                self = .unsupported
            } else if ["user.", "security.", "trusted."].contains(where: { name.hasPrefix($0) && name != $0 }) {
                self = .kept
            } else {
                self = .unsupported
            }
        }
    }

    private enum Told: String {
        /// 1: something here is newer than on the store; for a directory also of what lies below it.
        case dirty = "user.cloudfusion.dirty"
        /// "store": all bytes are on the store; "cache": some are here alone.
        case location = "user.cloudfusion.location"
        /// The store's version of the file.
        case entityTag = "user.cloudfusion.etag"
        /// How many bytes are in the cache, in decimal.
        case cached = "user.cloudfusion.cached"
        /// As ``dirty``, under the name that programs for CloudFusion's first version ask for.
        case isDirty = "XATTR_IS_DIRTY"
    }

    func extendedAttribute(_ name: String, of inode: InodeID) throws(FileSystemError) -> [UInt8] {
        switch AttributeName(name) {
        case .unsupported: throw .unsupported
        case .told(let told): return Array(try tell(told, of: existing(inode)).utf8)
        case .durability: return Array(try durability(of: existing(inode).id).rawValue.utf8)
        case .kept:
            let all = try asked { () throws(CatalogError) in try catalog.extendedAttributes(of: inode) }
            guard let value = all[name] else { throw .noSuchAttribute }
            return value
        }
    }

    func extendedAttributeNames(of inode: InodeID, for caller: Caller) throws(FileSystemError) -> [String] {
        let names = try asked { () throws(CatalogError) in try catalog.extendedAttributes(of: inode).keys.sorted() }
        // The kernel refuses their values to others, and leaves the names to us.
        return caller.uid == 0 ? names : names.filter { !$0.hasPrefix("trusted.") }
    }

    func setExtendedAttribute(
        _ name: String, to value: [UInt8], of inode: InodeID, _ mode: Catalog.AttributeMode
    ) throws(FileSystemError) {
        try mayChange()
        switch AttributeName(name) {
        case .unsupported: throw .unsupported
        case .told: throw .accessDenied
        case .durability:
            guard try existing(inode).kind == .directory else { throw .notPermitted }
            guard Durability(value) != nil else { throw .invalid }
        case .kept: break
        }
        guard name.utf8.count <= Self.longestName else { throw .outOfRange }
        guard value.count <= Self.longestValue else { throw .noSpace }
        try asked { () throws(CatalogError) in
            try catalog.setExtendedAttribute(name, to: value, of: inode, mode)
        }
        if name == Self.capabilities { nodes.node(inode)?.mayHavePrivileges.store(true, ordering: .relaxed) }
        changedHere()
    }

    func removeExtendedAttribute(_ name: String, of inode: InodeID) throws(FileSystemError) {
        try mayChange()
        switch AttributeName(name) {
        case .unsupported: throw .unsupported
        case .told: throw .accessDenied
        case .durability, .kept: break
        }
        try asked { () throws(CatalogError) in try catalog.removeExtendedAttribute(name, of: inode) }
        changedHere()
    }

    private func tell(_ told: Told, of record: InodeRecord) throws(FileSystemError) -> String {
        try asked { () throws(CatalogError) in
            let content = record.kind == .file ? try catalog.content(of: record.id) : nil
            switch told {
            case .dirty, .isDirty:
                if content?.isDirty == true { return "1" }
                guard let path = try catalog.path(of: record.id) else { return "0" }
                return try catalog.pendingBelow(path).items > 0 ? "1" : "0"
            case .location:
                guard let content else { throw CatalogError(.noSuchAttribute, "only files have a location") }
                return content.isDirty || content.source == nil ? "cache" : "store"
            case .entityTag:
                guard let version = content?.source?.version else {
                    throw CatalogError(.noSuchAttribute, "the store has no version of it")
                }
                return version.text
            case .cached:
                guard let content else { throw CatalogError(.noSuchAttribute, "only files are cached") }
                return String(cache.opened(record.id)?.cachedBytes ?? Self.cachedBytes(content))
            }
        }
    }

    /// Ranges behind the source's end count as present and are no bytes of the cache.
    private static func cachedBytes(_ content: ContentRecord) -> Int64 {
        content.present.ranges.reduce(0) { sum, range in
            sum + max(min(range.upperBound, content.size) - range.lowerBound, 0)
        }
    }
}
