"""Errors in the form OpenAI's clients expect: {"error": {"message", "type", "param", "code"}}."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic
from starlette.responses import Response

from athanor.base.settings import nearest

SHOWN_CHARACTERS = 80  # of what the client sent, when an error repeats it


class ApiError(Exception):
    """An answer other than 200.

    Args:
        status: HTTP status.
        message: what was given, what is allowed, what to do.
        param: the field at fault, as the client wrote it.
        code: OpenAI's machine-readable name of the problem.
        kind: OpenAI's `type`.
        headers: extra response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.kind = status, message, param, code, kind
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The error object as JSON; ASCII, so that no input can make it unencodable."""
        row = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": row}).encode("ascii")

    def response(self) -> Response:
        """The whole HTTP answer."""
        return Response(self.body(), self.status, media_type="application/json", headers=self.headers)


def bad_request(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400: the request itself is wrong; sending it again will not help."""
    return ApiError(400, message, param=param, code=code)


def shown(value: object) -> str:
    """A short, printable form of what a client sent."""
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


def field_name(location: Sequence[Any]) -> str:
    """A pydantic location as a client writes it: ("messages", 0, "content") -> messages[0].content."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            name += f".{part}" if name else str(part)
    return shown(name)[1:-1]


def from_validation(problem: pydantic.ValidationError, known: Sequence[str]) -> ApiError:
    """The first thing wrong with a request, as OpenAI's error; `known` are the fields that exist."""
    first = problem.errors(include_url=False)[0]
    name = field_name(first["loc"])
    if first["type"] == "extra_forbidden":
        hint = nearest(name, known) if len(first["loc"]) == 1 else ""
        message = f"Unknown parameter: '{name}'. {hint}".strip()
        return bad_request(message, param=name, code="unknown_parameter")
    if first["type"] == "missing":
        return bad_request(f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    reason = first["msg"].removeprefix("Value error, ")
    if not name:  # two fields that do not go together
        return bad_request(reason)
    code = "invalid_type" if first["type"].endswith(("_type", "_parsing")) else "invalid_value"
    return bad_request(f"Invalid '{name}': {reason}; got {shown(first['input'])}.", param=name, code=code)
