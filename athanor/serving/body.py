"""Reading a JSON body from a client who may be careless or hostile."""

import json
import re
from typing import Any, TypeVar

import pydantic
from starlette.requests import ClientDisconnect, Request

from athanor.serving.errors import ApiError, bad_request, from_validation, shown
from athanor.serving.settings import BODY_BYTES, JSON_DEPTH

SomeModel = TypeVar("SomeModel", bound=pydantic.BaseModel)

DISCARDED_BYTES = 16 * BODY_BYTES  # read and forgotten before a refusal, so that the client is still there to hear it
HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that may be half of a surrogate pair
STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


async def read_object(request: Request) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        ApiError: 413: too large; 400: not JSON, not an object, nested too deeply, a field given twice, NaN or Infinity.
    """
    try:
        text = (await _read_bytes(request)).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise bad_request(f"The body is not UTF-8 (byte {problem.start}).", code="invalid_json") from None
    check_depth(text)
    try:
        value = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_refuse_constant)
    except json.JSONDecodeError as problem:
        place = f"line {problem.lineno}, column {problem.colno}"
        raise bad_request(f"The body is not JSON: {problem.msg} at {place}.", code="invalid_json") from None
    except ValueError as problem:  # an integer with thousands of digits
        raise bad_request(f"The body holds a number that cannot be read: {problem}.", code="invalid_json") from None
    if HALF_CHARACTER.search(text) is not None:
        _check_characters(value)
    if not isinstance(value, dict):
        raise bad_request(f"The body must be a JSON object; got {shown(value)}.", code="invalid_json")
    return value


def check(model: type[SomeModel], values: dict[str, Any]) -> SomeModel:
    """`values` as a `model`; null means "not set", as OpenAI has it.

    Raises:
        ApiError: names the first field that is unknown, missing or wrong (400).
    """
    known = list(model.model_fields)
    given = {name: value for name, value in values.items() if value is not None or name not in known}
    try:
        return model.model_validate(given)
    except pydantic.ValidationError as problem:
        raise from_validation(problem, known) from None


async def _read_bytes(request: Request) -> bytes:
    body, size = bytearray(), 0
    try:
        async for piece in request.stream():
            size += len(piece)
            if size > DISCARDED_BYTES:
                break
            if size <= BODY_BYTES:
                body += piece
    except ClientDisconnect:
        raise bad_request("The client left before the body was complete.", code="invalid_json") from None
    if size > BODY_BYTES:
        raise ApiError(413, f"The body is larger than {BODY_BYTES} bytes.", code="request_too_large")
    return bytes(body)


def check_depth(text: str) -> None:
    """Refuse JSON nested deeper than JSON_DEPTH before a recursive parser sees it.

    Raises:
        ApiError: too deep (400).
    """
    depth = 0
    for match in STRINGS_AND_BRACKETS.finditer(text):
        first = match.group()[0]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
        if depth > JSON_DEPTH:
            raise bad_request(f"The body is nested deeper than {JSON_DEPTH} levels.", code="invalid_json")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise bad_request(f"The field {shown(name)} is given twice.", param=shown(name), code="invalid_json")
            seen.add(name)
    return values


def _check_characters(value: Any) -> None:
    """Refuse text with half of a surrogate pair: it is no character, and no tokenizer can read it."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise bad_request("A text holds half of a surrogate pair: no character.", code="invalid_json") from None


def _refuse_constant(name: str) -> None:
    raise bad_request(f"{name} is not a JSON number.", code="invalid_json")
