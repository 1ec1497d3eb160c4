/// A set of byte offsets, kept as half-open ranges in order that neither overlap nor touch.
package struct RangeSet: Hashable, Sendable {
    package private(set) var ranges: [Range<Int64>] = []

    package init() {}
    package init(_ range: Range<Int64>) { insert(range) }

    package var isEmpty: Bool { ranges.isEmpty }
    /// The number of offsets in the set.
    package var count: Int64 { ranges.reduce(0) { $0 + ($1.upperBound - $1.lowerBound) } }

    package mutating func insert(_ range: Range<Int64>) {
        guard !range.isEmpty else { return }
        let first = firstIndex { $0.upperBound >= range.lowerBound }
        var end = first
        var lower = range.lowerBound
        var upper = range.upperBound
        while end < ranges.count, ranges[end].lowerBound <= range.upperBound {
            lower = Swift.min(lower, ranges[end].lowerBound)
            upper = Swift.max(upper, ranges[end].upperBound)
            end += 1
        }
        ranges.replaceSubrange(first..<end, with: CollectionOfOne(lower..<upper))
    }

    package mutating func remove(_ range: Range<Int64>) {
        guard !range.isEmpty else { return }
        let first = firstIndex { $0.upperBound > range.lowerBound }
        var end = first
        var kept: [Range<Int64>] = []
        while end < ranges.count, ranges[end].lowerBound < range.upperBound {
            let old = ranges[end]
            if old.lowerBound < range.lowerBound { kept.append(old.lowerBound..<range.lowerBound) }
            if old.upperBound > range.upperBound { kept.append(range.upperBound..<old.upperBound) }
            end += 1
        }
        ranges.replaceSubrange(first..<end, with: kept)
    }

    package func contains(_ range: Range<Int64>) -> Bool {
        guard !range.isEmpty else { return true }
        let index = firstIndex { $0.upperBound > range.lowerBound }
        return index < ranges.count && ranges[index].lowerBound <= range.lowerBound
            && ranges[index].upperBound >= range.upperBound
    }

    /// The parts of `range` that are in the set, in order.
    package func intersection(_ range: Range<Int64>) -> [Range<Int64>] {
        guard !range.isEmpty else { return [] }
        var found: [Range<Int64>] = []
        var index = firstIndex { $0.upperBound > range.lowerBound }
        while index < ranges.count, ranges[index].lowerBound < range.upperBound {
            found.append(ranges[index].clamped(to: range))
            index += 1
        }
        return found
    }

    /// The parts of `range` that are not in the set, in order.
    package func gaps(in range: Range<Int64>) -> [Range<Int64>] {
        var found: [Range<Int64>] = []
        var position = range.lowerBound
        for present in intersection(range) {
            if present.lowerBound > position { found.append(position..<present.lowerBound) }
            position = present.upperBound
        }
        if position < range.upperBound { found.append(position..<range.upperBound) }
        return found
    }

    /// Index of the first range for which `reached` holds, or the number of ranges; `reached` must hold from some
    /// range on.
    private func firstIndex(where reached: (Range<Int64>) -> Bool) -> Int {
        var low = 0
        var high = ranges.count
        while low < high {
            let middle = (low + high) / 2
            if reached(ranges[middle]) { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

extension RangeSet {
    /// The set as bytes, for the catalog: pairs of LEB128 numbers, gap before and length of each range.
    package var encoded: [UInt8] {
        var bytes: [UInt8] = []
        func append(_ number: Int64) {
            var rest = UInt64(number)
            while rest >= 0x80 {
                bytes.append(UInt8(rest & 0x7f) | 0x80)
                rest >>= 7
            }
            bytes.append(UInt8(rest))
        }
        var position: Int64 = 0
        for range in ranges {
            append(range.lowerBound - position)
            append(range.upperBound - range.lowerBound)
            position = range.upperBound
        }
        return bytes
    }

    /// - Returns: nil when the bytes are not what ``encoded`` makes.
    package init?(encoded bytes: [UInt8]) {
        var index = 0
        func next() -> Int64? {
            var number: UInt64 = 0
            var shift: UInt64 = 0
            while index < bytes.count, shift < 63 {
                let byte = bytes[index]
                index += 1
                number |= UInt64(byte & 0x7f) << shift
                // A last byte of zero is a longer spelling of a shorter number.
                if byte < 0x80 { return byte == 0 && shift > 0 ? nil : Int64(exactly: number) }
                shift += 7
            }
            return nil
        }
        var position: Int64 = 0
        while index < bytes.count {
            guard let gap = next(), let length = next(), length > 0, gap > 0 || ranges.isEmpty else { return nil }
            let (lower, tooFar) = position.addingReportingOverflow(gap)
            let (upper, tooLong) = lower.addingReportingOverflow(length)
            guard !tooFar, !tooLong else { return nil }
            ranges.append(lower..<upper)
            position = upper
        }
    }
}
