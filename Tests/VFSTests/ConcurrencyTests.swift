import Caching
import Catalog
import Glibc
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import VFS

@Suite("Many threads at once")
struct ConcurrencyTests {
    @Test("threads that make, write, rename, read and remove files in one directory do not disturb each other")
    func manyThreads() throws {
        let rig = try Rig()
        let failures = Lock<[String]>([])
        let threads = (0..<8).map { thread in
            WorkerThread(name: "test") {
                do {
                    for round in 0..<30 {
                        let name = "t\(thread)-\(round)"
                        let (entry, file) = try rig.create(name)
                        try rig.write("\(name) first", to: file.handle)
                        try rig.rename(name, to: name + "x")
                        let found = try rig.lookup(name + "x")
                        try rig.close(file.handle)
                        let text = try rig.text("data/\(name)x")
                        if found.number != entry.number || text != "\(name) first" {
                            failures.withLock { $0.append("\(name): \(text)") }
                        }
                        _ = try rig.list(plus: true)
                        if round % 2 == 0 { try rig.unlink(name + "x") }
                        rig.files.forget(entry.number, lookups: 1)
                    }
                } catch {
                    failures.withLock { $0.append("thread \(thread): \(error)") }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(failures.withLock { $0 } == [])
        #expect(try rig.names().count == 8 * 15)
    }

    @Test("a writer for whom there is no room waits, and its bytes are those of when it wrote")
    func writerWaits() throws {
        let rig = try Rig()
        let file = try rig.create("a").1.handle
        try rig.write("begin", to: file)
        rig.backing.cache.setLimits(CacheLimits(soft: 1, hard: 2, freeSpaceFloor: 0))
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: 3, alignment: 1)
        defer { bytes.deallocate() }
        bytes.copyBytes(from: Array("end".utf8))
        let waiting: Monitor<Result<Int, FileSystemError>?> = later {
            rig.files.write(file, at: 5, UnsafeRawBufferPointer(bytes), isPageCache: false, by: Rig.user, $0)
        }
        #expect(waiting.withLock { $0 } == nil)
        bytes.copyBytes(from: Array("XXX".utf8))
        #expect(try rig.read(file) == "begin")
        rig.backing.cache.setLimits(CacheLimits(soft: 1 << 30, hard: 2 << 30, freeSpaceFloor: 0))
        #expect(try wait(waiting).get() == 3)
        #expect(try rig.read(file) == "beginend")
        try rig.close(file)
    }

    @Test("files without a name that a crash left behind are forgotten when the store is connected")
    func orphans() throws {
        let rig = try Rig(isConnected: false)
        let new = NewInode(kind: .file, mode: 0o644, uid: 0, gid: 0)
        let record = try rig.catalog.create(new, named: FileName("a")!, in: .root)
        _ = try rig.catalog.remove(FileName("a")!, from: .root, isDirectory: false)
        rig.files.setBacking(rig.backing)
        #expect(eventually { (try? rig.catalog.inode(record.id)) == .some(nil) })
    }

    @Test("each waiting request is answered once, whether its time is up or its answer comes first")
    func deadlines() {
        let clock = ManualClock()
        let parking = Parking(clock: clock)
        let answers = Monitor([Int: Int]())
        let waiting = (0..<1000).map { number in
            parking.park(for: .seconds(number % 7), late: 1, ended: 2) { value in
                answers.update {
                    #expect($0[number] == nil)
                    $0[number] = value
                }
            }
        }
        let thread = WorkerThread(name: "test") { for parked in waiting { parked.answer(0) } }
        for _ in 0..<8 {
            clock.advance(by: .seconds(1))
            parking.wake()
        }
        thread.join()
        // Another thread may be about to give the last ones.
        let all = answers.wait(until: .now + .seconds(30)) { $0.count == 1000 ? true : nil }
        #expect(all == true)
        #expect(parking.count == 0)
        let ended = Monitor<Int?>(nil)
        _ = parking.park(for: nil, late: 1, ended: 2) { value in ended.update { $0 = value } }
        parking.shutdown()
        #expect(ended.withLock { $0 } == 2)
    }
}
