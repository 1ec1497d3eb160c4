import CFuse3
import Threading
import VFS

/// A request whose caller waits and may get a signal meanwhile (FUSE_INTERRUPT).
///
/// libfuse keeps one pointer for its callback, and may still call it while the request is being answered. So the pointer
/// is a number: what is no longer in the table is not called.
final class Interruption: Interruptible {
    private let request: Request
    private let interruptions: Interruptions
    private let number = Lock<UInt?>(nil)

    init(of request: Request) {
        self.request = request
        interruptions = request.session.interruptions
    }

    func whenInterrupted(_ body: @escaping @Sendable () -> Void) {
        let number = interruptions.add(body)
        self.number.withLock { $0 = number }
        fuse_req_interrupt_func(
            request.pointer,
            { request, data in Request(request).session.interruptions.signal(UInt(bitPattern: data)) },
            UnsafeMutableRawPointer(bitPattern: number))
    }

    /// The request is about to be answered.
    func end() {
        if let number = number.withLock({ $0 }) { interruptions.remove(number) }
    }
}

/// What is to be called when the callers of requests that wait are interrupted.
final class Interruptions: Sendable {
    private struct State {
        var bodies: [UInt: @Sendable () -> Void] = [:]
        var next: UInt = 0
    }
    private let state = Lock(State())

    func add(_ body: @escaping @Sendable () -> Void) -> UInt {
        state.withLock { state in
            state.next += 1
            state.bodies[state.next] = body
            return state.next
        }
    }

    func remove(_ number: UInt) { state.withLock { _ = $0.bodies.removeValue(forKey: number) } }

    func signal(_ number: UInt) { state.withLock { $0.bodies.removeValue(forKey: number) }?() }
}
