import Statistics
package import StoreAPI
import StoreHTTP
import Threading

/// Finding out what a server does, by trial: many leave out what they do not know without a word.
extension S3Store {
    package func connect() throws(StoreError) {
        _ = try listKeys(prefix: configuration.prefix, delimiter: true, maximum: 1, after: nil, .root)
        var probe = Probe(store: self)
        try probe.run()
        let outcome = probe
        state.withLock { state in
            state.traits = outcome.traits
            state.capabilities.features = outcome.features
            state.capabilities.largestObject = outcome.hasParts ? Self.largestObject : Self.largestPart
            state.capabilities.rangeCopySizes = PartPlan.smallestPart...Self.largestPart
            state.capabilities.multipartThreshold = outcome.hasParts ? Self.multipartThreshold : nil
        }
        let batch = deleteBatch
        state.withLock { $0.capabilities.deleteBatch = batch }
    }

    /// 16 MiB: two parts of the usual size. Below it the three more requests cost more than sending in parallel gains.
    static let multipartThreshold: Int64 = 2 * PartPlan.usualPart

    /// Trials with small objects below `.cloudfusion/`, which are removed again.
    private struct Probe {
        let store: S3Store
        var traits: S3Traits
        var features: StoreCapabilities.Features = [.caseSensitive]
        var hasParts = false
        private let path: StorePath
        private let bytes: [UInt8]
        private var made: Set<StorePath> = []

        init(store: S3Store) {
            self.store = store
            traits = S3Traits(tagIsMD5: store.configuration.isAmazon)
            path = StorePath(".cloudfusion/probe-\(Trial.name())")!
            bytes = (0..<64).map { _ in UInt8.random(in: 0...255) }
        }

        mutating func run() throws(StoreError) {
            do throws(StoreError) {
                try writeFirst()
            } catch {
                switch error.code {
                case .accessDenied, .unsupported, .readOnly, .quotaExceeded, .authenticationFailed:
                    // Listing was permitted, so the credentials are right: they are for reading only, or the store is full.
                    // S3 reads ranges by its definition.
                    features.formUnion([.rangedRead, .consistentListing, .emptyDirectories])
                    // Nothing can be lost by a key that is shown as it is listed.
                    traits.keepsControls = true
                    return
                default: throw error
                }
            }
            do throws(StoreError) {
                try tryAll()
                try removeAll()
            } catch {
                // The error that ended the trials counts, not one of the clearing away.
                for path in made { try? store.deleteObject(try store.key(path), path) }
                throw error
            }
        }

        private mutating func tryAll() throws(StoreError) {
            try tryReading()
            try tryListing()
            try tryCopying()
            try tryCreating()
            try tryReplacing()
            try tryDeleting()
            try tryParts()
            try tryDirectories()
            try tryControls()
        }

        // MARK: Trials

        /// A PUT in the plainest form, with attributes.
        private func put(_ path: StorePath, _ bytes: [UInt8], _ headers: [(name: String, value: String)])
            throws(StoreError) -> HTTPResponse
        {
            var call = S3Call(
                "PUT", try store.key(path), .requestsPut, .storePut, action: "a trial object could not be written",
                path: path)
            call.headers = store.description(path, .file, Trial.attributes).headers
            call.headers += [("Content-MD5", TextEncoding.base64(Digest.md5(bytes)))] + headers
            call.body = UploadBody(bytes)
            // A refusal is an answer here, also one by a server that does not know what is asked.
            if !headers.isEmpty { call.accepted = [400, 404, 405, 409, 412, 501] }
            return try store.send(call)
        }

        private mutating func writeFirst() throws(StoreError) {
            let response = try put(path, bytes, [])
            made.insert(path)
            let head = try store.head(store.key(path), path)
            let tag = HTTPAnswer.tag(response["ETag"]) ?? HTTPAnswer.tag(head?["ETag"])
            let isEncrypted =
                response["x-amz-server-side-encryption"]?.hasPrefix("aws:kms") == true
                || response["x-amz-server-side-encryption-customer-algorithm"] != nil
            traits.tagIsMD5 =
                isEncrypted ? store.configuration.isAmazon : tag == TextEncoding.hex(Digest.md5(bytes))
            if let head, keepsAttributes(head) {
                features.formUnion(Self.kept)
            }
        }

        /// What an object has besides its bytes, where metadata comes back.
        private static let kept: StoreCapabilities.Features = [
            .attributes, .extendedAttributes, .specialFiles, .changeTimes,
        ]

        private func keepsAttributes(_ head: HTTPResponse) -> Bool {
            let found = POSIXMetadata.decode(isDirectoryKey: false) { head["x-amz-meta-" + $0] }
            return found.attributes == Trial.attributes && found.kind == .file
        }

        private mutating func tryReading() throws(StoreError) {
            let sink = MemorySink(from: 10)
            let metadata = try store.read(path, ReadRequest(range: 10..<20), into: sink)
            traits.readsRanges = store.traits.readsRanges
            if traits.readsRanges, sink.bytes == Array(bytes[10..<20]), metadata.size == Int64(bytes.count) {
                features.insert(.rangedRead)
            }
        }

        private mutating func tryListing() throws(StoreError) {
            let key = try store.key(path)
            let listing = try store.listKeys(prefix: key, delimiter: false, maximum: 2, after: nil, path)
            if listing.objects.map(\.key) == [key] { features.insert(.consistentListing) }
        }

        private mutating func tryCopying() throws(StoreError) {
            let copy = sibling("copy")
            made.insert(copy)
            guard
                let copied = try tolerating({ () throws(StoreError) in
                    _ = try store.copyObject(path, nil, try store.key(copy), copy, [])
                    return try store.head(try store.key(copy), copy)
                }), let copied, HTTPAnswer.length(copied) == Int64(bytes.count)
            else { return features.subtract(Self.kept) }
            features.insert(.serverSideCopy)
            let wrong = "\"" + TextEncoding.hex(Digest.md5(bytes + [0])) + "\""
            var call = S3Call(
                "PUT", try store.key(copy), .requestsCopy, .storeCopy, action: "a trial copy failed", path: copy)
            call.headers = [("X-Amz-Copy-Source-If-Match", wrong)] + store.configuration.creationHeaders
            call.headers += store.configuration.customerKeyHeaders(ofSource: true)
            call.accepted = [400, 501]
            do throws(StoreError) { _ = try store.sendCopy(call, from: path, nil) } catch {
                guard error.code == .preconditionFailed else { throw error }
                traits.checksCopySource = true
            }
            // Where a copy loses attributes, they cannot be changed either.
            var other = Trial.attributes
            other.mode = 0o600
            let values = POSIXMetadata.encode(.file, other).values.map {
                (name: "X-Amz-Meta-" + $0.name, value: $0.value)
            }
            let changed = try tolerating { () throws(StoreError) in
                _ = try store.copyObject(
                    copy, nil, try store.key(copy), copy, [("X-Amz-Metadata-Directive", "REPLACE")] + values)
                return try store.head(try store.key(copy), copy)
            }
            let found = changed.flatMap { $0 }.map { head in
                POSIXMetadata.decode(isDirectoryKey: false) { head["x-amz-meta-" + $0] }.attributes
            }
            if !keepsAttributes(copied) || found != other {
                features.subtract(Self.kept)
            }
        }

        private mutating func tryCreating() throws(StoreError) {
            let new = sibling("new")
            made.insert(new)
            let created = try put(new, bytes, [("If-None-Match", "*")])
            guard (200..<300).contains(created.status) else { return }
            let again = try put(new, [1, 2, 3], [("If-None-Match", "*")])
            guard again.status == 412, let head = try store.head(store.key(new), new),
                HTTPAnswer.length(head) == Int64(bytes.count)
            else { return }
            traits.checksAbsence = true
            features.insert(.conditionalCreate)
        }

        private mutating func tryReplacing() throws(StoreError) {
            for form in [S3Traits.TagForm.quoted, .bare] {
                func condition(_ tag: String) -> [(name: String, value: String)] {
                    [("If-Match", form.text(of: tag))]
                }
                guard let tag = try store.head(store.key(path), path).flatMap({ HTTPAnswer.tag($0["ETag"]) }) else {
                    return
                }
                let wrong = TextEncoding.hex(Digest.md5(Array(tag.utf8)))
                let refused = try put(path, [9], condition(wrong))
                // Once it has let a wrong tag pass, no form of it means anything.
                guard refused.status == 412 else { return }
                let replaced = try put(path, bytes + [UInt8(form == .quoted ? 1 : 2)], condition(tag))
                guard (200..<300).contains(replaced.status) else { continue }
                traits.replaceTagForm = form
                features.insert(.conditionalReplace)
                return
            }
        }

        /// Amazon checks it, and newer versions of Ceph do; others delete whatever is there.
        private mutating func tryDeleting() throws(StoreError) {
            let target = sibling("deleted")
            made.insert(target)
            guard let tag = HTTPAnswer.tag(try put(target, bytes, [])["ETag"]) else { return }
            let key = try store.key(target)
            func delete(_ tag: String, _ form: S3Traits.TagForm) throws(StoreError) -> Int {
                var call = S3Call(
                    "DELETE", key, .requestsDelete, .storeDelete, action: "a trial object could not be deleted",
                    path: target)
                call.headers = [("If-Match", form.text(of: tag))]
                call.accepted = [400, 404, 405, 409, 412, 501]
                return try store.send(call).status
            }
            for form in [S3Traits.TagForm.quoted, .bare] {
                guard try delete(TextEncoding.hex(Digest.md5(Array(tag.utf8))), form) == 412,
                    try store.head(key, target) != nil
                else { return }
                guard (200..<300).contains(try delete(tag, form)) else { continue }
                traits.deleteTagForm = form
                features.insert(.conditionalDelete)
                return
            }
        }

        private mutating func tryParts() throws(StoreError) {
            let target = sibling("parts")
            let key = try store.key(target)
            made.insert(target)
            guard let id = try tolerating({ () throws(StoreError) in try store.beginTrial(key, target) }) else {
                return
            }
            defer { store.abort(id, key, target) }
            hasParts = true
            if traits.tagIsMD5 { features.insert(.resumableUpload) }
            // Another range than the first bytes, whose MD5 shows whether the header was understood.
            var call = S3Call(
                "PUT", key, .requestsCopy, .storeCopy, action: "a trial copy of a range failed", path: target)
            call.query = [("partNumber", "1"), ("uploadId", id)]
            call.headers =
                [("X-Amz-Copy-Source-Range", "bytes=5-24")] + store.configuration.customerKeyHeaders()
                + store.configuration.customerKeyHeaders(ofSource: true)
            let source = sibling("new")
            let isThere = try store.head(store.key(source), source) != nil
            let from = isThere ? source : path
            let answer = try tolerating { () throws(StoreError) in try store.sendCopy(call, from: from, nil) }
            guard let answer, let root = try? XMLElement.parse(answer.body),
                let tag = HTTPAnswer.tag(root["ETag"]?.text)
            else { return }
            let expected = TextEncoding.hex(Digest.md5(Array(bytes[5...24])))
            if tag == expected || (!traits.tagIsMD5 && store.configuration.isAmazon) { features.insert(.rangeCopy) }
        }

        private mutating func tryDirectories() throws(StoreError) {
            let directory = sibling("directory")
            let key = try store.key(directory, asDirectory: true)
            var call = S3Call(
                "PUT", key, .requestsPut, .storePut, action: "a trial directory could not be made", path: directory)
            call.headers = store.description(directory, .directory, Attributes(mode: 0o750)).headers
            call.body = UploadBody([UInt8]())
            // It must be shown under its own key, and something must fit below it: a file server behind S3's protocol may
            // have made a file of it.
            made.insert(directory)
            let child = sibling("directory/file")
            let isThere = try tolerating { () throws(StoreError) in
                _ = try store.send(call)
                let found = try store.listKeys(prefix: key, delimiter: false, maximum: 2, after: nil, directory)
                var isThere = found.objects.map(\.key) == [key]
                if isThere {
                    _ = try put(child, bytes, [])
                    let marker = try store.head(key, directory)
                    let content = try store.head(try store.key(child), child)
                    isThere = marker != nil && content != nil
                    try store.deleteObject(try store.key(child), child)
                }
                try store.deleteObject(key, directory)
                return isThere
            }
            if isThere ?? false { features.insert(.emptyDirectories) }
        }

        /// A key with all that XML 1.0 cannot carry, which a server has to list encoded.
        private mutating func tryControls() throws(StoreError) {
            let controls = Array(1...0x1F) + [0x7F] + Array("\u{FFFE}\u{FFFF}".utf8)
            let key = try store.key(sibling("controls")) + controls
            var call = S3Call(
                "PUT", key, .requestsPut, .storePut, action: "a trial object could not be written", path: path)
            call.headers = store.description(path, .file, Attributes()).headers
            call.body = UploadBody(bytes)
            // That a server does not answer is no refusal: names would get other keys by it.
            let isKept = try tolerating(alsoUnavailable: false) { () throws(StoreError) in
                _ = try store.send(call)
                let listing = try store.listKeys(prefix: key, delimiter: true, maximum: 2, after: nil, path)
                let head = try store.head(key, path)
                try store.deleteObject(key, path)
                return listing.objects.map(\.key) == [key] && head != nil
            }
            traits.keepsControls = isKept ?? false
        }

        /// Takes the trial objects away, and learns whether that goes in bulk.
        private mutating func removeAll() throws(StoreError) {
            let paths = Array(made)
            traits.deletesInBulk = true
            store.state.withLock { $0.traits.deletesInBulk = true }
            let answers = store.deleteFiles(paths)
            for (path, error) in zip(paths, answers) {
                guard let error else { continue }
                switch error.code {
                case .unsupported, .invalidArgument, .accessDenied, .internal:
                    traits.deletesInBulk = false
                    try store.deleteObject(try store.key(path), path)
                default: throw error
                }
            }
        }

        // MARK: Helpers

        private func sibling(_ name: String) -> StorePath { StorePath("\(path)-\(name)")! }

        /// nil where the server refuses, which is what a trial is for; faults of the network are thrown.
        private func tolerating<Result>(
            alsoUnavailable: Bool = true, _ body: () throws(StoreError) -> Result
        ) throws(StoreError) -> Result? {
            do throws(StoreError) {
                return try body()
            } catch {
                switch error.code {
                case .timedOut, .throttled, .cancelled, .authenticationFailed, .certificateRejected: throw error
                case .unavailable where !alsoUnavailable: throw error
                default: return nil
                }
            }
        }
    }
}
