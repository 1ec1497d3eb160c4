import CShim
import Glibc
import Synchronization

/// How many bytes are in the cache, and how many may be.
final class CacheAccounts: Sendable {
    let used: Atomic<Int64>
    /// Room that was given to writers who have not written yet.
    let promised = Atomic<Int64>(0)
    /// Bytes that are being fetched.
    let incoming = Atomic<Int64>(0)
    let soft: Atomic<Int64>
    let hard: Atomic<Int64>
    let freeSpaceFloor: Atomic<Int64>
    /// Free bytes on the disk when it was last looked at, and when that was.
    let diskFree = Atomic<Int64>(.max)
    let diskLooked = Atomic<Int64>(0)
    let waiting = Atomic<Int>(0)

    init(limits: CacheLimits, used: Int64) {
        self.used = Atomic(used)
        soft = Atomic(limits.soft)
        hard = Atomic(limits.hard)
        freeSpaceFloor = Atomic(limits.freeSpaceFloor)
    }

    var total: Int64 { max(0, used.load(ordering: .relaxed)) }
    /// What will come on top of ``total``, as far as that is known.
    var outstanding: Int64 { max(0, promised.load(ordering: .relaxed)) + incoming.load(ordering: .relaxed) }
}

/// Space on the disk of a directory, in bytes.
struct DiskSpace {
    var total: Int64
    var free: Int64

    init?(of path: String) {
        var space = statvfs()
        guard statvfs(path, &space) == 0 else { return nil }
        total = Int64(space.f_blocks) * Int64(space.f_frsize)
        free = Int64(space.f_bavail) * Int64(space.f_frsize)
    }
}
