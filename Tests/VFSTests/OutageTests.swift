import Caching
import Catalog
import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Stores
import Synchronizer
import Testing
import Threading

@testable import VFS

@Suite("Listings, and a store that does not answer")
struct OutageTests {
    @Test("a name is found when its page has come, before the listing has ended")
    func earlyAnswer() throws {
        let rig = try Rig(pageSize: 1)
        for name in ["a", "b", "c"] { try rig.put(name, at: name) }
        let gate = Gate()
        rig.store.inject(.wait(gate), on: .list, .only(2))
        defer { gate.open() }
        #expect(try rig.lookup("a").attributes.size == 1)
        let other = later { rig.files.lookup(Array("c".utf8), in: 2, $0) }
        let absent = later { rig.files.lookup(Array("d".utf8), in: 2, $0) }
        // Merged already: no need to wait for the rest.
        #expect(try rig.lookup("a").attributes.size == 1)
        #expect(other.withLock { $0 } == nil)
        gate.open()
        #expect(try wait(other).get().attributes.size == 1)
        #expect(error { try wait(absent).get() } == .notFound)
        #expect(rig.store.calls(.list) == 3)
    }

    @Test("a large directory may take longer than a request: who waits for it does so while it comes in, and no longer")
    func slowListing() throws {
        let rig = try Rig(pageSize: 1)
        for name in ["a", "b", "c", "d"] { try rig.put(name, at: name) }
        let bound = rig.files.surroundings.settings.requestDeadline
        let gates = [Gate(), Gate(), Gate()]
        for (number, gate) in gates.enumerated() { rig.store.inject(.wait(gate), on: .list, .only(number + 2)) }
        defer { for gate in gates { gate.open() } }
        let handle: HandleID = try answer { rig.files.openDirectory(2, $0) }
        let names = Lock<[String]>([])
        let listing = later { reply in
            rig.files.readDirectory(handle, after: 0, plus: false) { entry in
                names.withLock { $0.append(String(decoding: entry.name, as: UTF8.self)) }
                return true
            } _: {
                reply($0)
            }
        }
        for number in 0..<2 {
            #expect(eventually { rig.store.calls(.list) == number + 2 })
            rig.advance(by: bound * 3 / 4)
            gates[number].open()
        }
        #expect(eventually { rig.store.calls(.list) == 4 })
        rig.advance(by: bound * 3 / 4)
        #expect(listing.withLock { $0 } == nil)
        // Nothing more comes.
        rig.advance(by: bound)
        #expect(error { try wait(listing).get() } == .timedOut)
        #expect(names.withLock { $0 }.isEmpty)
        gates[2].open()
        #expect(eventually { (try? rig.names()) == ["a", "b", "c", "d"] })
    }

    @Test("a directory that takes long to list again holds up one caller, and is shown as it was to the others")
    func slowRefresh() throws {
        let rig = try Rig(pageSize: 1)
        for name in ["a", "b", "c"] { try rig.put(name, at: name) }
        #expect(try rig.names() == ["a", "b", "c"])
        let before = rig.store.calls(.list)
        rig.advance(by: .seconds(1000))
        let gates = [Gate(), Gate()]
        for (number, gate) in gates.enumerated() { rig.store.inject(.wait(gate), on: .list, .only(number + 2)) }
        defer { for gate in gates { gate.open() } }
        let first = later { rig.files.lookup(Array("c".utf8), in: 2, $0) }
        #expect(eventually { rig.store.calls(.list) == before + 2 })
        rig.advance(by: .seconds(3))
        gates[0].open()
        #expect(eventually { rig.store.calls(.list) == before + 3 })
        #expect(first.withLock { $0 } == nil)
        rig.advance(by: .seconds(3))
        #expect(try wait(first).get().attributes.size == 1)
        #expect(try atOnce { rig.files.lookup(Array("c".utf8), in: 2, $0) }.attributes.size == 1)
        #expect(error { try atOnce { rig.files.lookup(Array("d".utf8), in: 2, $0) } } == .notFound)
        #expect(try rig.names() == ["a", "b", "c"])
        try rig.put("d", at: "d")
        gates[1].open()
        #expect(eventually { (try? rig.names()) == ["a", "b", "c", "d"] })
    }

    @Test("a fresh listing answers on the calling thread, what is absent too, without asking the store")
    func freshListing() throws {
        let rig = try Rig()
        try rig.put("x", at: "a")
        _ = try rig.names()
        let before = rig.store.calls(.list)
        let entry = try atOnce { rig.files.lookup(Array("a".utf8), in: 2, $0) }
        #expect(entry.entryTimeout > .zero && entry.entryTimeout <= .seconds(120))
        #expect(error { try atOnce { rig.files.lookup(Array("b".utf8), in: 2, $0) } } == .notFound)
        rig.advance(by: .seconds(100))
        #expect(try atOnce { rig.files.lookup(Array("a".utf8), in: 2, $0) }.entryTimeout <= .seconds(20))
        #expect(rig.store.calls(.list) == before)
        rig.advance(by: .seconds(100))
        try rig.put("y", at: "b")
        #expect(try rig.lookup("b").attributes.size == 1)
        #expect(rig.store.calls(.list) == before + 1)
    }

    @Test("a listing that lags behind brings back nothing that was deleted, and loses nothing that was put there")
    func laggingListing() throws {
        let lag = Lock<Lagging?>(nil)
        let rig = try Rig { store in
            let lagging = Lagging(store)
            lag.withLock { $0 = lagging }
            return lagging
        }
        let lagging = try #require(lag.withLock { $0 })
        try rig.put("old", at: "changed")
        try rig.put("old", at: "removed")
        #expect(try rig.names().sorted() == ["changed", "removed"])
        lagging.stands = true
        try rig.unlink("removed")
        for handle in [try rig.open(rig.lookup("changed").number, O_RDWR), try rig.create("new").1.handle] {
            try rig.write("as it is now", to: handle)
            try rig.close(handle)
        }
        rig.backing.synchronizer.start()
        defer { rig.backing.synchronizer.stop() }
        _ = try rig.backing.synchronizer.drain(nil) { _ in
            // A row that finds its place taken is tried again after a while.
            rig.advance(by: .milliseconds(500))
            return true
        }
        for _ in 0..<3 {
            rig.advance(by: .seconds(130))
            #expect(try rig.names().sorted() == ["changed", "new"])
            #expect(try rig.text("data/changed") == "as it is now" && rig.text("data/new") == "as it is now")
        }
        lagging.stands = false
        rig.advance(by: .seconds(130))
        #expect(try rig.names().sorted() == ["changed", "new"])
        #expect(try rig.text("data/changed") == "as it is now" && rig.text("data/new") == "as it is now")
        try rig.memory.delete(StorePath("new")!)
        rig.advance(by: .seconds(130))
        #expect(try rig.names() == ["changed"])
    }

    @Test("a listing that fails is an error to who asks for a name, and never its absence")
    func threeOutcomes() throws {
        let rig = try Rig()
        rig.store.outage = .failing
        #expect(error { try rig.lookup("a") } == .inputOutput)
        #expect(error { try rig.names() } == .inputOutput)
        #expect(error { try rig.create("a") } == .inputOutput)
        rig.store.heal()
        rig.advance(by: .seconds(30))
        #expect(error { try rig.lookup("a") } == .notFound)
    }

    @Test("what was listed before is shown while the store is down, without waiting, and can be changed")
    func outdated() throws {
        let rig = try Rig()
        try rig.put("x", at: "a")
        _ = try rig.names()
        rig.advance(by: .seconds(1000))
        rig.store.outage = .failing
        #expect(try rig.lookup("a").attributes.size == 1)
        let entry = try atOnce { rig.files.lookup(Array("a".utf8), in: 2, $0) }
        #expect(entry.entryTimeout <= .seconds(1))
        #expect(error { try atOnce { rig.files.lookup(Array("b".utf8), in: 2, $0) } } == .notFound)
        #expect(try rig.names() == ["a"])
        let made = try rig.create("b")
        try rig.write("offline", to: made.1.handle)
        try rig.close(made.1.handle)
        #expect(try rig.names() == ["a", "b"])
        try rig.rename("a", to: "c")
        #expect(try rig.names() == ["b", "c"])
        // It comes back by itself.
        rig.store.heal()
        try rig.put("z", at: "new")
        rig.advance(by: .seconds(30))
        #expect(eventually { (try? rig.names().contains("new")) ?? false })
    }

    @Test("a directory that only the store's answer refuses is an error, and others go on")
    func refusedDirectory() throws {
        let rig = try Rig()
        try rig.put("x", at: "secret/a")
        try rig.put("x", at: "open/a")
        rig.store.inject(.fail(StoreError(.accessDenied, "no")), on: .list, below: StorePath("secret")!)
        #expect(error { try rig.walk("data/secret/a") } == .accessDenied)
        #expect(error { try rig.names(rig.lookup("secret").number) } == .accessDenied)
        #expect(try rig.walk("data/open/a").attributes.size == 1)
    }

    @Test("a thousand callers wait for a dead store, and what is cached is answered at once meanwhile")
    func deadStore() throws {
        let rig = try Rig(
            virtual: [
                VirtualDirectory(name: "stats", files: [VirtualFile(name: "stats", mode: 0o444, read: { [65] })])
            ])
        try rig.put("x", at: "known/a")
        try rig.put("bytes", at: "file")
        let known = try rig.lookup("known")
        _ = try rig.names(known.number)
        let file = try rig.lookup("file")
        // Who asks for one name is answered before the listing has ended, and whoever asks while it goes on gets its answer.
        _ = try rig.names()
        // Opened for reading, it would bring its first bytes.
        let handle = try rig.open(file.number, O_RDWR)
        var directories: [UInt64] = []
        for number in 0..<20 {
            try rig.put("x", at: "d\(number)/a")
        }
        rig.advance(by: .seconds(121))
        for number in 0..<20 { directories.append(try rig.lookup("d\(number)").number) }
        _ = try rig.names(known.number)
        rig.store.outage = .hanging
        defer { rig.store.heal() }
        let lookups = (0..<1000).map { number in
            later { rig.files.lookup(Array("n\(number)".utf8), in: directories[number % 20], $0) }
        }
        let reads = (0..<100).map { _ in
            later { (reply: @escaping FileSystem.Reply<Int>) in
                rig.files.read(handle, at: 0, count: 10) { reply($0.map { $0.count }) }
            }
        }
        _ = try atOnce { rig.files.getAttributes(known.number, $0) }
        _ = try atOnce { rig.files.lookup(Array("a".utf8), in: known.number, $0) }
        let open: HandleID = try atOnce { rig.files.openDirectory(known.number, $0) }
        _ = try atOnce { rig.files.readDirectory(open, after: 0, plus: true, add: { _ in true }, $0) }
        rig.files.releaseDirectory(open)
        #expect(try rig.text("stats/stats") == "A")
        _ = try atOnce { rig.files.space($0) }
        #expect(lookups.allSatisfy { $0.withLock { $0 == nil } })
        #expect(reads.allSatisfy { $0.withLock { $0 == nil } })
        // Their time is up: each gets one answer.
        rig.advance(by: .seconds(61))
        for waiting in lookups { #expect(error { try wait(waiting).get() } == .timedOut) }
        #expect(rig.files.surroundings.parking.count == 0)
        rig.store.heal()
        for waiting in reads { #expect(try wait(waiting).get() == 5) }
        rig.advance(by: .seconds(30))
        #expect(eventually { error { try rig.lookup("n1", in: directories[0]) } == .notFound })
    }

    @Test("a caller waits a few seconds for a refresh that does not come, and the next does not wait at all")
    func refreshBound() throws {
        let rig = try Rig()
        try rig.put("x", at: "a")
        _ = try rig.names()
        rig.advance(by: .seconds(1000))
        rig.store.outage = .hanging
        defer { rig.store.heal() }
        let first = later { rig.files.lookup(Array("a".utf8), in: 2, $0) }
        #expect(rig.store.waitForHanging(1))
        #expect(first.withLock { $0 } == nil)
        rig.advance(by: .seconds(6))
        #expect(try wait(first).get().attributes.size == 1)
        _ = try atOnce { rig.files.lookup(Array("a".utf8), in: 2, $0) }
    }

    @Test("the end of the mount answers all who wait")
    func shutdown() throws {
        let rig = try Rig()
        rig.store.outage = .hanging
        defer { rig.store.heal() }
        let waiting = (0..<50).map { number in
            later { rig.files.lookup(Array("n\(number)".utf8), in: 2, $0) }
        }
        #expect(rig.store.waitForHanging(1))
        rig.files.shutdown()
        for box in waiting { #expect(error { try wait(box).get() } == .noDevice) }
        #expect(error { try rig.lookup("a") } == .noDevice)
    }

    @Test("a file that others replaced is a new inode, of which the kernel is told; who has the old one open keeps it")
    func foreignChange() throws {
        let rig = try Rig()
        try rig.put("old", at: "a")
        try rig.put("x", at: "gone")
        let old = try rig.lookup("a")
        _ = try rig.lookup("gone")
        let handle = try rig.open(old.number)
        #expect(try rig.read(handle) == "old")
        // The names are known before the listing has ended, and whoever asks meanwhile joins it.
        #expect(eventually { rig.files.surroundings.statistics.snapshot()[.directoriesListed] == 1 })
        usleep(20_000)
        rig.clock.advance(by: .seconds(200))
        try rig.put("newer", at: "a")
        _ = rig.memory.delete([StorePath("gone")!])
        let new = try rig.lookup("a")
        #expect(new.number != old.number && new.attributes.size == 5)
        #expect(rig.notices.waitFor("entry 2 a"))
        #expect(rig.notices.waitFor("entry 2 gone"))
        #expect(try rig.attributes(old.number).attributes.size == 3)
        #expect(try rig.read(handle) == "old")
        #expect(try rig.text("data/a") == "newer")
        try rig.release(handle)
        rig.files.forget(old.number, lookups: 1)
        #expect(eventually { error { try rig.attributes(old.number) } == .stale })
    }

    @Test("who looks a name up again after it was found to be out of date is not told what a listing from before says")
    func outdatedListing() throws {
        let rig = try Rig(pageSize: 1)
        for name in ["a", "b"] { try rig.put("old", at: name) }
        // The first page has come, the second one does not.
        let gate = Gate()
        rig.store.inject(.wait(gate), on: .list, .only(2))
        let old = try rig.lookup("a")
        #expect(gate.waitForCallers(1))
        try rig.put("newer", at: "a")
        #expect(error { try rig.release(rig.open(old.number)) } == .stale)
        let answer = Lock<Entry?>(nil)
        let thread = WorkerThread(name: "lookup") {
            let found = try? rig.lookup("a"); answer.withLock { $0 = found }
        }
        usleep(20_000)
        gate.open()
        thread.join()
        let new = try #require(answer.withLock { $0 })
        #expect(new.number != old.number && new.attributes.size == 5)
        let handle = try rig.open(new.number)
        #expect(try rig.read(handle) == "newer")
        try rig.release(handle)
    }

    @Test("a file that others have removed with the directories above it is not there, for who looks the path up again")
    func removedBranch() throws {
        let rig = try Rig()
        for path in ["x/y/z/f", "x/y/z/g"] { try rig.put("text", at: path) }
        let file = try rig.walk("data/x/y/z/f")
        #expect(eventually { rig.files.surroundings.statistics.snapshot()[.directoriesListed] == 4 })
        usleep(20_000)
        _ = rig.memory.delete(["x/y/z/f", "x/y/z/g", "x/y/z", "x/y", "x"].map { StorePath($0)! })
        rig.clock.advance(by: .milliseconds(1))
        #expect(error { try rig.release(rig.open(file.number)) } == .stale)
        #expect(error { try rig.walk("data/x/y/z/g") } == .notFound)
    }

    @Test("a directory that was removed by others while it was open has nothing to be read, as on a disk")
    func removedWhileOpen() throws {
        let rig = try Rig()
        try rig.put("text", at: "x/f")
        let directory = try rig.walk("data/x")
        #expect(try rig.names(directory.number) == ["f"])
        rig.clock.advance(by: .seconds(200))
        _ = rig.memory.delete(["x/f", "x"].map { StorePath($0)! })
        #expect(error { try rig.names(directory.number) } == .notFound)
    }

    @Test("files of a store that was disconnected are never taken for those of the next one")
    func otherStore() throws {
        let rig = try Rig()
        try rig.put("one", at: "a")
        let old = try rig.lookup("a")
        let handle = try rig.open(old.number)
        let other = try Rig(isConnected: false)
        try other.put("two", at: "a")
        rig.files.setBacking(nil)
        #expect(error { try rig.lookup("a") } == .noDevice)
        #expect(error { try rig.read(handle) } == .noDevice)
        rig.files.setBacking(other.backing)
        defer { rig.files.setBacking(nil) }
        #expect(error { try rig.attributes(old.number) } == .stale)
        let new = try rig.lookup("a")
        #expect(new.number != old.number)
        #expect(try rig.text("data/a") == "two")
        try rig.release(handle)
    }
}

/// A store of which the listings stand still while it is told so.
private final class Lagging: StoreWrapper {
    let inner: any Store
    private let state = Lock<(stands: Bool, pages: [StorePath: ListPage])>((false, [:]))

    init(_ inner: any Store) { self.inner = inner }

    var stands: Bool {
        get { state.withLock { $0.stands } }
        set { state.withLock { $0.stands = newValue } }
    }

    func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        if let page = state.withLock({ $0.stands ? $0.pages[directory] : nil }) { return page }
        let page = try inner.list(directory, after: cursor)
        state.withLock { $0.pages[directory] = page }
        return page
    }
}
