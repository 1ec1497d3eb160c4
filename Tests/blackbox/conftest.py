"""Fixtures: stores, mounts, networks, time limits. See harness.py for what they are made of."""

import faulthandler
import os
import pathlib
import shutil
import sys
import threading
import uuid

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from harness import (  # noqa: E402
    HTTP, S3, SFTP, Azure, Folder, GoogleStorage, Local, Mount, OpenStackSwift, WebDAV, mounts_below)
from rigs.network import Network  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 120          # seconds for one test, unless it says @pytest.mark.limit(…)


def pytest_addoption(parser):
    parser.addoption("--binary", default=os.environ.get("CLOUDFUSION_BINARY", ROOT / ".build/debug/cloudfusion"),
                     help="the program to test")
    parser.addoption("--mount-dir", type=pathlib.Path,
                     help="run the workloads in a plain folder instead of a mount: a check of the tests themselves")
    parser.addoption("--slow", action="store_true", help="the long form of the tests that have one")
    parser.addoption("--entries", type=int, help="how many files a large directory has")


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long the test may take before its mounts are cut off")


@pytest.fixture(scope="session")
def binary(pytestconfig):
    path = pathlib.Path(pytestconfig.getoption("--binary")).resolve()
    if pytestconfig.getoption("--mount-dir"):
        pytest.skip("needs the program; --mount-dir was given")
    if not path.exists():
        pytest.fail(f"{path} does not exist: swift build makes it", pytrace=False)
    if not os.path.exists("/dev/fuse"):
        pytest.skip("/dev/fuse is missing: FUSE mounts are not possible here")
    return path


@pytest.fixture
def is_slow(pytestconfig):
    return pytestconfig.getoption("--slow")


@pytest.fixture
def folder(tmp_path_factory, request):
    """An empty folder of the test's own, with a short path; gone afterwards."""
    path = tmp_path_factory.mktemp("t", numbered=True)
    yield path
    assert not mounts_below(path), "a mount was left behind"
    shutil.rmtree(path, ignore_errors=True)


def place_on(kind, variable, name):
    """A prefix or folder of the test's own on one of the servers."""
    server = kind.from_environment(name)
    if server is None:
        pytest.skip(f"CLOUDFUSION_TEST_{variable}_{name.upper()} is not set; make test starts the server")
    return server.below(f"t-{uuid.uuid4().hex[:12]}")


def s3_bucket(name):
    return place_on(S3, "S3", name)


@pytest.fixture
def webdav_server():
    """`webdav_server(name)`: a folder of the test's own on one of the servers."""
    return lambda name: place_on(WebDAV, "WEBDAV", name)


@pytest.fixture
def web_server():
    """`web_server(name)`: a folder of the test's own on one of the servers with index pages."""
    made = []

    def place(name):
        made.append(place_on(HTTP, "HTTP", name))
        return made[-1]

    yield place
    for store in made:
        shutil.rmtree(store.root, ignore_errors=True)


@pytest.fixture
def sftp():
    """A folder of the test's own on an SSH server."""
    return place_on(SFTP, "SFTP", "openssh")


@pytest.fixture
def swift_server():
    """`swift_server(name)`: a prefix of the test's own on one of the servers with OpenStack Swift's protocol."""
    return lambda name: place_on(OpenStackSwift, "SWIFT", name)


@pytest.fixture
def google_server():
    """`google_server(name)`: a prefix of the test's own on one of the servers with Google Cloud Storage's API."""
    return lambda name: place_on(GoogleStorage, "GS", name)


@pytest.fixture
def google():
    """The strict one of these."""
    return place_on(GoogleStorage, "GS", "stub")


@pytest.fixture
def azure_account():
    """`azure_account(name)`: a prefix of the test's own in an account of the emulator of Azure."""
    return lambda name: place_on(Azure, "AZURE", name)


@pytest.fixture
def local(folder):
    path = folder / "store"
    path.mkdir()
    return Local(path)


@pytest.fixture
def radosgw():
    return s3_bucket("radosgw")


@pytest.fixture
def s3_server():
    """`s3_server(name)`, for tests that go through several."""
    return s3_bucket


@pytest.fixture(params=["local", "radosgw"])
def store(request):
    """A local folder and the S3 server that does everything right."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def mounts(folder, request):
    """Makes mounts, `mounts(store, cache=60)`, not started yet; all of them end with the test.

    A test that hangs on a mount cannot be interrupted from inside: the watchdog cuts the mounts off, so that the
    system calls that hang return with an error, and the test fails.
    """
    program = request.getfixturevalue("binary")
    made = []

    def make(store=None, flags=(), name=None, cache_dir=None, **options):
        mount = Mount(program, folder / (name or f"m{len(made)}"), store, options, flags, cache_dir)
        made.append(mount)
        return mount

    make.adopt = made.append
    marker = request.node.get_closest_marker("limit")
    limit = marker.args[0] if marker else LIMIT
    expired = threading.Event()

    def cut_off():
        expired.set()
        faulthandler.dump_traceback()
        for mount in made:
            mount.kill()

    watchdog = threading.Timer(limit, cut_off)
    watchdog.daemon = True
    watchdog.start()
    yield make
    watchdog.cancel()
    failed = request.node.stash.get(FAILED, False)
    for mount in made:
        mount.end()
        if failed and mount.log.exists():
            print(f"--- standard error of {mount.folder.name}\n{mount.log.read_text()[-4000:]}")
    if expired.is_set():
        pytest.fail(f"the test took more than {limit} s; its mounts were cut off", pytrace=False)


FAILED = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.stash[FAILED] = True


@pytest.fixture
def work(request, folder, pytestconfig):
    """A place to work in, `.data`: a mount of a local store, or a plain folder with --mount-dir."""
    plain = pytestconfig.getoption("--mount-dir")
    if plain:
        place = Folder(plain / f"t-{uuid.uuid4().hex[:8]}")
        yield place
        place.end()
    else:
        yield request.getfixturevalue("mounts")(request.getfixturevalue("local")).start()


@pytest.fixture
def network(folder):
    """Puts a network in front of an S3 store: `network(store, latency_ms=15)` answers (store behind it, network)."""
    made = []

    def make(store, **options):
        net = Network(folder / f"net{len(made)}", store.endpoint, **options)
        made.append(net)
        return store.through(net.endpoint), net

    yield make
    for net in made:
        net.stop()
