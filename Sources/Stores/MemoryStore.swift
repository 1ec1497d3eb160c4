package import StoreAPI
package import Threading

/// A store in the memory of this process, for tests: the shortest code that keeps the whole contract.
///
/// With `hasRealDirectories` it behaves like a disk; without, like an object store, where a directory is there as long
/// as something lies below it or an empty one was made.
package final class MemoryStore: StoreBackend {
    private struct Object {
        var metadata: Metadata
        var bytes: [UInt8]
    }

    private struct State {
        var objects: [StorePath: Object] = [:]
        var directories: [StorePath: Metadata] = [:]
        var lastVersion = 0
        var isShutDown = false
    }

    private let state = Lock(State())
    private let hasRealDirectories: Bool
    private let pageSize: Int
    private let clock: any Clock
    package let capabilities: StoreCapabilities

    /// - Parameter pageSize: The most entries of one page of a listing.
    package init(hasRealDirectories: Bool = true, pageSize: Int = 1_000, clock: any Clock = SystemClock()) {
        self.hasRealDirectories = hasRealDirectories
        self.pageSize = pageSize
        self.clock = clock
        var features: StoreCapabilities.Features = [
            .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .rangeCopy,
            .atomicMove,
            .directoryMove, .attributes, .extendedAttributes, .attributesInListing, .specialFiles, .spaceUsage,
            .caseSensitive, .consistentListing, .emptyDirectories, .changeTimes,
        ]
        if hasRealDirectories { features.insert(.realDirectories) }
        capabilities = StoreCapabilities(features, deleteBatch: 1_000)
    }

    package func connect() throws(StoreError) { try withState(.root) { _ throws(StoreError) in } }

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        try withState(path) { state throws(StoreError) -> Metadata in try metadata(of: path, in: state) }
    }

    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        try withState(directory) { state throws(StoreError) in
            if hasRealDirectories {
                guard try metadata(of: directory, in: state).kind == .directory else {
                    throw StoreError(.notADirectory, "'\(directory)' is not a directory", path: directory)
                }
            }
            var entries: [FileName: Metadata] = [:]
            for path in Array(state.objects.keys) + Array(state.directories.keys) where path != directory {
                guard path.isInside(directory) else { continue }
                let name = path.components[directory.components.count]
                let child = directory.appending(name)
                if entries[name] == nil { entries[name] = try metadata(of: child, in: state) }
            }
            // The cursor is the last name shown, in hexadecimal digits.
            let rest = entries.keys.sorted().filter { name in cursor.map { hexadecimal(name.bytes) > $0.text } ?? true }
            let page = rest.prefix(pageSize)
            return ListPage(
                entries: page.map { ListEntry(name: $0, metadata: entries[$0]!) },
                next: page.count < rest.count ? ListCursor(hexadecimal(page.last!.bytes)) : nil)
        }
    }

    package func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let object = try withState(path) { state throws(StoreError) -> Object in
            try find(at: path, request.version, in: state)
        }
        let range = (request.range ?? 0..<Int64.max).clamped(to: 0..<Int64(object.bytes.count))
        if !range.isEmpty {
            try object.bytes.withUnsafeBufferPointer { bytes throws(StoreError) in
                let piece = bytes[Int(range.lowerBound)..<Int(range.upperBound)]
                try sink.write(UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: piece)), at: range.lowerBound)
            }
        }
        return object.metadata
    }

    package func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        let bytes = try collect(body, options)
        return try withState(path) { state throws(StoreError) in
            try options.condition.check(state.objects[path]?.metadata.version, at: path)
            try options.requireWanted(path)
            return try place(bytes, at: path, options.kind, options.attributes, in: &state)
        }
    }

    package func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        try withState(path) { state throws(StoreError) in
            if var directory = state.directories[path] {
                directory.attributes = directory.attributes?.merging(attributes)
                state.directories[path] = directory
                return directory
            }
            var object = try find(at: path, version, in: state)
            object.metadata.attributes = object.metadata.attributes?.merging(attributes)
            state.objects[path] = object
            return object.metadata
        }
    }

    package func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        try withState(path) { state throws(StoreError) in try makeDirectory(path, attributes, in: &state) }
    }

    package func delete(_ deletions: [Deletion]) -> [StoreError?] {
        deletions.map { deletion in
            let path = deletion.path
            do throws(StoreError) {
                try withState(path) { state throws(StoreError) in
                    if path.isRoot { throw StoreError(.invalidArgument, "the root of a store cannot be deleted") }
                    if let version = deletion.version, let there = try? metadata(of: path, in: state),
                        there.version != version
                    {
                        throw StoreError.changed(path, version.text)
                    }
                    if state.objects.removeValue(forKey: path) != nil { return }
                    if hasRealDirectories, state.directories[path] != nil, !isEmpty(path, in: state) {
                        throw StoreError(.directoryNotEmpty, "the directory '\(path)' is not empty", path: path)
                    }
                    state.directories[path] = nil
                }
                return nil
            } catch { return error }
        }
    }

    package func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        try withState(source) { state throws(StoreError) in
            let moved = try metadata(of: source, in: state)
            if source == destination { return }
            if destination.isInside(source) {
                throw StoreError(.invalidArgument, "'\(source)' cannot be moved into itself", path: destination)
            }
            if let replaced = try? metadata(of: destination, in: state) {
                if replaced.kind == .directory, moved.kind != .directory, hasRealDirectories {
                    throw StoreError(.isADirectory, "'\(destination)' is a directory", path: destination)
                }
                if replaced.kind != .directory, moved.kind == .directory {
                    throw StoreError(.notADirectory, "'\(destination)' is not a directory", path: destination)
                }
                if replaced.kind == .directory, moved.kind == .directory, !isEmpty(destination, in: state) {
                    throw StoreError(.directoryNotEmpty, "'\(destination)' is not empty", path: destination)
                }
            }
            try makeParents(of: destination, in: &state)
            func target(_ path: StorePath) -> StorePath {
                StorePath(destination.bytes + path.bytes.dropFirst(source.bytes.count))!
            }
            if moved.kind != .directory {
                state.objects[destination] = state.objects.removeValue(forKey: source)
                return
            }
            for (path, object) in state.objects where path.isInside(source) {
                state.objects[path] = nil
                state.objects[target(path)] = object
            }
            for (path, directory) in state.directories where path.isInside(source) {
                state.directories[path] = nil
                state.directories[target(path)] = directory
            }
        }
    }

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        try withState(source) { state throws(StoreError) in
            let object = try find(at: source, options.sourceVersion, in: state)
            try options.condition.check(state.objects[destination]?.metadata.version, at: destination)
            let attributes = options.attributes ?? object.metadata.attributes ?? Attributes()
            return try place(object.bytes, at: destination, object.metadata.kind, attributes, in: &state)
        }
    }

    package func spaceUsage() throws(StoreError) -> SpaceUsage {
        try withState(.root) { state throws(StoreError) in
            SpaceUsage(used: state.objects.values.reduce(0) { $0 + Int64($1.bytes.count) })
        }
    }

    package func accountInformation() throws(StoreError) -> [AccountField] { [AccountField("kind", "memory")] }

    package func shutdown() { state.withLock { $0.isShutDown = true } }
}

extension MemoryStore {
    /// Runs `body` alone, unless the store is shut down or could not hold a path this long.
    private func withState<Result>(_ path: StorePath, _ body: (inout State) throws(StoreError) -> Result)
        throws(StoreError) -> Result
    {
        guard path.bytes.count <= capabilities.longestPath else {
            throw StoreError(.invalidName, "the path of \(path.bytes.count) bytes is too long", path: path)
        }
        return try state.withLock { state throws(StoreError) in
            if state.isShutDown { throw StoreError(.cancelled, "the store is shut down", path: path) }
            return try body(&state)
        }
    }

    private func metadata(of path: StorePath, in state: State) throws(StoreError) -> Metadata {
        if let metadata = state.objects[path]?.metadata ?? state.directories[path] { return metadata }
        if path.isRoot || (!hasRealDirectories && !isEmpty(path, in: state)) {
            return Metadata(kind: .directory, modified: Timestamp(nanoseconds: 0), attributes: Attributes())
        }
        throw StoreError(.notFound, "there is no '\(path)' in the store", path: path)
    }

    private func find(at path: StorePath, _ version: Version?, in state: State) throws(StoreError) -> Object {
        guard let object = state.objects[path] else {
            let kind = try metadata(of: path, in: state).kind
            throw StoreError(.isADirectory, "'\(path)' is a \(kind)", path: path)
        }
        if let version, version != object.metadata.version { throw StoreError.changed(path, version.text) }
        return object
    }

    private func isEmpty(_ directory: StorePath, in state: State) -> Bool {
        !state.objects.keys.contains { $0.isInside(directory) && $0 != directory }
            && !state.directories.keys.contains { $0.isInside(directory) && $0 != directory }
    }

    private func makeParents(of path: StorePath, in state: inout State) throws(StoreError) {
        guard hasRealDirectories, let parent = path.parent, !parent.isRoot else { return }
        if state.directories[parent] == nil { try makeDirectory(parent, Attributes(), in: &state) }
    }

    private func makeDirectory(_ path: StorePath, _ attributes: Attributes, in state: inout State) throws(StoreError) {
        if state.objects[path] != nil, hasRealDirectories {
            throw StoreError(.notADirectory, "'\(path)' is a file", path: path)
        }
        if path.isRoot { return }
        try makeParents(of: path, in: &state)
        let now = clock.calendar
        let known = state.directories[path]?.attributes ?? Attributes(mode: 0o755, uid: 0, gid: 0, modified: now)
        state.directories[path] = Metadata(kind: .directory, modified: now, attributes: known.merging(attributes))
    }

    private func place(
        _ bytes: [UInt8], at path: StorePath, _ kind: FileKind, _ attributes: Attributes, in state: inout State
    ) throws(StoreError) -> Metadata {
        if path.isRoot || (hasRealDirectories && state.directories[path] != nil) {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        try makeParents(of: path, in: &state)
        let now = clock.calendar
        state.lastVersion += 1
        let made = Attributes(
            mode: 0o644, uid: 0, gid: 0, accessed: now, modified: now, changed: now, extended: [:])
        let metadata = Metadata(
            kind: kind, size: Int64(bytes.count), modified: now, version: Version("\(state.lastVersion)"),
            attributes: made.merging(attributes))
        state.objects[path] = Object(metadata: metadata, bytes: bytes)
        return metadata
    }

    /// The bytes of an upload; ``state`` is not locked.
    private func collect(_ body: UploadBody, _ options: PutOptions) throws(StoreError) -> [UInt8] {
        var all: [UInt8] = []
        for segment in body.segments {
            switch segment {
            case .bytes(let bytes):
                all += bytes
                options.progress?(Int64(bytes.count))
            case .file(let descriptor, let offset, let length):
                all += try readFile(descriptor, from: offset, length)
                options.progress?(length)
            case .stored(let path, let version, let range):
                let object = try withState(path) { state throws(StoreError) -> Object in
                    try find(at: path, version, in: state)
                }
                guard range.lowerBound >= 0, range.upperBound <= object.bytes.count else {
                    throw StoreError(.invalidArgument, "'\(path)' ends before \(range.upperBound)", path: path)
                }
                all += object.bytes[Int(range.lowerBound)..<Int(range.upperBound)]
            }
        }
        return all
    }
}

private func hexadecimal(_ bytes: [UInt8]) -> String {
    let digits = Array("0123456789abcdef")
    return String(bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] })
}
