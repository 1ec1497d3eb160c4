"""A proxy that makes a server on this machine look distant, narrow or broken.

    python3 -m rigs.delayproxy --to 127.0.0.1:9000 --latency-ms 15 --control net.control --log net.log

prints `PORT=12345` when it listens. --latency-ms is one way: 15 makes a round trip of 30 ms; a new connection costs
one round trip more, as TCP's handshake would. --mbit is one queue per direction, shared by all connections.

The file given as --control holds NAME=VALUE lines and is read again when it changes; what is in force is then
written to FILE.ack, byte by byte the same, so that a test can wait for it.
    latency-ms=15  mbit=100     as above; 0: none
    rate-refuse=0.1             so many of the requests are answered here (HTTP only), with
    refusal=503 SlowDown 2      this status and code, and Retry-After if there is a third word; but
    refused-kinds=PUT,LIST      only those of these kinds (see count_kinds), and
    refused-key=AKID            only those signed with this access key
    rate-reset=0.01             so many of the pieces that pass end their connection with a reset
    rate-corrupt=0.01           so many of the larger pieces of answers have a wrong bit near their end,
    rate-corrupt-up=0.01        and of requests
    rate-truncate=0.01          so many of the larger pieces of answers are cut short, and the connection ends there
    rate-stop=0.01              so many of the larger pieces of answers stop half-way, and nothing follows
    state=up|stall|refuse       stall: nothing passes, new connections wait; up lets all of it go on;
                                refuse: connections are reset and new ones refused
The --log has a JSON line per HTTP request: time, method, target, length, injected status.
"""

import argparse
import asyncio
import collections
import ctypes
import json
import os
import pathlib
import random
import selectors
import ssl
import struct
import sys
import time

PIECE = 256 << 10            # read at once
IN_FLIGHT = 64 << 20         # of one direction of one connection
QUEUE_SECONDS = 0.03         # how far ahead of the narrow line a sender may be


class PreciseSelector(selectors.EpollSelector):
    """epoll with timeouts better than its own millisecond, which would be an error of one in thirty here."""

    def __init__(self):
        super().__init__()
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.timer = self.libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self.timer, selectors.EVENT_READ)

    def select(self, timeout=None):
        wait = 0 if timeout is None else max(timeout, 0)
        seconds, nanoseconds = int(wait), int(wait % 1 * 1e9)
        # Setting it also takes back an expiry that nobody has read.
        self.libc.timerfd_settime(self.timer, 0, struct.pack("4q", 0, 0, seconds, nanoseconds), None)
        return super().select(0 if timeout is not None and seconds + nanoseconds == 0 else None)


class Network:
    """What the line between the two sides is like at the moment."""

    def __init__(self, latency_ms, mbit):
        self.values = {"latency-ms": float(latency_ms), "mbit": float(mbit), "rate-refuse": 0.0, "refusal": "503 SlowDown",
                       "refused-kinds": "", "refused-key": "", "rate-reset": 0.0, "rate-corrupt": 0.0,
                       "rate-corrupt-up": 0.0, "rate-truncate": 0.0, "rate-stop": 0.0, "state": "up"}
        self.free_at = {"up": 0.0, "down": 0.0}
        self.open = asyncio.Event()
        self.open.set()
        self.connections = set()

    @property
    def latency(self):
        return self.values["latency-ms"] / 1000

    def take(self, text):
        for line in text.splitlines():
            if line.startswith("#"):
                continue
            name, _, value = line.partition("=")
            if name not in self.values:
                print(f"delayproxy: no such setting: {line!r}", file=sys.stderr, flush=True)
            else:
                self.values[name] = type(self.values[name])(value)
        if self.values["state"] == "stall":
            self.open.clear()
        else:
            self.open.set()
        if self.values["state"] == "refuse":
            for connection in list(self.connections):
                connection.reset()

    async def through(self, direction, count):
        """Waits for the place in the queue of the narrow line; answers when the bytes are at the other end."""
        now = time.monotonic()
        if self.values["mbit"]:
            self.free_at[direction] = max(self.free_at[direction], now) + count * 8 / (self.values["mbit"] * 1e6)
            ahead = self.free_at[direction] - now
            if ahead > QUEUE_SECONDS:
                await asyncio.sleep(ahead - QUEUE_SECONDS)
            now = max(now, now + ahead)
        return now + self.latency


class Requests:
    """Finds the requests in what a client sends; says of each piece whether it goes to the server."""

    def __init__(self, on_request):
        self.on_request = on_request     # (method, target, headers) -> True: pass it on
        self.buffer = b""
        self.left = 0                    # of the body or of a transfer chunk
        self.state = "head"
        self.passing = True

    def feed(self, data):
        out = []
        self.buffer += data
        while self.buffer:
            if self.state == "body":
                piece, self.buffer = self.buffer[:self.left], self.buffer[self.left:]
                self.left -= len(piece)
                if self.left == 0:
                    self.state = "chunk" if self.chunked else "head"
            else:
                end = b"\r\n\r\n" if self.state == "head" else b"\r\n"
                at = self.buffer.find(end)
                if at < 0:
                    break
                piece, self.buffer = self.buffer[:at + len(end)], self.buffer[at + len(end):]
                if self.state == "head":
                    self.head(piece)
                elif self.state == "chunk":
                    size = int(piece.split(b";")[0], 16)
                    self.state, self.left = ("body", size + 2) if size else ("trailer", 0)
                elif piece == b"\r\n":
                    self.state = "head"
            if self.passing:
                out.append(piece)
        return b"".join(out)

    def head(self, head):
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, target, *_ = first.split(" ") + [""]
        self.chunked = "chunked" in headers.get("transfer-encoding", "")
        self.left = int(headers.get("content-length", 0))
        self.state = "chunk" if self.chunked else "body" if self.left else "head"
        self.passing = self.on_request(method, target, headers)
        if not self.passing and "expect" in headers:
            # Told 503 instead of 100, the client sends no body and closes.
            self.state, self.left, self.chunked = "body", 1 << 62, False


class Pipe(asyncio.Queue):
    """(arrival, bytes) under way in one direction; no bytes: the end."""

    waiting = 0                          # bytes


class Connection:
    def __init__(self, proxy, reader, writer):
        self.proxy, self.network = proxy, proxy.network
        self.client = (reader, writer)
        self.server = None
        self.answers = None              # queue of what goes to the client; refusals are put into it

    async def run(self):
        network = self.network
        network.connections.add(self)
        try:
            await network.open.wait()
            await asyncio.sleep(2 * network.latency)
            self.server = await asyncio.open_connection(*self.proxy.target, limit=PIECE)
            plain = self.proxy.log is None and not self.proxy.http
            requests = None if plain else Requests(self.request)
            up, self.answers = Pipe(), Pipe()
            tasks = [
                asyncio.create_task(work) for work in (
                    self.collect("up", self.client[0], up, requests), self.deliver(up, self.server[1]),
                    self.collect("down", self.server[0], self.answers, None),
                    self.deliver(self.answers, self.client[1]))]
            done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in rest:
                task.cancel()
            for task in done:
                task.exception()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            network.connections.discard(self)
            self.reset()

    async def collect(self, direction, reader, queue, requests):
        """Takes bytes from one side and says when they are to be at the other."""
        while True:
            data = await reader.read(PIECE)
            arrival = await self.network.through(direction, len(data))
            if data and random.random() < self.network.values["rate-reset"]:
                raise ConnectionResetError
            if self.strikes(data, "rate-corrupt" if direction == "down" else "rate-corrupt-up"):
                data = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
            ending = None
            if direction == "down":
                ending = "cut" if self.strikes(data, "rate-truncate") else "stop" if self.strikes(
                    data, "rate-stop") else None
                data = data[:len(data) // 2] if ending else data
            passed = requests.feed(data) if requests and data else data
            if passed or not data:
                queue.waiting += len(passed)
                queue.put_nowait((arrival, passed))
            while queue.waiting > IN_FLIGHT:
                await asyncio.sleep(0.005)
            if ending == "cut":
                queue.put_nowait((arrival, b""))
            elif ending == "stop":
                await asyncio.Event().wait()
            if ending or not data:
                return

    def strikes(self, data, rate):
        """Whether a fault is due; heads and the like are spared."""
        return len(data) > 2000 and random.random() < self.network.values[rate]

    async def deliver(self, queue, writer):
        while True:
            arrival, data = await queue.get()
            early = arrival - time.monotonic()
            if early > 0:
                await asyncio.sleep(early)
            await self.network.open.wait()
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                else:
                    writer.close()
                return
            queue.waiting -= len(data)
            writer.write(data)
            await writer.drain()

    def request(self, method, target, headers):
        values = self.network.values
        status, code, *after = values["refusal"].split()
        request = describe(method, target, headers)
        refuse = (
            random.random() < values["rate-refuse"]
            and (not values["refused-kinds"] or kind_of(request) in values["refused-kinds"].split(","))
            and (not values["refused-key"] or f"Credential={values['refused-key']}/" in headers.get("authorization", "")))
        self.proxy.note(request, int(status) if refuse else None)
        if not refuse:
            return True
        body = b"" if method == "HEAD" else f"<Error><Code>{code}</Code><Message>As told.</Message></Error>".encode()
        close = "Connection: close\r\n" if "expect" in headers else ""
        wait = f"Retry-After: {after[0]}\r\n" if after else ""
        head = (f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n{close}{wait}"
                f"Content-Length: {len(body)}\r\n\r\n")
        self.answers.waiting += len(head) + len(body)
        self.answers.put_nowait((time.monotonic() + 2 * self.network.latency, head.encode() + body))
        return False

    def reset(self):
        for side in (self.client, self.server):
            if side:
                side[1].transport.abort()


class Proxy:
    def __init__(self, arguments):
        host, _, port = arguments.to.rpartition(":")
        self.target = (host, int(port))
        self.network = Network(arguments.latency_ms, arguments.mbit)
        self.control = arguments.control
        self.log = open(arguments.log, "a", buffering=1) if arguments.log else None
        self.http = not arguments.tcp
        self.tls = None
        if arguments.tls_certificate:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(arguments.tls_certificate, arguments.tls_key)
        self.tasks = set()

    def note(self, request, status):
        if self.log:
            json.dump({"time": time.time(), **request, "status": status}, self.log)
            self.log.write("\n")

    async def accept(self, reader, writer):
        task = asyncio.current_task()
        self.tasks.add(task)             # the loop itself keeps only a weak reference
        task.add_done_callback(self.tasks.discard)
        await Connection(self, reader, writer).run()

    async def listen(self, port):
        server = await asyncio.start_server(
            self.accept, "127.0.0.1", port, ssl=self.tls, limit=PIECE, backlog=1024, reuse_address=True)
        return server, server.sockets[0].getsockname()[1]

    async def run(self, port):
        server, port = await self.listen(port)
        print(f"PORT={port}", flush=True)
        seen = None
        while True:
            await asyncio.sleep(0.025)
            try:
                text = pathlib.Path(self.control).read_text() if self.control else None
            except FileNotFoundError:
                continue
            if text == seen:
                continue
            seen = text
            self.network.take(text)
            if self.network.values["state"] == "refuse" and server:
                server.close()
                server = None
            elif self.network.values["state"] != "refuse" and server is None:
                server, _ = await self.listen(port)
            acknowledged = pathlib.Path(self.control + ".ack")
            acknowledged.with_suffix(".new").write_text(text)
            acknowledged.with_suffix(".new").replace(acknowledged)


def describe(method, target, headers):
    return {"method": method, "target": target, "length": int(headers.get("content-length", 0)),
            "range": headers.get("range"), "copy": "x-amz-copy-source" in headers}


def count_kinds(log):
    """What a log's requests were, in S3's words: {"PUT": 12, "LIST": 3, ...}."""
    kinds = collections.Counter()
    with open(log) as lines:
        for line in lines:
            kinds[kind_of(json.loads(line))] += 1
    return kinds


def kind_of(request):
    method, (path, _, query) = request["method"], request["target"].partition("?")
    words = {word.partition("=")[0] for word in query.split("&")}
    if method == "GET" and not words & {"partNumber", "versionId"} and (
            words & {"list-type", "prefix", "delimiter", "marker"} or len(path.strip("/").split("/")) == 1):
        return "LIST"
    if method == "PUT":
        kind = "PART" if "partNumber" in words else "PUT"
        return f"{kind} COPY" if request["copy"] else kind
    if method == "POST":
        return "BULK DELETE" if "delete" in words else "MULTIPART"
    return method


def main():
    parser = argparse.ArgumentParser(
        prog="python3 -m rigs.delayproxy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="to listen on; default: a free one")
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--mbit", type=float, default=0)
    parser.add_argument("--control", metavar="FILE")
    parser.add_argument("--log", metavar="FILE")
    parser.add_argument("--tcp", action="store_true", help="what passes is not HTTP")
    parser.add_argument("--tls-certificate", metavar="FILE", help="speak TLS to clients")
    parser.add_argument("--tls-key", metavar="FILE")
    arguments = parser.parse_args()
    loop = asyncio.SelectorEventLoop(PreciseSelector())
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(Proxy(arguments).run(arguments.port))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
