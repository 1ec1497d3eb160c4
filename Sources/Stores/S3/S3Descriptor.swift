package import StoreAPI

extension StoreDescriptor {
    package static let s3 = StoreDescriptor(
        scheme: "s3",
        summary: "Amazon S3 and what speaks its protocol: Ceph, MinIO, OpenStack Swift, Wasabi, Backblaze B2, R2 …",
        options: [
            .init("bucket_name", .text, aliases: ["bucket"], isRequired: true, help: "The bucket; it must exist."),
            .init("prefix", .text, help: "Use only the keys below this, as if they were the whole bucket."),
            .init(
                "endpoint", .url, aliases: ["endpoint_url", "host"],
                help: "Where the service is, such as https://s3.example.org; not given: Amazon's."),
            .init("region", .text, help: "The bucket's region; not given: found out."),
            .init(
                "addressing", .choice(["auto", "path", "virtual"]), default: "auto",
                help: "Whether the bucket's name is in the path or in the host name of URLs."),
            .init(
                "access_key_id", .text, aliases: ["id", "user", "aws_access_key_id"],
                help: "Not given: taken from the environment, ~/.aws, the container or the instance."),
            .init(
                "secret_access_key", .secret, aliases: ["secret", "password", "aws_secret_access_key"],
                help: "The secret that belongs to access_key_id."),
            .init(
                "session_token", .secret, aliases: ["aws_session_token"],
                help: "Goes with temporary keys."),
            .init("profile", .text, help: "A profile of ~/.aws/config and ~/.aws/credentials."),
            .init("anonymous", .flag, default: "no", help: "Send no credentials, for a public bucket."),
            .init("storage_class", .text, help: "Of new objects, such as STANDARD_IA; not given: the bucket's."),
            .init(
                "encryption", .choice(["none", "AES256", "aws:kms", "customer"]), default: "none",
                help: "How the server encrypts new objects; none: as the bucket says."),
            .init("kms_key_id", .text, help: "The key for encryption = aws:kms; not given: the account's default."),
            .init("encryption_key", .secret, help: "The key for encryption = customer: 32 bytes in Base64."),
            .init(
                "requester_pays", .flag, default: "no", help: "Accept the costs of requests to somebody else's bucket."),
        ],
        identity: S3Configuration.identity,
        settingsFromURL: { rest in
            let parts = rest.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
            guard let bucket = parts.first, !bucket.isEmpty else { return nil }
            var settings = ["bucket_name": String(bucket)]
            if parts.count == 2, !parts[1].isEmpty { settings["prefix"] = String(parts[1]) }
            return settings
        },
        make: { settings, statistics throws(StoreError) in
            try S3Store(settings, environment: .ofProcess, statistics: statistics)
        })
}
