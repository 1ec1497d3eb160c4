import Catalog
import StoreAPI
import Testing
import Threading

@testable import Caching

@Suite struct ReferenceModelTests {
    @Test("random operations give what an array of bytes gives", arguments: 0..<8)
    func model(_ run: Int) throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed of run \(run): \(seed)")
        try check(seed: seed)
    }

    private func check(seed: UInt64) throws {
        var random = SplitMix(seed: seed)
        let rig = try Rig()
        if Bool.random(using: &random) {
            rig.store.state.withLock {
                $0.capabilities = StoreCapabilities([.rangedRead, .rangeCopy], rangeCopySizes: 5_000...300_000)
            }
        }
        rig.store.state.withLock { $0.pieceSize = 10_000 }
        let first = Int64.random(in: 0..<3_000_000, using: &random)
        rig.addObject(3, size: first)
        var model = FakeStore.bytes(0..<first)
        var content = try rig.open(3)
        let pattern = ReadPattern()
        var version = 1
        let most: Int64 = 3_500_000
        func range() -> Range<Int64> {
            let length = Int64.random(in: 1..<[10, 5_000, 400_000].randomElement(using: &random)!, using: &random)
            let lower = Int64.random(in: 0..<most - length, using: &random)
            return lower..<lower + length
        }
        func resize(_ size: Int64) {
            if Int64(model.count) > size { model.removeLast(model.count - Int(size)) }
            model += [UInt8](repeating: 0, count: Int(size) - model.count)
        }
        func clear(_ range: Range<Int64>) {
            for index in range.clamped(to: 0..<Int64(model.count)) { model[Int(index)] = 0 }
        }
        for step in 0..<150 {
            let range = range()
            let choice = Int.random(in: 0..<15, using: &random)
            let comment: Comment = "seed \(seed), step \(step), operation \(choice)"
            switch choice {
            case 0...3:
                let bytes = try content.bytes(at: range.lowerBound, count: Int(range.length), pattern)
                let here = range.clamped(to: 0..<Int64(model.count))
                try #require(bytes == Array(model[Int(here.lowerBound)..<Int(here.upperBound)]), comment)
            case 4...6:
                let start = Int64.random(in: 0..<1_000_000, using: &random)
                let bytes = FakeStore.bytes(start..<start + range.length)
                try content.write(bytes, at: range.lowerBound)
                if range.upperBound > model.count { resize(range.upperBound) }
                model.replaceSubrange(Int(range.lowerBound)..<Int(range.upperBound), with: bytes)
            case 7:
                let size = Int64.random(in: 0..<most, using: &random)
                try content.truncate(to: size)
                resize(size)
            case 8:
                try content.punchHole(range)
                clear(range)
            case 9:
                let keepSize = Bool.random(using: &random)
                try content.zero(range, keepSize: keepSize)
                if !keepSize, range.upperBound > model.count { resize(range.upperBound) }
                clear(range)
            case 10:
                let keepSize = Bool.random(using: &random)
                try content.allocate(range, keepSize: keepSize)
                if !keepSize, range.upperBound > model.count { resize(range.upperBound) }
            case 11:
                if Bool.random(using: &random) {
                    try content.fetchAll()
                } else {
                    _ = rig.cache.evict { 5 * range.length }
                }
            case 12:
                version += 1
                let sent = try rig.upload(content, version: "v\(version)")
                try #require(sent == model, comment)
            case 13:
                let from = Int64.random(in: 0..<most / 2, using: &random)
                let to = most / 2 + Int64.random(in: 0..<1000, using: &random)
                let count = min(range.length, most / 2 - from)
                let answers = Answers<Int64>()
                content.copy(from: from, to: content, at: to, count: count) { answers.add((try? $0.get()) ?? -1) }
                let copied = max(0, min(count, Int64(model.count) - from))
                #expect(answers.wait(for: 1) == [copied], comment)
                if copied > 0 {
                    let bytes = Array(model[Int(from)..<Int(from + copied)])
                    if to + copied > model.count { resize(to + copied) }
                    model.replaceSubrange(Int(to)..<Int(to + copied), with: bytes)
                }
            default:
                // What was written into absent ranges after the last save may be lost with a crash; saved is saved.
                try content.save()
                let kind = Int.random(in: 0..<3, using: &random)
                if kind == 0 {
                    try rig.restart(afterCrash: true)
                } else {
                    content.close()
                    if kind == 1 { try rig.restart(afterCrash: false) } else { rig.cache.keepNow() }
                }
                content = try rig.open(3)
            }
            try #require(content.size == model.count, comment)
            let used = rig.cache.accounts.total
            try #require(used >= 0 && used <= content.cachedBytes + 4096 * 300, comment)
        }
        let bytes = try content.bytes(at: 0, count: Int(most))
        try #require(bytes == model, "seed \(seed), at the end")
        content.close()
    }
}
