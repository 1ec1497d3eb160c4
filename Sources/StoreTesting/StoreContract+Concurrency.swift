import StoreAPI
import Threading

extension StoreContract {
    static let concurrency: [StoreClause] = [
        StoreClause("of many that write an object at once one remains, whole", isAboutChanges: true) { store, scratch in
            let path = scratch / "object"
            let results = race(8) { try store.write(pattern(150_000, seed: UInt64($0)), at: path) }
            for result in results { _ = try result.get() }
            let found = try store.contents(of: path)
            try require(
                (0..<8).contains { pattern(150_000, seed: UInt64($0)) == found }, "the object is none of the eight")
            try requireEqual(store.names(in: scratch), ["object"], "the listing")
        },
        StoreClause("a read during overwriting never mixes two versions") { store, scratch in
            let path = scratch / "object"
            let size = 200_000
            let contents = (0..<4).map { pattern(size + $0, seed: UInt64($0)) }
            try store.write(contents[0], at: path)
            let isOver = Monitor(false)
            let results = race(5) { racer in
                if racer == 0 {
                    defer { isOver.update { $0 = true } }
                    for round in 0..<20 { try store.write(contents[round % 4], at: path) }
                    return
                }
                while !isOver.withLock({ $0 }) {
                    let found: [UInt8]
                    do { found = try store.contents(of: path) } catch let error as StoreError {
                        // A store may notice the change and say so; it must not hand out a mixture.
                        guard error.code == .preconditionFailed || error.isTransient else { throw error }
                        continue
                    }
                    guard contents.contains(found) else {
                        throw ContractViolation("a read gave \(found.count) bytes that nobody wrote")
                    }
                }
            }
            for result in results { try result.get() }
        },
        StoreClause("many objects are written, read and listed at once") { store, scratch in
            let results = race(8) { racer in
                for number in 0..<10 {
                    let path = scratch / "\(racer) \(number)"
                    let bytes = pattern(1_000 + number, seed: UInt64(racer * 100 + number))
                    try store.write(bytes, at: path)
                    try requireEqual(store.contents(of: path), bytes, "what racer \(racer) wrote")
                    let own = try store.names(in: scratch).filter { $0.hasPrefix("\(racer) ") }
                    try requireEqual(own.count, number + 1, "the number of own objects listed")
                }
            }
            for result in results { try result.get() }
            try requireEqual(store.names(in: scratch).count, 80, "the number of objects")
        },
        StoreClause("directories with a common parent can be made at once", isAboutChanges: true) { store, scratch in
            let results = race(8) { try store.write([1], at: scratch / "a" / "b" / "c" / "\($0)") }
            for result in results { _ = try result.get() }
            try requireEqual(store.names(in: scratch / "a" / "b" / "c").count, 8, "the number of objects")
        },
    ]

    static let endings: [StoreClause] = [
        StoreClause("connecting again does no harm") { store, scratch in
            try store.write([1], at: scratch / "object")
            try store.connect()
            store.reconnect()
            store.tune(StoreTuning(uploadRate: nil, downloadRate: nil, connections: 8))
            try requireEqual(store.contents(of: scratch / "object"), [1], "what was written before")
        },
        StoreClause("the store says what it is") { store, _ in
            let fields = try store.accountInformation()
            try require(!fields.isEmpty, "it says nothing")
            for field in fields { try require(!field.name.isEmpty, "a field without a name: \(field.value)") }
        },
        StoreClause("the space in the store is told", requires: .spaceUsage) { store, _ in
            let usage = try store.spaceUsage()
            try require(usage != SpaceUsage(), "nothing is told")
            for value in [usage.total, usage.used, usage.free] {
                try require((value ?? 0) >= 0, "\(usage) is negative")
            }
        },
        StoreClause("after its end a store answers with errors", endsStore: true) { store, scratch in
            let path = scratch / "object"
            try store.write([1], at: path)
            try store.deleteTree(scratch)
            store.shutdown()
            store.shutdown()
            try requireError(.cancelled, from: "metadata after the end") { _ = try store.metadata(of: path) }
            try requireError(.cancelled, from: "reading after the end") { _ = try store.contents(of: path) }
            try requireError(.cancelled, from: "writing after the end") { try store.write([1], at: path) }
            try requireError(.cancelled, from: "listing after the end") { _ = try store.entries(of: scratch) }
            try requireEqual(store.delete([path]).map { $0?.code }, [.cancelled], "the answer to a deletion")
        },
    ]
}
