import Chunks
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
    guard let scheme = settings.scheme, let descriptor = schema.descriptor(named: scheme) else {
        throw MountError("the settings name no store", isUsage: true)
    }
    try expectEmpty(directory)
    let work = try TemporaryDirectory()
    let statistics = Statistics()
    var chunks = settings.chunks(in: work.path)
    // Nothing is written to the store.
    chunks.smallFileLimit = nil
    chunks.snapshotInterval = 0
    let store = try MountStack.makeStore(
        descriptor, settings, (chunks, MapHolder(path: work.path + "/chunks.sqlite")), statistics)
    defer { store.shutdown() }
    store.tune(settings.tuning)
    do { try store.connect() } catch { throw MountError(error.message) }

    let target = LocalStore(path: directory, fsync: false)
    do { try target.connect() } catch { throw MountError(error.message) }
    let outcome = TreeCopy(from: store, to: target).run(report: report)
    target.shutdown()
    LocalStore.removeTraces(in: directory)
    let folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    defer { close(folder) }
    guard folder >= 0, syncfs(folder) == 0 else {
        throw MountError("'\(directory)' could not be brought to the disk: \(errorText(errno))")
    }
    return outcome
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
