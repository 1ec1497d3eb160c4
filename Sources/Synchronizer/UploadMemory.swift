import Catalog
import StoreAPI
import Threading

/// What is remembered of rows between the attempts to upload them; lost with the process, harmlessly.
final class UploadMemory: Sendable {
    private struct State {
        var uploads: [PendingID: Timestamp] = [:]
        var torn: [PendingID: Int] = [:]
        var sent: [StorePath: [SentState]] = [:]
    }

    /// How many uploads to one place are remembered: those that a server may still be at.
    private static let mostSent = 16
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

    /// An upload has ended in a way that leaves open whether the server has carried it out, or will.
    func noteSent(_ upload: SentState?, to path: StorePath) {
        guard let upload else { return }
        state.withLock {
            if $0.sent.count >= Self.most { $0.sent = [:] }
            $0.sent[path, default: []].append(upload)
            if $0.sent[path]!.count > Self.mostSent { $0.sent[path]!.removeFirst() }
        }
    }

    /// Whether what lies there is from such an upload.
    func wasSent(_ there: Metadata, to path: StorePath) -> Bool {
        guard let found = SentState(size: there.size, there.attributes) else { return false }
        return state.withLock { $0.sent[path]?.contains(found) ?? false }
    }

    func forget(_ row: PendingID) {
        state.withLock {
            $0.uploads[row] = nil
            $0.torn[row] = nil
        }
    }
}
