"""Batches of several packed corpora in given shares: as pure as those of one corpus, and as resumable.

The shares are of tokens: a source whose last window is not full gives so many more rows. With one source the batches
are those of `Batches`, byte for byte.

Shapes: B rows of one rank, T = context, S sources, D documents.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from athanor.data.packing.batches import Batch, Batches, Numbers, TokenSource, share_of
from athanor.data.packing.interleave import Interleaving, Phase, Shares


class NamedSource(TokenSource, Protocol):
    """A packed corpus with the table of its documents."""

    def document_row(self, number: int) -> dict[str, Any]:
        """The table's row of a document."""


class Selection:
    """Some documents of packed corpora as a corpus of their own; the tokens stay where they are.

    Args:
        parts: corpora, each with the numbers of the documents taken from it, in ascending order.
    """

    def __init__(self, parts: Sequence[tuple[NamedSource, Numbers]]):
        lengths, runs = [np.zeros(0, dtype=np.int64)], []
        for tokens, documents in parts:
            if not len(documents):
                continue
            starts_D = tokens.starts_D
            lengths.append(starts_D[documents + 1] - starts_D[documents])
            edges = np.flatnonzero(np.diff(documents, prepend=-2) != 1)
            for begin, end in zip(edges.tolist(), [*edges[1:].tolist(), len(documents)], strict=True):
                runs.append((tokens, int(starts_D[documents[begin]]), int(starts_D[documents[end - 1] + 1])))
        self.starts_D = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        self.tokens = int(self.starts_D[-1])
        self._parts, self._runs = parts, runs
        self._ends = np.cumsum([stop - start for _, start, stop in runs], dtype=np.int64)

    def read(self, start: int, stop: int) -> Numbers:
        """Token ids from place `start` up to `stop`; fewer at the end."""
        pieces = [np.zeros(0, dtype=np.int64)]
        number = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop and number < len(self._runs):
            tokens, _, last = self._runs[number]
            there = last - (int(self._ends[number]) - start)  # the place in the corpus itself
            pieces.append(tokens.read(there, min(last, there + stop - start)))
            start += len(pieces[-1])
            number += 1
        return np.concatenate(pieces)

    def document_row(self, number: int) -> dict[str, Any]:
        """The table's row of a document."""
        for tokens, documents in self._parts:
            if number < len(documents):
                return tokens.document_row(int(documents[number]))
            number -= len(documents)
        raise IndexError(number)


class MixedBatches:
    """Windows of several packed corpora, each in its share.

    Args:
        sources: name to packed corpus.
        weights: per phase of the curriculum, the share of the steps it ends at (the last: 1) and the weights by source.
        context, rows, seed: as for `Batches`.
        steps: of the whole run, which places the phases; None: the last phase alone, from beginning to end.

    Raises:
        AthanorError: a source holds no token, or a weight is too small to be dealt.
    """

    def __init__(
        self, sources: Mapping[str, TokenSource], weights: Sequence[tuple[float, Mapping[str, float]]],
        context: int, rows: int, seed: int = 0, steps: int | None = None,
    ):  # fmt: skip
        self.names, self.context, self.rows = list(sources), context, rows
        self.parts = [Batches(tokens, context, rows, seed) for tokens in sources.values()]
        ends = [0, *(0 if steps is None else round(until * steps) * rows for until, _ in weights[:-1])]
        phases = [Phase(first, self._shares(one)) for first, (_, one) in zip(ends, weights, strict=True)]
        begun = [place for place in range(len(phases)) if place + 1 == len(phases) or ends[place] < ends[place + 1]]
        self.dealt = Interleaving([phases[place] for place in begun], seed)
        self._documents = np.cumsum([0, *(len(part.tokens.starts_D) for part in self.parts)])

    def _shares(self, weights: Mapping[str, float]) -> Shares:
        """Of the rows: weights of tokens over how full the source's windows are."""
        filled = [part.tokens.tokens / (part.windows * self.context) for part in self.parts]
        shares_S = np.array([weights[name] for name in self.names]) / np.array(filled)
        return shares_S / shares_S.sum()

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The rows of `rank` at `step`; documents of different sources have different numbers."""
        rows_B = share_of(step, self.rows, rank, world)
        sources_B, numbers_B = self.dealt.at(rows_B)
        windows = [(np.empty(0), np.empty(0), np.empty(0))] * len(rows_B)
        for source in np.unique(sources_B).tolist():
            mine, part = np.flatnonzero(sources_B == source), self.parts[source]
            for place, number in zip(mine.tolist(), part.order.numbers(numbers_B[mine]).tolist(), strict=True):
                ids, targets, documents = part.window(number)
                windows[place] = ids, targets, documents + self._documents[source]
        return Batch(*(np.stack(part) for part in zip(*windows, strict=True)))

    def sources_of(self, documents_BT: Numbers) -> Numbers:
        """sources_BT: the number of the source (its place in `names`) that each position comes from."""
        return np.searchsorted(self._documents, documents_BT, side="right") - 1

    def documents_of(self, step: int) -> list[tuple[str, int]]:
        """(source, number) of the documents that a step reads."""
        sources_B, numbers_B = self.dealt.at(share_of(step, self.rows, 0, 1))
        found = []
        for source in np.unique(sources_B).tolist():
            part = self.parts[source]
            windows = part.order.numbers(numbers_B[sources_B == source])
            found += [(self.names[source], document) for document in part.documents_in(windows)]
        return found

    def tokens_read(self, steps: int) -> dict[str, int]:
        """Tokens of each source read in so many steps, padding left out."""
        counts_S = self.dealt.counts(steps * self.rows)
        return {
            name: self._tokens(part, int(count))
            for name, part, count in zip(self.names, self.parts, counts_S, strict=True)
        }

    def _tokens(self, part: Batches, rows: int) -> int:
        """Tokens in the first rows of a source: every row is full but the one that holds the corpus's end."""
        epochs, begun = divmod(rows, part.windows)
        last = int(part.order.shuffle.numbers(np.array([part.windows - 1]), epochs)[0])
        missing = part.windows * self.context - part.tokens.tokens
        return rows * self.context - missing * (epochs + (last < begun))

    def steps_of(self, source: str, document: int, before: int, start: int = 0, stop: int | None = None) -> list[int]:
        """The steps below `before` at which tokens `start` to `stop` of a source's document were read (unset: all)."""
        number = self.names.index(source)
        part, rows = self.parts[number], before * self.rows
        most = int(self.dealt.counts(rows)[number])
        places = part.order.places_of(part.windows_of(document, start, stop), most)
        return np.unique(self.dealt.rows_of(number, places, rows) // self.rows).tolist()
