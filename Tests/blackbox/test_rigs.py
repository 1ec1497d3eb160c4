"""The tools of the tests do what they claim; else the tests that use them claim nothing."""

import concurrent.futures
import http.client
import http.server
import threading
import time
import urllib.parse

import pytest
from harness import S3, run
from rigs.network import make_certificate
from rigs.processes import Processes, start_time


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0))) or b"nothing"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    do_GET = do_PUT = do_HEAD = do_POST = answer

    def log_message(self, *arguments):
        pass


@pytest.fixture
def echo():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield S3("echo", f"http://127.0.0.1:{server.server_address[1]}", "", "", "", "")
        server.shutdown()


def ask(endpoint, method="GET", path="/b/k", body=None, timeout=10, connection=None):
    url = urllib.parse.urlsplit(endpoint)
    connection = connection or http.client.HTTPConnection(url.hostname, url.port, timeout=timeout)
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_bytes_pass_unchanged_and_are_counted(echo, network):
    through, net = network(echo)
    body = bytes(range(256)) * 40_000
    assert ask(through.endpoint, "PUT", body=body) == (200, body)
    for method, path in (("GET", "/b?list-type=2&prefix=x"), ("GET", "/b/k"), ("HEAD", "/b/k"), ("POST", "/b?delete"),
                         ("PUT", "/b/k?partNumber=1&uploadId=x"), ("POST", "/b/k?uploads")):
        ask(through.endpoint, method, path)
    assert net.requests() == {"PUT": 1, "LIST": 1, "GET": 1, "HEAD": 1, "BULK DELETE": 1, "PART": 1, "MULTIPART": 1}


def test_latency_is_added_once_per_round_trip(echo, network):
    through, net = network(echo, latency_ms=50)
    url = urllib.parse.urlsplit(through.endpoint)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    ask(through.endpoint, connection=connection)
    begun = time.monotonic()
    for _ in range(5):
        ask(through.endpoint, connection=connection)
    assert time.monotonic() - begun >= 0.5
    net.set(latency_ms=0)


def test_refused_stalled_frozen_and_up_again(echo, network):
    through, net = network(echo)
    net.set(rate_refuse=1)
    assert ask(through.endpoint, "PUT", body=b"x" * 100_000)[0] == 503
    net.set(rate_refuse=0, state="refuse")
    with pytest.raises(OSError):
        ask(through.endpoint)
    for hold, release in ((lambda: net.set(state="stall"), lambda: net.set(state="up")), (net.freeze, net.thaw)):
        net.set(state="up")
        hold()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waiting = pool.submit(ask, through.endpoint, timeout=30)
            with pytest.raises(concurrent.futures.TimeoutError):
                waiting.result(timeout=0.5)
            release()
            assert waiting.result(timeout=20)[0] == 200
    net.set(rate_reset=1)
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(through.endpoint)


def test_a_wrong_bit(echo, network):
    through, net = network(echo)
    body = bytes(5000)
    net.set(rate_corrupt=1)
    status, answer = ask(through.endpoint, "PUT", body=body)
    assert status == 200 and len(answer) == 5000 and answer != body


def test_tls_in_front(echo, network, folder):
    certificate, key = make_certificate(folder)
    through, net = network(echo, tls=(certificate, key))
    assert run("curl", "-sS", "--cacert", certificate, f"{through.endpoint}/b/k").stdout == "nothing"
    assert run("curl", "-sS", f"{through.endpoint}/b/k", check=False).returncode == 60


def test_processes_end_even_when_they_are_stopped(folder):
    processes = Processes(folder)
    processes.spawn("deaf", ["bash", "-c", "trap '' TERM; kill -STOP $$; sleep 1000"])
    pid, = processes.pids().values()
    processes.stop(patience=0.2)
    assert start_time(pid) is None and processes.pids() == {}


@pytest.mark.parametrize("name", ["radosgw", "swift", "moto", "rclone"])
def test_each_server_keeps_an_object(name, s3_server):
    store = s3_server(name)
    store.write("folder/name with space ü", b"content")
    assert store.names() == {"folder/name with space ü": 7}
    assert store.read("folder/name with space ü") == b"content"
    store.delete("folder/name with space ü")
    assert store.names() == {}


@pytest.mark.parametrize("name", ["stub", "emulator"])
def test_each_server_of_google_s_kind_keeps_an_object(name, google_server):
    store = google_server(name)
    store.write("folder/name with space ü", b"content")
    assert store.names() == {"folder/name with space ü": 7}
    assert store.read("folder/name with space ü") == b"content"
    store.delete("folder/name with space ü")
    assert store.names() == {}


ACCOUNTS = ["flat", "hierarchical"]


@pytest.mark.parametrize("name", ACCOUNTS)
def test_microsofts_own_client_gets_on_with_the_emulator_of_azure(name, azure_account):
    """Its signatures are those of the protocol, and it understands what the emulator answers."""
    from azure.core import MatchConditions
    from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
    from azure.storage.blob import BlobBlock
    store = azure_account(name)
    container, start = store.client, store.prefix
    names = [f"folder/name {number:02} with ü+&" for number in range(30)]
    for number, blob in enumerate(names):
        container.upload_blob(f"{start}/{blob}", bytes(number), metadata={"mode": "0100644", "a_b": "x", "ab": "y", "a1": "z"})
    listed = list(container.list_blobs(name_starts_with=f"{start}/folder/", include=["metadata"], results_per_page=7))
    assert [(blob.name, blob.size) for blob in listed] == [(f"{start}/{blob}", size) for size, blob in enumerate(names)]
    assert all(blob.metadata == {"mode": "0100644", "a_b": "x", "ab": "y", "a1": "z"} for blob in listed)
    walked = list(container.walk_blobs(name_starts_with=f"{start}/", delimiter="/"))
    assert [entry.name for entry in walked] == [f"{start}/folder/"]

    one = container.get_blob_client(f"{start}/{names[5]}")
    assert one.download_blob(offset=1, length=3, validate_content=True).readall() == bytes(3)
    known = one.get_blob_properties()
    assert known.content_settings.content_md5 is not None and known.etag == listed[5].etag.join('""')
    with pytest.raises(ResourceExistsError):
        one.upload_blob(b"no", overwrite=False)
    with pytest.raises(ResourceModifiedError):
        one.upload_blob(b"no", overwrite=True, etag='"0x1"', match_condition=MatchConditions.IfNotModified)
    one.upload_blob(b"yes", overwrite=True, etag=known.etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceModifiedError):
        one.delete_blob(etag=known.etag, match_condition=MatchConditions.IfNotModified)
    with pytest.raises(ResourceNotFoundError):
        container.get_blob_client(f"{start}/nothing").get_blob_properties()

    large = container.get_blob_client(f"{start}/large")
    for block in ("YWFh", "YmJi"):
        large.stage_block(block, block.encode() * 1000, validate_content=True)
    with pytest.raises(HttpResponseError):
        large.stage_block("bG9uZ2Vy", b"an id of another length")
    assert [len(part) for part in large.get_block_list("all")] == [0, 2]
    large.commit_block_list([BlobBlock("YmJi"), BlobBlock("YWFh")])
    assert large.download_blob().readall() == b"YmJi" * 1000 + b"YWFh" * 1000
    copy = container.get_blob_client(f"{start}/copy")
    copy.start_copy_from_url(one.url)
    assert copy.download_blob().readall() == b"yes"
    for blob in container.list_blobs(name_starts_with=start):
        assert not blob.name.endswith(".")
    # What the service makes of names that it does not take as they are.
    container.upload_blob(f"{start}/odd/a\\b.", b"")
    assert [blob.name for blob in container.list_blobs(name_starts_with=f"{start}/odd/a")][-1] == f"{start}/odd/a/b"


@pytest.mark.parametrize("name", ACCOUNTS)
def test_signatures_that_microsofts_own_client_makes_let_in(name, azure_account):
    import datetime

    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
    from azure.storage.blob import ContainerClient, generate_account_sas, generate_blob_sas, generate_container_sas
    store = azure_account(name)
    store.write("file", b"bytes")
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1)
    past = soon - datetime.timedelta(days=1)
    blob = f"{store.prefix}/file"
    for make in (
            lambda **more: generate_account_sas(store.account, store.key, "sco", **more),
            lambda **more: generate_container_sas(store.account, store.container, store.key, **more),
            lambda **more: generate_blob_sas(store.account, store.container, blob, account_key=store.key, **more)):
        def client(**more):
            return ContainerClient(store.endpoint, store.container, credential=make(**more))
        assert client(permission="r", expiry=soon).download_blob(blob).readall() == b"bytes"
        with pytest.raises(ClientAuthenticationError):
            client(permission="r", expiry=past).download_blob(blob)
        with pytest.raises((ClientAuthenticationError, HttpResponseError)):
            client(permission="r", expiry=soon).delete_blob(blob)


def test_microsofts_own_client_moves_directories_of_the_emulator(azure_account):
    from azure.storage.filedatalake import FileSystemClient
    store = azure_account("hierarchical")
    files = FileSystemClient(store.dfs_endpoint, store.container,
                             credential={"account_name": store.account, "account_key": store.key})
    directory = files.create_directory(f"{store.prefix}/old/ü", metadata={"mode": "040750"})
    store.write("old/ü/file", b"bytes")
    before = store.client.get_blob_client(f"{store.prefix}/old/ü/file").get_blob_properties().etag
    directory.rename_directory(f"{store.container}/{store.prefix}/old/new name")
    assert store.names() == {"old/new name/file": 5}
    moved = store.client.get_blob_client(f"{store.prefix}/old/new name")
    assert moved.get_blob_properties().metadata == {"mode": "040750", "hdi_isfolder": "true"}
    assert store.client.get_blob_client(f"{store.prefix}/old/new name/file").get_blob_properties().etag == before
