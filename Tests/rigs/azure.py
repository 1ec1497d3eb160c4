"""The emulator of Azure Blob Storage (azureemulator.py) as a server for tests."""

import json
import os
import pathlib
import sys

from rigs import azureemulator as emulator
from rigs.processes import Processes, RigError, wait_until


class AzureEmulator:
    """One process with two accounts. `settings` after start: endpoint and dfs_endpoint of each, and the secrets."""

    name = "azure"

    def __init__(self, state):
        self.state = pathlib.Path(state).absolute()
        self.processes = Processes(self.state)
        self.ports = self.state / "ports.json"

    def start(self):
        if self.processes.pids() and self.ports.exists():
            return self.settings
        self.state.mkdir(parents=True, exist_ok=True)
        self.ports.unlink(missing_ok=True)
        tests = pathlib.Path(__file__).resolve().parents[1]
        self.processes.spawn("azure", [sys.executable, "-m", "rigs.azureemulator", "--state", self.state],
                             env={**os.environ, "PYTHONPATH": str(tests)})
        try:
            wait_until(self.is_ready, 30, "the emulator of Azure listening")
        except RigError as error:
            tail = self.processes.log_tail()
            self.processes.stop()
            raise RigError(f"{self.name} did not start: {error}\n{tail}") from error
        return self.settings

    def is_ready(self):
        if not self.processes.pids():
            raise RigError("the server has ended")
        return self.ports.exists()

    @property
    def settings(self):
        ports = json.loads(self.ports.read_text())
        return {
            account: {"endpoint": f"http://127.0.0.1:{ports['blob']}/{account}",
                      "dfs_endpoint": f"http://127.0.0.1:{ports['dfs']}/{account}", "account": account, "key": key,
                      "container": emulator.CONTAINER}
            for account, (key, _) in emulator.ACCOUNTS.items()}

    @property
    def announcement(self):
        """The lines for the environment of the tests."""
        lines = []
        for account, settings in self.settings.items():
            words = [*settings.values(), emulator.PUBLIC, emulator.TENANT, emulator.CLIENT, emulator.SECRET]
            lines.append(f'CLOUDFUSION_TEST_AZURE_{account.removeprefix("rig").upper()}="{" ".join(words)}"')
        return "\n".join(lines)

    def stop(self):
        self.processes.stop()
        self.ports.unlink(missing_ok=True)
