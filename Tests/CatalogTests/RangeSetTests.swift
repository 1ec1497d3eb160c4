import Testing
import Threading

@testable import Catalog

@Suite("Sets of ranges")
struct RangeSetTests {
    /// The ranges that the offsets of a plain set make.
    private func ranges(of offsets: Set<Int64>) -> [Range<Int64>] {
        var found: [Range<Int64>] = []
        for offset in offsets.sorted() {
            if found.last?.upperBound == offset {
                found[found.count - 1] = found.last!.lowerBound..<offset + 1
            } else {
                found.append(offset..<offset + 1)
            }
        }
        return found
    }

    @Test("random changes leave what a plain set of offsets has")
    func model() {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SplitMix(seed: seed)
        for _ in 0..<200 {
            var set = RangeSet()
            var model: Set<Int64> = []
            for _ in 0..<30 {
                let lower = Int64.random(in: 0..<60, using: &random)
                let range = lower..<lower + Int64.random(in: 0..<15, using: &random)
                if Bool.random(using: &random) {
                    set.insert(range)
                    model.formUnion(range)
                } else {
                    set.remove(range)
                    model.subtract(range)
                }
                let expected = ranges(of: model)
                #expect(set.ranges == expected, "seed \(seed)")
                #expect(set.count == Int64(model.count), "seed \(seed)")
                #expect(set.isEmpty == model.isEmpty, "seed \(seed)")
                let start = Int64.random(in: 0..<70, using: &random)
                let asked = start..<start + Int64.random(in: 0..<20, using: &random)
                #expect(set.contains(asked) == model.isSuperset(of: asked), "seed \(seed)")
                #expect(set.intersection(asked) == ranges(of: model.intersection(asked)), "seed \(seed)")
                #expect(set.gaps(in: asked) == ranges(of: Set(asked).subtracting(model)), "seed \(seed)")
                #expect(RangeSet(encoded: set.encoded) == set, "seed \(seed)")
            }
        }
    }

    @Test("the whole range of offsets fits, encoded too")
    func largest() {
        var set = RangeSet(0..<Int64.max)
        #expect(set.count == Int64.max)
        #expect(RangeSet(encoded: set.encoded) == set)
        set.remove(1..<Int64.max - 1)
        #expect(set.ranges == [0..<1, (Int64.max - 1)..<Int64.max])
        #expect(RangeSet(encoded: set.encoded) == set)
    }

    @Test("ranges that touch become one")
    func touching() {
        var set = RangeSet(0..<10)
        set.insert(20..<30)
        set.insert(10..<20)
        #expect(set.ranges == [0..<30])
    }

    @Test(
        "bytes that are not an encoded set are refused",
        arguments: [
            [0], [0x80], [0x80, 0, 1], [0, 3, 0, 3], [0, 0x80], [1, 0], [5, 3, 0], [5, 3, 1, 0],
            [UInt8](repeating: 0xff, count: 20), [0] + [UInt8](repeating: 0xff, count: 8) + [0x7f, 1, 1],
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1],
        ] as [[UInt8]])
    func hostile(bytes: [UInt8]) {
        #expect(RangeSet(encoded: bytes) == nil)
    }

    @Test("random bytes are refused, or are a set in good order; they never crash")
    func noise() {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SplitMix(seed: seed)
        for _ in 0..<5_000 {
            let bytes = (0..<Int.random(in: 0..<24, using: &random)).map { _ in
                UInt8.random(in: 0...255, using: &random)
            }
            guard let set = RangeSet(encoded: bytes) else { continue }
            for (a, b) in zip(set.ranges, set.ranges.dropFirst()) {
                #expect(a.upperBound < b.lowerBound, "ranges overlap or touch; seed \(seed), bytes \(bytes)")
            }
            #expect(set.encoded == bytes, "seed \(seed)")
            #expect(set.ranges.allSatisfy { $0.lowerBound >= 0 && !$0.isEmpty }, "seed \(seed)")
        }
    }
}
