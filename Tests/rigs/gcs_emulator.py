"""python3 -m rigs.gcs_emulator ARGUMENTS of gcp-storage-emulator

gcp-storage-emulator serves one connection after the other: one that is kept open keeps everybody else out. Here each request has
its own, and those that wait are let wait."""

import http.server
import sys

from gcp_storage_emulator import __main__ as emulator
from gcp_storage_emulator import server

server.RequestHandler.protocol_version = "HTTP/1.0"
http.server.HTTPServer.request_queue_size = 256
sys.exit(emulator.main())
