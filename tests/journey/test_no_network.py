"""Nothing leaves the machine: the journey runs where every outgoing connection fails, and none is even tried."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, SMALLEST, surroundings

WATCH = """
import socket, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        address = args[1] if event in ("socket.connect", "socket.sendto") else args[0]
        host = address[0] if isinstance(address, tuple) else address
        if host not in ("127.0.0.1", "::1", "localhost", None) and not str(host).startswith("/"):
            print(f"TRIED TO REACH {event} {address!r}", file=sys.stderr, flush=True)
            raise OSError("the network is cut")
sys.addaudithook(watch)
sys.argv = ["athanor", *sys.argv[1:]]
from athanor.cli import main
main()
"""


def test_no_step_tries_to_leave_the_machine(tmp_path: Path) -> None:
    """Python itself reports every attempt to connect or to look up a name (PEP 578)."""
    command = [sys.executable, "-c", WATCH, "run", "quickstart", *SMALLEST]
    done = subprocess.run(command, cwd=ROOT, env=surroundings(tmp_path), text=True, capture_output=True, timeout=300)
    assert "TRIED TO REACH" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_the_journey_runs_in_a_namespace_without_a_route(tmp_path: Path) -> None:
    """The kernel's own word: a network namespace that has not even a loopback device up."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a network namespace (unshare -rn)")
    command = [unshare, "-rn", sys.executable, "-m", "athanor", "run", "quickstart", *SMALLEST, "--until", "finetune"]
    done = subprocess.run(command, cwd=ROOT, env=surroundings(tmp_path), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
