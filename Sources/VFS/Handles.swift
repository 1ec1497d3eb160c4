import Caching
import Catalog
import Synchronization
import Threading

/// An open file of the store.
final class FileHandle: Sendable {
    let volume: Volume
    let inode: InodeID
    let node: Node
    let content: CachedContent
    let pattern = ReadPattern()
    let isWritable: Bool

    init(volume: Volume, inode: InodeID, node: Node, content: CachedContent, isWritable: Bool) {
        self.volume = volume
        self.inode = inode
        self.node = node
        self.content = content
        self.isWritable = isWritable
    }
}

/// What a handle is open on: decided when it is opened.
enum OpenHandle: Sendable {
    case file(FileHandle)
    case directory(Volume, InodeID)
    case virtualFile(VirtualHandle)
    case virtualDirectory(VirtualTree.ID)
    /// The place where a store's root will be.
    case emptyDirectory
    /// Its store was disconnected.
    case lost
}

final class HandleTable: Sendable {
    private struct State {
        var handles: [UInt64: OpenHandle] = [:]
        var next: UInt64 = 1
    }

    private let state = Lock(State())

    func add(_ handle: OpenHandle) -> HandleID {
        state.withLock { state in
            defer { state.next += 1 }
            state.handles[state.next] = handle
            return HandleID(state.next)
        }
    }

    subscript(_ id: HandleID) -> OpenHandle? { state.withLock { $0.handles[id.value] } }

    func remove(_ id: HandleID) -> OpenHandle? { state.withLock { $0.handles.removeValue(forKey: id.value) } }

    /// The contents that are open, once each per handle.
    var files: [FileHandle] {
        state.withLock { state in
            state.handles.values.compactMap { if case .file(let handle) = $0 { handle } else { nil } }
        }
    }

    /// The volume goes away: its handles stay, lost, until they are released.
    func lose(_ volume: Volume) -> [FileHandle] {
        state.withLock { state in
            var files: [FileHandle] = []
            for (id, handle) in state.handles {
                switch handle {
                case .file(let file) where file.volume === volume:
                    files.append(file)
                    state.handles[id] = .lost
                case .directory(let other, _) where other === volume: state.handles[id] = .lost
                case .file, .directory, .virtualFile, .virtualDirectory, .emptyDirectory, .lost: break
                }
            }
            return files
        }
    }
}
