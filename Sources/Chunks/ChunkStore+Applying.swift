import StoreAPI
import StoreHTTP
import Threading

/// Changes of one caller, or other work on the chunks, with room for the answers. Written by the one thread that carries
/// them out while the caller waits.
final class ChangeRequest: @unchecked Sendable {
    let tasks: [Job.Task]
    var results: [Result<Metadata?, StoreError>] = []
    /// Why nothing more was done, where a chunk could not be put.
    var failure: StoreError?
    let work: (() throws(StoreError) -> FreedSpace)?
    var freed: Result<FreedSpace, StoreError>?

    init(_ tasks: [Job.Task]) {
        self.tasks = tasks
        work = nil
    }

    init(_ work: @escaping () throws(StoreError) -> FreedSpace) {
        tasks = []
        self.work = work
    }
}

/// A change on its way. Used by one thread.
final class Job {
    /// What there is to answer when the chunk is on the store.
    enum Outcome {
        case nothing
        case metadata(Metadata)
        case node(DraftNode)
    }

    enum Task {
        case change(StoreChange)
        /// Takes away the member at a path where a plain object hides it: see ``ChunkStore/uncover(_:_:)``.
        case uncover(StorePath)
    }

    let task: Task
    /// The answer. Before ``isSettled`` it is taken back when the changes are done again.
    var result: Result<Metadata?, StoreError>?
    var outcome = Outcome.nothing
    /// What was done with plain objects, which is done once.
    var wasDoneBelow = false
    /// The answer also when no chunk can be put: what matters of it is done.
    var isDoneWithoutChunk = false
    var isSettled = false
    /// The body, once it was read.
    var bytes: [UInt8]?

    init(_ task: Task) { self.task = task }

    func settle(_ error: StoreError) {
        result = .failure(error)
        isSettled = true
    }

    /// The only one that may be deleted, of a deletion.
    var version: Version? {
        guard case .change(.delete(_, ifVersion: let version)) = task else { return nil }
        return version
    }

    var isWanted: Bool {
        guard case .change(.put(_, at: _, let options)) = task, let isWanted = options.isWanted else { return true }
        return isWanted()
    }

    func expectWanted() throws(StoreError) {
        guard case .change(let change) = task, !isWanted else { return }
        isSettled = true
        throw StoreError(.cancelled, "the upload of '\(change.path)' is no longer wanted", path: change.path)
    }
}

extension ChunkStore {
    /// Carries out what callers have asked for, on one of their threads.
    func perform(_ requests: [ChangeRequest]) {
        let asked = requests.map { request in request.tasks.map { Job($0) } }
        var jobs = asked.flatMap(\.self)
        var (position, turns) = (0, 0)
        do throws(StoreError) {
            while position < jobs.count || plainPuts.hasHidden {
                try refreshIfStale()
                // First: the changes that follow may take the place of what is hidden.
                jobs.insert(contentsOf: plainPuts.takeHidden().map { Job(.uncover($0)) }, at: position)
                if let end = try pack(jobs, from: position) { (position, turns) = (end, 0) } else { turns += 1 }
                guard turns < Self.mostTurns else {
                    throw StoreError(.unavailable, "other machines were faster \(turns) times")
                }
            }
        } catch {
            for job in jobs[position...] where !job.isSettled {
                if job.isDoneWithoutChunk, case .metadata(let metadata) = job.outcome {
                    job.result = .success(metadata)
                } else {
                    job.result = .failure(error)
                }
            }
            for request in requests { request.failure = error }
        }
        for job in jobs {
            if case .uncover(let path) = job.task, case .failure = job.result { plainPuts.postpone(path) }
        }
        for request in requests {
            if let work = request.work { request.freed = Result(catching: work) }
        }
        putSnapshotIfDue()
        for (request, jobs) in zip(requests, asked) { request.results = jobs.map { $0.result! } }
    }

    /// How often others may take the number of a chunk before its changes are given up for now.
    private static let mostTurns = 1_000

    /// A chunk is not to have so many members that its index would be as large as its contents.
    private static let mostMembers = 10_000

    /// Carries out as many changes as one chunk takes.
    ///
    /// - Returns: The number of the first one that is left; nil: they have to be carried out again, on what another
    ///   machine has made meanwhile.
    private func pack(_ jobs: [Job], from start: Int) throws(StoreError) -> Int? {
        let sequence = try map.use { map throws(ChunkMapError) in try map.applied + 1 }
        var draft = Draft(of: map, sequence: sequence)
        var end = start
        while end < jobs.count, draft.move == nil {
            let job = jobs[end]
            if draft.touched == 0, case .change(.delete) = job.task, !job.isSettled {
                try deletePlainRun(jobs[end...], draft: &draft)
            }
            if !job.isSettled {
                guard draft.touched == 0 || hasRoom(draft, for: job) else { break }
                job.result = nil
                do throws(StoreError) {
                    try job.expectWanted()
                    try carryOut(job, on: &draft)
                } catch {
                    if draft.mustEnd {
                        guard draft.touched > 0 else { throw error }
                        break
                    }
                    job.result = .failure(error)
                    // Its time is over when the rest of the store is.
                    if error.code == .cancelled { job.isSettled = true }
                }
            }
            end += 1
        }
        switch try put(&draft, jobs[start..<end]) {
        case .again: return nil
        case .done(let chunk):
            for job in jobs[start..<end] where job.result == nil { finish(job, chunk) }
            delete(draft.deletions)
            if let move = draft.move {
                do throws(StoreError) { try carryOut(move) } catch { move.job.result = .failure(error) }
            }
            deleteReplaced(draft.replaced)
            return end
        }
    }

    /// Deletes in one request the plain objects that the next deletions are of, up to the first that is more than that.
    private func deletePlainRun(_ jobs: ArraySlice<Job>, draft: inout Draft) throws(StoreError) {
        var run: [(job: Job, deletion: Deletion)] = []
        for job in jobs {
            guard run.count < base.capabilities.deleteBatch, !job.isSettled,
                case .change(.delete(let path, ifVersion: let version)) = job.task,
                !path.isRoot, !path.isInside(.control), try draft.node(at: path) == nil,
                let object = try plain.entry(at: path), object.kind != .directory,
                version == nil || object.version == version
            else { break }
            run.append((job, Deletion(path, ifVersion: version)))
        }
        guard run.count > 1 else { return }
        for ((job, deletion), error) in zip(run, base.delete(run.map(\.deletion))) {
            if let error {
                plain.forget(deletion.path.parent!)
                job.settle(error)
            } else {
                plain.note(nil, at: deletion.path)
                job.result = .success(nil)
                job.isSettled = true
            }
        }
    }

    private func hasRoom(_ draft: Draft, for job: Job) -> Bool {
        guard draft.touched < Self.mostMembers else { return false }
        guard case .change(.put(let body, at: _, _)) = job.task else { return true }
        return draft.bytes + body.length <= settings.maxChunkSize
    }

    private func finish(_ job: Job, _ chunk: ChunkIndex?) {
        switch job.outcome {
        case .nothing: job.result = .success(nil)
        case .metadata(let metadata): job.result = .success(metadata)
        case .node(let draft):
            var node = draft.node
            if let fresh = draft.fresh {
                node.bytes = PackedBytes(chunk: 0, offset: 0, size: node.size, md5: Digest.md5(fresh))
            }
            if let chunk, draft.origin == nil || draft.node.defined == 0 { node.recorded = chunk.created }
            job.result = .success(node.metadata)
        }
        if case .change(.put(let body, at: _, let options)) = job.task {
            options.progress?(
                body.segments.reduce(0) { sum, segment in
                    if case .stored = segment { sum } else { sum + segment.length }
                })
        }
    }

    /// Deletes the plain objects that were kept until the chunk was on the store.
    private func delete(_ deletions: [StorePath: Job]) {
        guard !deletions.isEmpty else { return }
        let pairs = Array(deletions)
        for ((path, job), error) in zip(pairs, base.delete(pairs.map { Deletion($0, ifVersion: $1.version) })) {
            if let error {
                plain.forget(path.parent!)
                job.result = .failure(error)
            } else {
                plain.note(nil, at: path)
            }
        }
    }

    /// Deletes the plain objects that members stand in for, if they are still those. What fails is left to
    /// ``collectGarbage()``: the members hide it.
    private func deleteReplaced(_ replaced: [StorePath: Version]) {
        let isChecked = base.capabilities.contains(.conditionalDelete)
        let gone = replaced.map { Deletion($0, ifVersion: $1) }.filter { deletion in
            isChecked || (try? base.metadata(of: deletion.path))?.version == deletion.version
        }
        guard !gone.isEmpty else { return }
        for (deletion, error) in zip(gone, base.delete(gone)) where error == nil { plain.note(nil, at: deletion.path) }
    }

    // MARK: The chunk

    private enum Turn {
        case done(ChunkIndex?)
        /// Another machine was faster, or somebody does not want a change any more.
        case again
    }

    /// Puts a chunk of what is different by the draft, and takes it into the map.
    private func put(_ draft: inout Draft, _ jobs: ArraySlice<Job>) throws(StoreError) -> Turn {
        let planned = try draft.members()
        guard !planned.isEmpty else { return .done(nil) }
        let volume = try volume()
        var index = ChunkIndex(
            volume: volume, sequence: draft.sequence, nonce: VolumeFormat.newName(), created: clock.calendar)
        index.members = planned.map(\.member)
        for number in planned.indices {
            if let fresh = planned[number].node?.fresh, index.members[number].kind == .file {
                index.members[number].md5 = Digest.md5(fresh)
            }
        }
        let chunk: ChunkFile
        do throws(StoreError) {
            chunk = try ChunkFile(index, in: settings.folder) { number throws(StoreError) in
                let node = planned[number].node!
                if let fresh = node.fresh { return fresh }
                return try contents(of: node.node, at: node.origin ?? index.members[number].path).1
            }
        } catch {
            // What was to be packed anew is not there any more: others have changed it.
            if error.code == .preconditionFailed { return .again }
            throw error
        }
        for job in jobs where job.result == nil && !job.isWanted { return .again }
        guard try put(chunk) else {
            state.withLock { $0.refreshed = nil }
            try refresh()
            return .again
        }
        try take(ChunkHead(of: chunk))
        return .done(chunk.index)
    }

    /// - Returns: Whether the chunk is on the store; false when another one has its number.
    func put(_ chunk: ChunkFile) throws(StoreError) -> Bool {
        let (sequence, volume) = (chunk.index.sequence, chunk.index.volume)
        let path = ChunkPaths.chunk(sequence, volume: volume)
        try holdLease()
        let begun = clock.monotonic
        var failure: StoreError?
        for _ in 0..<3 {
            do throws(StoreError) {
                let isConditional = base.capabilities.contains(.conditionalCreate)
                if !isConditional, try stored(path) != nil { return false }
                _ = try base.put(
                    chunk.body, at: path, PutOptions(condition: isConditional ? .ifAbsent : .always))
                // Nobody has made this one, and so none after it.
                state.withLock { $0.refreshed = begun }
                return true
            } catch {
                guard error.code == .preconditionFailed || error.isTransient else { throw error }
                failure = error
                if error.code == .noLocalSpace { break }
            }
            // The store may have taken it all the same.
            do throws(StoreError) {
                if let found = try stored(path) { return found == chunk.index.nonce }
            } catch {
                failure = error
                break
            }
        }
        // Whatever becomes of it: the next one looks first.
        state.withLock { $0.refreshed = nil }
        throw failure!
    }

    /// The nonce of the chunk at a path; nil when there is none.
    private func stored(_ path: StorePath) throws(StoreError) -> String? {
        do throws(StoreError) { return try ChunkHead.read(path, of: base).index.nonce } catch {
            if error.code == .notFound { return nil }
            throw error
        }
    }
}

extension ChunkHead {
    init(of chunk: ChunkFile) {
        index = chunk.index
        size = chunk.size
        membersOffset = chunk.membersOffset
    }
}
