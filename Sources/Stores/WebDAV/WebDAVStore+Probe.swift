import Statistics
package import StoreAPI
import StoreHTTP
import Threading

/// Finding out what a server does, by trial.
extension WebDAVStore {
    package func connect() throws(StoreError) {
        // Redirects of the root are taken over here.
        guard let root = try find(.root), root.kind == .directory else {
            throw StoreError(.storeNotFound, "'\(base)' is no folder on the server: check url")
        }
        var probe = Probe(store: self)
        try probe.run()
        let outcome = probe
        state.withLock { state in
            state.traits = outcome.traits
            state.capabilities.features = outcome.features
            state.capabilities.multipartThreshold = outcome.traits.uploads == nil ? nil : Self.multipartThreshold
        }
    }

    private func setTraits(_ traits: WebDAVTraits) { state.withLock { $0.traits = traits } }

    /// Trials with small files in a directory of their own below `.cloudfusion`, which is removed again.
    private struct Probe {
        let store: WebDAVStore
        var traits = WebDAVTraits()
        var features: StoreCapabilities.Features = [.realDirectories, .emptyDirectories, .rangedRead]
        private let folder: StorePath
        private let bytes: [UInt8]

        init(store: WebDAVStore) {
            self.store = store
            folder = StorePath.control.appending(FileName("probe-\(Trial.name())")!)
            bytes = (0..<64).map { _ in UInt8.random(in: 0...255) }
        }

        private func path(_ name: String) -> StorePath { folder.appending(FileName(name)!) }

        mutating func run() throws(StoreError) {
            // Nothing is known until all of it is: what others do meanwhile goes by what was known before.
            let before = store.traits
            do throws(StoreError) {
                try store.sweep()
                try store.makeDirectory(folder)
                try store.send(UploadBody(bytes), to: path("whole"), PutOptions())
            } catch {
                switch error.code {
                case .accessDenied, .unsupported, .readOnly, .quotaExceeded:
                    // The folder could be looked at: it is for reading only, or the server is full.
                    features.formUnion([.caseSensitive, .consistentListing])
                    traits.putsWhole = true
                    return
                default: throw error
                }
            }
            defer { store.setTraits(before) }
            do throws(StoreError) {
                try tryAll()
                try remove()
            } catch {
                // The error that ended the trials counts, not one of the clearing away.
                try? remove()
                throw error
            }
        }

        private mutating func tryAll() throws(StoreError) {
            // First, so that a server that is slow to notice has time until the last.
            try breakOff()
            try tryListing()
            try tryProperties()
            try tryCopying()
            try tryMoving()
            try tryMarks()
            try tryLocks()
            try tryChecksums()
            try tryTimes()
            let usage = try tolerating { () throws(StoreError) in try store.spaceUsage() }
            if let usage, usage != SpaceUsage() { features.insert(.spaceUsage) }
            traits.uploads = WebDAVTraits.uploads(store.base)
            let sink = MemorySink()
            _ = try tolerating { () throws(StoreError) in try store.read(path("whole"), ReadRequest(), into: sink) }
            traits.putsWhole = sink.bytes == bytes
        }

        private func remove() throws(StoreError) {
            var call = WebDAVCall(
                "DELETE", folder, isCollection: true, .requestsDelete, .storeDelete,
                action: "what was made to try the server could not be deleted")
            call.accepted = [404]
            _ = try store.send(call)
        }

        // MARK: Trials

        /// Begins to replace a file and ends the connection in the middle.
        private func breakOff() throws(StoreError) {
            let file = try NamelessFile.temporary()
            try [UInt8](repeating: 7, count: 16).withUnsafeBufferPointer { half throws(StoreError) in
                try file.write(UnsafeRawBufferPointer(half), at: 0)
            }
            var call = WebDAVCall(
                "PUT", path("whole"), .requestsPut, .storePut, action: "a trial file could not be written")
            call.body = UploadBody(descriptor: file.descriptor, length: 1 << 20)
            do throws(StoreError) { _ = try store.send(call) } catch {
                // The file that ends early is how it is broken off.
                guard error.code == .internal || error.isTransient else { throw error }
            }
        }

        private mutating func tryListing() throws(StoreError) {
            try write("listed", bytes)
            let names = try store.list(folder, after: nil).entries.map(\.name)
            if names.contains(FileName("listed")!) { features.insert(.consistentListing) }
            let other = try tolerating { () throws(StoreError) in try store.find(path("LISTED")) }
            if case .some(nil) = other { features.insert(.caseSensitive) }
        }

        private mutating func tryProperties() throws(StoreError) {
            traits.keepsProperties = true
            store.setTraits(traits)
            traits.keepsProperties = false
            let file = path("listed")
            let kept = try tolerating { () throws(StoreError) -> Bool in
                let before = try store.metadata(of: file)
                let changed = try store.setAttributes(Trial.attributes, at: file, ifVersion: nil)
                let after = try store.metadata(of: file)
                guard after.version == before.version, changed.attributes == Trial.attributes,
                    after.attributes == Trial.attributes
                else { return false }
                let listed = try store.list(folder, after: nil).entries.first { $0.name == file.name }
                try store.createDirectory(at: path("described"), Attributes(mode: 0o751))
                let directory = try store.metadata(of: path("described"))
                return listed?.metadata.attributes == Trial.attributes && directory.attributes?.mode == 0o751
            }
            guard kept ?? false else { return store.setTraits(traits) }
            traits.keepsProperties = true
            features.formUnion([.attributes, .extendedAttributes, .attributesInListing, .specialFiles, .changeTimes])
        }

        private mutating func tryCopying() throws(StoreError) {
            let copied = try tolerating { () throws(StoreError) in
                _ = try transfer("COPY", "listed", "copy", overwrite: "F")
                return try store.find(path("copy"))
            }
            guard let copied, copied?.size == Int64(bytes.count) else { return }
            features.insert(.serverSideCopy)
        }

        /// Whether a directory is moved in one, and what is in it stays the same to all who knew it.
        private mutating func tryMoving() throws(StoreError) {
            let moved = try tolerating { () throws(StoreError) -> Bool in
                try store.makeDirectory(path("old"))
                try write("old/file", bytes)
                let before = try store.metadata(of: path("old").appending(FileName("file")!))
                _ = try transfer("MOVE", "old", "new", overwrite: "F", isCollection: true)
                let after = try store.find(path("new").appending(FileName("file")!))
                return after?.version == before.version && after?.size == Int64(bytes.count)
            }
            guard moved ?? false else { return }
            traits.keepsTags = true
            features.insert(.directoryMove)
        }

        /// Whether the whole of a name is taken for the destination.
        private mutating func tryMarks() throws(StoreError) {
            let odd = "odd ?x=1&y;z#part"
            let arrived = try tolerating { () throws(StoreError) in
                _ = try transfer("COPY", "listed", odd, overwrite: "F")
                return try store.find(path(odd))
            }
            traits.keepsMarks = arrived.map { $0 != nil } ?? false
        }

        /// How many locks are taken at once, how often, and for how many seconds.
        private static let locks = (count: 8, rounds: 2, seconds: Int64(10))

        /// Whether locks keep others from locking and from writing, also those that are taken at the same time.
        ///
        /// Apache loses some of these, most at some times and hardly any at others: no trial can tell, its name does.
        private mutating func tryLocks() throws(StoreError) {
            if try isApache() { return }
            // Where they are used: what is left of a lock that a server loses must not keep the trials' folder from being
            // deleted.
            let isThere = try tolerating { () throws(StoreError) -> Bool in
                try store.makeDirectory(WebDAVStore.locks)
                return true
            }
            guard isThere ?? false else { return }
            let hold = try locksHold()
            let probe = self
            try store.session.parallel.run(Self.locks.count, parallel: Self.locks.count) { number throws(StoreError) in
                var removal = WebDAVCall(
                    "DELETE", probe.lockFile(number), .requestsDelete, .storeDelete,
                    action: "a trial file could not be deleted")
                // What is left of a lock that was lost ends by itself.
                removal.accepted = [404, 423, 424]
                _ = try probe.tolerating { () throws(StoreError) in try probe.store.send(removal) }
            }
            guard hold else { return }
            traits.locks = true
            features.formUnion([.conditionalCreate, .conditionalReplace, .conditionalDelete])
        }

        private func locksHold() throws(StoreError) -> Bool {
            guard try tryLock(0, alsoWriting: true) else { return false }
            for _ in 0..<Self.locks.rounds {
                let held = Lock(0)
                try store.session.parallel.run(Self.locks.count, parallel: Self.locks.count) {
                    number throws(StoreError) in
                    if try tryLock(number, alsoWriting: false) { held.withLock { $0 += 1 } }
                }
                guard held.withLock({ $0 }) == Self.locks.count else { return false }
            }
            return true
        }

        private func lockFile(_ number: Int) -> StorePath {
            WebDAVStore.locks.appending(FileName("trial-\(folder.name!)-\(number)")!)
        }

        private func isApache() throws(StoreError) -> Bool {
            let answer = try store.propfind(
                WebDAVCall("PROPFIND", .root, action: "the folder cannot be opened"), depth: 0)
            return answer["Server"]?.hasPrefix("Apache") ?? false
        }

        private func tryLock(_ number: Int, alsoWriting: Bool) throws(StoreError) -> Bool {
            let file = lockFile(number)
            let holds = try tolerating { () throws(StoreError) -> Bool in
                // At first as it will be done: on a file that is not there.
                let first = try store.tryLock(file, isCollection: false, seconds: Self.locks.seconds)
                guard (200..<300).contains(first.status), let token = first["Lock-Token"] else { return false }
                let second = try store.tryLock(file, isCollection: false, seconds: Self.locks.seconds)
                var refuses = second.status == 423
                if alsoWriting {
                    var put = WebDAVCall(
                        "PUT", file, .requestsPut, .storePut, action: "a trial file could not be written")
                    put.body = UploadBody(bytes)
                    // Not a wait for whoever has the lock.
                    put.accepted = [423]
                    refuses = try store.send(put).status == 423 && refuses
                }
                try store.unlock(file, isCollection: false, String(token.dropFirst().dropLast()))
                return refuses
            }
            return holds ?? false
        }

        private mutating func tryChecksums() throws(StoreError) {
            var call = WebDAVCall(
                "PUT", path("checked"), .requestsPut, .storePut, action: "a trial file could not be written")
            call.body = UploadBody(bytes)
            call.headers = [("OC-Checksum", "MD5:" + TextEncoding.hex(Digest.md5([1])))]
            call.accepted = [400, 412, 422]
            let answer = try tolerating { () throws(StoreError) in try store.send(call) }
            traits.checksums = answer.map { !(200..<300).contains($0.status) } ?? false
        }

        private mutating func tryTimes() throws(StoreError) {
            var versions: [Version?] = []
            for round in 0..<2 {
                var call = WebDAVCall(
                    "PUT", path("timed"), .requestsPut, .storePut, action: "a trial file could not be written")
                call.body = UploadBody(bytes.dropLast() + [UInt8(round)])
                call.headers = [("X-OC-Mtime", "1234567890")]
                guard let answer = try tolerating({ () throws(StoreError) in try store.send(call) }),
                    answer["X-OC-MTime"]?.lowercased() == "accepted"
                else { return }
                versions.append(try store.metadata(of: path("timed")).version)
            }
            // Where they do not differ, a change that keeps the time could not be told.
            traits.takesTimes = versions[0] != versions[1]
        }

        // MARK: Helpers

        private func write(_ name: String, _ bytes: [UInt8]) throws(StoreError) {
            try store.send(UploadBody(bytes), to: StorePath(Array("\(folder)/\(name)".utf8))!, PutOptions())
        }

        private func transfer(
            _ method: String, _ source: String, _ destination: String, overwrite: String, isCollection: Bool = false
        ) throws(StoreError) -> HTTPResponse {
            var call = WebDAVCall(
                method, path(source), isCollection: isCollection, .requestsCopy, .storeCopy,
                action: "a trial file could not be copied or moved")
            call.headers = [
                ("Destination", store.url(path(destination), isCollection: isCollection).description),
                ("Overwrite", overwrite),
            ]
            return try store.send(call)
        }

        /// What a trial found; nil when the server refused it.
        private func tolerating<Result>(_ body: () throws(StoreError) -> Result) throws(StoreError) -> Result? {
            do throws(StoreError) { return try body() } catch {
                switch error.code {
                case .throttled, .timedOut, .authenticationFailed, .cancelled, .certificateRejected, .noLocalSpace:
                    throw error
                default: return nil
                }
            }
        }
    }

    // MARK: Leftovers

    /// Deletes what uploads and trials that were broken off have left, a day later.
    private func sweep() throws(StoreError) {
        for (directory, prefix) in [(StorePath.control, "probe-"), (Self.temporary, "")] {
            var call = WebDAVCall(
                "PROPFIND", directory, isCollection: true, .requestsList, .storeList,
                action: "what is left of earlier uploads could not be listed")
            call.accepted = [404, 410]
            let response = try propfind(call, depth: 1)
            guard response.status == 207, let now = response["Date"].flatMap({ Timestamp(httpDate: $0) }) else {
                continue
            }
            let day: Int64 = 86_400
            for resource in try WebDAVMultistatus(response.body).resources {
                let last = resource.path.lastIndex(of: UInt8(ascii: "/")).map { resource.path[($0 + 1)...] }
                guard let name = last.flatMap({ codec.decode($0) }), let modified = resource.modified,
                    name.description.hasPrefix(prefix), directory.appending(name) != Self.temporary,
                    resource.isCollection == !prefix.isEmpty, now.seconds - modified.seconds > day
                else { continue }
                var removal = WebDAVCall(
                    "DELETE", directory.appending(name), isCollection: resource.isCollection, .requestsDelete,
                    .storeDelete, action: "what is left of earlier uploads could not be deleted")
                removal.accepted = [404]
                _ = try send(removal)
            }
        }
    }
}
