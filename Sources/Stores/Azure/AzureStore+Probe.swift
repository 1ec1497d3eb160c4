import Statistics
package import StoreAPI
import StoreHTTP
import Threading

/// Finding out what an account does: by what it says of itself, and by trial.
extension AzureStore {
    package func connect() throws(StoreError) {
        // A listing is what a signature for a container permits, unlike looking at the container.
        _ = try listPage(
            prefix: configuration.prefix, delimiter: true, maximum: 1, after: nil, .root,
            action: "\(place) could not be opened")
        let isHierarchical = try findNamespace()
        state.withLock { $0.isHierarchical = isHierarchical }
        var probe = Probe(store: self)
        try probe.run()
        let features = probe.features
        state.withLock { state in
            state.capabilities.features = features
            state.capabilities.longestPath = longestKey - configuration.prefix.count
            state.capabilities.largestObject = Self.largestBlob
            state.capabilities.rangeCopySizes = PartPlan.smallestPart...Self.largestBlock
            state.capabilities.multipartThreshold = Self.multipartThreshold
        }
    }

    /// 16 MiB: two blocks of the usual size. Below it the more requests cost more than sending in parallel gains.
    static let multipartThreshold: Int64 = 2 * PartPlan.usualPart

    /// Whether directories are real; nil when nobody tells, since the credentials are not for that.
    ///
    /// Sources: <https://learn.microsoft.com/rest/api/storageservices/get-account-information>;
    /// <https://learn.microsoft.com/rest/api/storageservices/datalakestoragegen2/filesystem/get-properties>.
    private func findNamespace() throws(StoreError) -> Bool? {
        var call = AzureCall(
            "GET", nil, .requestsOther, .storeOther, action: "the kind of the account could not be found out")
        call.query = [("restype", "account"), ("comp", "properties")]
        call.expected = [
            .accessDenied, .authenticationFailed, .invalidArgument, .unsupported, .notFound, .storeNotFound,
        ]
        if let told = try attempt(call).answer?["x-ms-is-hns-enabled"] { return told.lowercased() == "true" }
        guard configuration.dataLakeEndpoint != nil else { return nil }
        call.method = "HEAD"
        call.service = .dataLake
        call.query = [("resource", "filesystem")]
        return try attempt(call).answer?["x-ms-namespace-enabled"].map { $0.lowercased() == "true" }
    }

    /// Trials with small blobs below `.cloudfusion/`, which are removed again.
    private struct Probe {
        let store: AzureStore
        var features: StoreCapabilities.Features
        private let name = Trial.name()
        private let bytes: [UInt8] = (0..<64).map { _ in UInt8.random(in: 0...255) }
        private var made: [StorePath] = []

        init(store: AzureStore) {
            self.store = store
            features = [.caseSensitive]
            if store.isHierarchical { features.insert(.realDirectories) }
        }

        private var path: StorePath { sibling("") }
        private func sibling(_ suffix: String) -> StorePath { StorePath(".cloudfusion/probe-\(name)\(suffix)")! }

        mutating func run() throws(StoreError) {
            let first: Metadata
            do throws(StoreError) {
                first = try store.put(
                    UploadBody(bytes), at: path, PutOptions(condition: .ifAbsent, attributes: Trial.attributes))
            } catch {
                switch error.code {
                case .accessDenied, .authenticationFailed, .unsupported, .readOnly, .quotaExceeded:
                    // The container could be opened: the credentials are for reading only, or the account is full.
                    features.formUnion([.rangedRead, .consistentListing, .emptyDirectories])
                    return
                default: throw error
                }
            }
            made.append(path)
            do throws(StoreError) {
                try tryReading(first)
                try tryAttributes()
                try tryConditions()
                try tryCopying()
                try tryDirectory()
            } catch {
                // The error that ended the trials counts, not one of the clearing away.
                _ = store.delete(made.reversed().map { Deletion($0) })
                throw error
            }
            for case let error? in store.delete(made.reversed().map { Deletion($0) }) { throw error }
        }

        private mutating func tryReading(_ first: Metadata) throws(StoreError) {
            let sink = MemorySink(from: 10)
            let read = try store.read(path, ReadRequest(range: 10..<20, version: first.version), into: sink)
            if sink.bytes == Array(bytes[10..<20]), read.size == Int64(bytes.count) { features.insert(.rangedRead) }
            let key = try store.key(path)
            let listing = try store.listKeys(prefix: key, delimiter: false, maximum: 2, after: nil, path)
            if listing.objects.map(\.key) == [key] { features.insert(.consistentListing) }
        }

        private mutating func tryAttributes() throws(StoreError) {
            let key = try store.key(path)
            guard let before = try store.head(key, path) else { return }
            var other = Trial.attributes
            other.mode = 0o600
            _ = try store.replaceAttributes(
                of: before, key, path, isDirectoryKey: false, Attributes(mode: other.mode))
            let found = store.metadata(before, size: 0, isDirectoryKey: false).attributes
            if found == Trial.attributes, try store.metadata(of: path).attributes == other {
                features.formUnion([.attributes, .extendedAttributes, .specialFiles, .changeTimes])
            }
        }

        private mutating func tryConditions() throws(StoreError) {
            let wrong = Version("0x0")
            func isRefused(_ condition: WriteCondition) throws(StoreError) -> Bool {
                do throws(StoreError) {
                    _ = try store.put(UploadBody(bytes + [1]), at: path, PutOptions(condition: condition))
                    return false
                } catch {
                    guard error.code == .preconditionFailed else { throw error }
                    return true
                }
            }
            if try isRefused(.ifAbsent) { features.insert(.conditionalCreate) }
            if try isRefused(.ifVersion(wrong)) { features.insert(.conditionalReplace) }
            if let error = store.delete([Deletion(path, ifVersion: wrong)])[0] {
                guard error.code == .preconditionFailed else { throw error }
                features.insert(.conditionalDelete)
            }
        }

        private mutating func tryCopying() throws(StoreError) {
            let (copy, source) = (sibling("-copy"), sibling("-source"))
            made += [copy, source]
            let version = try store.put(UploadBody(bytes), at: source, PutOptions()).version
            guard try store.copy(source, to: copy, CopyOptions(sourceVersion: version)).size == Int64(bytes.count)
            else {
                return
            }
            features.insert(.serverSideCopy)
            // A block that is never committed goes with the blob, or after a week.
            let key = try store.key(copy)
            let block = TextEncoding.base64(Array("trial".utf8))
            guard
                let answer = try tolerating({ () throws(StoreError) in
                    try store.copyBlock(source, version, 5..<25, to: key, block, copy)
                })
            else { return }
            let told = answer["Content-MD5"].flatMap { TextEncoding.bytes(base64: $0) }
            if told == nil || told == Digest.md5(Array(bytes[5..<25])) { features.insert(.rangeCopy) }
            let blocks = try store.uncommittedBlocks(key, copy)
            if blocks.map(\.name) == [block], blocks[0].size == 20 { features.insert(.resumableUpload) }
        }

        private mutating func tryDirectory() throws(StoreError) {
            let directory = sibling("-directory")
            try store.createDirectory(at: directory, Attributes(mode: 0o750))
            made.append(directory)
            if try store.directory(directory)?.attributes?.mode == 0o750 { features.insert(.emptyDirectories) }
            guard store.isHierarchical else { return }
            let moved = sibling("-moved")
            made.append(moved)
            let isMoved: Void? = try tolerating { () throws(StoreError) in try store.move(directory, to: moved) }
            if isMoved != nil { features.formUnion([.atomicMove, .directoryMove]) }
        }

        /// nil where the server refuses, which is what a trial is for; faults of the network are thrown.
        private func tolerating<Result>(_ body: () throws(StoreError) -> Result) throws(StoreError) -> Result? {
            do throws(StoreError) { return try body() } catch {
                switch error.code {
                case .accessDenied, .authenticationFailed, .unsupported, .invalidArgument, .notFound, .alreadyExists:
                    return nil
                default: throw error
                }
            }
        }
    }
}
