/// First in, first out.
///
/// Invariant: what was given out is not kept. Elements are requests and replies, which hold open files, memory and views
/// of cached contents: one that stayed here would keep all that for as long as nothing new came.
public struct Queue<Element> {
    /// nil before `head`.
    private var elements: [Element?] = []
    private var head = 0

    public init() {}

    public var count: Int { elements.count - head }
    public var isEmpty: Bool { count == 0 }
    public var first: Element? { head < elements.count ? elements[head] : nil }

    public mutating func push(_ element: Element) { elements.append(element) }

    @discardableResult
    public mutating func pop() -> Element? {
        guard head < elements.count else { return nil }
        let element = elements[head]
        elements[head] = nil
        head += 1
        if head == elements.count {
            elements.removeAll(keepingCapacity: head <= 1024)
            head = 0
        } else if head >= 64, head * 2 >= elements.count {
            elements.removeFirst(head)
            head = 0
        }
        return element
    }

    /// Takes out all for which `predicate` holds, in order.
    @discardableResult
    public mutating func removeAll(where predicate: (Element) -> Bool) -> [Element] {
        var removed: [Element] = []
        var kept: [Element?] = []
        for case .some(let element) in elements[head...] {
            if predicate(element) { removed.append(element) } else { kept.append(element) }
        }
        elements = kept
        head = 0
        return removed
    }
}

extension Queue: Sendable where Element: Sendable {}
