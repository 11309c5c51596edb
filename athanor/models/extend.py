"""Rows for new token ids in a trained language model.

Shape letters: V token ids, D width, K old ids whose mean a new row is.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from athanor.models.language import LanguageModel

NOISE = 0.01  # of each column's standard deviation, on rows that begin at the mean of all


def extend_vocabulary(
    model: LanguageModel, pieces: Mapping[int, Sequence[int]], known: int, seed: int = 0
) -> LanguageModel:
    """A copy of a model with rows for new token ids, in the embedding and the head; every old number stays.

    A row with pieces begins as their mean; one without begins at the mean of all known rows with a little noise, by
    which the new token's probability is bounded by one in the size of the vocabulary (Hewitt 2021, "Initializing New
    Word Embeddings for Pretrained Language Models"). Logits of the old ids for old ids do not change.

    Args:
        pieces: new id to the old ids that wrote it before; empty: none did.
        known: how many ids the tokenizer had; a model may have more rows, which stand for nothing.
        seed: of the noise.

    Raises:
        ValueError: an id is none that could be new, or a piece none that is old.
    """
    vocabulary = model.config.vocabulary
    assert vocabulary is not None
    if not 0 < known <= vocabulary:
        raise ValueError(f"known={known}, but the model has {vocabulary} token ids")
    for new, old in pieces.items():
        if new < known or any(not 0 <= piece < known for piece in old):
            raise ValueError(f"new id {new} of pieces {list(old)}: new ids begin at {known}, pieces end before it")
    size = max([vocabulary, *(new + 1 for new in pieces)])
    missing = set(range(vocabulary, size)) - set(pieces)
    if missing:
        raise ValueError(f"id {min(missing)} would be a row without a token: new ids must follow each other")
    if model.head is not None and type(model.head) is not nn.Linear:
        raise ValueError(f"the head is a {type(model.head).__name__}: extend the model before it is wrapped")
    generator = torch.Generator().manual_seed(seed)
    larger = copy.deepcopy(model)
    larger.config = larger.trunk.config = replace(model.config, vocabulary=size)
    larger.tokens.num_embeddings = size
    larger.tokens.weight = nn.Parameter(_grow(model.tokens.weight, pieces, known, size, generator))
    if larger.head is not None and model.head is not None:
        larger.head.out_features = size
        larger.head.weight = nn.Parameter(_grow(model.head.weight, pieces, known, size, generator))
        if model.head.bias is not None:
            larger.head.bias = nn.Parameter(_grow(model.head.bias, pieces, known, size, generator))
    return larger


@torch.no_grad()
def _grow(
    rows: Tensor, pieces: Mapping[int, Sequence[int]], known: int, size: int, generator: torch.Generator
) -> Tensor:
    """Rows (V, D), or a bias (V), with the new ones behind; computed in float32."""
    rows = rows.detach()
    old = rows[:known].float()
    grown = torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])
    mean, spread = old.mean(0), old.std(0)
    for new, ids in sorted(pieces.items()):
        if ids:
            grown[new] = old[torch.tensor(list(ids), device=rows.device)].mean(0)
        else:
            noise = torch.randn(mean.shape, generator=generator).to(rows.device)
            grown[new] = mean + NOISE * spread * noise
    return grown
