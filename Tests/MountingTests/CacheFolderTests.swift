import Glibc
import Logging
import StoreAPI
import Testing

@testable import Mounting

@Suite struct CacheFolderTests {
    @Test("a cache that is in use is refused with the process and the mount point that have it")
    func inUse() throws {
        let temporary = TemporaryFolder()
        let path = temporary.path + "/deep/cache"
        let first = try CacheFolder(path: path, mountPoint: "/mnt/my place")
        let error = #expect(throws: MountError.self) { try CacheFolder(path: path, mountPoint: "/mnt/b") }
        #expect(error?.message.contains("process \(getpid())") == true)
        #expect(error?.message.contains("'/mnt/my place'") == true)
        first.release()
        try CacheFolder(path: path, mountPoint: "/mnt/b").release()
    }

    @Test("folder and lock are for their owner only")
    func permissions() throws {
        let temporary = TemporaryFolder()
        let path = temporary.path + "/cache"
        mkdir(path, 0o755)
        let folder = try CacheFolder(path: path, mountPoint: "/mnt")
        defer { folder.release() }
        var status = stat()
        stat(path, &status)
        #expect(status.st_mode & 0o777 == 0o700)
        stat(path + "/lock", &status)
        #expect(status.st_mode & 0o777 == 0o600)
    }

    @Test("what the lock says of its owner is read back; a text that makes no sense is nobody")
    func owner() throws {
        let temporary = TemporaryFolder()
        let folder = try CacheFolder(path: temporary.path, mountPoint: "/mnt/a b")
        folder.announce(.draining, at: "/mnt/a b")
        let owner = CacheFolder.owner(of: temporary.path)
        #expect(owner?.process == getpid() && owner?.phase == .draining && owner?.mountPoint == "/mnt/a b")
        #expect(owner?.started == startTime(of: getpid()))
        folder.release()
        #expect(CacheFolder.owner(of: temporary.path) == nil)
        for text in ["", "1 2 mounted /", "x", "-5 1 mounted /m", "999999999999 1 mounted /m"] {
            let descriptor = open(temporary.path + "/lock", O_WRONLY | O_TRUNC)
            writeAll(text.utf8, to: descriptor)
            close(descriptor)
            #expect(CacheFolder.owner(of: temporary.path) == nil)
        }
    }

    @Test("a process that only drains is asked to hand over, and the new one gets the cache")
    func handOver() throws {
        let temporary = TemporaryFolder()
        // Another process that holds the lock as a draining daemon does, and ends on SIGTERM.
        let script = """
            exec 9<>'\(temporary.path)/lock'; flock 9
            echo "$$ $(awk '{print $22}' /proc/$$/stat) draining /mnt" >&9; : > '\(temporary.path)/ready'
            while :; do sleep 0.05; done
            """
        var process: pid_t = 0
        var words: [UnsafeMutablePointer<CChar>?] = ["bash", "-c", script].map { (word: String) in strdup(word) }
        words.append(nil)
        defer { for word in words { free(word) } }
        // The threads that run tests block signals, and a child inherits that.
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        var none = sigset_t()
        sigemptyset(&none)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        #expect(posix_spawnp(&process, "bash", nil, &attributes, &words, environ) == 0)
        while access(temporary.path + "/ready", F_OK) != 0 { sched_yield() }
        let folder = try CacheFolder(path: temporary.path, mountPoint: "/mnt/new")
        folder.release()
        var status: Int32 = 0
        #expect(waitpid(process, &status, 0) == process)
        #expect(status & 0x7f == SIGTERM)
    }

    @Test("the name of a cache depends on the store alone")
    func names() {
        let name = CacheFolder.defaultID(scheme: "s3", identity: "https://x/bucket/")
        #expect(name == CacheFolder.defaultID(scheme: "s3", identity: "https://x/bucket/"))
        #expect(name != CacheFolder.defaultID(scheme: "s3", identity: "https://x/bucket2/"))
        #expect(name.hasPrefix("s3-") && name.utf8.count == 19)
    }
}

@Suite struct LogFileTests {
    @Test("a full log file is put aside, and lines cannot be forged by what they are about")
    func rotation() throws {
        let temporary = TemporaryFolder()
        let log = LogFile(limit: 2_000)
        try log.open(temporary.path + "/log")
        let logger = log.logger("test")
        for number in 0..<40 { logger.error("line \(number) with\nsomething \(String(repeating: "x", count: 50))") }
        logger.debug("not at this level")
        let new = String(decoding: readFile(temporary.path + "/log") ?? [], as: UTF8.self)
        let old = String(decoding: readFile(temporary.path + "/log.1") ?? [], as: UTF8.self)
        #expect(!old.isEmpty && new.contains("line 39") && !new.contains("not at this level"))
        #expect(new.split(separator: "\n").allSatisfy { $0.contains(" error test: line ") })
        var status = stat()
        stat(temporary.path + "/log", &status)
        #expect(status.st_mode & 0o777 == 0o600)
        #expect(throws: MountError.self) { try log.open("/nowhere/log") }
        logger.error("still there")
        #expect(String(decoding: readFile(temporary.path + "/log") ?? [], as: UTF8.self).contains("still there"))
    }
}

@Suite struct MountPointTests {
    @Test("what will not do as a mount point is said in a sentence that names it")
    func refused() throws {
        let temporary = TemporaryFolder()
        func message(_ name: String, mayBeNonEmpty: Bool = false) -> String? {
            do {
                try MountPoint(temporary.path + name).prepare(mayBeNonEmpty: mayBeNonEmpty)
                return nil
            } catch { return error.message }
        }
        #expect(message("/none")?.contains("does not exist") == true)
        #expect(message("/none/at/all")?.contains("none") == true)
        close(open(temporary.path + "/file", O_CREAT | O_WRONLY, 0o600))
        #expect(message("/file")?.contains("not a directory") == true)
        #expect(message("")?.contains("not empty") == true)
        #expect(throws: MountError.self) { try MountPoint("/proc").prepare(mayBeNonEmpty: false) }
        #expect(throws: MountError.self) { try MountPoint("") }
    }

    @Test("a path is made absolute, and links on the way are followed")
    func resolution() throws {
        let temporary = TemporaryFolder()
        mkdir(temporary.path + "/a", 0o700)
        symlink("a", temporary.path + "/link")
        #expect(try MountPoint(temporary.path + "/link/").path == temporary.path + "/a")
        #expect(try MountPoint(temporary.path + "/./a/../a").path == temporary.path + "/a")
        #expect(try MountPoint("/").path == "/")
    }
}
