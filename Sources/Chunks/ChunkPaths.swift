package import StoreAPI

/// Where what belongs to chunks lies on a store, and which paths can be in one.
enum ChunkPaths {
    static let format = StorePath(".cloudfusion/format")!
    static let chunks = StorePath(".cloudfusion/chunks")!
    static let catalog = StorePath(".cloudfusion/catalog")!
    static let writers = StorePath(".cloudfusion/writers")!
    /// The name of a chunk's first member.
    static let index = Array(".cloudfusion/index".utf8)

    static let whiteoutPrefix = Array(".wh.".utf8)
    /// With the prefix of a whiteout no longer than a file system's names.
    static let longestName = 255 - 4

    private static func digits(_ sequence: Int64) -> String {
        let digits = String(sequence)
        return String(repeating: "0", count: 20 - digits.count) + digits
    }

    static func chunk(_ sequence: Int64, volume: String) -> StorePath {
        StorePath(".cloudfusion/chunks/\(digits(sequence))-\(volume).tar")!
    }

    static func snapshot(_ sequence: Int64) -> StorePath {
        StorePath(".cloudfusion/catalog/\(digits(sequence)).sqlite.gz")!
    }

    /// The number of a chunk of this volume; nil for other names.
    static func sequence(ofChunk name: FileName, volume: String) -> Int64? {
        sequence(of: name, suffix: "-\(volume).tar")
    }

    static func sequence(ofSnapshot name: FileName) -> Int64? { sequence(of: name, suffix: ".sqlite.gz") }

    private static func sequence(of name: FileName, suffix: String) -> Int64? {
        let (head, tail) = (name.bytes.prefix(20), name.bytes.dropFirst(20))
        guard Array(tail) == Array(suffix.utf8), head.allSatisfy({ (0x30...0x39).contains($0) }),
            let number = Int64(String(decoding: head, as: UTF8.self)), number > 0
        else { return nil }
        return number
    }
}

extension FileName {
    /// Whether a name can be in a chunk: its whiteout must be a name too, and no name be taken for a whiteout.
    var canBePacked: Bool { bytes.count <= ChunkPaths.longestName && !bytes.starts(with: ChunkPaths.whiteoutPrefix) }
}

extension StorePath {
    /// Whether it can be in a chunk. Others are plain objects.
    package var canBePacked: Bool {
        guard !isInside(.control) else { return false }
        return bytes.split(separator: 0x2f).allSatisfy { name in
            name.count <= ChunkPaths.longestName && !name.starts(with: ChunkPaths.whiteoutPrefix)
        }
    }

    /// The name of the member that removes this path: `.wh.` before the last name.
    var whiteout: [UInt8] {
        let name = self.name!.bytes
        return Array(bytes.dropLast(name.count)) + ChunkPaths.whiteoutPrefix + name
    }
}

extension Version {
    /// That of the `number`th file that is made or changed by a chunk.
    init(packed number: Int, in chunk: Int64) { self.init("c\(chunk).\(number)") }

    /// The chunk that it came in; nil: it is not that of a packed file.
    var chunk: Int64? {
        guard text.first == "c", let end = text.firstIndex(of: ".") else { return nil }
        return Int64(text[text.index(after: text.startIndex)..<end])
    }
}
