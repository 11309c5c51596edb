"""Who may speak to the server: an ASGI layer in front of every route, because browsers can be made to talk to loopback.

A page on another site can send requests to 127.0.0.1 (CSRF), or point its own name at it (DNS rebinding). Against the
first, requests that change or cost something must be JSON and come from our own page; against the second, the Host must
be a name we know. Nothing ever sends CORS headers, so other sites cannot read an answer.
"""

import hmac
import ipaddress
import logging
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from athanor.serving.errors import ApiError, bad_request, shown
from athanor.serving.settings import BODY_BYTES, HEADERS, LOOPBACK_NAMES, ServingSettings, is_loopback

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

logger = logging.getLogger("athanor.serving")

METHODS = ("GET", "HEAD", "POST")
READING = ("GET", "HEAD")
PUBLIC_PATHS = ("/", "/health", "/favicon.svg", "/page.json")  # hold nothing secret; the page asks for the key itself
PUBLIC_FOLDER = "/static/"
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Wraps an application: checks requests before it, adds security headers to answers, hides our defects."""

    def __init__(self, app: Application, settings: ServingSettings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            check_request(scope, self.settings)
            await self.app(scope, receive, send_with_headers)
        except ApiError as problem:
            await problem.response()(scope, receive, send_with_headers)
        except Exception as problem:  # noqa: BLE001 - the last line of defence: one request fails, the server lives
            log_defect(problem)
            if not started:
                await our_defect().response()(scope, receive, send_with_headers)
            else:
                raise ConnectionError("the answer was cut short") from None


def log_defect(problem: BaseException) -> None:
    """Log what failed and where, but not the exception's text: it may quote a prompt."""
    places = "".join(traceback.format_tb(problem.__traceback__))
    logger.error("%s while answering a request\n%s", type(problem).__name__, places)


def our_defect() -> ApiError:
    """What a client learns of a defect of ours."""
    return ApiError(500, "The server failed; its log says where.", kind="server_error", code="internal_error")


def check_request(scope: Message, settings: ServingSettings) -> None:
    """Raise `ApiError` unless this request may pass: host, origin, method, kind and size of body, key."""
    headers = Headers(scope=scope)
    if len(headers) > HEADERS:
        raise ApiError(431, f"A request may have {HEADERS} headers.", code="too_many_headers")
    _check_host(headers, settings)
    _check_origin(scope["method"], headers)
    if scope["method"] not in METHODS:
        message = f"Method {shown(scope['method'])} is not allowed here."
        raise ApiError(405, message, code="method_not_allowed", headers={"allow": ", ".join(METHODS)})
    if scope["method"] not in READING:
        _check_body(headers)
    if settings.api_key is not None and not _is_public(scope["path"]):
        _check_key(headers, settings.api_key.get_secret_value())


def _is_public(path: str) -> bool:
    return path in PUBLIC_PATHS or path.startswith(PUBLIC_FOLDER)


def host_name(host: str) -> str:
    """The name in a Host header without its port: "localhost:8000" -> localhost, "[::1]:8000" -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _check_host(headers: Headers, settings: ServingSettings) -> None:
    name = host_name(headers.get("host", ""))
    if name in LOOPBACK_NAMES or name in {known.lower() for known in (settings.host, *settings.hosts)}:
        return
    if not is_loopback(settings.host) and _is_address(name):  # rebinding needs a name; a bare address is harmless
        return
    message = f"Host {shown(name)} is not a name of this server. Use localhost, or start it with hosts=[…] naming it."
    raise ApiError(403, message, code="unknown_host")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(method: str, headers: Headers) -> None:
    if method in READING:
        return
    origin = headers.get("origin")
    if origin is not None and urlsplit_host(origin) != headers.get("host", "").lower():
        raise ApiError(403, f"Requests from {shown(origin)} are not allowed.", code="foreign_origin")
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise ApiError(403, "Requests from other sites are not allowed.", code="foreign_origin")


def urlsplit_host(origin: str) -> str | None:
    """Host and port of an http(s) origin; None for anything else, "null" included."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None


def _check_body(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"Content-Type must be application/json; got {shown(kind)}."
        raise ApiError(415, message, code="unsupported_content_type")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "Compressed bodies are not accepted.", code="unsupported_content_encoding")
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise bad_request(f"Content-Length {shown(length)} is not a size.")
    if int(length[:20]) > BODY_BYTES:
        raise ApiError(413, f"The body is larger than {BODY_BYTES} bytes.", code="request_too_large")


def _check_key(headers: Headers, key: str) -> None:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode("utf-8"), key.encode("utf-8"))
    if scheme.lower() != "bearer" or not right:
        message = "Wrong or missing API key: send 'Authorization: Bearer <key>' with the key of this server."
        raise ApiError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
