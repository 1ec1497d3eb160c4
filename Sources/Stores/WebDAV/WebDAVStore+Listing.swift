import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension WebDAVStore {
    /// Which properties a PROPFIND asks for.
    enum Wanted { case metadata, space }

    func propfind(_ call: WebDAVCall, depth: Int, _ wanted: Wanted = .metadata) throws(StoreError) -> HTTPResponse {
        var call = call
        call.headers += [("Depth", String(depth)), ("Content-Type", "application/xml; charset=utf-8")]
        call.body = UploadBody(Self.question(wanted, traits))
        return try send(call)
    }

    private static func question(_ wanted: Wanted, _ traits: WebDAVTraits) -> [UInt8] {
        var writer = XMLWriter()
        var names = [(name: "xmlns:D", value: "DAV:")]
        var properties = ["D:resourcetype", "D:getcontentlength", "D:getlastmodified", "D:getetag"]
        if wanted == .space { properties = ["D:quota-available-bytes", "D:quota-used-bytes"] }
        if wanted == .metadata, traits.keepsProperties {
            names.append(("xmlns:C", WebDAVAttributes.namespace))
            properties.append("C:\(WebDAVAttributes.propertyName)")
        }
        if wanted == .metadata, traits.checksums {
            names.append(("xmlns:O", "http://owncloud.org/ns"))
            properties.append("O:checksums")
        }
        writer.element("D:propfind", attributes: names) { find in
            find.element("D:prop") { prop in
                for property in properties { prop.element(property) { _ in } }
            }
        }
        return writer.bytes
    }

    // MARK: One path

    package func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        guard let metadata = try find(path) else {
            throw StoreError(.notFound, "'\(path)' does not exist on the server", path: path)
        }
        return metadata
    }

    /// What lies at `path`; nil when the server has said that nothing does.
    func find(_ path: StorePath) throws(StoreError) -> Metadata? {
        let action = path.isRoot ? "the folder cannot be opened" : "the attributes of '\(path)' could not be read"
        var call = WebDAVCall("PROPFIND", path, .requestsHead, .storeHead, action: action)
        // Apache answers 400 for what would lie below a file.
        call.accepted = path.isRoot ? [] : [400, 404, 409, 410]
        let response = try propfind(call, depth: 0)
        switch response.status {
        case 404, 409, 410: return nil
        case 400:
            if let parent = path.parent, !parent.isRoot {
                let above = try find(parent)
                if above?.kind != .directory { return nil }
            }
            throw StoreError(.invalidName, "the server does not take the name '\(path)'", path: path)
        case 207: break
        default:
            throw StoreError(
                .unsupported, "\(action): the server answers PROPFIND with status \(response.status); check url",
                path: path, cause: response.summary)
        }
        guard let resource = try WebDAVMultistatus(response.body).resources.first else {
            throw StoreError(.internal, "\(action): the server's answer tells nothing", path: path)
        }
        return Self.metadata(resource)
    }

    static func metadata(_ resource: WebDAVMultistatus.Resource) -> Metadata {
        let described = resource.attributes.flatMap {
            WebDAVAttributes.decode($0, isCollection: resource.isCollection, tag: resource.tag)
        }
        let modified = resource.modified ?? Timestamp(nanoseconds: 0)
        if resource.isCollection {
            return Metadata(kind: .directory, modified: modified, attributes: described?.attributes ?? Attributes())
        }
        let size = resource.size ?? 0
        return Metadata(
            kind: described?.kind ?? .file, size: size, modified: modified,
            version: HTTPAnswer.version(tag: resource.tag, modified: resource.modified, size: size),
            attributes: described?.attributes ?? Attributes(), md5: resource.md5)
    }

    // MARK: Listings

    package func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        guard cursor == nil else {
            throw StoreError(.invalidArgument, "the cursor for a listing of '/\(directory)' is none of this store's")
        }
        var call = WebDAVCall(
            "PROPFIND", directory, isCollection: true, .requestsList, .storeList,
            action: "'/\(directory)' could not be listed")
        call.accepted = directory.isRoot ? [] : [400, 403, 404, 405, 409, 410]
        let response = try propfind(call, depth: 1)
        guard response.status == 207 else {
            guard let there = try find(directory) else {
                throw StoreError(
                    .notFound, "the directory '\(directory)' does not exist on the server", path: directory)
            }
            if there.kind != .directory { throw Self.notADirectory(directory) }
            call.accepted = []
            throw WebDAVErrors.error(response, call, isAnonymous: isAnonymous)
                ?? StoreError(.internal, "\(call.action): status \(response.status)", path: directory)
        }
        let answer = try WebDAVMultistatus(response.body)
        let prefix = Self.prefix(answer, Array(url(directory).path.utf8))
        var page = ListPage(entries: [], refusedNames: answer.refused)
        for resource in answer.resources {
            if resource.path == prefix {
                guard resource.isCollection else { throw Self.notADirectory(directory) }
                continue
            }
            guard resource.path.starts(with: prefix + [UInt8(ascii: "/")]),
                let name = codec.decode(resource.path[(prefix.count + 1)...])
            else {
                page.refusedNames.append(String(decoding: resource.path, as: UTF8.self))
                continue
            }
            if directory.isRoot, name == .control { continue }
            page.entries.append(ListEntry(name: name, metadata: Self.metadata(resource)))
        }
        return page
    }

    static func notADirectory(_ path: StorePath) -> StoreError {
        StoreError(.notADirectory, "'\(path)' is a file on the server", path: path)
    }

    /// The path of the listed collection itself as the server calls it. Behind a proxy that may not be what was asked for:
    /// then it is the shortest, if all others lie below it.
    private static func prefix(_ answer: WebDAVMultistatus, _ asked: [UInt8]) -> [UInt8] {
        var expected = TextEncoding.percentDecode(String(decoding: asked, as: UTF8.self)) ?? asked
        while expected.last == UInt8(ascii: "/") { expected.removeLast() }
        if answer.resources.contains(where: { $0.path == expected }) { return expected }
        guard let shortest = answer.resources.min(by: { $0.path.count < $1.path.count }), shortest.isCollection,
            answer.resources.allSatisfy({
                $0.path == shortest.path || $0.path.starts(with: shortest.path + [UInt8(ascii: "/")])
            })
        else { return expected }
        return shortest.path
    }

    // MARK: Space

    package func spaceUsage() throws(StoreError) -> SpaceUsage {
        let response = try propfind(
            WebDAVCall("PROPFIND", .root, action: "the space on the server could not be asked for"), depth: 0, .space)
        let resource = try WebDAVMultistatus(response.body).resources.first
        let (used, free) = (resource?.used, resource?.available)
        var total: Int64?
        if let used, let free { total = used.addingReportingOverflow(free).overflow ? nil : used + free }
        return SpaceUsage(total: total, used: used, free: free)
    }
}
