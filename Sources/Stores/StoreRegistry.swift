package import StoreAPI

/// All kinds of stores that a person can name. A new one is one more line here.
package enum StoreRegistry {
    package static let all: [StoreDescriptor] = [.local, .s3]

    /// Other schemes that are understood.
    private static let aliases = ["file": "local"]

    /// The kind of store that `name = …` or a URL's scheme means.
    ///
    /// - Throws: ``StoreError``: `.invalidArgument`, with the name that was probably meant.
    package static func descriptor(for scheme: String) throws(StoreError) -> StoreDescriptor {
        let scheme = scheme.lowercased()
        if let found = all.first(where: { $0.scheme == aliases[scheme] ?? scheme }) { return found }
        let known = all.map(\.scheme)
        let hint =
            nearestName(to: scheme, among: known + aliases.keys).map { "did you mean '\($0)'?" }
            ?? "there are \(known.sorted().joined(separator: ", "))"
        throw StoreError(.invalidArgument, "there is no kind of store named '\(scheme)'; \(hint)")
    }
}
