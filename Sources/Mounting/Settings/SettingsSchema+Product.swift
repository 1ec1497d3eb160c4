import Stores

extension SettingsSchema {
    /// The settings of this program, with every kind of store that it has.
    package static let product = SettingsSchema(descriptors: StoreRegistry.all)
}
