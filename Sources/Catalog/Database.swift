package import SQLite

typealias Database = SQLiteDatabase<CatalogError>

extension CatalogError: SQLiteFailure {
    package init(_ fault: SQLiteFault) {
        switch fault.kind {
        case .cannotOpen: self.init(.damaged, "the catalog: \(fault.text)")
        case .noSpace: self.init(.noSpace, "no space on the disk that holds the catalog")
        case .noMemory: self.init(.noMemory, "no memory for what the catalog was to do")
        case .busy: self.init(.damaged, "another process has the catalog open: \(fault.text)")
        case .corrupt: self.init(.corrupt, "the catalog makes no sense: \(fault.text)")
        case .failed: self.init(.damaged, "the catalog failed: \(fault.text)")
        }
    }
}
