import Testing
import Threading

@Suite struct QueueTests {
    private final class Thing {
        let number: Int
        init(_ number: Int) { self.number = number }
    }

    @Test("what goes in comes out in order, however the two alternate")
    func order() {
        var queue = Queue<Int>()
        var pushed = 0
        var popped = 0
        var random = SystemRandomNumberGenerator()
        for _ in 0..<10_000 {
            if Int.random(in: 0..<5, using: &random) < 3 {
                queue.push(pushed)
                pushed += 1
            } else if let element = queue.pop() {
                #expect(element == popped)
                popped += 1
            } else {
                #expect(pushed == popped)
            }
            #expect(queue.count == pushed - popped)
            #expect(queue.first == (pushed > popped ? popped : nil))
        }
        #expect(queue.removeAll { $0 % 2 == 0 } == (popped..<pushed).filter { $0 % 2 == 0 })
        while let element = queue.pop() { #expect(element % 2 == 1) }
        #expect(queue.isEmpty)
    }

    private struct Watch {
        weak var thing: Thing?
    }

    @Test("what was taken out is let go at once, while others still wait")
    func letsGo() {
        var queue = Queue<Thing>()
        for number in 0..<3 { queue.push(Thing(number)) }
        let first = Watch(thing: queue.first)
        queue.pop()
        let second = Watch(thing: queue.first)
        #expect(first.thing == nil)
        #expect(second.thing?.number == 1)
        queue.pop()
        #expect(second.thing == nil)
        #expect(queue.removeAll { $0.number == 2 }.count == 1)
        #expect(queue.isEmpty)
    }
}
