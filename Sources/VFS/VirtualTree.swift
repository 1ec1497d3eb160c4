import Catalog
import StoreAPI
import Threading

/// The files and directories that lie on no store: the control files, the directories that hold them, and in the
/// directories with files that can be written, the temporary files that editors make beside them.
///
/// A control file is never gone: renaming it away leaves a copy, and a file that is renamed onto it is written to it.
/// So `sed -i`, and editors that write a new file or keep a backup, work as everywhere.
///
/// Lock order: the state's lock is a leaf; the closures of control files are called outside of it.
final class VirtualTree: Sendable {
    struct ID: Hashable, Sendable {
        let index: UInt64
        /// What the root of the mount holds, unless it is flat; its number is 1.
        static let mountRoot = ID(index: 0)
    }

    enum Content: Sendable {
        /// `takesFiles`: temporary files can be made in it.
        case directory(takesFiles: Bool)
        case control(VirtualFile)
        /// A temporary file with its bytes.
        case scratch([UInt8])
    }

    struct Node: Sendable {
        var id: ID
        /// nil: the root, or a temporary file without a name.
        var parent: ID?
        var name: FileName
        var content: Content
        var mode: UInt32
        var uid: UInt32?
        var gid: UInt32?
        var accessed: Timestamp
        var modified: Timestamp
        var changed: Timestamp
        /// Kept for temporary files: those without a name end when nobody uses them.
        var lookups: UInt64 = 0
        var handles = 0
    }

    struct State: Sendable {
        var nodes: [ID: Node] = [:]
        var children: [ID: [FileName: ID]] = [:]
        var nextIndex: UInt64 = 1

        subscript(_ name: FileName, in parent: ID) -> Node? { children[parent]?[name].flatMap { nodes[$0] } }
    }

    /// Of a control file or a temporary one: they are for settings and commands, not for data.
    static let largestFile = 1 << 20
    static let storeName = FileName("data")!

    let state: Lock<State>
    let surroundings: Surroundings
    let isFlat: Bool
    /// The directory that a flat mount hides in its root.
    let hiddenRoot: ID?

    init(_ directories: [VirtualDirectory], isFlat: Bool, surroundings: Surroundings) {
        self.isFlat = isFlat
        self.surroundings = surroundings
        var state = State()
        let now = surroundings.clock.calendar
        func add(_ name: FileName, in parent: ID?, _ content: Content, mode: UInt32, as id: ID? = nil) -> ID {
            let id = id ?? ID(index: state.nextIndex)
            if id.index != 0 { state.nextIndex += 1 }
            state.nodes[id] = Node(
                id: id, parent: parent, name: name, content: content, mode: mode, accessed: now, modified: now,
                changed: now)
            if case .directory = content { state.children[id] = [:] }
            if let parent { state.children[parent]?[name] = id }
            return id
        }
        let root = add(
            .control, in: nil, .directory(takesFiles: false), mode: 0o555, as: isFlat ? nil : .mountRoot)
        hiddenRoot = isFlat ? root : nil
        for directory in directories {
            guard let name = FileName(directory.name) else { preconditionFailure("no name: \(directory.name)") }
            let takesFiles = directory.files.contains { $0.write != nil }
            let id = add(name, in: root, .directory(takesFiles: takesFiles), mode: takesFiles ? 0o755 : 0o555)
            for file in directory.files {
                guard let name = FileName(file.name) else { preconditionFailure("no name: \(file.name)") }
                _ = add(name, in: id, .control(file), mode: file.mode & 0o7777)
            }
        }
        self.state = Lock(state)
    }

    // MARK: Numbers and attributes

    func number(_ id: ID) -> UInt64 { id == .mountRoot ? 1 : NumberSpace.virtualBit | id.index }

    func node(_ id: ID) throws(FileSystemError) -> Node {
        guard let node = state.withLock({ $0.nodes[id] }) else { throw .stale }
        return node
    }

    func entry(_ node: Node) -> Entry {
        var record = InodeRecord(
            id: InodeID(number(node.id)), kind: .file, mode: node.mode,
            uid: node.uid ?? surroundings.settings.defaultUID, gid: node.gid ?? surroundings.settings.defaultGID,
            accessed: node.accessed, modified: node.modified, changed: node.changed, created: node.changed)
        // What programs here do to a directory goes through the kernel, and every path through the mount asks for the
        // first of them. Files change by themselves.
        var trust = Duration.zero
        switch node.content {
        case .directory:
            record.kind = .directory
            record.links = 2
            trust = surroundings.settings.metadataLifetime
        case .control(let file):
            record.size = Int64(file.read().count)
            if file.write == nil {
                // Statistics are of now.
                record.modified = surroundings.clock.calendar
                record.changed = record.modified
            }
        case .scratch(let bytes):
            record.size = Int64(bytes.count)
            record.links = node.parent == nil ? 0 : 1
        }
        return Entry(number: number(node.id), attributes: record, entryTimeout: .zero, attributeTimeout: trust)
    }

    func lookup(_ bytes: [UInt8], in parent: ID) throws(FileSystemError) -> Entry {
        let name = try Volume.name(bytes)
        let found = try state.withLock { state throws(FileSystemError) -> Node? in
            guard let directory = state.nodes[parent] else { throw .stale }
            guard case .directory = directory.content else { throw .notADirectory }
            guard let node = state[name, in: parent] else { return nil }
            state.nodes[node.id]?.lookups += 1
            return node
        }
        guard let found else { throw .notFound }
        return entry(found)
    }

    func forget(_ id: ID, lookups: UInt64) {
        state.withLock { state in
            guard let node = state.nodes[id] else { return }
            state.nodes[id]?.lookups -= min(lookups, node.lookups)
            state.dropIfUnused(id)
        }
    }

    /// Temporary files are their owner's; of control files only the times can be touched, to no effect.
    func setAttributes(
        _ changes: SetAttributes, of id: ID, handle: VirtualHandle?, _ reply: @escaping FileSystem.Reply<Entry>
    ) {
        let node: Node
        do { node = try self.node(id) } catch { return reply(.failure(error)) }
        switch node.content {
        case .scratch: answer(reply) { () throws(FileSystemError) in try changeScratch(id, changes) }
        case .directory, .control:
            let settings = surroundings.settings
            let isSame =
                (changes.mode.map { $0 & 0o7777 == node.mode } ?? true)
                && (changes.uid.map { $0 == settings.defaultUID } ?? true)
                && (changes.gid.map { $0 == settings.defaultGID } ?? true)
            guard isSame else { return reply(.failure(.notPermitted)) }
            guard let size = changes.size else { return reply(.success(entry(node))) }
            resize(node, to: size, handle, reply)
        }
    }

    private func changeScratch(_ id: ID, _ changes: SetAttributes) throws(FileSystemError) -> Entry {
        let now = surroundings.clock.calendar
        let node = try state.withLock { state throws(FileSystemError) -> Node in
            guard var node = state.nodes[id], case .scratch(var bytes) = node.content else { throw .stale }
            if let size = changes.size {
                try Self.resize(&bytes, to: size)
                node.content = .scratch(bytes)
                node.modified = now
            }
            if let mode = changes.mode { node.mode = mode & 0o7777 }
            node.uid = changes.uid ?? node.uid
            node.gid = changes.gid ?? node.gid
            switch changes.accessed {
            case nil: break
            case .now: node.accessed = now
            case .at(let time): node.accessed = time
            }
            switch changes.modified {
            case nil: break
            case .now: node.modified = now
            case .at(let time): node.modified = time
            }
            node.changed = changes.changed ?? now
            state.nodes[id] = node
            return node
        }
        return entry(node)
    }

    static func resize(_ bytes: inout [UInt8], to size: Int64) throws(FileSystemError) {
        guard size >= 0 else { throw .invalid }
        guard size <= largestFile else { throw .tooLarge }
        if size < bytes.count {
            bytes.removeSubrange(Int(size)...)
        } else {
            bytes += [UInt8](repeating: 0, count: Int(size) - bytes.count)
        }
    }

    // MARK: Directories

    func readDirectory(
        _ id: ID, after cookie: Int64, plus: Bool, add: (ListedEntry) -> Bool
    ) throws(FileSystemError) {
        let (directory, children) = try state.withLock { state throws(FileSystemError) -> (Node, [Node]) in
            guard let directory = state.nodes[id] else { throw .stale }
            let children = state.children[id, default: [:]].values.compactMap { state.nodes[$0] }
            return (directory, children.sorted { $0.id.index < $1.id.index })
        }
        var lines = [
            ListedEntry(name: [UInt8(ascii: ".")], cookie: 1, number: number(id), kind: .directory),
            ListedEntry(
                name: Array("..".utf8), cookie: 2, number: directory.parent.map { number($0) } ?? 1, kind: .directory),
        ]
        if id == .mountRoot {
            lines.append(
                ListedEntry(
                    name: Self.storeName.bytes, cookie: 3, number: NumberSpace.storeRoot(isFlat: isFlat),
                    kind: .directory))
        }
        for line in lines where line.cookie > cookie {
            guard add(line) else { return }
        }
        for child in children {
            // The index stays with a node for its life, so it is where a reading goes on.
            let position = Int64(child.id.index) + 3
            guard position > cookie else { continue }
            let entry = entry(child)
            let line = ListedEntry(
                name: child.name.bytes, cookie: position, number: entry.number, kind: entry.attributes.kind,
                entry: plus ? entry : nil)
            guard add(line) else { return }
            if plus { state.withLock { $0.nodes[child.id]?.lookups += 1 } }
        }
    }
}

extension VirtualTree.State {
    /// A temporary file without a name ends when nobody uses it.
    mutating func dropIfUnused(_ id: VirtualTree.ID) {
        guard let node = nodes[id], node.parent == nil, case .scratch = node.content, node.lookups == 0,
            node.handles == 0
        else { return }
        nodes[id] = nil
    }
}
