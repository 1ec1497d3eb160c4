import ArgumentParser
import Glibc
import Mounting

struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "status", abstract: "Show how a mount is doing.")

    @Argument(help: ArgumentHelp("The mount.", valueName: "MOUNTPOINT"))
    var mountPoint: String

    @Flag(help: "Show it again every second.")
    var watch = false

    @Flag(help: "For programs.")
    var json = false

    func run() throws {
        while true {
            let text = try current()
            if watch, !json, isatty(1) == 1 { writeAll("\u{1B}[H\u{1B}[2J".utf8, to: 1) }
            writeAll(text, to: 1)
            guard watch else { return }
            sleep(1)
        }
    }

    private func current() throws -> [UInt8] {
        let status: MountStatus
        if let left = draining() {
            status = left
        } else {
            let client = try MountClient(mountPoint)
            status = try client.status()
        }
        if json { return StatusFile.text(status) }
        var text = StatsFile.text(status)
        if !status.errors.isEmpty { text += "\nErrors:\n" + ErrorsFile.text(status.errors) }
        return Array(text.utf8)
    }

    /// What a process says that is still uploading after its mount was unmounted.
    private func draining() -> MountStatus? {
        guard let place = try? MountPoint(mountPoint), !place.isMounted else { return nil }
        return CacheFolder.statusOfDraining(mountPoint: place.path, in: SettingsPlaces.ofProcess.defaultCacheFolder)
    }
}
