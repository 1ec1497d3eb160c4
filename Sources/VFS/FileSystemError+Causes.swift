import Caching
import Catalog
import Glibc
import StoreAPI

/// The one place where errors of the rooms below become what a system call reports.
extension FileSystemError {
    init(_ error: CatalogError) {
        self =
            switch error.code {
            case .notFound: .notFound
            case .exists: .exists
            case .notADirectory: .notADirectory
            case .isADirectory: .isADirectory
            case .notEmpty: .notEmpty
            case .noSuchAttribute: .noSuchAttribute
            case .attributeExists: .exists
            case .insideItself: .invalid
            case .tooManyLinks: .tooManyLinks
            case .noSpace: .noSpace
            case .noMemory: .system(ENOMEM)
            case .damaged, .corrupt, .tooNew: .inputOutput
            }
    }

    init(_ error: CacheError) {
        self =
            switch error {
            case .store(let error): FileSystemError(ofContent: error.code)
            case .catalog(let error): error.code == .notFound ? .stale : FileSystemError(error)
            case .system(let number): number == ENOSPC ? .noSpace : .system(number)
            case .lost: .inputOutput
            case .timedOut: .timedOut
            case .discarded: .stale
            case .shutDown: .noDevice
            }
    }

    /// For a request about the namespace: a listing, or what lies at a path.
    init(_ error: StoreError) {
        self =
            switch error.code {
            // What was listed a moment ago is not there: the kernel looks the whole path up again.
            case .notFound: .stale
            case .alreadyExists: .exists
            case .notADirectory: .notADirectory
            case .isADirectory: .isADirectory
            case .directoryNotEmpty: .notEmpty
            case .preconditionFailed: .stale
            case .accessDenied, .authenticationFailed, .certificateRejected: .accessDenied
            case .quotaExceeded: .quotaExceeded
            case .tooLarge: .tooLarge
            case .invalidName, .invalidArgument: .invalid
            case .unsupported: .unsupported
            case .timedOut: .timedOut
            case .cancelled: .interrupted
            case .readOnly: .readOnly
            case .inUse: .busy
            case .noLocalSpace: .noSpace
            case .storeNotFound, .throttled, .unavailable, .corrupted, .contentLost, .internal: .inputOutput
            }
    }

    /// For the bytes of a file that is open: there "not found" cannot mean the name.
    init(ofContent code: StoreError.Code) {
        self =
            switch code {
            case .notFound, .preconditionFailed: .stale
            case .notADirectory, .isADirectory, .alreadyExists, .directoryNotEmpty: .stale
            case .unsupported, .invalidName, .invalidArgument: .inputOutput
            case .storeNotFound, .accessDenied, .authenticationFailed, .quotaExceeded, .tooLarge, .throttled,
                .timedOut, .unavailable, .corrupted, .cancelled, .readOnly, .inUse, .certificateRejected, .noLocalSpace,
                .contentLost, .internal:
                FileSystemError(StoreError(code, ""))
            }
    }
}

/// Runs `body`, with the catalog's errors as those of system calls.
func asked<Value>(_ body: () throws(CatalogError) -> Value) throws(FileSystemError) -> Value {
    do { return try body() } catch { throw FileSystemError(error) }
}

/// Runs `body`, with the cache's errors as those of system calls.
func cached<Value>(_ body: () throws(CacheError) -> Value) throws(FileSystemError) -> Value {
    do { return try body() } catch { throw FileSystemError(error) }
}

/// Calls `reply` with what `body` returns or throws.
func answer<Value>(
    _ reply: FileSystem.Reply<Value>, _ body: () throws(FileSystemError) -> Value
) {
    let result: Result<Value, FileSystemError>
    do { result = .success(try body()) } catch { result = .failure(error) }
    reply(result)
}
