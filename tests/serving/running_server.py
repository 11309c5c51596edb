"""A server in a process of its own, and an application without a network, as the tests see them."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

# One client for all tests, a new connection for every request: making a client costs more than most requests.
web = httpx.Client(timeout=20, limits=httpx.Limits(max_keepalive_connections=0))


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Look again and again until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@dataclass
class RunningServer:
    """A server's process, where it listens, and what it left behind."""

    name: str
    folder: Path

    @property
    def url(self) -> str:
        return (self.folder / f"{self.name}.url").read_text().split()[0]

    @property
    def process(self) -> int:
        return int((self.folder / f"{self.name}.url").read_text().split()[1])

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].strip("/"))

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text()

    @property
    def exit_code(self) -> int | None:
        file = self.folder / f"{self.name}.exit"
        return int(file.read_text()) if file.exists() and file.read_text() else None

    @property
    def started(self) -> bool:
        return (self.folder / f"{self.name}.url").exists()

    def answers_taken(self) -> int:
        return web.get(f"{self.url}health").json()["answers"]


class DirectClient:
    """Speaks to an application without a network, and can leave at an exact moment: when `gone` is set."""

    def __init__(self, app, request, pieces=None):
        self.app, self.pieces, self.sent, self.gone = app, pieces, [], asyncio.Event()
        self.incoming = [{"type": "http.request", "body": json.dumps(request).encode(), "more_body": False}]

    async def run(self):
        path = "/v1/chat/completions"
        headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
        scope |= {"query_string": b"", "scheme": "http", "http_version": "1.1", "root_path": ""}
        await asyncio.wait_for(self.app(scope, self.receive, self.send), timeout=20)

    async def receive(self):
        if self.incoming:
            return self.incoming.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)
        if self.pieces and len(self.sent) >= self.pieces:
            self.gone.set()

    @property
    def status(self):
        return self.sent[0]["status"]

    @property
    def headers(self):
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    def json(self):
        return json.loads(b"".join(message["body"] for message in self.sent[1:]))
