import Glibc
package import StoreAPI
import StoreHTTP
import StoreSSH

extension StoreDescriptor {
    package static let sftp = StoreDescriptor(
        scheme: "sftp",
        summary: "A folder on an SSH server: any machine with OpenSSH, many NAS and hosting services.",
        options: [
            .init(
                "host", .text, aliases: ["hostname", "server", "endpoint"], isRequired: true,
                help: "The name or address of the server."),
            .init("port", .number(1...65_535), default: "22", help: "The port of its SSH service."),
            .init(
                "user", .text, aliases: ["username", "login", "id"],
                help: "The name of the account there; without it that of the user here."),
            .init(
                "path", .text, aliases: ["root", "directory", "bucket_name"],
                help: "The folder, such as /srv/files, or below the account's home, such as photos; it must exist. "
                    + "Without it the home itself."),
            .init(
                "key_file", .path, aliases: ["identity_file", "private_key"],
                help: "The file with the private key. Without it and without password the keys of ssh-agent are tried, "
                    + "then ~/.ssh/id_rsa, id_ecdsa and id_ed25519."),
            .init("passphrase", .secret, aliases: ["key_password"], help: "What key_file is encrypted with."),
            .init("password", .secret, aliases: ["secret"], help: "The password of user."),
            .init(
                "known_hosts", .path,
                help:
                    "The file with the keys of servers to trust, in OpenSSH's form. Without it ~/.ssh/known_hosts and "
                    + "/etc/ssh/ssh_known_hosts."),
            .init(
                "fsync", .flag, default: "yes",
                help:
                    "Whether a file counts as stored only when the server's disk has it; 'no' is faster and loses what "
                    + "the server had in memory when its power fails."),
            .init(
                "sessions", .number(1...16), default: "4",
                help: "How many SSH connections are used at once. Each carries any number of requests."),
        ],
        identity: { settings in SFTPConfiguration.identity(settings) },
        settingsFromURL: { rest in SFTPConfiguration.settings(fromURL: rest) },
        make: { settings, statistics throws(StoreError) in try SFTPStore(settings, statistics: statistics) })
}

/// The settings of an SFTP store, checked.
struct SFTPConfiguration: Sendable {
    var endpoint: SSHEndpoint
    /// As requests have it: without a slash at its end; empty for the account's home.
    var root: [UInt8]
    var isRootOfServer: Bool { root == [UInt8(ascii: "/")] }
    var fsync: Bool
    var sessions: Int

    /// - Throws: ``StoreError``: `.invalidArgument`, naming the setting.
    init(_ settings: StoreSettings) throws(StoreError) {
        guard let host = settings["host"], Self.isPlain(host) else {
            throw StoreError(
                .invalidArgument, "host must be the name or address of a server, such as files.example.org")
        }
        let (user, home) = Self.account()
        if settings["passphrase"] != nil, settings["key_file"] == nil {
            throw StoreError(.invalidArgument, "passphrase needs key_file: it says for which file it is")
        }
        func file(_ name: String) -> String? {
            settings[name].map { $0.hasPrefix("~/") ? home + $0.dropFirst() : $0 }
        }
        let agent = getenv("SSH_AUTH_SOCK").map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
        endpoint = SSHEndpoint(
            host: Self.bare(host), port: Int(settings.number("port") ?? 22), user: settings["user"] ?? user,
            password: settings["password"], keyFile: file("key_file"), passphrase: settings["passphrase"],
            knownHosts: file("known_hosts"), home: home, agent: agent)
        root = Self.root(settings["path"] ?? "")
        guard !root.contains(0) else { throw StoreError(.invalidArgument, "path must not hold a zero byte") }
        fsync = settings.flag("fsync", default: true)
        sessions = Int(settings.number("sessions") ?? 4)
    }

    /// Who runs the program, and where that is at home.
    private static func account() -> (user: String, home: String) {
        let entry = getpwuid(getuid())
        let user = entry.flatMap { $0.pointee.pw_name }.map { String(cString: $0) } ?? "root"
        let home =
            getenv("HOME").map { String(cString: $0) }
            ?? entry.flatMap { $0.pointee.pw_dir }.map { String(cString: $0) }
        return (user, home ?? "/root")
    }

    private static func isPlain(_ host: String) -> Bool {
        !host.isEmpty
            && !host.utf8.contains { $0 <= 0x20 || $0 == 0x7f || $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "@") }
    }

    /// Without the brackets that an IPv6 address has in a URL.
    private static func bare(_ host: String) -> String {
        host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
    }

    /// "~" is the account's home on the server, from where paths without a slash at their begin count.
    private static func root(_ path: String) -> [UInt8] {
        let isAbsolute = path.hasPrefix("/")
        var names = path.utf8.split(separator: UInt8(ascii: "/")).filter { $0.elementsEqual(".".utf8) == false }
        if !isAbsolute, let first = names.first, first.elementsEqual("~".utf8) { names.removeFirst() }
        return Array((isAbsolute ? "/" : "").utf8) + names.map { Array($0) }.joined(separator: [UInt8(ascii: "/")])
    }

    static func identity(_ settings: StoreSettings) -> String {
        let user = settings["user"] ?? account().user
        let path = String(decoding: root(settings["path"] ?? ""), as: UTF8.self)
        return "\(user)@\(bare(settings["host"] ?? "").lowercased()):\(settings["port"] ?? "22")/\(path)"
    }

    /// `user@host:port/path`; `/~/` leads to the account's home, as with curl.
    ///
    /// - Returns: nil also for a password, which has no place in a URL.
    static func settings(fromURL rest: String) -> [String: String]? {
        let slash = rest.firstIndex(of: "/") ?? rest.endIndex
        var authority = rest[..<slash]
        var settings: [String: String] = [:]
        if let at = authority.lastIndex(of: "@") {
            let user = authority[..<at]
            guard !user.isEmpty, !user.contains(":"), let name = text(percentEncoded: user) else { return nil }
            settings["user"] = name
            authority = authority[authority.index(after: at)...]
        }
        let afterAddress = authority.lastIndex(of: "]") ?? authority.startIndex
        if let colon = authority[afterAddress...].lastIndex(of: ":") {
            guard let port = Int(authority[authority.index(after: colon)...]), (1...65_535).contains(port) else {
                return nil
            }
            settings["port"] = String(port)
            authority = authority[..<colon]
        }
        guard isPlain(String(authority)) else { return nil }
        settings["host"] = String(authority)
        guard let path = text(percentEncoded: rest[slash...]) else { return nil }
        if path == "/~" || path.hasPrefix("/~/") {
            let below = path.dropFirst(3)
            if !below.isEmpty { settings["path"] = String(below) }
        } else if !path.isEmpty {
            settings["path"] = path
        }
        return settings
    }

    private static func text(percentEncoded text: Substring) -> String? {
        TextEncoding.percentDecode(text).flatMap { String(validating: $0, as: UTF8.self) }
    }
}
