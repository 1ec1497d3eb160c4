import Caching
import StoreAPI

/// A key with its value, as somebody wrote it.
package struct SettingAssignment: Hashable, Sendable {
    package var key: String
    package var value: String
    /// The file's name, or "-o".
    package var source: String
    package var line: Int?
    /// Given on the command line, where every user of the machine can read it.
    package var isOnCommandLine = false

    package init(key: String, value: String, source: String, line: Int? = nil, isOnCommandLine: Bool = false) {
        self.key = key
        self.value = value
        self.source = source
        self.line = line
        self.isOnCommandLine = isOnCommandLine
    }

    func problem(_ message: String) -> SettingsProblem {
        SettingsProblem(source: source, line: line, message: message)
    }
}

/// Settings that were found right, and what is remarkable about them.
package struct ParsedSettings: Sendable {
    package var settings: Settings
    package var warnings: [SettingsProblem]
}

/// Reads settings: INI text in, ``Settings`` or a list of all that is wrong out.
package struct SettingsParser: Sendable {
    package let schema: SettingsSchema
    package let places: SettingsPlaces

    package init(schema: SettingsSchema, places: SettingsPlaces) {
        self.schema = schema
        self.places = places
    }

    /// The largest text that is looked at, in bytes.
    package static let largestText = 1 << 20

    // MARK: - Text

    /// The assignments of an INI text, and the lines that are none.
    package func assignments(in text: [UInt8], named source: String) -> (
        assignments: [SettingAssignment], problems: [SettingsProblem]
    ) {
        func whole(_ message: String) -> ([SettingAssignment], [SettingsProblem]) {
            ([], [SettingsProblem(source: source, line: nil, message: message)])
        }
        guard text.count <= Self.largestText else {
            return whole("is larger than \(Self.largestText) bytes and no configuration")
        }
        guard !text.contains(0) else { return whole("holds zero bytes and is no configuration") }
        var bytes = text[...]
        if bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes = bytes.dropFirst(3) }
        guard let string = String(validating: bytes, as: UTF8.self) else {
            return whole("is not UTF-8 text")
        }

        var result: [SettingAssignment] = []
        var problems: [SettingsProblem] = []
        var number = 0
        for rawLine in string.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false) {
            number += 1
            let line = String(Substring(rawLine)).trimmed
            func complain(_ message: String) {
                problems.append(SettingsProblem(source: source, line: number, message: message))
            }
            if line.isEmpty || line.hasPrefix("#") || line.hasPrefix(";") { continue }
            if line.hasPrefix("[") {
                let head = Self.withoutComment(line)
                guard head.hasSuffix("]") else {
                    complain("a section must look like [store]")
                    continue
                }
                checkSection(String(head.dropFirst().dropLast()).trimmed, complain)
                continue
            }
            guard let sign = line.firstIndex(where: { $0 == "=" || $0 == ":" }) else {
                complain("'\(shown(line))' is neither a section nor 'key = value'")
                continue
            }
            let key = String(line[..<sign]).trimmed.lowercased()
            guard !key.isEmpty else {
                complain("there is no key before '\(line[sign])'")
                continue
            }
            switch value(String(line[line.index(after: sign)...]).trimmed) {
            case .success(let value):
                result.append(SettingAssignment(key: key, value: value, source: source, line: number))
            case .failure(let complaint): complain("'\(shown(key))' \(complaint.text)")
            }
        }
        return (result, problems)
    }

    private func checkSection(_ name: String, _ complain: (String) -> Void) {
        let names = SettingOption.Section.allCases.map(\.rawValue)
        guard !names.contains(name.lowercased()) else { return }
        let near = nearest(to: name, among: names).map { "; did you mean [\($0)]?" } ?? ""
        complain("there is no section [\(shown(name))]; the sections are [auth] and [store]\(near)")
    }

    /// The value in what follows the sign: unquoted, without a comment.
    private func value(_ text: String) -> Result<String, SettingComplaint> {
        var result = ""
        if text.hasPrefix("\"") {
            var isEscaped = false
            var rest = text.dropFirst()
            while let character = rest.popFirst() {
                if isEscaped {
                    result.append(character)
                    isEscaped = false
                } else if character == "\\" {
                    isEscaped = true
                } else if character == "\"" {
                    let tail = String(rest).trimmed
                    guard tail.isEmpty || tail.hasPrefix("#") || tail.hasPrefix(";") else {
                        return .failure("has text after the closing quotation mark")
                    }
                    return check(result)
                } else {
                    result.append(character)
                }
            }
            return .failure("has no closing quotation mark")
        }
        return check(Self.withoutComment(text))
    }

    private func check(_ value: String) -> Result<String, SettingComplaint> {
        value.unicodeScalars.contains { ($0.value < 32 && $0 != "\t") || $0.value == 127 }
            ? .failure("has control characters in its value") : .success(value)
    }

    /// Cuts off ` # …` or ` ; …`. A sign without a blank before it belongs to the value.
    static func withoutComment(_ text: String) -> String {
        if text.hasPrefix("#") || text.hasPrefix(";") { return "" }
        var wasBlank = false
        for index in text.indices {
            let character = text[index]
            if wasBlank, character == "#" || character == ";" { return String(text[..<index]).trimmed }
            wasBlank = character == " " || character == "\t"
        }
        return text
    }

    // MARK: - Meaning

    /// Settings from layers of assignments, of which later ones win.
    ///
    /// - Parameters:
    ///   - problems: What was found wrong before, to be listed with the rest.
    ///   - previous: The settings in force, for secrets that are written back masked.
    ///   - starting: Values that hold where no layer says anything.
    /// - Throws: ``SettingsErrors`` with everything that is wrong, not just the first.
    package func settings(
        _ layers: [[SettingAssignment]], problems earlier: [SettingsProblem] = [], previous: Settings? = nil,
        starting: Settings = Settings()
    ) throws(SettingsErrors) -> ParsedSettings {
        var problems = earlier
        var warnings: [SettingsProblem] = []
        var result = starting
        if let scheme = schemeName(in: layers, &problems) { result.scheme = scheme }

        var origins: [String: SettingAssignment] = [:]
        for layer in layers {
            var seen: [String: SettingAssignment] = [:]
            for assignment in layer {
                guard let option = option(for: assignment, scheme: result.scheme, &problems) else { continue }
                if let first = seen[option.name] {
                    let place = first.line.map { " in line \($0)" } ?? ""
                    let name = first.key == assignment.key ? "" : " as '\(first.key)'"
                    problems.append(assignment.problem("'\(assignment.key)' was given already\(name)\(place)"))
                    var ignored = result
                    if option.name != "name" { set(option, assignment, in: &ignored, previous: previous, &problems) }
                    continue
                }
                seen[option.name] = assignment
                if option.name == "name" { continue }
                if option.isSecret, assignment.isOnCommandLine {
                    problems.append(
                        assignment.problem(
                            "'\(assignment.key)' is a secret, and a command line can be read by every user of this "
                                + "machine: put it into a file for --config"))
                    continue
                }
                set(option, assignment, in: &result, previous: previous, &problems)
                origins[option.name] = assignment
            }
        }
        let source = layers.joined().first?.source ?? "settings"
        checkTogether(result, origins, source, &problems, &warnings)
        if !problems.isEmpty {
            throw SettingsErrors(problems.sorted { ($0.source, $0.line ?? 0) < ($1.source, $1.line ?? 0) })
        }
        return ParsedSettings(settings: result, warnings: warnings)
    }

    private func schemeName(in layers: [[SettingAssignment]], _ problems: inout [SettingsProblem]) -> String? {
        guard
            let assignment = layers.joined().last(where: {
                ($0.key == "name" || $0.key == "store") && !$0.value.isEmpty
            })
        else { return nil }
        if let descriptor = schema.descriptor(named: assignment.value) { return descriptor.scheme }
        let names = schema.descriptors.map(\.scheme)
        let near = nearest(to: assignment.value, among: names).map { "; did you mean '\($0)'?" } ?? ""
        problems.append(
            assignment.problem(
                "there is no store '\(shown(assignment.value))'; the stores are \(names.joined(separator: ", "))\(near)"
            ))
        return nil
    }

    private func option(
        for assignment: SettingAssignment, scheme: String?, _ problems: inout [SettingsProblem]
    ) -> SettingOption? {
        let key = assignment.key
        if let option = schema.option(key, for: scheme) { return option }
        if key == "type" {
            if !assignment.value.isEmpty {
                problems.append(
                    assignment.problem(
                        "'type = \(shown(assignment.value))' is not possible: files are stored as plain objects only, "
                            + "one per file; leave 'type' out"))
            }
            return nil
        }
        let owners = schema.schemes(with: key)
        if !owners.isEmpty {
            if scheme == nil {
                // Whether a name is wrong or missing is said once, by whoever looks at the name.
                guard !problems.contains(where: { $0.message.hasPrefix("there is no store") }) else { return nil }
                problems.append(
                    assignment.problem(
                        "'\(key)' needs to know the kind of store: add 'name = \(owners.joined(separator: "' or 'name = "))'"
                    ))
            } else {
                problems.append(
                    assignment.problem(
                        "'\(key)' is a setting of \(owners.joined(separator: ", ")), not of \(scheme ?? "")"))
            }
            return nil
        }
        let known = ([schema.storeName] + schema.options(for: scheme)).flatMap { [$0.name] + $0.aliases }
        let near = nearest(to: key, among: known).map { "; did you mean '\($0)'?" } ?? ""
        problems.append(assignment.problem("there is no setting '\(shown(key))'\(near)"))
        return nil
    }

    private func set(
        _ option: SettingOption, _ assignment: SettingAssignment, in result: inout Settings, previous: Settings?,
        _ problems: inout [SettingsProblem]
    ) {
        if assignment.value.isEmpty {
            switch option.kind {
            case .text, .secret, .url, .path, .directoryName:
                // As in templates: a key without a value is one that was not given.
                result.values[option.name] = nil
            default:
                problems.append(assignment.problem("'\(assignment.key)' has no value; it takes: \(option.form)"))
            }
            return
        }
        if option.isSecret, assignment.value == SettingsSchema.mask {
            guard let value = previous?.values[option.name] else {
                problems.append(
                    assignment.problem(
                        "'\(assignment.key)' is masked, and there is no earlier value that it could stand for: "
                            + "write the value itself"))
                return
            }
            result.values[option.name] = value
            return
        }
        switch option.canonical(assignment.value, places: places) {
        case .success(let value):
            // What is given as it would be anyway counts as not given, so that texts with the same meaning are equal.
            result.values[option.name] = value == option.defaultValue ? nil : value
        case .failure(let complaint):
            // A complaint about a secret must not repeat it; its kind is never checked, so there is none.
            problems.append(assignment.problem("'\(assignment.key)' \(complaint.text)"))
        }
    }

    /// What no option can see alone.
    private func checkTogether(
        _ settings: Settings, _ origins: [String: SettingAssignment], _ source: String,
        _ problems: inout [SettingsProblem],
        _ warnings: inout [SettingsProblem]
    ) {
        func complain(_ names: [String], _ message: String) {
            let origin = names.lazy.compactMap { origins[$0] }.first
            problems.append(
                origin?.problem(message) ?? SettingsProblem(source: source, line: nil, message: message))
        }
        let limits = settings.cacheLimits
        if limits.hard < limits.soft {
            complain(
                ["hard_cache_size_limit", "cache_size"],
                "'hard_cache_size_limit' (\(plain(Double(limits.hard) / 1e6)) MB) must not be smaller than 'cache_size' "
                    + "(\(plain(Double(limits.soft) / 1e6)) MB)")
        }
        if let least = settings["workers"].flatMap({ Int($0) }),
            let most = settings["max_workers"].flatMap({ Int($0) }),
            most < least
        {
            complain(
                ["max_workers", "workers"], "'max_workers' (\(most)) must not be smaller than 'workers' (\(least))")
        }
        if let scheme = settings.scheme {
            for option in schema.storeOptions(of: scheme)
            where option.isRequired && (settings.values[option.name] ?? option.defaultValue) == nil {
                // A value that was refused is a problem of its own already.
                if origins[option.name].map({ !$0.value.isEmpty }) ?? false { continue }
                complain([], "'\(option.name)' is needed for \(scheme): \(option.help)")
            }
        }
    }
}

extension String {
    /// Without blanks, tabs and carriage returns at the ends.
    var trimmed: String {
        let isBlank: (Unicode.Scalar) -> Bool = { $0 == " " || $0 == "\t" || $0 == "\r" }
        var scalars = Substring(self).unicodeScalars
        while let first = scalars.first, isBlank(first) { scalars.removeFirst() }
        while let last = scalars.last, isBlank(last) { scalars.removeLast() }
        return String(Substring(scalars))
    }
}
