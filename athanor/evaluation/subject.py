"""The subject of an evaluation: whatever can score, generate (and later embed). Here: a checkpoint on this machine."""

from collections.abc import Sequence
from pathlib import Path

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.inference.runtime import open_model
from athanor.inference.sampling import Sampling
from athanor.inference.score import score, windows
from athanor.tokens.chat import document_start


class LocalSubject:
    """A checkpoint (16-bit or INT4) with its tokenizer and chat template.

    Args:
        folder: a model's folder.
        dtype: 'auto' (bf16 where the hardware has it), 'float32' or 'bfloat16'.
        adapter: the folder of an adapter to put beside it.
    """

    def __init__(self, folder: Path, dtype: str = "auto", adapter: Path | None = None):
        given = {} if adapter is None else {"adapter": adapter}
        runtime = open_model(folder, dtype, adapters=given, chosen=next(iter(given), None))
        self.model, self.tokenizer, self.engine = runtime.model, runtime.tokenizer, runtime.engine
        self.chat_prompt, self.template = runtime.chat_prompt, runtime.template
        self.context = self.engine.context

    def score(self, texts: Sequence[str], progress: Progress | None = None) -> list[float]:
        """Log-likelihood of each text in nats, read from the beginning of a document.

        Long texts are read in windows of the model's context that overlap by half, so that every token but the first
        ones of a text is predicted from at least half a context (Transformer-XL's evaluation, Dai et al. 2019).
        """
        start = self._start()
        items: list[tuple[Sequence[int], int]] = []
        owners: list[int] = []
        for number, ids in enumerate(self.tokenizer.encode_batch(list(texts))):
            for item in windows([*start, *ids], self.context, self.context // 2):
                items.append(item)
                owners.append(number)
        totals = [0.0] * len(texts)
        for number, one in zip(
            owners, score(self.model, items, blanks=self.engine.blanks, progress=progress), strict=True
        ):
            totals[number] += one.total
        return totals

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling | Sequence[Sampling],
        progress: Progress | None = None,
    ) -> list[str]:
        """The answer to each prompt of token ids; `sampling` for all of them, or one each."""
        return [completion.text for completion in self.engine.generate_batch(prompts, sampling, progress=progress)]

    def text_prompt(self, text: str) -> list[int]:
        """The beginning of a document as a prompt."""
        return [*self._start(), *self.tokenizer.encode(text)]

    def _start(self) -> list[int]:
        """What every document begins with; without it nothing would predict the first token.

        Raises:
            AthanorError: the tokenizer has no such token.
        """
        if not (start := document_start(self.tokenizer)):
            raise AthanorError(
                "the tokenizer has no token to begin a document with: the first token of a text cannot be scored",
                fix='add "bos_token" or "eos_token" to the tokenizer_config.json beside it',
            )
        return start
