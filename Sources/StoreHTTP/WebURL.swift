/// An `http` or `https` URL in its parts, for stores that are named by one.
public struct WebURL: Hashable, Sendable, CustomStringConvertible {
    public var isSecure: Bool
    /// Host, and port where it is not the scheme's own, in lower case.
    public private(set) var authority: String
    /// Percent-encoded; begins with a slash.
    public var path: String
    /// Percent-encoded, without the question mark.
    public var query: String?
    /// The name before an `@`, decoded.
    public private(set) var user: String?

    /// - Returns: nil for what is no such URL, and for one with a password in it: those are not taken where everybody
    ///   can read them. A fragment is dropped; what may not stand in a URL as it is gets percent-encoded.
    public init?(_ text: some StringProtocol) {
        let text = String(text)
        guard let colon = text.firstIndex(of: ":"), text[colon...].hasPrefix("://") else { return nil }
        switch text[..<colon].lowercased() {
        case "http": isSecure = false
        case "https": isSecure = true
        default: return nil
        }
        let rest = text[colon...].dropFirst(3).prefix { $0 != "#" }
        var authority = rest.prefix { $0 != "/" && $0 != "?" }
        let target = rest[authority.endIndex...]
        if let at = authority.lastIndex(of: "@") {
            guard let decoded = TextEncoding.percentDecode(authority[..<at]), !decoded.isEmpty,
                !authority[..<at].contains(":"), !decoded.contains(where: { $0 < 0x20 })
            else { return nil }
            user = String(decoding: decoded, as: UTF8.self)
            authority = authority[authority.index(after: at)...]
        }
        let plain = authority.lowercased()
        let ownPort = isSecure ? ":443" : ":80"
        self.authority = plain.hasSuffix(ownPort) ? String(plain.dropLast(ownPort.count)) : plain
        guard !self.authority.isEmpty, !self.authority.hasPrefix(":"),
            self.authority.utf8.allSatisfy({ Self.isHostByte($0) })
        else { return nil }
        let mark = target.firstIndex(of: "?")
        let path = Self.encoded(target[..<(mark ?? target.endIndex)])
        self.path = path.isEmpty ? "/" : path
        query = mark.map { Self.encoded(target[target.index(after: $0)...]) }
    }

    /// Scheme, host and port: what credentials are for.
    public var origin: String { (isSecure ? "https://" : "http://") + authority }

    /// Host without the port.
    public var host: String {
        guard let colon = authority.lastIndex(of: ":"), !authority.hasSuffix("]") else { return authority }
        return String(authority[..<colon])
    }

    /// Whether what is sent there can be read by nobody on the way: by TLS, or because it does not leave the machine.
    public var mayHaveSecrets: Bool {
        let numbers = host.split(separator: ".", omittingEmptySubsequences: false).map { UInt8($0) }
        let isLoopback = numbers.count == 4 && numbers[0] == 127 && !numbers.contains(nil)
        return isSecure || host == "localhost" || host == "[::1]" || isLoopback
    }

    /// Without the user.
    public var description: String { origin + path + (query.map { "?" + $0 } ?? "") }

    /// What a reference on the page at this URL leads to (RFC 3986, 5.2); nil for other schemes.
    public func resolving(_ reference: some StringProtocol) -> WebURL? {
        let reference = String(reference).prefix { $0 != "#" }
        if let colon = reference.firstIndex(of: ":"), !reference[..<colon].contains(where: { "/?".contains($0) }) {
            guard var whole = WebURL(reference) else { return nil }
            whole.path = Self.withoutDots(whole.path)
            return whole
        }
        if reference.hasPrefix("//") { return WebURL((isSecure ? "https:" : "http:") + reference) }
        var result = self
        if reference.isEmpty { return result }
        let mark = reference.firstIndex(of: "?")
        let target = Self.encoded(reference[..<(mark ?? reference.endIndex)])
        result.query = mark.map { Self.encoded(reference[reference.index(after: $0)...]) }
        if target.hasPrefix("/") {
            result.path = Self.withoutDots(target)
        } else if !target.isEmpty {
            result.path = Self.withoutDots(path[...path.lastIndex(of: "/")!] + target)
        }
        return result
    }

    /// RFC 3986, 5.2.4.
    private static func withoutDots(_ path: String) -> String {
        var kept: [Substring] = []
        let parts = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst()
        for (index, part) in parts.enumerated() {
            let isLast = index == parts.count - 1
            switch part {
            case ".": if isLast { kept.append("") }
            case "..":
                _ = kept.popLast()
                if isLast { kept.append("") }
            default: kept.append(part)
            }
        }
        return "/" + kept.joined(separator: "/")
    }

    private static func encoded(_ text: Substring) -> String {
        TextEncoding.percentEncode(text, keeping: "/%!$&'()*+,;=:@?[]|")
    }

    private static func isHostByte(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"): true
        default: "-._:[]%".utf8.contains(byte)
        }
    }
}
