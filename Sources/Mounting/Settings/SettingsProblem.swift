/// Something wrong with a settings text, with the place where it is.
package struct SettingsProblem: Hashable, Sendable, CustomStringConvertible {
    /// The file's name, or "-o".
    package var source: String
    package var line: Int?
    package var message: String

    package var description: String {
        if let line { return "\(source):\(line): \(message)" }
        return "\(source): \(message)"
    }
}

/// Everything that is wrong with settings, in the order of the text.
package struct SettingsErrors: Error, Sendable, CustomStringConvertible {
    package var problems: [SettingsProblem]

    package init(_ problems: [SettingsProblem]) { self.problems = problems }

    /// One problem per line; of very many the first ones.
    package var description: String {
        let shown = problems.prefix(50).map(\.description)
        let rest = problems.count - shown.count
        return (shown + (rest > 0 ? ["… and \(rest) more"] : [])).joined(separator: "\n")
    }
}
