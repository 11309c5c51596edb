"""Prompts of networks that fill in blanks (GLM-10B, ChatGLM-6B, GLM-130B), whose context is read in both directions.

Such a network is given its context whole, with one mask token in it: what is to be written stands for that. Behind the
context comes the start token, and from there it writes from left to right (`athanor.models.glm`).

Every token of the context depends on every other. So nothing computed for one prompt is of use to another, and a
context is never computed in parts: it takes one step of the engine, however long it is. All else is as for other
networks, because keys and values of the answer do not change once they are made.

Shape letters: B rows, T and S positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.models.config import TransformerConfig
from athanor.models.glm import Row, answer_row, batch_rows
from athanor.tokens.tokenizer import Tokenizer

ENDING = "[gMASK]"
OTHERS = ("[MASK]", "[sMASK]")
STARTS = ("<sop>", "<|startofpiece|>")
ADDED = 2  # tokens that `complete` adds at most


@dataclass(frozen=True)
class Blanks:
    """Ids of the special tokens that prompts are made of.

    Attributes:
        ending: stands for an open ending, [gMASK].
        others: stand for some words or for a sentence, [MASK] and [sMASK].
        start: begins what is written, <sop>.
    """

    ending: int
    others: tuple[int, ...]
    start: int

    def complete(self, ids: Sequence[int]) -> list[int]:
        """A prompt as the network takes it: [gMASK] added where it has no mask, and <sop> where it has no start.

        ChatGLM-6B's and GLM-130B's tokenizers add the same.
        """
        if self.start in ids:
            return list(ids)
        masked = self.ending in ids or any(mask in ids for mask in self.others)
        return [*ids, self.start] if masked else [*ids, self.ending, self.start]

    def row(self, ids: Sequence[int], config: TransformerConfig) -> Row:
        """Where each token of a completed prompt stands, and of what has been written behind it.

        Raises:
            AthanorError: the context has no mask token, or masks of two kinds, whose order no two of the networks
                agree on.
        """
        cut = list(ids).index(self.start)
        context = ids[:cut]
        masks = [mask for mask in (self.ending, *self.others) if mask in context]
        if len(masks) != 1:
            raise AthanorError(
                f"the context has {len(masks)} kinds of mask tokens", allowed="one: [gMASK], [MASK] or [sMASK]"
            )
        # GLM-130B's places go on counting after [gMASK]; where there are two axes the second one counts.
        counts_on = config.position_axes == 1 and masks[0] == self.ending
        return answer_row(context, ids[cut + 1 :], mask=masks[0], start=self.start, counts_on=counts_on)


def find_blanks(config: TransformerConfig, tokenizer: Tokenizer) -> Blanks | None:
    """The special tokens of a network that fills in blanks; None for networks that read from left to right.

    Raises:
        AthanorError: the tokenizer does not have them.
    """
    if not config.prefix:
        return None
    special = dict(tokenizer.special)
    start = next((special[name] for name in STARTS if name in special), None)
    if ENDING not in special or start is None:
        raise AthanorError(
            "this network reads its prompt in both directions, and its tokenizer lacks the tokens for that",
            allowed=f"the special tokens {ENDING} and {' or '.join(STARTS)}; {' and '.join(OTHERS)} where there are",
            fix="put the tokenizer.json that the model was trained with beside it",
        )
    return Blanks(special[ENDING], tuple(special[name] for name in OTHERS if name in special), start)


def check_blanks(config: TransformerConfig, blanks: Blanks | None) -> None:
    """Refuse to run a network without its special tokens, or with those of another kind.

    Raises:
        AthanorError: `blanks` is missing, or given for a network that reads from left to right.
    """
    if config.prefix and blanks is None:
        raise AthanorError(
            "this network reads its prompt in both directions (GLM, ChatGLM-6B, GLM-130B)",
            fix="say with which special tokens: blanks=find_blanks(config, tokenizer)",
        )
    if blanks is not None and not config.prefix:
        raise AthanorError("blanks are given, but this network reads from left to right", fix="leave them out")


def inputs(config: TransformerConfig, rows: Sequence[Sequence[int]], blanks: Blanks | None) -> Mapping[str, Tensor]:
    """Rows of ids, completed prompts with or without answers, as a network's arguments; padded at the right with 0."""
    if blanks is not None:
        made = batch_rows([blanks.row(ids, config) for ids in rows], pad=0, axes=config.position_axes)
        return {"ids_BT": made.ids_BT, "positions_BT": made.positions_BT, "allowed_BTS": made.allowed_BTS}
    ids_BT = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    for place, ids in enumerate(rows):
        ids_BT[place, : len(ids)] = torch.tensor(ids)
    return {"ids_BT": ids_BT}


def continued(ids: Sequence[int], first: int, blanks: Blanks | None) -> tuple[list[int], int]:
    """A text whose tokens from index `first` on are to be foretold, as a row, and the index they then begin at.

    From left to right the row is the text. A network that fills in blanks is given what comes before as its context.
    """
    if blanks is None:
        return list(ids), first
    prompt = blanks.complete(ids[:first])
    return [*prompt, *ids[first:]], len(prompt)
