import FoundationEssentials
import StoreAPI
import StoreHTTP

/// What gets a token at Google. Prints as nothing but what it is.
///
/// Source: <https://cloud.google.com/docs/authentication/application-default-credentials>, and the files as `gcloud` and
/// Google's console make them.
struct GoogleCredentials: Sendable, CustomStringConvertible, CustomReflectable {
    enum Kind: Sendable {
        case serviceAccount(email: String, keyID: String?, key: RSAPrivateKey)
        case user(clientID: String, clientSecret: String, refreshToken: String)
    }

    var kind: Kind
    var tokenURL: WebURL
    var file: String

    /// For people.
    var description: String {
        switch kind {
        case .serviceAccount(let email, _, _): "service account \(email) ('\(file)')"
        case .user: "a user's login ('\(file)')"
        }
    }
    var customMirror: Mirror { Mirror(self, children: [], displayStyle: .struct) }

    private static let tokenURL = "https://oauth2.googleapis.com/token"

    private struct Contents: Decodable {
        var type: String?
        var client_email: String?
        var private_key_id: String?
        var private_key: String?
        var token_uri: String?
        var client_id: String?
        var client_secret: String?
        var refresh_token: String?
    }

    /// - Parameter text: What is in the file; no part of it gets into a message.
    /// - Throws: ``StoreError``: `.invalidArgument`, with what is wrong with the file.
    init(_ text: String, file: String) throws(StoreError) {
        func wrong(_ what: String) -> StoreError {
            StoreError(.invalidArgument, "credentials_file '\(file)' \(what)")
        }
        guard let contents = try? JSONDecoder().decode(Contents.self, from: Data(text.utf8)) else {
            throw wrong("is no JSON file with credentials: download the key of a service account as JSON")
        }
        func needed(_ value: String?, _ name: String) throws(StoreError) -> String {
            guard let value, !value.isEmpty else { throw wrong("lacks \(name): download it again") }
            return value
        }
        switch contents.type {
        case "service_account":
            guard let key = RSAPrivateKey(pem: try needed(contents.private_key, "private_key")) else {
                throw wrong("has no usable private_key: download it again")
            }
            let email = try needed(contents.client_email, "client_email")
            guard email.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { throw wrong("has no usable client_email") }
            kind = .serviceAccount(email: email, keyID: contents.private_key_id, key: key)
        case "authorized_user":
            kind = .user(
                clientID: try needed(contents.client_id, "client_id"),
                clientSecret: try needed(contents.client_secret, "client_secret"),
                refreshToken: try needed(contents.refresh_token, "refresh_token"))
        case "external_account", "external_account_authorized_user", "impersonated_service_account",
            "gdch_service_account":
            throw wrong("is of the type \(contents.type!), which is not supported: use the key of a service account")
        default: throw wrong("does not say its type: it must be that of a service account or of gcloud")
        }
        guard let url = WebURL(contents.token_uri ?? Self.tokenURL), url.mayHaveSecrets else {
            throw wrong("has a token_uri that does not begin with https://")
        }
        tokenURL = url
        self.file = file
    }

    /// The first of the places where Google's own tools look that has something; nil when there is none.
    ///
    /// - Parameter given: The file that the settings name.
    /// - Throws: ``StoreError``: `.invalidArgument` for a file that is named and not there, or makes no sense.
    static func find(_ given: String?, _ environment: ProcessEnvironment) throws(StoreError) -> GoogleCredentials? {
        for (named, what) in [
            (given, "credentials_file"),
            (environment["GOOGLE_APPLICATION_CREDENTIALS"], "GOOGLE_APPLICATION_CREDENTIALS"),
        ] {
            guard let file = named.map({ environment.path($0) }) else { continue }
            guard let text = try ProcessEnvironment.contents(of: file) else {
                throw StoreError(.invalidArgument, "\(what) names '\(file)', which does not exist")
            }
            return try GoogleCredentials(text, file: file)
        }
        let folder = environment["CLOUDSDK_CONFIG"] ?? environment.path("~/.config/gcloud")
        let file = folder + "/application_default_credentials.json"
        return try ProcessEnvironment.contents(of: file).map { (text) throws(StoreError) in
            try GoogleCredentials(text, file: file)
        }
    }
}
