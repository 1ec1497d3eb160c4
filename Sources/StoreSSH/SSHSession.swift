import CSSH2
import Glibc
import StoreAPI
import Threading

/// A connection to an SSH server: made, its host key verified, let in, and with a channel to its sftp-server.
///
/// Used by one thread at a time, since libssh2 asks for that. Never blocks for longer than it is told to; but for an
/// agent, which may ask a person.
///
/// Source: <https://libssh2.org/docs.html>; libssh2_session_block_directions(3).
final class SSHSession {
    /// How long something may take, and whether it is still wanted.
    struct Patience {
        var deadline: MonotonicTime
        var isWanted: () -> Bool
    }

    let socket: Int32
    private let session: OpaquePointer
    private var channel: OpaquePointer?
    private let endpoint: SSHEndpoint
    private var patience: Patience
    private var isEnded = false

    /// What the server may send before it is told that it was read, in bytes: at 30 ms of delay 260 MB a second.
    private static let window: UInt32 = 8 << 20

    private static let library: Int32 = libssh2_init(0)

    /// - Throws: ``StoreError``: `.unavailable`, `.timedOut`, `.certificateRejected` for a host key that is not known,
    ///   `.authenticationFailed`, `.unsupported` for a server without SFTP, `.cancelled`.
    init(_ endpoint: SSHEndpoint, connectTimeout: Duration, _ patience: Patience) throws(StoreError) {
        guard Self.library == 0, let session = libssh2_session_init_ex(nil, nil, nil, nil) else {
            throw StoreError(.internal, "no memory for an SSH connection")
        }
        self.endpoint = endpoint
        self.patience = patience
        do throws(StoreError) {
            socket = try TCP.connect(endpoint, timeout: connectTimeout, patience)
        } catch {
            libssh2_session_free(session)
            throw error
        }
        self.session = session
        libssh2_session_set_blocking(session, 0)
        do throws(StoreError) {
            let known = try readKnownHosts()
            try shakeHands(known)
            try verifyHost(known)
            try authenticate()
            try openChannel()
        } catch {
            end()
            throw error
        }
    }

    deinit { end() }

    /// Ends the connection; nothing is used of it afterwards.
    func end() {
        guard !isEnded else { return }
        isEnded = true
        // One attempt to say so; then nothing can block any more.
        libssh2_session_disconnect_ex(session, SSH_DISCONNECT_BY_APPLICATION, "closed", "")
        shutdown(socket, Int32(SHUT_RDWR))
        channel = nil
        for _ in 0..<100 where libssh2_session_free(session) != LIBSSH2_ERROR_EAGAIN { break }
        close(socket)
    }

    // MARK: Bytes of the channel

    enum Moved: Hashable {
        case bytes(Int)
        /// Nothing can be moved at the moment. When a packet is half sent, nothing else may be asked of libssh2 than the
        /// same again.
        case wait(isHalfSent: Bool)
        case end
    }

    /// Sends some of the bytes. After `.wait(isHalfSent: true)` it must be asked for the same bytes again.
    func send(_ bytes: ArraySlice<UInt8>) throws(StoreError) -> Moved {
        let count = bytes.withUnsafeBytes {
            libssh2_channel_write_ex(channel, 0, $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
        }
        if count > 0 { return .bytes(count) }
        if count == 0 || count == Int(LIBSSH2_ERROR_EAGAIN) { return .wait(isHalfSent: isHalfSent) }
        throw lost("sending", Int32(count))
    }

    func receive(into buffer: UnsafeMutableRawBufferPointer) throws(StoreError) -> Moved {
        let count = libssh2_channel_read_ex(
            channel, 0, buffer.baseAddress!.assumingMemoryBound(to: CChar.self), buffer.count)
        if count > 0 { return .bytes(count) }
        if count == Int(LIBSSH2_ERROR_EAGAIN) { return .wait(isHalfSent: isHalfSent) }
        if count == 0 { return libssh2_channel_eof(channel) != 0 ? .end : .wait(isHalfSent: isHalfSent) }
        throw lost("receiving", Int32(count))
    }

    private var isHalfSent: Bool {
        libssh2_session_block_directions(session) & LIBSSH2_SESSION_BLOCK_OUTBOUND != 0
    }

    // MARK: Making the connection

    private func readKnownHosts() throws(StoreError) -> KnownHosts {
        var known = KnownHosts()
        for path in endpoint.knownHostsFiles {
            guard let file = readFile(path) else {
                let number = errno
                if number == ENOENT, endpoint.knownHosts == nil { continue }
                throw StoreError(
                    .certificateRejected,
                    "the file of known hosts '\(path)' cannot be read: \(String(cString: strerror(number)))")
            }
            known.add(file, file: path)
        }
        return known
    }

    private func shakeHands(_ known: KnownHosts) throws(StoreError) {
        // A server shows one of its keys: it is asked for one of a kind that is known.
        let usual = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa"]
        let types = known.types(of: endpoint.host, port: endpoint.port) + usual
        let algorithms = types.flatMap { $0 == "ssh-rsa" ? ["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"] : [$0] }
        // Those that libssh2 does not know it leaves out; the first of two that are the same counts.
        libssh2_session_method_pref(session, LIBSSH2_METHOD_HOSTKEY, algorithms.joined(separator: ","))
        let code = try complete { libssh2_session_handshake(session, socket) }
        guard code != 0 else { return }
        if code == LIBSSH2_ERROR_KEX_FAILURE || code == LIBSSH2_ERROR_METHOD_NONE
            || code == LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE
        {
            throw StoreError(
                .unavailable,
                "\(endpoint.place) and libssh2 \(Self.version) have no algorithm in common, or their key exchange failed",
                cause: lastError)
        }
        throw StoreError(
            .unavailable, "\(endpoint.place) does not answer as an SSH server; check host and port, or try again later",
            cause: lastError)
    }

    private func verifyHost(_ known: KnownHosts) throws(StoreError) {
        var count = 0
        var type: Int32 = 0
        guard let start = libssh2_session_hostkey(session, &count, &type) else {
            throw StoreError(.certificateRejected, "\(endpoint.place) has shown no host key", cause: lastError)
        }
        let key = start.withMemoryRebound(to: UInt8.self, capacity: count) {
            Array(UnsafeBufferPointer(start: $0, count: count))
        }
        let name = KnownHosts.name(of: endpoint.host, port: endpoint.port)
        let file = endpoint.knownHostsFiles[0]
        let shown = "\(KnownHosts.type(of: key)) \(KnownHosts.fingerprint(key))"
        let scan = "ssh-keyscan -p \(endpoint.port) \(endpoint.host) >> \(file)"
        switch known.check(key, of: endpoint.host, port: endpoint.port) {
        case .known: return
        case .unknown(let others):
            let rest =
                others.isEmpty
                ? "" : "; of this server only keys of other kinds are known (\(others.joined(separator: ", ")))"
            throw StoreError(
                .certificateRejected,
                "the host key of \(endpoint.place) is not known: \(shown)\(rest). If whoever runs the server says that "
                    + "this is its fingerprint, make it known: \(scan)")
        case .changed(let place, let fingerprint):
            throw StoreError(
                .certificateRejected,
                "the host key of \(endpoint.place) has changed: it is \(shown), and in \(place) stands \(fingerprint). "
                    + "Somebody may be listening in. If whoever runs the server says that it has a new key, take out the "
                    + "old one (ssh-keygen -R '\(name)' -f \(file)) and make the new one known: \(scan)")
        case .revoked(let place):
            throw StoreError(
                .certificateRejected,
                "the host key of \(endpoint.place) is marked as revoked in \(place): \(shown). It must not be trusted")
        }
    }

    private func openChannel() throws(StoreError) {
        let session = session
        var opened: OpaquePointer?
        let code = try complete {
            opened = cf_ssh_open_channel(session, Self.window)
            return opened == nil ? libssh2_session_last_errno(session) : 0
        }
        guard code == 0, let opened else {
            throw StoreError(
                code == LIBSSH2_ERROR_CHANNEL_FAILURE ? .accessDenied : .unavailable,
                "\(endpoint.place) lets '\(endpoint.user)' in and opens no session", cause: lastError)
        }
        channel = opened
        // What a server says on the side would fill the window.
        _ = try complete {
            libssh2_channel_handle_extended_data2(opened, LIBSSH2_CHANNEL_EXTENDED_DATA_IGNORE)
        }
        let started = try complete { cf_ssh_start_subsystem(opened, "sftp") }
        guard started == 0 else {
            if isLost(started) { throw lost("opening SFTP", started) }
            throw StoreError(
                .unsupported,
                "\(endpoint.place) offers no SFTP to '\(endpoint.user)': sshd_config needs a line 'Subsystem sftp internal-sftp'",
                cause: lastError)
        }
    }

    // MARK: Waiting

    /// Calls `body` until it answers something other than EAGAIN.
    private func complete(_ body: () -> Int32) throws(StoreError) -> Int32 {
        while true {
            let code = body()
            guard code == LIBSSH2_ERROR_EAGAIN else { return code }
            let directions = libssh2_session_block_directions(session)
            var events: Int32 = 0
            if directions & LIBSSH2_SESSION_BLOCK_INBOUND != 0 { events |= POLLIN }
            if directions & LIBSSH2_SESSION_BLOCK_OUTBOUND != 0 { events |= POLLOUT }
            try TCP.wait(for: events, on: socket, patience, endpoint)
        }
    }

    // MARK: Errors

    static let version = String(cString: libssh2_version(0))

    private var lastError: String {
        var text: UnsafeMutablePointer<CChar>?
        let code = libssh2_session_last_error(session, &text, nil, 0)
        return "libssh2 \(code): \(text.map { String(cString: $0) } ?? "")"
    }

    private func isLost(_ code: Int32) -> Bool {
        [
            LIBSSH2_ERROR_SOCKET_DISCONNECT, LIBSSH2_ERROR_SOCKET_SEND, LIBSSH2_ERROR_SOCKET_RECV,
            LIBSSH2_ERROR_SOCKET_TIMEOUT, LIBSSH2_ERROR_TIMEOUT, LIBSSH2_ERROR_SOCKET_NONE,
        ].contains(code)
    }

    private func lost(_ what: String, _ code: Int32) -> StoreError {
        StoreError(.unavailable, "the connection to \(endpoint.place) was lost while \(what)", cause: lastError)
    }
}

// MARK: - Letting in

extension SSHSession {
    /// What is tried to be let in.
    private enum Attempt {
        case agent
        case keyFile(String, isNamed: Bool)
        case password(String)
    }

    /// A key file that is named, then a password; without both the agent's keys, then the usual files.
    private var attempts: [Attempt] {
        var attempts: [Attempt] = []
        if let file = endpoint.keyFile { attempts.append(.keyFile(file, isNamed: true)) }
        if let password = endpoint.password { attempts.append(.password(password)) }
        guard attempts.isEmpty else { return attempts }
        if endpoint.agent != nil { attempts.append(.agent) }
        return attempts + endpoint.usualKeyFiles.map { .keyFile($0, isNamed: false) }
    }

    private func authenticate() throws(StoreError) {
        let (session, user) = (session, endpoint.user)
        var listed: UnsafeMutablePointer<CChar>?
        let code = try complete {
            listed = libssh2_userauth_list(session, user, UInt32(user.utf8.count))
            if listed != nil || libssh2_userauth_authenticated(session) != 0 { return 0 }
            return libssh2_session_last_errno(session)
        }
        guard let listed else {
            // Some servers let people in who have proved nothing.
            if code == 0 { return }
            throw isLost(code) ? lost("being let in", code) : refused(["no method"], ["nothing: \(lastError)"])
        }
        let methods = String(cString: listed).split(separator: ",").map(String.init)
        var refusals: [String] = []
        for attempt in attempts {
            switch attempt {
            case .agent where methods.contains("publickey"):
                if try useAgent(&refusals) { return }
            case .keyFile(let path, let isNamed) where methods.contains("publickey"):
                if try useKeyFile(path, isNamed: isNamed, &refusals) { return }
            case .password(let password):
                if try usePassword(password, methods, &refusals) { return }
            default: continue
            }
        }
        throw refused(methods, refusals)
    }

    private func refused(_ methods: [String], _ refusals: [String]) -> StoreError {
        let tried = refusals.isEmpty ? "there was nothing to try" : "tried: " + refusals.joined(separator: "; ")
        return StoreError(
            .authenticationFailed,
            "\(endpoint.place) does not let '\(endpoint.user)' in (it takes \(methods.joined(separator: ", "))); \(tried). "
                + "Check user and key_file or password")
    }

    /// Whether the server lets the user in.
    private func isLetIn(_ code: Int32) throws(StoreError) -> Bool {
        if isLost(code) {
            throw StoreError(
                .authenticationFailed,
                "\(endpoint.place) has ended the connection instead of letting '\(endpoint.user)' in; perhaps too many "
                    + "keys were tried: name one by key_file", cause: lastError)
        }
        return code == 0
    }

    private func useKeyFile(_ path: String, isNamed: Bool, _ refusals: inout [String]) throws(StoreError) -> Bool {
        guard let text = readFile(path) else {
            let reason = String(cString: strerror(errno))
            if isNamed {
                throw StoreError(.authenticationFailed, "key_file '\(path)' cannot be read: \(reason)")
            }
            if errno != ENOENT { refusals.append("\(path) (\(reason))") }
            return false
        }
        guard let file = PrivateKeyFile(text) else {
            refusals.append("\(path) (this is no private key)")
            return false
        }
        if file.isEncrypted, endpoint.passphrase == nil {
            refusals.append("\(path) (it is encrypted: set passphrase, or add it to an agent)")
            return false
        }
        let (session, endpoint) = (session, endpoint)
        let code = try complete {
            libssh2_userauth_publickey_fromfile_ex(
                session, endpoint.user, UInt32(endpoint.user.utf8.count), nil, path, endpoint.passphrase)
        }
        if try isLetIn(code) { return true }
        if code == LIBSSH2_ERROR_FILE {
            refusals.append(
                "\(path) (" + (file.isEncrypted ? "the passphrase is wrong" : "libssh2 cannot use it") + ")")
        } else if file.isRSA, libssh2_version(0x01_0b_00) == nil {
            refusals.append(
                "\(path) (not accepted; libssh2 \(Self.version) signs RSA keys in a way that OpenSSH from 8.8 on refuses: "
                    + "use an Ed25519 key)")
        } else {
            refusals.append("\(path) (not accepted)")
        }
        return false
    }

    private func usePassword(
        _ password: String, _ methods: [String], _ refusals: inout [String]
    ) throws(StoreError) -> Bool {
        let (session, user) = (session, endpoint.user)
        if methods.contains("password") {
            let code = try complete {
                libssh2_userauth_password_ex(
                    session, user, UInt32(user.utf8.count), password, UInt32(password.utf8.count), nil)
            }
            if try isLetIn(code) { return true }
            refusals.append(
                code == LIBSSH2_ERROR_PASSWORD_EXPIRED ? "the password (it has expired)" : "the password (not accepted)"
            )
        } else if methods.contains("keyboard-interactive") {
            let code = try complete { cf_ssh_keyboard_interactive(session, user, password) }
            if try isLetIn(code) { return true }
            refusals.append("the password (not accepted)")
        } else {
            refusals.append("the password (the server takes none)")
        }
        return false
    }

    /// Asks an agent for its keys, and tries one after the other.
    private func useAgent(_ refusals: inout [String]) throws(StoreError) -> Bool {
        guard let agent = libssh2_agent_init(session) else { throw StoreError(.internal, "no memory for an SSH agent") }
        defer { libssh2_agent_free(agent) }
        if let path = endpoint.agent { libssh2_agent_set_identity_path(agent, path) }
        guard libssh2_agent_connect(agent) == 0, libssh2_agent_list_identities(agent) == 0 else {
            refusals.append("the agent (it does not answer)")
            return false
        }
        defer { libssh2_agent_disconnect(agent) }
        var last: UnsafeMutablePointer<libssh2_agent_publickey>?
        var count = 0
        while true {
            var next: UnsafeMutablePointer<libssh2_agent_publickey>?
            guard libssh2_agent_get_identity(agent, &next, last) == 0, let identity = next else { break }
            let user = endpoint.user
            let code = try complete { libssh2_agent_userauth(agent, user, identity) }
            if try isLetIn(code) { return true }
            count += 1
            last = identity
        }
        refusals.append(count == 0 ? "the agent (it has no keys)" : "\(count) keys of the agent (not accepted)")
        return false
    }
}

// MARK: - Sockets

enum TCP {
    /// A socket that is connected and does not block.
    static func connect(_ endpoint: SSHEndpoint, timeout: Duration, _ patience: SSHSession.Patience)
        throws(StoreError) -> Int32
    {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_ADDRCONFIG
        var found: UnsafeMutablePointer<addrinfo>?
        let code = getaddrinfo(endpoint.host, String(endpoint.port), &hints, &found)
        guard code == 0 else {
            throw StoreError(
                .unavailable,
                "the address of '\(endpoint.host)' cannot be found: \(String(cString: gai_strerror(code))); check host and the network"
            )
        }
        defer { freeaddrinfo(found) }
        var patience = patience
        patience.deadline = min(patience.deadline, .now + timeout)
        var failure = StoreError(.unavailable, "\(endpoint.place) has no address")
        var next = found
        while let address = next {
            do throws(StoreError) {
                return try connect(to: address.pointee, patience, endpoint)
            } catch {
                guard error.code != .cancelled else { throw error }
                failure = error
            }
            next = address.pointee.ai_next
        }
        throw failure
    }

    private static func connect(to address: addrinfo, _ patience: SSHSession.Patience, _ endpoint: SSHEndpoint)
        throws(StoreError) -> Int32
    {
        let type = address.ai_socktype | Int32(SOCK_NONBLOCK.rawValue) | Int32(SOCK_CLOEXEC.rawValue)
        let socket = Glibc.socket(address.ai_family, type, address.ai_protocol)
        guard socket >= 0 else { throw unreachable(errno, endpoint) }
        do throws(StoreError) {
            if Glibc.connect(socket, __CONST_SOCKADDR_ARG(__sockaddr__: address.ai_addr), address.ai_addrlen) != 0 {
                guard errno == EINPROGRESS else { throw unreachable(errno, endpoint) }
                try wait(for: POLLOUT, on: socket, patience, endpoint)
                var number: Int32 = 0
                var length = socklen_t(MemoryLayout<Int32>.size)
                getsockopt(socket, SOL_SOCKET, SO_ERROR, &number, &length)
                guard number == 0 else { throw unreachable(number, endpoint) }
            }
        } catch {
            close(socket)
            throw error
        }
        var on: Int32 = 1
        setsockopt(socket, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
        setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, socklen_t(MemoryLayout<Int32>.size))
        return socket
    }

    private static func unreachable(_ number: Int32, _ endpoint: SSHEndpoint) -> StoreError {
        StoreError(
            .unavailable,
            "\(endpoint.place) cannot be reached: \(String(cString: strerror(number))); check host, port and the network",
            cause: "errno \(number)")
    }

    /// Waits until something can be read or written.
    ///
    /// - Throws: ``StoreError``: `.timedOut`, `.cancelled`.
    static func wait(for events: Int32, on socket: Int32, _ patience: SSHSession.Patience, _ endpoint: SSHEndpoint)
        throws(StoreError)
    {
        while true {
            guard patience.isWanted() else {
                throw StoreError(.cancelled, "the connection to \(endpoint.place) is no longer wanted")
            }
            let left = patience.deadline - .now
            guard left > .zero else {
                throw StoreError(.timedOut, "\(endpoint.place) has not answered in time")
            }
            var asked = pollfd(fd: socket, events: Int16(events), revents: 0)
            let count = poll(&asked, 1, Int32(min(left.nanoseconds / 1_000_000 + 1, 200)))
            if count > 0 { return }
        }
    }
}
