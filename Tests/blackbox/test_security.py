"""What docs/security.md promises, where no other test holds it."""

import http.server
import os
import re
import resource
import threading
import time

import pytest
from harness import run

NOBODY = {"user": 65534, "group": 65534, "extra_groups": []}
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")


def open_to_all(folder):
    """Temporary folders are for one user only; here others are to be stopped by what is tested."""
    for path in (folder, *folder.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)


@needs_root
def test_settings_and_commands_are_for_the_owner_also_with_allow_other(local, mounts, folder):
    open_to_all(folder)
    mount = mounts(local, flags=["-o", "allow_other"]).start()
    for script in ("cat config/config", "echo sync > config/command", "echo 'cache = 1' > config/config",
                   "rm -f config/config"):
        done = run("bash", "-c", script, cwd=mount.point, check=False, **NOBODY)
        assert done.returncode != 0 and "denied" in done.stderr.lower(), (script, done)
    assert mount.is_mounted
    assert run("cat", mount.stats / "stats", **NOBODY).stdout
    mount.stop()


def test_what_is_kept_on_the_disk_is_for_the_owner(store, mounts):
    mount = mounts(store, cache=3600, log_level="trace")
    mount.cache.mkdir(parents=True)
    mount.cache.chmod(0o777)
    before = os.umask(0)
    try:
        mount.start()
    finally:
        os.umask(before)
    for index in range(20):
        (mount.data / f"f{index}").write_bytes(b"private" * 1000)
    (mount.data / "f0").chmod(0o666)
    mount.umount()                                   # drains, and tells in a file how far it is
    mount.wait_for_end()
    mount.start()
    (mount.data / "g").write_bytes(b"x")
    mount.kill()
    [folder] = [path for path in mount.cache.iterdir() if (path / "lock").exists()]
    found = [folder, *folder.rglob("*")]
    assert len(found) > 5
    for path in found:
        assert path.lstat().st_mode & 0o077 == 0, path
    mount.start()
    mount.stop()


@pytest.mark.parametrize("name", ["log", "lock"])
def test_a_link_in_the_place_of_a_file_of_the_cache_is_not_followed(name, local, mounts, folder):
    victim = folder / "victim"
    victim.write_text("untouched")
    mount = mounts(local).start()
    mount.stop()
    [cache] = [path for path in mount.cache.iterdir() if (path / "lock").exists()]
    (cache / name).unlink(missing_ok=True)
    (cache / name).symlink_to(victim)
    assert name in mount.fail()
    assert victim.read_text() == "untouched"


def test_a_configuration_that_others_can_read_is_warned_about(radosgw, mounts):
    mount = mounts(radosgw)
    mount.write_config()
    mount.config_file.chmod(0o644)
    done = run(*mount.command(), timeout=30)
    assert "can be read by others" in done.stderr and radosgw.secret not in done.stderr
    mount.stop()


def everything_written(mount):
    """All that the program has written anywhere: control files, cache, log, standard error, arguments."""
    for folder in (mount.point / "config", mount.stats):
        for path in folder.iterdir() if mount.is_mounted else ():
            yield path, path.read_bytes()
    for path in mount.folder.rglob("*"):
        if mount.point in (path, *path.parents) or path == mount.config_file:
            continue
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()
    for pid in mount.pids():
        for name in ("cmdline", "status", "mountinfo"):
            with open(f"/proc/{pid}/{name}", "rb") as file:
                yield name, file.read()


@pytest.mark.parametrize("origin", ["configuration", "environment"])
def test_secrets_are_in_nothing_that_is_written(origin, radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=0, log_level="trace")
    if origin == "environment":
        mount.environment = {"AWS_ACCESS_KEY_ID": store.key, "AWS_SECRET_ACCESS_KEY": store.secret}
        text = mount.config_text()
        mount.write_config = lambda: mount.config_file.write_text(
            re.sub(r"(access_key_id|secret_access_key) = .*\n", "", text))
    mount.start()
    secret = store.secret.encode()

    def check():
        seen = list(everything_written(mount))
        names = {os.path.basename(place) for place, _ in seen}
        assert {"log", "catalog.sqlite"} <= names and len(seen) > 5
        for place, content in seen:
            assert secret not in content, place

    (mount.data / "file").write_bytes(os.urandom(9 << 20))
    mount.sync()
    check()
    net.set(rate_refuse=0.5)
    (mount.data / "second").write_bytes(b"x" * 100_000)
    time.sleep(1)
    check()
    net.set(rate_refuse=0)
    mount.config.write_text("cache = 2\n")
    mount.cli("status", mount.point, "--json")
    mount.sync()
    check()
    mount.kill()
    check()
    done = mount.cli("fsck", "--config", mount.config_file, check=False)
    assert store.secret not in done.stdout + done.stderr
    mount.start()
    mount.stop()
    check()


@pytest.mark.parametrize("origin", ["configuration", "environment"])
def test_no_core_files_where_there_are_secrets(origin, radosgw, mounts):
    mount = mounts(radosgw)
    if origin == "environment":
        mount.environment = {"AWS_ACCESS_KEY_ID": radosgw.key, "AWS_SECRET_ACCESS_KEY": radosgw.secret}
        text = mount.config_text()
        mount.write_config = lambda: mount.config_file.write_text(
            re.sub(r"(access_key_id|secret_access_key) = .*\n", "", text))
    before = resource.getrlimit(resource.RLIMIT_CORE)
    if before[1] == 0:
        pytest.skip("core files are switched off here for all processes")
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    try:
        mount.start()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    [pid] = mount.pids()
    with open(f"/proc/{pid}/limits") as file:
        assert re.search(r"Max core file size\s+0\s+0\s", file.read())
    mount.stop()


def test_a_redirect_is_not_followed(radosgw, mounts):
    asked = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_PUT = do_POST = do_GET

        def log_message(self, *_):
            pass

    class Redirecting(Elsewhere):
        def do_GET(self):
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{elsewhere.server_address[1]}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_POST = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere, \
            http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        for one in (elsewhere, server):
            threading.Thread(target=one.serve_forever, daemon=True).start()
        mount = mounts(radosgw.through(f"http://127.0.0.1:{server.server_address[1]}"), connect_timeout=5)
        mount.fail(timeout=60)
        assert asked == [], "a request with a signature went to where a server pointed"
        elsewhere.shutdown()
        server.shutdown()


def test_nosuid_and_nodev_reach_the_kernel(local, mounts):
    mount = mounts(local, flags=["-o", "nosuid,nodev"]).start()
    with open("/proc/self/mountinfo") as file:
        [line] = [line for line in file if f" {mount.point} " in line]
    assert {"nosuid", "nodev"} <= set(line.split(" ")[5].split(","))
    mount.stop()
