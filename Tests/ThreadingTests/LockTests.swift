import Glibc
import Testing
import Threading

private struct Refusal: Error {}

private final class Guarded: Sendable {
    let count = Lock(0)
    let monitor = Monitor(0)
}

@Suite("Locks and monitors")
struct LockTests {
    @Test("a lock lets one thread in at a time")
    func exclusion() {
        let guarded = Guarded()
        let workers = (0..<8).map { number in
            WorkerThread(name: "adder \(number)") {
                for _ in 0..<10_000 { guarded.count.withLock { $0 += 1 } }
            }
        }
        for worker in workers { worker.join() }
        #expect(guarded.count.withLock { $0 } == 80_000)
    }

    #if DEBUG
        @Test("locks and monitors that a thread holds are counted, for each thread by itself")
        func heldLocks() {
            let guarded = Guarded()
            #expect(HeldLocks.count == 0)
            guarded.count.withLock { _ in
                #expect(HeldLocks.count == 1)
                guarded.monitor.update { _ in #expect(HeldLocks.count == 2) }
                let elsewhere = Lock(-1)
                WorkerThread(name: "other") { elsewhere.withLock { $0 = HeldLocks.count } }.join()
                #expect(elsewhere.withLock { $0 } == 1)
                #expect(HeldLocks.count == 1)
            }
            #expect(throws: Refusal.self) { try guarded.count.withLock { _ in throw Refusal() } }
            #expect(HeldLocks.count == 0)
            _ = guarded.monitor.wait { _ -> Int? in HeldLocks.count }
            UrgencyLock(0).withLock { _ in #expect(HeldLocks.count == 1) }
            #expect(HeldLocks.count == 0)
        }
    #endif

    @Test("a lock is free again after an error")
    func errors() {
        let lock = Lock(1)
        #expect(throws: Refusal.self) { try lock.withLock { _ in throw Refusal() } }
        #expect(lock.withLock { $0 } == 1)
    }

    @Test("who waits at a monitor is woken by an update")
    func wakes() {
        let guarded = Guarded()
        let worker = WorkerThread(name: "waiter") {
            let seen = guarded.monitor.wait { $0 >= 3 ? $0 : nil }
            guarded.count.withLock { $0 = seen ?? -1 }
        }
        for _ in 0..<3 { guarded.monitor.update { $0 += 1 } }
        worker.join()
        #expect(guarded.count.withLock { $0 } == 3)
    }

    @Test("a wait ends at its deadline, with a last look")
    func deadline() {
        let monitor = Monitor(false)
        #expect(monitor.wait(until: .now + .milliseconds(1)) { $0 ? 1 : nil } == nil)
        var looks = 0
        let found = monitor.wait(until: .now + .milliseconds(1)) { _ -> Int? in
            looks += 1
            return looks == 2 ? looks : nil
        }
        #expect(found == 2)
    }

    @Test("a monitor whose update throws still wakes those who wait")
    func throwingUpdate() {
        let guarded = Guarded()
        let worker = WorkerThread(name: "waiter") { _ = guarded.monitor.wait { $0 == 1 ? () : nil } }
        #expect(throws: Refusal.self) {
            try guarded.monitor.update {
                $0 = 1
                throw Refusal()
            }
        }
        worker.join()
    }
}

@Suite("Worker threads")
struct WorkerThreadTests {
    @Test("a thread has its name, cut to what the system takes, and no signals of the mount's")
    func name() {
        let guarded = Lock<(name: String, blocked: [Bool])?>(nil)
        let box = Box(guarded)
        WorkerThread(name: "a rather long name of a thread") {
            var name = [CChar](repeating: 0, count: 32)
            pthread_getname_np(pthread_self(), &name, name.count)
            var mask = sigset_t()
            pthread_sigmask(SIG_BLOCK, nil, &mask)
            let blocked = [SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGSEGV].map { sigismember(&mask, $0) == 1 }
            let text = String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
            box.lock.withLock { $0 = (text, blocked) }
        }.join()
        let found = box.lock.withLock { $0 }
        #expect(found?.name == "a rather long n")
        #expect(found?.blocked == [true, true, true, true, false])
    }
}

private final class Box<Value: Sendable>: Sendable {
    let lock: Lock<Value>
    init(_ lock: consuming sending Lock<Value>) { self.lock = lock }
}
