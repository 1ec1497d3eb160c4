package import StoreAPI

/// What a failed request means for the row that it was made for, and for all others.
package enum FailureKind: Hashable, Sendable {
    /// Somebody no longer wants the result: nothing failed.
    case none
    /// This row is tried again later, after longer and longer waits.
    case retry
    /// This row is not tried again before the file or the settings change, or somebody asks for it.
    case park
    /// The store asks for fewer requests: all wait a little, and fewer work.
    case throttle
    /// The store cannot be reached: after a few of these one row probes and the others wait.
    case outage
    /// The store refuses this client altogether: as an outage, at once, and probed less often.
    case refusal
}

extension StoreError.Code {
    /// The one table of what the synchronizer makes of an error.
    package var failureKind: FailureKind {
        switch self {
        case .cancelled: .none
        case .throttled: .throttle
        case .timedOut, .unavailable: .outage
        case .storeNotFound, .authenticationFailed, .certificateRejected: .refusal
        // The store is not as the catalog thought; a later plan knows better.
        case .notFound, .alreadyExists, .directoryNotEmpty, .preconditionFailed: .retry
        case .corrupted, .internal, .noLocalSpace, .inUse: .retry
        case .notADirectory, .isADirectory, .accessDenied, .quotaExceeded, .tooLarge, .invalidName, .invalidArgument,
            .unsupported, .readOnly, .contentLost:
            .park
        }
    }

    /// What a person can do about it, for `stats/errors`.
    package var advice: String {
        switch self {
        case .cancelled: "Nothing has to be done."
        case .throttled: "Nothing has to be done: fewer requests are sent until the store takes more."
        case .timedOut, .unavailable:
            "Nothing is lost: uploads go on by themselves when the store answers. Check the network and the endpoint."
        case .storeNotFound: "Check the name of the bucket, container or directory in the settings, or create it."
        case .authenticationFailed: "Put valid credentials into the settings; uploads then go on by themselves."
        case .certificateRejected:
            "Check the endpoint's certificate, this machine's clock and its list of certificate authorities; with SFTP "
                + "compare the fingerprint in the message with the server's."
        case .notFound, .alreadyExists, .directoryNotEmpty, .preconditionFailed:
            "Somebody else changes the same files on the store. It is tried again; look at stats/conflicts."
        case .corrupted: "It is sent again. If it happens often, check the network and this machine's memory."
        case .internal: "It is tried again. If it stays, report it with the log."
        case .contentLost:
            "It was not flushed (fsync) before the power failed, or somebody deleted files of the cache. "
                + "Write the file again under another name, or remove it."
        case .noLocalSpace: "Free some space on the disk that holds the cache."
        case .notADirectory, .isADirectory:
            "A file and a directory have the same name on the store and here: rename one of them."
        case .accessDenied: "Let these credentials write there, then use 'now PATH' in config/command."
        case .quotaExceeded: "Free or buy space on the store, then use 'now PATH' in config/command."
        case .tooLarge: "The store cannot hold a file of this size: split it, or keep it elsewhere."
        case .invalidName: "The store cannot hold this name: rename the file."
        case .invalidArgument: "Correct the setting that the message names."
        case .unsupported: "The store cannot do this; the file stays in the cache."
        case .inUse: "Stop the other mount; uploads then go on by themselves."
        case .readOnly: "Mount the store with credentials and settings that allow writing."
        }
    }
}
