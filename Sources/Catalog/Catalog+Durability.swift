import SQLite
import StoreAPI
import Synchronization

/// How far what a program has written must have come before close(2) and fsync(2) return.
package enum Durability: String, CaseIterable, Comparable, Sendable {
    /// Neither waits for a disk.
    case writeback
    /// fsync waits for this machine's disk.
    case local
    /// Both wait until the store has the file.
    case remote

    /// The extended attribute of a directory that says what holds for all that is in it and below.
    package static let attribute = "user.cloudfusion.durability"

    /// nil: it is none of the words.
    package init?(_ value: [UInt8]) { self.init(rawValue: String(decoding: value, as: UTF8.self)) }

    package static func < (a: Durability, b: Durability) -> Bool {
        allCases.firstIndex(of: a)! < allCases.firstIndex(of: b)!
    }
}

/// A state of a file that somebody waits for on the store: ``Catalog/goal(of:)``.
package struct FileGoal: Sendable {
    package let inode: InodeID
    let contentGeneration: Int64
    let attributeGeneration: Int64
}

// What is promised of files, and what is still missing for it.
extension Catalog {
    /// What the nearest directory says that holds an inode and says anything: of a directory also it itself; of a file
    /// with several names the strictest.
    ///
    /// - Returns: nil where none says anything.
    package func durability(of inode: InodeID) throws(CatalogError) -> Durability? {
        guard durabilityFlag.isSet else { return nil }
        return try read { tables throws(CatalogError) in
            guard let record = try tables.inode(inode) else { return nil }
            guard record.kind != .directory else { return try tables.durability(from: inode) }
            var strictest: Durability?
            for (parent, _) in try tables.names(of: inode) {
                guard let own = try tables.durability(from: parent) else { continue }
                strictest = max(strictest ?? own, own)
            }
            return strictest
        }
    }

    /// The file as it is now, for ``rowsLeft(to:isFirst:)``.
    ///
    /// - Returns: nil when the store needs to be told nothing of it: it is there, or the file has no name.
    package func goal(of inode: InodeID) throws(CatalogError) -> FileGoal? {
        try read { tables throws(CatalogError) in
            for (parent, name) in try tables.names(of: inode)
            where try tables.pendingRow(name, in: parent) != nil {
                let generations = try tables.generations(of: inode)
                return FileGoal(
                    inode: inode, contentGeneration: generations.content, attributeGeneration: generations.attributes)
            }
            return nil
        }
    }

    /// What has to be worked on until the store has the file in the state of the goal, or in a later one, under each of
    /// its names. It becomes due.
    ///
    /// - Parameter isFirst: What failed before need not wait for its next attempt.
    /// - Returns: nothing when the goal is reached.
    package func rowsLeft(to goal: FileGoal, isFirst: Bool) throws(CatalogError) -> [PendingItem] {
        try write { tables throws(CatalogError) in
            var items: [PendingItem] = []
            for (parent, name) in try tables.names(of: goal.inode) {
                guard let row = try tables.pendingRow(name, in: parent),
                    try !tables.isReached(goal, name, in: parent)
                else { continue }
                if isFirst {
                    try tables.database.run(
                        "UPDATE pending SET expedited = 1, parked = 0, retry_ns = NULL WHERE id = ?", .int(row))
                } else {
                    try tables.database.run(
                        "UPDATE pending SET expedited = 1 WHERE id = ? AND expedited = 0", .int(row))
                }
                if let item = try tables.pendingItem(row) { items.append(item) }
            }
            return items
        }
    }
}

extension Tables {
    /// Of the directory or the nearest above it.
    fileprivate func durability(from directory: InodeID) throws(CatalogError) -> Durability? {
        var position = directory
        for _ in 0..<4096 {
            let value = try database.first(
                "SELECT value FROM attribute WHERE inode = ? AND name = ?", .int(position.row),
                .text(Durability.attribute)
            ) { Durability($0.blob(0) ?? []) }
            // What somebody else has written there, in a way that is not ours, says nothing.
            if let durability = value ?? nil { return durability }
            guard position != .root, let step = try parent(of: position) else { return nil }
            position = step.parent
        }
        return nil
    }

    fileprivate func isReached(_ goal: FileGoal, _ name: FileName, in parent: InodeID) throws(CatalogError) -> Bool {
        guard let place = try place(of: parent), let object = try object(name, below: place) else { return false }
        return object.inode == goal.inode && object.foreign == 0
            && object.contentGeneration >= goal.contentGeneration
            && (!capabilities.contains(.attributes) || object.attributeGeneration >= goal.attributeGeneration)
    }

    func insertAttribute(_ name: String, _ value: [UInt8], _ inode: InodeID) throws(CatalogError) {
        try database.run(
            "INSERT OR REPLACE INTO attribute(inode, name, value) VALUES (?, ?, ?)", .int(inode.row), .text(name),
            .blob(value))
        guard name == Durability.attribute else { return }
        // Where it was never set, nobody has to look for it.
        try database.run("INSERT OR IGNORE INTO note(key, value) VALUES ('durability', 'set')")
        durabilityFlag.isSet = true
    }

    func loadDurability() throws(CatalogError) {
        durabilityFlag.isSet = try database.exists("SELECT 1 FROM note WHERE key = 'durability'")
    }
}

/// Whether any directory says what is promised for what is in it; asked at each close, without the catalog's lock.
final class DurabilityFlag: Sendable {
    private let flag = Atomic(false)
    var isSet: Bool {
        get { flag.load(ordering: .relaxed) }
        set { flag.store(newValue, ordering: .relaxed) }
    }
}
