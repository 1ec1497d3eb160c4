import Glibc
import SQLite
import StoreAPI
import Threading

/// The chunk map behind a lock that is a leaf: no store is asked under it. Stores that take each other's place, as when
/// the settings of a mount change, share it.
package final class MapHolder: Sendable {
    let path: String
    /// nil: not opened yet.
    private let map = Lock<ChunkMap?>(nil)

    /// - Parameter path: of the map; it is made when it is first needed. See ``ChunkMap``.
    package init(path: String) {
        self.path = path
        if access(path + Self.suspect, F_OK) == 0 { Self.remove(path) }
    }

    /// Whether there is one.
    var isThere: Bool { access(path, F_OK) == 0 }

    /// A file beside the map that says that it has failed: the next mount makes a new one, of the chunks.
    private static let suspect = "-suspect"

    /// Deletes a map that nobody has open, with all that belongs to it.
    package static func remove(_ path: String) {
        for suffix in ["", "-wal", "-shm", suspect] { unlink(path + suffix) }
    }

    /// Runs `body` with the map, alone.
    func use<Result>(_ body: (ChunkMap) throws(ChunkMapError) -> Result) throws(StoreError) -> Result {
        do throws(ChunkMapError) {
            return try map.withLock { map throws(ChunkMapError) in
                if let map { return try body(map) }
                let opened = try ChunkMap(path: path)
                map = opened
                return try body(opened)
            }
        } catch {
            if error.fault.kind == .corrupt {
                let file = open(path + Self.suspect, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
                if file >= 0 { Glibc.close(file) }
            }
            throw error.storeError
        }
    }

    /// Has `fill` make a map of its own beside this one, which then takes its place at once.
    func replace(_ fill: (_ path: String) throws(StoreError) -> Void) throws(StoreError) {
        let new = path + ".new"
        Self.remove(new)
        defer { Self.remove(new) }
        try fill(new)
        try map.withLock { map throws(StoreError) in
            map = nil
            Self.remove(path)
            guard rename(new, path) == 0 else {
                throw StoreError(
                    .internal, "the new chunk map cannot take its place: \(String(cString: strerror(errno)))")
            }
        }
    }
}
