import StoreAPI
import Testing
import Threading

@testable import Stores

@Suite("Cutting a body into parts")
struct PartPlanTests {
    private static func stored(_ length: Int64, from start: Int64 = 0) -> UploadBody.Segment {
        .stored(path: StorePath("x")!, version: Version("v"), range: start..<start + length)
    }
    private static func file(_ length: Int64) -> UploadBody.Segment {
        .file(descriptor: -1, offset: 0, length: length)
    }

    /// Throws the invariant's breaks at the test.
    private func check(_ plan: PartPlan, _ note: String) {
        let smallest: Int64 = 5 << 20
        var place: [(segment: Int, offset: Int64)] = []
        for (number, part) in plan.parts.enumerated() {
            #expect(part.size > 0, "\(note)")
            #expect(part.size <= 5 << 30, "\(note)")
            #expect(number == plan.parts.count - 1 || part.size >= smallest, "\(note): part \(number) has \(part.size)")
            for piece in part.pieces {
                if let last = place.last, last.segment == piece.segment {
                    #expect(last.offset == piece.range.lowerBound, "\(note)")
                } else {
                    #expect(piece.range.lowerBound == 0, "\(note)")
                }
                place.append((piece.segment, piece.range.upperBound))
            }
            if part.isCopy { #expect(part.pieces.count == 1 && !plan.isLocal(part), "\(note)") }
        }
        #expect(plan.parts.reduce(0) { $0 + $1.size } == plan.body.length, "\(note)")
        #expect(plan.parts.count <= 10_000, "\(note): \(plan.parts.count) parts")
        #expect(place.map(\.segment) == place.map(\.segment).sorted(), "\(note)")
    }

    @Test("a large file is cut into equal parts, and 5 TiB into no more than 10,000")
    func files() {
        let plan = PartPlan(UploadBody([Self.file(20 << 20)]), copies: true)
        #expect(plan.parts.map(\.size) == [8 << 20, 8 << 20, 4 << 20])
        check(PartPlan(UploadBody([Self.file(5 << 40)]), copies: true), "5 TiB")
        check(PartPlan(UploadBody([Self.stored(5 << 40)]), copies: true), "5 TiB stored")
    }

    @Test("what lies on the store is copied, but for what small changes need to become parts")
    func patches() {
        let body = UploadBody([Self.stored(100 << 20), Self.file(4096), Self.stored(100 << 20, from: 100 << 20 + 4096)])
        let plan = PartPlan(body, copies: true)
        check(plan, "patch")
        #expect(plan.parts.map(\.isCopy) == [true, false, true])
        #expect(plan.parts[1].size == 5 << 20)
        #expect(!PartPlan(body, copies: false).parts.contains { $0.isCopy })
    }

    @Test("any mixture keeps to the limits")
    func mixtures() {
        let seed = UInt64.random(in: 0...UInt64.max)
        var random = SplitMix(seed: seed)
        for _ in 0..<300 {
            let segments = (0..<Int.random(in: 1...30, using: &random)).map { _ -> UploadBody.Segment in
                let length = Int64.random(
                    in: 0...[10, 1 << 20, 6 << 20, 700 << 20].randomElement(using: &random)!, using: &random)
                return Bool.random(using: &random) ? Self.stored(length) : Self.file(length)
            }
            check(PartPlan(UploadBody(segments), copies: true), "seed \(seed)")
        }
    }
}
