import Glibc
import StoreAPI

/// What providers' own tools read: variables of the environment, and the files that they name.
package struct ProcessEnvironment: Sendable {
    private let variables: [String: String]

    package init(_ variables: [String: String]) { self.variables = variables }

    /// The environment of this process.
    package static var ofProcess: ProcessEnvironment {
        var variables: [String: String] = [:]
        var entry = environ
        while let text = entry.pointee {
            let pair = String(cString: text)
            if let equals = pair.firstIndex(of: "=") {
                variables[String(pair[..<equals])] = String(pair[pair.index(after: equals)...])
            }
            entry += 1
        }
        return ProcessEnvironment(variables)
    }

    /// nil when it is not set or empty.
    package subscript(_ name: String) -> String? { variables[name].flatMap { $0.isEmpty ? nil : $0 } }

    func flag(_ name: String) -> Bool { self[name]?.lowercased() == "true" }

    func path(_ text: String) -> String {
        guard text == "~" || text.hasPrefix("~/") else { return text }
        return (self["HOME"] ?? "/root") + text.dropFirst()
    }

    /// The whole of a small file; nil when there is none.
    ///
    /// - Throws: ``StoreError``: `.invalidArgument` when there is one that cannot be read.
    static func contents(of path: String) throws(StoreError) -> String? {
        guard let bytes = readFile(path, limit: 1 << 20) else {
            let number = errno
            if number == ENOENT || number == ENOTDIR { return nil }
            throw StoreError(.invalidArgument, "'\(path)' cannot be read: \(String(cString: strerror(number)))")
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
