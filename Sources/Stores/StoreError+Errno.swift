import Glibc
package import StoreAPI

extension StoreError {
    /// The one place that says what a failed system call on a store's file means.
    ///
    /// - Parameters:
    ///   - number: The value of `errno`.
    ///   - what: What was tried, as "opening".
    package init(errno number: Int32, _ what: String, _ path: StorePath) {
        let place = path.isRoot ? "the root of the store" : "'\(path)'"
        self.init(
            Self.code(errno: number), "\(what) \(place) failed: \(String(cString: strerror(number)))", path: path,
            cause: "errno \(number)")
    }

    package static func code(errno number: Int32) -> Code {
        switch number {
        case ENOENT: .notFound
        case EEXIST: .alreadyExists
        // A symbolic link where a directory is expected is not followed, and so is none.
        case ENOTDIR, ELOOP: .notADirectory
        case EISDIR: .isADirectory
        case ENOTEMPTY: .directoryNotEmpty
        case EACCES, EPERM: .accessDenied
        case EROFS: .readOnly
        case ENOSPC, EDQUOT: .quotaExceeded
        case EFBIG, EOVERFLOW: .tooLarge
        case ENAMETOOLONG, EILSEQ: .invalidName
        case EINVAL: .invalidArgument
        case ENOTSUP, ENOSYS, EXDEV, EMLINK: .unsupported
        case ETIMEDOUT: .timedOut
        // A disk or a server behind a network mount that does not answer, and what passes by itself.
        case EIO, ESTALE, ENODEV, ENXIO, EHOSTDOWN, EHOSTUNREACH, ENETUNREACH, ECONNREFUSED, ECONNRESET, ENOTCONN,
            EBUSY, ETXTBSY, EAGAIN, EMFILE, ENFILE, ENOMEM, ENOBUFS, ENOLCK, EINTR:
            .unavailable
        default: .internal
        }
    }
}
