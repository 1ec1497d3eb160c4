/// Why a mount could not be made, or something about it could not be done: a sentence that says what to do next.
package struct MountError: Error, Sendable, CustomStringConvertible {
    package var message: String
    /// The caller asked for something that makes no sense (exit code 2), rather than that it failed (1).
    package var isUsage: Bool

    package init(_ message: String, isUsage: Bool = false) {
        self.message = message
        self.isUsage = isUsage
    }

    package var description: String { message }
}
