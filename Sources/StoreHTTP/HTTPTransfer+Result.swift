import CCurl
import StoreAPI

extension HTTPTransfer {
    /// What libcurl's code for the end of this transfer means.
    func result(of code: CURLcode) -> Result<HTTPResponse, StoreError> {
        if let failure { return .failure(failure) }
        if code == CURLE_OK || hasEnough {
            return .success(HTTPResponse(status: status, headers: headers, body: received))
        }
        return .failure(error(for: code))
    }

    private func error(for code: CURLcode) -> StoreError {
        let own = String(cString: errorText)
        let detail = own.isEmpty ? String(cString: curl_easy_strerror(code)) : own
        switch code {
        case CURLE_COULDNT_RESOLVE_HOST:
            return make(
                .unavailable, "the name of \(host) could not be looked up: check the endpoint and the network", detail)
        case CURLE_COULDNT_RESOLVE_PROXY:
            return make(
                .unavailable, "the name of the HTTP proxy could not be looked up: check the proxy settings", detail)
        case CURLE_COULDNT_CONNECT:
            return make(.unavailable, "no connection to \(host) could be made: \(detail)", detail)
        case CURLE_OPERATION_TIMEDOUT:
            let limit = seconds(engine.tuning.connectTimeout)
            return make(.timedOut, "no connection to \(host) could be made within \(limit) s", detail)
        case CURLE_PEER_FAILED_VERIFICATION:
            return make(
                .certificateRejected,
                """
                the certificate of \(host) is not trusted (\(detail)): check the endpoint's name and this machine's \
                clock; when the server has a certificate authority of its own, name its PEM file in SSL_CERT_FILE
                """, detail)
        case CURLE_SSL_CACERT_BADFILE, CURLE_SSL_ISSUER_ERROR:
            let file = engine.authorities ?? "the system's certificates"
            return make(
                .certificateRejected,
                "the certificate of \(host) cannot be checked, because \(file) cannot be read as certificates in PEM form",
                detail)
        case CURLE_SSL_CONNECT_ERROR:
            return make(.unavailable, "the TLS handshake with \(host) failed: \(detail)", detail)
        case CURLE_UNSUPPORTED_PROTOCOL where request.url.hasPrefix("http"):
            // What libcurl says of an answer that has no HTTP head.
            return make(.unavailable, "\(host) does not answer in HTTP: \(detail)", detail)
        case CURLE_URL_MALFORMAT, CURLE_UNSUPPORTED_PROTOCOL:
            return make(.invalidArgument, "'\(what)' is not a usable URL: \(detail)", detail)
        case CURLE_PARTIAL_FILE:
            return make(
                .unavailable, "the answer of \(host) was cut short after \(bytesReceived) bytes (\(what))", detail)
        case CURLE_GOT_NOTHING:
            return make(.unavailable, "\(host) closed the connection without an answer (\(what))", detail)
        case CURLE_SEND_ERROR, CURLE_RECV_ERROR:
            return make(.unavailable, "the connection to \(host) broke: \(detail) (\(what))", detail)
        case CURLE_OUT_OF_MEMORY:
            return make(.internal, "no memory for a request to \(host)", detail)
        default:
            return make(.unavailable, "the request to \(host) failed: \(detail) (\(what))", detail)
        }
    }

    private func make(_ code: StoreError.Code, _ message: String, _ detail: String) -> StoreError {
        StoreError(code, message, cause: "libcurl: \(detail) [\(request.method)]")
    }
}
