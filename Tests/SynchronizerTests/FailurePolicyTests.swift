import Caching
import Catalog
import StoreAPI
import Testing

@testable import Synchronizer

@Suite("What an error means for a row") struct FailurePolicyTests {
    /// Written out once more, so that a change of the table has to be made twice.
    static let expected: [StoreError.Code: FailureKind] = [
        .notFound: .retry, .storeNotFound: .refusal, .alreadyExists: .retry, .notADirectory: .park,
        .isADirectory: .park, .directoryNotEmpty: .retry, .preconditionFailed: .retry, .accessDenied: .park,
        .authenticationFailed: .refusal, .quotaExceeded: .park, .tooLarge: .park, .invalidName: .park,
        .invalidArgument: .park, .unsupported: .park, .throttled: .throttle, .timedOut: .outage,
        .unavailable: .outage, .corrupted: .retry, .cancelled: .none, .readOnly: .park, .inUse: .retry,
        .contentLost: .park,
        .certificateRejected: .refusal, .noLocalSpace: .retry, .internal: .retry,
    ]

    @Test("each code has its meaning and an advice", arguments: StoreError.Code.allCases)
    func table(code: StoreError.Code) {
        #expect(code.failureKind == Self.expected[code])
        #expect(code.advice.hasSuffix(".") || code.advice.contains(";"))
    }

    @Test("what the store calls transient is never parked", arguments: StoreError.Code.allCases)
    func transient(code: StoreError.Code) {
        if StoreError(code, "").isTransient { #expect(code.failureKind != .park) }
    }

    @Test("that a file was removed while it was worked on is no fault, whoever finds out")
    func removedMeanwhile() {
        for error in [CacheError.discarded, .catalog(CatalogError(.notFound, ""))] {
            #expect(StoreError(error, InodeID(7)).code == .cancelled)
        }
        #expect(StoreError(CacheError.catalog(CatalogError(.corrupt, "")), InodeID(7)).code == .internal)
    }
}
