"""A checkpoint's folder opened for use: model, tokenizer, chat template and engine that belong together."""

from dataclasses import dataclass
from pathlib import Path

import torch

from athanor.base.device import fast_dtype, pick_device, set_threads
from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.inference.quantize import load_model
from athanor.models.language import LanguageModel
from athanor.tokens.conversation import Conversation, Turn
from athanor.tokens.template import ChatTemplate
from athanor.tokens.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Runtime:
    """What answers questions."""

    model: LanguageModel
    tokenizer: Tokenizer
    template: ChatTemplate
    engine: Engine

    def chat_prompt(self, turns: list[Turn] | tuple[Turn, ...]) -> list[int]:
        """A conversation as a prompt for the assistant's next turn."""
        return self.template.render(Conversation(tuple(turns)), generation_prompt=True).ids


def open_model(folder: Path, dtype: str = "auto", device: str = "auto") -> Runtime:
    """Open a model's folder, 16-bit or INT4.

    Args:
        dtype: 'auto' (bf16 where the hardware multiplies it), 'float32' or 'bfloat16'.

    Raises:
        AthanorError: the folder is not a checkpoint, is damaged, or its tokenizer belongs to another model.
    """
    set_threads()
    place = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise AthanorError(f"dtype={dtype!r} is not known", allowed="auto, " + ", ".join(DTYPES))
    model = load_model(folder, dtype=fast_dtype(place) if dtype == "auto" else DTYPES[dtype], device=place)
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocabulary != model.config.vocabulary:
        raise AthanorError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary} token ids, the model {model.config.vocabulary}",
            fix="put the tokenizer.json that the model was trained with beside it",
        )
    template = ChatTemplate(tokenizer)
    return Runtime(model, tokenizer, template, Engine(model, tokenizer, end_ids=[template.end_id]))
