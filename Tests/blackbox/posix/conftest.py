"""Each test here runs twice, in a folder of its own that is the working directory: once on a mount that all of them
share, once on the disk that holds the temporary folder. What fails there is wrong with the test.

The rules are those of POSIX.1-2017 and 2024 and of the manual pages of Linux. Where the mount may differ from the disk,
docs/semantics.md says so, and the test asks `here.is_mount`.
"""

import dataclasses
import faulthandler
import os
import pathlib
import shutil
import threading
import uuid

import pytest
from harness import Local, Mount, run

LIMIT = 30          # seconds for one test, unless it says @pytest.mark.limit(…)


@dataclasses.dataclass
class Place:
    path: pathlib.Path
    is_mount: bool


@pytest.fixture(scope="session")
def shared_mount(request, tmp_path_factory):
    """A mount of a local folder that other users may use too, where the machine lets us."""
    program = request.getfixturevalue("binary")
    folder = tmp_path_factory.mktemp("posix")
    (folder / "store").mkdir()
    flags = ["-o", "allow_other"] if os.getuid() == 0 else []
    mount = Mount(program, folder / "m", Local(folder / "store"), {"cache": 60}, flags)
    mount.start()
    yield mount
    mount.end()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["mount", "disk"])
def here(request, tmp_path_factory):
    """The test's own empty folder, which is the working directory. The umask is 022."""
    is_mount = request.param == "mount"
    if is_mount:
        mount = request.getfixturevalue("shared_mount")
        if not mount.is_mounted or not mount.pids():         # another test has ended it, and has failed for that
            mount.end()
            mount.start()
        path = mount.data / f"t-{uuid.uuid4().hex[:12]}"
        path.mkdir()
    else:
        path = tmp_path_factory.mktemp("disk")
    path.chmod(0o755)
    marker = request.node.get_closest_marker("limit")
    limit = marker.args[0] if marker else LIMIT
    expired = threading.Event()

    def cut_off():
        expired.set()
        faulthandler.dump_traceback()
        if is_mount:
            mount.kill()

    watchdog = threading.Timer(limit, cut_off)
    watchdog.daemon = True
    watchdog.start()
    umask, before = os.umask(0o022), os.getcwd()
    os.chdir(path)
    yield Place(path, is_mount)
    watchdog.cancel()
    os.chdir(before)
    os.umask(umask)
    if is_mount and not expired.is_set():
        assert mount.is_mounted and mount.pids(), f"the mount did not outlive the test: {mount.log.read_text()}"
    if expired.is_set():
        pytest.fail(f"the test took more than {limit} s; the mount was cut off", pytrace=False)
    # Python's own is defeated by paths that are too long for one call.
    run("rm", "-rf", path, timeout=max(60, limit))


@pytest.fixture
def root():
    if os.getuid() != 0:
        pytest.skip("needs root: acts as other users")
