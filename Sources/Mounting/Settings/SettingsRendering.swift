import StoreAPI

/// Settings as text that ``SettingsParser`` reads back to the same settings.
package struct SettingsRendering: Sendable {
    package let schema: SettingsSchema

    package init(schema: SettingsSchema) { self.schema = schema }

    /// The settings in force, secrets masked, each with what it means.
    package func text(of settings: Settings) -> String {
        guard let scheme = settings.scheme else { return template(settings) }
        var lines = ["[auth]"]
        for option in schema.storeOptions(of: scheme) {
            lines += self.lines(option, settings.values[option.name] ?? option.defaultValue)
        }
        lines += ["", "[store]", comment(schema.storeName), "name = \(scheme)"]
        for option in SettingsSchema.common { lines += self.lines(option, settings[option.name]) }
        return lines.joined(separator: "\n") + "\n"
    }

    /// For a mount without a store: what to write to get one.
    package func template(_ settings: Settings = Settings()) -> String {
        var lines = [
            "# No store is connected. Write a configuration like one of these to this file, for example with",
            "#     cp my.ini MOUNTPOINT/config/config",
            "",
        ]
        for descriptor in schema.descriptors {
            lines += ["# \(descriptor.scheme): \(descriptor.summary)", "#", "# [auth]"]
            for option in descriptor.options {
                let option = SettingOption(option)
                lines.append("# \(option.name) = \(option.defaultValue ?? "")")
                lines.append("#     \(option.isRequired ? "Needed. " : "")\(option.help)")
            }
            lines += ["# [store]", "# name = \(descriptor.scheme)", ""]
        }
        lines.append("[store]")
        for option in SettingsSchema.common { lines += self.lines(option, settings[option.name]) }
        return lines.joined(separator: "\n") + "\n"
    }

    private func comment(_ option: SettingOption) -> String {
        var parts = [option.form]
        if let value = option.defaultValue, !value.isEmpty { parts.append("default \(value)") }
        return "# \(option.help) (\(parts.joined(separator: "; ")))"
    }

    private func lines(_ option: SettingOption, _ value: String?) -> [String] {
        var assignment = "# \(option.name) ="
        if let value, !value.isEmpty {
            assignment = "\(option.name) = \(option.isSecret ? SettingsSchema.mask : quoted(value))"
        }
        return [comment(option), assignment]
    }

    /// A value as it has to be written so that it is read back the same.
    func quoted(_ value: String) -> String {
        let needsQuotes =
            value.hasPrefix("\"") || value != value.trimmed || value != SettingsParser.withoutComment(value)
        guard needsQuotes else { return value }
        return "\"" + value.map { $0 == "\"" || $0 == "\\" ? "\\\($0)" : String($0) }.joined() + "\""
    }

    /// docs/settings.md.
    package func documentation() -> String {
        var text = """
            # Settings

            In a file for `--config`, in `config/config` of a mount, and as `-o key=value` on the command line. A file has
            the sections `[auth]` and `[store]`, lines `key = value`, and comments after `#` or `;`. Put a value in double
            quotes when it begins or ends with a blank, or has ` #` or ` ;` in it; inside of them `\\"` and `\\\\` stand for
            themselves. In `config/config` secrets are shown as `\(SettingsSchema.mask)`, which means "as it was" when it is
            written back. 1 MB is 1,000,000 bytes. Settings marked "live" change at once while mounted; a change of another
            one opens the store anew.

            Secrets are not accepted on the command line, where every user of the machine could read them.

            A text written to `config/config` that has a `name` is a whole configuration; one without changes just the
            settings that it has.

            ## Every mount

            | setting | value | default | live | meaning |
            | --- | --- | --- | --- | --- |
            | `name` | \(schema.storeName.form) | – | no | \(schema.storeName.help) |

            """
        for option in SettingsSchema.common { text += row(option, withLive: true) }
        for descriptor in schema.descriptors {
            text += """

                ## \(descriptor.scheme)

                \(descriptor.summary)

                | setting | value | default | meaning |
                | --- | --- | --- | --- |

                """
            for option in descriptor.options { text += row(SettingOption(option), withLive: false) }
        }
        return text
    }

    private func row(_ option: SettingOption, withLive: Bool) -> String {
        let aliases =
            option.aliases.isEmpty ? "" : " (also \(option.aliases.map { "`\($0)`" }.joined(separator: ", ")))"
        let value = option.defaultValue.map { $0.isEmpty ? "–" : "`\($0)`" } ?? "–"
        let live = withLive ? " \(option.isLive ? "yes" : "no") |" : ""
        let needed = option.isRequired ? "Needed. " : ""
        return "| `\(option.name)`\(aliases) | \(option.form) | \(value) |\(live) \(needed)\(option.help) |\n"
    }
}
