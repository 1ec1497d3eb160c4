/// One component of a path, in bytes as POSIX has them: 1 … 255 of any value but `/` and NUL, and not `.` or `..`.
public struct FileName: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let bytes: [UInt8]

    /// At the root of a store, what CloudFusion keeps there for itself; in a flat mount, its control files. The name is
    /// nobody else's: neither shown nor taken for a file of a user.
    public static let control = FileName(".cloudfusion")!

    /// - Returns: nil when the bytes are no legal name, so that nothing from a store or a caller can leave its place.
    public init?(_ bytes: [UInt8]) {
        guard Self.isLegal(bytes[...]) else { return nil }
        self.bytes = bytes
    }

    public init?(_ bytes: ArraySlice<UInt8>) {
        guard Self.isLegal(bytes) else { return nil }
        self.bytes = Array(bytes)
    }

    static func isLegal(_ bytes: ArraySlice<UInt8>) -> Bool {
        // Each name of each listing goes through here: the loop stays a plain one.
        bytes.withUnsafeBufferPointer { bytes in
            guard !bytes.isEmpty, bytes.count <= 255 else { return false }
            for byte in bytes where byte == UInt8(ascii: "/") || byte == 0 { return false }
            let dot = UInt8(ascii: ".")
            return !(bytes[0] == dot && (bytes.count == 1 || (bytes.count == 2 && bytes[1] == dot)))
        }
    }

    public init?(_ string: String) { self.init(Array(string.utf8)) }

    /// For people: invalid UTF-8 is shown as U+FFFD. ``bytes`` is the name.
    public var description: String { String(decoding: bytes, as: UTF8.self) }

    public static func < (a: Self, b: Self) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }
}

/// A place in a store's namespace, relative to the store's root: legal names joined by `/`; empty for the root itself.
public struct StorePath: Hashable, Comparable, Sendable, CustomStringConvertible {
    public let bytes: [UInt8]

    public static let root = StorePath(unchecked: [])
    /// The place of ``FileName/control``.
    public static let control = root.appending(.control)

    private init(unchecked bytes: [UInt8]) { self.bytes = bytes }

    /// - Returns: nil when a component is not a legal ``FileName``. Leading, trailing and double slashes are not legal.
    public init?(_ bytes: [UInt8]) {
        guard !bytes.isEmpty else {
            self = .root
            return
        }
        for component in bytes.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
            guard FileName.isLegal(component) else { return nil }
        }
        self.bytes = bytes
    }

    public init?(_ string: String) { self.init(Array(string.utf8)) }

    public var isRoot: Bool { bytes.isEmpty }

    public var components: [FileName] {
        bytes.split(separator: UInt8(ascii: "/")).map { FileName($0)! }
    }

    /// The last component; nil for the root.
    public var name: FileName? {
        bytes.isEmpty ? nil : FileName(bytes[((bytes.lastIndex(of: UInt8(ascii: "/")) ?? -1) + 1)...])
    }

    /// The path without its last component; nil for the root.
    public var parent: StorePath? {
        guard !bytes.isEmpty else { return nil }
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return .root }
        return StorePath(unchecked: Array(bytes[..<slash]))
    }

    public func appending(_ name: FileName) -> StorePath {
        bytes.isEmpty
            ? StorePath(unchecked: name.bytes) : StorePath(unchecked: bytes + [UInt8(ascii: "/")] + name.bytes)
    }

    public func appending(_ path: StorePath) -> StorePath {
        if bytes.isEmpty { return path }
        if path.bytes.isEmpty { return self }
        return StorePath(unchecked: bytes + [UInt8(ascii: "/")] + path.bytes)
    }

    /// Whether this is `ancestor` or lies below it.
    public func isInside(_ ancestor: StorePath) -> Bool {
        ancestor.isRoot || bytes == ancestor.bytes
            || (bytes.count > ancestor.bytes.count && bytes[ancestor.bytes.count] == UInt8(ascii: "/")
                && bytes.starts(with: ancestor.bytes))
    }

    /// For people: invalid UTF-8 is shown as U+FFFD, the root as an empty string.
    public var description: String { String(decoding: bytes, as: UTF8.self) }

    public static func < (a: Self, b: Self) -> Bool { a.bytes.lexicographicallyPrecedes(b.bytes) }
}
