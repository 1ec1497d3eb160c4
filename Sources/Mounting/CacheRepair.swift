import Caching
import Catalog
import Glibc
import StoreAPI
package import Threading

/// Puts right what somebody or a broken disk has done to the folder of a cache, without dropping bytes.
///
/// What cannot be attributed to a file any more is kept in `recovered/TIME` in the folder, with a `list.txt` that says
/// what is known of it. For a folder that nobody else uses: its lock is held.
package struct CacheRepair: Sendable {
    let folder: CacheFolder
    let clock: any Clock
    /// Which store the folder must be for; nil: for whichever it is.
    let identity: String?

    package init(_ folder: CacheFolder, identity: String?, clock: any Clock = SystemClock()) {
        self.folder = folder
        self.identity = identity
        self.clock = clock
    }

    /// What was done.
    package struct Outcome: Sendable {
        /// What was wrong, a sentence each.
        package var faults: [String] = []
        /// What cannot be put right by anybody here.
        package var uncorrected: [String] = []
        /// Where what could not be attributed is kept; nil: there was nothing.
        package var kept: String?
        /// How many files of the cache are there.
        package var keptFiles = 0
        /// Names that were taken over from a damaged catalog.
        package var entries: Int64 = 0
    }

    /// The catalog makes no sense: makes a new one from what can be read of it. The old one is kept.
    func rebuild(because reason: String) throws(MountError) -> (catalog: Catalog, outcome: Outcome) {
        var outcome = Outcome(faults: [reason])
        let old = CatalogFiles(path: folder.catalogPath)
        let oldTime = modified(old.path)
        let isOutdated = old.isOutdated
        let files = ContentCache.files(in: folder.contentPath)
        let highest = files.compactMap(\.inode?.value).max() ?? 2
        do throws(CatalogError) {
            let keeper = try Keeper(in: folder.path, at: clock.calendar)
            let work = keeper.folder + "/work"
            guard mkdir(work, 0o700) == 0 else { throw keeper.failure(errno) }
            defer { rmdir(work) }
            let new = CatalogFiles(path: work + "/catalog.sqlite")
            let draft = try Catalog(path: new.path, clock: clock)
            let rescue = try CatalogRescue(
                from: old, to: draft, workFolder: work, firstNewInode: highest + 1, accepting: mayTake)
            if let noted = rescue.identity, let identity, noted != identity {
                draft.close()
                for file in new.all { unlink(file) }
                throw CatalogError(
                    .exists, "it belongs to another store (\(noted)), and these settings are for \(identity)")
            }
            if let identity { try draft.setNote(MountStack.identityNote, to: identity) }
            try draft.makeDurable()
            draft.close()
            outcome.entries = rescue.entries
            // The log goes first: SQLite would take it for the new catalog's.
            for file in old.all { try keeper.keep(file) }
            guard rename(new.path, old.path) == 0 else { throw CatalogError(.damaged, errorText(errno)) }
            for file in new.all { unlink(file) }
            let catalog = try Catalog(path: folder.catalogPath, clock: clock)
            let judge = Judge(
                catalog: catalog, strays: Set(rescue.strays), knowsAllContents: rescue.knowsAllContents,
                outdatedSince: isOutdated ? oldTime : nil)
            try sort(files, judge, keeper, &outcome)
            try catalog.makeDurable()
            keeper.writeList()
            outcome.kept = keeper.folder
            return (catalog, outcome)
        } catch {
            throw MountError("the catalog '\(old.path)' makes no sense, and could not be rebuilt: \(error.message)")
        }
    }

    /// The catalog can be read, and is put right where it contradicts itself or the cache files.
    func mend(_ catalog: Catalog) throws(MountError) -> Outcome {
        var outcome = Outcome()
        do throws(CatalogError) {
            let mended = try catalog.mend()
            outcome.faults = mended.faults
            let (strays, lost) = try judge(catalog, mended)
            outcome.uncorrected = lost
            if !strays.isEmpty {
                let keeper = try Keeper(in: folder.path, at: clock.calendar)
                for file in strays { try keeper.keep(file, as: nil) }
                keeper.writeList()
                outcome.kept = keeper.folder
                outcome.keptFiles = strays.count
                outcome.faults.append(Self.sentence(strays: strays.count))
            }
            try catalog.makeDurable()
        } catch {
            throw MountError("the catalog '\(folder.catalogPath)' cannot be repaired: \(error.message)")
        }
        return outcome
    }

    static func sentence(strays: Int) -> String {
        strays == 1 ? "1 file of the cache belonged to no file" : "\(strays) files of the cache belonged to no file"
    }

    /// Cache files that a mended catalog has no use for, and files that lack their cache file.
    func judge(_ catalog: Catalog, _ mended: MendedCatalog) throws(CatalogError) -> (
        strays: [ListedCacheFile], lost: [String]
    ) {
        let files = ContentCache.files(in: folder.contentPath)
        var strays: [ListedCacheFile] = []
        for file in files {
            if let inode = file.inode, !mended.strays.contains(inode), try catalog.inode(inode) != nil { continue }
            strays.append(file)
        }
        return (strays, try missingBytes(catalog, files))
    }

    /// Without a note of the store, a catalog is taken for the right one only in the folder that is named after it.
    private func mayTake(_ noted: String?) -> Bool {
        guard let noted else {
            guard let identity, let scheme = folder.path.split(separator: "/").last?.split(separator: "-").first else {
                return false
            }
            return folder.path.hasSuffix("/" + CacheFolder.defaultID(scheme: String(scheme), identity: identity))
        }
        return identity == nil || noted == identity
    }

    private func modified(_ path: String) -> Timestamp? {
        var status = stat()
        return stat(path, &status) == 0 ? Timestamp(status.st_mtim) : nil
    }

    /// Decides for each cache file whether the new catalog is right about it; else the file is kept aside.
    private func sort(_ files: [ListedCacheFile], _ judge: Judge, _ keeper: Keeper, _ outcome: inout Outcome)
        throws(CatalogError)
    {
        for file in files {
            let verdict = try judge.verdict(on: file)
            guard case .keep(let path) = verdict else { continue }
            try keeper.keep(file, as: path)
            outcome.keptFiles += 1
        }
        outcome.uncorrected += try missingBytes(judge.catalog, files)
    }

    /// Files whose cache file lacks bytes that are nowhere else.
    func missingBytes(_ catalog: Catalog, _ files: [ListedCacheFile]) throws(CatalogError) -> [String] {
        var sizes: [InodeID: Int64] = [:]
        for file in files { if let inode = file.inode { sizes[inode] = file.size } }
        var lost: [String] = []
        for record in try catalog.dirtyContents() {
            let end = record.present.intersection(0..<max(0, record.size)).last?.upperBound ?? 0
            guard end > sizes[record.inode] ?? 0, let path = try catalog.path(of: record.inode) else { continue }
            let what = sizes[record.inode] == nil ? "gone" : "cut off"
            lost.append(
                "'/\(shown(path.description))': its cache file is \(what), and what was not uploaded of it is lost. "
                    + "Write the file anew, or remove it.")
        }
        return lost
    }
}

/// Whether what a rebuilt catalog says of a cache file can be right.
private struct Judge {
    let catalog: Catalog
    let strays: Set<InodeID>
    let knowsAllContents: Bool
    /// The catalog is from then, and the file may have been changed since; nil: it is the newest.
    let outdatedSince: Timestamp?

    enum Verdict {
        case right
        /// The bytes are to be kept aside; they are those of the file at this path, as far as is known.
        case keep(StorePath?)
    }

    func verdict(on file: ListedCacheFile) throws(CatalogError) -> Verdict {
        guard let inode = file.inode, let record = try catalog.content(of: inode),
            let path = try catalog.path(of: inode)
        else { return .keep(nil) }
        if strays.contains(inode) { return .keep(path) }
        let isNewer = outdatedSince.map { file.modified >= $0 } ?? false
        if record.isDirty {
            if isNewer { try catalog.distrustRecord(of: inode) }
            return .right
        }
        guard record.source != nil else {
            try catalog.adoptCacheFile(of: inode)
            return .right
        }
        if isNewer || (record.present.isEmpty && !knowsAllContents) {
            try catalog.contentWasEvicted(inode)
            return .keep(path)
        }
        return .right
    }
}

/// The folder for what is kept.
private final class Keeper {
    let folder: String
    private var lines: [String] = []

    init(in cache: String, at time: Timestamp) throws(CatalogError) {
        var parts = tm()
        var seconds = time_t(time.seconds)
        gmtime_r(&seconds, &parts)
        func digits(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let name =
            "\(parts.tm_year + 1900)\(digits(parts.tm_mon + 1))\(digits(parts.tm_mday))T"
            + "\(digits(parts.tm_hour))\(digits(parts.tm_min))\(digits(parts.tm_sec))Z"
        let error = makeDirectories(cache + "/recovered", mode: 0o700)
        guard error == 0 else { throw Self.failure(cache + "/recovered", error) }
        var path = "\(cache)/recovered/\(name)"
        for number in 2... {
            if mkdir(path, 0o700) == 0 { break }
            guard errno == EEXIST else { throw Self.failure(path, errno) }
            path = "\(cache)/recovered/\(name)-\(number)"
        }
        folder = path
    }

    static func failure(_ path: String, _ error: Int32) -> CatalogError {
        CatalogError(
            error == ENOSPC || error == EDQUOT ? .noSpace : .damaged,
            "the folder '\(path)' for what can be recovered cannot be made: \(errorText(error))")
    }

    func failure(_ error: Int32) -> CatalogError { Self.failure(folder, error) }

    /// Moves a file of the catalog here, if it is there.
    func keep(_ path: String) throws(CatalogError) {
        let name = String(path[path.index(after: path.lastIndex(of: "/")!)...])
        guard rename(path, "\(folder)/\(name)") == 0 || errno == ENOENT else {
            throw CatalogError(.damaged, "'\(path)' cannot be moved to '\(folder)': \(errorText(errno))")
        }
    }

    func keep(_ file: ListedCacheFile, as path: StorePath?) throws(CatalogError) {
        if lines.isEmpty, mkdir(folder + "/files", 0o700) != 0, errno != EEXIST {
            throw CatalogError(.damaged, "'\(folder)/files' cannot be made: \(errorText(errno))")
        }
        let name = String(file.path[file.path.index(after: file.path.lastIndex(of: "/")!)...])
        guard rename(file.path, "\(folder)/files/\(name)") == 0 else {
            throw CatalogError(.damaged, "'\(file.path)' cannot be moved to '\(folder)': \(errorText(errno))")
        }
        var seconds = time_t(file.modified.seconds)
        var text = [CChar](repeating: 0, count: 26)
        ctime_r(&seconds, &text)
        let time = String(decoding: text.prefix { $0 != 0 && $0 != 10 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        lines.append(
            "files/\(name)\t\(file.size) bytes\twritten \(time)\t"
                + (path.map { "perhaps of '/\(shown($0.description))'" } ?? "of an unknown file"))
    }

    func writeList() {
        let head = """
            What is in the folder 'files' could not be attributed to a file when the catalog of this cache was repaired.
            Some of it may be on the store already. Bytes that were not in the cache are zeros. Copy what you need into
            the mount, then remove this folder; 'catalog.sqlite' in it is the damaged catalog.


            """
        let descriptor = open(folder + "/list.txt", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { return }
        writeAll((head + lines.map { $0 + "\n" }.joined()).utf8, to: descriptor)
        fsync(descriptor)
        close(descriptor)
    }
}
