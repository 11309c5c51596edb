"""What a run looks at now and then: the loss on held-out text, and how the model goes on with a few beginnings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from athanor.base.errors import AthanorError
from athanor.data.packing.batches import Batch, Batches
from athanor.data.packing.pack import TokenFiles, document_mark
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from athanor.tokens.tokenizer import Tokenizer
from athanor.training.objectives.next_token import next_token_loss, to_tensors
from athanor.training.settings import LoopSettings

WINDOWS, AT_ONCE = 32, 8  # of held-out text: enough to see a trend, few enough to cost little
SAMPLE_TOKENS = 48


def heldout_loss(tokens: TokenFiles, context: int) -> Callable[[nn.Module], Mapping[str, float]]:
    """Mean loss in nats per token over windows spread evenly over the held-out split.

    Raises:
        AthanorError: nothing was held out.
    """
    if tokens.tokens < 2:
        raise AthanorError("watch_every is set, and the corpus has no held-out text to look at", fix="leave it out")
    batches = Batches(tokens, context, rows=1)
    chosen = np.unique(np.linspace(0, batches.windows - 1, WINDOWS).astype(int))

    def look(model: nn.Module) -> Mapping[str, float]:
        loss, device = next_token_loss(model.config), next(model.parameters()).device
        total, count = 0.0, 0
        for first in range(0, len(chosen), AT_ONCE):
            windows = [batches.window(int(number)) for number in chosen[first : first + AT_ONCE]]
            batch = Batch(*(np.stack(part) for part in zip(*windows, strict=True)))
            found = loss(model, to_tensors(batch, device))
            total, count = total + float(found.total), count + int(found.count)
        return {"heldout": total / max(1, count)}

    return look


def samples(prompts: Sequence[str], tokenizer: Tokenizer) -> Callable[[nn.Module], Sequence[str]] | None:
    """Each beginning with what the model finds likeliest to follow; None: no beginnings."""
    if not prompts:
        return None
    ends = [tokenizer.special[name] for name in (tokenizer.eos,) if name is not None]

    def write(model: nn.Module) -> Sequence[str]:
        written = []
        for prompt in prompts:
            ids = [document_mark(tokenizer), *tokenizer.encode(prompt)]
            answer = generate(model, ids, Sampling(max_tokens=SAMPLE_TOKENS), ends, tokenizer)
            written.append(prompt + answer.text)
        return written

    return write


def looks(settings: LoopSettings, tokenizer: Tokenizer, shards: Path, context: int) -> dict[str, Any]:
    """The fields `watch` and `samples` of an objective, as the settings ask for them.

    Args:
        shards: folder of a packed corpus.

    Raises:
        AthanorError: there is no held-out text.
    """
    if settings.watch_every is None:
        return {}
    heldout = TokenFiles(shards, "heldout")
    return {"watch": heldout_loss(heldout, context), "samples": samples(settings.prompts, tokenizer)}
