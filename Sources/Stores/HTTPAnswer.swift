import StoreAPI
import StoreHTTP
import Threading

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

    /// The length of the body of an answer, also where it is left out (HEAD); 0 where it is not told.
    static func length(_ response: HTTPResponse) -> Int64 { size(response["Content-Length"]) ?? 0 }

    /// The size of the object of which an answer is all or a part.
    static func wholeSize(_ response: HTTPResponse) -> Int64 {
        if response.status == 206, let total = response["Content-Range"]?.split(separator: "/").last {
            return size(total) ?? length(response)
        }
        return length(response)
    }

    /// The size of the file of which an answer is all, a part, or no part (416); nil where it is not told.
    static func toldSize(_ response: HTTPResponse) -> Int64? {
        switch response.status {
        case 206, 416: response["Content-Range"].flatMap { size($0.split(separator: "/").last) }
        default: size(response["Content-Length"])
        }
    }

    /// The version of a file: its entity tag, else time and size; nil where the server tells neither.
    static func version(tag: String?, modified: Timestamp?, size: Int64) -> Version? {
        if let tag { return Version(tag) }
        return modified.map { Version("\($0.seconds)-\(size)") }
    }

    /// Whether an object that is said to be missing may be there.
    ///
    /// OpenStack Swift's object server lists an object's folder and then opens the newest file: when an upload replaces
    /// that in between, it answers 404 (of 12,700 reads beside 1,500 uploads, 11).
    static func mayMissObject(_ response: HTTPResponse) -> Bool {
        response.status == 404 && response["X-OpenStack-Request-Id"] != nil
    }

    /// Headers that say of an object what another one says of itself, but for its attributes.
    ///
    /// - Parameters:
    ///   - prefix: What the names of user metadata begin with.
    ///   - kept: Other headers that are taken over.
    ///   - isOwn: Whether user metadata, by its name in lower case without the prefix, is this program's.
    static func described(_ found: HTTPResponse, prefix: String, kept: [String], isOwn: (String) -> Bool)
        -> [(name: String, value: String)]
    {
        let prefix = prefix.lowercased()
        return kept.compactMap { name in found[name].map { (name, $0) } }
            // What other programs have written stays.
            + found.headers.filter { name, _ in
                let name = name.lowercased()
                return name.hasPrefix(prefix) && !isOwn(String(name.dropFirst(prefix.count)))
            }
    }

    /// `Last-Modified`, else the time of the answer.
    static func modified(_ response: HTTPResponse) -> Timestamp {
        (response["Last-Modified"] ?? response["Date"]).flatMap { Timestamp(httpDate: $0) } ?? .now
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
