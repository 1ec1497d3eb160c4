package import Catalog
package import StoreAPI
package import Threading

/// What the synchronizer needs of the catalog: the journal of what is to be made good on the store, and the outcomes
/// it is told. The catalog describes each call; tests put a journal of their own in its place.
package protocol Journal: Sendable {
    func pending(dueBefore: Timestamp, limit: Int, busy: Set<PendingID>) throws(CatalogError) -> [PendingItem]
    func allPending(after last: PendingID?, limit: Int) throws(CatalogError) -> [PendingItem]
    func newestPending() throws(CatalogError) -> PendingItem?
    func pendingRows(below path: StorePath, upTo last: PendingID, orSince since: Timestamp) throws(CatalogError)
        -> [PendingID]
    /// One row as it is now; nil when it is gone.
    func pendingItem(_ id: PendingID) throws(CatalogError) -> PendingItem?
    func pendingTotals() throws(CatalogError) -> PendingTotals
    func content(of inode: InodeID) throws(CatalogError) -> ContentRecord?
    func nextDue(delay: Duration) throws(CatalogError) -> Timestamp?
    func expedite(_ path: StorePath?) throws(CatalogError) -> Int
    func rowsLeft(to goal: FileGoal, isFirst: Bool) throws(CatalogError) -> [PendingItem]

    /// What the store can do decides what ``plan(_:)`` asks for.
    func setCapabilities(_ capabilities: StoreCapabilities) throws(CatalogError)
    func plan(_ item: PendingItem) throws(CatalogError) -> SyncStep
    func plan(_ plan: UploadPlan, for generation: Int64) throws(CatalogError) -> UploadPlan
    func uploaded(_ plan: UploadPlan, as metadata: Metadata) throws(CatalogError)
    func attributesWereSet(_ plan: AttributesPlan, to metadata: Metadata) throws(CatalogError)
    func copied(_ plan: CopyPlan, as metadata: Metadata) throws(CatalogError)
    func directoryWasMade(_ plan: DirectoryPlan) throws(CatalogError)
    func moved(_ plan: MovePlan, as metadata: Metadata?) throws(CatalogError)
    func moveWasNotDone(_ plan: MovePlan) throws(CatalogError)
    func deleted(_ plans: [DeletePlan]) throws(CatalogError)
    func removeIfLost(_ inode: InodeID) throws(CatalogError) -> [NamespaceChange]
    func conflictWasKept(_ plan: ConflictPlan, as metadata: Metadata) throws(CatalogError) -> [NamespaceChange]
    func foundOnStore(_ metadata: Metadata?, at path: StorePath, by item: PendingID) throws(CatalogError)
        -> [NamespaceChange]
    func saveCheckpoint(_ state: String?, for item: PendingID) throws(CatalogError)
    /// The worker that ``plan(_:)`` has sent is back, whatever came of it.
    func stepEnded(_ item: PendingID) throws(CatalogError) -> [PendingID]
    func failed(_ item: PendingID, revision: Int64, error: String, retryAt: Timestamp?) throws(CatalogError)

    func unknownAttributes(of inode: InodeID) throws(CatalogError) -> ContentQuestion?
    func learnAttributes(_ metadata: Metadata, target: [UInt8]?, of question: ContentQuestion) throws(CatalogError)
        -> [NamespaceChange]
    func beginListing(of directory: InodeID) throws(CatalogError) -> ListingPlan?
    func merge(_ entries: [ListEntry], into listing: ListingPlan) throws(CatalogError) -> [NamespaceChange]
    func doubts(about entries: [ListEntry], in listing: ListingPlan) throws(CatalogError) -> Set<FileName>
    func doubtfulAbsences(in listing: ListingPlan) throws(CatalogError) -> [FileName]
    func endListing(_ listing: ListingPlan, changed: ([NamespaceChange]) -> Void) throws(CatalogError)
}

extension Catalog: Journal {}
