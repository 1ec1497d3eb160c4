package import Catalog
import Glibc
package import Threading

/// A file in the folder of a cache.
package struct ListedCacheFile: Sendable {
    /// Whose bytes it has; nil: its name is none that a cache file has.
    package var inode: InodeID?
    package var path: String
    /// Bytes.
    package var size: Int64
    /// Of the last write to it, on the disk.
    package var modified: Timestamp
}

extension ContentCache {
    /// What lies in the cache files' folder, whatever any catalog knows of it: for a cache that is not in use.
    ///
    /// - Parameter limit: How many are wanted.
    package static func files(in folder: String, limit: Int = .max) -> [ListedCacheFile] {
        var found: [ListedCacheFile] = []
        let top = folder + "/content"
        for directory in names(in: top) {
            for name in names(in: "\(top)/\(directory)") where found.count < limit {
                let path = "\(top)/\(directory)/\(name)"
                var status = stat()
                guard lstat(path, &status) == 0, status.st_mode & Glibc.S_IFMT == Glibc.S_IFREG else { continue }
                found.append(
                    ListedCacheFile(
                        inode: UInt64(name).flatMap { $0 < 1 << 62 ? InodeID($0) : nil }, path: path,
                        size: Int64(status.st_size), modified: Timestamp(status.st_mtim)))
            }
        }
        return found
    }

    private static func names(in folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}
