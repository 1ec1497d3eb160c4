import ArgumentParser
import Copying
import Glibc
import Mounting
import StoreAPI
import Threading

struct RestoreCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "restore", abstract: "Make a local directory of all that is on a store.",
        discussion: """
            Copies everything, from plain objects and from archives of small files, with modes, owners, times and \
            extended attributes as far as the store has them. No mount and no cache are needed. What cannot be copied is \
            named, and the rest goes on.

            Exit codes: 0 all is there, 1 something is not, 2 the words make no sense.
            """)

    @OptionGroup var words: StoreWords

    @Argument(help: ArgumentHelp("The store: a URL, or the configuration that is mounted.", valueName: "WHAT"))
    var place: String

    @Argument(help: ArgumentHelp("A directory that is empty or does not exist yet.", valueName: "DIR"))
    var directory: String

    func run() throws {
        guard let (settings, parser) = try words.settings(place) else {
            throw failure("'\(place)' names no store.", isUsage: true)
        }
        let target = directory.hasPrefix("/") ? directory : (currentDirectory() ?? "") + "/" + directory
        let isInterrupted = Lock(false)
        Signals.take { _ in isInterrupted.withLock { $0 = true } }
        var line = ProgressLine()
        let outcome: TreeCopy.Outcome
        do throws(MountError) {
            outcome = try restore(settings, parser.schema, to: target) { progress in
                line.show(text(progress))
                return !isInterrupted.withLock { $0 }
            }
        } catch {
            line.end()
            throw failure(error)
        }
        line.end()
        for failure in outcome.failures { complain("cloudfusion: \(failure.error.message)") }
        let hidden = outcome.progress.failures - outcome.failures.count
        if hidden > 0 { complain("cloudfusion: … and \(hidden) more") }
        if outcome.wasInterrupted { throw failure("interrupted; what is in '\(target)' is not all.") }
        complain("\(text(outcome.progress)) in '\(target)'")
        if outcome.progress.failures > 0 { throw ExitCode(1) }
    }

    private func text(_ progress: TreeCopy.Progress) -> String {
        let failed = progress.failures == 0 ? "" : ", \(progress.failures) failed"
        return "\(progress.files) files, \(progress.directories) directories, "
            + "\(megabytes(Double(progress.bytes))) MB\(failed)"
    }
}
