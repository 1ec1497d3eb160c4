package import StoreAPI

/// All kinds of stores that a person can name. A new one is one more line here.
package enum StoreRegistry {
    package static let all: [StoreDescriptor] = [
        .azure, .googleStorage, .http, .local, .openStackSwift, .s3, .sftp, .webdav,
    ]
}
