import SQLite
package import StoreAPI
package import Threading

/// The number of an inode. Never used again for another file.
package struct InodeID: Hashable, Comparable, Sendable, CustomStringConvertible {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
    /// The directory that is the store's root. 1 is left to the root of the mount.
    package static let root = InodeID(2)
    package var description: String { String(value) }
    package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
}

/// All that the catalog knows of an inode, but for extended attributes and cached content.
package struct InodeRecord: Hashable, Sendable {
    package var id: InodeID
    package var kind: FileKind
    /// 0 … 0o7777.
    package var mode: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var links: UInt32
    /// Bytes. While content is open, `Caching` knows a newer one.
    package var size: Int64
    package var device: UInt64
    package var accessed: Timestamp
    package var modified: Timestamp
    package var changed: Timestamp
    package var created: Timestamp
    /// Target of a symbolic link; nil until it has been read from the store.
    package var target: [UInt8]?
    /// false: mode, owner, times and even the kind are what a bare listing suggests; the store has to be asked.
    package var attributesAreKnown: Bool

    package init(
        id: InodeID, kind: FileKind, mode: UInt32, uid: UInt32, gid: UInt32, links: UInt32 = 1, size: Int64 = 0,
        device: UInt64 = 0, accessed: Timestamp, modified: Timestamp, changed: Timestamp, created: Timestamp,
        target: [UInt8]? = nil, attributesAreKnown: Bool = true
    ) {
        self.id = id
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.links = links
        self.size = size
        self.device = device
        self.accessed = accessed
        self.modified = modified
        self.changed = changed
        self.created = created
        self.target = target
        self.attributesAreKnown = attributesAreKnown
    }
}

/// What a new inode begins with.
package struct NewInode: Sendable {
    package var kind: FileKind
    package var mode: UInt32
    package var uid: UInt32
    package var gid: UInt32
    package var device: UInt64
    package var target: [UInt8]?
    /// Of a file: whoever makes it is going to write to it, so that a change is begun with it.
    package var isToBeWritten: Bool
    package init(
        kind: FileKind, mode: UInt32, uid: UInt32, gid: UInt32, device: UInt64 = 0, target: [UInt8]? = nil,
        isToBeWritten: Bool = false
    ) {
        self.kind = kind
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.device = device
        self.target = target
        self.isToBeWritten = isToBeWritten
    }
}

/// Changes of attributes; nil leaves one as it is.
package struct AttributeChanges: Hashable, Sendable {
    package var mode: UInt32?
    package var uid: UInt32?
    package var gid: UInt32?
    package var accessed: Timestamp?
    package var modified: Timestamp?
    /// Set with every change that POSIX counts as one of the inode; nil keeps it (reads that touch atime only).
    package var changed: Timestamp?
    package init(
        mode: UInt32? = nil, uid: UInt32? = nil, gid: UInt32? = nil, accessed: Timestamp? = nil,
        modified: Timestamp? = nil, changed: Timestamp? = nil
    ) {
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.accessed = accessed
        self.modified = modified
        self.changed = changed
    }
}

/// What the catalog can say of a name in a directory. That it knows of nothing means "absent" only while the
/// directory's listing is trusted; otherwise the store has to be asked.
package struct LookupResult: Sendable {
    package var inode: InodeRecord?
    /// Whether the entry was made or changed here and the store does not have it yet: then no listing can tell better.
    package var isPending: Bool
    /// When the directory was last listed completely; nil: never. `.max` for one that lies only here.
    package var listed: Timestamp?
    package init(inode: InodeRecord?, isPending: Bool, listed: Timestamp?) {
        self.inode = inode
        self.isPending = isPending
        self.listed = listed
    }
}

package struct DirectoryEntry: Sendable {
    /// Where a reading goes on behind this entry; > 0, grows, stays with the entry for its life.
    package var cookie: Int64
    package var name: FileName
    package var inode: InodeRecord
    package init(cookie: Int64, name: FileName, inode: InodeRecord) {
        self.cookie = cookie
        self.name = name
        self.inode = inode
    }
}

package enum RenameMode: Sendable { case replace, noReplace, exchange }

package struct RenameOutcome: Sendable {
    package var moved: InodeRecord
    /// What lost its name by it, with its links counted after that; nil when nothing did. For
    /// ``RenameMode/exchange`` what moved the other way.
    package var other: InodeRecord?
    package init(moved: InodeRecord, other: InodeRecord?) {
        self.moved = moved
        self.other = other
    }
}

/// Why the catalog refused, or could not do, something.
package struct CatalogError: Error, Sendable, CustomStringConvertible {
    package enum Code: Sendable {
        case notFound, exists, notADirectory, isADirectory, notEmpty, noSuchAttribute, attributeExists
        /// Renaming a directory into itself.
        case insideItself
        case tooManyLinks
        /// The disk under the catalog is full.
        case noSpace
        /// There is not enough memory for what was asked. It was not done.
        case noMemory
        /// The database cannot be read or written now, which is the disk's fault or another process's.
        case damaged
        /// What the database holds makes no sense: see ``CatalogRescue``.
        case corrupt
        /// Made by a newer version of this program.
        case tooNew
    }
    package var code: Code
    package var message: String
    package init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }
    package var description: String { message }
}

/// Something in the namespace that changed because the store changed: the kernel has to be told.
package enum NamespaceChange: Hashable, Sendable {
    /// The name now means something else or nothing; `inode` is what it meant before (nil: nothing).
    case entry(parent: InodeID, name: FileName, inode: InodeID?)
    /// Attributes of the inode were learned anew.
    case attributes(InodeID)
}

// MARK: - Content

/// Where the bytes of a file lie that are not in its cache file.
package struct ContentSource: Hashable, Sendable {
    package var path: StorePath
    package var version: Version?
    /// Bytes of the object; what lies behind it in the file is zero.
    package var size: Int64
    package init(path: StorePath, version: Version?, size: Int64) {
        self.path = path
        self.version = version
        self.size = size
    }
}

/// What a worker is doing with the object that has a file's bytes.
package enum SourceWork: Sendable {
    case none
    /// Replaces it by this very content: as soon as it has read all of it.
    case upload
    case other
}

/// Whether the cache file of a content certainly holds the bytes that were written to it.
package enum CacheTrust: Sendable {
    /// They are on the disk.
    case flushed
    /// They are in the cache file, and may be lost with the power.
    case unflushed
    /// The machine went down before they were flushed: what the cache file holds may be zeros or older bytes. The store
    /// has what was written. Nothing counts as present until ``Catalog/contentWasEvicted(_:)`` has said so for good.
    case lost
}

/// What the catalog remembers of a file's content.
package struct ContentRecord: Sendable {
    package var inode: InodeID
    package var size: Int64
    /// Grows with each ``Catalog/beginChange(of:at:)`` and each save of changed content; names a state of the bytes.
    package var generation: Int64
    /// Whether the content is newer than what the store holds.
    package var isDirty: Bool
    /// The ranges for which the cache file has the bytes. Ranges behind the source's size count as present.
    package var present: RangeSet
    /// nil: there is no object; all bytes are here.
    package var source: ContentSource?
    /// What a worker is doing with what lies at the source: it may be elsewhere already, or be another version.
    package var sourceWork: SourceWork
    /// Whether the object that had the bytes which are not here is gone from the store, or is another one by now.
    package var isLost = false
    /// Whether a change was begun and not saved, as after a crash: the cache file may then be longer than `size`.
    package var isChanging: Bool
    package var trust: CacheTrust
    package init(
        inode: InodeID, size: Int64, generation: Int64, isDirty: Bool, present: RangeSet, source: ContentSource?,
        sourceWork: SourceWork = .none, isChanging: Bool, trust: CacheTrust = .flushed
    ) {
        self.inode = inode
        self.size = size
        self.generation = generation
        self.isDirty = isDirty
        self.present = present
        self.source = source
        self.sourceWork = sourceWork
        self.isChanging = isChanging
        self.trust = trust
    }
}

/// A cached content that may be evicted.
package struct EvictionCandidate: Sendable {
    package var inode: InodeID
    package var cachedBytes: Int64
    package var used: Timestamp
    package init(inode: InodeID, cachedBytes: Int64, used: Timestamp) {
        self.inode = inode
        self.cachedBytes = cachedBytes
        self.used = used
    }
}

package struct ContentTotals: Hashable, Sendable {
    /// Bytes in cache files, clean and dirty.
    package var cachedBytes: Int64
    package var dirtyBytes: Int64
    package var dirtyFiles: Int64
    package init(cachedBytes: Int64, dirtyBytes: Int64, dirtyFiles: Int64) {
        self.cachedBytes = cachedBytes
        self.dirtyBytes = dirtyBytes
        self.dirtyFiles = dirtyFiles
    }
}

// MARK: - Synchronization

/// A row of the journal: something that has to be made good on the store.
package struct PendingID: Hashable, Comparable, Sendable {
    package let value: Int64
    package init(_ value: Int64) { self.value = value }
    package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
}

/// A row of the journal as `stats/notuploaded` shows it and the engine picks it.
package struct PendingItem: Sendable {
    package var id: PendingID
    /// Counts changes of the row; an outcome for an older state does not end it.
    package var revision: Int64
    /// Where in the namespace (or, for a deletion, on the store).
    package var path: StorePath
    package var isDeletion: Bool
    /// The file; nil for a deletion.
    package var inode: InodeID?
    /// Bytes of content that may have to go out; 0 for deletions, directories and mere attributes.
    package var size: Int64
    /// When the first and the last change was made that is not on the store.
    package var since: Timestamp
    package var changed: Timestamp
    package var attempts: Int
    package var lastError: String?
    /// Set when the last error was a permanent one: not tried again before the file or the settings change.
    package var isParked: Bool
    package init(
        id: PendingID, revision: Int64, path: StorePath, isDeletion: Bool, inode: InodeID?, size: Int64,
        since: Timestamp, changed: Timestamp, attempts: Int, lastError: String?, isParked: Bool
    ) {
        self.id = id
        self.revision = revision
        self.path = path
        self.isDeletion = isDeletion
        self.inode = inode
        self.size = size
        self.since = since
        self.changed = changed
        self.attempts = attempts
        self.lastError = lastError
        self.isParked = isParked
    }
}

/// What has to be done next for a row of the journal. Each is idempotent.
package enum SyncStep: Sendable {
    /// The store is as it should be; the row is gone.
    case done
    /// Put the content of `inode` at `target`. Report with ``Catalog/uploaded(_:as:)``.
    case upload(UploadPlan)
    /// Set `attributes` of the object. Report with ``Catalog/attributesWereSet(_:to:)``.
    case setAttributes(AttributesPlan)
    /// Copy an object on the store. Report with ``Catalog/copied(_:as:)``.
    case copy(CopyPlan)
    /// Make a directory at `target`. Report with ``Catalog/directoryWasMade(_:)``.
    case createDirectory(DirectoryPlan)
    /// Move the directory or file on the store in one step. Report with ``Catalog/moved(_:as:)``.
    case move(MovePlan)
    /// Find out what became of this move, which was begun and not reported on. Report with ``Catalog/moved(_:as:)`` or
    /// ``Catalog/moveWasNotDone(_:)``.
    case settle(MovePlan)
    /// Delete this object. Report with ``Catalog/deleted(_:)``.
    case delete(DeletePlan)
    /// The object at `path` is somebody else's change: keep it under the name `keepAs`, then go on. Copy it on the
    /// store and report with ``Catalog/conflictWasKept(_:as:)``.
    case keepConflict(ConflictPlan)
    /// List `directory` completely first (``Catalog/beginListing(of:)``), then ask again.
    case list(InodeID)
    /// Bring all bytes of `inode` into the cache first and have them kept there, with ``Catalog/pinContent(of:)``,
    /// because the object that has them is in the way; then ask again.
    case fetch(InodeID)
    /// Ask the store for the attributes of `inode` first (``Catalog/unknownAttributes(of:)``), then ask again: what is
    /// not known would be lost where the file is written anew.
    case learn(InodeID)
    /// Something else has to be done first; ask again after it, or a moment later.
    case blocked(by: PendingID?)
    /// Another worker is changing what this is about; ask again when ``Catalog/stepEnded(_:)`` names this row.
    case busy
}

/// Whose state goes where on the store, and which state: what the catalog has to know again when it is there.
package struct Placement: Sendable {
    package var item: PendingID
    package var revision: Int64
    package var inode: InodeID
    package var contentGeneration: Int64
    package var attributeGeneration: Int64
    /// The object of the directory in which this one lies; opaque to the engine.
    package var parentObject: Int64
    /// The directory entry that it is for.
    package var entryParent: InodeID
    package var entryName: FileName
}

package struct UploadPlan: Sendable {
    package var placement: Placement
    package var kind: FileKind
    package var target: StorePath
    package var condition: WriteCondition
    package var attributes: Attributes
    /// Target of a symbolic link, or nothing for fifos and devices: the body, instead of the cache's content.
    package var fixedBody: [UInt8]?
    /// Opaque state of an interrupted upload of this generation.
    package var checkpoint: String?
    /// States of the file of which the store may have one: the answer to an upload was not heard.
    package var sentBefore: [SentState]
    /// What was noted for this plan alone: nothing was sent of it before.
    package var noted: SentState?
}

package struct AttributesPlan: Sendable {
    package var item: PendingID
    package var revision: Int64
    package var inode: InodeID
    package var path: StorePath
    package var version: Version?
    package var attributes: Attributes
    package var attributeGeneration: Int64
    package var object: Int64
    /// The attribute generation of the object when the plan was made.
    package var before: Int64
}

package struct CopyPlan: Sendable {
    package var placement: Placement
    package var source: StorePath
    package var sourceVersion: Version?
    package var target: StorePath
    package var condition: WriteCondition
    package var attributes: Attributes
}

package struct DirectoryPlan: Sendable {
    package var item: PendingID
    package var revision: Int64
    package var inode: InodeID
    package var target: StorePath
    package var attributes: Attributes
    package var attributeGeneration: Int64
    package var parentObject: Int64
    package var name: FileName
}

package struct MovePlan: Sendable {
    package var item: PendingID
    package var revision: Int64
    package var inode: InodeID
    package var isDirectory: Bool
    package var source: StorePath
    /// Of a file: what is to be moved. Another version is somebody else's. nil: a directory, or not known.
    package var version: Version?
    package var target: StorePath
    package var object: Int64
    package var parentObject: Int64
    package var name: FileName
}

package struct DeletePlan: Sendable {
    package var item: PendingID
    package var revision: Int64
    package var path: StorePath
    package var object: Int64
    package var isDirectory: Bool
    /// Of a file: what is to be deleted. Another version is somebody else's. nil: a directory, or not known.
    package var version: Version?
    /// It is not known whether anything lies there: what was sent there perhaps, and nothing else, is to be deleted.
    package var isUncertain: Bool
    /// States of which the store may have one there: the answers were not heard. They are ours too.
    package var sent: [SentState]
}

package struct ConflictPlan: Sendable {
    package var item: PendingID
    package var revision: Int64
    package var path: StorePath
    package var version: Version?
    package var directory: InodeID
    package var object: Int64
    /// Whether others have put a directory where a file of ours belongs.
    package var isDirectory: Bool
    package var keepAs: FileName
    package var keepPath: StorePath
}

/// How much is pending.
package struct PendingTotals: Hashable, Sendable {
    package var items: Int64
    package var bytes: Int64
    package var parked: Int64
    package var oldest: Timestamp?
    package init(items: Int64, bytes: Int64, parked: Int64, oldest: Timestamp?) {
        self.items = items
        self.bytes = bytes
        self.parked = parked
        self.oldest = oldest
    }
}

// MARK: - Listings

/// A listing under way.
package struct ListingPlan: Sendable {
    package var directory: InodeID
    /// Where on the store the directory lies.
    package var path: StorePath
    var object: Int64
    /// When it was begun, in nanoseconds since 1970: tells what it has shown from what earlier ones have.
    var number: Int64
    /// How much work of ours had ended when it was begun.
    var begun: Int64
}

/// An inode whose attributes only the store knows.
package struct ContentQuestion: Sendable {
    package var inode: InodeID
    package var path: StorePath
    package var version: Version?
    /// Bytes of the object.
    package var size: Int64
    var object: Int64
    /// How much work of ours had ended when it was asked.
    var begun: Int64
}

/// A file that somebody else had replaced or removed on the store, and that was written to here afterwards.
package struct KeptFile: Sendable {
    /// The last of its path before.
    package var name: FileName
    /// Where it is now.
    package var path: StorePath
}

/// What ``Catalog/save(_:)`` takes.
package struct ContentState: Sendable {
    package var inode: InodeID
    package var size: Int64
    package var present: RangeSet
    /// Only for changed content; nil keeps it.
    package var modified: Timestamp?
    /// Content was changed since the last save: counts as a change for due times.
    package var isChanged: Bool
    /// All that was written to the cache file is on the disk. false says nothing where nothing was changed.
    package var isFlushed: Bool
    package init(
        inode: InodeID, size: Int64, present: RangeSet, modified: Timestamp?, isChanged: Bool, isFlushed: Bool = false
    ) {
        self.inode = inode
        self.size = size
        self.present = present
        self.modified = modified
        self.isChanged = isChanged
        self.isFlushed = isFlushed
    }
}
