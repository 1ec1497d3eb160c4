import Glibc

/// A fresh directory of the host.
struct TemporaryDirectory {
    let path: String

    struct Failure: Error {
        let number: Int32
    }

    init(in parent: String = "/var/tmp") throws {
        var template = Array("\(parent)/cloudfusion-test-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failure(number: errno) }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    /// Deletes it with all that is in it.
    func remove() {
        let result = nftw(path, { file, _, _, _ in Glibc.remove(file!) }, 16, Int32(FTW_DEPTH | FTW_PHYS))
        precondition(result == 0, "\(path) could not be removed: errno \(errno)")
    }

    /// Writes a file without a store.
    func write(_ bytes: [UInt8], to name: String, mode: mode_t = 0o644) {
        let file = open("\(path)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, mode)
        precondition(file >= 0 && Glibc.write(file, bytes, bytes.count) == bytes.count, "\(name) was not written")
        close(file)
    }
}
