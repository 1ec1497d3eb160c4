import Catalog
import FUSEAdapter
import Glibc
import Logging
package import Statistics
import StoreAPI
import Synchronizer
package import Threading
import VFS

/// What a mount is made from.
package struct MountRequest: Sendable {
    package var mountPoint: MountPoint
    package var settings: Settings
    /// Settings given with `-o`: they hold where a configuration that is written later says nothing.
    package var commandLine: [SettingAssignment]
    package var options: MountOptions
    package var schema: SettingsSchema
    package var places: SettingsPlaces
    /// The log goes to standard error unless the settings say otherwise.
    package var isForeground: Bool

    package init(
        mountPoint: MountPoint, settings: Settings, commandLine: [SettingAssignment], options: MountOptions,
        schema: SettingsSchema, places: SettingsPlaces, isForeground: Bool
    ) {
        self.mountPoint = mountPoint
        self.settings = settings
        self.commandLine = commandLine
        self.options = options
        self.schema = schema
        self.places = places
        self.isForeground = isForeground
    }
}

/// A mount's life: from settings to a mounted file system, through changes of settings, to the unmounting and what is
/// left to do after it.
///
/// One lock, ``state``; it is held for moments only, and no other lock is taken and nothing is called while it is held.
/// The stack is used through ``withStack(_:)``, which keeps it open meanwhile.
package final class Mount: Sendable {
    package let request: MountRequest
    package let statistics: Statistics
    let clock: any Clock
    let log: LogFile
    let logger: Logger
    private let openSession: SessionFactory
    let state: Monitor<State>
    private let parts = Lock(Parts())

    struct State {
        var settings: Settings
        var stack: MountStack?
        /// Calls of ``withStack(_:)`` under way with the stack.
        var stackUsers = 0
        /// Somebody changes the settings; others wait for their turn.
        var isReconfiguring = false
        /// How often the end of the mount was asked for.
        var stopRequests = 0
        var isUnmounted = false
        var isOver = false
        /// Counts the writings of `cancel`.
        var cancellations: Int64 = 0
        var heartbeat: Timestamp
    }

    private struct Parts {
        var fileSystem: FileSystem?
        var session: (any MountedSession)?
        var heart: WorkerThread?
    }

    package init(
        _ request: MountRequest, log: LogFile, clock: any Clock = SystemClock(),
        statistics: Statistics = Statistics(), openSession: @escaping SessionFactory
    ) {
        self.request = request
        self.log = log
        self.clock = clock
        self.statistics = statistics
        self.openSession = openSession
        logger = log.logger("mount")
        state = Monitor(State(settings: request.settings, heartbeat: clock.calendar))
    }

    var settings: Settings { state.withLock { $0.settings } }

    var fileSystem: FileSystem {
        guard let fileSystem = parts.withLock({ $0.fileSystem }) else {
            preconditionFailure("the control files are there only after start() has made the file system")
        }
        return fileSystem
    }

    var surroundings: MountStack.Surroundings {
        let fileSystem = fileSystem
        return MountStack.Surroundings(
            schema: request.schema, places: request.places, mountPoint: request.mountPoint.path,
            isReadOnly: request.options.isReadOnly, statistics: statistics, clock: clock, logger: logger
        ) { fileSystem.namespaceChanged($0) }
    }

    // MARK: - Beginning

    /// Opens the store if one is named, and mounts. When it returns, the mount is served.
    ///
    /// - Throws: ``MountError``. Then nothing is mounted, and the cache is free for others.
    package func start() throws(MountError) {
        log.level = Logger.Level(rawValue: request.settings.logLevel) ?? .notice
        try request.mountPoint.prepare(mayBeNonEmpty: request.options.mayBeNonEmpty)
        let fileSystem = FileSystem(
            virtual: controlDirectories(), isFlat: request.options.isFlat,
            settings: fileSystemSettings(request.settings), statistics: statistics, clock: clock)
        parts.withLock { $0.fileSystem = fileSystem }
        var stack: MountStack?
        do throws(MountError) {
            if request.settings.scheme != nil {
                let opened = try MountStack(request.settings, surroundings)
                stack = opened
                fileSystem.setBacking(opened.backing)
                state.withLock { $0.stack = opened }
            }
            let session = try mounted(fileSystem)
            parts.withLock { $0.session = session }
        } catch {
            fileSystem.setBacking(nil)
            fileSystem.shutdown()
            stack?.shutdown(logger)
            throw error
        }
        let heart = WorkerThread(name: "heartbeat") { [self] in beat() }
        parts.withLock { $0.heart = heart }
        // A signal may have come before there was anything to unmount.
        if state.withLock({ $0.stopRequests }) > 0 { unmount() }
    }

    private func mounted(_ fileSystem: FileSystem) throws(MountError) -> any MountedSession {
        do {
            let session = try openSession(fileSystem, sessionOptions, log.logger("fuse"))
            try session.start()
            return session
        } catch {
            throw MountError(error.message)
        }
    }

    /// Sends the log to where the settings say; after ``start()``, when nobody waits for messages on the terminal.
    package func settleLog() throws(MountError) {
        let settings = self.settings
        if settings.logFile == nil, request.isForeground {
            try log.open(nil)
        } else {
            let folder = settings["cache_dir"] ?? request.places.defaultCacheFolder
            let path = settings.logFile ?? state.withLock { $0.stack?.folder.logPath } ?? folder + "/cloudfusion.log"
            if settings.logFile == nil { _ = makeDirectories(folder, mode: 0o700) }
            try log.open(path)
        }
        log.level = Logger.Level(rawValue: settings.logLevel) ?? .notice
    }

    /// With `-o ro` the file system refuses changes below data/; the kernel would refuse those of the settings too.
    private var sessionOptions: FUSEOptions {
        let options = request.options
        return FUSEOptions(
            mountPoint: request.mountPoint.path, sourceName: sourceName, allowOther: options.allowOther,
            extraOptions: options.kernelOptions, debug: options.debug,
            threads: options.threads)
    }

    /// What mount(8) shows, such as "s3:bucket". A comma would end the option of libfuse.
    private var sourceName: String {
        guard let scheme = request.settings.scheme, let descriptor = request.schema.descriptor(named: scheme) else {
            return "cloudfusion"
        }
        let identity = descriptor.identity(request.settings.storeSettings(descriptor))
        let isURL = ([scheme] + descriptor.otherSchemes).contains { identity.hasPrefix($0 + ":") }
        let source = isURL ? identity : "\(scheme):\(identity)"
        return String(source.map { $0 == "," || $0 == "\\" || $0.isWhitespace ? "_" : $0 })
    }

    func fileSystemSettings(_ settings: Settings) -> FileSystemSettings {
        let options = request.options
        return FileSystemSettings(
            metadataLifetime: settings.metadataLifetime, requestDeadline: settings.requestTimeout,
            isReadOnly: options.isReadOnly, durability: settings.durability, defaultUID: options.uid ?? getuid(),
            defaultGID: options.gid ?? getgid(), fileMode: options.fileMode, directoryMode: options.directoryMode)
    }

    // MARK: - Meanwhile

    /// Runs `body` with the stack in use, which is not shut down meanwhile; nil: no store is connected.
    func withStack<Result>(_ body: (MountStack?) -> Result) -> Result {
        let stack = state.withLock { (state) -> MountStack? in
            if state.stack != nil { state.stackUsers += 1 }
            return state.stack
        }
        defer { if stack != nil { state.update { $0.stackUsers -= 1 } } }
        return body(stack)
    }

    /// Puts another stack in the place of the one in use, and waits until nobody uses that any more.
    func replaceStack(_ stack: MountStack?) -> MountStack? {
        let old = state.update { (state) -> MountStack? in
            defer { state.stack = stack }
            return state.stack
        }
        _ = state.wait { $0.stackUsers == 0 ? true : nil }
        return old
    }

    /// Every few seconds: proof that threads run and the catalog answers.
    private func beat() {
        while state.wait(until: .now + .seconds(5), for: { $0.isOver ? true : nil }) == nil {
            let isWell = withStack { stack in
                guard let stack else { return true }
                do throws(CatalogError) {
                    _ = try stack.catalog.pendingTotals()
                    return true
                } catch {
                    reportCatalogError(error)
                    return false
                }
            }
            if isWell { state.withLock { $0.heartbeat = clock.calendar } }
        }
    }

    func reportCatalogError(_ error: CatalogError) {
        statistics.report(
            kind: "catalog", message: error.message,
            advice: "Look at the disk with the cache folder: is it full, or gone?")
    }

    // MARK: - End

    /// Asks for the end of the mount, as SIGTERM does. Returns at once; ``run()`` returns when it is over.
    package func stop() {
        state.update { $0.stopRequests += 1 }
        unmount()
    }

    /// Detaches the mount as from outside: what is not on the store is brought there before ``run()`` returns.
    func unmount() {
        guard let session = parts.withLock({ $0.session }), state.withLock({ !$0.isUnmounted }) else { return }
        // The kernel may want something of the file system first: not on a thread that serves it.
        WorkerThread(name: "unmount") { session.unmount() }.detach()
    }

    /// Waits for the end of the mount, and ends everything behind it.
    ///
    /// After ``stop()`` what is not on the store stays in the cache for the next mount (or, with `drain_at_exit`, is
    /// brought there first). After an unmount from outside it is brought to the store before this returns, unless
    /// ``stop()`` is called meanwhile: as a new mount of the same cache does.
    package func run() {
        guard let session = parts.withLock({ $0.session }) else { return }
        let isReadOnly = withStack { $0?.backing.store.capabilities.isReadOnly } ?? false || request.options.isReadOnly
        logger.notice(
            "mounted \(sessionOptions.sourceName) at \(request.mountPoint.path)\(isReadOnly ? ", for reading only" : "")"
        )
        session.wait()
        let asked = state.update { (state) -> Int in
            state.isUnmounted = true
            return state.stopRequests
        }
        // A change of the store that is under way comes to its end first, and no other one begins.
        _ = state.wait { (state) -> Bool? in
            if state.isReconfiguring { return nil }
            state.isReconfiguring = true
            return true
        }
        fileSystem.saveAll()
        let stack = state.withLock { $0.stack }
        if let stack {
            stack.folder.announce(.draining, at: request.mountPoint.path)
            if asked == 0 || settings.drainsAtExit { drainAfterUnmount(stack, asked) }
        }
        fileSystem.shutdown()
        _ = replaceStack(nil)
        stack?.shutdown(logger)
        state.update { $0.isOver = true }
        parts.withLock { (parts) -> WorkerThread? in
            defer { parts.heart = nil }
            return parts.heart
        }?.join()
        logger.notice("ended")
    }

    private func drainAfterUnmount(_ stack: MountStack, _ asked: Int) {
        do {
            let totals = try stack.catalog.pendingTotals()
            guard totals.items > 0 else { return }
            logger.notice("unmounted; bringing \(totals.items) changes to the store before ending")
            var told = MonotonicTime(nanoseconds: 0)
            let left = try stack.synchronizer.drain(nil) { _ in
                if MonotonicTime.now - told > .seconds(1) {
                    stack.folder.saveStatus(status())
                    told = .now
                }
                return state.withLock { $0.stopRequests == asked }
            }
            if left.itemsLeft > 0 {
                logger.warning("\(left.itemsLeft) changes are not on the store; the next mount goes on with them")
            }
        } catch {
            logger.error("the catalog cannot be read: \(error.message)")
        }
    }
}
