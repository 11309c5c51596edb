"""Servers as processes of their own: what a client meets is what a user would."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

PROGRAM = Path(__file__).parent / "tiny_server.py"
ROOT = PROGRAM.parents[2]


@dataclass
class RunningServer:
    """A server's process and where it listens."""

    process: subprocess.Popen[str]
    log: Path
    url: str = ""

    def wait_until_ready(self) -> "RunningServer":
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, f"the server did not start:\n{self.log.read_text()}"
        return self

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=40)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].strip("/"))

    def answers_taken(self) -> int:
        return httpx.get(f"{self.url}health").json()["answers"]


def start_server(folder: Path, **settings: Any) -> RunningServer:
    """Start a server on a free port; call `wait_until_ready` before using it."""
    folder.mkdir(exist_ok=True)
    (folder / "index").mkdir()
    log = folder / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder / "index"), json.dumps({"port": 0, **settings})],
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
        )  # fmt: skip
    return RunningServer(process, log)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunningServer]]:
    """Two servers, started side by side: one as it comes, one narrow and locked."""
    started = {
        "plain": start_server(tmp_path_factory.mktemp("plain")),
        "narrow": start_server(
            tmp_path_factory.mktemp("narrow"), queue=2, history="drop-oldest", api_key="a-key-of-sixteen-letters",
            hosts=["furnace.lan"], drain_seconds=20,
        ),
    }  # fmt: skip
    yield {name: server.wait_until_ready() for name, server in started.items()}
    for server in started.values():
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def server(servers: dict[str, RunningServer]) -> RunningServer:
    """The server as it comes."""
    return servers["plain"]


@pytest.fixture(scope="session")
def narrow(servers: dict[str, RunningServer]) -> RunningServer:
    """A server with room for two answers, an API key, a known name, and a policy that drops the oldest turns."""
    return servers["narrow"]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunningServer]:
    """Start one more server."""

    def start_one(**settings: Any) -> RunningServer:
        return start_server(tmp_path_factory.mktemp("server"), **settings).wait_until_ready()

    return start_one
