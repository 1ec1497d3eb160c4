import Caching
import Catalog
import Glibc
import Logging
import Statistics
import StoreAPI
import Synchronizer
import Threading
import VFS

/// The control files: what they show, and what writing to them does.
extension Mount {
    func controlDirectories() -> [VirtualDirectory] {
        [
            VirtualDirectory(
                name: "config",
                files: [
                    VirtualFile(
                        name: "config", mode: 0o600, read: { [self] in Array(configurationText().utf8) },
                        write: { [self] in applyConfiguration($0) },
                        remove: { [self] in
                            logger.notice("config/config was removed: unmounting")
                            unmount()
                            return .success(())
                        }),
                    VirtualFile(
                        name: "command", mode: 0o600, takesCommands: true, read: { Array(CommandFile.help.utf8) },
                        write: { [self] in runCommands($0) }),
                ]),
            VirtualDirectory(
                name: "stats",
                files: [
                    VirtualFile(name: "stats", mode: 0o444, read: { [self] in Array(StatsFile.text(status()).utf8) }),
                    VirtualFile(name: "notuploaded", mode: 0o444, read: { [self] in notUploaded() }),
                    VirtualFile(
                        name: "errors", mode: 0o444, read: { [self] in Array(ErrorsFile.text(status().errors).utf8) }),
                    VirtualFile(
                        name: "metrics", mode: 0o444,
                        read: { [self] in Array(MetricsFile.text(statistics.snapshot(), status()).utf8) }),
                    VirtualFile(name: "status.json", mode: 0o444, read: { [self] in StatusFile.text(status()) }),
                ]),
        ]
    }

    private func configurationText() -> String {
        let figures = StatsFile.text(status()).split(separator: "\n", omittingEmptySubsequences: false)
        return SettingsRendering(schema: request.schema).text(of: settings) + "\n"
            + figures.dropLast().map { $0.isEmpty ? "#" : "# \($0)" }.joined(separator: "\n") + "\n"
    }

    private func notUploaded() -> [UInt8] {
        withStack { stack in
            guard let stack else { return [] }
            do throws(CatalogError) {
                let total = try stack.catalog.pendingTotals().items
                return try NotUploadedFile.text(
                    now: clock.calendar,
                    items: { (last, limit) throws(CatalogError) in
                        try stack.catalog.allPending(after: last, limit: limit)
                    }, total: total)
            } catch {
                reportCatalogError(error)
                return Array("the catalog cannot be read: \(error.message)\n".utf8)
            }
        }
    }

    /// Everything of this moment, without waiting for the store.
    package func status() -> MountStatus {
        let snapshot = statistics.snapshot()
        let moment = state.withLock { $0 }
        let settings = moment.settings
        let limits = settings.cacheLimits
        var status = MountStatus(
            state: .unconfigured, version: productVersion, pid: getpid(), mountPoint: request.mountPoint.path,
            startedAt: seconds(statistics.started), heartbeatAt: seconds(moment.heartbeat), store: nil,
            pending: .init(),
            transfers: .init(
                uploadBytesPerSecond: snapshot.uploadRate, downloadBytesPerSecond: snapshot.downloadRate,
                uploadedBytes: snapshot[.bytesUploaded], downloadedBytes: snapshot[.bytesDownloaded],
                uploadsInFlight: snapshot[.uploadsInFlight], downloadsInFlight: snapshot[.downloadsInFlight]),
            cache: .init(
                softLimitBytes: limits.soft, hardLimitBytes: limits.hard, hits: snapshot[.cacheHits],
                misses: snapshot[.cacheMisses]),
            settings: shownSettings(settings),
            errors: snapshot.errors.map {
                .init(
                    kind: $0.kind, count: $0.count, first: seconds($0.first), last: seconds($0.last),
                    message: $0.message, advice: $0.advice)
            },
            cancelledCommands: moment.cancellations)
        withStack { if let stack = $0 { describe(stack, in: &status) } }
        if moment.isUnmounted { status.state = .draining }
        if moment.stopRequests > 0 { status.state = .stopping }
        return status
    }

    private func describe(_ stack: MountStack, in status: inout MountStatus) {
        let connection = stack.connection
        let space = connection.space
        var problem: String?
        switch connection.phase {
        case .connected: status.state = .connected
        case .connecting:
            status.state = .offline
            problem = "it has not answered yet"
        case .failed(let error):
            status.state = .offline
            problem = error.message
        }
        status.store = .init(
            name: stack.descriptor.scheme, identity: stack.identity,
            isReadOnly: stack.backing.store.capabilities.isReadOnly,
            problem: problem,
            information: connection.information.map { .init(name: $0.name, value: $0.value) },
            totalBytes: space.total, usedBytes: space.used, freeBytes: space.free)
        status.cache.folder = stack.folder.path
        (status.cache.recoveredFiles, status.cache.recoveredBytes) = stack.folder.recovered()
        do {
            let totals = try stack.catalog.pendingTotals()
            let oldest = totals.oldest.map { max(0, seconds(clock.calendar) - seconds($0)) }
            status.pending = .init(
                items: totals.items, bytes: totals.bytes, parked: totals.parked, oldestSeconds: oldest)
            let contents = try stack.catalog.contentTotals()
            status.cache.bytes = contents.cachedBytes
            status.cache.dirtyBytes = contents.dirtyBytes
            status.cache.dirtyFiles = contents.dirtyFiles
        } catch {
            reportCatalogError(error)
        }
    }

    private func shownSettings(_ settings: Settings) -> [String: String] {
        var result: [String: String] = [:]
        if let scheme = settings.scheme { result["name"] = scheme }
        for option in request.schema.options(for: settings.scheme) {
            guard let value = settings.values[option.name] ?? option.defaultValue else { continue }
            result[option.name] = option.isSecret ? SettingsSchema.mask : value
        }
        return result
    }

    private func seconds(_ time: Timestamp) -> Double { Double(time.nanoseconds) / 1e9 }

    // MARK: - Commands

    /// What was written to `config/command`. Returns when all of it is done.
    func runCommands(_ text: [UInt8]) -> Result<Void, FileSystemError> {
        let commands: [CommandFile.Command]
        switch CommandFile.parse(text, mountPoint: request.mountPoint.path) {
        case .success(let parsed): commands = parsed
        case .failure(let complaint):
            return refuse(.invalid, "command", complaint.text, "Known are: sync [PATH], drain, now PATH, cancel.")
        }
        for command in commands {
            switch command {
            case .cancel: state.update { $0.cancellations += 1 }
            case .synchronize(let path):
                let result = synchronize(path)
                if case .failure = result { return result }
            }
        }
        return .success(())
    }

    private func synchronize(_ path: StorePath?) -> Result<Void, FileSystemError> {
        let before = state.withLock { $0.cancellations }
        let patience = max(Duration.seconds(120), settings.requestTimeout * 2)
        return withStack { stack in
            guard let stack else {
                return refuse(
                    .noDevice, "command", "there is no store to bring anything to", "Connect one: config/config.")
            }
            // What programs have written and not closed yet counts too.
            fileSystem.saveAll()
            var watch = ProgressWatch(patience: patience, now: .now)
            var isStalled = false
            do throws(MountError) {
                if let path, try !isKnown(path, stack) {
                    return refuse(.notFound, "command", "there is no '\(path)' here", "Give a path below data/.")
                }
                let left = try stack.drain(path) { progress in
                    isStalled = watch.isStalled(progress, statistics.snapshot()[.bytesUploaded], now: .now)
                    return !isStalled && state.withLock { $0.cancellations == before && $0.stopRequests == 0 }
                }
                return outcome(left, path, stack, isStalled: isStalled, before: before, patience: patience)
            } catch {
                return refuse(.inputOutput, "command", error.message, "Look at the disk with the cache folder.")
            }
        }
    }

    private func isKnown(_ path: StorePath, _ stack: MountStack) throws(MountError) -> Bool {
        do {
            if try stack.catalog.inode(at: path) != nil { return true }
            return try stack.catalog.pendingBelow(path).items > 0
        } catch {
            throw MountError("the catalog cannot be read: \(error.message)")
        }
    }

    private func outcome(
        _ left: DrainProgress, _ path: StorePath?, _ stack: MountStack, isStalled: Bool, before: Int64,
        patience: Duration
    ) -> Result<Void, FileSystemError> {
        if left.itemsLeft == 0 { return .success(()) }
        let changes = left.itemsLeft == 1 ? "1 change is" : "\(left.itemsLeft) changes are"
        if isStalled {
            return refuse(
                .timedOut, "command", "\(changes) not on the store, and nothing moved for \(Int(patience.inSeconds)) s",
                "They are kept, and tried again. stats/notuploaded says what the last attempt failed with.")
        }
        if state.withLock({ $0.cancellations != before || $0.stopRequests > 0 }) { return .failure(.interrupted) }
        return refuse(
            .inputOutput, "command", "\(changes) not on the store: \(firstError(stack, path))",
            "stats/notuploaded lists them all. They are tried again when the file or the settings change, or on 'sync'."
        )
    }

    private func firstError(_ stack: MountStack, _ path: StorePath?) -> String {
        let items = (try? stack.catalog.allPending(after: nil, limit: 1000)) ?? []
        let item = items.first { $0.lastError != nil && $0.path.isInside(path ?? .root) }
        return item.map { "'/\($0.path)': \($0.lastError ?? "")" } ?? "no attempt was made yet"
    }

    /// Says no, and why in `stats/errors`.
    func refuse(_ error: FileSystemError, _ kind: String, _ message: String, _ advice: String)
        -> Result<Void, FileSystemError>
    {
        statistics.report(kind: kind, message: message, advice: advice)
        logger.warning("\(kind): \(message)")
        return .failure(error)
    }
}

/// Notices when a drain gets nowhere.
struct ProgressWatch {
    private var last: DrainProgress?
    private var lastBytes: Int64 = 0
    private var moved: MonotonicTime
    private let patience: Duration

    init(patience: Duration, now: MonotonicTime) {
        self.patience = patience
        moved = now
    }

    /// - Parameter bytes: a figure that grows while anything is sent.
    mutating func isStalled(_ progress: DrainProgress, _ bytes: Int64, now: MonotonicTime) -> Bool {
        if progress != last || bytes != lastBytes {
            last = progress
            lastBytes = bytes
            moved = now
        }
        return now - moved > patience
    }
}
