"""Which chat template belongs to a tokenizer, ours or its own, and which tokens begin and end texts.

Training, evaluation, serving, import and export all ask here, so that the ids are the same everywhere.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.tokens.foreign_template import ForeignTemplate
from athanor.tokens.template import ChatTemplate, is_ours, jinja_source, specials_of
from athanor.tokens.tokenizer import DOCUMENT, END, SPECIAL_TOKENS, Tokenizer

Template = ChatTemplate | ForeignTemplate
ROLES = ("bos", "eos", "pad")
GENERATION = "generation_config.json"
NO_TEMPLATE = "the model has no chat template: nobody taught it to tell a question from an answer"
NO_TEMPLATE_FIX = (
    "let it continue texts; or put the chat_template.jinja that it was trained with into its folder; or give its "
    "tokenizer our special tokens (athanor tokens extend --special, once for each of "
    f"{', '.join(SPECIAL_TOKENS)}) and fine-tune it with our template"
)


def has_our_template(tokenizer: Tokenizer) -> bool:
    """Whether conversations are rendered with our own template: the special tokens are ours, and no other is stored."""
    if not tokenizer.native:
        return False
    return tokenizer.chat_template is None or is_ours(tokenizer.chat_template, specials_of(tokenizer))


def trained_here(tokenizer: Tokenizer) -> bool:
    """Whether a tokenizer is ours from the start, rather than another's to which our special tokens were added."""
    return tokenizer.native and tokenizer.bos == DOCUMENT


def open_template(tokenizer: Tokenizer, ends: Iterable[int] = ()) -> Template | None:
    """The template of a tokenizer: ours, its own, or None where it has none.

    Args:
        ends: ids of further tokens at which generation stops, as `stored_ends` reads them.

    Raises:
        AthanorError: its own template cannot be used safely.
    """
    if has_our_template(tokenizer):
        return ChatTemplate(tokenizer)
    if tokenizer.chat_template is None:
        return None
    wanted = set(ends)
    return ForeignTemplate(tokenizer, ends=[name for name, index in tokenizer.special.items() if index in wanted])


def require_template(template: Template | None) -> Template:
    """The template, where one is needed.

    Raises:
        AthanorError: there is none; says what can be done.
    """
    if template is None:
        raise AthanorError(NO_TEMPLATE, fix=NO_TEMPLATE_FIX)
    return template


def open_chat(folder: Path) -> tuple[Tokenizer, Template]:
    """The tokenizer in a checkpoint's folder, and the chat template it has.

    Raises:
        AthanorError: it has none.
    """
    tokenizer = Tokenizer.load(folder)
    return tokenizer, require_template(open_template(tokenizer, stored_ends(folder)))


def jinja_of(tokenizer: Tokenizer) -> str | None:
    """The Jinja to store beside a tokenizer: ours in its newest form, else its own word for word; None: it has none."""
    return jinja_source(specials_of(tokenizer)) if has_our_template(tokenizer) else tokenizer.chat_template


def end_ids(tokenizer: Tokenizer, template: Template | None, stored: Iterable[int] = ()) -> tuple[int, ...]:
    """Every token at which generation stops: what ends an answer, the tokenizer's end of text, and what was stored.

    Raises:
        AthanorError: there is a template, but no token that could end an answer.
    """
    if template is None:
        own = [] if tokenizer.eos is None else [tokenizer.special[tokenizer.eos]]
        return tuple(dict.fromkeys([*own, *stored]))
    try:
        own = list(template.end_ids)
    except AthanorError as problem:
        fix = f"name the eos_token in its tokenizer_config.json, or the eos_token_id in its {GENERATION}"
        raise AthanorError(problem.what, allowed=problem.allowed, fix=fix) from problem
    return tuple(dict.fromkeys([*own, *stored]))


def stored_ends(folder: Path) -> tuple[int, ...]:
    """The ids at which generation stops as a model's folder says, in generation_config.json, else config.json.

    Raises:
        AthanorError: they are no ids.
    """
    path = next((folder / name for name in (GENERATION, "config.json") if (folder / name).is_file()), None)
    found = _object(path).get("eos_token_id") if path else None
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in ids):
        raise AthanorError(f"{path}: eos_token_id is {found!r:.80}", allowed="an id or a list of ids")
    return tuple(ids)


def generation_of(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """What generation_config.json of a model made from the one in `folder` says: the same, else the special tokens."""
    if (folder / GENERATION).is_file():
        return _object(folder / GENERATION)
    told = _object(folder / "config.json") if (folder / "config.json").is_file() and not tokenizer.native else {}
    named = {f"{role}_token_id": told.get(f"{role}_token_id") for role in ROLES}
    return special_ids(tokenizer) | {key: index for key, index in named.items() if index is not None}


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """What generation_config.json says about a tokenizer that no model has changed."""
    end = END if tokenizer.native else tokenizer.eos
    named = (DOCUMENT, end, end) if tokenizer.native else (tokenizer.bos, end, tokenizer.pad)
    rows = zip(ROLES, named, strict=True)
    return {f"{role}_token_id": tokenizer.special[name] for role, name in rows if name is not None}


def document_start(tokenizer: Tokenizer) -> list[int]:
    """What every document of pretraining begins with: <|document|>; of another model its beginning, else its end.

    One id, or none where the tokenizer has neither.
    """
    mark = DOCUMENT if tokenizer.native else tokenizer.bos or tokenizer.eos
    return [] if mark is None else [tokenizer.special[mark]]


def completion_start(tokenizer: Tokenizer) -> list[int]:
    """What stands before a text that is to be continued: <|document|>; of another model what `transformers` puts there.

    That is the token its files add, which is not always the one that documents began with: GPT-2 adds none.
    """
    if tokenizer.native:
        return document_start(tokenizer)
    plain = tokenizer.core.encode("a", add_special_tokens=False).ids
    whole = tokenizer.core.encode("a").ids
    place = next((start for start in range(len(whole)) if whole[start : start + len(plain)] == plain), 0)
    return whole[:place]


def check_vocabulary(tokenizer: Tokenizer, vocabulary: int | None, where: object) -> None:
    """Refuse a tokenizer that is not the model's; other models' may be smaller, where the embedding is padded.

    Raises:
        AthanorError: the numbers of token ids say so.
    """
    count = tokenizer.vocabulary
    if trained_here(tokenizer):
        fits = count == vocabulary
    else:
        count = 1 + max(tokenizer.core.get_vocab().values(), default=-1)  # ids may have gaps
        fits = count <= (vocabulary or 0)
    if not fits:
        raise AthanorError(
            f"{where}: the tokenizer has {count} token ids, the model {vocabulary}",
            fix="put the tokenizer.json that the model was trained with beside it",
        )


def bytes_per_token(tokenizer: Tokenizer, token_bytes: list[bytes]) -> int | None:
    """Most bytes of text that one token can stand for; None: not known, as where text is changed before it is cut."""
    core = tokenizer.core
    bytes_only = "ByteLevel" in repr(core.decoder) and getattr(core.model, "unk_token", None) is None
    return max(map(len, token_bytes)) if trained_here(tokenizer) or (bytes_only and core.normalizer is None) else None


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise AthanorError(f"{path} is not a JSON object")
    return found
