import Statistics
package import StoreAPI
import StoreSSH
import Threading

extension SFTPStore {
    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        try checkLength(directory)
        let listing =
            try cursor.map { cursor throws(StoreError) in try listings.take(cursor) } ?? SFTPListing(directory)
        var page = ListPage(entries: [])
        try pool.attempt(.requestsList, .storeList) { connection, _ throws(StoreError) in
            try pool.checkIsOpen()
            // What was got before a connection was lost counts, and is not got again.
            try listing.goOn(self, connection, until: pageSize, &page)
        }
        if !listing.isAtEnd { page.next = listings.park(listing) }
        return page
    }

    /// Calls `body` with each entry of a directory but "." and "..".
    func forEachName(
        in directory: StorePath, _ connection: SFTPConnection,
        _ body: (FileName, SFTPAttributes) throws(StoreError) -> Void
    ) throws(StoreError) {
        let handle = try handle(connection.submit(.openDirectory(bytes(directory))), "listing", directory)
        defer { _ = connection.submit(.close(handle)) }
        while let page = try names(connection.submit(.readDirectory(handle)), directory) {
            for (bytes, found) in page {
                if let name = FileName(bytes) { try body(name, found) }
            }
        }
    }

    /// - Returns: nil at the end.
    func names(_ pending: SFTPPending, _ directory: StorePath) throws(StoreError) -> [(
        name: [UInt8], attributes: SFTPAttributes
    )]? {
        switch try pending.answer() {
        case .names(let names): return names
        case .status(.endOfFile, _): return nil
        case .status(let status, let message): throw failure(status, message, "listing", directory)
        default: throw Self.senseless("listing", directory)
        }
    }
}

/// A directory of which a part was listed. Used by one call at a time.
///
/// A server reads a directory that stays open in order; it cannot be told to go on anywhere. When the connection is lost,
/// the directory is read anew, and what was told already is passed over: what is there all the time comes exactly once.
final class SFTPListing: @unchecked Sendable {
    let directory: StorePath
    private(set) var isAtEnd = false
    private var open: (connection: SFTPConnection, handle: SFTP.Handle)?
    private var told: Set<FileName> = []

    /// How many requests are on their way at once: OpenSSH answers each with a hundred names.
    private static let requests = 8

    init(_ directory: StorePath) { self.directory = directory }

    deinit { close() }

    private func close() {
        if let open { _ = open.connection.submit(.close(open.handle)) }
        open = nil
    }

    /// Adds what comes next, until there are so many entries or it is at its end.
    func goOn(_ store: SFTPStore, _ connection: SFTPConnection, until count: Int, _ page: inout ListPage)
        throws(StoreError)
    {
        do throws(StoreError) {
            if open == nil { try begin(store, connection) }
            while !isAtEnd, page.entries.count < count { try read(store, &page) }
        } catch {
            // It is begun anew when it is asked for again, as after a lost connection.
            close()
            throw error
        }
    }

    private func begin(_ store: SFTPStore, _ connection: SFTPConnection) throws(StoreError) {
        let place = store.bytes(directory)
        let status = connection.submit(directory.isRoot ? .status(place) : .linkStatus(place))
        let opening = connection.submit(.openDirectory(place))
        let answer = try opening.answer()
        if case .handle(let handle) = answer { open = (connection, handle) }
        let found = try store.attributes(status, "listing", directory)
        guard found.kind == .directory else {
            throw StoreError(.notADirectory, "'\(directory)' is no directory", path: directory)
        }
        if case .status(let code, let message) = answer { throw store.failure(code, message, "listing", directory) }
        if open == nil { throw SFTPStore.senseless("listing", directory) }
    }

    private func read(_ store: SFTPStore, _ page: inout ListPage) throws(StoreError) {
        guard let (connection, handle) = open else { return }
        let pending = (0..<Self.requests).map { _ in connection.submit(.readDirectory(handle)) }
        for request in pending {
            guard let names = try store.names(request, directory) else {
                isAtEnd = true
                return close()
            }
            for (bytes, found) in names { try add(bytes, found, store, connection, &page) }
        }
    }

    private func add(
        _ bytes: [UInt8], _ found: SFTPAttributes, _ store: SFTPStore, _ connection: SFTPConnection,
        _ page: inout ListPage
    ) throws(StoreError) {
        guard let name = FileName(bytes) else {
            if ![Array(".".utf8), Array("..".utf8)].contains(bytes) {
                page.refusedNames.append(String(decoding: bytes, as: UTF8.self))
            }
            return
        }
        if directory.isRoot, name == .control { return }
        if name.bytes.starts(with: SFTPStore.temporaryPrefix) {
            return try store.removeLeftover(
                name, found, in: directory, now: store.clock.calendar.seconds, connection)
        }
        guard told.insert(name).inserted else { return }
        page.entries.append(ListEntry(name: name, metadata: store.metadata(found)))
    }
}

/// Listings of which a page was given and the rest is still to be read. Those that nobody goes on with are closed in the
/// order of their use.
final class SFTPListings: Sendable {
    private struct State {
        var parked: [(number: Int, listing: SFTPListing)] = []
        var last = 0
    }
    private static let limit = 64
    private let state = Lock(State())

    func park(_ listing: SFTPListing) -> ListCursor {
        let (number, given) = state.withLock { state -> (Int, SFTPListing?) in
            state.last += 1
            state.parked.append((state.last, listing))
            return (state.last, state.parked.count > Self.limit ? state.parked.removeFirst().listing : nil)
        }
        // Closed here, outside of the lock.
        _ = given
        return ListCursor(String(number))
    }

    /// - Throws: ``StoreError``: `.unavailable` for one that was closed: the whole listing has to be begun anew.
    func take(_ cursor: ListCursor) throws(StoreError) -> SFTPListing {
        let found = state.withLock { state -> SFTPListing? in
            guard let index = state.parked.firstIndex(where: { String($0.number) == cursor.text }) else { return nil }
            return state.parked.remove(at: index).listing
        }
        guard let found else {
            throw StoreError(.unavailable, "a listing was left alone for so long that it has to begin anew")
        }
        return found
    }

    func removeAll() {
        let parked = state.withLock { state in
            defer { state.parked = [] }
            return state.parked
        }
        _ = parked
    }
}
