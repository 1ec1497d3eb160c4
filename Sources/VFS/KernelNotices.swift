import Threading

/// Tells the kernel what changed, on a thread of its own: a notice can wait inside the kernel for a lock that a
/// request under way holds, so a thread that answers requests must not send one.
final class KernelNotices: Sendable {
    enum Notice: Sendable {
        case entry(parent: UInt64, name: [UInt8])
        case attributes(UInt64)
        /// What is written and still in the kernel alone is to come here first.
        case writeBack(UInt64, then: @Sendable () -> Void)
    }

    private struct State {
        var queue: [Notice] = []
        var notifier: (any KernelNotifier)?
        var isShutDown = false
        var isRunning = false
    }

    private let state = Monitor(State())

    func setNotifier(_ notifier: (any KernelNotifier)?) {
        state.update {
            $0.notifier = notifier
            if notifier == nil { $0.queue = [] }
        }
    }

    func send(_ notices: [Notice]) {
        guard !notices.isEmpty else { return }
        let needsThread = state.update { state in
            guard state.notifier != nil, !state.isShutDown else { return false }
            state.queue += notices
            defer { state.isRunning = true }
            return !state.isRunning
        }
        if needsThread { WorkerThread(name: "vfs-notices") { [self] in run() }.detach() }
    }

    /// Has the kernel send what was written to the file and is still in its page cache, then calls `then`: at once
    /// where there is no kernel; never when the mount ends first.
    func writeBack(_ number: UInt64, then: @escaping @Sendable () -> Void) {
        if state.withLock({ $0.notifier == nil }) { return then() }
        send([.writeBack(number, then: then)])
    }

    /// Sends nothing from now on. A notice that is under way is not waited for: it may end with the mount only.
    func shutdown() {
        state.update {
            $0.isShutDown = true
            $0.queue = []
            $0.notifier = nil
        }
    }

    private func run() {
        while true {
            let work: (notices: [Notice], notifier: (any KernelNotifier)?)? = state.wait { state in
                if state.isShutDown { return ([], nil) }
                guard !state.queue.isEmpty else { return nil }
                defer { state.queue = [] }
                return (state.queue, state.notifier)
            }
            for notice in work?.notices ?? [] {
                if state.withLock({ $0.isShutDown }) { return }
                switch notice {
                case .entry(let parent, let name): work?.notifier?.invalidateEntry(parent: parent, name: name)
                case .attributes(let number): work?.notifier?.invalidateAttributes(of: number)
                case .writeBack(let number, let then):
                    work?.notifier?.writeBack(number)
                    then()
                }
            }
            if state.withLock({ $0.isShutDown }) { return }
        }
    }
}
