"""Servers with Google Cloud Storage's JSON API: one of the project's own, that is strict, and gcp-storage-emulator, that is not.

The emulator checks no preconditions, knows no pages, and takes anybody."""

import json
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

from rigs.processes import Processes, RigError, free_ports, wait_until
from rigs.servers import BUCKET, from_venv


def ask(method, url, body=None, headers=None):
    """One request, without the proxy of the environment; the body of the answer."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **(headers or {})}, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        return answer.read()


class GoogleServer:
    """One server with one bucket. `settings` after start: endpoint, bucket, credentials (a file, or - where nobody needs any)."""

    name = ""
    packages = "scripts/install-packages test"

    def __init__(self, state):
        self.state = pathlib.Path(state).absolute()
        self.processes = Processes(self.state)
        self.settings_file = self.state / "settings.json"

    def launch(self, port):
        """Starts the process; answers the path of the credentials, or "-"."""
        raise NotImplementedError

    def make_bucket(self, endpoint):
        raise NotImplementedError

    def start(self):
        if self.processes.pids() and self.settings_file.exists():
            return self.settings
        self.state.mkdir(parents=True, exist_ok=True)
        port, = free_ports(1)
        endpoint = f"http://127.0.0.1:{port}"
        try:
            credentials = self.launch(port)
            wait_until(lambda: self.answers(endpoint), 30, f"a bucket on {self.name}")
        except (RigError, OSError, subprocess.SubprocessError) as error:
            tail = self.processes.log_tail()
            self.processes.stop()
            raise RigError(f"{self.name} did not start: {error}\n{tail}") from error
        self.settings_file.write_text(json.dumps({"endpoint": endpoint, "bucket": BUCKET, "credentials": str(credentials)}))
        return self.settings

    def answers(self, endpoint):
        if not self.processes.pids():
            raise RigError("the server has ended")
        try:
            self.make_bucket(endpoint)
        except urllib.error.HTTPError as error:
            error.close()
            raise
        except OSError:
            return False
        return True

    @property
    def settings(self):
        return json.loads(self.settings_file.read_text())

    @property
    def announcement(self):
        """The line for the environment of the tests."""
        name = self.name.split("-")[1].upper()
        line = " ".join(self.settings[field] for field in ("endpoint", "bucket", "credentials"))
        return f'CLOUDFUSION_TEST_GS_{name}="{line}"'

    def stop(self):
        self.processes.stop()
        self.settings_file.unlink(missing_ok=True)


class GoogleStub(GoogleServer):
    """The project's own (gcs_server.py), from the public documentation. Beside the key of a service account lies a user's login."""

    name = "gcs-stub"

    def launch(self, port):
        key = self.state / "private.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key],
                       check=True, capture_output=True, timeout=60)
        modulus = subprocess.run(["openssl", "rsa", "-in", key, "-noout", "-modulus"], check=True, capture_output=True,
                                 timeout=30, text=True).stdout.strip().partition("=")[2]
        account = {"email": "rig@project.iam.gserviceaccount.com", "key_id": "0123456789abcdef", "modulus": modulus}
        user = {"client_id": "rig.apps.googleusercontent.com", "client_secret": "rigsecret-0123456789",
                "refresh_token": "1//rigrefresh-0123456789"}
        (self.state / "identities.json").write_text(json.dumps({"service_account": account, "authorized_user": user}))
        token_url = f"http://127.0.0.1:{port}/token"
        (self.state / "service-account.json").write_text(json.dumps({
            "type": "service_account", "project_id": "rig", "private_key_id": account["key_id"], "private_key": key.read_text(),
            "client_email": account["email"], "token_uri": token_url}))
        (self.state / "user.json").write_text(json.dumps({"type": "authorized_user", **user, "token_uri": token_url}))
        tests = pathlib.Path(__file__).resolve().parents[1]
        self.processes.spawn("gcs", [sys.executable, "-m", "rigs.gcs_server", self.state, port],
                             env={**os.environ, "PYTHONPATH": str(tests)})
        return self.state / "service-account.json"

    def make_bucket(self, endpoint):
        ask("PUT", f"{endpoint}/control/buckets/{BUCKET}", {})


class GoogleEmulator(GoogleServer):
    """gcp-storage-emulator, in memory. It takes one connection after the other, and writes down all that it has with each change,
    so nothing is kept that was deleted."""

    name = "gcs-emulator"

    def launch(self, port):
        self.processes.spawn("emulator", [
            from_venv("gcp-storage-emulator"), "-d", self.state / "data", "start", "-H", "127.0.0.1", "--port", port, "-q", "-M"])
        return "-"

    def make_bucket(self, endpoint):
        try:
            ask("POST", f"{endpoint}/storage/v1/b?project=rig", {"name": BUCKET})
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
        ask("PATCH", f"{endpoint}/storage/v1/b/{BUCKET}", {"softDeletePolicy": {"retentionDurationSeconds": "0"}})
