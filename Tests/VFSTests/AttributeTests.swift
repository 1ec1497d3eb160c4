import Catalog
import StoreAPI
import StoreTesting
import Stores
import Testing
import Threading

@testable import VFS

/// A store whose listings tell no attributes, as S3's, and which counts who asks for them at the same time.
private final class BareListings: StoreWrapper {
    struct State {
        var inside = 0
        var most = 0
        /// Calls wait until so many are inside.
        var quorum = 0
    }
    let inner: any Store
    let state = Monitor(State())

    init(_ inner: any Store) { self.inner = inner }

    var capabilities: StoreCapabilities { inner.capabilities.subtracting(.attributesInListing) }

    func list(_ directory: StorePath, after cursor: ListCursor?) throws(StoreError) -> ListPage {
        var page = try inner.list(directory, after: cursor)
        for index in page.entries.indices {
            page.entries[index].metadata.attributes = nil
            if page.entries[index].metadata.kind == .symbolicLink { page.entries[index].metadata.kind = .file }
        }
        return page
    }

    func metadata(of path: StorePath) throws(StoreError) -> Metadata {
        state.update {
            $0.inside += 1
            $0.most = max($0.most, $0.inside)
        }
        defer { state.update { $0.inside -= 1 } }
        _ = state.wait(until: .now + .seconds(20)) { $0.most >= $0.quorum ? () : nil }
        return try inner.metadata(of: path)
    }
}

@Suite("Attributes that a listing does not tell")
struct AttributeTests {
    private static func rig() throws -> (Rig, BareListings) {
        let bare = Lock<BareListings?>(nil)
        let rig = try Rig { store in
            let wrapper = BareListings(store)
            bare.withLock { $0 = wrapper }
            return wrapper
        }
        return (rig, bare.withLock { $0 }!)
    }

    @Test("a walk over a thousand foreign files asks for each once, many at a time")
    func walk() throws {
        let (rig, bare) = try Self.rig()
        for number in 0..<1000 { try rig.put("x", at: "f\(number)", Attributes(mode: 0o600, uid: 7, gid: 8)) }
        bare.state.update { $0.quorum = 16 }
        let entries = try rig.list(plus: true)
        #expect(entries.count == 1000)
        #expect(rig.store.calls(.list) == 1)
        for entry in entries {
            let attributes = try rig.attributes(entry.number).attributes
            #expect(attributes.uid == 7 && attributes.mode == 0o600)
        }
        #expect(rig.store.calls(.metadata) <= 1000)
        #expect(bare.state.withLock { $0.most } >= 16)
        // Known from now on.
        #expect(try rig.list(plus: true).allSatisfy { $0.entry?.attributes.uid == 7 })
        #expect(rig.store.calls(.metadata) <= 1000)
    }

    @Test("a symbolic link is found out to be one, with its target")
    func symbolicLink() throws {
        let (rig, _) = try Self.rig()
        _ = try rig.memory.put(
            UploadBody(Array("../target".utf8)), at: StorePath("link")!, PutOptions(kind: .symbolicLink))
        let entry = try rig.lookup("link")
        #expect(entry.attributes.kind == .symbolicLink)
        #expect(try answer { rig.files.readLink(entry.number, $0) } == Array("../target".utf8))
    }

    /// Keeps no attributes, and links all the same: archives are on such stores.
    private struct NoAttributes: StoreWrapper {
        let inner: any Store
        var capabilities: StoreCapabilities {
            inner.capabilities.subtracting([.attributes, .attributesInListing, .extendedAttributes])
        }
    }

    @Test("a symbolic link leads where it leads also on a store that keeps no attributes")
    func linkWithoutAttributes() throws {
        let rig = try Rig { NoAttributes(inner: $0) }
        _ = try rig.memory.put(
            UploadBody(Array("../target".utf8)), at: StorePath("link")!, PutOptions(kind: .symbolicLink))
        let entry = try rig.lookup("link")
        #expect(entry.attributes.kind == .symbolicLink)
        #expect(try answer { rig.files.readLink(entry.number, $0) } == Array("../target".utf8))
    }

    @Test("while the store cannot be asked, the mount's defaults are shown, and not remembered by the kernel")
    func defaults() throws {
        let (rig, _) = try Self.rig()
        rig.files.configure(
            FileSystemSettings(defaultUID: 11, defaultGID: 12, fileMode: 0o640, directoryMode: 0o750))
        try rig.put("x", at: "a", Attributes(mode: 0o600, uid: 7, gid: 8))
        rig.store.inject(.fail(StoreError(.unavailable, "down")), on: .metadata)
        let entry = try rig.lookup("a")
        #expect(entry.attributes.uid == 11 && entry.attributes.gid == 12 && entry.attributes.mode == 0o640)
        #expect(entry.attributeTimeout == .zero && entry.entryTimeout == .zero)
        rig.store.heal()
        // A failure that is noted only now begins another pause.
        var uid: UInt32?
        for _ in 0..<100 where uid != 7 {
            rig.advance(by: .seconds(10))
            uid = try rig.attributes(entry.number).attributes.uid
        }
        #expect(uid == 7)
    }

    @Test("a question that hangs is given up after some seconds, with the defaults")
    func hanging() throws {
        let (rig, _) = try Self.rig()
        try rig.put("x", at: "a")
        let gate = Gate()
        rig.store.inject(.wait(gate), on: .metadata)
        defer { gate.open() }
        let waiting = later { rig.files.lookup(Array("a".utf8), in: 2, $0) }
        #expect(eventually { rig.store.calls(.metadata) == 1 && rig.files.surroundings.parking.count == 1 })
        #expect(waiting.withLock { $0 } == nil)
        rig.advance(by: .seconds(6))
        #expect(try wait(waiting).get().attributeTimeout == .zero)
    }

    @Test("extended attributes are kept; the program's own are told; others are refused")
    func extended() throws {
        let rig = try Rig()
        try rig.put("remote", at: "r")
        let remote = try rig.lookup("r").number
        let (entry, file) = try rig.create("a")
        try rig.write("local", to: file.handle)
        try rig.close(file.handle)
        func get(_ name: String, _ number: UInt64? = nil) throws -> String {
            let value: [UInt8] = try answer { rig.files.extendedAttribute(name, of: number ?? entry.number, $0) }
            return String(decoding: value, as: UTF8.self)
        }
        func set(_ name: String, _ value: [UInt8], _ mode: Catalog.AttributeMode = .either) throws {
            try answer { rig.files.setExtendedAttribute(name, to: value, of: entry.number, mode, $0) }
        }
        try set("user.colour", Array("red".utf8))
        #expect(try get("user.colour") == "red")
        #expect(error { try set("user.colour", [], .create) } == .exists)
        #expect(error { try set("user.other", [], .replace) } == .noSuchAttribute)
        #expect(error { try set("system.posix_acl_access", []) } == .unsupported)
        #expect(error { try set("user.cloudfusion.dirty", []) } == .accessDenied)
        #expect(error { try set("user.big", [UInt8](repeating: 0, count: 65 << 10)) } == .noSpace)
        #expect(error { try set("user." + String(repeating: "n", count: 255), []) } == .outOfRange)
        #expect(try answer { rig.files.extendedAttributeNames(of: entry.number, for: Rig.user, $0) } == ["user.colour"])
        try answer { rig.files.removeExtendedAttribute("user.colour", of: entry.number, $0) }
        #expect(error { try get("user.colour") } == .noSuchAttribute)
        #expect(try get("user.cloudfusion.dirty") == "1")
        #expect(try get("XATTR_IS_DIRTY") == "1")
        #expect(try get("user.cloudfusion.location") == "cache")
        #expect(try get("user.cloudfusion.cached") == "5")
        #expect(error { try get("user.cloudfusion.etag") } == .noSuchAttribute)
        #expect(try get("user.cloudfusion.dirty", 2) == "1")
        #expect(try get("user.cloudfusion.dirty", remote) == "0")
        #expect(try get("user.cloudfusion.location", remote) == "store")
        #expect(try get("user.cloudfusion.cached", remote) == "0")
        #expect(try !get("user.cloudfusion.etag", remote).isEmpty)
    }
}
