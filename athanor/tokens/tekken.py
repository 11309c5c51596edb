"""Mistral's tekken.json: byte ranks, the pattern that cuts text, and special tokens whose ids come first."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.tokens.letters import BYTE_TO_LETTER
from athanor.tokens.pipelines import Built, from_tiktoken

FILE = "tekken.json"
ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>"}
# What files say that are older than the list of special tokens in them, by place.
FIRST = (
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]",
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]",
)  # fmt: skip


def from_tekken(path: Path) -> Built:
    """The tokenizer of a tekken.json.

    Raises:
        AthanorError: the file lacks something, or its parts contradict each other.
    """
    told = read_json(path)
    try:
        return _build(told)
    except (KeyError, TypeError, ValueError, binascii.Error) as problem:
        raise AthanorError(f"{path} is no tekken file: {problem!r:.100}", fix="copy it again") from problem


def _build(told: Mapping[str, Any]) -> Built:
    settings = told["config"]
    names = _special_names(told.get("special_tokens"), int(settings["default_num_special_tokens"]))
    kept = int(settings["default_vocab_size"]) - len(names)  # the file holds more ranks than the model uses
    rows = told["vocab"][:kept]
    if len(rows) < kept or [int(row["rank"]) for row in rows] != list(range(kept)):
        raise ValueError(f"{len(rows)} tokens where {kept} in order were promised")
    ranks = {base64.b64decode(row["token_bytes"], validate=True): rank for rank, row in enumerate(rows)}
    if len(ranks) != kept or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ValueError("a token stands twice, or a single byte is missing")
    core, _ = from_tiktoken(ranks, BYTE_TO_LETTER, str(settings["pattern"]), names)
    core.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return core, {role: name for role, name in ROLES.items() if name in names}


def _special_names(rows: Any, count: int) -> list[str]:
    """The special tokens by id; places without a name are kept for later ones."""
    told = dict(enumerate(FIRST)) if rows is None else {int(row["rank"]): str(row["token_str"]) for row in rows}
    if told and max(told) >= count:
        raise ValueError(f"special token {max(told)} of {count}")
    return [told.get(place, f"<SPECIAL_{place}>") for place in range(count)]
