import Statistics
import StoreAPI
import StoreHTTP
import Threading

/// Locks of the server (RFC 4918, 6): what keeps two machines from writing under the same condition.
extension WebDAVStore {
    static let locks = StorePath(".cloudfusion/locks")!
    private static let lockCount = 64
    /// How long a lock lives when the machine that holds it has stopped.
    static let lockSeconds: Int64 = 60
    /// What an upload is expected to make at least, in bytes per second.
    private static let slowest: Int64 = 100_000

    /// Does something while no other CloudFusion writes `path` under a condition.
    ///
    /// - Parameter length: How many bytes are to be sent meanwhile.
    func withLock<Result>(of path: StorePath, length: Int64, _ body: () throws(StoreError) -> Result)
        throws(StoreError) -> Result
    {
        let number = Self.number(of: path)
        // Who is in this process waits here, and does not ask the server again and again.
        busyLocks.wait { busy -> Void? in busy.insert(number).inserted ? () : nil }
        defer { busyLocks.update { _ = $0.remove(number) } }
        let place = Self.locks.appending(FileName("\(number)")!)
        let token = try lock(place, isCollection: false, seconds: Self.lockSeconds + length / Self.slowest)
        let result: Result
        do throws(StoreError) { result = try body() } catch {
            // Why it failed is what counts; a lock that stays ends by itself.
            try? unlock(place, isCollection: false, token)
            throw error
        }
        try unlock(place, isCollection: false, token)
        return result
    }

    /// FNV-1a, so that all machines use the same lock for a path.
    private static func number(of path: StorePath) -> Int {
        let hash = path.bytes.reduce(0xcbf2_9ce4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01b3 }
        return Int(hash % UInt64(lockCount))
    }

    /// Takes an exclusive lock, as soon as whoever has it gives it back.
    ///
    /// - Returns: Its token.
    /// - Throws: ``StoreError``: `.unavailable` when somebody else keeps it.
    func lock(_ path: StorePath, isCollection: Bool, seconds: Int64) throws(StoreError) -> String {
        var limit = state.withLock { $0.tuning.overallTimeout }
        var wait = Duration.milliseconds(5)
        while true {
            let response = try tryLock(path, isCollection: isCollection, seconds: seconds)
            if [404, 409, 500].contains(response.status), let parent = path.parent, !parent.isRoot {
                // The folder of the locks is missing; rclone calls that a fault of its own.
                try makeDirectory(parent)
            } else if response.status != 423 {
                guard let token = response["Lock-Token"]?.trimmingSpaces(), token.hasPrefix("<"), token.hasSuffix(">")
                else { throw StoreError(.internal, "the server locked '\(path)' without a token", path: path) }
                return String(token.dropFirst().dropLast())
            }
            guard limit > .zero else {
                throw StoreError(.unavailable, "'\(path)' on the server is locked by somebody else", path: path)
            }
            guard pausing.pause(for: wait) else {
                throw StoreError(.cancelled, "the connection to the store is being shut down", path: path)
            }
            limit -= wait
            wait = .milliseconds(Int64.random(in: 5...200))
        }
    }

    /// - Returns: An answer with a token, or with status 404, 409, 423 or 500.
    func tryLock(_ path: StorePath, isCollection: Bool, seconds: Int64) throws(StoreError) -> HTTPResponse {
        var writer = XMLWriter()
        writer.element("D:lockinfo", attributes: [("xmlns:D", "DAV:")]) { info in
            info.element("D:lockscope") { $0.element("D:exclusive") { _ in } }
            info.element("D:locktype") { $0.element("D:write") { _ in } }
            info.element("D:owner", "CloudFusion")
        }
        var call = WebDAVCall("LOCK", path, isCollection: isCollection, action: "'\(path)' could not be locked")
        call.headers = [
            ("Depth", isCollection ? "infinity" : "0"), ("Timeout", "Second-\(seconds)"),
            ("Content-Type", "application/xml; charset=utf-8"),
        ]
        call.body = UploadBody(writer.bytes)
        call.accepted = [404, 409, 423, 500]
        return try send(call)
    }

    /// - Parameter mayBeGone: Whether what it was on may have taken it along.
    /// - Throws: ``StoreError``: `.unavailable` when the lock had ended before: what was done under it may have been
    ///   done beside somebody else.
    func unlock(_ path: StorePath, isCollection: Bool, _ token: String, mayBeGone: Bool = false) throws(StoreError) {
        var call = WebDAVCall("UNLOCK", path, isCollection: isCollection, action: "'\(path)' could not be unlocked")
        call.headers = [("Lock-Token", "<\(token)>")]
        call.accepted = [400, 403, 404, 409, 412, 424]
        let response = try send(call)
        guard mayBeGone || (200..<300).contains(response.status) else {
            throw StoreError(
                .unavailable, "the lock '\(path)' on the server ended before the work under it did", path: path,
                cause: response.summary)
        }
    }
}
