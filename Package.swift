// swift-tools-version: 6.1
import PackageDescription

// One target per room: `ls Sources` is the map (docs/architecture.md explains it).
// The build checks that a room imports nothing but what is listed here.

let settings: [SwiftSetting] = [
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("InternalImportsByDefault"),
]
/// For rooms that make system calls: the GNU names of Glibc (O_TMPFILE, SEEK_HOLE, fallocate …).
let systemCalls: [CSetting] = [.define("_GNU_SOURCE")]

func room(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .target(name: name, dependencies: dependencies, cSettings: systemCalls, swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .testTarget(
        name: name, dependencies: dependencies, exclude: exclude, cSettings: systemCalls, swiftSettings: settings)
}

let package = Package(
    name: "CloudFusion",
    products: [
        .executable(name: "cloudfusion", targets: ["cloudfusion"])
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
    ],
    targets: [
        .systemLibrary(name: "CFuse3", pkgConfig: "fuse3", providers: [.apt(["libfuse3-dev"])]),
        .systemLibrary(name: "CCurl", pkgConfig: "libcurl", providers: [.apt(["libcurl4-openssl-dev"])]),
        .systemLibrary(name: "COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CSQLite", pkgConfig: "sqlite3", providers: [.apt(["libsqlite3-dev"])]),
        .systemLibrary(name: "CExpat", pkgConfig: "expat", providers: [.apt(["libexpat1-dev"])]),
        .systemLibrary(name: "CArchive", pkgConfig: "libarchive", providers: [.apt(["libarchive-dev"])]),
        .systemLibrary(name: "CSSH2", pkgConfig: "libssh2", providers: [.apt(["libssh2-1-dev"])]),
        .target(name: "CShim", cSettings: systemCalls),
        .target(name: "CFuseInit", dependencies: ["CFuse3"], cSettings: systemCalls),

        room("Threading", []),
        room("Statistics", ["Threading"]),
        room("StoreAPI", ["Threading", "Statistics"]),
        room(
            "StoreHTTP",
            [
                "Threading", "StoreAPI", "Statistics", "CCurl", "COpenSSL", "CExpat",
                .product(name: "Logging", package: "swift-log"),
            ]),
        room("StoreSSH", ["Threading", "StoreAPI", "Statistics", "StoreHTTP", "CSSH2"]),
        room("Stores", ["Threading", "StoreAPI", "Statistics", "StoreHTTP", "StoreSSH", "CShim"]),
        room("SQLite", ["CSQLite"]),
        room("Catalog", ["Threading", "StoreAPI", "SQLite"]),
        room("Chunks", ["Threading", "StoreAPI", "StoreHTTP", "SQLite", "CArchive"]),
        room(
            "Caching",
            [
                "Threading", "StoreAPI", "Statistics", "Catalog", "CShim",
                .product(name: "Logging", package: "swift-log"),
            ]),
        room(
            "Synchronizer",
            [
                "Threading", "StoreAPI", "Statistics", "Catalog", "Caching",
                .product(name: "Logging", package: "swift-log"),
            ]),
        room(
            "VFS",
            [
                "Threading", "StoreAPI", "Statistics", "Catalog", "Caching", "Synchronizer",
                .product(name: "Logging", package: "swift-log"),
            ]),
        room(
            "FUSEAdapter",
            [
                "Threading", "StoreAPI", "Catalog", "VFS", "CFuse3", "CFuseInit", "CShim",
                .product(name: "Logging", package: "swift-log"),
            ]),
        room(
            "Mounting",
            [
                "Threading", "StoreAPI", "Statistics", "StoreHTTP", "Stores", "Chunks", "Copying", "Catalog", "Caching",
                "Synchronizer", "VFS", "FUSEAdapter", "CShim",
                .product(name: "Logging", package: "swift-log"),
            ]),
        .executableTarget(
            name: "cloudfusion",
            dependencies: [
                "Threading", "StoreAPI", "Chunks", "Copying", "Mounting",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ],
            cSettings: systemCalls, swiftSettings: settings),
        room("Copying", ["Threading", "StoreAPI"]),
        room("StoreTesting", ["Threading", "StoreAPI"]),
        // For the black-box tests; no part of the product.
        .executableTarget(
            name: "catalog-filler", dependencies: ["Catalog", "StoreAPI", "Threading"], path: "Tests/CatalogFiller",
            cSettings: systemCalls, swiftSettings: settings),

        tests("ThreadingTests", ["Threading"]),
        // Not resources: they are read where they lie, so that a new one needs no build.
        tests(
            "FuzzTests",
            ["Mounting", "Catalog", "Stores", "StoreHTTP", "StoreSSH", "StoreAPI", "Statistics", "Threading"],
            exclude: ["Corpus"]),
        tests("StatisticsTests", ["Statistics", "Threading"]),
        tests("StoreAPITests", ["StoreAPI", "StoreTesting", "Threading"]),
        tests("StoreHTTPTests", ["StoreHTTP", "StoreAPI", "Statistics", "Threading"]),
        tests("StoreSSHTests", ["StoreSSH", "StoreAPI", "StoreHTTP", "Statistics", "Threading"]),
        tests("SFTPTests", ["Stores", "StoreSSH", "StoreAPI", "StoreTesting", "Statistics", "Threading"]),
        tests("StoresTests", ["Stores", "StoreAPI", "StoreTesting", "Statistics", "Threading", "CShim"]),
        tests("S3Tests", ["Stores", "StoreHTTP", "StoreAPI", "StoreTesting", "Statistics", "Threading"]),
        tests("WebTests", ["Stores", "StoreHTTP", "StoreAPI", "StoreTesting", "Statistics", "Threading", "CShim"]),
        tests("CatalogTests", ["Catalog", "SQLite", "StoreAPI", "Threading"]),
        tests("CopyingTests", ["Copying", "Stores", "StoreAPI", "StoreTesting", "Threading"]),
        tests(
            "ChunksTests",
            ["Chunks", "SQLite", "CShim", "Stores", "StoreAPI", "StoreHTTP", "StoreTesting", "Statistics", "Threading"]),
        tests("CachingTests", ["Caching", "Catalog", "StoreAPI", "Statistics", "Threading"]),
        tests(
            "SynchronizerTests",
            [
                "Synchronizer", "Catalog", "Caching", "Stores", "StoreAPI", "StoreTesting", "Statistics", "Threading",
            ]),
        tests(
            "VFSTests",
            [
                "VFS", "Caching", "Catalog", "Statistics", "StoreAPI", "StoreTesting", "Stores", "Synchronizer",
                "Threading",
            ]),
        tests(
            "MountingTests",
            [
                "Mounting", "FUSEAdapter", "VFS", "Catalog", "Caching", "Synchronizer", "Stores", "StoreAPI",
                "StoreTesting", "Statistics", "Threading", "SQLite", .product(name: "Logging", package: "swift-log"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)
