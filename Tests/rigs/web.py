"""WebDAV servers: Apache httpd, WsgiDAV, rclone. Three opinions of what WebDAV is.

And servers that show folders as index pages: Apache httpd, nginx, Python's http.server."""

import base64
import hashlib
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

from rigs.processes import Processes, RigError, free_ports, wait_until
from rigs.servers import from_venv


class WebServer:
    """One server over one folder. `settings` after start: url, user, password, files (the folder)."""

    name = ""
    # What the name of the environment variable begins with.
    kind = "WEBDAV"
    user, password = "rig", "rigsecret-0123456789"
    packages = "scripts/install-packages test"

    def __init__(self, state):
        self.state = pathlib.Path(state).absolute()
        self.processes = Processes(self.state)
        self.settings_file = self.state / "settings.json"
        self.files = self.state / "files"

    def launch(self, port):
        """Starts the process; answers the path of the folder's URL."""
        raise NotImplementedError

    def start(self):
        if self.processes.pids() and self.settings_file.exists():
            return self.settings
        self.files.mkdir(parents=True, exist_ok=True)
        port, = free_ports(1)
        try:
            url = f"http://127.0.0.1:{port}{self.launch(port)}"
            wait_until(lambda: self.answers(url), 30, f"an answer of {self.name}")
        except (RigError, OSError, subprocess.SubprocessError) as error:
            tail = self.processes.log_tail()
            self.processes.stop()
            raise RigError(f"{self.name} did not start: {error}\n{tail}") from error
        self.settings_file.write_text(json.dumps({
            "url": url, "user": self.user, "password": self.password, "files": str(self.files)}))
        return self.settings

    def answers(self, url):
        if not self.processes.pids():
            raise RigError("the server has ended")
        try:
            # Without the proxy of the environment.
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    @property
    def settings(self):
        return json.loads(self.settings_file.read_text())

    @property
    def announcement(self):
        """The line for the environment of the tests."""
        name = self.name.split("-")[0].upper()
        line = " ".join(self.settings[field] for field in ("url", "user", "password", "files"))
        return f'CLOUDFUSION_TEST_{self.kind}_{name}="{line}"'

    def stop(self):
        self.processes.stop()
        self.settings_file.unlink(missing_ok=True)

    def need(self, program):
        """Where a program is that only root has in PATH."""
        found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if found is None:
            raise RigError(f"{program} is not installed; {self.packages} installs it")
        return found


def password_file(path, user, password):
    """Names and passwords as Apache and nginx read them."""
    digest = base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()
    path.write_text(f"{user}:{{SHA}}{digest}\n")


class Httpd(WebServer):
    """Apache httpd with mod_dav: Basic authentication, properties of at most 1 KB, files replaced as a whole."""

    name = "httpd"
    path = "/dav"
    # What is done with the folder.
    purpose = "Dav On"
    modules = ("mpm_event", "alias", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav", "dav_fs",
               "mime", "headers", "env", "setenvif")

    def launch(self, port):
        program = self.need("apache2")
        for part in ("locks", "root"):
            (self.state / part).mkdir(exist_ok=True)
        password_file(self.state / "users", self.user, self.password)
        account = ""
        if os.getuid() == 0:                 # as root it refuses to serve
            account = "User nobody\nGroup nogroup"
            nobody = pwd.getpwnam("nobody")
            for path in (self.files, self.state / "locks", self.state / "users"):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
            self.let_through()
        modules = "\n".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in self.modules)
        (self.state / "httpd.conf").write_text(f"""\
ServerRoot {self.state}/root
DefaultRuntimeDir {self.state}
PidFile {self.state}/pid
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
ErrorLog {self.state}/error.log
LogLevel crit
{modules}
{account}
StartServers 1
ThreadsPerChild 64
MaxRequestWorkers 128
MinSpareThreads 16
MaxSpareThreads 128
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
DocumentRoot {self.state}/root
TypesConfig /dev/null
DavLockDB {self.state}/locks/db
Alias {self.path} {self.files}
<Directory {self.files}>
    {self.purpose}
    AuthType Basic
    AuthName rig
    AuthUserFile {self.state}/users
    Require valid-user
</Directory>
""")
        (self.state / "pid").unlink(missing_ok=True)
        self.processes.spawn("httpd", [program, "-DFOREGROUND", "-f", self.state / "httpd.conf"])
        return self.path

    def let_through(self):
        """Opens the folders above the files to the server's account; none but those of the tests."""
        closed = [folder for folder in (self.state, *self.state.parents) if folder.stat().st_mode & 0o001 == 0]
        for folder in closed:
            if not folder.is_relative_to(tempfile.gettempdir()):
                raise RigError(f"the account nobody cannot get to {self.files}: {folder} is closed to it")
            folder.chmod(folder.stat().st_mode | 0o011)


class WsgiDAV(WebServer):
    """WsgiDAV: Digest authentication; writes files in place, so that an upload that breaks off leaves half of one."""

    name = "wsgidav"

    def launch(self, port):
        (self.state / "wsgidav.json").write_text(json.dumps({
            "host": "127.0.0.1", "port": port, "server": "cheroot", "server_args": {"numthreads": 32},
            "provider_mapping": {"/": str(self.files)},
            "simple_dc": {"user_mapping": {"*": {self.user: {"password": self.password}}}},
            "http_authenticator": {"accept_basic": False, "accept_digest": True, "default_to_digest": True},
            "property_manager": True, "lock_storage": True, "verbose": 1}))
        self.processes.spawn("wsgidav", [from_venv("wsgidav"), "-c", self.state / "wsgidav.json"])
        return ""


class RcloneWebDAV(WebServer):
    """`rclone serve webdav`: Basic authentication; keeps no properties, and says that it does; keeps half of an
    upload that breaks off."""

    name = "rclone-webdav"

    def launch(self, port):
        env = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}   # it would not start
        self.processes.spawn("rclone", [
            from_venv("rclone"), "serve", "webdav", "--config", "/dev/null", "--cache-dir", self.state / "cache",
            "--addr", f"127.0.0.1:{port}", "--user", self.user, "--pass", self.password, "--dir-cache-time", "1h",
            "--log-level", "ERROR", self.files], env=env)
        return ""


class HttpdIndex(Httpd):
    """Apache httpd with mod_autoindex: pages with sizes such as "4.9K" and times in minutes."""

    name = "httpd-index"
    kind = "HTTP"
    path = "/files"
    purpose = "Options Indexes FollowSymLinks\n    IndexOptions FancyIndexing"
    modules = (*Httpd.modules, "dir", "autoindex")


class Nginx(WebServer):
    """nginx with autoindex: Basic authentication; leaves out names that begin with a dot. `/files` has HTML, `/json` and
    `/xml` the other forms."""

    name = "nginx"
    kind = "HTTP"

    def launch(self, port):
        program = self.need("nginx")
        password_file(self.state / "users", self.user, self.password)
        (self.state / "tmp").mkdir(exist_ok=True)
        account = "user root;" if os.getuid() == 0 else ""
        temporary = "\n".join(f"    {kind}_temp_path {self.state}/tmp/{kind};"
                              for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        forms = "\n".join(
            f"        location /{path}/ {{ alias {self.files}/; autoindex on; autoindex_format {form}; }}"
            for path, form in (("files", "html"), ("json", "json"), ("xml", "xml")))
        (self.state / "nginx.conf").write_text(f"""\
daemon off;
pid {self.state}/pid;
error_log stderr crit;
worker_processes 1;
{account}
events {{ worker_connections 512; }}
http {{
    access_log off;
    default_type application/octet-stream;
    types {{ text/html html; }}
    keepalive_requests 100000;
{temporary}
    server {{
        listen 127.0.0.1:{port};
        auth_basic rig;
        auth_basic_user_file {self.state}/users;
{forms}
    }}
}}
""")
        self.processes.spawn("nginx", [program, "-p", self.state, "-c", self.state / "nginx.conf"])
        return "/files"


class PythonHTTP(WebServer):
    """Python's http.server: no ranges, no entity tags, no credentials; its pages have nothing but names."""

    name = "python-http"
    kind = "HTTP"

    def launch(self, port):
        self.processes.spawn("python-http", [
            sys.executable, "-m", "http.server", port, "--bind", "127.0.0.1", "--directory", self.files])
        return ""
