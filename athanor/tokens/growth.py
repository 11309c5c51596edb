"""How many times as long a tokenizer's own rules may make a text: forty of "a becomes aa" fill any memory.

A tokenizer.json is a stranger's; its normaliser and decoder run before and behind everything else.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import tokenizers

from athanor.base.errors import AthanorError

MOST_GROWTH = 1_000  # times; SentencePiece's table reaches 18, Unicode's own forms no more, however often they run
MOST_ADDED = 1_000  # letters
NOTHING_NEW = ("Strip", "Lowercase", "BertNormalizer", "Metaspace", "WordPiece", "BPEDecoder", "ByteFallback", "Fuse")


def refuse_growth(core: tokenizers.Tokenizer, where: object) -> None:
    """Refuse rules that could make a text far longer.

    Raises:
        AthanorError: names the file.
    """
    for rule in (core.normalizer, core.decoder):
        growth = 1.0 if rule is None else _together(list(_rules(json.loads(rule.__getstate__()))))
        if growth > MOST_GROWTH:
            raise AthanorError(
                f"{where}: its rules could make a text {growth:.3g} times as long", allowed=f"{MOST_GROWTH} times",
                fix="use the tokenizer that the model was published with",
            )  # fmt: skip


def _rules(rule: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rules of a sequence in order, those of sequences in it too."""
    if rule.get("type") != "Sequence":
        yield rule
        return
    for part in rule.get("normalizers") or rule.get("decoders") or ():
        yield from _rules(part)


def _together(rules: list[dict[str, Any]]) -> float:
    """The most that rules make of a letter, one after another.

    A rule adds to the growth of those before it if what it looks for may hold a letter that they have written.
    """
    growth, written = 1.0, ""
    anything = False  # whether a table may have written any letter
    for rule in rules:
        alone, sought, new = _alone(rule)
        if alone > 1:
            feeds = sought is None or anything or not set(sought.lower()).isdisjoint(written)
            growth = growth * alone if feeds else max(growth, alone)
        anything, written = anything or new is None, written + (new or "").lower()
    return growth


def _alone(rule: dict[str, Any]) -> tuple[float, str | None, str | None]:
    """(the most that a rule makes of a letter, the text that it looks for, what it writes); None: any."""
    kind = rule.get("type")
    if kind == "Replace":
        sought = (rule.get("pattern") or {}).get("String")
        new = rule.get("content") or ""
        return len(new) / max(1, len(sought or " ")), sought, new  # an expression may find a single letter
    if kind == "Prepend":
        new = rule.get("prepend") or ""
        return (1.0 if len(new) <= MOST_ADDED else float(len(new))), None, new
    if kind == "Precompiled":
        return _longest(rule.get("precompiled_charsmap") or ""), None, None
    return 1.0, None, "" if kind in NOTHING_NEW else None


def _longest(table: str) -> float:
    """The longest text that a compiled table puts in the place of something: behind its trie they stand one by one."""
    data = base64.b64decode(table)
    trie = int.from_bytes(data[:4], "little")
    return float(max(map(len, data[4 + trie :].decode("utf-8", errors="replace").split("\0")), default=1) or 1)
