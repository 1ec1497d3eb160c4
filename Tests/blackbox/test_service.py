"""The unit for systemd in docs/: what it says is run here, in the order in which systemd does it."""

import configparser
import contextlib
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

import pytest
from harness import run

UNIT = pathlib.Path(__file__).resolve().parents[2] / "docs/cloudfusion@.service"


class Service:
    """A mount that is started and stopped as by systemctl."""

    def __init__(self, mount):
        self.mount = mount
        mount.write_config()
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str
        parser.read(UNIT)
        self.settings = parser["Service"]
        assert self.settings["Type"] == "forking" and "KillMode" not in self.settings

    def words(self, key):
        words = shlex.split(self.settings[key])
        places = {"/usr/local/bin/cloudfusion": self.mount.binary, "/etc/cloudfusion/%i.ini": self.mount.config_file,
                  "/mnt/%i": self.mount.point}
        assert not set(places).isdisjoint(words)
        return [str(places.get(word, word)) for word in words]

    def start(self):
        run(*self.words("ExecStartPre"), timeout=10)
        run(*self.words("ExecStart"), timeout=60)
        # A unit that forks has one process left, which systemd takes for the service.
        assert self.mount.is_mounted and len(self.mount.pids()) == 1

    def stop(self, patience):
        """ExecStop; what is left of it and of the service after `patience` seconds, or when it has failed, gets SIGTERM."""
        stop = subprocess.Popen(self.words("ExecStop"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            stop.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            stop.send_signal(signal.SIGTERM)
        for pid in self.mount.pids():
            os.kill(pid, signal.SIGTERM)
        stop.wait(timeout=60)
        self.mount.wait_for_end(timeout=90)
        assert not self.mount.is_mounted
        return stop.returncode


def test_systemd_understands_every_line(binary, folder):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/cloudfusion", str(binary)))
    done = run("systemd-analyze", "verify", unit, timeout=60)
    assert done.stdout + done.stderr == ""


def test_stopping_the_service_brings_everything_to_the_store(store, mounts):
    service = Service(mounts(store, cache=3600))
    service.start()
    for index in range(50):
        (service.mount.data / f"f{index}").write_bytes(b"%d" % index)
    assert service.stop(patience=240) == 0
    assert [store.read(f"f{index}") for index in range(50)] == [b"%d" % index for index in range(50)]
    service.start()
    assert len(os.listdir(service.mount.data)) == 50
    assert service.stop(patience=240) == 0


def test_what_a_service_cannot_upload_in_time_waits_for_its_next_start(radosgw, mounts, network):
    store, net = network(radosgw)
    service = Service(mounts(store, cache=3600))
    service.start()
    for index in range(1000):
        (service.mount.data / f"f{index}").write_bytes(b"%d" % index)
    net.set(state="stall")
    service.stop(patience=2)
    service.start()
    for index in range(1000):
        assert (service.mount.data / f"f{index}").read_bytes() == b"%d" % index
    net.set(state="up")
    service.mount.sync()
    assert radosgw.read("f999") == b"999" and len(radosgw.names()) == 1000
    assert service.stop(patience=240) == 0


def test_a_service_in_use_can_be_stopped_and_loses_nothing(local, mounts):
    service = Service(mounts(local, cache=3600))
    service.start()
    file = os.open(service.mount.data / "in use", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(file, b"so far")
        assert service.stop(patience=60) == 1
    finally:
        # Nobody is there any more who could say that it was closed.
        with contextlib.suppress(OSError):
            os.close(file)
    service.start()
    assert (service.mount.data / "in use").read_bytes() == b"so far"
    assert service.stop(patience=240) == 0
    assert local.read("in use") == b"so far"


def test_a_service_that_crashed_is_started_again(local, mounts):
    service = Service(mounts(local, cache=3600))
    assert service.settings["Restart"] == "on-failure"
    service.start()
    (service.mount.data / "closed").write_bytes(b"kept")
    service.mount.crash()
    service.start()
    assert (service.mount.data / "closed").read_bytes() == b"kept"
    assert service.stop(patience=240) == 0
