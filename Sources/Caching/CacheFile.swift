import Glibc
import Synchronization

/// An open cache file. It is closed when the last one who holds it lets it go.
final class CacheFile: Sendable {
    let descriptor: Int32
    private let count: DescriptorCount

    private init(descriptor: Int32, count: DescriptorCount) {
        self.descriptor = descriptor
        self.count = count
        count.open.add(1, ordering: .relaxed)
    }

    deinit {
        Glibc.close(descriptor)
        count.open.subtract(1, ordering: .relaxed)
    }

    /// - Parameter creating: Make the file when it is not there (0600), and the directory that it is in when somebody has
    ///   deleted that.
    /// - Returns: nil: there is no such file.
    static func open(_ path: String, creating: Bool, count: DescriptorCount) throws(CacheError) -> CacheFile? {
        let flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (creating ? O_CREAT : 0)
        var hasMadeDirectory = false
        while true {
            let descriptor = Glibc.open(path, flags, mode_t(0o600))
            if descriptor >= 0 { return CacheFile(descriptor: descriptor, count: count) }
            switch errno {
            case EINTR: continue
            case ENOENT where !creating: return nil
            case ENOENT where !hasMadeDirectory:
                hasMadeDirectory = true
                let directory = String(path[..<path.lastIndex(of: "/")!])
                guard mkdir(directory, 0o700) == 0 || errno == EEXIST else { throw .ofSystemCall() }
                try synchronize(directory: String(directory[..<directory.lastIndex(of: "/")!]))
            default: throw .ofSystemCall()
            }
        }
    }

    /// Fills `buffer` from `offset` on; what lies behind the end of the file is zero.
    /// - Returns: Whether all of it lay before the end.
    @discardableResult
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int64) throws(CacheError) -> Bool {
        var done = 0
        while done < buffer.count {
            let got = pread(descriptor, buffer.baseAddress! + done, buffer.count - done, off_t(offset) + done)
            if got < 0 {
                if errno == EINTR { continue }
                throw .ofSystemCall()
            }
            if got == 0 {
                memset(buffer.baseAddress! + done, 0, buffer.count - done)
                return false
            }
            done += got
        }
        return true
    }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(CacheError) {
        var done = 0
        while done < bytes.count {
            let put = pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset) + done)
            if put < 0 {
                if errno == EINTR { continue }
                throw .ofSystemCall()
            }
            done += put
        }
    }

    func size() throws(CacheError) -> Int64 {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw .ofSystemCall() }
        return Int64(status.st_size)
    }

    func truncate(to size: Int64) throws(CacheError) {
        while ftruncate(descriptor, off_t(size)) != 0 {
            guard errno == EINTR else { throw .ofSystemCall() }
        }
    }

    /// Makes `range` zero, as a hole where the disk's file system can, and leaves the size as it is.
    func punch(_ range: Range<Int64>) throws(CacheError) {
        while fallocate(
            descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off_t(range.lowerBound), off_t(range.length))
            != 0
        {
            if errno == EINTR { continue }
            guard errno == EOPNOTSUPP else { throw .ofSystemCall() }
            try overwriteWithZeros(range.clamped(to: 0..<max(0, size())))
            return
        }
    }

    /// Takes blocks for `range`, without a change of size. A file system that cannot is left to take them later.
    func allocate(_ range: Range<Int64>) throws(CacheError) {
        while fallocate(descriptor, FALLOC_FL_KEEP_SIZE, off_t(range.lowerBound), off_t(range.length)) != 0 {
            if errno == EINTR { continue }
            if errno == EOPNOTSUPP { return }
            throw .ofSystemCall()
        }
    }

    /// lseek(2) with SEEK_DATA or SEEK_HOLE; nil for ENXIO.
    func seek(_ offset: Int64, _ whence: Int32) throws(CacheError) -> Int64? {
        let position = lseek(descriptor, off_t(offset), whence)
        if position >= 0 { return Int64(position) }
        if errno == ENXIO { return nil }
        throw .ofSystemCall()
    }

    /// fdatasync(2): the bytes, and the size that is needed to find them, survive a loss of power.
    func synchronize() throws(CacheError) {
        while fdatasync(descriptor) != 0 {
            guard errno == EINTR else { throw .ofSystemCall() }
        }
    }

    /// fsync(2) of a directory: the names in it survive a loss of power.
    static func synchronize(directory: String) throws(CacheError) {
        let descriptor = Glibc.open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw .ofSystemCall() }
        defer { Glibc.close(descriptor) }
        while fsync(descriptor) != 0 {
            guard errno == EINTR else { throw .ofSystemCall() }
        }
    }

    /// Copies inside the kernel, sharing blocks where the disk's file system can.
    func copy(_ range: Range<Int64>, to target: CacheFile, at targetOffset: Int64) throws(CacheError) {
        var done: Int64 = 0
        while done < range.length {
            var from = off_t(range.lowerBound + done)
            var to = off_t(targetOffset + done)
            let copied = copy_file_range(descriptor, &from, target.descriptor, &to, Int(range.length - done), 0)
            if copied > 0 {
                done += Int64(copied)
            } else if copied == 0 {
                // The end of the cache file: what lies behind it is zero.
                try target.overwriteWithZeros((targetOffset + done)..<(targetOffset + range.length))
                return
            } else if errno != EINTR {
                guard [EXDEV, EINVAL, EOPNOTSUPP, ENOSYS].contains(errno) else { throw .ofSystemCall() }
                try copyThroughMemory(
                    (range.lowerBound + done)..<range.upperBound, to: target, at: targetOffset + done)
                return
            }
        }
    }

    private func copyThroughMemory(_ range: Range<Int64>, to target: CacheFile, at targetOffset: Int64)
        throws(CacheError)
    {
        var position = range.lowerBound
        while position < range.upperBound {
            let buffer = try ThreadBuffer.bytes(Int(min(1 << 20, range.upperBound - position)))
            try read(into: buffer, at: position)
            try target.write(UnsafeRawBufferPointer(buffer), at: targetOffset + position - range.lowerBound)
            position += Int64(buffer.count)
        }
    }

    private func overwriteWithZeros(_ range: Range<Int64>) throws(CacheError) {
        var position = range.lowerBound
        while position < range.upperBound {
            let buffer = try ThreadBuffer.bytes(Int(min(1 << 20, range.upperBound - position)))
            memset(buffer.baseAddress!, 0, buffer.count)
            try write(UnsafeRawBufferPointer(buffer), at: position)
            position += Int64(buffer.count)
        }
    }
}

/// How many cache files are open in the process.
final class DescriptorCount: Sendable {
    let open = Atomic<Int>(0)
}
