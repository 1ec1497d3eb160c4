import StoreAPI

extension StoreContract {
    static let moving: [StoreClause] = [
        StoreClause("a file that is moved is in the new place only", requires: .atomicMove) { store, scratch in
            let bytes = pattern(5_000)
            let written = try store.write(bytes, at: scratch / "old", PutOptions(attributes: sample))
            try store.move(scratch / "old", to: scratch / "made" / "new")
            try require(!store.exists(scratch / "old"), "it is still in the old place")
            try requireEqual(store.contents(of: scratch / "made" / "new"), bytes, "the bytes")
            let moved = try store.metadata(of: scratch / "made" / "new")
            try requireEqual(moved.version, written.version, "the version")
            if store.capabilities.contains(.attributes) {
                try store.requireSame(moved.attributes, sample, "the moved file")
            }
        },
        StoreClause("a move replaces the file that is there", requires: .atomicMove) { store, scratch in
            try store.write([1], at: scratch / "old")
            try store.write([2], at: scratch / "new")
            try store.move(scratch / "old", to: scratch / "new")
            try requireEqual(store.names(in: scratch), ["new"], "the names")
            try requireEqual(store.contents(of: scratch / "new"), [1], "the bytes")
            try store.move(scratch / "new", to: scratch / "new")
            try requireEqual(store.contents(of: scratch / "new"), [1], "the bytes after a move onto itself")
        },
        StoreClause("what is not there is not moved", requires: .atomicMove) { store, scratch in
            try store.write([2], at: scratch / "new")
            try requireError(.notFound, from: "moving nothing") {
                try store.move(scratch / "nothing", to: scratch / "new")
            }
            try requireError(.notFound, from: "moving nothing to a missing directory") {
                try store.move(scratch / "nothing", to: scratch / "missing" / "new")
            }
            try requireEqual(store.contents(of: scratch / "new"), [2], "what is at the destination")
        },
        StoreClause("a directory is moved with all that is in it", requires: .directoryMove) { store, scratch in
            let written = try store.write([1], at: scratch / "old" / "a" / "b")
            try store.move(scratch / "old", to: scratch / "made" / "new")
            try requireEqual(store.names(in: scratch), ["made"], "the names")
            try requireEqual(store.contents(of: scratch / "made" / "new" / "a" / "b"), [1], "the bytes")
            try requireEqual(
                store.metadata(of: scratch / "made" / "new" / "a" / "b").version, written.version, "the version")
        },
        StoreClause("a directory replaces an empty one only", requires: [.directoryMove, .realDirectories]) {
            store, scratch in
            try store.write([1], at: scratch / "old" / "object")
            try store.createDirectory(at: scratch / "empty", Attributes())
            try store.write([2], at: scratch / "full" / "other")
            try requireError(.directoryNotEmpty, from: "moving onto a full directory") {
                try store.move(scratch / "old", to: scratch / "full")
            }
            try requireEqual(store.contents(of: scratch / "old" / "object"), [1], "what was not moved")
            try requireEqual(store.names(in: scratch / "full"), ["other"], "what was not replaced")
            try store.move(scratch / "old", to: scratch / "empty")
            try requireEqual(store.names(in: scratch), ["empty", "full"], "the names")
            try requireEqual(store.contents(of: scratch / "empty" / "object"), [1], "what was moved")
        },
        StoreClause("files and directories do not replace each other", requires: [.directoryMove, .realDirectories]) {
            store, scratch in
            try store.createDirectory(at: scratch / "directory", Attributes())
            try store.write([1], at: scratch / "file")
            try requireError(.isADirectory, from: "moving a file onto a directory") {
                try store.move(scratch / "file", to: scratch / "directory")
            }
            try requireError(.notADirectory, from: "moving a directory onto a file") {
                try store.move(scratch / "directory", to: scratch / "file")
            }
            try requireError(.invalidArgument, from: "moving a directory into itself") {
                try store.move(scratch / "directory", to: scratch / "directory" / "below")
            }
            try requireEqual(store.names(in: scratch), ["directory", "file"], "the names afterwards")
        },
    ]

    static let copying: [StoreClause] = [
        StoreClause("a copy has the bytes and attributes of its source", requires: .serverSideCopy) {
            store, scratch in
            let bytes = pattern(70_000)
            try store.write(bytes, at: scratch / "source", PutOptions(attributes: sample))
            let copied = try store.copy(scratch / "source", to: scratch / "made" / "copy", CopyOptions())
            try requireEqual(copied.size, 70_000, "the size that copy answered")
            let metadata = try store.metadata(of: scratch / "made" / "copy")
            try requireEqual(metadata.version, copied.version, "the version")
            try requireEqual(store.contents(of: scratch / "made" / "copy"), bytes, "the copy")
            try requireEqual(store.contents(of: scratch / "source"), bytes, "the source")
            if store.capabilities.contains(.attributes) {
                try store.requireSame(metadata.attributes, sample, "the copy")
            }
        },
        StoreClause("a copy can have new attributes", requires: [.serverSideCopy, .attributes]) { store, scratch in
            try store.write([1, 2], at: scratch / "source", PutOptions(attributes: sample))
            var other = sample
            other.mode = 0o600
            other.uid = 42
            _ = try store.copy(scratch / "source", to: scratch / "copy", CopyOptions(attributes: other))
            try store.requireSame(store.metadata(of: scratch / "copy").attributes, other, "the copy")
            try store.requireSame(store.metadata(of: scratch / "source").attributes, sample, "the source")
            try requireEqual(store.contents(of: scratch / "copy"), [1, 2], "the copy")
        },
        StoreClause("a copy is a file of its own", requires: .serverSideCopy) { store, scratch in
            try store.write([1], at: scratch / "source")
            try store.write([9], at: scratch / "copy")
            _ = try store.copy(scratch / "source", to: scratch / "copy", CopyOptions())
            try requireEqual(store.contents(of: scratch / "copy"), [1], "the copy that replaced something")
            try store.write([2], at: scratch / "source")
            try requireEqual(store.contents(of: scratch / "copy"), [1], "the copy after a change of the source")
        },
        StoreClause("what is not there is not copied", requires: .serverSideCopy) { store, scratch in
            try requireError(.notFound, from: "copying nothing") {
                _ = try store.copy(scratch / "nothing", to: scratch / "copy", CopyOptions())
            }
            try require(!store.exists(scratch / "copy"), "there is a copy of nothing")
        },
        StoreClause("a copy is made only of the version that is meant", requires: .serverSideCopy) { store, scratch in
            let old = try version(store.write([1], at: scratch / "source"))
            let new = try version(store.write([2], at: scratch / "source"))
            try requireError(.preconditionFailed, from: "copying a version that is gone") {
                _ = try store.copy(scratch / "source", to: scratch / "copy", CopyOptions(sourceVersion: old))
            }
            try require(!store.exists(scratch / "copy"), "there is a copy all the same")
            _ = try store.copy(scratch / "source", to: scratch / "copy", CopyOptions(sourceVersion: new))
            try requireEqual(store.contents(of: scratch / "copy"), [2], "the copy")
        },
        StoreClause("symbolic links are copied as links", requires: [.serverSideCopy, .specialFiles]) {
            store, scratch in
            try store.write(Array("target".utf8), at: scratch / "link", PutOptions(kind: .symbolicLink))
            _ = try store.copy(scratch / "link", to: scratch / "copy", CopyOptions())
            try requireEqual(store.metadata(of: scratch / "copy").kind, .symbolicLink, "the kind of the copy")
            try requireEqual(store.contents(of: scratch / "copy"), Array("target".utf8), "the target of the copy")
        },
        StoreClause("a directory is not copied", requires: [.serverSideCopy, .realDirectories]) { store, scratch in
            try store.createDirectory(at: scratch / "directory", Attributes())
            try requireError(.isADirectory, from: "copying a directory") {
                _ = try store.copy(scratch / "directory", to: scratch / "copy", CopyOptions())
            }
        },
    ]
}
