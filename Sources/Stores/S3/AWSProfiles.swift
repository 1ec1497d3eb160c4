import Glibc
package import StoreAPI
package import Threading

/// Source: <https://docs.aws.amazon.com/sdkref/latest/guide/file-location.html> and "environment-variables".
extension ProcessEnvironment {
    var credentialsFile: String { path(self["AWS_SHARED_CREDENTIALS_FILE"] ?? "~/.aws/credentials") }
    var configFile: String { path(self["AWS_CONFIG_FILE"] ?? "~/.aws/config") }
}

/// The profiles of `~/.aws/config` and `~/.aws/credentials`; what is in the latter wins.
struct AWSProfiles: Sendable {
    private var sections: [String: [String: String]] = [:]

    /// - Throws: ``StoreError``: `.invalidArgument` when a file is there and cannot be read.
    init(_ environment: ProcessEnvironment) throws(StoreError) {
        if let text = try ProcessEnvironment.contents(of: environment.configFile) {
            for (section, values) in Self.parse(text) {
                if section == "default" {
                    sections["default", default: [:]].merge(values) { $1 }
                } else if section.hasPrefix("profile ") {
                    let name = section.dropFirst(8).trimmingSpaces()
                    sections[name, default: [:]].merge(values) { $1 }
                }
            }
        }
        if let text = try ProcessEnvironment.contents(of: environment.credentialsFile) {
            for (section, values) in Self.parse(text) { sections[section, default: [:]].merge(values) { $1 } }
        }
    }

    subscript(_ profile: String) -> [String: String]? { sections[profile] }

    /// Sections in order. Indented lines belong to a nested setting and are left out; comments begin with `#` or `;`.
    static func parse(_ text: String) -> [(section: String, values: [String: String])] {
        var result: [(section: String, values: [String: String])] = []
        for line in text.split(whereSeparator: \.isNewline) {
            let trimmed = line.trimmingSpaces()
            if trimmed.isEmpty || trimmed.hasPrefix("#") || trimmed.hasPrefix(";") { continue }
            if trimmed.hasPrefix("["), let end = trimmed.firstIndex(of: "]") {
                result.append((trimmed[trimmed.index(after: trimmed.startIndex)..<end].trimmingSpaces(), [:]))
            } else if !result.isEmpty, !line.hasPrefix(" "), !line.hasPrefix("\t"),
                let equals = trimmed.firstIndex(of: "=")
            {
                let name = trimmed[..<equals].trimmingSpaces().lowercased()
                var value = trimmed[trimmed.index(after: equals)...].trimmingSpaces()
                if let comment = value.range(ofFirst: " #") ?? value.range(ofFirst: " ;") {
                    value = value[..<comment].trimmingSpaces()
                }
                result[result.count - 1].values[name] = value
            }
        }
        return result
    }
}

extension StringProtocol {
    /// Where `needle` begins first.
    fileprivate func range(ofFirst needle: String) -> Index? {
        indices.first { self[$0...].hasPrefix(needle) }
    }
}

/// `AWS_ACCESS_KEY_ID` and its companions.
package struct EnvironmentAWSCredentials: AWSCredentialSource {
    let environment: ProcessEnvironment
    package init(_ environment: ProcessEnvironment) { self.environment = environment }
    package var name: String { "the environment" }

    package func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? {
        guard let id = environment["AWS_ACCESS_KEY_ID"] else { return nil }
        guard let secret = environment["AWS_SECRET_ACCESS_KEY"] else {
            throw StoreError(.invalidArgument, "AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not")
        }
        return AWSCredentials(
            accessKeyID: id, secretAccessKey: secret, sessionToken: environment["AWS_SESSION_TOKEN"])
    }
}

/// A profile of AWS's own tools: keys, or a role to take on with the keys of another profile or a token file.
package struct ProfileAWSCredentials: AWSCredentialSource {
    let environment: ProcessEnvironment
    /// nil: `AWS_PROFILE`, else "default".
    let chosen: String?
    let service: AWSTokenService

    package init(_ environment: ProcessEnvironment, profile: String?, service: AWSTokenService) {
        self.environment = environment
        chosen = profile
        self.service = service
    }

    private var profile: String { chosen ?? environment["AWS_PROFILE"] ?? "default" }
    private var isExplicit: Bool { chosen != nil || environment["AWS_PROFILE"] != nil }
    package var name: String { "profile '\(profile)' of ~/.aws" }

    package func credentials(at time: Timestamp) throws(StoreError) -> AWSCredentials? {
        let profiles = try AWSProfiles(environment)
        guard profiles[profile] != nil else {
            guard isExplicit else { return nil }
            throw StoreError(
                .invalidArgument,
                "there is no profile '\(profile)' in \(environment.credentialsFile) or \(environment.configFile)")
        }
        return try credentials(of: profile, profiles, visited: [], at: time)
    }

    private func credentials(of profile: String, _ profiles: AWSProfiles, visited: Set<String>, at time: Timestamp)
        throws(StoreError) -> AWSCredentials?
    {
        guard !visited.contains(profile) else {
            throw StoreError(
                .invalidArgument, "the AWS profiles \(visited.sorted()) take their credentials from each other")
        }
        guard let values = profiles[profile] else {
            throw StoreError(.invalidArgument, "source_profile names '\(profile)', which is no profile of ~/.aws")
        }
        if let role = values["role_arn"] {
            let session = values["role_session_name"] ?? "cloudfusion"
            if let file = values["web_identity_token_file"] {
                return try service.assumeRoleWithWebIdentity(
                    role, session: session, tokenFile: environment.path(file), region: values["region"])
            }
            if values["mfa_serial"] != nil {
                throw StoreError(
                    .invalidArgument,
                    "profile '\(profile)' needs a code of an MFA device: "
                        + "get temporary keys with `aws sts` and set session_token")
            }
            let source: AWSCredentials?
            if let name = values["source_profile"] {
                source =
                    name == profile
                    ? Self.keys(values)
                    : try credentials(of: name, profiles, visited: visited.union([profile]), at: time)
            } else if values["credential_source"] == "Environment" {
                source = try EnvironmentAWSCredentials(environment).credentials(at: time)
            } else if values["credential_source"] == "Ec2InstanceMetadata" {
                source = try InstanceAWSCredentials(environment, transport: service.transport).credentials(at: time)
            } else if values["credential_source"] == "EcsContainer" {
                source = try ContainerAWSCredentials(environment, transport: service.transport).credentials(at: time)
            } else {
                throw StoreError(
                    .invalidArgument,
                    "profile '\(profile)' has role_arn, but neither source_profile nor credential_source")
            }
            guard let source else {
                throw StoreError(.authenticationFailed, "the source that profile '\(profile)' names has no credentials")
            }
            return try service.assumeRole(
                role, session: session, externalID: values["external_id"], duration: values["duration_seconds"],
                region: values["region"], with: source, at: time)
        }
        if let keys = Self.keys(values) { return keys }
        if values["sso_session"] != nil || values["sso_start_url"] != nil || values["credential_process"] != nil {
            throw StoreError(
                .invalidArgument,
                "profile '\(profile)' uses single sign-on or credential_process: run "
                    + "`aws configure export-credentials --profile \(profile) --format env` and use the keys that it prints"
            )
        }
        return nil
    }

    private static func keys(_ values: [String: String]) -> AWSCredentials? {
        guard let id = values["aws_access_key_id"], let secret = values["aws_secret_access_key"] else { return nil }
        return AWSCredentials(accessKeyID: id, secretAccessKey: secret, sessionToken: values["aws_session_token"])
    }
}
