"""Real servers on this machine for tests and benchmarks, and a network that misbehaves on request.

Each rig listens on 127.0.0.1 on ports that were free, keeps everything in the folder it is given, makes a bucket,
and ends without leaving a process behind. `python3 -m rigs --help` (with Tests/ as PYTHONPATH) is the command;
tests import the classes. Only the standard library is needed here; the servers come from Debian's packages and
from PyPI (scripts/install-packages test).
"""
