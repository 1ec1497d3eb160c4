public import Statistics

/// A setting of a kind of store: the single source for help, the template in `config/config`, validation, the
/// masking of secrets and the page in docs/stores/.
public struct StoreOption: Hashable, Sendable {
    public enum Kind: Hashable, Sendable {
        case text, secret, url, path, flag
        case number(ClosedRange<Int64>)
        case choice([String])
    }

    public var name: String
    /// Other names that are understood.
    public var aliases: [String]
    public var kind: Kind
    public var isRequired: Bool
    /// What holds when it is not given, as it would be written; nil: nothing, or see the help.
    public var defaultValue: String?
    /// One sentence.
    public var help: String

    public init(
        _ name: String, _ kind: Kind, aliases: [String] = [], isRequired: Bool = false,
        default defaultValue: String? = nil,
        help: String
    ) {
        self.name = name
        self.kind = kind
        self.aliases = aliases
        self.isRequired = isRequired
        self.defaultValue = defaultValue
        self.help = help
    }
}

/// The settings given for one store, by the option's own name. Checked against the descriptor before they get here.
public struct StoreSettings: Sendable {
    private var values: [String: String]

    public init(_ values: [String: String]) { self.values = values }

    /// The text given for `name`; nil when it was not given or is empty.
    public subscript(_ name: String) -> String? {
        guard let value = values[name], !value.isEmpty else { return nil }
        return value
    }
    public func flag(_ name: String, default value: Bool = false) -> Bool {
        guard let text = self[name]?.lowercased() else { return value }
        return ["1", "yes", "true", "on"].contains(text)
    }
    public func number(_ name: String) -> Int64? { self[name].flatMap { Int64($0) } }
}

/// A kind of store: its name, its settings, and how one is made.
public struct StoreDescriptor: Sendable {
    /// As in `name = s3` and `s3://bucket/path`.
    public var scheme: String
    /// Other schemes, and values of `name`, that mean this kind of store, in lower case.
    public var otherSchemes: [String]
    public var summary: String
    public var options: [StoreOption]
    /// Makes a store without any request to it: ``Store/connect()`` comes later. Its requests, how long they take and
    /// what goes over the wire for them are counted in the statistics; files and their bytes are counted above it.
    public var make: @Sendable (StoreSettings, Statistics) throws(StoreError) -> any Store
    /// What tells two stores of this kind apart (endpoint, bucket, prefix), without credentials: a cache belongs
    /// to one identity.
    public var identity: @Sendable (StoreSettings) -> String
    /// Turns a URL, the scheme in lower case and what follows `scheme://`, into settings; nil when it makes no sense.
    public var settingsFromURL: @Sendable (_ scheme: String, _ rest: String) -> [String: String]?

    /// A kind of store with several schemes, which say different things.
    public init(
        scheme: String, otherSchemes: [String], summary: String, options: [StoreOption],
        identity: @escaping @Sendable (StoreSettings) -> String,
        settingsFromURL: @escaping @Sendable (_ scheme: String, _ rest: String) -> [String: String]?,
        make: @escaping @Sendable (StoreSettings, Statistics) throws(StoreError) -> any Store
    ) {
        self.scheme = scheme
        self.otherSchemes = otherSchemes
        self.summary = summary
        self.options = options
        self.identity = identity
        self.settingsFromURL = settingsFromURL
        self.make = make
    }

    /// A kind of store with one scheme.
    public init(
        scheme: String, summary: String, options: [StoreOption],
        identity: @escaping @Sendable (StoreSettings) -> String,
        settingsFromURL: @escaping @Sendable (_ rest: String) -> [String: String]?,
        make: @escaping @Sendable (StoreSettings, Statistics) throws(StoreError) -> any Store
    ) {
        self.init(
            scheme: scheme, otherSchemes: [], summary: summary, options: options, identity: identity,
            settingsFromURL: { settingsFromURL($1) }, make: make)
    }
}
