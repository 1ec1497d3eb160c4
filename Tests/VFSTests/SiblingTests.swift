import Glibc
import Statistics
import StoreAPI
import StoreTesting
import Testing
import Threading

@testable import VFS

@Suite("Reading the files of a directory in order")
struct SiblingTests {
    /// Files of their names' text, in the order of a listing.
    private func fill(_ rig: Rig, _ directory: String, _ count: Int) throws -> [String] {
        let paths = (0..<count).map { "\(directory)/\($0 + 100)" }
        for path in paths { try rig.put(path, at: path) }
        return paths
    }

    @Test("the next files are here before they are opened, and each is fetched once")
    func ahead() throws {
        let rig = try Rig()
        let paths = try fill(rig, "d", 150)
        for path in paths.prefix(2) { #expect(try rig.text("data/" + path) == path) }
        #expect(eventually { rig.store.calls(.read) == 6 })
        rig.store.outage = .failing
        for path in paths[2..<6] { #expect(try rig.text("data/" + path) == path) }
        rig.store.heal()
        for path in paths[6...] { #expect(try rig.text("data/" + path) == path) }
        #expect(rig.statistics.snapshot()[.filesDownloaded] == 150)
    }

    @Test("a reader who has to wait gets more ahead, up to 64 files")
    func growth() throws {
        let rig = try Rig()
        let paths = try fill(rig, "d", 200)
        for path in paths.prefix(2) { #expect(try rig.text("data/" + path) == path) }
        #expect(eventually { rig.store.calls(.read) == 6 })
        let gate = Gate()
        rig.store.inject(.wait(gate), on: .read)
        defer { gate.open() }
        // Opened, and their bytes are not here.
        let handles = paths[2..<30].map { path in
            later { reply in
                do { rig.files.open(try rig.walk("data/" + path).number, flags: O_RDONLY, by: Rig.user, reply) } catch {
                    Issue.record(error)
                }
            }
        }
        // As many as read-ahead may have on their way, and those that somebody waits for.
        #expect(gate.waitForCallers(48))
        gate.open()
        for handle in handles { _ = try wait(handle).get() }
    }

    @Test("files that are opened in no order are fetched alone")
    func jumps() throws {
        let rig = try Rig()
        let paths = try fill(rig, "d", 100)
        let order = [50, 3, 77, 20, 95, 40, 10, 60]
        for number in order { #expect(try rig.text("data/" + paths[number]) == paths[number]) }
        // What would be asked for would be on its way by now.
        usleep(200_000)
        #expect(rig.store.calls(.read) == order.count)
    }

    @Test("large files are left for those who want them")
    func largeFiles() throws {
        let rig = try Rig()
        var paths = try fill(rig, "d", 10)
        let large = String(repeating: "x", count: 513 << 10)
        try rig.put(large, at: paths[3])
        for path in paths.prefix(2) { #expect(try rig.text("data/" + path) == path) }
        #expect(eventually { rig.store.calls(.read) == 6 })
        rig.store.outage = .failing
        #expect(error { try rig.text("data/" + paths[3]) } != nil)
        paths.remove(at: 3)
        for path in paths[2..<6] { #expect(try rig.text("data/" + path) == path) }
    }

    @Test("who has gone through one directory is believed in the next")
    func nextDirectory() throws {
        let rig = try Rig()
        let (before, paths) = (try fill(rig, "a", 10), try fill(rig, "b", 10))
        for path in before { #expect(try rig.text("data/" + path) == path) }
        #expect(eventually { rig.store.calls(.read) == 10 })
        #expect(try rig.text("data/" + paths[0]) == paths[0])
        #expect(eventually { rig.store.calls(.read) == 15 })
        rig.store.outage = .failing
        for path in paths[1..<5] { #expect(try rig.text("data/" + path) == path) }
    }
}
