import CExpat
public import StoreAPI

/// An element of an XML document, as a tree of values.
public struct XMLElement: Sendable {
    /// Local: without the namespace's prefix.
    public let name: String
    /// The character data directly in this element, as it was, without that of its children.
    public fileprivate(set) var text = ""
    public fileprivate(set) var children: [XMLElement] = []
    /// By their local names.
    public fileprivate(set) var attributes: [String: String] = [:]
    /// Of a document's root: whether characters that XML cannot carry were in it, and are U+FFFD here.
    public fileprivate(set) var isMended = false

    fileprivate init(name: String) { self.name = name }

    /// The first child with this name.
    public subscript(_ name: String) -> XMLElement? { children.first { $0.name == name } }

    /// All children with this name, in order.
    public func all(_ name: String) -> [XMLElement] { children.filter { $0.name == name } }
}

extension XMLElement {
    private static let largestDocument = 64 << 20
    fileprivate static let deepestElement = 64
    fileprivate static let mostElements = 2_000_000

    /// Reads a document and gives its root.
    ///
    /// A document type declaration is refused, so that nothing can be defined in it that grows when it is expanded.
    /// So are documents above 64 MiB, with more than 2 million elements, or nested deeper than 64.
    ///
    /// - Throws: ``StoreError``: `.internal` when this is no well-formed XML or is refused.
    public static func parse(_ bytes: [UInt8]) throws(StoreError) -> XMLElement {
        do {
            return try read(bytes)
        } catch let error where error.cause == forbiddenCharacter {
            var root = try read(withoutForbiddenCharacters(bytes))
            root.isMended = true
            return root
        }
    }

    private static let forbiddenCharacter = "a character that XML forbids"

    /// Some servers write the control characters that object keys may hold and XML may not, as they are or as `&#1;`.
    /// What cannot be shown becomes U+FFFD, so that the rest can.
    private static func withoutForbiddenCharacters(_ bytes: [UInt8]) -> [UInt8] {
        let replacement = Array("\u{FFFD}".utf8)
        var result: [UInt8] = []
        result.reserveCapacity(bytes.count)
        var index = 0
        while index < bytes.count {
            if bytes[index] == UInt8(ascii: "&"), index + 2 < bytes.count, bytes[index + 1] == UInt8(ascii: "#"),
                let end = bytes[index...].prefix(12).firstIndex(of: UInt8(ascii: ";"))
            {
                let digits = String(decoding: bytes[(index + 2)..<end], as: UTF8.self)
                let isHex = digits.first == "x" || digits.first == "X"
                let number = isHex ? UInt32(digits.dropFirst(), radix: 16) : UInt32(digits)
                if !(number.map(isAllowed) ?? false) {
                    result += replacement
                    index = end + 1
                    continue
                }
            } else if bytes[index] < 0x20, !isAllowed(UInt32(bytes[index])) {
                result += replacement
                index += 1
                continue
            } else if bytes[index...].starts(with: [0xEF, 0xBF]), index + 2 < bytes.count, bytes[index + 2] >= 0xBE {
                result += replacement
                index += 3
                continue
            }
            result.append(bytes[index])
            index += 1
        }
        return result
    }

    /// Source: XML 1.0, 2.2 "Characters".
    private static func isAllowed(_ number: UInt32) -> Bool {
        [9, 10, 13].contains(number)
            || (number >= 0x20 && number != 0xFFFE && number != 0xFFFF && Unicode.Scalar(number) != nil)
    }

    private static func read(_ bytes: [UInt8]) throws(StoreError) -> XMLElement {
        guard bytes.count <= largestDocument else {
            throw StoreError(.internal, "the store's answer is no usable XML: it has more than 64 MiB")
        }
        guard let parser = XML_ParserCreate(nil) else {
            throw StoreError(.internal, "no memory to read the store's answer")
        }
        defer { XML_ParserFree(parser) }
        let builder = XMLTreeBuilder(parser)
        return try withExtendedLifetime(builder) { () throws(StoreError) in
            XML_SetUserData(parser, Unmanaged.passUnretained(builder).toOpaque())
            XML_SetElementHandler(parser, beginElement, endElement)
            XML_SetCharacterDataHandler(parser, takeText)
            XML_SetStartDoctypeDeclHandler(parser, refuseDoctype)
            let status = bytes.withUnsafeBytes { buffer in
                XML_Parse(parser, buffer.bindMemory(to: CChar.self).baseAddress, Int32(buffer.count), 1)
            }
            if let refusal = builder.refusal {
                throw StoreError(.internal, "the store's answer is no usable XML: \(refusal)")
            }
            guard status == XML_STATUS_OK, let root = builder.root else {
                let reason = XML_ErrorString(XML_GetErrorCode(parser)).map { String(cString: $0) } ?? "no element"
                let line = XML_GetCurrentLineNumber(parser)
                throw StoreError(
                    .internal, "the store's answer is no well-formed XML: \(reason) in line \(line)",
                    cause: [XML_ERROR_BAD_CHAR_REF, XML_ERROR_INVALID_TOKEN].contains(XML_GetErrorCode(parser))
                        ? forbiddenCharacter : nil)
            }
            return root
        }
    }
}

private final class XMLTreeBuilder {
    private let parser: XML_Parser
    private var open: [XMLElement] = []
    private var count = 0
    private(set) var root: XMLElement?
    private(set) var refusal: String?

    init(_ parser: XML_Parser) { self.parser = parser }

    func refuse(_ reason: String) {
        guard refusal == nil else { return }
        refusal = reason
        XML_StopParser(parser, XML_Bool(0))
    }

    /// - Parameter attributes: Names and values in turn, ended by nil.
    func begin(_ qualifiedName: UnsafePointer<CChar>, _ attributes: UnsafeMutablePointer<UnsafePointer<CChar>?>?) {
        count += 1
        guard open.count < XMLElement.deepestElement else { return refuse("it is nested too deeply") }
        guard count <= XMLElement.mostElements else { return refuse("it has too many elements") }
        var element = XMLElement(name: Self.local(qualifiedName))
        var next = attributes
        while let name = next?[0], let value = next?[1] {
            element.attributes[Self.local(name)] = String(cString: value)
            next = next?.advanced(by: 2)
        }
        open.append(element)
    }

    private static func local(_ qualifiedName: UnsafePointer<CChar>) -> String {
        let name = String(cString: qualifiedName)
        return name.lastIndex(of: ":").map { String(name[name.index(after: $0)...]) } ?? name
    }

    func take(_ text: UnsafeBufferPointer<UInt8>) {
        guard !open.isEmpty else { return }
        open[open.count - 1].text += String(decoding: text, as: UTF8.self)
    }

    func end() {
        guard refusal == nil, let element = open.popLast() else { return }
        if open.isEmpty { root = element } else { open[open.count - 1].children.append(element) }
    }
}

private func builder(_ pointer: UnsafeMutableRawPointer?) -> XMLTreeBuilder {
    Unmanaged<XMLTreeBuilder>.fromOpaque(pointer!).takeUnretainedValue()
}

private func beginElement(
    _ context: UnsafeMutableRawPointer?, _ name: UnsafePointer<XML_Char>?,
    _ attributes: UnsafeMutablePointer<UnsafePointer<XML_Char>?>?
) { builder(context).begin(name!, attributes) }

private func endElement(_ context: UnsafeMutableRawPointer?, _ name: UnsafePointer<XML_Char>?) {
    builder(context).end()
}

private func takeText(_ context: UnsafeMutableRawPointer?, _ text: UnsafePointer<XML_Char>?, _ length: Int32) {
    UnsafeRawBufferPointer(start: text, count: Int(length)).withMemoryRebound(to: UInt8.self) {
        builder(context).take($0)
    }
}

private func refuseDoctype(
    _ context: UnsafeMutableRawPointer?, _ name: UnsafePointer<XML_Char>?, _ systemID: UnsafePointer<XML_Char>?,
    _ publicID: UnsafePointer<XML_Char>?, _ hasInternalSubset: Int32
) { builder(context).refuse("it has a document type declaration") }
