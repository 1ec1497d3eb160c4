import Glibc
public import Threading

/// This machine's name, fit to be a part of a file's: letters, digits and "-", at most 32 of them.
public func hostName() -> String {
    var name = [CChar](repeating: 0, count: 65)
    gethostname(&name, 64)
    return String(decoding: name.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        .prefix(32).map { $0.isLetter || $0.isNumber || $0 == "-" ? String($0) : "-" }.joined()
}

extension FileName {
    /// The name under which a file is kept where others have changed what had its name: `NAME.conflict-<host>-<time>`,
    /// shortened so that it remains a name.
    ///
    /// - Parameters:
    ///   - time: When the change was made.
    ///   - number: Behind the rest of the name, from 2 on: for where names before it are taken.
    /// - Returns: nil when no room is left for anything of the name.
    public func conflictCopy(of time: Timestamp, number: Int) -> FileName? {
        appending(".conflict-\(hostName())-\(time.seconds)" + (number > 1 ? "-\(number)" : ""))
    }

    /// The name with a suffix; what would make it too long is left out before that.
    private func appending(_ suffix: String) -> FileName? {
        let suffix = Array(suffix.utf8)
        var stem = bytes.prefix(255 - suffix.count)
        // Not in the middle of a character.
        if stem.count < bytes.count {
            while let last = stem.last, last & 0xC0 == 0x80 { stem.removeLast() }
            if let last = stem.last, last >= 0xC0 { stem.removeLast() }
        }
        return FileName(stem + suffix)
    }
}
