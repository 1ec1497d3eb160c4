import FUSEAdapter
import Glibc
import StoreAPI
import StoreTesting
import Stores
import Threading
import VFS

@testable import Mounting

/// An empty folder of a test's own, gone with it.
final class TemporaryFolder: Sendable {
    let path: String

    init() {
        var template = Array("/tmp/mounting-XXXXXX".utf8CString)
        path = String(cString: mkdtemp(&template))
    }

    deinit { _ = runProgram(["rm", "-rf", path]) }
}

/// A kind of store for tests: a directory of this machine, behind faults that a test can switch on.
final class TestStores: Sendable {
    private let made = Lock<[FaultyStore]>([])
    private let outage = Lock(FaultyStore.Outage.none)
    private let refusal = Lock<StoreError?>(nil)

    /// What the next stores do, and those that are in use.
    func set(_ outage: FaultyStore.Outage) {
        self.outage.withLock { $0 = outage }
        for store in made.withLock({ $0 }) { store.outage = outage }
    }

    /// Lets `connect()` of stores that are made from now on fail.
    func refuse(_ error: StoreError?) { refusal.withLock { $0 = error } }

    var descriptor: StoreDescriptor {
        let local = StoreDescriptor.local
        return StoreDescriptor(
            scheme: "test", summary: "For tests.",
            options: [
                StoreOption("path", .path, aliases: ["bucket_name"], isRequired: true, help: "The directory."),
                StoreOption("user", .text, aliases: ["id"], help: "Who."),
                StoreOption("password", .secret, aliases: ["secret"], help: "The secret."),
                StoreOption("mode", .choice(["fast", "safe"]), default: "safe", help: "How."),
                StoreOption("parts", .number(1...100), help: "How many."),
            ],
            identity: { $0["path"] ?? "" }, settingsFromURL: { ["path": $0] },
            make: { [self] settings, statistics throws(StoreError) in
                let store = FaultyStore(try local.make(settings, statistics))
                store.outage = outage.withLock { $0 }
                if let error = refusal.withLock({ $0 }) { store.inject(.fail(error), on: .connect) }
                made.withLock { $0.append(store) }
                return store
            })
    }

    var schema: SettingsSchema { SettingsSchema(descriptors: [descriptor, .s3]) }
}

/// Stands for the kernel: mounted until somebody unmounts.
final class FakeSession: MountedSession {
    private let isMounted = Monitor(false)
    func start() throws(FUSEError) { isMounted.update { $0 = true } }
    func wait() { _ = isMounted.wait { $0 ? nil : true } }
    func unmount() { isMounted.update { $0 = false } }
}

extension SettingsParser {
    /// Over the stores of the tests, with a home at /home/me.
    static func forTests(_ schema: SettingsSchema = TestStores().schema) -> SettingsParser {
        SettingsParser(schema: schema, places: SettingsPlaces(home: "/home/me", base: "/work", cacheHome: nil))
    }

    func parse(
        _ text: String, options: [String] = [], previous: Settings? = nil, starting: Settings = Settings()
    ) throws(SettingsErrors) -> ParsedSettings {
        let (assignments, problems) = assignments(in: Array(text.utf8), named: "my.ini")
        let commandLine = MountOptions.parse(options)
        return try settings(
            [assignments, commandLine.settings], problems: problems + commandLine.problems, previous: previous,
            starting: starting)
    }

    /// What is wrong with the text, one line each.
    func complaints(_ text: String, options: [String] = []) -> [String] {
        do {
            _ = try parse(text, options: options)
            return []
        } catch { return error.problems.map(\.description) }
    }
}
