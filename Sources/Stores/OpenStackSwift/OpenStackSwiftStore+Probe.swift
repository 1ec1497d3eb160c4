import FoundationEssentials
import Statistics
package import StoreAPI
import StoreHTTP
import Threading

/// Finding out what a server does: by what it says of itself, and by trial.
extension OpenStackSwiftStore {
    package func connect() throws(StoreError) {
        _ = try send(
            OpenStackSwiftCall("HEAD", nil, .requestsOther, .storeOther, action: "\(place) could not be opened"))
        var probe = Probe(store: self)
        try probe.ask()
        // Names of trial objects depend on it.
        let limits = probe.traits
        state.withLock { state in
            state.traits.longestKey = limits.longestKey
            state.traits.listingLimit = limits.listingLimit
        }
        try probe.run()
        let outcome = probe
        let hasSegments = outcome.traits.mostSegments != nil
        state.withLock { state in
            // Learned while reading; a server does not unlearn it.
            let refuses = state.traits.refusesTagsOfSegments
            state.traits = outcome.traits
            state.traits.refusesTagsOfSegments = refuses
            state.capabilities.features = outcome.features
            state.capabilities.longestPath = outcome.traits.longestKey - configuration.prefix.count
            // Segments of 5 GiB at the most, as many as the server takes; 1 TiB is more than anybody has tried.
            state.capabilities.largestObject = hasSegments ? 1 << 40 : outcome.traits.largestFile
            state.capabilities.rangeCopySizes = PartPlan.smallestPart...outcome.traits.largestFile
            state.capabilities.multipartThreshold = hasSegments ? Self.multipartThreshold : nil
            state.capabilities.deleteBatch = outcome.traits.deleteBatch
        }
    }

    /// 16 MiB: two segments of the usual size. Below it the more requests cost more than sending in parallel gains.
    static let multipartThreshold: Int64 = 2 * PartPlan.usualPart

    /// What a server says of itself at `/info`.
    ///
    /// Source: <https://docs.openstack.org/swift/latest/api/discoverability.html>.
    private struct Description: Decodable {
        struct Core: Decodable {
            var max_file_size: Int64?
            var max_object_name_length: Int?
            var max_meta_value_length: Int?
            var max_meta_overall_size: Int?
            var container_listing_limit: Int?
        }
        struct LargeObjects: Decodable {
            var max_manifest_segments: Int?
        }
        struct BulkDeletion: Decodable {
            var max_deletes_per_request: Int?
        }
        var swift: Core?
        var slo: LargeObjects?
        var bulk_delete: BulkDeletion?
    }

    /// Trials with small objects below `.cloudfusion/`, which are removed again.
    private struct Probe {
        let store: OpenStackSwiftStore
        var traits = OpenStackSwiftTraits()
        var features: StoreCapabilities.Features = [.caseSensitive, .spaceUsage]
        private var name = Trial.name()
        private let bytes: [UInt8] = (0..<64).map { _ in UInt8.random(in: 0...255) }
        private var made: [[UInt8]] = []

        init(store: OpenStackSwiftStore) { self.store = store }

        private var path: StorePath { StorePath(".cloudfusion/probe-\(name)")! }

        /// Takes what the server says of its limits, where they make sense.
        mutating func ask() throws(StoreError) {
            guard let url = try store.descriptionURL() else { return }
            let request = HTTPRequest("GET", url, counter: .requestsOther, operation: .storeOther)
            // Some do not say anything: 401, 403 and 404.
            let response = try store.session.send(request) { response in
                guard let code = response.errorCode, StoreError(code, "").isTransient else { return nil }
                return StoreError(code, "the server could not be asked about itself: status \(response.status)")
            }
            guard response.status == 200,
                let said = try? JSONDecoder().decode(Description.self, from: Data(response.body))
            else { return }
            func take<Value: Comparable>(_ value: Value?, _ range: ClosedRange<Value>, _ apply: (Value) -> Void) {
                if let value, range.contains(value) { apply(value) }
            }
            take(said.swift?.max_file_size, 1 << 20...1 << 50) { traits.largestFile = $0 }
            take(said.swift?.max_object_name_length, 64...4096) { traits.longestKey = $0 }
            take(said.swift?.max_meta_value_length, 64...1 << 16) { traits.longestValue = $0 }
            take(said.swift?.max_meta_overall_size, 256...1 << 20) { traits.longestMetadata = $0 }
            take(said.swift?.container_listing_limit, 10...1 << 20) { traits.listingLimit = min($0, 1000) }
            // So many that the largest segments make files of some size.
            if let slo = said.slo {
                take(slo.max_manifest_segments ?? 1000, 100...100_000) { traits.mostSegments = $0 }
            }
            // Servers delete one after the other before they answer a word: 20 ms each.
            if let bulk = said.bulk_delete {
                take(bulk.max_deletes_per_request ?? 1000, 2...1 << 30) { traits.deleteBatch = min($0, 50) }
            }
        }

        mutating func run() throws(StoreError) {
            do throws(StoreError) {
                try writeFirst()
            } catch {
                switch error.code {
                case .accessDenied, .unsupported, .readOnly, .quotaExceeded:
                    // The container could be opened: the login is for reading only, or the store is full.
                    features.formUnion([.rangedRead, .consistentListing, .emptyDirectories])
                    traits.mostSegments = nil
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
                for key in made { _ = try? delete(key) }
                throw error
            }
        }

        private func key(_ suffix: String = "") -> [UInt8] {
            store.configuration.prefix + Array(".cloudfusion/probe-\(name)\(suffix)".utf8)
        }

        /// An object with attributes, under a key with all that JSON has to escape.
        private mutating func writeFirst() throws(StoreError) {
            let odd = String(decoding: Array(1...0x1F) + [0x7F] + Array("\u{FFFE}\u{FFFF}".utf8), as: UTF8.self)
            let plain = name
            for suffix in [odd, ""] {
                name = plain + suffix
                var call = call("PUT", key())
                call.headers =
                    store.description(path, .file, Trial.attributes).headers
                    + [("ETag", TextEncoding.hex(Digest.md5(bytes)))]
                call.body = UploadBody(bytes)
                if !suffix.isEmpty { call.accepted = [400, 405, 412] }
                let response = try store.send(call)
                guard (200..<300).contains(response.status) else { continue }
                made.append(key())
                let tag = HTTPAnswer.tag(response["ETag"])
                traits.tagIsMD5 = tag == TextEncoding.hex(Digest.md5(bytes))
                traits.keepsControls = !suffix.isEmpty
                return
            }
        }

        private mutating func tryAll() throws(StoreError) {
            let listing = try store.listKeys(prefix: key(), delimiter: false, maximum: 2, after: nil, path)
            if listing.objects.map(\.key) == [key()] {
                features.insert(.consistentListing)
            } else {
                // It lags behind, or shows such a key otherwise: then it is not to be used.
                traits.keepsControls = false
            }
            try tryReading()
            try tryCopying()
            try tryAttributes()
            try tryDirectory()
        }

        private mutating func tryReading() throws(StoreError) {
            let sink = MemorySink(from: 10)
            var call = call("GET", key())
            call.headers = [("Range", "bytes=10-19"), ("If-Match", "\"\(TextEncoding.hex(Digest.md5(bytes)))\"")]
            call.sink = sink
            call.sinkOffset = 10
            let response = try store.send(call)
            if response.status == 206, sink.bytes == Array(bytes[10..<20]),
                HTTPAnswer.wholeSize(response) == Int64(bytes.count)
            {
                features.insert(.rangedRead)
            }
        }

        private mutating func tryCopying() throws(StoreError) {
            let copy = key("-copy")
            made.append(copy)
            let wrong = Version(TextEncoding.hex(Digest.md5(bytes + [0])))
            let right = Version(TextEncoding.hex(Digest.md5(bytes)))
            func tryCopy(_ version: Version, _ range: Range<Int64>?) throws(StoreError) -> String? {
                do throws(StoreError) {
                    return try store.copyObject(
                        store.reference(.own, key()), path, version, to: copy, in: .own, path, range: range, headers: []
                    )
                } catch {
                    switch error.code {
                    case .preconditionFailed: return "refused"
                    case .unsupported, .invalidArgument, .notFound, .accessDenied: return nil
                    default: throw error
                    }
                }
            }
            traits.checksCopySource = try tryCopy(wrong, nil) == "refused"
            // Another range than the first bytes, whose MD5 shows whether the header was understood.
            let ofRange = try tryCopy(right, 5..<25)
            if ofRange == right.text {
                features.insert(.serverSideCopy)
            } else if ofRange == TextEncoding.hex(Digest.md5(Array(bytes[5..<25]))) {
                features.insert(.serverSideCopy)
                if traits.checksCopySource, traits.mostSegments != nil { features.insert(.rangeCopy) }
            } else if let tag = try tryCopy(right, nil), tag == right.text {
                features.insert(.serverSideCopy)
            }
        }

        private mutating func tryAttributes() throws(StoreError) {
            var other = Trial.attributes
            other.mode = 0o600
            guard let before = try store.head(key(), path) else { return }
            let found = store.description(before, isDirectoryKey: false)
            var call = call("POST", key())
            call.headers = store.described(before, isDirectoryKey: false, Attributes(mode: 0o600)).headers
            call.accepted = [400, 403, 405, 501]
            _ = try store.send(call)
            guard found.attributes == Trial.attributes, found.kind == .file,
                let after = try store.head(key(), path),
                store.description(after, isDirectoryKey: false).attributes == other
            else { return }
            features.formUnion([.attributes, .extendedAttributes, .specialFiles, .changeTimes])
            if traits.mostSegments != nil { features.insert(.resumableUpload) }
        }

        private mutating func tryDirectory() throws(StoreError) {
            let directory = key("-directory/")
            var call = call("PUT", directory)
            call.headers = store.description(path, .directory, Attributes(mode: 0o750)).headers
            call.body = UploadBody([UInt8]())
            call.accepted = [400, 404, 405, 409, 412]
            guard (200..<300).contains(try store.send(call).status) else { return }
            made.append(directory)
            let listing = try store.listKeys(prefix: directory, delimiter: false, maximum: 2, after: nil, path)
            if listing.objects.map(\.key) == [directory] { features.insert(.emptyDirectories) }
        }

        private mutating func removeAll() throws(StoreError) {
            // In bulk, as far as the server says that it does that.
            store.state.withLock { $0.traits.deleteBatch = traits.deleteBatch }
            let answers = store.deleteKeys(made.enumerated().map { ($0, $1) }, of: made.map { _ in Deletion(path) })
            if let error = answers.values.first { throw error }
        }

        private func delete(_ key: [UInt8]) throws(StoreError) {
            var call = call("DELETE", key)
            call.accepted = [404]
            _ = try store.send(call)
        }

        private func call(_ method: String, _ key: [UInt8]) -> OpenStackSwiftCall {
            OpenStackSwiftCall(
                method, key, method == "GET" ? .requestsGet : .requestsPut, .storeOther,
                action: "a trial object failed",
                path: path)
        }
    }

    /// Beside the version in the address of the account: `https://host/v1/AUTH_x` has it at `https://host/info`.
    fileprivate func descriptionURL() throws(StoreError) -> String? {
        var url = try authentication.access().storageURL
        var parts = url.path.split(separator: "/")
        guard let version = parts.lastIndex(where: { $0 == "v1" || $0 == "v1.0" }) else { return nil }
        parts.removeSubrange(version...)
        url.path = "/" + (parts.map(String.init) + ["info"]).joined(separator: "/")
        return url.description
    }
}
