import FoundationEssentials
import Glibc
import StoreAPI
import StoreHTTP
import Threading

/// The right to make chunks on a store that cannot decide itself which of two machines was first.
///
/// Who wants it puts an object of its own name into one directory and then lists that: of two that do so at the same
/// time at least one sees the other, and gives way. It lapses when it is not renewed, as after the loss of a machine.
/// Ages are taken from the times that the store tells, so that no machine's clock matters. All this is as good as the
/// store's listing.
///
/// From any thread. No lock is held while the store is asked.
final class WriterLease: Sendable {
    /// How long an object counts after it was put.
    static let term = Duration.seconds(600)
    private static let renewalInterval = Duration.seconds(200)

    private struct Tenure {
        var since: Timestamp
        /// When the last request that renewed it began.
        var renewed: ClockReading
    }

    private let path: StorePath
    private let clock: any Clock
    /// nil: it is not held.
    private let tenure = Lock<Tenure?>(nil)
    private let requests = Gathering<Void, StoreError?>()

    /// - Parameter folder: One that no other process uses: together with the machine it makes the object's name, so that
    ///   a mount that begins again after a crash finds its own.
    init(folder: String, clock: any Clock) {
        // Where there is no such file, the host's name has to do.
        let machine = readFile("/etc/machine-id", limit: 100) ?? []
        let name = "\(hostName())-\(fingerprint(machine + Array("\n\(folder)".utf8)))"
        path = ChunkPaths.writers.appending(FileName(name)!)
        self.clock = clock
    }

    /// Takes the right, or makes sure that it lasts for some minutes.
    ///
    /// - Throws: ``StoreError``: `.inUse`, with a sentence about who has it; what the store throws.
    func hold(on base: any Store) throws(StoreError) {
        if isFresh { return }
        let failure = requests.perform(()) { [self] _ -> StoreError? in
            do throws(StoreError) {
                try holdAlone(base)
                return nil
            } catch { return error }
        }
        if let failure { throw failure }
    }

    /// Makes it last, if it is held.
    func renew(on base: any Store) throws(StoreError) {
        if tenure.withLock({ $0 }) != nil { try hold(on: base) }
    }

    /// Gives it back, if it is held.
    func release(on base: any Store) throws(StoreError) {
        let wasHeld = tenure.withLock { tenure in
            defer { tenure = nil }
            return tenure != nil
        }
        if wasHeld { try base.delete(path) }
    }

    private var isFresh: Bool {
        tenure.withLock { $0?.renewed.isWithin(Self.renewalInterval, of: clock) } ?? false
    }

    private func holdAlone(_ base: any Store) throws(StoreError) {
        if isFresh { return }
        let now = ClockReading(clock)
        if let held = tenure.withLock({ $0 }), held.renewed.isWithin(Self.term / 2, of: clock) {
            do throws(StoreError) { try put(Note(since: held.since), on: base) } catch {
                // There is time for another attempt.
                guard error.isTransient else { throw error }
                return
            }
            tenure.withLock { $0?.renewed = now }
            return
        }
        tenure.withLock { $0 = nil }
        try take(base, Note(since: now.calendar))
        tenure.withLock { $0 = Tenure(since: now.calendar, renewed: now) }
    }

    // MARK: On the store

    /// What an object says of who put it.
    private struct Note: Codable {
        var host = hostName()
        var process = getpid()
        var since: String

        init(since: Timestamp) { self.since = Timestamp(seconds: since.seconds).iso8601 }

        /// nil: it says nothing that can be understood.
        init?(_ bytes: [UInt8]) {
            guard let note = try? JSONDecoder().decode(Self.self, from: Data(bytes)) else { return nil }
            self = note
        }
    }

    /// One that was put so recently may be about to give way itself.
    private static let moment = Duration.seconds(10)
    private static let attempts = 4

    private func take(_ base: any Store, _ note: Note) throws(StoreError) {
        var attempt = 1
        while true {
            try put(note, on: base)
            guard let (other, age) = try other(on: base) else { return }
            try base.delete(path)
            guard age < Self.moment, attempt < Self.attempts else { throw try refusal(for: other, age, on: base) }
            attempt += 1
            usleep(.random(in: 0...1_000_000))
        }
    }

    private func put(_ note: Note, on base: any Store) throws(StoreError) {
        let text: Data
        do { text = try JSONEncoder().encode(note) } catch {
            throw StoreError(.internal, "a note for '\(path)' could not be made: \(error)", path: path)
        }
        _ = try base.put(UploadBody(Array(text)), at: path, PutOptions())
    }

    /// Another one that counts, and how long ago it was put. Those that have lapsed are removed.
    private func other(on base: any Store) throws(StoreError) -> (StorePath, Duration)? {
        var found: [(path: StorePath, time: Timestamp)] = []
        try base.forEachPage(of: ChunkPaths.writers) { (page: ListPage) throws(StoreError) in
            found += page.entries.map { (ChunkPaths.writers.appending($0.name), $0.metadata.modified) }
        }
        guard let own = found.first(where: { $0.path == path }) else {
            throw StoreError(
                .unavailable, "'\(path)' was put and is not listed: the store is behind with its listings", path: path)
        }
        var latest: (path: StorePath, time: Timestamp)?
        var lapsed: [StorePath] = []
        for other in found where other.path != path {
            if own.time.nanoseconds - other.time.nanoseconds > Self.term.nanoseconds {
                lapsed.append(other.path)
            } else if latest.map({ $0.time < other.time }) ?? true {
                latest = other
            }
        }
        for error in base.delete(lapsed) {
            if let error { throw error }
        }
        return latest.map { ($0.path, .nanoseconds(max(0, own.time.nanoseconds - $0.time.nanoseconds))) }
    }

    private func refusal(for other: StorePath, _ age: Duration, on base: any Store) throws(StoreError) -> StoreError {
        let sink = MemorySink()
        do throws(StoreError) { _ = try base.read(other, ReadRequest(range: 0..<4096), into: sink) } catch {
            guard error.code == .notFound else { throw error }
        }
        let who = Note(sink.bytes).map { "process \($0.process) on \($0.host), since \($0.since)" } ?? "'\(other)'"
        return StoreError(
            .inUse,
            "another mount packs files on this store, which cannot keep two apart: \(who), heard of "
                + "\(Int(age.inSeconds)) s ago. Stop that one, or mount with -o ro. If it is lost, its right lapses "
                + "\(Int(Self.term.inSeconds) / 60) minutes after it was last heard of.",
            path: other)
    }
}
