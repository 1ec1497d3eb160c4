import Glibc
import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

/// A catalog in a folder of its own, which goes with it.
final class TemporaryCatalog {
    let folder: String
    let clock = ManualClock()
    private(set) var catalog: Catalog
    private let capabilities: StoreCapabilities

    /// - Parameter boot: The run of the machine's kernel.
    init(_ features: StoreCapabilities.Features = [], boot: String? = "first") throws {
        var template = Array(((access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp") + "/catalog-XXXXXX").utf8CString)
        folder = String(cString: mkdtemp(&template))
        capabilities = StoreCapabilities(features)
        catalog = try Catalog(path: folder + "/catalog.sqlite", clock: clock, boot: boot)
        try catalog.setCapabilities(capabilities)
    }

    /// As after the end of the process: a new catalog over what the old one left in its file.
    func reopen(boot: String? = "first") throws {
        catalog.close()
        catalog = try Catalog(path: folder + "/catalog.sqlite", clock: clock, boot: boot)
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

func copyBytes(_ source: String, _ target: String) throws {
    let from = open(source, O_RDONLY)
    let to = open(target, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    defer {
        close(from)
        close(to)
    }
    var buffer = [UInt8](repeating: 0, count: 65536)
    while case let count = read(from, &buffer, buffer.count), count > 0 {
        try #require(write(to, buffer, count) == count)
    }
}
