import Glibc
import SQLite
import StoreAPI
import Threading

@testable import Catalog

/// A catalog in a folder of its own, which goes with it.
final class TemporaryCatalog {
    let folder: String
    let clock = ManualClock()
    private(set) var catalog: Catalog
    private let capabilities: StoreCapabilities

    init(_ features: StoreCapabilities.Features = []) throws {
        var template = Array(((access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") + "/catalog-XXXXXX").utf8CString)
        folder = String(cString: mkdtemp(&template))
        capabilities = StoreCapabilities(features)
        catalog = try Catalog(path: folder + "/catalog.sqlite", clock: clock)
        try catalog.setCapabilities(capabilities)
    }

    /// As after the end of the process: a new catalog over what the old one left in its file.
    func reopen() throws {
        catalog.close()
        catalog = try Catalog(path: folder + "/catalog.sqlite", clock: clock)
        try catalog.setCapabilities(capabilities)
    }

    deinit {
        catalog.close()
        for file in CatalogFiles(path: folder + "/catalog.sqlite").all { unlink(file) }
        rmdir(folder)
    }
}

extension Catalog {
    /// Ends a listing; what that changes, in one.
    func endListing(_ listing: ListingPlan) throws(CatalogError) -> [NamespaceChange] {
        var all: [NamespaceChange] = []
        try endListing(listing) { all += $0 }
        return all
    }

    /// What all statements so far have cost: see ``Database/steps``.
    var steps: Int { get throws(CatalogError) { try read { tables throws(CatalogError) in tables.database.steps } } }
}

func name(_ text: String) -> FileName { FileName(text)! }
func path(_ text: String) -> StorePath { StorePath(text)! }
