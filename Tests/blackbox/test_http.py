"""Mounts of folders that web servers show: for reading only, and byte for byte what lies there."""

import dataclasses
import errno
import os
import pathlib
import random
import stat
import threading
import time
import types

import pytest
from harness import SECRET, Local, differences, digest, run
from rigs.network import make_certificate
from rigs.processes import wait_until

SERVERS = ["nginx", "httpd", "python"]
NAMES = ["plain", "with  two spaces", "Grüße-日本語-🎉", "100%25 %2F %", "a+b&c=d", "what?x=1#part;y", "'single' \"double\"",
         "<tag>&amp;`x`|\\^{}~", "@:!$*()[],", "-rf", "trailing. ", "n" * 255, "two\nlines"]


def pages(path):
    """What is in a folder, as a store that tells no attributes can show it."""
    found = {}
    for folder, folders, files in os.walk(path):
        for name in folders + files:
            whole = os.path.join(folder, name)
            status = os.lstat(whole)
            is_file = stat.S_ISREG(status.st_mode)
            found[os.path.relpath(whole, path)] = {
                "kind": stat.S_IFMT(status.st_mode), "content": digest(whole) if is_file else None,
                "time": int(status.st_mtime) if is_file else None}
    return found


def fill(root):
    """Odd names, folders in folders, an empty folder, an empty file, and files around the sizes that matter."""
    dice = random.Random(1)
    for name in NAMES:
        (root / name).write_bytes(dice.randbytes(3000))
        if len(name.encode()) < 250:
            (root / f"d {name}").mkdir()
            (root / f"d {name}" / name).write_bytes(name.encode())
    (root / "empty folder").mkdir()
    (root / "empty").write_bytes(b"")
    for size in (1, 4096, (128 << 10) + 1, (512 << 10) + 1, 3_000_000):
        (root / f"size {size}").write_bytes(dice.randbytes(size))
    deep = root
    for level in range(12):
        deep = deep / f"level {level}"
        deep.mkdir()
    (deep / "deep").write_bytes(b"deep")


def age(root, seconds=10_000):
    """Makes all files as old as those of servers are."""
    then = time.time() - seconds
    for path in root.rglob("*"):
        os.utime(path, (then, then))


def events(mount):
    """Kinds of what stats/errors tells."""
    return [error["kind"] for error in mount.status()["errors"]]


@pytest.mark.limit(300)
@pytest.mark.parametrize("kind", ["object", "chunk"])
@pytest.mark.parametrize("name", SERVERS)
def test_the_mount_is_what_the_server_has(name, kind, web_server, mounts):
    store = web_server(name)
    fill(store.root)
    age(store.root)
    mount = mounts(store, type=kind).start()
    assert differences(pages(store.root), pages(mount.data)) == []
    assert events(mount) == []
    mount.stop()
    # And again from the cache, and with an empty one.
    assert differences(pages(store.root), pages(mount.start().data)) == []
    mount.stop()
    cold = mounts(store, flags=["-o", "flat"]).start()
    assert differences(pages(store.root), {
        path: facts for path, facts in pages(cold.data).items() if not path.startswith(".cloudfusion")}) == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_large_file_is_read_in_pieces(name, web_server, mounts, network):
    store = web_server(name)
    size = 40_000_000
    content = random.Random(2).randbytes(size)
    (store.root / "large").write_bytes(content)
    age(store.root)
    through, net = network(store)
    mount = mounts(through, metadata_cache=600).start()
    net.reset_count()
    dice = random.Random(3)
    with open(mount.data / "large", "rb", buffering=0) as file:
        for _ in range(30):
            offset, count = dice.randrange(size), dice.randrange(1, 100_000)
            assert os.pread(file.fileno(), count, offset) == content[offset:offset + count]
        assert os.pread(file.fileno(), 10, size - 3) == content[-3:]
        assert os.pread(file.fileno(), 10, size) == b""
    fetched = mount.status()["transfers"]["downloaded_bytes"]
    # Without ranges one request brings all of it.
    assert fetched < 3 * size / 4 if name != "python" else fetched < 3 * size
    assert (mount.data / "large").read_bytes() == content
    mount.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_changes_on_the_server_show_up(name, web_server, mounts):
    store = web_server(name)
    (store.root / "d").mkdir()
    for path in ("stays", "changes", "goes", "d/changes", "grows"):
        (store.root / path).write_bytes(b"old " + path.encode())
    age(store.root)
    mount = mounts(store, metadata_cache=1).start()
    assert (mount.data / "d" / "changes").read_bytes() == b"old d/changes"
    assert differences(pages(store.root), pages(mount.data)) == []
    # One is open meanwhile: it stays what it was.
    with open(mount.data / "changes", "rb") as file:
        (store.root / "changes.new").write_bytes(b"new changes")
        (store.root / "changes.new").replace(store.root / "changes")
        (store.root / "d" / "changes").write_bytes(b"NEW d/changes")        # as long as before
        (store.root / "grows").write_bytes(b"more than before")
        (store.root / "goes").unlink()
        (store.root / "comes").mkdir()
        (store.root / "comes" / "too").write_bytes(b"x")
        wait_until(lambda: differences(pages(store.root), pages(mount.data)) == [], 30, "the changes", every=0.2)
        assert file.read() == b"old changes"
    mount.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_nothing_can_be_changed(name, web_server, mounts):
    store = web_server(name)
    (store.root / "file").write_bytes(b"look")
    (store.root / "d").mkdir()
    before = pages(store.root)
    mount = mounts(store, flags=["-o", "rw"]).start()
    file, folder = mount.data / "file", mount.data / "d"
    for change in (lambda: file.write_bytes(b"x"), lambda: open(file, "r+b"), lambda: os.truncate(file, 1),
                   lambda: (mount.data / "new").write_bytes(b"x"), lambda: (mount.data / "new").mkdir(), file.unlink,
                   folder.rmdir, lambda: file.rename(mount.data / "renamed"), lambda: file.chmod(0o600),
                   lambda: os.utime(file), lambda: os.link(file, mount.data / "second"),
                   lambda: os.symlink("file", mount.data / "link"), lambda: os.mkfifo(mount.data / "fifo"),
                   lambda: os.setxattr(file, "user.x", b"x"),
                   lambda: os.setxattr(folder, "user.cloudfusion.durability", b"remote")):
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    assert file.read_bytes() == b"look"
    mount.sync()
    status = mount.status()
    assert status["store"]["read_only"] is True and status["pending"]["items"] == 0
    assert "for reading only" in mount.cli("status", mount.point).stdout
    # Its settings can be changed all the same.
    mount.config.write_text("metadata_cache = 7\n")
    assert mount.status()["settings"]["metadata_cache"] == "7"
    log = next(mount.cache.glob("*/log")).read_text()
    assert log.count("reading only") == 1
    mount.stop()
    assert differences(before, pages(store.root)) == []


@pytest.mark.parametrize("name", SERVERS)
def test_a_file_that_is_replaced_while_it_is_read_is_never_a_mixture(name, web_server, mounts):
    store = web_server(name)
    size = 6_000_000
    contents = [bytes([version]) * size for version in range(4)]
    target = store.root / "file"
    target.write_bytes(contents[0])
    mount = mounts(store, metadata_cache=0).start()
    over = threading.Event()

    def replace():
        version = 0
        while not over.wait(0.15):
            version += 1
            draft = store.root / ".draft"
            draft.write_bytes(contents[version % 4])
            # Servers tell versions by the time, which some tell in seconds, and on their pages in minutes.
            then = 1_000_000_000 + 60 * version
            os.utime(draft, (then, then))
            draft.replace(target)

    writer = threading.Thread(target=replace)
    writer.start()
    whole = refused = 0
    end = time.monotonic() + 6
    try:
        while time.monotonic() < end:
            try:
                found = (mount.data / "file").read_bytes()
            except OSError as error:
                assert error.errno in (errno.EIO, errno.ESTALE), error
                refused += 1
                continue
            assert found in contents, f"{len(found)} bytes, of versions {sorted(set(found))}"
            whole += 1
    finally:
        over.set()
        writer.join()
    assert whole
    wait_until(lambda: (mount.data / "file").read_bytes() == target.read_bytes(), 30, "the last version")
    mount.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_one_file_is_a_folder_with_that_file(name, web_server, mounts):
    store = web_server(name)
    content = random.Random(4).randbytes(2_000_000)
    (store.root / "disk image.iso").write_bytes(content)
    (store.root / "other").write_bytes(b"x")

    one = types.SimpleNamespace(store=store.store, auth={**store.auth, "url": f"{store.url}disk%20image.iso"})
    mount = mounts(one).start()
    assert os.listdir(mount.data) == ["disk image.iso"]
    assert (mount.data / "disk image.iso").read_bytes() == content
    assert not (mount.data / "other").exists()
    mount.stop()


@pytest.mark.parametrize("name", SERVERS)
def test_what_is_wrong_is_told_in_one_sentence(name, web_server, mounts, network, folder):
    store = web_server(name)
    (store.root / "file").write_bytes(b"x")
    mistakes = [({"url": f"{store.endpoint}/there-is-none/"}, "check url"),
                ({"url": f"{store.endpoint}/there-is-none"}, "check url"),
                ({"url": f"{store.url}file/"}, "check url")]
    if name != "python":            # which asks nobody for anything
        mistakes += [({"password": SECRET}, "check user and password"),
                     ({"user": "", "password": ""}, "wants credentials")]
    if name == SERVERS[0]:          # the same for all, and waited for
        proxy, _ = network(store, tls=make_certificate(folder))
        mistakes += [({"url": "http://127.0.0.1:1/"}, "127.0.0.1:1"), ({"url": proxy.url}, "certificate"),
                     ({"url": f"{store.url}?x=1"}, "'?'")]
    for change, words in mistakes:
        mount = mounts(store)
        auth = "\n".join(f"{key} = {value}" for key, value in {**store.auth, **change}.items())
        mount.write_config(f"[auth]\n{auth}\n[store]\nname = http\ncache_dir = {mount.cache}\n")
        said = mount.fail(timeout=60)
        assert words in said and SECRET not in said and store.password not in said, said
        assert words in said.splitlines()[-1], said


def test_a_folder_is_mounted_by_its_url(web_server, mounts, binary):
    store = web_server("python")
    (store.root / "file").write_bytes(b"by URL")
    mount = mounts(store)
    mount.command = lambda: [binary, store.url, mount.point, "-o", f"cache_dir={mount.cache}"]
    mount.start()
    assert (mount.data / "file").read_bytes() == b"by URL"
    source = next(line for line in open("/proc/self/mounts") if f" {mount.point} " in line).split()[0]
    assert source == store.url.rstrip("/")
    mount.stop()
    done = run(binary, "https://anna:pw@host/x/", mount.point, check=False)
    assert done.returncode == 2 and "does not name a place" in done.stderr


@pytest.mark.parametrize("name", SERVERS)
def test_archives_of_small_files_are_read_where_a_web_server_shows_them(name, web_server, mounts, folder):
    """What a mount with type = chunk has written to a folder that is served: a public copy of it."""
    store = web_server(name)
    source = mounts(Local(store.root), type="chunk", cache=0).start()
    for number in range(200):
        (source.data / f"small {number}").write_bytes(f"content {number}".encode() * 20)
    (source.data / "d").mkdir()
    (source.data / "d" / "link").symlink_to("../small 1")
    (source.data / "large").write_bytes(random.Random(5).randbytes(300_000))
    (source.data / "small 7").unlink()
    source.sync()
    expected = shown(source.data)
    source.stop()
    assert len(list((store.root / ".cloudfusion" / "chunks").iterdir())) > 0
    for path in store.root.rglob("*"):           # the store keeps them to itself; who serves them does not
        path.chmod(0o755 if path.is_dir() else 0o644)
    mount = mounts(store).start()
    assert differences(expected, shown(mount.data)) == []
    mount.stop()


def shown(root):
    found = {}
    for path in pathlib.Path(root).rglob("*"):
        content = os.readlink(path) if path.is_symlink() else digest(path) if path.is_file() else None
        status = path.lstat()
        found[str(path.relative_to(root))] = {
            "content": content, "mode": status.st_mode, "time": None if path.is_dir() else int(status.st_mtime)}
    return found


def test_the_forms_that_nginx_has_besides_html_show_the_same(web_server, mounts):
    store = web_server("nginx")
    fill(store.root)
    age(store.root)
    for form in ("json", "xml"):
        other = dataclasses.replace(store, endpoint=store.endpoint.replace("/files", f"/{form}"))
        mount = mounts(other).start()
        assert differences(pages(store.root), pages(mount.data)) == []
        mount.stop()


@pytest.mark.limit(600)
def test_a_folder_with_very_many_files_is_listed(web_server, mounts, network, pytestconfig):
    store = web_server("nginx")
    count = pytestconfig.getoption("--entries") or 20_000
    for number in range(count):
        (store.root / f"file {number}").write_bytes(b"x")
    age(store.root)
    through, net = network(store)
    mount = mounts(through, metadata_cache=1, flags=["-o", "threads=4"]).start()
    assert len(os.listdir(mount.data)) == count
    net.reset_count()
    time.sleep(1.1)
    (store.root / "one more").write_bytes(b"more")
    wait_until(lambda: "one more" in os.listdir(mount.data), 60, "the new file")
    # What has not changed on the page is not asked for again.
    assert sum(net.requests().values()) < count / 10
    _, most = mount.memory()
    assert most < 400 << 20, f"{most >> 20} MiB"
    mount.stop()
