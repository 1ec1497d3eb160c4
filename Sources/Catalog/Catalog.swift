import Glibc
import SQLite
package import StoreAPI
import Synchronization
package import Threading

/// What files and directories show whose store keeps no mode and owner.
package struct AttributeDefaults: Hashable, Sendable {
    package var uid: UInt32
    package var gid: UInt32
    /// 0 … 0o7777.
    package var fileMode: UInt32
    package var directoryMode: UInt32
    package init(uid: UInt32 = 0, gid: UInt32 = 0, fileMode: UInt32 = 0o644, directoryMode: UInt32 = 0o755) {
        self.uid = uid
        self.gid = gid
        self.fileMode = fileMode
        self.directoryMode = directoryMode
    }
}

/// The file system's namespace, where its bytes are, and what is still to be done on the store; in one SQLite file.
///
/// Each call is one transaction, safe from `kill -9` when it returns; ``makeDurable()`` makes everything so far
/// survive a power loss. Calls may come from any thread; none waits for a store.
///
/// Two trees lie side by side. *Entries* and *inodes* are the namespace as its users see it. *Objects* are what is
/// known to lie on the store. A row of the journal names a place where the two differ; ``plan(_:)`` compares the two
/// there and answers the next step that brings the store closer. So the journal holds no orders, only places: a
/// step that was done twice, or not recorded before a crash, is simply found to be done, or done again.
///
/// The one lock is a leaf: nothing else is locked and no other component is called while it is held. Threads of the
/// background, which work the journal off, let those go first who answer a user: see ``UrgencyLock``.
package final class Catalog: Sendable {
    private let tables: UrgencyLock<Tables?>
    private let log: Int32
    private let files: CatalogFiles
    private let flushes = Gathering<Void, CatalogError?>()
    /// Transactions that have ended (one stands for all of earlier processes), and how many of them survive a loss of
    /// power for certain.
    private let commits = Atomic<Int>(1)
    private let durableCommits = Atomic<Int>(0)
    private let faultHandler = Lock<(@Sendable (CatalogError) -> Void)?>(nil)
    let keptHandler = Lock<(@Sendable (KeptFile) -> Void)?>(nil)
    let durabilityFlag = DurabilityFlag()
    let clock: any Clock

    /// Opens the catalog at `path`, or makes it, and brings it to the newest format.
    ///
    /// - Parameter boot: Names this run of the machine's kernel; nil: not known, so that it counts as another one than
    ///   at the last use.
    /// - Throws: ``CatalogError``: `.damaged`, `.corrupt`, `.tooNew`, `.noSpace`.
    package init(path: String, clock: any Clock, boot: String? = Catalog.bootOfThisMachine) throws(CatalogError) {
        files = CatalogFiles(path: path)
        try files.expectWhole()
        // Before SQLite makes an empty log.
        let isAsLeft = files.areAsLeft
        // For its owner only, also where the umask is wide; SQLite gives the log the same mode.
        let file = Glibc.open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        if file >= 0 { Glibc.close(file) }
        let database = try Database(path: path)
        if files.isSuspect || !isAsLeft { try Self.expectSense(database, files) }
        try Schema.migrate(database)
        let tables = Tables(database, clock, durabilityFlag)
        try tables.makeRoot()
        try tables.skipInodes()
        try tables.loadCapabilities()
        try tables.loadDurability()
        try tables.loadEpochs(boot)
        try database.transaction { () throws(CatalogError) in
            try tables.loadMoves()
            try tables.loadSent()
        }
        log = dup(database.log)
        self.clock = clock
        self.tables = UrgencyLock(tables)
        files.markOpen()
        // The names of the database and its log have to survive a power loss too.
        files.synchronizeFolder()
    }

    deinit {
        close()
        Glibc.close(log)
    }

    /// Has `body` told of each call that fails because of the disk or the database, on the caller's thread. Once.
    package func onFault(_ body: @escaping @Sendable (CatalogError) -> Void) { faultHandler.withLock { $0 = body } }

    /// A catalog that is read in a moment is looked through when it is not as this program has left it: after a crash,
    /// or when somebody has changed it. A large one when it has failed before.
    private static let briefly: Int64 = 32 << 20

    private static func expectSense(_ database: Database, _ files: CatalogFiles) throws(CatalogError) {
        let size = (CatalogFiles.size(files.path) ?? 0) + (CatalogFiles.size(files.log) ?? 0)
        guard files.isSuspect || size <= briefly else { return }
        let finding = try database.first("PRAGMA quick_check(1)") { $0.text(0) } ?? nil
        guard finding == "ok" else {
            throw CatalogError(.corrupt, "the catalog makes no sense: \(finding ?? "it cannot be checked")")
        }
        files.isSuspect = false
    }

    private func tell(_ error: CatalogError) {
        if error.code == .corrupt { files.isSuspect = true }
        guard [.damaged, .corrupt, .noSpace, .noMemory].contains(error.code) else { return }
        faultHandler.withLock { $0 }?(error)
    }

    /// Ends the use of the catalog; later calls throw. What was written stays as it is.
    package func close() {
        tables.withLock { tables in
            guard tables != nil else { return }
            // First the mark: whoever finds it, and no log, knows that somebody has taken the log away.
            files.markClosed()
            tables = nil
            files.noteState()
        }
    }

    /// Makes everything that was done so far survive a loss of power. Callers at the same time share one flush of the
    /// disk; where nothing was done since the last one, there is none.
    package func makeDurable() throws(CatalogError) {
        guard durableCommits.load(ordering: .acquiring) < commits.load(ordering: .acquiring) else { return }
        if let error = flushes.perform((), { _ in flush() }) { throw error }
    }

    private func flush() -> CatalogError? {
        // Commits write to the log in order; what a commit needs that was checkpointed before is synced by SQLite.
        let count = commits.load(ordering: .acquiring)
        guard durableCommits.load(ordering: .acquiring) < count else { return nil }
        guard fdatasync(log) == 0 else {
            let error = CatalogError(
                errno == ENOSPC || errno == EDQUOT ? .noSpace : .damaged,
                "the catalog's log: \(String(cString: strerror(errno)))")
            tell(error)
            return error
        }
        durableCommits.store(count, ordering: .releasing)
        return nil
    }

    /// What the store can do decides what ``plan(_:)`` asks for, and whether a listing has told everything.
    ///
    /// Call it before the first listing. It is remembered, for a mount that begins without the store.
    package func setCapabilities(_ capabilities: StoreCapabilities) throws(CatalogError) {
        guard try read({ (tables: Tables) throws(CatalogError) in tables.capabilities != capabilities }) else { return }
        try write { tables throws(CatalogError) in
            tables.capabilities = capabilities
            try tables.database.run(
                "INSERT OR REPLACE INTO note(key, value) VALUES ('features', ?)",
                .text(String(capabilities.features.rawValue)))
        }
    }

    package func setDefaults(_ defaults: AttributeDefaults) { tables.withLock { $0?.defaults = defaults } }

    /// How many transactions there were: what a call costs, on any machine.
    var transactions: Int { commits.load(ordering: .relaxed) }
    /// Those up to this one survive a loss of power for certain.
    var durableTransactions: Int { durableCommits.load(ordering: .acquiring) }

    func read<Result>(_ body: (Tables) throws(CatalogError) -> Result) throws(CatalogError) -> Result {
        var isOpen = true
        do throws(CatalogError) {
            return try tables.withLock { (tables: inout Tables?) throws(CatalogError) -> Result in
                guard let tables else {
                    isOpen = false
                    throw CatalogError(.damaged, "the catalog is closed")
                }
                return try body(tables)
            }
        } catch {
            if isOpen { tell(error) }
            throw error
        }
    }

    func write<Result>(_ body: (Tables) throws(CatalogError) -> Result) throws(CatalogError) -> Result {
        try read { tables throws(CatalogError) in
            // Also one that fails: it has perhaps reached the log.
            defer { commits.add(1, ordering: .releasing) }
            do throws(CatalogError) {
                return try tables.takingBack { () throws(CatalogError) in
                    try tables.database.transaction { () throws(CatalogError) in try body(tables) }
                }
            } catch {
                tables.isEpochNoted = false
                tables.changedSpans = [:]
                throw error
            }
        }
    }

    // MARK: Identity

    /// A value kept with the catalog: which store it is for, and the like.
    package func note(_ key: String) throws(CatalogError) -> String? {
        try read { tables throws(CatalogError) in
            try tables.database.first("SELECT value FROM note WHERE key = ?", .text(key)) { $0.text(0) } ?? nil
        }
    }

    package func setNote(_ key: String, to value: String?) throws(CatalogError) {
        try write { tables throws(CatalogError) in
            if let value {
                try tables.database.run(
                    "INSERT OR REPLACE INTO note(key, value) VALUES (?, ?)", .text(key), .text(value))
            } else {
                try tables.database.run("DELETE FROM note WHERE key = ?", .text(key))
            }
        }
    }
}
