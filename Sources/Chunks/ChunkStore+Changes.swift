import StoreAPI
import Threading

extension ChunkStore {
    /// Carries out one change: what concerns plain objects at once, the rest on the draft.
    ///
    /// Nothing of the draft is different when it throws, but for directories above the path, and that what was hidden
    /// at the path is not any more.
    func carryOut(_ job: Job, on draft: inout Draft) throws(StoreError) {
        switch job.task {
        case .uncover(let path): try uncover(path, &draft)
        case .change(let change): try carryOut(change, job, &draft)
        }
    }

    private func carryOut(_ change: StoreChange, _ job: Job, _ draft: inout Draft) throws(StoreError) {
        if !job.wasDoneBelow { for path in change.takenPaths { try uncover(path, &draft) } }
        switch change {
        case .put(let body, at: let path, let options): try put(body, path, options, job, &draft)
        case .createDirectory(let path, let attributes): try makeDirectory(path, attributes, job, &draft)
        case .setAttributes(let attributes, at: let path, ifVersion: let version):
            try setAttributes(attributes, path, version, job, &draft)
        case .move(let source, to: let path, ifVersion: let version, condition: let condition):
            try move(source, version, path, condition, job, &draft)
        case .copy(let source, to: let path, let options): try copy(source, path, options, job, &draft)
        case .delete(let path, ifVersion: let version): try delete(path, version, job, &draft)
        }
    }

    func expectUsable(_ path: StorePath) throws(StoreError) {
        if path.isInside(.control) {
            throw StoreError(.invalidName, "'\(StorePath.control)' is CloudFusion's own", path: path)
        }
        let longest = base.capabilities.longestPath
        guard path.bytes.count <= longest else {
            throw StoreError(
                .invalidName, "the path of \(path.bytes.count) bytes is too long: at most \(longest)", path: path)
        }
    }

    /// What is at a path: in the draft, on the store, and for who looks.
    private func look(
        _ path: StorePath, _ draft: inout Draft, exactly: Bool = false
    ) throws(StoreError) -> (packed: DraftNode?, plain: Metadata?, seen: Overlay) {
        let packed = try draft.node(at: path)
        var object: Metadata?
        if draft.deletions[path] == nil {
            object = exactly ? try plain.metadata(of: path) : try plain.entry(at: path)
        }
        return (packed, object, Overlay(packed: packed?.node, plain: object))
    }

    /// The condition for the store, of one that holds for what is seen.
    func below(_ condition: WriteCondition, _ object: Metadata?) -> WriteCondition {
        guard condition != .always else { return .always }
        let features = base.capabilities
        if let version = object?.version {
            return features.contains(.conditionalReplace) ? .ifVersion(version) : .always
        }
        return features.contains(.conditionalCreate) ? .ifAbsent : .always
    }

    private func placePlain(_ metadata: Metadata, _ path: StorePath, _ job: Job, _ draft: inout Draft) {
        job.wasDoneBelow = true
        job.isDoneWithoutChunk = true
        job.outcome = .metadata(metadata)
        plain.note(metadata, at: path)
    }

    /// A member takes the place of what is there.
    private func place(
        _ node: DraftNode, _ path: StorePath, over object: Metadata?, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        try draft.makeParents(of: path) { path throws(StoreError) in try plain.entry(at: path) }
        try draft.expectKind(false, at: path)
        var node = node
        node.node.replaces = object?.version
        draft.set(node, at: path)
        draft.replaced[path] = object?.version
        job.outcome = .node(node)
    }

    // MARK: Putting

    private func put(
        _ body: UploadBody, _ path: StorePath, _ options: PutOptions, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        try expectUsable(path)
        let (_, object, seen) = try look(path, &draft, exactly: options.condition != .always)
        if seen.metadata?.kind == .directory {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        try options.condition.check(seen.metadata?.version, at: path)
        let bytes: [UInt8]
        do throws(StoreError) {
            if let known = job.bytes { bytes = known } else { bytes = try collect(body, &draft) }
        } catch {
            job.isSettled = true
            throw error
        }
        job.bytes = bytes
        var node = PackedNode(kind: options.kind, size: Int64(bytes.count), attributes: options.attributes)
        node.version = draft.newVersion()
        if options.kind == .symbolicLink { node.target = bytes }
        try place(
            DraftNode(node: node, fresh: options.kind == .file ? bytes : nil), path, over: object, job, &draft)
    }

    /// The bytes of a body that is to be packed.
    private func collect(_ body: UploadBody, _ draft: inout Draft) throws(StoreError) -> [UInt8] {
        var all: [UInt8] = []
        for segment in body.segments {
            switch segment {
            case .bytes(let bytes): all += bytes
            case .file(let descriptor, let offset, let length):
                all += try readFile(descriptor, from: offset, length)
            case .stored(let path, let version, let range):
                let found = try packedBytes(path, version, range) { path throws(StoreError) in try draft.node(at: path)
                }
                if let bytes = found {
                    all += bytes
                } else {
                    let sink = MemorySink(from: range.lowerBound)
                    _ = try base.read(path, ReadRequest(range: range, version: version), into: sink)
                    guard sink.bytes.count == range.count else {
                        throw StoreError(.invalidArgument, "'\(path)' ends before \(range.upperBound)", path: path)
                    }
                    all += sink.bytes
                }
            }
        }
        return all
    }

    /// A range of a packed file; nil when it is a plain object.
    func packedBytes(
        _ path: StorePath, _ version: Version?, _ range: Range<Int64>,
        node: (StorePath) throws(StoreError) -> DraftNode?
    ) throws(StoreError) -> [UInt8]? {
        var packed = try node(path)
        if version == nil || packed?.node.version != version {
            let seen = Overlay(packed: packed?.node, plain: try plain.entry(at: path))
            if let version, seen.metadata?.version != version, let former = try former(version) {
                packed = DraftNode(node: former)
            } else {
                switch seen {
                case .nothing: throw Self.notFound(path)
                case .plain: return nil
                case .packed where version == nil: break
                case .packed:
                    throw StoreError.changed(path, version!.text)
                }
            }
        }
        let bytes = try self.bytes(of: packed!, at: path)
        guard range.lowerBound >= 0, range.upperBound <= bytes.count else {
            throw StoreError(.invalidArgument, "'\(path)' ends before \(range.upperBound)", path: path)
        }
        return Array(bytes[Int(range.lowerBound)..<Int(range.upperBound)])
    }

    func bytes(of draft: DraftNode, at path: StorePath) throws(StoreError) -> [UInt8] {
        if let fresh = draft.fresh { return fresh }
        return try contents(of: draft.node, at: draft.origin ?? path).1
    }

    // MARK: Directories and attributes

    private func makeDirectory(
        _ path: StorePath, _ attributes: Attributes, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        try expectUsable(path)
        if path.isRoot {
            try base.createDirectory(at: path, attributes)
            return
        }
        let (packed, object, seen) = try look(path, &draft)
        if let kind = seen.metadata?.kind, kind != .directory {
            throw StoreError(.notADirectory, "'\(path)' is a file", path: path)
        }
        guard packed != nil || (settings.smallFileLimit != nil && path.canBePacked) else {
            try draft.expectSettled(path)
            try base.createDirectory(at: path, attributes)
            plain.forget(path)
            plain.note(object ?? Metadata(kind: .directory, modified: clock.calendar, attributes: attributes), at: path)
            return
        }
        // One that lies on the store already needs no member to be there.
        if packed == nil, object != nil, attributes == Attributes() { return }
        try draft.makeParents(of: path) { path throws(StoreError) in try plain.entry(at: path) }
        try draft.expectKind(true, at: path)
        let known = seen.metadata?.attributes ?? Attributes()
        draft.set(
            DraftNode(
                node: PackedNode(kind: .directory, attributes: known.merging(attributes)), origin: packed?.origin),
            at: path)
    }

    private func setAttributes(
        _ attributes: Attributes, _ path: StorePath, _ version: Version?, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        try expectUsable(path)
        if job.wasDoneBelow { return }
        if path.isRoot {
            job.outcome = .metadata(try base.setAttributes(attributes, at: path, ifVersion: version))
            job.wasDoneBelow = true
            return
        }
        let (packed, object, seen) = try look(path, &draft)
        switch seen {
        case .nothing: throw Self.notFound(path)
        case .plain(let found):
            guard found.kind == .directory, settings.smallFileLimit != nil, path.canBePacked else {
                let metadata = try base.setAttributes(attributes, at: path, ifVersion: version)
                placePlain(metadata, path, job, &draft)
                return
            }
            try makeDirectory(path, attributes, job, &draft)
            job.outcome = try draft.node(at: path).map { .node($0) } ?? .metadata(found)
        case .packed(let node):
            if let version, version != node.version { throw StoreError.changed(path, version.text) }
            var changed = packed!
            // A directory's may be those that the store has.
            changed.node.attributes = node.attributes.merging(attributes)
            if changed.node.attributes != packed!.node.attributes {
                if changed.node.kind != .directory { changed.node.version = draft.newVersion() }
                changed.node.defined = 0
                draft.set(changed, at: path)
                if changed.node.kind != .directory { draft.replaced[path] = object?.version }
            }
            job.outcome = .node(changed)
        }
    }

    // MARK: Moving and copying

    private func move(
        _ source: StorePath, _ version: Version?, _ path: StorePath, _ condition: WriteCondition, _ job: Job,
        _ draft: inout Draft
    ) throws(StoreError) {
        try expectUsable(source)
        try expectUsable(path)
        if job.wasDoneBelow {
            try moveMembers(source, path, job, &draft)
            return
        }
        let (packed, object, seen) = try look(source, &draft)
        guard let moved = seen.metadata else { throw Self.notFound(source) }
        if source == path { return }
        if let version { try WriteCondition.ifVersion(version).check(seen.metadata?.version, at: source) }
        if path.isInside(source) {
            throw StoreError(.invalidArgument, "'\(source)' cannot be moved into itself", path: path)
        }
        let (there, plainThere, replaced) = try look(path, &draft)
        try condition.check(replaced.metadata?.version, at: path)
        if let replaced = replaced.metadata {
            if replaced.kind == .directory, moved.kind != .directory {
                throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
            }
            if replaced.kind != .directory, moved.kind == .directory {
                throw StoreError(.notADirectory, "'\(path)' is not a directory", path: path)
            }
            if replaced.kind == .directory {
                try expectEmpty(path, there, plainThere, &draft)
            }
        }
        if moved.kind == .directory {
            try moveDirectory(source, path, condition, packed, object, job, &draft)
            return
        }
        if case .plain = seen {
            try draft.expectSettled(path)
            let plainMove = Draft.PlainMove(
                source: source, target: path, condition: condition, metadata: object!, replaced: there?.node.version,
                job: job)
            guard packed != nil || there != nil || draft.isTouched(source) || draft.isTouched(path) else {
                return try carryOut(plainMove)
            }
            // An older member must not show up again when what hides it goes, and the chunk perhaps never comes.
            if packed != nil { draft.remove(source) }
            if there != nil { draft.remove(path) }
            draft.move = plainMove
            return
        }
        if !path.canBePacked { try draft.expectSettled(path) }
        if path.canBePacked {
            try place(packed!, path, over: plainThere, job, &draft)
        } else {
            let bytes = try self.bytes(of: packed!, at: source)
            let metadata = try base.put(
                UploadBody(bytes), at: path,
                PutOptions(kind: packed!.node.kind, attributes: packed!.node.attributes))
            plain.note(metadata, at: path)
        }
        job.outcome = .nothing
        // Hidden as long as the member was there.
        if object != nil { try deletePlain(source) }
        draft.remove(source)
    }

    func carryOut(_ move: Draft.PlainMove) throws(StoreError) {
        var move = move
        try expectStillAbsent(move.target, move.condition)
        if let replaced = move.replaced, base.capabilities.contains(.extendedAttributes) {
            move.metadata = try base.setAttributes(Attributes(replaces: replaced.text), at: move.source, ifVersion: nil)
        }
        try base.move(move.source, to: move.target)
        plain.note(nil, at: move.source)
        plain.note(move.metadata, at: move.target)
        plainPuts.note(move.metadata.version, at: move.target, replacing: move.replaced)
        move.job.wasDoneBelow = true
    }

    /// Where something below `source` lies when that is moved to `path`.
    private static func moved(_ old: StorePath, from source: StorePath, to path: StorePath) -> StorePath {
        StorePath(path.bytes + old.bytes.dropFirst(source.bytes.count))!
    }

    /// Stores move onto whatever is there, and what is known of that may be outdated.
    private func expectStillAbsent(_ path: StorePath, _ condition: WriteCondition) throws(StoreError) {
        guard condition == .ifAbsent, try plain.askAnew(path) != nil else { return }
        throw condition.failure(path)
    }

    /// The second part of a move whose plain objects have gone already.
    private func moveMembers(
        _ source: StorePath, _ path: StorePath, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        guard let packed = try draft.node(at: source) else { return }
        guard packed.node.kind == .directory else {
            draft.remove(source)
            try uncover(path, &draft)
            return
        }
        // What others have packed there since is not what was to be replaced.
        for (old, node) in try draft.descendants(of: source) where node.node.kind != .directory {
            let target = Self.moved(old, from: source, to: path)
            if let there = try draft.node(at: target), there.node.kind != .directory {
                try keep(there, from: target, &draft)
            }
        }
        try moveDirectory(source, path, .always, packed, nil, job, &draft)
    }

    private func moveDirectory(
        _ source: StorePath, _ path: StorePath, _ condition: WriteCondition, _ packed: DraftNode?,
        _ object: Metadata?, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        func target(_ old: StorePath) -> StorePath { Self.moved(old, from: source, to: path) }
        var below = try draft.descendants(of: source)
        guard path.canBePacked || packed == nil else {
            throw StoreError(.unsupported, "'\(path)' cannot hold what is in chunks", path: path)
        }
        // First all that can fail.
        let longest = base.capabilities.longestPath
        for (old, _) in below where target(old).bytes.count > longest {
            throw StoreError(.invalidName, "a path below '\(path)' would be too long", path: path)
        }
        if packed != nil { try draft.expectKind(true, at: path) }
        for (old, node) in below { try draft.expectKind(node.node.kind == .directory, at: target(old)) }
        try draft.expectSettled(source)
        try draft.expectSettled(path)
        if object?.kind == .directory {
            if !base.capabilities.contains(.directoryMove) {
                if try plainChildren(source) {
                    throw StoreError(.unsupported, "this store cannot move the directory '\(source)'", path: source)
                }
                try deletePlain(source)
            } else {
                try expectStillAbsent(path, condition)
                // What members hide is to be deleted, not to show up in another place; what hides them likewise.
                for (old, node) in below where node.node.replaces != nil { try deleteHidden(old, node.node.replaces!) }
                for (old, _) in below { try uncover(old, &draft) }
                below = try draft.descendants(of: source)
                try base.move(source, to: path)
                job.wasDoneBelow = true
                plain.forget(source)
                plain.note(nil, at: source)
                plain.forget(path)
                plain.note(object!, at: path)
            }
        }
        guard packed != nil || !below.isEmpty else { return }
        try draft.makeParents(of: path) { path throws(StoreError) in try plain.entry(at: path) }
        let known = packed?.node.attributes ?? object?.attributes ?? Attributes()
        draft.set(DraftNode(node: PackedNode(kind: .directory, attributes: known)), at: path)
        for (old, node) in below {
            var node = node
            node.node.replaces = nil
            draft.set(node, at: target(old))
            draft.remove(old)
        }
        if packed != nil { draft.remove(source) }
    }

    private func copy(
        _ source: StorePath, _ path: StorePath, _ options: CopyOptions, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        try expectUsable(path)
        if job.wasDoneBelow {
            if try draft.node(at: path) != nil { draft.remove(path) }
            return
        }
        let (packed, _, seen) = try look(source, &draft)
        guard let found = seen.metadata else { throw Self.notFound(source) }
        if found.kind == .directory {
            throw StoreError(.isADirectory, "'\(source)' is a directory", path: source)
        }
        let (there, plainThere, replaced) = try look(path, &draft, exactly: options.condition != .always)
        if replaced.metadata?.kind == .directory {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        try options.condition.check(replaced.metadata?.version, at: path)
        if case .plain = seen { try draft.expectSettled(path) }
        if !path.canBePacked { try draft.expectSettled(path) }
        guard case .packed(let node) = seen else {
            var below = options
            below.condition = self.below(options.condition, plainThere)
            if let replaced = there?.node.version {
                if below.attributes == nil { below.attributes = try base.metadata(of: source).attributes }
                below.attributes?.replaces = replaced.text
            }
            let metadata = try base.copy(source, to: path, below)
            plainPuts.note(metadata.version, at: path, replacing: there?.node.version)
            placePlain(metadata, path, job, &draft)
            if there != nil { draft.remove(path) }
            return
        }
        if let version = options.sourceVersion, version != node.version {
            throw StoreError.changed(source, version.text)
        }
        guard path.canBePacked else {
            let bytes = try self.bytes(of: packed!, at: source)
            let metadata = try base.put(
                UploadBody(bytes), at: path,
                PutOptions(
                    condition: below(options.condition, plainThere), kind: node.kind,
                    attributes: options.attributes ?? node.attributes))
            placePlain(metadata, path, job, &draft)
            return
        }
        if source == path, options.attributes == nil {
            job.outcome = .node(packed!)
            return
        }
        var copied = packed!
        if let attributes = options.attributes, attributes != node.attributes {
            copied.node.attributes = attributes
            copied.node.version = draft.newVersion()
            copied.node.defined = 0
        }
        try place(copied, path, over: plainThere, job, &draft)
    }

    // MARK: Deleting

    private func delete(
        _ path: StorePath, _ version: Version?, _ job: Job, _ draft: inout Draft
    ) throws(StoreError) {
        if path.isRoot { throw StoreError(.invalidArgument, "the root of a store cannot be deleted") }
        if path.isInside(.control) { return }
        let (packed, object, seen) = try look(path, &draft)
        guard let found = seen.metadata else { return }
        if let version { try WriteCondition.ifVersion(version).check(seen.metadata?.version, at: path) }
        if found.kind == .directory {
            try draft.expectSettled(path)
            try expectEmpty(path, packed, object, &draft)
        }
        if let object {
            // Of what a member hides nobody needs the bytes; it must not show up when the member is gone. Nor must an older
            // member that a plain object hides, when the chunk that takes it away never comes.
            var isHidden = false
            if case .packed = seen, object.kind != .directory { isHidden = true }
            if (draft.touched == 0 && packed == nil) || isHidden || object.kind == .directory {
                try deletePlain(path, ifVersion: isHidden || object.kind == .directory ? nil : version)
            } else {
                draft.deletions[path] = job
            }
        }
        if packed != nil { draft.remove(path) }
    }

    private func deletePlain(_ path: StorePath, ifVersion version: Version? = nil) throws(StoreError) {
        plain.forget(path)
        if let error = base.delete([Deletion(path, ifVersion: version)])[0] { throw error }
        plain.note(nil, at: path)
    }

    /// Deletes a plain object that a member stands in for, if it is still that.
    func deleteHidden(_ path: StorePath, _ version: Version) throws(StoreError) {
        guard let found = try plain.metadata(of: path), found.version == version else { return }
        do throws(StoreError) { try deletePlain(path, ifVersion: version) } catch {
            // It is not that any more.
            guard error.code == .preconditionFailed else { throw error }
        }
    }

    private func expectEmpty(
        _ directory: StorePath, _ packed: DraftNode?, _ object: Metadata?, _ draft: inout Draft
    ) throws(StoreError) {
        var isEmpty = true
        if packed != nil { isEmpty = try draft.isEmpty(directory) }
        if isEmpty, object?.kind == .directory { isEmpty = try !plainChildren(directory) }
        guard isEmpty else {
            throw StoreError(.directoryNotEmpty, "the directory '\(directory)' is not empty", path: directory)
        }
    }

    private func plainChildren(_ directory: StorePath) throws(StoreError) -> Bool {
        var cursor: ListCursor?
        repeat {
            guard let page = try plain.page(of: directory, after: cursor) else { return false }
            if !page.entries.isEmpty { return true }
            cursor = page.next
        } while cursor != nil
        return false
    }
}

extension StoreChange {
    /// Where it takes something away, or the place of something.
    fileprivate var takenPaths: [StorePath] {
        switch self {
        case .put(_, at: let path, _), .copy(_, to: let path, _), .delete(let path, ifVersion: _): [path]
        case .move(let source, to: let path, ifVersion: _, condition: _): [source, path]
        case .createDirectory, .setAttributes: []
        }
    }
}
