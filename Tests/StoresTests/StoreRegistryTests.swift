import StoreAPI
import Testing

@testable import Stores

@Suite("The registry of stores")
struct StoreRegistryTests {
    @Test("within a kind each name and alias means one option", arguments: StoreRegistry.all.map(\.scheme))
    func names(scheme: String) throws {
        let descriptor = try #require(StoreRegistry.all.first { $0.scheme == scheme })
        let names = descriptor.options.flatMap { [$0.name] + $0.aliases }
        #expect(Set(names).count == names.count)
        #expect(descriptor.options.allSatisfy { !$0.help.isEmpty })
    }

    @Test("a local directory is known by its path, however it is written")
    func identity() throws {
        let local = StoreDescriptor.local
        let settings = try local.settings(from: ["directory": "/srv//files/./"])
        #expect(local.identity(settings) == "/srv/files")
        #expect(local.settingsFromURL("local", "/srv/files") == ["path": "/srv/files"])
        #expect(local.settingsFromURL("local", "srv") == nil)
    }
}
