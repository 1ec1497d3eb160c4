import StoreAPI
import Testing

@Suite("Settings of stores")
struct SettingsTests {
    private let descriptor = StoreDescriptor(
        scheme: "test", summary: "A test.",
        options: [
            .init("path", .path, aliases: ["root", "directory"], isRequired: true, help: "Where it is."),
            .init("endpoint", .url, help: "Where the service is."),
            .init("retries", .number(1...10), help: "How often."),
            .init("mode", .choice(["fast", "safe"]), help: "How."),
            .init("fsync", .flag, help: "Whether."),
            .init("password", .secret, help: "What nobody knows."),
        ],
        identity: { $0["path"] ?? "" }, settingsFromURL: { _ in nil }
    ) { _, _ throws(StoreError) in throw StoreError(.unsupported, "not made in this test") }

    private func complaint(_ given: [String: String]) -> String? {
        do {
            _ = try descriptor.settings(from: given)
            return nil
        } catch {
            #expect(error.code == .invalidArgument)
            return error.message
        }
    }

    @Test("an alias is as good as the name")
    func aliases() throws {
        let settings = try descriptor.settings(from: ["Root": "/srv", "fsync": "No", "retries": "10", "mode": ""])
        #expect(settings["path"] == "/srv")
        #expect(settings["root"] == nil)
        #expect(settings["mode"] == nil)
        #expect(settings.number("retries") == 10)
        #expect(!settings.flag("fsync", default: true))
        #expect(settings.flag("other", default: true))
    }

    @Test(
        "what is wrong is told, with what would be right",
        arguments: [
            ("pasword", "x", "'pasword' is no setting of test; did you mean 'password'?"),
            ("xyz", "x", "'xyz' is no setting of test"),
            ("retries", "11", "'retries' must be a number from 1 to 10, not '11'"),
            ("retries", "many", "'retries' must be a number from 1 to 10, not 'many'"),
            ("mode", "slow", "'mode' must be one of fast, safe, not 'slow'"),
            ("fsync", "maybe", "'fsync' must be yes or no, not 'maybe'"),
            ("endpoint", "ftp://x", "'endpoint' must begin with https:// or http://, not 'ftp://'"),
            ("root", "/other", "'root' and 'path' are one setting and have two values"),
        ])
    func complaints(key: String, value: String, message: String) {
        #expect(complaint(["path": "/srv", key: value]) == message)
    }

    @Test("a required setting that is missing or wrong is told once")
    func required() {
        #expect(complaint([:]) == "'path' is missing: Where it is.")
        #expect(complaint(["path": ""]) == "'path' is missing: Where it is.")
        #expect(complaint(["directory": "srv"]) == "'directory' must be a full path, not 'srv'")
    }

    @Test("all problems are told at once")
    func several() {
        #expect(complaint(["mode": "x", "zzz": "y"])?.split(separator: "\n").count == 3)
    }

    @Test("a misspelt name is near what was meant, and a strange one is near nothing")
    func nearest() {
        let known = ["access_key_id", "region", "endpoint", "path"]
        #expect(nearestName(to: "acces_key_id", among: known) == "access_key_id")
        #expect(nearestName(to: "regoin", among: known) == "region")
        #expect(nearestName(to: "pth", among: known) == "path")
        #expect(nearestName(to: "colour", among: known) == nil)
        #expect(nearestName(to: "", among: known) == nil)
        #expect(nearestName(to: "x", among: []) == nil)
    }
}
