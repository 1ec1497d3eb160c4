/// What went wrong with a request to a store, in terms that a caller can act on.
public struct StoreError: Error, Sendable, CustomStringConvertible {
    public enum Code: String, Sendable, CaseIterable {
        /// Nothing lies at the path: a definite answer of the store. A store that could not be asked is ``unavailable``.
        case notFound
        /// The store's root (bucket, container, directory) does not exist.
        case storeNotFound
        case alreadyExists
        case notADirectory
        case isADirectory
        case directoryNotEmpty
        /// The condition of the request (``WriteCondition``, ``ReadRequest/version``) does not hold.
        case preconditionFailed
        /// The credentials are known and do not permit this.
        case accessDenied
        /// The credentials are wrong, missing or expired.
        case authenticationFailed
        case quotaExceeded
        /// The object is larger than the store can hold.
        case tooLarge
        /// The store cannot hold this name.
        case invalidName
        /// A setting or an argument makes no sense; the message names it.
        case invalidArgument
        /// The store cannot do this at all (see ``StoreCapabilities``).
        case unsupported
        /// The store asks for fewer requests; see ``StoreError/retryAfter``.
        case throttled
        case timedOut
        /// The store cannot be reached or answers with a fault of its own.
        case unavailable
        /// Bytes did not match their checksum or length.
        case corrupted
        /// The caller no longer wants the result (``PutOptions/isWanted``).
        case cancelled
        case readOnly
        /// Another machine changes the store, which cannot keep the changes of two apart.
        case inUse
        /// TLS: the certificate is not trusted, expired, or for another host. SSH: the host key is not known, or another one
        /// is.
        case certificateRejected
        /// No space on a disk of this machine.
        case noLocalSpace
        /// Bytes that were written on this machine are not in its cache any more, and nowhere else.
        case contentLost
        /// An answer that makes no sense, or a fault of this program.
        case `internal`
    }

    public var code: Code
    /// A sentence for people: what was tried, on which path or setting, what the store said, what may help.
    /// Never holds a secret.
    public var message: String
    public var path: StorePath?
    /// Detail for the log, such as the status and the head of an HTTP answer, without secrets.
    public var cause: String?
    /// How long the store asked to be left alone.
    public var retryAfter: Duration?

    public init(
        _ code: Code, _ message: String, path: StorePath? = nil, cause: String? = nil, retryAfter: Duration? = nil
    ) {
        self.code = code
        self.message = message
        self.path = path
        self.cause = cause
        self.retryAfter = retryAfter
    }

    public var description: String { message }

    /// Whether the same request may succeed later without anybody changing anything.
    public var isTransient: Bool {
        switch code {
        case .throttled, .timedOut, .unavailable, .corrupted, .internal, .noLocalSpace: true
        case .notFound, .storeNotFound, .alreadyExists, .notADirectory, .isADirectory, .directoryNotEmpty,
            .preconditionFailed, .accessDenied, .authenticationFailed, .quotaExceeded, .tooLarge, .invalidName,
            .invalidArgument, .unsupported, .cancelled, .readOnly, .inUse, .certificateRejected, .contentLost:
            false
        }
    }
}
