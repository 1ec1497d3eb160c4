import Glibc
import StoreAPI
import Threading

/// A directory of the host that is being read. Used by one call at a time.
final class LocalListing: @unchecked Sendable {
    private let stream: OpaquePointer

    enum Next {
        case name(FileName)
        case end
        case failure(errno: Int32)
    }

    /// - Parameter directory: An open directory, which is opened once more and can be closed.
    /// - Returns: nil when it cannot be read; `errno` says why.
    init?(of directory: Int32) {
        let opened = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard opened >= 0 else { return nil }
        guard let stream = fdopendir(opened) else {
            close(opened)
            return nil
        }
        self.stream = stream
    }

    deinit { closedir(stream) }

    var descriptor: Int32 { dirfd(stream) }

    /// Where the next name is, as the file system counts.
    var position: Int {
        get { telldir(stream) }
        set { seekdir(stream, newValue) }
    }

    func next() -> Next {
        while true {
            errno = 0
            guard let entry = readdir(stream) else { return errno == 0 ? .end : .failure(errno: errno) }
            let start = UnsafeRawPointer(entry) + MemoryLayout<dirent>.offset(of: \.d_name)!
            let bytes = UnsafeRawBufferPointer(start: start, count: strlen(start.assumingMemoryBound(to: CChar.self)))
            // All but "." and ".." are legal.
            if let name = FileName(Array(bytes)) { return .name(name) }
        }
    }
}

/// Directories of which a page was given and the rest is still to be read.
///
/// A stream that stays open is the one way to read a directory in pieces that POSIX promises anything about: what is
/// there all the time comes exactly once. Those that nobody goes on with are closed in the order of their use;
/// who comes back to one of them goes on at the position that the file system told, which local file systems
/// keep to.
final class LocalListings: Sendable {
    private struct State {
        var open: [(number: Int, position: Int, listing: LocalListing)] = []
        var last = 0
    }
    private static let limit = 64
    private let state = Lock(State())

    /// Keeps a listing for later.
    ///
    /// - Returns: Where to go on.
    func park(_ listing: LocalListing) -> ListCursor {
        let position = listing.position
        return state.withLock { state in
            state.last += 1
            state.open.append((state.last, position, listing))
            if state.open.count > Self.limit { state.open.removeFirst() }
            return ListCursor("\(state.last)@\(position)")
        }
    }

    /// Takes a listing out, to be used by this call alone.
    ///
    /// - Parameter reopen: Opens the directory anew; asked when the listing is not there any more.
    /// - Throws: ``StoreError``: `.invalidArgument` for a cursor that ``park(_:)`` has not made.
    func take(
        _ cursor: ListCursor, reopen: () throws(StoreError) -> LocalListing
    ) throws(StoreError) -> LocalListing {
        let parts = cursor.text.split(separator: "@")
        guard parts.count == 2, let number = Int(parts[0]), let position = Int(parts[1]) else {
            throw StoreError(.invalidArgument, "'\(cursor.text)' is not where a listing of this store goes on")
        }
        let parked = state.withLock { state -> LocalListing? in
            guard let index = state.open.firstIndex(where: { $0.number == number && $0.position == position }) else {
                return nil
            }
            return state.open.remove(at: index).listing
        }
        if let parked { return parked }
        let listing = try reopen()
        listing.position = position
        return listing
    }

    func closeAll() { state.withLock { $0.open = [] } }
}
