"""After close() returned the file survives whatever happens to the daemon."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from harness import describe, differences, run
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


@pytest.mark.limit(240)
def test_nothing_closed_is_lost_when_the_daemon_is_killed_at_any_moment(store, mounts):
    """Writers, renames and deletions under way, uploads under way; kill; mount again; many times."""
    mount = mounts(store, cache=0)
    script = textwrap.dedent("""
        import os, sys
        folder, round = sys.argv[1:]
        number = 0
        while True:
            name = f"{folder}/r{round}-{number}"
            with open(name + ".tmp", "wb") as file:
                file.write(f"{round} {number} ".encode() * (number % 500 + 1))
            os.rename(name + ".tmp", name)
            print(number, flush=True)               # only now it counts
            if number % 7 == 3:
                os.unlink(f"{folder}/r{round}-{number - 3}")
                print(-(number - 3), flush=True)
            number += 1
        """)
    alive = {}
    generator = random.Random(7)
    for round in range(6):
        mount.start()
        for name, content in alive.items():
            assert (mount.data / name).read_bytes() == content, f"{name} after round {round}"
        writer = subprocess.Popen([sys.executable, "-c", script, str(mount.data), str(round)], stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True)
        time.sleep(generator.uniform(0.3, 1.5))       # the moment is the random part of this test
        mount.kill()
        out, _ = writer.communicate(timeout=30)
        for line in out.splitlines():
            number = int(line)
            name = f"r{round}-{abs(number)}"
            if number < 0:
                alive.pop(name, None)
            else:
                alive[name] = f"{round} {number} ".encode() * (number % 500 + 1)
        # The one after the last that was told may have been deleted or not: it does not count.
        alive.pop(f"r{round}-0", None)
        last = max((int(line) for line in out.splitlines()), default=0)
        alive.pop(f"r{round}-{last - 3}", None)
    assert len(alive) > 100
    mount.start()
    mount.sync()
    for name, content in alive.items():
        assert (mount.data / name).read_bytes() == content, name
    names = store.names()
    assert all(names.get(name) == len(content) for name, content in alive.items())
    assert store.read(sorted(alive)[-1]) == alive[sorted(alive)[-1]]
    mount.stop()


def test_an_upload_that_was_cut_off_goes_on_after_a_crash(radosgw, mounts, network):
    store, net = network(radosgw, mbit=100)
    mount = mounts(store, cache=0).start()
    content = random.Random(2).randbytes(48 << 20)
    (mount.data / "big").write_bytes(content)
    wait_until(lambda: net.requests().get("PART", 0) + net.requests().get("PUT", 0) > 0, 60, "the upload's begin")
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
