import Catalog
import StoreAPI
import Threading

extension VirtualTree {
    /// Makes a temporary file.
    func create(_ bytes: [UInt8], in parent: ID, mode: UInt32, by caller: Caller) throws(FileSystemError) -> Node {
        let name = try Volume.name(bytes)
        let now = surroundings.clock.calendar
        return try state.withLock { state throws(FileSystemError) -> Node in
            try state.checkTakesFiles(parent)
            guard state[name, in: parent] == nil else { throw .exists }
            let id = ID(index: state.nextIndex)
            state.nextIndex += 1
            let node = Node(
                id: id, parent: parent, name: name, content: .scratch([]), mode: mode & 0o7777, uid: caller.uid,
                gid: caller.gid, accessed: now, modified: now, changed: now, lookups: 1)
            state.nodes[id] = node
            state.children[parent]?[name] = id
            return node
        }
    }

    func unlink(_ bytes: [UInt8], in parent: ID, _ reply: @escaping FileSystem.Reply<Void>) {
        let control: VirtualFile?
        do throws(FileSystemError) {
            let name = try Volume.name(bytes)
            control = try state.withLock { state throws(FileSystemError) -> VirtualFile? in
                guard let node = state[name, in: parent] else { throw .notFound }
                switch node.content {
                case .directory: throw .isADirectory
                case .control(let file): return file
                case .scratch:
                    state.takeName(from: node.id)
                    return nil
                }
            }
        } catch { return reply(.failure(error)) }
        guard let control else { return reply(.success(())) }
        guard let remove = control.remove else { return reply(.failure(.notPermitted)) }
        surroundings.work(reply) { remove() }
    }

    func rename(
        _ bytes: [UInt8], in parent: ID, to newBytes: [UInt8], in newParent: ID, _ mode: RenameMode,
        _ reply: @escaping FileSystem.Reply<Void>
    ) {
        let source: Node
        let target: Node?
        let newName: FileName
        do throws(FileSystemError) {
            guard mode != .exchange else { throw .unsupported }
            let name = try Volume.name(bytes)
            newName = try Volume.name(newBytes)
            (source, target) = try state.withLock { state throws(FileSystemError) -> (Node, Node?) in
                guard let source = state[name, in: parent] else { throw .notFound }
                if case .directory = source.content { throw .notPermitted }
                try state.checkTakesFiles(newParent)
                let target = state[newName, in: newParent]
                if case .directory = target?.content { throw .isADirectory }
                if mode == .noReplace, target != nil { throw .exists }
                return (source, target)
            }
        } catch { return reply(.failure(error)) }
        if source.id == target?.id { return reply(.success(())) }
        let bytes =
            switch source.content {
            case .control(let file): file.read()
            case .scratch(let bytes): bytes
            case .directory: [UInt8]()
            }
        if let target, case .control(let file) = target.content {
            guard let write = file.write else { return reply(.failure(.accessDenied)) }
            return surroundings.work(reply) { [self] in
                let result = write(bytes)
                if case .success = result { wasWritten(target.id, from: source.id) }
                return result
            }
        }
        state.withLock { state in
            if let target { state.takeName(from: target.id) }
            switch source.content {
            case .scratch: state.give(newName, in: newParent, to: source.id)
            case .control:
                // A backup: the control file itself stays.
                let copy = ID(index: state.nextIndex)
                state.nextIndex += 1
                var node = source
                node.id = copy
                node.parent = nil
                node.content = .scratch(bytes)
                (node.lookups, node.handles) = (0, 0)
                state.nodes[copy] = node
                state.give(newName, in: newParent, to: copy)
            case .directory: break
            }
        }
        reply(.success(()))
    }

    /// A control file took new bytes; the temporary file that they came from has no name any more.
    func wasWritten(_ id: ID, from source: ID?) {
        let now = surroundings.clock.calendar
        state.withLock { state in
            state.nodes[id]?.modified = now
            state.nodes[id]?.changed = now
            if let source, case .scratch = state.nodes[source]?.content { state.takeName(from: source) }
        }
    }
}

extension VirtualTree.State {
    func checkTakesFiles(_ parent: VirtualTree.ID) throws(FileSystemError) {
        guard let directory = nodes[parent] else { throw .stale }
        guard case .directory(let takesFiles) = directory.content else { throw .notADirectory }
        guard takesFiles else { throw .notPermitted }
    }

    mutating func takeName(from id: VirtualTree.ID) {
        guard let node = nodes[id], let parent = node.parent else { return }
        children[parent]?[node.name] = nil
        nodes[id]?.parent = nil
        dropIfUnused(id)
    }

    mutating func give(_ name: FileName, in parent: VirtualTree.ID, to id: VirtualTree.ID) {
        guard let node = nodes[id] else { return }
        if let old = node.parent { children[old]?[node.name] = nil }
        nodes[id]?.parent = parent
        nodes[id]?.name = name
        children[parent]?[name] = id
    }
}
