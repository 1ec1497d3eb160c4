package import StoreAPI
package import Threading

/// One member of a chunk, as its index tells it. A link and a whiteout have a path and, the former, a ``link``; what
/// a link's file is stands where it was packed.
package struct ChunkMember: Hashable, Sendable {
    /// The letters are those of the index.
    package enum Kind: UInt8, CaseIterable, Sendable {
        case file = 0x66  // f
        case link = 0x6c  // l
        case symbolicLink = 0x73  // s
        case directory = 0x64  // d
        case fifo = 0x70  // p
        case characterDevice = 0x63  // c
        case blockDevice = 0x62  // b
        case whiteout = 0x77  // w
    }

    package var path: StorePath
    package var kind: Kind
    /// Of a file: its bytes, and where they begin behind the start of the first member.
    package var size: Int64 = 0
    package var offset: Int64?
    /// Of a link: the name whose file this becomes.
    package var link: StorePath?
    /// Of a symbolic link.
    package var target: [UInt8]?
    package var attributes = Attributes()
    /// Of a file.
    package var md5: [UInt8]?
    /// Of all but directories, links and whiteouts.
    package var version: Version?
    /// The version of the plain object at this path that the member stands in for.
    package var replaces: Version?

    package init(_ kind: Kind, _ path: StorePath) {
        self.kind = kind
        self.path = path
    }

    /// The kind of what is there when the member was extracted; nil for links and whiteouts.
    package var fileKind: FileKind? {
        switch kind {
        case .file: .file
        case .symbolicLink: .symbolicLink
        case .directory: .directory
        case .fifo: .fifo
        case .characterDevice: .characterDevice
        case .blockDevice: .blockDevice
        case .link, .whiteout: nil
        }
    }
}

/// What stands at the head of a chunk: which one it is, and what is in it and where. docs/chunk-format.md has the
/// format; the parser takes bytes of any origin.
package struct ChunkIndex: Hashable, Sendable {
    package var volume: String
    package var sequence: Int64
    /// Tells a chunk of ours from another one with the same name.
    package var nonce: String
    package var created: Timestamp
    /// Chunks that nobody needs who has this one.
    package var supersedes: [Int64] = []
    package var members: [ChunkMember] = []

    package init(volume: String, sequence: Int64, nonce: String, created: Timestamp) {
        self.volume = volume
        self.sequence = sequence
        self.nonce = nonce
        self.created = created
    }
}

// MARK: - Writing

extension ChunkIndex {
    static let title = Array("cloudfusion-index 1\n".utf8)

    package var encoded: [UInt8] {
        var records = Records()
        records.bytes = Self.title
        records.add("volume", volume)
        records.add("sequence", String(sequence))
        records.add("nonce", nonce)
        records.add("created", created.record)
        for sequence in supersedes { records.add("supersedes", String(sequence)) }
        for member in members {
            records.bytes.append(0x0a)
            member.write(to: &records)
        }
        return records.bytes
    }
}

extension ChunkMember {
    fileprivate func write(to records: inout Records) {
        records.add("path", path.bytes)
        records.add("type", [kind.rawValue])
        if kind == .file { records.add("size", String(size)) }
        if let offset { records.add("data", String(offset)) }
        if let link { records.add("link", link.bytes) }
        if let target { records.add("target", target) }
        records.add(attributes)
        if let md5 { records.add("md5", hexadecimal(md5)) }
        if let version { records.add("version", version.text) }
        if let replaces { records.add("replaces", replaces.text) }
    }
}

/// Lines as in the extended headers of a pax archive: `LENGTH KEY=VALUE`, where the length counts the whole line with
/// its end, and the value is any bytes.
struct Records {
    var bytes: [UInt8] = []

    mutating func add(_ key: String, _ value: String) { add(key, Array(value.utf8)) }

    mutating func add(_ key: String, _ value: [UInt8]) {
        let rest = key.utf8.count + value.count + 3
        // The length counts its own digits.
        var length = rest + 1
        while rest + digits(of: length) > length { length += 1 }
        bytes += Array(String(length).utf8)
        bytes.append(0x20)
        bytes += Array(key.utf8)
        bytes.append(0x3d)
        bytes += value
        bytes.append(0x0a)
    }

    private func digits(of number: Int) -> Int {
        var (count, rest) = (1, number / 10)
        while rest > 0 { (count, rest) = (count + 1, rest / 10) }
        return count
    }

    mutating func add(_ attributes: Attributes) {
        if let mode = attributes.mode { add("mode", String(mode, radix: 8)) }
        if let uid = attributes.uid { add("uid", String(uid)) }
        if let gid = attributes.gid { add("gid", String(gid)) }
        if let time = attributes.modified { add("mtime", time.record) }
        if let time = attributes.accessed { add("atime", time.record) }
        if let time = attributes.changed { add("ctime", time.record) }
        if let device = attributes.device { add("rdev", String(device)) }
        if let identity = attributes.identity { add("identity", identity) }
        guard let extended = attributes.extended else { return }
        if extended.isEmpty { add("xattrs", "none") }
        for (name, value) in extended.sorted(by: { $0.key < $1.key }) { add("xattr." + Self.escaped(name), value) }
    }

    /// A key has no `=`.
    private static func escaped(_ name: String) -> String {
        String(
            decoding: name.utf8.flatMap { [0x25: "%25", 0x3d: "%3D"][$0].map { Array($0.utf8) } ?? [$0] }, as: UTF8.self
        )
    }
}

extension Timestamp {
    /// Seconds since 1970, rounded towards the past, a dot, and nine digits of nanoseconds after them.
    var record: String {
        let digits = String(subsecond)
        return "\(seconds).\(String(repeating: "0", count: 9 - digits.count))\(digits)"
    }
}

func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

// MARK: - Reading

extension ChunkIndex {
    /// - Throws: ``StoreError``: `.corrupted` for anything that no ``encoded`` gives.
    package init(parsing bytes: [UInt8]) throws(StoreError) {
        guard bytes.starts(with: Self.title) else {
            throw ChunkIndex.nonsense("it does not begin with 'cloudfusion-index 1'")
        }
        var reader = RecordReader(bytes[Self.title.count...])
        var (volume, sequence, nonce, created): (String?, Int64?, String?, Timestamp?)
        var supersedes: [Int64] = []
        while let record = try reader.next() {
            switch record.key {
            case "volume": volume = try record.text()
            case "sequence": sequence = try record.number(1...Int64.max)
            case "nonce": nonce = try record.text()
            case "created": created = try record.time()
            case "supersedes": supersedes.append(try record.number(1...Int64.max))
            default: break
            }
        }
        guard let volume, let sequence, let nonce, let created else {
            throw ChunkIndex.nonsense("volume, sequence, nonce or time of making is missing")
        }
        guard supersedes.allSatisfy({ $0 < sequence }) else {
            throw ChunkIndex.nonsense("it is said to supersede a later one")
        }
        self.init(volume: volume, sequence: sequence, nonce: nonce, created: created)
        self.supersedes = supersedes
        while !reader.isAtEnd {
            try reader.passSeparator()
            members.append(try ChunkMember(&reader))
        }
    }

    static func nonsense(_ what: String) -> StoreError {
        StoreError(.corrupted, "the index of a chunk makes no sense: \(what)")
    }
}

extension ChunkMember {
    fileprivate init(_ reader: inout RecordReader) throws(StoreError) {
        var (path, kind): (StorePath?, Kind?)
        var member = ChunkMember(.whiteout, .root)
        var size: Int64?
        while let record = try reader.next() {
            switch record.key {
            case "path": path = try record.path()
            case "type":
                guard record.value.count == 1, let known = Kind(rawValue: record.value.first!) else {
                    throw ChunkIndex.nonsense("a member is of the type '\(record.readableValue)'")
                }
                kind = known
            case "size": size = try record.number(0...Int64.max)
            case "data": member.offset = try record.number(0...Int64.max)
            case "link": member.link = try record.path()
            case "target": member.target = Array(record.value)
            case "md5":
                guard let digest = record.digest() else { throw ChunkIndex.nonsense("a digest is no MD5") }
                member.md5 = digest
            case "version": member.version = Version(try record.text())
            case "replaces": member.replaces = Version(try record.text())
            default: _ = try member.attributes.take(record)
            }
        }
        guard let path, let kind else { throw ChunkIndex.nonsense("a member has no path or type") }
        member.path = path
        member.kind = kind
        member.size = size ?? Int64(member.target?.count ?? 0)
        let isWhole =
            switch kind {
            case .file: size != nil && member.offset != nil && member.version != nil
            case .symbolicLink: member.target?.isEmpty == false && member.version != nil
            case .link: member.link != nil && member.link != path
            case .fifo, .characterDevice, .blockDevice: member.version != nil
            case .directory, .whiteout: true
            }
        guard isWhole else { throw ChunkIndex.nonsense("something is missing of '\(path)'") }
        self = member
    }
}

extension Attributes {
    /// - Returns: Whether the record is an attribute.
    mutating func take(_ record: Record) throws(StoreError) -> Bool {
        switch record.key {
        case "mode": mode = try record.octal(upTo: 0o7777)
        case "uid": uid = UInt32(try record.number(0...Int64(UInt32.max)))
        case "gid": gid = UInt32(try record.number(0...Int64(UInt32.max)))
        case "mtime": modified = try record.time()
        case "atime": accessed = try record.time()
        case "ctime": changed = try record.time()
        case "rdev": device = try record.unsigned()
        case "identity": identity = try record.text()
        case "xattrs": extended = extended ?? [:]
        default:
            guard record.key.hasPrefix("xattr."), record.key.utf8.count > 6 else { return false }
            extended = extended ?? [:]
            extended![Self.unescaped(record.key.utf8.dropFirst(6))] = Array(record.value)
        }
        return true
    }

    private static func unescaped(_ name: Substring.UTF8View) -> String {
        var bytes: [UInt8] = []
        var rest = Array(name)[...]
        while let byte = rest.popFirst() {
            if byte == 0x25, rest.starts(with: "25".utf8) || rest.starts(with: "3D".utf8) {
                bytes.append(rest.first == 0x32 ? 0x25 : 0x3d)
                rest = rest.dropFirst(2)
            } else {
                bytes.append(byte)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}

/// One line of an index.
struct Record {
    let key: String
    let value: ArraySlice<UInt8>

    var readableValue: String { String(decoding: value.prefix(80), as: UTF8.self) }

    func text() throws(StoreError) -> String {
        guard let text = String(validating: value, as: UTF8.self) else {
            throw ChunkIndex.nonsense("'\(key)' is no text")
        }
        return text
    }

    func number(_ range: ClosedRange<Int64>) throws(StoreError) -> Int64 {
        guard value.count <= 20, let number = Int64(try text()), range.contains(number) else {
            throw ChunkIndex.nonsense("'\(key)' is '\(readableValue)'")
        }
        return number
    }

    func unsigned() throws(StoreError) -> UInt64 {
        guard value.count <= 20, let number = UInt64(try text()) else {
            throw ChunkIndex.nonsense("'\(key)' is '\(readableValue)'")
        }
        return number
    }

    func octal(upTo highest: UInt32) throws(StoreError) -> UInt32 {
        guard value.count <= 11, let number = UInt32(try text(), radix: 8), number <= highest else {
            throw ChunkIndex.nonsense("'\(key)' is '\(readableValue)'")
        }
        return number
    }

    func time() throws(StoreError) -> Timestamp {
        let parts = value.split(separator: 0x2e, omittingEmptySubsequences: false)
        guard value.count <= 40, parts.count == 2, parts[1].count == 9,
            parts[1].allSatisfy({ (0x30...0x39).contains($0) }),
            let seconds = Int64(String(decoding: parts[0], as: UTF8.self)),
            let nanoseconds = Int64(String(decoding: parts[1], as: UTF8.self))
        else { throw ChunkIndex.nonsense("'\(key)' is '\(readableValue)'") }
        return Timestamp(seconds: seconds, nanoseconds: nanoseconds)
    }

    func path() throws(StoreError) -> StorePath {
        guard value.count <= 1 << 16, let path = StorePath(Array(value)), !path.isRoot, path.canBePacked else {
            throw ChunkIndex.nonsense("'\(readableValue)' is no path for a member")
        }
        return path
    }

    func digest() -> [UInt8]? {
        guard value.count == 32 else { return nil }
        var digest: [UInt8] = []
        for pair in stride(from: value.startIndex, to: value.endIndex, by: 2) {
            guard let byte = UInt8(String(decoding: value[pair..<(pair + 2)], as: UTF8.self), radix: 16) else {
                return nil
            }
            digest.append(byte)
        }
        return digest
    }
}

/// Goes through the lines of an index, group by group.
struct RecordReader {
    private let bytes: ArraySlice<UInt8>
    private var position: Int

    init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }

    var isAtEnd: Bool { position == bytes.endIndex }

    mutating func passSeparator() throws(StoreError) {
        guard position < bytes.endIndex, bytes[position] == 0x0a else {
            throw ChunkIndex.nonsense("two groups are not apart")
        }
        position += 1
        guard position < bytes.endIndex, bytes[position] != 0x0a else {
            throw ChunkIndex.nonsense("a group is empty")
        }
    }

    /// - Returns: nil at the end of the group.
    mutating func next() throws(StoreError) -> Record? {
        guard position < bytes.endIndex, bytes[position] != 0x0a else { return nil }
        var (length, cursor) = (0, position)
        while cursor < bytes.endIndex, (0x30...0x39).contains(bytes[cursor]), cursor - position < 10 {
            length = length * 10 + Int(bytes[cursor] - 0x30)
            cursor += 1
        }
        guard cursor > position, cursor < bytes.endIndex, bytes[cursor] == 0x20, bytes[position] != 0x30,
            length <= bytes.endIndex - position, length > cursor + 2 - position,
            bytes[position + length - 1] == 0x0a
        else { throw ChunkIndex.nonsense("a line's length is wrong") }
        let line = bytes[(cursor + 1)..<(position + length - 1)]
        guard let equals = line.firstIndex(of: 0x3d), equals > line.startIndex,
            let key = String(validating: line[..<equals], as: UTF8.self)
        else { throw ChunkIndex.nonsense("a line has no key") }
        position += length
        return Record(key: key, value: line[(equals + 1)...])
    }
}
