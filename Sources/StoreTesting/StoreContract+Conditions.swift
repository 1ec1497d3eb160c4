import StoreAPI

extension StoreContract {
    static let conditions: [StoreClause] = [
        StoreClause("put if absent creates, and never replaces", requires: .conditionalCreate) { store, scratch in
            let path = scratch / "object"
            let first = try store.write([1], at: path, PutOptions(condition: .ifAbsent))
            try requireError(.preconditionFailed, from: "creating what is there") {
                try store.write([2, 2], at: path, PutOptions(condition: .ifAbsent))
            }
            try requireEqual(store.contents(of: path), [1], "the object afterwards")
            try requireEqual(store.metadata(of: path).version, first.version, "its version")
            try store.delete(path)
            try store.write([3], at: path, PutOptions(condition: .ifAbsent))
            try requireEqual(store.contents(of: path), [3], "what was created after the deletion")
        },
        StoreClause("of many that create an object one wins", requires: .conditionalCreate) { store, scratch in
            for round in 0..<5 {
                let path = scratch / "round \(round)"
                let results = race(8) { racer in
                    try store.write(pattern(2_000, seed: UInt64(racer)), at: path, PutOptions(condition: .ifAbsent))
                }
                try requireOneWinner(results, of: store, at: path) { pattern(2_000, seed: UInt64($0)) }
            }
        },
        StoreClause("put if unchanged replaces that version only", requires: .conditionalReplace) { store, scratch in
            let path = scratch / "object"
            let first = try version(store.write([1], at: path))
            let second = try version(store.write([2], at: path, PutOptions(condition: .ifVersion(first))))
            try requireEqual(store.contents(of: path), [2], "what was replaced")
            try requireError(.preconditionFailed, from: "replacing a version that is gone") {
                try store.write([3], at: path, PutOptions(condition: .ifVersion(first)))
            }
            try requireEqual(store.contents(of: path), [2], "the object afterwards")
            try requireEqual(store.metadata(of: path).version, second, "its version")
            try store.delete(path)
            try requireError(.preconditionFailed, from: "replacing what was deleted") {
                try store.write([4], at: path, PutOptions(condition: .ifVersion(second)))
            }
            try require(!store.exists(path), "the deleted object is back")
        },
        StoreClause("of many that replace a version one wins", requires: .conditionalReplace) { store, scratch in
            for round in 0..<5 {
                let path = scratch / "round \(round)"
                let base = try version(store.write([0], at: path))
                let results = race(8) { racer in
                    try store.write(
                        pattern(2_000, seed: UInt64(racer)), at: path, PutOptions(condition: .ifVersion(base)))
                }
                try requireOneWinner(results, of: store, at: path) { pattern(2_000, seed: UInt64($0)) }
            }
        },
        StoreClause("a large object is created only if absent", requires: .conditionalCreate, exclude: unlessParts) {
            store, scratch in
            let path = scratch / "object"
            let size = Int(store.capabilities.multipartThreshold!) + 1
            let file = try TemporaryFile(pattern(size))
            let body = UploadBody(descriptor: file.descriptor, length: Int64(size))
            try store.write([1], at: path)
            try requireError(.preconditionFailed, from: "creating what is there, in parts") {
                _ = try store.put(body, at: path, PutOptions(condition: .ifAbsent))
            }
            try requireEqual(store.contents(of: path), [1], "the object afterwards")
        },
        StoreClause("a large object replaces that version only", requires: .conditionalReplace, exclude: unlessParts) {
            store, scratch in
            let path = scratch / "object"
            let size = Int(store.capabilities.multipartThreshold!) + 1
            let file = try TemporaryFile(pattern(size))
            let body = UploadBody(descriptor: file.descriptor, length: Int64(size))
            let first = try version(store.write([1], at: path))
            try store.write([2], at: path)
            try requireError(.preconditionFailed, from: "replacing a version that is gone, in parts") {
                _ = try store.put(body, at: path, PutOptions(condition: .ifVersion(first)))
            }
            try requireEqual(store.contents(of: path), [2], "the object afterwards")
        },
    ]

    /// Throws unless one racer succeeded, all others failed for the condition, and the winner's bytes are there.
    private static func requireOneWinner(
        _ results: [Result<Metadata, any Error>], of store: any Store, at path: StorePath,
        bytes: (_ racer: Int) -> [UInt8]
    ) throws {
        var winners: [Int] = []
        for (racer, result) in results.enumerated() {
            switch result {
            case .success: winners.append(racer)
            case .failure(let error as StoreError) where error.code == .preconditionFailed: break
            case .failure(let error): throw error
            }
        }
        try requireEqual(winners.count, 1, "the number of winners at '\(path)'")
        try requireEqual(store.contents(of: path), bytes(winners[0]), "the object, of racer \(winners[0]),")
    }
}
