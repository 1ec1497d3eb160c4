package import StoreAPI
import Threading

/// Copies everything below the root of one store to another one, many files at once.
///
/// What the other store has under the same name is replaced, whatever else it has stays. A file that cannot be copied is
/// noted, and the rest goes on. Directories get their attributes last, when nothing is put into them any more.
///
/// What objects say of being names of one file, or of replacing a packed one, is not copied: it is made for the store where
/// they are.
package final class TreeCopy: Sendable {
    package struct Progress: Hashable, Sendable {
        package var files = 0
        package var directories = 0
        /// Of files that are there whole.
        package var bytes: Int64 = 0
        package var failures = 0
    }

    package struct Failure: Sendable {
        package var path: StorePath
        package var error: StoreError
    }

    package struct Outcome: Sendable {
        package var progress: Progress
        /// The first ``mostFailures``.
        package var failures: [Failure]
        package var wasInterrupted: Bool
    }

    /// How many failures are remembered, each with its sentence.
    package static let mostFailures = 1_000

    private enum Job: Sendable {
        /// A page of a directory's listing.
        case page(StorePath, after: ListCursor?)
        case file(StorePath, Metadata)
    }

    private struct State {
        // The last is taken first, so that there are never more than a page for each level of the tree.
        var jobs: [Job] = [.page(.root, after: nil)]
        var running = 0
        var progress = Progress()
        var failures: [Failure] = []
        var directories: [(path: StorePath, attributes: Attributes)] = []
        /// The first name of each file with several, by the file's identity, and those that came later.
        var firstNames: [String: StorePath] = [:]
        var otherNames: [(first: String, path: StorePath, Metadata)] = []
        var isInterrupted = false
        var isOver: Bool { isInterrupted ? running == 0 : jobs.isEmpty && running == 0 }
    }

    private let source: any Store
    private let target: any Store
    private let workers: Int
    private let link: Link?
    private let state = Monitor(State())

    /// Gives the first path's file in the target another name.
    package typealias Link = @Sendable (StorePath, StorePath) throws(StoreError) -> Void

    /// - Parameters:
    ///   - workers: How many files are copied at once.
    ///   - link: Called for names of a file that was copied under another name. nil: each becomes a file of its own.
    package init(from source: any Store, to target: any Store, workers: Int = 16, link: Link? = nil) {
        self.source = source
        self.target = target
        self.workers = max(1, workers)
        self.link = link
    }

    /// Copies, and returns when all is done. Once.
    ///
    /// - Parameter report: Called on this thread, a few times a second; false ends the copying after the files under way.
    package func run(report: (Progress) -> Bool) -> Outcome {
        let threads = (0..<workers).map { _ in WorkerThread(name: "copy") { [self] in work() } }
        while true {
            let isOver = state.wait(until: .now + .milliseconds(250)) { $0.isOver ? true : nil } ?? false
            let progress = state.withLock { $0.progress }
            if !report(progress) { state.update { $0.isInterrupted = true } }
            if isOver { break }
        }
        for thread in threads { thread.join() }
        linkOtherNames()
        if !state.withLock({ $0.isInterrupted }) { setTimesOfDirectories() }
        return state.withLock {
            Outcome(progress: $0.progress, failures: $0.failures, wasInterrupted: $0.isInterrupted)
        }
    }

    private func work() {
        while let job = nextJob() {
            var path: StorePath
            do throws(StoreError) {
                switch job {
                case .page(let directory, after: let cursor):
                    path = directory
                    try take(try source.list(directory, after: cursor), of: directory)
                case .file(let file, let metadata):
                    path = file
                    try copy(file, metadata)
                }
            } catch { note(error, at: path) }
            state.update { $0.running -= 1 }
        }
    }

    private func nextJob() -> Job? {
        let job = state.wait { state -> Job?? in
            if state.isInterrupted { return .some(nil) }
            if let job = state.jobs.popLast() {
                state.running += 1
                return .some(job)
            }
            return state.running == 0 ? .some(nil) : nil
        }
        return job ?? nil
    }

    private func note(_ error: StoreError, at path: StorePath) {
        state.withLock {
            $0.progress.failures += 1
            if $0.failures.count < Self.mostFailures { $0.failures.append(Failure(path: path, error: error)) }
        }
    }

    private func take(_ page: ListPage, of directory: StorePath) throws(StoreError) {
        var jobs: [Job] = page.next.map { [.page(directory, after: $0)] } ?? []
        for entry in page.entries {
            let path = directory.appending(entry.name)
            guard entry.metadata.kind == .directory else {
                jobs.append(.file(path, entry.metadata))
                continue
            }
            do throws(StoreError) {
                var attributes = entry.metadata.attributes
                if attributes == nil { attributes = try source.metadata(of: path).attributes }
                try target.createDirectory(at: path, Attributes())
                state.withLock {
                    $0.progress.directories += 1
                    $0.directories.append((path, attributes ?? Attributes()))
                }
                jobs.append(.page(path, after: nil))
            } catch { note(error, at: path) }
        }
        state.update { $0.jobs += jobs }
    }

    private func copy(_ path: StorePath, _ listed: Metadata) throws(StoreError) {
        let metadata = listed.attributes == nil ? try source.metadata(of: path) : listed
        if link != nil, let identity = ObjectIdentity(metadata, at: path) {
            let isFirst = state.withLock { state in
                if state.firstNames[identity.file] == nil {
                    state.firstNames[identity.file] = path
                    return true
                }
                state.otherNames.append((identity.file, path, metadata))
                return false
            }
            if !isFirst { return }
        }
        try copyBytes(path, metadata)
    }

    private func copyBytes(_ path: StorePath, _ metadata: Metadata) throws(StoreError) {
        var attributes = metadata.attributes ?? Attributes()
        attributes.identity = nil
        attributes.replaces = nil
        let file = try NamelessFile.temporary()
        let read = try source.read(path, ReadRequest(version: metadata.version), into: file)
        let put = try target.put(
            UploadBody(descriptor: file.descriptor, length: read.size), at: path,
            PutOptions(
                kind: metadata.kind, attributes: attributes,
                isWanted: { [state] in !state.withLock { $0.isInterrupted } }))
        guard put.size == read.size else {
            throw StoreError(
                .corrupted, "'\(path)' has \(read.size) bytes, and \(put.size) of them arrived", path: path)
        }
        state.withLock {
            $0.progress.files += 1
            $0.progress.bytes += read.size
        }
    }

    /// Those of which the first is not there, since it could not be copied, are copied themselves.
    private func linkOtherNames() {
        guard let link else { return }
        let (firstNames, otherNames) = state.withLock { ($0.firstNames, $0.otherNames) }
        for (identity, path, metadata) in otherNames where !state.withLock({ $0.isInterrupted }) {
            do throws(StoreError) {
                do throws(StoreError) { try link(firstNames[identity]!, path) } catch {
                    // Or the target cannot do it, which copying then tells, or does.
                    try copyBytes(path, metadata)
                    continue
                }
                state.withLock { $0.progress.files += 1 }
            } catch { note(error, at: path) }
        }
    }

    private func setTimesOfDirectories() {
        let directories = state.withLock { $0.directories }
        // What is deeper first: its attributes may change the time of what it is in.
        for (path, attributes) in directories.sorted(by: { $0.path.components.count > $1.path.components.count })
        where attributes != Attributes() && target.capabilities.contains(.attributes) {
            do { _ = try target.setAttributes(attributes, at: path, ifVersion: nil) } catch { note(error, at: path) }
        }
    }
}
