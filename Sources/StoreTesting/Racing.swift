public import StoreAPI
import Threading

/// Runs `body` on so many threads at once.
///
/// - Returns: What each returned or threw, in order.
public func race<Success: Sendable>(
    _ threads: Int, _ body: @escaping @Sendable (_ index: Int) throws -> Success
) -> [Result<Success, any Error>] {
    let outcomes = Outcomes<Success>()
    let workers = (0..<threads).map { index in
        WorkerThread(name: "racer \(index)") {
            // Nobody begins before all are there.
            outcomes.ready.update { $0 += 1 }
            _ = outcomes.ready.wait { $0 == threads ? () : nil }
            let result = Result { try body(index) }
            outcomes.results.withLock { $0[index] = result }
        }
    }
    for worker in workers { worker.join() }
    return outcomes.results.withLock { results in (0..<threads).map { results[$0]! } }
}

private final class Outcomes<Success: Sendable>: Sendable {
    let ready = Monitor(0)
    let results = Lock<[Int: Result<Success, any Error>]>([:])
}

/// A number that many threads add to.
final class Tally: Sendable {
    private let sum = Lock<Int64>(0)
    var value: Int64 { sum.withLock { $0 } }
    func add(_ amount: Int64) { sum.withLock { $0 += amount } }
}

/// A checkpoint that lives as long as the test.
public final class MemoryCheckpoint: UploadCheckpoint {
    private let state = Lock<String?>(nil)
    public init() {}
    public func load() -> String? { state.withLock { $0 } }
    public func save(_ state: String?) { self.state.withLock { $0 = state } }
}
