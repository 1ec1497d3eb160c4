package import StoreAPI

/// `config/command`: what can be written to it.
package enum CommandFile {
    package enum Command: Equatable, Sendable {
        /// Bring everything at or below the path (nil: everything) to the store, and wait for it.
        case synchronize(StorePath?)
        /// End the waiting of all who wait for the above.
        case cancel
    }

    package static let help = """
        Write one of these to this file; the writing program's close() returns when it is done:
            sync            bring all changes to the store
            sync PATH       bring what is at or below PATH (as it is below data/) to the store
            drain           the same as sync
            now PATH        the same as sync PATH
            cancel          end the waiting of all who wait for the above; nothing is undone

        """

    /// One command per line. A path goes to the end of its line; it is taken from `data/`, or from the root of the
    /// machine when it begins with the mount point.
    package static func parse(_ text: [UInt8], mountPoint: String) -> Result<[Command], SettingComplaint> {
        guard text.count <= 1 << 20 else { return .failure("the command is longer than a million bytes") }
        var commands: [Command] = []
        for line in text.split(whereSeparator: { $0 == UInt8(ascii: "\n") || $0 == 0 }) {
            let line = trim(line)
            if line.isEmpty { continue }
            let end = line.firstIndex { $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") } ?? line.endIndex
            let word = String(decoding: line[..<end], as: UTF8.self)
            let rest = trim(line[end...])
            switch word {
            case "cancel", "drain":
                guard rest.isEmpty else { return .failure("'\(word)' takes no path") }
                commands.append(word == "cancel" ? .cancel : .synchronize(nil))
            case "sync", "now":
                if rest.isEmpty {
                    guard word == "sync" else { return .failure("'now' needs a path") }
                    commands.append(.synchronize(nil))
                } else {
                    guard let path = path(Array(rest), mountPoint: mountPoint) else {
                        return .failure("'\(shown(String(decoding: rest, as: UTF8.self)))' is no path")
                    }
                    commands.append(.synchronize(path))
                }
            default:
                let near = nearest(to: word, among: ["sync", "drain", "now", "cancel"])
                let hint = near.map { "; did you mean '\($0)'?" } ?? ""
                return .failure("there is no command '\(shown(word))'\(hint)")
            }
        }
        return .success(commands)
    }

    private static func path(_ bytes: [UInt8], mountPoint: String) -> StorePath? {
        var rest = bytes[...]
        for root in [mountPoint + "/data", mountPoint] where bytes.starts(with: root.utf8) {
            let tail = bytes.dropFirst(root.utf8.count)
            guard tail.isEmpty || tail.first == UInt8(ascii: "/") else { continue }
            rest = tail
            break
        }
        return StorePath(Array(rest.split(separator: UInt8(ascii: "/")).joined(separator: [UInt8(ascii: "/")])))
    }

    private static func trim(_ line: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
        let isBlank: (UInt8) -> Bool = {
            $0 == UInt8(ascii: " ") || $0 == UInt8(ascii: "\t") || $0 == UInt8(ascii: "\r")
        }
        var line = line.drop(while: isBlank)
        while let last = line.last, isBlank(last) { line.removeLast() }
        return line
    }
}
