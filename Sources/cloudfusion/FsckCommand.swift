import ArgumentParser
import Glibc
import Mounting

struct FsckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "fsck", abstract: "Look whether a cache is whole, and repair it.",
        discussion: """
            Checks what is kept on this machine: the catalog, and the cached files against it. The store is not asked. \
            The cache must not be mounted. Nothing is changed without --repair, and no bytes are dropped with it: what \
            cannot be attributed to a file any more is kept in the folder 'recovered' of the cache.

            Exit codes: 0 nothing is wrong, 1 what was wrong was repaired, 4 something wrong is left, 8 the check \
            could not be made, 2 the words make no sense.
            """)

    @Flag(help: "Put right what is wrong.")
    var repair = false

    @OptionGroup var words: StoreWords

    @Argument(
        help: ArgumentHelp("The URL that is mounted, the configuration, or the cache's folder.", valueName: "WHAT"))
    var place: String?

    func run() throws {
        let (path, identity) = try cache()
        let outcome: CacheRepair.Outcome
        do throws(MountError) {
            outcome = try CacheCheck(path: path, identity: identity).run(repairing: repair)
        } catch {
            complain("cloudfusion: \(error.message)")
            throw ExitCode(8)
        }
        for fault in outcome.faults { print("\(repair ? "repaired" : "wrong"): \(fault)") }
        for fault in outcome.uncorrected { print("lost: \(fault)") }
        if let kept = outcome.kept {
            print("kept: \(outcome.keptFiles) files that could not be attributed, in '\(kept)' (see list.txt there)")
        }
        if outcome.faults.isEmpty, outcome.uncorrected.isEmpty {
            print("'\(path)' is whole")
        } else if !repair {
            print("'cloudfusion fsck --repair' puts right what can be put right")
        }
        if !outcome.uncorrected.isEmpty || (!repair && !outcome.faults.isEmpty) { throw ExitCode(4) }
        if !outcome.faults.isEmpty { throw ExitCode(1) }
    }

    /// The folder, and which store it has to be for, if that was said.
    private func cache() throws -> (path: String, identity: String?) {
        if let place, isDirectory(place), words.config == nil {
            return (place.hasPrefix("/") ? place : (currentDirectory() ?? "") + "/" + place, nil)
        }
        guard let (settings, parser) = try words.settings(place) else {
            throw failure("a URL, a configuration or the folder of a cache is missing.", isUsage: true)
        }
        guard let cache = CacheCheck.place(of: settings, parser.schema, parser.places) else {
            throw failure("no store is named, and so no cache.", isUsage: true)
        }
        return cache
    }

    private func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & Glibc.S_IFMT == Glibc.S_IFDIR
    }
}
