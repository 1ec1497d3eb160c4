import StoreAPI

extension StoreContract {
    static let deleting: [StoreClause] = [
        StoreClause("what is deleted is gone") { store, scratch in
            let path = scratch / "object"
            try store.write([1], at: path)
            try store.delete(path)
            try require(!store.exists(path), "it still exists")
            try requireError(.notFound, from: "reading it") { _ = try store.contents(of: path) }
            try requireEqual(store.names(in: scratch), [], "the names")
        },
        StoreClause("deleting what is not there succeeds") { store, scratch in
            try store.delete(scratch / "nothing")
            try store.delete(scratch / "no directory" / "nothing")
            try requireEqual(store.delete([Deletion]()).count, 0, "the number of answers to nothing")
        },
        StoreClause("only the version that is meant is deleted", requires: .conditionalDelete) { store, scratch in
            let (path, other) = (scratch / "object", scratch / "other")
            let first = try version(store.write([1], at: path))
            let second = try version(store.write([2, 2], at: path))
            let kept = try version(store.write([3], at: other))
            func delete(_ deletions: Deletion...) -> [StoreError.Code?] { store.delete(deletions).map { $0?.code } }
            try requireEqual(
                delete(Deletion(path, ifVersion: first), Deletion(other, ifVersion: kept)), [.preconditionFailed, nil],
                "the answers for a version that is gone and for one that is there")
            try requireEqual(store.contents(of: path), [2, 2], "the other version")
            try require(!store.exists(other), "what was to be deleted is there")
            try requireEqual(
                delete(Deletion(path, ifVersion: second), Deletion(other, ifVersion: kept)), [nil, nil],
                "the answers for what is there, and for what is gone")
            try requireEqual(store.names(in: scratch), [], "the names")
        },
        // What is replaced without a look at what is there is deleted or not.
        StoreClause(
            "of who deletes a version and who replaces it one wins",
            requires: [.conditionalDelete, .conditionalReplace]
        ) { store, scratch in
            for round in 0..<20 {
                let path = scratch / "round \(round)"
                let base = try version(store.write([0], at: path))
                let results = race(2) { racer in
                    if racer == 0 {
                        if let error = store.delete([Deletion(path, ifVersion: base)])[0] { throw error }
                    } else {
                        try store.write([1, 1], at: path, PutOptions(condition: .ifVersion(base)))
                    }
                }
                let isDeleted = (try? results[0].get()) != nil
                try requireEqual((try? results[1].get()) == nil, isDeleted, "whether the replacement failed")
                try requireEqual(store.exists(path), !isDeleted, "whether it is there")
            }
        },
        StoreClause("an empty directory is deleted") { store, scratch in
            try store.createDirectory(at: scratch / "directory", Attributes())
            try store.delete(scratch / "directory")
            try require(!store.exists(scratch / "directory"), "it still exists")
            try requireEqual(store.names(in: scratch), [], "the names")
        },
        StoreClause("deleting the last object leaves its directory", requires: .realDirectories) { store, scratch in
            try store.write([1], at: scratch / "directory" / "object")
            try store.delete(scratch / "directory" / "object")
            try requireEqual(store.names(in: scratch), ["directory"], "the names")
        },
        StoreClause("a directory that is not empty stays", requires: .realDirectories) { store, scratch in
            try store.write([1], at: scratch / "directory" / "object")
            try requireError(.directoryNotEmpty, from: "deleting it") { try store.delete(scratch / "directory") }
            try requireEqual(store.contents(of: scratch / "directory" / "object"), [1], "the object in it")
        },
        StoreClause("many are deleted in one call, each with its own answer") { store, scratch in
            let count = 1_005
            try fill(scratch, of: store, count)
            try store.write([1], at: scratch / "kept")
            try store.createDirectory(at: scratch / "empty", Attributes())
            var paths = (0..<count).map { scratch / "entry \($0)" }
            paths.insert(scratch / "nothing", at: 500)
            paths.insert(scratch / "empty", at: 700)
            let answers = store.delete(paths)
            try requireEqual(answers.count, paths.count, "the number of answers")
            for (path, error) in zip(paths, answers) {
                if let error { throw ContractViolation("'\(path)' was not deleted: \(error)") }
            }
            try requireEqual(store.names(in: scratch), ["kept"], "what is left")
        },
        StoreClause("a deletion that fails does not hold up the others", requires: .realDirectories) {
            store, scratch in
            try store.write([1], at: scratch / "full" / "object")
            try store.write([1], at: scratch / "one")
            try store.write([1], at: scratch / "two")
            let answers = store.delete([scratch / "one", scratch / "full", scratch / "two"])
            try requireEqual(answers.map { $0?.code }, [nil, .directoryNotEmpty, nil], "the answers")
            try requireEqual(store.names(in: scratch), ["full"], "what is left")
        },
        StoreClause("a directory is deleted after its contents, in one call", requires: .realDirectories) {
            store, scratch in
            try store.write([1], at: scratch / "directory" / "object")
            let answers = store.delete([scratch / "directory" / "object", scratch / "directory"])
            try requireEqual(answers.map { $0?.code }, [nil, nil], "the answers")
            try requireEqual(store.names(in: scratch), [], "what is left")
        },
        StoreClause("the root is not deleted", requires: .realDirectories) { store, scratch in
            let answers = store.delete([.root])
            try require(answers[0] != nil, "the root was deleted")
            try requireEqual(store.metadata(of: scratch).kind, .directory, "the kind of what is in it")
        },
    ]
}
