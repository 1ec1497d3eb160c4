import Glibc
public import StoreAPI

/// Throws a ``ContractViolation`` unless `condition` holds.
func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
    guard condition else { throw ContractViolation(message()) }
}

func requireEqual<T: Equatable>(_ found: T, _ expected: T, _ what: @autoclosure () -> String) throws {
    guard found == expected else { throw ContractViolation("\(what()) is \(found), expected \(expected)") }
}

func requireEqual(_ found: [UInt8], _ expected: [UInt8], _ what: @autoclosure () -> String) throws {
    guard found.count == expected.count else {
        throw ContractViolation("\(what()) is \(found.count) bytes long, expected \(expected.count)")
    }
    guard memcmp(found, expected, found.count) != 0 else { return }
    let first = zip(found, expected).enumerated().first { $0.element.0 != $0.element.1 }!.offset
    throw ContractViolation("\(what()) differs from what is expected, at byte \(first) of \(found.count)")
}

/// Throws unless `body` fails with one of `codes`.
///
/// - Returns: The error, to look at its other parts.
@discardableResult
func requireError(
    _ codes: StoreError.Code..., from what: @autoclosure () -> String, _ body: () throws -> Void
) throws -> StoreError {
    do {
        try body()
    } catch let error as StoreError {
        guard codes.contains(error.code) else {
            throw ContractViolation("\(what()) failed with \(error.code), expected \(codes): \(error.message)")
        }
        try require(!error.message.isEmpty, "\(what()) failed without saying why")
        return error
    }
    throw ContractViolation("\(what()) succeeded, expected it to fail with \(codes)")
}

/// Bytes that look random and are the same for the same `seed`, so that a mixture of two contents shows.
public func pattern(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
        var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
        let raw = UnsafeMutableRawBufferPointer(buffer)
        var position = 0
        while position < count {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            withUnsafeBytes(of: state) {
                let length = Swift.min(8, count - position)
                raw.baseAddress!.advanced(by: position).copyMemory(from: $0.baseAddress!, byteCount: length)
                position += length
            }
        }
        filled = count
    }
}

extension StorePath {
    /// The path with one more name, which must be legal.
    public static func / (path: StorePath, name: String) -> StorePath { path.appending(FileName(name)!) }
}

extension Store {
    /// Writes an object of these bytes.
    @discardableResult
    public func write(
        _ bytes: [UInt8], at path: StorePath, _ options: PutOptions = PutOptions()
    ) throws(StoreError) -> Metadata {
        try put(UploadBody(bytes), at: path, options)
    }

    /// The bytes of an object, or of a range of it.
    public func contents(
        of path: StorePath, _ range: Range<Int64>? = nil, version: Version? = nil
    ) throws(StoreError) -> [UInt8] {
        let sink = MemorySink(from: range?.lowerBound ?? 0)
        _ = try read(path, ReadRequest(range: range, version: version), into: sink)
        return sink.bytes
    }

    /// All entries of a directory, as they come.
    public func entries(of directory: StorePath) throws(StoreError) -> [ListEntry] {
        var all: [ListEntry] = []
        try forEachPage(of: directory) { (page: ListPage) throws(StoreError) in all += page.entries }
        return all
    }

    /// The names in a directory, in order.
    public func names(in directory: StorePath) throws(StoreError) -> [String] {
        try entries(of: directory).map(\.name).sorted().map(\.description)
    }

    /// Whether something lies at `path`, by a definite answer.
    public func exists(_ path: StorePath) throws(StoreError) -> Bool {
        do {
            _ = try metadata(of: path)
            return true
        } catch {
            guard error.code == .notFound else { throw error }
            return false
        }
    }

    /// Deletes a directory with all that is in it, also where the server still shows what was deleted, or ends an upload
    /// that it has answered.
    public func deleteTree(_ directory: StorePath) throws(StoreError) {
        for _ in 0..<9 {
            do throws(StoreError) { return try deleteTreeOnce(directory) } catch {
                guard error.code == .directoryNotEmpty else { throw error }
                usleep(300_000)
            }
        }
        try deleteTreeOnce(directory)
    }

    private func deleteTreeOnce(_ directory: StorePath) throws(StoreError) {
        let entries: [ListEntry]
        do { entries = try self.entries(of: directory) } catch {
            guard error.code == .notFound else { throw error }
            return
        }
        for entry in entries where entry.metadata.kind == .directory {
            try deleteTree(directory.appending(entry.name))
        }
        let rest = entries.filter { $0.metadata.kind != .directory }.map { directory.appending($0.name) } + [directory]
        for error in delete(rest) {
            if let error { throw error }
        }
    }
}
