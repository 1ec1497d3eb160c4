public import StoreAPI

/// One sentence that every store must make true, and the trial of it.
public struct StoreClause: Sendable, CustomStringConvertible {
    /// The sentence.
    public let name: String
    /// What a store must be able to do for the sentence to apply.
    public let requires: StoreCapabilities.Features
    /// Whether the trial ends with a store that cannot be used any more.
    public let endsStore: Bool
    /// Whether it says something of changes; of a store that can only be read it says nothing then. Others are tried on
    /// such a store with what somebody else puts there (``FilledStore``).
    public private(set) var isAboutChanges: Bool
    private let exclude: @Sendable (StoreCapabilities) -> String?
    private let body: @Sendable (any Store, StorePath) throws -> Void

    /// - Parameters:
    ///   - exclude: Says why the sentence does not apply to a store with these capabilities; nil when it does.
    ///   - body: Tries it in a directory that exists and is empty, and throws when it is not so.
    public init(
        _ name: String, requires: StoreCapabilities.Features = [], endsStore: Bool = false,
        isAboutChanges: Bool = false,
        exclude: @escaping @Sendable (StoreCapabilities) -> String? = { _ in nil },
        _ body: @escaping @Sendable (_ store: any Store, _ scratch: StorePath) throws -> Void
    ) {
        self.name = name
        self.requires = requires
        self.endsStore = endsStore
        self.isAboutChanges = isAboutChanges
        self.exclude = exclude
        self.body = body
    }

    public var description: String { name }

    func aboutChanges() -> StoreClause {
        var clause = self
        clause.isAboutChanges = true
        return clause
    }

    /// Why the sentence does not apply to a store with these capabilities; nil when it does.
    public func reasonToSkip(_ capabilities: StoreCapabilities) -> String? {
        let missing = requires.subtracting(capabilities.features)
        if !missing.isEmpty { return "the store lacks " + missing.names.joined(separator: ", ") }
        if isAboutChanges, capabilities.isReadOnly { return "the store is for reading only" }
        return exclude(capabilities)
    }

    /// Tries the sentence on a connected store, in a directory of its own that is removed afterwards.
    ///
    /// - Throws: ``ContractViolation``, or what the store threw unexpectedly.
    public func run(on store: any Store) throws {
        let scratch = StorePath("contract-\(UInt64.random(in: 0...UInt64.max))")!
        try store.createDirectory(at: scratch, Attributes())
        do {
            try body(store, scratch)
        } catch {
            if !endsStore { try? store.deleteTree(scratch) }
            throw error
        }
        if !endsStore { try store.deleteTree(scratch) }
    }
}

/// A store did not do what its contract says.
public struct ContractViolation: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// The sentences that hold for every store, whatever it is made of.
public enum StoreContract {
    public static let clauses: [StoreClause] =
        reading + listing + names + concurrency + endings
        + (writing + conditions + attributes + deleting + moving + copying).map { $0.aboutChanges() }
}

extension StoreCapabilities.Features {
    private static let named: [(Self, String)] = [
        (.rangedRead, "rangedRead"), (.conditionalCreate, "conditionalCreate"),
        (.conditionalReplace, "conditionalReplace"), (.serverSideCopy, "serverSideCopy"), (.rangeCopy, "rangeCopy"),
        (.atomicMove, "atomicMove"), (.directoryMove, "directoryMove"), (.attributes, "attributes"),
        (.extendedAttributes, "extendedAttributes"), (.attributesInListing, "attributesInListing"),
        (.specialFiles, "specialFiles"), (.realDirectories, "realDirectories"), (.spaceUsage, "spaceUsage"),
        (.caseSensitive, "caseSensitive"), (.resumableUpload, "resumableUpload"),
        (.consistentListing, "consistentListing"), (.emptyDirectories, "emptyDirectories"),
        (.changeTimes, "changeTimes"), (.conditionalDelete, "conditionalDelete"), (.formerVersions, "formerVersions"),
        (.wholeSeconds, "wholeSeconds"),
    ]

    /// What is in the set, in words for a report.
    public var names: [String] { Self.named.filter { contains($0.0) }.map(\.1) }
}
