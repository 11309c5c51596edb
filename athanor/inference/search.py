"""Beam search of language models that write from left to right; the search itself is shared with encoder-decoders."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from athanor.base.errors import AthanorError
from athanor.inference.beam import Beams
from athanor.inference.cache import KeyValueCache
from athanor.inference.generate import Completion, Decoder, check_request
from athanor.inference.sampling import Sampling
from athanor.inference.seq2seq import Decoding, search
from athanor.models.language import LanguageModel


class Continued:
    """Scores of what comes behind a prompt and each of its continuations; the prompt is computed once."""

    def __init__(self, model: LanguageModel, prompt: Sequence[int], capacity: int):
        weight = next(model.parameters())
        self.model, self.prompt, self.done = model, list(prompt), 0
        self.cache = KeyValueCache(model.config, 1, capacity, weight.dtype, weight.device)

    def logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores (B, V) of what comes behind each row."""
        new = [[*self.prompt, *row][self.done :] for row in rows]
        positions_BT = self.cache.begin_chunk(self.done, len(new[0]))
        self.done += len(new[0])
        ids_BT = torch.tensor(new, device=positions_BT.device)
        return self.model.logits(self.model.hidden(ids_BT, positions_BT=positions_BT, cache=self.cache)[:, -1])

    def keep(self, order: Sequence[int]) -> None:
        """From now on the rows are continuations of these of the old ones."""
        if list(order) != list(range(self.cache.rows)):
            self.cache.rearrange(order)


@torch.inference_mode()
def beam_search(
    model: LanguageModel, ids: Sequence[int], beams: Beams, max_tokens: int | None = None, end_ids: Iterable[int] = (),
    tokenizer: Decoder | None = None,
) -> Completion:  # fmt: skip
    """The likeliest continuation that a beam search finds.

    Raises:
        AthanorError: see `check_request`; or the network reads its prompt in both directions.
    """
    if model.config.prefix:
        raise AthanorError("beam search with a network that fills in blanks (GLM, ChatGLM-6B)", fix="leave beams out")
    limit = check_request(model, ids, Sampling(max_tokens=max_tokens), tokenizer is not None)
    runner = Continued(model, ids, len(ids) + limit)
    decoding = Decoding(start=(), ends=tuple(end_ids), beams=beams)
    return search(runner, [ids], [limit], decoding, beams, tokenizer.token_bytes() if tokenizer else None)[0]
