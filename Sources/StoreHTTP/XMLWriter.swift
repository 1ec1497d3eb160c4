/// Writes XML, escaped.
public struct XMLWriter {
    private var text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"

    public init() {}

    public var bytes: [UInt8] { Array(text.utf8) }

    /// `<name>text</name>`.
    public mutating func element(_ name: String, _ content: String) {
        text += "<\(name)>\(Self.escaped(content))</\(name)>"
    }

    /// An element with others inside, which `body` writes.
    ///
    /// - Parameter attributes: Values are escaped here.
    public mutating func element(
        _ name: String, attributes: [(name: String, value: String)] = [], _ body: (inout XMLWriter) -> Void
    ) {
        text += "<\(name)"
        for (name, value) in attributes { text += " \(name)=\"\(Self.escaped(value))\"" }
        text += ">"
        body(&self)
        text += "</\(name)>"
    }

    /// Text as it may stand between tags and in quotes.
    ///
    /// Control characters become references, so that a parser does not turn CR into LF. Those that XML 1.0 does
    /// not know at all (below U+0020) are written so too: S3 takes them, as XML 1.1.
    public static func escaped(_ text: String) -> String {
        var escaped = ""
        escaped.reserveCapacity(text.utf8.count)
        for scalar in text.unicodeScalars {
            switch scalar {
            case "&": escaped += "&amp;"
            case "<": escaped += "&lt;"
            case ">": escaped += "&gt;"
            case "\"": escaped += "&quot;"
            case "'": escaped += "&apos;"
            case _ where scalar.value < 0x20 || scalar.value == 0x7f: escaped += "&#\(scalar.value);"
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
