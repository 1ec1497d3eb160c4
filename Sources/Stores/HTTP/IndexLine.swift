import StoreAPI
import StoreHTTP
import Threading

/// What a page that lists a directory says of one thing in it.
struct IndexLine: Hashable {
    var name: FileName
    var isDirectory: Bool
    /// What the page says of it beside the name, in its own words: in whatever form, it is the same as long as the thing
    /// is.
    var note: String

    /// When it was changed last, as far as the note tells.
    var modified: IndexTime? { IndexTime(note) }

    /// Bytes; nil where the note does not tell. What is given in KB and the like is about right.
    var size: Int64? {
        guard let last = note.split(separator: " ").last else { return nil }
        let digits = last.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        guard let number = Double(digits), number.isFinite else { return nil }
        let unit: Double
        switch last[digits.endIndex...].uppercased() {
        case "", "B": unit = 1
        case "K", "KB", "KIB": unit = Double(1 << 10)
        case "M", "MB", "MIB": unit = Double(1 << 20)
        case "G", "GB", "GIB": unit = Double(1 << 30)
        case "T", "TB", "TIB": unit = Double(1 << 40)
        default: return nil
        }
        return number * unit < 1e18 ? Int64(number * unit) : nil
    }
}

/// A time on an index page: in whatever zone, often without seconds.
struct IndexTime: Hashable {
    /// As if it were UTC.
    var time: Timestamp
    var hasSeconds: Bool

    /// The first date with a time of day in a text: "31-Jan-2024 23:59", "2024-01-31 23:59:59", "2024-Jan-31 23:59:59",
    /// "Wed, 31 Jan 2024 23:59:59 GMT", "2024-01-31T23:59:59Z".
    init?(_ text: String) {
        let words = text.split(separator: " ")
        for index in words.indices {
            if let time = Timestamp(iso8601: words[index]), words[index].utf8.contains(UInt8(ascii: "T")) {
                self.init(time: time, hasSeconds: true)
                return
            }
            if words[index].hasSuffix(","), index + 5 < words.endIndex,
                let time = Timestamp(httpDate: words[index...(index + 5)].joined(separator: " "))
            {
                self.init(time: time, hasSeconds: true)
                return
            }
            guard index + 1 < words.endIndex, let date = Self.date(words[index]),
                let time = Self.time(date, words[index + 1])
            else { continue }
            self = time
            return
        }
        return nil
    }

    private init(time: Timestamp, hasSeconds: Bool) {
        self.time = time
        self.hasSeconds = hasSeconds
    }

    private static let months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]

    /// "2024-01-31"; nil for what is no date.
    private static func date(_ word: Substring) -> String? {
        var parts = word.split(separator: "-", omittingEmptySubsequences: false).map { $0.lowercased() }
        guard parts.count == 3 else { return nil }
        if parts[2].utf8.count == 4 { parts.swapAt(0, 2) }
        if let month = months.firstIndex(of: parts[1]) { parts[1] = String(month + 1) }
        guard parts[0].utf8.count == 4, (1...2).contains(parts[1].utf8.count), (1...2).contains(parts[2].utf8.count)
        else { return nil }
        return parts[0] + "-" + parts[1...].map { $0.utf8.count == 1 ? "0" + $0 : $0 }.joined(separator: "-")
    }

    private static func time(_ date: String, _ word: Substring) -> IndexTime? {
        let hasSeconds = word.utf8.count == 8
        guard hasSeconds || word.utf8.count == 5 else { return nil }
        return Timestamp(iso8601: "\(date)T\(word)\(hasSeconds ? "" : ":00")").map {
            IndexTime(time: $0, hasSeconds: hasSeconds)
        }
    }

    /// Whether this can be what a server writes for a moment: the same, but for the zone, which may be any.
    func isWritten(for moment: Timestamp) -> Bool {
        let unit: Int64 = hasSeconds ? 1 : 60
        func floor(_ seconds: Int64) -> Int64 { seconds - ((seconds % unit) + unit) % unit }
        let difference = floor(time.seconds) - floor(moment.seconds)
        let quarter: Int64 = 15 * 60
        let day: Int64 = 86_400
        return difference % quarter == 0 && abs(difference) <= day
    }
}
