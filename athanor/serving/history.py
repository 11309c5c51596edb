"""From a chat request to token ids that fit the context: which turns the model reads."""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from athanor.base.errors import AthanorError
from athanor.serving.errors import ApiError, bad_request
from athanor.serving.schema import Message
from athanor.tokens.chat import Template
from athanor.tokens.conversation import Conversation, Role, Turn

ROLE_OF: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
ANSWER_SHARE = 4  # with no max_tokens, an older turn must go before an answer has less than a fourth of the context


@dataclass(frozen=True)
class Prompt:
    """What the model reads, how much it may answer, and how many of the oldest turns were left out."""

    ids: list[int]
    longest: int
    dropped: int = 0


def too_long(tokens: str, longest: int | None, context: int, param: str) -> ApiError:
    """The error for a prompt, or a prompt and its answer, that the model cannot read."""
    wanted = f" and max_tokens asks for {longest}" if longest is not None else ""
    message = f"The context is {context} tokens long: the prompt has {tokens}{wanted}. Send less, or ask for less."
    return bad_request(message, param=param, code="context_length_exceeded")


def fit(ids: list[int], longest: int | None, context: int, param: str, dropped: int = 0) -> Prompt:
    """`ids` with room for the answer.

    Raises:
        ApiError: not even one token, or not `longest` tokens, fit after the prompt (400, `context_length_exceeded`).
    """
    room = context - len(ids)
    if room < (longest or 1):
        raise too_long(str(len(ids)), longest, context, param)
    return Prompt(ids, longest or room, dropped)


def refuse_giants(texts: Iterable[str], longest_token: int | None, context: int, param: str) -> None:
    """Refuse, before any work, texts too long at even `longest_token` bytes per token; None: nobody knows how long.

    Raises:
        ApiError: 400, `context_length_exceeded`.
    """
    if longest_token is None:
        return
    least = sum(-(-len(text.encode("utf-8")) // longest_token) for text in texts)
    if least > context:
        raise too_long(f"at least {least}", None, context, param)


def render(
    template: Template,
    messages: Sequence[Message],
    longest: int | None,
    *,
    context: int,
    longest_token: int | None,
    drop_oldest: bool,
) -> Prompt:
    """The conversation through the model's chat template, its oldest turns left out if that is the policy.

    System turns always stay, and so does everything from the last user turn on; what is kept begins with a user turn.

    Raises:
        ApiError: it does not fit the context, or the template refuses it (400).
    """
    turns = [Turn(ROLE_OF[message.role], message.content) for message in messages]
    starts = _possible_starts(turns)
    must_stay = _from(turns, starts[-1]) if drop_oldest else turns
    refuse_giants((turn.content for turn in must_stay), longest_token, context, "messages")
    if not drop_oldest:
        return fit(_ids(template, turns), longest, context, "messages")
    room = context - (longest if longest is not None else context // ANSWER_SHARE)
    fitting = bisect.bisect_left(starts, True, key=lambda start: len(_ids(template, _from(turns, start))) <= room)
    kept = _from(turns, starts[min(fitting, len(starts) - 1)])
    return fit(_ids(template, kept), longest, context, "messages", len(turns) - len(kept))


def _possible_starts(turns: Sequence[Turn]) -> list[int]:
    """Where a shortened conversation may begin: at its beginning, or with any later user turn."""
    asked = [place for place, turn in enumerate(turns) if turn.role == "user"]
    return [0, *asked[1:]]


def _from(turns: Sequence[Turn], start: int) -> list[Turn]:
    return [turn for place, turn in enumerate(turns) if place >= start or turn.role == "system"]


def _ids(template: Template, turns: Sequence[Turn]) -> list[int]:
    try:
        return template.prompt_ids(Conversation(tuple(turns)))
    except AthanorError as problem:
        raise bad_request(str(problem), param="messages") from None
