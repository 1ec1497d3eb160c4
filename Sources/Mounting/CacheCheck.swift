import Caching
import Catalog
import Glibc
import StoreAPI
package import Threading

/// `cloudfusion fsck`: whether a cache that nobody uses is whole.
package struct CacheCheck: Sendable {
    private let path: String
    private let identity: String?
    private let clock: any Clock

    /// - Parameter identity: Which store it must be for; nil: any.
    package init(path: String, identity: String?, clock: any Clock = SystemClock()) {
        self.path = path
        self.identity = identity
        self.clock = clock
    }

    /// The cache's folder of a mount with these settings, and the identity of its store; nil: no store is named.
    package static func place(of settings: Settings, _ schema: SettingsSchema, _ places: SettingsPlaces)
        -> (path: String, identity: String?)?
    {
        guard let path = MountStack.folderPath(settings, schema, places), let scheme = settings.scheme,
            let descriptor = schema.descriptor(named: scheme)
        else { return nil }
        return (path, descriptor.identity(settings.storeSettings(descriptor)))
    }

    /// - Parameter repairing: Put right what can be; else nothing is changed.
    /// - Throws: ``MountError`` when the check could not be made: the cache is in use, say.
    package func run(repairing: Bool) throws(MountError) -> CacheRepair.Outcome {
        let folder = try CacheFolder(unused: path)
        defer { folder.release() }
        let repair = CacheRepair(folder, identity: identity, clock: clock)
        let original = CatalogFiles(path: folder.catalogPath)
        if !original.isThere {
            // A cache that was never used is whole.
            guard MountStack.holdsFiles(folder) else { return CacheRepair.Outcome() }
            return try rebuilt(repair, "the catalog '\(original.path)' is gone or empty", repairing)
        }
        if !repairing { return try examined(repair, original) }
        do throws(CatalogError) {
            let catalog = try Catalog(path: original.path, clock: clock)
            defer { catalog.close() }
            if let fault = try catalog.structuralFaults().first {
                catalog.close()
                throw CatalogError(.corrupt, fault)
            }
            return try repaired(repair, catalog)
        } catch {
            guard error.code == .corrupt else { throw MountError("the catalog cannot be checked: \(error.message)") }
            return try rebuilt(repair, "the catalog '\(original.path)' is damaged: \(error.message)", repairing)
        }
    }

    private func repaired(_ repair: CacheRepair, _ catalog: Catalog) throws(CatalogError) -> CacheRepair.Outcome {
        do { return try repair.mend(catalog) } catch { throw CatalogError(.damaged, error.message) }
    }

    private func rebuilt(_ repair: CacheRepair, _ reason: String, _ repairing: Bool) throws(MountError)
        -> CacheRepair.Outcome
    {
        guard repairing else { return CacheRepair.Outcome(faults: [reason]) }
        let (catalog, outcome) = try repair.rebuild(because: reason)
        catalog.close()
        return outcome
    }

    /// Looks at a copy, which may be mended as one likes.
    private func examined(_ repair: CacheRepair, _ original: CatalogFiles) throws(MountError) -> CacheRepair.Outcome {
        var template = Array("\(path)/check-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw MountError("a folder for the check cannot be made in '\(path)': \(errorText(errno))")
        }
        let work = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let copy = CatalogFiles(path: work + "/catalog.sqlite")
        defer {
            for file in copy.all { unlink(file) }
            rmdir(work)
        }
        do throws(CatalogError) {
            try original.expectWhole()
            try original.copy(to: copy)
            let catalog = try Catalog(path: copy.path, clock: clock)
            defer { catalog.close() }
            if let fault = try catalog.structuralFaults().first { throw CatalogError(.corrupt, fault) }
            var outcome = CacheRepair.Outcome()
            let mended = try catalog.mend()
            outcome.faults = mended.faults
            let (strays, lost) = try repair.judge(catalog, mended)
            if !strays.isEmpty { outcome.faults.append(CacheRepair.sentence(strays: strays.count)) }
            outcome.uncorrected = lost
            return outcome
        } catch {
            guard error.code == .corrupt else { throw MountError("the catalog cannot be checked: \(error.message)") }
            return CacheRepair.Outcome(faults: ["the catalog '\(original.path)' is damaged: \(error.message)"])
        }
    }
}
