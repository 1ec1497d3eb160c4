public import Threading

/// A store's name for one state of an object: an entity tag, revision or generation. Only ever compared.
public struct Version: Hashable, Sendable, CustomStringConvertible {
    public let text: String
    public init(_ text: String) { self.text = text }
    public var description: String { text }
}

/// What kind of thing lies at a path. Everything that is not a directory is an object with bytes (perhaps none).
public enum FileKind: UInt8, Sendable {
    case file, directory, symbolicLink, fifo, characterDevice, blockDevice, socket
}

/// POSIX attributes of a file, as far as a store keeps them. nil means: the store does not say.
public struct Attributes: Hashable, Sendable {
    /// Permission bits with set-uid, set-gid and sticky: 0 … 0o7777. The kind is ``Metadata/kind``.
    public var mode: UInt32?
    public var uid: UInt32?
    public var gid: UInt32?
    public var accessed: Timestamp?
    public var modified: Timestamp?
    /// The last change of the attributes. Kept by stores for people; no local file system lets it be set.
    public var changed: Timestamp?
    /// Device number of a character or block device, as in `st_rdev`.
    public var device: UInt64?
    /// Extended attributes, by full name ("user.colour").
    public var extended: [String: [UInt8]]?
    /// Of a file with several names: tells which objects are this file. Letters, digits and "-", at most 64; what it says
    /// is nothing to a store, which keeps it where it keeps extended attributes, and leaves it as it is where it is nil.
    public var identity: String?
    /// Of an object that was put in the place of a file in a chunk, which it hides: that file's version. Kept as
    /// ``identity`` is.
    public var replaces: String?

    public init(
        mode: UInt32? = nil, uid: UInt32? = nil, gid: UInt32? = nil, accessed: Timestamp? = nil,
        modified: Timestamp? = nil, changed: Timestamp? = nil, device: UInt64? = nil,
        extended: [String: [UInt8]]? = nil, identity: String? = nil, replaces: String? = nil
    ) {
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.accessed = accessed
        self.modified = modified
        self.changed = changed
        self.device = device
        self.extended = extended
        self.identity = identity
        self.replaces = replaces
    }
}

/// What a store knows of the thing at a path.
public struct Metadata: Hashable, Sendable {
    public var kind: FileKind
    /// Bytes; 0 for directories. For a symbolic link the length of its target.
    public var size: Int64
    /// When the store recorded the current bytes.
    public var modified: Timestamp
    /// nil for directories, and where a store has nothing of the kind.
    public var version: Version?
    /// nil: this answer does not tell (a listing of S3 has no user metadata); ask ``Store/metadata(of:)``.
    public var attributes: Attributes?
    /// MD5 of the whole content, where the store tells it.
    public var md5: [UInt8]?

    public init(
        kind: FileKind, size: Int64 = 0, modified: Timestamp, version: Version? = nil, attributes: Attributes? = nil,
        md5: [UInt8]? = nil
    ) {
        self.kind = kind
        self.size = size
        self.modified = modified
        self.version = version
        self.attributes = attributes
        self.md5 = md5
    }
}

/// One line of a listing.
public struct ListEntry: Hashable, Sendable {
    public var name: FileName
    public var metadata: Metadata
    public init(name: FileName, metadata: Metadata) {
        self.name = name
        self.metadata = metadata
    }
}

/// Where a listing goes on. Opaque; valid for the directory and the store that gave it.
public struct ListCursor: Hashable, Sendable {
    public let text: String
    public init(_ text: String) { self.text = text }
}

/// A part of a directory's listing, in no promised order.
public struct ListPage: Sendable {
    public var entries: [ListEntry]
    /// nil: this was the last page.
    public var next: ListCursor?
    /// Names that could not be shown as they are (illegal in POSIX); for the log.
    public var refusedNames: [String]
    public init(entries: [ListEntry], next: ListCursor? = nil, refusedNames: [String] = []) {
        self.entries = entries
        self.next = next
        self.refusedNames = refusedNames
    }
}

/// Space in a store, in bytes. nil: the store does not tell.
public struct SpaceUsage: Hashable, Sendable {
    public var total: Int64?
    public var used: Int64?
    public var free: Int64?
    public init(total: Int64? = nil, used: Int64? = nil, free: Int64? = nil) {
        self.total = total
        self.used = used
        self.free = free
    }
}

/// One line of what a store says about itself and the account it is used with, in words for people; no secrets.
public struct AccountField: Hashable, Sendable {
    public var name: String
    public var value: String
    public init(_ name: String, _ value: String) {
        self.name = name
        self.value = value
    }
}

extension Attributes {
    /// These attributes, with those of `other` that are not nil instead.
    public func merging(_ other: Attributes) -> Attributes {
        Attributes(
            mode: other.mode ?? mode, uid: other.uid ?? uid, gid: other.gid ?? gid,
            accessed: other.accessed ?? accessed, modified: other.modified ?? modified,
            changed: other.changed ?? changed, device: other.device ?? device, extended: other.extended ?? extended,
            identity: other.identity ?? identity, replaces: other.replaces ?? replaces)
    }
}
