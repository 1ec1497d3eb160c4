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
    /// Bytes that will be fetched, one part after the other, because uploads need them.
    let completing = Atomic<Int64>(0)
    let soft: Atomic<Int64>
    let hard: Atomic<Int64>
    /// What has to stay free on the disk.
    let floor = Atomic<Int64>(0)
    /// Free bytes on the disk when it was last looked at, less what was written since; and when that was.
    let diskFree = Atomic<Int64>(.max / 2)
    let diskLooked = Atomic<Int64>(0)
    let waiting = Atomic<Int>(0)

    init(limits: CacheLimits, used: Int64, disk: DiskSpace?) {
        self.used = Atomic(used)
        soft = Atomic(limits.soft)
        hard = Atomic(limits.hard)
        setFloor(limits, disk: disk)
    }

    func setFloor(_ limits: CacheLimits, disk: DiskSpace?) {
        let usual = disk.map { CacheLimits.usualFloor(ofDisk: $0.total) } ?? 0
        floor.store(limits.freeSpaceFloor ?? usual, ordering: .relaxed)
    }

    /// What writers and read-ahead leave free above the floor. Half of it is for those who wait for bytes from the
    /// store; the other half is for what nobody counts: the catalog and the disk's own tables.
    var spare: Int64 { min(16 << 20, floor.load(ordering: .relaxed)) }

    /// A writer was given room.
    func promise(_ bytes: Int64) { promised.add(bytes, ordering: .relaxed) }

    /// A writer to whom room was promised has written, or will not any more.
    func endPromise(_ bytes: Int64) {
        var now = promised.load(ordering: .relaxed)
        while true {
            let (isDone, found) = promised.compareExchange(
                expected: now, desired: max(0, now - bytes), ordering: .relaxed)
            if isDone { return }
            now = found
        }
    }

    var total: Int64 { max(0, used.load(ordering: .relaxed)) }
    /// What will come on top of ``total``, as far as that is known.
    var outstanding: Int64 { underWay + completing.load(ordering: .relaxed) }
    /// The same without what no request was made for yet.
    var underWay: Int64 { promised.load(ordering: .relaxed) + incoming.load(ordering: .relaxed) }
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
