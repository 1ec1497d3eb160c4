import CCurl
import Statistics
import StoreAPI
import Threading

/// The one thread that runs all transfers of an ``HTTPClient``, around a libcurl multi handle.
///
/// Others reach it through ``inbox`` and `curl_multi_wakeup` alone. Its lock is never held while a callback runs.
///
/// Source: libcurl-multi(3), curl_multi_poll(3), curl_multi_wakeup(3), curl_easy_pause(3).
final class HTTPEngine: @unchecked Sendable {
    private struct Inbox {
        var transfers: [HTTPTransfer] = []
        var tuning: StoreTuning?
        var wantsReconnect = false
        var isStopping = false
        /// The multi handle is gone: nobody may wake it.
        var isOver = false
    }

    private let inbox = Lock(Inbox())
    private let multi: UnsafeMutableRawPointer
    private let statistics: Statistics

    // MARK: Engine thread only

    let options: HTTPClientOptions
    let authorities: String?
    private(set) var tuning: StoreTuning
    var upload: TokenBucket
    var download: TokenBucket
    /// Bytes that the statistics have not been told of.
    var uploaded: Int64 = 0
    var downloaded: Int64 = 0
    private var told = MonotonicTime(nanoseconds: 0)
    private var waiting = Queue<HTTPTransfer>()
    private var active: [UnsafeMutableRawPointer: HTTPTransfer] = [:]
    /// How many, active or waiting, may be called off by their caller.
    private var revocable = 0
    private var idleHandles: [UnsafeMutableRawPointer] = []
    private var pausedSending = Queue<HTTPTransfer>()
    private var pausedReceiving = Queue<HTTPTransfer>()
    /// Hosts that took a large body without answering `100 Continue` first: the wait for it is spared.
    private(set) var hostsWithoutContinue: Set<String> = []
    /// Connections made before this moment of the machine's clock are not used for new requests.
    private(set) var reconnected: MonotonicTime?
    /// A clock that stands still while this thread is kept from its work (a sink on a slow disk, a suspended
    /// machine), so that servers are not blamed for it.
    private(set) var now = MonotonicTime(nanoseconds: 1)
    private var turned = MonotonicTime.now
    private var checked = MonotonicTime(nanoseconds: 0)

    private static let libcurl: Void = { precondition(curl_global_init(Int(CURL_GLOBAL_ALL)) == CURLE_OK) }()

    init(_ options: HTTPClientOptions, statistics: Statistics) {
        _ = Self.libcurl
        self.options = options
        self.statistics = statistics
        authorities = options.trustedAuthorities()
        tuning = options.tuning
        upload = TokenBucket(rate: options.tuning.uploadRate)
        download = TokenBucket(rate: options.tuning.downloadRate)
        multi = curl_multi_init()
        applyConnectionLimit()
    }

    // MARK: From any thread

    func submit(_ transfer: HTTPTransfer) {
        let isTaken = inbox.withLock { inbox in
            guard !inbox.isStopping else { return false }
            inbox.transfers.append(transfer)
            if inbox.transfers.count == 1 { curl_multi_wakeup(multi) }
            return true
        }
        if !isTaken { transfer.complete(.failure(Self.isShutDown)) }
    }

    func tune(_ tuning: StoreTuning) { tell { $0.tuning = tuning } }
    func reconnect() { tell { $0.wantsReconnect = true } }
    func stop() { tell { $0.isStopping = true } }

    private func tell(_ change: (inout Inbox) -> Void) {
        inbox.withLock { inbox in
            change(&inbox)
            if !inbox.isOver { curl_multi_wakeup(multi) }
        }
    }

    private static let isShutDown = StoreError(.cancelled, "the connection to the store is being shut down")

    // MARK: The thread

    func run() {
        while takeInbox() {
            admit()
            var running: Int32 = 0
            curl_multi_perform(multi, &running)
            turn()
            takeResults()
            checkAll()
            resumePaused()
            tellStatistics()
            curl_multi_poll(multi, nil, 0, pause(), nil)
            turn()
        }
        for transfer in active.values { end(transfer, .failure(Self.isShutDown)) }
        while let transfer = waiting.pop() { finish(transfer, .failure(Self.isShutDown)) }
        tellStatistics(atOnce: true)
        for handle in idleHandles { curl_easy_cleanup(handle) }
        let late = inbox.withLock { inbox in
            inbox.isOver = true
            curl_multi_cleanup(multi)
            return inbox.transfers
        }
        for transfer in late { transfer.complete(.failure(Self.isShutDown)) }
    }

    /// - Returns: false when it is time to stop.
    private func takeInbox() -> Bool {
        let (transfers, tuning, wantsReconnect, isStopping) = inbox.withLock { inbox in
            defer {
                if !inbox.isStopping { inbox = Inbox() }
            }
            return (inbox.isStopping ? [] : inbox.transfers, inbox.tuning, inbox.wantsReconnect, inbox.isStopping)
        }
        if let tuning {
            self.tuning = tuning
            upload.setRate(tuning.uploadRate, at: .now)
            download.setRate(tuning.downloadRate, at: .now)
            applyConnectionLimit()
        }
        if wantsReconnect { reconnected = .now }
        for transfer in transfers {
            waiting.push(transfer)
            if transfer.request.isWanted != nil { revocable += 1 }
        }
        return !isStopping
    }

    private func applyConnectionLimit() {
        let connections = max(tuning.connections, 1)
        cf_curl_multi_set_long(multi, CURLMOPT_MAXCONNECTS, connections)
        cf_curl_multi_set_long(multi, CURLMOPT_MAX_HOST_CONNECTIONS, connections)
    }

    private func admit() {
        while active.count < max(tuning.connections, 1), let transfer = waiting.pop() {
            if transfer.isRevoked {
                finish(transfer, .failure(transfer.isCancelled))
                continue
            }
            guard let handle = idleHandles.popLast() ?? curl_easy_init() else {
                finish(transfer, .failure(Self.hasNoMemory))
                continue
            }
            transfer.engine = self
            guard transfer.configure(handle, isCrowded: active.count >= 16),
                curl_multi_add_handle(multi, handle) == CURLM_OK
            else {
                transfer.release()
                curl_easy_cleanup(handle)
                finish(transfer, .failure(Self.hasNoMemory))
                continue
            }
            transfer.begin(at: now)
            active[handle] = transfer
            statistics.add(transfer.request.counter)
        }
    }

    private static let hasNoMemory = StoreError(.internal, "no memory for another HTTP request")

    /// Lets the clock go on, by at most a second at a time.
    private func turn() {
        let time = MonotonicTime.now
        now = now + min(time - turned, .milliseconds(1100))
        turned = time
    }

    private func takeResults() {
        var remaining: Int32 = 0
        while let message = curl_multi_info_read(multi, &remaining) {
            guard message.pointee.msg == CURLMSG_DONE, let transfer = active[message.pointee.easy_handle] else {
                continue
            }
            let result = transfer.result(of: message.pointee.data.result)
            if transfer.expectsContinue, !transfer.sawContinue, (200..<300).contains(transfer.status) {
                hostsWithoutContinue.insert(transfer.host)
            }
            end(transfer, result)
        }
    }

    /// Takes a transfer out of libcurl and wakes its caller.
    private func end(_ transfer: HTTPTransfer, _ result: Result<HTTPResponse, StoreError>) {
        guard let handle = transfer.handle else { return }
        transfer.tellAttempt()
        curl_multi_remove_handle(multi, handle)
        active[handle] = nil
        transfer.release()
        if idleHandles.count < max(tuning.connections, 1) {
            curl_easy_reset(handle)
            idleHandles.append(handle)
        } else {
            curl_easy_cleanup(handle)
        }
        tellStatistics(atOnce: true)
        statistics.record(max(turned - transfer.startedAt, .zero), for: transfer.request.operation)
        switch result {
        case .success(let response) where response.isFault: statistics.add(.requestsFailed)
        case .failure(let error) where error.code != .cancelled: statistics.add(.requestsFailed)
        default: break
        }
        finish(transfer, result)
    }

    /// Wakes the caller of a transfer that is in libcurl no more.
    private func finish(_ transfer: HTTPTransfer, _ result: Result<HTTPResponse, StoreError>) {
        if transfer.request.isWanted != nil { revocable -= 1 }
        transfer.complete(result)
    }

    /// Ends what is no longer wanted or has stood still for too long; ten times a second at most.
    private func checkAll() {
        guard now - checked >= .milliseconds(100) else { return }
        checked = now
        for transfer in Array(active.values) {
            guard let error = transfer.check(at: now) else { continue }
            // The network may have changed under the connections that rest in the pool, too.
            if error.code == .timedOut { reconnected = .now }
            end(transfer, .failure(error))
        }
        if revocable > 0 {
            for transfer in waiting.removeAll(where: { $0.request.isWanted?() == false }) {
                finish(transfer, .failure(transfer.isCancelled))
            }
        }
    }

    // MARK: Rate limits

    func noteSendingPaused(_ transfer: HTTPTransfer) { pausedSending.push(transfer) }
    func noteReceivingPaused(_ transfer: HTTPTransfer) { pausedReceiving.push(transfer) }

    /// Lets transfers go on that wait for the rate limits, in the order in which they began to wait.
    private func resumePaused() {
        for _ in 0..<pausedSending.count where upload.available(at: .now) > 0 {
            guard let transfer = pausedSending.pop() else { break }
            transfer.isSendingPaused = false
            resume(transfer)
        }
        for _ in 0..<pausedReceiving.count where download.available(at: .now) > 0 {
            guard let transfer = pausedReceiving.pop() else { break }
            transfer.isReceivingPaused = false
            resume(transfer)
        }
    }

    /// What libcurl could not do with bytes that it had kept, it tells here and nowhere else. That a transfer has no
    /// connection at this moment is no fault of it.
    private func resume(_ transfer: HTTPTransfer) {
        let code = transfer.resume()
        if code != CURLE_OK, code != CURLE_BAD_FUNCTION_ARGUMENT { end(transfer, transfer.result(of: code)) }
    }

    /// How long to wait for something to happen, in milliseconds.
    private func pause() -> Int32 {
        var pause = active.isEmpty ? 60_000 : 1000
        if revocable > 0 { pause = min(pause, 200) }
        for (paused, bucket) in [(pausedSending, \HTTPEngine.upload), (pausedReceiving, \HTTPEngine.download)]
        where !paused.isEmpty {
            let wait = self[keyPath: bucket].wait(at: .now)
            pause = min(pause, max(Int(wait.nanoseconds / 1_000_000), 1))
        }
        return Int32(pause)
    }

    private func tellStatistics(atOnce: Bool = false) {
        guard uploaded > 0 || downloaded > 0, atOnce || turned - told >= .milliseconds(200) else { return }
        told = turned
        if uploaded > 0 { statistics.add(.bytesSent, uploaded) }
        if downloaded > 0 { statistics.add(.bytesReceived, downloaded) }
        uploaded = 0
        downloaded = 0
    }
}

extension HTTPResponse {
    /// Whether the answer counts as a failed request: not for what a store is asked in order to find out.
    var isFault: Bool { status >= 400 && ![404, 409, 412, 416].contains(status) }
}
