/// Finds the links of an HTML page, which comes in pieces of any length.
///
/// Only `<a href>` counts, and the text behind each link. There is no tree: whatever a page opens and never closes, or
/// nests however deeply, it takes as much memory as one link. Comments, scripts and styles are skipped; what is no HTML
/// has no links.
///
/// Source: <https://html.spec.whatwg.org/multipage/parsing.html#tokenization>, of which this is what links need.
struct LinkScanner {
    struct Link: Hashable {
        /// The value of `href`, its references to characters resolved.
        var target: [UInt8]
        /// The text from the end of this link to the next one, white space folded.
        var note: [UInt8] = []
    }

    /// Links that are complete; for who reads them to take away.
    private(set) var links: [Link] = []
    /// A heading calls the page what servers call an index.
    private(set) var callsItselfIndex = false
    /// The page has come to its end.
    private(set) var isClosed = false

    /// Longer ones are no links.
    static let longestTarget = 8192
    private static let longestNote = 200
    private static let longestWord = 16

    private enum State {
        case text, tagOpen, endTagOpen, tagName, inTag, attribute, afterAttribute, beforeValue, bareValue
        case quotedValue(UInt8)
        case declaration, comment, bogus
        /// In a script or style, until its end.
        case raw
    }

    private var state = State.text
    private var tag: [UInt8] = []
    private var isEndTag = false
    private var attribute: [UInt8] = []
    private var value: [UInt8] = []
    private var target: [UInt8]?
    /// Dashes of a comment, or bytes of the end tag of a script, that have come in a row.
    private var matched = 0
    private var rawEnd: [UInt8] = []
    private var current: Link?
    private var isInAnchor = false
    private var heading: [UInt8]?

    mutating func takeLinks() -> [Link] {
        defer { links = [] }
        return links
    }

    mutating func take(_ bytes: some Sequence<UInt8>) {
        for byte in bytes { take(byte) }
    }

    /// The page is over: the last link is complete.
    mutating func finish() { flush() }

    private mutating func flush() {
        guard var link = current else { return }
        while link.note.last == UInt8(ascii: " ") { link.note.removeLast() }
        links.append(link)
        current = nil
    }

    private mutating func take(_ byte: UInt8) {
        switch state {
        case .text:
            if byte == UInt8(ascii: "<") { state = .tagOpen } else { text(byte) }
        case .tagOpen:
            switch byte {
            case UInt8(ascii: "/"): state = .endTagOpen
            case UInt8(ascii: "!"):
                matched = 0
                state = .declaration
            case UInt8(ascii: "?"): state = .bogus
            case UInt8(ascii: "<"): text(byte)
            default:
                guard isLetter(byte) else {
                    state = .text
                    return text(byte)
                }
                begin(byte, isEnd: false)
            }
        case .endTagOpen:
            if isLetter(byte) {
                begin(byte, isEnd: true)
            } else {
                state = byte == UInt8(ascii: ">") ? .text : .bogus
            }
        case .tagName:
            if byte == UInt8(ascii: ">") {
                endTag()
            } else if isSpace(byte) || byte == UInt8(ascii: "/") {
                state = .inTag
            } else {
                append(lower(byte), to: &tag)
            }
        case .inTag:
            if byte == UInt8(ascii: ">") {
                endTag()
            } else if !isSpace(byte), byte != UInt8(ascii: "/") {
                attribute = [lower(byte)]
                state = .attribute
            }
        case .attribute, .afterAttribute: takeAttribute(byte)
        case .beforeValue:
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "'"):
                value = []
                state = .quotedValue(byte)
            case UInt8(ascii: ">"): endTag()
            default:
                if isSpace(byte) { return }
                value = []
                state = .bareValue
                takeValue(byte)
            }
        case .quotedValue(let quote):
            if byte == quote {
                endValue()
                state = .inTag
            } else {
                takeValue(byte)
            }
        case .bareValue:
            if byte == UInt8(ascii: ">") {
                endValue()
                endTag()
            } else if isSpace(byte) {
                endValue()
                state = .inTag
            } else {
                takeValue(byte)
            }
        case .declaration:
            if byte == UInt8(ascii: ">") {
                state = .text
            } else if byte == UInt8(ascii: "-") {
                matched += 1
                // `<!-->` is a comment too; its two dashes count as those of the end.
                if matched == 2 { state = .comment }
            } else {
                state = .bogus
            }
        case .comment:
            if byte == UInt8(ascii: ">"), matched >= 2 {
                state = .text
            } else {
                matched = byte == UInt8(ascii: "-") ? min(matched + 1, 2) : 0
            }
        case .bogus: if byte == UInt8(ascii: ">") { state = .text }
        case .raw:
            if lower(byte) == rawEnd[matched] {
                matched += 1
                if matched == rawEnd.count { state = .bogus }
            } else {
                matched = byte == rawEnd[0] ? 1 : 0
            }
        }
    }

    private mutating func takeAttribute(_ byte: UInt8) {
        switch byte {
        case UInt8(ascii: ">"): endTag()
        case UInt8(ascii: "/"): state = .inTag
        case UInt8(ascii: "="): state = .beforeValue
        default:
            if isSpace(byte) {
                state = .afterAttribute
            } else if case .afterAttribute = state {
                attribute = [lower(byte)]
                state = .attribute
            } else {
                append(lower(byte), to: &attribute)
            }
        }
    }

    private mutating func begin(_ byte: UInt8, isEnd: Bool) {
        tag = [lower(byte)]
        isEndTag = isEnd
        target = nil
        state = .tagName
    }

    private var isHref: Bool { !isEndTag && tag == Self.anchor && attribute == Self.href && target == nil }
    private static let anchor = Array("a".utf8)
    private static let href = Array("href".utf8)

    private mutating func takeValue(_ byte: UInt8) {
        if isHref, value.count <= Self.longestTarget { value.append(byte) }
    }

    private mutating func endValue() {
        if isHref, value.count <= Self.longestTarget { target = value }
    }

    private mutating func endTag() {
        state = .text
        space()
        switch String(decoding: tag, as: UTF8.self) {
        case "a":
            isInAnchor = !isEndTag && target != nil
            guard let target, !isEndTag else { return }
            flush()
            current = Link(target: Self.characters(of: target))
        case "title", "h1", "h2":
            if let heading { noteHeading(heading) }
            heading = isEndTag ? nil : []
        case "script", "style":
            if isEndTag { return }
            rawEnd = Array("</".utf8) + tag
            matched = 0
            state = .raw
        case "html": isClosed = isClosed || isEndTag
        default: break
        }
    }

    private mutating func noteHeading(_ heading: [UInt8]) {
        let words = String(decoding: heading, as: UTF8.self).trimmingSpaces().lowercased()
        if words.hasPrefix("index of") || words.hasPrefix("directory listing") { callsItselfIndex = true }
    }

    private mutating func text(_ byte: UInt8) {
        if isSpace(byte) { return space() }
        if let count = heading?.count, count < 64 { heading?.append(byte) }
        if !isInAnchor, let count = current?.note.count, count < Self.longestNote { current?.note.append(byte) }
    }

    private mutating func space() {
        let space = UInt8(ascii: " ")
        if let last = heading?.last, last != space { heading?.append(space) }
        if !isInAnchor, let last = current?.note.last, last != space { current?.note.append(space) }
    }

    private func append(_ byte: UInt8, to word: inout [UInt8]) {
        if word.count < Self.longestWord { word.append(byte) }
    }

    private func isLetter(_ byte: UInt8) -> Bool { (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(lower(byte)) }
    private func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0d).contains(byte) }
    private func lower(_ byte: UInt8) -> UInt8 {
        (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(byte) ? byte + 32 : byte
    }

    // MARK: References to characters

    private static let named: [(name: [UInt8], byte: UInt8)] = [
        ("amp", "&"), ("lt", "<"), ("gt", ">"), ("quot", "\""), ("apos", "'"),
    ].map { (name: Array($0.utf8), byte: $1.utf8.first!) }

    /// The value of an attribute: references to characters (`&amp;`, `&#39;`, `&#x27;`) are what they stand for, once.
    /// Others than those that servers need to write a URL are left as they are.
    static func characters(of value: [UInt8]) -> [UInt8] {
        guard value.contains(UInt8(ascii: "&")) else { return value }
        var result: [UInt8] = []
        result.reserveCapacity(value.count)
        var index = 0
        while index < value.count {
            if value[index] == UInt8(ascii: "&"),
                let end = value[index...].prefix(12).firstIndex(of: UInt8(ascii: ";")),
                let bytes = character(value[(index + 1)..<end])
            {
                result += bytes
                index = end + 1
            } else {
                result.append(value[index])
                index += 1
            }
        }
        return result
    }

    private static func character(_ name: ArraySlice<UInt8>) -> [UInt8]? {
        guard name.first == UInt8(ascii: "#") else {
            return named.first { name.elementsEqual($0.name) }.map { [$0.byte] }
        }
        let digits = name.dropFirst()
        let isHex = digits.first == UInt8(ascii: "x") || digits.first == UInt8(ascii: "X")
        let text = String(decoding: isHex ? digits.dropFirst() : digits, as: UTF8.self)
        guard let first = text.utf8.first, first != UInt8(ascii: "+"), first != UInt8(ascii: "-"),
            let number = UInt32(text, radix: isHex ? 16 : 10)
        else { return nil }
        let scalar = number == 0 ? nil : Unicode.Scalar(number)
        return Array(String(Character(scalar ?? "\u{FFFD}")).utf8)
    }
}
