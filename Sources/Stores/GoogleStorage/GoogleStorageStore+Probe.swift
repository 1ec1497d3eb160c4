import Statistics
package import StoreAPI
import StoreHTTP
import Threading

/// Finding out what a server does, by trial: others than Google's leave out what they do not know without a word.
extension GoogleStorageStore {
    package func connect() throws(StoreError) {
        var opening = GoogleStorageCall(
            "GET", target: .objects, .requestsList, .storeList, action: "\(place) could not be opened")
        opening.query = [("maxResults", "1"), ("fields", "nextPageToken")]
        _ = try send(opening)
        var probe = Probe(store: self)
        try probe.run()
        let outcome = probe
        state.withLock { state in
            state.traits = outcome.traits
            state.capabilities.features = outcome.features
            state.capabilities.largestObject = Self.largestObject
            state.capabilities.multipartThreshold = outcome.hasSessions ? Self.multipartThreshold : nil
        }
    }

    /// 16 MiB: two components of the usual size. Below it the more requests cost more than sending in parallel gains.
    static let multipartThreshold: Int64 = 2 * PartPlan.usualPart

    /// Trials with small objects below `.cloudfusion/`, which are removed again.
    private struct Probe {
        let store: GoogleStorageStore
        var traits = GoogleStorageTraits()
        var features: StoreCapabilities.Features = [.caseSensitive]
        var hasSessions = false
        private let path: StorePath
        private let bytes: [UInt8] = (0..<64).map { _ in UInt8.random(in: 0...255) }
        private var made: Set<StorePath> = []
        private var markers: Set<StorePath> = []

        init(store: GoogleStorageStore) {
            self.store = store
            path = StorePath(".cloudfusion/probe-\(Trial.name())")!
        }

        mutating func run() throws(StoreError) {
            let first: GoogleStorageObject
            do throws(StoreError) {
                first = try insert(path, bytes, [])!
                made.insert(path)
            } catch {
                switch error.code {
                case .accessDenied, .unsupported, .readOnly, .quotaExceeded, .authenticationFailed:
                    // Listing was permitted, so the credentials are right: they are for reading only, or the store is full.
                    // Google reads ranges, and lists what was written, by definition.
                    features.formUnion([.rangedRead, .consistentListing, .emptyDirectories])
                    return
                default: throw error
                }
            }
            do throws(StoreError) {
                try tryAll(first)
                try removeAll()
            } catch {
                // The error that ended the trials counts, not one of the clearing away.
                try? removeAll()
                throw error
            }
        }

        private mutating func tryAll(_ first: GoogleStorageObject) throws(StoreError) {
            try tryReading(first)
            try tryListing()
            try tryAttributes()
            try tryConditions()
            try tryCopying()
            try tryComposing()
            try tryResuming()
        }

        // MARK: Trials

        private func sibling(_ name: String) -> StorePath { StorePath("\(path)-\(name)")! }

        /// - Returns: nil when a condition is refused.
        private func insert(
            _ path: StorePath, _ bytes: [UInt8], _ query: [(name: String, value: String?)], _ kind: FileKind = .file
        ) throws(StoreError) -> GoogleStorageObject? {
            let key = try store.key(path, asDirectory: kind == .directory)
            let request = GoogleStorageRequest(
                name: String(decoding: key, as: UTF8.self), storageClass: store.configuration.storageClass,
                description: store.description(path, kind, Trial.attributes).description)
            return try store.insert(
                UploadBody(bytes), request, action: "a trial object could not be written", path, query: query,
                counter: .requestsPut, isWanted: nil, progress: nil, accepted: [412])
        }

        private mutating func tryReading(_ first: GoogleStorageObject) throws(StoreError) {
            let sink = MemorySink(from: 10)
            var call = GoogleStorageCall(
                "GET", target: .object(try store.key(path)), .requestsGet, .storeGet,
                action: "a trial object could not be read", path: path)
            call.query = [("alt", "media"), ("generation", first.generation)]
            call.headers = [("Range", "bytes=10-19")]
            call.sink = sink
            call.sinkOffset = 10
            let response = try store.send(call)
            if response.status == 206, sink.bytes == Array(bytes[10..<20]),
                HTTPAnswer.wholeSize(response) == Int64(bytes.count)
            {
                features.insert(.rangedRead)
            }
            traits.tellsGeneration = response["X-Goog-Generation"] == first.generation
        }

        private mutating func tryListing() throws(StoreError) {
            let directory = sibling("directory")
            markers.insert(directory)
            _ = try insert(directory, [], [], .directory)
            let page = try store.listObjects(
                prefix: try store.key(path), delimiter: true, maximum: 10, startAt: nil, after: nil, path)
            let marker = try store.key(directory, asDirectory: true)
            let names = Set((page.items ?? []).map(\.name))
            if names.contains(String(decoding: try store.key(path), as: UTF8.self)) {
                features.insert(.consistentListing)
            }
            if (page.prefixes ?? []).contains(String(decoding: marker, as: UTF8.self)) {
                features.insert(.emptyDirectories)
            }
            let isTold = (page.items ?? []).allSatisfy { keeps($0, Trial.attributes, $0.name.hasSuffix("/")) }
            if isTold, names.contains(String(decoding: marker, as: UTF8.self)) { features.insert(.attributesInListing) }
        }

        private func keeps(_ object: GoogleStorageObject, _ attributes: Attributes, _ isDirectory: Bool = false) -> Bool
        {
            object.metadata(isDirectoryKey: isDirectory).attributes == attributes
        }

        private mutating func tryAttributes() throws(StoreError) {
            var other = Trial.attributes
            other.mode = 0o600
            other.extended = [:]
            let changed = try tolerating { () throws(StoreError) in
                guard let found = try store.head(try store.key(path), path), keeps(found, Trial.attributes) else {
                    return false
                }
                let wanted = store.described(found, isDirectoryKey: false, other).description.metadata ?? [:]
                guard try store.patch(found, try store.key(path), path, wanted) != nil,
                    let after = try store.head(try store.key(path), path)
                else { return false }
                // Without extended ones there is no word of them.
                other.extended = nil
                return keeps(after, other)
            }
            if changed ?? false {
                features.formUnion([.attributes, .extendedAttributes, .specialFiles, .changeTimes])
            } else {
                features.remove(.attributesInListing)
            }
        }

        private mutating func tryConditions() throws(StoreError) {
            let target = sibling("new")
            made.insert(target)
            guard let first = try insert(target, bytes, [("ifGenerationMatch", "0")]),
                try insert(target, [1, 2, 3], [("ifGenerationMatch", "0")]) == nil
            else { return }
            let second = try insert(target, bytes, [("ifGenerationMatch", first.generation)])
            guard let second, second.generation != first.generation,
                try insert(target, [4, 5, 6], [("ifGenerationMatch", first.generation)]) == nil
            else { return }
            traits.checksWrites = true
            features.formUnion([.conditionalCreate, .conditionalReplace])
            store.state.withLock { $0.traits.checksDeletions = true }
            let refused = try tolerating { () throws(StoreError) in
                do throws(StoreError) {
                    try store.deleteObject(try store.key(target), target, ifVersion: first.version)
                    return false
                } catch {
                    guard error.code == .preconditionFailed else { throw error }
                    return try store.head(try store.key(target), target) != nil
                }
            }
            traits.checksDeletions = refused ?? false
            store.state.withLock { [traits] in $0.traits.checksDeletions = traits.checksDeletions }
            if traits.checksDeletions { features.insert(.conditionalDelete) }
        }

        private mutating func tryCopying() throws(StoreError) {
            let copy = sibling("copy")
            made.insert(copy)
            let isCopied = try tolerating { () throws(StoreError) in
                guard let source = try store.head(try store.key(path), path) else { return false }
                let copied = try store.rewrite(
                    try store.key(path), source.generation, path, to: try store.key(copy), copy, nil, [])
                return copied?.size == Int64(bytes.count) && copied?.description.metadata == source.description.metadata
            }
            if isCopied ?? false { features.insert(.serverSideCopy) }
        }

        private mutating func tryComposing() throws(StoreError) {
            guard store.configuration.composes else { return }
            let whole = sibling("whole")
            made.insert(whole)
            let isWhole = try tolerating { () throws(StoreError) in
                guard let part = try store.head(try store.key(path), path) else { return false }
                let source = (part.name, part.generation)
                let request = GoogleStorageRequest(
                    storageClass: store.configuration.storageClass,
                    description: store.description(whole, .file, Trial.attributes).description)
                let composed = try store.compose(
                    [source, source], try store.key(whole), request, [], whole, isWanted: nil)
                let sums = try GoogleStorageChecksums.of(UploadBody(bytes + bytes))
                guard let composed, composed.size == Int64(2 * bytes.count), keeps(composed, Trial.attributes),
                    composed.crc32c == sums.crc32c
                else { return false }
                // Who may not delete could not clear the components away.
                try store.deleteObject(try store.key(whole), whole)
                return true
            }
            traits.composes = isWhole ?? false
        }

        private mutating func tryResuming() throws(StoreError) {
            let target = sibling("resumed")
            let session = try tolerating { () throws(StoreError) in
                try store.beginSession(
                    GoogleStorageRequest(
                        name: String(decoding: try store.key(target), as: UTF8.self),
                        description: store.description(target, .file, Attributes()).description),
                    [], 1000, target)
            }
            guard let session else { return }
            if case .open = try store.standing(session, 1000, target) { hasSessions = true }
            store.abandon(session, target)
            if hasSessions { features.insert(.resumableUpload) }
        }

        private func removeAll() throws(StoreError) {
            for (paths, asDirectory) in [(made, false), (markers, true)] {
                let keys = try paths.map { (path) throws(StoreError) in try store.key(path, asDirectory: asDirectory) }
                if let error = store.deleteObjects(keys.map { ($0, nil) }, path).values.first { throw error }
            }
        }

        /// nil where the server refuses, which is what a trial is for; faults of the network are thrown.
        private func tolerating<Result>(_ body: () throws(StoreError) -> Result) throws(StoreError) -> Result? {
            do throws(StoreError) {
                return try body()
            } catch {
                switch error.code {
                case .timedOut, .throttled, .cancelled, .unavailable, .authenticationFailed, .certificateRejected:
                    throw error
                default: return nil
                }
            }
        }
    }
}
