import StoreAPI
import Testing

@testable import Mounting

/// What people, programs and other processes write here.
@Suite("Hostile settings and commands")
struct ControlFuzzTests {
    private let parser = SettingsParser(
        schema: .product, places: SettingsPlaces(home: "/home/u", base: "/base", cacheHome: nil))

    @Test("a configuration is refused with the place of what is wrong, or is read again as it is shown")
    func configurations() throws {
        let words = [
            "[auth]", "[store]", "name = s3", "name = local", "path = /srv", "cache = 5", "cache_size = ",
            "bucket_name = b",
            "secret_access_key = s", "********", " # ", " ; ", "\"", "\\\"", "cache_dir = ~/x",
        ]
        try Fuzzer("configurations", words: words).run { input, _ in
            let (assignments, problems) = parser.assignments(in: input, named: "f")
            let result: ParsedSettings
            do throws(SettingsErrors) {
                result = try parser.settings([assignments], problems: problems)
            } catch {
                let text = error.description
                if error.problems.isEmpty || text.isEmpty { return "refused without a word" }
                let isPlain = text.utf8.allSatisfy { $0 >= 0x20 || $0 == 10 }
                return isPlain ? nil : "control characters in \(text.debugDescription)"
            }
            let shown = SettingsRendering(schema: .product).text(of: result.settings)
            let again = parser.assignments(in: Array(shown.utf8), named: "again")
            guard again.problems.isEmpty else { return "not read again: \(again.problems)" }
            guard result.settings.scheme != nil else { return nil }
            do throws(SettingsErrors) {
                let settings = try parser.settings([again.assignments], previous: result.settings).settings
                for option in parser.schema.options(for: settings.scheme) where option.isSecret {
                    if let value = result.settings.values[option.name], value.count > 8, shown.contains(value) {
                        return "a secret is shown"
                    }
                }
                for option in parser.schema.options(for: settings.scheme) {
                    let before = result.settings.values[option.name] ?? option.defaultValue
                    let after = settings.values[option.name] ?? option.defaultValue
                    if before != after, before?.isEmpty == false {
                        return "\(option.name): \(before ?? "") became \(after ?? "")"
                    }
                }
            } catch { return "not taken again: \(error.description)" }
            return nil
        }
    }

    @Test("commands are refused, or name what lies in the mount")
    func commands() throws {
        try Fuzzer("commands", words: ["sync", "drain", "now ", "cancel", "/mnt/data/", "..", "sync /mnt/data/a"]).run {
            input, _ in
            switch CommandFile.parse(input, mountPoint: "/mnt") {
            case .success(let commands):
                return commands.count > input.count ? "\(commands.count) commands" : nil
            case .failure(let complaint):
                return complaint.text.isEmpty ? "refused without a word" : nil
            }
        }
    }

    @Test("what mounts tell of themselves is read, or taken for nothing")
    func states() throws {
        try Fuzzer("states", words: ["\"pid\":", "\"state\":\"draining\"", "{", "}"]).run { input, _ in
            guard let status = StatusFile.read(input) else { return nil }
            return StatusFile.read(StatusFile.text(status)) == status ? nil : "it is not written as it was read"
        }
    }

    @Test("options of a mount and the place of a store are taken or refused")
    func options() throws {
        try Fuzzer("options", words: ["allow_other", "uid=", "umask=0", "\\,", "cache=1", "s3://b/p", "local:///"]).run
        {
            input, _ in
            let text = String(decoding: input, as: UTF8.self)
            let parsed = MountOptions.parse([text])
            for problem in parsed.problems where problem.message.utf8.contains(where: { $0 < 0x20 }) {
                return "control characters in \(problem.message.debugDescription)"
            }
            if parsed.options.fileMode > 0o7777 || parsed.options.directoryMode > 0o7777 { return "a mode" }
            for descriptor in parser.schema.descriptors { _ = descriptor.settingsFromURL(descriptor.scheme, text) }
            let words = text.split(separator: " ").map(String.init)
            return CommandWords.ordered(words).count > 2 * words.count + 1 ? "words came from nowhere" : nil
        }
    }
}
