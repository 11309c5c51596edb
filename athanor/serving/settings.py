"""What a person can set about a server, and the limits that protect it."""

import ipaddress
from typing import Annotated, Literal

import pydantic

from athanor.base.errors import AthanorError
from athanor.base.settings import Settings

BODY_BYTES = 1_000_000  # of one request; enforced while it arrives
BODY_SECONDS = 30.0  # from its first byte to its last; slower clients are cut off
HEADERS = 100  # of one request
JSON_DEPTH = 32  # brackets inside brackets
MESSAGES = 512  # turns in one conversation
CHOICES = 16  # answers to one request
STOPS = 4  # stop strings in one request, as OpenAI allows
STOP_CHARACTERS = 256
LOGIT_BIASES = 300
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class ServingSettings(Settings):
    """Where the server listens, who may use it, and what it does when it is full."""

    host: str = "127.0.0.1"
    """Address to listen on; beyond this machine (`0.0.0.0`) only together with `api_key`."""
    port: Annotated[int, pydantic.Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and prints it."""
    api_key: Annotated[pydantic.SecretStr | None, pydantic.Field(min_length=16)] = None
    """Clients must send `Authorization: Bearer <key>`; None asks for nothing, which is allowed on loopback only."""
    hosts: tuple[str, ...] = ()
    """Names beside localhost under which browsers may reach the server (the `Host` header)."""
    history: Literal["refuse", "drop-oldest"] = "refuse"
    """A conversation longer than the context: refuse it by name, or drop its oldest turns (never the system turn)."""
    queue: Annotated[int, pydantic.Field(ge=1, le=100_000)] = 64
    """Answers in progress and waiting; a request beyond them is told to come back later (429)."""
    drain_seconds: Annotated[float, pydantic.Field(ge=0, le=3600)] = 30.0
    """After SIGTERM or Ctrl-C, how long running answers may take to finish."""


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(settings: ServingSettings) -> None:
    """Refuse to listen beyond this machine without a key.

    Raises:
        AthanorError: `host` is not loopback and `api_key` is None.
    """
    if settings.api_key is None and not is_loopback(settings.host):
        raise AthanorError(
            f"host={settings.host} lets other machines use this model, and no api_key is set",
            allowed="127.0.0.1, ::1 or localhost without a key; any address with one",
            fix="set api_key to a secret of at least 16 characters, or leave host at 127.0.0.1",
        )
