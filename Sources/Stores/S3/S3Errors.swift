package import StoreAPI
package import StoreHTTP

/// What S3's error codes mean to a caller: the one table from an answer to a ``StoreError``.
///
/// Sources: S3 API Reference, "Error responses"; radosgw's `rgw_common.cc`; Swift's `s3response.py`.
package enum S3Errors {
    /// The meaning of an answer.
    ///
    /// - Parameters:
    ///   - name: The `<Code>` of its body; nil when there is none, as for HEAD.
    ///   - concernsKey: Whether the request was for a key rather than the bucket: tells what a bare 404 means.
    package static func code(status: Int, name: String?, concernsKey: Bool) -> StoreError.Code {
        if let name, let code = code(named: name) { return code }
        switch status {
        case 400: return .invalidArgument
        case 401: return .authenticationFailed
        case 403: return .accessDenied
        case 404, 410: return concernsKey ? .notFound : .storeNotFound
        case 405, 501: return .unsupported
        case 408: return .timedOut
        case 409: return .unavailable
        case 412: return .preconditionFailed
        case 413: return .tooLarge
        case 414: return .invalidName
        case 416: return .invalidArgument
        case 429: return .throttled
        case 503: return .throttled
        case 507: return .quotaExceeded
        case 500...: return .unavailable
        case 300..<400: return .invalidArgument
        default: return .internal
        }
    }

    static func code(named name: String) -> StoreError.Code? {
        switch name {
        case "NoSuchKey", "NoSuchVersion": return .notFound
        case "NoSuchUpload": return .notFound
        case "NoSuchBucket", "InvalidBucketName", "NoSuchTenant": return .storeNotFound

        case "AccessDenied", "AllAccessDisabled", "AccountProblem", "Forbidden", "UserSuspended", "InvalidObjectState",
            "InvalidPayer", "CrossLocationLoggingProhibited", "MethodNotAllowedByPolicy", "AccessForbidden",
            "KMS.AccessDeniedException", "ObjectLocked":
            return .accessDenied
        case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired",
            "MissingSecurityHeader", "MissingSecurityElement", "InvalidSecurity", "NotSignedUp", "UnauthorizedAccess",
            "RequestTimeTooSkewed", "RequestExpired", "AuthorizationHeaderMalformed", "CredentialsNotSupported",
            "MissingAuthenticationToken", "ExpiredTokenException", "Unauthorized", "InvalidClientTokenId":
            return .authenticationFailed

        case "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "TooManyRequests", "Throttling",
            "ThrottlingException", "RequestLimitExceeded", "BandwidthLimitExceeded", "RequestThrottled", "Busy",
            "ServerBusy", "KMS.ThrottlingException":
            return .throttled
        case "RequestTimeout", "RequestTimeoutException": return .timedOut
        case "InternalError", "InternalFailure", "OperationAborted", "ConditionalRequestConflict",
            "ServerNotInitialized",
            "IncompleteBody", "RestoreAlreadyInProgress", "RequestTorrentOfBucketError":
            return .unavailable

        case "PreconditionFailed", "ConditionNotMet": return .preconditionFailed
        case "NotImplemented", "MethodNotAllowed", "UnsupportedArgument", "UnsupportedOperation", "FeatureNotEnabled":
            return .unsupported

        case "BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
            "InvalidChecksum":
            return .corrupted
        case "EntityTooLarge", "MaxMessageLengthExceeded", "MaxPostPreDataLengthExceededError", "ObjectTooLarge":
            return .tooLarge
        case "QuotaExceeded", "StorageFull", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded",
            "InsufficientStorage",
            "NoSpaceAvailable", "TooManyBuckets", "QuotaExceededException", "AccountQuotaExceeded":
            return .quotaExceeded
        case "KeyTooLongError", "KeyTooLong", "InvalidURI", "InvalidObjectName", "XMinioInvalidObjectName",
            "XMinioParentIsObject", "InvalidKey":
            return .invalidName

        case "InvalidArgument", "InvalidRequest", "InvalidRange", "MalformedXML", "MetadataTooLarge", "EntityTooSmall",
            "InvalidPart", "InvalidPartOrder", "InvalidStorageClass", "InvalidEncryptionAlgorithmError",
            "InvalidLocationConstraint", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect",
            "Redirect", "InvalidTag", "UnexpectedContent", "MissingContentLength",
            "ServerSideEncryptionConfigurationNotFoundError",
            "KMS.NotFoundException", "KMS.DisabledException", "KMS.KMSInvalidStateException", "InvalidRegionName":
            return .invalidArgument
        case "BucketAlreadyExists", "BucketAlreadyOwnedByYou": return .alreadyExists
        case "BucketNotEmpty": return .directoryNotEmpty
        default: return nil
        }
    }

    /// The error that an answer means.
    ///
    /// - Parameter action: What was tried, as in "'a/b' could not be read"; the sentence begins with it.
    package static func error(
        _ response: HTTPResponse, _ action: String, path: StorePath?, concernsKey: Bool, bucket: String
    ) -> StoreError {
        let answer = S3ErrorAnswer(response)
        let code = code(status: response.status, name: answer.name, concernsKey: concernsKey)
        let said = answer.name ?? "status \(response.status)"
        var error = StoreError(
            code, "\(action): \(said)\(advice(code, answer, bucket: bucket))", path: path,
            cause: "status \(response.status), \(answer.name ?? "no code"), \(answer.message ?? "no message")"
                + (answer.requestID.map { ", request \($0)" } ?? ""))
        if let seconds = response["Retry-After"].flatMap({ Int64($0) }), seconds >= 0 {
            error.retryAfter = .seconds(min(seconds, 3600))
        }
        return error
    }

    private static func advice(_ code: StoreError.Code, _ answer: S3ErrorAnswer, bucket: String) -> String {
        switch answer.name {
        case "RequestTimeTooSkewed", "RequestExpired":
            return "; this machine's clock is wrong by more than 15 minutes: set it (see `timedatectl`)"
        case "ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException":
            return "; the session token has expired: get new temporary credentials"
        case "InvalidAccessKeyId", "InvalidClientTokenId": return "; the server does not know access_key_id"
        case "SignatureDoesNotMatch":
            return "; secret_access_key does not belong to access_key_id (or a proxy changes requests)"
        case "AuthorizationHeaderMalformed": return "; check region"
        case "PermanentRedirect", "TemporaryRedirect", "Redirect":
            return "; the bucket is reached through another endpoint"
                + (answer.endpoint.map { " (\($0))" } ?? "") + ": set region or endpoint"
        case "InvalidStorageClass": return "; check storage_class"
        case "MetadataTooLarge": return "; the attributes are larger than the store can hold"
        default: break
        }
        switch code {
        case .storeNotFound:
            return "; there is no bucket '\(bucket)' at this endpoint: check bucket_name, endpoint and region"
        case .authenticationFailed: return "; check access_key_id and secret_access_key"
        case .accessDenied: return "; the credentials do not permit this: check the policies of the user and the bucket"
        case .quotaExceeded: return "; the store is full or its quota is used up"
        case .tooLarge: return "; the store does not take objects of this size"
        case .invalidName: return "; the store does not take this name"
        default: return ""
        }
    }
}

/// The body of an error: `<Error><Code>…</Code><Message>…</Message>…</Error>`.
package struct S3ErrorAnswer {
    package var name: String?
    var message: String?
    var requestID: String?
    var endpoint: String?
    /// Where the bucket is, when the server tells.
    var region: String?

    package init(_ response: HTTPResponse) {
        region = response["x-amz-bucket-region"]
        requestID = response["x-amz-request-id"]
        guard let root = try? XMLElement.parse(response.body) else { return }
        guard let error = root.name == "Error" ? root : root["Error"] else { return }
        name = error["Code"].flatMap { Self.word($0.text) }
        message = error["Message"].map { element in
            String(element.text.prefix(300).map { $0.unicodeScalars.contains { $0.value < 0x20 } ? " " : $0 })
        }
        endpoint = error["Endpoint"].flatMap { Self.word($0.text) }
        region = region ?? error["Region"].flatMap { Self.word($0.text) }
    }

    /// What may be part of a message: whoever reads it must be able to tell it from what this program says.
    private static func word(_ text: String) -> String? {
        let isWord = text.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): true
            case UInt8(ascii: "0")...UInt8(ascii: "9"): true
            default: "-._:/".utf8.contains(byte)
            }
        }
        return isWord && !text.isEmpty && text.utf8.count <= 200 ? text : nil
    }
}
