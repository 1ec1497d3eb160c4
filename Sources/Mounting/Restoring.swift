package import Chunks
package import Copying
import Glibc
import Statistics
import StoreAPI
import Stores
import Threading

/// Copies all that is on a store into a directory of this machine, without a mount.
///
/// - Parameters:
///   - directory: With its full path; is made if need be, and must be empty.
///   - report: See ``TreeCopy/run(report:)``.
/// - Throws: ``MountError`` when it cannot begin.
package func restore(
    _ settings: Settings, _ schema: SettingsSchema, to directory: String, report: (TreeCopy.Progress) -> Bool
) throws(MountError) -> TreeCopy.Outcome {
    try expectEmpty(directory)
    let outcome = try withStore(settings, schema) { store throws(MountError) in
        let target = LocalStore(path: directory, fsync: false)
        do throws(StoreError) { try target.connect() } catch { throw MountError(error.message) }
        defer {
            target.shutdown()
            LocalStore.removeTraces(in: directory)
        }
        return TreeCopy(from: store, to: target, link: target.link).run(report: report)
    }
    let folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    defer { close(folder) }
    guard folder >= 0, syncfs(folder) == 0 else {
        throw MountError("'\(directory)' could not be brought to the disk: \(errorText(errno))")
    }
    return outcome
}

/// Removes from a store, at once, what nobody needs of its archives of small files.
///
/// - Throws: ``MountError`` when it cannot be done, or not to its end.
package func collectGarbage(_ settings: Settings, _ schema: SettingsSchema) throws(MountError) -> FreedSpace {
    try withStore(settings, schema) { store throws(MountError) in
        do throws(StoreError) { return try store.collectGarbage() } catch { throw MountError(error.message) }
    }
}

/// Uses a store without a mount: as it is, with nothing new packed.
private func withStore<Result>(
    _ settings: Settings, _ schema: SettingsSchema, _ body: (ChunkStore) throws(MountError) -> Result
) throws(MountError) -> Result {
    guard let scheme = settings.scheme, let descriptor = schema.descriptor(named: scheme) else {
        throw MountError("the settings name no store", isUsage: true)
    }
    let work = try TemporaryDirectory()
    var chunks = settings.chunks(in: work.path)
    chunks.smallFileLimit = nil
    chunks.snapshotInterval = 0
    // Who reads a chunk that goes finds what was in it at its new place. But the youngest stay: see `leastAge`.
    chunks.grace = .zero
    let store = try MountStack.makeStore(
        descriptor, settings, (chunks, MapHolder(path: work.path + "/chunks.sqlite")), Statistics())
    defer { store.shutdown() }
    store.tune(settings.tuning)
    do { try store.connect() } catch { throw MountError(error.message) }
    do throws(MountError) {
        let result = try body(store)
        do throws(StoreError) { try store.releaseLease() } catch { throw MountError(error.message) }
        return result
    } catch {
        // Why it failed is what counts; the right to pack ends by itself.
        try? store.releaseLease()
        throw error
    }
}

private func expectEmpty(_ directory: String) throws(MountError) {
    let error = makeDirectories(directory, mode: 0o755)
    guard error == 0 else { throw MountError("'\(directory)' cannot be made: \(errorText(error))") }
    guard let stream = opendir(directory) else {
        throw MountError("'\(directory)' cannot be read: \(errorText(errno))")
    }
    defer { closedir(stream) }
    while let entry = readdir(stream) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        guard name == "." || name == ".." else {
            throw MountError("'\(directory)' is not empty: name a directory that is, or that does not exist yet.")
        }
    }
}

/// A folder for one command, gone with it.
private final class TemporaryDirectory {
    let path: String

    init() throws(MountError) {
        let folder = getenv("TMPDIR").map { String(cString: $0) } ?? "/var/tmp"
        var template = Array("\(folder)/cloudfusion-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw MountError("no temporary folder can be made in '\(folder)': \(errorText(errno)). Set TMPDIR.")
        }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        MapHolder.remove(path + "/chunks.sqlite")
        rmdir(path)
    }
}
