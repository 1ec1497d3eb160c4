import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// Uploads in parts, as Nextcloud and ownCloud take them.
///
/// Source: <https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/chunking.html>, version 2.
extension WebDAVStore {
    /// 16 MiB: two parts of the usual size. Below it the two more requests cost more than sending in parallel gains.
    static let multipartThreshold: Int64 = 2 * PartPlan.usualPart
    private static let parallelParts = 4

    /// Sends a body in parts to a folder of its own, which the server then puts together in the place of `path`.
    func sendInParts(_ body: UploadBody, to path: StorePath, _ options: PutOptions) throws(StoreError) {
        guard var folder = traits.uploads else {
            throw StoreError(.internal, "'\(path)' was to be sent in parts, which the server does not take", path: path)
        }
        folder.path += "/cloudfusion-" + Trial.name()
        let destination = (name: "Destination", value: url(path).description)
        let length = (name: "OC-Total-Length", value: String(body.length))
        let action = "'\(path)' could not be written"

        // As with one PUT: the directories are made when they turn out to be missing.
        if let parent = path.parent, !parent.isRoot, try find(parent) == nil { try makeDirectory(parent) }
        if try find(path)?.kind == .directory { throw Self.isADirectory(path) }
        var begin = WebDAVCall("MKCOL", path, .requestsMultipart, .storeOther, action: action)
        begin.url = folder
        begin.headers = [destination]
        _ = try send(begin)
        do throws(StoreError) {
            let plan = PartPlan(body, copies: false)
            try session.parallel.run(plan.parts.count, parallel: Self.parallelParts) {
                [folder] index throws(StoreError) in
                var call = WebDAVCall("PUT", path, .requestsPut, .storePut, action: action)
                call.url = Self.part(index + 1, of: folder)
                call.headers = [destination, length, ("Content-Type", "application/octet-stream")]
                call.body = UploadBody(plan.parts[index].pieces.map { plan.segment($0) })
                call.isWanted = options.isWanted
                call.progress = options.progress
                _ = try self.send(call)
            }
            try options.requireWanted(path)
            var end = WebDAVCall("MOVE", path, .requestsMultipart, .storeOther, action: action)
            end.url = folder
            end.url!.path += "/.file"
            end.headers = [destination, length, ("Overwrite", "T")]
            end.headers += try transferHeaders(body, options.attributes).filter { $0.name != "Content-Type" }
            end.accepted = [404]
            let response = try send(end)
            // An earlier attempt whose answer was lost has put it together; its size is looked at by the caller.
            if response.status == 404 {
                if let there = try find(path), there.size == body.length { return }
                throw StoreError(
                    .unavailable, "\(action): the server has lost the parts that were sent", path: path,
                    cause: response.summary)
            }
        } catch {
            var abort = WebDAVCall("DELETE", path, .requestsDelete, .storeDelete, action: action)
            abort.url = folder
            abort.accepted = [404]
            // The server deletes what is left after a day; the error that led here is the one that counts.
            _ = try? send(abort)
            throw error
        }
    }

    /// Parts have five digits, since they are put together in the order of their names.
    private static func part(_ number: Int, of folder: WebURL) -> WebURL {
        var url = folder
        let digits = String(number)
        url.path += "/" + String(repeating: "0", count: 5 - digits.count) + digits
        return url
    }
}
