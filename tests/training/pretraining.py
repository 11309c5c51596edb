"""Every objective of pretraining on a tiny corpus that can be learnt: shared by the tests of objectives and curves."""

from typing import get_args

import numpy as np
import torch
from torch import nn

from athanor.data.packing.batches import Batches
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer
from athanor.training.corpus import Rows, read_rows, rows_of, with_marks
from athanor.training.networks import ObjectiveName, PretrainSettings, build
from athanor.training.objective import Objective

OBJECTIVES = get_args(ObjectiveName)
HIDING = OBJECTIVES[1:]
CONTEXT, ROWS = 48, 8
CPU = torch.device("cpu")


class Runs:
    """Documents of one letter each: made without files, and learnt by looking at the rest of the document.

    Whoever looks at nothing loses log 12 = 2.48 nats for each letter.
    """

    def __init__(self, tokenizer: Tokenizer, documents: int = 200):
        random = np.random.default_rng(5)
        letters = [tokenizer.encode(letter)[0] for letter in "abcdefghijkl"]
        mark = tokenizer.special[DOCUMENT]
        rows = [[mark, *[int(random.choice(letters))] * int(random.integers(9, 40))] for _ in range(documents)]
        self.row = np.concatenate(rows)
        self.starts_D = np.cumsum([0, *map(len, rows)])
        self.tokens = len(self.row)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.row[start:stop].astype(np.int64)


def settings_of(objective: str, **more: object) -> PretrainSettings:
    plain = {
        "objective": objective, "layers": 2, "width": 64, "heads": 2, "hidden": 96, "context": CONTEXT, "rows": ROWS,
        "steps": 50, "learning_rate": 0.005, "optimizer": "adamw", "schedule": "linear", "warmup": 5, "seed": 1,
    }  # fmt: skip
    return PretrainSettings.model_validate(plain | more)


def tokenizer_for(settings: PretrainSettings) -> Tokenizer:
    return with_marks(settings, Tokenizer.train(["abcdefghijkl"], 262))


def made(settings: PretrainSettings) -> tuple[nn.Module, Rows, Batches, Tokenizer]:
    """The network, what becomes of windows, the windows, the tokenizer."""
    tokenizer = tokenizer_for(settings)
    model = build(settings, tokenizer.vocabulary)
    batches = Batches(Runs(tokenizer), settings.context, settings.rows, settings.seed)
    return model, rows_of(settings, tokenizer, model), batches, tokenizer


def ready(settings: PretrainSettings) -> tuple[nn.Module, Objective]:
    """The network and what it is to learn."""
    model, rows, batches, _ = made(settings)
    read = read_rows(batches, rows, settings.seed, CPU)
    return model, Objective(read, rows.loss(None), settings.rows * settings.context)
