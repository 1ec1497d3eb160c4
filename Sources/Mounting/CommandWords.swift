/// Brings the words of a command line into the order that the parser wants: the sub-command first.
///
/// `cloudfusion MOUNTPOINT stop` means the same as `cloudfusion stop MOUNTPOINT`, and a line without a sub-command
/// means `mount`. The words `foreground` and `log` behind a mount point are the predecessor's.
package enum CommandWords {
    package static let commands = [
        "mount", "stop", "sync", "status", "check-config", "fsck", "restore", "gc", "uuid", "version",
    ]
    /// Options whose value is the next word.
    private static let withValue: Set<String> = ["-o", "-c", "--config", "--ready-fd"]

    package static func ordered(_ words: [String]) -> [String] {
        var plain: [Int] = []
        var index = 0
        while index < words.count {
            let word = words[index]
            if word == "--" { break }
            if withValue.contains(word) {
                index += 1
            } else if !word.hasPrefix("-") || word == "-" {
                plain.append(index)
            }
            index += 1
        }
        if let place = plain.first(where: { commands.contains(words[$0]) || words[$0] == "help" }) {
            var rest = words
            let command = rest.remove(at: place)
            return [command] + rest
        }
        let asksForHelp = words.contains { ["--help", "-h", "--version", "-help"].contains($0) }
        if words.isEmpty || (plain.isEmpty && asksForHelp) { return words }
        guard plain.count > 1 else { return ["mount"] + words }
        return ["mount"]
            + words.enumerated().flatMap { index, word -> [String] in
                guard plain.dropFirst().contains(index) else { return [word] }
                switch word {
                case "foreground": return ["--foreground"]
                case "log": return ["-o", "log_level=debug"]
                default: return [word]
                }
            }
    }
}
