import Catalog
import Threading

/// What is remembered of rows between the attempts to upload them; lost with the process, harmlessly.
final class UploadMemory: Sendable {
    private struct State {
        var uploads: [PendingID: Timestamp] = [:]
        var torn: [PendingID: Int] = [:]
    }

    private let state = Lock(State())
    private static let most = 10_000

    /// The row's file was uploaded, and had been changed again by then.
    func noteUpload(of row: PendingID, at time: Timestamp) {
        state.withLock {
            if $0.uploads.count >= Self.most { $0.uploads = [:] }
            $0.uploads[row] = time
            $0.torn[row] = nil
        }
    }

    func lastUpload(of row: PendingID) -> Timestamp? { state.withLock { $0.uploads[row] } }

    /// The file was changed in the middle of its upload. Returns how often in a row by now.
    func noteTorn(_ row: PendingID) -> Int {
        state.withLock {
            if $0.torn.count >= Self.most { $0.torn = [:] }
            $0.torn[row, default: 0] += 1
            return $0.torn[row]!
        }
    }

    func timesTorn(_ row: PendingID) -> Int { state.withLock { $0.torn[row] ?? 0 } }

    func forget(_ row: PendingID) {
        state.withLock {
            $0.uploads[row] = nil
            $0.torn[row] = nil
        }
    }
}
