import Glibc
package import VFS

extension FileSystemError {
    /// The errno that a caller of a system call sees. This is the only place where the two meet.
    package var errno: Int32 {
        switch self {
        case .notFound: ENOENT
        case .exists: EEXIST
        case .notADirectory: ENOTDIR
        case .isADirectory: EISDIR
        case .notEmpty: ENOTEMPTY
        case .invalid: EINVAL
        case .notPermitted: EPERM
        case .accessDenied: EACCES
        case .noSuchAttribute: ENODATA
        case .nameTooLong: ENAMETOOLONG
        case .tooManyLinks: EMLINK
        case .badHandle: EBADF
        case .noSpace: ENOSPC
        case .quotaExceeded: EDQUOT
        case .tooLarge: EFBIG
        case .readOnly: EROFS
        case .unsupported: EOPNOTSUPP
        case .timedOut: ETIMEDOUT
        case .inputOutput: EIO
        case .stale: ESTALE
        case .busy: EBUSY
        case .noDevice: ENODEV
        case .outOfRange: ERANGE
        case .crossDevice: EXDEV
        case .interrupted: EINTR
        case .loop: ELOOP
        case .system(let number): number
        }
    }
}
