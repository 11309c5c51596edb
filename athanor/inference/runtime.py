"""A checkpoint's folder opened for use: model, tokenizer, chat template and engine that belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from athanor.base.device import fast_dtype, pick_device, set_threads
from athanor.base.errors import AthanorError
from athanor.inference.blanks import find_blanks
from athanor.inference.defaults import Defaults, read_defaults
from athanor.inference.dequantize import is_quantized
from athanor.inference.engine import Engine
from athanor.inference.quantize import load_model, read_family
from athanor.models.adapters.attach import attach, select
from athanor.models.adapters.files import read_adapter
from athanor.models.adapters.lora import Adapter
from athanor.models.language import LanguageModel
from athanor.tokens.chat import Template, check_vocabulary, end_ids, open_template, require_template, stored_ends
from athanor.tokens.conversation import Conversation, Turn
from athanor.tokens.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Runtime:
    """What answers questions.

    Attributes:
        template: ours, or the model's own; None: it has none, and can only continue texts.
        defaults: what the model's files say about how it is to be asked.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    template: Template | None
    engine: Engine
    defaults: Defaults = field(default_factory=Defaults)

    def chat_prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """A conversation as a prompt for the assistant's next turn.

        Raises:
            AthanorError: the model has no chat template, or its own refuses the conversation.
        """
        return require_template(self.template).prompt_ids(Conversation(tuple(turns), tools=tuple(tools)))


def open_model(
    folder: Path,
    dtype: str = "auto",
    device: str = "auto",
    adapters: Mapping[str, Path] | None = None,
    chosen: str | None = None,
) -> Runtime:
    """Open a model's folder, 16-bit or INT4, ours or another's.

    Args:
        dtype: 'auto' (bf16 where the hardware multiplies it), 'float32' or 'bfloat16'.
        adapters: folders of adapters to put beside it, each by a name that `Sampling` may ask for.
        chosen: the adapter that answers where none is asked for; None: the model alone.

    Raises:
        AthanorError: the folder is not a checkpoint, is damaged, or its tokenizer belongs to another model.
    """
    set_threads()
    place = pick_device(device)
    if dtype != "auto" and dtype not in DTYPES:
        raise AthanorError(f"dtype={dtype!r} is not known", allowed="auto, " + ", ".join(DTYPES))
    family, config = read_family(folder) if adapters else (None, None)
    read = {name: read_adapter(path, family, config) for name, path in (adapters or {}).items()}
    # A packed kernel gives away the codes, which a decomposed adapter needs.
    decomposed = any(isinstance(one, Adapter) and one.settings.decomposed for one in read.values())
    kernel = "plain" if decomposed and is_quantized(folder) else None
    model = load_model(folder, fast_dtype(place) if dtype == "auto" else DTYPES[dtype], kernel, place)
    for name, one in read.items():
        attach(model, family, one, name)
    if read:
        select(model, chosen)
    tokenizer = Tokenizer.load(folder)
    check_vocabulary(tokenizer, model.config.vocabulary, folder)
    stored = stored_ends(folder)
    template = open_template(tokenizer, stored)
    ends, blanks = end_ids(tokenizer, template, stored), find_blanks(model.config, tokenizer)
    engine = Engine(model, tokenizer, end_ids=ends, blanks=blanks)
    return Runtime(model, tokenizer, template, engine, read_defaults(folder))
