import ArgumentParser
import Chunks
import Mounting

struct GCCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gc", abstract: "Remove what nobody needs any more of the archives of small files on a store.",
        discussion: """
            Of archives of which less than half is needed, what is left is packed anew; then they are deleted, once they \
            are an hour old. Files that are on the store stay as they are, and mounts of it may go on.

            Exit codes: 0 done, 1 not done, 2 the words make no sense.
            """)

    @OptionGroup var words: StoreWords

    @Argument(help: ArgumentHelp("The store: a URL, or the configuration that is mounted.", valueName: "WHAT"))
    var place: String?

    func run() throws {
        guard let (settings, parser) = try words.settings(place) else {
            throw failure("a URL or a configuration is missing.", isUsage: true)
        }
        let freed: FreedSpace
        do throws(MountError) { freed = try collectGarbage(settings, parser.schema) } catch { throw failure(error) }
        let size = megabytes(Double(freed.bytes))
        print("removed: \(freed.chunks) archives, \(freed.objects) replaced files, \(size) MB")
        if freed.waiting > 0 {
            print("to be removed by the next mount or call, when they are an hour old: \(freed.waiting) archives")
        }
    }
}
