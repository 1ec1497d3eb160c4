import Glibc
import SQLite
import StoreAPI
import Testing
import Threading

@testable import Catalog

/// Whatever is done to the namespace, the steps that the catalog plans make the store equal to it, and no file's
/// bytes are lost on the way. The store here is a dictionary, the cache another: the plans are what is tested.
@Suite("The planned steps")
struct ConvergenceTests {
    static let objectStore: StoreCapabilities.Features = [
        .attributes, .changeTimes, .serverSideCopy, .conditionalCreate,
    ]
    static let diskStore: StoreCapabilities.Features = [
        .attributes, .atomicMove, .directoryMove, .realDirectories, .serverSideCopy, .conditionalCreate,
    ]
    static let plainStore: StoreCapabilities.Features = [.realDirectories]

    /// `CLOUDFUSION_TEST_SEEDS=first-last` asks for others, or for more.
    static let seeds: [UInt64] = {
        let bounds = (getenv("CLOUDFUSION_TEST_SEEDS").map { String(cString: $0) } ?? "0-149").split(separator: "-")
            .map { UInt64($0)! }
        return Array(bounds[0]...bounds[1])
    }()

    @Test(
        "make the store equal to the namespace after any changes",
        arguments: [objectStore, diskStore, plainStore], 0..<UInt64(40))
    func converge(features: StoreCapabilities.Features, seed: UInt64) throws {
        let world = try World(features, seed: seed)
        for round in 0..<4 {
            for _ in 0..<15 { try world.changeSomething() }
            try world.compareSelections()
            // Sometimes only a part is brought to the store before the next changes, as if it were slow.
            if round % 2 == 0 { try world.synchronize(steps: Int.random(in: 0..<30, using: &world.random)) }
            if round == 1 { try world.catalog.reopen() }
            #expect(try world.catalog.catalog.mend().faults == [], "a whole catalog was said to have faults")
        }
        try world.synchronize(steps: .max)
        try world.compare()
    }

    @Test(
        "make it equal with many workers, changes and listings at once, and take nothing of ours for somebody else's",
        arguments: [objectStore, diskStore, plainStore], seeds)
    func convergeAtOnce(features: StoreCapabilities.Features, seed: UInt64) throws {
        let world = try World(features, seed: seed)
        world.losesAnswers = true
        // Few names, so that changes meet each other and are taken back; or more of them at once.
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
    }

    @Test("exchange two files and two directories on the store", arguments: [objectStore, diskStore, plainStore])
    func exchange(features: StoreCapabilities.Features) throws {
        let world = try World(features, seed: 1)
        try world.write("a", "first")
        try world.write("b", "second")
        for directory in ["x", "y"] {
            try world.makeDirectory(directory)
            try world.write("\(directory)/same", "in \(directory)")
            try world.write("\(directory)/only-\(directory)", "more in \(directory)")
        }
        try world.synchronize(steps: .max)
        world.evictAll()
        _ = try world.catalog.catalog.rename(name("a"), in: .root, to: name("b"), in: .root, .exchange)
        _ = try world.catalog.catalog.rename(name("x"), in: .root, to: name("y"), in: .root, .exchange)
        try world.synchronize(steps: .max)
        try world.compare()
        #expect(world.store["b"] == .file("first"))
        #expect(world.store["y/same"] == .file("in x"))
    }

    @Test(
        "a file takes the name of a directory in which another one was that takes the first one's name",
        arguments: [objectStore, diskStore, plainStore])
    func circleOverDirectory(features: StoreCapabilities.Features) throws {
        let world = try World(features, seed: 1)
        try world.makeDirectory("d")
        try world.write("d/b", "in the directory")
        try world.write("e", "beside it")
        try world.synchronize(steps: .max)
        world.evictAll()
        let catalog = world.catalog.catalog
        let directory = try #require(try catalog.lookup(name("d"), in: .root).inode).id
        _ = try catalog.rename(name("e"), in: .root, to: name("m"), in: .root, .replace)
        _ = try catalog.rename(name("b"), in: directory, to: name("e"), in: .root, .replace)
        _ = try catalog.remove(name("d"), from: .root, isDirectory: true)
        _ = try catalog.rename(name("m"), in: .root, to: name("d"), in: .root, .replace)
        try world.synchronize(steps: .max)
        try world.compare()
        #expect(world.store["d"] == .file("beside it") && world.store["e"] == .file("in the directory"))
    }

    @Test("move no bytes for a rename of a directory, where the store can copy", arguments: [objectStore, diskStore])
    func renameDirectory(features: StoreCapabilities.Features) throws {
        let world = try World(features, seed: 2)
        try world.makeDirectory("old")
        try world.makeDirectory("old/deep")
        for number in 0..<50 { try world.write("old/deep/\(number)", "content \(number)") }
        try world.synchronize(steps: .max)
        world.evictAll()
        world.uploads = 0
        world.downloads = 0
        _ = try world.catalog.catalog.rename(name("old"), in: .root, to: name("new"), in: .root, .replace)
        try world.synchronize(steps: .max)
        try world.compare()
        #expect(world.store["new/deep/7"] == .file("content 7"))
        #expect(world.uploads == 0 && world.downloads == 0)
    }

    @Test("keep another's version of a file that was changed on both sides", arguments: [objectStore, plainStore])
    func conflict(features: StoreCapabilities.Features) throws {
        let world = try World(features, seed: 3)
        try world.write("report", "base")
        try world.synchronize(steps: .max)
        world.catalog.clock.advance(by: .seconds(60))
        world.putByOthers("report", "theirs, longer")
        try world.write("report", "mine")
        try world.list(.root)
        try world.synchronize(steps: .max)
        #expect(world.store["report"] == .file("mine"))
        let copies = world.store.filter { $0.key.hasPrefix("report.conflict-") }
        #expect(copies.map(\.value) == [.file("theirs, longer")])
        try world.compare()
    }

    @Test(
        "show what another put in the place of a file that was changed here, when ours is renamed or removed",
        arguments: [objectStore, plainStore], [true, false])
    func conflictEndedByHand(features: StoreCapabilities.Features, isRenamed: Bool) throws {
        for theirs in ["report", "report/inside"] {
            let world = try World(features, seed: 3)
            try world.write("report", "base")
            try world.synchronize(steps: .max)
            world.catalog.clock.advance(by: .seconds(60))
            world.removeByOthers("report")
            if theirs != "report" { world.makeDirectoryByOthers("report") }
            world.putByOthers(theirs, "theirs, longer")
            try world.write("report", "mine")
            try world.list(.root)
            let catalog = world.catalog.catalog
            if isRenamed {
                _ = try catalog.rename(name("report"), in: .root, to: name("mine"), in: .root, .replace)
            } else {
                _ = try catalog.remove(name("report"), from: .root, isDirectory: false)
            }
            try world.synchronize(steps: .max)
            try world.list(.root)
            #expect(world.store[theirs] == .file("theirs, longer"))
            #expect(world.store["mine"] == (isRenamed ? .file("mine") : nil))
            let kind = try catalog.lookup(name("report"), in: .root).inode?.kind
            #expect(kind == (theirs == "report" ? .file : .directory))
        }
    }

    @Test("show what others put, changed and removed, and keep what was changed here")
    func changesByOthers() throws {
        let world = try World(Self.objectStore, seed: 4)
        for file in ["stays", "goes", "changes", "mine"] { try world.write(file, file) }
        try world.synchronize(steps: .max)
        world.catalog.clock.advance(by: .seconds(60))
        let before = try #require(try world.catalog.catalog.lookup(name("changes"), in: .root).inode)
        world.putByOthers("new", "new")
        world.putByOthers("changes", "changed by others")
        world.removeByOthers("goes")
        world.removeByOthers("mine")
        try world.write("mine", "changed here")
        let changes = try world.list(.root)
        #expect(changes.contains(.entry(parent: .root, name: name("goes"), inode: changes.inode(of: "goes"))))
        let catalog = world.catalog.catalog
        #expect(try catalog.lookup(name("goes"), in: .root).inode == nil)
        #expect(try catalog.lookup(name("new"), in: .root).inode?.size == 3)
        let after = try #require(try catalog.lookup(name("changes"), in: .root).inode)
        #expect(after.id != before.id && after.size == 17)
        try world.synchronize(steps: .max)
        #expect(world.store["mine"] == .file("changed here"))
        #expect(world.store["goes"] == nil)
    }
}

extension [NamespaceChange] {
    fileprivate func inode(of wanted: String) -> InodeID? {
        for case .entry(_, let name, let inode) in self where name.description == wanted { return inode }
        return nil
    }
}

/// A catalog, a store that is a dictionary, and a cache that is another.
final class World {
    enum Thing: Equatable { case directory, file(String) }

    /// What lies on the store.
    final class Objects {
        var store: [String: Thing] = [:]
        var versions: [String: Int] = [:]
        var nextVersion = 1
        var attributes: [String: Attributes] = [:]
    }

    let catalog: TemporaryCatalog
    var random: SeededRandom
    let objects: Objects
    var store: [String: Thing] {
        get { objects.store }
        set { objects.store = newValue }
    }
    private var versions: [String: Int] {
        get { objects.versions }
        set { objects.versions = newValue }
    }
    private var nextVersion: Int {
        get { objects.nextVersion }
        set { objects.nextVersion = newValue }
    }
    var attributes: [String: Attributes] {
        get { objects.attributes }
        set { objects.attributes = newValue }
    }
    /// Bytes in the cache, by inode; and what each file should hold, by inode.
    private var cache: [InodeID: String] = [:]
    /// Of files of which only the beginning is in the cache, and changed there.
    private var heads: [InodeID: String] = [:]
    private var truth: [InodeID: String] = [:]
    var uploads = 0
    var downloads = 0
    /// What was done, for the message of a failure.
    private var trace: [String] = []
    var history: String { trace.suffix(400).joined(separator: "\n") }
    private let features: StoreCapabilities.Features

    /// Which rows of the journal are at and below a path is found without looking at all rows; here it is checked by
    /// looking at all rows.
    func compareSelections() throws {
        let all = try catalog.catalog.allPending(after: nil, limit: 10_000)
        let last = try catalog.catalog.newestPending()?.id ?? PendingID(0)
        #expect(last == all.last?.id ?? PendingID(0))
        var paths = Set(all.map(\.path))
        for path in paths { paths.formUnion(path.parent.map { [$0] } ?? []) }
        for path in paths where !path.isRoot {
            let expected = all.filter { $0.path.isInside(path) }
            let found = try catalog.catalog.pendingRows(below: path, upTo: last, orSince: Timestamp(seconds: 0))
            #expect(found == expected.map(\.id), "below '\(path)': \(trace)")
            let totals = try catalog.catalog.pendingBelow(path)
            #expect(totals.items == Int64(expected.count))
            #expect(totals.bytes == expected.reduce(0) { $0 + $1.size })
            #expect(totals.oldest == expected.map(\.since).min())
        }
    }

    /// - Parameter objects: What several machines share.
    init(_ features: StoreCapabilities.Features, seed: UInt64, objects: Objects = Objects()) throws {
        self.features = features
        self.objects = objects
        catalog = try TemporaryCatalog(features)
        random = SeededRandom(seed)
    }

    // MARK: Changes of the namespace

    func resolve(_ text: String) throws -> (InodeID, FileName) {
        let path = path(text)
        guard let parent = try catalog.catalog.inode(at: path.parent!) else {
            throw CatalogError(.notFound, "the directory of '\(text)' is not there (any more)")
        }
        return (parent.id, path.name!)
    }

    func makeDirectory(_ text: String) throws {
        let (parent, name) = try resolve(text)
        let mode = 0o700 + UInt32(random.next() % 0o100)
        _ = try catalog.catalog.create(
            NewInode(kind: .directory, mode: mode, uid: 0, gid: 0), named: name, in: parent)
    }

    func write(_ text: String, _ content: String) throws {
        let (parent, name) = try resolve(text)
        let record =
            try catalog.catalog.lookup(name, in: parent).inode
            ?? catalog.catalog.create(NewInode(kind: .file, mode: 0o644, uid: 0, gid: 0), named: name, in: parent)
        try change(record.id, content)
    }

    func change(_ inode: InodeID, _ content: String) throws {
        trace.append("    content of \(inode) := \(content)")
        _ = try catalog.catalog.beginChange(of: inode)
        let size = Int64(content.utf8.count)
        _ = try catalog.catalog.save([
            ContentState(
                inode: inode, size: size, present: RangeSet(0..<max(size, 1000)), modified: catalog.clock.calendar,
                isChanged: true)
        ])
        cache[inode] = content
        heads[inode] = nil
        truth[inode] = content
    }

    /// Changes the first bytes of a file that is not in the cache: the rest has to be had from the store.
    private func changeHead(_ inode: InodeID) throws {
        guard cache[inode] == nil, let known = truth[inode], known.utf8.count > 4 else { return }
        let head = "\(1000 + random.next() % 9000)"
        trace.append("    head of \(inode) := \(head)")
        _ = try catalog.catalog.beginChange(of: inode)
        let state = ContentState(
            inode: inode, size: Int64(known.utf8.count), present: RangeSet(0..<4), modified: catalog.clock.calendar,
            isChanged: true)
        _ = try catalog.catalog.save([state])
        heads[inode] = head
        truth[inode] = head + known.dropFirst(4)
    }

    /// All paths below the root, directories before what is in them.
    func tree() throws -> [(path: String, inode: InodeRecord)] {
        var found: [(String, InodeRecord)] = []
        func walk(_ directory: InodeID, _ prefix: String) throws {
            for entry in try catalog.catalog.entries(of: directory, after: 0, limit: 10_000) {
                let path = prefix + entry.name.description
                found.append((path, entry.inode))
                if entry.inode.kind == .directory { try walk(entry.inode.id, path + "/") }
            }
        }
        try walk(.root, "")
        return found
    }

    func changeSomething() throws {
        let tree = try tree()
        let directories = [""] + tree.filter { $0.inode.kind == .directory }.map { $0.path + "/" }
        let new = directories.randomElement(using: &random)! + "\(Int.random(in: 0..<names, using: &random))"
        let old = tree.randomElement(using: &random)
        let catalog = catalog.catalog
        do throws(CatalogError) {
            switch Int.random(in: 0..<14, using: &random) {
            case 0, 1: try? makeDirectory(new)
            case 12:
                guard let back = lastRename, let from = try? resolve(back.to), let to = try? resolve(back.from) else {
                    return
                }
                _ = try catalog.rename(from.1, in: from.0, to: to.1, in: to.0, .noReplace)
                trace.append("    rename back \(back.to) \(back.from)")
            case 13:
                guard let old, old.inode.kind == .file else { return }
                do { try changeHead(old.inode.id) } catch { throw error as! CatalogError }
            case 2, 3, 4:
                let isDirectory = tree.contains { $0.path == new && $0.inode.kind == .directory }
                if !isDirectory { try? write(new, "content \(random.next() % 1000)") }
            case 5:
                guard let old, let place = try? resolve(old.path) else { return }
                _ = try catalog.remove(place.1, from: place.0, isDirectory: old.inode.kind == .directory)
                trace.append("    rm \(old.path)")
            case 6, 7, 8:
                guard let old, let from = try? resolve(old.path), let to = try? resolve(new) else { return }
                let exists = tree.contains { $0.path == new }
                let mode: RenameMode = exists && Bool.random(using: &random) ? .exchange : .replace
                _ = try catalog.rename(from.1, in: from.0, to: to.1, in: to.0, mode)
                trace.append("    rename \(old.path) (\(old.inode.id)) \(mode) \(new)")
                lastRename = (old.path, new)
            default:
                guard let old else { return }
                if old.inode.kind == .file, Bool.random(using: &random), let place = try? resolve(new) {
                    _ = try catalog.link(old.inode.id, named: place.1, in: place.0)
                    trace.append("    link \(old.path) (\(old.inode.id)) \(new)")
                } else {
                    let modified = Bool.random(using: &random) ? Timestamp(seconds: Int64(random.next() % 1000)) : nil
                    _ = try catalog.setAttributes(
                        AttributeChanges(mode: UInt32(random.next() % 0o1000), modified: modified, changed: .now),
                        of: old.inode.id)
                    trace.append("    attributes of \(old.path) (\(old.inode.id))")
                }
            }
        } catch {
            switch error.code {
            case .exists, .notEmpty, .isADirectory, .notADirectory, .insideItself, .notFound: break
            default: throw error
            }
        }
        if Int.random(in: 0..<10, using: &random) == 0 { evictAll() }
    }

    /// Drops all clean content from the cache.
    func evictAll() {
        trace.append("    evict all")
        for candidate in (try? catalog.catalog.evictionCandidates(limit: 10_000)) ?? [] {
            _ = try? catalog.catalog.contentWasEvicted(candidate.inode)
            cache[candidate.inode] = nil
            heads[candidate.inode] = nil
        }
    }

    // MARK: The store

    func putByOthers(_ key: String, _ content: String) { _ = put(key, content) }
    func makeDirectoryByOthers(_ key: String) { store[key] = .directory }
    func removeByOthers(_ key: String) { store[key] = nil }

    private func put(_ key: String, _ content: String) -> Metadata {
        // As disks do it: under another name first.
        changeTimesOfParent(of: key)
        store[key] = .file(content)
        versions[key] = nextVersion
        nextVersion += 1
        return metadata(key)!
    }

    /// Real directories have their own opinion on their times.
    private func changeTimesOfParent(of key: String) {
        guard let slash = key.lastIndex(of: "/") else { return }
        attributes[String(key[..<slash])]?.modified = Timestamp(nanoseconds: -1)
    }

    private func metadata(_ key: String) -> Metadata? {
        switch store[key] {
        case nil: nil
        case .directory:
            Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0), attributes: listedAttributes(key))
        case .file(let content):
            Metadata(
                kind: .file, size: Int64(content.utf8.count), modified: Timestamp(nanoseconds: 0),
                version: Version("\(versions[key]!)"), attributes: listedAttributes(key))
        }
    }

    private func listedAttributes(_ key: String) -> Attributes? {
        features.contains(.attributesInListing) ? attributes[key] ?? Attributes() : nil
    }

    /// What the store tells to a question for one thing: more than a listing does.
    private func found(_ path: StorePath) -> Metadata? {
        var metadata = metadata(path.description)
        if features.contains(.attributes) { metadata?.attributes = attributes[path.description] }
        return metadata
    }

    @discardableResult
    func list(_ directory: InodeID) throws -> [NamespaceChange] {
        guard let plan = try catalog.catalog.beginListing(of: directory) else { return [] }
        guard let entries = entries(of: plan.path) else { return [] }
        return try merge(entries, plan)
    }

    /// Lists all directories, and asks for what the listings have not told.
    func listAll() throws {
        var directories = [InodeID.root]
        while let directory = directories.popLast() {
            try list(directory)
            try learn(directory)
            for entry in try catalog.catalog.entries(of: directory, after: 0, limit: 10_000)
            where entry.inode.kind == .directory { directories.append(entry.inode.id) }
        }
    }

    /// Asks for what the listing of the directory has not told.
    func learn(_ directory: InodeID) throws {
        for inode in try catalog.catalog.unknownInodes(in: directory, after: 0, count: 10_000).inodes {
            guard let question = try catalog.catalog.unknownAttributes(of: inode), let there = found(question.path)
            else { continue }
            _ = try catalog.catalog.learnAttributes(there, target: nil, of: question)
        }
    }

    private func merge(_ entries: [ListEntry], _ plan: ListingPlan) throws -> [NamespaceChange] {
        let doubts = try catalog.catalog.doubts(about: entries, in: plan)
        let believed = entries.compactMap { entry in
            guard doubts.contains(entry.name) else { return entry }
            return found(plan.path.appending(entry.name)).map { ListEntry(name: entry.name, metadata: $0) }
        }
        return try catalog.catalog.merge(believed, into: plan) + catalog.catalog.endListing(plan)
    }

    private func holds(_ condition: WriteCondition, _ key: String) -> Bool {
        guard features.contains(.conditionalCreate) else { return true }
        switch condition {
        case .always: return true
        case .ifAbsent: return store[key] == nil
        case .ifVersion(let version): return metadata(key)?.version == version
        }
    }

    /// Works the journal off until nothing is left or `steps` were made.
    func synchronize(steps: Int) throws {
        var left = steps
        var idle = 0
        var passes = 0
        for orphan in try catalog.catalog.orphans() {
            _ = try catalog.catalog.forget(orphan)
            cache[orphan] = nil
        }
        while true {
            catalog.clock.advance(by: .seconds(1))
            _ = try catalog.catalog.expedite(nil)
            let items = try catalog.catalog.pending(dueBefore: .init(nanoseconds: .max), limit: 1000, busy: [])
            if items.isEmpty { return }
            var isIdle = true
            for item in items.shuffled(using: &random) {
                guard left > 0 else { return }
                if try carryOut(item) { isIdle = false }
                left -= 1
            }
            idle = isIdle ? idle + 1 : 0
            passes += 1
            guard idle < 20, passes < 200 else {
                let stuck = try items.map {
                    "\n\($0.id.value) \($0.path)\($0.isDeletion ? " (delete)" : ""): \(try catalog.catalog.plan($0))"
                }
                Issue.record(
                    "the journal does not get shorter: \(stuck.joined())\nafter\n\(trace.suffix(30).joined(separator: "\n"))"
                )
                return
            }
        }
    }

    func carryOut(_ item: PendingItem) throws -> Bool {
        let step = try catalog.catalog.plan(item)
        trace.append("\(item.path): \(step)")
        let outcome = try perform(step, of: item)
        try outcome?()
        _ = try catalog.catalog.stepEnded(item.id)
        return outcome != nil
    }

    // MARK: Many things at once

    /// Steps that a worker has been sent with: not done on the store yet, or done and not reported yet.
    private var sent: [(item: PendingItem, step: SyncStep)] = []
    private var answered: [(item: PendingItem, step: SyncStep, outcome: () throws -> Void)] = []
    /// Listings under way: begun, or answered by the store and not merged yet.
    private var asked: [ListingPlan] = []
    private var heard: [(plan: ListingPlan, entries: [ListEntry]?)] = []
    var losesAnswers = false
    var crashes = false
    /// How many names are used in each directory.
    var names = 6
    private var lastRename: (from: String, to: String)?

    /// The program ends, and begins anew. What was asked of the store and not done yet never is; of what was done the
    /// answer may not have come.
    private func crash() throws {
        trace.append("    crash")
        for (item, step, outcome) in answered {
            let mayBeUnheard =
                switch step {
                case .move: true
                // What is sent to a store without attributes is not known for ours when it is found there.
                case .upload, .copy, .setAttributes: features.contains(.attributes)
                default: false
                }
            if mayBeUnheard, Bool.random(using: &random) {
                trace.append("    not heard: \(item.path): \(step)")
                continue
            }
            try outcome()
            _ = try catalog.catalog.stepEnded(item.id)
        }
        (sent, answered, asked, heard) = ([], [], [], [])
        try catalog.reopen()
        for orphan in try catalog.catalog.orphans() { _ = try catalog.catalog.forget(orphan) }
    }

    func doSomethingAtOnce() throws {
        catalog.clock.advance(by: .milliseconds(1))
        if crashes, Int.random(in: 0..<20, using: &random) == 0 { try crash() }
        switch Int.random(in: 0..<8, using: &random) {
        case 0, 1: try changeSomething()
        case 2, 3:
            let busy = Set(sent.map(\.item.id) + answered.map(\.item.id))
            _ = try catalog.catalog.expedite(nil)
            let items = try catalog.catalog.pending(dueBefore: .init(nanoseconds: .max), limit: 100, busy: busy)
            guard let item = items.randomElement(using: &random) else { return }
            let step = try catalog.catalog.plan(item)
            trace.append("\(item.path): \(step)")
            sent.append((item, step))
        case 4, 5: _ = try endSomeStep()
        case 6:
            let directories = try tree().filter { $0.inode.kind == .directory }.map(\.inode.id) + [.root]
            if let plan = try catalog.catalog.beginListing(of: directories.randomElement(using: &random)!) {
                asked.append(plan)
            }
        default: try goOnListing()
        }
    }

    /// A step goes on: on the store, or to its report. Answers whether there was one.
    func endSomeStep() throws -> Bool {
        let number = Int.random(in: 0..<max(1, sent.count + answered.count), using: &random)
        if number < sent.count {
            let (item, step) = sent.remove(at: number)
            trace.append("on the store: \(item.path)")
            if case .upload(let plan) = step, try isSourceUnderWay(plan.placement.inode) {
                // As a reader does: it waits until the other worker is back.
                sent.insert((item, step), at: 0)
                return true
            }
            if case .copy(let plan) = step, !crashes, !losesAnswers {
                // Some servers look at the version first, and read what they copy afterwards.
                let version = metadata(plan.source.description)?.version
                #expect(version == plan.sourceVersion, "\(plan): \(trace.suffix(60).joined(separator: "\n"))")
            }
            let outcome = try perform(step, of: item)
            answered.append((item, step, outcome ?? {}))
        } else if number - sent.count < answered.count {
            let (item, _, outcome) = answered.remove(at: number - sent.count)
            trace.append("report of \(item.path)")
            try outcome()
            _ = try catalog.catalog.stepEnded(item.id)
        } else {
            return false
        }
        return true
    }

    private func isSourceUnderWay(_ inode: InodeID) throws -> Bool {
        guard cache[inode] == nil else { return false }
        return try catalog.catalog.content(of: inode)?.sourceWork == .other
    }

    private func goOnListing() throws {
        let number = Int.random(in: 0..<max(1, asked.count + heard.count), using: &random)
        if number < asked.count {
            let plan = asked.remove(at: number)
            trace.append("store lists '\(plan.path)'")
            heard.append((plan, entries(of: plan.path)))
        } else if number - asked.count < heard.count {
            let (plan, entries) = heard.remove(at: number - asked.count)
            guard let entries else { return }
            trace.append("listing of '\(plan.path)' comes in")
            let changes = try merge(entries, plan)
            #expect(changes.isEmpty, "nobody else has changed anything: \(trace.suffix(60).joined(separator: "\n"))")
        }
    }

    func endListings() throws { while !asked.isEmpty || !heard.isEmpty { try goOnListing() } }

    func expectNoConflicts() {
        #expect(!store.keys.contains { $0.contains(".conflict-") }, "\(trace.suffix(60).joined(separator: "\n"))")
    }

    /// What the store answers; nil: there is no such directory.
    private func entries(of path: StorePath) -> [ListEntry]? {
        if !path.isRoot, features.contains(.realDirectories), store[path.description] != .directory { return nil }
        let prefix = path.isRoot ? "" : "\(path)/"
        return store.keys.filter { $0.hasPrefix(prefix) && !$0.dropFirst(prefix.count).contains("/") }
            .map { ListEntry(name: name(String($0.dropFirst(prefix.count))), metadata: metadata($0)!) }
    }

    /// Does a step on the store. Answers what is to be reported of it; nil: it was no step.
    private func perform(_ step: SyncStep, of item: PendingItem) throws -> (() throws -> Void)? {
        let catalog = catalog.catalog
        switch step {
        case .done: return {}
        case .blocked, .busy: return nil
        case .upload(let plan):
            let key = plan.target.description
            try requireParent(key)
            let own = try bytes(of: plan.placement.inode)
            guard holds(plan.condition, key) else {
                let there = found(plan.target)
                if let there,
                    let state = SentState(size: there.size, there.attributes, on: StoreCapabilities(features)),
                    there.kind == .file
                {
                    if let own, store[key] == .file(own) {
                        attributes[key] = plan.attributes
                        let there = found(plan.target)!
                        return { try catalog.uploaded(plan, as: there) }
                    }
                    if plan.sentBefore.contains(state) {
                        var older = plan
                        older.placement.contentGeneration = -1
                        return { [older] in try catalog.uploaded(older, as: there) }
                    }
                }
                return { _ = try catalog.foundOnStore(there, at: plan.target, by: item.id) }
            }
            guard let content = own else {
                // The rest of its bytes was replaced by an upload of its own that was not heard of: it is there, too.
                let source = try #require(try catalog.content(of: plan.placement.inode)?.source)
                let there = found(source.path)
                return { _ = try catalog.foundOnStore(there, at: source.path, by: item.id) }
            }
            #expect(store[key] != .directory)
            uploads += 1
            var plan = plan
            if let now = try catalog.content(of: plan.placement.inode) {
                plan = try catalog.plan(plan, for: now.generation)
            }
            let metadata = put(key, content)
            attributes[key] = plan.attributes
            return { [plan] in try catalog.uploaded(plan, as: metadata) }
        case .copy(let plan):
            try requireParent(plan.target.description)
            guard case .file(let content)? = store[plan.source.description],
                metadata(plan.source.description)?.version == plan.sourceVersion,
                holds(plan.condition, plan.target.description)
            else {
                let (source, target) = (found(plan.source), found(plan.target))
                if source?.version == plan.sourceVersion, target?.kind == .file,
                    store[plan.source.description] == store[plan.target.description], let target
                {
                    attributes[plan.target.description] = plan.attributes
                    return { try catalog.copied(plan, as: target) }
                }
                return {
                    _ = try catalog.foundOnStore(source, at: plan.source, by: item.id)
                    _ = try catalog.foundOnStore(target, at: plan.target, by: item.id)
                }
            }
            let metadata = put(plan.target.description, content)
            attributes[plan.target.description] = plan.attributes
            return { try catalog.copied(plan, as: metadata) }
        case .createDirectory(let plan):
            try requireParent(plan.target.description)
            if let there = found(plan.target), there.kind != .directory {
                return { _ = try catalog.foundOnStore(there, at: plan.target, by: item.id) }
            }
            if store[plan.target.description] == nil { changeTimesOfParent(of: plan.target.description) }
            store[plan.target.description] = .directory
            attributes[plan.target.description] = plan.attributes
            return { try catalog.directoryWasMade(plan) }
        case .setAttributes(let plan):
            let there = found(plan.path)
            guard let there, there.kind == .directory || there.version == plan.version else {
                return { _ = try catalog.foundOnStore(there, at: plan.path, by: item.id) }
            }
            attributes[plan.path.description] = (there.attributes ?? Attributes()).merging(plan.attributes)
            if !features.contains(.realDirectories), there.kind == .file {
                // As S3 does it: by a copy of the object onto itself.
                versions[plan.path.description] = nextVersion
                nextVersion += 1
            }
            let known = metadata(plan.path.description)!
            return { try catalog.attributesWereSet(plan, to: known) }
        case .move(let plan):
            try requireParent(plan.target.description)
            if let there = found(plan.target) {
                return {
                    try catalog.moveWasNotDone(plan)
                    _ = try catalog.foundOnStore(there, at: plan.target, by: item.id)
                }
            }
            let source = plan.source.description
            changeTimesOfParent(of: source)
            changeTimesOfParent(of: plan.target.description)
            for key in store.keys where key == source || key.hasPrefix(source + "/") {
                let target = plan.target.description + key.dropFirst(source.count)
                store[target] = store.removeValue(forKey: key)
                versions[target] = versions.removeValue(forKey: key)
                attributes[target] = attributes.removeValue(forKey: key)
            }
            let there = metadata(plan.target.description)
            return { try catalog.moved(plan, as: there) }
        case .settle(let plan):
            let (source, target) = (found(plan.source), found(plan.target))
            func isMoved(_ there: Metadata?) -> Bool {
                there.map { ($0.kind == .directory) == plan.isDirectory && $0.version == plan.version } ?? false
            }
            if !isMoved(source), isMoved(target) {
                return { try catalog.moved(plan, as: plan.isDirectory ? nil : target) }
            }
            return {
                try catalog.moveWasNotDone(plan)
                if !isMoved(source) { _ = try catalog.foundOnStore(source, at: plan.source, by: item.id) }
            }
        case .delete(let plan):
            if store[plan.path.description] == .directory, features.contains(.realDirectories) {
                let prefix = plan.path.description + "/"
                try #require(!store.keys.contains { $0.hasPrefix(prefix) }, "'\(prefix)' is deleted with things in it")
            }
            if plan.isUncertain || plan.version != nil, let there = found(plan.path),
                plan.isUncertain || there.version != plan.version
            {
                let state = SentState(size: there.size, there.attributes, on: StoreCapabilities(features))
                guard there.kind == .file, let state, plan.sent.contains(state) else {
                    return {
                        _ = try catalog.foundOnStore(there, at: plan.path, by: item.id)
                        if try catalog.pendingItem(item.id) != nil { try catalog.deleted([plan]) }
                    }
                }
            }
            // The answer may get lost on the way, or the program end before it comes.
            let mayBeLost = losesAnswers && store[plan.path.description] != .directory
            let isHeard = !mayBeLost || Int.random(in: 0..<3, using: &random) > 0
            changeTimesOfParent(of: plan.path.description)
            store[plan.path.description] = nil
            if !isHeard { trace.append("    not heard: \(plan.path)") }
            return { if isHeard { try catalog.deleted([plan]) } }
        case .keepConflict(let plan):
            guard case .file(let content)? = store[plan.path.description] else {
                Issue.record("the conflicting '\(plan.path)' is no file")
                return nil
            }
            let metadata = put(plan.keepPath.description, content)
            return { _ = try catalog.conflictWasKept(plan, as: metadata) }
        case .list(let directory): return { try self.list(directory) }
        case .learn(let inode):
            guard let question = try catalog.unknownAttributes(of: inode) else { return {} }
            guard let there = found(question.path) else {
                return { _ = try catalog.foundOnStore(nil, at: question.path, by: item.id) }
            }
            return { _ = try catalog.learnAttributes(there, target: nil, of: question) }
        case .fetch(let inode):
            let found = try bytes(of: inode)
            // The file may be gone meanwhile, or its source be under way: then the step is planned again.
            guard let content = found else { return {} }
            cache[inode] = content
            heads[inode] = nil
            downloads += 1
            let size = Int64(cache[inode]!.utf8.count)
            _ = try catalog.save([
                ContentState(
                    inode: inode, size: size, present: RangeSet(0..<max(size, 1000)), modified: nil, isChanged: false)
            ])
            return { if try catalog.inode(inode) != nil { _ = try catalog.pinContent(of: inode) } }
        }
    }

    private func requireParent(_ key: String) throws {
        guard features.contains(.realDirectories), let slash = key.lastIndex(of: "/") else { return }
        try #require(store[String(key[..<slash])] == .directory, "the parent of '\(key)' is not there")
    }

    func bytes(of inode: InodeID) throws -> String? {
        if let cached = cache[inode] { return cached }
        guard let source = try catalog.catalog.content(of: inode)?.source else { return "" }
        guard case .file(let content)? = store[source.path.description],
            metadata(source.path.description)?.version == source.version
        else { return nil }
        return heads[inode].map { $0 + content.dropFirst(4) } ?? content
    }

    /// The store holds what the namespace shows, and every file's bytes can be had and are right.
    func compare() throws {
        let tree = try tree()
        let names = Set(tree.map(\.path))
        let history = trace.suffix(400).joined(separator: "\n")
        #expect(names.subtracting(store.keys) == [], "missing on the store\n\(history)")
        #expect(Set(store.keys).subtracting(names) == [], "left behind on the store\n\(history)")
        if features.contains(.attributes) {
            for (path, inode) in tree where !path.contains(".conflict-") {
                #expect(attributes[path]?.mode == inode.mode, "'\(path)'\n\(history)")
                if inode.kind == .file || features.contains(.realDirectories) {
                    #expect(attributes[path]?.modified == inode.modified, "'\(path)'\n\(history)")
                }
            }
        }
        for (path, inode) in tree where inode.kind == .file {
            let expected = truth[inode.id]
            if let expected { #expect(store[path] == .file(expected), "'\(path)'") }
            let here = try bytes(of: inode.id)
            #expect(here != nil && (expected == nil || here == expected), "'\(path)' from here")
        }
        #expect(try catalog.catalog.pendingTotals().items == 0)
        let dirty = try catalog.catalog.read { tables throws(CatalogError) in
            try tables.database.all("SELECT inode FROM content WHERE dirty = 1") { $0.int(0) }
        }
        #expect(dirty == [], "not clean though all is on the store\n\(history)")
    }
}

/// xorshift64*, so that a seed makes the same run everywhere.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 | 1 }
    mutating func next() -> UInt64 {
        state ^= state >> 12
        state ^= state << 25
        state ^= state >> 27
        return state &* 0x2545_F491_4F6C_DD1D
    }
}
