import Glibc
import Synchronization
import Testing
import Threading

@Suite struct UrgencyTests {
    /// Runs a thread that notes its name when it has the lock.
    private func taker(_ name: Int, _ urgency: Urgency, _ lock: UrgencyLock<[Int]>) -> WorkerThread {
        WorkerThread(name: "taker", urgency: urgency) { lock.withLock { $0.append(name) } }
    }

    private func wait(until isTrue: () -> Bool) { while !isTrue() { usleep(200) } }

    @Test("threads know how urgent they are")
    func threads() {
        #expect(Urgency.ofThisThread == .foreground)
        let seen = Lock<[Urgency]>([])
        WorkerThread(name: "b", urgency: .background) { seen.withLock { $0.append(Urgency.ofThisThread) } }.join()
        WorkerThread(name: "f") { seen.withLock { $0.append(Urgency.ofThisThread) } }.join()
        #expect(seen.withLock { $0 } == [.background, .foreground])
    }

    @Test("who waits in the foreground goes before those who wait in the background, also when they came first")
    func order() {
        let lock = UrgencyLock<[Int]>([])
        var threads: [WorkerThread] = []
        lock.withLock { _ in
            for number in 1...4 {
                threads.append(taker(-number, .background, lock))
                wait { lock.waiting.background == number }
            }
            for number in 1...4 {
                threads.append(taker(number, .foreground, lock))
                wait { lock.waiting.foreground == number }
            }
        }
        for thread in threads { thread.join() }
        let order = lock.withLock { $0 }
        #expect(Set(order.prefix(4)) == [1, 2, 3, 4])
        #expect(Set(order.suffix(4)) == [-1, -2, -3, -4])
    }

    @Test("the background gets its turn, however much the foreground has to do")
    func fairness() {
        let lock = UrgencyLock<[Int]>([])
        var threads: [WorkerThread] = []
        let crowd = UrgencyLock<[Int]>.patience * 2
        lock.withLock { _ in
            threads.append(taker(-1, .background, lock))
            wait { lock.waiting.background == 1 }
            for number in 0..<crowd {
                threads.append(taker(number, .foreground, lock))
                wait { lock.waiting.foreground == number + 1 }
            }
        }
        for thread in threads { thread.join() }
        #expect(lock.withLock { $0 }.firstIndex(of: -1) == UrgencyLock<[Int]>.patience)
    }

    @Test("nobody loses a change, whoever they are")
    func exclusion() {
        let lock = UrgencyLock(0)
        let threads = (0..<8).map { number in
            WorkerThread(name: "adder", urgency: number < 4 ? .foreground : .background) {
                for _ in 0..<5_000 { lock.withLock { $0 += 1 } }
            }
        }
        for thread in threads { thread.join() }
        #expect(lock.withLock { $0 } == 40_000)
        #expect(lock.waiting == (0, 0))
    }
}
