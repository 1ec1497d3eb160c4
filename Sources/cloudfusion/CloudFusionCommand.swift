import ArgumentParser
import Glibc
import Mounting

@main
struct CloudFusionCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "cloudfusion",
        abstract: "Mounts a cloud store as a local directory.",
        usage: """
            cloudfusion [mount] [--config FILE | URL] MOUNTPOINT [-o OPTION[,…]] [--foreground]
            cloudfusion stop|sync|status MOUNTPOINT …
            cloudfusion check-config FILE
            cloudfusion fsck [--repair] URL|FILE|CACHE-FOLDER
            cloudfusion restore URL|FILE DIR
            cloudfusion gc URL|FILE
            """,
        discussion: """
            The words may come in any order. What is in MOUNTPOINT/data is on the store, or will be soon; \
            MOUNTPOINT/stats tells how things are, and MOUNTPOINT/config/config has the settings.
            """,
        version: "cloudfusion \(productVersion)",
        subcommands: [
            MountCommand.self, StopCommand.self, SyncCommand.self, StatusCommand.self, CheckConfigCommand.self,
            FsckCommand.self, RestoreCommand.self, GCCommand.self, UUIDCommand.self, VersionCommand.self,
        ])

    /// Exit codes: 0 done, 1 failed, 2 the words make no sense.
    static func main() {
        let words = CommandWords.ordered(Array(CommandLine.arguments.dropFirst()))
        guard !words.isEmpty else {
            complain("cloudfusion: a MOUNTPOINT is missing. 'cloudfusion --help' tells more.")
            Glibc.exit(2)
        }
        do {
            var command = try parseAsRoot(words)
            try command.run()
        } catch let code as ExitCode {
            Glibc.exit(code.rawValue)
        } catch {
            let text = fullMessage(for: error)
            switch exitCode(for: error) {
            case .success:
                print(text)
                Glibc.exit(0)
            case .validationFailure:
                complain(text)
                Glibc.exit(2)
            default:
                complain(text)
                Glibc.exit(1)
            }
        }
    }
}

/// Says what is wrong and gives the error that ends the command with 1, or with 2 for a wrong request.
func failure(_ message: String, isUsage: Bool = false) -> ExitCode {
    complain("cloudfusion: \(message)")
    return ExitCode(isUsage ? 2 : 1)
}

func failure(_ error: MountError) -> ExitCode { failure(error.message, isUsage: error.isUsage) }
