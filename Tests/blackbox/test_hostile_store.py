"""What lies on a store may have been put there by anybody: nothing of it escapes the mount, hangs it, or ends it."""

import concurrent.futures
import os

import pytest
from botocore.exceptions import ClientError
from harness import run
from rigs.processes import wait_until

KEYS = [
    "plain", "../outside", "../../etc/passwd", "a/../../outside2", "./dot", "a/./b", "/absolute", "//double", "a//b", "a/",
    "dir/", "dir/file", "both", "both/below", "new\nline", "tab\t", "\x01\x7f", "carriage\rreturn", "u\ufffe", " ", "  lead", "tail  ", ".", "..", "...",
    "ü" * 100, "deep/" * 120 + "end", "n" * 300, "percent%2e%2e%2fx", "con", "a\\b", "~", "*", "emoji🙂", "trailing/ /x",
    "<xml>&amp;</xml>", "]]>", "%", "%zz", ".cloudfusion/x", "data", "config/config",
]


def test_keys_that_are_no_file_names(radosgw, mounts, folder):
    for key in KEYS:
        try:
            radosgw.write(key, key.encode())
        except ClientError:                          # the server's own limit: then it is no danger either
            continue
    mount = mounts(radosgw).start()
    before = sorted(os.listdir(folder))
    # What cannot be shown is said to be there.
    names = os.listdir(mount.data)
    assert ".." not in names and "/../" in (mount.stats / "errors").read_text()
    listing = run("find", mount.data, "-print0", timeout=60).stdout.split("\0")
    assert all(os.path.normpath(path).startswith(str(mount.data)) for path in listing if path)
    for root, _, names in os.walk(mount.data):
        for name in names:
            with open(os.path.join(root, name), "rb") as file:
                file.read()
    assert (mount.data / "plain").read_bytes() == b"plain"
    assert (mount.data / "dir" / "file").read_bytes() == b"dir/file"
    for key in ("new\nline", "tab\t", "\x01\x7f", "carriage\rreturn", "u\ufffe"):
        assert (mount.data / key).read_bytes() == key.encode()
    assert sorted(os.listdir(folder)) == before and not (folder / "outside").exists()
    # And all of it can still be removed or kept without harm to the rest.
    (mount.data / "plain").unlink()
    mount.sync()
    names = radosgw.names()
    assert "plain" not in names and "dir/file" in names and "../outside" in names
    mount.stop()


def test_a_directory_of_several_pages(radosgw, mounts):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: radosgw.write(f"many/f{number:05}", b"x"), range(2500)))
        list(pool.map(lambda number: radosgw.write(f"many/d{number:05}/x", b"x"), range(50)))
    mount = mounts(radosgw).start()
    names = os.listdir(mount.data / "many")
    assert len(names) == len(set(names)) == 2550
    assert len(run("ls", "-l", mount.data / "many", timeout=60).stdout.splitlines()) == 2551
    mount.stop()


@pytest.mark.limit(180)
def test_a_wrong_bit_on_the_way_is_noticed(radosgw, mounts, network):
    """What the store has a checksum for is never handed on with a wrong bit: it is fetched again."""
    store, net = network(radosgw)
    contents = {f"f{index}": os.urandom(60_000) for index in range(60)}
    for name, content in contents.items():
        radosgw.write(name, content)
    mount = mounts(store, metadata_cache=3600).start()
    wait_until(lambda: len(os.listdir(mount.data)) == 60, 20, "the listing")
    net.set(rate_corrupt=0.2)
    wrong = []
    for name, content in contents.items():
        try:
            if (mount.data / name).read_bytes() != content:
                wrong.append(name)
        except OSError:
            pass                                     # honest, if it came out wrong again and again
    net.set(rate_corrupt=0)
    assert not wrong, f"{len(wrong)} of 60 files were handed on with a wrong bit"
    mount.stop()


def test_a_store_that_changes_while_it_is_read(radosgw, mounts, network):
    """A file replaced while it is read gives the old bytes, the new ones, or an error; never a mixture."""
    store, net = network(radosgw)
    a, b = b"a" * (12 << 20), b"b" * (12 << 20)
    radosgw.write("file", a)
    mount = mounts(store, metadata_cache=1).start()
    with open(mount.data / "file", "rb", buffering=0) as file:
        assert file.read(4096) == a[:4096]
        radosgw.write("file", b)
        try:
            file.seek(8 << 20)
            rest = file.read(4096)
            assert rest == a[:4096], "bytes of another version"
        except OSError:
            pass

    def content():
        try:
            return (mount.data / "file").read_bytes()
        except OSError:
            return None                              # while the listing that is trusted is still the old one
    assert wait_until(lambda: content() == b, 20, "the new version")
    mount.stop()
