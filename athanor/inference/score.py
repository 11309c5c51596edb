"""How likely a model finds given texts: for bits per byte and for choosing between endings.

Shape letters: B rows, T positions, X the positions that are scored, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from athanor.base.errors import AthanorError
from athanor.base.progress import Progress
from athanor.inference.blanks import Blanks, check_blanks, continued, inputs
from athanor.models.language import LanguageModel

LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB of float32


@dataclass(frozen=True)
class Score:
    """Log-likelihood in nats of the scored tokens of one row.

    Attributes:
        total: sum over the scored tokens.
        count: how many tokens were scored.
        greedy: True when every scored token is the likeliest one at its place.
    """

    total: float
    count: int
    greedy: bool


@torch.inference_mode()
def score(
    model: LanguageModel,
    items: Sequence[tuple[Sequence[int], int]],
    *,
    batch_tokens: int = 8192,
    blanks: Blanks | None = None,
    progress: Progress | None = None,
) -> list[Score]:
    """Log-likelihood of the tokens of each row from a position on, given all before them.

    Args:
        items: (ids, first scored position); the position is at least 1, because nothing comes before the first token.
        batch_tokens: tokens computed at once, padding included; the result does not depend on it (to about 1e-5).
        blanks: special tokens of a network that fills in blanks: what comes before the position is its context, read in
            both directions, and the rest what it writes in place of [gMASK].
    Raises:
        AthanorError: a row is empty, longer than the model's positions, holds an id outside the vocabulary, or its
            position is out of range; see also `check_blanks`.
    """
    check_blanks(model.config, blanks)
    read = []
    for number, (ids, first) in enumerate(items):
        _check(model, number, ids, first)
        read.append(continued(ids, first, blanks))
        _check(model, number, *read[-1])
    scores = {}
    for places in _groups([len(ids) for ids, _ in read], batch_tokens):
        rows = _score_rows(model, [read[place] for place in places], blanks)
        scores |= dict(zip(places, rows, strict=True))
        if progress is not None:
            progress.advance(sum(len(items[place][0]) for place in places))
    return [scores[place] for place in range(len(items))]


def windows(ids: Sequence[int], length: int, overlap: int) -> Iterator[tuple[Sequence[int], int]]:
    """Cut a long row into items for `score`: every token but the first is scored exactly once.

    Args:
        length: most tokens per window, at least 2.
        overlap: tokens of the window before that are seen again, not scored again; at least 1, below `length`.
    """
    if not 1 <= overlap < length:
        raise AthanorError(f"windows of {length} tokens that overlap by {overlap}", allowed="1 <= overlap < length")
    scored = 1
    while scored < len(ids):
        start = max(0, scored - overlap)
        stop = min(start + length, len(ids))
        yield ids[start:stop], scored - start
        scored = stop


def _check(model: LanguageModel, number: int, ids: Sequence[int], first: int) -> None:
    vocabulary, positions = model.config.vocabulary or 0, model.room
    if not 0 < len(ids) <= positions:
        raise AthanorError(f"row {number} has {len(ids)} tokens", allowed=f"1 to {positions}, the model's positions")
    if not 1 <= first <= len(ids):
        raise AthanorError(f"row {number}: scoring from position {first}", allowed=f"1 to {len(ids)}, its length")
    if min(ids) < 0 or max(ids) >= vocabulary:
        raise AthanorError(f"row {number} holds an id outside the vocabulary", allowed=f"0 to {vocabulary - 1}")


def _groups(lengths: list[int], batch_tokens: int) -> Iterator[list[int]]:
    """Rows of like length together, the longest first, so that little is padding."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if group and (len(group) + 1) * lengths[group[0]] > batch_tokens:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def _score_rows(model: LanguageModel, rows: list[tuple[list[int], int]], blanks: Blanks | None) -> list[Score]:
    """Padding stands at the end, where nothing that counts can see it."""
    device = next(model.parameters()).device
    read = {name: tensor.to(device) for name, tensor in inputs(model.config, [ids for ids, _ in rows], blanks).items()}
    hidden_BTD, ids_BT, spans = model.hidden(**read), read["ids_BT"], [(first, len(ids)) for ids, first in rows]
    rows_X = torch.cat([torch.full((stop - first,), row) for row, (first, stop) in enumerate(spans)]).to(ids_BT.device)
    places_X = torch.cat([torch.arange(first, stop) for first, stop in spans]).to(ids_BT.device)
    targets_X = ids_BT[rows_X, places_X]
    likelihood_X, best_X = [], []
    size = max(1, LOGITS_AT_ONCE // (model.config.vocabulary or 1))
    for begin in range(0, len(rows_X), size):
        some = slice(begin, begin + size)
        logits_XV = model.logits(hidden_BTD[rows_X[some], places_X[some] - 1])
        chosen_X = logits_XV.gather(1, targets_X[some, None])[:, 0]
        likelihood_X.append(chosen_X - logits_XV.logsumexp(dim=-1))
        best_X.append(logits_XV.argmax(dim=-1) == targets_X[some])
    if not likelihood_X:
        return [Score(0.0, 0, True) for _ in spans]
    counts = [stop - first for first, stop in spans]
    totals = [part.double().sum().item() for part in torch.cat(likelihood_X).split(counts)]
    greedy = [bool(part.all()) for part in torch.cat(best_X).split(counts)]
    return [Score(*one) for one in zip(totals, counts, greedy, strict=True)]
