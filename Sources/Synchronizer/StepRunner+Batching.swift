import Caching
import Catalog
import Glibc
import StoreAPI

// Many small changes in few requests, where the store has that: see ``Store/apply(_:)``.
extension StepRunner {
    /// How often bytes are read again that have changed meanwhile, before the file is left to an upload of its own.
    private static let mostReadings = 3

    /// Works on rows whose changes go to the store together, round by round, until each is done, blocked or failed.
    func run(batch rows: [PendingItem], _ limits: ChangeBatch) -> [(PendingID, UploadScheduler.Outcome)] {
        var batch = Batch(rows.map { RowWork($0) })
        while !batch.works.isEmpty {
            guard !isStopping(), batch.rounds < Self.mostSteps else {
                return batch.outcomes + batch.works.map { ($0.row.id, .overtaken) }
            }
            round(&batch, limits)
        }
        return batch.outcomes
    }

    /// Rows that are worked on together.
    private struct Batch {
        var works: [RowWork]
        var outcomes: [(PendingID, UploadScheduler.Outcome)] = []
        var rounds = 0

        init(_ works: [RowWork]) { self.works = works }

        mutating func end(_ work: RowWork, _ outcome: UploadScheduler.Outcome) {
            outcomes.append((work.row.id, outcome))
        }
    }

    /// The next step of each row.
    private func round(_ batch: inout Batch, _ limits: ChangeBatch) {
        var requests: [(work: RowWork, request: Request)] = []
        var deletions: [PendingID: RowWork] = [:]
        var plans: [DeletePlan] = []
        var others: [(work: RowWork, step: SyncStep)] = []
        var blocked: [(work: RowWork, blocker: PendingID?)] = []
        var next: [RowWork] = []
        let works = batch.works
        batch.rounds += 1

        for var work in works {
            do throws(StoreError) {
                switch try begin(&work) {
                case .ended(.blocked(by: let blocker)): blocked.append((work, blocker))
                case .ended(let outcome): batch.end(work, outcome)
                case .step(.delete(let plan)):
                    deletions[plan.item] = work
                    plans.append(plan)
                case .step(let step):
                    switch try prepared(step, limits) {
                    case .request(let request): requests.append((work, request))
                    case .ended(let outcome): report(work, .success(outcome), &batch, &next)
                    // It may have to wait for a row of this very batch.
                    case nil: others.append((work, step))
                    }
                }
            } catch { report(work, .failure(error), &batch, &next) }
        }
        var deleted: [(PendingID, UploadScheduler.Outcome)] = []
        plans = sparingOthers(plans, &deleted)

        let changes = requests.map(\.request.change) + plans.map { .delete($0.path, ifVersion: $0.version) }
        let answers = changes.isEmpty ? [] : store.apply(changes)
        for ((work, request), answer) in zip(requests, answers) {
            let result = Result { () throws(StoreError) in try request.conclude(answer) }
            report(work, result, &batch, &next)
        }
        deleted += concludeDeletions(plans, answers.dropFirst(requests.count))
        for (id, outcome) in deleted { reportDeletion(deletions[id]!, outcome, &batch) }
        for (work, step) in others {
            report(work, Result { () throws(StoreError) in try perform(step, of: work.row) }, &batch, &next)
        }

        // What waits for a row of this batch is asked for again, as long as anything gets on.
        let isProgress = !changes.isEmpty || !others.isEmpty
        let ours = Set(works.lazy.map(\.row.id))
        for (work, blocker) in blocked {
            if isProgress, let blocker, ours.contains(blocker) {
                next.append(work)
            } else {
                batch.end(work, .blocked(by: blocker))
            }
        }
        batch.works = next
    }

    /// Notes what became of a step; the row goes on in the next round if there is more to do for it.
    private func report(
        _ work: RowWork, _ result: Result<StepOutcome, StoreError>, _ batch: inout Batch, _ next: inout [RowWork]
    ) {
        var work = work
        do throws(StoreError) {
            if let outcome = try end(&work, result) { batch.end(work, outcome) } else { next.append(work) }
        } catch { batch.end(work, .failed(error)) }
    }

    private func reportDeletion(_ work: RowWork, _ outcome: UploadScheduler.Outcome, _ batch: inout Batch) {
        do {
            try stepEnded(work.row.id)
            batch.end(work, outcome)
        } catch { batch.end(work, .failed(StoreError(error))) }
    }

    /// The request for a step, with the bytes that it sends; nil: the step does not belong into a batch.
    private func prepared(_ step: SyncStep, _ limits: ChangeBatch) throws(StoreError) -> Prepared? {
        switch step {
        case .upload(let plan): try prepared(plan, upTo: limits.largestBody)
        case .setAttributes(let plan): setAttributes(plan)
        case .copy(let plan): try copy(plan)
        case .createDirectory(let plan): createDirectory(plan)
        case .move(let plan): try move(plan)
        case .done, .blocked, .busy, .settle, .delete, .keepConflict, .list, .fetch, .learn: nil
        }
    }

    /// The upload of a small file, whose bytes are copied into memory: what is written to it later is sent later.
    private func prepared(_ plan: UploadPlan, upTo largest: Int64) throws(StoreError) -> Prepared? {
        if let body = plan.fixedBody { return try prepared(plan, UploadBody(body), nil) }
        let content = try contents.openContent(of: plan.placement.inode)
        defer { content.close() }
        for _ in 0..<Self.mostReadings where content.isComplete {
            let view = try content.uploadView(store.capabilities)
            defer { view.end() }
            guard view.size <= largest else { return nil }
            let bytes = try view.body.bytes()
            guard view.isIntact() else { continue }
            return try prepared(try renewed(plan, for: view), UploadBody(bytes), nil)
        }
        return nil
    }
}

extension UploadBody {
    /// All of it, read into memory. Ranges of the store cannot be.
    fileprivate func bytes() throws(StoreError) -> [UInt8] {
        var bytes: [UInt8] = []
        for segment in segments {
            switch segment {
            case .bytes(let part): bytes += part
            case .file(let descriptor, let offset, let length):
                let start = bytes.count
                bytes += repeatElement(0, count: Int(length))
                var position = 0
                while position < Int(length) {
                    let count = bytes.withUnsafeMutableBytes {
                        pread(
                            descriptor, $0.baseAddress! + start + position, Int(length) - position,
                            off_t(offset) + off_t(position))
                    }
                    guard count >= 0 else { throw copyFailed() }
                    // The file became shorter: what is missing reads as zero, and the view is not intact any more.
                    if count == 0 { break }
                    position += count
                }
            case .stored(let path, _, _):
                throw StoreError(.internal, "'\(path)' was to be sent from the store itself", path: path)
            }
        }
        return bytes
    }
}
