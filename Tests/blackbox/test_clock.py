"""The machine's clock is wrong, and somebody turns it: nothing waits for it to come right."""

import os

import pytest
from clock import Clock
from rigs.processes import wait_until

DAY, YEAR = 86_400, 365 * 86_400


@pytest.fixture
def clock(folder):
    return Clock(folder)


def shows(mount, name, content):
    """Whether the mount has it by now; the store may have changed under a read."""
    try:
        return (mount.data / name).read_bytes() == content
    except OSError:
        return False


@pytest.mark.limit(300)
@pytest.mark.parametrize("turns", [(-DAY,), (DAY,), (-YEAR, YEAR), (DAY, 0), (-3600, -7200, 0)], ids=str)
def test_work_goes_on_when_the_clock_is_turned(turns, store, mounts, clock):
    mount = mounts(store, cache=1, metadata_cache=1)
    mount.environment = clock.environment
    mount.start()
    for name in ("ours", "theirs", "gone"):
        (mount.data / name).write_bytes(b"old")
    mount.sync()
    assert set(os.listdir(mount.data)) == {"ours", "theirs", "gone"}
    (mount.data / "waiting").write_bytes(b"waiting")
    for number, turn in enumerate(turns):
        clock.turn(turn)
        # What was changed before and after goes to the store by itself.
        (mount.data / "ours").write_bytes(b"new %d" % number)
        (mount.data / f"made{number}").write_bytes(b"made")
        wait_until(lambda: (mount.stats / "notuploaded").read_text() == "", 60, "the uploads, by themselves")
        assert store.read("ours") == b"new %d" % number and store.read(f"made{number}") == b"made"
        # What others do there shows up here.
        store.write("theirs", b"changed %d" % number)
        store.write(f"new{number}", b"new")
        wait_until(lambda: shows(mount, "theirs", b"changed %d" % number), 60, "what was changed there")
        wait_until(lambda: f"new{number}" in os.listdir(mount.data), 60, "what is new there")
        if number == 0:
            store.delete("gone")
            wait_until(lambda: "gone" not in os.listdir(mount.data), 60, "the deletion there")
    # A mount that comes up in another time than the one that ended.
    (mount.data / "left").write_bytes(b"left")
    mount.kill()
    clock.turn(-turns[-1])
    mount.start()
    wait_until(lambda: (mount.stats / "notuploaded").read_text() == "", 60, "the upload after the crash")
    assert store.read("left") == b"left" and store.read("waiting") == b"waiting"
    store.delete("new0")
    wait_until(lambda: "new0" not in os.listdir(mount.data), 60, "the deletion there")
    assert not [name for name in store.names() if "conflict" in name]
    mount.stop()
