package import StoreAPI
import StoreHTTP
package import Threading

/// POSIX attributes as an object's user metadata, in the words of s3fs and rclone.
///
/// Written: `mode` in octal with type bits and a leading zero ("0100644": s3fs reads numbers as `strtoll` with base
/// 0 does, rclone takes octal), `uid`, `gid`, `mtime`, `atime`, `ctime` in seconds with nine decimals (s3fs takes what
/// follows the point for nanoseconds), `rdev` in hexadecimal as rclone does, `xattr` in the form of s3fs: a JSON object
/// of Base64 values, percent-encoded, and `identity` and `replaces`, which are of this program alone.
/// Read: these, s3fs's decimal `mode`, rclone's octal without the leading zero, and RFC 3339 times.
///
/// Sources: s3fs 1.90 (tried: it shows such modes, times and owners), `src/metaheader.cpp`; rclone's documentation of
/// metadata, <https://rclone.org/docs/#metadata>.
package enum POSIXMetadata {
    /// The most bytes that all names and values together may have.
    /// Source: S3 User Guide, "Working with object metadata": 2 KB.
    package static let limit = 2048

    /// What headers say of a file.
    package struct Description: Hashable, Sendable {
        /// nil: they do not say.
        package var kind: FileKind?
        package var attributes: Attributes
        package init(kind: FileKind?, attributes: Attributes) {
            self.kind = kind
            self.attributes = attributes
        }
    }

    /// User metadata, by name without `x-amz-meta-`.
    ///
    /// - Returns: Without extended attributes, and with `keepsExtended` false, when those would not fit into `limit`.
    package static func encode(_ kind: FileKind, _ attributes: Attributes, limit: Int = limit) -> (
        values: [(name: String, value: String)], keepsExtended: Bool
    ) {
        var values: [(name: String, value: String)] = []
        if attributes.mode != nil || (kind != .file && kind != .directory) {
            let permissions = attributes.mode ?? (kind == .symbolicLink ? 0o777 : 0o644)
            values.append(("mode", "0" + String(typeBits(kind) | (permissions & 0o7777), radix: 8)))
        }
        if let uid = attributes.uid { values.append(("uid", String(uid))) }
        if let gid = attributes.gid { values.append(("gid", String(gid))) }
        if let time = attributes.modified { values.append(("mtime", text(of: time))) }
        if let time = attributes.accessed { values.append(("atime", text(of: time))) }
        if let time = attributes.changed { values.append(("ctime", text(of: time))) }
        if let device = attributes.device, kind == .characterDevice || kind == .blockDevice {
            values.append(("rdev", String(device, radix: 16)))
        }
        if let identity = attributes.identity { values.append(("identity", identity)) }
        if let replaces = attributes.replaces { values.append(("replaces", replaces)) }
        guard let extended = attributes.extended, !extended.isEmpty else { return (values, true) }
        let encoded = text(of: extended)
        let used = values.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count }
        guard used + encoded.utf8.count + 64 <= limit else { return (values, false) }
        values.append(("xattr", encoded))
        return (values, true)
    }

    /// What user metadata says.
    ///
    /// - Parameter value: The value of a name without `x-amz-meta-`, in lower case.
    package static func decode(isDirectoryKey: Bool, _ value: (String) -> String?) -> Description {
        var attributes = Attributes()
        var kind: FileKind? = isDirectoryKey ? .directory : nil
        if let mode = value("mode").flatMap(parseMode) {
            attributes.mode = mode & 0o7777
            if !isDirectoryKey, let type = fileKind(mode) { kind = type }
        }
        attributes.uid = value("uid").flatMap { UInt32($0) }
        attributes.gid = value("gid").flatMap { UInt32($0) }
        attributes.modified = value("mtime").flatMap(parseTime)
        attributes.accessed = value("atime").flatMap(parseTime)
        attributes.changed = value("ctime").flatMap(parseTime)
        attributes.device = value("rdev").flatMap { UInt64($0, radix: 16) }
        attributes.extended = value("xattr").flatMap(parseExtended)
        attributes.identity = value("identity")
        attributes.replaces = value("replaces")
        return Description(kind: kind, attributes: attributes)
    }

    /// The names that ``encode(_:_:)`` may write: others on an object belong to other programs, and stay.
    package static let names: Set<String> = [
        "mode", "uid", "gid", "mtime", "atime", "ctime", "rdev", "identity", "replaces", "xattr",
    ]

    // MARK: Mode

    /// A mode as s3fs writes it (decimal) or rclone does (octal).
    ///
    /// A leading zero means octal. Without one the more likely reading counts: type bits that exist, no set-uid on a
    /// fifo, 0777 on a symbolic link; decimal where both are as likely, since s3fs writes the bare permissions of
    /// directories in decimal.
    package static func parseMode(_ text: String) -> UInt32? {
        let octal = UInt32(text, radix: 8)
        if text.hasPrefix("0") { return octal }
        let decimal = UInt32(text)
        guard let decimal, decimal <= 0xFFFF else { return octal.flatMap { $0 <= 0xFFFF ? $0 : nil } }
        guard let octal, octal <= 0xFFFF else { return decimal }
        return doubt(octal, hasNoTypeBitsByHabit: false) < doubt(decimal, hasNoTypeBitsByHabit: true) ? octal : decimal
    }

    private static func doubt(_ mode: UInt32, hasNoTypeBitsByHabit: Bool) -> Int {
        if mode & ~0o7777 == 0 { return hasNoTypeBitsByHabit ? 1 : 3 }
        switch fileKind(mode) {
        case .file, .directory: return 0
        case .symbolicLink: return mode & 0o7777 == 0o777 ? 0 : 4
        case .fifo, .characterDevice, .blockDevice, .socket: return mode & 0o7000 == 0 ? 0 : 4
        case nil: return 5
        }
    }

    private static func typeBits(_ kind: FileKind) -> UInt32 {
        switch kind {
        case .fifo: 0o010000
        case .characterDevice: 0o020000
        case .directory: 0o040000
        case .blockDevice: 0o060000
        case .file: 0o100000
        case .symbolicLink: 0o120000
        case .socket: 0o140000
        }
    }

    private static func fileKind(_ mode: UInt32) -> FileKind? {
        switch mode & ~0o7777 {
        case 0o010000: .fifo
        case 0o020000: .characterDevice
        case 0o040000: .directory
        case 0o060000: .blockDevice
        case 0o100000: .file
        case 0o120000: .symbolicLink
        case 0o140000: .socket
        default: nil
        }
    }

    // MARK: Times

    private static func text(of time: Timestamp) -> String {
        // "-0.5" must not become "-1.500000000": readers take the sign for the seconds alone.
        let magnitude = time.nanoseconds.magnitude
        let fraction = String(magnitude % 1_000_000_000)
        return (time.nanoseconds < 0 ? "-" : "") + String(magnitude / 1_000_000_000) + "."
            + String(repeating: "0", count: 9 - fraction.count) + fraction
    }

    /// Seconds since 1970 with or without a fraction, or RFC 3339.
    package static func parseTime(_ text: String) -> Timestamp? {
        let isNegative = text.hasPrefix("-")
        let parts = (isNegative ? text.dropFirst() : text[...]).split(
            separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let first = parts.first, !first.isEmpty, first.allSatisfy({ $0.isASCII && $0.isNumber }) else {
            return Timestamp(iso8601: text)
        }
        guard let seconds = Int64(first), seconds <= 9_223_372_035 else { return nil }
        guard let fraction = nanoseconds(parts.count == 2 ? parts[1] : "0") else { return nil }
        let time = seconds * 1_000_000_000 + fraction
        return Timestamp(nanoseconds: isNegative ? -time : time)
    }

    /// The digits behind the decimal point, as nanoseconds; those after the ninth do not count.
    private static func nanoseconds(_ digits: Substring) -> Int64? {
        guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII && $0.isNumber }) else { return nil }
        let nine = digits.prefix(9)
        return Int64(nine + String(repeating: "0", count: 9 - nine.count))
    }
}
