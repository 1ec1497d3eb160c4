import StoreAPI

extension StoreContract {
    static let listing: [StoreClause] = [
        StoreClause("a listing tells what the metadata tells") { store, scratch in
            for size in [0, 1, 5_000] { try store.write(pattern(size), at: scratch / "object \(size)") }
            try store.createDirectory(at: scratch / "directory", Attributes())
            let entries = try store.entries(of: scratch)
            try requireEqual(
                entries.map(\.name.description).sorted(), ["directory", "object 0", "object 1", "object 5000"],
                "the names")
            for entry in entries {
                let metadata = try store.metadata(of: scratch.appending(entry.name))
                try requireEqual(entry.metadata.kind, metadata.kind, "the kind listed for '\(entry.name)'")
                try requireEqual(entry.metadata.size, metadata.size, "the size listed for '\(entry.name)'")
                try requireEqual(entry.metadata.version, metadata.version, "the version listed for '\(entry.name)'")
                if metadata.kind == .directory { try requireEqual(metadata.version, nil, "a directory's version") }
            }
        },
        StoreClause("a listing of many entries has each of them once") { store, scratch in
            let count = 1_005
            try fill(scratch, of: store, count)
            let names = try store.entries(of: scratch).map(\.name.description)
            try requireEqual(names.count, count, "the number of entries")
            try requireEqual(Set(names), Set((0..<count).map { "entry \($0)" }), "the names")
        },
        StoreClause("entries that stay are listed once while others come and go") { store, scratch in
            try fill(scratch, of: store, 1_005)
            var names: [String] = []
            var round = 0
            try store.forEachPage(of: scratch) { (page: ListPage) throws(StoreError) in
                names += page.entries.map(\.name.description)
                for number in 0..<10 { try store.write([1], at: scratch / "new \(round) \(number)") }
                for number in 0..<5 { try store.delete(scratch / "entry \(round * 5 + number)") }
                round += 1
            }
            let old = names.filter { $0.hasPrefix("entry ") }
            try requireEqual(Set(old).count, old.count, "the number of different names")
            let kept = Set((round * 5..<1_005).map { "entry \($0)" })
            try require(kept.isSubset(of: old), "missing: \(kept.subtracting(old).sorted().prefix(5))")
        },
        StoreClause("a listing shows one level") { store, scratch in
            try store.write([1], at: scratch / "a" / "b" / "c")
            try store.write([1], at: scratch / "a" / "d")
            try store.write([1], at: scratch / "ab")
            try requireEqual(store.names(in: scratch), ["a", "ab"], "the scratch directory")
            try requireEqual(store.names(in: scratch / "a"), ["b", "d"], "the directory 'a'")
            try requireEqual(store.names(in: scratch / "a" / "b"), ["c"], "the directory 'a/b'")
            try require(
                store.names(in: .root).contains(scratch.name!.description), "the root lacks the scratch directory")
        },
        StoreClause("an empty directory exists and can be listed", requires: .emptyDirectories) { store, scratch in
            try store.createDirectory(at: scratch / "empty", Attributes())
            try requireEqual(store.metadata(of: scratch / "empty").kind, .directory, "the kind")
            try requireEqual(store.entries(of: scratch).map(\.metadata.kind), [.directory], "the kinds listed")
            try requireEqual(store.names(in: scratch / "empty"), [], "the names in it")
            try requireEqual(store.metadata(of: .root).kind, .directory, "the kind of the root")
        },
        StoreClause("the listing follows every change at once", requires: .consistentListing) { store, scratch in
            for round in 0..<10 {
                try store.write([UInt8(round)], at: scratch / "object \(round)")
                try requireEqual(store.names(in: scratch).count, 1, "the number of names after writing")
                try store.delete(scratch / "object \(round)")
                try requireEqual(store.names(in: scratch), [], "the names after deleting")
            }
        },
        StoreClause("what is no directory cannot be listed", requires: .realDirectories) { store, scratch in
            try store.write([1], at: scratch / "file")
            try requireError(.notADirectory, from: "listing a file") { _ = try store.entries(of: scratch / "file") }
            try requireError(.notFound, from: "listing nothing") { _ = try store.entries(of: scratch / "nothing") }
            try requireError(.notFound, .notADirectory, from: "metadata below a file") {
                _ = try store.metadata(of: scratch / "file" / "below")
            }
        },
        StoreClause("a missing directory is empty or missing, and nothing else") { store, scratch in
            do {
                try requireEqual(store.entries(of: scratch / "nothing").count, 0, "the number of entries")
            } catch let error as StoreError where error.code == .notFound {}
        },
    ]

    /// Writes so many small objects, several at a time.
    static func fill(_ directory: StorePath, of store: any Store, _ count: Int) throws {
        let results = race(8) { worker in
            for number in stride(from: worker, to: count, by: 8) {
                try store.write([UInt8(number & 0xff)], at: directory / "entry \(number)")
            }
        }
        for result in results { try result.get() }
    }
}
