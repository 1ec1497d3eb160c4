package import FUSEAdapter
package import Logging
package import VFS

/// A mount as the kernel sees it: libfuse's in the product, something simpler in tests.
package protocol MountedSession: AnyObject, Sendable {
    /// Mounts. When it returns, requests are served.
    func start() throws(FUSEError)
    /// Returns when the mount is gone, by ``unmount()`` or from outside.
    func wait()
    /// Detaches the mount, also when files in it are open, and ends the serving.
    func unmount()
}

extension FUSESession: MountedSession {}

/// Makes the session of a mount; nothing is mounted before ``MountedSession/start()``.
package typealias SessionFactory =
    @Sendable (FileSystem, FUSEOptions, Logger) throws(FUSEError) -> any MountedSession

extension Mount {
    /// The kernel's, through libfuse.
    package static let fuseSession: SessionFactory = { (fileSystem, options, logger) throws(FUSEError) in
        try FUSESession(fileSystem: fileSystem, options: options, logger: logger)
    }
}
