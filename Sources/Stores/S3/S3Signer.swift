package import StoreAPI
package import StoreHTTP
package import Threading

/// Signs requests to S3 with the credentials of a chain, for a region that may be found out on the way.
///
/// Over TLS a body that carries Content-MD5 is not hashed again: TLS keeps it from being changed, Content-MD5 proves
/// that it arrived whole, and every server takes `UNSIGNED-PAYLOAD`. Without TLS the signature covers the body.
package final class S3Signer: RequestSigning {
    private struct State {
        var region: String
        var keyID = ""
        var key: [UInt8] = []
    }

    /// nil: requests are not signed.
    private let chain: AWSCredentialChain?
    private let state: Lock<State>

    package init(_ chain: AWSCredentialChain?, region: String) {
        self.chain = chain
        state = Lock(State(region: region))
    }

    package var region: String {
        get { state.withLock { $0.region } }
        set { state.withLock { $0.region = newValue } }
    }

    package func sign(_ request: inout HTTPRequest, at time: Timestamp) throws(StoreError) {
        guard let chain else { return }
        let credentials = try chain.credentials()
        let hash = try Self.payloadHash(request)
        request["X-Amz-Content-SHA256"] = hash
        let signature = AWSSignature(region: region, service: "s3")
        let day = String(CivilTime(time).basic.prefix(8))
        signature.sign(&request, credentials, key: key(signature, credentials, day), payloadHash: hash, at: time)
    }

    package func credentialsWereRefused() -> Bool { chain?.renewAfterRefusal() ?? false }

    /// The key of the day, which costs four HMACs to make.
    private func key(_ signature: AWSSignature, _ credentials: AWSCredentials, _ day: String) -> [UInt8] {
        let id = "\(day) \(signature.region) \(credentials.accessKeyID) \(credentials.secretAccessKey.hashValue)"
        if let key = state.withLock({ $0.keyID == id ? $0.key : nil }) { return key }
        let key = signature.signingKey(secret: credentials.secretAccessKey, day: day)
        state.withLock {
            $0.keyID = id
            $0.key = key
        }
        return key
    }

    private static func payloadHash(_ request: HTTPRequest) throws(StoreError) -> String {
        if let known = request["X-Amz-Content-SHA256"] { return known }
        guard let body = request.body, body.length > 0 else { return AWSSignature.emptyPayload }
        if request.url.hasPrefix("https:"), request["Content-MD5"] != nil { return AWSSignature.unsignedPayload }
        return TextEncoding.hex(try Digest.sha256(body))
    }
}
