import StoreAPI
import StoreTesting
import Testing

@Suite("File names and paths")
struct StorePathTests {
    @Test(
        "what POSIX does not allow is no name",
        arguments: ["", ".", "..", "a/b", "/", "a\0b", String(repeating: "x", count: 256)])
    func illegalNames(text: String) {
        #expect(FileName(text) == nil)
    }

    @Test(
        "whatever else is a name, byte for byte",
        arguments: ["a", "...", " ", ".hidden", "\n", "ü", "\\", String(repeating: "x", count: 255)])
    func legalNames(text: String) {
        #expect(FileName(text)?.bytes == Array(text.utf8))
    }

    @Test("a name need not be UTF-8")
    func bytes() {
        #expect(FileName([0xff, 0x80])?.bytes == [0xff, 0x80])
        #expect(FileName([0xff, 0x80]) != FileName([0xff, 0x81]))
    }

    @Test(
        "nothing that leaves its place is a path",
        arguments: ["/", "/a", "a/", "a//b", "../a", "a/..", "a/../b", "a/./b", "./a", "a\0"])
    func illegalPaths(text: String) {
        #expect(StorePath(text) == nil)
    }

    @Test("a path falls apart into its names and comes together again")
    func components() throws {
        let path = try #require(StorePath("one/two words/drei"))
        #expect(path.components.map(\.description) == ["one", "two words", "drei"])
        #expect(path.name == FileName("drei"))
        #expect(path.parent == StorePath("one/two words"))
        #expect(path.parent?.parent == StorePath("one"))
        #expect(path.parent?.parent?.parent == .root)
        #expect(path.components.reduce(StorePath.root) { $0.appending($1) } == path)
        #expect(StorePath.root.appending(path) == path)
        #expect(path.appending(.root) == path)
        #expect(StorePath("one")?.appending(StorePath("two words/drei")!) == path)
    }

    @Test("the root has no name, no parent and no components")
    func root() {
        #expect(StorePath("") == .root)
        #expect(StorePath.root.isRoot)
        #expect(StorePath.root.name == nil)
        #expect(StorePath.root.parent == nil)
        #expect(StorePath.root.components.isEmpty)
        #expect(StorePath.root.description.isEmpty)
    }

    @Test("a path is inside itself and what is above, not inside a longer or similar name")
    func inside() {
        let path = StorePath("a/b")!
        #expect(path.isInside(.root))
        #expect(path.isInside(StorePath("a")!))
        #expect(path.isInside(path))
        #expect(!path.isInside(StorePath("a/b/c")!))
        #expect(!StorePath("ab")!.isInside(StorePath("a")!))
        #expect(!StorePath("a/bc")!.isInside(path))
        #expect(!StorePath.root.isInside(path))
        #expect(StorePath.root.isInside(.root))
    }

    @Test("paths are in the order of their bytes")
    func order() {
        let sorted = ["a", "a b", "a-b", "a.b", "a/b", "a0", "ab"].map { StorePath($0)! }
        #expect(sorted.shuffled().sorted() == sorted)
    }

    @Test("random bytes make either no path or one that comes back and stays below the root")
    func random() {
        let seed = UInt64.random(in: 0...UInt64.max)
        let alphabet: [UInt8] = [UInt8(ascii: "/"), UInt8(ascii: "."), UInt8(ascii: "a"), 0, 0xff]
        let noise = pattern(40_000, seed: seed)
        for start in stride(from: 0, to: noise.count - 8, by: 8) {
            let length = Int(noise[start] % 8)
            let bytes = noise[start + 1..<start + 1 + length].map { alphabet[Int($0) % alphabet.count] }
            guard let path = StorePath(bytes) else { continue }
            #expect(path.bytes == bytes, "seed \(seed)")
            #expect(path.components.allSatisfy { ![".", ".."].contains($0.description) }, "seed \(seed)")
        }
    }
}
