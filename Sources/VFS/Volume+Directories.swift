import Catalog
import StoreAPI
import Threading

extension Volume {
    /// Cookies of "." and ".."; those of the catalog come behind them.
    private static let dotCookies: Int64 = 2

    func openDirectory(_ inode: InodeID) throws(FileSystemError) -> HandleID {
        guard try existing(inode).kind == .directory else { throw .notADirectory }
        _ = nodes.open(inode)
        return handles.add(.directory(self, inode))
    }

    func readDirectory(
        _ inode: InodeID, after cookie: Int64, plus: Bool, add: @escaping @Sendable (ListedEntry) -> Bool,
        _ reply: @escaping FileSystem.Reply<Void>
    ) {
        // A reading that goes on shows what there is; one that begins (again) asks the store if need be.
        guard cookie <= 0 else {
            return answer(reply) { () throws(FileSystemError) in
                try emit(inode, after: cookie, plus: plus, trust: settings.metadataLifetime, add)
            }
        }
        whenListed(inode) { [self] knowledge in
            answer(reply) { () throws(FileSystemError) in
                switch knowledge {
                case .current: try emit(inode, after: cookie, plus: plus, trust: settings.metadataLifetime, add)
                case .outdated: try emit(inode, after: cookie, plus: plus, trust: Self.outdatedTrust, add)
                // It has gone on the store: as on any other file system of a directory that is open and removed. The
                // kernel looks no path up again for those who have opened it.
                case .unknown(.stale): throw .notFound
                // An incomplete listing would look like a complete one.
                case .unknown(let error): throw error
                }
            }
        }
    }

    private func emit(
        _ inode: InodeID, after cookie: Int64, plus: Bool, trust: Duration, _ add: (ListedEntry) -> Bool
    ) throws(FileSystemError) {
        if cookie < 1 {
            let dot = ListedEntry(name: [UInt8(ascii: ".")], cookie: 1, number: numbers.number(inode), kind: .directory)
            guard add(dot) else { return }
        }
        if cookie < 2 {
            let parent = try asked { () throws(CatalogError) in try catalog.parent(of: inode) }
            // Above the store's root is the mount's, which in a flat mount is the same.
            let number = inode == .root ? 1 : numbers.number(parent ?? inode)
            let dots = ListedEntry(name: Array("..".utf8), cookie: 2, number: number, kind: .directory)
            guard add(dots) else { return }
        }
        var last = max(cookie - Self.dotCookies, 0)
        // The kernel's buffers take some dozen entries with attributes, and a few hundred without.
        var limit = plus ? 32 : 128
        while true {
            let (after, count) = (last, limit)
            let page = try asked { () throws(CatalogError) in
                try catalog.entries(of: inode, after: after, limit: count)
            }
            for line in page {
                last = line.cookie
                if inode == .root, line.name == .control { continue }
                var listed = ListedEntry(
                    name: line.name.bytes, cookie: line.cookie + Self.dotCookies,
                    number: numbers.number(line.inode.id), kind: line.inode.kind)
                if plus, line.inode.attributesAreKnown {
                    listed.entry = entry(line.inode, trust: trust)
                }
                guard add(listed) else { return }
                if listed.entry != nil { nodes.retain(line.inode.id) }
            }
            if page.count < count { return }
            limit = min(limit * 2, 512)
        }
    }
}
