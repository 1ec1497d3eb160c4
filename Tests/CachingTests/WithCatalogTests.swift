import Catalog
import Glibc
import Statistics
import StoreAPI
import Testing
import Threading

@testable import Caching

@Suite struct WithCatalogTests {
    @Test("with the real catalog: fetch, evict, write, crash, upload, and what is left is right")
    func lifecycle() throws {
        var template = Array("/tmp/cloudfusion-cache-XXXXXX".utf8CString)
        let folder = String(cString: mkdtemp(&template)!)
        defer { system("rm -rf '\(folder)'") }
        let size: Int64 = 900_000
        let store = FakeStore()
        store.add("file", size: size)
        defer { store.shutdown() }
        func open() throws -> (Catalog, ContentCache) {
            let catalog = try Catalog(path: folder + "/catalog", clock: SystemClock())
            let cache = try ContentCache(
                folder: folder + "/cache", catalog: catalog, store: store,
                limits: CacheLimits(soft: 1 << 40, hard: 1 << 41, freeSpaceFloor: 0), statistics: Statistics(),
                clock: SystemClock())
            return (catalog, cache)
        }
        var (catalog, cache) = try open()
        let listing = try #require(try catalog.beginListing(of: .root))
        let metadata = Metadata(
            kind: .file, size: size, modified: Timestamp(seconds: 5), version: Version("v1"),
            attributes: Attributes(mode: 0o644))
        _ = try catalog.merge([ListEntry(name: FileName("file")!, metadata: metadata)], into: listing)
        try catalog.endListing(listing) { _ in }
        let inode = try #require(try catalog.lookup(FileName("file")!, in: .root).inode).id
        var content = try cache.open(inode)
        #expect(content.size == size)
        #expect(try content.bytes(at: 1000, count: 10) == FakeStore.bytes(1000..<1010))
        cache.keepNow()
        #expect(try catalog.content(of: inode)?.present.ranges == [0..<131_072])
        #expect(cache.evict { 1 }.freed == 131_072)
        #expect(try catalog.contentTotals().cachedBytes == 0)
        try content.write([1, 2, 3], at: 10)
        try content.truncate(to: size + 5)
        try content.save()
        #expect(try catalog.contentTotals().dirtyFiles == 1)
        // The process is killed: the new one begins with what is on the disk. Closing writes nothing.
        catalog.close()
        (catalog, cache) = try open()
        content = try cache.open(inode)
        var view: UploadView? = try content.prepareUpload(store.capabilities)
        #expect(view?.size == size + 5)
        let record = try #require(try catalog.content(of: inode))
        #expect(view?.generation == record.generation)
        let item = try #require(
            try catalog.pending(dueBefore: Timestamp(nanoseconds: .max), limit: 10, busy: []).first)
        guard case .upload(let plan) = try catalog.plan(item) else {
            Issue.record("no upload is planned")
            return
        }
        var right = FakeStore.bytes(0..<size) + [0, 0, 0, 0, 0]
        right.replaceSubrange(10..<13, with: [1, 2, 3])
        store.set("file", right, version: "v2")
        try catalog.uploaded(
            plan, as: Metadata(kind: .file, size: size + 5, modified: .now, version: Version("v2")))
        // While there is a view of them the bytes stay.
        view = nil
        cache.contentWasUploaded(inode)
        #expect(try content.bytes(at: 0, count: 1_000_000) == right)
        cache.keepNow()
        content.close()
        cache.keepNow()
        #expect(cache.evict { 1 }.freed == size + 5, "clean now")
        #expect(try catalog.contentTotals() == ContentTotals(cachedBytes: 0, dirtyBytes: 0, dirtyFiles: 0))
        content = try cache.open(inode)
        #expect(try content.bytes(at: 0, count: 1_000_000) == right)
        content.close()
        cache.shutdown()
        catalog.close()
    }
}
