public import StoreAPI
import Threading

/// A kind of store, or a stack of stores, that the contract is tried on.
public struct StoreFixture: Sendable, CustomStringConvertible {
    public let name: String
    /// What a store of this kind can do once it is connected: written down, so that a lost ability is noticed.
    public let features: StoreCapabilities.Features
    /// Names of clauses that this kind does not keep, each with the reason.
    public let deviations: [String: String]
    /// Makes a store, with what must be done when it is no longer used.
    public let make: @Sendable () throws -> (store: any Store, cleanUp: @Sendable () -> Void)
    /// nil: each clause gets a store of its own.
    private let shared: SharedStore?
    /// Trials wait for servers most of the time: each kind of store has a thread for them, and Swift's own, of which there
    /// are as many as processors, are left to other tests.
    private let pool = WorkerPool(name: "contract", limit: 1)

    /// - Parameter sharesStore: Whether clauses are tried on one store, connected once: for those whose server takes
    ///   its time. It is not shut down.
    public init(
        _ name: String, features: StoreCapabilities.Features, deviations: [String: String] = [:],
        sharesStore: Bool = false,
        make: @escaping @Sendable () throws -> (store: any Store, cleanUp: @Sendable () -> Void)
    ) {
        self.name = name
        self.features = features
        self.deviations = deviations
        self.make = make
        shared = sharesStore ? SharedStore() : nil
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
    public func run(_ clause: StoreClause) async throws -> String? {
        try await withCheckedThrowingContinuation { continuation in
            pool.submit { continuation.resume(with: Result { try tryOut(clause) }) }
        }
    }

    private func tryOut(_ clause: StoreClause) throws -> String? {
        if let reason = deviations[clause.name] { return reason }
        func attempt(_ store: any Store) throws -> String? {
            if let reason = clause.reasonToSkip(store.capabilities) { return reason }
            try clause.run(on: store)
            return nil
        }
        guard let shared, !clause.endsStore else { return try withStore(attempt) }
        return try attempt(
            shared.store {
                let store = try make().store
                try store.connect()
                return store
            })
    }
}

/// A store that is made and connected by the first who needs it.
private final class SharedStore: Sendable {
    private enum State {
        case none, beingMade
        case made(any Store)
    }
    private let state = Monitor(State.none)

    func store(_ make: () throws -> any Store) throws -> any Store {
        let known: (any Store)?? = state.wait { state in
            switch state {
            case .none:
                state = .beingMade
                return .some(nil)
            case .beingMade: return nil
            case .made(let store): return .some(store)
            }
        }
        if let known, let known { return known }
        do {
            let store = try make()
            state.update { $0 = .made(store) }
            return store
        } catch {
            state.update { $0 = .none }
            throw error
        }
    }
}
