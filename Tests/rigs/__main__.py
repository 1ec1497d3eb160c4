"""python3 -m rigs start|stop|status NAME... --state DIR

start prints a line per server and protocol, ready for `eval` or `env`:
    CLOUDFUSION_TEST_S3_RADOSGW="http://127.0.0.1:41233 us-east-1 KEY SECRET BUCKET"
    CLOUDFUSION_TEST_SWIFT_RADOSGW="http://127.0.0.1:41233/auth/v1.0 USER SECRET CONTAINER"
    CLOUDFUSION_TEST_WEBDAV_HTTPD="http://127.0.0.1:41234/dav USER PASSWORD FOLDER"
    CLOUDFUSION_TEST_HTTP_NGINX="http://127.0.0.1:41235/files USER PASSWORD FOLDER"
    CLOUDFUSION_TEST_GS_STUB="http://127.0.0.1:41236 BUCKET CREDENTIALS_FILE"
    CLOUDFUSION_TEST_AZURE_FLAT="http://127.0.0.1:41235/rigflat DATA_LAKE_URL ACCOUNT KEY CONTAINER PUBLIC TENANT CLIENT SECRET"
    CLOUDFUSION_TEST_SFTP_OPENSSH="127.0.0.1 41235 USER KEY_FILE KNOWN_HOSTS FOLDER PASSWORD PORT PORT PORT"
and nothing for those that are not installed, which standard error says. Exit status 1 if one did not start.
"""

import argparse
import concurrent.futures
import pathlib
import sys

from rigs.azure import AzureEmulator
from rigs.gcs import GoogleEmulator, GoogleStub
from rigs.processes import RigError
from rigs.servers import S3_SERVERS
from rigs.ssh import SSHServer
from rigs.web import Httpd, HttpdIndex, Nginx, PythonHTTP, RcloneWebDAV, WsgiDAV

SERVERS = {server.name: server for server in (
    *S3_SERVERS, Httpd, WsgiDAV, RcloneWebDAV, HttpdIndex, Nginx, PythonHTTP, SSHServer,
    GoogleStub, GoogleEmulator, AzureEmulator)}


def main():
    parser = argparse.ArgumentParser(
        prog="python3 -m rigs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["start", "stop", "status"])
    parser.add_argument("names", nargs="*", metavar="NAME", help="; ".join(SERVERS) + "; none: all")
    parser.add_argument("--state", required=True, type=pathlib.Path, help="folder for everything the servers keep")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(SERVERS)
    if unknown:
        parser.error(f"no such server: {', '.join(unknown)}")

    def act(name):
        """A line for standard output, and whether all is well."""
        server = SERVERS[name](arguments.state / name)
        try:
            if arguments.action == "start":
                server.start()
                return server.announcement, True
            if arguments.action == "stop":
                server.stop()
                return None, True
            pids = server.processes.pids()
            return f"{name}: " + (f"running {pids}" if pids else "stopped"), bool(pids)
        except RigError as error:
            print(error, file=sys.stderr)
            return None, False

    # They end all at once, but begin one after the other: two that look for a free port could find the same.
    at_once = len(SERVERS) if arguments.action == "stop" else 1
    failed = False
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for line, is_well in pool.map(act, arguments.names or SERVERS):
            if line:
                print(line, flush=True)
            failed = failed or not is_well
    return 1 if failed else 0


sys.exit(main())
