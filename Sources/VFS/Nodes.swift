import Catalog
import Synchronization
import Threading

/// What is remembered of an inode while somebody has it open.
final class Node: Sendable {
    /// Whether a write may have to take away set-user-ID, set-group-ID or capabilities.
    let mayHavePrivileges = Atomic(false)
    /// Whether somebody may have written what the kernel has not sent yet.
    let wasOpenedForWriting = Atomic(false)
}

/// Which inodes of the catalog the kernel knows and which are open. An inode that lost its last name lives on until
/// it is neither.
final class NodeTable: Sendable {
    private struct State {
        /// How often the kernel was told of each. It may know millions, and so nothing else is kept with these.
        var lookups: [InodeID: UInt64] = [:]
        var open: [InodeID: (handles: Int, node: Node)] = [:]
        /// They may have lost their last name: the catalog is asked when nobody uses them any more.
        var orphans: Set<InodeID> = []

        func isUsed(_ inode: InodeID) -> Bool { lookups[inode] != nil || open[inode] != nil }

        /// - Returns: Whether the inode may be gone for good now.
        mutating func isGone(_ inode: InodeID) -> Bool { !isUsed(inode) && orphans.remove(inode) != nil }
    }

    private let state = Lock(State())

    func retain(_ inode: InodeID) { state.withLock { $0.lookups[inode, default: 0] += 1 } }

    /// - Returns: Whether the inode may be gone for good now.
    func release(_ inode: InodeID, lookups: UInt64) -> Bool {
        state.withLock { state in
            guard let count = state.lookups[inode] else { return false }
            state.lookups[inode] = count > lookups ? count - lookups : nil
            return state.isGone(inode)
        }
    }

    func open(_ inode: InodeID) -> Node {
        state.withLock { state in
            let node = state.open[inode]?.node ?? Node()
            state.open[inode] = ((state.open[inode]?.handles ?? 0) + 1, node)
            return node
        }
    }

    /// - Returns: Whether the inode may be gone for good now.
    func close(_ inode: InodeID) -> Bool {
        state.withLock { state in
            guard let (handles, node) = state.open[inode] else { return false }
            state.open[inode] = handles > 1 ? (handles - 1, node) : nil
            return state.isGone(inode)
        }
    }

    /// The inode lost a name. Returns whether nobody uses it, so that it may be gone for good now.
    func lostName(_ inode: InodeID) -> Bool {
        state.withLock { state in
            guard state.isUsed(inode) else { return true }
            state.orphans.insert(inode)
            return false
        }
    }

    /// nil while it is not open.
    func node(_ inode: InodeID) -> Node? { state.withLock { $0.open[inode]?.node } }

    func isKnownToKernel(_ inode: InodeID) -> Bool { state.withLock { $0.lookups[inode] != nil } }

    var knownToKernel: [InodeID] { state.withLock { Array($0.lookups.keys) } }
}
