import StoreAPI

/// One setting: its name, what it takes, and what it does. The single source for parsing, the text of
/// `config/config`, and docs/settings.md.
package struct SettingOption: Sendable {
    package enum Kind: Hashable, Sendable {
        /// Numbers with an optional fraction, in these units.
        case seconds(ClosedRange<Double>)
        /// 1 KB is 1,000 bytes, 1 MB 1,000,000.
        case kilobytes(ClosedRange<Double>)
        case megabytes(ClosedRange<Double>)
        case megabytesPerSecond(ClosedRange<Double>)
        case count(ClosedRange<Int64>)
        case flag
        case choice([String])
        case text, secret, url
        /// Absolute, or beginning with `~/`.
        case path
        /// A name of one directory: letters, digits, `.`, `_` and `-`.
        case directoryName
    }

    package enum Section: String, Sendable, CaseIterable {
        case auth, store
    }

    package var name: String
    /// Other names that are understood, those of the predecessor among them.
    package var aliases: [String] = []
    package var kind: Kind
    package var section: Section
    /// As it would be written; nil: none, or derived as `help` says.
    package var defaultValue: String?
    package var help: String
    /// Whether a change while mounted takes effect at once; others need the store to be opened anew, which is done.
    package var isLive: Bool
    package var isRequired = false

    package var isSecret: Bool { kind == .secret }

    /// The unit or form for people, such as "seconds, 0 to 86400"; empty when the name tells enough.
    package var form: String {
        switch kind {
        case .seconds(let range): "seconds, \(plain(range.lowerBound)) to \(plain(range.upperBound))"
        case .kilobytes(let range): "KB, \(plain(range.lowerBound)) to \(plain(range.upperBound))"
        case .megabytes(let range): "MB, \(plain(range.lowerBound)) to \(plain(range.upperBound))"
        case .megabytesPerSecond(let range): "MB/s, \(plain(range.lowerBound)) to \(plain(range.upperBound))"
        case .count(let range):
            range.upperBound == .max
                ? "number, at least \(range.lowerBound)" : "number, \(range.lowerBound) to \(range.upperBound)"
        case .flag: "yes or no"
        case .choice(let values): values.joined(separator: ", ")
        case .text: "text"
        case .secret: "secret"
        case .url: "URL"
        case .path: "path"
        case .directoryName: "name"
        }
    }
}

extension SettingOption {
    /// The setting that a store's own option becomes.
    init(_ option: StoreOption) {
        let kind: Kind =
            switch option.kind {
            case .text: .text
            case .secret: .secret
            case .url: .url
            case .path: .path
            case .flag: .flag
            case .number(let range): .count(range)
            case .choice(let values): .choice(values)
            }
        self.init(
            name: option.name, aliases: option.aliases, kind: kind, section: .auth,
            defaultValue: option.defaultValue, help: option.help, isLive: false, isRequired: option.isRequired)
    }

    /// Checks `text` and brings it into the one form in which it is kept.
    ///
    /// - Returns: the value, or a sentence's end that says what is expected ("must be …").
    func canonical(_ text: String, places: SettingsPlaces) -> Result<String, SettingComplaint> {
        func number(_ range: ClosedRange<Double>) -> Result<String, SettingComplaint> {
            guard let value = decimal(text) else { return .failure("must be a number (\(form)), not '\(shown(text))'") }
            guard range.contains(value) else { return .failure("must be in the range: \(form); it is \(plain(value))") }
            return .success(plain(value))
        }
        switch kind {
        case .seconds(let range), .kilobytes(let range), .megabytes(let range), .megabytesPerSecond(let range):
            return number(range)
        case .count(let range):
            guard let value = Int64(text) else {
                return .failure("must be a whole number (\(form)), not '\(shown(text))'")
            }
            guard range.contains(value) else { return .failure("must be in the range: \(form); it is \(value)") }
            return .success(String(value))
        case .flag:
            switch text.lowercased() {
            case "yes", "true", "on", "1": return .success("yes")
            case "no", "false", "off", "0": return .success("no")
            default: return .failure("must be yes or no, not '\(shown(text))'")
            }
        case .choice(let values):
            guard let value = values.first(where: { $0.lowercased() == text.lowercased() }) else {
                let near = nearest(to: text, among: values).map { "; did you mean '\($0)'?" } ?? ""
                return .failure("must be one of \(values.joined(separator: ", ")), not '\(shown(text))'\(near)")
            }
            return .success(value)
        case .text, .secret, .url:
            return .success(text)
        case .path:
            guard let path = places.absolute(text) else {
                return .failure("must be an absolute path (or begin with ~/), not '\(shown(text))'")
            }
            return .success(path)
        case .directoryName:
            let isLegal = text.utf8.allSatisfy { byte in
                switch byte {
                case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                    true
                default: false
                }
            }
            guard isLegal, text.utf8.count <= 100, text != ".", text != ".." else {
                return .failure("must be made of letters, digits, '.', '_' and '-', at most 100 of them")
            }
            return .success(text)
        }
    }
}

/// What is wrong with a value: the end of a sentence that begins with its key.
package struct SettingComplaint: Error, ExpressibleByStringInterpolation {
    package let text: String
    package init(stringLiteral value: String) { text = value }
}

/// What relative paths in settings are taken from.
package struct SettingsPlaces: Sendable {
    /// Where `~/` leads; nil: nowhere.
    package var home: String?
    /// Where relative paths begin; nil: they are errors.
    package var base: String?
    /// `$XDG_CACHE_HOME`, if it is absolute.
    package var cacheHome: String?

    package init(home: String?, base: String?, cacheHome: String?) {
        self.home = home
        self.base = base
        self.cacheHome = cacheHome?.hasPrefix("/") == true ? cacheHome : nil
    }

    package var defaultCacheFolder: String {
        (cacheHome ?? home.map { $0 + "/.cache" } ?? "/var/cache") + "/cloudfusion"
    }

    package func absolute(_ path: String) -> String? {
        if path.hasPrefix("/") { return path }
        if path == "~" { return home }
        if path.hasPrefix("~/") { return home.map { $0 + path.dropFirst() } }
        guard let base, !path.isEmpty else { return nil }
        if path == "." { return base }
        return base + "/" + (path.hasPrefix("./") ? String(path.dropFirst(2)) : path)
    }
}

/// A plain decimal number such as "12" or "0.5": no signs, exponents, or words like "inf".
func decimal(_ text: String) -> Double? {
    guard !text.isEmpty, text.utf8.count <= 20,
        text.utf8.allSatisfy({ ($0 >= 0x30 && $0 <= 0x39) || $0 == UInt8(ascii: ".") })
    else { return nil }
    return Double(text)
}

/// A number without a useless fraction.
func plain(_ value: Double) -> String {
    value == value.rounded() && abs(value) < 1e15 ? String(Int64(value)) : String(value)
}

/// Somebody's text inside a message: not too long, and nothing that moves a terminal's cursor.
func shown(_ text: String) -> String {
    let clean = String(
        String.UnicodeScalarView(
            text.unicodeScalars.prefix(60).map { $0.value < 32 || (127...159).contains($0.value) ? "\u{FFFD}" : $0 }))
    return text.unicodeScalars.count > 60 ? clean + "…" : clean
}
