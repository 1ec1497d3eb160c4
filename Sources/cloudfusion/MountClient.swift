import ArgumentParser
import Glibc
import Mounting
import StoreAPI
import Threading

/// A mount as the command line sees it: through its control files.
struct MountClient: Sendable {
    let mountPoint: MountPoint
    /// The folder that has `config` and `stats`: the mount itself, or `.cloudfusion` in a flat one.
    private let root: String

    /// - Throws: `ExitCode` after a message, when nothing of ours is mounted there.
    init(_ path: String) throws {
        do { mountPoint = try MountPoint(path) } catch { throw failure(error) }
        guard mountPoint.isOurs else { throw failure("'\(mountPoint.path)' is not mounted by CloudFusion.") }
        let hidden = mountPoint.path + "/.cloudfusion"
        if access(mountPoint.path + "/stats/status.json", F_OK) == 0 {
            root = mountPoint.path
        } else if access(hidden + "/stats/status.json", F_OK) == 0 {
            root = hidden
        } else {
            throw failure(
                "the mount at '\(mountPoint.path)' does not answer: \(String(cString: strerror(errno))). "
                    + "If its process has gone, mount again: that takes the place of what is left of it.")
        }
    }

    var isFlat: Bool { root != mountPoint.path }

    var statusText: [UInt8]? { readFile(root + "/stats/status.json") }

    func status() throws -> MountStatus {
        guard let text = statusText, let status = StatusFile.read(text) else {
            throw failure(
                "the mount at '\(mountPoint.path)' does not tell its status: \(String(cString: strerror(errno))).")
        }
        return status
    }

    /// Has a command carried out, and waits until it is.
    ///
    /// - Returns: 0, or the errno with which it ended.
    func perform(_ command: String) -> Int32 {
        let descriptor = open(root + "/config/command", O_WRONLY | O_TRUNC | O_CLOEXEC)
        guard descriptor >= 0 else { return errno }
        let error = writeAll((command + "\n").utf8, to: descriptor)
        guard close(descriptor) == 0 else { return errno }
        return error
    }

    /// Has the kernel hand over what programs wrote and it has not passed on yet.
    func flushKernel() {
        let descriptor = open(mountPoint.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        syncfs(descriptor)
        close(descriptor)
    }

    /// Unmounts although files are open; those who have them get errors.
    func removeConfiguration() -> Int32 { unlink(root + "/config/config") == 0 ? 0 : errno }
}

/// Carries out a command that brings things to the store, and shows how far it is.
struct DrainRun {
    let client: MountClient
    /// As for `config/command`.
    let command: String

    private struct State {
        var outcome: Int32?
        var isInterrupted = false
    }

    /// - Throws: `ExitCode` after a message, when not everything is on the store in the end.
    func run() throws {
        let state = Monitor(State())
        Signals.take { _ in state.update { $0.isInterrupted = true } }
        client.flushKernel()
        let started = MonotonicTime.now
        let first = try client.status()
        WorkerThread(name: "command") { [client, command] in
            let outcome = client.perform(command)
            state.update { $0.outcome = outcome }
        }.detach()

        var line = ProgressLine()
        let interval = ProgressLine.isTerminal ? Duration.milliseconds(250) : .seconds(1)
        while true {
            let moment = state.wait(until: .now + interval) { state -> State? in
                state.outcome != nil || state.isInterrupted ? state : nil
            }
            if let moment, let outcome = moment.outcome {
                line.end()
                return try conclude(outcome, first, MonotonicTime.now - started)
            }
            if moment?.isInterrupted == true {
                line.end()
                throw try interrupted(state)
            }
            if let status = StatusFile.read(client.statusText ?? []) { line.show(status, since: first) }
        }
    }

    private func interrupted(_ state: Monitor<State>) throws -> ExitCode {
        _ = client.perform("cancel")
        _ = state.wait(until: .now + .seconds(10)) { $0.outcome }
        complain(
            "cloudfusion: interrupted; the mount at '\(client.mountPoint.path)' stays as it is, and goes on uploading "
                + "in the background.")
        return ExitCode(130)
    }

    private func conclude(_ outcome: Int32, _ first: MountStatus, _ time: Duration) throws {
        let last = try client.status()
        switch outcome {
        case 0:
            let bytes = megabytes(Double(max(0, last.transfers.uploadedBytes - first.transfers.uploadedBytes)))
            complain("done: \(bytes) MB uploaded in \(age(time.inSeconds)), \(last.pending.items) changes left")
        case ENOENT: throw failure("there is no such path in the mount at '\(client.mountPoint.path)'.")
        case ENODEV: throw failure("the mount at '\(client.mountPoint.path)' has no store.")
        case EINTR: throw failure("the waiting was cancelled; nothing was undone.")
        default:
            let problem = last.errors.first { $0.kind == "command" }
            let text = problem.map { "\($0.message)\n    \($0.advice)" } ?? String(cString: strerror(outcome))
            throw failure(text)
        }
    }
}

/// A line that is written again and again on a terminal, and once in a while elsewhere.
struct ProgressLine {
    static var isTerminal: Bool { isatty(2) == 1 }
    private var isOpen = false
    private var next = MonotonicTime(nanoseconds: 0)

    mutating func show(_ status: MountStatus, since first: MountStatus) {
        let pending = status.pending
        let rate = status.transfers.uploadBytesPerSecond
        var text = "\(pending.items) changes, \(megabytes(Double(pending.bytes))) MB to go, \(megabytes(rate)) MB/s"
        if rate > 1000, pending.bytes > 0 { text += ", about \(age(Double(pending.bytes) / rate)) left" }
        if pending.parked > 0 { text += ", \(pending.parked) failed" }
        if status.state == .offline { text += ", the store does not answer" }
        show(text, after: bar(status, first) + " ")
    }

    /// - Parameter ornament: For terminals only.
    mutating func show(_ text: String, after ornament: String = "") {
        guard Self.isTerminal else {
            // Of many a second, one.
            guard MonotonicTime.now >= next else { return }
            next = .now + .seconds(1)
            complain(text)
            return
        }
        writeAll("\r\(ornament)\(text)\u{1B}[K".utf8, to: 2)
        isOpen = true
    }

    mutating func end() {
        if isOpen { writeAll("\r\u{1B}[K".utf8, to: 2) }
        isOpen = false
    }

    private func bar(_ status: MountStatus, _ first: MountStatus) -> String {
        let all = max(first.pending.items, status.pending.items, 1)
        let done = Int(20 * (all - status.pending.items) / all)
        return "[" + String(repeating: "#", count: done) + String(repeating: ".", count: 20 - done) + "]"
    }
}
