/// A remote or local place that holds objects under paths.
///
/// Every call blocks until it is done and may be made from any thread, many at a time. Requests that fail for a
/// passing reason are repeated inside the call, within ``StoreTuning/overallTimeout``; all of them are idempotent.
/// A backend conforms to ``StoreBackend``, a wrapper that changes one thing to ``StoreWrapper``, and a wrapper with
/// state of its own to `Store` itself, so that the compiler lists what it has to decide about.
public protocol Store: Sendable {
    /// What this store can do. Before ``connect()`` has returned it is a guess on the safe side.
    var capabilities: StoreCapabilities { get }

    /// Proves that the store can be reached and used with these credentials, and finds out by trial what it
    /// really does. Harmless when repeated.
    ///
    /// - Throws: ``StoreError``: `.authenticationFailed`, `.accessDenied`, `.storeNotFound`, `.certificateRejected`,
    ///   `.timedOut`, `.unavailable`, each with a sentence that says what to do.
    func connect() throws(StoreError)

    /// What lies at `path`, with its attributes.
    ///
    /// - Throws: ``StoreError``: `.notFound` only when the store has said so.
    func metadata(of path: StorePath) throws(StoreError) -> Metadata

    /// A page of what lies directly below `directory`.
    ///
    /// - Parameter cursor: nil for the first page, then ``ListPage/next``.
    /// - Throws: ``StoreError``: `.notFound`, `.notADirectory`. A store without real directories answers an empty
    ///   page for a directory that does not exist.
    func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage

    /// Writes bytes of the object at `path` to `sink`, verified as far as the store allows.
    ///
    /// - Returns: Metadata of the version that was read, of the whole object (`size` is not the range's).
    /// - Throws: ``StoreError``: `.notFound`, `.isADirectory`, `.preconditionFailed`, `.corrupted`.
    func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata

    /// Makes `body` the object at `path`, in whole or not at all; a reader sees the old or the new one.
    /// Missing parent directories are made.
    ///
    /// - Returns: Metadata of what the store holds now, verified against what was sent.
    /// - Throws: ``StoreError``: `.preconditionFailed`, `.quotaExceeded`, `.tooLarge`, `.accessDenied`, `.cancelled`,
    ///   `.isADirectory`, `.invalidName`.
    func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata

    /// Changes the attributes that are not nil, of a file or directory, and leaves its bytes as they are.
    ///
    /// - Parameter version: Only if this is still the version; nil: whichever.
    /// - Returns: Metadata afterwards: on some stores this is a new version.
    /// - Throws: ``StoreError``: `.notFound`, `.preconditionFailed`, `.unsupported`.
    func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?) throws(StoreError)
        -> Metadata

    /// Makes a directory, with its parents. One that exists is no error; its attributes are set.
    ///
    /// - Throws: ``StoreError``: `.notADirectory` where a file is in the way.
    func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError)

    /// Deletes files and empty directories. What is not there counts as deleted.
    ///
    /// - Returns: One element for each, in order: nil for success, else why not (`.directoryNotEmpty` …). With
    ///   ``StoreCapabilities/Features/conditionalDelete`` also `.preconditionFailed`, where a file has another version.
    func delete(_ deletions: [Deletion]) -> [StoreError?]

    /// Gives the object or directory at `source` the name `destination`, replacing a file there.
    ///
    /// - Throws: ``StoreError``: `.notFound`, `.unsupported` (see ``StoreCapabilities/Features/atomicMove`` and
    ///   ``StoreCapabilities/Features/directoryMove``), `.directoryNotEmpty`.
    func move(_ source: StorePath, to destination: StorePath) throws(StoreError)

    /// Copies one object inside the store.
    ///
    /// - Throws: ``StoreError``: `.notFound`, `.preconditionFailed`, `.unsupported`.
    func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError) -> Metadata

    /// Carries out the changes in order; each is done or not for itself, and later ones find what earlier ones did. With
    /// ``StoreCapabilities/batch`` that takes few requests for all of them.
    ///
    /// - Returns: One element per change, in order: what the call for it alone would have returned (nil where that is
    ///   nothing) or thrown.
    func apply(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>]

    func spaceUsage() throws(StoreError) -> SpaceUsage

    /// What the store says of itself and the account: kind, endpoint, root, region, user. No secrets.
    func accountInformation() throws(StoreError) -> [AccountField]

    /// Takes settings that may change while requests are under way; those keep what they were begun with.
    func tune(_ tuning: StoreTuning)

    /// Drops idle connections and reads credentials again, as after a change of network.
    func reconnect()

    /// Ends connections and threads. Calls under way end with `.cancelled`; there are none afterwards.
    func shutdown()
}

/// A store at the bottom of a stack: what it cannot do is answered for it.
public protocol StoreBackend: Store {}

extension StoreBackend {
    public func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        throw unsupported("change attributes", path)
    }
    public func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        throw unsupported("move files", source)
    }
    public func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        throw unsupported("copy files", source)
    }
    public func apply(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>] { applyEach(changes) }
    public func spaceUsage() throws(StoreError) -> SpaceUsage { SpaceUsage() }
    public func tune(_ tuning: StoreTuning) {}
    public func reconnect() {}
    public func shutdown() {}

    private func unsupported(_ what: String, _ path: StorePath) -> StoreError {
        StoreError(.unsupported, "this store cannot \(what) ('\(path)')", path: path)
    }
}

/// A store around another one that changes one thing; everything else goes to ``inner``.
public protocol StoreWrapper: Store {
    var inner: any Store { get }
}

extension StoreWrapper {
    public var capabilities: StoreCapabilities { inner.capabilities }
    public func connect() throws(StoreError) { try inner.connect() }
    public func metadata(of path: StorePath) throws(StoreError) -> Metadata { try inner.metadata(of: path) }
    public func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        try inner.list(directory, after: cursor)
    }
    public func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        try inner.read(path, request, into: sink)
    }
    public func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        try inner.put(body, at: path, options)
    }
    public func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        try inner.setAttributes(attributes, at: path, ifVersion: version)
    }
    public func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        try inner.createDirectory(at: path, attributes)
    }
    public func delete(_ deletions: [Deletion]) -> [StoreError?] { inner.delete(deletions) }
    public func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        try inner.move(source, to: destination)
    }
    public func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        try inner.copy(source, to: destination, options)
    }
    public func apply(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>] {
        // Each through this wrapper, unless the inner store gains by having all of them.
        capabilities.batch == nil ? applyEach(changes) : inner.apply(changes)
    }
    public func spaceUsage() throws(StoreError) -> SpaceUsage { try inner.spaceUsage() }
    public func accountInformation() throws(StoreError) -> [AccountField] { try inner.accountInformation() }
    public func tune(_ tuning: StoreTuning) { inner.tune(tuning) }
    public func reconnect() { inner.reconnect() }
    public func shutdown() { inner.shutdown() }
}
