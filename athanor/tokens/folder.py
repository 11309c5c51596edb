"""Reads the tokenizer of any model's folder: tokenizer.json, or the older files that it replaced.

Everything in the folder is data. A tokenizer that exists only as Python code (`auto_map`) is refused.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import tokenizers

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.tokens import classes, coded, marian, pieces, pipelines, spiece, tekken
from athanor.tokens.growth import refuse_growth
from athanor.tokens.pieces import PieceEncoder
from athanor.tokens.pipelines import Built, Special, token_name
from athanor.tokens.sentencepiece import SentencePieceModel

TEMPLATE = "chat_template.jinja"
NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # as in tokenizer_config.json, with `_token` behind
FILES = (
    "tokenizer.json, vocab.json with merges.txt, vocab.txt, spiece.model, spm.model, sentencepiece.bpe.model, "
    "source.spm with target.spm, tokenizer.model, *.tiktoken or tekken.json"
)
EXACT = "sentencepiece"
PANIC = "PanicException"  # of libraries in Rust: a class that cannot be imported, and no Exception
BACKEND = "PreTrainedTokenizerFast"  # the class by which transformers takes tokenizer.json as it is


Read = TypeVar("Read")


@dataclass(frozen=True)
class TokenizerFolder:
    """What a folder says about its tokenizer.

    Attributes:
        config: tokenizer_config.json, with the names of special_tokens_map.json and of the class added.
        chat_template: Jinja, never run here.
        pieces: what encodes text exactly where `core` is only near.
        target: the same for texts that are written, where they are cut in another way than those that are read.
    """

    core: tokenizers.Tokenizer
    config: dict[str, Any]
    chat_template: str | None
    pieces: PieceEncoder | None = None
    target: PieceEncoder | None = None


def read_folder(folder: Path) -> TokenizerFolder:
    """Read whatever tokenizer a folder holds.

    Raises:
        AthanorError: there is none, it is damaged, it is Python code, or how it cuts text is not known.
    """
    config = _config(folder)
    template = _template(folder, config)
    name = _class_name(folder, config)
    if not coded.is_coded(name):
        _refuse_code(folder, config)
    whole = folder / "tokenizer.json"
    core, special = (
        _guard(whole, lambda: _from_json(whole, name, config)) if whole.is_file() else _build(folder, name, config)
    )
    for role, spelling in special.items():
        config.setdefault(f"{role}_token", spelling)
    _guard(folder / "tokenizer_config.json", lambda: _add_named(core, config))
    if not whole.is_file():
        if coded.is_coded(name):
            config.pop("auto_map", None)
            config["tokenizer_class"] = BACKEND
        config.setdefault("tokenizer_class", BACKEND)
        pipelines.add_frame(core, name, config, {role: token_name(config, role) or "" for role in special})
    core.no_truncation()
    core.no_padding()
    return TokenizerFolder(core, config, template, *_pieces(folder, name, core, config))


def _pieces(
    folder: Path, name: str, core: tokenizers.Tokenizer, config: dict[str, Any]
) -> tuple[PieceEncoder | None, PieceEncoder | None]:  # fmt: skip
    """What gives ids to text where SentencePiece itself does: in a folder that we wrote, or one of such a class; and
    to text that is written, where another model does that.

    `sentencepiece` in tokenizer_config.json is ours: it says how the model file beside tokenizer.json is used.
    """
    dialect = config.get(EXACT)
    if (folder / "tokenizer.json").is_file():
        path = folder / pieces.FILE if dialect else None
    else:
        exact = ("", "M2M100Tokenizer", marian.CLASS, *coded.SENTENCEPIECE)
        path, dialect = _sentencepiece_file(folder) if name in exact else None, "plain"
    if path is None:
        return None, None
    data = _model_bytes(path, name)
    if name == "ChatGLMTokenizer" and coded.spells_spaces(SentencePieceModel.parse(data, path)):
        dialect = "chatglm"
    elif path.name == marian.SOURCE:
        dialect = "marian"
    config[EXACT] = dialect
    if dialect != "marian":
        return PieceEncoder(data, str(dialect), core.token_to_id), None
    others = (folder / marian.TARGET).read_bytes()
    return PieceEncoder(data, "marian", core.token_to_id), PieceEncoder(others, "marian", core.token_to_id)


def _model_bytes(path: Path, name: str) -> bytes:
    """A SentencePiece file, with what the code of its class adds to it."""
    data = path.read_bytes()
    return coded.completed(data, path) if name == "ChatGLMTokenizer" else data


def _sentencepiece_file(folder: Path) -> Path | None:
    if marian.is_marian(folder):
        return folder / marian.SOURCE
    names = ("spiece.model", "spm.model", "tokenizer.model", "sentencepiece.bpe.model", "ice_text.model")
    paths = [folder / name for name in names if (folder / name).is_file()]
    return next((path for path in paths if not _is_ranks(path)), None)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise AthanorError(f"{path} is not a JSON object")
    older = folder / "special_tokens_map.json"
    if older.is_file() and "added_tokens_decoder" not in config:
        named = read_json(older)
        if not isinstance(named, dict):
            raise AthanorError(f"{older} is not a JSON object")
        config.update(named)
    added = folder / "added_tokens.json"
    if added.is_file() and "added_tokens_decoder" not in config:
        named = _read_vocabulary(added)
        special = {*(token_name(config, role) for role in NAMES), *_more(config)}
        config["added_tokens_decoder"] = {
            str(index): {"content": token, "special": token in special, "normalized": token not in special}
            for token, index in named.items()
        }
    return config


def _refuse_code(folder: Path, config: Mapping[str, Any]) -> None:
    code = config.get("auto_map")
    code = code.get("AutoTokenizer") if isinstance(code, Mapping) else code
    named = [str(one) for one in code if one] if isinstance(code, list | tuple) else [str(code)] if code else []
    named += sorted(path.name for path in folder.glob("tokenization_*.py"))
    if named:
        raise AthanorError(
            f"{folder} has a tokenizer made of Python code ({', '.join(named)}), and foreign code is never run",
            allowed=FILES,
            fix="where you trust the code, load it with transformers and `save_pretrained` it: that writes "
            "tokenizer.json; then remove `auto_map` and the Python files",
        )


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / TEMPLATE
    if path.is_file():
        return _text(path)
    found = config.get("chat_template")
    if isinstance(found, list):  # several, each with a name
        named = {row.get("name"): row.get("template") for row in found if isinstance(row, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def _class_name(folder: Path, config: Mapping[str, Any]) -> str:
    """The tokenizer's class without "Fast", by the name under which we know it; empty: none is named."""
    if config.get("tokenizer_class") in (BACKEND, "TokenizersBackend") and (folder / "tokenizer.json").is_file():
        return ""  # the file is taken as it is, whatever the model
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    if name in ("", "PreTrainedTokenizer", "TokenizersBackend"):
        model = folder / "config.json"
        told = read_json(model) if model.is_file() else {}
        told = told if isinstance(told, dict) else {}
        name = str(told.get("tokenizer_class") or "").removesuffix("Fast")
        if not name:
            name = pipelines.CLASSES.get(str(told.get("model_type")), "")
    return pipelines.CLASSES.get(name, name)


def _from_json(path: Path, name: str, config: Mapping[str, Any]) -> Built:
    core = tokenizers.Tokenizer.from_file(str(path))
    refuse_growth(core, path)
    if name == "LlamaTokenizer" and "ByteLevel" not in repr(core.pre_tokenizer):
        spiece.llama_spaces(core, config)
    return core, {}


def _build(folder: Path, name: str, config: Mapping[str, Any]) -> Built:
    """A tokenizer from the files that came before tokenizer.json."""
    path = _sentencepiece_file(folder)
    if path is not None:
        model, others = SentencePieceModel.parse(_model_bytes(path, name), path), folder / "vocab.json"
        if name in coded.SENTENCEPIECE:
            return _guard(path, lambda: coded.from_model(name, model, config, coded.python_source(folder)))
        ids = _read_vocabulary(others) if name in ("M2M100Tokenizer", marian.CLASS) and others.is_file() else None
        return _guard(path, lambda: classes.from_sentencepiece(name, model, config, ids))
    ranks = [*sorted(folder.glob("*.tiktoken")), folder / "tiktoken.model", folder / "tokenizer.model"]
    for path in ranks:
        if path.is_file():
            return _guard(path, partial(coded.from_ranks, name, _read_ranks(path)))
    path = folder / "vocab.json"
    if path.is_file() and (folder / "merges.txt").is_file():
        vocabulary, merges = _read_vocabulary(path), _read_merges(folder / "merges.txt")
        return _guard(path, lambda: pipelines.from_merges(name, vocabulary, merges, config))
    path = folder / "vocab.txt"
    if path.is_file():
        words = _text(path).split("\n")
        words = [word.rstrip("\r") for word in (words[:-1] if words and not words[-1] else words)]
        return _guard(path, lambda: pipelines.from_words(name, words, config))
    if (folder / tekken.FILE).is_file():
        return tekken.from_tekken(folder / tekken.FILE)
    raise AthanorError(
        f"{folder} has no tokenizer.json and nothing older in its place", allowed=FILES,
        fix="name a folder that a tokenizer or model is in",
    )  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as problem:
        raise AthanorError(f"{path} is not UTF-8: {problem}", fix="the file is damaged: copy it again") from None


def _guard(path: Path, read: Callable[[], Read]) -> Read:
    """What `read` makes of a file; a problem of the library, or of what stands in it, is one of the file."""
    try:
        return read()
    except AthanorError:
        raise
    except BaseException as problem:  # the library raises bare Exception for a damaged file, or panics
        if not isinstance(problem, Exception) and type(problem).__name__ != PANIC:
            raise
        raise AthanorError(f"{path} cannot be read as a tokenizer: {problem}") from None


def _read_vocabulary(path: Path) -> dict[str, int]:
    vocabulary = read_json(path)
    if not isinstance(vocabulary, dict) or not all(isinstance(index, int) for index in vocabulary.values()):
        raise AthanorError(f"{path} is not an object of tokens and ids")
    return vocabulary


def _read_merges(path: Path) -> list[tuple[str, str]]:
    merges = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line or line.startswith("#version"):
            continue
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise AthanorError(f"{path}, line {number}: {line!r:.80} is no merge", allowed="two tokens and one space")
        merges.append((left, right))
    return merges


def _is_ranks(path: Path) -> bool:
    """Whether a .model file is text of the tiktoken form and no protocol buffer."""
    with open(path, "rb") as file:
        line = file.readline(4096)
    return _rank(line) is not None


def _rank(line: bytes) -> tuple[bytes, int] | None:
    parts = line.split()
    try:
        return (base64.b64decode(parts[0], validate=True), int(parts[1])) if len(parts) == 2 else None
    except (binascii.Error, ValueError):
        return None


def _read_ranks(path: Path) -> dict[bytes, int]:
    """tiktoken's file: a token's bytes in base64, a space, its id, one token per line."""
    table = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        row = _rank(line)
        if row is None:
            raise AthanorError(f"{path}, line {number}: {line!r:.80}", allowed="a token in base64, a space, its id")
        table[row[0]] = row[1]
    if len({byte for byte in table if len(byte) == 1}) < 256:
        raise AthanorError(f"{path} does not hold all 256 single bytes", fix="the file is damaged: copy it again")
    return table


def _add_named(core: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the special tokens that the configuration names and the vocabulary file does not mark.

    Raises:
        AthanorError: the configuration gives a token another id than it gets.
    """
    table = config.get("added_tokens_decoder")
    listed = {int(index): _added(row) for index, row in table.items()} if isinstance(table, Mapping) else {}
    known = {repr(token) for token in core.get_added_tokens_decoder().values()}
    core.add_tokens([token for _, token in sorted(listed.items()) if repr(token) not in known])
    for index, token in listed.items():
        if core.token_to_id(token.content) != index:
            raise AthanorError(
                f"tokenizer_config.json gives {token.content!r} the id {index}, but the vocabulary "
                f"{core.token_to_id(token.content)}", fix="the files do not belong together: copy them again",
            )  # fmt: skip
    marked = {token.content for token in core.get_added_tokens_decoder().values()}
    wanted = [token_name(config, role) for role in NAMES] + _more(config)
    new = [spelling for spelling in dict.fromkeys(wanted) if spelling and spelling not in marked]
    core.add_special_tokens([tokenizers.AddedToken(spelling, special=True) for spelling in new])


def _added(row: Any) -> tokenizers.AddedToken:
    flags = {name: bool(row[name]) for name in ("single_word", "lstrip", "rstrip", "normalized") if name in row}
    return tokenizers.AddedToken(str(row["content"]), special=bool(row.get("special", False)), **flags)


def _more(config: Mapping[str, Any]) -> list[str]:
    """Special tokens without a role, which older configurations call additional and newer ones extra."""
    found: list[str] = []
    for key in ("additional_special_tokens", "extra_special_tokens"):
        rows = config.get(key) or []
        rows = list(rows.values()) if isinstance(rows, Mapping) else rows
        if not isinstance(rows, list):
            raise AthanorError(f"tokenizer_config.json: {key} is {rows!r:.80}", allowed="a list of tokens")
        found += [str(row["content"] if isinstance(row, Mapping) else row) for row in rows]
    return found


def special_by_role(config: Mapping[str, Any]) -> Special:
    """The named special tokens of a configuration."""
    return {role: spelling for role in NAMES if (spelling := token_name(config, role))}
