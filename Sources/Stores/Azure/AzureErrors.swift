import FoundationEssentials
import StoreAPI
import StoreHTTP

/// What an answer says of an error: in XML, of Data Lake Storage in JSON, and where there is no body (HEAD) in a header.
struct AzureErrorAnswer {
    /// The service's own word, such as "BlobNotFound".
    var name: String?
    var message: String?
    var requestID: String?

    init(_ response: HTTPResponse) {
        struct Document: Decodable {
            struct Detail: Decodable {
                var code: String?
                var message: String?
            }
            var error: Detail
        }
        requestID = response["x-ms-request-id"]
        name = response["x-ms-error-code"].flatMap(Self.word)
        if let root = try? XMLElement.parse(response.body), root.name == "Error" {
            name = name ?? root["Code"].flatMap { Self.word($0.text) }
            message = root["Message"]?.text
        } else if let document = try? JSONDecoder().decode(Document.self, from: Data(response.body)) {
            name = name ?? document.error.code.flatMap(Self.word)
            message = document.error.message
        }
        // Behind the first line there are ids, and for a wrong signature all that was signed.
        message = message.map { String($0.prefix { !$0.isNewline }.prefix(200)) }
        // It may tell what signature was sent.
        if message?.contains("ignature") == true { message = nil }
    }

    /// What may be part of a message: whoever reads it must be able to tell it from what this program says.
    private static func word(_ text: String) -> String? {
        let isWord = text.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
            default: false
            }
        }
        return isWord && !text.isEmpty && text.utf8.count <= 100 ? text : nil
    }
}

/// What answers mean to a caller: the one table from an answer to a ``StoreError``.
///
/// Sources: <https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes>;
/// <https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes>;
/// <https://learn.microsoft.com/rest/api/storageservices/datalakestoragegen2/path>.
enum AzureErrors {
    static func error(_ response: HTTPResponse, _ call: AzureCall, _ configuration: AzureConfiguration) -> StoreError {
        let answer = AzureErrorAnswer(response)
        let code = code(response, answer, call)
        let said = answer.name ?? "status \(response.status)"
        return StoreError(
            code, "\(call.action): \(said)\(advice(code, answer, configuration))", path: call.path,
            cause: "status \(response.status), \(answer.name ?? "no code"), \(answer.message ?? "no message")"
                + (answer.requestID.map { ", request \($0)" } ?? ""))
    }

    private static func code(_ response: HTTPResponse, _ answer: AzureErrorAnswer, _ call: AzureCall) -> StoreError.Code
    {
        if let name = answer.name, let code = code(named: name, isOfKey: call.key != nil) { return code }
        switch response.status {
        case 404 where call.key == nil: return .storeNotFound
        // Something else is in the way; which word says so, is not documented for everything.
        case 409: return .alreadyExists
        case 503: return .throttled
        default: return response.errorCode ?? .internal
        }
    }

    static func code(named name: String, isOfKey: Bool) -> StoreError.Code? {
        switch name {
        case "BlobNotFound", "PathNotFound", "SourcePathNotFound", "RenameDestinationParentPathNotFound":
            return .notFound
        case "ContainerNotFound", "FilesystemNotFound", "ContainerBeingDeleted", "FilesystemBeingDeleted":
            return .storeNotFound
        // Of a missing account, and of a container that is not public.
        case "ResourceNotFound": return isOfKey ? .notFound : .storeNotFound

        case "AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation",
            "KeyBasedAuthenticationNotPermitted":
            return .authenticationFailed
        case "AuthorizationFailure", "AuthorizationPermissionMismatch", "AuthorizationProtocolMismatch",
            "AuthorizationResourceTypeMismatch", "AuthorizationServiceMismatch", "AuthorizationSourceIPMismatch",
            "AuthorizationResourceMismatch", "UnauthorizedBlobOverwrite", "InsufficientAccountPermissions",
            "AccountIsDisabled", "PublicAccessNotPermitted", "ContainerDisabled", "BlobImmutableDueToPolicy",
            "BlobImmutableDueToLegalHold", "BlobArchived", "BlobBeingRehydrated":
            return .accessDenied

        case "ServerBusy", "TooManyRequests": return .throttled
        case "OperationTimedOut": return .timedOut
        case "InternalError", "AccountBeingCreated", "OperationAborted", "LeaseIdMissing", "PendingCopyOperation",
            "SourcePathIsBeingDeleted", "DestinationPathIsBeingDeleted":
            return .unavailable

        case "ConditionNotMet", "SourceConditionNotMet", "TargetConditionNotMet", "BlobAlreadyExists",
            "PathAlreadyExists":
            return .preconditionFailed
        case "Md5Mismatch", "Crc64Mismatch": return .corrupted
        case "RequestBodyTooLarge", "BlockCountExceedsLimit", "BlockListTooLong": return .tooLarge
        case "DirectoryIsNotEmpty", "DirectoryNotEmpty": return .directoryNotEmpty
        case "InvalidUri", "InvalidResourceName": return isOfKey ? .invalidName : .invalidArgument
        case "MetadataTooLarge", "InvalidMetadata", "InvalidHeaderValue", "InvalidQueryParameterValue",
            "InvalidBlockList":
            return .invalidArgument
        case "BlobOperationNotSupported", "InvalidBlobType", "FeatureNotSupported", "InvalidBlobOrBlock",
            "HierarchicalNamespaceNotEnabled", "UnsupportedHttpVerb":
            return .unsupported
        default: return nil
        }
    }

    private static func advice(
        _ code: StoreError.Code, _ answer: AzureErrorAnswer, _ configuration: AzureConfiguration
    ) -> String {
        switch answer.name {
        case "KeyBasedAuthenticationNotPermitted":
            return "; the account '\(configuration.account)' takes no keys: use client_secret or managed_identity"
        case "LeaseIdMissing": return "; another program has a lease on it"
        case "BlobArchived", "BlobBeingRehydrated": return "; the blob is in the archive: move it to another tier first"
        case "BlobImmutableDueToPolicy", "BlobImmutableDueToLegalHold":
            return "; the container's policy forbids changes"
        case "AuthorizationSourceIPMismatch": return "; the shared access signature is not for this machine's address"
        case "InvalidBlobOrBlock": return "; another program has an upload to this name under way, or has left one"
        default: break
        }
        switch code {
        case .storeNotFound:
            return
                "; there is no container '\(configuration.container)' in the account '\(configuration.account)', or it "
                + "is not public: check container and account"
        case .authenticationFailed:
            return switch configuration.credentials {
            case .sharedKey: "; check account and account_key, and this machine's clock"
            case .signature: "; check sas_token: it is wrong, has ended or is not for this account"
            case .token: "; the account does not take the token: check tenant_id and account"
            case .anonymous: "; the container is not public: set account_key, sas_token or client_secret"
            }
        case .accessDenied:
            return switch configuration.credentials {
            case .signature: "; the shared access signature does not permit this"
            case .token:
                "; the role does not permit this: it takes Storage Blob Data Contributor, or Storage Blob Data Reader to read"
            default: "; the account does not permit this: check its network rules and the container's access level"
            }
        case .throttled: return "; the account is over its limit of requests or bytes per second"
        case .quotaExceeded: return "; the account is full"
        case .tooLarge: return "; the store does not take blobs of this size"
        case .invalidName: return "; the store does not take this name"
        case .corrupted: return "; the bytes did not arrive as they were sent"
        default: return ""
        }
    }
}
