import Glibc
package import Logging
import Threading

/// Where log lines go: standard error, or a file of at most ten million bytes and its predecessor.
package final class LogFile: Sendable {
    private struct State {
        var descriptor: Int32 = 2
        var path: String?
        var written: Int64 = 0
        var level: Logger.Level = .notice
    }

    private let state = Lock(State())
    private let limit: Int64

    /// - Parameter limit: Bytes, above which the file becomes `NAME.1` and a new one is begun.
    package init(limit: Int64 = 10_000_000) { self.limit = limit }

    deinit { state.withLock { if $0.path != nil { close($0.descriptor) } } }

    package var level: Logger.Level {
        get { state.withLock { $0.level } }
        set { state.withLock { $0.level = newValue } }
    }

    package var path: String? { state.withLock { $0.path } }

    /// Sends the lines from now on to the end of this file; nil: to standard error.
    ///
    /// - Throws: ``MountError`` when the file cannot be opened; the lines go where they went.
    package func open(_ path: String?) throws(MountError) {
        try state.withLock { (state) throws(MountError) in
            if state.path == path { return }
            var opened = State()
            opened.level = state.level
            if let path {
                guard Self.reopen(&opened, path) else {
                    throw MountError("the log file '\(path)' cannot be opened: \(errorText(errno))")
                }
            }
            if state.path != nil { close(state.descriptor) }
            state = opened
        }
    }

    private static func reopen(_ state: inout State, _ path: String) -> Bool {
        let descriptor = Glibc.open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0o600)
        guard descriptor >= 0 else { return false }
        var status = stat()
        fstat(descriptor, &status)
        state.descriptor = descriptor
        state.path = path
        state.written = Int64(status.st_size)
        return true
    }

    func write(_ line: String) {
        state.withLock { state in
            if let path = state.path, state.written >= limit {
                let old = state.descriptor
                rename(path, path + ".1")
                if Self.reopen(&state, path) { close(old) }
            }
            let bytes = Array((line + "\n").utf8)
            if writeAll(bytes, to: state.descriptor) == 0 { state.written += Int64(bytes.count) }
        }
    }

    /// Has all loggers of the process that are made from now on write here. Once in a process.
    package func becomeSystemLog() { LoggingSystem.bootstrap { LogFileHandler(label: $0, file: self) } }

    /// A logger that writes here.
    package func logger(_ label: String) -> Logger {
        Logger(label: label) { LogFileHandler(label: $0, file: self) }
    }
}

/// Lines like `2026-01-31 12:00:00.123 warning mount: the store does not answer`.
package struct LogFileHandler: LogHandler {
    let label: String
    let file: LogFile
    package var metadata: Logger.Metadata = [:]

    package init(label: String, file: LogFile) {
        self.label = label
        self.file = file
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    /// One level for all, which is a setting that can change.
    package var logLevel: Logger.Level {
        get { file.level }
        set { file.level = newValue }
    }

    package func log(event: LogEvent) {
        var line = "\(localTime(.now, withFraction: true)) \(event.level.rawValue) \(label): "
        for scalar in event.message.description.unicodeScalars {
            // A file's name could hold a line feed, and with it a line of its own.
            line +=
                scalar.value < 32 || scalar.value == 127 ? "\\u{\(String(scalar.value, radix: 16))}" : String(scalar)
        }
        for (key, value) in metadata.merging(event.metadata ?? [:], uniquingKeysWith: { $1 }).sorted(by: {
            $0.key < $1.key
        }) {
            line += " \(key)=\(value)"
        }
        file.write(line)
    }
}

/// A moment as people here write it, such as "2026-01-31 12:00:00".
func localTime(_ time: Timestamp, withFraction: Bool = false) -> String {
    var seconds = time_t(time.seconds)
    var parts = tm()
    localtime_r(&seconds, &parts)
    func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : String(number) }
    var text = "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday)) "
    text += "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))"
    if withFraction {
        let milliseconds = String(time.subsecond / 1_000_000)
        text += "." + String(repeating: "0", count: 3 - milliseconds.count) + milliseconds
    }
    return text
}
