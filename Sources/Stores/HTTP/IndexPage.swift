import FoundationEssentials
import Glibc
import StoreAPI
import StoreHTTP
import Threading

/// A page that lists a directory, as it comes from a server: HTML of whatever kind, or what nginx writes with
/// `autoindex_format json` or `xml`.
///
/// The page lies in a file without a name, and of HTML only a piece at a time is in memory, whatever its size. Used by one
/// thread at a time.
///
/// Sources: <https://nginx.org/en/docs/http/ngx_http_autoindex_module.html>,
/// <https://httpd.apache.org/docs/2.4/mod/mod_autoindex.html>.
final class IndexPage: @unchecked Sendable {
    enum Format: Hashable { case html, json, xml }

    /// Pages larger than this are given up: some six million names.
    static let largest: Int64 = 1 << 30
    /// JSON and XML are read as a whole.
    static let largestDocument: Int64 = 16 << 20

    private let spool: Spool
    private let place: IndexPlace
    private let format: Format
    private let tellsItsEnd: Bool
    private var scanner = LinkScanner()
    private var position: Int64 = 0
    private var isOver = false
    /// Lines that were read and not handed out yet. The last one may be about to get its note.
    private var lines: [IndexLine] = []
    private var refused: [String] = []
    /// Hashes of names that have been shown: of those that a page has twice, the first counts.
    private var shown: Set<Int> = []
    private var leadsAround = false

    /// - Parameters:
    ///   - url: Of the page: what its links are relative to.
    ///   - isWhole: The transfer has shown that nothing is missing.
    init(_ spool: Spool, at url: WebURL, _ format: Format, isWhole: Bool) {
        self.spool = spool
        self.format = format
        tellsItsEnd = isWhole
        place = IndexPlace(of: url)
    }

    /// Whether the page is what it should be: one of a list of files, be it empty. Known when all lines were read.
    var isIndex: Bool {
        format != .html || !shown.isEmpty || !refused.isEmpty || leadsAround || scanner.callsItselfIndex
    }

    /// Whether the whole page has come. Known when all lines were read.
    var isWhole: Bool { tellsItsEnd || format != .html || scanner.isClosed }

    /// The next lines, no more than `count`; fewer only at the end.
    ///
    /// - Throws: ``StoreError``: `.unsupported` where this is no such document, `.internal` where the file cannot be read.
    func next(_ count: Int) throws(StoreError) -> [IndexLine] {
        if format != .html, !isOver { try readDocument() }
        while lines.count <= count, !isOver { try readPiece() }
        let taken = Array(lines.prefix(count))
        lines.removeFirst(taken.count)
        return taken
    }

    var isAtEnd: Bool { isOver && lines.isEmpty }

    /// Names that no file can have, since they were last taken.
    func takeRefused() -> [String] {
        defer { refused = [] }
        return refused
    }

    // MARK: HTML

    private static let piece = 64 << 10

    private func readPiece() throws(StoreError) {
        let bytes = try spool.read(at: position, Self.piece)
        position += Int64(bytes.count)
        scanner.take(bytes)
        if bytes.isEmpty {
            scanner.finish()
            isOver = true
        }
        for link in scanner.takeLinks() { take(link) }
    }

    private func take(_ link: LinkScanner.Link) {
        switch place.meaning(of: link.target) {
        case .elsewhere: break
        case .around: leadsAround = true
        case .below(let name, let isDirectory):
            add(name, isDirectory, String(decoding: link.note, as: UTF8.self))
        }
    }

    private func add(_ bytes: [UInt8], _ isDirectory: Bool, _ note: String) {
        guard let name = FileName(bytes) else {
            if refused.count < Self.mostRefused { refused.append(Self.shown(bytes)) }
            return
        }
        // An icon and a name that lead to the same: what is said stands behind the second.
        if let last = lines.last, last.name == name {
            if last.note.isEmpty { lines[lines.count - 1].note = note }
            return
        }
        if shown.insert(name.hashValue).inserted {
            lines.append(IndexLine(name: name, isDirectory: isDirectory, note: note))
        }
    }

    private static let mostRefused = 100

    /// For messages, without what could not be shown in one.
    private static func shown(_ bytes: [UInt8]) -> String {
        let text = String(decoding: bytes.prefix(255), as: UTF8.self)
        return String(text.unicodeScalars.map { $0.value < 0x20 || $0.value == 0x7f ? "\u{FFFD}" : Character($0) })
    }

    // MARK: Documents

    private struct Row: Decodable {
        var name: String
        var type: String
        var mtime: String?
        var size: Int64?
    }

    private func readDocument() throws(StoreError) {
        isOver = true
        guard spool.length <= Self.largestDocument else {
            throw StoreError(
                .unsupported, "the listing has more than \(Self.largestDocument >> 20) MiB: HTML may be larger")
        }
        let bytes = try spool.read(at: 0, Int(spool.length))
        if format == .xml {
            let root = try XMLElement.parse(bytes)
            guard root.name == "list" else { throw Self.noListing("XML") }
            for child in root.children { add(Array(child.text.utf8), child.name == "directory", "") }
            return
        }
        // Names that are no UTF-8 are written as they are, which is no JSON.
        let text = String(decoding: bytes, as: UTF8.self)
        guard let rows = try? JSONDecoder().decode([Row].self, from: Data(text.utf8)) else {
            throw Self.noListing("JSON")
        }
        for row in rows {
            let note = [row.mtime, row.size.map { String($0) }].compactMap { $0 }.joined(separator: " ")
            add(Array(row.name.utf8), row.type == "directory", note)
        }
    }

    private static func noListing(_ format: String) -> StoreError {
        StoreError(.unsupported, "the server answers with \(format) that is no listing of nginx's")
    }
}

/// What the links of a page mean that lists a directory.
struct IndexPlace {
    enum Meaning: Hashable {
        /// Something directly in the directory.
        case below([UInt8], isDirectory: Bool)
        /// The directory itself, sorted otherwise, or by way of `..` the one above it: what a list of files has, and other
        /// pages have not.
        case around
        /// Nothing of the directory's, or something deeper in it.
        case elsewhere
    }

    private let page: WebURL
    /// The names on the way to the directory, decoded.
    private let names: [[UInt8]]

    init(of page: WebURL) {
        self.page = page
        names = Self.names(page.path.prefix(through: page.path.lastIndex(of: "/") ?? page.path.startIndex))
    }

    /// - Parameter target: As it stands in the page, in any encoding.
    func meaning(of target: [UInt8]) -> Meaning {
        let text = Self.normal(target)
        let path = text.prefix { $0 != "?" && $0 != "#" }
        let isSorted = text[path.endIndex...].hasPrefix("?")
        if path.isEmpty { return isSorted ? .around : .elsewhere }
        // Most of them: "name" and "name/".
        let own = path.hasPrefix("./") ? path.dropFirst(2) : path
        let component = own.hasSuffix("/") ? own.dropLast() : own
        let isRelative = own.first != "/" && (own.count < path.count || !path.utf8.contains(UInt8(ascii: ":")))
        if isRelative, !component.utf8.contains(UInt8(ascii: "/")) {
            switch component {
            case "..": return .around
            case "", ".": return isSorted ? .around : .elsewhere
            default: return isSorted ? .elsewhere : Self.below(component, isDirectory: own.hasSuffix("/"))
            }
        }
        // Whether by http or https is not looked at: what is behind a proxy may not know.
        guard let url = page.resolving(path), url.authority == page.authority else { return .elsewhere }
        let all = Self.names(url.path[...])
        if all == names, isSorted { return .around }
        guard !isSorted, all.count == names.count + 1, Array(all.dropLast()) == names,
            let last = url.path.split(separator: "/").last
        else { return .elsewhere }
        return Self.below(last, isDirectory: url.path.hasSuffix("/"))
    }

    private static func below(_ component: Substring, isDirectory: Bool) -> Meaning {
        .below(TextEncoding.percentDecode(component) ?? Array(component.utf8), isDirectory: isDirectory)
    }

    private static func names(_ path: Substring) -> [[UInt8]] {
        path.split(separator: "/").map { TextEncoding.percentDecode($0) ?? Array($0.utf8) }
    }

    /// A reference as it should have been written: in ASCII, and with `%` for nothing but two hexadecimal digits.
    private static func normal(_ target: [UInt8]) -> String {
        var bytes = target[...]
        while let first = bytes.first, first <= 0x20 { bytes.removeFirst() }
        while let last = bytes.last, last <= 0x20 { bytes.removeLast() }
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        for index in bytes.indices {
            let byte = bytes[index]
            switch byte {
            // Browsers take no notice of them.
            case 0x09, 0x0a, 0x0d: break
            case UInt8(ascii: "%"):
                let digits = bytes[(index + 1)...].prefix(2)
                let isEncoding = digits.count == 2 && digits.allSatisfy { Character(Unicode.Scalar($0)).isHexDigit }
                result += isEncoding ? [byte] : Array("%25".utf8)
            case 0x00...0x20, 0x7f...: result += Array(TextEncoding.percentEncode([byte]).utf8)
            default: result.append(byte)
            }
        }
        return String(decoding: result, as: UTF8.self)
    }
}

/// Takes a page as it comes, into a file without a name.
final class Spool: ReadSink, @unchecked Sendable {
    // Used by one thread at a time: `write` during the read, the others when it has returned.
    private let file: NamelessFile
    private(set) var length: Int64 = 0

    init() throws(StoreError) { file = try NamelessFile.temporary() }

    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        // When the request is repeated, it begins at 0 again.
        length = offset + Int64(bytes.count)
        guard length <= IndexPage.largest else {
            throw StoreError(
                .unsupported, "a page of more than \(IndexPage.largest >> 30) GiB is no list of files")
        }
        try file.write(bytes, at: offset)
    }

    func read(at offset: Int64, _ count: Int) throws(StoreError) -> [UInt8] {
        let wanted = Int(max(0, min(Int64(count), length - offset)))
        guard wanted > 0 else { return [] }
        return try readFile(file.descriptor, from: offset, Int64(wanted))
    }
}
