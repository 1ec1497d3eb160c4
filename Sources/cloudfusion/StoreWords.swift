import ArgumentParser
import Mounting

/// What names a store on the command line, beside its URL.
struct StoreWords: ParsableArguments {
    @Option(name: [.customShort("c"), .long], help: ArgumentHelp("The configuration.", valueName: "FILE"))
    var config: String?

    @Option(
        name: .customShort("o", allowingJoined: true), parsing: .singleValue,
        help: ArgumentHelp("Settings, such as cache_dir=/big/cache.", valueName: "OPTION[,…]"))
    var options: [String] = []

    /// - Parameter place: A URL, or a configuration where none is given as an option.
    /// - Returns: nil when nothing names a store.
    func settings(_ place: String?) throws -> (settings: Settings, parser: SettingsParser)? {
        let parsed = MountOptions.parse(options)
        let parser = SettingsParser(schema: .product, places: .ofProcess)
        let url = place.flatMap { $0.contains("://") ? $0 : nil }
        if let config, let place, url == nil {
            throw failure("'\(place)' and --config '\(config)' both name a store: give one of them.", isUsage: true)
        }
        let file = config ?? (url == nil ? place : nil) ?? parsed.options.configFile
        guard file != nil || url != nil else { return nil }
        let settings = try storeSettings(configFile: file, url: url, options: parsed, parser).settings
        return (settings, parser)
    }
}
