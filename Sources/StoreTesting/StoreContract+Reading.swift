import StoreAPI

extension StoreContract {
    static let reading: [StoreClause] =
        [0, 1, 4095, 4096, 4097, 1 << 20].map { size in
            StoreClause("an object of \(size) bytes comes back as it was written") { store, scratch in
                let bytes = pattern(size, seed: UInt64(size))
                let path = scratch / "object"
                let written = try store.write(bytes, at: path)
                try requireEqual(written.size, Int64(size), "the size that put answered")
                try requireEqual(written.kind, .file, "the kind that put answered")
                try requireEqual(store.contents(of: path), bytes, "what was read")
                let sink = MemorySink()
                let read = try store.read(path, ReadRequest(), into: sink)
                try requireEqual(read.size, Int64(size), "the size that read answered")
                try requireEqual(read.version, written.version, "the version that read answered")
                let metadata = try store.metadata(of: path)
                try requireEqual(metadata.size, Int64(size), "the size in the metadata")
                try requireEqual(metadata.version, written.version, "the version in the metadata")
            }
        } + [
            StoreClause("a range of an object is read exactly") { store, scratch in
                let bytes = pattern(100_000)
                let path = scratch / "object"
                try store.write(bytes, at: path)
                for range in [0..<1, 1..<2, 49_999..<50_001, 4_096..<8_192, 99_999..<100_000, 0..<100_000] {
                    let found = try store.contents(of: path, Int64(range.lowerBound)..<Int64(range.upperBound))
                    try requireEqual(found, Array(bytes[range]), "the range \(range)")
                }
            },
            StoreClause("a range that goes beyond the end gives what there is") { store, scratch in
                let bytes = pattern(1_000)
                let path = scratch / "object"
                try store.write(bytes, at: path)
                try requireEqual(store.contents(of: path, 990..<2_000), Array(bytes[990...]), "the range 990..<2000")
                try requireEqual(store.contents(of: path, 0..<Int64.max), bytes, "the range to the largest number")
                try requireEqual(
                    store.contents(of: path, 999..<Int64.max), [bytes[999]], "the range from the last byte on")
            },
            StoreClause("a range that begins at or behind the end gives no bytes") { store, scratch in
                let path = scratch / "object"
                try store.write(pattern(1_000), at: path)
                for range in [1_000..<1_001, 5_000..<6_000, (Int64.max - 1)..<Int64.max, 10..<10] as [Range<Int64>] {
                    let sink = MemorySink(from: range.lowerBound)
                    let metadata = try store.read(path, ReadRequest(range: range), into: sink)
                    try requireEqual(sink.bytes.count, 0, "the number of bytes read of \(range)")
                    try requireEqual(metadata.size, 1_000, "the size answered for \(range)")
                }
                try store.write([], at: scratch / "empty")
                try requireEqual(store.contents(of: scratch / "empty", 0..<10), [], "a range of an empty object")
            },
            StoreClause("the metadata of a range is that of the whole object") { store, scratch in
                let path = scratch / "object"
                let written = try store.write(pattern(5_000), at: path)
                let read = try store.read(path, ReadRequest(range: 10..<20), into: MemorySink(from: 10))
                try requireEqual(read.size, 5_000, "the size answered for a range")
                try requireEqual(read.version, written.version, "the version answered for a range")
            },
            StoreClause("a read of a given version gives that or fails") { store, scratch in
                let path = scratch / "object"
                let old = try version(store.write(pattern(3_000, seed: 1), at: path))
                try requireEqual(store.contents(of: path, version: old), pattern(3_000, seed: 1), "the first version")
                let new = try version(store.write(pattern(3_000, seed: 2), at: path))
                try require(old != new, "two contents have the version \(old)")
                if store.capabilities.contains(.formerVersions) {
                    try requireEqual(
                        store.contents(of: path, version: old), pattern(3_000, seed: 1), "the version that was replaced"
                    )
                } else {
                    try requireError(.preconditionFailed, from: "a read of the version that was replaced") {
                        _ = try store.contents(of: path, version: old)
                    }
                    try requireError(.preconditionFailed, from: "a read of a range of the version that was replaced") {
                        _ = try store.contents(of: path, 100..<200, version: old)
                    }
                }
                try requireEqual(
                    store.contents(of: path, 100..<200, version: new), Array(pattern(3_000, seed: 2)[100..<200]),
                    "a range of the second version")
                try requireError(.preconditionFailed, from: "a read of a version that never was") {
                    _ = try store.contents(of: path, version: Version("never"))
                }
            },
            StoreClause("what is not there is not found, and that is a definite answer") { store, scratch in
                try requireError(.notFound, from: "metadata of nothing") {
                    _ = try store.metadata(of: scratch / "nothing")
                }
                try requireError(.notFound, from: "reading nothing") {
                    _ = try store.contents(of: scratch / "nothing")
                }
                try requireError(.notFound, from: "reading a range of nothing") {
                    _ = try store.contents(of: scratch / "nothing", 5..<10)
                }
                try requireError(.notFound, from: "metadata below a missing directory") {
                    _ = try store.metadata(of: scratch / "no directory" / "nothing")
                }
            },
            StoreClause("a name that is the beginning of another is not found for it") { store, scratch in
                try store.write([1], at: scratch / "long name")
                try require(!store.exists(scratch / "long"), "'long' exists though only 'long name' was written")
                try require(!store.exists(scratch / "long name more"), "'long name more' exists")
            },
            StoreClause("a directory cannot be read as an object") { store, scratch in
                try store.createDirectory(at: scratch / "directory", Attributes())
                try requireError(.isADirectory, .notFound, from: "reading a directory") {
                    _ = try store.contents(of: scratch / "directory")
                }
            },
            StoreClause("a directory is told from what is missing", requires: .realDirectories) { store, scratch in
                try store.createDirectory(at: scratch / "directory", Attributes())
                try requireError(.isADirectory, from: "reading a directory") {
                    _ = try store.contents(of: scratch / "directory")
                }
            },
            StoreClause("an error of the sink ends the read and comes through") { store, scratch in
                let path = scratch / "object"
                try store.write(pattern(300_000), at: path)
                try requireError(.noLocalSpace, from: "a read into a full disk") {
                    _ = try store.read(path, ReadRequest(), into: FullSink())
                }
                try requireEqual(store.contents(of: path), pattern(300_000), "what is read afterwards")
            },
        ]

    /// The version that an answer must have.
    static func version(_ metadata: Metadata) throws -> Version {
        guard let version = metadata.version else { throw ContractViolation("the store told no version") }
        return version
    }
}

/// Takes nothing.
private final class FullSink: ReadSink {
    func write(_ bytes: UnsafeRawBufferPointer, at offset: Int64) throws(StoreError) {
        throw StoreError(.noLocalSpace, "the disk is full")
    }
}
