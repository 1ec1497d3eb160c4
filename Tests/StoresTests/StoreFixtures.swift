import Glibc
import Statistics
import StoreAPI
import StoreTesting

@testable import Stores

extension StoreFixture {
    /// Every kind of store that can be tried on this machine, at this moment.
    static let all: [StoreFixture] =
        [.memory, .flatMemory, .faultyMemory, .local("local disk", in: "/var/tmp")]
        + (isTmpfsUsable ? [.local("local tmpfs", in: "/dev/shm")] : []) + servers.compactMap(s3)
        + webdavServers.compactMap(webdav) + openStackSwiftServers.compactMap(openStackSwift)
        + googleServers.compactMap(google) + httpServers.compactMap(http) + (sftp.map { [$0] } ?? [])
        + azureAccounts.compactMap(azure)

    /// Kinds of stores that cannot be tried here, each with the reason.
    static let missing: [(name: String, reason: String)] =
        (isTmpfsUsable ? [] : [("local tmpfs", "/dev/shm keeps no extended attributes (they came with Linux 6.6)")])
        + servers.filter { s3($0) == nil }.map { ("s3 on \($0.name)", "\($0.variable) is not set") }
        + webdavServers.filter { webdav($0) == nil }.map { ("webdav on \($0.name)", "\($0.variable) is not set") }
        + openStackSwiftServers.filter { openStackSwift($0) == nil }.map {
            ("swift on \($0.name)", "\($0.variable) is not set")
        } + googleServers.filter { google($0) == nil }.map { ("gs on \($0.name)", "\($0.variable) is not set") }
        + httpServers.filter { http($0) == nil }.map { ("http on \($0.name)", "\($0.variable) is not set") }
        + (sftp == nil ? [("sftp on openssh", "\(sftpVariable) is not set")] : [])
        + azureAccounts.filter { azure($0) == nil }.map { ("azure, \($0.name)", "\($0.variable) is not set") }

    static let memoryFeatures: StoreCapabilities.Features = [
        .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .rangeCopy,
        .atomicMove,
        .directoryMove, .attributes, .extendedAttributes, .attributesInListing, .specialFiles, .realDirectories,
        .spaceUsage, .caseSensitive, .consistentListing, .emptyDirectories, .changeTimes,
    ]

    static let memory = StoreFixture("memory", features: memoryFeatures) { (MemoryStore(pageSize: 100), {}) }

    static let flatMemory = StoreFixture(
        "memory without directories", features: memoryFeatures.subtracting(.realDirectories)
    ) { (MemoryStore(hasRealDirectories: false), {}) }

    static let faultyMemory = StoreFixture("faulty(memory)", features: memoryFeatures) {
        (FaultyStore(FaultyStore(MemoryStore())), {})
    }

    /// A directory of its own below `parent`.
    static func local(_ name: String, in parent: String) -> StoreFixture {
        // Of a file on a disk that is the disk's own.
        StoreFixture(name, features: memoryFeatures.subtracting(.changeTimes)) {
            let directory = try TemporaryDirectory(in: parent)
            return (LocalStore(path: directory.path, pageSize: 100), { directory.remove() })
        }
    }

    private static let isTmpfsUsable: Bool = {
        guard let directory = try? TemporaryDirectory(in: "/dev/shm") else { return false }
        defer { directory.remove() }
        let store = LocalStore(path: directory.path)
        defer { store.shutdown() }
        return (try? store.connect()) != nil && store.capabilities.contains(.extendedAttributes)
    }()
}

/// A server that the project's test runner may have started.
struct Server {
    let name: String
    /// What is lacking of ``StoreFixture/s3Features``.
    var lacks: StoreCapabilities.Features = []
    var deviations: [String: String] = [:]
    /// Set by the test runner to "endpoint region access_key secret_key bucket".
    var variable: String { "CLOUDFUSION_TEST_S3_\(name.uppercased())" }
}

extension StoreFixture {
    private static let noMarkers = "rclone serve s3 makes a file of a directory's marker"
    private static let confusedByRaces =
        "rclone serve s3 can answer InternalError to every deletion of a directory that several requests made at once"
    private static let mixtures =
        "rclone serve s3 can hand out a mixture of two versions while an object is replaced by one of another size"

    static let servers = [
        // Deletes whatever is there; Ceph 20 checks conditions.
        Server(name: "radosgw", lacks: [.conditionalDelete]),
        // Answers 501 to If-None-Match and If-Match.
        Server(name: "swift", lacks: [.conditionalCreate, .conditionalReplace]),
        Server(name: "moto"),
        // Ignores conditions, answers ranged reads with status 200, and knows no UploadPartCopy with a range.
        Server(
            name: "rclone",
            lacks: [
                .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .rangeCopy, .emptyDirectories,
            ],
            deviations: [
                "a listing tells what the metadata tells": noMarkers,
                "directories with a common parent can be made at once": confusedByRaces,
                "a read during overwriting never mixes two versions": mixtures,
            ]),
    ]

    static let s3Features: StoreCapabilities.Features = [
        .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .rangeCopy,
        .attributes,
        .extendedAttributes, .specialFiles, .caseSensitive, .resumableUpload, .consistentListing, .emptyDirectories,
        .changeTimes,
    ]

    /// - Returns: nil when the server was not started.
    static func s3(_ server: Server) -> StoreFixture? {
        guard let value = getenv(server.variable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 5 else { return nil }
        let (name, features) = ("s3 on \(server.name)", s3Features.subtracting(server.lacks))
        return StoreFixture(name, features: features, deviations: server.deviations) {
            let settings = try StoreDescriptor.s3.settings(from: [
                "endpoint": words[0], "region": words[1], "access_key_id": words[2], "secret_access_key": words[3],
                "bucket_name": words[4], "prefix": "fixture-\(UInt64.random(in: 0...UInt64.max))",
            ])
            return (try StoreDescriptor.s3.make(settings, Statistics()), {})
        }
    }
}

/// A WebDAV server that the project's test runner may have started.
struct WebDAVServer {
    let name: String
    /// What is lacking of ``StoreFixture/webdavFeatures``.
    var lacks: StoreCapabilities.Features = []
    var deviations: [String: String] = [:]
    /// Set by the test runner to "url user password folder".
    var variable: String { "CLOUDFUSION_TEST_WEBDAV_\(name.uppercased())" }

    /// - Returns: nil when the server was not started.
    var settings: [String: String]? {
        guard let value = getenv(variable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 4 else { return nil }
        return ["url": words[0], "user": words[1], "password": words[2]]
    }
}

extension StoreFixture {
    static let webdavServers = [
        // Apache's mod_dav loses some of the locks that are taken at the same time, and tells no quota.
        WebDAVServer(name: "httpd", lacks: [.conditionalCreate, .conditionalReplace, .conditionalDelete, .spaceUsage]),
        WebDAVServer(
            name: "wsgidav",
            deviations: [
                "a name with the marks of a URL is kept": "WsgiDAV cuts the destination of a MOVE at '?'",
                "a read during overwriting never mixes two versions":
                    "WsgiDAV removes what is at the destination of a MOVE before it moves something there",
            ]),
        // Says that it keeps properties, and does not.
        WebDAVServer(
            name: "rclone",
            lacks: [.attributes, .extendedAttributes, .attributesInListing, .specialFiles, .changeTimes, .spaceUsage],
            deviations: [
                "two spellings of one character are two names":
                    "rclone serve takes the composed and the decomposed form of a character for one"
            ]),
    ]

    static let webdavFeatures: StoreCapabilities.Features = [
        .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .directoryMove,
        .attributes,
        .extendedAttributes, .attributesInListing, .specialFiles, .changeTimes, .realDirectories, .spaceUsage,
        .caseSensitive,
        .consistentListing, .emptyDirectories,
    ]

    /// A folder of its own on the server.
    static func webdav(_ server: WebDAVServer) -> StoreFixture? {
        guard let settings = server.settings else { return nil }
        let (name, features) = ("webdav on \(server.name)", webdavFeatures.subtracting(server.lacks))
        return StoreFixture(name, features: features, deviations: server.deviations) {
            let folder = "fixture-\(UInt64.random(in: 0...UInt64.max))"
            let root = try StoreDescriptor.webdav.make(StoreSettings(settings), Statistics())
            defer { root.shutdown() }
            try root.createDirectory(at: StorePath(folder)!, Attributes())
            let own = settings.merging(["url": settings["url"]! + "/" + folder]) { $1 }
            return (try StoreDescriptor.webdav.make(try StoreDescriptor.webdav.settings(from: own), Statistics()), {})
        }
    }
}

/// A server with OpenStack Swift's protocol that the project's test runner may have started.
struct OpenStackSwiftServer {
    let name: String
    /// What is lacking of ``StoreFixture/openStackSwiftFeatures``.
    var lacks: StoreCapabilities.Features = []
    /// Set by the test runner to "auth_url user password container".
    var variable: String { "CLOUDFUSION_TEST_SWIFT_\(name.uppercased())" }
}

extension StoreFixture {
    static let openStackSwiftServers = [
        OpenStackSwiftServer(name: "swift"),
        // Takes no notice of a copy's Range and If-Match.
        OpenStackSwiftServer(name: "radosgw", lacks: .rangeCopy),
    ]

    static let openStackSwiftFeatures: StoreCapabilities.Features = [
        .rangedRead, .serverSideCopy, .rangeCopy, .attributes, .extendedAttributes, .specialFiles, .caseSensitive,
        .resumableUpload, .consistentListing, .emptyDirectories, .changeTimes, .spaceUsage,
    ]

    /// - Returns: nil when the server was not started.
    static func openStackSwift(_ server: OpenStackSwiftServer) -> StoreFixture? {
        guard let value = getenv(server.variable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 4 else { return nil }
        let features = openStackSwiftFeatures.subtracting(server.lacks)
        return StoreFixture("swift on \(server.name)", features: features, sharesStore: true) {
            let settings = try StoreDescriptor.openStackSwift.settings(from: [
                "auth_url": words[0], "user": words[1], "password": words[2], "container": words[3],
                "prefix": "fixture-\(UInt64.random(in: 0...UInt64.max))",
            ])
            return (try StoreDescriptor.openStackSwift.make(settings, Statistics()), {})
        }
    }
}

/// A server with Google Cloud Storage's API that the project's test runner may have started.
struct GoogleServer {
    let name: String
    /// What is lacking of ``StoreFixture/googleFeatures``.
    var lacks: StoreCapabilities.Features = []
    var deviations: [String: String] = [:]
    /// Set by the test runner to "endpoint bucket credentials_file", with "-" where nobody needs any.
    var variable: String { "CLOUDFUSION_TEST_GS_\(name.uppercased())" }
}

extension StoreFixture {
    // gcp-storage-emulator takes one connection after the other, and drops those with odd names. What it is tried with is in
    // `GoogleStorageServerTests`.
    static let googleServers = [GoogleServer(name: "stub")]

    static let googleFeatures: StoreCapabilities.Features = [
        .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .attributes,
        .extendedAttributes, .attributesInListing, .specialFiles, .caseSensitive, .resumableUpload, .consistentListing,
        .emptyDirectories, .changeTimes,
    ]

    /// - Returns: nil when the server was not started.
    static func google(_ server: GoogleServer) -> StoreFixture? {
        guard let value = getenv(server.variable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 3 else { return nil }
        let features = googleFeatures.subtracting(server.lacks)
        return StoreFixture(
            "gs on \(server.name)", features: features, deviations: server.deviations, sharesStore: true
        ) {
            let login = words[2] == "-" ? ["anonymous": "yes"] : ["credentials_file": words[2]]
            let settings = try StoreDescriptor.googleStorage.settings(
                from: [
                    "endpoint": words[0], "bucket_name": words[1],
                    "prefix": "fixture-\(UInt64.random(in: 0...UInt64.max))",
                ].merging(login) { $1 })
            return (try StoreDescriptor.googleStorage.make(settings, Statistics()), {})
        }
    }
}

/// A server with index pages that the project's test runner may have started.
struct HTTPServer {
    let name: String
    /// What is lacking of ``StoreFixture/httpFeatures``.
    var lacks: StoreCapabilities.Features = []
    var deviations: [String: String] = [:]
    /// Set by the test runner to "url user password folder".
    var variable: String { "CLOUDFUSION_TEST_HTTP_\(name.uppercased())" }
}

extension StoreFixture {
    private static let hidesDots = "nginx shows no names that begin with a dot"
    private static let spellsAnew = "Python's http.server spells bytes that are no UTF-8 in another way"

    static let httpServers = [
        HTTPServer(
            name: "nginx",
            deviations: [
                "a name with a leading dot is kept": hidesDots, "a name with three dots is kept": hidesDots,
            ]),
        HTTPServer(name: "httpd"),
        HTTPServer(
            name: "python", lacks: .rangedRead,
            deviations: [
                "a name with invalid UTF-8 is kept": spellsAnew, "a name with a surrogate in UTF-8 is kept": spellsAnew,
            ]),
    ]

    static let httpFeatures: StoreCapabilities.Features = [
        .rangedRead, .realDirectories, .emptyDirectories, .caseSensitive, .consistentListing,
    ]

    /// A folder of its own among those that the server shows, filled from behind.
    static func http(_ server: HTTPServer) -> StoreFixture? {
        guard let value = getenv(server.variable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 4 else { return nil }
        let features = httpFeatures.subtracting(server.lacks)
        return StoreFixture("http on \(server.name)", features: features, deviations: server.deviations) {
            let folder = try TemporaryDirectory(in: words[3])
            chmod(folder.path, 0o755)
            // With it the server is tried.
            folder.write(Array("abc".utf8), to: "file")
            let name = folder.path.split(separator: "/").last!
            let settings = try StoreDescriptor.http.settings(from: [
                "url": "\(words[0])/\(name)/", "user": words[1], "password": words[2],
            ])
            let store = try StoreDescriptor.http.make(settings, Statistics())
            return (FilledStore(store, from: LocalStore(path: folder.path)), { folder.remove() })
        }
    }
}

extension StoreFixture {
    /// Set by the test runner to "host port user key_file known_hosts folder" and more.
    static let sftpVariable = "CLOUDFUSION_TEST_SFTP_OPENSSH"

    /// nil when the server was not started.
    static let sftp: StoreFixture? = {
        guard let value = getenv(sftpVariable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 10 else { return nil }
        let features: StoreCapabilities.Features = [
            .rangedRead, .conditionalCreate, .serverSideCopy, .rangeCopy, .atomicMove, .directoryMove, .attributes,
            .attributesInListing, .realDirectories, .spaceUsage, .caseSensitive, .consistentListing, .emptyDirectories,
            .wholeSeconds,
        ]
        return StoreFixture("sftp on openssh", features: features) {
            let directory = try TemporaryDirectory(in: words[5])
            let settings = try StoreDescriptor.sftp.settings(from: [
                "host": words[0], "port": words[1], "user": words[2], "key_file": words[3], "known_hosts": words[4],
                "path": directory.path,
            ])
            return (try SFTPStore(settings, statistics: Statistics(), pageSize: 100), { directory.remove() })
        }
    }()
}

/// An account of Azure, or of the emulator of one that the project's test runner may have started.
struct AzureAccount {
    let name: String
    /// What it has besides ``StoreFixture/azureFeatures``.
    var more: StoreCapabilities.Features = []
    /// Set by the test runner to "endpoint dfs_endpoint account key container" and more.
    var variable: String { "CLOUDFUSION_TEST_AZURE_\(name.uppercased())" }

    /// - Returns: nil when there is none.
    var settings: [String: String]? {
        guard let value = getenv(variable) else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count >= 5 else { return nil }
        return [
            "endpoint": words[0], "dfs_endpoint": words[1], "account": words[2], "account_key": words[3],
            "container": words[4],
        ]
    }
}

extension StoreFixture {
    static let azureAccounts = [
        AzureAccount(name: "flat"),
        AzureAccount(name: "hierarchical", more: [.realDirectories, .atomicMove, .directoryMove]),
    ]

    static let azureFeatures: StoreCapabilities.Features = [
        .rangedRead, .conditionalCreate, .conditionalReplace, .conditionalDelete, .serverSideCopy, .rangeCopy,
        .attributes, .extendedAttributes, .specialFiles, .caseSensitive, .resumableUpload, .consistentListing,
        .emptyDirectories, .changeTimes,
    ]

    /// A prefix of its own in the container.
    static func azure(_ account: AzureAccount) -> StoreFixture? {
        guard let settings = account.settings else { return nil }
        let features = azureFeatures.union(account.more)
        return StoreFixture("azure, \(account.name)", features: features, sharesStore: true) {
            let own = settings.merging(["prefix": "fixture-\(UInt64.random(in: 0...UInt64.max))"]) { $1 }
            return (try StoreDescriptor.azure.make(try StoreDescriptor.azure.settings(from: own), Statistics()), {})
        }
    }
}
