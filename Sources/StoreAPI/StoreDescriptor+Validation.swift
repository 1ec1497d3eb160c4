extension StoreDescriptor {
    /// Checks what a person gave for a store of this kind.
    ///
    /// - Parameter given: By an option's name or one of its aliases, in any case. An empty value is as good as none.
    /// - Returns: The settings by the options' own names.
    /// - Throws: ``StoreError``: `.invalidArgument`, with a sentence for each thing that is wrong, which names the key,
    ///   the nearest known key, or what the value may be. Values of secrets are not repeated.
    public func settings(from given: [String: String]) throws(StoreError) -> StoreSettings {
        var values: [String: String] = [:]
        var sources: [String: String] = [:]
        var problems: [String] = []
        for (key, value) in given.sorted(by: { $0.key < $1.key }) where !value.isEmpty {
            guard let option = option(named: key) else {
                let hint = nearestName(to: key.lowercased(), among: options.flatMap { [$0.name] + $0.aliases })
                problems.append(
                    "'\(key)' is no setting of \(scheme)" + (hint.map { "; did you mean '\($0)'?" } ?? ""))
                continue
            }
            if let problem = option.problem(with: value) {
                problems.append("'\(key)' " + problem)
            } else if let other = values[option.name], other != value {
                problems.append("'\(key)' and '\(sources[option.name]!)' are one setting and have two values")
            } else {
                values[option.name] = value
                sources[option.name] = key
            }
        }
        for option in options where option.isRequired && values[option.name] == nil {
            // A value that is there but wrong has been complained about already.
            if given.keys.contains(where: { self.option(named: $0) == option && given[$0] != "" }) { continue }
            problems.append("'\(option.name)' is missing: \(option.help)")
        }
        guard problems.isEmpty else { throw StoreError(.invalidArgument, problems.joined(separator: "\n")) }
        return StoreSettings(values)
    }

    private func option(named key: String) -> StoreOption? {
        let key = key.lowercased()
        return options.first { $0.name == key } ?? options.first { $0.aliases.contains(key) }
    }
}

extension StoreOption {
    /// What is wrong with a value, as the end of a sentence; nil when nothing is.
    func problem(with value: String) -> String? {
        switch kind {
        case .text, .secret: return nil
        case .path: return value.hasPrefix("/") || value.hasPrefix("~") ? nil : "must be a full path, not '\(value)'"
        case .url:
            // Without a scheme it is a host's name.
            guard let end = value.firstRange(of: "://") else { return nil }
            let scheme = value[..<end.lowerBound].lowercased()
            return ["http", "https"].contains(scheme) ? nil : "must begin with https:// or http://, not '\(scheme)://'"
        case .flag:
            return ["1", "yes", "true", "on", "0", "no", "false", "off"].contains(value.lowercased())
                ? nil : "must be yes or no, not '\(value)'"
        case .number(let range):
            guard let number = Int64(value), range.contains(number) else {
                return "must be a number from \(range.lowerBound) to \(range.upperBound), not '\(value)'"
            }
            return nil
        case .choice(let choices):
            if choices.contains(value) { return nil }
            return "must be one of \(choices.joined(separator: ", ")), not '\(value)'"
        }
    }
}

/// The one of some names that was probably meant by a misspelt one; nil when none is near.
public func nearestName(to name: String, among known: [String]) -> String? {
    let limit = max(1, name.count / 3)
    let ranked = known.sorted().map { (name: $0, distance: editDistance($0, name)) }
    return ranked.filter { $0.distance <= limit }.min { $0.distance < $1.distance }?.name
}

/// How many letters must be put in, taken away, replaced or swapped with their neighbour.
private func editDistance(_ a: String, _ b: String) -> Int {
    let a = Array(a)
    let b = Array(b)
    var rows = [[Int]](repeating: [Int](repeating: 0, count: b.count + 1), count: a.count + 1)
    for i in 0...a.count { rows[i][0] = i }
    for j in 0...b.count { rows[0][j] = j }
    for i in a.indices {
        for j in b.indices {
            var best = min(rows[i][j + 1] + 1, rows[i + 1][j] + 1, rows[i][j] + (a[i] == b[j] ? 0 : 1))
            if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, rows[i - 1][j - 1] + 1) }
            rows[i + 1][j + 1] = best
        }
    }
    return rows[a.count][b.count]
}
