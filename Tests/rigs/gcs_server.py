"""python3 -m rigs.gcs_server FOLDER PORT

A server for Google Cloud Storage's JSON API, Google's token endpoint and a machine's metadata service, in memory: made from
their public documentation, to test against where Google's own is out of reach.

Strict where clients like to be careless: parameters that it does not know are refused, pages are no longer than was asked
for, preconditions are checked in one step with what they are for, checksums are compared, composed objects have no MD5,
answers hold the fields that were asked for, and nobody gets in without a token that it has given.

Sources: https://cloud.google.com/storage/docs/json_api/v1 (objects, status-codes, parameters),
https://cloud.google.com/storage/docs/performing-resumable-uploads, https://cloud.google.com/storage/docs/request-preconditions,
https://cloud.google.com/storage/docs/composite-objects, https://cloud.google.com/storage/docs/objects#naming,
https://developers.google.com/identity/protocols/oauth2/service-account,
https://cloud.google.com/compute/docs/access/authenticate-workloads.

FOLDER holds identities.json: whom it knows (see gcs.py). `/control/` is for tests:
    PUT /control/buckets/NAME {"page": 3, "rewrite": 1048576, "public": true, "requester_pays": true, "faults": [FAULT …]}
        makes a bucket, or changes it. page: the longest; rewrite: bytes that one request copies.
        FAULT: {"kind": KIND, "name": "in the object's name", "times": 1} with "status" and "reason", or "after" (bytes of the
        body, then the connection breaks), or "lost" (it is done, and the connection breaks before the answer).
    GET /control/buckets/NAME tells objects, open sessions, and requests by KIND: list, get, media, insert, session, piece,
        compose, rewrite, patch, delete.
    DELETE /control/tokens makes all tokens invalid.
"""

import base64
import bisect
import collections
import datetime
import hashlib
import http.server
import itertools
import json
import pathlib
import re
import secrets
import sys
import threading
import time
import urllib.parse

CASTAGNOLI = 0x82F63B78          # reflected, as all polynomials here: the highest bit is x^0
UNIT = 256 << 10                 # of what is kept of a piece that is not the last
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")   # SHA-256, RFC 8017, 9.2

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
    TABLE.append(byte)


def multiply(a, b):
    """The product of two polynomials modulo Castagnoli's."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (CASTAGNOLI if b & 1 else 0)
    return product


def power(bits):
    """x^bits modulo the same."""
    result, square = 1 << 31, 1 << 30
    while bits:
        if bits & 1:
            result = multiply(result, square)
        square = multiply(square, square)
        bits >>= 1
    return result


def crc32c(data):
    """By folding: the first half of a number, times x^(its distance to the end), is added to the second."""
    crc = 0xFFFFFFFF
    if len(data) > 256:
        number, length, crc = int.from_bytes(data, "little") ^ crc, 8 * len(data), 0
        while length > 2048:
            rest = (length // 2 + 40) // 8 * 8
            front = length - rest
            head, factor, product = number & (1 << front) - 1, power(rest), 0
            for bit in range(32):
                if factor >> bit & 1:
                    product ^= head << bit
            number, length = number >> front ^ product << (rest - front - 31), rest
        data = number.to_bytes(length // 8, "little")
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def joined_crc32c(first, second, size):
    return multiply(first, power(8 * size)) ^ second


def base64_of(number):
    return base64.b64encode(number.to_bytes(4, "big")).decode()


class Refusal(Exception):
    def __init__(self, status, reason, message):
        self.status, self.reason, self.message = status, reason, message


class Broken(Exception):
    """The connection is to end here."""


def not_met():
    return Refusal(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


def missing(bucket, name):
    return Refusal(404, "notFound", f"No such object: {bucket.name}/{name}")


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")[:-4] + "Z"


WRITABLE = ("cacheControl", "contentDisposition", "contentEncoding", "contentLanguage", "contentType", "customTime", "metadata",
            "storageClass")


class Object:
    def __init__(self, generation, name, data, described, crc=None, count=None):
        self.generation, self.metageneration, self.name, self.data = generation, 1, name, data
        self.crc = crc32c(data) if crc is None else crc
        self.count = count
        self.md5 = None if count else base64.b64encode(hashlib.md5(data).digest()).decode()
        self.created = self.updated = now()
        self.described = {key: value for key, value in described.items() if key in WRITABLE}
        self.described["metadata"] = {k: v for k, v in (described.get("metadata") or {}).items() if v is not None}
        self.check()

    def check(self):
        if sum(len(k.encode()) + len(v.encode()) for k, v in self.described["metadata"].items()) > 8192:
            raise Refusal(400, "invalid", "The total size of custom metadata is more than 8 KiB.")

    def resource(self, bucket):
        told = {
            "kind": "storage#object", "id": f"{bucket}/{self.name}/{self.generation}", "name": self.name, "bucket": bucket,
            "generation": str(self.generation), "metageneration": str(self.metageneration), "size": str(len(self.data)),
            "crc32c": base64_of(self.crc), "etag": base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode(),
            "timeCreated": self.created, "updated": self.updated, "storageClass": "STANDARD",
            **{key: value for key, value in self.described.items() if value}}
        if self.md5:
            told["md5Hash"] = self.md5
        if self.count:
            told["componentCount"] = self.count
        return told


class Session:
    def __init__(self, name, described, conditions, total):
        self.name, self.described, self.conditions, self.total = name, described, conditions, total
        self.data = bytearray()
        self.made = None


class Bucket:
    generations = itertools.count(time.time_ns() // 1000)

    def __init__(self, name):
        self.name = name
        self.lock = threading.RLock()
        self.objects, self.names, self.sessions, self.rewrites = {}, [], {}, {}
        self.requests = collections.Counter()
        self.faults = []
        self.page, self.rewrite, self.public, self.requester_pays = 1000, 1 << 60, False, False

    def change(self, options):
        with self.lock:
            for key, value in options.items():
                setattr(self, key, value)

    def fault(self, kind, name):
        with self.lock:
            self.requests[kind] += 1
            for fault in self.faults:
                if fault["kind"] == kind and fault.get("name", "") in (name or "") and fault.setdefault("times", 1) > 0:
                    fault["times"] -= 1
                    return fault
        return {}

    def require(self, name, query):
        """Preconditions of what is at a name. Called with the lock held."""
        there = self.objects.get(name)
        generation, metageneration = (there.generation, there.metageneration) if there else (0, None)
        for key, found, wanted in (
                ("ifGenerationMatch", generation, True), ("ifGenerationNotMatch", generation, False),
                ("ifMetagenerationMatch", metageneration, True), ("ifMetagenerationNotMatch", metageneration, False)):
            if key in query:
                if not query[key].isdigit():
                    raise Refusal(400, "invalid", f"Invalid value for {key}")
                if (int(query[key]) == found) != wanted:
                    raise not_met()

    def find(self, name, query=()):
        there = self.objects.get(name)
        if there is None or "generation" in query and query["generation"] != str(there.generation):
            raise missing(self, name)
        return there

    def make(self, name, data, described, query, crc=None, count=None):
        size = len(name.encode())
        if not 1 <= size <= 1024 or "\r" in name or "\n" in name or name in (".", ".."):
            raise Refusal(400, "invalid", "Invalid object name")
        made = Object(next(self.generations), name, bytes(data), described, crc, count)
        for key, found in (("crc32c", base64_of(made.crc)), ("md5Hash", made.md5)):
            if described.get(key, found) != found:
                raise Refusal(400, "invalid", f'Provided {key} "{described[key]}" doesn\'t match calculated {key} "{found}".')
        with self.lock:
            self.require(name, query)
            if name not in self.objects:
                bisect.insort(self.names, name.encode())
            self.objects[name] = made
        return made

    def remove(self, name, query):
        with self.lock:
            self.find(name, query)
            self.require(name, query)
            del self.objects[name]
            del self.names[bisect.bisect_left(self.names, name.encode())]

    def list(self, query):
        prefix = query.get("prefix", "").encode()
        delimiter = query.get("delimiter", "").encode()
        most = min(int(query.get("maxResults", "1000")), self.page, 1000)
        items, prefixes, last = [], [], None
        with self.lock:
            place = bisect.bisect_left(self.names, max(prefix, query.get("startOffset", "").encode()))
            if "pageToken" in query:
                token = json.loads(base64.urlsafe_b64decode(query["pageToken"]))
                # Behind a name, or behind all that begin with it.
                after = token["name"].encode() + (b"\xff" if token["below"] else b"\0")
                place = max(place, bisect.bisect_left(self.names, after))
            while place < len(self.names) and self.names[place].startswith(prefix):
                if len(items) + len(prefixes) >= most:
                    return items, prefixes, base64.urlsafe_b64encode(json.dumps(last).encode()).decode()
                name = self.names[place]
                end = name.find(delimiter, len(prefix)) if delimiter else -1
                if end < 0:
                    items.append(self.objects[name.decode()])
                    last = {"name": name.decode(), "below": False}
                    place += 1
                    continue
                group = name[:end + len(delimiter)]
                if name == group and query.get("includeTrailingDelimiter") == "true":
                    items.append(self.objects[name.decode()])
                    last = {"name": name.decode(), "below": False}
                    if len(items) + len(prefixes) >= most and self.count_below(group) > 1:
                        # The page ends between a directory's marker and the directory.
                        return items, prefixes, base64.urlsafe_b64encode(json.dumps(last).encode()).decode()
                prefixes.append(group.decode())
                last = {"name": group.decode(), "below": True}
                place = bisect.bisect_left(self.names, group + b"\xff")
        return items, prefixes, None

    def count_below(self, group):
        return bisect.bisect_left(self.names, group + b"\xff") - bisect.bisect_left(self.names, group)


class World:
    def __init__(self, folder, port):
        self.origin = f"http://127.0.0.1:{port}"
        self.identities = json.loads((folder / "identities.json").read_text())
        self.buckets, self.tokens, self.lock = {}, {}, threading.Lock()

    def bucket(self, name):
        try:
            return self.buckets[name]
        except KeyError:
            raise Refusal(404, "notFound", "The specified bucket does not exist.") from None

    def token(self):
        token = "ya29." + secrets.token_urlsafe(40)
        with self.lock:
            self.tokens[token] = time.time() + 3599
        return {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}

    def is_valid(self, token):
        with self.lock:
            return self.tokens.get(token, 0) > time.time()

    def statement(self, text):
        """Who has signed a request for a token; an error where the statement or its signature is wrong."""
        known = self.identities["service_account"]
        try:
            head, claims, signature = text.split(".")
            header, said = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, claims))
            number = int.from_bytes(base64.urlsafe_b64decode(signature + "=="), "big")
        except ValueError:
            return "invalid_request"
        modulus = int(known["modulus"], 16)
        size = (modulus.bit_length() + 7) // 8
        tail = DIGEST_INFO + hashlib.sha256(f"{head}.{claims}".encode()).digest()
        padded = b"\0\1" + b"\xff" * (size - len(tail) - 3) + b"\0" + tail
        if header != {"alg": "RS256", "typ": "JWT", "kid": known["key_id"]} or said["iss"] != known["email"]:
            return "invalid_grant"
        if pow(number, 65537, modulus).to_bytes(size, "big") != padded or said["aud"] != self.origin + "/token":
            return "invalid_grant"
        if abs(said["iat"] - time.time()) > 300 or not 0 < said["exp"] - said["iat"] <= 3600:
            return "invalid_grant"
        return None if "https://www.googleapis.com/auth/devstorage." in said["scope"] else "invalid_scope"


def select(value, fields):
    """A part of an answer: a,b(c,d)."""
    if isinstance(value, list):
        return [select(one, fields) for one in value]
    kept, depth, word = {}, 0, ""
    for letter in fields + ",":
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter != "," or depth:
            word += letter
            continue
        name, _, inner = word.partition("(")
        if name in value:
            kept[name] = select(value[name], inner[:-1]) if inner else value[name]
        word = ""
    return kept


CONDITIONS = {"ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch", "ifMetagenerationNotMatch"}
COMMON = {"fields", "alt", "projection", "userProject"}
KNOWN = {
    "list": {"prefix", "delimiter", "maxResults", "startOffset", "pageToken", "includeTrailingDelimiter"},
    "get": CONDITIONS | {"generation"}, "media": CONDITIONS | {"generation"}, "insert": CONDITIONS | {"uploadType", "name"},
    "session": CONDITIONS | {"uploadType", "name"}, "piece": CONDITIONS | {"uploadType", "name", "upload_id"},
    "compose": {"ifGenerationMatch", "ifMetagenerationMatch"}, "patch": CONDITIONS | {"generation"},
    "delete": CONDITIONS | {"generation"},
    "rewrite": CONDITIONS | {"ifSourceGenerationMatch", "sourceGeneration", "rewriteToken", "maxBytesRewrittenPerCall"},
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    world = None

    def log_message(self, *arguments):
        pass

    def do(self):
        self.left = int(self.headers.get("Content-Length") or 0)
        try:
            try:
                self.route()
            except Refusal as refusal:
                self.drain()
                self.answer(refusal.status, {"error": {
                    "code": refusal.status, "message": refusal.message,
                    "errors": [{"domain": "global", "reason": refusal.reason, "message": refusal.message}]}})
            self.drain()
        except (Broken, ConnectionError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do

    def body(self, most=None):
        count = self.left if most is None else min(most, self.left)
        data = self.rfile.read(count)
        self.left -= len(data)
        if len(data) < count:
            raise Broken
        return data

    def drain(self):
        while self.left:
            self.body(1 << 20)

    def answer(self, status, body=None, headers=()):
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if self.fault.get("lost"):
            raise Broken
        self.send_response(status, {308: "Resume Incomplete", 499: "Client Closed Request"}.get(status))
        for name, value in headers:
            self.send_header(name, value)
        if body is not None and not isinstance(body, bytes):
            self.send_header("Content-Type", "application/json; charset=UTF-8")
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def route(self):
        self.fault = {}
        url = urllib.parse.urlsplit(self.path)
        parts = [urllib.parse.unquote(part) for part in url.path.split("/")[1:]]
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if parts[0] == "control":
            return self.control(parts[1:])
        if parts == ["token"]:
            return self.login()
        if parts[0] == "computeMetadata":
            return self.machine()
        is_upload = parts[0] == "upload"
        parts = parts[1:] if is_upload else parts
        if parts[:3] != ["storage", "v1", "b"] or len(parts) < 5 or parts[4] != "o":
            raise Refusal(404, "notFound", "Not Found")
        self.call(parts[3], parts[5:], is_upload)

    # What a request is for.

    def call(self, bucket_name, rest, is_upload):
        method, name = self.command, rest[0] if rest else None
        if is_upload:
            kind = "piece" if "upload_id" in self.query else "session" if self.query.get("uploadType") == "resumable" else "insert"
        elif name is None:
            kind = "list"
        elif len(rest) == 1:
            kind = {"GET": "media" if self.query.get("alt") == "media" else "get", "PATCH": "patch", "DELETE": "delete"}.get(method)
        else:
            kind = {"compose": "compose", "rewriteTo": "rewrite"}.get(rest[1])
        if kind is None:
            raise Refusal(405, "methodNotAllowed", "Method Not Allowed")
        unknown = set(self.query) - KNOWN[kind] - COMMON
        if unknown:
            raise Refusal(400, "invalidParameter", f"Unknown parameter: {', '.join(sorted(unknown))}")
        self.permit(bucket_name, kind)
        bucket = self.world.bucket(bucket_name)
        if bucket.requester_pays and not self.headers.get("X-Goog-User-Project"):
            raise Refusal(400, "required", "Bucket is requester pays bucket but no user project provided.")
        self.fault = bucket.fault(kind, name or self.query.get("name"))
        if "status" in self.fault:
            raise Refusal(self.fault["status"], self.fault["reason"], "as the test wants it")
        if "after" in self.fault and kind != "piece":
            self.body(self.fault["after"])
            raise Broken
        getattr(self, kind)(bucket, name, rest)

    def permit(self, bucket_name, kind):
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        if scheme == "Bearer" and self.world.is_valid(token):
            return
        if scheme:
            raise Refusal(401, "authError", "Invalid Credentials")
        bucket = self.world.buckets.get(bucket_name)
        if not (bucket and bucket.public and kind in ("list", "get", "media")):
            raise Refusal(401, "required", "Anonymous caller does not have permission to access the bucket.")

    def told(self, bucket, found):
        self.answer(200, self.selected(found.resource(bucket.name)))

    def selected(self, answer):
        return select(answer, self.query["fields"]) if "fields" in self.query else answer

    def json(self):
        data = self.body()
        if not data:
            return {}
        try:
            if "application/json" not in (self.headers.get("Content-Type") or ""):
                raise ValueError
            return json.loads(data)
        except ValueError:
            raise Refusal(400, "parseError", "Parse Error") from None

    def list(self, bucket, name, rest):
        items, prefixes, token = bucket.list(self.query)
        answer = {"kind": "storage#objects"}
        if items:
            answer["items"] = [found.resource(bucket.name) for found in items]
        if prefixes:
            answer["prefixes"] = prefixes
        if token:
            answer["nextPageToken"] = token
        self.answer(200, self.selected(answer))

    def get(self, bucket, name, rest):
        with bucket.lock:
            found = bucket.find(name, self.query)
            bucket.require(name, self.query)
        self.told(bucket, found)

    def media(self, bucket, name, rest):
        with bucket.lock:
            found = bucket.find(name, self.query)
            bucket.require(name, self.query)
        size = len(found.data)
        headers = [
            ("X-Goog-Generation", found.generation), ("X-Goog-Metageneration", found.metageneration),
            ("X-Goog-Hash", f"crc32c={base64_of(found.crc)}" + (f",md5={found.md5}" if found.md5 else "")),
            ("X-Goog-Stored-Content-Length", size), ("Content-Type", found.described.get("contentType") or "application/octet-stream"),
            ("Last-Modified", self.date_time_string())]
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            return self.answer(200, found.data, headers)
        first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
        last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
        if first >= size:
            raise Refusal(416, "requestedRangeNotSatisfiable", "The requested range cannot be satisfied.")
        headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
        self.answer(206, found.data[first:last + 1], headers)

    def insert(self, bucket, name, rest):
        data = self.body()
        if self.query.get("uploadType") == "media":
            described, name = {"contentType": self.headers.get("Content-Type")}, self.query.get("name")
        else:
            boundary = re.fullmatch(r'multipart/related; boundary="?([^"]+)"?', self.headers.get("Content-Type") or "")
            if self.query.get("uploadType") != "multipart" or not boundary:
                raise Refusal(400, "badContent", "Unsupported content with type: " + str(self.headers.get("Content-Type")))
            mark = b"--" + boundary[1].encode()
            if not data.startswith(mark + b"\r\n") or not data.endswith(b"\r\n" + mark + b"--\r\n"):
                raise Refusal(400, "badRequest", "Malformed multipart body.")
            start = data.index(b"\r\n\r\n") + 4
            middle = data.index(b"\r\n" + mark + b"\r\n", start)
            described = json.loads(data[start:middle])
            bytes_start = data.index(b"\r\n\r\n", middle + 2) + 4
            data = data[bytes_start:len(data) - len(mark) - 6]
            name = self.query.get("name", described.get("name"))
        if not name:
            raise Refusal(400, "required", "Required object name.")
        self.told(bucket, bucket.make(name, data, described, self.query))

    def session(self, bucket, name, rest):
        described = self.json()
        name = self.query.get("name", described.get("name"))
        if not name:
            raise Refusal(400, "required", "Required object name.")
        described.setdefault("contentType", self.headers.get("X-Upload-Content-Type"))
        total = self.headers.get("X-Upload-Content-Length")
        conditions = {key: self.query[key] for key in CONDITIONS & set(self.query)}
        with bucket.lock:
            bucket.require(name, conditions)
            identifier = secrets.token_urlsafe(32)
            bucket.sessions[identifier] = Session(name, described, conditions, int(total) if total else None)
        query = urllib.parse.urlencode({"uploadType": "resumable", "name": name, "upload_id": identifier})
        bucket_path = urllib.parse.quote(bucket.name, safe="")
        host = self.headers.get("Host")
        self.answer(200, b"", [("Location", f"http://{host}/upload/storage/v1/b/{bucket_path}/o?{query}")])

    def piece(self, bucket, name, rest):
        session = bucket.sessions.get(self.query["upload_id"])
        if session is None:
            raise Refusal(404, "notFound", "Not Found")
        if self.command == "DELETE":
            del bucket.sessions[self.query["upload_id"]]
            return self.answer(499, b"")
        said = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)", self.headers.get("Content-Range") or "")
        if not said:
            raise Refusal(400, "badRequest", "Failed to parse Content-Range header.")
        total = int(said[3])
        if session.total not in (None, total):
            raise Refusal(400, "badRequest", "The size is another than was said at first.")
        if session.made is None and said[1]:
            self.take(session, int(said[1]), int(said[2]) + 1, total)
        if session.made is None and len(session.data) == total:
            session.made = bucket.make(session.name, session.data, session.described, session.conditions)
            session.data = bytearray()
        if session.made:
            return self.told(bucket, session.made)
        headers = [("Range", f"bytes=0-{len(session.data) - 1}")] if session.data else []
        self.answer(308, b"", headers)

    def take(self, session, start, end, total):
        """Bytes of a piece; of one that breaks off, or is not the last, whole units are kept."""
        if start > len(session.data) or end - start != self.left:
            raise Refusal(400, "badRequest", f"Invalid request: there are {len(session.data)} bytes, and {start} are said to be.")
        position, taken = start, bytearray(session.data)
        end_here = start + self.fault["after"] if "after" in self.fault else end
        try:
            while position < end_here:
                data = self.body(min(1 << 20, end_here - position))
                # What is there already is not taken again.
                taken += data[max(0, len(taken) - position):]
                position += len(data)
            if end_here < end:
                raise Broken
        finally:
            session.data = taken if len(taken) == total else taken[:len(taken) // UNIT * UNIT]

    def compose(self, bucket, name, rest):
        asked = self.json()
        sources = asked.get("sourceObjects") or []
        if not 1 <= len(sources) <= 32:
            raise Refusal(400, "invalid", "The number of source components provided is not from 1 to 32.")
        with bucket.lock:
            parts = [bucket.find(source["name"], source) for source in sources]
            for source, part in zip(sources, parts):
                if source.get("objectPreconditions", {}).get("ifGenerationMatch", str(part.generation)) != str(part.generation):
                    raise not_met()
            crc = 0
            for part in parts:
                crc = joined_crc32c(crc, part.crc, len(part.data))
            made = bucket.make(
                name, b"".join(part.data for part in parts), asked.get("destination") or {}, self.query, crc,
                sum(part.count or 1 for part in parts))
        self.told(bucket, made)

    def rewrite(self, bucket, name, rest):
        if self.command != "POST" or rest[2] != "b" or rest[4] != "o":
            raise Refusal(404, "notFound", "Not Found")
        described, to = self.json(), rest[5]
        other = self.world.bucket(rest[3])
        with bucket.lock:
            source = bucket.find(name, {"generation": self.query["sourceGeneration"]} if "sourceGeneration" in self.query else ())
            if self.query.get("ifSourceGenerationMatch", str(source.generation)) != str(source.generation):
                raise not_met()
            token, key = self.query.get("rewriteToken"), (name, source.generation, rest[3], to, json.dumps(described))
            if token is not None and bucket.rewrites.get(token, (None,))[0] != key:
                raise Refusal(400, "invalid", "Invalid rewrite token.")
            done = bucket.rewrites[token][1] if token else 0
            done = min(done + bucket.rewrite, len(source.data))
            answer = {"kind": "storage#rewriteResponse", "totalBytesRewritten": str(done), "objectSize": str(len(source.data))}
            if done < len(source.data):
                token = secrets.token_urlsafe(16)
                bucket.rewrites[token] = (key, done)
                return self.answer(200, {**answer, "done": False, "rewriteToken": token})
            made = other.make(to, source.data, described or source.described, self.query, source.crc, source.count)
        self.answer(200, self.selected({**answer, "done": True, "resource": made.resource(other.name)}))

    def patch(self, bucket, name, rest):
        changes = self.json()
        with bucket.lock:
            found = bucket.find(name, self.query)
            bucket.require(name, self.query)
            before = dict(found.described)
            for key in set(changes) & set(WRITABLE):
                if key == "metadata":
                    merged = {**found.described["metadata"], **(changes[key] or {})}
                    found.described[key] = {k: v for k, v in merged.items() if v is not None} if changes[key] else {}
                else:
                    found.described[key] = changes[key]
            try:
                found.check()
            except Refusal:
                found.described = before
                raise
            found.metageneration += 1
            found.updated = now()
            answer = self.selected(found.resource(bucket.name))
        self.answer(200, answer)

    def delete(self, bucket, name, rest):
        bucket.remove(name, self.query)
        self.answer(204)

    # Tokens.

    def login(self):
        form = dict(urllib.parse.parse_qsl(self.body().decode()))
        if form.get("grant_type") == "urn:ietf:params:oauth:grant-type:jwt-bearer":
            error = self.world.statement(form.get("assertion", ""))
        elif form.get("grant_type") == "refresh_token":
            known = self.world.identities["authorized_user"]
            error = next((word for key, word in (
                ("client_id", "invalid_client"), ("client_secret", "invalid_client"), ("refresh_token", "invalid_grant"))
                if form.get(key) != known[key]), None)
        else:
            error = "unsupported_grant_type"
        if error:
            status = 401 if error == "invalid_client" else 400
            return self.answer(status, {"error": error, "error_description": "Not as the test wants it: " + str(form)})
        self.answer(200, self.world.token())

    def machine(self):
        if self.headers.get("Metadata-Flavor") != "Google":
            raise Refusal(403, "forbidden", "Metadata-Flavor is missing")
        if self.path != "/computeMetadata/v1/instance/service-accounts/default/token":
            raise Refusal(404, "notFound", "Not Found")
        self.answer(200, self.world.token(), [("Metadata-Flavor", "Google")])

    # For tests.

    def control(self, parts):
        if parts == ["tokens"] and self.command == "DELETE":
            with self.world.lock:
                self.world.tokens.clear()
            return self.answer(204)
        if parts[0] != "buckets":
            raise Refusal(404, "notFound", "Not Found")
        if self.command == "PUT":
            options = json.loads(self.body() or b"{}")
            with self.world.lock:
                bucket = self.world.buckets.setdefault(parts[1], Bucket(parts[1]))
            bucket.change(options)
            return self.answer(200, {})
        bucket = self.world.bucket(parts[1])
        with bucket.lock:
            self.answer(200, {
                "objects": {name: found.resource(bucket.name) for name, found in bucket.objects.items()},
                "sessions": sum(session.made is None for session in bucket.sessions.values()),
                "requests": dict(bucket.requests)})


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main():
    folder, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    Handler.world = World(folder, port)
    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
