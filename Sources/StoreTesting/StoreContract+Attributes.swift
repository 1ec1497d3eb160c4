import StoreAPI
import Threading

extension StoreContract {
    /// Attributes that no store could make up.
    static let sample = Attributes(
        mode: 0o640, uid: 1234, gid: 5678, modified: Timestamp(seconds: 1_234_567_890, nanoseconds: 123_456_789))

    static let attributes: [StoreClause] = [
        StoreClause("attributes come back as they were put", requires: .attributes) { store, scratch in
            let path = scratch / "object"
            let written = try store.write([1, 2, 3], at: path, PutOptions(attributes: sample))
            try store.requireSame(store.metadata(of: path).attributes, sample, "the metadata")
            if let answered = written.attributes { try store.requireSame(answered, sample, "put's answer") }
            let read = try store.read(path, ReadRequest(), into: MemorySink())
            if let answered = read.attributes { try store.requireSame(answered, sample, "read's answer") }
        },
        StoreClause("odd modes and old times are kept", requires: .attributes) { store, scratch in
            for (mode, time) in [
                (0o7777, Timestamp(seconds: 1)), (0o4755, Timestamp(seconds: 0)),
                (0o1000, Timestamp(seconds: -86_400, nanoseconds: 1)), (0, Timestamp(seconds: 4_102_444_800)),
            ] as [(UInt32, Timestamp)] {
                let attributes = Attributes(mode: mode, modified: time)
                try store.write([1], at: scratch / "object", PutOptions(attributes: attributes))
                try store.requireSame(store.metadata(of: scratch / "object").attributes, attributes, "the object")
            }
        },
        StoreClause("a large object has attributes too", requires: .attributes, exclude: unlessParts) {
            store, scratch in
            let size = Int(store.capabilities.multipartThreshold!) + 1
            let file = try TemporaryFile(pattern(size))
            _ = try store.put(
                UploadBody(descriptor: file.descriptor, length: Int64(size)), at: scratch / "object",
                PutOptions(attributes: sample))
            try store.requireSame(store.metadata(of: scratch / "object").attributes, sample, "the object")
        },
        StoreClause("a listing tells the attributes", requires: [.attributes, .attributesInListing]) {
            store, scratch in
            try store.write([1], at: scratch / "object", PutOptions(attributes: sample))
            for entry in try store.entries(of: scratch) {
                try store.requireSame(entry.metadata.attributes, sample, "the listing")
            }
        },
        StoreClause("a directory has attributes", requires: [.attributes, .realDirectories]) { store, scratch in
            let path = scratch / "directory"
            try store.createDirectory(at: path, Attributes(mode: 0o751, uid: 12, gid: 34))
            try store.requireSame(
                store.metadata(of: path).attributes, Attributes(mode: 0o751, uid: 12, gid: 34), "the directory")
            try store.createDirectory(at: path, Attributes(mode: 0o700))
            try store.requireSame(
                store.metadata(of: path).attributes, Attributes(mode: 0o700, uid: 12, gid: 34),
                "the directory that was there")
        },
        StoreClause("changing attributes leaves the bytes and the other attributes", requires: .attributes) {
            store, scratch in
            let path = scratch / "object"
            let bytes = pattern(10_000)
            try store.write(bytes, at: path, PutOptions(attributes: sample))
            let changed = try store.setAttributes(Attributes(mode: 0o600), at: path, ifVersion: nil)
            var expected = sample
            expected.mode = 0o600
            try store.requireSame(store.metadata(of: path).attributes, expected, "the object with a new mode")
            try requireEqual(store.metadata(of: path).version, changed.version, "the version")
            try requireEqual(store.contents(of: path), bytes, "the bytes")
            expected.modified = Timestamp(seconds: 99, nanoseconds: 5)
            let again = try store.setAttributes(
                Attributes(modified: expected.modified), at: path, ifVersion: changed.version)
            try store.requireSame(store.metadata(of: path).attributes, expected, "the object with a new time")
            try requireEqual(store.metadata(of: path).version, again.version, "the version after the new time")
            try requireEqual(store.contents(of: path, version: again.version), bytes, "the bytes after the new time")
        },
        StoreClause("attributes are changed only of the version that is meant", requires: .attributes) {
            store, scratch in
            let path = scratch / "object"
            let old = try version(store.write([1], at: path, PutOptions(attributes: sample)))
            // Of another length: some stores tell versions by time and length.
            try store.write([2, 2], at: path, PutOptions(attributes: sample))
            try requireError(.preconditionFailed, from: "changing attributes of a version that is gone") {
                _ = try store.setAttributes(Attributes(mode: 0o600), at: path, ifVersion: old)
            }
            try store.requireSame(store.metadata(of: path).attributes, sample, "the object afterwards")
            try requireError(.notFound, from: "changing attributes of nothing") {
                _ = try store.setAttributes(Attributes(mode: 0o600), at: scratch / "nothing", ifVersion: nil)
            }
        },
        StoreClause("the attributes of a directory are changed", requires: [.attributes, .realDirectories]) {
            store, scratch in
            let path = scratch / "directory"
            try store.createDirectory(at: path, Attributes(mode: 0o755))
            try store.write([1], at: path / "object")
            let time = Timestamp(seconds: 1_000_000, nanoseconds: 1)
            _ = try store.setAttributes(Attributes(mode: 0o711, modified: time), at: path, ifVersion: nil)
            try store.requireSame(
                store.metadata(of: path).attributes, Attributes(mode: 0o711, modified: time), "the directory")
            try requireEqual(store.names(in: path), ["object"], "its listing")
        },
        StoreClause("the time of the last change comes back", requires: [.attributes, .changeTimes]) { store, scratch in
            let path = scratch / "object"
            let time = Timestamp(seconds: 1_000_000, nanoseconds: 1)
            try store.write([1], at: path, PutOptions(attributes: Attributes(mode: 0o644, changed: time)))
            try requireEqual(store.metadata(of: path).attributes?.changed, time, "the time")
            let later = Timestamp(seconds: 2_000_000, nanoseconds: 999_999_999)
            _ = try store.setAttributes(Attributes(mode: 0o600, changed: later), at: path, ifVersion: nil)
            try requireEqual(store.metadata(of: path).attributes?.changed, later, "the time after a new mode")
        },
        StoreClause("extended attributes come back", requires: .extendedAttributes) { store, scratch in
            let path = scratch / "object"
            let extended: [String: [UInt8]] = [
                "user.colour": Array("grün".utf8), "user.empty": [], "user.binary": Array(0...255),
            ]
            try store.write([1], at: path, PutOptions(attributes: Attributes(mode: 0o644, extended: extended)))
            try requireEqual(store.metadata(of: path).attributes?.extended, extended, "the extended attributes")
            _ = try store.setAttributes(Attributes(mode: 0o600), at: path, ifVersion: nil)
            try requireEqual(
                store.metadata(of: path).attributes?.extended, extended, "the extended attributes after a new mode")
            let fewer: [String: [UInt8]] = ["user.colour": Array("red".utf8)]
            _ = try store.setAttributes(Attributes(extended: fewer), at: path, ifVersion: nil)
            try requireEqual(store.metadata(of: path).attributes?.extended, fewer, "the changed ones")
            try requireEqual(store.contents(of: path), [1], "the bytes")
        },
        StoreClause("an identity comes back, and is no extended attribute", requires: .extendedAttributes) {
            store, scratch in
            let path = scratch / "object"
            let identity = "0123456789abcdef0123456789abcdef-0123456789abcdef"
            let extended: [String: [UInt8]] = ["user.colour": Array("red".utf8)]
            try store.write([1], at: path, PutOptions(attributes: Attributes(mode: 0o644, extended: extended)))
            try requireEqual(store.metadata(of: path).attributes?.identity, nil, "that of an object without one")
            _ = try store.setAttributes(Attributes(identity: identity), at: path, ifVersion: nil)
            try requireEqual(store.metadata(of: path).attributes?.identity, identity, "the identity")
            _ = try store.setAttributes(Attributes(mode: 0o600, extended: [:]), at: path, ifVersion: nil)
            let found = try store.metadata(of: path).attributes
            try requireEqual(found?.identity, identity, "the identity after a new mode and without extended attributes")
            try requireEqual(found?.extended ?? [:], [:], "the extended attributes")
            let other = String(identity.reversed())
            _ = try store.setAttributes(Attributes(identity: other), at: path, ifVersion: nil)
            try requireEqual(store.metadata(of: path).attributes?.identity, other, "another identity")
            if store.capabilities.contains(.attributesInListing) {
                let listed = try store.list(scratch, after: nil).entries.first
                try requireEqual(listed?.metadata.attributes?.identity, other, "the identity in a listing")
            }
            try store.write([2], at: path, PutOptions(attributes: Attributes(mode: 0o600)))
            try requireEqual(store.metadata(of: path).attributes?.identity, nil, "that of what was written since")
            try store.write([3], at: path, PutOptions(attributes: Attributes(mode: 0o600, identity: identity)))
            try requireEqual(store.metadata(of: path).attributes?.identity, identity, "the identity that was put")
        },
        StoreClause("what an object says that it replaces comes back", requires: .extendedAttributes) {
            store, scratch in
            // A store that packs has its own use for it.
            guard !store.capabilities.contains(.formerVersions) else { return }
            let path = scratch / "object"
            try store.write([1], at: path, PutOptions(attributes: Attributes(mode: 0o644)))
            _ = try store.setAttributes(Attributes(replaces: "7-1"), at: path, ifVersion: nil)
            let identity = "0123456789abcdef0123456789abcdef-0123456789abcdef"
            _ = try store.setAttributes(
                Attributes(mode: 0o600, extended: [:], identity: identity), at: path, ifVersion: nil)
            let found = try store.metadata(of: path).attributes
            try requireEqual(found?.replaces, "7-1", "what it replaces, after other attributes were changed")
            try requireEqual(found?.identity, identity, "the identity beside it")
            try requireEqual(found?.extended ?? [:], [:], "the extended attributes")
            try store.write([2], at: path, PutOptions(attributes: Attributes(mode: 0o600)))
            try requireEqual(store.metadata(of: path).attributes?.replaces, nil, "that of what was written since")
            try store.write([3], at: path, PutOptions(attributes: Attributes(mode: 0o600, replaces: "8-1")))
            try requireEqual(store.metadata(of: path).attributes?.replaces, "8-1", "what was put with the bytes")
        },
        StoreClause("the first write after another keeps nothing of its attributes", requires: .attributes) {
            store, scratch in
            let path = scratch / "object"
            try store.write([1], at: path, PutOptions(attributes: sample))
            try store.write([2], at: path, PutOptions(attributes: Attributes(mode: 0o600)))
            let found = try store.metadata(of: path).attributes
            try requireEqual(found?.mode, 0o600, "the mode")
            try require(found?.modified != sample.modified, "the time of the object before is still there")
        },
        StoreClause("symbolic links are kept as they are", requires: .specialFiles) { store, scratch in
            for target in [
                "target", "../../outside", "/etc/passwd", "with space\n", String(repeating: "x", count: 1000),
            ] {
                let path = scratch / "link"
                let written = try store.write(
                    Array(target.utf8), at: path,
                    PutOptions(kind: .symbolicLink, attributes: Attributes(modified: sample.modified)))
                try requireEqual(written.kind, .symbolicLink, "the kind that put answered")
                let metadata = try store.metadata(of: path)
                try requireEqual(metadata.kind, .symbolicLink, "the kind")
                try requireEqual(metadata.size, Int64(target.utf8.count), "the size")
                try store.requireSame(metadata.attributes, Attributes(modified: sample.modified), "the link")
                try requireEqual(store.contents(of: path), Array(target.utf8), "the target")
                if store.capabilities.contains(.attributesInListing) {
                    try requireEqual(
                        store.entries(of: scratch).map(\.metadata.kind), [.symbolicLink], "the kinds listed")
                }
            }
            // And back to a file, which must not be written through the link.
            try store.write([1], at: scratch / "target")
            try store.write(Array("target".utf8), at: scratch / "link", PutOptions(kind: .symbolicLink))
            try store.write([2], at: scratch / "link")
            try requireEqual(store.contents(of: scratch / "target"), [1], "the target of the replaced link")
            try requireEqual(store.metadata(of: scratch / "link").kind, .file, "what replaced the link")
        },
        StoreClause("fifos and devices are kept as they are", requires: .specialFiles) { store, scratch in
            let path = scratch / "fifo"
            try store.write([], at: path, PutOptions(kind: .fifo, attributes: sample))
            try requireEqual(store.metadata(of: path).kind, .fifo, "the kind")
            try store.requireSame(store.metadata(of: path).attributes, sample, "the fifo")
            try requireEqual(store.contents(of: path), [], "the bytes of a fifo")
            if store.capabilities.contains(.attributesInListing) {
                try requireEqual(store.entries(of: scratch).map(\.metadata.kind), [.fifo], "the kinds listed")
            }
            try store.write([], at: path, PutOptions(kind: .socket, attributes: sample))
            try requireEqual(store.metadata(of: path).kind, .socket, "the kind of a socket")
        },
    ]
}

extension Store {
    /// Throws unless what is not nil in `expected` is found: times as this store can keep them.
    func requireSame(
        _ found: Attributes?, _ expected: Attributes, _ what: @autoclosure () -> String
    ) throws {
        guard let found else { throw ContractViolation("\(what()) has no attributes") }
        var expected = expected
        expected.modified = expected.modified.map(capabilities.times.kept)
        func compare<T: Equatable>(_ name: String, _ part: KeyPath<Attributes, T?>) throws {
            guard let value = expected[keyPath: part] else { return }
            try requireEqual(found[keyPath: part], value, "\(name) of \(what())")
        }
        try compare("mode", \.mode)
        try compare("uid", \.uid)
        try compare("gid", \.gid)
        try compare("modified", \.modified)
        try compare("device", \.device)
        try compare("extended", \.extended)
    }
}
