import CSQLite
import Glibc

/// Why a database could not do what was asked, for the error type of whoever asked.
package struct SQLiteFault: Sendable {
    package enum Kind: Sendable {
        case cannotOpen
        /// The disk under the database is full.
        case noSpace
        /// SQLite could not have the memory that it needs.
        case noMemory
        /// Another process, or another connection, has it.
        case busy
        /// What the file holds makes no sense.
        case corrupt
        /// The disk's fault, or another's.
        case failed
    }
    package var kind: Kind
    /// What SQLite or the system says, with its number where it has one.
    package var text: String

    package init(kind: Kind, text: String) {
        self.kind = kind
        self.text = text
    }
}

/// The error of a room that keeps a database.
package protocol SQLiteFailure: Error {
    init(_ fault: SQLiteFault)
}

/// A value of a column or a parameter.
package enum SQLValue: Sendable {
    case int(Int64)
    case text(String)
    case blob([UInt8])
    case null

    package init(_ value: Int64?) { self = value.map { .int($0) } ?? .null }
    package init(_ value: String?) { self = value.map { .text($0) } ?? .null }
    package init(_ value: [UInt8]?) { self = value.map { .blob($0) } ?? .null }
    package init(_ value: Bool) { self = .int(value ? 1 : 0) }
}

extension SQLValue: ExpressibleByIntegerLiteral {
    package init(integerLiteral value: Int64) { self = .int(value) }
}

/// One connection to a SQLite file, with its prepared statements. Used by one thread at a time.
///
/// Journalled ahead (WAL) with `synchronous = NORMAL`: a commit survives the end of the process at once, and a power
/// loss after a flush of ``log``. The file is locked to this process, which spares a lock per transaction.
package final class SQLiteDatabase<Failure: SQLiteFailure> {
    private let connection: OpaquePointer
    private var statements: [UnsafePointer<UInt8>: SQLiteStatement] = [:]
    /// Prepared from the beginning: there may be no memory for it when it is needed.
    private let rollback: OpaquePointer
    /// The write-ahead log, to be flushed by whoever wants a commit to survive a power loss; -1 for a database that is
    /// only read.
    package let log: Int32

    /// Bytes. A small change writes its pages whole: half of SQLite's own size costs a third less.
    package static var pageSize: Int { 2048 }

    private static func connect(_ path: String) throws(Failure) -> OpaquePointer {
        var connection: OpaquePointer?
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
        let status = sqlite3_open_v2(path, &connection, flags, nil)
        guard status == SQLITE_OK, let connection else {
            let message = connection.map { String(cString: sqlite3_errmsg($0)) } ?? "out of memory"
            sqlite3_close(connection)
            throw Failure(SQLiteFault(kind: .cannotOpen, text: "'\(path)' cannot be opened: \(message)"))
        }
        sqlite3_extended_result_codes(connection, 1)
        return connection
    }

    /// Opens a copy of a damaged database, to read of it what can be read.
    package init(damagedCopy path: String) throws(Failure) {
        connection = try Self.connect(path)
        rollback = try Self.preparedRollback(connection)
        log = -1
        // With it, SQLite takes a file that is too short, and tables whose definition it cannot read.
        for pragma in [
            "locking_mode = EXCLUSIVE", "writable_schema = ON", "trusted_schema = OFF", "cell_size_check = ON",
        ] {
            try Self.run("PRAGMA \(pragma)", on: connection)
        }
    }

    private static func preparedRollback(_ connection: OpaquePointer) throws(Failure) -> OpaquePointer {
        var handle: OpaquePointer?
        guard sqlite3_prepare_v2(connection, "ROLLBACK", -1, &handle, nil) == SQLITE_OK, let handle else {
            let failure = failure(of: connection)
            sqlite3_close(connection)
            throw failure
        }
        return handle
    }

    package init(path: String) throws(Failure) {
        connection = try Self.connect(path)
        rollback = try Self.preparedRollback(connection)
        do throws(Failure) {
            for pragma in [
                "page_size = \(Self.pageSize)",
                "locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = NORMAL", "temp_store = MEMORY",
                "cache_size = -16384", "wal_autocheckpoint = 16384", "foreign_keys = OFF", "trusted_schema = OFF",
            ] {
                try Self.run("PRAGMA \(pragma)", on: connection)
            }
            // The log exists from the first transaction on.
            try Self.run(
                "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS format(version INTEGER NOT NULL); COMMIT", on: connection)
            log = Glibc.open(path + "-wal", O_RDWR | O_CLOEXEC)
            guard log >= 0 else {
                let message = String(cString: strerror(errno))
                throw Failure(SQLiteFault(kind: .cannotOpen, text: "'\(path)-wal' cannot be opened: \(message)"))
            }
        } catch {
            sqlite3_finalize(rollback)
            sqlite3_close(connection)
            throw error
        }
    }

    deinit {
        sqlite3_finalize(rollback)
        for statement in statements.values { sqlite3_finalize(statement.handle) }
        sqlite3_close(connection)
        if log >= 0 { Glibc.close(log) }
    }

    /// Runs statements that take and give nothing.
    package func execute(_ sql: String) throws(Failure) { try Self.run(sql, on: connection) }

    private static func run(_ sql: String, on connection: OpaquePointer) throws(Failure) {
        guard sqlite3_exec(connection, sql, nil, nil, nil) == SQLITE_OK else { throw failure(of: connection) }
    }

    fileprivate static func failure(of connection: OpaquePointer) -> Failure {
        let status = sqlite3_extended_errcode(connection)
        let text = String(cString: sqlite3_errmsg(connection))
        let kind: SQLiteFault.Kind =
            switch status & 0xff {
            case SQLITE_FULL: .noSpace
            case SQLITE_NOMEM: .noMemory
            case SQLITE_IOERR where status == SQLITE_IOERR | 12 << 8: .noMemory  // SQLITE_IOERR_NOMEM
            // SQLITE_FULL is for ENOSPC only.
            case SQLITE_IOERR where cf_sqlite_errno(connection) == EDQUOT: .noSpace
            case SQLITE_BUSY, SQLITE_LOCKED: .busy
            // The last one: a table or column is not there.
            case SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_ERROR: .corrupt
            default: .failed
            }
        return Failure(SQLiteFault(kind: kind, text: kind == .busy ? text : "\(text) (\(status))"))
    }

    /// The prepared statement for a literal, ready to be bound.
    private func statement(_ sql: StaticString) throws(Failure) -> SQLiteStatement {
        if let statement = statements[sql.utf8Start] { return statement }
        var handle: OpaquePointer?
        let text = UnsafeRawPointer(sql.utf8Start).assumingMemoryBound(to: CChar.self)
        let flags = UInt32(SQLITE_PREPARE_PERSISTENT)
        guard
            sqlite3_prepare_v3(connection, text, Int32(sql.utf8CodeUnitCount), flags, &handle, nil) == SQLITE_OK,
            let handle
        else { throw Self.failure(of: connection) }
        let statement = SQLiteStatement(handle: handle)
        statements[sql.utf8Start] = statement
        return statement
    }

    /// The statement for a literal, with its parameters; to be reset after its use.
    @usableFromInline
    package func bound(_ sql: StaticString, _ values: [SQLValue]) throws(Failure) -> SQLiteStatement {
        let statement = try statement(sql)
        // A parameter that could not be bound would be NULL.
        guard statement.bind(values) else { throw Self.failure(of: connection) }
        return statement
    }

    /// - Returns: whether there is a row.
    @usableFromInline
    package func step(_ statement: SQLiteStatement) throws(Failure) -> Bool {
        switch sqlite3_step(statement.handle) {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        default: throw Self.failure(of: connection)
        }
    }

    /// Runs a statement; for those that give no rows.
    package func run(_ sql: StaticString, _ values: SQLValue...) throws(Failure) { try run(sql, values) }

    package func run(_ sql: StaticString, _ values: [SQLValue]) throws(Failure) {
        let statement = try bound(sql, values)
        defer { statement.reset() }
        while try step(statement) {}
    }

    /// The first row, read by `body`; nil when there is none.
    @inlinable
    package func first<Result>(
        _ sql: StaticString, _ values: SQLValue..., body: (borrowing Row) throws(Failure) -> Result
    ) throws(Failure) -> Result? {
        let statement = try bound(sql, values)
        defer { statement.reset() }
        return try step(statement) ? try body(Row(statement)) : nil
    }

    /// All rows, each read by `body`, which must not use the same statement.
    @inlinable
    package func all<Result>(
        _ sql: StaticString, _ values: SQLValue..., body: (borrowing Row) throws(Failure) -> Result
    ) throws(Failure) -> [Result] {
        let statement = try bound(sql, values)
        defer { statement.reset() }
        var results: [Result] = []
        while try step(statement) { results.append(try body(Row(statement))) }
        return results
    }

    /// Calls `body` with each row as it is read: those that come before an error have been seen.
    @inlinable
    package func each(
        _ sql: StaticString, _ values: SQLValue..., body: (borrowing Row) throws(Failure) -> Void
    ) throws(Failure) {
        let statement = try bound(sql, values)
        defer { statement.reset() }
        while try step(statement) { try body(Row(statement)) }
    }

    package func exists(_ sql: StaticString, _ values: SQLValue...) throws(Failure) -> Bool {
        let statement = try bound(sql, values)
        defer { statement.reset() }
        return try step(statement)
    }

    /// Begins a copy of the database at `path`, which is made or overwritten.
    package func copy(to path: String) throws(Failure) -> SQLiteCopy<Failure> {
        let target = try Self.connect(path)
        guard let handle = sqlite3_backup_init(target, "main", connection, "main") else {
            defer { sqlite3_close(target) }
            throw Self.failure(of: target)
        }
        return SQLiteCopy(handle: handle, target: target)
    }

    package var lastInsertedRow: Int64 { sqlite3_last_insert_rowid(connection) }
    /// How many rows the last statement changed.
    package var changes: Int { Int(sqlite3_changes(connection)) }

    /// How many steps all statements so far took in SQLite's virtual machine: what they cost, on any machine.
    package var steps: Int {
        statements.values.reduce(0) { $0 + Int(sqlite3_stmt_status($1.handle, SQLITE_STMTSTATUS_VM_STEP, 0)) }
    }

    @inlinable
    package func transaction<Result>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
        try run("BEGIN IMMEDIATE")
        do throws(Failure) {
            let result = try body()
            try run("COMMIT")
            return result
        } catch {
            rollBack()
            throw error
        }
    }

    /// A failed statement or commit may have rolled back by itself; then there is nothing to do.
    @usableFromInline
    package func rollBack() {
        guard sqlite3_get_autocommit(connection) == 0 else { return }
        sqlite3_step(rollback)
        sqlite3_reset(rollback)
        // Whatever came next would go into a transaction that nobody ends.
        guard sqlite3_get_autocommit(connection) != 0 else { fatalError("a transaction could not be rolled back") }
    }
}

/// A copy of a database in the making. What is changed in between by the same connection is in it at the end. Used under
/// the lock of the database that it is of.
///
/// Source: <https://www.sqlite.org/c3ref/backup_finish.html>.
package final class SQLiteCopy<Failure: SQLiteFailure> {
    private let handle: OpaquePointer
    private let target: OpaquePointer

    fileprivate init(handle: OpaquePointer, target: OpaquePointer) {
        self.handle = handle
        self.target = target
    }

    deinit {
        sqlite3_backup_finish(handle)
        sqlite3_close(target)
    }

    /// Copies some pages.
    ///
    /// - Returns: Whether the copy is whole.
    package func step(pages: Int32) throws(Failure) -> Bool {
        switch sqlite3_backup_step(handle, pages) {
        case SQLITE_DONE: return true
        case SQLITE_OK: return false
        default: throw SQLiteDatabase<Failure>.failure(of: target)
        }
    }
}

/// A prepared statement; only ``SQLiteDatabase`` uses it.
package final class SQLiteStatement {
    fileprivate let handle: OpaquePointer

    fileprivate init(handle: OpaquePointer) { self.handle = handle }

    /// - Returns: false when there is no memory for a value.
    fileprivate func bind(_ values: [SQLValue]) -> Bool {
        for (index, value) in values.enumerated() {
            let position = Int32(index + 1)
            let status =
                switch value {
                case .int(let number): sqlite3_bind_int64(handle, position, number)
                case .text(let text):
                    sqlite3_bind_text(handle, position, text, Int32(text.utf8.count), cf_sqlite_transient())
                case .blob(let bytes):
                    bytes.isEmpty
                        ? sqlite3_bind_zeroblob(handle, position, 0)
                        : sqlite3_bind_blob(handle, position, bytes, Int32(bytes.count), cf_sqlite_transient())
                case .null: sqlite3_bind_null(handle, position)
                }
            guard status == SQLITE_OK else { return false }
        }
        return true
    }

    @usableFromInline
    package func reset() { sqlite3_reset(handle) }
}

/// The row that a query stands on. Columns count from 0.
package struct Row: ~Copyable {
    private let handle: OpaquePointer

    @usableFromInline
    package init(_ statement: SQLiteStatement) { handle = statement.handle }

    package var count: Int32 { sqlite3_column_count(handle) }

    /// The column as it is stored.
    package func value(_ column: Int32) -> SQLValue {
        switch sqlite3_column_type(handle, column) {
        case SQLITE_INTEGER: .int(int(column))
        case SQLITE_TEXT: SQLValue(text(column))
        case SQLITE_BLOB: SQLValue(blob(column))
        default: .null
        }
    }

    package func isNull(_ column: Int32) -> Bool { sqlite3_column_type(handle, column) == SQLITE_NULL }
    package func int(_ column: Int32) -> Int64 { sqlite3_column_int64(handle, column) }
    package func optionalInt(_ column: Int32) -> Int64? { isNull(column) ? nil : int(column) }
    package func bool(_ column: Int32) -> Bool { int(column) != 0 }
    package func text(_ column: Int32) -> String? {
        guard !isNull(column) else { return nil }
        guard let text = sqlite3_column_text(handle, column) else { Self.endForWantOfMemory() }
        return String(cString: text)
    }

    package func blob(_ column: Int32) -> [UInt8]? {
        guard !isNull(column) else { return nil }
        let count = Int(sqlite3_column_bytes(handle, column))
        guard count > 0 else { return [] }
        guard let bytes = sqlite3_column_blob(handle, column) else { Self.endForWantOfMemory() }
        return Array(UnsafeRawBufferPointer(start: bytes, count: count))
    }

    /// SQLite shows a value that it has no memory for as one that is not there. Nobody must go on with that: the process
    /// ends, as it does when there is no memory for a value of Swift.
    private static func endForWantOfMemory() -> Never { fatalError("no memory for a value of the database") }
}
