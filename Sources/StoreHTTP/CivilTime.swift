public import Threading

/// A moment as calendar and clock show it, in UTC.
public struct CivilTime: Hashable, Sendable {
    public var year: Int
    /// 1 … 12
    public var month: Int
    /// 1 … 31
    public var day: Int
    public var hour: Int
    public var minute: Int
    public var second: Int
    /// 0 = Sunday … 6
    public var weekday: Int

    public init(_ time: Timestamp) {
        let seconds = time.seconds
        let days = seconds >= 0 ? seconds / 86_400 : (seconds - 86_399) / 86_400
        let rest = Int(seconds - days * 86_400)
        (year, month, day) = Self.date(daysSince1970: Int(days))
        (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60)
        weekday = ((Int(days) + 4) % 7 + 7) % 7
    }

    /// Days since 1970-01-01 of a date of the Gregorian calendar.
    ///
    /// Years begin in March here, so that the leap day is the last one; 400 of them have 146,097 days.
    static func days(year: Int, month: Int, day: Int) -> Int {
        let year = month <= 2 ? year - 1 : year
        let era = (year >= 0 ? year : year - 399) / 400
        let yearOfEra = year - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        return era * 146_097 + yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear - 719_468
    }

    private static func date(daysSince1970: Int) -> (Int, Int, Int) {
        let days = daysSince1970 + 719_468
        let era = (days >= 0 ? days : days - 146_096) / 146_097
        let dayOfEra = days - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shifted = (5 * dayOfYear + 2) / 153
        let month = shifted < 10 ? shifted + 3 : shifted - 9
        return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, dayOfYear - (153 * shifted + 2) / 5 + 1)
    }

    /// "20240131T235959Z": ISO 8601 in its basic form, as signatures have it.
    public var basic: String {
        "\(padded(year, 4))\(padded(month))\(padded(day))T\(padded(hour))\(padded(minute))\(padded(second))Z"
    }
}

extension Timestamp {
    private static let weekdays = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    private static let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]

    /// - Returns: nil for what is no date, or lies outside the years 1678 … 2261 that nanoseconds reach.
    init?(year: Int, month: Int, day: Int, hour: Int, minute: Int, second: Int, nanoseconds: Int64 = 0) {
        guard (1678...2261).contains(year), (1...12).contains(month), (1...31).contains(day), (0...23).contains(hour),
            (0...59).contains(minute), (0...60).contains(second)
        else { return nil }
        let days = CivilTime.days(year: year, month: month, day: day)
        guard CivilTime(Timestamp(seconds: Int64(days) * 86_400)).day == day else { return nil }
        self.init(
            seconds: Int64(days) * 86_400 + Int64(hour * 3600 + minute * 60 + second), nanoseconds: nanoseconds)
    }

    /// "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7: IMF-fixdate).
    public var httpDate: String {
        let time = CivilTime(self)
        return
            "\(Self.weekdays[time.weekday]), \(padded(time.day)) \(Self.months[time.month - 1]) \(padded(time.year, 4)) "
            + "\(padded(time.hour)):\(padded(time.minute)):\(padded(time.second)) GMT"
    }

    /// "1994-11-06T08:49:37.000000000Z"; the fraction is left out when it is zero.
    public var iso8601: String {
        let time = CivilTime(self)
        let fraction = subsecond == 0 ? "" : ".\(padded(Int(subsecond), 9))"
        return "\(padded(time.year, 4))-\(padded(time.month))-\(padded(time.day))T"
            + "\(padded(time.hour)):\(padded(time.minute)):\(padded(time.second))\(fraction)Z"
    }

    /// Reads a date in any of the three forms of RFC 9110, 5.6.7.
    public init?(httpDate text: some StringProtocol) {
        var words = String(text).split { " ,".contains($0) }.map(String.init)
        if words.count == 4 { words.replaceSubrange(1...1, with: words[1].split(separator: "-").map(String.init)) }
        func month(_ name: String) -> Int? { Self.months.firstIndex(of: name).map { $0 + 1 } }
        func make(_ year: Int?, _ month: Int?, _ day: String, _ clock: String) -> Timestamp? {
            let parts = clock.split(separator: ":", omittingEmptySubsequences: false).map { number($0) }
            guard parts.count == 3, let year, let month, let day = number(day), let hour = parts[0],
                let minute = parts[1], let second = parts[2]
            else { return nil }
            return Timestamp(year: year, month: month, day: day, hour: hour, minute: minute, second: second)
        }
        let result: Timestamp?
        if words.count == 6, words[5] == "GMT" {
            // IMF-fixdate, or RFC 850 with two digits of the year: those that would lie 50 years ahead are past.
            var year = number(words[3])
            if words[3].utf8.count == 2, let short = year { year = short + (short < 77 ? 2000 : 1900) }
            result = make(year, month(words[2]), words[1], words[4])
        } else if words.count == 5 {
            // asctime: "Sun Nov  6 08:49:37 1994"
            result = make(number(words[4]), month(words[1]), words[2], words[3])
        } else {
            result = nil
        }
        guard let result else { return nil }
        self = result
    }

    /// Reads a date and time of ISO 8601 in the extended form of RFC 3339; digits behind the ninth of the fraction
    /// are dropped, and without a zone it is taken as UTC.
    public init?(iso8601 text: some StringProtocol) {
        let bytes = Array(text.utf8)
        guard bytes.count >= 19, bytes[4] == UInt8(ascii: "-"), bytes[7] == UInt8(ascii: "-"),
            [UInt8(ascii: "T"), UInt8(ascii: "t"), UInt8(ascii: " ")].contains(bytes[10]),
            bytes[13] == UInt8(ascii: ":"), bytes[16] == UInt8(ascii: ":"),
            let year = number(bytes[0..<4]), let month = number(bytes[5..<7]), let day = number(bytes[8..<10]),
            let hour = number(bytes[11..<13]), let minute = number(bytes[14..<16]), let second = number(bytes[17..<19])
        else { return nil }
        var rest = bytes[19...]
        var nanoseconds: Int64 = 0
        if let mark = rest.first, mark == UInt8(ascii: ".") || mark == UInt8(ascii: ",") {
            let digits = rest.dropFirst().prefix { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
            guard !digits.isEmpty else { return nil }
            for index in 0..<9 {
                let digit = index < digits.count ? digits[digits.startIndex + index] - UInt8(ascii: "0") : 0
                nanoseconds = nanoseconds * 10 + Int64(digit)
            }
            rest = rest.dropFirst(digits.count + 1)
        }
        guard let offset = Self.zoneOffset(Array(rest)),
            let local = Timestamp(
                year: year, month: month, day: day, hour: hour, minute: minute, second: second,
                nanoseconds: nanoseconds)
        else { return nil }
        self = Timestamp(nanoseconds: local.nanoseconds - Int64(offset) * 1_000_000_000)
    }

    /// Seconds east of Greenwich of "Z", "+01:00", "+0100" or "+01".
    private static func zoneOffset(_ text: [UInt8]) -> Int? {
        if text.isEmpty || text == [UInt8(ascii: "Z")] || text == [UInt8(ascii: "z")] { return 0 }
        guard let sign = text.first, sign == UInt8(ascii: "+") || sign == UInt8(ascii: "-") else { return nil }
        let digits = text.dropFirst().filter { $0 != UInt8(ascii: ":") }
        guard digits.count == 2 || digits.count == 4, let hours = number(digits.prefix(2)), hours < 24 else {
            return nil
        }
        let minutes = digits.count == 4 ? number(digits.suffix(2)) : 0
        guard let minutes, minutes < 60 else { return nil }
        return (hours * 3600 + minutes * 60) * (sign == UInt8(ascii: "-") ? -1 : 1)
    }
}

/// Decimal digits and nothing else.
private func number(_ text: some StringProtocol) -> Int? { number(Array(text.utf8)) }

private func number(_ digits: some Collection<UInt8>) -> Int? {
    guard !digits.isEmpty, digits.count <= 9 else { return nil }
    var value = 0
    for digit in digits {
        guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(digit) else { return nil }
        value = value * 10 + Int(digit - UInt8(ascii: "0"))
    }
    return value
}

private func padded(_ number: Int, _ width: Int = 2) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits
}
