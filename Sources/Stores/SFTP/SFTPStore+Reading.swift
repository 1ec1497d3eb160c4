import Statistics
package import StoreAPI
import StoreSSH
import Threading

extension SFTPStore {
    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        try checkLength(path)
        let progress = ReadProgress()
        return try pool.attempt(.requestsGet, .storeGet) { connection, attempt throws(StoreError) in
            for _ in 1...Self.attempts {
                if let found = try read(path, request, into: sink, connection, attempt, progress) { return found }
            }
            throw StoreError(.unavailable, "'\(path)' is being changed, again and again, while it is read", path: path)
        }
    }

    /// How far a read has come; kept when a connection is lost.
    private final class ReadProgress {
        var version: Version?
        var position: Int64 = 0
    }

    /// - Returns: nil when the file was changed while it was read, and any version will do.
    private func read(
        _ path: StorePath, _ request: ReadRequest, into sink: any ReadSink, _ connection: SFTPConnection,
        _ attempt: SFTPAttempt, _ progress: ReadProgress
    ) throws(StoreError) -> Metadata? {
        let place = bytes(path)
        let status = connection.submit(path.isRoot ? .status(place) : .linkStatus(place))
        // At once where it is known for a plain file. Never else: a fifo would hold the server up.
        let isCertain = request.version.map(isOfFile) ?? false
        let early = isCertain && attempt.number == 0 ? connection.submit(.open(place, .read)) : nil
        let opened = try early?.answer()
        defer {
            if case .handle(let handle) = opened { _ = connection.submit(.close(handle)) }
        }
        let found = try attributes(status, "reading", path)
        if found.kind == .directory { throw StoreError(.isADirectory, "'\(path)' is a directory", path: path) }
        try check(request.version, found, path)
        let metadata = self.metadata(found)
        let range = (request.range ?? 0..<Int64.max).clamped(to: 0..<metadata.size)
        switch metadata.kind {
        case .symbolicLink:
            let target = try readLink(path, connection)
            guard Int64(target.count) == metadata.size else { return nil }
            let piece = Array(target[Int(range.lowerBound)..<Int(range.upperBound)])
            try piece.withUnsafeBufferPointer { bytes throws(StoreError) in
                if !bytes.isEmpty { try sink.write(UnsafeRawBufferPointer(bytes), at: range.lowerBound) }
            }
            return metadata
        case .file:
            if range.isEmpty { return metadata }
            if let opened {
                guard case .handle(let handle) = opened else {
                    if case .status(let code, let message) = opened { throw failure(code, message, "reading", path) }
                    throw Self.senseless("reading", path)
                }
                return try read(path, request, range, of: handle, metadata, into: sink, connection, attempt, progress)
            }
            let handle = try handle(connection.submit(.open(place, .read)), "reading", path)
            defer { _ = connection.submit(.close(handle)) }
            return try read(path, request, range, of: handle, metadata, into: sink, connection, attempt, progress)
        default:
            return metadata
        }
    }

    private func read(
        _ path: StorePath, _ request: ReadRequest, _ range: Range<Int64>, of handle: SFTP.Handle, _ metadata: Metadata,
        into sink: any ReadSink, _ connection: SFTPConnection, _ attempt: SFTPAttempt, _ progress: ReadProgress
    ) throws(StoreError) -> Metadata? {
        if progress.version != metadata.version || progress.position < range.lowerBound {
            if progress.version != nil {
                // What came of another version does not count.
                try sink.write(UnsafeRawBufferPointer(start: nil, count: 0), at: range.lowerBound)
            }
            progress.version = metadata.version
            progress.position = range.lowerBound
        }
        let before = connection.submit(.status(handle))
        var transfer = SFTPTransfer(pool, connection, attempt)
        let after = try transfer.read(
            progress.position..<range.upperBound, of: handle, path, self
        ) { piece, offset throws(StoreError) in
            try pool.checkIsOpen()
            try sink.write(piece, at: offset)
            progress.position = offset + Int64(piece.count)
        }
        guard let after, version(try attributes(before, "reading", path)) == metadata.version,
            version(try attributes(after, "reading", path)) == metadata.version
        else {
            progress.version = Version("")
            if request.version == nil { return nil }
            throw StoreError(.preconditionFailed, "'\(path)' was changed while it was read", path: path)
        }
        return metadata
    }

    func readLink(_ path: StorePath, _ connection: SFTPConnection) throws(StoreError) -> [UInt8] {
        switch try connection.submit(.readLink(bytes(path))).answer() {
        case .names(let names) where names.count == 1: return names[0].name
        case .status(let status, let message): throw failure(status, message, "reading the link", path)
        default: throw Self.senseless("reading the link", path)
        }
    }
}

/// Moves the bytes of one file over one connection, with many requests under way.
///
/// How many bytes are under way begins small and doubles while the answers come soon, so that what else goes over a slow
/// line does not have to wait behind them.
struct SFTPTransfer {
    private let pool: SFTPPool
    private let connection: SFTPConnection
    private let attempt: SFTPAttempt
    private var queue = Queue<Piece>()
    private var underWay = 0
    private var window = Self.smallest
    /// When the window was last made larger, and the bytes answered since.
    private var windowBegan = MonotonicTime.now
    private var answered = 0

    private struct Piece {
        var pending: SFTPPending
        var offset: Int64
        var count: Int
        var isReserved: Bool
    }

    private static let smallest = 256 << 10
    private static let largest = 8 << 20

    init(_ pool: SFTPPool, _ connection: SFTPConnection, _ attempt: SFTPAttempt) {
        self.pool = pool
        self.connection = connection
        self.attempt = attempt
    }

    private var isFull: Bool { underWay >= window }

    /// Room for one more piece; always for the first.
    private mutating func take(_ count: Int) -> Bool? {
        if !queue.isEmpty, isFull { return nil }
        if connection.reserve(count) { return true }
        return queue.isEmpty ? false : nil
    }

    private mutating func push(_ piece: Piece) {
        queue.push(piece)
        underWay += piece.count
    }

    private mutating func pop() -> Piece? {
        guard let piece = queue.pop() else { return nil }
        underWay -= piece.count
        if piece.isReserved { connection.unreserve(piece.count) }
        return piece
    }

    private mutating func noteAnswered(_ count: Int) {
        attempt.note(moved: count)
        answered += count
        guard answered >= window else { return }
        let now = MonotonicTime.now
        if now - windowBegan < .milliseconds(250) { window = min(window * 2, Self.largest) }
        windowBegan = now
        answered = 0
    }

    private mutating func abandon() {
        while pop() != nil {}
    }

    /// - Returns: The question what the file is after all was read, which a server answers in its turn; nil when the file
    ///   ends earlier.
    mutating func read(
        _ range: Range<Int64>, of handle: SFTP.Handle, _ path: StorePath, _ store: SFTPStore,
        _ take: (UnsafeRawBufferPointer, Int64) throws(StoreError) -> Void
    ) throws(StoreError) -> SFTPPending? {
        defer { abandon() }
        var next = range.lowerBound
        var after: SFTPPending?
        while true {
            while next < range.upperBound {
                let count = Int(min(Int64(connection.pieceSize), range.upperBound - next))
                guard let isReserved = self.take(count) else { break }
                try pool.waitForRate(download: count)
                let pending = connection.submit(.read(handle, at: UInt64(next), count: count))
                push(Piece(pending: pending, offset: next, count: count, isReserved: isReserved))
                next += Int64(count)
            }
            // Requests for one file are carried out in the order of their sending (section 6.1 of the draft).
            if next == range.upperBound, after == nil { after = connection.submit(.status(handle)) }
            guard let piece = pop() else { return after }
            var pending = piece.pending
            var done = 0
            // A server may give less than was asked for.
            while true {
                switch try pending.answer() {
                case .data(let message, let bytes) where !bytes.isEmpty && done + bytes.count <= piece.count:
                    try message[bytes].withUnsafeBufferPointer { bytes throws(StoreError) in
                        try take(UnsafeRawBufferPointer(bytes), piece.offset + Int64(done))
                    }
                    done += bytes.count
                case .status(.endOfFile, _): return nil
                case .status(let status, let message): throw store.failure(status, message, "reading", path)
                default: throw SFTPStore.senseless("reading", path)
                }
                if done == piece.count { break }
                after = nil
                pending = connection.submit(
                    .read(handle, at: UInt64(piece.offset) + UInt64(done), count: piece.count - done))
            }
            noteAnswered(piece.count)
        }
    }

    /// Sends the bytes that `fill` gives for each piece.
    ///
    /// - Parameters:
    ///   - fill: Reads so many bytes at an offset of what is sent.
    ///   - whenSent: Called when all is on its way.
    ///   - acknowledge: Told how far all is there.
    mutating func write(
        _ range: Range<Int64>, to handle: SFTP.Handle, _ path: StorePath, _ store: SFTPStore,
        isWanted: (@Sendable () -> Bool)?, fill: (_ offset: Int64, _ count: Int) throws(StoreError) -> [UInt8],
        whenSent: () throws(StoreError) -> Void, acknowledge: (Int64) throws(StoreError) -> Void
    ) throws(StoreError) {
        defer { abandon() }
        var next = range.lowerBound
        while true {
            while next < range.upperBound {
                let count = Int(min(Int64(connection.pieceSize), range.upperBound - next))
                guard let isReserved = take(count) else { break }
                do throws(StoreError) {
                    let bytes = try fill(next, count)
                    try pool.waitForRate(upload: count)
                    let pending = connection.submit(.write(handle, at: UInt64(next), bytes))
                    push(Piece(pending: pending, offset: next, count: count, isReserved: isReserved))
                } catch {
                    if isReserved { connection.unreserve(count) }
                    throw error
                }
                next += Int64(count)
                if next == range.upperBound { try whenSent() }
            }
            guard let piece = pop() else { return }
            do throws(StoreError) {
                try store.done(piece.pending, "writing", path, isWanted: isWanted)
            } catch {
                throw store.explained(error, connection, isWriting: true)
            }
            noteAnswered(piece.count)
            try acknowledge(piece.offset + Int64(piece.count))
        }
    }
}
