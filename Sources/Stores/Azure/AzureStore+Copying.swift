import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension AzureStore {
    package func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        let from = try key(source)
        let to = try key(destination)
        guard let found = try head(from, source) else {
            guard try directory(source) == nil else { throw Self.isADirectory(source) }
            throw absent(source)
        }
        let version = version(found)
        if let wanted = options.sourceVersion, wanted != version { throw StoreError.changed(source, wanted.text) }
        var call = AzureCall(
            "PUT", to, .requestsCopy, .storeCopy, action: "'\(source)' could not be copied to '\(destination)'",
            path: destination)
        call.headers = authentication.copySource(
            try url(.blobs, from), container: configuration.container, from, isBlock: false)
        if let version { call.headers.append(("x-ms-source-if-match", "\"\(version.text)\"")) }
        if let tier = configuration.accessTier { call.headers.append(("x-ms-access-tier", tier)) }
        let mark = options.condition == .always ? nil : Trial.name()
        if options.attributes != nil || mark != nil {
            // In place of the source's.
            call.headers += described(found, isDirectoryKey: false, options.attributes ?? Attributes()).headers
        }
        if let mark { call.headers.append((Self.metadataPrefix + Self.markName, mark)) }
        call.body = UploadBody([UInt8]())
        call.expected = [.notFound]
        var written: HTTPResponse
        do throws(StoreError) { written = try make(call, options.condition, mark: mark) } catch {
            switch error.code {
            case .notFound: throw absent(source)
            case .preconditionFailed where options.condition == .always: throw StoreError.changed(source, version?.text)
            default: throw error
            }
        }
        written = try awaitCopy(written, to, destination)
        return metadata(written, size: HTTPAnswer.length(written), isDirectoryKey: false)
    }

    private static let firstLook: Duration = .milliseconds(20)
    private static let longestPause: Duration = .seconds(2)

    /// Waits until a copy that may go on behind the answer is done.
    ///
    /// - Returns: The head of the copy.
    private func awaitCopy(_ begun: HTTPResponse, _ key: [UInt8], _ path: StorePath) throws(StoreError) -> HTTPResponse
    {
        let id = begun["x-ms-copy-id"]
        var (pause, waited) = (Self.firstLook, Duration.zero)
        var progress: String?
        while true {
            guard let current = try head(key, path) else {
                throw StoreError(.unavailable, "'\(path)' is not there after it was copied", path: path)
            }
            // Replaced by somebody else since: the copy was made.
            guard current["x-ms-copy-id"] == id else { return current }
            switch current["x-ms-copy-status"] {
            case "pending": break
            case "failed", "aborted":
                throw StoreError(
                    .unavailable, "the store could not copy to '\(path)': \(current["x-ms-copy-status"] ?? "")",
                    path: path)
            default: return current
            }
            if current["x-ms-copy-progress"] != progress {
                progress = current["x-ms-copy-progress"]
                waited = .zero
            }
            guard waited < state.withLock({ $0.tuning.overallTimeout }) else {
                throw StoreError(.timedOut, "the store does not get on with the copy to '\(path)'", path: path)
            }
            guard pausing.pause(for: pause) else {
                throw StoreError(.cancelled, "the connection to the store is being shut down", path: path)
            }
            waited += pause
            pause = min(pause + pause, Self.longestPause)
        }
    }
}
