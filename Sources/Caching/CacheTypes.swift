package import Catalog
import Glibc
package import StoreAPI

/// How much the cache folder may hold. Live: see ``ContentCache/setLimits(_:)``.
package struct CacheLimits: Hashable, Sendable {
    /// Bytes above which clean content is evicted, least recently used first.
    package var soft: Int64
    /// Bytes above which writers wait for uploads.
    package var hard: Int64
    /// Bytes that stay free on the cache's disk, whatever the limits say; nil: ``usualFloor(ofDisk:)``.
    package var freeSpaceFloor: Int64?
    package init(soft: Int64, hard: Int64, freeSpaceFloor: Int64? = nil) {
        self.soft = soft
        self.hard = hard
        self.freeSpaceFloor = freeSpaceFloor
    }

    /// 256 MiB, or a twentieth of a small disk, on which nothing could be written otherwise.
    static func usualFloor(ofDisk size: Int64) -> Int64 { min(256 << 20, size / 20) }
}

package enum CacheError: Error, Sendable {
    /// The bytes are not here and the store could not give them.
    case store(StoreError)
    case catalog(CatalogError)
    /// A system call on a cache file failed, with this errno; ENOSPC for EDQUOT too. See ``ofSystemCall()``.
    case system(Int32)
    /// Bytes that were written are not in the cache file any more, and on no store: the power failed before they were
    /// flushed, or somebody deleted the file.
    case lost
    /// The bytes did not come within the time that a reader waits.
    case timedOut
    /// The file was removed for good meanwhile: it has neither a name nor a user.
    case discarded
    case shutDown

    /// The system call that has just failed. A quota of the disk that is used up is a full disk: what helps is the same.
    static func ofSystemCall() -> CacheError { .system(errno == EDQUOT ? ENOSPC : errno) }
}

/// Bytes for one upload, and whether they are still worth it.
package struct UploadView: Sendable {
    package var body: UploadBody
    package var size: Int64
    package var generation: Int64
    /// false once bytes inside the view were changed. Appending does not count: what was read is a whole prefix.
    package var isIntact: @Sendable () -> Bool
    /// Keeps the cache file open and its bytes from being evicted.
    let pin: UploadPin

    /// `body` is not in use any more. Whoever takes a view ends it, and does not leave that to the last reference: a
    /// store may keep closures that know the view for as long as it likes.
    package func end() { pin.end() }
}

extension Range<Int64> {
    var length: Int64 { upperBound - lowerBound }
}

extension Int64 {
    /// The number rounded down or up to a multiple of `unit`; upwards it stops at the largest number.
    func rounded(downTo unit: Int64) -> Int64 { self - self % unit }
    func rounded(upTo unit: Int64) -> Int64 {
        let rest = self % unit
        guard rest > 0 else { return self }
        let (sum, overflow) = addingReportingOverflow(unit - rest)
        return overflow ? .max : sum
    }
}

/// Runs a call of the catalog and gives its error the shape that the cache's callers expect.
func asking<Result>(_ body: () throws(CatalogError) -> Result) throws(CacheError) -> Result {
    do { return try body() } catch { throw CacheError.catalog(error) }
}
