package import Catalog

/// The part of the catalog that remembers which bytes are in the cache, with the catalog's own contracts; apart, so
/// that tests can keep that memory themselves.
package protocol ContentIndex: Sendable {
    func content(of inode: InodeID) throws(CatalogError) -> ContentRecord?
    func beginChange(of inode: InodeID) throws(CatalogError) -> Int64
    func save(_ states: [ContentState]) throws(CatalogError) -> [Int64?]
    func pinContent(of inode: InodeID) throws(CatalogError) -> Int64
    @discardableResult func contentWasEvicted(_ inode: InodeID) throws(CatalogError) -> Int64
    func noteUse(of inodes: [InodeID]) throws(CatalogError)
    func evictionCandidates(limit: Int) throws(CatalogError) -> [EvictionCandidate]
    func contentTotals() throws(CatalogError) -> ContentTotals
    func makeDurable() throws(CatalogError)
    func diskWillBeFlushed() throws(CatalogError) -> Int64?
    func diskWasFlushed(_ epoch: Int64) throws(CatalogError)
}

extension Catalog: ContentIndex {}
