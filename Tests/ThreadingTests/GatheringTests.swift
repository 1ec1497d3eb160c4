import Glibc
import Testing
import Threading

@Suite struct GatheringTests {
    @Test("whoever asks alone has it done at once, each time anew")
    func alone() {
        let gathering = Gathering<Int, [Int]>()
        #expect(gathering.perform(1) { $0 } == [1])
        #expect(gathering.perform(2) { $0 } == [2])
    }

    @Test("all who ask while it is being done share the next time, and its outcome")
    func shared() {
        let gathering = Gathering<Int, Int>()
        let runs = Lock<[[Int]]>([])
        let gate = Monitor(0)
        let outcomes = Lock<[Int]>([])
        @Sendable func ask(_ number: Int) {
            let outcome = gathering.perform(number) { requests in
                let run = runs.withLock { runs in
                    runs.append(requests.sorted())
                    return runs.count
                }
                _ = gate.wait { $0 >= run ? true : nil }
                return run
            }
            outcomes.withLock { $0.append(outcome) }
        }
        let first = WorkerThread(name: "first") { ask(0) }
        while runs.withLock(\.count) < 1 { sched_yield() }
        let others = (1...8).map { number in WorkerThread(name: "other") { ask(number) } }
        while gathering.waiting < 8 { sched_yield() }
        gate.update { $0 = 100 }
        first.join()
        for other in others { other.join() }
        #expect(runs.withLock { $0 } == [[0], Array(1...8)])
        #expect(outcomes.withLock { $0.sorted() } == [1] + Array(repeating: 2, count: 8))
    }
}
