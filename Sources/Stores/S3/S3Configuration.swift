package import StoreAPI
import StoreHTTP

/// The settings of an S3 store, checked.
package struct S3Configuration: Sendable {
    package enum Addressing: Sendable { case path, virtualHost }

    package enum Encryption: Sendable {
        case none
        case managed
        /// With a key of the key management service; nil: its default one.
        case keyService(String?)
        /// With a key that goes with every request; 32 bytes.
        case customer([UInt8])
    }

    package var bucket: String
    /// What all keys begin with: empty, or with a slash at its end.
    package var prefix: [UInt8]
    /// `http://host[:port]` without a path; nil: AWS's own for the region.
    package var endpoint: String?
    /// nil: us-east-1 until the server tells.
    package var region: String?
    package var addressing: Addressing
    package var storageClass: String?
    package var encryption: Encryption
    package var isRequesterPaying: Bool

    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    package init(_ settings: StoreSettings, _ environment: ProcessEnvironment) throws(StoreError) {
        guard let bucket = settings["bucket_name"] else {
            throw StoreError(.invalidArgument, "bucket_name is missing: the name of the S3 bucket to use")
        }
        guard bucket.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && $0 != 0x2f && $0 != 0x3f && $0 != 0x23 }) else {
            throw StoreError(.invalidArgument, "bucket_name '\(bucket)' is no possible name of a bucket")
        }
        self.bucket = bucket
        prefix = KeyCodec.prefix(settings["prefix"])
        endpoint = try Self.endpoint(
            settings["endpoint"] ?? environment["AWS_ENDPOINT_URL_S3"] ?? environment["AWS_ENDPOINT_URL"])
        let profile = try AWSProfiles(environment)[settings["profile"] ?? environment["AWS_PROFILE"] ?? "default"]
        region =
            settings["region"] ?? environment["AWS_REGION"] ?? environment["AWS_DEFAULT_REGION"] ?? profile?["region"]
        let isAmazon = endpoint.map(Self.isAmazon) ?? true
        switch settings["addressing"] ?? "auto" {
        case "path": addressing = .path
        case "virtual": addressing = .virtualHost
        // A certificate for *.s3.amazonaws.com does not cover a bucket with dots, nor capitals a host name.
        case "auto":
            addressing =
                isAmazon
                    && bucket.utf8.allSatisfy { $0 >= 0x61 && $0 <= 0x7a || $0 >= 0x30 && $0 <= 0x39 || $0 == 0x2d }
                ? .virtualHost : .path
        case let other:
            throw StoreError(.invalidArgument, "addressing is '\(other)': it must be auto, path or virtual")
        }
        storageClass = settings["storage_class"]
        isRequesterPaying = settings.flag("requester_pays")
        encryption = try Self.encryption(settings, endpoint: endpoint)
    }

    package var isAmazon: Bool { endpoint.map(Self.isAmazon) ?? true }
    package var isSecure: Bool { endpoint.map { $0.hasPrefix("https:") } ?? true }

    /// The URL of a key of the bucket, or of the bucket.
    package func url(key: [UInt8]?, query: [(name: String, value: String?)], region: String) -> String {
        let base = endpoint ?? "https://s3.\(region).amazonaws.com" + (region.hasPrefix("cn-") ? ".cn" : "")
        let bucketText = TextEncoding.percentEncode(bucket)
        var url: String
        switch addressing {
        case .path: url = "\(base)/\(bucketText)" + (key == nil ? "" : "/")
        case .virtualHost:
            let host = base.hasPrefix("https://") ? base.dropFirst(8) : base.dropFirst(7)
            url = (base.hasPrefix("https://") ? "https://" : "http://") + "\(bucketText).\(host)/"
        }
        if let key { url += TextEncoding.percentEncode(key, keeping: "/") }
        let pairs = query.map { name, value in
            TextEncoding.percentEncode(name) + "=" + (value.map { TextEncoding.percentEncode($0) } ?? "")
        }
        return pairs.isEmpty ? url : url + "?" + pairs.joined(separator: "&")
    }

    /// What a cache of this store is known by: no credentials.
    package static func identity(_ settings: StoreSettings) -> String {
        let endpoint = (try? Self.endpoint(settings["endpoint"])) ?? "https://s3.amazonaws.com"
        return "\(endpoint)/\(settings["bucket_name"] ?? "")/"
            + String(decoding: KeyCodec.prefix(settings["prefix"]), as: UTF8.self)
    }

    private static func endpoint(_ text: String?) throws(StoreError) -> String? {
        guard var text else { return nil }
        if !text.contains("://") { text = "https://" + text }
        while text.hasSuffix("/") { text.removeLast() }
        let isSecure = text.hasPrefix("https://")
        let host = text.dropFirst(isSecure ? 8 : 7)
        guard isSecure || text.hasPrefix("http://"), !host.isEmpty,
            host.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7f && !"/?#@".utf8.contains($0) })
        else {
            throw StoreError(
                .invalidArgument,
                "endpoint must look like https://s3.example.org or http://127.0.0.1:9000, without a path")
        }
        return text
    }

    private static func isAmazon(_ endpoint: String) -> Bool {
        let host = endpoint.split(separator: "/").last?.split(separator: ":").first ?? ""
        return host.hasSuffix(".amazonaws.com") || host.hasSuffix(".amazonaws.com.cn") || host == "s3.amazonaws.com"
    }

    private static func encryption(_ settings: StoreSettings, endpoint: String?) throws(StoreError) -> Encryption {
        switch settings["encryption"] ?? "none" {
        case "none": return .none
        case "AES256": return .managed
        case "aws:kms": return .keyService(settings["kms_key_id"])
        case "customer":
            guard let text = settings["encryption_key"], let key = TextEncoding.bytes(base64: text), key.count == 32
            else {
                throw StoreError(
                    .invalidArgument,
                    "encryption = customer needs encryption_key: 32 bytes in Base64 (`openssl rand -base64 32`)")
            }
            guard endpoint?.hasPrefix("http:") != true else {
                throw StoreError(
                    .invalidArgument, "encryption = customer sends its key along: it needs an https endpoint")
            }
            return .customer(key)
        case let other:
            throw StoreError(
                .invalidArgument, "encryption is '\(other)': it must be none, AES256, aws:kms or customer")
        }
    }
}

extension S3Configuration {
    /// Headers that a new object needs: class of storage, encryption.
    package var creationHeaders: [(name: String, value: String)] {
        var headers: [(name: String, value: String)] = []
        if let storageClass { headers.append(("X-Amz-Storage-Class", storageClass)) }
        switch encryption {
        case .none: break
        case .managed: headers.append(("X-Amz-Server-Side-Encryption", "AES256"))
        case .keyService(let id):
            headers.append(("X-Amz-Server-Side-Encryption", "aws:kms"))
            if let id { headers.append(("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id", id)) }
        case .customer: headers += customerKeyHeaders()
        }
        return headers
    }

    /// Headers that reading and writing bytes needs when the key is the customer's.
    package func customerKeyHeaders(ofSource: Bool = false) -> [(name: String, value: String)] {
        guard case .customer(let key) = encryption else { return [] }
        let name = "X-Amz-\(ofSource ? "Copy-Source-" : "")Server-Side-Encryption-Customer-"
        return [
            (name + "Algorithm", "AES256"), (name + "Key", TextEncoding.base64(key)),
            (name + "Key-MD5", TextEncoding.base64(Digest.md5(key))),
        ]
    }
}
