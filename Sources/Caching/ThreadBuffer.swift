import Glibc

/// A buffer that each thread keeps for itself, so that a read from the cache allocates nothing.
enum ThreadBuffer {
    private static let headSize = 4096
    private static let usualCapacity = (1 << 20) + (64 << 10)
    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        let status = pthread_key_create(&key, freeThreadBuffer)
        precondition(status == 0, "no thread-specific key is left")
        return key
    }()

    /// - Returns: `count` bytes of the calling thread's buffer, page-aligned, with whatever is in them. The next call
    ///   on the same thread gives the same bytes.
    /// - Throws: ``CacheError/system(_:)`` with ENOMEM.
    static func bytes(_ count: Int) throws(CacheError) -> UnsafeMutableRawBufferPointer {
        var head = pthread_getspecific(key)
        if head == nil || head!.load(as: Int.self) < count {
            let capacity = max(count, usualCapacity)
            var made: UnsafeMutableRawPointer?
            let status = posix_memalign(&made, headSize, headSize + capacity)
            guard status == 0 else { throw .system(status) }
            free(head)
            made!.storeBytes(of: capacity, as: Int.self)
            pthread_setspecific(key, made)
            head = made
        }
        return UnsafeMutableRawBufferPointer(start: head! + headSize, count: count)
    }
}

private func freeThreadBuffer(_ head: UnsafeMutableRawPointer?) { free(head) }
