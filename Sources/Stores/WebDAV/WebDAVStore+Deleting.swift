import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension WebDAVStore {
    package func delete(_ deletions: [Deletion]) -> [StoreError?] {
        let paths = deletions.map(\.path)
        let results = Lock([StoreError?](repeating: nil, count: paths.count))
        let directories = Lock<Set<Int>>([])
        let tuning = state.withLock { $0.tuning }
        do throws(StoreError) {
            try session.parallel.run(paths.count, parallel: min(16, tuning.connections)) { index throws(StoreError) in
                do throws(StoreError) {
                    let deletion = deletions[index]
                    let isDirectory =
                        deletion.version == nil || !self.traits.locks
                        ? try self.deleteFile(deletion)
                        : try self.withLock(of: deletion.path, length: 0) { () throws(StoreError) in
                            try self.deleteFile(deletion)
                        }
                    if isDirectory { directories.withLock { _ = $0.insert(index) } }
                } catch { results.withLock { $0[index] = error } }
            }
        } catch { return paths.map { _ in error } }
        // What is in them may have been in the list too; the inner ones go first.
        let found = directories.withLock { $0 }
        for index in found.sorted(by: { paths[$0].bytes.count > paths[$1].bytes.count }) {
            do throws(StoreError) { try deleteDirectory(paths[index]) } catch {
                results.withLock { $0[index] = error }
            }
        }
        return results.withLock { $0 }
    }

    /// Deletes a file; what is not there counts as deleted.
    ///
    /// - Returns: Whether this is a directory, which is still there: DELETE would delete all that is in it.
    private func deleteFile(_ deletion: Deletion) throws(StoreError) -> Bool {
        let path = deletion.path
        if path.isRoot { throw StoreError(.invalidArgument, "the root of a store cannot be deleted") }
        guard let there = try find(path) else { return false }
        if let version = deletion.version, version != there.version {
            throw StoreError.changed(path, version.text)
        }
        if there.kind == .directory { return true }
        var call = WebDAVCall(
            "DELETE", path, .requestsDelete, .storeDelete, action: "'\(path)' could not be deleted")
        call.accepted = [404, 410]
        _ = try send(call)
        return false
    }

    /// Deletes an empty directory. Where the server has locks nobody can put anything into it between the look and the
    /// deletion.
    private func deleteDirectory(_ path: StorePath) throws(StoreError) {
        guard traits.locks else { return try deleteDirectory(path, lockedBy: nil) }
        let token = try lock(path, isCollection: true, seconds: Self.lockSeconds)
        do throws(StoreError) { try deleteDirectory(path, lockedBy: token) } catch {
            // Why it failed is what counts; a lock that stays ends by itself.
            try? unlock(path, isCollection: true, token, mayBeGone: true)
            throw error
        }
        // Most servers end the lock with what it was on; rclone does not.
        try unlock(path, isCollection: true, token, mayBeGone: true)
    }

    private func deleteDirectory(_ path: StorePath, lockedBy token: String?) throws(StoreError) {
        var look = WebDAVCall(
            "PROPFIND", path, isCollection: true, .requestsList, .storeList,
            action: "the directory '\(path)' could not be looked into")
        look.accepted = [404, 410]
        let answer = try propfind(look, depth: 1)
        guard answer.status == 207 else { return }
        guard try WebDAVMultistatus(answer.body).resources.count <= 1 else {
            throw StoreError(.directoryNotEmpty, "the directory '\(path)' is not empty", path: path)
        }
        var call = WebDAVCall(
            "DELETE", path, isCollection: true, .requestsDelete, .storeDelete,
            action: "the directory '\(path)' could not be deleted")
        call.accepted = [404, 410]
        if let token { call.headers.append(("If", "<\(url(path, isCollection: true))> (<\(token)>)")) }
        do throws(StoreError) { _ = try send(call) } catch {
            // Apache can delete its own files in a directory, and then refuse to delete the directory, once.
            guard error.code == .accessDenied, token == nil else { throw error }
            _ = try send(call)
        }
    }
}
