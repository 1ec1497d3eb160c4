import StoreHTTP

/// The keys of servers that a person trusts, as OpenSSH's `known_hosts` keeps them: lines with patterns of names, hashed
/// names, and the marks for keys that are revoked or sign those of others (which libssh2 knows nothing of).
///
/// Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT". A value without files or sockets, made of texts.
package struct KnownHosts: Sendable {
    /// What is to be thought of the key that a server has shown.
    package enum Verdict: Hashable, Sendable {
        case known
        /// Nothing is known of this server, or only keys of other kinds, which are named.
        case unknown(otherTypes: [String])
        /// There is another key of that kind for this server.
        case changed(place: String, fingerprint: String)
        case revoked(place: String)
    }

    private struct Entry: Sendable {
        /// Names and patterns, or one hashed name.
        var names: [Substring]
        var type: String
        var key: [UInt8]
        var isRevoked: Bool
        /// The file and the line.
        var place: String
    }

    private var entries: [Entry] = []

    package init() {}

    /// Takes the lines of a file. What is no line of this kind is passed over, as OpenSSH does.
    ///
    /// - Parameter file: Its name, for messages.
    package mutating func add(_ text: [UInt8], file: String) {
        for (index, line) in text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
            var words = String(decoding: line, as: UTF8.self).split {
                $0 == " " || $0 == "\t" || $0 == "\r" || $0 == "\r\n"
            }
            guard let first = words.first, !first.hasPrefix("#") else { continue }
            let isRevoked = first == "@revoked"
            // The keys of authorities sign those of servers; libssh2 cannot check that.
            if first.hasPrefix("@"), !isRevoked { continue }
            if isRevoked { words.removeFirst() }
            guard words.count >= 3, let key = TextEncoding.bytes(base64: words[2]), !key.isEmpty else { continue }
            entries.append(
                Entry(
                    names: words[0].split(separator: ","), type: String(words[1]), key: key, isRevoked: isRevoked,
                    place: "\(file):\(index + 1)"))
        }
    }

    /// - Parameter key: As the server sends it: the kind's name and its numbers.
    package func check(_ key: [UInt8], of host: String, port: Int) -> Verdict {
        let type = Self.type(of: key)
        let relevant = entries(for: host, port)
        if let revoked = relevant.first(where: { $0.isRevoked && $0.key == key }) {
            return .revoked(place: revoked.place)
        }
        let trusted = relevant.filter { !$0.isRevoked }
        if trusted.contains(where: { $0.key == key }) { return .known }
        if let other = trusted.first(where: { $0.type == type }) {
            return .changed(place: other.place, fingerprint: Self.fingerprint(other.key))
        }
        return .unknown(otherTypes: Set(trusted.map(\.type)).sorted())
    }

    /// The kinds of keys that are known of a server, in the order of the file: what to ask it for.
    package func types(of host: String, port: Int) -> [String] {
        var types: [String] = []
        for entry in entries(for: host, port) where !entry.isRevoked && !types.contains(entry.type) {
            types.append(entry.type)
        }
        return types
    }

    /// The name under which a server is known.
    package static func name(of host: String, port: Int) -> String {
        port == 22 ? host.lowercased() : "[\(host.lowercased())]:\(port)"
    }

    /// As `ssh-keygen -l` shows it.
    package static func fingerprint(_ key: [UInt8]) -> String {
        var text = TextEncoding.base64(Digest.sha256(key))
        while text.hasSuffix("=") { text.removeLast() }
        return "SHA256:" + text
    }

    /// The name of a key's kind, which is its first part.
    package static func type(of key: [UInt8]) -> String {
        guard key.count >= 4 else { return "" }
        let length = key[..<4].reduce(0) { $0 << 8 | Int($1) }
        guard length <= key.count - 4 else { return "" }
        return String(decoding: key[4..<(4 + length)], as: UTF8.self)
    }

    private func entries(for host: String, _ port: Int) -> [Entry] {
        let name = Self.name(of: host, port: port)
        return entries.filter { Self.matches($0.names, name) }
    }

    private static func matches(_ names: [Substring], _ name: String) -> Bool {
        var isNamed = false
        for pattern in names {
            if pattern.hasPrefix("|") {
                isNamed = isNamed || matchesHash(pattern, name)
            } else if pattern.hasPrefix("!") {
                if matches(Array(pattern.dropFirst().lowercased().utf8)[...], Array(name.utf8)[...]) { return false }
            } else {
                isNamed = isNamed || matches(Array(pattern.lowercased().utf8)[...], Array(name.utf8)[...])
            }
        }
        return isNamed
    }

    /// `|1|salt|hash`: HMAC-SHA1 of the name.
    private static func matchesHash(_ text: Substring, _ name: String) -> Bool {
        let parts = text.split(separator: "|", omittingEmptySubsequences: false)
        guard parts.count == 4, parts[1] == "1", let salt = TextEncoding.bytes(base64: parts[2]),
            let hash = TextEncoding.bytes(base64: parts[3]), !hash.isEmpty
        else { return false }
        return Digest.hmacSHA1(key: salt, Array(name.utf8)) == hash
    }

    /// `*` is any number of bytes, `?` one.
    private static func matches(_ pattern: ArraySlice<UInt8>, _ name: ArraySlice<UInt8>) -> Bool {
        var (p, n) = (pattern.startIndex, name.startIndex)
        // Where the last star was, and what it has taken so far.
        var star: (pattern: Int, name: Int)?
        while n < name.endIndex {
            if p < pattern.endIndex, pattern[p] == UInt8(ascii: "*") {
                star = (p, n)
                p += 1
            } else if p < pattern.endIndex, pattern[p] == UInt8(ascii: "?") || pattern[p] == name[n] {
                p += 1
                n += 1
            } else if let last = star {
                star = (last.pattern, last.name + 1)
                p = last.pattern + 1
                n = last.name + 1
            } else {
                return false
            }
        }
        return pattern[p...].allSatisfy { $0 == UInt8(ascii: "*") }
    }
}
