import FoundationEssentials
import Statistics
package import StoreAPI
import StoreHTTP

extension GoogleStorageStore {
    /// A step of a copy: large ones take several requests.
    ///
    /// Source: <https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite>.
    private struct Step: Decodable {
        var done: Bool
        var rewriteToken: String?
        var resource: GoogleStorageObject?
    }

    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        let from = try key(source)
        let to = try key(destination)
        guard let found = try head(from, source) else { throw absent(source) }
        if let wanted = options.sourceVersion, wanted != found.version { throw StoreError.changed(source, wanted.text) }
        let wanted = described(found, isDirectoryKey: false, options.attributes ?? Attributes()).description
        let put = PutOptions(condition: options.condition)
        var made = try write(put, to, destination) { (query, mark) throws(StoreError) in
            // Without a body all that is said of the source is said of the copy.
            let request =
                options.attributes == nil && mark == nil && configuration.storageClass == nil
                ? nil
                : GoogleStorageRequest(
                    storageClass: configuration.storageClass, description: wanted.marked(mark))
            return try rewrite(from, found.generation, source, to: to, destination, request, query)
        }
        // Some servers take no notice of the body.
        let metadata = (wanted.metadata ?? [:]).filter { $0.key != Self.markName }
        if (made.description.metadata ?? [:]).filter({ $0.key != Self.markName }) != metadata {
            guard let changed = try patch(made, to, destination, metadata) else {
                throw StoreError.changed(destination, made.generation)
            }
            made = changed
        }
        return made.metadata(isDirectoryKey: false)
    }

    /// Has the server copy an object.
    ///
    /// - Parameters:
    ///   - generation: Of the source.
    ///   - request: What is said of the copy; nil: the same.
    ///   - query: Conditions of the destination.
    /// - Returns: nil when one of these does not hold.
    /// - Throws: ``StoreError``: `.preconditionFailed` when the source has another generation, `.notFound`.
    func rewrite(
        _ from: [UInt8], _ generation: String, _ source: StorePath, to: [UInt8], _ destination: StorePath,
        _ request: GoogleStorageRequest?, _ query: [(name: String, value: String?)]
    ) throws(StoreError) -> GoogleStorageObject? {
        var call = GoogleStorageCall(
            "POST", target: .rewriting(from, to: to), .requestsCopy, .storeCopy,
            action: "'\(source)' could not be copied to '\(destination)'", path: source)
        call.headers = [Self.jsonType]
        call.body = UploadBody(try request.map { (request) throws(StoreError) in try encode(request) } ?? [])
        call.accepted = [404, 412]
        var token: String?
        while true {
            call.query = query + [("ifSourceGenerationMatch", generation), ("projection", "noAcl")]
            if let token { call.query.append(("rewriteToken", token)) }
            let response = try send(call)
            switch response.status {
            case 404:
                let error = GoogleStorageErrors.error(response, call, configuration)
                if error.code != .notFound { throw error }
                throw StoreError(.notFound, "'\(source)', which is to be copied, is not there", path: source)
            case 412:
                guard try head(from, source)?.generation == generation else {
                    throw StoreError.changed(source, generation)
                }
                return nil
            default: break
            }
            let step = try decode(Step.self, response, call)
            if step.done, let made = step.resource { return made }
            guard !step.done, let next = step.rewriteToken else {
                throw StoreError(
                    .internal, "the server broke off the copy of '\(source)' without saying how it goes on",
                    path: source)
            }
            token = next
        }
    }
}
