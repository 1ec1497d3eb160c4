public import StoreAPI
import Threading

/// A store that can only be read, with somebody behind it who changes what it shows: each change goes to another store,
/// over the place from which the server takes its files.
///
/// Each file that is put gets a time of its own, a second after the one before: servers that tell versions by the time
/// tell seconds.
public final class FilledStore: StoreWrapper {
    public let inner: any Store
    private let source: any Store
    private let seconds: Lock<Int64>

    public init(_ inner: any Store, from source: any Store) {
        self.inner = inner
        self.source = source
        // Long ago: what has just been changed is another matter for some servers.
        seconds = Lock(1_000_000_000)
    }

    public func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        var options = options
        let time = seconds.withLock { seconds -> Int64 in
            seconds += 1
            return seconds
        }
        options.attributes.modified = Timestamp(seconds: time)
        _ = try source.put(body, at: path, options)
        return try inner.metadata(of: path)
    }

    public func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        try source.createDirectory(at: path, attributes)
    }

    public func delete(_ deletions: [Deletion]) -> [StoreError?] { source.delete(deletions) }

    public func shutdown() {
        inner.shutdown()
        source.shutdown()
    }
}
