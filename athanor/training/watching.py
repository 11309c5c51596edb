"""What a run looks at now and then: the loss on held-out text, and how the model goes on with a few beginnings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import Batch, Batches
from athanor.data.packing.conversations import PackedConversations
from athanor.data.packing.mixture import open_heldout
from athanor.data.packing.pack import TokenFiles, document_mark
from athanor.inference.blanks import find_blanks
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from athanor.tokens.chat import completion_start
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.objective import Loss
from athanor.training.objectives.next_token import next_token_loss, to_tensors
from athanor.training.settings import LoopSettings

WINDOWS, AT_ONCE = 32, 8  # of held-out text: enough to see a trend, few enough to cost little
SAMPLE_TOKENS = 48
PIECE_END = "<eop>"  # what ends a blank (GLM)


Judge = Callable[[nn.Module, Batch], Loss]


def foretell(model: nn.Module, batch: Batch) -> Loss:
    """How well a language model foretells windows."""
    return next_token_loss(model.config)(model, to_tensors(batch, next(model.parameters()).device))


def heldout_loss(
    sources: Mapping[str, TokenFiles], context: int, judge: Judge = foretell
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Mean loss in nats per token over windows spread evenly over held-out text: `heldout`, of all together, and with
    several sources `heldout/<name>` of each.

    Args:
        judge: the loss of windows, of which everything is guessed, or what the objective hides.

    Raises:
        AthanorError: nothing was held out.
    """
    if not sources:
        raise AthanorError("watch_every is set, and the corpus has no held-out text to look at", fix="leave it out")
    windows = {name: spread(Batches(tokens, context, rows=1)) for name, tokens in sources.items()}

    def look(model: nn.Module) -> Mapping[str, float]:
        sums = {name: score_windows(model, rows, judge) for name, rows in windows.items()}
        total, count = (sum(pair[place] for pair in sums.values()) for place in (0, 1))
        figures = {"heldout": total / max(1, count)}
        if len(sums) > 1:
            figures |= {f"heldout/{name}": part / max(1, number) for name, (part, number) in sums.items()}
        return figures

    return look


def answers_loss(packed: PackedConversations) -> Callable[[nn.Module], Mapping[str, float]]:
    """Mean loss in nats per token of held-out answers, over up to WINDOWS rows of packed conversations: `heldout`."""
    chosen = np.unique(np.linspace(0, len(packed.ids_RT) - 1, WINDOWS).astype(int))
    parts = (packed.ids_RT, packed.targets_RT, packed.documents_RT)
    rows = [
        Batch(*(part[chosen[first : first + AT_ONCE]] for part in parts)) for first in range(0, len(chosen), AT_ONCE)
    ]

    def look(model: nn.Module) -> Mapping[str, float]:
        total, count = score_windows(model, rows, foretell)
        return {"heldout": total / max(1, count)}

    return look


def spread(batches: Batches) -> list[Batch]:
    """Up to WINDOWS windows of a corpus, AT_ONCE to a batch."""
    chosen = np.unique(np.linspace(0, batches.windows - 1, WINDOWS).astype(int)).tolist()
    rows = [batches.window(number) for number in chosen]
    groups = [rows[first : first + AT_ONCE] for first in range(0, len(rows), AT_ONCE)]
    return [Batch(*(np.stack(part) for part in zip(*group, strict=True))) for group in groups]


def score_windows(model: nn.Module, rows: Sequence[Batch], judge: Judge) -> tuple[float, int]:
    """Summed loss in nats, and the number of tokens scored."""
    found = [judge(model, batch) for batch in rows]
    return sum(float(one.total) for one in found), sum(int(one.count) for one in found)


def samples(prompts: Sequence[str], tokenizer: Tokenizer) -> Callable[[nn.Module], Sequence[str]] | None:
    """Each beginning with what the model finds likeliest to follow; None: no beginnings."""
    if not prompts:
        return None
    ends = [tokenizer.special[name] for name in (tokenizer.eos, PIECE_END) if name in tokenizer.special]

    def write(model: nn.Module) -> Sequence[str]:
        written, blanks = [], find_blanks(model.config, tokenizer)
        for prompt in prompts:
            start = [document_mark(tokenizer)] if blanks is None else completion_start(tokenizer)
            ids = [*start, *tokenizer.encode(prompt)]
            answer = generate(model, ids, Sampling(max_tokens=SAMPLE_TOKENS), ends, tokenizer, blanks)
            written.append(prompt + answer.text)
        return written

    return write


def looks(
    settings: LoopSettings, tokenizer: Tokenizer, shards: Path, context: int, judge: Judge = foretell
) -> dict[str, Any]:
    """The fields `watch` and `samples` of an objective, as the settings ask for them.

    Args:
        shards: folder of a packed corpus.
        judge: see `heldout_loss`.

    Raises:
        AthanorError: there is no held-out text.
    """
    if settings.watch_every is None:
        return {}
    return {
        "watch": heldout_loss(open_heldout(shards), context, judge),
        "samples": samples(settings.prompts, tokenizer),
    }
