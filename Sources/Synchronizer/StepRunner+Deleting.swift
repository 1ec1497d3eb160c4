import Catalog
import Statistics
import StoreAPI

// Deletions go out many in one request where the store has that.
extension StepRunner {
    /// Works on rows that delete something. A directory goes after what was in it, which may be among the same rows.
    func run(deletions rows: [PendingItem]) -> [(PendingID, UploadScheduler.Outcome)] {
        var outcomes: [(PendingID, UploadScheduler.Outcome)] = []
        var left = rows
        while !left.isEmpty {
            if isStopping() {
                outcomes += left.map { ($0.id, .overtaken) }
                break
            }
            var plans: [DeletePlan] = []
            var blocked: [(row: PendingItem, blocker: PendingID?)] = []
            var others: [PendingItem] = []
            for row in left {
                do {
                    switch try journal.plan(row) {
                    case .done: outcomes.append((row.id, .done(askedStore: false)))
                    case .delete(let plan): plans.append(plan)
                    case .blocked(let blocker): blocked.append((row, blocker))
                    case .busy: outcomes.append((row.id, .busy))
                    default: others.append(row)
                    }
                } catch {
                    outcomes.append((row.id, .failed(StoreError(error))))
                }
            }
            for (id, outcome) in delete(plans) {
                do {
                    try stepEnded(id)
                    outcomes.append((id, outcome))
                } catch {
                    outcomes.append((id, .failed(StoreError(error))))
                }
            }
            outcomes += others.map { ($0.id, run($0)) }
            // What is blocked by a row that has just been done is asked for again; the rest waits.
            let finished = Set(outcomes.map(\.0))
            let released = blocked.filter { $0.blocker.map(finished.contains) ?? false }
            let isProgress = !plans.isEmpty || !others.isEmpty
            outcomes += blocked.filter { entry in !isProgress || !released.contains { $0.row.id == entry.row.id } }
                .map { ($0.row.id, .blocked(by: $0.blocker)) }
            left = isProgress ? released.map(\.row) : []
        }
        return outcomes
    }

    func delete(_ plans: [DeletePlan]) -> [(PendingID, UploadScheduler.Outcome)] {
        guard !plans.isEmpty else { return [] }
        var outcomes: [(PendingID, UploadScheduler.Outcome)] = []
        let plans = sparingOthers(plans, &outcomes)
        guard !plans.isEmpty else { return outcomes }
        let answers = store.apply(plans.map { .delete($0.path, ifVersion: $0.version) })
        return outcomes + concludeDeletions(plans, answers)
    }

    /// Tells the catalog of the store's answers.
    func concludeDeletions(
        _ plans: [DeletePlan], _ answers: some Sequence<Result<Metadata?, StoreError>>
    ) -> [(PendingID, UploadScheduler.Outcome)] {
        var outcomes: [(PendingID, UploadScheduler.Outcome)] = []
        var done: [DeletePlan] = []
        for (plan, answer) in zip(plans, answers) {
            do {
                if case .failure(let error) = answer { try notDeleted(plan, error) }
                done.append(plan)
            } catch {
                outcomes.append((plan.item, .failed(error)))
            }
        }
        do {
            try journal.deleted(done)
            outcomes += done.map { ($0.item, .done(askedStore: true)) }
        } catch {
            outcomes += done.map { ($0.item, .failed(StoreError(error))) }
        }
        return outcomes
    }

    /// What became of a deletion that the store refused. Returns when the object is to count as deleted.
    private func notDeleted(_ plan: DeletePlan, _ error: StoreError) throws(StoreError) {
        switch error.code {
        case .notFound: return
        case .directoryNotEmpty:
            // Somebody else put files into it: theirs are not ours to delete. The directory stays, as theirs, and
            // shows up again with the next listing.
            guard try !store.list(plan.path, after: nil).entries.isEmpty else { throw error }
            statistics.report(
                kind: "notDeleted",
                message: "'\(plan.path)' was removed here, but somebody else has put files into it on the store",
                advice: "It is kept and shows up again. Delete it once more if these files are not needed.")
        default: throw error
        }
    }

    // MARK: What others have changed

    /// From so many neighbours on, a listing is cheaper than a question for each.
    private static let fewNeighbours = 8

    /// Leaves out what somebody else has replaced on the store since this side knew it: they may not know that it was
    /// removed here, and nobody's bytes are dropped. It shows up again.
    ///
    /// Stores delete whatever is there, so that this looks first. That is no protection against a change at the same
    /// moment, but against all before it.
    func sparingOthers(
        _ plans: [DeletePlan], _ outcomes: inout [(PendingID, UploadScheduler.Outcome)]
    ) -> [DeletePlan] {
        var kept: [DeletePlan] = []
        for (parent, neighbours) in Dictionary(grouping: plans, by: \.path.parent) {
            var listed: [StorePath: Metadata] = [:]
            do throws(StoreError) {
                if let parent, neighbours.count > Self.fewNeighbours {
                    listed = try look(for: neighbours, in: parent)
                }
            } catch {
                outcomes += neighbours.map { ($0.item, .failed(error)) }
                continue
            }
            for plan in neighbours {
                do throws(StoreError) {
                    var plan = plan
                    if try isToGo(&plan, listed[plan.path]) {
                        kept.append(plan)
                    } else {
                        outcomes.append((plan.item, .done(askedStore: true)))
                    }
                } catch { outcomes.append((plan.item, .failed(error))) }
            }
        }
        return kept
    }

    /// Whether what lies there is what is to be deleted; its version is then that of the plan. If not, the catalog has
    /// been told.
    private func isToGo(_ plan: inout DeletePlan, _ listed: Metadata?) throws(StoreError) -> Bool {
        guard plan.isUncertain || (plan.version != nil && listed?.version != plan.version) else { return true }
        // A listing may lag behind, and not show a version as it is told elsewhere.
        guard let there = try found(at: plan.path) else {
            guard plan.isUncertain else { return true }
            try catalog { () throws(CatalogError) in try journal.deleted([plan]) }
            return false
        }
        guard plan.isUncertain || (there.kind != .directory && there.version != plan.version) else { return true }
        if let state = SentState(size: there.size, there.attributes, on: store.capabilities), plan.sent.contains(state)
        {
            plan.version = there.kind == .directory ? nil : there.version
            return true
        }
        try spare(plan, there)
        return false
    }

    /// What a few pages of the parent's listing tell of some files; of the others nothing.
    private func look(for plans: [DeletePlan], in parent: StorePath) throws(StoreError) -> [StorePath: Metadata] {
        let wanted = Set(plans.lazy.filter { $0.version != nil }.map(\.path))
        var found: [StorePath: Metadata] = [:]
        var cursor: ListCursor?
        for _ in 0..<(wanted.count / 4 + 1) where found.count < wanted.count {
            let page: ListPage
            do { page = try store.list(parent, after: cursor) } catch {
                guard error.code == .notFound || error.code == .notADirectory else { throw error }
                return found
            }
            for entry in page.entries {
                let path = parent.appending(entry.name)
                if wanted.contains(path) { found[path] = entry.metadata }
            }
            cursor = page.next
            if cursor == nil { break }
        }
        return found
    }

    private func spare(_ plan: DeletePlan, _ there: Metadata) throws(StoreError) {
        try tell(there, at: plan.path, by: plan.item)
        // Where the directory is gone here, nothing can stand for it before the directory is found again.
        if try catalog({ () throws(CatalogError) in try journal.pendingItem(plan.item) }) != nil {
            try catalog { () throws(CatalogError) in try journal.deleted([plan]) }
        }
        guard !plan.isUncertain else { return }
        statistics.add(.conflicts)
        statistics.report(
            kind: "conflict",
            message: "'\(plan.path)' was removed here, and changed on the store by somebody else",
            advice: "Their version is kept. Delete it once more if it is not needed.")
    }
}
