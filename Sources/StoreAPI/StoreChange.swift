/// One change of a store, as a value: for stores that take many in one request (``Store/apply(_:)``).
public enum StoreChange: Sendable {
    /// ``Store/put(_:at:_:)``.
    case put(UploadBody, at: StorePath, PutOptions)
    /// ``Store/createDirectory(at:_:)``.
    case createDirectory(StorePath, Attributes)
    /// ``Store/setAttributes(_:at:ifVersion:)``.
    case setAttributes(Attributes, at: StorePath, ifVersion: Version?)
    /// ``Store/move(_:to:)``.
    case move(StorePath, to: StorePath)
    /// ``Store/copy(_:to:_:)``.
    case copy(StorePath, to: StorePath, CopyOptions)
    /// ``Store/delete(_:)``.
    case delete(StorePath)

    /// What becomes different by it.
    public var path: StorePath {
        switch self {
        case .put(_, at: let path, _), .createDirectory(let path, _), .setAttributes(_, at: let path, ifVersion: _),
            .move(_, to: let path), .copy(_, to: let path, _), .delete(let path):
            path
        }
    }
}

/// How many changes are worth handing over at once (``Store/apply(_:)``).
public struct ChangeBatch: Hashable, Sendable {
    /// The most changes of one batch, and the most bytes of all their bodies together.
    public var changes: Int
    public var bytes: Int64
    /// Bodies of up to so many bytes belong into a batch; larger ones are put on their own.
    public var largestBody: Int64

    public init(changes: Int, bytes: Int64, largestBody: Int64) {
        self.changes = changes
        self.bytes = bytes
        self.largestBody = largestBody
    }
}

extension Store {
    /// Carries out changes one after the other, as a store does that gains nothing by having them all at once.
    public func applyEach(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>] {
        changes.map { change in
            Result { () throws(StoreError) -> Metadata? in
                switch change {
                case .put(let body, at: let path, let options): return try put(body, at: path, options)
                case .createDirectory(let path, let attributes): try createDirectory(at: path, attributes)
                case .setAttributes(let attributes, at: let path, ifVersion: let version):
                    return try setAttributes(attributes, at: path, ifVersion: version)
                case .move(let source, to: let path): try move(source, to: path)
                case .copy(let source, to: let path, let options): return try copy(source, to: path, options)
                case .delete(let path):
                    if let error = delete([path]).first ?? nil { throw error }
                }
                return nil
            }
        }
    }
}
