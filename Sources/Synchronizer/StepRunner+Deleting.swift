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
                    default: others.append(row)
                    }
                } catch {
                    outcomes.append((row.id, .failed(StoreError(error))))
                }
            }
            outcomes += delete(plans)
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

    private func delete(_ plans: [DeletePlan]) -> [(PendingID, UploadScheduler.Outcome)] {
        guard !plans.isEmpty else { return [] }
        let answers = store.delete(plans.map(\.path))
        var outcomes: [(PendingID, UploadScheduler.Outcome)] = []
        var done: [DeletePlan] = []
        for (plan, error) in zip(plans, answers) {
            do {
                if let error { try notDeleted(plan, error) }
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
    func notDeleted(_ plan: DeletePlan, _ error: StoreError) throws(StoreError) {
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
}
