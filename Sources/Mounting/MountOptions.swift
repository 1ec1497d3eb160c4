/// What `-o` can say besides settings: how the mount looks to the kernel and to users.
package struct MountOptions: Hashable, Sendable {
    package var allowOther = false
    package var isReadOnly = false
    /// The store is the root of the mount; the control directories are in the hidden `.cloudfusion`.
    package var isFlat = false
    package var mayBeNonEmpty = false
    package var debug = false
    /// Shown for files whose store keeps no owner; nil: who mounts.
    package var uid: UInt32?
    package var gid: UInt32?
    package var fileMode: UInt32 = 0o644
    package var directoryMode: UInt32 = 0o755
    /// A configuration file, for lines in fstab.
    package var configFile: String?
    /// Passed to the kernel as they are.
    package var kernelOptions: [String] = []
    package var threads = 8

    package init() {}
}

/// `-o` taken apart: options of the mount, and settings.
package struct ParsedMountOptions: Sendable {
    package var options = MountOptions()
    package var settings: [SettingAssignment] = []
    package var problems: [SettingsProblem] = []
}

extension MountOptions {
    private static let passedOn: Set<String> = [
        "nodev", "dev", "nosuid", "suid", "noexec", "exec", "noatime", "nodiratime",
        "sync", "async", "dirsync", "allow_root",
    ]
    /// For mount(8) and fstab; they mean nothing to us, or are always so.
    private static let ignored: Set<String> = [
        "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "rw",
        "default_permissions", "relatime", "strictatime",
    ]
    private static let ours = [
        "allow_other", "ro", "flat", "nonempty", "debug", "uid", "gid", "umask", "fmode", "dmode", "config", "threads",
    ]

    /// Takes `-o` lists apart. A comma that belongs to a value is written `\,`.
    package static func parse(_ lists: [String]) -> ParsedMountOptions {
        var result = ParsedMountOptions()
        for word in lists.flatMap(split) where !word.isEmpty { result.take(word) }
        return result
    }

    private static func split(_ list: String) -> [String] {
        var words = [""]
        var isEscaped = false
        for character in list {
            if isEscaped {
                words[words.count - 1].append(character)
                isEscaped = false
            } else if character == "\\" {
                isEscaped = true
            } else if character == "," {
                words.append("")
            } else {
                words[words.count - 1].append(character)
            }
        }
        return words.map(\.trimmed)
    }

    fileprivate static func isPassedOn(_ word: String) -> Bool { passedOn.contains(word) }
    fileprivate static func isIgnored(_ word: String) -> Bool {
        ignored.contains(word) || word.hasPrefix("x-") || word.hasPrefix("comment=")
    }
    /// Words that may be meant by one that nobody knows.
    package static var known: [String] { ours + passedOn.sorted() + ignored.sorted() }
}

extension ParsedMountOptions {
    fileprivate mutating func take(_ word: String) {
        if MountOptions.isPassedOn(word) {
            options.kernelOptions.append(word)
            return
        }
        if MountOptions.isIgnored(word) { return }
        guard let sign = word.firstIndex(of: "=") else {
            switch word {
            case "allow_other": options.allowOther = true
            case "ro": options.isReadOnly = true
            case "flat": options.isFlat = true
            case "nonempty": options.mayBeNonEmpty = true
            case "debug": options.debug = true
            default:
                let near = nearest(to: word, among: MountOptions.known).map { "; did you mean '\($0)'?" } ?? ""
                complain("there is no option '\(shown(word))'\(near)")
            }
            return
        }
        let key = String(word[..<sign])
        let value = String(word[word.index(after: sign)...])
        switch key {
        case "uid": options.uid = number(key, value, radix: 10, limit: UInt32.max - 1)
        case "gid": options.gid = number(key, value, radix: 10, limit: UInt32.max - 1)
        case "umask":
            guard let mask = number(key, value, radix: 8, limit: 0o777) else { return }
            options.fileMode = 0o666 & ~mask
            options.directoryMode = 0o777 & ~mask
        case "fmode": options.fileMode = number(key, value, radix: 8, limit: 0o7777) ?? options.fileMode
        case "dmode": options.directoryMode = number(key, value, radix: 8, limit: 0o7777) ?? options.directoryMode
        case "threads":
            let count = number(key, value, radix: 10, limit: 64) ?? 8
            if count == 0 { complain("'threads' must be in the range: number, 1 to 64") }
            options.threads = Int(max(1, count))
        case "config": options.configFile = value
        default:
            if value.unicodeScalars.contains(where: { $0.value < 32 }) {
                complain("'\(shown(key))' has control characters in its value")
                return
            }
            settings.append(
                SettingAssignment(
                    key: key.trimmed.lowercased(), value: value.trimmed, source: "-o", isOnCommandLine: true))
        }
    }

    private mutating func number(_ key: String, _ value: String, radix: Int, limit: UInt32) -> UInt32? {
        guard !value.isEmpty, value.utf8.count <= 12, let number = UInt32(value, radix: radix), number <= limit else {
            let form = radix == 8 ? "an octal number such as 022" : "a number from 0 to \(limit)"
            complain("'\(key)' must be \(form), not '\(shown(value))'")
            return nil
        }
        return number
    }

    private mutating func complain(_ message: String) {
        problems.append(SettingsProblem(source: "-o", line: nil, message: message))
    }
}
