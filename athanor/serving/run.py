"""Running the server: the port, the signals, and a stop that lets running answers finish."""

import contextlib
import errno
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from athanor.base.errors import AthanorError
from athanor.serving.protocol import PatientProtocol

EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listening on the left, this machine reaches it on the right
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def check_port(host: str, port: int) -> None:
    """Find out early, before a model is loaded, that the server can listen.

    Raises:
        AthanorError: the port is in use, reserved for the system, or the address is not one of this machine.
    """
    _bind(host, port).close()


def serve(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    drain_seconds: float = 30.0,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then let running answers finish; a second signal ends them.

    Args:
        port: 0 takes a free one.
        drain_seconds: longest time for running answers to finish.
        announce: is told the address once connections are accepted; None prints it to stderr.
    Raises:
        AthanorError: see `check_port`.
    """
    listener = _bind(host, port)
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="critical",  # our own log says what failed, and never quotes a prompt
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(drain_seconds)),
    )
    with contextlib.closing(listener):
        _Server(config, announce or _print_address, _address(listener)).run(sockets=[listener])


class _Server(uvicorn.Server):
    """uvicorn, but after a signal `serve` returns: the caller closes the engine and chooses the exit code."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None], address: str):
        super().__init__(config)
        self.announce, self.address = announce, address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.announce(self.address)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only: whoever runs us in another one sets should_exit
            return
        previous = {number: signal.signal(number, self._on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit  # the second signal
        self.should_exit = True


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError) as problem:
        raise AthanorError(
            f"host={host!r} is not an address of this machine: {problem}",
            allowed="127.0.0.1 (this machine only), 0.0.0.0 (every network), or one of this machine's addresses",
        ) from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as problem:
        listener.close()
        raise _explain(host, port, problem) from None
    return listener


def _explain(host: str, port: int, problem: OSError) -> AthanorError:
    if problem.errno == errno.EADDRINUSE:
        return AthanorError(
            f"port {port} on {host} is in use by another program",
            allowed="a free port from 1024 to 65535, or 0 for any free one",
            fix=f"stop the other program, or use port={port + 1 if port < 65535 else 0}",
        )
    if problem.errno == errno.EACCES:
        return AthanorError(
            f"port {port} needs more rights than this user has",
            allowed="a port from 1024 to 65535, or 0 for any free one",
            fix="use port=8000",
        )
    return AthanorError(
        f"cannot listen on {host}:{port}: {problem.strerror}",
        allowed="127.0.0.1 (this machine only), 0.0.0.0 (every network), or one of this machine's addresses",
    )


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    if host in EVERY_ADDRESS:
        host = EVERY_ADDRESS[host]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _print_address(address: str) -> None:
    print(f"serving at {address} (OpenAI's interface at {address}v1; Ctrl-C stops)", file=sys.stderr, flush=True)
