"""Memory that is scarce, for the C libraries of one program only; and a disk on which its quota is used up."""

import pathlib
import struct
import subprocess

HERE = pathlib.Path(__file__).parent


def library(name, folder):
    """Builds one of the libraries; its path."""
    made = folder / f"{name}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", made, HERE / f"{name}.c"], check=True)
    return made


def full_disks_are_used_up_quotas(folder):
    """The environment of a program that is told so."""
    return {"LD_PRELOAD": str(library("quota", folder))}


class Scarcity:
    """Give `environment` to a program; then set() says how many of its libraries' allocations fail."""

    def __init__(self, folder):
        self.file = folder / "scarcity"
        self.file.write_bytes(bytes(16))
        self.environment = {
            "LD_PRELOAD": str(library("scarce", folder)), "CLOUDFUSION_SCARCITY": str(self.file)}

    def set(self, one_in):
        """One in so many fails, at random; 0: none."""
        with open(self.file, "r+b", buffering=0) as file:
            file.write(struct.pack("q", one_in))

    @property
    def failures(self):
        """How many have failed so far."""
        return struct.unpack("qq", self.file.read_bytes())[1]
