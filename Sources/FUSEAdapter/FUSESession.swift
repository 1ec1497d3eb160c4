import CFuse3
import CFuseInit
import CShim
import Glibc
package import Logging
import Threading
package import VFS

/// How a file system is mounted.
package struct FUSEOptions: Sendable {
    /// Absolute.
    package var mountPoint: String
    /// What mount(8) and df(1) show as the source, such as "s3:bucket".
    package var sourceName: String
    package var allowOther: Bool
    /// Passed to libfuse as they are: "noatime", "nosuid" …
    package var extraOptions: [String]
    /// Logs every request.
    package var debug: Bool
    /// How many threads answer requests. None of them ever waits for a store.
    package var threads: Int
    package init(
        mountPoint: String, sourceName: String, allowOther: Bool = false,
        extraOptions: [String] = [], debug: Bool = false, threads: Int = 8
    ) {
        self.mountPoint = mountPoint
        self.sourceName = sourceName
        self.allowOther = allowOther
        self.extraOptions = extraOptions
        self.debug = debug
        self.threads = threads
    }
}

/// Why a mount could not be made, in a sentence for people.
package struct FUSEError: Error, Sendable, CustomStringConvertible {
    package var message: String
    package init(_ message: String) { self.message = message }
    package var description: String { message }
}

/// A mounted FUSE session: the kernel's requests on one side, a `FileSystem` on the other.
///
/// Requests are received and answered by threads of its own rather than by libfuse's loop, whose threads are ended
/// by cancellation. One session a process.
package final class FUSESession: @unchecked Sendable {
    let fileSystem: FileSystem
    private let options: FUSEOptions
    private let logger: Logger
    let interruptions = Interruptions()
    private let state = Monitor(State())
    private let workers = Lock<[WorkerThread]>([])
    /// Set once by ``start()``, before any thread uses it; freed by ``wait()`` after all of them have ended.
    private var session: OpaquePointer?

    private struct State {
        var isInitialized = false
        var running = 0
        var hasStarted = false
        var isUnmounting = false
    }

    package init(fileSystem: FileSystem, options: FUSEOptions, logger: Logger) throws(FUSEError) {
        guard access("/dev/fuse", F_OK) == 0 else {
            throw FUSEError("/dev/fuse is missing: load the kernel's fuse module, or give the container the device")
        }
        self.fileSystem = fileSystem
        self.options = options
        self.logger = logger
    }

    /// Mounts, and returns when the kernel's requests are answered.
    package func start() throws(FUSEError) {
        let session = try makeSession()
        guard fuse_session_mount(session, options.mountPoint) == 0 else {
            fuse_session_destroy(session)
            throw FUSEError(
                "'\(options.mountPoint)' cannot be mounted: \(LibraryLog.last ?? "libfuse does not say why")")
        }
        self.session = session
        if cf_fuse_extend_init(session) != 0 {
            logger.notice("libfuse does not let its first answer be extended: parallel look-ups in a directory are off")
        }
        ignoreWakeUpSignal()
        state.withLock {
            $0.hasStarted = true
            $0.running = options.threads
        }
        let started = (0..<options.threads).map { number in
            WorkerThread(name: "fuse-\(number)", stackSize: 1 << 20) { [self] in serve() }
        }
        workers.withLock { $0 = started }
        let isReady = state.wait(until: .now + .seconds(20)) { $0.isInitialized ? true : $0.running == 0 ? false : nil }
        guard isReady == true else {
            unmount()
            wait()
            throw FUSEError("the kernel did not begin to use the mount at '\(options.mountPoint)'")
        }
        fileSystem.setNotifier(KernelNotices(session: session))
    }

    /// Returns when the file system is not mounted any more, whoever unmounted it.
    package func wait() {
        _ = state.wait { $0.hasStarted && $0.running == 0 ? true : nil }
        fileSystem.setNotifier(nil)
        for worker in workers.withLock({ $0 }) { worker.join() }
        workers.withLock { $0 = [] }
        if let session {
            self.session = nil
            fuse_session_unmount(session)
            fuse_session_destroy(session)
        }
    }

    /// Takes the file system out of the tree and ends the session; files that are open fail from then on.
    package func unmount() {
        let isFirst = state.withLock { state -> Bool in
            defer { state.isUnmounting = true }
            return !state.isUnmounting
        }
        guard isFirst, let session else { return }
        // The kernel must not be told anything while it lets go of the inodes.
        fileSystem.setNotifier(nil)
        if umount2(options.mountPoint, Int32(MNT_DETACH)) != 0 {
            runProgram("fusermount3", ["-u", "-z", options.mountPoint])
        }
        fuse_session_exit(session)
        endWorkers()
    }

    func initialized() { state.update { $0.isInitialized = true } }

    private func makeSession() throws(FUSEError) -> OpaquePointer {
        LibraryLog.install()
        var settings = [
            "fsname=\(String(options.sourceName.map { $0 == "," ? "_" : $0 }))", "subtype=cloudfusion",
            "default_permissions",
        ]
        if options.allowOther { settings.append("allow_other") }
        settings += options.extraOptions
        var words = ["cloudfusion", "-o", settings.joined(separator: ",")]
        if options.debug { words.append("-d") }
        var pointers: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) }
        defer { for pointer in pointers { free(pointer) } }
        var operations = Operations.table
        let session = pointers.withUnsafeMutableBufferPointer { buffer in
            var arguments = fuse_args(argc: Int32(buffer.count), argv: buffer.baseAddress, allocated: 0)
            defer { fuse_opt_free_args(&arguments) }
            return fuse_session_new(
                &arguments, &operations, MemoryLayout<fuse_lowlevel_ops>.size,
                Unmanaged.passUnretained(self).toOpaque())
        }
        guard let session else {
            throw FUSEError("the mount options are refused: \(LibraryLog.last ?? settings.joined(separator: ","))")
        }
        return session
    }

    /// What each thread does: takes a request, has it answered, until the mount has gone.
    private func serve() {
        let session = session!
        var buffer = fuse_buf()
        while fuse_session_exited(session) == 0 {
            let count = fuse_session_receive_buf(session, &buffer)
            if count == -EINTR { continue }
            if count == -ENOMEM {
                // Nothing was taken from the kernel.
                usleep(100_000)
                continue
            }
            if count <= 0 { break }
            fuse_session_process_buf(session, &buffer)
        }
        free(buffer.mem)
        fuse_session_exit(session)
        state.update { $0.running -= 1 }
    }

    /// Ends the reads in which workers sit. One that is just about to read misses the signal: hence again and again.
    private func endWorkers() {
        let workers = workers.withLock { $0 }
        while state.withLock({ $0.running > 0 }) {
            for worker in workers { worker.signal(SIGUSR1) }
            usleep(10_000)
        }
    }

    private func ignoreWakeUpSignal() {
        var action = sigaction()
        action.__sigaction_handler.sa_handler = { _ in }
        sigaction(SIGUSR1, &action, nil)
    }
}
