import Catalog
import Glibc
import StoreAPI
import Threading

// For tests of how the program does with a large catalog: puts into the catalog of a cache that no mount is using what
// a listing of the store would, and what programs would that make empty files.
//
//     catalog-filler CATALOG FILES PER_FOLDER DIRTY
//
// Below `many` there are then folders `d0`, `d1` …, as if just listed, with FILES files `f0`, `f1` … in all, and a
// folder `new` with DIRTY files `n0`, `n1` … that the store does not have.

guard CommandLine.arguments.count == 5, let files = Int(CommandLine.arguments[2]),
    let filesPerFolder = Int(CommandLine.arguments[3]), let dirty = Int(CommandLine.arguments[4]), filesPerFolder > 0
else {
    print("usage: catalog-filler CATALOG FILES PER_FOLDER DIRTY")
    exit(2)
}

/// Merged in one transaction.
let slice = 1_000
let modified = Timestamp(seconds: 1_700_000_000)

func entry(_ name: String, _ kind: FileKind) -> ListEntry {
    ListEntry(
        name: FileName(name)!,
        metadata: Metadata(
            kind: kind, size: kind == .file ? 1_000 : 0, modified: modified,
            version: kind == .file ? Version("of-\(name)") : nil,
            attributes: Attributes(mode: kind == .file ? 0o644 : 0o755, uid: getuid(), gid: getgid())))
}

func list(_ directory: InodeID, _ count: Int, isComplete: Bool, _ make: (Int) -> ListEntry) throws(CatalogError) {
    guard let listing = try catalog.beginListing(of: directory) else { return }
    for start in stride(from: 0, to: count, by: slice) {
        _ = try catalog.merge((start..<min(start + slice, count)).map(make), into: listing)
    }
    if isComplete { try catalog.endListing(listing) { _ in } }
}

func directory(_ path: String) throws(CatalogError) -> InodeID { try catalog.inode(at: StorePath(path)!)!.id }

let catalog = try Catalog(path: CommandLine.arguments[1], clock: SystemClock())
// What else there is stays.
try list(.root, 1, isComplete: false) { _ in entry("many", .directory) }
let folders = (files + filesPerFolder - 1) / filesPerFolder
let many = try directory("many")
try list(many, folders, isComplete: true) { entry("d\($0)", .directory) }
for folder in 0..<folders {
    let first = folder * filesPerFolder
    try list(try directory("many/d\(folder)"), min(filesPerFolder, files - first), isComplete: true) {
        entry("f\(first + $0)", .file)
    }
}
let new = try catalog.create(
    NewInode(kind: .directory, mode: 0o755, uid: getuid(), gid: getgid()), named: FileName("new")!, in: many)
for number in 0..<dirty {
    _ = try catalog.create(
        NewInode(kind: .file, mode: 0o644, uid: getuid(), gid: getgid()), named: FileName("n\(number)")!, in: new.id)
}
catalog.close()
