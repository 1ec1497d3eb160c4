import FoundationEssentials

/// `stats/status.json`.
package enum StatusFile {
    package static func text(_ status: MountStatus) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        // Numbers, strings and lists of them: there is nothing in it that could not be encoded.
        guard let data = try? encoder.encode(status) else { return Array("{}\n".utf8) }
        return Array(data) + [UInt8(ascii: "\n")]
    }

    /// - Returns: nil when the text is no status.
    package static func read(_ text: [UInt8]) -> MountStatus? {
        try? JSONDecoder().decode(MountStatus.self, from: Data(text))
    }
}
