"""What is wrong is said at once, in one sentence that helps, and leaves nothing behind."""

import dataclasses
import re

import pytest
from harness import SECRET, S3, run
from rigs.network import make_certificate
from rigs.processes import free_ports

NOWHERE = S3("nowhere", "http://127.0.0.1:1", "us-east-1", "AKIDNOTHING", SECRET, "some-bucket", "p")


def assert_clear(message, *words):
    """One sentence for a person: short, no stack trace, names what is wrong, shows no secret."""
    lines = [line for line in message.splitlines() if line.strip()]
    assert 1 <= len(lines) <= 4, message
    assert SECRET not in message
    assert not re.search(r"Fatal error|Stack dump|0x[0-9a-f]{8}|StoreError\(|Swift\.", message), message
    for word in words:
        assert re.search(word, message, re.IGNORECASE), f"{word!r} is not in: {message}"


def assert_no_secret(mount, secret):
    places = [mount.log, *(path for path in mount.cache.rglob("*") if path.is_file())]
    for path in places:
        if path.exists():
            assert secret.encode() not in path.read_bytes(), path


def test_a_wrong_secret_key(radosgw, mounts):
    mount = mounts(dataclasses.replace(radosgw, secret=SECRET))
    assert_clear(mount.fail(), "secret|signature|key|credential")
    assert_no_secret(mount, SECRET)


def test_a_wrong_access_key(radosgw, mounts):
    mount = mounts(dataclasses.replace(radosgw, key="nobody", secret=SECRET))
    assert_clear(mount.fail(), "key|credential")


def test_a_bucket_that_is_not_there(radosgw, mounts):
    mount = mounts(dataclasses.replace(radosgw, bucket="no-such-bucket-here"))
    assert_clear(mount.fail(), "no-such-bucket-here")


def test_an_endpoint_where_nobody_listens(mounts):
    port, = free_ports(1)
    mount = mounts(dataclasses.replace(NOWHERE, endpoint=f"http://127.0.0.1:{port}"))
    assert_clear(mount.fail(), f"127.0.0.1:{port}", "connect|reach|refused")
    assert_no_secret(mount, SECRET)


def test_an_endpoint_that_never_answers(radosgw, mounts, network):
    store, net = network(radosgw)
    net.freeze()
    mount = mounts(store)
    assert_clear(mount.fail(timeout=60), "answer|time|reach")


def test_a_host_that_does_not_exist(mounts):
    mount = mounts(dataclasses.replace(NOWHERE, endpoint="http://no-such-host.invalid"))
    assert_clear(mount.fail(timeout=60), "no-such-host.invalid")


def test_an_endpoint_that_is_no_s3_server(mounts, folder):
    import http.server
    import threading
    (folder / "www").mkdir()
    handler = lambda *a: http.server.SimpleHTTPRequestHandler(*a, directory=folder / "www")  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mount = mounts(dataclasses.replace(NOWHERE, endpoint=f"http://127.0.0.1:{server.server_address[1]}"))
        assert_clear(mount.fail())
        server.shutdown()


def test_a_certificate_of_an_unknown_authority(radosgw, mounts, network, folder):
    store, net = network(radosgw, tls=make_certificate(folder))
    mount = mounts(store)
    assert_clear(mount.fail(), "certificate")
    assert not net.requests(), "a request was sent over a connection that could not be trusted"


@pytest.mark.parametrize("line, names", [
    ("cach = 5", ["cach", "cache"]), ("metadata_cahce = 5", ["metadata_cahce", "metadata_cache"]),
    ("cache = five", ["cache", "five"]), ("cache_size = -1", ["cache_size"]), ("cache = ", ["cache"]),
    ("just words", ["just words"]), ("[stor]", ["stor", "store"]),
])
def test_a_typing_error_in_the_configuration(line, names, local, mounts):
    mount = mounts(local)
    mount.write_config(mount.config_text().rstrip("\n") + f"\n{line}\n")
    number = len(mount.config_file.read_text().splitlines())
    message = mount.fail()
    assert_clear(message, *map(re.escape, names), f"{re.escape(str(mount.config_file))}.*{number}")
    checked = run(mount.binary, "check-config", mount.config_file, check=False)
    assert checked.returncode in (1, 2)
    assert_clear(checked.stderr, *map(re.escape, names))


def test_a_right_configuration_is_said_to_be_right(store, mounts):
    mount = mounts(store)
    mount.write_config()
    done = run(mount.binary, "check-config", mount.config_file)
    assert store.name == "local" or store.secret not in done.stdout + done.stderr


@pytest.mark.parametrize("text, words", [
    ("\0\0\0", []), ("[store]\nname = s3\n", ["bucket"]), ("\xff\xfe[store]", []),
    ("[store]\nname = local\n", ["path"]), ("x" * 100_000, []),
])
def test_configurations_that_are_none(text, words, mounts):
    mount = mounts(None)
    mount.config_file.write_bytes(text.encode("latin-1"))
    assert_clear(mount.fail(), *words)


def test_a_configuration_that_is_not_there(mounts, folder):
    mount = mounts(None)
    done = run(mount.binary, "--config", folder / "nothing.ini", mount.point, check=False, timeout=30)
    assert done.returncode in (1, 2) and not mount.is_mounted
    assert_clear(done.stderr, "nothing.ini")


def test_mount_points_that_will_not_do(local, mounts, folder):
    mount = mounts(local)
    mount.point.rmdir()
    assert_clear(mount.fail(), re.escape(str(mount.point)), "exist|director")
    mount.point.write_bytes(b"a file")
    assert_clear(mount.fail(), re.escape(str(mount.point)), "director")
    mount.point.unlink()
    mount.point.mkdir()
    (mount.point / "something").write_bytes(b"in the way")
    assert_clear(mount.fail(), re.escape(str(mount.point)), "empty")
    assert (mount.point / "something").read_bytes() == b"in the way"
    (mount.point / "something").unlink()
    mount.start()
    mount.stop()


def test_a_folder_that_is_not_there_as_store(folder, mounts, local):
    mount = mounts(dataclasses.replace(local, path=folder / "missing"))
    assert_clear(mount.fail(), "missing")


def test_mounting_twice(local, mounts):
    first = mounts(local).start()
    done = run(*first.command(), check=False, timeout=30)
    assert done.returncode in (1, 2)
    assert_clear(done.stderr, re.escape(str(first.point)))
    second = mounts(local, cache_dir=first.cache)
    assert_clear(second.fail(), "cache|in use|mounted")
    (first.data / "works").write_bytes(b"as before")
    first.stop()


@pytest.mark.parametrize("arguments, code", [
    (["--nonsense", "MNT"], 2), ([], 2), (["local:///tmp"], 2), (["nosuchscheme://x", "MNT"], 2),
    (["MNT", "-o", "nosuchoption=1"], 2), (["MNT", "-o", "cache=abc"], 2), (["stop"], 2), (["stop", "MNT"], 1),
    (["sync", "MNT"], 1), (["status", "MNT"], 1), (["check-config"], 2), (["check-config", "/no/such/file"], 1),
])
def test_wrong_command_lines(arguments, code, mounts):
    mount = mounts(None)
    words = [str(mount.point) if word == "MNT" else word for word in arguments]
    done = run(mount.binary, *words, check=False, timeout=30)
    assert done.returncode == code, done.stderr
    assert done.stderr.strip() and not mount.is_mounted
    assert "Fatal error" not in done.stderr


def test_secrets_do_not_show(radosgw, mounts, network):
    """Not in messages, the log, the control files or the status; also not when requests fail."""
    store, net = network(radosgw)
    mount = mounts(store, cache=0).start()
    (mount.data / "file").write_bytes(b"x")
    mount.sync()
    net.set(rate_refuse=1)
    (mount.data / "file2").write_bytes(b"y")
    texts = [(mount.point / name).read_text() for name in (
        "config/config", "stats/stats", "stats/errors", "stats/notuploaded", "stats/status.json", "stats/metrics")]
    texts += [mount.cli("status", mount.point).stdout, mount.cli("status", mount.point, "--json").stdout]
    for pid in mount.pids():
        with open(f"/proc/{pid}/cmdline") as file:
            texts.append(file.read())
    for text in texts:
        assert store.secret not in text
    net.set(rate_refuse=0)
    mount.stop()
    assert_no_secret(mount, store.secret)
