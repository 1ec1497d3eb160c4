import FoundationEssentials
import Statistics
package import StoreAPI
import StoreHTTP
import Threading

extension OpenStackSwiftStore {
    /// The manifest of an object in segments goes first: half an object is never seen.
    package func deleteKeys(_ keys: [(index: Int, key: [UInt8])], of deletions: [Deletion]) -> [Int: StoreError] {
        let failures = Lock<[Int: StoreError]>([:])
        let segments = Lock<[Int: OpenStackSwiftSegments]>([:])
        do throws(StoreError) {
            if traits.mostSegments != nil {
                try session.parallel.run(keys.count, parallel: 16) { [self] (number) throws(StoreError) in
                    let (index, key) = keys[number]
                    guard key.last != UInt8(ascii: "/") else { return }
                    do throws(StoreError) {
                        let found = try head(key, deletions[index].path, isNewest: true, believesMiss: true)
                        if let own = found.flatMap({ OpenStackSwiftSegments($0, of: key) }) {
                            segments.withLock { $0[index] = own }
                        }
                    } catch { failures.withLock { $0[index] = error } }
                }
            }
            let refused = failures.withLock { $0 }
            let rest = keys.filter { refused[$0.index] == nil }
            try deleteObjects(rest.map(\.key), in: .own) { number, error in
                failures.withLock { $0[rest[number].index] = error }
            }
        } catch {
            return Dictionary(uniqueKeysWithValues: keys.map { ($0.index, error) })
        }
        let kept = failures.withLock { $0 }
        for (index, own) in segments.withLock({ $0 }) where kept[index] == nil { remove(own) }
        return kept
    }

    /// Deletes segments that no object has any more. Those for which that fails take room, and do no harm: what the
    /// caller wanted is done.
    func remove(_ segments: OpenStackSwiftSegments) {
        try? deleteObjects(segments.keys, in: .segments) { _, _ in }
    }

    /// - Parameter failed: Told for which keys it failed. What is not there counts as deleted.
    /// - Throws: ``StoreError``: when the store is being shut down.
    private func deleteObjects(
        _ keys: [[UInt8]], in container: OpenStackSwiftCall.Place, failed: @escaping @Sendable (Int, StoreError) -> Void
    ) throws(StoreError) {
        let size = traits.deleteBatch
        let batches = stride(from: 0, to: keys.count, by: size).map { $0..<min($0 + size, keys.count) }
        try session.parallel.run(batches.count, parallel: size > 1 ? 4 : 32) { [self] (number) throws(StoreError) in
            if batches[number].count > 1 {
                do throws(StoreError) {
                    if try deleteInBulk(keys[batches[number]], in: container) { return }
                } catch {
                    // What was too much for one request may be done by several, and one that refuses this kind of
                    // request may take others. What is out of reach is not asked for each.
                    guard error.code == .timedOut || !error.isTransient else {
                        for index in batches[number] { failed(index, error) }
                        return
                    }
                }
            }
            // One by one, and each repeated as any other request is.
            for index in batches[number] {
                var call = OpenStackSwiftCall(
                    "DELETE", keys[index], .requestsDelete, .storeDelete,
                    action: "'\(String(decoding: keys[index], as: UTF8.self))' could not be deleted")
                call.container = container
                call.accepted = [404]
                do throws(StoreError) { _ = try send(call) } catch { failed(index, error) }
            }
        }
    }

    /// - Returns: Whether all of them are gone.
    private func deleteInBulk(_ keys: ArraySlice<[UInt8]>, in container: OpenStackSwiftCall.Place) throws(StoreError)
        -> Bool
    {
        struct Answer: Decodable {
            var status: String
            var deleted: Int
            var missing: Int
            enum CodingKeys: String, CodingKey {
                case status = "Response Status"
                case deleted = "Number Deleted"
                case missing = "Number Not Found"
            }
        }
        var call = OpenStackSwiftCall(
            "POST", nil, .requestsDelete, .storeDelete, action: "\(keys.count) objects could not be deleted")
        call.container = nil
        call.query = [("bulk-delete", nil)]
        call.headers = [("Content-Type", "text/plain"), ("Accept", "application/json")]
        call.body = UploadBody(Array(keys.map { reference(container, $0) + "\n" }.joined().utf8))
        let response = try send(call)
        guard let answer = try? JSONDecoder().decode(Answer.self, from: Data(response.body)) else { return false }
        return answer.status.hasPrefix("200") && answer.deleted + answer.missing == keys.count
    }
}
