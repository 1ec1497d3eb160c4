import StoreAPI
import Testing
import Threading

@testable import Catalog

@Suite("What was sent and not heard of")
struct SentStateTests {
    private func state(_ seconds: Int64, _ nanoseconds: Int64, size: Int64 = 5, on features: StoreCapabilities.Features)
        -> SentState?
    {
        let time = Timestamp(seconds: seconds, nanoseconds: nanoseconds)
        return SentState(size: size, Attributes(modified: time), on: StoreCapabilities(features))
    }

    @Test("is known by the times that the store can keep")
    func times() {
        #expect(state(7, 123, on: .wholeSeconds) == state(7, 0, on: .wholeSeconds))
        #expect(state(7, 123, on: .wholeSeconds) != state(8, 0, on: .wholeSeconds))
        #expect(state(7, 123, on: .wholeSeconds) != state(7, 0, size: 6, on: .wholeSeconds))
        #expect(state(7, 123, on: []) != state(7, 0, on: []))
        #expect(state(-5, 0, on: .wholeSeconds) == state(0, 0, on: .wholeSeconds))
    }
}
