package import Statistics
import StoreAPI
import Stores

extension SettingsSchema {
    /// The settings of this program, with every kind of store that it has.
    ///
    /// - Parameter transport: where stores count their requests and the bytes on the wire.
    package static func product(transport: Statistics = Statistics()) -> SettingsSchema {
        var s3 = StoreDescriptor.s3
        s3.make = { settings throws(StoreError) in
            try S3Store(settings, environment: .ofProcess, statistics: transport)
        }
        return SettingsSchema(descriptors: [.local, s3])
    }
}
