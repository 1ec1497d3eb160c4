"""python3 -m rigs start|stop|status NAME... --state DIR

start prints a line per server and protocol, ready for `eval` or `env`:
    CLOUDFUSION_TEST_S3_RADOSGW="http://127.0.0.1:41233 us-east-1 KEY SECRET BUCKET"
    CLOUDFUSION_TEST_SWIFT_RADOSGW="http://127.0.0.1:41233/auth/v1.0 USER SECRET CONTAINER"
    CLOUDFUSION_TEST_WEBDAV_HTTPD="http://127.0.0.1:41234/dav USER PASSWORD FOLDER"
    CLOUDFUSION_TEST_HTTP_NGINX="http://127.0.0.1:41235/files USER PASSWORD FOLDER"
    CLOUDFUSION_TEST_SFTP_OPENSSH="127.0.0.1 41235 USER KEY_FILE KNOWN_HOSTS FOLDER PASSWORD PORT PORT PORT"
and nothing for those that are not installed, which standard error says. Exit status 1 if one did not start.
"""

import argparse
import pathlib
import sys

from rigs.processes import RigError
from rigs.servers import S3_SERVERS
from rigs.ssh import SSHServer
from rigs.web import Httpd, HttpdIndex, Nginx, PythonHTTP, RcloneWebDAV, WsgiDAV

SERVERS = {server.name: server for server in (
    *S3_SERVERS, Httpd, WsgiDAV, RcloneWebDAV, HttpdIndex, Nginx, PythonHTTP, SSHServer)}


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

    failed = False
    for name in arguments.names or SERVERS:
        server = SERVERS[name](arguments.state / name)
        try:
            if arguments.action == "start":
                server.start()
                print(server.announcement, flush=True)
            elif arguments.action == "stop":
                server.stop()
            else:
                pids = server.processes.pids()
                print(f"{name}: " + (f"running {pids}" if pids else "stopped"))
                failed = failed or not pids
        except RigError as error:
            print(error, file=sys.stderr)
            failed = True
    return 1 if failed else 0


sys.exit(main())
