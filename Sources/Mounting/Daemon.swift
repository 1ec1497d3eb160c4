import CShim
import Glibc
import Threading

/// Secrets in memory must not end up in a file: see prctl(2), PR_SET_DUMPABLE.
package func forbidCoreFiles() {
    var limit = rlimit(rlim_cur: 0, rlim_max: 0)
    setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &limit)
    if cf_forbid_core_files() != 0 { complain("cloudfusion: core files cannot be switched off: \(errorText(errno))") }
}

/// Keeps the memory of a mount near what it uses. Its threads come and go and do large work by turns; of the many pools
/// that the C library would make for them each keeps the most that it has ever had.
package func limitMemoryPools() { cf_limit_memory_pools(2) }

/// The process that serves a mount in the background, and the one that starts it and waits until it does.
///
/// The server is this program started anew, not a fork: it has no threads and no locks from before. It keeps the
/// terminal for its messages until the mount is served; then it says so through a pipe and lets go of the terminal.
package enum Daemon {
    private static let ready = UInt8(ascii: "R")

    /// Starts this program again with `arguments` and the end of a pipe, and waits until the mount is served.
    ///
    /// - Parameter arguments: what follows the program's name; `--ready-fd` is added.
    /// - Returns: the exit code: 0 when it is served, else that of the new process, which has said why.
    package static func start(_ arguments: [String]) -> Int32 {
        var ends: [Int32] = [-1, -1]
        guard pipe2(&ends, O_CLOEXEC) == 0 else {
            complain("cloudfusion: no pipe could be made: \(errorText(errno))")
            return 1
        }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // dup2 of a descriptor onto itself keeps O_CLOEXEC on some systems: a number that is surely another one.
        let number: Int32 = ends[1] == 9 ? 8 : 9
        posix_spawn_file_actions_adddup2(&actions, ends[1], number)
        let words = ["cloudfusion"] + arguments + ["--ready-fd", String(number)]
        var list: [UnsafeMutablePointer<CChar>?] = words.map { strdup($0) } + [nil]
        defer { for word in list { free(word) } }
        var process: pid_t = 0
        let status = posix_spawn(&process, ownPath(), &actions, nil, &list, environ)
        close(ends[1])
        guard status == 0 else {
            complain("cloudfusion: the process for the mount could not be started: \(errorText(status))")
            return 1
        }
        var byte: UInt8 = 0
        var count: Int
        repeat { count = read(ends[0], &byte, 1) } while count < 0 && errno == EINTR
        close(ends[0])
        if count == 1, byte == ready { return 0 }
        var outcome: Int32 = 0
        while waitpid(process, &outcome, 0) < 0, errno == EINTR {}
        if outcome & 0x7f == 0 {
            let code = (outcome >> 8) & 0xff
            return code == 0 ? 1 : code
        }
        complain("cloudfusion: the process for the mount was ended by signal \(outcome & 0x7f)")
        return 1
    }

    /// Where this program lies, so that the new process has its name; its link in /proc if it was replaced meanwhile.
    private static func ownPath() -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = buffer.withUnsafeMutableBytes {
            readlink("/proc/self/exe", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
        let path = count > 0 ? String(decoding: buffer[..<count], as: UTF8.self) : ""
        return path.isEmpty || access(path, X_OK) != 0 ? "/proc/self/exe" : path
    }

    /// In the new process: the mount is served. Lets go of the terminal and tells whoever waits.
    package static func announceReady(_ descriptor: Int32) {
        setsid()
        chdir("/")
        let null = open("/dev/null", O_RDWR)
        if null >= 0 {
            for standard: Int32 in 0...2 { dup2(null, standard) }
            if null > 2 { close(null) }
        }
        writeAll([ready], to: descriptor)
        close(descriptor)
    }
}

/// Takes the signals that end a program, on a thread of its own.
package enum Signals {
    /// Blocks them in the calling thread and all that it starts: call it before there are others.
    ///
    /// - Parameter body: called for each one that arrives, with its number.
    package static func take(_ body: @escaping @Sendable (Int32) -> Void) {
        signal(SIGPIPE, SIG_IGN)
        var set = endings()
        pthread_sigmask(SIG_BLOCK, &set, nil)
        WorkerThread(name: "signals") {
            var set = endings()
            while true {
                var number: Int32 = 0
                if sigwait(&set, &number) == 0 { body(number) }
            }
        }.detach()
    }

    private static func endings() -> sigset_t {
        var set = sigset_t()
        sigemptyset(&set)
        for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&set, number) }
        return set
    }
}
