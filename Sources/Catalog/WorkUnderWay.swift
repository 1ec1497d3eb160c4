import StoreAPI

extension Tables {
    /// The work of all rows that are with a worker. What it changes is found without looking at all of them: there are
    /// thousands where a store takes many changes at once.
    struct WorkUnderWay {
        private var works: [Int64: Work] = [:]
        private var rowsByPlace: [Place: Set<Int64>] = [:]
        private var rowsByImplied: [Place: Set<Int64>] = [:]
        private var rowsBySubtree: [Int64: Set<Int64>] = [:]
        private var rowsBySource: [Place: Set<Int64>] = [:]
        /// The rows that change something in a directory itself, or have the store read it.
        private var rowsByParent: [Int64: Set<Int64>] = [:]
        private var rowsByUploaded: [InodeID: Set<Int64>] = [:]
        private var rowsByMoved: [Int64: Set<Int64>] = [:]

        var isEmpty: Bool { works.isEmpty }
        /// Whether any directory moves or goes.
        var hasSubtrees: Bool { !rowsBySubtree.isEmpty }
        /// The directories in which something changes.
        var parents: some Collection<Int64> { rowsByParent.keys }

        subscript(row: Int64) -> Work? {
            get { works[row] }
            set {
                remove(row)
                guard let newValue else { return }
                works[row] = newValue
                for place in newValue.places {
                    rowsByPlace[place, default: []].insert(row)
                    rowsByParent[place.parent, default: []].insert(row)
                }
                for place in newValue.implied { rowsByImplied[place, default: []].insert(row) }
                for place in newValue.sources {
                    rowsBySource[place, default: []].insert(row)
                    rowsByParent[place.parent, default: []].insert(row)
                }
                if let subtree = newValue.subtree { rowsBySubtree[subtree, default: []].insert(row) }
                if let inode = newValue.uploaded { rowsByUploaded[inode, default: []].insert(row) }
                if let object = newValue.moved { rowsByMoved[object, default: []].insert(row) }
            }
        }

        private mutating func remove(_ row: Int64) {
            guard let work = works.removeValue(forKey: row) else { return }
            for place in work.places {
                Self.remove(row, of: place, in: &rowsByPlace)
                Self.remove(row, of: place.parent, in: &rowsByParent)
            }
            for place in work.implied { Self.remove(row, of: place, in: &rowsByImplied) }
            for place in work.sources {
                Self.remove(row, of: place, in: &rowsBySource)
                Self.remove(row, of: place.parent, in: &rowsByParent)
            }
            if let subtree = work.subtree { Self.remove(row, of: subtree, in: &rowsBySubtree) }
            if let inode = work.uploaded { Self.remove(row, of: inode, in: &rowsByUploaded) }
            if let object = work.moved { Self.remove(row, of: object, in: &rowsByMoved) }
        }

        /// The row, other than this one, whose work changes what lies at a place.
        func row(at place: Place, but row: Int64?) -> Int64? { Self.other(rowsByPlace[place], row) }

        /// The row, other than this one, that makes the directory at a place by what it puts below.
        func row(implying place: Place, but row: Int64?) -> Int64? { Self.other(rowsByImplied[place], row) }

        /// The row, other than this one, for which the store reads what lies at a place.
        func row(copyingFrom place: Place, but row: Int64?) -> Int64? { Self.other(rowsBySource[place], row) }

        /// The row, other than this one, whose work moves or removes an object with all below.
        func row(ofSubtree object: Int64, but row: Int64?) -> Int64? { Self.other(rowsBySubtree[object], row) }

        /// The row, other than this one, whose work changes something in a directory, or has the store read
        /// it.
        func row(in directory: Int64, but row: Int64?) -> Int64? { Self.other(rowsByParent[directory], row) }

        /// The row, other than this one, that uploads the content of an inode.
        func row(uploading inode: InodeID, but row: Int64?) -> Int64? { Self.other(rowsByUploaded[inode], row) }

        /// It is known what became of the moves of an object: those who were at them need not tell.
        ///
        /// - Returns: their rows.
        mutating func moveIsKnown(of object: Int64) -> Set<Int64> {
            let rows = rowsByMoved.removeValue(forKey: object) ?? []
            for row in rows { works[row]?.moved = nil }
            return rows
        }

        /// Takes back ``moveIsKnown(of:)``.
        mutating func moveIsNotKnown(of object: Int64, at rows: Set<Int64>) {
            for row in rows where works[row] != nil {
                works[row]?.moved = object
                rowsByMoved[object, default: []].insert(row)
            }
        }

        private static func other(_ rows: Set<Int64>?, _ row: Int64?) -> Int64? { rows?.first { $0 != row } }

        private static func remove<Key: Hashable>(_ row: Int64, of key: Key, in rows: inout [Key: Set<Int64>]) {
            guard var left = rows.removeValue(forKey: key) else { return }
            left.remove(row)
            if !left.isEmpty { rows[key] = left }
        }
    }
}
