import Catalog
import Glibc
import StoreAPI
import Threading

/// An open control file or temporary file.
///
/// A control file's content is what it was when it was opened; what is written collects here, and goes to the file's
/// closure once per close that has something new.
final class VirtualHandle: Sendable {
    struct Buffer: Sendable {
        var bytes: [UInt8]
        /// Something was written that the file's closure has not been given.
        var isChanged = false
        /// Emptied when it was opened, and nothing written since. A shell closes its first descriptor of `> file`
        /// before anything is written, so that alone is no reason to write; the last close is.
        var isEmptied = false
    }

    let id: VirtualTree.ID
    let flags: Int32
    /// nil: a temporary file, whose bytes are those of its node.
    let control: VirtualFile?
    let buffer: Lock<Buffer>

    init(id: VirtualTree.ID, flags: Int32, control: VirtualFile?, bytes: [UInt8]) {
        self.id = id
        self.flags = flags
        self.control = control
        buffer = Lock(Buffer(bytes: bytes, isEmptied: flags & O_TRUNC != 0 && control != nil))
    }

    var isWritable: Bool { flags & O_ACCMODE != O_RDONLY }
    var isAppending: Bool { flags & O_APPEND != 0 }
}

extension VirtualTree {
    func open(_ id: ID, flags: Int32) throws(FileSystemError) -> VirtualHandle {
        let node = try self.node(id)
        let isWritable = flags & O_ACCMODE != O_RDONLY
        let control: VirtualFile?
        var bytes: [UInt8] = []
        switch node.content {
        case .directory: throw .isADirectory
        case .control(let file):
            if isWritable || flags & O_TRUNC != 0, file.write == nil { throw .accessDenied }
            if flags & O_TRUNC == 0, !(file.takesCommands && isWritable) { bytes = file.read() }
            control = file
        case .scratch: control = nil
        }
        try state.withLock { state throws(FileSystemError) in
            guard state.nodes[id] != nil else { throw .stale }
            state.nodes[id]?.handles += 1
            if control == nil, flags & O_TRUNC != 0 { state.nodes[id]?.content = .scratch([]) }
        }
        return VirtualHandle(id: id, flags: flags, control: control, bytes: bytes)
    }

    func read(
        _ handle: VirtualHandle, at offset: Int64, count: Int,
        _ reply: @escaping FileSystem.Reply<UnsafeRawBufferPointer>
    ) {
        guard offset >= 0, count >= 0 else { return reply(.failure(.invalid)) }
        let bytes = bytes(of: handle)
        let start = Int(min(offset, Int64(bytes.count)))
        bytes.withUnsafeBytes { all in
            reply(.success(UnsafeRawBufferPointer(rebasing: all[start..<(start + min(count, all.count - start))])))
        }
    }

    private func bytes(of handle: VirtualHandle) -> [UInt8] {
        guard handle.control == nil else { return handle.buffer.withLock { $0.bytes } }
        return state.withLock { state in
            if case .scratch(let bytes) = state.nodes[handle.id]?.content { bytes } else { [] }
        }
    }

    func write(_ handle: VirtualHandle, at offset: Int64, _ bytes: UnsafeRawBufferPointer) throws(FileSystemError)
        -> Int
    {
        guard handle.isWritable else { throw .badHandle }
        try change(handle) { content throws(FileSystemError) in
            let start = handle.isAppending ? Int64(content.count) : offset
            guard start >= 0 else { throw .invalid }
            guard start <= Int64(Self.largestFile - bytes.count) else { throw .tooLarge }
            let end = Int(start) + bytes.count
            if end > content.count { content += [UInt8](repeating: 0, count: end - content.count) }
            content.replaceSubrange(Int(start)..<end, with: bytes)
        }
        return bytes.count
    }

    private func change(
        _ handle: VirtualHandle, _ body: (inout [UInt8]) throws(FileSystemError) -> Void
    ) throws(FileSystemError) {
        if handle.control != nil {
            try handle.buffer.withLock { buffer throws(FileSystemError) in
                try body(&buffer.bytes)
                buffer.isChanged = true
                buffer.isEmptied = false
            }
        } else {
            let now = surroundings.clock.calendar
            try state.withLock { state throws(FileSystemError) in
                guard case .scratch(var bytes) = state.nodes[handle.id]?.content else { throw .stale }
                try body(&bytes)
                state.nodes[handle.id]?.content = .scratch(bytes)
                state.nodes[handle.id]?.modified = now
                state.nodes[handle.id]?.changed = now
            }
        }
    }

    /// ftruncate(2), truncate(2) on a control file.
    func resize(
        _ node: Node, to size: Int64, _ handle: VirtualHandle?, _ reply: @escaping FileSystem.Reply<Entry>
    ) {
        guard case .control(let file) = node.content else { return reply(.failure(.isADirectory)) }
        guard let write = file.write else { return reply(.failure(.accessDenied)) }
        if let handle {
            return answer(reply) { () throws(FileSystemError) in
                guard handle.isWritable else { throw .badHandle }
                if size == 0 {
                    // As if it had been opened with O_TRUNC, which some kernels do in two steps.
                    handle.buffer.withLock { $0 = .init(bytes: [], isEmptied: true) }
                } else {
                    try change(handle) { bytes throws(FileSystemError) in try Self.resize(&bytes, to: size) }
                }
                return entry(node)
            }
        }
        surroundings.work(reply) { [self] in
            var bytes = file.read()
            do throws(FileSystemError) {
                try Self.resize(&bytes, to: size)
                try write(bytes).get()
            } catch { return .failure(error) }
            wasWritten(node.id, from: nil)
            return .success(entry(node))
        }
    }

    /// close(2): gives what was written to the file's closure, whose error is that of the close.
    func flush(_ handle: VirtualHandle, _ reply: @escaping FileSystem.Reply<Void>) {
        deliver(handle, evenIfEmptied: false, reply)
    }

    func release(_ handle: VirtualHandle, _ reply: @escaping FileSystem.Reply<Void>) {
        state.withLock { state in
            state.nodes[handle.id]?.handles -= 1
            state.dropIfUnused(handle.id)
        }
        deliver(handle, evenIfEmptied: true, reply)
    }

    private func deliver(
        _ handle: VirtualHandle, evenIfEmptied: Bool, _ reply: @escaping FileSystem.Reply<Void>
    ) {
        guard let write = handle.control?.write else { return reply(.success(())) }
        let bytes = handle.buffer.withLock { buffer -> [UInt8]? in
            guard buffer.isChanged || (evenIfEmptied && buffer.isEmptied) else { return nil }
            buffer.isChanged = false
            buffer.isEmptied = false
            return buffer.bytes
        }
        guard let bytes else { return reply(.success(())) }
        surroundings.work(reply) { [self] in
            let result = write(bytes)
            if case .success = result { wasWritten(handle.id, from: nil) }
            return result
        }
    }
}
