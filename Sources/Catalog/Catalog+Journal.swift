import SQLite
package import StoreAPI
package import Threading

// The journal, for the engine that works it off and for people who want to know what is not on the store yet.
extension Catalog {
    /// Rows that may be worked on: changed before `dueBefore` or asked for by ``expedite(_:)``, not parked, not
    /// before their next attempt, and not among `busy`. Expedited ones first, then by age.
    ///
    /// What was changed in the future counts as changed long ago: somebody has turned the clock back, by hours
    /// perhaps, and nothing waits until it is that late again. The same goes for attempts further away than
    /// ``longestRetry``.
    package func pending(dueBefore: Timestamp, limit: Int, busy: Set<PendingID>) throws(CatalogError) -> [PendingItem] {
        let rows = try read { tables throws(CatalogError) in
            let latest = max(dueBefore.nanoseconds, try tables.expeditedBefore())
            return try tables.due(changedBefore: latest, limit: limit + busy.count)
        }
        return try inPieces(rows.filter { !busy.contains(PendingID($0)) }, limit: limit)
    }

    /// The rows of these numbers that are still there. To read many takes a while: others go in between.
    private func inPieces(_ ids: [Int64], limit: Int) throws(CatalogError) -> [PendingItem] {
        var items: [PendingItem] = []
        var rest = ids[...]
        while !rest.isEmpty, items.count < limit {
            let piece = rest.prefix(min(Self.rowsAtOnce, limit - items.count))
            rest = rest.dropFirst(piece.count)
            items += try read { tables throws(CatalogError) in
                var rows: [PendingRow] = []
                for id in piece { if let row = try tables.pendingRow(id: id) { rows.append(row) } }
                return try tables.items(rows)
            }
        }
        return items
    }

    /// How many rows are read with the lock held.
    private static let rowsAtOnce = 16

    /// No failure asks for a longer wait before the next attempt.
    static let longestRetry: Duration = .seconds(3600)

    /// One row as it stands now; nil when it is done.
    package func pendingItem(_ id: PendingID) throws(CatalogError) -> PendingItem? {
        try read { tables throws(CatalogError) in try tables.pendingItem(id.value) }
    }

    /// The rows at and below `path` that are numbered up to `last` or are not younger than `since`, by their number.
    package func pendingRows(below path: StorePath, upTo last: PendingID, orSince since: Timestamp)
        throws(CatalogError) -> [PendingID]
    {
        try read { tables throws(CatalogError) in
            try tables.rows(below: path)
                .filter { $0.id <= last.value || $0.since <= since }
                .map { PendingID($0.id) }.sorted()
        }
    }

    /// The row that was added last; nil: there are none.
    package func newestPending() throws(CatalogError) -> PendingItem? {
        try read { tables throws(CatalogError) in
            let id = try tables.database.first("SELECT max(id) FROM pending") { $0.optionalInt(0) } ?? nil
            return try id.map { id throws(CatalogError) in try tables.pendingItem(id) } ?? nil
        }
    }

    /// All rows, oldest first. Page by the last row of the page before.
    package func allPending(after last: PendingID?, limit: Int) throws(CatalogError) -> [PendingItem] {
        let first = last?.value ?? 0
        let ids = try read { tables throws(CatalogError) in
            try tables.database.all(
                "SELECT id FROM pending WHERE id > ? ORDER BY id LIMIT ?", .int(first), .int(Int64(limit))
            ) { $0.int(0) }
        }
        return try inPieces(ids, limit: limit)
    }

    package func pendingTotals() throws(CatalogError) -> PendingTotals {
        try read { tables throws(CatalogError) in
            try tables.database.first(
                // Rows are numbered in the order of their first change.
                "SELECT items, bytes, parked, (SELECT since_ns FROM pending ORDER BY id LIMIT 1) FROM total"
            ) {
                PendingTotals(
                    items: $0.int(0), bytes: $0.int(1), parked: $0.int(2),
                    oldest: $0.optionalInt(3).map { Timestamp(nanoseconds: $0) })
            } ?? PendingTotals(items: 0, bytes: 0, parked: 0, oldest: nil)
        }
    }

    /// The totals of the rows at and below `path`.
    package func pendingBelow(_ path: StorePath) throws(CatalogError) -> PendingTotals {
        guard !path.isRoot else { return try pendingTotals() }
        return try read { tables throws(CatalogError) in
            var totals = PendingTotals(items: 0, bytes: 0, parked: 0, oldest: nil)
            for row in try tables.rows(below: path) {
                totals.items += 1
                totals.bytes += row.bytes
                totals.parked += row.isParked ? 1 : 0
                totals.oldest = min(totals.oldest ?? row.since, row.since)
            }
            return totals
        }
    }

    /// When the next row will be due that is not yet, files being held back for `delay` after a change. nil: none
    /// waits.
    package func nextDue(delay: Duration) throws(CatalogError) -> Timestamp? {
        try read { tables throws(CatalogError) in
            let now = tables.now
            let latest = max(now - delay.nanoseconds, try tables.expeditedBefore())
            let held =
                try tables.database.first(
                    """
                    SELECT min(changed_ns) FROM pending
                    WHERE parked = 0 AND retry_ns IS NULL AND expedited = 0 AND changed_ns > ? AND changed_ns <= ?
                    """, .int(latest), .int(now)
                ) { $0.optionalInt(0) } ?? nil
            let retried =
                try tables.database.first(
                    "SELECT min(retry_ns) FROM pending WHERE parked = 0 AND retry_ns > ?", .int(now)
                ) { $0.optionalInt(0) } ?? nil
            return [held.map { $0 + delay.nanoseconds }, retried].compactMap { $0 }.min()
                .map { Timestamp(nanoseconds: $0) }
        }
    }

    /// Makes everything at and below `path` due at once, parked rows too; nil: everything.
    ///
    /// - Returns: how many rows there are.
    package func expedite(_ path: StorePath?) throws(CatalogError) -> Int {
        guard let path, !path.isRoot else { return try expediteAll() }
        return try write { tables throws(CatalogError) in
            let rows = try tables.rows(below: path)
            for row in rows {
                try tables.database.run(
                    "UPDATE pending SET expedited = 1, parked = 0, retry_ns = NULL WHERE id = ?", .int(row.id))
            }
            return rows.count
        }
    }

    /// Rows that never failed are due by a single note. The others are changed, some at a time: there may be a million,
    /// and programs wait for the catalog meanwhile.
    private func expediteAll() throws(CatalogError) -> Int {
        try write { tables throws(CatalogError) in
            try tables.database.run("UPDATE total SET expedited_ns = ?", .int(tables.now))
        }
        var isDone = false
        while !isDone {
            isDone = try write { tables throws(CatalogError) in
                try tables.database.run(
                    """
                    UPDATE pending SET parked = 0, retry_ns = NULL
                    WHERE id IN (SELECT id FROM pending WHERE parked = 1 LIMIT ?1)
                    """, .int(Self.changesAtOnce))
                let unparked = tables.database.changes
                try tables.database.run(
                    """
                    UPDATE pending SET retry_ns = NULL
                    WHERE id IN (SELECT id FROM pending WHERE parked = 0 AND retry_ns IS NOT NULL LIMIT ?1)
                    """, .int(Self.changesAtOnce))
                return unparked < Self.changesAtOnce && tables.database.changes < Self.changesAtOnce
            }
        }
        return Int(try pendingTotals().items)
    }

    /// What is changed in one transaction where there may be any number.
    static let changesAtOnce: Int64 = 256

    /// Where an interrupted upload can be taken up again: opaque to all but the store.
    package func saveCheckpoint(_ state: String?, for item: PendingID) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            try tables.database.run(
                "UPDATE pending SET checkpoint = ? WHERE id = ?", SQLValue(state), .int(item.value))
        }
    }

    package func savedCheckpoint(for item: PendingID) throws(CatalogError) -> String? {
        try read { tables throws(CatalogError) in
            try tables.database.first("SELECT checkpoint FROM pending WHERE id = ?", .int(item.value)) { $0.text(0) }
                ?? nil
        }
    }

    /// The worker that ``plan(_:)`` has sent is back, whatever came of it.
    ///
    /// - Returns: The rows that were ``SyncStep/busy`` because of a step that has ended: they can be planned again.
    /// - Throws: ``CatalogError``. Then nothing has changed, and it has to be called again.
    package func stepEnded(_ item: PendingID) throws(CatalogError) -> [PendingID] {
        // Mostly there is nothing to write.
        let (work, isAbandoned) = try read { tables throws(CatalogError) in
            let work = tables.underWay[item.value]
            return try tables.takingBack { () throws(CatalogError) in
                tables.workEnded(item.value)
                return (work, try !tables.abandonedPlaces(of: work).isEmpty)
            }
        }
        do throws(CatalogError) {
            if isAbandoned {
                try write { tables throws(CatalogError) in
                    tables.cause = work?.cause
                    defer { tables.cause = nil }
                    for place in try tables.abandonedPlaces(of: work) { try tables.abandonSent(at: place) }
                }
            }
            return try read { tables in
                defer { tables.released = [] }
                return tables.released.map { PendingID($0) }
            }
        } catch {
            // For the next attempt.
            try read { $0.underWay[item.value] = work }
            throw error
        }
    }

    /// The step that was planned did not succeed.
    ///
    /// - Parameter retryAt: nil parks the row until the file or the settings change.
    package func failed(_ item: PendingID, revision: Int64, error: String, retryAt: Timestamp?) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            tables.workEnded(item.value)
            try tables.database.run(
                """
                UPDATE pending SET attempts = attempts + 1, error = ?, retry_ns = ?, parked = ?
                WHERE id = ? AND revision = ?
                """, .text(error), SQLValue(retryAt?.nanoseconds), SQLValue(retryAt == nil), .int(item.value),
                .int(revision))
        }
    }
}

/// A row of the journal as it is stored.
struct PendingRow {
    var id: Int64
    var revision: Int64
    var parent: InodeID?
    var name: [UInt8]?
    var object: Int64?
    var bytes: Int64
    var since: Timestamp
    var changed: Timestamp
    var attempts: Int
    var error: String?
    var isParked: Bool
    /// What the name means now.
    var inode: InodeID?
}

extension Tables {
    /// What was changed before is due whatever its age: see ``Catalog/expedite(_:)``. Not later than now.
    func expeditedBefore() throws(CatalogError) -> Int64 {
        let moment = try database.first("SELECT expedited_ns FROM total") { $0.optionalInt(0) } ?? nil
        return min(now, moment ?? .min)
    }

    /// The ids of rows that may be worked on, in the order of their turn.
    ///
    /// Each query reads one range of an index, so that rows which are not due cost nothing, however many there are.
    func due(changedBefore latest: Int64, limit: Int) throws(CatalogError) -> [Int64] {
        typealias Turn = (id: Int64, isLater: Bool, changed: Int64)
        func turn(_ row: borrowing Row) -> Turn { (row.int(0), !row.bool(1), row.int(2)) }
        let count = SQLValue.int(Int64(limit))
        let now = now
        var turns = try database.all(
            """
            SELECT id, expedited, changed_ns FROM pending
            WHERE parked = 0 AND retry_ns IS NULL AND expedited = 1 ORDER BY changed_ns LIMIT ?
            """, count
        ) { turn($0) }
        // Of the past, and of the future: see ``Catalog/pending(dueBefore:limit:busy:)``.
        for (from, to) in [(Int64.min, latest), (now, Int64.max)] where turns.count < limit {
            turns += try database.all(
                """
                SELECT id, expedited, changed_ns FROM pending
                WHERE parked = 0 AND retry_ns IS NULL AND expedited = 0 AND changed_ns > ? AND changed_ns <= ?
                ORDER BY changed_ns LIMIT ?
                """, .int(from), .int(to), count
            ) { turn($0) }
        }
        for (from, to) in [(Int64.min, now), (now + Catalog.longestRetry.nanoseconds, Int64.max)] {
            turns += try database.all(
                """
                SELECT id, expedited, changed_ns FROM pending
                WHERE parked = 0 AND retry_ns > ? AND retry_ns <= ?
                    AND (expedited = 1 OR changed_ns <= ? OR changed_ns > ?)
                ORDER BY retry_ns LIMIT ?
                """, .int(from), .int(to), .int(latest), .int(now), count
            ) { turn($0) }
        }
        turns.sort { ($0.isLater ? 1 : 0, $0.changed) < ($1.isLater ? 1 : 0, $1.changed) }
        return turns.prefix(limit).map(\.id)
    }

    func pendingRow(_ row: borrowing Row) -> PendingRow {
        PendingRow(
            id: row.int(0), revision: row.int(1), parent: row.optionalInt(2).map { InodeID(UInt64($0)) },
            name: row.blob(3), object: row.optionalInt(4), bytes: row.int(5),
            since: Timestamp(nanoseconds: row.int(6)), changed: Timestamp(nanoseconds: row.int(7)),
            attempts: Int(row.int(8)), error: row.text(9), isParked: row.bool(10),
            inode: row.optionalInt(11).map { InodeID(UInt64($0)) })
    }

    func pendingRow(id: Int64) throws(CatalogError) -> PendingRow? {
        try database.first(
            """
            SELECT p.id, revision, p.parent, p.name, object, bytes, since_ns, changed_ns, attempts, error, parked,
                e.inode
            FROM pending p LEFT JOIN entry e ON e.parent = p.parent AND e.name = p.name WHERE p.id = ?
            """, .int(id)
        ) { pendingRow($0) }
    }

    func pendingItem(_ id: Int64) throws(CatalogError) -> PendingItem? {
        try items(pendingRow(id: id).map { [$0] } ?? []).first
    }

    func items(_ rows: some Sequence<PendingRow>) throws(CatalogError) -> [PendingItem] {
        var items: [PendingItem] = []
        var places = Places(tables: self)
        for row in rows {
            items.append(
                PendingItem(
                    id: PendingID(row.id), revision: row.revision, path: try places.path(of: row),
                    isDeletion: row.object != nil, inode: row.inode, size: row.bytes, since: row.since,
                    changed: row.changed, attempts: row.attempts, lastError: row.error, isParked: row.isParked))
        }
        return items
    }

    /// Finds the paths of rows; most of them share their directory, whose path is found once.
    private struct Places {
        let tables: Tables
        private var directories: [InodeID: StorePath] = [:]

        init(tables: Tables) { self.tables = tables }

        mutating func path(of row: PendingRow) throws(CatalogError) -> StorePath {
            guard let parent = row.parent else {
                guard let object = row.object, try tables.object(object) != nil else { return .root }
                return try tables.path(ofObject: object)
            }
            let directory: StorePath
            if let known = directories[parent] {
                directory = known
            } else {
                directory = try tables.path(of: parent) ?? .root
                directories[parent] = directory
            }
            return directory.appending(try tables.fileName(row.name))
        }
    }
}

/// What counts of a row when many are looked at.
struct RowSummary {
    var id: Int64
    var bytes: Int64
    var since: Timestamp
    var isParked: Bool

    init(_ row: borrowing Row) {
        id = row.int(0)
        bytes = row.int(1)
        since = Timestamp(nanoseconds: row.int(2))
        isParked = row.bool(3)
    }
}

// Rows at and below a path of the namespace (deletions: of the store). They are found from the directories that have
// rows, each of which is looked at once, and not from the rows, of which there may be millions.
extension Tables {
    /// - Parameter path: not the root.
    func rows(below path: StorePath) throws(CatalogError) -> [RowSummary] {
        guard let name = path.name, let parentPath = path.parent else { return [] }
        var found: [RowSummary] = []
        if let parent = try directory(at: parentPath) {
            found += try database.all(
                "SELECT id, bytes, since_ns, parked FROM pending WHERE parent = ? AND name = ?", .int(parent.row),
                .blob(name.bytes)
            ) { RowSummary($0) }
            if let entry = try entry(name, in: parent), entry.kind == .directory {
                // Links tell how many directories are in it.
                for directory in entry.links > 2 ? try directoriesWithRows(below: entry.id) : [entry.id.row] {
                    found += try database.all(
                        "SELECT id, bytes, since_ns, parked FROM pending WHERE parent = ?", .int(directory)
                    ) { RowSummary($0) }
                }
            }
        }
        if let object = try object(at: path) {
            found += try database.all(
                "SELECT id, bytes, since_ns, parked FROM pending WHERE object = ?", .int(object.id)
            ) { RowSummary($0) }
            if object.isDirectory {
                for parent in try objectsWithDeletions(below: object.id) {
                    found += try database.all(
                        """
                        SELECT p.id, bytes, since_ns, parked FROM object o JOIN pending p ON p.object = o.id
                        WHERE o.parent = ?
                        """, .int(parent)
                    ) { RowSummary($0) }
                }
            }
        }
        return found
    }

    private func directory(at path: StorePath) throws(CatalogError) -> InodeID? {
        var position = InodeID.root
        for name in path.components {
            guard let next = try entry(name, in: position), next.kind == .directory else { return nil }
            position = next.id
        }
        return position
    }

    private func object(at path: StorePath) throws(CatalogError) -> ObjectRow? {
        var position = try object(1)
        for name in path.components {
            guard let parent = position, let next = try object(name, below: parent.id) else { return nil }
            position = next
        }
        return position
    }

    private func directoriesWithRows(below top: InodeID) throws(CatalogError) -> [Int64] {
        var descent = Descent(top: top.row)
        var found: [Int64] = []
        var last = Int64.min
        while true {
            let next = try database.first(
                "SELECT parent FROM pending WHERE parent > ? ORDER BY parent LIMIT 1", .int(last)
            ) { $0.int(0) }
            guard let parent = next else { return found }
            last = parent
            let isBelow = try descent.includes(parent) { id throws(CatalogError) in
                try self.parent(of: InodeID(UInt64(id)))?.parent.row
            }
            if isBelow { found.append(parent) }
        }
    }

    private func objectsWithDeletions(below top: Int64) throws(CatalogError) -> [Int64] {
        var descent = Descent(top: top)
        var found: [Int64] = []
        let parents = try database.all(
            """
            SELECT DISTINCT o.parent FROM pending p JOIN object o ON o.id = p.object WHERE p.object IS NOT NULL
            """
        ) { $0.int(0) }
        for parent in parents {
            let isBelow = try descent.includes(parent) { id throws(CatalogError) in
                id == 1 ? nil : try object(id)?.parent
            }
            if isBelow { found.append(parent) }
        }
        return found
    }

    /// Which of many members of a tree are at or below one of them; asks for the parent of each once.
    private struct Descent {
        private var known: [Int64: Bool]

        init(top: Int64) { known = [top: true] }

        mutating func includes(_ id: Int64, parent: (Int64) throws(CatalogError) -> Int64?) throws(CatalogError) -> Bool
        {
            var way: [Int64] = []
            var position = id
            var answer = false
            while true {
                if let known = known[position] {
                    answer = known
                    break
                }
                way.append(position)
                // No tree is that deep: a damaged one may go in a circle.
                guard way.count < 4096, let next = try parent(position) else { break }
                position = next
            }
            for member in way { known[member] = answer }
            return answer
        }
    }
}
