import ArgumentParser
import Glibc
import Mounting
import Threading

struct StopCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "stop", abstract: "Bring everything to the store, then unmount.")

    @Argument(help: ArgumentHelp("The mount.", valueName: "MOUNTPOINT"))
    var mountPoint: String

    @Flag(help: "Unmount also when files are open or not everything could be uploaded; that stays in the cache.")
    var force = false

    func run() throws {
        let client = try MountClient(mountPoint)
        let status = try client.status()
        if status.store != nil {
            do { try DrainRun(client: client, command: "drain").run() } catch let code as ExitCode {
                guard force, code.rawValue == 1 else { throw code }
            }
        }
        try unmount(client)
        try waitForEnd(of: status.pid, client)
        complain("stopped: '\(client.mountPoint.path)' is unmounted")
    }

    private func unmount(_ client: MountClient) throws {
        let path = client.mountPoint.path
        var outcome = client.mountPoint.unmount()
        // The kernel lets go of a file a moment after the last close: somebody who has just ended is not "busy".
        let deadline = MonotonicTime.now + .seconds(1)
        while outcome == .busy, MonotonicTime.now < deadline {
            usleep(50_000)
            outcome = client.mountPoint.unmount()
        }
        switch outcome {
        case .done: return
        case .busy where force:
            let error = client.removeConfiguration()
            if error != 0 { throw failure("'\(path)' could not be unmounted: \(String(cString: strerror(error))).") }
        case .busy:
            let users = client.mountPoint.users()
            let who = users.isEmpty ? "" : " by process \(users.joined(separator: ", "))"
            throw failure(
                "'\(path)' is busy: files in it are open, or are a working directory\(who). Everything is on the store. "
                    + "Close them and try again, or use 'cloudfusion stop --force \(path)'.")
        case .failed(let text): throw failure("'\(path)' could not be unmounted: \(text).")
        }
    }

    private func waitForEnd(of process: Int32, _ client: MountClient) throws {
        let deadline = MonotonicTime.now + .seconds(120)
        while isRunning(process) {
            guard MonotonicTime.now < deadline else {
                throw failure("'\(client.mountPoint.path)' is unmounted, but process \(process) has not ended yet.")
            }
            usleep(20_000)
        }
    }
}
