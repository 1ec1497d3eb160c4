import StoreAPI

extension StoreContract {
    private static let oddNames: [(what: String, bytes: [UInt8])] = [
        ("spaces", Array("  two  spaces ".utf8)),
        ("percent signs", Array("100%25 %2F %".utf8)),
        ("plus signs", Array("a+b c".utf8)),
        ("the marks of a URL", Array("what?x=1&y=2#part;p@h:8!$*()[]".utf8)),
        ("quotes and brackets", Array("'single' \"double\" <tag> & `back` \\ | ^ {} ~".utf8)),
        ("UTF-8", Array("Grüße-日本語-🎉".utf8)),
        ("decomposed UTF-8", Array("u\u{308}".utf8)),
        ("a leading dot", Array(".hidden".utf8)),
        ("three dots", Array("...".utf8)),
        ("a trailing dot and space", Array("end. ".utf8)),
        ("a leading dash", Array("-rf".utf8)),
        ("255 bytes", [UInt8](repeating: UInt8(ascii: "n"), count: 255)),
        ("a newline", Array("two\nlines".utf8)),
        ("control characters", [1, 2, 7, 8, 9, 13, 27, 31, 127]),
        ("invalid UTF-8", [0xff, 0xfe, UInt8(ascii: "x"), 0xc3, 0x28, 0x80]),
        ("a surrogate in UTF-8", [0xed, 0xa0, 0x80]),
        ("only a backslash", Array("\\".utf8)),
    ]

    static let names: [StoreClause] =
        oddNames.map { what, bytes in
            StoreClause("a name with \(what) is kept") { store, scratch in
                let name = FileName(bytes)!
                let path = scratch.appending(name)
                try store.write([1, 2, 3], at: path)
                try requireEqual(store.entries(of: scratch).map(\.name.bytes), [bytes], "the names listed")
                try requireEqual(store.contents(of: path), [1, 2, 3], "the object")
                try requireEqual(store.metadata(of: path).size, 3, "the size")
                try store.delete(path)
                try require(!store.exists(path), "the object is still there")
                try store.write([4], at: path / "below")
                try requireEqual(store.entries(of: scratch).map(\.name.bytes), [bytes], "the directories listed")
                try requireEqual(store.names(in: path), ["below"], "the names in the directory")
                try requireEqual(store.contents(of: path / "below"), [4], "the object in the directory")
            }
        } + [
            StoreClause("names that differ in case only are two", requires: .caseSensitive) { store, scratch in
                try store.write([1], at: scratch / "name")
                try store.write([2], at: scratch / "Name")
                try requireEqual(store.names(in: scratch), ["Name", "name"], "the names")
                try requireEqual(store.contents(of: scratch / "name"), [1], "the first")
                try requireEqual(store.contents(of: scratch / "Name"), [2], "the second")
            },
            StoreClause("two spellings of one character are two names") { store, scratch in
                try store.write([1], at: scratch / "\u{fc}")
                try store.write([2], at: scratch / "u\u{308}")
                try requireEqual(store.entries(of: scratch).count, 2, "the number of entries")
                try requireEqual(store.contents(of: scratch / "\u{fc}"), [1], "the first")
            },
            StoreClause("names that sort around the slash are kept apart") { store, scratch in
                try store.write([1], at: scratch / "a" / "x")
                try store.write([2], at: scratch / "a.b")
                try store.write([3], at: scratch / "a-b")
                try store.write([4], at: scratch / "a0")
                try store.write([5], at: scratch / "a b" / "y")
                try requireEqual(store.names(in: scratch), ["a", "a b", "a-b", "a.b", "a0"], "the names")
                try requireEqual(store.names(in: scratch / "a"), ["x"], "the names in 'a'")
                try requireEqual(store.contents(of: scratch / "a.b"), [2], "'a.b'")
            },
            StoreClause("a deep path is kept") { store, scratch in
                let path = (0..<30).reduce(scratch) { path, level in path / "level \(level) of a deep tree" }
                guard path.bytes.count <= store.capabilities.longestPath else { return }
                try store.write([1], at: path)
                try requireEqual(store.contents(of: path), [1], "the object")
            },
            StoreClause("a name that is too long is refused, and nothing is written", isAboutChanges: true) {
                store, scratch in
                let longest = store.capabilities.longestPath
                var path = scratch
                while path.bytes.count <= longest { path = path / String(repeating: "d", count: 200) }
                try requireError(.invalidName, from: "writing a path of \(path.bytes.count) bytes") {
                    try store.write([1], at: path)
                }
                try requireEqual(store.names(in: scratch), [], "the names afterwards")
            },
        ]
}
