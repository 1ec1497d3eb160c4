package import Catalog
package import StoreAPI
import Threading

extension UploadScheduler {
    /// Kinds of work that do not wait for each other's workers: else a few very large files would keep every small
    /// one waiting for hours.
    package enum Lane: Int, CaseIterable, Sendable {
        /// Deletions, which go out many in one request.
        case deletion
        /// All that is small, where the store takes many changes at once.
        case batch
        /// Files below 1 MiB, attributes and directories: what counts is requests per second.
        case small
        /// Files below 64 MiB, below 4 GiB, and above: what counts is bytes per second.
        case medium, large, huge

        /// - Parameter batch: what the store takes at once; nil: it takes each change for itself.
        package init(_ item: PendingItem, _ batch: ChangeBatch? = nil) {
            if let batch, item.isDeletion || item.size <= batch.largestBody {
                self = .batch
                return
            }
            switch item.size {
            case _ where item.isDeletion: self = .deletion
            case ..<(1 << 20): self = .small
            case ..<(64 << 20): self = .medium
            case ..<(4 << 30): self = .large
            default: self = .huge
            }
        }

        package var isMeasuredInBytes: Bool { self != .deletion && self != .small && self != .batch }

        /// How many workers this lane may have when there are `maximum` in all. Small files always keep a quarter.
        func range(minimum: Int, maximum: Int) -> ClosedRange<Int> {
            let most =
                switch self {
                case .small: maximum
                // One is prepared while another one is sent.
                case .batch: min(2, maximum)
                case .deletion, .medium: max(1, maximum / 2)
                case .large: max(1, maximum / 4)
                case .huge: max(1, maximum / 8)
                }
            if self == .batch { return most...most }
            let least = isMeasuredInBytes ? max(1, minimum / 2) : minimum
            return min(least, most)...most
        }
    }

    /// What happened.
    package enum Event: Sendable {
        /// There may be new rows, or rows that are due earlier.
        case woken
        /// Time has passed.
        case ticked
        /// The answer to ``Action/ask(limit:busy:)``, in the order in which the journal gives rows.
        /// - isFull: there may be more. wait: how long until there can be other rows to ask for.
        case offered([PendingItem], isFull: Bool, wait: Duration)
        /// The journal could not be asked.
        case askingFailed
        /// The answer to ``Action/lookUp(_:)``; nil: the row is gone.
        case lookedUp(PendingID, PendingItem?)
        case finished(PendingID, Outcome)
        /// What kept these rows busy has ended.
        case released([PendingID])
        /// Bytes went out for a row under way.
        case sent(Int64, Lane)
        /// Somebody asked for rows, or the settings changed: what waits after a failure need not wait.
        case expedited
        case configured(SynchronizerSettings, StoreCapabilities)
        /// Whether writers wait for room in the cache.
        case pressed(Bool)
        case stopped
    }

    /// How the work on a row ended.
    package enum Outcome: Sendable {
        /// Done; whether the store was asked for it.
        case done(askedStore: Bool)
        /// Done for the state that was planned; the row stays for a newer one.
        case outdated
        /// The file was changed or deleted meanwhile: the journal knows when it is due again.
        case overtaken
        /// Another row has to be done first; nil: which one is not known.
        case blocked(by: PendingID?)
        /// Another worker is changing what this is about: ``Event/released(_:)`` tells when it may be tried again.
        case busy
        case failed(StoreError)
    }

    /// What is to be done by the engine.
    package enum Action: Sendable {
        /// Let a worker carry out these rows: one, or several of a lane that takes them together.
        case run([PendingItem], Lane)
        /// Note the failure in the journal; a wait of nil parks the row.
        case record(PendingID, revision: Int64, message: String, retryIn: Duration?)
        /// Tell people.
        case report(kind: String, message: String, advice: String)
        /// Ask the journal for rows that are due.
        case ask(limit: Int, busy: Set<PendingID>)
        /// Ask the journal for one row.
        case lookUp(PendingID)
    }

    /// A row that a worker has.
    struct Running: Sendable {
        var item: PendingItem
        var lane: Lane
        /// Rows of one batch share a worker.
        var batch: Int
        var begun: MonotonicTime
        var isProbe: Bool
    }

    /// A row that waits for another one.
    struct Waiting: Sendable {
        var item: PendingItem
        var blocker: PendingID
    }

    /// Why a row cannot be done now.
    struct Trouble: Sendable {
        /// nil: parked.
        var retryAt: MonotonicTime?
        var message: String
        var path: StorePath
    }

    /// A row that is left alone for a moment, without having failed.
    struct Rest: Sendable {
        var until: MonotonicTime
        var count: Int
    }
}
