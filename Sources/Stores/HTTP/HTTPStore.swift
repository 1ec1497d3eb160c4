package import Statistics
package import StoreAPI
package import StoreHTTP
package import Threading

/// Files on a web server, for reading: a folder that the server shows as an index page, with all below it, or one file.
///
/// Names are what the links of an index page lead to. A page tells sizes and times roughly if at all, so each file is asked
/// for (HEAD), several at a time; what was told is remembered as long as its line on the page, with a time in it, stays the
/// same. A version is an entity tag without its quotes and without `W/`, or time and size where there is none.
///
/// Whatever a request is answered with, bytes of two versions are never mixed: each answer is compared with the version that
/// was meant, and the file is asked for once more when its bytes have come.
///
/// Sources: RFC 9110; ``IndexPage``.
package final class HTTPStore: StoreBackend {
    /// What the URL of the settings is.
    enum Root: Hashable {
        case directory
        /// One file, with the name that it has in a directory of its own.
        case file(FileName)
    }

    struct State {
        var capabilities = StoreCapabilities(
            [.rangedRead, .realDirectories, .emptyDirectories, .caseSensitive, .consistentListing],
            longestPath: HTTPStore.longestPath, isReadOnly: true)
        /// nil: not asked yet.
        var root: Root?
        var answersHead = true
        /// `If-Match` has not failed for a file that had that entity tag all the same: for a weak one, it always does.
        var takesMatch = true
        var seen = SeenFiles()
        var pages = OpenPages()
    }

    /// Percent-encoded it has to fit into a line of 8 KB, which is what servers take.
    static let longestPath = 2000

    let site: WebSite
    let isAnonymous: Bool
    /// The URL has been given with a slash at its end: then it is a folder's.
    let isFolder: Bool
    let clock: any Clock
    let state = Lock(State())

    /// - Parameter transport: nil: libcurl.
    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package init(
        _ settings: StoreSettings, statistics: Statistics, transport: (any HTTPTransport)? = nil,
        clock: any Clock = SystemClock()
    ) throws(StoreError) {
        self.clock = clock
        let place = try WebPlace(settings, example: "https://www.example.org/pub/")
        isAnonymous = place.user == nil && place.token == nil
        isFolder = place.base.path.isEmpty || (settings["url"] ?? "").hasSuffix("/")
        // Nothing is sent but the request: whoever has the file may answer.
        site = WebSite(place, statistics: statistics, transport: transport) { $2.isSecure || !$1.isSecure }
    }

    package var capabilities: StoreCapabilities { state.withLock { $0.capabilities } }

    package func accountInformation() throws(StoreError) -> [AccountField] {
        [
            AccountField("store", "HTTP"), AccountField("url", site.base.description),
            AccountField("credentials", site.authentication.origin),
        ]
    }

    package func tune(_ tuning: StoreTuning) { site.session.tune(tuning) }
    package func reconnect() { site.session.reconnect() }
    package func shutdown() { site.shutdown() }

    // MARK: Connecting

    package func connect() throws(StoreError) {
        state.withLock { $0.root = nil }
        guard try root() == .directory else {
            _ = try tryRange(.root, site.base)
            return
        }
        // That it is a folder is shown by its page.
        let page = try openPage(of: .root)
        let files = try page.next(Self.pageSize).filter { !$0.isDirectory }
        try check(page, of: .root)
        for line in files.prefix(Self.mostTrials) {
            let path = StorePath.root.appending(line.name)
            if try tryRange(path, url(path)) { return }
        }
    }

    /// How many files are looked at to find out whether ranges are served: some are empty, or not for us.
    private static let mostTrials = 5

    /// Asks for one byte.
    ///
    /// - Returns: Whether that has told whether ranges are served.
    private func tryRange(_ path: StorePath, _ url: WebURL) throws(StoreError) -> Bool {
        let response: HTTPResponse
        do throws(StoreError) { response = try askForByte(url, path, action: Self.opening(site.home)).response } catch {
            switch error.code {
            case .notFound, .accessDenied, .isADirectory, .invalidArgument, .storeNotFound: return false
            default: throw error
            }
        }
        switch response.status {
        case 206: setServesRanges(true)
        case 200 where HTTPAnswer.toldSize(response) ?? 0 > 1: setServesRanges(false)
        default: return false
        }
        return true
    }

    func setServesRanges(_ does: Bool) {
        state.withLock { state in
            if does {
                state.capabilities.features.insert(.rangedRead)
            } else {
                state.capabilities.features.remove(.rangedRead)
            }
        }
    }

    static func opening(_ url: WebURL) -> String { "'\(url)' cannot be opened" }

    /// What the URL of the settings is; asks the server if that was not done yet.
    func root() throws(StoreError) -> Root {
        if let root = state.withLock({ $0.root }) { return root }
        let root = try findRoot()
        state.withLock { $0.root = root }
        return root
    }

    private func findRoot() throws(StoreError) -> Root {
        if isFolder { return .directory }
        guard let found = try look(at: site.base, .root, mayBeFolder: true) else {
            throw StoreError(
                .storeNotFound, "\(Self.opening(site.home)): there is nothing on the server; check url", path: .root)
        }
        if found.metadata.kind == .directory { return .directory }
        let last = site.home.path.split(separator: "/").last
        guard let name = last.flatMap({ TextEncoding.percentDecode($0) }).flatMap({ FileName($0) }) else {
            throw StoreError(.invalidArgument, "the last part of url, '\(last ?? "")', is no name of a file")
        }
        return .file(name)
    }

    // MARK: URLs

    /// Where the file or directory is.
    ///
    /// - Throws: ``StoreError``: `.invalidName` for a path that is too long, `.notFound` for another one than the file,
    ///   where the store is one.
    func url(_ path: StorePath, isCollection: Bool = false) throws(StoreError) -> WebURL {
        guard path.bytes.count <= Self.longestPath else {
            throw StoreError(
                .invalidName,
                "'\(path)' has \(path.bytes.count) bytes: on a web server paths have \(Self.longestPath) at most",
                path: path)
        }
        guard case .file(let name) = try root() else { return site.url(path.bytes, isCollection: isCollection) }
        guard path == StorePath.root.appending(name) else { throw Self.notFound(path) }
        return site.base
    }

    static func notFound(_ path: StorePath) -> StoreError {
        StoreError(.notFound, "'\(path)' does not exist on the server", path: path)
    }
}

// MARK: Changes

extension HTTPStore {
    private func isReadOnly(_ path: StorePath) -> StoreError {
        StoreError(.readOnly, "'\(path)' cannot be changed: this store is for reading only", path: path)
    }

    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        throw isReadOnly(path)
    }
    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        throw isReadOnly(path)
    }
    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        throw isReadOnly(path)
    }
    package func delete(_ deletions: [Deletion]) -> [StoreError?] { deletions.map { isReadOnly($0.path) } }
    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) { throw isReadOnly(source) }
    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        throw isReadOnly(destination)
    }
}

// MARK: What is remembered

/// What the server has said of files, as long as the index page says the same of them.
struct SeenFiles {
    private struct Seen {
        var note: String
        var metadata: Metadata
        var since: MonotonicTime
    }

    private static let most = 50_000
    /// A change within that time may leave the note of a file as it is, which tells minutes.
    private static let settling: Int64 = 120
    /// A file may be replaced by one that looks the same on the page: of the same size, and of the same minute long ago.
    static let lifetime = Duration.seconds(3_600)

    private var files: [StorePath: Seen] = [:]

    /// What is known of a file with this line; nil: the server has to be asked.
    func metadata(of path: StorePath, _ line: IndexLine, at now: MonotonicTime) -> Metadata? {
        guard let seen = files[path], seen.note == line.note, now - seen.since < Self.lifetime else { return nil }
        return seen.metadata
    }

    /// - Parameters:
    ///   - asked: When that was so, by the server's clock.
    ///   - now: By ours.
    mutating func note(
        _ metadata: Metadata, of path: StorePath, _ line: IndexLine, asked: Timestamp?, at now: MonotonicTime
    ) {
        // Without a time in it, or with one of something else, a line stays as it is when the file changes.
        guard let asked, let written = line.modified, written.isWritten(for: metadata.modified),
            asked.seconds - metadata.modified.seconds > Self.settling
        else {
            files[path] = nil
            return
        }
        if files.count >= Self.most { files = [:] }
        files[path] = Seen(note: line.note, metadata: metadata, since: now)
    }

    mutating func forget(_ path: StorePath) { files[path] = nil }
}

/// Index pages of which a part was read.
struct OpenPages {
    private static let most = 64

    private var pages: [UInt64: IndexPage] = [:]
    private var next: UInt64 = 0

    mutating func park(_ page: IndexPage) -> ListCursor {
        // Nobody has come back for the oldest.
        if pages.count >= Self.most, let oldest = pages.keys.min() { pages[oldest] = nil }
        next += 1
        pages[next] = page
        return ListCursor(String(next))
    }

    mutating func take(_ cursor: ListCursor) -> IndexPage? {
        UInt64(cursor.text).flatMap { pages.removeValue(forKey: $0) }
    }
}
