import StoreAPI
import Threading

/// A node as it will be when the chunk under way has been put.
struct DraftNode: Sendable {
    var node: PackedNode
    /// Bytes that come with this chunk.
    var fresh: [UInt8]?
    /// The name that had these bytes before this chunk.
    var origin: StorePath?
}

/// The tree as changes leave it that are to become one chunk: what they touch, over the map.
///
/// Used by one thread. The map is only read.
struct Draft {
    private let map: MapHolder
    /// The number that the chunk is to have.
    let sequence: Int64
    private var committedNodes: [StorePath: PackedNode?] = [:]
    private var nodes: [StorePath: DraftNode?] = [:]
    /// Names that were touched, by directory.
    private var names: [StorePath: Set<FileName>] = [:]
    private var turns: [StorePath: Int] = [:]
    private var turn = 0
    private var versions = 0
    /// Of all bodies that are to be in the chunk, those that were replaced since among them.
    private(set) var bytes: Int64 = 0
    /// The change that was begun has to wait for the next chunk: it makes a directory of what is none, or the reverse.
    private(set) var mustEnd = false
    /// Plain objects that members stand in for: to be deleted when the chunk is on the store.
    var replaced: [StorePath: Version] = [:]

    /// Plain objects that go when the chunk is on the store: as long as that may fail, what they hold is needed by
    /// whoever was to put it elsewhere.
    var deletions: [StorePath: Job] = [:]
    /// A plain object that moves when the chunk is on the store, which takes away the members that it hides. Nothing
    /// comes into the chunk after it.
    var move: PlainMove?

    struct PlainMove {
        var source: StorePath
        var target: StorePath
        var condition: WriteCondition
        var metadata: Metadata
        /// The member that was at the target.
        var replaced: Version?
        var job: Job
    }

    init(of map: MapHolder, sequence: Int64) {
        self.map = map
        self.sequence = sequence
    }

    var touched: Int { nodes.count }

    /// What was at a path before.
    mutating func committed(_ path: StorePath) throws(StoreError) -> PackedNode? {
        if let known = committedNodes[path] { return known }
        let node = try map.use { map throws(ChunkMapError) in try map.node(at: path) }
        committedNodes[path] = .some(node)
        return node
    }

    mutating func node(at path: StorePath) throws(StoreError) -> DraftNode? {
        if let known = nodes[path] { return known }
        guard let node = try committed(path) else { return nil }
        return DraftNode(node: node, origin: path)
    }

    mutating func newVersion() -> Version {
        versions += 1
        return Version(packed: versions, in: sequence)
    }

    mutating func set(_ node: DraftNode, at path: StorePath) {
        nodes[path] = .some(node)
        touch(path)
        bytes += Int64(node.fresh?.count ?? 0)
    }

    mutating func remove(_ path: StorePath) {
        nodes[path] = .some(nil)
        touch(path)
        replaced[path] = nil
    }

    func isTouched(_ path: StorePath) -> Bool { turns[path] != nil }

    private mutating func touch(_ path: StorePath) {
        turn += 1
        turns[path] = turn
        names[path.parent!, default: []].insert(path.name!)
    }

    /// Throws, with ``mustEnd`` set, where a node of this kind cannot be made in this chunk.
    mutating func expectKind(_ isDirectory: Bool, at path: StorePath) throws(StoreError) {
        guard let before = try committed(path), (before.kind == .directory) != isDirectory else { return }
        mustEnd = true
        throw StoreError(.internal, "'\(path)' cannot become another kind of thing in one chunk", path: path)
    }

    /// Throws, with ``mustEnd`` set, where something is to be deleted first at a path or below.
    mutating func expectSettled(_ path: StorePath) throws(StoreError) {
        guard deletions.keys.contains(where: { $0.isInside(path) }) else { return }
        mustEnd = true
        throw StoreError(.internal, "'\(path)' is to be deleted first", path: path)
    }

    /// Makes the directories above a path that are missing.
    ///
    /// - Parameter plain: Tells what the store has as a plain object.
    mutating func makeParents(
        of path: StorePath, _ plain: (StorePath) throws(StoreError) -> Metadata?
    ) throws(StoreError) {
        guard let parent = path.parent, !parent.isRoot else { return }
        if let node = try node(at: parent) {
            guard node.node.kind == .directory else {
                throw StoreError(.notADirectory, "'\(parent)' is not a directory", path: parent)
            }
            return
        }
        try makeParents(of: parent, plain)
        let found = try plain(parent)
        guard found == nil || found!.kind == .directory else {
            throw StoreError(.notADirectory, "'\(parent)' is not a directory", path: parent)
        }
        try expectKind(true, at: parent)
        set(DraftNode(node: PackedNode(kind: .directory, attributes: found?.attributes ?? Attributes())), at: parent)
    }

    mutating func isEmpty(_ directory: StorePath) throws(StoreError) -> Bool {
        for name in names[directory] ?? [] where nodes[directory.appending(name)].flatMap({ $0 }) != nil {
            return false
        }
        var last: [UInt8]?
        while true {
            let page = try map.use { map throws(ChunkMapError) in
                guard let id = try map.id(of: directory) else { return [FileName]() }
                return try map.children(of: id, after: last, limit: 100).map(\.name)
            }
            for name in page where nodes[directory.appending(name)] == nil { return false }
            guard let end = page.last else { return true }
            last = end.bytes
        }
    }

    /// Everything below a directory.
    mutating func descendants(of directory: StorePath) throws(StoreError) -> [(path: StorePath, node: DraftNode)] {
        let before = try map.use { map throws(ChunkMapError) in try map.descendants(of: directory) }
        var all: [(path: StorePath, node: DraftNode)] = []
        for (path, node) in before where nodes[path] == nil {
            committedNodes[path] = .some(node)
            all.append((path, DraftNode(node: node, origin: path)))
        }
        for (path, node) in nodes where path != directory && path.isInside(directory) {
            if let node { all.append((path, node)) }
        }
        return all
    }

    // MARK: The chunk

    /// A member of the chunk to be.
    struct Planned {
        var member: ChunkMember
        var node: DraftNode?
    }

    /// The members that make of the tree before what it is now, in their order; none where nothing is different.
    mutating func members() throws(StoreError) -> [Planned] {
        var directories: [StorePath] = []
        var links: [StorePath: StorePath] = [:]
        var others: [StorePath] = []
        var whiteouts: [StorePath] = []
        for (path, after) in nodes {
            let before = try committed(path)
            guard let after else {
                guard before != nil else { continue }
                let parent = path.parent!
                // What goes with its directory needs no whiteout of its own.
                let isTopmost = parent.isRoot ? true : try node(at: parent) != nil
                if isTopmost { whiteouts.append(path) }
                continue
            }
            if let before, after.fresh == nil, before.isSame(as: after.node) { continue }
            if after.node.kind == .directory {
                directories.append(path)
            } else if let origin = try linkSource(of: after), origin != path {
                links[path] = origin
            } else {
                others.append(path)
            }
        }
        let (ordered, broken) = Self.ordered(links, by: turns)
        others += broken
        others.sort { turns[$0]! < turns[$1]! }
        var planned: [Planned] = []
        for path in ordered {
            var member = ChunkMember(.link, path)
            member.link = links[path]
            member.attributes = nodes[path]!!.node.attributes
            member.replaces = nodes[path]!!.node.replaces
            planned.append(Planned(member: member))
        }
        for path in directories.sorted() + others {
            let node = nodes[path]!!
            planned.append(Planned(member: node.node.member(at: path), node: node))
        }
        return planned + whiteouts.sorted().map { Planned(member: ChunkMember(.whiteout, $0)) }
    }

    /// A name whose file, before this chunk, is this one.
    private mutating func linkSource(of after: DraftNode) throws(StoreError) -> StorePath? {
        guard after.node.kind == .file, after.fresh == nil, let origin = after.origin,
            let before = try committed(origin), before.version == after.node.version,
            before.attributes == after.node.attributes
        else { return nil }
        return origin
    }

    /// Links in an order in which each is made before another one takes the place of its source. Of a circle one is
    /// left out.
    ///
    /// - Parameter links: Sources by names.
    static func ordered(
        _ links: [StorePath: StorePath], by turns: [StorePath: Int]
    ) -> (links: [StorePath], broken: [StorePath]) {
        // How many links still need each name as it is.
        var needed: [StorePath: Int] = [:]
        for source in links.values { needed[source, default: 0] += 1 }
        var (ordered, broken): ([StorePath], [StorePath]) = ([], [])
        var left = links
        var ready = links.keys.filter { needed[$0] == nil }.sorted { turns[$0, default: 0] > turns[$1, default: 0] }
        func release(_ path: StorePath) {
            let source = left.removeValue(forKey: path)!
            needed[source]! -= 1
            if needed[source] == 0, left[source] != nil { ready.append(source) }
        }
        while !left.isEmpty {
            if let path = ready.popLast() {
                guard left[path] != nil else { continue }
                ordered.append(path)
                release(path)
            } else {
                let path = left.keys.min()!
                broken.append(path)
                release(path)
            }
        }
        return (ordered, broken)
    }
}

extension PackedNode {
    /// Whether the two are one to everybody who looks at the tree.
    func isSame(as other: PackedNode) -> Bool {
        kind == other.kind && attributes == other.attributes && target == other.target && version == other.version
            && replaces == other.replaces
    }

    /// The node as a member with bytes of its own.
    func member(at path: StorePath) -> ChunkMember {
        let kinds: [FileKind: ChunkMember.Kind] = [
            .file: .file, .directory: .directory, .symbolicLink: .symbolicLink, .fifo: .fifo,
            .characterDevice: .characterDevice, .blockDevice: .blockDevice,
        ]
        var member = ChunkMember(kinds[kind]!, path)
        member.size = size
        member.target = target
        member.attributes = attributes
        member.md5 = bytes?.md5
        member.version = version
        member.replaces = replaces
        return member
    }
}
