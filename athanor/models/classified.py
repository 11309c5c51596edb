"""A language model that reads a text and says what it is: one product on the vector of its last token.

The head has no bias (Radford et al. 2018, equation 3). Saved, it is what `transformers` calls a model for sequence
classification, whose `score` reads the last token that is not padding.

Shape letters as in `transformer.py`; E examples, R readings of them, C classes.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.convert import (
    NAMES,
    Stored,
    fill,
    read_object,
    refuse_pickles,
    their_pieces,
    write_object,
    write_weights,
)  # fmt: skip
from athanor.models.language import LanguageModel, draw
from athanor.models.settings import family_of, read_config, their_config

HEAD = "score.weight"


class Classifier(nn.Module):
    """A language model and a head.

    Args:
        outputs: classes, or 1 where a number or an ending is judged.
    """

    def __init__(self, language: LanguageModel, outputs: int):
        super().__init__()
        self.language = language
        self.score = nn.Linear(language.config.width, outputs, bias=False)

    @property
    def config(self) -> Any:
        """That of the language model."""
        return self.language.config

    @property
    def tokens(self) -> nn.Embedding:
        """That of the language model."""
        return self.language.tokens

    def initialise(self, seed: int) -> "Classifier":
        """Draw the head anew, normal(0, 0.02); the language model stays. Returns itself."""
        draw(self.score.weight, 0.02, torch.Generator().manual_seed(seed))
        return self

    def last(self, hidden_RTD: Tensor, ends_R: Tensor) -> Tensor:
        """The vector of each reading's last token, (R, D)."""
        return hidden_RTD[torch.arange(len(ends_R), device=ends_R.device), ends_R]

    def forward(self, ids_RT: Tensor, ends_R: Tensor) -> Tensor:
        """Scores float32 (R, C) of readings that are padded at the right, each by its last token at `ends_R`."""
        return self.score(self.last(self.language.hidden(ids_RT), ends_R)).float()


def save_classifier(model: Classifier, folder: Path, labels: Sequence[str], special: dict[str, int]) -> None:
    """Write the folder of a network for sequence classification.

    Args:
        labels: names of the outputs.
        special: ids of special tokens; that of padding must be among them, for `transformers` looks for it.

    Raises:
        AthanorError: no family can express the network.
    """
    family = family_of(model.language.config, None)
    pieces = {**their_pieces(model.language, family), HEAD: model.score.weight.detach()}
    settings = their_config(family, model.language.config, str(model.score.weight.dtype).removeprefix("torch."))
    names = {str(number): name for number, name in enumerate(labels)}
    write_object(
        folder / "config.json",
        {
            **settings, **special, "architectures": [family.architecture.replace("CausalLM", "SequenceClassification")],
            "id2label": names, "label2id": {name: int(number) for number, name in names.items()},
        },
    )  # fmt: skip
    entries = {name: (NAMES[piece.dtype], tuple(piece.shape)) for name, piece in pieces.items()}
    write_weights(entries, pieces.__getitem__, folder, 5_000_000_000)


def load_classifier(folder: Path, dtype: torch.dtype | None = None) -> Classifier:
    """The network that `save_classifier` wrote.

    Raises:
        AthanorError: it is none, or what `load_network` refuses.
    """
    refuse_pickles(folder)
    record = read_object(folder / "config.json")
    family, config = read_config(record, str(folder / "config.json"))
    stored = Stored(folder, family.other_names)
    if HEAD not in stored.places or not isinstance(record.get("id2label"), dict):
        raise AthanorError(f"{folder} holds no classifier", allowed="a folder that the step `classify` wrote")
    with torch.device("meta"):
        model = Classifier(family.build(config), len(record["id2label"]))
    model = model.to(dtype or stored.dtype()).to_empty(device="cpu")
    fill(model.language, replace(family, derived=(*family.derived, HEAD)), stored)
    with torch.no_grad():
        model.score.weight.copy_(stored.read(HEAD, tuple(model.score.weight.shape)))
    return model.eval()
