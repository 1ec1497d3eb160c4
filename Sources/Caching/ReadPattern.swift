import Threading

/// What a handle remembers about how a file is read, for read-ahead. One per open handle.
///
/// Reading is sequential when a request begins where the furthest one so far ended. Large requests may be off by a
/// few of their kind: the kernel's own read-ahead sends several at once, and they arrive in any order.
package final class ReadPattern: Sendable {
    private let state = Lock(State())

    struct State {
        /// End of the furthest request of the run.
        var furthest: Int64 = -1
        /// How far ahead of the reader bytes are asked for; 0: not at all.
        var window: Int64 = 0
        /// End of what was asked for ahead.
        var asked: Int64 = 0
        /// How often the reader has jumped since it last read a long piece in sequence.
        var jumps = 0
    }

    /// What to ask the store for, ahead of the reader.
    struct Ahead {
        var range: Range<Int64>
        /// Bytes of one request.
        var piece: Int64
    }

    static let firstWindow: Int64 = 256 << 10
    static let largestWindow: Int64 = 32 << 20
    static let pieces = (1 << 20 as Int64)...(8 << 20)
    /// How far requests of the kernel's read-ahead may be out of order, and how large they are at least.
    private static let disorder: Int64 = 512 << 10
    private static let largeRequest: Int64 = 64 << 10

    /// Whoever jumps about in a file gets more with each request, up to what takes no longer than the way there and
    /// back on a good line: twice as much every so many jumps.
    private static let patience = 8
    private static let grains = CachedContent.alignment...(1 << 20)

    package init() {}

    /// What a missing range is rounded to: a multiple of this.
    var grain: Int64 {
        let doublings = state.withLock { $0.jumps } / Self.patience
        return doublings < 4 ? min(Self.grains.lowerBound << doublings, Self.grains.upperBound) : Self.grains.upperBound
    }

    /// Takes note of a request.
    ///
    /// - Parameters:
    ///   - end: Where the bytes on the store end.
    ///   - room: The most that may be asked for ahead.
    /// - Returns: What to ask for now; nil: nothing more.
    func note(_ range: Range<Int64>, end: Int64, room: Int64) -> Ahead? {
        state.withLock { state in
            let gap = range.lowerBound - state.furthest
            let isNear = range.length >= Self.largeRequest && abs(gap) <= Self.disorder && state.furthest >= 0
            guard gap == 0 || isNear else {
                // A step back over what was just read is no sign of anything; a jump is.
                if range.upperBound <= state.furthest, range.upperBound > state.furthest - Self.disorder {
                    return nil
                }
                state = State(furthest: range.upperBound, jumps: state.jumps + (state.furthest < 0 ? 0 : 1))
                return nil
            }
            state.furthest = max(state.furthest, range.upperBound)
            if state.window == 0 {
                state.window = Self.firstWindow
                state.asked = state.furthest
            }
            let window = min(state.window, room)
            let piece = min(max(window / 8, Self.pieces.lowerBound), Self.pieces.upperBound)
            let begin = max(state.asked, state.furthest)
            let target = min(state.furthest + window, end)
            // Whole pieces only, but for the start and the end: many small requests would cost more than they bring.
            guard target - begin >= min(piece, window / 2) || (target == end && begin < end && target > begin) else {
                return nil
            }
            state.asked = target
            if state.window >= Self.pieces.lowerBound { state.jumps = 0 }
            // Four times as much for each round trip: a large file is read at the line's speed after three of them.
            state.window = min(state.window * 4, Self.largestWindow)
            return Ahead(range: begin..<target, piece: piece)
        }
    }
}
