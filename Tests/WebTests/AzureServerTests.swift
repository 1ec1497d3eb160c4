import Glibc
import Statistics
import StoreAPI
import StoreHTTP
import StoreTesting
import Testing
import Threading

@testable import Stores

/// An account of the emulator that the project's test runner has started; the contract is tried on it in `StoresTests`.
struct AzureTarget: Sendable, CustomTestStringConvertible {
    var name: String
    var endpoint: String
    var dataLake: String
    var account: String
    var key: String
    var container: String
    /// A container that anybody may read.
    var publicContainer: String
    var tenant: String
    var client: String
    var secret: String
    var testDescription: String { name }

    static let all: [AzureTarget] = ["flat", "hierarchical"].compactMap { name in
        guard let value = getenv("CLOUDFUSION_TEST_AZURE_\(name.uppercased())") else { return nil }
        let words = String(cString: value).split(separator: " ").map(String.init)
        guard words.count == 9 else { return nil }
        return AzureTarget(
            name: name, endpoint: words[0], dataLake: words[1], account: words[2], key: words[3], container: words[4],
            publicContainer: words[5], tenant: words[6], client: words[7], secret: words[8])
    }
    static var flat: [AzureTarget] { all.filter { $0.name == "flat" } }
    static var hierarchical: [AzureTarget] { all.filter { $0.name == "hierarchical" } }

    var isHierarchical: Bool { name == "hierarchical" }
    /// Scheme, host and port.
    var origin: String { String(endpoint.prefix(endpoint.count - account.count - 1)) }
    var place: [String: String] { ["endpoint": endpoint, "dfs_endpoint": dataLake, "container": container] }

    /// A store on a prefix of its own.
    func withStore<Result>(
        _ changes: [String: String] = [:], environment: [String: String] = [:], statistics: Statistics = Statistics(),
        _ body: (AzureStore) throws -> Result
    ) throws -> Result {
        let own = ["account_key": key, "prefix": "server-\(UInt64.random(in: 0...UInt64.max))"]
        let store = try AzureStore(
            StoreSettings(place.merging(own) { $1 }.merging(changes) { $1 }),
            environment: ProcessEnvironment(environment),
            statistics: statistics, transport: nil)
        defer { store.shutdown() }
        return try body(store)
    }

    /// A shared access signature for all of the account's blobs, made as the documentation says.
    func signature(permissions: String, until end: String = "2999-01-01T00:00:00Z") -> String {
        let version = AzureAuthentication.version
        let text = [account, permissions, "b", "sco", "", end, "", "", version, "", ""].joined(separator: "\n")
        let bytes = Digest.hmacSHA256(key: TextEncoding.bytes(base64: key)!, Array(text.utf8))
        return "sv=\(version)&ss=b&srt=sco&sp=\(permissions)&se=\(TextEncoding.percentEncode(end))"
            + "&sig=\(TextEncoding.percentEncode(TextEncoding.base64(bytes)))"
    }
}

@Suite("Azure against the project's own emulator")
struct AzureServerTests {
    private static let size = Int(AzureStore.multipartThreshold) + 5
    private let file = StorePath("folder/file")!

    private func call(_ method: String, _ store: AzureStore, _ path: StorePath) throws -> AzureCall {
        AzureCall(method, try store.key(path), .requestsPut, .storePut, action: "the test failed", path: path)
    }

    /// The error that connecting ends with; no secret is in it.
    private func error(_ target: AzureTarget, _ changes: [String: String], environment: [String: String] = [:]) throws
        -> StoreError?
    {
        do {
            return try target.withStore(changes, environment: environment) { store in
                // Nobody is to wait a minute for a server that is not there.
                store.tune(StoreTuning(overallTimeout: .seconds(3)))
                do throws(StoreError) { try store.connect() } catch { return error }
                return nil
            }
        } catch let error as StoreError { return error }
    }

    @Test("trial blobs are gone afterwards", arguments: AzureTarget.all)
    func probeLeavesNothing(target: AzureTarget) throws {
        try target.withStore { store in
            try store.connect()
            #expect(try store.names(in: StorePath(".cloudfusion")!) == [])
            #expect(store.isHierarchical == target.isHierarchical)
            #expect(try store.accountInformation().contains(AccountField("namespace", target.name)))
        }
    }

    // MARK: Credentials

    @Test("a shared access signature lets in, also for copies and moves", arguments: AzureTarget.all)
    func sharedAccessSignature(target: AzureTarget) throws {
        let token = "?" + target.signature(permissions: "rwdlcmx")
        try target.withStore(["account_key": "", "sas_token": token]) { store in
            try store.connect()
            #expect(store.capabilities.contains([.serverSideCopy, .rangeCopy, .conditionalDelete]))
            #expect(store.capabilities.contains(.directoryMove) == target.isHierarchical)
            try useAll(store)
        }
        let text =
            "BlobEndpoint=\(target.endpoint);AccountName=\(target.account);SharedAccessSignature="
            + target.signature(permissions: "rwdlcmx")
        try target.withStore(["account_key": "", "endpoint": "", "connection_string": text]) { store in
            try store.connect()
            try useAll(store)
        }
    }

    @Test("a signature for reading is enough to read", arguments: AzureTarget.all)
    func readingSignature(target: AzureTarget) throws {
        try target.withStore { store in
            try store.connect()
            try store.write([1, 2, 3], at: file)
            let prefix = String(decoding: store.configuration.prefix, as: UTF8.self)
            let token = target.signature(permissions: "rl")
            try target.withStore(["account_key": "", "sas_token": token, "prefix": prefix]) { reader in
                try reader.connect()
                #expect(reader.capabilities.contains(.rangedRead) && !reader.capabilities.contains(.conditionalCreate))
                #expect(try reader.contents(of: file) == [1, 2, 3])
                let error = #expect(throws: StoreError.self) { try reader.write([1], at: file) }
                #expect(error?.code == .accessDenied && error?.message.contains("does not permit") == true)
            }
        }
    }

    @Test("a client secret, a managed identity and the environment let in", arguments: AzureTarget.all)
    func tokens(target: AzureTarget) throws {
        let application = [
            "account_key": "", "authority": target.origin, "tenant_id": target.tenant, "client_id": target.client,
            "client_secret": target.secret,
        ]
        try target.withStore(application) { store in
            try store.connect()
            #expect(store.capabilities.contains([.serverSideCopy, .rangeCopy]))
            try useAll(store)
        }
        let nothing = ["account_key": ""]
        let machine = ["AZURE_POD_IDENTITY_AUTHORITY_HOST": target.origin]
        try target.withStore(nothing.merging(["managed_identity": "yes"]) { $1 }, environment: machine) { store in
            try store.connect()
            try useAll(store)
        }
        let text = "AccountName=\(target.account);AccountKey=\(target.key);BlobEndpoint=\(target.endpoint)"
        let places = ["endpoint": "", "account_key": ""]
        for (settings, environment) in [
            (places, ["AZURE_STORAGE_CONNECTION_STRING": text]), (nothing, ["AZURE_STORAGE_KEY": target.key]),
            (nothing, ["AZURE_STORAGE_SAS_TOKEN": target.signature(permissions: "rwdlcmx")]),
            (
                nothing,
                [
                    "AZURE_AUTHORITY_HOST": target.origin, "AZURE_TENANT_ID": target.tenant,
                    "AZURE_CLIENT_ID": target.client, "AZURE_CLIENT_SECRET": target.secret,
                ]
            ),
        ] {
            try target.withStore(settings, environment: environment) { try $0.connect() }
        }
    }

    @Test("a public container is read without credentials", arguments: AzureTarget.all)
    func anonymous(target: AzureTarget) throws {
        try target.withStore(["container": target.publicContainer]) { writer in
            try writer.connect()
            try writer.write([7], at: file)
            let prefix = String(decoding: writer.configuration.prefix, as: UTF8.self)
            let settings = [
                "container": target.publicContainer, "account_key": "", "anonymous": "yes", "prefix": prefix,
            ]
            try target.withStore(settings) { reader in
                try reader.connect()
                #expect(try reader.contents(of: file) == [7])
                #expect(throws: StoreError.self) { try reader.write([1], at: file) }
            }
            try writer.deleteTree(StorePath("folder")!)
        }
    }

    @Test("what is wrong is told in one sentence, without a secret", arguments: AzureTarget.all)
    func wrongSettings(target: AzureTarget) throws {
        let wrongKey = TextEncoding.base64(Array("not the key".utf8))
        let ended = target.signature(permissions: "rwdl", until: "2020-01-01T00:00:00Z")
        let application = [
            "account_key": "", "authority": target.origin, "tenant_id": target.tenant, "client_id": target.client,
        ]
        func with(_ more: [String: String]) -> [String: String] { application.merging(more) { $1 } }
        for (changes, code, words) in [
            (["account_key": wrongKey], .authenticationFailed, "check account and account_key"),
            (["account_key": "not Base64!"], .invalidArgument, "must be in Base64"),
            (["account_key": "", "sas_token": ended], .authenticationFailed, "check sas_token"),
            (["account_key": "", "sas_token": "sv=1"], .invalidArgument, "sig="),
            (
                with(["client_secret": "not-the-secret"]), .authenticationFailed,
                "check tenant_id, client_id and client_"
            ),
            (
                with(["client_secret": target.secret, "tenant_id": "other"]), .authenticationFailed, "check tenant_id"
            ),
            (["account_key": "", "anonymous": "yes"], .authenticationFailed, "not public"),
            (["account_key": ""], .authenticationFailed, "no credentials were found"),
            (["sas_token": ended], .invalidArgument, "which of them is meant"),
            (["container": "there-is-none"], .storeNotFound, "there is no container 'there-is-none'"),
            (["container": "No_Name"], .invalidArgument, "no possible name"),
            (["endpoint": "http://127.0.0.1:1/\(target.account)"], .unavailable, "127.0.0.1:1"),
        ] + (target.isHierarchical ? [(["dfs_endpoint": ""], .invalidArgument, "set dfs_endpoint")] : [])
            as [([String: String], StoreError.Code, String)]
        {
            let error = try #require(try error(target, changes))
            #expect(error.code == code && error.message.contains(words), "\(changes.keys): \(error.message)")
            let said = error.message + (error.cause ?? "")
            for secret in [target.key, target.secret, "not-the-secret", wrongKey, "sig%3D", ended] {
                #expect(!said.contains(secret), "a secret is in \(said)")
            }
            #expect(!said.contains("string to sign") && !said.contains("AADSTS"))
        }
    }

    // MARK: Blobs

    /// Something of everything that needs credentials in another form.
    private func useAll(_ store: AzureStore) throws {
        let root = StorePath("all-\(UInt64.random(in: 0...UInt64.max))")!
        let bytes = pattern(Self.size)
        let source = try store.write(bytes, at: root / "large", PutOptions(attributes: Attributes(mode: 0o640)))
        _ = try store.copy(root / "large", to: root / "copy", CopyOptions())
        #expect(try store.contents(of: root / "copy") == bytes)
        let body = UploadBody([
            .stored(path: root / "large", version: source.version, range: 0..<Int64(Self.size)), .bytes([1, 2]),
        ])
        _ = try store.put(body, at: root / "longer", PutOptions())
        #expect(try store.contents(of: root / "longer") == bytes + [1, 2])
        if store.isHierarchical {
            try store.createDirectory(at: root / "ü b", Attributes(mode: 0o700))
            try store.move(root / "large", to: root / "ü b" / "moved")
            #expect(try store.metadata(of: root / "ü b").attributes?.mode == 0o700)
            #expect(try store.metadata(of: root / "ü b" / "moved").version == source.version)
        }
        try store.deleteTree(root)
    }

    @Test("a listing tells the attributes of files, and its pages may be short or empty", arguments: AzureTarget.all)
    func listing(target: AzureTarget) throws {
        try target.withStore { store in
            try store.connect()
            let attributes = Attributes(mode: 0o4711, uid: 5, modified: Timestamp(seconds: 9, nanoseconds: 8))
            for number in 0..<40 {
                try store.write([1], at: file.parent! / "\(number)", PutOptions(attributes: attributes))
            }
            let entries = try store.entries(of: file.parent!)
            #expect(entries.count == 40 && entries.allSatisfy { $0.metadata.attributes == attributes })
            #expect(entries.allSatisfy { $0.metadata.md5 == Digest.md5([1]) })
            // The emulator answers one at a time when two are asked for, and empty pages when there are more.
            var listing = try store.listKeys(
                prefix: try store.key(file.parent!, asDirectory: true), delimiter: false, maximum: 10, after: nil, file)
            var keys = listing.objects.map(\.key)
            var pages = 1
            while let next = listing.next {
                listing = try store.listKeys(
                    prefix: try store.key(file.parent!, asDirectory: true), delimiter: false, maximum: 10, after: next,
                    file)
                keys += listing.objects.map(\.key)
                pages += 1
            }
            #expect(Set(keys).count == keys.count && keys.count == 40 && pages >= 4)
            try store.deleteTree(file.parent!)
        }
    }

    @Test("what others have said of a blob stays when its mode changes, and in a copy", arguments: AzureTarget.all)
    func othersMetadata(target: AzureTarget) throws {
        try target.withStore { store in
            try store.connect()
            var call = try call("PUT", store, file)
            call.headers = [
                ("x-ms-blob-type", "BlockBlob"), ("x-ms-blob-content-type", "text/x-strange"),
                ("x-ms-blob-cache-control", "no-cache"), ("x-ms-meta-Colour_of_it", "green"), ("x-ms-meta-a1", "b"),
                ("x-ms-meta-a_b", "c"), ("x-ms-meta-mtime", "2001-02-03T04:05:06.5Z"),
            ]
            call.body = UploadBody([1, 2, 3])
            _ = try store.send(call)
            // As rclone writes it.
            #expect(
                try store.metadata(of: file).attributes?.modified
                    == Timestamp(iso8601: "2001-02-03T04:05:06.500000000Z"))
            _ = try store.setAttributes(Attributes(mode: 0o600), at: file, ifVersion: nil)
            let copy = StorePath("copy")!
            _ = try store.copy(file, to: copy, CopyOptions(attributes: Attributes(mode: 0o640)))
            for path in [file, copy] {
                let found = try #require(try store.head(try store.key(path), path))
                #expect(found["x-ms-meta-colour_of_it"] == "green" && found["x-ms-meta-a1"] == "b")
                #expect(found["Content-Type"] == "text/x-strange" && found["Cache-Control"] == "no-cache")
            }
            #expect(try store.metadata(of: copy).attributes?.mode == 0o640)
        }
    }

    @Test("extended attributes up to the limit of the metadata are kept, more are not", arguments: AzureTarget.all)
    func extendedAttributes(target: AzureTarget) throws {
        try target.withStore { store in
            try store.connect()
            for (size, isKept) in [(5_000, true), (9_000, false)] {
                let attributes = Attributes(mode: 0o600, extended: ["user.a": pattern(size)])
                let written = try store.write([1], at: file, PutOptions(attributes: attributes))
                #expect((written.attributes?.extended != nil) == isKept)
                let found = try store.metadata(of: file).attributes
                #expect(found?.mode == 0o600 && (found?.extended == attributes.extended) == isKept)
            }
        }
    }

    @Test("a blob with snapshots is deleted with them")
    func snapshots() throws {
        for target in AzureTarget.flat {
            try target.withStore { store in
                try store.connect()
                try store.write([1], at: file)
                let key = String(decoding: try store.key(file), as: UTF8.self)
                try trouble(
                    target, "snapshot=" + TextEncoding.percentEncode("\(target.account)/\(target.container)/\(key)"))
                try store.delete(file)
                #expect(try !store.exists(file))
            }
        }
    }

    @Test("a directory that Hadoop has marked is one, and can be filled and removed")
    func hadoopMarkers() throws {
        for target in AzureTarget.flat {
            try target.withStore { store in
                try store.connect()
                let directory = StorePath("marked")!
                var call = try call("PUT", store, directory)
                call.headers = [("x-ms-blob-type", "BlockBlob"), ("x-ms-meta-hdi_isfolder", "true")]
                call.body = UploadBody([UInt8]())
                _ = try store.send(call)
                #expect(try store.entries(of: .root).map(\.metadata.kind) == [.directory])
                #expect(try store.metadata(of: directory).kind == .directory)
                let error = #expect(throws: StoreError.self) { try store.contents(of: directory) }
                #expect(error?.code == .isADirectory)
                try store.createDirectory(at: directory, Attributes(mode: 0o700))
                try store.write([1], at: directory / "file")
                #expect(try store.names(in: .root) == ["marked"])
                try store.deleteTree(directory)
                try store.delete(directory)
                #expect(try store.names(in: .root) == [] && !store.exists(directory))
            }
        }
    }

    @Test(
        "blocks of others are in nobody's way, and an upload that another one ended begins anew",
        arguments: AzureTarget.all)
    func foreignBlocks(target: AzureTarget) throws {
        try target.withStore { store in
            try store.connect()
            var call = try call("PUT", store, file)
            call.query = [("comp", "block"), ("blockid", "YWJj")]
            call.body = UploadBody([1, 2, 3])
            _ = try store.send(call)
            let bytes = pattern(Self.size)
            try store.write(bytes, at: file)
            #expect(try store.contents(of: file) == bytes)
            // When all blocks are there, and before they are committed, somebody else writes the same file.
            let sent = Lock<(bytes: Int64, isOverwritten: Bool)>((0, false))
            let error = #expect(throws: StoreError.self) {
                try store.write(
                    bytes, at: file,
                    PutOptions(
                        isWanted: {
                            let isTime = sent.withLock { sent in
                                guard sent.bytes == Int64(Self.size), !sent.isOverwritten else { return false }
                                sent.isOverwritten = true
                                return true
                            }
                            if isTime { _ = try? target.overwrite(store.configuration.prefix) }
                            return true
                        }, progress: { amount in sent.withLock { $0.bytes += amount } }))
            }
            #expect(error?.code == .unavailable && error?.message.contains("begins anew") == true)
            #expect(try store.contents(of: file) == [9])
        }
    }

    // MARK: Trouble

    private func trouble(_ target: AzureTarget, _ form: String) throws {
        let client = HTTPClient(statistics: Statistics())
        defer { client.shutdown() }
        _ = try client.send(
            HTTPRequest(
                "POST", target.origin + "/rig/faults", body: UploadBody(Array(form.utf8)), counter: .requestsOther,
                operation: .storeOther))
    }

    @Test(
        "requests that a busy server refuses, and those whose answers are lost, are made again",
        arguments: AzureTarget.all)
    func busy(target: AzureTarget) throws {
        let statistics = Statistics()
        try target.withStore(statistics: statistics) { store in
            try store.connect()
            let prefix = String(decoding: store.configuration.prefix, as: UTF8.self)
            func troubled<Result>(_ fault: String, _ body: () throws -> Result) throws -> Result {
                try trouble(target, "below=\(TextEncoding.percentEncode(prefix))&\(fault)")
                return try body()
            }
            try troubled("busy=3") { _ = try store.write([1], at: file) }
            #expect(statistics.snapshot()[.requestsThrottled] == 3)
            let first = try store.metadata(of: file).version
            let second = try troubled("lost=1") {
                try store.write([2], at: file, PutOptions(condition: .ifVersion(first!)))
            }
            #expect(try store.contents(of: file, version: second.version) == [2])
            let other = StorePath("folder/other")!
            let created = try troubled("lost=1") {
                try store.write(pattern(Self.size), at: other, PutOptions(condition: .ifAbsent))
            }
            #expect(try store.metadata(of: other).version == created.version)
            _ = try troubled("lost=1") {
                try store.setAttributes(Attributes(mode: 0o600), at: file, ifVersion: second.version)
            }
            #expect(try store.metadata(of: file).attributes?.mode == 0o600)
            if target.isHierarchical {
                let moved = StorePath("folder/moved")!
                try troubled("lost=1") { try store.move(other, to: moved) }
                #expect(try store.metadata(of: moved).version == created.version && !store.exists(other))
                try store.move(moved, to: other)
            }
            let last = try store.metadata(of: other).version
            #expect(
                try troubled("lost=1") { store.delete([Deletion(other, ifVersion: last)]).map { $0?.code } } == [nil])
            #expect(try store.names(in: file.parent!) == ["file"])
        }
    }

    @Test("a token that was revoked is replaced by a new one")
    func revoked() throws {
        for target in AzureTarget.flat {
            let application = [
                "account_key": "", "authority": target.origin, "tenant_id": target.tenant, "client_id": target.client,
                "client_secret": target.secret,
            ]
            try target.withStore(application) { store in
                try store.connect()
                try trouble(target, "revoke=1")
                try store.write([1], at: file)
                #expect(try store.contents(of: file) == [1])
            }
        }
    }
}

extension AzureTarget {
    /// Writes the test's file as another program would.
    fileprivate func overwrite(_ prefix: [UInt8]) throws {
        try withStore(["prefix": String(decoding: prefix, as: UTF8.self)]) { other in
            _ = try other.write([9], at: StorePath("folder/file")!)
        }
    }
}
