"""S3 servers: Ceph's radosgw, OpenStack Swift, moto, rclone. Four opinions of what S3 is.

The first two speak OpenStack Swift's own protocol as well, at the same port.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import urllib.request
import uuid

from rigs import s3
from rigs.processes import Processes, RigError, free_ports, wait_until

BUCKET = "rig-bucket"
CONTAINER = "rig-container"


class S3Server:
    """One server with one bucket. `settings` after start: endpoint, region, key, secret, bucket.

    Where `swift_user` is set, it has a container too, which is used through OpenStack Swift's protocol.
    """

    name = ""
    swift_user = None
    key, secret, region = "rigkey", "rigsecret-0123456789", "us-east-1"
    packages = "scripts/install-packages test"

    def __init__(self, state):
        self.state = pathlib.Path(state).absolute()
        self.processes = Processes(self.state)
        self.settings_file = self.state / "settings.json"

    def launch(self):
        """Starts the processes; answers the port of the S3 interface."""
        raise NotImplementedError

    def start(self):
        if self.processes.pids() and self.settings_file.exists():
            return self.settings
        self.state.mkdir(parents=True, exist_ok=True)
        try:
            port = self.launch()
            endpoint = f"http://127.0.0.1:{port}"
            wait_until(lambda: self.make_bucket(endpoint), 60, f"a bucket on {self.name}")
            if self.swift_user:
                self.make_container(endpoint)
        except (RigError, OSError, subprocess.SubprocessError) as error:
            tail = self.processes.log_tail()
            self.processes.stop()
            raise RigError(f"{self.name} did not start: {error}\n{tail}") from error
        self.settings_file.write_text(json.dumps({
            "endpoint": endpoint, "region": self.region, "key": self.key, "secret": self.secret, "bucket": BUCKET}))
        return self.settings

    def make_bucket(self, endpoint):
        if not self.processes.pids():
            raise RigError("the server has ended")
        try:
            status, _ = s3.request("PUT", endpoint, self.region, self.key, self.secret, f"/{BUCKET}")
        except OSError:
            return False
        return status in (200, 409)

    def make_container(self, endpoint):
        asked = urllib.request.Request(
            f"{endpoint}/auth/v1.0", headers={"X-Auth-User": self.swift_user, "X-Auth-Key": self.secret})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            token, url = answer.headers["X-Auth-Token"], answer.headers["X-Storage-Url"]
        made = urllib.request.Request(f"{url}/{CONTAINER}", method="PUT", headers={"X-Auth-Token": token})
        urllib.request.urlopen(made, timeout=10).close()

    @property
    def settings(self):
        return json.loads(self.settings_file.read_text())

    @property
    def announcement(self):
        """The lines for the environment of the tests."""
        settings, name = self.settings, self.name.upper()
        line = " ".join(settings[field] for field in ("endpoint", "region", "key", "secret", "bucket"))
        lines = [f'CLOUDFUSION_TEST_S3_{name}="{line}"']
        if self.swift_user:
            url = f"{settings['endpoint']}/auth/v1.0"
            lines.append(f'CLOUDFUSION_TEST_SWIFT_{name}="{url} {self.swift_user} {settings["secret"]} {CONTAINER}"')
        return "\n".join(lines)

    def stop(self):
        self.processes.stop()
        self.settings_file.unlink(missing_ok=True)

    def need(self, *programs):
        for program in programs:
            if shutil.which(program) is None:
                raise RigError(f"{program} is not installed; {self.packages} installs it")


def from_venv(program):
    """A program of the environment that runs this, else of PATH."""
    beside = pathlib.Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        raise RigError(f"{program} is not installed; scripts/install-packages test makes a venv with it")
    return found


class RadosGateway(S3Server):
    """Ceph: one monitor, one OSD that keeps all in memory, one gateway. Checks signatures; conditional PUT is atomic."""

    name = "radosgw"
    swift_user = "rig:swift"
    bytes = 6 << 30

    def launch(self):
        self.need("radosgw", "ceph-mon", "ceph-osd", "monmaptool", "ceph", "radosgw-admin")
        port, v2, v1 = free_ports(3)
        state, conf = self.state, self.state / "ceph.conf"
        for part in ("mon", "osd", "run", "log"):
            shutil.rmtree(state / part, ignore_errors=True)
            (state / part).mkdir(parents=True)
        fsid, osd = uuid.uuid4(), uuid.uuid4()
        # The gateway wants "secure" connections to the monitor, which would need keys: hence the client mode.
        # The short paxos intervals make the start take two seconds instead of a dozen.
        # tcp_nodelay: without it each small answer takes 40 ms.
        conf.write_text(f"""\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
run dir = {state}/run
admin socket = {state}/run/$name.asok
log file = {state}/log/$name.ceph
crash dir = {state}/log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[mon]
mon data = {state}/mon
mon data avail crit = 0
mon data avail warn = 0
mon cluster log to file = false
paxos propose interval = 0.05
paxos min wait = 0.01
[osd]
osd data = {state}/osd
osd objectstore = memstore
memstore device bytes = {self.bytes}
osd max object name len = 2048
osd class load list = *
osd class default list = *
[client.rgw]
rgw data = {state}/run
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw gc obj min wait = 30
rgw gc processor period = 10
rgw enable usage log = false
rgw enable ops log = false
""")
        self.do("monmaptool", "--create", "--fsid", fsid, "--clobber", "--addv", "a",
                f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]", state / "monmap")
        self.do("ceph-mon", "--mkfs", "-i", "a", "--conf", conf, "--monmap", state / "monmap")
        self.processes.spawn("mon", ["ceph-mon", "-f", "-i", "a", "--conf", conf])
        self.do("ceph", "--conf", conf, "--connect-timeout", 30, "osd", "new", osd)
        self.do("ceph-osd", "--mkfs", "-i", "0", "--conf", conf, "--osd-uuid", osd)
        self.processes.spawn("osd", ["ceph-osd", "-f", "-i", "0", "--conf", conf])
        wait_until(lambda: "1 up" in self.do("ceph", "--conf", conf, "--connect-timeout", 10, "osd", "stat"), 60,
                   "the OSD coming up", every=0.2)
        self.do("radosgw-admin", "--conf", conf, "-n", "client.rgw", "user", "create", "--uid=rig",
                "--display-name=rig", f"--access-key={self.key}", f"--secret-key={self.secret}", "--max-buckets=0")
        self.do("radosgw-admin", "--conf", conf, "-n", "client.rgw", "subuser", "create", "--uid=rig",
                f"--subuser={self.swift_user}", "--key-type=swift", f"--secret={self.secret}", "--access=full")
        self.processes.spawn("rgw", ["radosgw", "-f", "-n", "client.rgw", "--conf", conf])
        return port

    def do(self, *command):
        (self.state / "log").mkdir(exist_ok=True)
        with open(self.state / "log" / "setup.log", "ab") as log:
            return subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, stderr=log,
                                  stdin=subprocess.DEVNULL, timeout=90, text=True).stdout


class OpenStackSwift(S3Server):
    """OpenStack Swift with its S3 layer: one node, one replica. Refuses conditional PUT (501)."""

    name = "swift"
    account, user = "rig", "tester"
    key = swift_user = f"{account}:{user}"
    python = "/usr/bin/python3"      # the one that Debian's packages are installed for
    servers = ("account", "container", "object", "proxy")
    plain_filters = ("catch_errors", "gatekeeper", "healthcheck", "listing_formats", "bulk", "copy", "dlo",
                     "symlink", "versioned_writes", "container_quotas", "account_quotas")

    def launch(self):
        if subprocess.run([self.python, "-c", "import swift.proxy.server"], capture_output=True).returncode:
            raise RigError(f"python3-swift is not installed; {self.packages} installs it")
        try:
            os.setxattr(self.state, "user.rig", b"1")
        except OSError as error:
            raise RigError(f"Swift needs user xattrs on {self.state}: {error}") from error
        etc = self.state / "etc"
        (self.state / "devices" / "d1").mkdir(parents=True, exist_ok=True)
        etc.mkdir(exist_ok=True)
        ports = dict(zip(self.servers, free_ports(4)))
        # S3 allows 2 KB in a metadata value, Swift's own limit is 256.
        (etc / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = rig\n[swift-constraints]\nmax_meta_value_length = 2048\n"
            "[storage-policy:0]\nname = one\ndefault = yes\n")
        for server in self.servers[:3]:
            # container_update_timeout: a PUT is to be in the listing when it returns, also under load.
            (etc / f"{server}.conf").write_text(f"""\
[DEFAULT]
swift_dir = {etc}
devices = {self.state}/devices
mount_check = false
bind_ip = 127.0.0.1
bind_port = {ports[server]}
user = {self.login()}
workers = 0
disable_fallocate = true
fallocate_reserve = 0
max_clients = 4096
log_level = WARNING
[pipeline:main]
pipeline = {server}-server
[app:{server}-server]
use = egg:swift#{server}
log_requests = false
node_timeout = 60
conn_timeout = 10
container_update_timeout = 60
""")
        filters = "\n".join(f"[filter:{name}]\nuse = egg:swift#{name}" for name in self.plain_filters)
        (etc / "proxy.conf").write_text(f"""\
[DEFAULT]
swift_dir = {etc}
bind_ip = 127.0.0.1
bind_port = {ports["proxy"]}
user = {self.login()}
workers = 0
max_clients = 4096
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck memory listing_formats bulk s3api tempauth copy container_quotas account_quotas slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
node_timeout = 60
conn_timeout = 10
error_suppression_limit = 1000000
{filters}
allow_versioned_writes = true
[filter:memory]
paste.filter_factory = rig_memory:filter_factory
[filter:tempauth]
use = egg:swift#tempauth
user_{self.account}_{self.user} = {self.secret} .admin
[filter:s3api]
use = egg:swift#s3api
location = {self.region}
max_upload_part_num = 10000
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
""")
        (etc / "rig_memory.py").write_text(MEMORY_FILTER)
        (etc / "rig_serve.py").write_text(SERVE)
        (etc / "rig_rings.py").write_text(RINGS)
        subprocess.run([self.python, etc / "rig_rings.py", etc, *(str(ports[s]) for s in self.servers[:3])],
                       check=True, capture_output=True, timeout=60)
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        for server in self.servers:
            self.processes.spawn(server, [self.python, etc / "rig_serve.py", server, etc], env=clean)
        return ports["proxy"]

    @staticmethod
    def login():
        import pwd
        return pwd.getpwuid(os.getuid()).pw_name


# With a single proxy process a dictionary does what memcached would.
MEMORY_FILTER = """\
import time


class Memory:
    def __init__(self):
        self.values = {}

    def get(self, key, raise_on_error=False):
        value, until = self.values.get(key, (None, None))
        return value if until is None or time.time() < until else None

    def set(self, key, value, serialize=True, time=0, min_compress_len=0, raise_on_error=False):
        self.values[key] = (value, now() + time if time else None)

    def delete(self, key, server_key=None):
        self.values.pop(key, None)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value

    def decr(self, key, delta=1, time=0):
        return self.incr(key, -delta, time)


now = time.time


def filter_factory(settings, **local):
    memory = Memory()

    def wrap(app):
        def call(env, start_response):
            env["swift.cache"] = memory
            return app(env, start_response)
        return call
    return wrap
"""
SERVE = """\
import sys

server, etc = sys.argv[1:]
sys.path.insert(0, etc)
from swift.common import utils
utils.set_swift_dir(etc)
from swift.common.wsgi import run_wsgi
sys.exit(run_wsgi(f"{etc}/{server}.conf", server + "-server", verbose=True))
"""
RINGS = """\
import sys
from swift.common.ring import RingBuilder

etc = sys.argv[1]
for server, port in zip(("account", "container", "object"), map(int, sys.argv[2:])):
    builder = RingBuilder(4, 1, 0)
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "d1", "meta": "", "ip": "127.0.0.1",
                     "port": port, "replication_ip": "127.0.0.1", "replication_port": port})
    builder.rebalance(seed=1)
    builder.get_ring().save(f"{etc}/{server}.ring.gz")
"""


class Moto(S3Server):
    """moto: S3 in one Python process. Checks no signature."""

    name = "moto"

    def launch(self):
        port, = free_ports(1)
        temporary = self.state / "tmp"
        temporary.mkdir(exist_ok=True)
        quiet = ("import logging, sys, moto.server; logging.getLogger('werkzeug').setLevel(logging.ERROR); "
                 "moto.server.main(sys.argv[1:])")
        self.processes.spawn("moto", [sys.executable, "-c", quiet, "-H", "127.0.0.1", "-p", port],
                             env={**os.environ, "TMPDIR": str(temporary)})
        return port


class Rclone(S3Server):
    """`rclone serve s3` over a folder: fast, and ignores conditions (If-None-Match overwrites)."""

    name = "rclone"

    def __init__(self, state, data=None):
        super().__init__(state)
        self.data = pathlib.Path(data) if data else self.state / "data"

    def launch(self):
        port, = free_ports(1)
        self.data.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}   # it would not start
        # Nobody else changes the folder, hence the long cache; --ignore-checksum: do not read back what was written.
        self.processes.spawn("rclone", [
            from_venv("rclone"), "serve", "s3", "--config", "/dev/null", "--cache-dir", self.state / "cache",
            "--addr", f"127.0.0.1:{port}", "--auth-key", f"{self.key},{self.secret}", "--dir-cache-time", "1h",
            "--ignore-checksum", "--log-level", "NOTICE", self.data], env=env)
        return port


S3_SERVERS = (RadosGateway, OpenStackSwift, Moto, Rclone)
