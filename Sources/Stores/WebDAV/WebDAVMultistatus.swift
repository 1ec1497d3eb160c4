import StoreAPI
import StoreHTTP
import Threading

/// The answer to PROPFIND: what a server tells of a resource, and of what is in it.
struct WebDAVMultistatus {
    struct Resource {
        /// The path of its URL, decoded, without a slash at the end.
        var path: [UInt8]
        var isCollection = false
        var size: Int64?
        var modified: Timestamp?
        var tag: String?
        /// The text of ``WebDAVAttributes``.
        var attributes: String?
        var md5: [UInt8]?
        var available: Int64?
        var used: Int64?
    }

    /// Those of which properties are told.
    var resources: [Resource] = []
    /// Paths of those of which nothing is told but a failure.
    var refused: [String] = []
    /// Statuses of failures, of resources and of properties.
    var failures: [Int] = []

    /// - Throws: ``StoreError``: `.internal` when this is no such answer.
    init(_ body: [UInt8]) throws(StoreError) {
        let root = try XMLElement.parse(body)
        guard root.name == "multistatus" else {
            throw StoreError(.internal, "the server answered with <\(root.name)> where WebDAV has <multistatus>")
        }
        for response in root.all("response") {
            guard let reference = response["href"]?.text, let path = Self.path(reference) else { continue }
            let statuses = response.all("propstat").map { (Self.status($0["status"]?.text), $0["prop"]) }
            failures += statuses.compactMap { $0.0 }.filter { $0 >= 400 }
            if let status = Self.status(response["status"]?.text), status >= 400 {
                failures.append(status)
                refused.append(String(decoding: path, as: UTF8.self))
                continue
            }
            var resource = Resource(path: path)
            for case (let status, let properties?) in statuses where (200..<300).contains(status ?? 200) {
                for property in properties.children { resource.take(property) }
            }
            resources.append(resource)
        }
    }

    /// "HTTP/1.1 200 OK"
    private static func status(_ line: String?) -> Int? {
        let words = line?.split(whereSeparator: \.isWhitespace) ?? []
        return words.count >= 2 ? Int(words[1]) : nil
    }

    /// The decoded path of a reference, which may be a whole URL; without slashes at the end, and without the double ones
    /// that rclone puts at the front.
    private static func path(_ reference: String) -> [UInt8]? {
        var text = reference.split(whereSeparator: \.isWhitespace).first ?? ""
        if let colon = text.firstIndex(of: ":"), text[colon...].hasPrefix("://"), !text[..<colon].contains("/") {
            let rest = text[colon...].dropFirst(3)
            text = rest.firstIndex(of: "/").map { rest[$0...] } ?? "/"
        }
        while text.hasPrefix("//") { text = text.dropFirst() }
        while text.hasSuffix("/") { text = text.dropLast() }
        // A question mark belongs to the name: WsgiDAV does not encode it.
        return TextEncoding.percentDecode(text)
    }
}

extension WebDAVMultistatus.Resource {
    fileprivate mutating func take(_ property: XMLElement) {
        switch property.name {
        case "resourcetype": isCollection = property["collection"] != nil
        case "getcontentlength": size = HTTPAnswer.size(property.text.trimmingSpaces())
        case "getlastmodified": modified = Timestamp(httpDate: property.text.trimmingSpaces())
        case "getetag": tag = HTTPAnswer.tag(property.text)
        case WebDAVAttributes.propertyName: attributes = property.text
        case "quota-available-bytes": available = HTTPAnswer.size(property.text.trimmingSpaces())
        case "quota-used-bytes": used = HTTPAnswer.size(property.text.trimmingSpaces())
        case "checksums":
            // "SHA1:… MD5:… ADLER32:…", of Nextcloud and ownCloud.
            let words = property.children.flatMap { $0.text.split(whereSeparator: \.isWhitespace) }
            let digest = words.first { $0.uppercased().hasPrefix("MD5:") }
            md5 = digest.flatMap { TextEncoding.bytes(hex: $0.dropFirst(4).lowercased()) }
        default: break
        }
    }
}

/// Attributes of a file as the text of one of its WebDAV properties.
///
/// The words of ``POSIXMetadata`` as `name=value`, with blanks between them. `tag=` has the entity tag of the bytes that
/// they belong to: when another program has written the file since, they are not its attributes any more.
enum WebDAVAttributes {
    static let namespace = "urn:cloudfusion"
    static let propertyName = "posix-attributes"

    /// - Parameter tag: nil for a directory.
    /// - Returns: Without extended attributes, and with `keepsExtended` false, when those are not to be kept or have more
    ///   than ``POSIXMetadata/limit``: each listing tells them all.
    static func encode(_ kind: FileKind, _ attributes: Attributes, tag: String?, keepsExtended: Bool = true) -> (
        text: String, keepsExtended: Bool
    ) {
        var attributes = attributes
        if !keepsExtended { attributes.extended = nil }
        let encoded = POSIXMetadata.encode(kind, attributes)
        var words = encoded.values.map { "\($0.name)=\($0.value)" }
        if let tag { words.append("tag=" + TextEncoding.percentEncode(tag)) }
        return (words.joined(separator: " "), keepsExtended && encoded.keepsExtended)
    }

    /// - Returns: nil when they do not belong to these bytes.
    static func decode(_ text: String, isCollection: Bool, tag: String?) -> POSIXMetadata.Description? {
        var values: [String: String] = [:]
        for word in text.split(whereSeparator: \.isWhitespace) {
            let parts = word.split(separator: "=", maxSplits: 1)
            if parts.count == 2 { values[String(parts[0])] = String(parts[1]) }
        }
        let meant = values["tag"].flatMap { TextEncoding.percentDecode($0) }
        guard isCollection || meant == tag.map({ Array($0.utf8) }) else { return nil }
        return POSIXMetadata.decode(isDirectoryKey: isCollection) { values[$0] }
    }

    /// The body of a PROPPATCH.
    static func update(_ text: String) -> [UInt8] {
        var writer = XMLWriter()
        writer.element("D:propertyupdate", attributes: [("xmlns:D", "DAV:"), ("xmlns:C", namespace)]) { update in
            update.element("D:set") { set in
                set.element("D:prop") { $0.element("C:\(propertyName)", text) }
            }
        }
        return writer.bytes
    }
}
