import CSQLite
import Glibc

/// A value of a column or a parameter.
enum SQLValue {
    case int(Int64)
    case text(String)
    case blob([UInt8])
    case null

    init(_ value: Int64?) { self = value.map { .int($0) } ?? .null }
    init(_ value: String?) { self = value.map { .text($0) } ?? .null }
    init(_ value: [UInt8]?) { self = value.map { .blob($0) } ?? .null }
    init(_ value: Bool) { self = .int(value ? 1 : 0) }
}

extension SQLValue: ExpressibleByIntegerLiteral {
    init(integerLiteral value: Int64) { self = .int(value) }
}

/// One connection to a SQLite file, with its prepared statements. Used by one thread at a time.
///
/// Journalled ahead (WAL) with `synchronous = NORMAL`: a commit survives the end of the process at once, and a power
/// loss after ``synchronize()``. The file is locked to this process, which spares a lock per transaction.
final class Database {
    private let connection: OpaquePointer
    private var statements: [UnsafePointer<UInt8>: Statement] = [:]
    /// The write-ahead log, for ``synchronize()``; -1 for a database that is only read.
    let log: Int32

    /// Bytes. A small change writes its pages whole: half of SQLite's own size costs a third less.
    static let pageSize = 2048

    private static func connect(_ path: String) throws(CatalogError) -> OpaquePointer {
        var connection: OpaquePointer?
        let flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX
        let status = sqlite3_open_v2(path, &connection, flags, nil)
        guard status == SQLITE_OK, let connection else {
            let message = connection.map { String(cString: sqlite3_errmsg($0)) } ?? "out of memory"
            sqlite3_close(connection)
            throw CatalogError(.damaged, "the catalog '\(path)' cannot be opened: \(message)")
        }
        sqlite3_extended_result_codes(connection, 1)
        return connection
    }

    /// Opens a copy of a damaged database, to read of it what can be read.
    init(damagedCopy path: String) throws(CatalogError) {
        connection = try Self.connect(path)
        log = -1
        // With it, SQLite takes a file that is too short, and tables whose definition it cannot read.
        for pragma in [
            "locking_mode = EXCLUSIVE", "writable_schema = ON", "trusted_schema = OFF", "cell_size_check = ON",
        ] {
            try Self.run("PRAGMA \(pragma)", on: connection)
        }
    }

    init(path: String) throws(CatalogError) {
        connection = try Self.connect(path)
        do throws(CatalogError) {
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
                throw CatalogError(.damaged, "'\(path)-wal' cannot be opened: \(String(cString: strerror(errno)))")
            }
        } catch {
            sqlite3_close(connection)
            throw error
        }
    }

    deinit {
        for statement in statements.values { sqlite3_finalize(statement.handle) }
        sqlite3_close(connection)
        if log >= 0 { Glibc.close(log) }
    }

    /// Runs statements that take and give nothing.
    func execute(_ sql: String) throws(CatalogError) { try Self.run(sql, on: connection) }

    private static func run(_ sql: String, on connection: OpaquePointer) throws(CatalogError) {
        guard sqlite3_exec(connection, sql, nil, nil, nil) == SQLITE_OK else { throw failure(of: connection) }
    }

    fileprivate static func failure(of connection: OpaquePointer) -> CatalogError {
        let status = sqlite3_extended_errcode(connection)
        let text = String(cString: sqlite3_errmsg(connection))
        switch status & 0xff {
        case SQLITE_FULL: return CatalogError(.noSpace, "no space on the disk that holds the catalog")
        case SQLITE_BUSY, SQLITE_LOCKED:
            return CatalogError(.damaged, "another process has the catalog open: \(text)")
        // The last one: a table or column is not there.
        case SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_ERROR:
            return CatalogError(.corrupt, "the catalog makes no sense: \(text) (\(status))")
        default: return CatalogError(.damaged, "the catalog failed: \(text) (\(status))")
        }
    }

    /// The prepared statement for a literal, ready to be bound.
    private func statement(_ sql: StaticString) throws(CatalogError) -> Statement {
        if let statement = statements[sql.utf8Start] { return statement }
        var handle: OpaquePointer?
        let text = UnsafeRawPointer(sql.utf8Start).assumingMemoryBound(to: CChar.self)
        let flags = UInt32(SQLITE_PREPARE_PERSISTENT)
        guard
            sqlite3_prepare_v3(connection, text, Int32(sql.utf8CodeUnitCount), flags, &handle, nil) == SQLITE_OK,
            let handle
        else { throw Self.failure(of: connection) }
        let statement = Statement(handle: handle, connection: connection)
        statements[sql.utf8Start] = statement
        return statement
    }

    /// Runs a statement; for those that give no rows.
    func run(_ sql: StaticString, _ values: SQLValue...) throws(CatalogError) { try run(sql, values) }

    func run(_ sql: StaticString, _ values: [SQLValue]) throws(CatalogError) {
        let statement = try statement(sql)
        defer { statement.reset() }
        statement.bind(values)
        while try statement.step() {}
    }

    /// The first row, read by `body`; nil when there is none.
    func first<Result>(
        _ sql: StaticString, _ values: SQLValue..., body: (borrowing Row) throws(CatalogError) -> Result
    ) throws(CatalogError) -> Result? {
        let statement = try statement(sql)
        defer { statement.reset() }
        statement.bind(values)
        return try statement.step() ? try body(Row(handle: statement.handle)) : nil
    }

    /// All rows, each read by `body`, which must not use the same statement.
    func all<Result>(
        _ sql: StaticString, _ values: SQLValue..., body: (borrowing Row) throws(CatalogError) -> Result
    ) throws(CatalogError) -> [Result] {
        let statement = try statement(sql)
        defer { statement.reset() }
        statement.bind(values)
        var results: [Result] = []
        while try statement.step() { results.append(try body(Row(handle: statement.handle))) }
        return results
    }

    /// Calls `body` with each row as it is read: those that come before an error have been seen.
    func each(
        _ sql: StaticString, _ values: SQLValue..., body: (borrowing Row) throws(CatalogError) -> Void
    ) throws(CatalogError) {
        let statement = try statement(sql)
        defer { statement.reset() }
        statement.bind(values)
        while try statement.step() { try body(Row(handle: statement.handle)) }
    }

    func exists(_ sql: StaticString, _ values: SQLValue...) throws(CatalogError) -> Bool {
        let statement = try statement(sql)
        defer { statement.reset() }
        statement.bind(values)
        return try statement.step()
    }

    var lastInsertedRow: Int64 { sqlite3_last_insert_rowid(connection) }
    /// How many rows the last statement changed.
    var changes: Int { Int(sqlite3_changes(connection)) }

    /// How many steps all statements so far took in SQLite's virtual machine: what they cost, on any machine.
    var steps: Int {
        statements.values.reduce(0) { $0 + Int(sqlite3_stmt_status($1.handle, SQLITE_STMTSTATUS_VM_STEP, 0)) }
    }

    func transaction<Result>(_ body: () throws(CatalogError) -> Result) throws(CatalogError) -> Result {
        try run("BEGIN IMMEDIATE")
        do throws(CatalogError) {
            let result = try body()
            try run("COMMIT")
            return result
        } catch {
            // A failed commit may have rolled back by itself; then this says so, which does not matter.
            sqlite3_exec(connection, "ROLLBACK", nil, nil, nil)
            throw error
        }
    }
}

private final class Statement {
    let handle: OpaquePointer
    private let connection: OpaquePointer

    init(handle: OpaquePointer, connection: OpaquePointer) {
        self.handle = handle
        self.connection = connection
    }

    func bind(_ values: [SQLValue]) {
        for (index, value) in values.enumerated() {
            let position = Int32(index + 1)
            switch value {
            case .int(let number): sqlite3_bind_int64(handle, position, number)
            case .text(let text):
                sqlite3_bind_text(handle, position, text, Int32(text.utf8.count), cf_sqlite_transient())
            case .blob(let bytes):
                if bytes.isEmpty {
                    sqlite3_bind_zeroblob(handle, position, 0)
                } else {
                    sqlite3_bind_blob(handle, position, bytes, Int32(bytes.count), cf_sqlite_transient())
                }
            case .null: sqlite3_bind_null(handle, position)
            }
        }
    }

    /// - Returns: whether there is a row.
    func step() throws(CatalogError) -> Bool {
        switch sqlite3_step(handle) {
        case SQLITE_ROW: return true
        case SQLITE_DONE: return false
        default: throw Database.failure(of: connection)
        }
    }

    func reset() { sqlite3_reset(handle) }
}

/// The row that a query stands on. Columns count from 0.
struct Row: ~Copyable {
    fileprivate let handle: OpaquePointer

    var count: Int32 { sqlite3_column_count(handle) }

    /// The column as it is stored.
    func value(_ column: Int32) -> SQLValue {
        switch sqlite3_column_type(handle, column) {
        case SQLITE_INTEGER: .int(int(column))
        case SQLITE_TEXT: SQLValue(text(column))
        case SQLITE_BLOB: SQLValue(blob(column))
        default: .null
        }
    }

    func isNull(_ column: Int32) -> Bool { sqlite3_column_type(handle, column) == SQLITE_NULL }
    func int(_ column: Int32) -> Int64 { sqlite3_column_int64(handle, column) }
    func optionalInt(_ column: Int32) -> Int64? { isNull(column) ? nil : int(column) }
    func bool(_ column: Int32) -> Bool { int(column) != 0 }
    func text(_ column: Int32) -> String? { sqlite3_column_text(handle, column).map { String(cString: $0) } }
    func blob(_ column: Int32) -> [UInt8]? {
        guard !isNull(column) else { return nil }
        let count = Int(sqlite3_column_bytes(handle, column))
        guard count > 0, let bytes = sqlite3_column_blob(handle, column) else { return [] }
        return Array(UnsafeRawBufferPointer(start: bytes, count: count))
    }
}
