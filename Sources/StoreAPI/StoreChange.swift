/// One change of a store, as a value: for stores that take many in one request (``Store/apply(_:)``).
public enum StoreChange: Sendable {
    /// ``Store/put(_:at:_:)``.
    case put(UploadBody, at: StorePath, PutOptions)
    /// ``Store/createDirectory(at:_:)``.
    case createDirectory(StorePath, Attributes)
    /// ``Store/setAttributes(_:at:ifVersion:)``.
    case setAttributes(Attributes, at: StorePath, ifVersion: Version?)
    /// ``Store/move(_:to:)``; see ``delete(_:ifVersion:)`` for the conditions of the two paths.
    case move(StorePath, to: StorePath, ifVersion: Version? = nil, condition: WriteCondition = .always)
    /// ``Store/copy(_:to:_:)``.
    case copy(StorePath, to: StorePath, CopyOptions)
    /// ``Store/delete(_:)``: a ``Deletion``.
    case delete(StorePath, ifVersion: Version? = nil)

    fileprivate var isDeletion: Bool { if case .delete = self { true } else { false } }

    /// What becomes different by it.
    public var path: StorePath {
        switch self {
        case .put(_, at: let path, _), .createDirectory(let path, _), .setAttributes(_, at: let path, ifVersion: _),
            .move(_, to: let path, ifVersion: _, condition: _), .copy(_, to: let path, _),
            .delete(let path, ifVersion: _):
            path
        }
    }
}

/// A file or an empty directory that is to be deleted.
public struct Deletion: Hashable, Sendable {
    public var path: StorePath
    /// Only a file that has this version: what somebody else has put there is not what was meant. Stores without
    /// ``StoreCapabilities/Features/conditionalDelete`` delete whatever is there. nil: whatever is there.
    public var version: Version?

    public init(_ path: StorePath, ifVersion version: Version? = nil) {
        self.path = path
        self.version = version
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
    /// Deletions that follow each other are one call.
    public func applyEach(_ changes: [StoreChange]) -> [Result<Metadata?, StoreError>] {
        var results: [Result<Metadata?, StoreError>] = []
        var rest = changes[...]
        while let change = rest.first {
            var deletions: [Deletion] = []
            for case .delete(let path, ifVersion: let version) in rest.prefix(while: { $0.isDeletion }) {
                deletions.append(Deletion(path, ifVersion: version))
            }
            if deletions.isEmpty {
                results.append(Result { () throws(StoreError) in try applyOne(change) })
            } else {
                results += delete(deletions).map { error in error.map { .failure($0) } ?? .success(nil) }
            }
            rest = rest.dropFirst(max(deletions.count, 1))
        }
        return results
    }

    private func applyOne(_ change: StoreChange) throws(StoreError) -> Metadata? {
        switch change {
        case .put(let body, at: let path, let options): return try put(body, at: path, options)
        case .createDirectory(let path, let attributes): try createDirectory(at: path, attributes)
        case .setAttributes(let attributes, at: let path, ifVersion: let version):
            return try setAttributes(attributes, at: path, ifVersion: version)
        case .move(let source, to: let path, ifVersion: _, condition: _): try move(source, to: path)
        case .copy(let source, to: let path, let options): return try copy(source, to: path, options)
        case .delete(let path, ifVersion: _): try delete(path)
        }
        return nil
    }
}
