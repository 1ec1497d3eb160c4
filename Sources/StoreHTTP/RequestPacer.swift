import Threading

/// Spaces the requests to a server that refuses some of them: additive increase, multiplicative decrease, decided by
/// the share of refusals among a window of answers, never by a single one.
///
/// A server refuses for two reasons. Either it takes so many requests per second and no more: then sending fewer leads
/// to fewer refusals, down to none. Or it refuses a share of them whatever their number is (one of its machines is
/// ill, say): then sending fewer gains nothing and costs everything. Nobody tells which it is, so it is tried: when
/// more is refused than before, the pace is cut to what the server has accepted, and the next window shows whether
/// that has helped.
///
/// - It has: the server's limit lies there. The pace grows from just below it, slowly at first, then faster, until more
///   is refused again.
/// - It has not: the cut is taken back, and that share of refusals counts as usual from then on; it is put to the
///   test again from time to time. More than half is never usual: then the pace goes down, to one request per second.
///
/// After a time in which all was refused the pace doubles until it is what it was.
///
/// Without a limit nothing waits. A limit ends when no cut was needed for a minute. A value without clock or threads.
struct RequestPacer: Sendable {
    /// Requests per second; nil means no limit.
    private(set) var rate: Double?
    /// The share of requests that is refused whatever their pace is: 0 ... ``mostUsual``.
    private(set) var usualShare = 0.0

    /// When the next request may be sent.
    private var next = MonotonicTime(nanoseconds: 0)
    private var queue: [UInt64] = []
    private var nextNumber: UInt64 = 0
    private var window = Window()
    private var previous = Window()
    private var trial: Trial?
    /// The pace to come back to, by doubling, after a time in which all was refused.
    private var goal: Double?
    /// Requests per second in the last window that was no reason for a cut.
    private var lastCalmPace: Double?
    /// Windows without a cut since the last one.
    private var calmWindows = 0
    private var lastCut = MonotonicTime(nanoseconds: .min)
    private var nextTest = MonotonicTime(nanoseconds: .max)

    private static let slowest = 1.0
    private static let mostUsual = 0.5
    /// How much more than usual is refused before that means something.
    private static let margin = 0.05
    private static let fewestRefusals = 3
    /// A cut goes to a little less than what was accepted, so that what has piled up on the server is worked off.
    private static let relief = 0.95
    private static let deepestCut = 8.0
    private static let testInterval = Duration.seconds(30)
    private static let limitLasts = Duration.seconds(60)
    private static let longestHold = Duration.seconds(10)
    /// How long a ticket waits before it asks again at the latest, since the pace may have gone up.
    private static let longestWait = Duration.milliseconds(250)
    /// What a thread that is woken late may make up for.
    private static let catchUp = Duration.milliseconds(-20)

    /// A window in which the pace was cut.
    private struct Trial {
        var share: Double
        var rateBefore: Double?
    }

    /// What became of the requests that were begun in one period.
    private struct Window {
        var start: MonotonicTime?
        var begun = 0
        var accepted = 0
        var refused = 0

        var answers: Int { accepted + refused }
        var share: Double { answers == 0 ? 0 : Double(refused) / Double(answers) }

        func joined(_ other: Window) -> Window {
            Window(accepted: accepted + other.accepted, refused: refused + other.refused)
        }

        /// Enough answers for a judgement, or none within ten seconds.
        func isComplete(at now: MonotonicTime, isRecovering: Bool) -> Bool {
            guard let start else { return false }
            let age = now - start
            return age >= .seconds(10) || (age >= .seconds(1) && answers >= 20)
                || (age >= .milliseconds(250) && answers >= (isRecovering ? 4 : 50))
        }
    }

    // MARK: Turns

    /// A place in the queue of those that wait for their turn.
    struct Ticket: Hashable, Sendable { fileprivate var number: UInt64 }

    enum Turn: Hashable, Sendable {
        /// The request may be sent; its ticket is used up.
        case now
        /// Ask again then: the pace may be another one by that time.
        case wait(until: MonotonicTime)
        /// So many wait before it that the time it has is over before its turn comes.
        case tooLate
    }

    mutating func join() -> Ticket {
        nextNumber += 1
        queue.append(nextNumber)
        return Ticket(number: nextNumber)
    }

    /// Takes back a ticket that is not used up; one that is may be given back, too.
    mutating func leave(_ ticket: Ticket) {
        if let place = place(of: ticket) { queue.remove(at: place) }
    }

    /// Whether it is a ticket's turn.
    ///
    /// - Parameter latest: When the request is of no use any more.
    mutating func ask(_ ticket: Ticket, at now: MonotonicTime, before latest: MonotonicTime) -> Turn {
        turn(at: now)
        let place = place(of: ticket) ?? 0
        // Whoever asks at the right time goes: the order is that in which they are told to ask.
        guard now < next else {
            leave(ticket)
            if let rate { next = max(next, now + Self.catchUp) + .nanoseconds(Int64(1e9 / rate)) }
            if window.start == nil { window.start = now }
            window.begun += 1
            return .now
        }
        let ahead = rate.map { Duration.nanoseconds(Int64(Double(place) / $0 * 1e9)) } ?? .zero
        let expected = next + ahead
        return expected < latest ? .wait(until: min(expected, now + Self.longestWait)) : .tooLate
    }

    private func place(of ticket: Ticket) -> Int? {
        // Numbers only grow along the queue.
        var (low, high) = (0, queue.count)
        while low < high {
            let middle = (low + high) / 2
            if queue[middle] < ticket.number { low = middle + 1 } else { high = middle }
        }
        return low < queue.count && queue[low] == ticket.number ? low : nil
    }

    // MARK: Answers

    /// The server did not refuse a request that was begun at `begun`, whatever else it answered.
    mutating func noteAccepted(begun: MonotonicTime, at now: MonotonicTime) {
        if let start = window.start, begun >= start { window.accepted += 1 }
        turn(at: now)
    }

    /// The server asked for fewer requests, in answer to one that was begun at `begun`.
    ///
    /// - Parameter hold: How long it wants to be left alone. It is, for up to ten seconds, when it refuses most of what
    ///   it is asked; otherwise this concerns the request that was refused, and no others.
    mutating func noteRefused(begun: MonotonicTime, at now: MonotonicTime, hold: Duration?) {
        if let start = window.start, begun >= start { window.refused += 1 }
        let recent = window.joined(previous)
        if let hold, recent.share > Self.mostUsual { next = max(next, now + min(hold, Self.longestHold)) }
        turn(at: now)
    }

    // MARK: Windows

    private mutating func turn(at now: MonotonicTime) {
        guard let start = window.start, window.isComplete(at: now, isRecovering: goal != nil) else { return }
        if window.answers > 0 {
            judge(offered: Double(window.begun) / max((now - start).inSeconds, 1e-3), at: now)
        }
        previous = window
        window = Window(start: now)
    }

    /// - Parameter offered: Requests per second in the window.
    private mutating func judge(offered: Double, at now: MonotonicTime) {
        let share = window.share
        if let trial {
            self.trial = nil
            // Half of it is less in any case; and more at a lower pace means that the server's limit has come down.
            let chance = Self.margin + deviation(trial.share)
            let isTheSame = share > trial.share / 2 && abs(share - trial.share) <= chance
            if isTheSame, share <= Self.mostUsual {
                usualShare = share
                rate = trial.rateBefore
                nextTest = now + Self.testInterval
                return
            }
        }
        if window.refused >= Self.fewestRefusals {
            if share > usualShare + Self.margin + deviation(usualShare) || now >= nextTest {
                return cut(offered: offered, at: now)
            }
        }
        if share < usualShare - deviation(usualShare) { usualShare = share }
        lastCalmPace = max(offered, goal == nil ? 0 : lastCalmPace ?? 0)
        guard let rate else { return }
        calmWindows += 1
        if now - lastCut > Self.limitLasts {
            self.rate = nil
        } else if let goal {
            self.rate = min(rate * 2, goal)
            if rate * 2 >= goal { self.goal = nil }
        } else if offered > rate * 0.7 {
            self.rate = rate * (1 + min(0.02 * Double(calmWindows), 0.5))
        }
    }

    private mutating func cut(offered: Double, at now: MonotonicTime) {
        trial = Trial(share: window.share, rateBefore: rate)
        let accepted = offered * (1 - window.share)
        let lower = max(accepted * Self.relief, offered / Self.deepestCut, Self.slowest)
        // Nothing accepted for so long is no limit but an outage: what there was before it will be possible after it.
        if window.accepted == 0, let start = window.start, now - start >= .seconds(1) {
            goal = lastCalmPace
        } else if lower < rate ?? .infinity {
            goal = nil
        }
        rate = min(lower, rate ?? lower)
        calmWindows = 0
        lastCut = now
        nextTest = MonotonicTime(nanoseconds: .max)
    }

    /// How far the share of this window may be from the true one by chance: two standard deviations.
    private func deviation(_ share: Double) -> Double {
        2 * (share * (1 - share) / Double(max(window.answers, 1))).squareRoot()
    }
}
