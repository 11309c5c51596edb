"""Random requests: whatever JSON comes, the answer is 200 or an error object below 500."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from athanor.serving.schema import REFUSED, ChatRequest
from tests.serving.running_server import DirectClient
from tests.serving.tiny_server import MODEL

GOOD = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
NAMES = [*ChatRequest.model_fields, *REFUSED, "unknown"]
scalars = some.one_of(
    some.none(), some.booleans(), some.integers(), some.integers(-3, 3), some.floats(-3, 3), some.text(max_size=9),
    some.sampled_from(["user", "assistant", "system", "text", "1", "0", "auto", "none"]),
)  # fmt: skip
keys = some.one_of(some.text(max_size=4), some.sampled_from(["role", "content", "type", "text", "include_usage", "1"]))
values = some.recursive(
    scalars,
    lambda inner: some.one_of(some.lists(inner, max_size=4), some.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)
messages = some.lists(some.dictionaries(keys, values, max_size=4), max_size=3)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=some.dictionaries(some.sampled_from(NAMES), values, max_size=3), turns=some.none() | messages)
def test_no_request_breaks_the_server(local, changes, turns):
    client = DirectClient(local[0], {**GOOD, **({} if turns is None else {"messages": turns}), **changes})
    asyncio.run(client.run())
    assert client.status == 200 or 400 <= client.status < 500
    if client.status != 200:
        error = client.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
    elif not changes.get("stream"):
        choices = client.json()["choices"]
        assert len(choices) == (changes.get("n") or 1) and all(choice["finish_reason"] for choice in choices)
