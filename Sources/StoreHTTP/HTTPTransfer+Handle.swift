import CCurl
import Glibc
import Statistics
import StoreAPI
import Threading

/// What a transfer is held to, on ``HTTPEngine/now``.
struct HTTPLimits {
    /// Whether bytes have moved since the last look.
    private var hasMoved = false
    private var quietSince = MonotonicTime(nanoseconds: 0)
    private var unacknowledged: Int32?

    mutating func noteMoved(_ bytes: Int) { if bytes > 0 { hasMoved = true } }

    /// - Parameter unacknowledged: Bytes that the kernel holds and the server has not confirmed: when their number
    ///   changes, something moves although libcurl sees nothing of it.
    /// - Returns: How long nothing has moved.
    mutating func quiet(at now: MonotonicTime, unacknowledged: Int32) -> Duration {
        if hasMoved || unacknowledged != self.unacknowledged {
            hasMoved = false
            self.unacknowledged = unacknowledged
            quietSince = now
        }
        return now - quietSince
    }
}

extension HTTPTransfer {
    /// Prepares `handle`, which is fresh or reset.
    ///
    /// - Parameter isCrowded: Many transfers run: buffers are smaller, so that memory stays flat.
    /// - Returns: false when there is no memory for all of it. It must not be sent then: a condition may be missing.
    func configure(_ handle: UnsafeMutableRawPointer, isCrowded: Bool) -> Bool {
        self.handle = handle
        hasMemory = true
        let me = Unmanaged.passUnretained(self).toOpaque()
        cf_curl_set_pointer(handle, CURLOPT_PRIVATE, me)
        cf_curl_set_long(handle, CURLOPT_NOSIGNAL, 1)
        cf_curl_set_long(handle, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1)
        cf_curl_set_long(handle, CURLOPT_TCP_NODELAY, 1)
        cf_curl_set_long(handle, CURLOPT_TCP_KEEPALIVE, 1)
        cf_curl_set_long(handle, CURLOPT_TCP_KEEPIDLE, 30)
        cf_curl_set_long(handle, CURLOPT_TCP_KEEPINTVL, 10)
        // Names of objects may hold `/../`.
        cf_curl_set_long(handle, CURLOPT_PATH_AS_IS, 1)
        cf_curl_restrict_protocols(handle)
        cf_curl_set_quick_exit(handle)
        // A request that is given up must not be carried out later, when the network is back: after its repetition,
        // say, or after the deletion of what it writes.
        cf_curl_end_with_reset(handle)
        set(handle, CURLOPT_URL, request.url)
        set(handle, CURLOPT_USERAGENT, engine.options.userAgent)
        cf_curl_set_long(handle, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1)
        cf_curl_set_pointer(handle, CURLOPT_ERRORBUFFER, errorText)
        cf_curl_set_long(
            handle, CURLOPT_CONNECTTIMEOUT_MS, Int(engine.tuning.connectTimeout.nanoseconds / 1_000_000))
        configureSecurity(handle)
        configureConnection(handle)
        configureBody(handle, isCrowded: isCrowded)
        configureHeaders(handle)

        cf_curl_set_data_function(handle, CURLOPT_HEADERFUNCTION, takeHeaderLine)
        cf_curl_set_pointer(handle, CURLOPT_HEADERDATA, me)
        cf_curl_set_data_function(handle, CURLOPT_WRITEFUNCTION, takeBodyBytes)
        cf_curl_set_pointer(handle, CURLOPT_WRITEDATA, me)
        return hasMemory
    }

    /// Sets what libcurl makes a copy of.
    private func set(_ handle: UnsafeMutableRawPointer, _ option: CURLoption, _ value: String) {
        if cf_curl_set_string(handle, option, value) == CURLE_OUT_OF_MEMORY { hasMemory = false }
    }

    private func configureSecurity(_ handle: UnsafeMutableRawPointer) {
        cf_curl_set_long(handle, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2)
        if let authorities = engine.authorities {
            var status = stat()
            let isDirectory = stat(authorities, &status) == 0 && status.st_mode & Glibc.S_IFMT == Glibc.S_IFDIR
            set(handle, isDirectory ? CURLOPT_CAPATH : CURLOPT_CAINFO, authorities)
            set(handle, isDirectory ? CURLOPT_PROXY_CAPATH : CURLOPT_PROXY_CAINFO, authorities)
        }
    }

    private func configureConnection(_ handle: UnsafeMutableRawPointer) {
        if let proxy = engine.options.proxy { set(handle, CURLOPT_PROXY, proxy) }
        // libcurl sends a request once more by itself when a connection that it had kept turns out to be dead.
        if !request.isRepeatable { cf_curl_set_long(handle, CURLOPT_FRESH_CONNECT, 1) }
        // Connections older than the last reconnect are closed instead of used; libcurl counts whole seconds, and
        // drops what rests for two minutes anyhow.
        if let reconnected = engine.reconnected {
            let age = Int((MonotonicTime.now - reconnected).nanoseconds / 1_000_000_000)
            if age < 2 {
                cf_curl_set_long(handle, CURLOPT_FRESH_CONNECT, 1)
            } else if age < 130 {
                cf_curl_set_long(handle, CURLOPT_MAXLIFETIME_CONN, age - 1)
            }
        }
    }

    private func configureBody(_ handle: UnsafeMutableRawPointer, isCrowded: Bool) {
        let large = isCrowded ? 256 << 10 : 512 << 10
        cf_curl_set_long(handle, CURLOPT_BUFFERSIZE, request.sink == nil ? 32 << 10 : large)
        if request.method == "HEAD" {
            cf_curl_set_long(handle, CURLOPT_NOBODY, 1)
        } else if body.length > 0 || ["PUT", "POST", "PATCH"].contains(request.method) {
            let me = Unmanaged.passUnretained(self).toOpaque()
            cf_curl_set_long(handle, CURLOPT_UPLOAD, 1)
            cf_curl_set_size(handle, CURLOPT_INFILESIZE_LARGE, Int(body.length))
            cf_curl_set_long(
                handle, CURLOPT_UPLOAD_BUFFERSIZE, body.length > Self.bulk ? large : max(16 << 10, Int(body.length)))
            cf_curl_set_data_function(handle, CURLOPT_READFUNCTION, giveBodyBytes)
            cf_curl_set_pointer(handle, CURLOPT_READDATA, me)
            cf_curl_set_seek_function(handle, seekBody)
            cf_curl_set_pointer(handle, CURLOPT_SEEKDATA, me)
            set(handle, CURLOPT_CUSTOMREQUEST, request.method)
            // Half a second instead of one for servers that never say "100 Continue": see hostsWithoutContinue.
            cf_curl_set_long(handle, CURLOPT_EXPECT_100_TIMEOUT_MS, 500)
        } else if request.method != "GET" {
            set(handle, CURLOPT_CUSTOMREQUEST, request.method)
        }
    }

    private func configureHeaders(_ handle: UnsafeMutableRawPointer) {
        for (name, value) in request.headers where name.lowercased() != "content-length" {
            // libcurl takes "Name:" as an order to leave the header out and "Name;" as an empty one.
            append(header: value.isEmpty ? "\(name);" : "\(name): \(value)")
        }
        // With leave asked first, a refusal (a failed condition, SlowDown, a redirect) costs no transfer of the body
        // and its answer is not lost in a reset. For a small body it would cost a round trip more than it saves.
        expectsContinue = body.length > Self.bulk && !engine.hostsWithoutContinue.contains(host)
        append(header: expectsContinue ? "Expect: 100-continue" : "Expect:")
        cf_curl_set_pointer(handle, CURLOPT_HTTPHEADER, headerList)
    }

    private func append(header: String) {
        if let longer = curl_slist_append(headerList, header) { headerList = longer } else { hasMemory = false }
    }

    func begin(at now: MonotonicTime) {
        begun = now
        startedAt = .now
    }

    /// Gives back what belongs to the handle.
    func release() {
        curl_slist_free_all(headerList)
        headerList = nil
        handle = nil
        engine = nil
    }

    /// Goes on after a pause, in the directions that are not paused any more.
    func resume() -> CURLcode {
        guard let handle else { return CURLE_OK }
        limits.noteMoved(1)
        let mask = (isSendingPaused ? CURLPAUSE_SEND : 0) | (isReceivingPaused ? CURLPAUSE_RECV : 0)
        return curl_easy_pause(handle, mask)
    }

    func tellAttempt() {
        guard let handle, let attempt = request.attempt else { return }
        attempt.note(
            mayHaveBeenSent: cf_curl_get_long(handle, CURLINFO_REQUEST_SIZE) > 0, bytesMoved: bytesMoved)
    }

    /// - Returns: Why the transfer has to end now; nil when it may go on.
    func check(at now: MonotonicTime) -> StoreError? {
        guard let handle else { return nil }
        if isRevoked { return isCancelled }
        if isSendingPaused || isReceivingPaused { limits.noteMoved(1) }
        let quiet = limits.quiet(at: now, unacknowledged: body.length > 0 ? cf_curl_unacknowledged(handle) : 0)
        let tuning = engine.tuning
        let limit: Duration
        if cf_curl_get_long(handle, CURLINFO_REQUEST_SIZE) == 0 {
            // Connecting has its own limit, libcurl's.
            limit = max(tuning.stallTimeout, tuning.connectTimeout + .seconds(1))
        } else if status == 0 || status == 100, body.position == body.length, mayThinkLong {
            limit = max(tuning.stallTimeout, tuning.overallTimeout)
        } else {
            limit = tuning.stallTimeout
        }
        if quiet >= limit { return StoreError(.timedOut, "\(host) has been silent for \(seconds(limit)) s (\(what))") }
        let total = request.timeLimit ?? tuning.overallTimeout
        if !isBulk, now - begun >= total {
            return StoreError(.timedOut, "\(host) did not finish its answer within \(seconds(total)) s (\(what))")
        }
        return nil
    }

    /// Copies inside the store, the end of a multipart upload and large bodies are worked on before the answer comes.
    private var mayThinkLong: Bool {
        body.length > Self.bulk || request.operation == .storeCopy || request.counter == .requestsMultipart
    }

    /// Method and URL, for messages; without what may be secret: a user with password, a query with a signature.
    var what: String {
        let url = request.url.prefix { $0 != "?" }
        let parts = url.split(separator: "/", maxSplits: 2, omittingEmptySubsequences: true)
        guard parts.count > 1 else { return "\(request.method) \(url)" }
        return "\(request.method) \(parts[0])//\(host)/\(parts.count > 2 ? parts[2] : "")"
    }

    /// Whether nobody wants the result any more, and it can still be helped. What a server has had all of, it carries out
    /// whether anybody waits for the answer or not, perhaps after what is asked of it next: so that is waited for.
    var isRevoked: Bool {
        guard let isWanted = request.isWanted else { return false }
        if body.length > 0, body.position == body.length { return false }
        return !isWanted()
    }

    var isCancelled: StoreError { StoreError(.cancelled, "the request is no longer wanted (\(what))") }
}

func seconds(_ duration: Duration) -> String {
    let tenths = (duration.nanoseconds + 50_000_000) / 100_000_000
    return tenths % 10 == 0 ? "\(tenths / 10)" : "\(tenths / 10).\(tenths % 10)"
}

// MARK: C callbacks

private func transfer(_ pointer: UnsafeMutableRawPointer?) -> HTTPTransfer {
    Unmanaged<HTTPTransfer>.fromOpaque(pointer!).takeUnretainedValue()
}

private func takeHeaderLine(
    _ bytes: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ context: UnsafeMutableRawPointer?
) -> Int {
    transfer(context).takeHeader(UnsafeRawBufferPointer(start: bytes, count: size * count))
    return size * count
}

private func takeBodyBytes(
    _ bytes: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ context: UnsafeMutableRawPointer?
) -> Int {
    transfer(context).takeBody(UnsafeRawBufferPointer(start: bytes, count: size * count))
}

private func giveBodyBytes(
    _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int, _ count: Int, _ context: UnsafeMutableRawPointer?
) -> Int {
    transfer(context).giveBody(UnsafeMutableRawBufferPointer(start: buffer, count: size * count))
}

private func seekBody(_ context: UnsafeMutableRawPointer?, _ offset: curl_off_t, _ origin: Int32) -> Int32 {
    guard origin == SEEK_SET else { return CURL_SEEKFUNC_CANTSEEK }
    return transfer(context).rewindBody(to: Int64(offset)) ? CURL_SEEKFUNC_OK : CURL_SEEKFUNC_FAIL
}
