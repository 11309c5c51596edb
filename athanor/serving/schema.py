"""What a request may hold. Every field is honoured or refused by name; none is accepted and ignored."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, StrictBool, StrictInt, StrictStr

from athanor.base.settings import nearest
from athanor.serving.errors import bad_request
from athanor.serving.settings import CHOICES, LOGIT_BIASES, MESSAGES, STOP_CHARACTERS, STOPS

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
LOWEST_TEMPERATURE = 0.001
ROLES = ("system", "developer", "user", "assistant")

# Fields of OpenAI's interface that this server does not have, why, and the values that ask for nothing.
REFUSED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "audio": ("this model speaks no audio", ()),
    "best_of": ("answers are not ranked; ask for n answers and choose", (1,)),
    "function_call": ("this model calls no functions", ("none",)),
    "functions": ("this model calls no functions", ([],)),
    "logprobs": ("this server gives no token probabilities yet", (False,)),
    "metadata": ("no requests are stored", ({},)),
    "modalities": ("this model answers in text only", (["text"],)),
    "parallel_tool_calls": ("this model calls no tools", ()),
    "prediction": ("predicted outputs are not supported", ()),
    "prompt_cache_key": ("caching needs no key here", ()),
    "reasoning_effort": ("this model has no reasoning levels", ("none",)),
    "response_format": ("structured output is not supported yet; ask for the form in words", ({"type": "text"},)),
    "safety_identifier": ("this server keeps no record of users", ()),
    "service_tier": ("there is one tier only", ("auto", "default")),
    "store": ("no requests are stored", (False,)),
    "suffix": ("this model only continues a text", ("",)),
    "tool_choice": ("this model calls no tools", ("none",)),
    "top_logprobs": ("this server gives no token probabilities yet", ()),
    "tools": ("this model calls no tools", ([],)),
    "user": ("this server keeps no record of users", ()),
    "verbosity": ("this model has no verbosity levels", ("medium",)),
    "web_search_options": ("this server does not search the web", ()),
}


def refuse_unsupported(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without fields of OpenAI's interface that ask for nothing.

    Raises:
        ApiError: a field asks for something this server does not do (400, `unsupported_parameter`).
    """
    kept = {}
    for name, value in values.items():
        if name not in REFUSED:
            kept[name] = value
            continue
        reason, neutral = REFUSED[name]
        asks_for_nothing = value is None or any(type(value) is type(one) and value == one for one in neutral)
        if not asks_for_nothing:
            raise bad_request(f"'{name}' is not supported: {reason}.", param=name, code="unsupported_parameter")
    return kept


def join_parts(content: Any) -> Any:
    """Text content given as a list of parts, as one text; other values unchanged, for the strict check after it."""
    if not isinstance(content, list):
        return content
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or set(part) != {"type", "text"}:
            raise ValueError('every part must be {"type": "text", "text": …}; this model reads text only')
        if not isinstance(part["text"], str):
            raise ValueError("a part's text must be a string")
        texts.append(part["text"])
    return "".join(texts)


def as_tuple(value: Any) -> Any:
    """A single string as a tuple of one, a list as a tuple."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def known_role(role: Any) -> Any:
    """`role`, or an error that names the roles there are."""
    if isinstance(role, str) and role not in ROLES:
        hint = nearest(role, ROLES) if len(role) <= 20 else ""
        raise ValueError(f"the role must be one of {', '.join(ROLES)} {hint}".strip())
    return role


def no_vanishing_number(temperature: float) -> float:
    """`temperature`, unless dividing by it would overflow the logits."""
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise ValueError(f"the temperature must be 0 (always the likeliest token) or from {LOWEST_TEMPERATURE} to 2")
    return temperature


def _schema(kind: Mapping[str, Any]) -> pydantic.WithJsonSchema:
    return pydantic.WithJsonSchema(dict(kind))


TEXT = {"type": "string"}
TEXT_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": {"const": "text"}, "text": TEXT},
        "required": ["type", "text"],
        "additionalProperties": False,
    },
}
Content = Annotated[StrictStr, pydantic.BeforeValidator(join_parts), _schema({"anyOf": [TEXT, TEXT_PARTS]})]
StopString = Annotated[StrictStr, Field(min_length=1, max_length=STOP_CHARACTERS)]
STOP_TEXT = {"type": "string", "minLength": 1, "maxLength": STOP_CHARACTERS}
Stop = Annotated[
    tuple[StopString, ...],
    Field(max_length=STOPS),
    pydantic.BeforeValidator(as_tuple),
    _schema({"anyOf": [STOP_TEXT, {"type": "array", "items": STOP_TEXT, "maxItems": STOPS}]}),
]
TokenNumber = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[Number, Field(ge=-100, le=100)]


EMPTY_LISTS = ("annotations", "tool_calls")  # an answer may carry them empty, so a client sends them back


class Strict(pydantic.BaseModel):
    """Unknown fields are refused; checked values never change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class StreamOptions(Strict):
    """How a streamed answer ends."""

    include_usage: StrictBool = False


class Message(Strict):
    """One turn of a conversation; the fields a client copies from an earlier answer must be empty."""

    role: Annotated[Literal["system", "developer", "user", "assistant"], pydantic.BeforeValidator(known_role)]
    content: Content
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _drop_empty_lists(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value != [] or name not in EMPTY_LISTS}


class Generation(Strict):
    """What chat and plain completions have in common."""

    model: StrictStr
    n: Annotated[StrictInt, Field(ge=1, le=CHOICES)] = 1
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    stop: Stop = ()
    temperature: Annotated[Number, Field(ge=0, le=2), pydantic.AfterValidator(no_vanishing_number)] = 1.0
    top_p: Annotated[Number, Field(ge=1e-9, le=1)] = 1.0
    top_k: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[Number, Field(ge=0.01, le=100)] = 1.0
    presence_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[Number, Field(ge=-2, le=2)] = 0.0
    seed: Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)] | None = None
    logit_bias: Annotated[dict[TokenNumber, Bias], Field(max_length=LOGIT_BIASES)] | None = None

    @pydantic.model_validator(mode="after")
    def _options_belong_to_streams(self) -> "Generation":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self


Length = Annotated[StrictInt, Field(ge=1, le=10_000_000)]


class ChatRequest(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MESSAGES)]
    max_tokens: Length | None = None
    max_completion_tokens: Length | None = None

    @pydantic.model_validator(mode="after")
    def _one_length(self) -> "ChatRequest":
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def longest(self) -> int | None:
        """Most tokens to generate; None means as many as fit."""
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens


PROMPT_SCHEMA = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": CHOICES}]}
Prompt = Annotated[
    tuple[StrictStr, ...],
    Field(min_length=1, max_length=CHOICES),
    pydantic.BeforeValidator(as_tuple),
    _schema(PROMPT_SCHEMA),
]


class CompletionRequest(Generation):
    """POST /v1/completions: continue texts as the documents of pretraining continue."""

    prompt: Prompt
    max_tokens: Length = 16
    echo: StrictBool = False

    @property
    def longest(self) -> int:
        """Most tokens to generate."""
        return self.max_tokens


class WhyRequest(Strict):
    """POST /why."""

    text: Annotated[StrictStr, Field(min_length=1, max_length=20_000)]
