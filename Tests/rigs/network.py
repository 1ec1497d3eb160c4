"""The delay proxy from the side of a test: start it, change the weather, count requests, stop it."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import urllib.parse

from rigs.delayproxy import count_kinds
from rigs.processes import Processes, wait_until


class Network:
    """A delay proxy in front of an endpoint. `endpoint` is what clients use instead. What passes `tcp://` is not looked into."""

    def __init__(self, state, endpoint, latency_ms=0, mbit=0, tls=None):
        self.state = pathlib.Path(state)
        shutil.rmtree(self.state, ignore_errors=True)
        self.state.mkdir(parents=True)
        self.processes = Processes(self.state)
        self.control = self.state / "control"
        self.log = self.state / "requests"
        self.log.touch()
        self.changes = 0
        target = urllib.parse.urlsplit(endpoint)
        command = [sys.executable, "-m", "rigs.delayproxy", "--to", target.netloc, "--latency-ms", latency_ms,
                   "--mbit", mbit, "--control", self.control]
        command += ["--tcp"] if target.scheme == "tcp" else ["--log", self.log]
        if tls:
            command += ["--tls-certificate", tls[0], "--tls-key", tls[1]]
        tests = pathlib.Path(__file__).resolve().parents[1]
        self.processes.spawn("proxy", command, env={**os.environ, "PYTHONPATH": str(tests)})
        output = self.state / "log" / "proxy.log"
        port = wait_until(lambda: [line[5:] for line in output.read_text().splitlines() if line.startswith("PORT=")],
                          15, "the proxy listening")[0]
        scheme = "tcp" if target.scheme == "tcp" else "https" if tls else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{port}"

    def set(self, **settings):
        """Changes settings (latency_ms, mbit, rate_refuse, rate_reset, state …: see delayproxy) and returns when they are in force."""
        self.changes += 1                # so that no two texts are the same
        text = f"# {self.changes}\n" + "".join(f"{name.replace('_', '-')}={value}\n" for name, value in settings.items())
        new = self.state / "control.new"
        new.write_text(text)
        acknowledged = pathlib.Path(f"{self.control}.ack")
        new.replace(self.control)
        wait_until(lambda: acknowledged.exists() and acknowledged.read_text() == text, 10, f"the network being {text!r}")

    def freeze(self):
        """As if the server's machine had stopped: connections are accepted by the kernel and never answered."""
        self.processes.signal(signal.SIGSTOP)

    def thaw(self):
        self.processes.signal(signal.SIGCONT)

    def requests(self):
        """How many requests of which kind since the last reset_count()."""
        return count_kinds(self.log)

    def reset_count(self):
        os.truncate(self.log, 0)

    def stop(self):
        self.processes.stop(patience=2)


def make_certificate(folder):
    """A certificate for 127.0.0.1 that no authority has signed; (certificate, key)."""
    certificate, key = pathlib.Path(folder) / "certificate.pem", pathlib.Path(folder) / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=30)
    return certificate, key
