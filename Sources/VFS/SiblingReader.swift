import Caching
import Catalog
import StoreAPI
import Threading

/// Brings small files before they are asked for, where somebody reads those of a directory one after the other, in its
/// order: `tar c`, `grep -r` and `cp -r` would wait for a round trip to the store with each.
///
/// Lock order: the state's lock is a leaf; the catalog and the cache are called outside of it.
final class SiblingReader: Sendable {
    /// How many entries a reader may leave out.
    private static let stride = 8
    /// Whoever has just read one directory in order, and goes on in another, is believed at once.
    private static let trust = Duration.seconds(2)

    private let state = Lock(Courses())
    private let backing: Backing
    private let surroundings: Surroundings
    /// One thread, so that opens are looked at in their order.
    private let pool = WorkerPool(name: "vfs-siblings", limit: 1)

    init(backing: Backing, surroundings: Surroundings) {
        self.backing = backing
        self.surroundings = surroundings
    }

    /// A file was opened for reading.
    ///
    /// - Parameter isAbsent: Whether its bytes have to come from the store.
    func opened(_ file: InodeID, isAbsent: Bool) {
        let now = surroundings.clock.monotonic
        var directory: InodeID?
        let isUnexpected = state.withLock { state in
            guard !state.isShutDown else { return false }
            guard let known = state.advance(to: file, isLate: isAbsent, at: now) else { return isAbsent }
            if state.beginFilling(known) { directory = known }
            return false
        }
        if let directory { pool.submit { [self] in fill(directory) } }
        if isUnexpected { pool.submit { [self] in note(file) } }
    }

    func shutdown() {
        state.withLock { state in
            state = Courses()
            state.isShutDown = true
        }
        pool.shutdown()
    }

    /// Somebody reads a file that nobody expected.
    private func note(_ file: InodeID) {
        do {
            guard let place = try backing.catalog.position(of: file) else { return }
            let before = state.withLock { $0[place.directory] }
            let isNext =
                try before.map { before throws(CatalogError) in
                    // Several programs that share the files out open them nearly in order.
                    guard place.cookie > before.position || before.window > 0 else { return false }
                    let furthest = max(place.cookie, before.position)
                    return try backing.catalog.neighbours(
                        in: place.directory, after: min(place.cookie, before.position),
                        count: max(Self.stride, before.window)
                    ).contains { $0.cookie == furthest }
                } ?? false
            let now = surroundings.clock.monotonic
            let isBegun = state.withLock { state in
                guard !state.isShutDown else { return false }
                // Asked for since it was opened.
                if let known = state.advance(to: file, isLate: true, at: now) { return state.beginFilling(known) }
                let isTrusted = before == nil && state.lastHit.map { now - $0 <= Self.trust } ?? false
                state.turn(place.directory, to: place.cookie, isNext: isNext, at: now)
                return (isNext || isTrusted) && state.beginFilling(place.directory)
            }
            if isBegun { fill(place.directory) }
        } catch {
            surroundings.report(error)
        }
    }

    /// Asks for what the reader of `directory` will come to.
    private func fill(_ directory: InodeID) {
        defer { state.withLock { $0.endFilling(directory) } }
        guard let wish = state.withLock({ $0.wish(in: directory) }) else { return }
        do {
            let wanted = try backing.catalog.neighbours(in: directory, after: wish.position, count: wish.horizon)
                .filter { $0.cookie > wish.looked && $0.isAbsent && $0.size <= CachedContent.largestWhole }
                .prefix(wish.count)
            state.withLock { $0.expect(wanted.map { (cookie: $0.cookie, file: $0.file) }, in: directory) }
            for neighbour in wanted {
                // What keeps it from being fetched is told to whoever reads it.
                guard let isBegun = try? backing.cache.fetchAhead(neighbour.file), isBegun else { return }
            }
        } catch {
            surroundings.report(error)
        }
    }
}

/// How readers go through directories.
private struct Courses {
    /// How somebody goes through one.
    struct Course {
        static let windows = 4...64

        /// Cookie of the last entry that was opened, and of the last that was asked for.
        var position: Int64
        var looked: Int64
        /// How many files may be on their way, or here and not opened yet; 0: nobody knows yet where this goes.
        var window = 0
        /// What was asked for, in order.
        var expected: [(cookie: Int64, file: InodeID)] = []
        var isFilling = false
        var used: MonotonicTime

        /// How many of the expected files, from the first on, the reader has passed.
        var passed: Int { expected.firstIndex { $0.cookie > position } ?? expected.count }
        var outstanding: Int { expected.count - passed }

        /// The reader has caught up: next time it is to find more.
        mutating func widen() { window = min(window * 2, Self.windows.upperBound) }
    }

    /// Directories that are kept in mind.
    private static let most = 64

    private var courses: [InodeID: Course] = [:]
    /// The directories of all files that are expected.
    private var expected: [InodeID: InodeID] = [:]
    /// When a reader last opened what it was expected to.
    private(set) var lastHit: MonotonicTime?
    var isShutDown = false

    subscript(_ directory: InodeID) -> Course? { courses[directory] }

    /// A reader opens what it was expected to, or something else.
    ///
    /// - Parameter isLate: The bytes are not here yet.
    /// - Returns: The directory of the file; nil: it was not expected.
    mutating func advance(to file: InodeID, isLate: Bool, at now: MonotonicTime) -> InodeID? {
        guard let directory = expected[file], var course = courses[directory],
            let cookie = course.expected.first(where: { $0.file == file })?.cookie
        else { return nil }
        lastHit = now
        course.used = now
        if cookie > course.position {
            course.position = cookie
            if isLate { course.widen() }
        }
        // Those who come late are expected for a while.
        let old = course.passed - Course.windows.upperBound
        if old > 0 {
            for (_, file) in course.expected.prefix(old) { expected[file] = nil }
            course.expected.removeFirst(old)
        }
        courses[directory] = course
        return directory
    }

    /// A reader opens a file that was not expected.
    ///
    /// - Parameter isNext: It is one of the next behind that which was opened before.
    mutating func turn(_ directory: InodeID, to cookie: Int64, isNext: Bool, at now: MonotonicTime) {
        if isNext, var course = courses[directory] {
            if cookie > course.position { course.widen() }
            course.position = max(course.position, cookie)
            course.looked = max(course.looked, cookie)
            course.used = now
            courses[directory] = course
        } else {
            forget(directory)
            if courses.count >= Self.most, let oldest = courses.min(by: { $0.value.used < $1.value.used }) {
                forget(oldest.key)
            }
            courses[directory] = Course(position: cookie, looked: cookie, used: now)
        }
    }

    private mutating func forget(_ directory: InodeID) {
        for (_, file) in courses.removeValue(forKey: directory)?.expected ?? [] { expected[file] = nil }
    }

    /// - Returns: Whether it is the caller's to fill the window, and then to call ``endFilling(_:)``.
    mutating func beginFilling(_ directory: InodeID) -> Bool {
        guard var course = courses[directory], !course.isFilling else { return false }
        course.window = max(course.window, Course.windows.lowerBound)
        guard course.outstanding <= course.window / 2 else { return false }
        course.isFilling = true
        courses[directory] = course
        return true
    }

    mutating func endFilling(_ directory: InodeID) { courses[directory]?.isFilling = false }

    /// What to ask for: `count` files that come after the cookie `looked`, of the next `horizon` entries.
    func wish(in directory: InodeID) -> (position: Int64, looked: Int64, horizon: Int, count: Int)? {
        guard let course = courses[directory] else { return nil }
        return (course.position, course.looked, course.window * 4, course.window - course.outstanding)
    }

    mutating func expect(_ files: [(cookie: Int64, file: InodeID)], in directory: InodeID) {
        guard var course = courses[directory], let last = files.last else { return }
        for (_, file) in files { expected[file] = directory }
        course.expected += files
        course.looked = max(course.looked, last.cookie)
        courses[directory] = course
    }
}
