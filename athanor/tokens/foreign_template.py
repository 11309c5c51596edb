"""Another model's chat template: its ids, and which of them its assistant says.

The template is Jinja of a stranger and runs in `athanor.tokens.sandbox`. What the assistant says is what stands inside
{% generation %}; in a template without it, it is found by experiment: the conversation is rendered again with one turn
replaced, and what differs is that turn. It begins where the prompt for that turn would have ended, and ends with the
token after which the template goes on. Where the experiment does not come out even, the template is refused by name.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

import tokenizers

from athanor.base.errors import AthanorError
from athanor.tokens.conversation import Conversation, ToolCall, Turn
from athanor.tokens.folder import special_by_role
from athanor.tokens.sandbox import Limits, SandboxedTemplate
from athanor.tokens.template import Rendered
from athanor.tokens.tokenizer import Tokenizer

SENTINEL = "AthanorSentinel"
GENERATION = "put {% generation %} … {% endgeneration %} around what the assistant says in the template"


@dataclass(frozen=True)
class Said:
    """Where one turn stands in the text (begin, end), and the special token that ends it."""

    begin: int
    end: int
    token: str | None = None


class ForeignTemplate:
    """Renders conversations with another model's tokenizer and template; the same verbs as `ChatTemplate`.

    Args:
        source: the template; None takes the tokenizer's own.
        settings: more variables for the template, such as {"enable_thinking": False}.
        today: the date for templates that write it. None: `strftime_now` is not there, and such a template falls back
            on the fixed date that it holds, or fails: ids never depend on the day they are made.
        ends: spellings of further tokens at which generation stops (generation_config.json knows them).

    Raises:
        AthanorError: there is no template, or it cannot be used safely.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: str | None = None,
        settings: Mapping[str, Any] | None = None,
        today: date | None = None,
        ends: Iterable[str] = (),
        limits: Limits | None = None,
    ):
        source = source if source is not None else tokenizer.chat_template
        if source is None:
            raise AthanorError("the tokenizer has no chat template", fix="give one: chat_template.jinja")
        self.tokenizer, self.settings, self.more_ends = tokenizer, dict(settings or {}), tuple(ends)
        self.sandboxed = SandboxedTemplate(source, limits, today)
        self._core = _reader(tokenizer.core)
        self._special = sorted((token for token in tokenizer.special if token), key=len, reverse=True)
        self._found = re.compile("|".join(re.escape(token) for token in self._special) or "(?!)")
        added = tokenizer.core.get_added_tokens_decoder().values()
        self._normalized = [token.content for token in added if token.special and token.normalized]

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """Every token at which generation stops: the end of sentence, and what the template puts after an answer."""
        spellings = [self._usual_end, self.tokenizer.eos, *self.more_ends]
        ids = [self.tokenizer.special[spelling] for spelling in spellings if spelling]
        if not ids:
            raise AthanorError("the chat template ends no turn with a special token", fix="name one: ends=[…]")
        return tuple(dict.fromkeys(ids))

    @property
    def end_id(self) -> int:
        """The token that ends the assistant's turn."""
        return self.end_ids[0]

    def prompt_ids(self, conversation: Conversation) -> list[int]:
        """A conversation as a prompt for the assistant's next turn: the ids of `render`, without the mask."""
        return self._core.encode(self.text(conversation, generation_prompt=True), add_special_tokens=False).ids

    def render(self, conversation: Conversation, generation_prompt: bool = False) -> Rendered:
        """Token ids, loss mask and roles of a conversation; `generation_prompt` opens the assistant's next turn.

        A token is learnt if it holds any character that the assistant says, as in `transformers`.

        Raises:
            AthanorError: the template refuses the conversation, or what the assistant says cannot be found.
        """
        return self.render_all([conversation], generation_prompt)[0]

    def render_all(self, conversations: Iterable[Conversation], generation_prompt: bool = False) -> list[Rendered]:
        """Every conversation in order, all texts tokenised in one parallel call."""
        ends = (self._usual_end, self.tokenizer.eos)
        written = [_Experiment(self, self.defused(one), generation_prompt, ends) for one in conversations]
        encoded = self._core.encode_batch([one.text for one in written], add_special_tokens=False)
        return [_with_mask(one, row) for one, row in zip(written, encoded, strict=True)]

    def text(self, conversation: Conversation, generation_prompt: bool = False) -> str:
        """The conversation as the template writes it, special tokens spelled."""
        return self.write(self.defused(conversation), generation_prompt)[0]

    def write(self, safe: Conversation, generation_prompt: bool) -> tuple[str, tuple[tuple[int, int], ...]]:
        """The text of a conversation that is defused already, and what stood inside {% generation %}."""
        roles = special_by_role(self.tokenizer.config)
        variables = {
            **{f"{role}_token": spelling for role, spelling in roles.items()},
            "messages": safe.messages(), "tools": list(safe.tools) or None, "documents": None,
            "add_generation_prompt": generation_prompt, **self.settings,
        }  # fmt: skip
        written = self.sandboxed.render(variables)
        return written.text, written.generated

    def defused(self, conversation: Conversation) -> Conversation:
        """The conversation with every spelling of a special token broken by a space, in texts, calls and tools.

        Raises:
            AthanorError: a text spells one in a way that a space does not break.
        """
        return replace(
            conversation,
            turns=tuple(self._defused_turn(turn) for turn in conversation.turns),
            tools=tuple(self._defused_value(dict(tool)) for tool in conversation.tools),
        )

    def _defused_turn(self, turn: Turn) -> Turn:
        calls = tuple(
            ToolCall(self._defuse(call.name), self._defused_value(dict(call.arguments)), self._defused_value(call.id))
            for call in turn.tool_calls
        )
        name, answered = (self._defused_value(value) for value in (turn.name, turn.tool_call_id))
        return Turn(turn.role, self._defuse(turn.content), calls, name, answered)

    def _defused_value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._defuse(value)
        if isinstance(value, Mapping):
            return {self._defuse(str(key)): self._defused_value(item) for key, item in value.items()}
        return [self._defused_value(item) for item in value] if isinstance(value, list | tuple) else value

    def _defuse(self, text: str) -> str:
        while match := self._found.search(text):
            token = match.group()
            broken = text.replace(token, token[0] + " " + token[1:])
            if len(token) < 2 or token[1].isspace():
                raise AthanorError(f"a message holds {token!r}, a special token that no space can break")
            text = broken
        if self._normalized and (normalizer := self.tokenizer.core.normalizer):
            normal = normalizer.normalize_str(text)
            for token in self._normalized:
                if token in normal or normalizer.normalize_str(token) in normal:
                    raise AthanorError(f"a message spells {token!r}, a special token, in another way: {text!r:.80}")
        return text

    @cached_property
    def _usual_end(self) -> str | None:
        """The special token that the template puts after an answer."""
        talk = Conversation.of(("user", "a"), ("assistant", "b"), ("user", "c"))
        try:
            return _Experiment(self, talk, False, known_ends=()).said(1).token
        except AthanorError:
            return None

    @cached_property
    def usual_header(self) -> str:
        """How the template opens the assistant's turn after a question."""
        return self.last_special_on(self.write(Conversation.of(("user", "a")), True)[0])

    def specials(self, text: str) -> list[tuple[int, str]]:
        """Special tokens spelled in a text, with their places."""
        return [(match.start(), match.group()) for match in self._found.finditer(text)]

    def last_special_on(self, text: str) -> str:
        """The end of a text from its last special token on."""
        places = self.specials(text)
        return text[places[-1][0] :] if places else text


def _reader(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that recognises special tokens and tells the place of every character."""
    told = json.loads(core.to_str())
    told["post_processor"] = None  # it would only add special tokens, and cut spaces off the places
    try:
        copy = tokenizers.Tokenizer.from_str(json.dumps(told))
    except Exception as problem:  # noqa: BLE001 - the library raises bare Exception
        raise AthanorError(
            f"the tokenizer cannot be written and read again: {problem}",
            fix="its vocabulary is damaged: get it again",
        ) from None
    copy.encode_special_tokens = False
    copy.no_truncation()
    copy.no_padding()
    return copy


class _Experiment:
    """One conversation rendered, and rendered again with a turn replaced."""

    def __init__(self, template: ForeignTemplate, safe: Conversation, prompt: bool, known_ends: tuple[str | None, ...]):
        self.template, self.safe, self.prompt, self.known_ends = template, safe, prompt, known_ends
        self.text, self.generated = template.write(safe, prompt)
        number = 0
        while f"{SENTINEL}{number}" in self.text:
            number += 1
        self.sentinel = f"{SENTINEL}{number}"
        self.ends: dict[int, int] = {}  # of the turns that were found so far

    def learnt(self) -> list[tuple[int, int]]:
        """What the assistant says, as (begin, end)."""
        if self.template.sandboxed.generates:
            return list(self.generated)
        turns = enumerate(self.safe.turns)
        found = [self.said(place) for place, turn in turns if turn.role == "assistant"]
        return [(one.begin, one.end) for one in found]

    def speakers(self) -> list[tuple[int, str]]:
        """Where each turn ends and who spoke, in order."""
        for place in range(len(self.safe.turns)):
            self._find_end(place)
        return sorted((end, self.safe.turns[place].role) for place, end in self.ends.items())

    def _find_end(self, place: int) -> int | None:
        """The end of a turn of any role; None where it leaves no trace of its own."""
        if place not in self.ends:
            changed = self._replaced(place)
            try:
                other = self.template.write(changed, self.prompt)[0]
            except AthanorError:
                return None
            if self.sentinel not in other:
                return None
            same = _common(self.text[::-1], other[::-1])
            begin = min(_common(self.text, other), len(self.text) - same)
            end = max(begin, len(self.text) - same)
            after = next(iter(self.template.specials(self.text[end:])), None)
            if after is not None and not self.text[end : end + after[0]].strip():
                end += after[0] + len(after[1])
            self.ends[place] = end
        return self.ends[place]

    def said(self, place: int) -> Said:
        """Where the assistant's turn stands, from the end of its prompt to the end of its end token.

        Raises:
            AthanorError: the template leaves the turn out, writes it twice, or rewrites other turns because of it.
        """
        other = self.template.write(self._replaced(place), self.prompt)[0]
        self._once(place, other)
        begin = self._begin(place, other[: other.index(self.sentinel)])
        stop, end, token = self._end(place, other)
        if not self.text.startswith(other[:begin]) or not self.text.endswith(other[stop:]):
            self._refuse(place, "changes how the template writes other turns")
        found = Said(begin, len(self.text) - (len(other) - end), token)
        told = self.text[begin : len(self.text) - (len(other) - stop)]
        if found.end < begin or (self.safe.turns[place].content.strip() and not told.strip()):
            self._refuse(place, "is left out")
        self.ends[place] = found.end
        return found

    def _once(self, place: int, text: str) -> None:
        count = text.count(self.sentinel)
        if count != 1:
            self._refuse(place, "is not written" if count == 0 else f"is written {count} times")

    def _replaced(self, place: int) -> Conversation:
        """The conversation with the sentinel in the place of what a turn says, or of its last call's arguments."""
        turn = self.safe.turns[place]
        if turn.tool_calls:
            last = replace(turn.tool_calls[-1], arguments={"value": self.sentinel})
            turn = replace(turn, tool_calls=(*turn.tool_calls[:-1], last))
        else:
            turn = replace(turn, content=self.sentinel)
        return replace(self.safe, turns=(*self.safe.turns[:place], turn, *self.safe.turns[place + 1 :]))

    def _begin(self, place: int, head: str) -> int:
        """Where the prompt for this turn ends in the text before the sentinel."""
        before = replace(self.safe, turns=self.safe.turns[:place])
        try:
            header = self.template.last_special_on(self.template.write(before, True)[0])
        except AthanorError:  # it begins with the assistant, which many templates refuse
            header = self.template.usual_header
        least = next((end for earlier in reversed(range(place)) if (end := self._find_end(earlier)) is not None), 0)
        found = head.find(header, max(0, least - len(header)))
        if found >= 0:
            return found + len(header)
        # The prompt holds more than the turn does, such as an empty thought: what both begin with is the header.
        special = next((token for _, token in self.template.specials(header)), header)
        found = head.find(special, max(0, least - len(special)))
        shared = header[: self._shared(place, header)]
        if found < 0 or len(shared) < len(special) or not head.startswith(shared, found):
            self._refuse(place, "does not begin as its prompt ends")
        return found + len(shared)

    def _shared(self, place: int, header: str) -> int:
        """How much of a prompt's header a turn has that says nothing but the sentinel."""
        plain = replace(self.safe.turns[place], content=self.sentinel, tool_calls=())
        turns = (*self.safe.turns[:place], plain, *self.safe.turns[place + 1 :])
        text = self.template.write(replace(self.safe, turns=turns), self.prompt)[0]
        head = text[: max(text.find(self.sentinel), 0)]
        return next((length for length in range(len(header), 0, -1) if head.endswith(header[:length])), 0)

    def _end(self, place: int, other: str) -> tuple[int, int, str | None]:
        """Where what is said stops, where its end token ends, and that token: places in `other`."""
        after = other.index(self.sentinel) + len(self.sentinel)
        changed = self._replaced(place)
        alone = self.template.write(replace(changed, turns=changed.turns[: place + 1]), False)[0]
        self._once(place, alone)
        rest, own = other[after:], alone[alone.index(self.sentinel) + len(self.sentinel) :]
        chosen: tuple[int, str] | None = None
        for start, token in self.template.specials(rest):
            if rest[:start] != own[:start] and rest[:start].strip():
                break
            if chosen is None or own[: start + len(token)] == rest[: start + len(token)]:
                chosen = (start, token)
            if token in self.known_ends or not self.safe.turns[place].tool_calls:
                break
        if chosen is not None:
            start, token = chosen
            return after + start, after + start + len(token), token
        stop = after + (_common(rest, own) if self.safe.turns[place].tool_calls else 0)
        return stop, stop, None

    def _refuse(self, place: int, what: str) -> None:
        raise AthanorError(
            f"what the assistant says cannot be found in what the chat template writes: message {place} {what}",
            fix=GENERATION,
        )


def _common(one: str, other: str) -> int:
    """How many characters two texts begin with in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves: comparing is fast, walking is not
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _with_mask(experiment: _Experiment, row: tokenizers.Encoding) -> Rendered:
    """Ids, mask and roles from places in the text."""
    learnt = experiment.learnt()
    speakers = experiment.speakers()
    mask, roles = [], []
    last = "assistant" if experiment.prompt or not speakers else speakers[-1][1]
    for begin, end in row.offsets:
        end = max(end, begin + 1)
        said = any(begin < stop and end > start for start, stop in learnt)
        mask.append(said)
        roles.append("assistant" if said else next((role for stop, role in speakers if begin < stop), last))
    return Rendered(row.ids, mask, roles)
