import CFuse3
import VFS

/// Tells the kernel what it has cached and should not have. Called on the file system's own thread: these calls may
/// wait for requests that other threads are just answering.
final class KernelNotices: KernelNotifier, @unchecked Sendable {
    /// Valid while this is set as the file system's notifier.
    private let session: OpaquePointer

    init(session: OpaquePointer) { self.session = session }

    func invalidateEntry(parent: UInt64, name: [UInt8]) {
        name.withUnsafeBytes {
            _ = fuse_lowlevel_notify_inval_entry(
                session, parent, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
    }

    func invalidateAttributes(of number: UInt64) {
        // A negative offset: attributes only.
        _ = fuse_lowlevel_notify_inval_inode(session, number, -1, 0)
    }

    func writeBack(_ number: UInt64) {
        // All bytes: the kernel writes those back that it has not sent yet before it drops them.
        _ = fuse_lowlevel_notify_inval_inode(session, number, 0, 0)
    }
}
