package import StoreAPI

/// The protocol that sftp-server speaks: version 3 of draft-ietf-secsh-filexfer-02, with OpenSSH's extensions.
///
/// Sources: <https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02>; `PROTOCOL` in OpenSSH's sources, section
/// "SFTP protocol changes".
package enum SFTP {
    enum Kind: UInt8 {
        case initialize = 1
        case version = 2
        case open = 3
        case close = 4
        case read = 5
        case write = 6
        case lstat = 7
        case fstat = 8
        case setstat = 9
        case fsetstat = 10
        case opendir = 11
        case readdir = 12
        case remove = 13
        case mkdir = 14
        case rmdir = 15
        case realpath = 16
        case stat = 17
        case readlink = 19
        case symlink = 20
        case status = 101
        case handle = 102
        case data = 103
        case name = 104
        case attributes = 105
        case extended = 200
        case extendedReply = 201
    }

    /// What a server answers when it has nothing else to say.
    package enum Status: UInt32, Sendable {
        case ok = 0
        case endOfFile = 1
        case noSuchFile = 2
        case permissionDenied = 3
        case failure = 4
        case badMessage = 5
        case noConnection = 6
        case connectionLost = 7
        case unsupported = 8
    }

    /// How a file is opened.
    package struct OpenFlags: OptionSet, Sendable {
        package let rawValue: UInt32
        package init(rawValue: UInt32) { self.rawValue = rawValue }
        package static let read = OpenFlags(rawValue: 1)
        package static let write = OpenFlags(rawValue: 2)
        package static let create = OpenFlags(rawValue: 8)
        package static let truncate = OpenFlags(rawValue: 16)
        package static let exclusive = OpenFlags(rawValue: 32)
    }

    /// A name of the server for something that is open.
    package struct Handle: Hashable, Sendable {
        package let bytes: [UInt8]
    }

    /// The most bytes of one message that are taken; OpenSSH sends up to 256 KiB.
    static let longestMessage = 1 << 20
}

/// What a server says of a file. Only what it says is not nil; times are seconds since 1970.
package struct SFTPAttributes: Hashable, Sendable {
    package var size: UInt64?
    package var owner: Owner?
    /// With the bits of the kind, as `st_mode`.
    package var permissions: UInt32?
    package var times: Times?

    package struct Owner: Hashable, Sendable {
        package var uid: UInt32
        package var gid: UInt32
        package init(uid: UInt32, gid: UInt32) {
            self.uid = uid
            self.gid = gid
        }
    }
    package struct Times: Hashable, Sendable {
        package var accessed: UInt32
        package var modified: UInt32
        package init(accessed: UInt32, modified: UInt32) {
            self.accessed = accessed
            self.modified = modified
        }
    }

    package init(size: UInt64? = nil, owner: Owner? = nil, permissions: UInt32? = nil, times: Times? = nil) {
        self.size = size
        self.owner = owner
        self.permissions = permissions
        self.times = times
    }

    /// nil: the server does not say.
    package var kind: FileKind? {
        guard let permissions else { return nil }
        return switch permissions & 0o170000 {
        case 0o010000: .fifo
        case 0o020000: .characterDevice
        case 0o040000: .directory
        case 0o060000: .blockDevice
        case 0o120000: .symbolicLink
        case 0o140000: .socket
        default: .file
        }
    }
}

/// An answer of a server that makes no sense.
package struct MalformedMessage: Error {}

/// Takes a message apart.
struct SFTPReader {
    private let bytes: ArraySlice<UInt8>
    private var position: Int

    init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }

    var isAtEnd: Bool { position == bytes.endIndex }

    mutating func byte() throws(MalformedMessage) -> UInt8 {
        guard position < bytes.endIndex else { throw MalformedMessage() }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func number32() throws(MalformedMessage) -> UInt32 {
        guard bytes.endIndex - position >= 4 else { throw MalformedMessage() }
        defer { position += 4 }
        return bytes[position..<(position + 4)].reduce(0) { $0 << 8 | UInt32($1) }
    }

    mutating func number64() throws(MalformedMessage) -> UInt64 {
        let high = try number32()
        return UInt64(high) << 32 | UInt64(try number32())
    }

    mutating func string() throws(MalformedMessage) -> ArraySlice<UInt8> {
        let length = Int(try number32())
        guard length <= bytes.endIndex - position else { throw MalformedMessage() }
        defer { position += length }
        return bytes[position..<(position + length)]
    }

    mutating func attributes() throws(MalformedMessage) -> SFTPAttributes {
        let flags = try number32()
        var attributes = SFTPAttributes()
        if flags & 1 != 0 { attributes.size = try number64() }
        if flags & 2 != 0 { attributes.owner = .init(uid: try number32(), gid: try number32()) }
        if flags & 4 != 0 { attributes.permissions = try number32() }
        if flags & 8 != 0 { attributes.times = .init(accessed: try number32(), modified: try number32()) }
        if flags & 0x8000_0000 != 0 {
            for _ in 0..<(try number32()) {
                _ = try string()
                _ = try string()
            }
        }
        return attributes
    }
}

/// Puts a message together, with its length before it.
struct SFTPWriter {
    private(set) var bytes: [UInt8]

    /// - Parameters:
    ///   - number: By which the answer will be known; of an `initialize` the version.
    ///   - capacity: How long it will be, about.
    init(_ kind: SFTP.Kind, number: UInt32, capacity: Int = 128) {
        bytes = []
        bytes.reserveCapacity(capacity)
        bytes += [0, 0, 0, 0, kind.rawValue]
        self.number32(number)
    }

    mutating func number32(_ value: UInt32) {
        for shift in stride(from: 24, through: 0, by: -8) {
            bytes.append(UInt8(truncatingIfNeeded: value >> UInt32(shift)))
        }
    }

    mutating func number64(_ value: UInt64) {
        number32(UInt32(truncatingIfNeeded: value >> 32))
        number32(UInt32(truncatingIfNeeded: value))
    }

    mutating func string(_ text: some Collection<UInt8>) {
        number32(UInt32(text.count))
        bytes += text
    }

    mutating func attributes(_ attributes: SFTPAttributes) {
        var flags: UInt32 = 0
        if attributes.size != nil { flags |= 1 }
        if attributes.owner != nil { flags |= 2 }
        if attributes.permissions != nil { flags |= 4 }
        if attributes.times != nil { flags |= 8 }
        number32(flags)
        if let size = attributes.size { number64(size) }
        if let owner = attributes.owner {
            number32(owner.uid)
            number32(owner.gid)
        }
        if let permissions = attributes.permissions { number32(permissions) }
        if let times = attributes.times {
            number32(times.accessed)
            number32(times.modified)
        }
    }

    /// The whole message.
    consuming func finished() -> [UInt8] {
        let length = UInt32(bytes.count - 4)
        for index in 0..<4 { bytes[index] = UInt8(truncatingIfNeeded: length >> UInt32(24 - 8 * index)) }
        return bytes
    }
}

/// A request, before it has the number by which its answer is known.
package struct SFTPRequest: Sendable {
    /// The message with 0 for its number.
    private(set) var bytes: [UInt8]
    /// Whether the server may take long before it answers: it writes to its disk, or copies.
    var isSlow = false

    private init(_ kind: SFTP.Kind, capacity: Int = 128, _ fill: (inout SFTPWriter) -> Void) {
        var writer = SFTPWriter(kind, number: 0, capacity: capacity)
        fill(&writer)
        bytes = writer.finished()
    }

    /// Gives the request its number.
    mutating func setNumber(_ number: UInt32) {
        for index in 0..<4 { bytes[5 + index] = UInt8(truncatingIfNeeded: number >> UInt32(24 - 8 * index)) }
    }

    package static func open(_ path: [UInt8], _ flags: SFTP.OpenFlags, permissions: UInt32? = nil) -> SFTPRequest {
        SFTPRequest(.open) {
            $0.string(path)
            $0.number32(flags.rawValue)
            $0.attributes(SFTPAttributes(permissions: permissions))
        }
    }

    package static func close(_ handle: SFTP.Handle) -> SFTPRequest { SFTPRequest(.close) { $0.string(handle.bytes) } }

    package static func read(_ handle: SFTP.Handle, at offset: UInt64, count: Int) -> SFTPRequest {
        SFTPRequest(.read) {
            $0.string(handle.bytes)
            $0.number64(offset)
            $0.number32(UInt32(count))
        }
    }

    package static func write(_ handle: SFTP.Handle, at offset: UInt64, _ data: [UInt8]) -> SFTPRequest {
        SFTPRequest(.write, capacity: data.count + 64) {
            $0.string(handle.bytes)
            $0.number64(offset)
            $0.string(data)
        }
    }

    package static func linkStatus(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.lstat) { $0.string(path) } }
    package static func status(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.stat) { $0.string(path) } }
    package static func status(_ handle: SFTP.Handle) -> SFTPRequest { SFTPRequest(.fstat) { $0.string(handle.bytes) } }

    package static func set(_ attributes: SFTPAttributes, at path: [UInt8]) -> SFTPRequest {
        SFTPRequest(.setstat) {
            $0.string(path)
            $0.attributes(attributes)
        }
    }

    package static func set(_ attributes: SFTPAttributes, of handle: SFTP.Handle) -> SFTPRequest {
        SFTPRequest(.fsetstat) {
            $0.string(handle.bytes)
            $0.attributes(attributes)
        }
    }

    package static func openDirectory(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.opendir) { $0.string(path) } }
    package static func readDirectory(_ handle: SFTP.Handle) -> SFTPRequest {
        SFTPRequest(.readdir) { $0.string(handle.bytes) }
    }
    package static func remove(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.remove) { $0.string(path) } }
    package static func removeDirectory(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.rmdir) { $0.string(path) } }

    package static func makeDirectory(_ path: [UInt8], permissions: UInt32) -> SFTPRequest {
        SFTPRequest(.mkdir) {
            $0.string(path)
            $0.attributes(SFTPAttributes(permissions: permissions))
        }
    }

    package static func realPath(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.realpath) { $0.string(path) } }
    package static func readLink(_ path: [UInt8]) -> SFTPRequest { SFTPRequest(.readlink) { $0.string(path) } }

    /// OpenSSH takes the target first, against the draft, and all have followed it (`PROTOCOL`, section 4.1).
    package static func makeLink(to target: [UInt8], at path: [UInt8]) -> SFTPRequest {
        SFTPRequest(.symlink) {
            $0.string(target)
            $0.string(path)
        }
    }

    // MARK: Extensions

    private static func extended(_ name: SFTPExtension, _ fill: (inout SFTPWriter) -> Void) -> SFTPRequest {
        SFTPRequest(.extended) {
            $0.string(Array(name.rawValue.utf8))
            fill(&$0)
        }
    }

    /// rename(2): replaces what is at `destination`.
    package static func rename(_ source: [UInt8], to destination: [UInt8]) -> SFTPRequest {
        extended(.posixRename) {
            $0.string(source)
            $0.string(destination)
        }
    }

    /// link(2): fails when `destination` is there.
    package static func link(_ source: [UInt8], to destination: [UInt8]) -> SFTPRequest {
        extended(.hardlink) {
            $0.string(source)
            $0.string(destination)
        }
    }

    package static func sync(_ handle: SFTP.Handle) -> SFTPRequest {
        var request = extended(.fsync) { $0.string(handle.bytes) }
        request.isSlow = true
        return request
    }

    /// Of a symbolic link itself.
    package static func setOfLink(_ attributes: SFTPAttributes, at path: [UInt8]) -> SFTPRequest {
        extended(.lsetstat) {
            $0.string(path)
            $0.attributes(attributes)
        }
    }

    package static func space(_ path: [UInt8]) -> SFTPRequest { extended(.statvfs) { $0.string(path) } }

    package static func limits() -> SFTPRequest { extended(.limits) { _ in } }

    package static func copy(
        _ source: SFTP.Handle, at offset: UInt64, count: UInt64, to destination: SFTP.Handle, at position: UInt64
    ) -> SFTPRequest {
        var request = extended(.copyData) {
            $0.string(source.bytes)
            $0.number64(offset)
            $0.number64(count)
            $0.string(destination.bytes)
            $0.number64(position)
        }
        request.isSlow = true
        return request
    }
}

/// What servers offer beyond the draft, by the names under which they do.
package enum SFTPExtension: String, CaseIterable, Sendable {
    case posixRename = "posix-rename@openssh.com"
    case statvfs = "statvfs@openssh.com"
    case hardlink = "hardlink@openssh.com"
    case fsync = "fsync@openssh.com"
    case lsetstat = "lsetstat@openssh.com"
    case limits = "limits@openssh.com"
    case copyData = "copy-data"
}

/// An answer of a server.
package enum SFTPAnswer: Sendable {
    case status(SFTP.Status, message: String)
    case handle(SFTP.Handle)
    /// A message with bytes of a file, and where they are in it.
    case data(message: [UInt8], Range<Int>)
    case names([(name: [UInt8], attributes: SFTPAttributes)])
    case attributes(SFTPAttributes)
    case extended([UInt8])

    /// - Parameter message: Without its length.
    init(_ message: [UInt8]) throws(MalformedMessage) {
        var reader = SFTPReader(message[...])
        let kind = SFTP.Kind(rawValue: try reader.byte())
        _ = try reader.number32()
        switch kind {
        case .status:
            // A code that is not of version 3 is a failure, of which nothing is known.
            let status = SFTP.Status(rawValue: try reader.number32()) ?? .failure
            let text = reader.isAtEnd ? [] : try reader.string()
            self = .status(status, message: String(decoding: text.prefix(500), as: UTF8.self))
        case .handle: self = .handle(SFTP.Handle(bytes: Array(try reader.string())))
        case .data:
            let data = try reader.string()
            self = .data(message: message, data.startIndex..<data.endIndex)
        case .name:
            let count = try reader.number32()
            var names: [(name: [UInt8], attributes: SFTPAttributes)] = []
            for _ in 0..<count {
                let name = Array(try reader.string())
                _ = try reader.string()
                names.append((name, try reader.attributes()))
            }
            self = .names(names)
        case .attributes: self = .attributes(try reader.attributes())
        case .extendedReply: self = .extended(Array(message[5...]))
        default: throw MalformedMessage()
        }
    }

    /// The number of the request that a message answers.
    static func number(of message: [UInt8]) -> UInt32? {
        guard message.count >= 5 else { return nil }
        return message[1..<5].reduce(0) { $0 << 8 | UInt32($1) }
    }
}

/// The space on a server's disk, in bytes.
package struct SFTPSpace: Hashable, Sendable {
    package var total: Int64
    package var used: Int64
    /// For the user that asks.
    package var free: Int64
    package var isReadOnly: Bool

    /// - Parameter reply: To ``SFTPRequest/space(_:)``.
    package init(_ reply: [UInt8]) throws(MalformedMessage) {
        var reader = SFTPReader(reply[...])
        _ = try reader.number64()
        let block = try reader.number64()
        let blocks = try reader.number64()
        let unused = try reader.number64()
        let available = try reader.number64()
        for _ in 0..<4 { _ = try reader.number64() }
        let flags = try reader.number64()
        func bytes(_ count: UInt64) -> Int64 {
            let (product, overflow) = count.multipliedReportingOverflow(by: block)
            return overflow || product > UInt64(Int64.max) ? Int64.max : Int64(product)
        }
        total = bytes(blocks)
        used = bytes(blocks > unused ? blocks - unused : 0)
        free = bytes(available)
        isReadOnly = flags & 1 != 0
    }
}
