package import Catalog

extension FileSystem {
    package func getAttributes(_ number: UInt64, _ reply: @escaping Reply<Entry>) {
        switch place(number) {
        case .stored(let volume, let inode): volume.getAttributes(inode, reply)
        case .virtual(let id): answer(reply) { () throws(FileSystemError) in tree.entry(try tree.node(id)) }
        case .noStore: reply(.success(emptyRoot))
        case .gone: reply(.failure(.stale))
        }
    }

    package func setAttributes(
        _ changes: SetAttributes, of number: UInt64, handle: HandleID?, by caller: Caller,
        _ reply: @escaping Reply<Entry>
    ) {
        let open = handle.flatMap { handles[$0] }
        switch place(number) {
        case .stored(let volume, let inode):
            let file: FileHandle? = if case .file(let file) = open, file.volume === volume { file } else { nil }
            volume.setAttributes(changes, of: inode, handle: file, by: caller, reply)
        case .virtual(let id):
            let file: VirtualHandle? = if case .virtualFile(let file) = open { file } else { nil }
            tree.setAttributes(changes, of: id, handle: file, reply)
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func readLink(_ number: UInt64, _ reply: @escaping Reply<[UInt8]>) {
        switch place(number) {
        case .stored(let volume, let inode): volume.readLink(inode, reply)
        case .virtual: reply(.failure(.invalid))
        case .noStore: reply(.failure(.noDevice))
        case .gone: reply(.failure(.stale))
        }
    }

    package func extendedAttribute(_ name: String, of number: UInt64, _ reply: @escaping Reply<[UInt8]>) {
        answer(reply) { () throws(FileSystemError) in
            switch place(number) {
            case .stored(let volume, let inode): return try volume.extendedAttribute(name, of: inode)
            case .virtual, .noStore: throw .noSuchAttribute
            case .gone: throw .stale
            }
        }
    }

    /// Those that `caller` may see.
    package func extendedAttributeNames(of number: UInt64, for caller: Caller, _ reply: @escaping Reply<[String]>) {
        answer(reply) { () throws(FileSystemError) in
            switch place(number) {
            case .stored(let volume, let inode): return try volume.extendedAttributeNames(of: inode, for: caller)
            case .virtual, .noStore: return []
            case .gone: throw .stale
            }
        }
    }

    package func setExtendedAttribute(
        _ name: String, to value: [UInt8], of number: UInt64, _ mode: Catalog.AttributeMode,
        _ reply: @escaping Reply<Void>
    ) {
        answer(reply) { () throws(FileSystemError) in
            switch place(number) {
            case .stored(let volume, let inode):
                try volume.setExtendedAttribute(name, to: value, of: inode, mode)
            case .virtual: throw .unsupported
            case .noStore: throw .noDevice
            case .gone: throw .stale
            }
        }
    }

    package func removeExtendedAttribute(_ name: String, of number: UInt64, _ reply: @escaping Reply<Void>) {
        answer(reply) { () throws(FileSystemError) in
            switch place(number) {
            case .stored(let volume, let inode): try volume.removeExtendedAttribute(name, of: inode)
            case .virtual: throw .noSuchAttribute
            case .noStore: throw .noDevice
            case .gone: throw .stale
            }
        }
    }

    package func space(_ reply: @escaping Reply<FileSystemSpace>) {
        reply(.success(volume?.space.space ?? FileSystemSpace(total: 0, free: 0, files: 0)))
    }
}
