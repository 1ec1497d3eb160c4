import ArgumentParser
import Glibc
import Mounting

struct SyncCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "sync", abstract: "Wait until everything, or one path, is on the store.")

    @Argument(help: ArgumentHelp("The mount.", valueName: "MOUNTPOINT"))
    var mountPoint: String

    @Argument(
        help: ArgumentHelp(
            "A file or directory in the mount, as a path or as it is called below data/.",
            valueName: "PATH"))
    var path: String?

    func run() throws {
        let client = try MountClient(mountPoint)
        var command = "sync"
        if let path {
            guard !path.contains("\n"), !path.isEmpty else {
                throw failure("a path with a line break in it cannot be asked for; sync its directory.", isUsage: true)
            }
            command += " " + (try inStore(path, client))
        }
        try DrainRun(client: client, command: command).run()
    }

    /// The path as the daemon wants it: from the root of the machine if it leads into the mount, else as it was given.
    private func inStore(_ path: String, _ client: MountClient) throws -> String {
        let root = client.mountPoint.path + (client.isFlat ? "" : "/data")
        let whole = path.hasPrefix("/") ? path : (currentDirectory() ?? "") + "/" + path
        if let place = try? MountPoint(whole), place.path == root || place.path.hasPrefix(root + "/") {
            return place.path
        }
        guard !path.hasPrefix("/") || access(root + path, F_OK) == 0 else {
            throw failure("'\(path)' is not in the mount at '\(client.mountPoint.path)'.")
        }
        return path
    }
}
