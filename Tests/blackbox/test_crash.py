"""After close() returned the file survives whatever happens to the daemon."""

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import describe, differences, mounts_below, run
from rigs.processes import wait_until
from trees import odd


def test_closed_files_survive_kill_9(store, mounts, folder):
    original = folder / "original"
    odd(original)
    mount = mounts(store, cache=3600).start()
    run("cp", "-a", original, mount.data / "tree")
    (mount.data / "big").write_bytes(random.Random(1).randbytes(20 << 20))
    expected = describe(mount.data)
    mount.kill()
    mount.start()
    assert differences(expected, describe(mount.data)) == []
    assert b"/big\t" in (mount.stats / "notuploaded").read_bytes()       # paths are bytes
    mount.sync()
    mount.stop()
    fresh = mounts(store).start()
    assert differences(expected, describe(fresh.data)) == []
    fresh.stop()


def test_the_same_command_mounts_again_after_a_crash(store, mounts):
    """The dead mount is in use by others, and the kernel still knows what its directories are like."""
    mount = mounts(store, cache=3600).start()
    (mount.data / "folder").mkdir()
    (mount.data / "folder" / "file").write_bytes(b"closed")
    user = subprocess.Popen(["sleep", "600"], cwd=mount.data / "folder")
    file = os.open(mount.data / "folder" / "file", os.O_RDONLY)
    try:
        os.stat(mount.point)
        mount.crash()
        mount.start()
    finally:
        user.kill()
        user.wait()
        with contextlib.suppress(OSError):           # its connection is gone
            os.close(file)
    assert mounts_below(mount.point) == [str(mount.point)], "the dead mount is still there"
    assert (mount.data / "folder" / "file").read_bytes() == b"closed"
    # A live mount is left alone.
    for _ in range(2):
        done = mount.cli(*mount.command()[1:], check=False)
        assert done.returncode == 1 and "is mounted already" in done.stderr, done
    assert (mount.data / "folder" / "file").read_bytes() == b"closed"
    mount.sync()
    assert store.read("folder/file") == b"closed"
    mount.stop()


@pytest.mark.skipif(os.getuid() != 0 or not os.stat("/dev/fuse").st_mode & 0o002,
                    reason="needs root to become somebody else, and /dev/fuse for all")
def test_somebody_who_is_not_root_mounts_again_after_a_crash(local, mounts, folder, binary):
    somebody = {"user": 65534, "group": 65534, "extra_groups": []}
    for path in (folder, *folder.parents):           # temporary folders are for one user only
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o055)
    mount = mounts(local, cache=3600)
    mount.write_config()
    for path in (local.path, mount.folder, mount.point, mount.config_file):
        os.chown(path, 65534, 65534)
    environment = {**os.environ, "HOME": str(mount.folder)}
    run(*mount.command(), env=environment, **somebody)
    run("sh", "-c", f"echo closed > {mount.data}/file", **somebody)
    mount.crash()
    run(*mount.command(), env=environment, **somebody)
    assert mounts_below(mount.point) == [str(mount.point)], "the dead mount is still there"
    assert run("cat", mount.data / "file", **somebody).stdout == "closed\n"
    run(binary, "stop", mount.point, env=environment, **somebody)
    assert local.read("file") == b"closed\n"


def test_two_who_mount_again_at_once_make_one_mount(local, mounts):
    mount = mounts(local, cache=3600).start()
    (mount.data / "file").write_bytes(b"closed")
    for _ in range(5):
        mount.crash()
        started = [subprocess.Popen([*map(str, mount.command())], stderr=subprocess.PIPE, text=True) for _ in range(3)]
        ends = [(child.wait(timeout=60), child.stderr.read()) for child in started]
        assert sorted(code for code, _ in ends) == [0, 1, 1], ends
        assert mounts_below(mount.point) == [str(mount.point)]
        assert (mount.data / "file").read_bytes() == b"closed"
    mount.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount without a program")
def test_a_dead_mount_of_another_program_is_left_to_its_owner(local, mounts):
    mount = mounts(local)
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"somebody@host:", os.fsencode(mount.point), b"fuse.sshfs", 0, options) == 0, ctypes.get_errno()
    os.close(device)
    mount.write_config()
    for flags in ([], ["-o", "nonempty"]):
        done = mount.cli(*mount.command()[1:], *flags, check=False)
        assert done.returncode == 1, done
        assert "fuse.sshfs" in done.stderr and f"fusermount3 -uz {mount.point}" in done.stderr, done
        assert mounts_below(mount.point) == [str(mount.point)], "it was taken away, or mounted over"
    run("umount", "-l", mount.point)
    mount.start()
    mount.stop()


def test_a_mount_whose_process_stands_still_is_not_taken_for_dead(local, mounts):
    mount = mounts(local, cache=3600).start()
    (mount.data / "file").write_bytes(b"closed")
    (pid,) = mount.pids()
    os.kill(pid, signal.SIGSTOP)
    try:
        # A thread that still takes a request keeps whoever asked from ending.
        wait_until(lambda: all(stat.read_text().rpartition(")")[2].split()[0] == "T"
                               for stat in Path(f"/proc/{pid}/task").glob("*/stat")), 30, "all threads to stand still")
        done = mount.cli(*mount.command()[1:], check=False, timeout=60)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 1 and "does not answer" in done.stderr, done
    assert (mount.data / "file").read_bytes() == b"closed"
    mount.stop()


# Makes, replaces, renames and removes files until it is killed. Says before each change which name it is about, and
# after it what lies there now: what was said to be there must be there.
WORKLOAD = """
import os, random, sys
folder, seed = sys.argv[1], int(sys.argv[2])
generator = random.Random(seed)
names = []
def say(*words):
    print(*words, flush=True)
def write(path, seed, size):
    with open(path, "wb") as file:
        file.write(random.Random(seed).randbytes(size))
for number in range(1 << 30):
    choice = generator.random()
    size = generator.choice([0, 10, 5000, 5000, 70_000, 400_000, 400_000, 12 << 20 if number % 8 == 0 else 1])
    name = generator.choice(names) if names and choice < 0.6 else f"d{number % 3}/r{seed}-{number}"
    content = f"{seed * 1000 + number} {size}"
    if choice < 0.2 and names:
        say("?", name)
        os.unlink(f"{folder}/{name}")
        names.remove(name)
        say("=", name)
    elif choice < 0.4 and names:
        target = f"d{number % 3}/m{seed}-{number}"
        say("?", name)
        os.rename(f"{folder}/{name}", f"{folder}/{target}")
        names[names.index(name)] = target
        say(">", name, target)
    else:
        os.makedirs(os.path.dirname(f"{folder}/{name}"), exist_ok=True)
        say("?", name)
        if choice < 0.8 and size < 1 << 20:
            write(f"{folder}/{name}", *map(int, content.split()))
        else:
            write(f"{folder}/.tmp{seed}", *map(int, content.split()))
            os.rename(f"{folder}/.tmp{seed}", f"{folder}/{name}")
        if name not in names:
            names.append(name)
        say("=", name, content)
"""


class Expected:
    """What must be there."""

    def __init__(self):
        self.alive = {}

    def hear(self, text):
        """What one run of the workload said; its last line may be cut off."""
        doubtful = None
        for line in text.split("\n")[:-1]:
            kind, name, *rest = line.split(" ")
            if kind == "?":
                doubtful = name
                continue
            doubtful = None
            if kind == ">":
                self.alive[rest[0]] = self.alive.pop(name)
            elif rest:
                self.alive[name] = (int(rest[0]), int(rest[1]))
            else:
                self.alive.pop(name, None)
        # Of the change under way nothing is promised, but that the name holds one of its two contents.
        if doubtful:
            self.alive.pop(doubtful, None)

    def check(self, read, where):
        for name, (seed, size) in self.alive.items():
            assert read(name) == random.Random(seed).randbytes(size), f"{name} {where}"

    def thin_out(self, folder, limit):
        """Removes the oldest files, so that many rounds do not fill the disk."""
        for name in list(self.alive)[:-limit]:
            (folder / name).unlink()
            del self.alive[name]


@pytest.mark.limit(1800)
@pytest.mark.parametrize("store", ["local", "radosgw", "sftp"], indirect=True)
def test_nothing_closed_is_lost_when_the_daemon_is_killed_at_any_moment(store, mounts, is_slow):
    """A mixed workload with a cache that is too small, uploads in parts under way; kill; mount again; many times."""
    generator = random.Random(7)
    mount = mounts(store, cache=0, cache_size=8, hard_cache_size_limit=64)
    expected = Expected()
    for round in range(200 if is_slow else 10):
        mount.start()
        if round % 5 == 0:
            expected.check(lambda name: (mount.data / name).read_bytes(), f"in round {round}")
            expected.thin_out(mount.data, 200)
        writer = subprocess.Popen([sys.executable, "-c", WORKLOAD, str(mount.data), str(round)],
                                  stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        time.sleep(generator.uniform(0.1, 1.2))       # the moment is the random part of this test
        # No half object is ever visible under its name. (A file that is still being written may be: it is as long as
        # it was then. The large ones are written elsewhere and renamed.)
        found = store.names()
        assert [name for name, size in found.items()
                if 400_000 < size != 12 << 20 and not name.startswith(".tmp")] == []
        mount.kill(before_unmounting=lambda: expected.hear(writer.communicate(timeout=60)[0]))
    assert len(expected.alive) > 20
    mount.start()
    expected.check(lambda name: (mount.data / name).read_bytes(), "in the mount")
    mount.sync()
    expected.check(store.read, "on the store")
    mount.stop()
    if hasattr(store, "client"):
        uploads = store.client.list_multipart_uploads(Bucket=store.bucket, Prefix=store.prefix).get("Uploads", [])
        assert not uploads, "parts that nobody needs were left on the store"
    fresh = mounts(store).start()
    expected.check(lambda name: (fresh.data / name).read_bytes(), "in a mount with an empty cache")
    fresh.stop()


def test_an_upload_that_was_cut_off_goes_on_after_a_crash(radosgw, mounts, network):
    store, net = network(radosgw, mbit=100)
    mount = mounts(store, cache=0).start()
    content = random.Random(2).randbytes(48 << 20)
    (mount.data / "big").write_bytes(content)
    wait_until(lambda: net.requests().get("PART", 0) > 0, 60, "the upload's begin")
    mount.kill()
    net.set(mbit=0)
    mount.start()
    mount.sync()
    assert radosgw.read("big") == content
    mount.stop()
    uploads = radosgw.client.list_multipart_uploads(Bucket=radosgw.bucket, Prefix=radosgw.prefix).get("Uploads", [])
    assert not uploads, "parts that nobody needs were left on the store"


def test_sigterm_keeps_what_is_dirty(store, mounts):
    mount = mounts(store, cache=3600).start_in_foreground()
    (mount.data / "dirty").write_bytes(b"not yet uploaded")
    mount.child.send_signal(signal.SIGTERM)
    mount.wait_for_end(timeout=90)
    assert not mount.is_mounted
    mount.child = None
    mount.start()
    assert (mount.data / "dirty").read_bytes() == b"not yet uploaded"
    mount.sync()
    assert store.read("dirty") == b"not yet uploaded"
    mount.stop()


def test_plain_umount_loses_nothing(store, mounts):
    mount = mounts(store, cache=3600).start()
    for index in range(20):
        (mount.data / f"f{index}").write_bytes(b"%d" % index * 1000)
    mount.umount()
    mount.wait_for_end()
    names = store.names()
    if not all(f"f{index}" in names for index in range(20)):
        # Not uploaded is allowed as long as the next mount of this cache has it.
        mount.start()
        mount.sync()
        mount.stop()
    assert [store.read(f"f{index}") for index in range(20)] == [b"%d" % index * 1000 for index in range(20)]


def test_plain_umount_drains_in_the_background_and_a_new_mount_takes_over(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600).start()
    (mount.data / "dirty").write_bytes(b"still here")
    net.set(state="stall")
    mount.umount()
    mount.start(timeout=60)
    assert (mount.data / "dirty").read_bytes() == b"still here"
    net.set(state="up")
    mount.sync()
    assert radosgw.read("dirty") == b"still here"
    mount.stop()


def test_stop_drains_and_tells_how_far_it_is(store, mounts):
    mount = mounts(store, cache=3600).start()
    for index in range(200):
        (mount.data / f"f{index}").write_bytes(b"x" * 5000)
    done = mount.stop()
    assert done.stdout or done.stderr, "no word about progress"
    assert len([name for name in store.names() if name.startswith("f")]) == 200
    assert mount.pids() == []


def test_ctrl_c_while_stopping_leaves_the_mount_as_it_was(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600).start()
    (mount.data / "dirty").write_bytes(b"waiting")
    net.set(state="stall")
    stop = subprocess.Popen([str(mount.binary), "stop", str(mount.point)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, start_new_session=True)
    with pytest.raises(subprocess.TimeoutExpired):
        stop.wait(timeout=2)                         # it waits for the store, as it should
    stop.send_signal(signal.SIGINT)
    stop.communicate(timeout=20)
    assert stop.returncode != 0
    assert mount.is_mounted
    assert (mount.data / "dirty").read_bytes() == b"waiting"
    (mount.data / "more").write_bytes(b"still writable")
    net.set(state="up")
    mount.stop()
    assert radosgw.read("more") == b"still writable"


def test_stop_of_a_busy_mount_says_so(local, mounts):
    mount = mounts(local, cache=0).start()
    with open(mount.data / "open", "wb") as file:
        done = mount.cli("stop", mount.point, check=False, timeout=60)
        assert done.returncode == 1 and "busy" in done.stderr.lower() or "open" in done.stderr.lower(), done
        file.write(b"not disturbed")
    mount.stop()
    assert local.read("open") == b"not disturbed"


def test_fsync_returns_an_honest_answer_and_the_data_is_there_after_kill(local, mounts):
    mount = mounts(local, cache=3600).start()
    file = os.open(mount.data / "database", os.O_RDWR | os.O_CREAT)
    os.write(file, b"committed")
    os.fsync(file)
    os.pwrite(file, b"not asked to keep", 100)
    mount.kill()
    try:
        os.close(file)
    except OSError:
        pass                                         # the connection is gone: that is the point
    mount.start()
    assert (mount.data / "database").read_bytes()[:9] == b"committed"
    mount.stop()


def test_a_remount_with_many_dirty_files_is_immediate(radosgw, mounts, network):
    store, net = network(radosgw)
    mount = mounts(store, cache=3600).start()
    for index in range(2000):
        (mount.data / f"f{index}").write_bytes(b"%d" % index)
    mount.kill()
    net.set(latency_ms=50)
    net.reset_count()
    mount.start(timeout=20)
    assert sum(net.requests().values()) < 50, f"asked the store about the dirty files: {net.requests()}"
    assert (mount.data / "f1999").read_bytes() == b"1999"
    net.set(latency_ms=0)
    mount.sync()
    mount.stop()
