public import StoreAPI

/// A kind of store, or a stack of stores, that the contract is tried on.
public struct StoreFixture: Sendable, CustomStringConvertible {
    public let name: String
    /// What a store of this kind can do once it is connected: written down, so that a lost ability is noticed.
    public let features: StoreCapabilities.Features
    /// Names of clauses that this kind does not keep, each with the reason.
    public let deviations: [String: String]
    /// Makes a store, with what must be done when it is no longer used.
    public let make: @Sendable () throws -> (store: any Store, cleanUp: @Sendable () -> Void)

    public init(
        _ name: String, features: StoreCapabilities.Features, deviations: [String: String] = [:],
        make: @escaping @Sendable () throws -> (store: any Store, cleanUp: @Sendable () -> Void)
    ) {
        self.name = name
        self.features = features
        self.deviations = deviations
        self.make = make
    }

    public var description: String { name }

    /// Makes a store, connects it, and lets `body` use it.
    public func withStore<Result>(_ body: (any Store) throws -> Result) throws -> Result {
        let (store, cleanUp) = try make()
        defer {
            store.shutdown()
            cleanUp()
        }
        try store.connect()
        return try body(store)
    }

    /// Tries one clause on a store of its own.
    ///
    /// - Returns: Why it was not tried; nil when it was, and holds.
    /// - Throws: ``ContractViolation``, or what the store threw unexpectedly.
    public func run(_ clause: StoreClause) throws -> String? {
        if let reason = deviations[clause.name] { return reason }
        return try withStore { store in
            if let reason = clause.reasonToSkip(store.capabilities) { return reason }
            try clause.run(on: store)
            return nil
        }
    }
}
