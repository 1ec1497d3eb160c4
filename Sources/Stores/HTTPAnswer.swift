import StoreAPI
import StoreHTTP

/// Words of servers' answers, from their headers or from XML, in the form in which stores use them.
enum HTTPAnswer {
    /// An entity tag without its quotes and without the mark of a weak one, which Apache's have while a file is young; nil
    /// when there is none worth the name.
    static func tag(_ text: String?) -> String? {
        guard var tag = text?.trimmingSpaces() else { return nil }
        if tag.hasPrefix("W/") { tag.removeFirst(2) }
        if tag.count >= 2, tag.hasPrefix("\""), tag.hasSuffix("\"") { tag = String(tag.dropFirst().dropLast()) }
        return tag.isEmpty ? nil : tag
    }

    /// A number of bytes; nil when it makes no sense.
    static func size(_ text: (some StringProtocol)?) -> Int64? {
        text.flatMap { Int64($0) }.flatMap { $0 >= 0 ? $0 : nil }
    }
}

extension StoreError {
    /// - Parameter tag: The version that was meant; nil where the server tells none.
    static func changed(_ path: StorePath, _ tag: String?) -> StoreError {
        StoreError(
            .preconditionFailed, "'\(path)' changed on the store since version \(tag ?? "that was meant")", path: path)
    }
}

extension StringProtocol {
    /// Without white space at both ends.
    func trimmingSpaces() -> String {
        var text = Substring(self)
        while text.first?.isWhitespace == true { text.removeFirst() }
        while text.last?.isWhitespace == true { text.removeLast() }
        return String(text)
    }
}
