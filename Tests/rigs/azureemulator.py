"""python3 -m rigs.azureemulator --state DIR: Azure Blob Storage in one process, as its public documentation describes it.

Written for these tests from Microsoft's REST reference (https://learn.microsoft.com/rest/api/storageservices/): nothing
that can be installed from PyPI or Debian speaks this protocol. What Microsoft's own client for Python makes of it is
tried in Tests/blackbox/test_rigs.py. It has two accounts, one flat and one with a hierarchical namespace (Data Lake
Storage), and beside them what an application and a virtual machine of Azure get their tokens from. It checks every
signature, shared access signature and token, and sets the traps that the documentation allows:

- pages of listings that hold less than was asked for, or nothing, and are followed by more;
- copies that are said to be pending and done later;
- a dot at the end of a name, and what follows it to the next slash, is not kept; a backslash is a slash;
- uncommitted blocks are gone when anybody commits, or writes the blob in one piece; their ids have one length.

`POST /rig/faults` makes trouble. Its form fields are `below` (a text; only for requests that have it in their path or
query), `busy` (so many of them get 503 ServerBusy), `lost` (so many answers to PUT and DELETE are not sent, the
connection ends); `revoke` (all tokens given so far end); `snapshot` (of ACCOUNT/CONTAINER/BLOB, one is made).
"""

import argparse
import base64
import bisect
import calendar
import collections
import hashlib
import hmac
import itertools
import json
import pathlib
import re
import secrets
import socket
import socketserver
import threading
import time
import urllib.parse
import xml.sax.saxutils

ACCOUNTS = {
    "rigflat": (base64.b64encode(hashlib.sha512(b"flat").digest()).decode(), False),
    "righierarchical": (base64.b64encode(hashlib.sha512(b"hierarchical").digest()).decode(), True),
}
TENANT, CLIENT, SECRET = "11111111-2222-3333-4444-555555555555", "rig-client", "rigsecret-0123456789~"
CONTAINER, PUBLIC = "rig-container", "rig-public"
VERSION = "2024-11-04"
MIB = 1 << 20
LARGEST_BLOB, LARGEST_BLOCK, MOST_BLOCKS = 5000 * MIB, 4000 * MIB, 50_000
PENDING_COPY = 65_536        # copies from this size on are said to be pending
LARGEST_PAGE = 700           # instead of 5000, so that a test reaches it
TOKEN_LIFETIME = 3600


class Failure(Exception):
    """An answer that is an error, by the service's own name for it."""

    def __init__(self, status, code, message="", headers=()):
        super().__init__(code)
        self.status, self.code, self.message, self.headers = status, code, message or code, dict(headers)


def not_found():
    return Failure(404, "BlobNotFound", "The specified blob does not exist.")


def http_date(seconds):
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))


tags = itertools.count(1)


class Blob:
    """A blob, or a directory of a hierarchical namespace. Never changed but for its metadata: replaced."""

    def __init__(self, data, metadata, headers, blocks=(), is_directory=False, md5=None):
        self.data, self.metadata, self.headers, self.blocks = data, metadata, headers, list(blocks)
        self.is_directory, self.md5, self.copy, self.snapshots = is_directory, md5, None, 0
        self.created = time.time()
        self.touch()

    def touch(self):
        self.modified = time.time()
        self.etag = f"0x8D{next(tags):012X}"


class Container:
    def __init__(self, hierarchical, public=False):
        self.hierarchical, self.public = hierarchical, public
        self.blobs, self.names = {}, []
        self.uncommitted = collections.defaultdict(dict)

    def __getitem__(self, name):
        blob = self.blobs.get(name)
        if blob is None:
            raise not_found()
        return blob

    def put(self, name, blob):
        if self.hierarchical:
            self.make_parents(name)
        if name not in self.blobs:
            bisect.insort(self.names, name)
        self.blobs[name] = blob
        self.uncommitted.pop(name, None)
        return blob

    def make_parents(self, name):
        for index, character in enumerate(name):
            if character == "/":
                above = self.blobs.get(name[:index])
                if above is None:
                    bisect.insort(self.names, name[:index])
                    self.blobs[name[:index]] = Blob(b"", {}, {}, is_directory=True)
                elif not above.is_directory:
                    raise Failure(409, "PathConflict", "The specified path, or an element of the path, is a file.")

    def remove(self, name):
        del self.blobs[name]
        del self.names[bisect.bisect_left(self.names, name)]
        self.uncommitted.pop(name, None)

    def below(self, name):
        """The names of what is in a directory, at any depth."""
        start = name + "/"
        first = bisect.bisect_left(self.names, start)
        return list(itertools.takewhile(lambda found: found.startswith(start), self.names[first:]))


class Request:
    def __init__(self, method, target, headers, body, service):
        self.method, self.headers, self.body, self.service = method, headers, body, service
        self.path, _, query = target.partition("?")
        pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
        self.query = {name.lower(): value for name, value in pairs}
        self.raw_query = query
        parts = self.path.split("/", 3)
        self.account = parts[1] if len(parts) > 1 else ""
        self.container = urllib.parse.unquote(parts[2]) if len(parts) > 2 else ""
        self.name = blob_name(parts[3]) if len(parts) > 3 else ""
        self.may_create_only = False

    def __getitem__(self, name):
        return self.headers.get(name, "")

    def metadata(self):
        found = {name[10:]: value for name, value in self.headers.items() if name.startswith("x-ms-meta-")}
        for name, value in found.items():
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
                raise Failure(400, "InvalidMetadata", "The metadata specified is invalid: its name is no C# identifier.")
            if not value.isascii():
                raise Failure(400, "InvalidMetadata", "The metadata specified is invalid: it has characters that are not ASCII.")
        if sum(len(name) + len(value) for name, value in found.items()) > 8192:
            raise Failure(400, "MetadataTooLarge", "The size of the specified metadata exceeds the limits.")
        return found


def blob_name(text):
    """What the service makes of the path behind the container: see the traps above."""
    name = urllib.parse.unquote(text, errors="surrogateescape").replace("\\", "/")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or ord(c) in (0xFFFE, 0xFFFF) or 0xD800 <= ord(c) < 0xE000
           for c in name):
        raise Failure(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
    if len(name) > 1024:
        raise Failure(400, "InvalidResourceName", "The specified resource name length is not within the permissible limits.")
    return "/".join(part.rstrip(".") for part in name.split("/"))


class Cloud:
    """The accounts, and what is asked of them. One request at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.accounts = {}
        for account, (_, hierarchical) in ACCOUNTS.items():
            self.accounts[account] = {CONTAINER: Container(hierarchical), PUBLIC: Container(hierarchical, public=True)}
        # With the time of their end.
        self.tokens = {}
        # By what requests have in their path or query.
        self.faults = {"busy": collections.Counter(), "lost": collections.Counter()}

    def answer(self, request):
        if request.account == "rig":
            return self.control(request)
        if request.path.endswith("/oauth2/v2.0/token"):
            return self.login(request)
        if request.path.startswith("/metadata/identity/"):
            return self.identity(request)
        if request.account not in ACCOUNTS:
            raise Failure(404, "ResourceNotFound", "The specified resource does not exist.")
        if self.has_fault("busy", request):
            raise Failure(503, "ServerBusy", "The server is currently unable to receive requests. Please retry your request.")
        self.authorize(request)
        containers = self.accounts[request.account]
        if request.query.get("restype") == "account":
            return 200, {"x-ms-sku-name": "Standard_LRS", "x-ms-account-kind": "StorageV2",
                         "x-ms-is-hns-enabled": "true" if ACCOUNTS[request.account][1] else "false"}, b""
        if not request.name and request.query.get("restype") == "container" and request.method == "PUT":
            if request.container in containers:
                raise Failure(409, "ContainerAlreadyExists", "The specified container already exists.")
            containers[request.container] = Container(ACCOUNTS[request.account][1])
            return 201, {"etag": '"0x1"'}, b""
        container = containers.get(request.container)
        if container is None:
            raise Failure(404, "FilesystemNotFound" if request.service == "dfs" else "ContainerNotFound",
                          "The specified container does not exist.")
        if request.service == "dfs":
            return self.data_lake(request, container)
        if not request.name:
            if request.query.get("comp") == "list":
                return self.list(request, container)
            if request.method == "DELETE":
                del containers[request.container]
                return 202, {}, b""
            return 200, {"etag": '"0x1"', "last-modified": http_date(0)}, b""
        name = request.name.rstrip("/") if container.hierarchical else request.name
        verb = getattr(self, f"{request.method.lower()}_{request.query.get('comp', 'blob')}", None)
        if verb is None:
            raise Failure(405, "UnsupportedHttpVerb", "The resource doesn't support the specified HTTP verb.")
        return verb(request, container, name)

    # MARK: who asks

    def authorize(self, request):
        given = request["authorization"]
        if given.startswith("SharedKey "):
            return self.check_key(request, given)
        if given.startswith("Bearer "):
            if self.tokens.get(given[7:], 0) <= time.time():
                raise Failure(401, "InvalidAuthenticationInfo", "Server failed to authenticate the request. Lifetime "
                              "validation failed. The token is expired.", {"www-authenticate": "Bearer resource_id=https://storage.azure.com"})
            return None
        if "sig" in request.query:
            return check_sas(request.account, request.container, request.name, request.query, needed(request))
        container = self.accounts[request.account].get(request.container)
        if container and container.public and request.method in ("GET", "HEAD"):
            return None
        raise Failure(401, "NoAuthenticationInformation", "Server failed to authenticate the request. Please refer to the "
                      "information in the www-authenticate header.", {"www-authenticate": "Bearer"})

    def check_key(self, request, given):
        """Source: "Authorize with Shared Key"."""
        moment = request["x-ms-date"] or request["date"]
        try:
            seconds = calendar.timegm(time.strptime(moment, "%a, %d %b %Y %H:%M:%S GMT"))
        except ValueError:
            seconds = 0
        if abs(time.time() - seconds) > 900:
            raise Failure(403, "AuthenticationFailed", "Server failed to authenticate the request. Request date header too old.")
        account, _, signature = given[10:].partition(":")
        length = request["content-length"]
        lines = [request.method, request["content-encoding"], request["content-language"], "" if length == "0" else length,
                 request["content-md5"], request["content-type"], "" if request["x-ms-date"] else request["date"],
                 request["if-modified-since"], request["if-match"], request["if-none-match"],
                 request["if-unmodified-since"], request["range"]]
        own = [name for name in request.headers if name.startswith("x-ms-")]
        # The service's order: dashes count last, an underscore before all else.
        own.sort(key=lambda name: (name.replace("-", "").replace("_", "\1"), name))
        lines += [f"{name}:{' '.join(request[name].split())}" for name in own]
        resource = f"/{request.account}{request.path}"
        for name in sorted(request.query):
            resource += f"\n{name}:{request.query[name]}"
        text = "\n".join(lines + [resource])
        if account != request.account or not hmac.compare_digest(signature, sign(request.account, text)):
            raise Failure(403, "AuthenticationFailed", "Server failed to authenticate the request. Make sure the value of "
                          f"Authorization header is formed correctly including the signature. The MAC signature found in the "
                          f"HTTP request '{signature}' is not the same as any computed signature. Server used following "
                          f"string to sign: '{text}'.")

    def give_token(self):
        token = secrets.token_urlsafe(48)
        self.tokens[token] = time.time() + TOKEN_LIFETIME
        return token

    def login(self, request):
        """Source: "Microsoft identity platform and the OAuth 2.0 client credentials flow"."""
        form = dict(urllib.parse.parse_qsl(request.body.decode()))
        if request.account != TENANT:
            return 400, {}, json.dumps({"error": "invalid_request", "error_description": "AADSTS90002: Tenant not found."}).encode()
        if (form.get("client_id"), form.get("client_secret")) != (CLIENT, SECRET):
            return 401, {}, json.dumps({"error": "invalid_client", "error_description":
                                        f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}"}).encode()
        if form.get("grant_type") != "client_credentials" or form.get("scope") != "https://storage.azure.com/.default":
            return 400, {}, json.dumps({"error": "invalid_scope", "error_description": "AADSTS70011"}).encode()
        return 200, {"content-type": "application/json"}, json.dumps(
            {"token_type": "Bearer", "expires_in": TOKEN_LIFETIME, "access_token": self.give_token()}).encode()

    def identity(self, request):
        """Source: "How to use managed identities … to acquire an access token"."""
        if request["metadata"] != "true" or request.query.get("resource") != "https://storage.azure.com/" \
                or "api-version" not in request.query:
            return 400, {}, json.dumps({"error": "invalid_request", "error_description": "Required metadata header"}).encode()
        if request.query.get("client_id", CLIENT) != CLIENT:
            return 400, {}, json.dumps({"error": "invalid_request", "error_description": "Identity not found"}).encode()
        return 200, {"content-type": "application/json"}, json.dumps(
            {"token_type": "Bearer", "expires_in": str(TOKEN_LIFETIME), "expires_on": str(int(time.time() + TOKEN_LIFETIME)),
             "resource": "https://storage.azure.com/", "access_token": self.give_token()}).encode()

    def control(self, request):
        form = dict(urllib.parse.parse_qsl(request.body.decode()))
        for kind, faults in self.faults.items():
            if kind in form:
                faults[form["below"]] = int(form[kind])
        if "revoke" in form:
            self.tokens.clear()
        if "snapshot" in form:
            account, container, name = form["snapshot"].split("/", 2)
            self.accounts[account][container][name].snapshots += 1
        return 200, {}, b""

    def has_fault(self, kind, request):
        target = urllib.parse.unquote(f"{request.path}?{request.raw_query}")
        for below, count in self.faults[kind].items():
            if count > 0 and below in target:
                self.faults[kind][below] -= 1
                return True
        return False

    # MARK: conditions

    @staticmethod
    def check(request, blob, prefix="", is_write=True):
        """Source: "Specifying conditional headers for Blob service operations"."""
        match, none = request[f"{prefix}if-match"], request[f"{prefix}if-none-match"]
        refused = "SourceConditionNotMet" if prefix else "ConditionNotMet"
        if match and (blob is None or match not in ("*", f'"{blob.etag}"')):
            raise Failure(412, refused, "The condition specified using HTTP conditional header(s) is not met.")
        if none and blob is not None:
            if none == "*" and is_write:
                raise Failure(409, "BlobAlreadyExists", "The specified blob already exists.")
            if none in ("*", f'"{blob.etag}"'):
                raise Failure(412 if is_write else 304, refused, "The condition is not met.")
        if request.may_create_only and blob is not None:
            raise Failure(403, "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission.")

    @staticmethod
    def received(request):
        digest = base64.b64encode(hashlib.md5(request.body).digest()).decode()
        if request["content-md5"] and request["content-md5"] != digest:
            raise Failure(400, "Md5Mismatch", "The MD5 value specified in the request did not match with the MD5 value calculated by the server.")
        return digest

    @staticmethod
    def properties(request):
        names = {"content-type": "application/octet-stream", "content-encoding": "", "content-language": "",
                 "cache-control": "", "content-disposition": ""}
        found = {name: request[f"x-ms-blob-{name}"] or (request[name] if "comp" not in request.query else "") or default
                 for name, default in names.items()}
        return {name: value for name, value in found.items() if value}

    @staticmethod
    def written(blob, **more):
        return {"etag": f'"{blob.etag}"', "last-modified": http_date(blob.modified), **more}

    # MARK: blobs

    def put_blob(self, request, container, name):
        if request["x-ms-copy-source"]:
            return self.copy(request, container, name)
        if request["x-ms-blob-type"] != "BlockBlob":
            raise Failure(400, "MissingRequiredHeader" if not request["x-ms-blob-type"] else "InvalidHeaderValue")
        if len(request.body) > LARGEST_BLOB:
            raise Failure(413, "RequestBodyTooLarge")
        known = container.blobs.get(name)
        self.check(request, known)
        if known is not None and known.is_directory:
            raise Failure(409, "ResourceTypeMismatch", "The specified resource type does not match the type of the existing resource.")
        digest = self.received(request)
        metadata = request.metadata()
        is_directory = container.hierarchical and metadata.pop("hdi_isfolder", "") == "true"
        blob = container.put(name, Blob(request.body, metadata, self.properties(request), is_directory=is_directory, md5=digest))
        return 201, self.written(blob, **{"content-md5": digest, "x-ms-request-server-encrypted": "true"}), b""

    def head_blob(self, request, container, name):
        status, headers, _ = self.get_blob(request, container, name)
        return status, headers, b""

    def get_blob(self, request, container, name):
        blob = container[name]
        self.check(request, blob, is_write=False)
        self.advance(blob)
        headers = {**self.written(blob), **blob.headers, "accept-ranges": "bytes", "x-ms-blob-type": "BlockBlob",
                   "x-ms-creation-time": http_date(blob.created), "content-length": str(len(blob.data)),
                   **{f"x-ms-meta-{key}": value for key, value in blob.metadata.items()}}
        if blob.is_directory:
            headers["x-ms-meta-hdi_isfolder"] = "true"
        if blob.md5:
            headers["content-md5"] = blob.md5
        if blob.copy:
            headers.update({"x-ms-copy-id": blob.copy["id"], "x-ms-copy-status": blob.copy["status"]})
        wanted = request["x-ms-range"] or request["range"]
        if request.method == "HEAD" or not wanted:
            return 200, headers, blob.data
        first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted).groups()
        first, last = int(first), min(int(last or len(blob.data)), len(blob.data) - 1)
        if first >= len(blob.data):
            raise Failure(416, "InvalidRange", "The range specified is invalid for the current size of the resource.",
                          {"content-range": f"bytes */{len(blob.data)}"})
        if blob.md5:
            headers["x-ms-blob-content-md5"] = headers.pop("content-md5")
        headers.update({"content-range": f"bytes {first}-{last}/{len(blob.data)}", "content-length": str(last + 1 - first)})
        data = memoryview(blob.data)[first:last + 1]
        if request["x-ms-range-get-content-md5"] == "true":
            headers["content-md5"] = base64.b64encode(hashlib.md5(data).digest()).decode()
        return 206, headers, data

    def delete_blob(self, request, container, name):
        blob = container[name]
        self.check(request, blob)
        if blob.is_directory and container.below(name):
            raise Failure(409, "DirectoryIsNotEmpty", "This operation is not permitted on a non-empty directory.")
        if blob.snapshots and request["x-ms-delete-snapshots"] != "include":
            raise Failure(409, "SnapshotsPresent", "This operation is not permitted while the blob has snapshots.")
        container.remove(name)
        return 202, {"x-ms-delete-type-permanent": "true"}, b""

    def put_metadata(self, request, container, name):
        blob = container[name]
        self.check(request, blob)
        blob.metadata = {key: value for key, value in request.metadata().items() if key != "hdi_isfolder" or not blob.is_directory}
        blob.touch()
        return 200, self.written(blob), b""

    # MARK: blocks

    def put_block(self, request, container, name):
        try:
            identifier = base64.b64decode(request.query["blockid"], validate=True)
        except (KeyError, ValueError):
            raise Failure(400, "InvalidQueryParameterValue", "Value for one of the query parameters is invalid.") from None
        if not 0 < len(identifier) <= 64:
            raise Failure(400, "InvalidBlockId", "The specified block ID is invalid.")
        known = container.uncommitted[name]
        if any(len(base64.b64decode(other)) != len(identifier) for other in known):
            raise Failure(400, "InvalidBlobOrBlock", "The specified blob or block content is invalid.")
        there = container.blobs.get(name)
        if there is not None and there.is_directory:
            raise Failure(409, "ResourceTypeMismatch", "The specified resource type does not match the type of the existing resource.")
        if container.hierarchical:
            container.make_parents(name)
        if request["x-ms-copy-source"]:
            source = self.source(request, is_block=True)
            first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", request["x-ms-source-range"] or f"bytes=0-{len(source.data) - 1}").groups()
            data = source.data[int(first):int(last) + 1]
            if len(data) != int(last) + 1 - int(first):
                raise Failure(416, "InvalidRange")
        else:
            data = request.body
        if not 0 < len(data) <= LARGEST_BLOCK:
            raise Failure(413 if data else 400, "RequestBodyTooLarge" if data else "InvalidHeaderValue")
        digest = self.received(request) if not request["x-ms-copy-source"] else base64.b64encode(hashlib.md5(data).digest()).decode()
        known[request.query["blockid"]] = data
        return 201, {"content-md5": digest, "x-ms-request-server-encrypted": "true"}, b""

    def put_blocklist(self, request, container, name):
        blob = container.blobs.get(name)
        self.check(request, blob)
        self.received(request)
        known = {identifier: data for identifier, data in blob.blocks} if blob else {}
        uncommitted = container.uncommitted.get(name, {})
        blocks = []
        for kind, identifier in re.findall(r"<(Latest|Uncommitted|Committed)>([^<]*)</", request.body.decode()):
            places = {"Latest": (uncommitted, known), "Uncommitted": (uncommitted,), "Committed": (known,)}[kind]
            data = next((place[identifier] for place in places if identifier in place), None)
            if data is None:
                raise Failure(400, "InvalidBlockList", "The specified block list is invalid.")
            blocks.append((identifier, data))
        if len(blocks) > MOST_BLOCKS:
            raise Failure(400, "BlockListTooLong")
        blob = container.put(name, Blob(b"".join(data for _, data in blocks), request.metadata(), self.properties(request), blocks,
                                        md5=request["x-ms-blob-content-md5"] or None))
        return 201, self.written(blob, **{"x-ms-request-server-encrypted": "true"}), b""

    def get_blocklist(self, request, container, name):
        blob, kind = container.blobs.get(name), request.query.get("blocklisttype", "committed")
        uncommitted = container.uncommitted.get(name, {})
        if blob is None and not uncommitted:
            raise not_found()

        def lines(tag, blocks):
            return f"<{tag}>" + "".join(f"<Block><Name>{i}</Name><Size>{len(d)}</Size></Block>" for i, d in blocks) + f"</{tag}>"
        text = '<?xml version="1.0" encoding="utf-8"?><BlockList>'
        if kind in ("committed", "all"):
            text += lines("CommittedBlocks", blob.blocks if blob else [])
        if kind in ("uncommitted", "all"):
            text += lines("UncommittedBlocks", uncommitted.items())
        return 200, {"content-type": "application/xml"}, (text + "</BlockList>").encode()

    # MARK: copies

    def source(self, request, is_block=False):
        url = urllib.parse.urlsplit(request["x-ms-copy-source"])
        asked = Request("GET", url.path + (f"?{url.query}" if url.query else ""), {}, b"", "blob")
        container = self.accounts.get(asked.account, {}).get(asked.container)
        given = request["x-ms-copy-source-authorization"]
        if "sig" in asked.query:
            check_sas(asked.account, asked.container, asked.name, asked.query, "r")
        elif given:
            if self.tokens.get(given.removeprefix("Bearer "), 0) <= time.time():
                raise Failure(401, "CannotVerifyCopySource")
        elif not (container and container.public) and (is_block or asked.account != request.account or "sig" in request.query):
            raise Failure(404 if container is None else 403, "CannotVerifyCopySource", "This request is not authorized to perform this operation.")
        blob = container.blobs.get(asked.name) if container else None
        if blob is None or blob.is_directory:
            raise Failure(404, "CannotVerifyCopySource" if is_block else "BlobNotFound", "The specified blob does not exist.")
        self.check(request, blob, prefix="x-ms-source-")
        return blob

    def copy(self, request, container, name):
        source = self.source(request)
        known = container.blobs.get(name)
        self.check(request, known)
        if known is not None and known.is_directory:
            raise Failure(409, "ResourceTypeMismatch")
        metadata = request.metadata() or dict(source.metadata)
        is_pending = len(source.data) >= PENDING_COPY
        blob = Blob(b"" if is_pending else source.data, metadata, dict(source.headers), source.blocks, md5=source.md5)
        blob.copy = {"id": secrets.token_hex(8), "status": "pending" if is_pending else "success", "data": source.data, "looks": 2}
        container.put(name, blob)
        return 202, self.written(blob, **{"x-ms-copy-id": blob.copy["id"], "x-ms-copy-status": blob.copy["status"]}), b""

    @staticmethod
    def advance(blob):
        if blob.copy and blob.copy["status"] == "pending":
            blob.copy["looks"] -= 1
            if blob.copy["looks"] == 0:
                blob.copy["status"], blob.data = "success", blob.copy["data"]
                blob.touch()

    # MARK: listings

    def list(self, request, container):
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        maximum = int(request.query.get("maxresults", "5000"))
        if maximum <= 0:
            raise Failure(400, "OutOfRangeQueryParameterValue")
        if container.hierarchical:
            for index, character in enumerate(prefix):
                if character == "/" and (above := container.blobs.get(prefix[:index])) and not above.is_directory:
                    raise Failure(409, "PathConflict", "A file is in the middle of the prefix.")
        includes = request.query.get("include", "").split(",")
        # A marker is where to go on, behind a sign that says whether an empty page comes first.
        marker = base64.urlsafe_b64decode(request.query.get("marker", "")).decode()
        comes_empty, start = marker[:1] == "0", marker[1:]
        entries, size = [], 1 if maximum == 2 else min(maximum, LARGEST_PAGE)
        index, following = bisect.bisect_left(container.names, max(prefix, start)), ""
        while not comes_empty and index < len(container.names):
            name = container.names[index]
            if not name.startswith(prefix):
                break
            if len(entries) == size:
                following = ("0" if size > 1 else "1") + name
                break
            blob, rest = container.blobs[name], name[len(prefix):]
            if delimiter and delimiter in rest:
                common = prefix + rest.split(delimiter)[0] + delimiter
                # A directory is told by its own line.
                if not container.hierarchical:
                    entries.append(common)
                index = bisect.bisect_left(container.names, common[:-1] + chr(ord(common[-1]) + 1), index)
                continue
            if delimiter and blob.is_directory:
                entries.append(name + delimiter)
                index += 1
                continue
            entries.append((name, blob))
            index += 1
        if comes_empty:
            following = "1" + start
        text = "".join(f"<BlobPrefix><Name>{escape(entry)}</Name></BlobPrefix>" if isinstance(entry, str)
                       else describe(*entry, "metadata" in includes) for entry in entries)
        following = base64.urlsafe_b64encode(following.encode()).decode()
        document = (f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{request.container}">'
                    f"<Prefix>{escape(prefix)}</Prefix><MaxResults>{maximum}</MaxResults>"
                    f"<Blobs>{text}</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>")
        return 200, {"content-type": "application/xml"}, document.encode()

    # MARK: Data Lake Storage

    def data_lake(self, request, container):
        """Source: https://learn.microsoft.com/rest/api/storageservices/datalakestoragegen2/path."""
        name = request.name.rstrip("/")
        if not name:
            return 200, {"x-ms-namespace-enabled": "true" if container.hierarchical else "false", "etag": '"0x1"',
                         "last-modified": http_date(0)}, b""
        if not container.hierarchical:
            raise Failure(409, "HierarchicalNamespaceNotEnabled", "Hierarchical namespace is not enabled for this account.")
        known = container.blobs.get(name)
        if request.method == "PUT" and request["x-ms-rename-source"]:
            return self.rename(request, container, name, known)
        if request.method == "PUT" and request.query.get("resource") == "directory":
            if request["if-none-match"] == "*" and known is not None:
                raise Failure(409, "PathAlreadyExists", "The specified path already exists.")
            if known is not None and (not known.is_directory or container.below(name)):
                raise Failure(409, "PathConflict")
            blob = container.put(name, Blob(b"", user_properties(request), {}, is_directory=True))
            return 201, self.written(blob), b""
        if known is None:
            raise Failure(404, "PathNotFound", "The specified path does not exist.")
        if request.method == "PATCH" and request.query.get("action") == "setProperties":
            self.check(request, known)
            known.metadata = user_properties(request)
            known.touch()
            return 200, self.written(known), b""
        if request.method == "HEAD":
            return 200, self.written(known, **{"x-ms-resource-type": "directory" if known.is_directory else "file"}), b""
        if request.method == "DELETE":
            if known.is_directory and container.below(name) and request.query.get("recursive") != "true":
                raise Failure(409, "DirectoryNotEmpty", "The recursive query parameter value must be true to delete a non-empty directory.")
            for inner in container.below(name):
                container.remove(inner)
            container.remove(name)
            return 200, {}, b""
        raise Failure(405, "UnsupportedHttpVerb")

    def rename(self, request, container, name, known):
        path, _, query = request["x-ms-rename-source"].partition("?")
        _, filesystem, old = path.split("/", 2)
        old = blob_name(old).rstrip("/")
        if "sig" in request.query:
            given = {key.lower(): value for key, value in urllib.parse.parse_qsl(query)}
            check_sas(request.account, filesystem, old, given, "d")
        source = container.blobs.get(old)
        if filesystem != request.container or source is None:
            raise Failure(404, "SourcePathNotFound", "The source path for a rename operation does not exist.")
        self.check(request, source, prefix="x-ms-source-")
        if request["if-none-match"] == "*" and known is not None:
            raise Failure(409, "PathAlreadyExists", "The specified path already exists.")
        self.check(request, known)
        if source.is_directory and f"{name}/".startswith(f"{old}/") and name != old:
            raise Failure(409, "InvalidRenameSourcePath", "The source directory cannot be the same as, nor an ancestor of, the destination.")
        parent = name.rpartition("/")[0]
        if parent and (parent not in container.blobs or not container.blobs[parent].is_directory):
            raise Failure(404, "RenameDestinationParentPathNotFound", "The parent directory of the destination path does not exist.")
        if name == old:
            return 201, self.written(source), b""
        if known is not None:
            if known.is_directory and (not source.is_directory or container.below(name)):
                raise Failure(409, "PathAlreadyExists", "The specified path already exists and is a directory.")
            if not known.is_directory and source.is_directory:
                raise Failure(409, "PathAlreadyExists", "The specified path already exists and is a file.")
        for inner in container.below(old) if source.is_directory else []:
            blob = container.blobs[inner]
            container.remove(inner)
            container.put(name + inner[len(old):], blob)
        container.remove(old)
        # As Hadoop's driver relies on, the entity tag stays.
        container.put(name, source)
        return 201, self.written(source), b""


def user_properties(request):
    pairs = [pair.strip().partition("=") for pair in request["x-ms-properties"].split(",") if pair.strip()]
    return {name: base64.b64decode(value).decode("latin-1") for name, _, value in pairs}


def escape(text):
    return xml.sax.saxutils.escape(text)


def describe(name, blob, has_metadata):
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in
                       {**blob.metadata, **({"hdi_isfolder": "true"} if blob.is_directory else {})}.items())
    return (f"<Blob><Name>{escape(name)}</Name><Properties><Creation-Time>{http_date(blob.created)}</Creation-Time>"
            f"<Last-Modified>{http_date(blob.modified)}</Last-Modified><Etag>{blob.etag}</Etag>"
            f"<Content-Length>{len(blob.data)}</Content-Length><Content-MD5>{blob.md5 or ''}</Content-MD5>"
            f"<BlobType>BlockBlob</BlobType></Properties>{f'<Metadata>{metadata}</Metadata>' if has_metadata else ''}</Blob>")


def sign(account, text):
    return base64.b64encode(hmac.new(base64.b64decode(ACCOUNTS[account][0]), text.encode(), hashlib.sha256).digest()).decode()


def needed(request):
    """The letters of the permissions of which one is needed."""
    if request.service == "dfs":
        return "d" if request.method == "DELETE" else "m" if request["x-ms-rename-source"] else \
            "r" if request.method == "HEAD" else "w"
    if request.query.get("comp") == "list":
        return "l"
    return {"GET": "r", "HEAD": "r", "DELETE": "d"}.get(request.method) or ("wc" if not request.query.get("comp") else "w")


def check_sas(account, container, name, query, letters):
    """Source: "Create an account SAS", "Create a service SAS"."""
    get = lambda key: query.get(key, "")     # noqa: E731
    if "ss" in query:
        lines = [account, get("sp"), get("ss"), get("srt"), get("st"), get("se"), get("sip"), get("spr"), get("sv")]
        lines += [get("ses"), ""] if get("sv") >= "2020-12-06" else [""]
        fits = "b" in get("ss") and ("o" if name else "c") in get("srt")
    else:
        resource = f"/blob/{account}/{container}" + (f"/{name}" if get("sr") == "b" else "")
        lines = [get("sp"), get("st"), get("se"), resource, get("si"), get("sip"), get("spr"), get("sv"), get("sr"),
                 get("snapshot")]
        lines += [get("ses")] if get("sv") >= "2020-12-06" else []
        lines += [get("rscc"), get("rscd"), get("rsce"), get("rscl"), get("rsct")]
        fits = get("sr") in ("b", "c")
    if not hmac.compare_digest(get("sig"), sign(account, "\n".join(lines))):
        raise Failure(403, "AuthenticationFailed", f"Signature did not match. String to sign used was {lines!r}, sig {get('sig')}")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    if get("se") and get("se") < now or get("st") > now:
        raise Failure(403, "AuthenticationFailed", "Signature not valid in the specified time frame")
    if not fits or not set(letters) & set(get("sp")):
        raise Failure(403, "AuthorizationPermissionMismatch",
                      "This request is not authorized to perform this operation using this permission.")


class Handler(socketserver.StreamRequestHandler):
    """HTTP/1.1 by hand: http.server reads heads as mail, which takes longer than all the rest."""

    wbufsize = 0
    disable_nagle_algorithm = True

    def handle(self):
        try:
            while self.one():
                pass
        except (ConnectionError, ValueError):
            pass

    def one(self):
        line = self.rfile.readline(65_536).decode("latin-1").split()
        if len(line) != 3:
            return False
        method, target, _ = line
        headers = {}
        while (line := self.rfile.readline(65_536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        if headers.get("expect", "").lower() == "100-continue":
            self.request.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(int(headers.get("content-length") or 0))
        cloud, service = self.server.cloud, self.server.service
        with cloud.lock:
            try:
                request = Request(method, target, headers, body, service)
                if method in ("PUT", "POST", "PATCH") and "content-length" not in headers:
                    raise Failure(411, "MissingContentLengthHeader")
                status, answer, content = cloud.answer(request)
                if method in ("PUT", "DELETE") and cloud.has_fault("lost", request):
                    return False
            except Failure as failure:
                status, answer, content = self.failed(failure)
        length = answer.pop("content-length", None) if method == "HEAD" else None
        head = [f"HTTP/1.1 {status} {'OK' if status < 300 else 'Refused'}", f"Content-Length: {length or len(content)}",
                f"Date: {http_date(time.time())}", "Server: rig", f"x-ms-version: {VERSION}",
                f"x-ms-request-id: {secrets.token_hex(8)}"]
        head += [f"{name}: {value}" for name, value in answer.items() if name != "content-length"]
        start = ("\r\n".join(head) + "\r\n\r\n").encode()
        if method == "HEAD":
            content = b""
        self.request.sendall(start + content if len(content) < MIB else start)
        if len(content) >= MIB:
            self.request.sendall(content)
        return headers.get("connection", "").lower() != "close"

    def failed(self, failure):
        message = f"{failure.message}\nRequestId:{secrets.token_hex(8)}"
        headers = {**failure.headers, "x-ms-error-code": failure.code}
        if self.server.service == "dfs":
            return failure.status, {**headers, "content-type": "application/json"}, json.dumps(
                {"error": {"code": failure.code, "message": message}}).encode()
        text = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{failure.code}</Code><Message>{escape(message)}</Message></Error>'
        return failure.status, {**headers, "content-type": "application/xml"}, text.encode()


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256

    def __init__(self, cloud, service):
        super().__init__(("127.0.0.1", 0), Handler)
        self.cloud, self.service = cloud, service
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main():
    parser = argparse.ArgumentParser(prog="python3 -m rigs.azureemulator", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", required=True, type=pathlib.Path, help="folder for the file that tells the ports")
    arguments = parser.parse_args()
    cloud = Cloud()
    blob, dfs = Server(cloud, "blob"), Server(cloud, "dfs")
    ready = arguments.state / "ports.new"
    ready.write_text(json.dumps({"blob": blob.server_address[1], "dfs": dfs.server_address[1]}))
    ready.replace(arguments.state / "ports.json")
    threading.Thread(target=dfs.serve_forever, daemon=True).start()
    blob.serve_forever()


if __name__ == "__main__":
    main()
