import Catalog

/// Rows in the journal's order, from which the first or the oldest that can be done is taken.
struct RowQueue: Sendable {
    var rows: [PendingItem?] = []
    var head = 0
    private(set) var count = 0
    /// Indices of `rows`, oldest first; built when first needed.
    var byAge: [Int]?
    var ageHead = 0

    init(_ rows: [PendingItem] = []) {
        self.rows = rows
        count = rows.count
    }

    var isEmpty: Bool { count == 0 }

    mutating func take(oldest: Bool, where isFit: (PendingItem) -> Bool) -> PendingItem? {
        guard count > 0 else { return nil }
        if oldest {
            let order = byAge ?? rows.indices.filter { rows[$0] != nil }.sorted { rows[$0]!.since < rows[$1]!.since }
            byAge = order
            while ageHead < order.count, rows[order[ageHead]] == nil { ageHead += 1 }
            for position in ageHead..<order.count {
                if let row = rows[order[position]], isFit(row) { return remove(at: order[position]) }
            }
            return nil
        }
        while head < rows.count, rows[head] == nil { head += 1 }
        for index in head..<rows.count {
            if let row = rows[index], isFit(row) { return remove(at: index) }
        }
        return nil
    }

    mutating func remove(at index: Int) -> PendingItem? {
        defer { rows[index] = nil }
        count -= 1
        return rows[index]
    }
}
