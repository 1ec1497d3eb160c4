public import StoreAPI
import Threading

/// A store around another one that fails when a test says so.
///
/// Faults are asked in the order in which they were added; the first that applies to a call is done. While the outage
/// is on, no call reaches the store at all.
///
/// In debug builds it ends the process when a caller holds a ``Lock`` or ``Monitor`` of `Threading`: nobody may keep
/// others waiting for as long as a store takes.
public final class FaultyStore: StoreWrapper {
    public enum Operation: String, Hashable, Sendable, CaseIterable {
        case connect, metadata, list, read, put, setAttributes, createDirectory, delete, move, copy, spaceUsage,
            accountInformation
    }

    /// What goes wrong with a call.
    public enum Fault: Sendable {
        /// The store is not asked.
        case fail(StoreError)
        /// The store does it, and the caller is told of a failure: as when a connection breaks before the answer.
        case loseAnswer
        /// A read gives so many bytes fewer than there are and fails as `.corrupted`, as a transport does that has
        /// counted them.
        case truncate(by: Int64)
        /// A read gives its first byte with one bit changed, unnoticed.
        case flipBit
        /// The call waits until the gate is opened, and is done then.
        case wait(Gate)
    }

    /// To which calls of an operation a fault is done, counted from 1 when it is added.
    public enum Calls: Hashable, Sendable {
        case only(Int)
        case every(Int)
        case first(Int)
        case all

        func contains(_ number: Int) -> Bool {
            switch self {
            case .only(let wanted): number == wanted
            case .every(let step): number % step == 0
            case .first(let count): number <= count
            case .all: true
            }
        }
    }

    /// What happens to every call for the time being.
    public enum Outage: Sendable {
        case none
        /// Calls fail with `.unavailable` at once.
        case failing
        /// Calls do not come back until the outage is over.
        case hanging
    }

    private struct Rule {
        let operation: Operation?
        let paths: StorePath?
        let calls: Calls
        let fault: Fault
        var seen = 0
    }

    private struct State {
        var rules: [Rule] = []
        var counts: [Operation: Int] = [:]
        var outage = Outage.none
        var waiting = 0
    }

    public let inner: any Store
    private let state = Monitor(State())

    public init(_ inner: any Store) { self.inner = inner }

    /// Lets calls fail from now on.
    ///
    /// - Parameters:
    ///   - operation: nil: whichever.
    ///   - paths: Only calls for this path and what lies below; nil: all.
    public func inject(
        _ fault: Fault, on operation: Operation?, _ calls: Calls = .all, below paths: StorePath? = nil
    ) {
        state.withLock { $0.rules.append(Rule(operation: operation, paths: paths, calls: calls, fault: fault)) }
    }

    /// Takes all faults back and ends the outage.
    public func heal() {
        state.update {
            $0.rules = []
            $0.outage = .none
        }
    }

    public var outage: Outage {
        get { state.withLock { $0.outage } }
        set { state.update { $0.outage = newValue } }
    }

    /// How many calls of an operation have been made so far, failed ones among them.
    public func calls(_ operation: Operation) -> Int { state.withLock { $0.counts[operation] ?? 0 } }

    /// Waits until so many calls hang in an outage.
    ///
    /// - Returns: Whether they came before the deadline.
    public func waitForHanging(_ calls: Int, within limit: Duration = .seconds(30)) -> Bool {
        state.wait(until: .now + limit) { $0.waiting >= calls ? () : nil } != nil
    }

    public func connect() throws(StoreError) {
        try perform(.connect, .root) { () throws(StoreError) in try inner.connect() }
    }
    public func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        try perform(.metadata, path) { () throws(StoreError) in try inner.metadata(of: path) }
    }
    public func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        try perform(.list, directory) { () throws(StoreError) in try inner.list(directory, after: cursor) }
    }
    public func read(_ path: StorePath, _ request: ReadRequest, into sink: any ReadSink) throws(StoreError) -> Metadata
    {
        let fault = try begin(.read, path)
        let start = request.range?.lowerBound ?? 0
        let metadata: Metadata
        switch fault {
        case .truncate(let missing):
            let whole = MemorySink(from: start)
            _ = try inner.read(path, request, into: whole)
            try deliver(Array(whole.bytes.dropLast(Int(missing))), from: start, to: sink)
            throw StoreError(.corrupted, "'\(path)' ended \(missing) bytes early", path: path)
        case .flipBit:
            let whole = MemorySink(from: start)
            metadata = try inner.read(path, request, into: whole)
            var bytes = whole.bytes
            if !bytes.isEmpty { bytes[0] ^= 1 }
            try deliver(bytes, from: start, to: sink)
        default:
            metadata = try inner.read(path, request, into: sink)
        }
        try end(fault, .read, path)
        return metadata
    }
    public func put(_ body: UploadBody, at path: StorePath, _ options: PutOptions) throws(StoreError) -> Metadata {
        try perform(.put, path) { () throws(StoreError) in try inner.put(body, at: path, options) }
    }
    public func setAttributes(_ attributes: Attributes, at path: StorePath, ifVersion version: Version?)
        throws(StoreError) -> Metadata
    {
        try perform(.setAttributes, path) { () throws(StoreError) in
            try inner.setAttributes(attributes, at: path, ifVersion: version)
        }
    }
    public func createDirectory(at path: StorePath, _ attributes: Attributes) throws(StoreError) {
        try perform(.createDirectory, path) { () throws(StoreError) in
            try inner.createDirectory(at: path, attributes)
        }
    }
    public func delete(_ deletions: [Deletion]) -> [StoreError?] {
        let first = deletions.first?.path ?? .root
        do throws(StoreError) {
            let fault = try begin(.delete, first)
            let answers = inner.delete(deletions)
            try end(fault, .delete, first)
            return answers
        } catch {
            return deletions.map { _ in error }
        }
    }
    public func move(_ source: StorePath, to destination: StorePath) throws(StoreError) {
        try perform(.move, source) { () throws(StoreError) in try inner.move(source, to: destination) }
    }
    public func copy(_ source: StorePath, to destination: StorePath, _ options: CopyOptions) throws(StoreError)
        -> Metadata
    {
        try perform(.copy, source) { () throws(StoreError) in try inner.copy(source, to: destination, options) }
    }
    public func spaceUsage() throws(StoreError) -> SpaceUsage {
        try perform(.spaceUsage, .root) { () throws(StoreError) in try inner.spaceUsage() }
    }
    public func accountInformation() throws(StoreError) -> [AccountField] {
        try perform(.accountInformation, .root) { () throws(StoreError) in try inner.accountInformation() }
    }

    private func deliver(_ bytes: [UInt8], from start: Int64, to sink: any ReadSink) throws(StoreError) {
        try bytes.withUnsafeBufferPointer { bytes throws(StoreError) in
            try sink.write(UnsafeRawBufferPointer(bytes), at: start)
        }
    }

    private func perform<Result>(
        _ operation: Operation, _ path: StorePath, _ body: () throws(StoreError) -> Result
    ) throws(StoreError) -> Result {
        let fault = try begin(operation, path)
        let result = try body()
        try end(fault, operation, path)
        return result
    }

    /// Counts the call and finds out what goes wrong with it; does what goes wrong before it.
    private func begin(_ operation: Operation, _ path: StorePath) throws(StoreError) -> Fault? {
        precondition(HeldLocks.count == 0, "a lock is held while the store is asked: \(operation) of '\(path)'")
        let fault = state.withLock { state in
            state.counts[operation, default: 0] += 1
            var found: Fault?
            for index in state.rules.indices {
                let rule = state.rules[index]
                guard rule.operation == nil || rule.operation == operation else { continue }
                if let paths = rule.paths, !path.isInside(paths) { continue }
                state.rules[index].seen += 1
                if found == nil, rule.calls.contains(rule.seen + 1) { found = rule.fault }
            }
            return found
        }
        try passOutage(operation, path)
        switch fault {
        case .fail(let error): throw error
        case .wait(let gate): gate.pass()
        default: break
        }
        return fault
    }

    private func end(_ fault: Fault?, _ operation: Operation, _ path: StorePath) throws(StoreError) {
        if case .loseAnswer = fault {
            throw StoreError(.unavailable, "the answer to \(operation) of '\(path)' was lost", path: path)
        }
    }

    private func passOutage(_ operation: Operation, _ path: StorePath) throws(StoreError) {
        let isHanging = try state.update { state throws(StoreError) in
            switch state.outage {
            case .none: return false
            case .failing:
                throw StoreError(.unavailable, "the store is out of order, for \(operation)", path: path)
            case .hanging:
                state.waiting += 1
                return true
            }
        }
        guard isHanging else { return }
        let wasFailing = state.wait { state -> Bool? in
            switch state.outage {
            case .none: false
            case .failing: true
            case .hanging: nil
            }
        }
        state.update { $0.waiting -= 1 }
        if wasFailing == true {
            throw StoreError(.unavailable, "the store is out of order, for \(operation)", path: path)
        }
    }
}

/// A door that calls wait at until a test opens it.
public final class Gate: Sendable {
    private struct State {
        var isOpen = false
        var waiting = 0
    }
    private let state = Monitor(State())

    public init() {}

    public func open() { state.update { $0.isOpen = true } }

    /// Waits until the gate is open.
    public func pass() {
        state.update { $0.waiting += 1 }
        _ = state.wait { $0.isOpen ? () : nil }
        state.update { $0.waiting -= 1 }
    }

    /// Waits until so many calls stand at the gate.
    ///
    /// - Returns: Whether they came before the deadline.
    public func waitForCallers(_ count: Int, within limit: Duration = .seconds(30)) -> Bool {
        state.wait(until: .now + limit) { $0.waiting >= count ? () : nil } != nil
    }
}
