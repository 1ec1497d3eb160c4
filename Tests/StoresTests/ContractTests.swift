import StoreAPI
import StoreTesting
import Testing

@Suite("The contract of stores")
struct ContractTests {
    @Test("holds", arguments: StoreFixture.all, StoreContract.clauses)
    func contract(fixture: StoreFixture, clause: StoreClause) async throws {
        _ = try await fixture.run(clause)
    }

    @Test("a store can do what is written down for its kind, no more and no less", arguments: StoreFixture.all)
    func features(fixture: StoreFixture) throws {
        let found = try fixture.withStore { $0.capabilities.features }
        #expect(found.names == fixture.features.names)
    }

    @Test("deviations are from clauses that exist", arguments: StoreFixture.all)
    func deviations(fixture: StoreFixture) {
        let unknown = Set(fixture.deviations.keys).subtracting(StoreContract.clauses.map(\.name))
        #expect(unknown.isEmpty)
    }

    @Test("what is not tried is said")
    func gaps() throws {
        for fixture in StoreFixture.all {
            let capabilities = try fixture.withStore(\.capabilities)
            for clause in StoreContract.clauses {
                guard let reason = fixture.deviations[clause.name] ?? clause.reasonToSkip(capabilities) else {
                    continue
                }
                print("not tried on \(fixture): \(clause): \(reason)")
            }
        }
        for (name, reason) in StoreFixture.missing { print("not tried on \(name) at all: \(reason)") }
        #expect(Set(StoreContract.clauses.map(\.name)).count == StoreContract.clauses.count)
    }
}
