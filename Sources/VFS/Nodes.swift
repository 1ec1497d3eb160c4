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
    private struct Slot {
        var lookups: UInt64 = 0
        var handles = 0
        /// It may have lost its last name: the catalog is asked when nobody uses it any more.
        var isOrphan = false
        var node: Node?
        var isUnused: Bool { lookups == 0 && handles == 0 }
    }

    private let slots = Lock<[InodeID: Slot]>([:])

    func retain(_ inode: InodeID) { slots.withLock { $0[inode, default: Slot()].lookups += 1 } }

    /// - Returns: Whether the inode may be gone for good now.
    func release(_ inode: InodeID, lookups: UInt64) -> Bool {
        slots.withLock { slots in
            guard var slot = slots[inode] else { return false }
            slot.lookups -= min(lookups, slot.lookups)
            return Self.put(back: slot, of: inode, in: &slots)
        }
    }

    func open(_ inode: InodeID) -> Node {
        slots.withLock { slots in
            var slot = slots[inode] ?? Slot()
            slot.handles += 1
            let node = slot.node ?? Node()
            slot.node = node
            slots[inode] = slot
            return node
        }
    }

    /// - Returns: Whether the inode may be gone for good now.
    func close(_ inode: InodeID) -> Bool {
        slots.withLock { slots in
            guard var slot = slots[inode] else { return false }
            slot.handles -= 1
            if slot.handles == 0 { slot.node = nil }
            return Self.put(back: slot, of: inode, in: &slots)
        }
    }

    /// The inode lost a name. Returns whether nobody uses it, so that it may be gone for good now.
    func lostName(_ inode: InodeID) -> Bool {
        slots.withLock { slots in
            guard slots[inode] != nil else { return true }
            slots[inode]?.isOrphan = true
            return false
        }
    }

    /// nil while it is not open.
    func node(_ inode: InodeID) -> Node? { slots.withLock { $0[inode]?.node } }

    func isKnownToKernel(_ inode: InodeID) -> Bool { slots.withLock { ($0[inode]?.lookups ?? 0) > 0 } }

    var knownToKernel: [InodeID] {
        slots.withLock { slots in slots.compactMap { $0.value.lookups > 0 ? $0.key : nil } }
    }

    private static func put(back slot: Slot, of inode: InodeID, in slots: inout [InodeID: Slot]) -> Bool {
        slots[inode] = slot.isUnused ? nil : slot
        return slot.isUnused && slot.isOrphan
    }
}
