import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension HTTPStore {
    /// The most entries of one page of a listing: whoever waits for one of them need not wait for all to be asked for.
    static let pageSize = 256
    /// Files that are asked for at once.
    private static let parallel = 16

    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        if case .file(let name) = try root() { return try listFile(name, directory, after: cursor) }
        let page: IndexPage
        if let cursor {
            guard let parked = state.withLock({ $0.pages.take(cursor) }) else {
                throw StoreError(
                    .unavailable, "the listing of '/\(directory)' was left alone for too long: it is to be begun anew",
                    path: directory)
            }
            page = parked
        } else {
            page = try openPage(of: directory)
        }
        let lines = try page.next(Self.pageSize).filter { !directory.isRoot || $0.name != .control }
        if page.isAtEnd { try check(page, of: directory) }
        let isShort = lines.map { directory.appending($0.name).bytes.count <= Self.longestPath }
        var result = ListPage(entries: try entries(zip(lines, isShort).filter(\.1).map(\.0), in: directory))
        result.refusedNames = page.takeRefused() + zip(lines, isShort).filter { !$1 }.map { $0.0.name.description }
        if !page.isAtEnd { result.next = state.withLock { $0.pages.park(page) } }
        return result
    }

    private func listFile(_ name: FileName, _ directory: StorePath, after cursor: ListCursor?) throws(StoreError)
        -> ListPage
    {
        guard directory.isRoot, cursor == nil else {
            if directory == StorePath.root.appending(name) { throw Self.notADirectory(directory) }
            throw Self.notFound(directory)
        }
        guard let found = try find(StorePath.root.appending(name)) else { return ListPage(entries: []) }
        return ListPage(entries: [ListEntry(name: name, metadata: found)])
    }

    static func notADirectory(_ path: StorePath) -> StoreError {
        StoreError(.notADirectory, "'\(path)' is a file on the server", path: path)
    }

    // MARK: Pages

    /// Fetches the index page of a directory.
    func openPage(of directory: StorePath) throws(StoreError) -> IndexPage {
        let action = directory.isRoot ? Self.opening(site.home) : "'/\(directory)' cannot be listed"
        let spool = try Spool()
        var request = request("GET", .requestsList, .storeList)
        request.sink = spool
        let (response, url) = try send(
            request, self.url(directory, isCollection: true), directory, action: action,
            accepted: directory.isRoot ? [] : [404, 410])
        guard response.status == 200 else {
            guard let there = try find(directory) else { throw Self.notFound(directory) }
            if there.kind != .directory { throw Self.notADirectory(directory) }
            // Made in the meantime.
            throw StoreError(.unavailable, "\(action): status \(response.status)", path: directory)
        }
        guard url.path.hasSuffix("/"), let format = Self.format(response) else { throw Self.noIndex(directory, url) }
        return IndexPage(spool, at: url, format, isWhole: Self.tellsItsEnd(response))
    }

    private static func format(_ response: HTTPResponse) -> IndexPage.Format? {
        let type = (response["Content-Type"] ?? "").prefix { $0 != ";" }.trimmingSpaces().lowercased()
        switch type {
        case "text/html", "application/xhtml+xml": return .html
        case "application/json": return .json
        case "text/xml", "application/xml": return .xml
        default: return nil
        }
    }

    /// Whether an answer that is cut short is noticed below.
    private static func tellsItsEnd(_ response: HTTPResponse) -> Bool {
        response["Content-Length"] != nil || response["Transfer-Encoding"] != nil
    }

    /// When all lines of a page were read: throws if it was none of a directory.
    func check(_ page: IndexPage, of directory: StorePath) throws(StoreError) {
        guard page.isAtEnd else { return }
        if !page.isWhole {
            throw StoreError(
                .unavailable, "the listing of '/\(directory)' has no end: it was cut short", path: directory)
        }
        if !page.isIndex { throw Self.noIndex(directory, site.url(directory.bytes, isCollection: true)) }
    }

    private static func noIndex(_ directory: StorePath, _ url: WebURL) -> StoreError {
        StoreError(
            .unsupported,
            directory.isRoot
                ? "'\(url)' is neither a list of files nor a file: check url"
                : "'/\(directory)' is shown by a page that is no list of files",
            path: directory)
    }

    // MARK: Entries

    /// What lines of a page stand for, as ``find(_:)`` has it.
    private func entries(_ lines: [IndexLine], in directory: StorePath) throws(StoreError) -> [ListEntry] {
        let now = clock.monotonic
        var entries = state.withLock { state in
            lines.map { line -> ListEntry? in
                if line.isDirectory { return ListEntry(name: line.name, metadata: Self.shown(line)) }
                return state.seen.metadata(of: directory.appending(line.name), line, at: now).map {
                    ListEntry(name: line.name, metadata: $0)
                }
            }
        }
        let open = entries.indices.filter { entries[$0] == nil }
        let answers = Lock<[Int: Metadata]>([:])
        try site.session.parallel.run(open.count, parallel: Self.parallel) { [self] (number) throws(StoreError) in
            let index = open[number]
            let metadata = try metadata(of: lines[index], in: directory)
            if let metadata { answers.withLock { $0[index] = metadata } }
        }
        for (index, metadata) in answers.withLock({ $0 }) {
            entries[index] = ListEntry(name: lines[index].name, metadata: metadata)
        }
        return entries.compactMap { $0 }
    }

    private static func shown(_ line: IndexLine) -> Metadata {
        var metadata = Self.directory
        if let modified = line.modified { metadata.modified = modified.time }
        return metadata
    }

    /// - Returns: nil for what is listed and not there.
    private func metadata(of line: IndexLine, in directory: StorePath) throws(StoreError) -> Metadata? {
        let path = directory.appending(line.name)
        do throws(StoreError) {
            guard let found = try look(at: url(path), path, mayBeFolder: false) else { return nil }
            if found.metadata.kind == .file {
                let now = clock.monotonic
                state.withLock { $0.seen.note(found.metadata, of: path, line, asked: found.asked, at: now) }
            }
            return found.metadata
        } catch {
            switch error.code {
            case .accessDenied, .authenticationFailed, .unsupported, .invalidArgument:
                // It is there, and cannot be had: shown as the page has it, and never as empty, so that whoever reads it is
                // told why.
                return Metadata(
                    kind: .file, size: max(line.size ?? 1, 1),
                    modified: line.modified?.time ?? Timestamp(nanoseconds: 0),
                    attributes: Attributes())
            default: throw error
            }
        }
    }
}
