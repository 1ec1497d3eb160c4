import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension S3Store {
    package func listKeys(
        prefix: [UInt8], delimiter: Bool, maximum: Int, startAfter: [UInt8]?, after token: String?, _ path: StorePath
    ) throws(StoreError) -> KeyListing {
        var call = S3Call(
            "GET", nil, .requestsList, .storeList, action: "'/\(path)' could not be listed", path: path)
        call.query = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", String(maximum))]
        if delimiter { call.query.append(("delimiter", "/")) }
        if !prefix.isEmpty { call.query.append(("prefix", String(decoding: prefix, as: UTF8.self))) }
        if let startAfter { call.query.append(("start-after", String(decoding: startAfter, as: UTF8.self))) }
        if let token { call.query.append(("continuation-token", token)) }
        let response = try send(call)
        let root = try XMLElement.parse(response.body)
        guard root.name == "ListBucketResult" else {
            throw StoreError(
                .internal, "the server answered a listing of '/\(path)' with <\(root.name)>: is this an S3 endpoint?",
                path: path)
        }
        let isEncoded = root["EncodingType"]?.text == "url"
        func key(_ text: String) -> [UInt8] {
            isEncoded ? TextEncoding.percentDecode(text, plusIsSpace: true) ?? Array(text.utf8) : Array(text.utf8)
        }
        // XMLElement puts U+FFFD for what XML cannot carry; an encoded answer has none of its own.
        func isUnreadable(_ text: String) -> Bool {
            (isEncoded || root.isMended) && text.unicodeScalars.contains("\u{FFFD}")
        }
        var listing = KeyListing()
        for element in root.children {
            switch element.name {
            case "Contents":
                guard let name = element["Key"]?.text else { continue }
                if isUnreadable(name) {
                    listing.refused.append(name)
                    continue
                }
                listing.objects.append(
                    .init(
                        key: key(name), size: HTTPAnswer.size(element["Size"]?.text) ?? 0,
                        modified: element["LastModified"].flatMap { POSIXMetadata.parseTime($0.text) }
                            ?? Timestamp(nanoseconds: 0),
                        tag: HTTPAnswer.tag(element["ETag"]?.text)))
            case "CommonPrefixes":
                for prefix in element.all("Prefix") {
                    if isUnreadable(prefix.text) {
                        listing.refused.append(prefix.text)
                    } else {
                        listing.prefixes.append(key(prefix.text))
                    }
                }
            default: break
            }
        }
        if root["IsTruncated"]?.text == "true" {
            guard let next = root["NextContinuationToken"]?.text, !next.isEmpty, next != token else {
                throw StoreError(
                    .internal, "the server broke off the listing of '/\(path)' without saying where it goes on",
                    path: path)
            }
            listing.next = next
        }
        return listing
    }
}
