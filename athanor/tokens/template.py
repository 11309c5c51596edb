"""The one chat template: training masks, evaluation, serving and export all render conversations through it.

A turn is `<|role|>` content `<|end|>`, nothing between turns. Text that spells a special token is broken by a space
(`<|user|>` becomes `< |user|>`), in Python and in the exported Jinja alike, so that no user can forge a turn and the
ids are the same everywhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from athanor.tokens.conversation import Conversation
from athanor.tokens.tokenizer import END, SPECIAL_TOKENS, Tokenizer


@dataclass(frozen=True)
class Rendered:
    """A conversation as token ids, with the positions a model learns from.

    Attributes:
        ids: token ids.
        mask: True on what the assistant says and on the `<|end|>` after it.
        roles: who speaks at each position.
    """

    ids: list[int]
    mask: list[bool]
    roles: list[str]


def defuse(text: str) -> str:
    """Break every spelling of a special token inside ordinary text with a space."""
    if "<|" not in text:
        return text
    for token in SPECIAL_TOKENS:
        text = text.replace(token, token[0] + " " + token[1:])
    return text


def jinja_source() -> str:
    """The template as Jinja, for `transformers` and every other reader of chat_template.jinja."""
    defused = "message['content']"
    for token in SPECIAL_TOKENS:
        defused += f" | replace('{token}', '{token[0]} {token[1:]}')"
    return (
        "{%- for message in messages -%}"
        "{%- if message['role'] not in ['system', 'user', 'assistant', 'tool'] -%}"
        "{{- raise_exception('role must be system, user, assistant or tool, not ' + message['role']) -}}"
        "{%- endif -%}"
        "{{- '<|' + message['role'] + '|>' -}}"
        "{{- " + defused + " -}}"
        "{{- '" + END + "' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
    )


class ChatTemplate:
    """Renders conversations with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    @property
    def end_id(self) -> int:
        """The token that ends every turn: generation stops there."""
        return self.tokenizer.special[END]

    def render(self, conversation: Conversation, generation_prompt: bool = False) -> Rendered:
        """Token ids and loss mask of a conversation; `generation_prompt` opens the assistant's next turn."""
        return self.render_all([conversation], generation_prompt)[0]

    def render_all(self, conversations: Iterable[Conversation], generation_prompt: bool = False) -> list[Rendered]:
        """Every conversation in order, all contents tokenised in one parallel call."""
        every = list(conversations)
        contents = self.tokenizer.encode_batch([defuse(turn.content) for one in every for turn in one.turns])
        rows = iter(contents)
        return [self._assemble(one, [next(rows) for _ in one.turns], generation_prompt) for one in every]

    def _assemble(self, conversation: Conversation, contents: list[list[int]], generation_prompt: bool) -> Rendered:
        special = self.tokenizer.special
        ids: list[int] = []
        mask: list[bool] = []
        roles: list[str] = []
        for turn, content in zip(conversation.turns, contents, strict=True):
            learnt = turn.role == "assistant"
            ids += [special[f"<|{turn.role}|>"], *content, self.end_id]
            mask += [False, *([learnt] * (len(content) + 1))]
            roles += [turn.role] * (2 + len(content))
        if generation_prompt:
            ids.append(special["<|assistant|>"])
            mask.append(False)
            roles.append("assistant")
        return Rendered(ids, mask, roles)
