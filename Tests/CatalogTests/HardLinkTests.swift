import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

/// Each name of a file is an object of its own on the store. What these say of themselves makes one file of them again:
/// in an empty catalog, and on other machines.
@Suite("The names of one file on the store")
struct HardLinkTests {
    static let objectStore: StoreCapabilities.Features = ConvergenceTests.objectStore.union(.extendedAttributes)
    static let diskStore: StoreCapabilities.Features = ConvergenceTests.diskStore.union([
        .extendedAttributes, .attributesInListing,
    ])
    static let stores = [objectStore, diskStore]

    private let objects = World.Objects()

    private func machine(_ features: StoreCapabilities.Features) throws -> World {
        try World(features, seed: 1, objects: objects)
    }

    /// A machine that has never seen the store, and has listed all of it.
    private func newMachine(_ features: StoreCapabilities.Features) throws -> World {
        let world = try machine(features)
        try world.listAll()
        return world
    }

    private func pass(_ worlds: World..., by duration: Duration = .seconds(60)) {
        for world in worlds { world.catalog.clock.advance(by: duration) }
    }

    /// A machine with a file of these names, all on the store.
    private func linked(_ names: [String], _ features: StoreCapabilities.Features) throws -> World {
        let world = try machine(features)
        for directory in Set(names.compactMap { path($0).parent }) where !directory.isRoot {
            try world.makeDirectory(directory.description)
        }
        try world.write(names[0], "content")
        for name in names.dropFirst() { try world.link(names[0], name) }
        try world.synchronize(steps: .max)
        pass(world)
        return world
    }

    @Test("are one file in an empty catalog, each with all the bytes on the store", arguments: stores)
    func join(features: StoreCapabilities.Features) throws {
        let first = try linked(["a", "d/b", "d/c"], features)
        for name in ["a", "d/b", "d/c"] { #expect(objects.store[name] == .file("content")) }
        let world = try newMachine(features)
        let file = try world.inode("a")
        #expect(try world.inode("d/b").id == file.id && world.inode("d/c").id == file.id && file.links == 3)
        #expect(try world.catalog.catalog.pendingTotals().items == 0, "what was found is not to be written")
        try world.write("d/c", "newer content")
        try world.synchronize(steps: .max)
        try world.compare()
        for name in ["a", "d/b", "d/c"] { #expect(objects.store[name] == .file("newer content")) }
        pass(first)
        try first.listAll()
        try first.listAll()
        let there = try first.inode("a")
        #expect(try first.inode("d/b").id == there.id && first.inode("d/c").id == there.id && there.links == 3)
        #expect(try newMachine(features).inode("d/b").links == 3)
    }

    @Test("are told by an update of the first one's attributes, when the file lay there already", arguments: stores)
    func linkLater(features: StoreCapabilities.Features) throws {
        let world = try machine(features)
        try world.write("a", "content")
        try world.synchronize(steps: .max)
        #expect(objects.attributes["a"]?.identity == nil, "one name needs no identity")
        world.uploads = 0
        try world.link("a", "b")
        try world.synchronize(steps: .max)
        #expect(world.uploads == 0, "the bytes are copied on the store")
        #expect(try newMachine(features).inode("a").links == 2)
    }

    @Test("do not include a copy that other tools made, with all that it says", arguments: stores)
    func copyByOthers(features: StoreCapabilities.Features) throws {
        _ = try linked(["a", "b"], features)
        objects.store["copy"] = objects.store["a"]
        objects.attributes["copy"] = objects.attributes["a"]
        objects.versions["copy"] = 1000
        let world = try newMachine(features)
        #expect(try world.inode("copy").links == 1)
        #expect(try world.inode("a").links == 2)
    }

    @Test("do not include one that others have written anew in its place", arguments: stores)
    func rewrittenByOthers(features: StoreCapabilities.Features) throws {
        let first = try linked(["a", "b"], features)
        // As a program does it that keeps what it does not know; and another one with as many bytes as before.
        for (number, content) in ["longer than before", "CONTENT"].enumerated() {
            first.putByOthers("a", content)
            objects.attributes["a"]?.modified = Timestamp(seconds: 5_000_000 + Int64(number))
            let world = try newMachine(features)
            #expect(try world.inode("a").links == 1 && world.inode("b").links == 1)
            #expect(try world.bytes(of: world.inode("a").id) == content)
            #expect(try world.bytes(of: world.inode("b").id) == "content")
        }
        try first.listAll()
        #expect(try first.inode("a").id != first.inode("b").id)
    }

    @Test("are not believed where an object says nonsense", arguments: stores)
    func nonsense(features: StoreCapabilities.Features) throws {
        _ = try linked(["a", "b"], features)
        let good = try #require(objects.attributes["a"]?.identity)
        for text in ["", "-", "x", String(good.dropLast()), good + "0", String(repeating: "é", count: 49)] {
            objects.attributes["a"]?.identity = text
            #expect(try newMachine(features).inode("a").links == 1)
        }
    }

    @Test("do not take in a file that was changed here, and is not on the store yet", arguments: stores)
    func dirty(features: StoreCapabilities.Features) throws {
        let first = try linked(["a", "b"], features)
        let world = try newMachine(features)
        // Parted here, and "b" changed here: then others say once more that it was "a".
        _ = try world.catalog.catalog.remove(name("b"), from: .root, isDirectory: false)
        try world.synchronize(steps: .max)
        try world.write("b", "mine alone")
        pass(first, world)
        first.putByOthers("b", "content")
        objects.attributes["b"] = objects.attributes["a"]
        objects.attributes["b"]?.identity = nil
        try world.listAll()
        #expect(try world.inode("a").id != world.inode("b").id)
        try world.synchronize(steps: .max)
        #expect(objects.store["b"] == .file("mine alone") && objects.store["a"] == .file("content"))
    }

    @Test("of which one is written to before the other one is seen are still one file", arguments: stores)
    func writtenBefore(features: StoreCapabilities.Features) throws {
        _ = try linked(["a", "d/b"], features)
        let world = try machine(features)
        try world.list(.root)
        try world.learn(.root)
        try world.write("a", "written before 'd' was listed")
        // Also when that is on the store already.
        if features == Self.diskStore { try world.synchronize(steps: .max) }
        try world.listAll()
        #expect(try world.inode("a").id == world.inode("d/b").id)
        try world.synchronize(steps: .max)
        try world.compare()
        #expect(objects.store["d/b"] == .file("written before 'd' was listed"))
        #expect(try newMachine(features).inode("a").links == 2)
    }

    @Test("stay one file when one of them, or a directory of them, is renamed", arguments: stores)
    func rename(features: StoreCapabilities.Features) throws {
        let world = try linked(["a", "d/b", "d/c"], features)
        _ = try world.catalog.catalog.rename(name("a"), in: .root, to: name("z"), in: .root, .replace)
        try world.synchronize(steps: .max)
        #expect(try newMachine(features).inode("z").links == 3)
        _ = try world.catalog.catalog.rename(name("d"), in: .root, to: name("e"), in: .root, .replace)
        try world.synchronize(steps: .max)
        try world.compare()
        let other = try newMachine(features)
        #expect(try other.inode("z").links == 3 && other.inode("e/b").id == other.inode("e/c").id)
    }

    @Test("are one fewer when one is removed, and none but the last is left with its bytes", arguments: stores)
    func unlink(features: StoreCapabilities.Features) throws {
        let world = try linked(["a", "b", "c"], features)
        let other = try newMachine(features)
        _ = try world.catalog.catalog.remove(name("a"), from: .root, isDirectory: false)
        try world.synchronize(steps: .max)
        pass(other)
        try other.listAll()
        #expect(try other.inode("b").links == 2 && newMachine(features).inode("c").links == 2)
        _ = try world.catalog.catalog.remove(name("b"), from: .root, isDirectory: false)
        try world.synchronize(steps: .max)
        let last = try newMachine(features)
        #expect(try last.inode("c").links == 1 && last.bytes(of: last.inode("c").id) == "content")
    }

    @Test("of two machines that each give the file one at the same time come to be names of one file")
    func twoMachines() throws {
        let features = Self.diskStore
        let world = try machine(features)
        try world.write("f", "content")
        try world.synchronize(steps: .max)
        let other = try newMachine(features)
        pass(world, other)
        try world.link("f", "g")
        try other.link("f", "h")
        try world.synchronize(steps: .max)
        try other.synchronize(steps: .max)
        for _ in 0..<3 {
            pass(world, other)
            for machine in [world, other] {
                try machine.listAll()
                try machine.synchronize(steps: .max)
            }
        }
        for machine in [world, other, try newMachine(features)] {
            let file = try machine.inode("f")
            #expect(file.links == 3)
            #expect(try machine.inode("g").id == file.id && machine.inode("h").id == file.id)
            #expect(try machine.catalog.catalog.pendingTotals().items == 0)
        }
    }

    @Test(
        "are two files as long as only one of them says it, and one when the crashed machine goes on", arguments: stores
    )
    func crashBetween(features: StoreCapabilities.Features) throws {
        let world = try machine(features)
        try world.write("a", "content")
        try world.synchronize(steps: .max)
        let others = try newMachine(features)
        try world.link("a", "b")
        let rows = try world.catalog.catalog.allPending(after: nil, limit: 10)
        _ = try world.carryOut(#require(rows.first { $0.path == path("b") }))
        #expect(objects.attributes["b"]?.identity != nil && objects.attributes["a"]?.identity == nil)
        #expect(try newMachine(features).inode("b").links == 1)
        try world.catalog.reopen()
        try world.synchronize(steps: .max)
        #expect(try newMachine(features).inode("b").links == 2)
        pass(others)
        try others.listAll()
        #expect(try others.inode("b").links == 2)
    }

    @Test(
        "say it of the new state when the attributes change, and only those of a file with names do", arguments: stores)
    func attributes(features: StoreCapabilities.Features) throws {
        let world = try linked(["a", "b"], features)
        let before = try #require(objects.attributes["a"]?.identity)
        let file = try world.inode("a").id
        _ = try world.catalog.catalog.setAttributes(
            AttributeChanges(mode: 0o600, modified: Timestamp(seconds: 77), changed: Timestamp(seconds: 78)), of: file)
        try world.synchronize(steps: .max)
        #expect(objects.attributes["a"]?.identity != before)
        #expect(objects.attributes["a"]?.identity?.prefix(32) == before.prefix(32), "the bytes are the same")
        let other = try newMachine(features)
        #expect(try other.inode("b").links == 2 && other.inode("b").mode == 0o600)
        try world.write("b", "new")
        try world.synchronize(steps: .max)
        #expect(objects.attributes["a"]?.identity?.prefix(32) != before.prefix(32), "the bytes are others")
    }

    @Test("are told to the store, once, when the catalog comes from an older version", arguments: stores)
    func olderFormat(features: StoreCapabilities.Features) throws {
        let world = try linked(["a", "d/b"], features)
        try world.write("alone", "another content")
        try world.synchronize(steps: .max)
        try world.catalog.catalog.write { tables throws(CatalogError) in
            try tables.database.run("DROP INDEX inode_by_identity")
            try tables.database.run("DROP INDEX object_with_identity")
            try tables.database.run("DROP INDEX object_of_directories")
            try tables.database.run("ALTER TABLE inode DROP COLUMN identity")
            try tables.database.run("ALTER TABLE inode DROP COLUMN identity_generation")
            try tables.database.run("ALTER TABLE object DROP COLUMN identity")
            try tables.database.run("UPDATE format SET version = 4")
        }
        for name in ["a", "d/b"] { objects.attributes[name]?.identity = nil }
        try world.catalog.reopen()
        #expect(try world.catalog.catalog.mend().faults == [])
        #expect(try world.catalog.catalog.pendingTotals().items == 2)
        world.uploads = 0
        try world.synchronize(steps: .max)
        try world.compare()
        #expect(world.uploads == 0 && objects.attributes["alone"]?.identity == nil)
        #expect(try newMachine(features).inode("a").links == 2)
        try world.catalog.reopen()
        #expect(try world.catalog.catalog.pendingTotals().items == 0)
    }

    @Test("part again when somebody writes who had one open since before they became one")
    func openBefore() throws {
        let features = Self.diskStore
        let world = try linked(["a", "b"], features)
        let identity = try #require(objects.attributes["b"]?.identity)
        objects.attributes["b"]?.identity = nil
        let other = try newMachine(features)
        let (a, b) = (try other.inode("a").id, try other.inode("b").id)
        #expect(a != b)
        objects.attributes["b"]?.identity = identity
        pass(world, other)
        try other.listAll()
        // The one that was known first is kept.
        let gone = max(a, b)
        let (name, keptName) = gone == b ? ("b", "a") : ("a", "b")
        #expect(try other.inode(name).id == min(a, b))
        try other.change(gone, "written by the old descriptor")
        #expect(try other.inode(name).id == gone && other.inode(name).links == 1 && other.inode(keptName).links == 1)
        try other.synchronize(steps: .max)
        try other.compare()
        #expect(objects.store[name] == .file("written by the old descriptor"))
        #expect(objects.store[keptName] == .file("content"))
    }

    @Test("are the same for a new machine after any changes", arguments: stores, 0..<UInt64(40))
    func converge(features: StoreCapabilities.Features, seed: UInt64) throws {
        let world = try World(features, seed: seed)
        for round in 0..<4 {
            for _ in 0..<15 { try world.changeSomething() }
            if round % 2 == 0 { try world.synchronize(steps: Int.random(in: 0..<30, using: &world.random)) }
            if round == 1 { try world.catalog.reopen() }
            #expect(try world.catalog.catalog.mend().faults == [], "a whole catalog was said to have faults")
        }
        try world.synchronize(steps: .max)
        try world.compare()
        try world.compareNames(with: World(features, seed: seed, objects: world.objects))
    }

    @Test(
        "are the same with many workers, changes and listings at once, and a crash", arguments: stores, 0..<UInt64(40))
    func convergeAtOnce(features: StoreCapabilities.Features, seed: UInt64) throws {
        let world = try World(features, seed: seed)
        world.losesAnswers = true
        world.names = seed % 3 == 0 ? 6 : 3
        world.crashes = seed % 2 == 1
        for _ in 0..<150 { try world.doSomethingAtOnce() }
        world.losesAnswers = false
        while try world.endSomeStep() {}
        try world.endListings()
        #expect(try world.catalog.catalog.mend().faults == [], "a whole catalog was said to have faults")
        try world.synchronize(steps: .max)
        try world.compare()
        world.expectNoConflicts()
        try world.list(.root)
        try world.compare()
        try world.compareNames(with: World(features, seed: seed, objects: world.objects))
    }
}

extension World {
    func inode(_ text: String) throws -> InodeRecord {
        try #require(try catalog.catalog.inode(at: path(text)), "there is no '\(text)'")
    }

    func link(_ old: String, _ new: String) throws {
        let (parent, name) = try resolve(new)
        _ = try catalog.catalog.link(try inode(old).id, named: name, in: parent)
    }

    /// Another machine sees the same names of the same files.
    func compareNames(with other: World) throws {
        try other.listAll()
        func files(_ world: World) throws -> Set<Set<String>> {
            let files = try world.tree().filter { $0.inode.kind == .file }
            for (path, inode) in files {
                let count = files.count { $0.inode.id == inode.id }
                #expect(Int(inode.links) == count, "the number of names of '\(path)'")
            }
            return Set(Dictionary(grouping: files) { $0.inode.id }.values.map { Set($0.map(\.path)) })
        }
        let (mine, theirs) = (try files(self), try files(other))
        #expect(mine.subtracting(theirs) == [], "not found by the other one, which has \(theirs)\n\(history)")
    }
}
