"""What the black-box tests are made of: stores to mount, mounts that always end, and a look at the store from outside.

Nothing here knows how the program works inside: it is run as a person would run it, and looked at through the mount,
its exit status, its standard error, and the store.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import time
import urllib.parse
import urllib.request

from rigs.processes import start_time, wait_until

SECRET = "do-not-show-this-secret"


# MARK: running programs

def run(*command, timeout=60, check=True, **options):
    """Runs a program to its end, within a time limit; everything it started is ended with it."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True,
               "errors": "surrogateescape", **options}
    command = [os.fspath(word) if isinstance(word, os.PathLike) else str(word) for word in command]
    child = subprocess.Popen(command, start_new_session=True, **options)
    try:
        out, err = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=5)
        raise AssertionError(f"not done within {timeout} s: {' '.join(command)}") from None
    done = subprocess.CompletedProcess(command, child.returncode, out, err)
    if check and child.returncode:
        raise AssertionError(f"exit status {child.returncode}: {' '.join(command)}\n{out}\n{err}")
    return done


def shell(script, cwd=None, timeout=60, **options):
    """Runs a shell script that stops at its first error."""
    return run("bash", "-euo", "pipefail", "-c", script, cwd=cwd, timeout=timeout, **options)


def mounts_below(path):
    """Mount points at or below a path, the innermost first."""
    found = []
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if point == str(path) or point.startswith(f"{path}/"):
            found.append(point)
    return found[::-1]


# MARK: stores

@dataclasses.dataclass(frozen=True)
class S3:
    """A bucket on one of the servers, and a prefix in it that belongs to one test."""

    name: str
    endpoint: str
    region: str
    key: str
    secret: str
    bucket: str
    prefix: str = ""

    @classmethod
    def from_environment(cls, name):
        """The server that `python3 -m rigs start` has announced; None if it has not."""
        value = os.environ.get(f"CLOUDFUSION_TEST_S3_{name.upper()}")
        return cls(name, *value.split()) if value else None

    def below(self, prefix):
        return dataclasses.replace(self, prefix=prefix)

    def through(self, endpoint):
        return dataclasses.replace(self, endpoint=endpoint)

    @property
    def url(self):
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def auth(self):
        return {"access_key_id": self.key, "secret_access_key": self.secret, "bucket_name": self.bucket,
                "endpoint": self.endpoint, "region": self.region, "prefix": self.prefix}

    store = {"name": "s3"}

    @functools.cached_property
    def client(self):
        import boto3
        from botocore.config import Config
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=self.key, aws_secret_access_key=self.secret,
            region_name=self.region, config=Config(
                s3={"addressing_style": "path"}, request_checksum_calculation="when_required",
                response_checksum_validation="when_required"))

    def names(self):
        """Every object below the prefix, with its size; but what the program keeps there for itself."""
        start = f"{self.prefix}/" if self.prefix else ""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
        found = {item["Key"][len(start):]: item["Size"] for page in pages for item in page.get("Contents", [])}
        return {name: size for name, size in found.items() if not name.startswith(".cloudfusion/")}

    def read(self, name):
        return self.client.get_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")["Body"].read()

    def write(self, name, body):
        self.client.put_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}", Body=body)

    def delete(self, name):
        self.client.delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{name}")

    def aws(self, *arguments, timeout=120):
        """The provider's own tool."""
        from rigs.servers import from_venv
        return run(from_venv("aws"), "--endpoint-url", self.endpoint, *arguments, timeout=timeout, env={
            **os.environ, "AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region, "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required", "AWS_CONFIG_FILE": "/dev/null"})


@dataclasses.dataclass(frozen=True)
class Local:
    """A folder as a store."""

    path: pathlib.Path
    name: str = "local"

    @property
    def url(self):
        return f"local://{self.path}"

    auth = {}

    @property
    def store(self):
        return {"name": "local", "path": str(self.path)}

    def names(self):
        found = {}
        for path in self.path.rglob("*"):
            with contextlib.suppress(FileNotFoundError):          # gone since it was listed
                if not path.is_dir() or path.is_symlink():
                    found[str(path.relative_to(self.path))] = path.lstat().st_size
        return {name: size for name, size in found.items() if not name.startswith(".cloudfusion/")}

    def read(self, name):
        return (self.path / name).read_bytes()

    def write(self, name, body):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_bytes(body)

    def delete(self, name):
        (self.path / name).unlink()


@dataclasses.dataclass(frozen=True)
class WebFolder:
    """A folder on a web server that belongs to one test. It is filled, or looked at, where the server has its files."""

    name: str
    endpoint: str
    user: str
    password: str
    files: pathlib.Path
    folder: str = ""

    # What the name of the environment variable begins with.
    kind = ""

    @classmethod
    def from_environment(cls, name):
        """The server that `python3 -m rigs start` has announced; None if it has not."""
        value = os.environ.get(f"CLOUDFUSION_TEST_{cls.kind}_{name.upper()}")
        if value is None:
            return None
        endpoint, user, password, files = value.split()
        return cls(name, endpoint, user, password, pathlib.Path(files))

    def through(self, endpoint):
        path = urllib.parse.urlsplit(self.endpoint).path
        return dataclasses.replace(self, endpoint=endpoint + path)

    @property
    def root(self):
        return self.files / self.folder

    @property
    def url(self):
        return f"{self.endpoint}/{self.folder}/"

    @property
    def auth(self):
        return {"url": self.url, "user": self.user, "password": self.password}

    @property
    def store(self):
        return {"name": self.kind.lower()}


class WebDAV(WebFolder):
    """A folder on one of the WebDAV servers."""

    kind = "WEBDAV"

    def below(self, folder):
        """A new folder. The server makes it, so that it is the server's."""
        run("curl", "--silent", "--show-error", "--fail", "--anyauth", "--user", f"{self.user}:{self.password}",
            "--request", "MKCOL", f"{self.endpoint}/{folder}/")
        return dataclasses.replace(self, folder=folder)

    def names(self):
        """Every file with its size, but what the program and the server keep for themselves."""
        own = {".cloudfusion", ".DAV"}
        return {str(path.relative_to(self.root)): path.stat().st_size for path in self.root.rglob("*")
                if path.is_file() and not own & set(path.relative_to(self.root).parts)}

    def read(self, name):
        return (self.root / name).read_bytes()


class HTTP(WebFolder):
    """A folder that a web server shows as an index page."""

    kind = "HTTP"

    def below(self, folder):
        """A new folder, which everybody may read."""
        (self.files / folder).mkdir(mode=0o755)
        return dataclasses.replace(self, folder=folder)


@dataclasses.dataclass(frozen=True)
class SFTP:
    """A folder on an SSH server that belongs to one test. It is looked at where the server has its files."""

    name: str
    host: str
    port: str
    user: str
    key: str | None
    known_hosts: str
    files: pathlib.Path
    password: str | None
    interactive: str | None
    chatty: str | None
    bare: str
    folder: str = ""

    @classmethod
    def from_environment(cls, name):
        """The server that `python3 -m rigs start` has announced; None if it has not."""
        value = os.environ.get(f"CLOUDFUSION_TEST_SFTP_{name.upper()}")
        if value is None:
            return None
        words = [None if word == "-" else word for word in value.split()]
        return cls(name, *words[:5], pathlib.Path(words[5]), *words[6:])

    def below(self, folder):
        """A new folder."""
        (self.files / folder).mkdir()
        return dataclasses.replace(self, folder=folder)

    @property
    def endpoint(self):
        return f"tcp://{self.host}:{self.port}"

    def through(self, endpoint, known_hosts):
        """The same store behind a proxy, whose port is not among the known ones: a file is made with that."""
        port = str(urllib.parse.urlsplit(endpoint).port)
        text = pathlib.Path(self.known_hosts).read_text()
        known_hosts.write_text(text.replace(f":{self.port} ", f":{port} "))
        return dataclasses.replace(self, port=port, known_hosts=str(known_hosts))

    @property
    def path(self):
        return self.files / self.folder

    @property
    def url(self):
        return f"sftp://{self.user}@{self.host}:{self.port}{self.path}"

    @property
    def auth(self):
        settings = {"host": self.host, "port": self.port, "user": self.user, "key_file": self.key,
                    "known_hosts": self.known_hosts, "path": str(self.path)}
        return {name: value for name, value in settings.items() if value}

    store = {"name": "sftp"}

    def names(self):
        return Local(self.path).names()

    def read(self, name):
        return (self.path / name).read_bytes()

    def write(self, name, body):
        Local(self.path).write(name, body)

    def delete(self, name):
        (self.path / name).unlink()


@dataclasses.dataclass(frozen=True)
class OpenStackSwift:
    """A container that is used through OpenStack Swift's protocol, and a prefix in it that belongs to one test."""

    name: str
    auth_url: str
    user: str
    password: str
    container: str
    prefix: str = ""

    @classmethod
    def from_environment(cls, name):
        """The server that `python3 -m rigs start` has announced; None if it has not."""
        value = os.environ.get(f"CLOUDFUSION_TEST_SWIFT_{name.upper()}")
        return cls(name, *value.split()) if value else None

    def below(self, prefix):
        return dataclasses.replace(self, prefix=prefix)

    @property
    def url(self):
        return f"swift://{self.container}/{self.prefix}"

    @property
    def auth(self):
        return {"auth_url": self.auth_url, "user": self.user, "password": self.password,
                "container": self.container, "prefix": self.prefix}

    store = {"name": "swift"}

    @functools.cached_property
    def login(self):
        """The token, and the address of the account."""
        _, headers, _ = self.ask("GET", self.auth_url, {"X-Auth-User": self.user, "X-Auth-Key": self.password})
        return headers["X-Auth-Token"], headers["X-Storage-Url"]

    def ask(self, method, url, headers, body=None):
        asked = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()

    def request(self, method, path, body=None, container=None):
        """One request for something in the container, by its whole name; or `?query` of the container."""
        token, url = self.login
        path = path if path.startswith("?") else "/" + urllib.parse.quote(path)
        return self.ask(method, f"{url}/{container or self.container}{path}", {"X-Auth-Token": token}, body)

    def listing(self, prefix="", container=None):
        found, marker = [], ""
        while True:
            query = urllib.parse.urlencode({"format": "json", "prefix": prefix, "marker": marker})
            page = json.loads(self.request("GET", f"?{query}", container=container)[2] or b"[]")
            if not page:
                return found
            found += page
            marker = page[-1]["name"]

    def names(self):
        """Every object below the prefix, with its size; but what the program keeps there for itself."""
        start = f"{self.prefix}/" if self.prefix else ""
        found = {line["name"][len(start):]: line["bytes"] for line in self.listing(start)}
        return {name: size for name, size in found.items() if not name.startswith(".cloudfusion/")}

    def segments(self, name):
        """How many segments there are that belong, or belonged, to a file."""
        digest = hashlib.md5(f"{self.prefix}/{name}".encode()).hexdigest()
        return len(self.listing(f".cloudfusion/{digest}/", f"{self.container}_segments"))

    def read(self, name):
        return self.request("GET", f"{self.prefix}/{name}")[2]

    def write(self, name, body):
        self.request("PUT", f"{self.prefix}/{name}", body)

    def delete(self, name):
        self.request("DELETE", f"{self.prefix}/{name}")


@dataclasses.dataclass(frozen=True)
class GoogleStorage:
    """A bucket that is used through Google Cloud Storage's API, and a prefix in it that belongs to one test."""

    name: str
    endpoint: str
    bucket: str
    credentials: str
    prefix: str = ""

    @classmethod
    def from_environment(cls, name):
        """The server that `python3 -m rigs start` has announced; None if it has not."""
        value = os.environ.get(f"CLOUDFUSION_TEST_GS_{name.upper()}")
        return cls(name, *value.split()) if value else None

    def below(self, prefix):
        return dataclasses.replace(self, prefix=prefix)

    @property
    def url(self):
        return f"gs://{self.bucket}/{self.prefix}"

    @property
    def auth(self):
        login = {"anonymous": "yes"} if self.credentials == "-" else {"credentials_file": self.credentials}
        return {"endpoint": self.endpoint, "bucket_name": self.bucket, "prefix": self.prefix, **login}

    store = {"name": "gs"}

    @property
    def user_file(self):
        """A user's login, beside the key of the service account."""
        return pathlib.Path(self.credentials).with_name("user.json")

    @functools.cached_property
    def headers(self):
        if self.credentials == "-":
            return {}
        user = json.loads(self.user_file.read_text())
        form = {key: user[key] for key in ("client_id", "client_secret", "refresh_token")}
        body = urllib.parse.urlencode({"grant_type": "refresh_token", **form}).encode()
        with urllib.request.urlopen(f"{self.endpoint}/token", body, timeout=60) as answer:
            return {"Authorization": f"Bearer {json.loads(answer.read())['access_token']}"}

    def request(self, method, path, body=None, **query):
        """One request for something in the bucket: "/o" or "/o/NAME"."""
        base = f"{self.endpoint}{'/upload' if body is not None else ''}/storage/v1/b/{self.bucket}"
        asked = urllib.request.Request(f"{base}{path}?{urllib.parse.urlencode(query)}", body, self.headers, method=method)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.read()

    def path(self, name):
        return "/o/" + urllib.parse.quote(f"{self.prefix}/{name}", safe="")

    def listing(self):
        """What the server tells of every object below the prefix, by its name there."""
        start, found, token = f"{self.prefix}/" if self.prefix else "", {}, {}
        while True:
            page = json.loads(self.request("GET", "/o", prefix=start, **token))
            found |= {item["name"][len(start):]: item for item in page.get("items", [])}
            if "nextPageToken" not in page:
                return found
            token = {"pageToken": page["nextPageToken"]}

    def names(self):
        """Every object below the prefix, with its size; but what the program keeps there for itself."""
        return {name: int(item["size"]) for name, item in self.listing().items() if not name.startswith(".cloudfusion/")}

    def parts(self):
        """How many parts of uploads there are."""
        return len([name for name in self.listing() if name.startswith(".cloudfusion/parts/")])

    def read(self, name):
        return self.request("GET", self.path(name), alt="media")

    def write(self, name, body):
        self.request("POST", "/o", body, uploadType="media", name=f"{self.prefix}/{name}")

    def delete(self, name):
        self.request("DELETE", self.path(name))


@dataclasses.dataclass(frozen=True)
class Azure:
    """A container of Azure, and a prefix in it that belongs to one test; looked at with Microsoft's own client."""

    name: str
    endpoint: str
    dfs_endpoint: str
    account: str
    key: str
    container: str
    public: str
    tenant: str
    client_id: str
    client_secret: str
    prefix: str = ""

    @classmethod
    def from_environment(cls, name):
        """The account that `python3 -m rigs start` has announced; None if it has not."""
        value = os.environ.get(f"CLOUDFUSION_TEST_AZURE_{name.upper()}")
        return cls(name, *value.split()) if value else None

    def below(self, prefix):
        return dataclasses.replace(self, prefix=prefix)

    @property
    def url(self):
        return f"azure://{self.container}/{self.prefix}"

    @property
    def auth(self):
        return {"endpoint": self.endpoint, "dfs_endpoint": self.dfs_endpoint, "account": self.account,
                "account_key": self.key, "container": self.container, "prefix": self.prefix}

    store = {"name": "azure"}

    @property
    def origin(self):
        return self.endpoint.rpartition("/")[0]

    @functools.cached_property
    def client(self):
        from azure.storage.blob import ContainerClient
        return ContainerClient(self.endpoint, self.container,
                               credential={"account_name": self.account, "account_key": self.key})

    def names(self):
        """Every file below the prefix, with its size; but what the program keeps there for itself."""
        start = f"{self.prefix}/"
        found = {blob.name[len(start):]: blob.size
                 for blob in self.client.list_blobs(name_starts_with=start, include=["metadata"])
                 if (blob.metadata or {}).get("hdi_isfolder") != "true"}
        return {name: size for name, size in found.items() if not name.startswith(".cloudfusion/")}

    def blocks(self, name):
        """How many blocks a file is made of, and how many there are that it is not made of."""
        committed, uncommitted = self.client.get_blob_client(f"{self.prefix}/{name}").get_block_list("all")
        return len(committed), len(uncommitted)

    def read(self, name):
        return self.client.download_blob(f"{self.prefix}/{name}").readall()

    def write(self, name, body):
        self.client.upload_blob(f"{self.prefix}/{name}", body, overwrite=True)

    def delete(self, name):
        self.client.delete_blob(f"{self.prefix}/{name}")


# MARK: mounts

class Mount:
    """One mount of one store with one cache, and the daemon behind it."""

    def __init__(self, binary, folder, store=None, options=(), flags=(), cache=None):
        """
        - store: S3, Local, or None for a mount that is not connected yet.
        - options: of the [store] section, besides where the store is.
        - flags: further words of the command line.
        - cache: the cache folder; default: one of its own.
        """
        self.binary, self.folder, self.store = pathlib.Path(binary), pathlib.Path(folder), store
        self.folder.mkdir(parents=True, exist_ok=True)
        self.options = {"cache": 1, "metadata_cache": 1, **dict(options)}
        self.flags = list(flags)
        self.cache = pathlib.Path(cache) if cache else self.folder / "cache"
        self.point = self.folder / "mnt"
        self.point.mkdir(exist_ok=True)
        self.config_file = self.folder / "cloudfusion.ini"
        self.log = self.folder / "stderr"
        self.environment = {}                    # of the daemon, besides this process's own
        self.child = None

    data = property(lambda self: self.point if "flat" in self.flags else self.point / "data")
    config = property(lambda self: self.point / "config" / "config")
    stats = property(lambda self: self.point / "stats")

    def config_text(self, store=None, **changes):
        store = store or self.store
        settings = {**(store.store if store else {}), "cache_dir": self.cache, **self.options, **changes}
        sections = {"auth": store.auth if store else {}, "store": settings}
        return "\n".join(
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
            for section, values in sections.items() if values)

    def write_config(self, text=None):
        self.config_file.write_text(text if text is not None else self.config_text())
        self.config_file.chmod(0o600)

    def command(self):
        return [self.binary, "--config", self.config_file, self.point, *self.flags]

    def start(self, timeout=30):
        """Mounts in the background, as people do; returns when the command has."""
        self.write_config()
        with open(self.log, "a") as log:
            # A daemon must let go of what it was given: a pipe that it kept would hang this.
            done = run(*self.command(), timeout=timeout, check=False, stdout=log, stderr=log,
                       env={**os.environ, **self.environment})
        assert done.returncode == 0, f"mount failed with {done.returncode}: {self.log.read_text()}"
        assert self.is_mounted, "the command was successful, and nothing is mounted"
        return self

    def start_in_foreground(self, timeout=30):
        self.write_config()
        with open(self.log, "a") as log:
            self.child = subprocess.Popen(
                [*map(str, self.command()), "--foreground"], stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, **self.environment})
        wait_until(lambda: self.is_mounted or self.child.poll() is not None, timeout, "the mount")
        assert self.is_mounted, f"the daemon ended with {self.child.poll()}: {self.log.read_text()}"
        return self

    def fail(self, *flags, timeout=30):
        """Runs the mount command where it must fail; answers what it said."""
        self.write_config() if not self.config_file.exists() else None
        done = run(*self.command(), *flags, timeout=timeout, check=False)
        assert not self.is_mounted, "mounted, although it cannot have worked"
        assert done.returncode in (1, 2), f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr

    @property
    def is_mounted(self):
        return bool(mounts_below(self.point))

    def cli(self, *arguments, timeout=120, check=True):
        return run(self.binary, *arguments, timeout=timeout, check=check)

    def sync(self, *path, timeout=240):
        self.cli("sync", self.point, *path, timeout=timeout)

    def status(self):
        return json.loads(self.cli("status", self.point, "--json", timeout=20).stdout)

    def stop(self, timeout=240):
        done = self.cli("stop", self.point, timeout=timeout)
        assert not self.is_mounted, "stop was successful, and it is still mounted"
        self.wait_for_end()
        return done

    def umount(self):
        """Plain umount, as an impatient person or a shutdown does it."""
        run(*(["umount"] if os.getuid() == 0 else ["fusermount3", "-u"]), self.point, timeout=20)

    def wait_for_end(self, timeout=120):
        wait_until(lambda: not self.pids(), timeout, "the end of the daemon")
        if self.child:
            self.child.wait(timeout=10)

    def pids(self):
        """The daemon's processes: those of the program that were started with this mount point."""
        found = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                program = os.readlink(entry / "exe").removesuffix(" (deleted)")
            except PermissionError:          # it hides its memory; then the name has to do
                program = str(self.binary.resolve()) if words[0].endswith("cloudfusion") else ""
            except OSError:
                continue
            if self.child and self.child.pid == int(entry.name):
                self.child.poll()
            ours = str(self.point) in words and words[1] not in ("stop", "sync", "status")
            if ours and program == str(self.binary.resolve()) and start_time(int(entry.name)):
                found.append(int(entry.name))
        return found

    def crash(self):
        """The worst that can happen to a daemon short of a power loss. What it leaves is a mount that is dead."""
        for pid in self.pids():
            os.kill(pid, signal.SIGKILL)
        self.wait_for_end(timeout=20)

    def kill(self, before_unmounting=lambda: None):
        """A crash, after which the dead mount is taken away.

        Whoever still writes below the mount point must end before it is unmounted: else it writes beneath it.
        """
        self.crash()
        before_unmounting()
        run("umount", "-l", self.point, check=False, timeout=20)

    def memory(self):
        """Resident bytes of the daemon now, and the most it has had."""
        now = most = 0
        for pid in self.pids():
            fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
            now += int(fields["VmRSS"].split()[0]) << 10
            most += int(fields["VmHWM"].split()[0]) << 10
        return now, most

    def end(self):
        """Whatever state a test has left: nothing stays mounted, nothing stays running."""
        if self.is_mounted and self.pids():
            with contextlib.suppress(AssertionError):
                self.cli("stop", self.point, timeout=30, check=False)
        for point in mounts_below(self.folder):
            run("umount", "-l", point, check=False, timeout=20)
        for number, patience in ((signal.SIGTERM, 3), (signal.SIGKILL, 10)):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + patience
            while self.pids() and time.monotonic() < end:
                time.sleep(0.05)
        if self.child:
            self.child.wait(timeout=10)

    def remounted(self, name, cache=None):
        """The same store at another place; with an empty cache unless one is given."""
        return Mount(self.binary, self.folder.parent / name, self.store, self.options, self.flags, cache)


class Folder:
    """A plain folder in place of a mount: shows that a test asks nothing that a disk does not do."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.data = self.folder / "data"
        self.data.mkdir(parents=True)

    def sync(self):
        os.sync()

    def end(self):
        shutil.rmtree(self.folder, ignore_errors=True)


# MARK: comparing trees

def describe(root, times=True, owners=True):
    """What is in a tree: path → kind, mode, owner, time of change in ns, and digest, target or nothing."""
    root = os.fsencode(root)
    result = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            if kind == stat.S_IFREG:
                content = digest(path)
            elif kind == stat.S_IFLNK:
                content = os.readlink(path)
            else:
                content = None
            facts = {"kind": kind, "content": content}
            if kind != stat.S_IFLNK:
                facts["mode"] = stat.S_IMODE(status.st_mode)
            if owners:
                facts["owner"] = (status.st_uid, status.st_gid)
            if times:
                facts["time"] = status.st_mtime_ns
            result[os.path.relpath(path, root)] = facts
    return result


def digest(path):
    total = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


def differences(expected, actual, limit=10):
    """Lines that say how two descriptions differ; empty if they do not."""
    lines = []
    for path in sorted(expected.keys() | actual.keys()):
        a, b = expected.get(path), actual.get(path)
        if a != b:
            only = "is missing" if b is None else "is too much" if a is None else ", ".join(
                f"{name}: {a[name]!r} became {b[name]!r}" for name in a if a[name] != b[name])
            lines.append(f"{path!r}: {only}")
    more = [f"… and {len(lines) - limit} more"] if len(lines) > limit else []
    return lines[:limit] + more
