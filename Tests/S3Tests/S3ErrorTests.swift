import StoreAPI
import StoreHTTP
import Testing

@testable import Stores

@Suite("What S3's errors mean")
struct S3ErrorTests {
    @Test(
        "an error code has one meaning",
        arguments: [
            ("NoSuchKey", .notFound), ("NoSuchUpload", .notFound), ("NoSuchBucket", .storeNotFound),
            ("InvalidBucketName", .storeNotFound), ("AccessDenied", .accessDenied),
            ("AllAccessDisabled", .accessDenied),
            ("InvalidObjectState", .accessDenied), ("InvalidAccessKeyId", .authenticationFailed),
            ("SignatureDoesNotMatch", .authenticationFailed), ("ExpiredToken", .authenticationFailed),
            ("InvalidToken", .authenticationFailed), ("RequestTimeTooSkewed", .authenticationFailed),
            ("AuthorizationHeaderMalformed", .authenticationFailed), ("SlowDown", .throttled),
            ("ServiceUnavailable", .throttled), ("TooManyRequests", .throttled), ("RequestTimeout", .timedOut),
            ("InternalError", .unavailable), ("OperationAborted", .unavailable),
            ("ConditionalRequestConflict", .unavailable), ("IncompleteBody", .unavailable),
            ("PreconditionFailed", .preconditionFailed), ("NotImplemented", .unsupported),
            ("MethodNotAllowed", .unsupported), ("BadDigest", .corrupted), ("InvalidDigest", .corrupted),
            ("XAmzContentSHA256Mismatch", .corrupted), ("EntityTooLarge", .tooLarge), ("QuotaExceeded", .quotaExceeded),
            ("StorageFull", .quotaExceeded), ("XMinioStorageFull", .quotaExceeded), ("KeyTooLongError", .invalidName),
            ("InvalidURI", .invalidName), ("XMinioParentIsObject", .invalidName), ("InvalidArgument", .invalidArgument),
            ("InvalidRange", .invalidArgument), ("MetadataTooLarge", .invalidArgument),
            ("MalformedXML", .invalidArgument),
            ("EntityTooSmall", .invalidArgument), ("InvalidStorageClass", .invalidArgument),
            ("PermanentRedirect", .invalidArgument), ("BucketAlreadyExists", .alreadyExists),
            ("BucketNotEmpty", .directoryNotEmpty),
        ] as [(String, StoreError.Code)])
    func named(name: String, code: StoreError.Code) {
        #expect(S3Errors.code(status: 400, name: name, concernsKey: true) == code)
    }

    @Test(
        "a status without a code has a meaning too",
        arguments: [
            (301, .invalidArgument), (400, .invalidArgument), (401, .authenticationFailed), (403, .accessDenied),
            (404, .notFound), (405, .unsupported), (408, .timedOut), (409, .unavailable), (410, .notFound),
            (412, .preconditionFailed), (413, .tooLarge), (414, .invalidName), (416, .invalidArgument),
            (418, .internal),
            (429, .throttled), (500, .unavailable), (501, .unsupported), (502, .unavailable), (503, .throttled),
            (504, .unavailable), (507, .quotaExceeded),
        ] as [(Int, StoreError.Code)])
    func bare(status: Int, code: StoreError.Code) {
        #expect(S3Errors.code(status: status, name: nil, concernsKey: true) == code)
        #expect(S3Errors.code(status: status, name: "SomethingNew", concernsKey: true) == code)
    }

    @Test("a missing key is told from a missing bucket")
    func missing() {
        #expect(S3Errors.code(status: 404, name: nil, concernsKey: false) == .storeNotFound)
        #expect(S3Errors.code(status: 404, name: nil, concernsKey: true) == .notFound)
    }

    @Test("the sentence says what to do, and how long to wait")
    func advice() {
        func error(_ name: String, status: Int = 403, _ headers: [(name: String, value: String)] = []) -> StoreError {
            let body = "<?xml version=\"1.0\"?><Error><Code>\(name)</Code><Message>said</Message></Error>"
            return S3Errors.error(
                HTTPResponse(status: status, headers: headers, body: Array(body.utf8)), "'a' could not be read",
                path: StorePath("a"), concernsKey: true, bucket: "b")
        }
        #expect(error("RequestTimeTooSkewed").message.contains("clock"))
        #expect(error("SignatureDoesNotMatch").message.contains("secret_access_key"))
        #expect(error("NoSuchBucket", status: 404).message.contains("bucket 'b'"))
        #expect(error("ExpiredToken").message.contains("expired"))
        let throttled = error("SlowDown", status: 503, [("Retry-After", "7")])
        #expect(throttled.retryAfter == .seconds(7))
        #expect(throttled.code == .throttled)
        #expect(error("AccessDenied").cause?.contains("said") == true)
    }

    @Test("hostile or broken error bodies are no more than their status")
    func hostile() {
        for body in ["", "<Error>", "<!DOCTYPE x [<!ENTITY a \"b\">]><Error><Code>&a;</Code></Error>", "{\"Code\":1}"] {
            let answer = S3ErrorAnswer(HTTPResponse(status: 500, body: Array(body.utf8)))
            #expect(answer.name == nil)
        }
    }
}
