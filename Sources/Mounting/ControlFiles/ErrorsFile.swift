import Threading

/// `stats/errors`: what went wrong lately, newest first: kind, count, last time, message, and what to do about it.
package enum ErrorsFile {
    package static func text(_ errors: [MountStatus.Problem]) -> String {
        errors.map { error in
            let last = localTime(Timestamp(nanoseconds: Int64(error.last * 1e9)))
            let times = error.count == 1 ? "once, at \(last)" : "\(error.count) times, last at \(last)"
            let advice = error.advice.isEmpty ? "" : "    \(error.advice)\n"
            return "\(error.kind): \(times)\n    \(indented(error.message))\n\(advice)"
        }.joined(separator: "\n")
    }

    /// A message of several lines stays inside its entry.
    private static func indented(_ text: String) -> String {
        text.split(separator: "\n", omittingEmptySubsequences: false).joined(separator: "\n    ")
    }
}
