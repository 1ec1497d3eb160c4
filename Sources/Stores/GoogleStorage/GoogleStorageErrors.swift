import FoundationEssentials
import StoreAPI
import StoreHTTP

/// What answers mean to a caller: the one table from an answer to a ``StoreError``.
///
/// Source: <https://cloud.google.com/storage/docs/json_api/v1/status-codes>.
enum GoogleStorageErrors {
    static func error(
        _ response: HTTPResponse, _ call: GoogleStorageCall, _ configuration: GoogleStorageConfiguration
    ) -> StoreError {
        let answer = GoogleStorageErrorAnswer(response)
        let code = code(response, answer, call)
        let said = answer.reason ?? "status \(response.status)"
        return StoreError(
            code, "\(call.action): \(said)\(advice(code, answer, call, configuration))", path: call.path,
            cause: "status \(response.status), \(answer.reason ?? "no reason"), \(answer.message ?? "no message")")
    }

    private static func code(_ response: HTTPResponse, _ answer: GoogleStorageErrorAnswer, _ call: GoogleStorageCall)
        -> StoreError.Code
    {
        switch (response.status, answer.reason) {
        case (403, "rateLimitExceeded"), (403, "userRateLimitExceeded"): return .throttled
        case (403, "quotaExceeded"), (403, "dailyLimitExceeded"), (403, "storageQuotaExceeded"): return .quotaExceeded
        // "Provided CRC32C … doesn't match calculated CRC32C …"
        case (400, _) where answer.message?.contains("match calculated") == true: return .corrupted
        case (404, _):
            if answer.message?.contains("bucket does not exist") == true { return .storeNotFound }
            switch call.target {
            case .objects, .upload: return .storeNotFound
            default: return .notFound
            }
        default: return response.errorCode ?? .internal
        }
    }

    private static func advice(
        _ code: StoreError.Code, _ answer: GoogleStorageErrorAnswer, _ call: GoogleStorageCall,
        _ configuration: GoogleStorageConfiguration
    ) -> String {
        switch (code, answer.reason) {
        case (.invalidArgument, "required"):
            return "; requests to this bucket are paid by who makes them: set project to one of yours"
        case (_, "insufficientPermissions"):
            return "; the login is for less than this: on a machine of Google's its access scopes have to include "
                + "read and write access to storage"
        case (.storeNotFound, _): return "; there is no bucket '\(configuration.bucket)': check bucket_name"
        case (.authenticationFailed, _) where configuration.isAnonymous,
            (.accessDenied, _) where configuration.isAnonymous:
            return "; the bucket is not public: set credentials_file, and no anonymous"
        case (.authenticationFailed, _): return "; the server does not take the token: check the credentials"
        case (.accessDenied, "accountDisabled"):
            return "; the project that the bucket belongs to has no billing account that is in order"
        case (.accessDenied, _):
            return "; the account's roles do not permit this: it needs Storage Object User (roles/storage.objectUser) "
                + "for the bucket, or Storage Object Viewer to read"
        case (.throttled, _): return "; Google asks for fewer requests"
        case (.quotaExceeded, _): return "; a quota of the project is used up: see \"Quotas\" in Google's console"
        case (.tooLarge, _): return "; the store does not take objects of this size"
        case (.invalidName, _): return "; the store does not take this name"
        case (.corrupted, _): return "; the bytes did not arrive as they were sent"
        default: return ""
        }
    }
}

/// The body of an error: `{"error": {"code": …, "message": …, "errors": [{"reason": …}]}}`.
struct GoogleStorageErrorAnswer {
    var reason: String?
    var message: String?

    private struct Body: Decodable {
        struct Fault: Decodable {
            struct Detail: Decodable { var reason: String? }
            var message: String?
            var errors: [Detail]?
        }
        var error: Fault
    }

    init(_ response: HTTPResponse) {
        guard let body = try? JSONDecoder().decode(Body.self, from: Data(response.body)) else {
            // Uploads may be refused in a plain sentence.
            message = response.body.isEmpty ? nil : String(decoding: response.body.prefix(300), as: UTF8.self)
            return
        }
        // A word may be part of a message: whoever reads it must be able to tell it from what this program says.
        reason = body.error.errors?.first?.reason.flatMap { text in
            !text.isEmpty && text.utf8.count <= 60 && text.utf8.allSatisfy(Self.isLetter) ? text : nil
        }
        message = body.error.message.map { text in
            String(text.prefix(300).map { $0.unicodeScalars.contains { $0.value < 0x20 } ? " " : $0 })
        }
    }

    private static func isLetter(_ byte: UInt8) -> Bool {
        byte >= 0x41 && byte <= 0x5A || byte >= 0x61 && byte <= 0x7A
    }
}
