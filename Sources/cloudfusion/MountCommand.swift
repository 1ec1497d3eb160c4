import ArgumentParser
import Glibc
import Mounting
import StoreAPI

struct MountCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "mount", abstract: "Mount a store (what a line without a sub-command means).")

    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("The configuration.", valueName: "FILE"))
    var config: String?

    @Option(
        name: .customShort("o", allowingJoined: true), parsing: .singleValue,
        help: ArgumentHelp("Mount options and settings, such as ro,allow_other,cache=10.", valueName: "OPTION[,…]"))
    var options: [String] = []

    @Flag(name: [.customShort("f"), .long], help: "Stay in the foreground, and log to the terminal.")
    var foreground = false

    @Flag(name: [.customShort("d"), .long], help: "Stay in the foreground, and show each request of the kernel.")
    var debug = false

    /// Set by ourselves for the process in the background: see `Daemon`.
    @Option(help: .hidden) var readyFd: Int32?

    @Argument(help: ArgumentHelp("[URL] MOUNTPOINT; a URL is such as s3://bucket/prefix or local:///folder."))
    var places: [String] = []

    func run() throws {
        let request = try MountArguments(
            config: config, options: options, places: places, isForeground: foreground || debug, debug: debug,
            showsWarnings: readyFd == nil, schema: .product
        ).request()
        if request.isForeground || readyFd != nil {
            throw ExitCode(serve(request))
        }
        do { try request.mountPoint.prepare(mayBeNonEmpty: request.options.mayBeNonEmpty) } catch {
            throw failure(error)
        }
        let words = CommandWords.ordered(Array(CommandLine.arguments.dropFirst()))
        throw ExitCode(Daemon.start(words))
    }

    /// Mounts, and returns the exit code when the mount is over.
    private func serve(_ request: MountRequest) -> Int32 {
        umask(0o077)
        if request.settings.usesSecrets(request.schema) { forbidCoreFiles() }
        limitMemoryPools()
        let log = LogFile()
        log.becomeSystemLog()
        let mount = Mount(request, log: log, openSession: Mount.fuseSession)
        Signals.take { _ in mount.stop() }
        do throws(MountError) {
            try mount.start()
        } catch {
            complain("cloudfusion: \(error.message)")
            return error.isUsage ? 2 : 1
        }
        do throws(MountError) {
            try mount.settleLog()
        } catch {
            mount.stop()
            mount.run()
            complain("cloudfusion: \(error.message)")
            return 1
        }
        if let readyFd { Daemon.announceReady(readyFd) }
        mount.run()
        return 0
    }
}

/// Turns the words of the mount command into a request.
private struct MountArguments {
    var config: String?
    var options: [String]
    var places: [String]
    var isForeground: Bool
    var debug: Bool
    var showsWarnings: Bool
    var schema: SettingsSchema

    func request() throws -> MountRequest {
        let parser = SettingsParser(schema: schema, places: .ofProcess)
        var parsed = MountOptions.parse(options)
        if debug { parsed.options.debug = true }
        let (source, mountPoint) = try split()
        let configFile = config ?? source.flatMap { $0.contains("://") ? nil : $0 } ?? parsed.options.configFile
        let result = try storeSettings(
            configFile: configFile, url: source.flatMap { $0.contains("://") ? $0 : nil }, options: parsed, parser)
        if showsWarnings {
            for warning in result.warnings { complain("\(warning)") }
            if let configFile, result.settings.holdsSecrets(schema) { warnAboutReaders(of: configFile) }
        }
        do throws(MountError) {
            return MountRequest(
                mountPoint: try MountPoint(mountPoint), settings: result.settings, commandLine: parsed.settings,
                options: parsed.options, schema: schema, places: parser.places, isForeground: isForeground)
        } catch { throw failure(error) }
    }

    /// What to mount, if that was said, and where.
    private func split() throws -> (source: String?, mountPoint: String) {
        switch places.count {
        case 0: throw failure("a MOUNTPOINT is missing. 'cloudfusion --help' tells more.", isUsage: true)
        case 1:
            guard !places[0].contains("://") else {
                throw failure("a MOUNTPOINT is missing after '\(places[0])'.", isUsage: true)
            }
            return (nil, places[0])
        case 2:
            let url = places.firstIndex { $0.contains("://") } ?? 0
            return (places[url], places[1 - url])
        default:
            throw failure(
                "there are too many words: '\(places.joined(separator: "', '"))'. "
                    + "One URL and one MOUNTPOINT are wanted.", isUsage: true)
        }
    }

    private func warnAboutReaders(of path: String) {
        var status = stat()
        guard stat(path, &status) == 0, status.st_mode & 0o077 != 0 else { return }
        complain("cloudfusion: warning: '\(path)' has secrets and can be read by others: 'chmod 600 \(path)' helps.")
    }
}

/// The settings that a configuration file, a URL and `-o` make together; each counts more than the one before.
func storeSettings(configFile: String?, url: String?, options: ParsedMountOptions, _ parser: SettingsParser) throws
    -> ParsedSettings
{
    var layers: [[SettingAssignment]] = []
    var problems = options.problems
    if let configFile {
        let file = try readConfiguration(configFile, parser)
        layers.append(file.assignments)
        problems += file.problems
    }
    if let url { layers.append(try assignments(url, parser.schema)) }
    layers.append(options.settings)
    do { return try parser.settings(layers, problems: problems) } catch {
        complain(error.description)
        throw ExitCode(error.problems.contains { $0.source != "-o" } ? 1 : 2)
    }
}

private func assignments(_ url: String, _ schema: SettingsSchema) throws -> [SettingAssignment] {
    let parts = url.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    let scheme = String(parts[0])
    guard let descriptor = schema.descriptor(named: scheme) else {
        let known = schema.descriptors.map { "\($0.scheme)://" }.joined(separator: ", ")
        throw failure("there is no store for '\(url)'; the known kinds are \(known).", isUsage: true)
    }
    guard let settings = descriptor.settingsFromURL(scheme.lowercased(), String(parts[1].dropFirst(2))) else {
        throw failure("'\(url)' does not name a place on a store of the kind \(descriptor.scheme).", isUsage: true)
    }
    return [SettingAssignment(key: "name", value: descriptor.scheme, source: url)]
        + settings.sorted { $0.key < $1.key }.map { SettingAssignment(key: $0.key, value: $0.value, source: url) }
}

/// The assignments of a configuration file.
func readConfiguration(_ path: String, _ parser: SettingsParser) throws -> (
    assignments: [SettingAssignment], problems: [SettingsProblem]
) {
    guard let text = readFile(path, limit: SettingsParser.largestText + 1) else {
        throw failure("the configuration '\(path)' cannot be read: \(String(cString: strerror(errno)))")
    }
    return parser.assignments(in: text, named: path)
}

extension SettingsPlaces {
    /// Those of whoever runs this program.
    static var ofProcess: SettingsPlaces {
        var home = environmentVariable("HOME")
        if home == nil, let user = getpwuid(getuid()), let directory = user.pointee.pw_dir {
            home = String(cString: directory)
        }
        return SettingsPlaces(home: home, base: currentDirectory(), cacheHome: environmentVariable("XDG_CACHE_HOME"))
    }
}
