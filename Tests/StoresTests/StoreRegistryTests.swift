import StoreAPI
import Testing

@testable import Stores

@Suite("The registry of stores")
struct StoreRegistryTests {
    @Test("a kind of store is found by its scheme, an alias, and in any case")
    func lookup() throws {
        #expect(try StoreRegistry.descriptor(for: "local").scheme == "local")
        #expect(try StoreRegistry.descriptor(for: "file").scheme == "local")
        #expect(try StoreRegistry.descriptor(for: "S3").scheme == "s3")
    }

    @Test("a misspelt kind is answered with the one that was meant")
    func suggestion() {
        let error = #expect(throws: StoreError.self) { try StoreRegistry.descriptor(for: "locl") }
        #expect(error?.message == "there is no kind of store named 'locl'; did you mean 'local'?")
        let other = #expect(throws: StoreError.self) { try StoreRegistry.descriptor(for: "quux") }
        #expect(other?.message.contains("local, s3") == true)
    }

    @Test("within a kind each name and alias means one option", arguments: StoreRegistry.all.map(\.scheme))
    func names(scheme: String) throws {
        let descriptor = try StoreRegistry.descriptor(for: scheme)
        let names = descriptor.options.flatMap { [$0.name] + $0.aliases }
        #expect(Set(names).count == names.count)
        #expect(descriptor.options.allSatisfy { !$0.help.isEmpty })
    }

    @Test("a local directory is known by its path, however it is written")
    func identity() throws {
        let local = StoreDescriptor.local
        let settings = try local.settings(from: ["directory": "/srv//files/./"])
        #expect(local.identity(settings) == "/srv/files")
        #expect(local.settingsFromURL("/srv/files") == ["path": "/srv/files"])
        #expect(local.settingsFromURL("srv") == nil)
    }
}
