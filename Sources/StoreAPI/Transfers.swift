import Threading

/// What to read of an object.
public struct ReadRequest: Sendable {
    /// Half-open, in bytes; nil means all. A range that begins at or behind the end gives no bytes.
    public var range: Range<Int64>?
    /// When given, it is this version that is read, or ``StoreError/Code/preconditionFailed`` where the store has another
    /// one now, and this one no more: never a mixture of two versions.
    public var version: Version?
    public init(range: Range<Int64>? = nil, version: Version? = nil) {
        self.range = range
        self.version = version
    }
}

/// Where the bytes of a read go.
public protocol ReadSink: AnyObject, Sendable {
    /// Takes bytes that belong at `offset` of the object. The buffer is valid only during the call.
    ///
    /// Called on the thread that reads or on the transport's; not from two threads at a time. When the store
    /// repeats a request, bytes may come again; the later ones count.
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError)
}

/// The bytes of an upload, in order. Can be read again, so that a request can be repeated.
public struct UploadBody: Sendable {
    public enum Segment: Sendable {
        case bytes([UInt8])
        /// `length` bytes of an open file from `offset` on. The descriptor stays open and readable by `pread`
        /// until the call returns.
        case file(descriptor: Int32, offset: Int64, length: Int64)
        /// A range of an object that is on this store already: see ``StoreCapabilities/Features/rangeCopy``.
        case stored(path: StorePath, version: Version?, range: Range<Int64>)

        public var length: Int64 {
            switch self {
            case .bytes(let bytes): Int64(bytes.count)
            case .file(_, _, let length): length
            case .stored(_, _, let range): range.upperBound - range.lowerBound
            }
        }
    }

    public var segments: [Segment]
    public var length: Int64 { segments.reduce(0) { $0 + $1.length } }

    public init(_ segments: [Segment]) { self.segments = segments }
    public init(_ bytes: [UInt8]) { segments = bytes.isEmpty ? [] : [.bytes(bytes)] }
    public init(descriptor: Int32, length: Int64) {
        segments = length == 0 ? [] : [.file(descriptor: descriptor, offset: 0, length: length)]
    }
}

/// What must be true of a path for a write to be done.
public enum WriteCondition: Hashable, Sendable {
    case always
    case ifAbsent
    case ifVersion(Version)

    /// Throws unless it holds.
    ///
    /// - Parameter found: The version of what is at the path now; nil: nothing.
    /// - Throws: ``StoreError``: `.preconditionFailed`.
    public func check(_ found: Version?, at path: StorePath) throws(StoreError) {
        switch self {
        case .always: return
        case .ifAbsent where found == nil: return
        case .ifVersion(let version) where version == found: return
        case .ifAbsent, .ifVersion: throw failure(path)
        }
    }

    /// Why a write is not made: the condition does not hold.
    public func failure(_ path: StorePath) -> StoreError {
        switch self {
        case .ifVersion(let version): .changed(path, version.text)
        case .ifAbsent, .always:
            StoreError(.preconditionFailed, "'\(path)' is on the store already", path: path)
        }
    }
}

extension StoreError {
    /// - Parameter version: The one that was meant; nil where the store tells none.
    public static func changed(_ path: StorePath, _ version: String?) -> StoreError {
        StoreError(
            .preconditionFailed, "'\(path)' changed on the store since version \(version ?? "that was meant")",
            path: path)
    }
}

/// Where an interrupted upload can be taken up again, for stores with
/// ``StoreCapabilities/Features/resumableUpload``.
public protocol UploadCheckpoint: AnyObject, Sendable {
    /// What was saved last; nil when nothing was. Opaque to all but the store that wrote it.
    func load() -> String?
    /// Remembers `state` durably; nil when there is nothing left to take up.
    func save(_ state: String?)
}

/// How to write an object.
public struct PutOptions: Sendable {
    public var condition: WriteCondition
    /// The kind that later reads should see: a file, symbolic link (its target is the body), fifo, device or socket.
    public var kind: FileKind
    public var attributes: Attributes
    /// Asked from time to time, and for the last time right before the object becomes visible. When it answers
    /// false the upload ends with ``StoreError/Code/cancelled``, and what was at the path is still there.
    public var isWanted: (@Sendable () -> Bool)?
    /// Told how many bytes more have gone out; negative when a piece is sent again.
    public var progress: (@Sendable (Int64) -> Void)?
    public var checkpoint: (any UploadCheckpoint)?

    public init(
        condition: WriteCondition = .always, kind: FileKind = .file, attributes: Attributes = Attributes(),
        isWanted: (@Sendable () -> Bool)? = nil, progress: (@Sendable (Int64) -> Void)? = nil,
        checkpoint: (any UploadCheckpoint)? = nil
    ) {
        self.condition = condition
        self.kind = kind
        self.attributes = attributes
        self.isWanted = isWanted
        self.progress = progress
        self.checkpoint = checkpoint
    }

    /// - Throws: ``StoreError``: `.cancelled` when ``isWanted`` says that nobody wants the upload any more.
    public func requireWanted(_ path: StorePath) throws(StoreError) {
        guard let isWanted, !isWanted() else { return }
        throw StoreError(.cancelled, "the upload of '\(path)' is no longer wanted", path: path)
    }
}

/// How to copy an object inside a store.
public struct CopyOptions: Sendable {
    public var sourceVersion: Version?
    public var condition: WriteCondition
    /// nil: those of the source.
    public var attributes: Attributes?
    public init(sourceVersion: Version? = nil, condition: WriteCondition = .always, attributes: Attributes? = nil) {
        self.sourceVersion = sourceVersion
        self.condition = condition
        self.attributes = attributes
    }
}

/// Settings that a store takes while it is in use. nil means no limit.
public struct StoreTuning: Hashable, Sendable {
    /// Bytes per second, all requests together.
    public var uploadRate: Int64?
    public var downloadRate: Int64?
    /// Requests in flight at once.
    public var connections: Int
    /// How long a connection may take to be made, how long a transfer may stand still, and how long a request
    /// without a body worth mentioning may take in all, repeats included.
    public var connectTimeout: Duration
    public var stallTimeout: Duration
    public var overallTimeout: Duration

    public init(
        uploadRate: Int64? = nil, downloadRate: Int64? = nil, connections: Int = 64,
        connectTimeout: Duration = .seconds(10), stallTimeout: Duration = .seconds(20),
        overallTimeout: Duration = .seconds(60)
    ) {
        self.uploadRate = uploadRate
        self.downloadRate = downloadRate
        self.connections = connections
        self.connectTimeout = connectTimeout
        self.stallTimeout = stallTimeout
        self.overallTimeout = overallTimeout
    }
}
