package import Caching
package import Catalog
import Glibc
package import StoreAPI

/// What the synchronizer needs of the cache; tests put contents of their own in its place.
package protocol ContentProvider: Sendable {
    func openContent(of inode: InodeID) throws(StoreError) -> any UploadableContent
    /// The catalog has been told that bytes of this inode are on the store.
    func contentWasUploaded(_ inode: InodeID)
    func onPressure(_ body: @escaping @Sendable () -> Void)
    /// Whether a copy of so many bytes may lie beside the cache for a while.
    func hasRoomOnDisk(for bytes: Int64) -> Bool
}

/// The content of one file while it is being uploaded or fetched. ``close()`` is called once.
package protocol UploadableContent: Sendable {
    /// Whether all bytes are here, so that a view is made without asking the store.
    var isComplete: Bool { get }
    func uploadView(_ capabilities: StoreCapabilities) throws(StoreError) -> UploadView
    /// Brings all bytes here, to stay until they are on the store.
    func keepEverything() throws(StoreError)
    func close()
}

extension ContentCache: ContentProvider {
    package func openContent(of inode: InodeID) throws(StoreError) -> any UploadableContent {
        do {
            return try open(inode)
        } catch {
            throw StoreError(error, inode)
        }
    }
}

extension CachedContent: UploadableContent {
    package func uploadView(_ capabilities: StoreCapabilities) throws(StoreError) -> UploadView {
        do {
            return try prepareUpload(capabilities)
        } catch {
            throw StoreError(error, inode)
        }
    }

    package func keepEverything() throws(StoreError) {
        do {
            try pin()
        } catch {
            throw StoreError(error, inode)
        }
    }
}

extension StoreError {
    /// What a fault of the cache means for the work on a row of the journal.
    init(_ error: CacheError, _ inode: InodeID) {
        switch error {
        case .store(let error): self = error
        // Its content is discarded in a moment.
        case .catalog(let error) where error.code == .notFound:
            self.init(.cancelled, "the file was removed (inode \(inode))")
        case .catalog(let error): self.init(error)
        case .system(let number):
            let reason = String(cString: strerror(number))
            self.init(
                number == ENOSPC || number == EDQUOT ? .noLocalSpace : .internal,
                "the cached content of inode \(inode) cannot be used: \(reason)")
        case .lost: self.init(.contentLost, "bytes that were written are not in the cache any more (inode \(inode))")
        case .timedOut: self.init(.timedOut, "the missing bytes of inode \(inode) did not come from the store in time")
        case .discarded: self.init(.cancelled, "the file was removed (inode \(inode))")
        case .shutDown: self.init(.cancelled, "the cache is being shut down")
        }
    }

    /// A fault of the catalog ends the work on a row; it is tried again later.
    init(_ error: CatalogError) {
        self.init(error.code == .noSpace ? .noLocalSpace : .internal, "the catalog: \(error.message)")
    }
}
