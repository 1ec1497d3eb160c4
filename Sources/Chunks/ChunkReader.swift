import StoreAPI
import StoreHTTP
import Threading

/// Brings the bytes of packed files: one by one at first, and by whole chunks where several of a chunk are wanted, since
/// what was written together is read together.
///
/// Whole chunks are kept in files without names, the least recently used given up first. Callers may come from any
/// thread; those who want the same chunk share one fetch. Locks: one, a leaf, never held while the store is asked.
final class ChunkReader: Sendable {
    /// A chunk that is here, or is being fetched.
    private struct Copy {
        /// nil while it is being fetched.
        var file: UnlinkedFile?
        var size: Int64
        var used: Int
    }

    private struct State {
        var copies: [Int64: Copy] = [:]
        /// Chunks of which one file was fetched for itself.
        var touched: Set<Int64> = []
        var lastWhole: Int64?
        var uses = 0
        var prefetch: WorkerThread?
        var isPrefetching = false
        var isShutDown = false
    }

    private let store: any Store
    private let folder: String
    private let room: Int64
    private let state = Monitor(State())

    /// - Parameters:
    ///   - folder: On this machine, for chunks that are kept.
    ///   - room: Bytes of chunks to be kept.
    init(of store: any Store, folder: String, room: Int64) {
        self.store = store
        self.folder = folder
        self.room = room
    }

    /// All bytes of a packed file, checked against their digest.
    ///
    /// - Parameters:
    ///   - next: Tells the chunk that is read after this one when many are read in order.
    /// - Throws: ``StoreError``: `.notFound` when the chunk is gone, `.corrupted`, or what the store throws.
    func read(
        _ bytes: PackedBytes, in chunk: ChunkRecord, of volume: String,
        next: @escaping @Sendable () -> ChunkRecord?
    ) throws(StoreError) -> [UInt8] {
        guard bytes.size > 0 else { return [] }
        let start = chunk.membersOffset + bytes.offset
        let range = start..<(start + bytes.size)
        for isLast in [false, true] {
            let found: [UInt8]
            if let file = try copy(of: chunk, volume, next) {
                found = try file.read(range)
            } else {
                let sink = MemorySink(from: start)
                _ = try store.read(
                    ChunkPaths.chunk(chunk.sequence, volume: volume), ReadRequest(range: range), into: sink)
                found = sink.bytes
            }
            if Int64(found.count) == bytes.size, bytes.md5 == nil || Digest.md5(found) == bytes.md5 { return found }
            state.update { $0.copies[chunk.sequence] = nil }
            if isLast { break }
        }
        throw StoreError(
            .corrupted, "the bytes of a file in chunk \(chunk.sequence) are not those that were put there")
    }

    /// - Returns: The chunk as a file; nil when it is better to fetch one file alone.
    private func copy(
        of chunk: ChunkRecord, _ volume: String, _ next: @escaping @Sendable () -> ChunkRecord?
    ) throws(StoreError) -> UnlinkedFile? {
        enum Turn { case have(UnlinkedFile), alone, fetch }
        let turn = state.wait { state -> Turn? in
            state.uses += 1
            if let copy = state.copies[chunk.sequence] {
                state.copies[chunk.sequence]!.used = state.uses
                return copy.file.map { .have($0) }
            }
            // The first file of the chunk after one that was read whole is no sign of a single reader.
            let isNext = state.lastWhole.map { $0 < chunk.sequence && chunk.sequence - $0 <= 4 } ?? false
            if !isNext, state.touched.insert(chunk.sequence).inserted {
                if state.touched.count > 10_000 { state.touched = [chunk.sequence] }
                return .alone
            }
            guard chunk.size <= room else { return .alone }
            state.copies[chunk.sequence] = Copy(file: nil, size: chunk.size, used: state.uses)
            return .fetch
        }
        switch turn! {
        case .have(let file):
            fetchAhead(of: chunk.sequence, volume, next)
            return file
        case .alone: return nil
        case .fetch:
            let file = try fetch(chunk, volume)
            fetchAhead(of: chunk.sequence, volume, next)
            return file
        }
    }

    private func fetch(_ chunk: ChunkRecord, _ volume: String) throws(StoreError) -> UnlinkedFile {
        do throws(StoreError) {
            let file = try UnlinkedFile(in: folder)
            _ = try store.read(
                ChunkPaths.chunk(chunk.sequence, volume: volume), ReadRequest(), into: FileSink(file))
            state.update { state in
                state.copies[chunk.sequence]?.file = file
                state.touched.remove(chunk.sequence)
                makeRoom(in: &state)
            }
            return file
        } catch {
            state.update { $0.copies[chunk.sequence] = nil }
            throw error
        }
    }

    private func makeRoom(in state: inout State) {
        var size = state.copies.values.reduce(0) { $0 + $1.size }
        while size > room,
            let oldest = state.copies.filter({ $0.value.file != nil }).min(by: { $0.value.used < $1.value.used })
        {
            size -= oldest.value.size
            state.copies[oldest.key] = nil
        }
    }

    /// Where chunks are read one after the other, brings the next one while this one is read.
    private func fetchAhead(of sequence: Int64, _ volume: String, _ next: @escaping @Sendable () -> ChunkRecord?) {
        let isInOrder = state.withLock { state -> Bool in
            guard state.lastWhole != sequence else { return false }
            let isInOrder = state.lastWhole.map { $0 < sequence && sequence - $0 <= 4 } ?? false
            state.lastWhole = sequence
            return isInOrder && !state.isPrefetching && !state.isShutDown
        }
        guard isInOrder, let chunk = next(), chunk.size <= room / 2 else { return }
        state.update { state in
            guard !state.isPrefetching, !state.isShutDown, state.copies[chunk.sequence] == nil else { return }
            state.isPrefetching = true
            state.uses += 1
            state.copies[chunk.sequence] = Copy(file: nil, size: chunk.size, used: state.uses)
            // It has ended: nothing is waited for.
            state.prefetch?.join()
            state.prefetch = WorkerThread(name: "chunk ahead", urgency: .background) { [self] in
                // Whoever wants the chunk finds out for itself why it did not come.
                _ = try? fetch(chunk, volume)
                self.state.update { $0.isPrefetching = false }
            }
        }
    }

    func shutdown() {
        let prefetch = state.update { state in
            state.isShutDown = true
            defer { state.prefetch = nil }
            return state.prefetch
        }
        prefetch?.join()
        state.update { $0.copies = [:] }
    }
}

/// Writes what is read to a file.
final class FileSink: ReadSink {
    private let file: UnlinkedFile
    init(_ file: UnlinkedFile) { self.file = file }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        try file.write(bytes, at: offset)
    }
}
