public import Threading

/// What a store can do. A value, not a cast: a wrapper states its own.
public struct StoreCapabilities: Hashable, Sendable {
    public struct Features: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32
        public init(rawValue: UInt32) { self.rawValue = rawValue }

        /// ``ReadRequest/range`` transfers just that range.
        public static let rangedRead = Features(rawValue: 1 << 0)
        /// ``WriteCondition/ifAbsent`` is checked by the store, atomically enough to decide a race.
        public static let conditionalCreate = Features(rawValue: 1 << 1)
        /// ``WriteCondition/ifVersion(_:)`` on put is checked by the store.
        public static let conditionalReplace = Features(rawValue: 1 << 2)
        /// ``Store/copy(_:to:_:)`` moves no bytes over the network.
        public static let serverSideCopy = Features(rawValue: 1 << 3)
        /// ``UploadBody/Segment/stored(path:version:range:)`` moves no bytes over the network.
        public static let rangeCopy = Features(rawValue: 1 << 4)
        /// ``Store/move(_:to:)`` of one file is one atomic step.
        public static let atomicMove = Features(rawValue: 1 << 5)
        /// ``Store/move(_:to:)`` takes whole directories, in one atomic step.
        public static let directoryMove = Features(rawValue: 1 << 6)
        /// Attributes (mode, owner, times) given to ``Store/put(_:at:_:)`` come back from ``Store/metadata(of:)``.
        public static let attributes = Features(rawValue: 1 << 7)
        /// Extended attributes come back too.
        public static let extendedAttributes = Features(rawValue: 1 << 8)
        /// A listing tells the attributes, so that nobody must ask for each file.
        public static let attributesInListing = Features(rawValue: 1 << 9)
        /// Symbolic links, fifos and devices are kept as what they are.
        public static let specialFiles = Features(rawValue: 1 << 10)
        /// Directories exist on their own, also when empty; a file's parents must exist.
        public static let realDirectories = Features(rawValue: 1 << 11)
        /// ``Store/spaceUsage()`` tells something.
        public static let spaceUsage = Features(rawValue: 1 << 12)
        /// "a" and "A" are two names.
        public static let caseSensitive = Features(rawValue: 1 << 13)
        /// Interrupted uploads can be taken up again (``PutOptions/checkpoint``).
        public static let resumableUpload = Features(rawValue: 1 << 14)
        /// A listing shows every change that a request made before it was begun.
        public static let consistentListing = Features(rawValue: 1 << 15)
        /// A directory stays when nothing is in it.
        public static let emptyDirectories = Features(rawValue: 1 << 16)
        /// ``Attributes/changed`` is among the attributes that come back; where it is not, it is the store's own.
        public static let changeTimes = Features(rawValue: 1 << 17)
        /// Versions of small files that were replaced or removed can be read for some time (``ReadRequest/version``).
        public static let formerVersions = Features(rawValue: 1 << 18)
        /// ``Deletion/version`` is checked by the store, in one step with the deletion.
        public static let conditionalDelete = Features(rawValue: 1 << 19)
        /// A limit, and the only one here: of the times among the attributes just the seconds come back, from 1970 to
        /// 2106 (``StoreCapabilities/times``).
        public static let wholeSeconds = Features(rawValue: 1 << 20)
    }

    public var features: Features
    /// Bytes; nil means no limit is known.
    public var largestObject: Int64?
    /// The most bytes of one name and of a whole path, as the store counts them.
    public var longestName: Int
    public var longestPath: Int
    /// How many paths ``Store/delete(_:)`` takes in one request; 1 where the store has no bulk delete.
    public var deleteBatch: Int
    /// Smallest and largest ``UploadBody/Segment/stored(path:version:range:)`` that moves no bytes over the network, in
    /// bytes. Others are taken too; the store fetches them, and sends them as a part of what is around them.
    public var rangeCopySizes: ClosedRange<Int64>
    /// The size from which an upload is made in parallel parts, in bytes; nil: always in one.
    public var multipartThreshold: Int64?
    /// nil: nothing is gained by handing over many changes at once.
    public var batch: ChangeBatch?
    /// Whether nothing on this store can be changed: each call that would ends with `.readOnly`. Known before
    /// ``Store/connect()``.
    public var isReadOnly: Bool

    public init(
        _ features: Features, largestObject: Int64? = nil, longestName: Int = 255, longestPath: Int = 4095,
        deleteBatch: Int = 1, rangeCopySizes: ClosedRange<Int64> = 1...Int64.max, multipartThreshold: Int64? = nil,
        batch: ChangeBatch? = nil, isReadOnly: Bool = false
    ) {
        self.features = features
        self.largestObject = largestObject
        self.longestName = longestName
        self.longestPath = longestPath
        self.deleteBatch = deleteBatch
        self.rangeCopySizes = rangeCopySizes
        self.multipartThreshold = multipartThreshold
        self.batch = batch
        self.isReadOnly = isReadOnly
    }

    /// What becomes of the times among the attributes.
    public var times: StoreTimes { features.contains(.wholeSeconds) ? .unsignedSeconds : .exact }

    public func contains(_ features: Features) -> Bool { self.features.contains(features) }

    public func subtracting(_ features: Features) -> StoreCapabilities {
        var copy = self
        copy.features.subtract(features)
        return copy
    }
}

/// What becomes of a time that a store is given to keep.
public struct StoreTimes: Hashable, Sendable {
    /// Times are rounded towards the past, to multiples of this; nanoseconds.
    public var unit: Int64
    /// What lies outside becomes the nearest of these.
    public var range: ClosedRange<Timestamp>

    public init(unit: Int64, range: ClosedRange<Timestamp>) {
        self.unit = unit
        self.range = range
    }

    /// Every time, to the nanosecond.
    public static let exact = StoreTimes(
        unit: 1, range: Timestamp(nanoseconds: .min)...Timestamp(nanoseconds: .max))
    /// Whole seconds that fit into 32 bits without a sign: from 1970 to February 2106.
    public static let unsignedSeconds = StoreTimes(
        unit: 1_000_000_000, range: Timestamp(seconds: 0)...Timestamp(seconds: Int64(UInt32.max)))

    /// What comes back when this was put.
    public func kept(_ time: Timestamp) -> Timestamp {
        let near = min(max(time, range.lowerBound), range.upperBound)
        let rest = near.nanoseconds % unit
        return Timestamp(nanoseconds: near.nanoseconds - (rest < 0 ? rest + unit : rest))
    }
}
