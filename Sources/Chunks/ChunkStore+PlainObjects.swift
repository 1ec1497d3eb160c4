import StoreAPI
import Threading

/// The plain objects that were put here lately, and members that plain objects hide and that are perhaps nobody's loss:
/// somebody has packed a file without knowing of the object, or put the object without knowing of the file, since what
/// each machine knows of the store's own objects is as old as it trusts them.
///
/// Locks: one, a leaf.
final class PlainPuts: Sendable {
    private struct Put {
        var version: Version?
        /// The member that it took the place of.
        var replaced: Version?
        var time: MonotonicTime
    }

    private struct State {
        var puts: [StorePath: Put] = [:]
        var sweepAt = 1_000
        /// Paths of members to be uncovered.
        var hidden: Set<StorePath> = []
        /// Those of them with which that has failed.
        var postponed: Set<StorePath> = []
    }

    /// Longer than anybody is likely to trust what it knows.
    static let lifetime = Duration.seconds(3_600)

    private let clock: any Clock
    private let state = Lock(State())

    init(clock: any Clock) { self.clock = clock }

    func note(_ version: Version?, at path: StorePath, replacing member: Version?) {
        let now = clock.monotonic
        state.withLock { state in
            state.puts[path] = Put(version: version, replaced: member, time: now)
            guard state.puts.count >= state.sweepAt else { return }
            state.puts = state.puts.filter { now - $0.value.time < Self.lifetime }
            state.sweepAt = 2 * state.puts.count + 1_000
        }
    }

    /// The version of the member that the object at a path was put in the place of, which may be none.
    ///
    /// - Returns: nil: it was not put here, as far as is remembered.
    func replaced(by version: Version?, at path: StorePath) -> Version?? {
        state.withLock { state in
            guard let put = state.puts[path], put.version == version else { return nil }
            return .some(put.replaced)
        }
    }

    /// Finds out whether a chunk has a member that one of the objects hides, and whose maker did not mean that.
    func compare(with chunk: ChunkIndex) {
        state.withLock { state in
            guard !state.puts.isEmpty else { return }
            for member in chunk.members where member.kind != .whiteout && member.kind != .directory {
                guard let put = state.puts[member.path], member.replaces == nil || member.replaces != put.version,
                    member.version == nil || member.version != put.replaced
                else { continue }
                state.hidden.insert(member.path)
            }
        }
    }

    /// Whoever lists has seen that objects hide members at these paths.
    func noteHidden(_ paths: [StorePath]) { state.withLock { $0.hidden.formUnion(paths) } }

    /// Whether there is a member to be uncovered.
    var hasHidden: Bool { state.withLock { !$0.hidden.isEmpty } }

    /// The paths of members to be uncovered, each once.
    func takeHidden() -> Set<StorePath> {
        state.withLock { state in
            defer { state.hidden = [] }
            return state.hidden
        }
    }

    /// It has failed: to be tried again when the store is asked for news the next time.
    func postpone(_ path: StorePath) { state.withLock { _ = $0.postponed.insert(path) } }

    func newsWereTaken() {
        state.withLock { state in
            state.hidden.formUnion(state.postponed)
            state.postponed = []
        }
    }
}

// What is not packed is put by the thread that asks, while others make chunks.
extension ChunkStore {
    /// Whether a file is put as an object of its own.
    func isPlain(_ body: UploadBody, _ path: StorePath, _ options: PutOptions) -> Bool {
        guard let limit = settings.smallFileLimit else { return true }
        return body.length > limit || !path.canBePacked || options.kind == .socket
    }

    func putPlain(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        try lookForNews()
        try expectUsable(path)
        if path.isRoot { throw StoreError(.isADirectory, "the root of a store is a directory", path: path) }
        let packed = try node(at: path)
        let object = options.condition == .always ? try plain.entry(at: path) : try plain.metadata(of: path)
        let seen = Overlay(packed: packed, plain: object)
        if seen.metadata?.kind == .directory {
            throw StoreError(.isADirectory, "'\(path)' is a directory", path: path)
        }
        try options.condition.check(seen.metadata?.version, at: path)
        // One that the object there hides was not seen by who asks for this, and perhaps by nobody.
        var replaced = packed?.version
        if case .plain = seen, let packed, let object, try isStray(packed, beside: object, at: path) { replaced = nil }
        var below = options
        below.condition = self.below(options.condition, object)
        below.attributes.replaces = replaced?.text
        let metadata: Metadata
        do throws(StoreError) { metadata = try base.put(try withoutMembers(body), at: path, below) } catch {
            // What was known of the path is outdated: who asks next is to hear what is there.
            if error.code == .preconditionFailed { _ = try plain.askAnew(path) }
            throw error
        }
        plain.note(metadata, at: path)
        plainPuts.note(metadata.version, at: path, replacing: replaced)
        if try node(at: path) != nil {
            // The object counts from now on, whether the chunk gets to the store that takes the member away or not.
            perform(ChangeRequest([.uncover(path)]))
        }
        return metadata
    }

    private func node(at path: StorePath) throws(StoreError) -> PackedNode? {
        try map.use { map throws(ChunkMapError) in try map.node(at: path) }
    }

    /// A body for the store, which knows nothing of members.
    private func withoutMembers(_ body: UploadBody) throws(StoreError) -> UploadBody {
        var segments: [UploadBody.Segment] = []
        for segment in body.segments {
            guard case .stored(let path, let version, let range) = segment else {
                segments.append(segment)
                continue
            }
            let packed = try packedBytes(path, version, range) { path throws(StoreError) in
                try self.node(at: path).map { DraftNode(node: $0) }
            }
            segments.append(packed.map { .bytes($0) } ?? segment)
        }
        return UploadBody(segments)
    }

    /// Takes in what others have made, if that was not done a short while ago, and uncovers what it hides.
    func lookForNews() throws(StoreError) {
        try refreshIfStale()
        guard plainPuts.hasHidden, settings.smallFileLimit != nil else { return }
        perform(ChangeRequest([]))
    }

    /// Takes away the member at a path where a plain object hides it, since that counts: keeps it under another name if
    /// perhaps nobody has ever seen it.
    func uncover(_ path: StorePath, _ draft: inout Draft) throws(StoreError) {
        guard draft.deletions[path] == nil, let packed = try draft.node(at: path), packed.node.kind != .directory,
            try plain.entry(at: path) != nil, let object = try plain.metadata(of: path), object.kind != .directory,
            packed.node.replaces == nil || packed.node.replaces != object.version
        else { return }
        if try isStray(packed.node, beside: object, at: path) { try keep(packed, from: path, &draft) }
        draft.remove(path)
    }

    /// Whether a member that a plain object hides may have been packed by somebody who did not know of the object, nor
    /// its maker of the member: an object that was put in the place of one says so. Of what other tools have put, and on
    /// stores that keep no attributes, that is told by the times.
    private func isStray(_ node: PackedNode, beside object: Metadata, at path: StorePath) throws(StoreError) -> Bool {
        guard let version = node.version else { return true }
        if let replaced = plainPuts.replaced(by: object.version, at: path) { return replaced != version }
        var replaced = object.attributes?.replaces
        if object.attributes == nil {
            do throws(StoreError) { replaced = try base.metadata(of: path).attributes?.replaces } catch {
                guard error.code == .notFound else { throw error }
            }
        }
        if let replaced { return replaced != version.text }
        let made = try map.use { map throws(ChunkMapError) in try map.created(node.defined) } ?? clock.calendar
        return made.nanoseconds > object.modified.nanoseconds - PlainPuts.lifetime.nanoseconds
    }

    /// Gives the member at a path, which is about to lose that, the name of a conflict copy.
    func keep(_ packed: DraftNode, from path: StorePath, _ draft: inout Draft) throws(StoreError) {
        var packed = packed
        let kept = try conflictName(for: path, packed.node, &draft)
        try draft.expectKind(false, at: kept)
        packed.node.replaces = nil
        draft.set(packed, at: kept)
    }

    private func conflictName(for path: StorePath, _ node: PackedNode, _ draft: inout Draft) throws(StoreError)
        -> StorePath
    {
        for number in 1..<1_000 {
            guard let name = path.name?.conflictCopy(of: node.recorded, number: number) else { break }
            let kept = path.parent!.appending(name)
            guard kept.canBePacked else { break }
            if try draft.node(at: kept) == nil, try plain.entry(at: kept) == nil { return kept }
        }
        throw StoreError(.alreadyExists, "no name was found for the conflict copy of '\(path)'", path: path)
    }
}
