import FoundationEssentials
import StoreHTTP

/// Extended attributes in s3fs's form: `{"user.colour":"Ymx1ZQ=="}`, percent-encoded.
extension POSIXMetadata {
    static func text(of extended: [String: [UInt8]]) -> String {
        let pairs = extended.sorted { $0.key < $1.key }.map { name, value in
            quoted(name) + ":\"" + TextEncoding.base64(value) + "\""
        }
        return TextEncoding.percentEncode("{" + pairs.joined(separator: ",") + "}")
    }

    static func parseExtended(_ text: String) -> [String: [UInt8]]? {
        guard let json = TextEncoding.percentDecode(text),
            let pairs = try? JSONDecoder().decode([String: String].self, from: Data(json))
        else { return nil }
        var extended: [String: [UInt8]] = [:]
        for (name, value) in pairs {
            guard !name.isEmpty, name.utf8.count <= 255, !name.utf8.contains(0),
                let bytes = TextEncoding.bytes(base64: value)
            else { return nil }
            extended[name] = bytes
        }
        return extended
    }

    private static func quoted(_ name: String) -> String {
        var text = "\""
        for scalar in name.unicodeScalars {
            switch scalar {
            case "\"", "\\": text += "\\" + String(scalar)
            case "\u{0}"..<"\u{20}":
                let code = String(scalar.value, radix: 16)
                text += "\\u" + String(repeating: "0", count: 4 - code.count) + code
            default: text.unicodeScalars.append(scalar)
            }
        }
        return text + "\""
    }
}
