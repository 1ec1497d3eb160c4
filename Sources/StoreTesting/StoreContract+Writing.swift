import StoreAPI

extension StoreContract {
    static let writing: [StoreClause] = [
        StoreClause("put makes the directories above") { store, scratch in
            let path = scratch / "one" / "two" / "three" / "object"
            try store.write([1, 2, 3], at: path)
            try requireEqual(store.contents(of: path), [1, 2, 3], "what was written")
            try requireEqual(store.metadata(of: scratch / "one" / "two").kind, .directory, "the kind of a parent")
            try requireEqual(store.names(in: scratch / "one"), ["two"], "the listing of a parent")
        },
        StoreClause("an object that is overwritten is new to every reader at once") { store, scratch in
            let path = scratch / "object"
            var seen: Set<Version> = []
            for round in 1...5 {
                let bytes = pattern(1_000 * round, seed: UInt64(round))
                let written = try version(store.write(bytes, at: path))
                try require(seen.insert(written).inserted, "round \(round) has an earlier version: \(written)")
                try requireEqual(store.contents(of: path), bytes, "what was read in round \(round)")
                try requireEqual(store.metadata(of: path).size, Int64(bytes.count), "the size in round \(round)")
                let listed = try store.entries(of: scratch)
                try requireEqual(listed.map(\.metadata.size), [Int64(bytes.count)], "the sizes listed")
            }
        },
        StoreClause("the same length written again has another version") { store, scratch in
            let path = scratch / "object"
            let first = try version(store.write(pattern(4_096, seed: 1), at: path))
            let second = try version(store.write(pattern(4_096, seed: 2), at: path))
            try require(first != second, "both have the version \(first)")
            try requireEqual(store.metadata(of: path).version, second, "the version in the metadata")
        },
        StoreClause("a body may be made of bytes and of parts of a file") { store, scratch in
            let bytes = pattern(300_000)
            let file = try TemporaryFile(bytes)
            let body = UploadBody([
                .bytes(Array(bytes[0..<5])), .file(descriptor: file.descriptor, offset: 5, length: 199_995),
                .bytes([]), .file(descriptor: file.descriptor, offset: 200_000, length: 0),
                .bytes(Array(bytes[200_000..<250_000])),
                .file(descriptor: file.descriptor, offset: 250_000, length: 50_000),
            ])
            let written = try store.put(body, at: scratch / "object", PutOptions())
            try requireEqual(written.size, 300_000, "the size")
            try requireEqual(store.contents(of: scratch / "object"), bytes, "what was written")
        },
        StoreClause("a body can be sent twice") { store, scratch in
            let bytes = pattern(100_000)
            let file = try TemporaryFile(bytes)
            let body = UploadBody(descriptor: file.descriptor, length: 100_000)
            _ = try store.put(body, at: scratch / "first", PutOptions())
            _ = try store.put(body, at: scratch / "second", PutOptions())
            try requireEqual(store.contents(of: scratch / "first"), bytes, "the first")
            try requireEqual(store.contents(of: scratch / "second"), bytes, "the second")
        },
        StoreClause("a body that ends early fails, and the old object stays") { store, scratch in
            let path = scratch / "object"
            try store.write([7, 7, 7], at: path)
            let file = try TemporaryFile(pattern(1_000))
            let failure = Result {
                try store.put(UploadBody(descriptor: file.descriptor, length: 5_000), at: path, .init())
            }
            if case .success = failure { throw ContractViolation("a body of 1000 instead of 5000 bytes was taken") }
            try requireEqual(store.contents(of: path), [7, 7, 7], "the object afterwards")
            try requireEqual(store.names(in: scratch), ["object"], "the listing afterwards")
        },
        StoreClause("progress adds up to the length") { store, scratch in
            for size in [0, 1, 700_000] {
                let tally = Tally()
                let file = try TemporaryFile(pattern(size))
                let body = UploadBody([
                    .bytes([1, 2, 3]), .file(descriptor: file.descriptor, offset: 0, length: Int64(size)),
                ])
                _ = try store.put(body, at: scratch / "object", PutOptions(progress: { tally.add($0) }))
                try requireEqual(tally.value, Int64(size + 3), "the sum of all progress")
            }
        },
        StoreClause("an upload that is no longer wanted leaves the old object") { store, scratch in
            let path = scratch / "object"
            try store.write([4, 5, 6], at: path)
            try requireError(.cancelled, from: "an unwanted upload") {
                try store.write(pattern(500_000), at: path, PutOptions(isWanted: { false }))
            }
            try requireEqual(store.contents(of: path), [4, 5, 6], "the object afterwards")
            try requireError(.cancelled, from: "an unwanted upload of a new object") {
                try store.write(pattern(500_000), at: scratch / "new", PutOptions(isWanted: { false }))
            }
            try requireError(.cancelled, from: "an unwanted upload of nothing") {
                try store.write([], at: scratch / "new", PutOptions(isWanted: { false }))
            }
            try requireEqual(store.names(in: scratch), ["object"], "the listing afterwards")
        },
        StoreClause("an object larger than one part is written in parts", exclude: unlessParts) { store, scratch in
            let threshold = Int(store.capabilities.multipartThreshold!)
            for size in [threshold - 1, threshold, threshold + 1, threshold * 2 + 12_345] {
                let bytes = pattern(size, seed: UInt64(size))
                let file = try TemporaryFile(bytes)
                let tally = Tally()
                let written = try store.put(
                    UploadBody([
                        .bytes(Array(bytes[..<10])),
                        .file(descriptor: file.descriptor, offset: 10, length: Int64(size - 10)),
                    ]), at: scratch / "object", PutOptions(progress: { tally.add($0) }))
                try requireEqual(written.size, Int64(size), "the size")
                try requireEqual(tally.value, Int64(size), "the sum of all progress")
                try requireEqual(store.contents(of: scratch / "object"), bytes, "the object of \(size) bytes")
                try requireEqual(
                    store.metadata(of: scratch / "object").version, written.version, "the version in the metadata")
            }
        },
        StoreClause("an upload in parts that is no longer wanted leaves nothing", exclude: unlessParts) {
            store, scratch in
            let size = Int(store.capabilities.multipartThreshold!) * 2
            let file = try TemporaryFile(pattern(size))
            let tally = Tally()
            try requireError(.cancelled, from: "an upload that becomes unwanted") {
                _ = try store.put(
                    UploadBody(descriptor: file.descriptor, length: Int64(size)), at: scratch / "object",
                    PutOptions(isWanted: { tally.value == 0 }, progress: { tally.add($0) }))
            }
            try requireEqual(store.names(in: scratch), [], "the listing afterwards")
        },
        StoreClause(
            "an interrupted upload goes on where it was", requires: .resumableUpload, exclude: unlessParts
        ) { store, scratch in
            let size = Int(store.capabilities.multipartThreshold!) * 2 + 5
            let bytes = pattern(size)
            let checkpoint = MemoryCheckpoint()
            // The body breaks off in its last part, as when the machine stops.
            let broken = try TemporaryFile(Array(bytes[..<(size - 1_000)]))
            let whole = try TemporaryFile(bytes)
            let first = Result {
                try store.put(
                    UploadBody(descriptor: broken.descriptor, length: Int64(size)), at: scratch / "object",
                    PutOptions(checkpoint: checkpoint))
            }
            if case .success = first { throw ContractViolation("a body that breaks off was taken") }
            try require(!store.exists(scratch / "object"), "half an upload can be seen")
            try require(checkpoint.load() != nil, "nothing was saved to take the upload up again")
            let tally = Tally()
            let written = try store.put(
                UploadBody(descriptor: whole.descriptor, length: Int64(size)), at: scratch / "object",
                PutOptions(progress: { tally.add($0) }, checkpoint: checkpoint))
            try requireEqual(written.size, Int64(size), "the size")
            try require(tally.value < Int64(size), "all \(tally.value) bytes were sent again")
            try require(checkpoint.load() == nil, "the checkpoint is still there after the upload")
            try requireEqual(store.contents(of: scratch / "object"), bytes, "what was written")
        },
        StoreClause(
            "a checkpoint that means nothing any more does no harm", requires: .resumableUpload, exclude: unlessParts
        ) { store, scratch in
            let size = Int(store.capabilities.multipartThreshold!) + 5
            let bytes = pattern(size)
            for state in ["", "nonsense", "{\"upload\": \"gone\"}"] {
                let checkpoint = MemoryCheckpoint()
                checkpoint.save(state)
                let file = try TemporaryFile(bytes)
                _ = try store.put(
                    UploadBody(descriptor: file.descriptor, length: Int64(size)), at: scratch / "object",
                    PutOptions(checkpoint: checkpoint))
                try requireEqual(store.contents(of: scratch / "object"), bytes, "what was written")
            }
        },
        StoreClause("ranges of stored objects become part of a new one", requires: .rangeCopy) { store, scratch in
            let sizes = store.capabilities.rangeCopySizes
            let unit = Int(max(sizes.lowerBound, 10_000))
            try require(unit <= 20 << 20, "the smallest range of \(unit) bytes is too large for a test")
            let bytes = pattern(unit * 2)
            let source = try version(store.write(bytes, at: scratch / "source"))
            let body = UploadBody([
                .stored(path: scratch / "source", version: source, range: 1_000..<Int64(1_000 + unit)),
                .bytes([1, 2, 3]),
            ])
            let written = try store.put(body, at: scratch / "object", PutOptions())
            let expected = Array(bytes[1_000..<(1_000 + unit)]) + [1, 2, 3]
            try requireEqual(written.size, Int64(expected.count), "the size")
            try requireEqual(store.contents(of: scratch / "object"), expected, "what was put together")

            // A file of which only the end was changed, onto itself.
            let appended = UploadBody([
                .stored(path: scratch / "source", version: source, range: 0..<Int64(unit * 2)), .bytes([9, 9]),
            ])
            _ = try store.put(appended, at: scratch / "source", PutOptions(condition: .always))
            try requireEqual(store.contents(of: scratch / "source"), bytes + [9, 9], "what was appended to")
            // Of a version that was replaced, where that can still be read; else nothing comes of it.
            do {
                _ = try store.put(appended, at: scratch / "other", PutOptions())
                try require(store.capabilities.contains(.formerVersions), "a range of a version that was replaced came")
                try requireEqual(
                    store.contents(of: scratch / "other"), bytes + [9, 9], "what was made of a former version")
            } catch let error as StoreError where error.code == .preconditionFailed {
                try require(!store.exists(scratch / "other"), "it is there all the same")
            }
        },
        StoreClause("an object cannot take the place of a directory", requires: .realDirectories) { store, scratch in
            try store.createDirectory(at: scratch / "directory", Attributes())
            try requireError(.isADirectory, from: "writing onto a directory") {
                try store.write([1], at: scratch / "directory")
            }
            try store.write([1], at: scratch / "file")
            try requireError(.notADirectory, from: "writing below a file") {
                try store.write([1], at: scratch / "file" / "below")
            }
            try requireError(.notADirectory, from: "making a directory where a file is") {
                try store.createDirectory(at: scratch / "file", Attributes())
            }
            try requireError(.notADirectory, from: "making a directory below a file") {
                try store.createDirectory(at: scratch / "file" / "below", Attributes())
            }
            try requireEqual(store.contents(of: scratch / "file"), [1], "the file afterwards")
        },
        StoreClause("making a directory that is there is no error") { store, scratch in
            try store.createDirectory(at: scratch / "a" / "b", Attributes())
            try store.write([1], at: scratch / "a" / "b" / "object")
            try store.createDirectory(at: scratch / "a" / "b", Attributes())
            try store.createDirectory(at: scratch / "a", Attributes())
            try requireEqual(store.names(in: scratch / "a" / "b"), ["object"], "the listing afterwards")
            try requireEqual(store.metadata(of: scratch / "a").kind, .directory, "the kind of the parent")
        },
    ]

    /// For clauses about large uploads; not for parts so large that a test would take minutes.
    static func unlessParts(_ capabilities: StoreCapabilities) -> String? {
        guard let threshold = capabilities.multipartThreshold else { return "uploads are never made in parts" }
        return threshold <= 20 << 20 ? nil : "parts begin at \(threshold) bytes only"
    }
}
