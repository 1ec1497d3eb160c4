import Glibc
import StoreAPI
import Testing

@testable import Mounting

@Suite struct SettingsRenderingTests {
    let parser = SettingsParser.forTests()

    @Test(
        "what is shown can be written back and means the same",
        arguments: [
            "name = test\npath = /srv\n",
            "name = test\npath = \"/srv/with #sign \"\nuser = \"\\\"quoted\\\"\"\npassword = p\"w # x\nmode = fast\n",
            "name = test\npath = /a=b\ncache = 0.25\ncache_size = 9\nhard_cache_size_limit = 10\ncache_id = x\n",
            "name = s3\nbucket_name = b\nlog_level = debug\nupload_limit = 2.5\n",
            "cache = 5\n",
        ])
    func roundTrip(text: String) throws {
        let settings = try parser.parse(text).settings
        let shown = SettingsRendering(schema: parser.schema).text(of: settings)
        #expect(try parser.parse(shown, previous: settings).settings == settings, "\(shown)")
    }

    @Test("settings in force stand at the beginning of a line, secrets are masked")
    func lines() throws {
        let settings = try parser.parse("name = test\npath = /srv\npassword = geheim\n").settings
        let text = SettingsRendering(schema: parser.schema).text(of: settings)
        let lines = text.split(separator: "\n")
        #expect(lines.contains("cache = 60"))
        #expect(lines.contains("password = ********"))
        #expect(!text.contains("geheim"))
    }

    @Test("without a store there is a template for each kind, and it can be written back")
    func template() throws {
        let text = SettingsRendering(schema: parser.schema).template()
        #expect(text.contains("# [auth]") && text.contains("# name = s3"))
        #expect(try parser.parse(text).settings == Settings())
    }

    @Test("docs/settings.md lists every setting as it is (CLOUDFUSION_UPDATE_DOCS=1 writes it)")
    func documentation() throws {
        var parts = #filePath.split(separator: "/", omittingEmptySubsequences: false)
        parts.removeLast(3)
        let path = parts.joined(separator: "/") + "/docs/settings.md"
        let text = SettingsRendering(schema: .product).documentation()
        if environmentVariable("CLOUDFUSION_UPDATE_DOCS") != nil {
            let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
            #expect(writeAll(text.utf8, to: descriptor) == 0)
            close(descriptor)
        }
        #expect(String(decoding: readFile(path) ?? [], as: UTF8.self) == text)
        for option in SettingsSchema.common { #expect(text.contains("| `\(option.name)`")) }
    }
}
