import Glibc
import StoreHTTP

/// Where an SSH server is, and who asks it to let them in.
package struct SSHEndpoint: Sendable {
    package var host: String
    package var port: Int
    package var user: String
    package var password: String?
    /// With its full path. nil: the agent's keys and the usual files, unless there is a password.
    package var keyFile: String?
    package var passphrase: String?
    /// With its full path; nil: that of the user and that of the machine, as `ssh` reads them.
    package var knownHosts: String?
    /// The user's home directory.
    package var home: String
    /// The socket of an agent.
    package var agent: String?

    package init(
        host: String, port: Int, user: String, password: String? = nil, keyFile: String? = nil,
        passphrase: String? = nil, knownHosts: String? = nil, home: String, agent: String? = nil
    ) {
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self.keyFile = keyFile
        self.passphrase = passphrase
        self.knownHosts = knownHosts
        self.home = home
        self.agent = agent
    }

    /// For messages.
    var place: String { port == 22 ? "'\(host)'" : "'\(host)' (port \(port))" }

    /// The files of known hosts that are read, and the one to which a person adds a key.
    var knownHostsFiles: [String] {
        knownHosts.map { [$0] }
            ?? ["\(home)/.ssh/known_hosts", "\(home)/.ssh/known_hosts2", "/etc/ssh/ssh_known_hosts"]
    }

    /// The files that `ssh` tries when it is told of none, in its order; those for hardware and DSA are left out.
    ///
    /// Source: ssh_config(5), "IdentityFile".
    var usualKeyFiles: [String] { ["id_rsa", "id_ecdsa", "id_ed25519"].map { "\(home)/.ssh/\($0)" } }
}

/// What a file with a private key tells without its passphrase.
package struct PrivateKeyFile: Hashable, Sendable {
    package var isEncrypted: Bool
    package var isRSA: Bool

    /// - Returns: nil when this is no private key in a form that OpenSSL or OpenSSH writes.
    ///
    /// Source: `PROTOCOL.key` in OpenSSH's sources; RFC 7468, RFC 1421 section 4.6.
    package init?(_ text: [UInt8]) {
        let lines = String(decoding: text, as: UTF8.self).split(whereSeparator: \.isNewline)
        guard let begin = lines.firstIndex(where: { $0.hasPrefix("-----BEGIN ") && $0.hasSuffix("PRIVATE KEY-----") })
        else { return nil }
        let kind = lines[begin]
        isRSA = kind.contains("RSA")
        isEncrypted =
            kind.contains("ENCRYPTED") || lines.contains { $0.hasPrefix("Proc-Type:") && $0.contains("ENCRYPTED") }
        guard kind.contains("OPENSSH") else { return }
        let body = lines[(begin + 1)...].prefix { !$0.hasPrefix("-----") }.joined()
        let magic = Array("openssh-key-v1\0".utf8)
        guard let bytes = TextEncoding.bytes(base64: body), bytes.starts(with: magic) else { return nil }
        do {
            var reader = SFTPReader(bytes[magic.count...])
            isEncrypted = try String(decoding: reader.string(), as: UTF8.self) != "none"
            _ = try reader.string()
            _ = try reader.string()
            _ = try reader.number32()
            isRSA = KnownHosts.type(of: Array(try reader.string())) == "ssh-rsa"
        } catch { return nil }
    }
}
