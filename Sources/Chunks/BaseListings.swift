import StoreAPI
import Threading

/// What lies on the store as plain objects, beside the chunks: asked of the store, and remembered for a while.
///
/// A tree that is in chunks only costs no request at all once the root's listing has shown that the store has nothing of
/// it. Locks: one, a leaf, never held while the store is asked.
final class BaseListings: Sendable {
    private struct Listing {
        /// nil: there are too many to be remembered.
        var entries: [FileName: Metadata]?
        var since: MonotonicTime
        var count: Int { (entries?.count ?? 0) + 1 }
    }

    private struct State {
        var listings: [StorePath: Listing] = [:]
        /// Entries of all listings.
        var count = 0
        /// How often something was changed here: a listing that was under way then may not show it.
        var changes = 0
        /// Listings under way, with the cursor at which they go on.
        var partial: [StorePath: (next: ListCursor, listing: Listing)] = [:]
    }

    /// A directory with more entries is asked for each time; that many are remembered in all.
    private static let longestListing = 20_000
    private static let mostEntries = 200_000
    private static let mostPartial = 64

    private let store: any Store
    private let clock: any Clock
    /// How long is believed what was listed.
    let lifetime: Lock<Duration>
    private var trust: Duration { lifetime.withLock { $0 } }
    private let state = Lock(State())

    init(of store: any Store, trust: Duration, clock: any Clock) {
        self.store = store
        self.clock = clock
        lifetime = Lock(trust)
    }

    /// What the store has at a path, without asking it: nil where that is not known.
    private func remembered(_ path: StorePath) -> Metadata?? {
        let now = clock.monotonic
        return state.withLock { state in
            var path = path
            var isItself = true
            while let parent = path.parent {
                if let listing = state.listings[parent], now - listing.since < trust, let entries = listing.entries {
                    guard let found = entries[path.name!] else { return .some(nil) }
                    if isItself { return .some(found) }
                    // Nothing lies below a file.
                    return found.kind == .directory ? nil : .some(nil)
                }
                path = parent
                isItself = false
            }
            return nil
        }
    }

    /// What the store says lies at `path`, asked now, unless it is known that nothing is there.
    func metadata(of path: StorePath) throws(StoreError) -> Metadata? {
        if path.isInside(.control) { return nil }
        // The root's listing shows of what is in chunks only that the store has nothing of it.
        if trust > .zero, remembered(path) == nil { try list(.root) }
        if case .some(nil) = remembered(path) { return nil }
        return try ask(path)
    }

    /// What lies at `path`, by the listing of its directory: for many paths of one directory.
    func entry(at path: StorePath) throws(StoreError) -> Metadata? {
        if path.isInside(.control) { return nil }
        if let known = remembered(path) { return known }
        guard trust > .zero, let parent = path.parent else { return try ask(path) }
        guard try isDirectory(parent) else { return nil }
        try list(parent)
        if let known = remembered(path) { return known }
        return try ask(path)
    }

    /// What the store says lies at `path`, asked now whatever is known, and remembered.
    func askAnew(_ path: StorePath) throws(StoreError) -> Metadata? {
        let found = try ask(path)
        note(found, at: path)
        return found
    }

    private func ask(_ path: StorePath) throws(StoreError) -> Metadata? {
        do throws(StoreError) { return try store.metadata(of: path) } catch {
            switch error.code {
            case .notFound, .notADirectory: return nil
            default: throw error
            }
        }
    }

    /// Whether the store has a directory there.
    func isDirectory(_ path: StorePath) throws(StoreError) -> Bool {
        path.isRoot ? true : try entry(at: path)?.kind == .directory
    }

    /// Lists a directory, unless that was done a short while ago.
    private func list(_ directory: StorePath) throws(StoreError) {
        let now = clock.monotonic
        let isFresh = state.withLock { state in
            state.listings[directory].map { now - $0.since < trust } ?? false
        }
        guard !isFresh else { return }
        var (cursor, count): (ListCursor?, Int) = (nil, 0)
        repeat {
            let page = try page(of: directory, after: cursor)
            cursor = page?.next
            count += page?.entries.count ?? 0
        } while cursor != nil && count <= Self.longestListing
    }

    /// A page of the store's own listing; nil where it has no such directory.
    func page(of directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage? {
        let (since, changes) = (clock.monotonic, state.withLock { $0.changes })
        var page: ListPage
        do throws(StoreError) { page = try store.list(directory, after: cursor) } catch {
            switch error.code {
            case .notFound, .notADirectory:
                state.withLock { state in
                    guard state.changes == changes else { return }
                    remember(Listing(entries: [:], since: since), of: directory, in: &state)
                }
                return nil
            default: throw error
            }
        }
        if directory.isRoot { page.entries.removeAll { $0.name == FileName.control } }
        state.withLock { state in
            guard state.changes == changes else { return }
            var listing = Listing(entries: [:], since: since)
            if let cursor {
                guard let partial = state.partial.removeValue(forKey: directory), partial.next == cursor else { return }
                listing = partial.listing
            }
            for entry in page.entries { listing.entries?[entry.name] = entry.metadata }
            if listing.count > Self.longestListing { listing.entries = nil }
            if let next = page.next, listing.entries != nil {
                if state.partial.count >= Self.mostPartial { state.partial = [:] }
                state.partial[directory] = (next, listing)
            } else {
                remember(listing, of: directory, in: &state)
            }
        }
        return page
    }

    private func remember(_ listing: Listing, of directory: StorePath, in state: inout State) {
        if let old = state.listings.removeValue(forKey: directory) { state.count -= old.count }
        if state.count + listing.count > Self.mostEntries {
            state.listings = [:]
            state.count = 0
        }
        state.listings[directory] = listing
        state.count += listing.count
    }

    /// A change of the store that was made here.
    ///
    /// - Parameter metadata: nil when nothing is there any more.
    func note(_ metadata: Metadata?, at path: StorePath) {
        state.withLock { state in
            state.partial = [:]
            state.changes += 1
            guard let parent = path.parent else { return }
            if let metadata {
                state.listings[parent]?.entries?[path.name!] = metadata
                var directory = parent
                while let above = directory.parent {
                    if state.listings[above]?.entries?[directory.name!]?.kind != .directory {
                        state.listings[above]?.entries?[directory.name!] = Metadata(
                            kind: .directory, modified: clock.calendar)
                    }
                    directory = above
                }
            } else {
                state.listings[parent]?.entries?[path.name!] = nil
            }
        }
    }

    /// Forgets what lies in a directory that was moved, deleted or replaced, and below.
    func forget(_ directory: StorePath) {
        state.withLock { state in
            state.partial = [:]
            state.changes += 1
            for path in state.listings.keys where path.isInside(directory) {
                state.count -= state.listings.removeValue(forKey: path)!.count
            }
        }
    }
}
