import Glibc

/// A file of this machine without a name, gone when nobody holds it any more. It takes what is read from a store, and
/// can be the body of an upload. Any number of threads may read and write different parts of it.
public final class NamelessFile: ReadSink {
    public let descriptor: Int32

    /// - Throws: ``StoreError``: `.noLocalSpace`, `.internal`.
    public init(in folder: String) throws(StoreError) {
        let file = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0o600)
        if file >= 0 {
            descriptor = file
            return
        }
        // Not every file system knows O_TMPFILE.
        var template = Array("\(folder)/.temporary-XXXXXX".utf8CString)
        let named = mkostemp(&template, O_CLOEXEC)
        guard named >= 0 else { throw StoreError(ofSystemCall: "a temporary file in '\(folder)' could not be made") }
        unlink(template)
        descriptor = named
    }

    /// In the folder of an open file.
    public convenience init(beside other: Int32) throws(StoreError) {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX) + 1)
        let length = readlink("/proc/self/fd/\(other)", &buffer, Int(PATH_MAX))
        guard length > 0 else { throw StoreError(ofSystemCall: "a temporary file could not be made") }
        let path = String(decoding: buffer[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        let folder = path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "/"
        try self.init(in: folder.isEmpty ? "/" : folder)
    }

    /// In the folder for temporary files that the environment names, or /var/tmp.
    public static func temporary() throws(StoreError) -> NamelessFile {
        try NamelessFile(in: getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp")
    }

    deinit { close(descriptor) }

    public func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        var done = 0
        while done < bytes.count {
            let count = pwrite(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(offset) + off_t(done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { throw StoreError(ofSystemCall: "a temporary file could not be written") }
            done += count
        }
    }
}

extension StoreError {
    /// What the system call that has just failed means: `.noLocalSpace` or `.internal`.
    ///
    /// - Parameter what: What could not be done, as the beginning of a sentence.
    public init(ofSystemCall what: String) {
        let number = errno
        self.init(
            number == ENOSPC || number == EDQUOT ? .noLocalSpace : .internal,
            "\(what): \(String(cString: strerror(number)))")
    }
}
