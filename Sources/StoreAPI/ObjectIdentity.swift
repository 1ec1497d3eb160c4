public import Threading

/// What the object of a file with several names says of itself on the store (``Attributes/identity``): the file's
/// identity, which is a random number for one state of its bytes, and a fingerprint of the object's path, size and time
/// of modification.
///
/// A copy that other tools make of the object has the same words under another path, and one that others have written
/// anew in place has them with another time: neither is taken for a name of the file.
public struct ObjectIdentity: Hashable, Sendable {
    /// 32 hexadecimal digits.
    public let file: String
    public let text: String

    public init(of file: String, at path: StorePath, size: Int64, modified: Timestamp) {
        self.file = file
        let bound = "\(file)\n\(size)\n\(modified.nanoseconds)\n"
        text = file + "-" + fingerprint(Array(bound.utf8) + path.bytes)
    }

    /// - Returns: nil where the object says nothing, or what is not its own.
    public init?(_ metadata: Metadata, at path: StorePath) {
        guard metadata.kind == .file, let told = metadata.attributes?.identity,
            let modified = metadata.attributes?.modified
        else { return nil }
        let file = told.prefix { $0 != "-" }
        guard file.utf8.count == 32, file.allSatisfy(\.isHexDigit) else { return nil }
        self.init(of: String(file), at: path, size: metadata.size, modified: modified)
        guard text == told else { return nil }
    }

    public static func newFile() -> String {
        hexadecimal(.random(in: 0...UInt64.max)) + hexadecimal(.random(in: 0...UInt64.max))
    }
}
