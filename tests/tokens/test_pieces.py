"""SentencePiece's own ids: of bare model files, and of the classes that are Python code."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from athanor.base.errors import AthanorError
from athanor.tokens.charsmap import read_table
from athanor.tokens.pieces import PieceEncoder
from athanor.tokens.sentencepiece import SentencePieceModel
from athanor.tokens.tokenizer import Tokenizer
from tests.conftest import ROOT
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts, random_words, real_texts

library = pytest.importorskip("sentencepiece")
SYMBOLS = ["<sep>", "<mask>", "[x]"]
EDGES = [
    " <sep> a", "x<sep>y", "<sep>", "<sep><sep> <mask>", "\u00b4 q", "▁", "▁ ▁", "e\u0301\u0302 <mask>  <sep>  ",
    "<0x0A>a", "\u200b", " \u200b ", "\u09b2\u09c7\u09be\u0995", "\u1112\u1161\u11ab", "\u0651\u064e\u0628",
    "\uff76\uff9e",
]  # fmt: skip
TEXTS = [*NASTY, *EDGES, *LEARN[:6], *random_texts(300), *random_words(100)]
SHAPES: dict[str, dict[str, Any]] = {  # as published models are: T5 and XLM-R, LLaMA, M2M-100, ALBERT …
    "unigram": {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"},
    "unigram-bytes": {"model_type": "unigram", "normalization_rule_name": "identity", "byte_fallback": True,
                      "remove_extra_whitespaces": False},
    "unigram-folded": {"model_type": "unigram", "normalization_rule_name": "nfkc_cf", "add_dummy_prefix": False},
    "bpe": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "bpe-bytes": {"model_type": "bpe", "normalization_rule_name": "identity", "byte_fallback": True,
                  "remove_extra_whitespaces": False, "split_digits": True, "allow_whitespace_only_pieces": True},
    "bpe-bare": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc_cf", "byte_fallback": True,
                 "add_dummy_prefix": False, "remove_extra_whitespaces": False},
}  # fmt: skip


def trained(folder: Path, lines: list[str], size: int, **options: Any) -> Any:
    """Write tokenizer.model, learnt from lines, and open it with the library."""
    with open(folder / "tokenizer.model", "wb") as file:
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=size, hard_vocab_limit=False, minloglevel=2,
            user_defined_symbols=SYMBOLS, **{"character_coverage": 0.999, **options},
        )  # fmt: skip
    return library.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_bare_model_has_the_librarys_ids(shape: str, tmp_path: Path) -> None:
    learnt = [line for text in LEARN for line in text.split("\n") if line.strip()]
    theirs = trained(tmp_path, learnt, 650, **SHAPES[shape])
    tokenizer = Tokenizer.load(tmp_path)
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    ids = theirs.encode(TEXTS)
    assert tokenizer.encode_batch(TEXTS) == ids
    assert [again.encode(text) for text in TEXTS] == ids
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == ("<s>", "</s>", "<unk>")


def random_model(draw: random.Random, kind: int) -> bytes:
    """A model of few letters and scores, in which many ways to cut a text are equally likely."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    model = messages.ModelProto()
    model.trainer_spec.model_type, model.trainer_spec.unk_id = kind, 0
    model.normalizer_spec.add_dummy_prefix = draw.random() < 0.5
    model.normalizer_spec.remove_extra_whitespaces = draw.random() < 0.5
    texts = {"".join(draw.choices("ab▁", k=draw.randint(1, 4))) for _ in range(draw.randint(3, 14))}
    texts |= {"a", "b", "▁"} if kind == 2 else set()  # merging begins with letters
    scores = [draw.choice((-1.1, -2.3, -3.7, -4.9, -7.3)) for _ in texts] if kind == 1 else range(0, -len(texts), -1)
    model.pieces.add(piece="<unk>", score=0.0, type=2)
    for text, score in zip(sorted(texts, key=lambda text: (-len(text), text)), scores, strict=True):
        kept = draw.random() < 0.25 and kind == 1
        model.pieces.add(piece=text, score=0.0 if kept else score, type=4 if kept and "▁" not in text else 1)
    return model.SerializeToString()


@pytest.mark.parametrize("kind", [1, 2])
def test_random_models_cut_as_the_library_cuts(kind: int, tmp_path: Path) -> None:
    """Ties, symbols of the model's own, letters that it does not know, spaces in every place."""
    draw = random.Random(kind)
    for _ in range(60):
        data = random_model(draw, kind)
        (tmp_path / "tokenizer.model").write_bytes(data)
        theirs, ours = library.SentencePieceProcessor(model_proto=data), PieceEncoder(data)
        texts = ["".join(draw.choices("aaabbb  xy", k=draw.randint(0, 16))) for _ in range(40)]
        assert [ours.encode(text) for text in texts] == theirs.encode(texts), data


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_real_lines_have_the_librarys_ids(shape: str, tmp_path: Path) -> None:
    """More than 20,000 lines in 75 languages, Markdown and Python, with random texts of all of Unicode."""
    lines = [line for path in sorted((ROOT / "athanor").rglob("*.py")) for line in path.read_text("utf-8").split("\n")]
    for name, most in (("en_zh_python_docs", 5000), ("langid_sentences", 8000), ("udhr", 300), ("zh_d2l_book", 30),
                       ("zh_classical_modern", 3000), ("en_rust_book", 40)):  # fmt: skip
        lines += [line for text in real_texts(name, most, 5000) for line in text.split("\n") if line]
    random.Random(0).shuffle(lines)
    theirs = trained(tmp_path, [line for line in lines[:8000] if line.strip()], 6000, **SHAPES[shape])
    tokenizer, tried = Tokenizer.load(tmp_path), [*lines[8000:40_000], *random_texts(3000), *TEXTS]
    assert len(tried) > 20_000
    different = [text for text, ids in zip(tried, theirs.encode(tried), strict=True) if tokenizer.encode(text) != ids]
    assert not different, (len(different), different[:5])


def test_the_table_of_characters_is_the_librarys(tmp_path: Path) -> None:
    trained(tmp_path, LEARN[:6], 500, **SHAPES["unigram"])
    table = read_table(SentencePieceModel.read(tmp_path / "tokenizer.model").characters)
    reference = library.SentencePieceNormalizer(rule_name="nmt_nfkc")
    assert len(table) > 200_000
    for key in random.Random(1).sample(sorted(table), 3000):
        if not key.isspace() and table[key].strip(" ") == table[key]:
            assert reference.normalize(key) == "▁" + table[key].replace(" ", "▁"), ascii(key)


# ------------------------------------------------------------------------------------------------ classes that are code


def chatglm_ids(folder: Path, text: str) -> list[int]:
    """What ChatGLM-6B's published code computes: white space spelled by replacement, then SentencePiece."""
    text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
    text = re.sub(" {2,}", lambda found: blanks(len(found.group())), text)
    return library.SentencePieceProcessor(model_file=str(folder / "ice_text.model")).encode(text)


def blanks(count: int) -> str:
    rest = count % 80
    return "<|blank_80|>" * (count // 80) + (f"<|blank_{rest}|>" if rest > 1 else " " * rest)


def test_chatglm_is_built_from_its_model_and_no_code_is_run(tmp_path: Path) -> None:
    makers.chatglm6b(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path / "saved") if (tmp_path / "saved").mkdir() is None else None
    again = Tokenizer.load(tmp_path / "saved")
    texts = [
        *TEXTS,
        "\n\n  a\t b" + " " * 163 + "c\n",
        " \n ",
        "\n",
        "  ",
        "a\n",
        "<n>x <|blank_7|>",
        "def f(x):\n    return x",
    ]
    for text in texts:
        ids = chatglm_ids(tmp_path, text)
        assert tokenizer.encode(text) == again.encode(text) == ids, text
    model = library.SentencePieceProcessor(model_file=str(tmp_path / "ice_text.model"))
    special = {name: model.piece_to_id(name) for name in ("[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>", "<unk>")}
    assert special.items() <= tokenizer.special.items()
    assert tokenizer.encode_template("hi[gMASK]<sop>a") == [
        *chatglm_ids(tmp_path, "hi"), special["[gMASK]"], special["<sop>"], *chatglm_ids(tmp_path, "a"),
    ]  # fmt: skip
    assert tokenizer.core.encode("hello").ids[-2:] == [special["[gMASK]"], special["<sop>"]]
    for text in ("def f(x):\n    return x\n", "the cat\tsat  on", "你好世界\n\n今天天气很好。"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text("utf-8"))
    assert "auto_map" not in config and not list((tmp_path / "saved").glob("*.py"))


def test_the_first_chatglm_adds_pieces_to_its_model_and_counts_pictures(tmp_path: Path) -> None:
    makers.chatglm6b_first(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    reference = first_chatglm(tmp_path)
    pictures = 20_000
    for text in [*TEXTS, "\n\n  a\t b" + " " * 163 + "c\n", "def f(x):\n    return x", "<image_7> \U0001f642"]:
        spelled = re.sub(" {2,}", lambda found: blanks(len(found.group())), text.replace("\n", "<n>"))
        ids = [pictures + index for index in reference.encode(spelled.replace("\t", "<|tab|>"))]
        assert tokenizer.encode(text) == again.encode(text) == ids, text
    special = {
        name: pictures + reference.piece_to_id(name) for name in ("[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>")
    }
    assert special.items() <= tokenizer.special.items()
    assert special["<pad>"] == 20_003 and tokenizer.vocabulary == pictures + reference.vocab_size()
    assert tokenizer.core.encode("hello").ids[-2:] == [special["[gMASK]"], special["<sop>"]]
    assert tokenizer.decode(tokenizer.encode("def f(x):\n    return x\n")) == "def f(x):\n    return x\n"


def first_chatglm(folder: Path) -> library.SentencePieceProcessor:
    """What the published code makes of its file: marks, white space and bytes behind the pieces."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString((folder / "ice_text.model").read_bytes())
    marks = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
    spaces = ["<|tab|>", *(f"<|blank_{count}|>" for count in range(2, 81))]
    for pieces, kind in ((marks, 3), (spaces, 4), ([f"<0x{byte:02X}>" for byte in range(256)], 6)):
        for piece in pieces:
            proto.pieces.add(piece=piece, score=0.0, type=kind)
    proto.trainer_spec.byte_fallback = True
    return library.SentencePieceProcessor(model_proto=proto.SerializeToString())


def test_chatglm3_has_marks_and_roles_behind_its_pieces(tmp_path: Path) -> None:
    makers.chatglm3(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    model = library.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert [tokenizer.encode(text) for text in TEXTS] == model.encode(TEXTS)
    count = model.vocab_size()
    names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    assert [tokenizer.special[name] for name in names] == list(range(count, count + 9))
    assert tokenizer.core.encode("a").ids[:2] == [count + 1, count + 3] and tokenizer.eos == "</s>"
    assert tokenizer.encode_template("<|user|>\n hi<|assistant|>") == [
        count + 6, *model.encode("\n hi"), count + 7,
    ]  # fmt: skip
    (tmp_path / "tokenization_chatglm.py").write_text("# no roles: ChatGLM2\n")
    assert max(Tokenizer.load(tmp_path).special.values()) == count + 4


@pytest.mark.parametrize(("name", "file", "pattern"), [
    ("QWenTokenizer", "qwen.tiktoken", "QWEN2"), ("ChatGLM4Tokenizer", "tokenizer.model", "CL100K"),
])  # fmt: skip
def test_coded_classes_over_byte_ranks(name: str, file: str, pattern: str, tmp_path: Path) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    import unicodedata

    from tiktoken.load import load_tiktoken_bpe

    from athanor.tokens import pipelines

    makers.coded_ranks(tmp_path, name, file)
    ranks = load_tiktoken_bpe(str(tmp_path / file))
    if name == "ChatGLM4Tokenizer":
        glm4 = {
            len(ranks): {"content": "[gMASK]", "special": True},
            len(ranks) + 1: {"content": "<sop>", "special": True},
        }
        makers.coded_ranks(tmp_path, name, file, added_tokens_decoder=glm4)
    reference = tiktoken.Encoding("x", pat_str=getattr(pipelines, pattern), mergeable_ranks=ranks, special_tokens={})
    tokenizer = Tokenizer.load(tmp_path)
    for text in TEXTS:
        normal = unicodedata.normalize("NFC", text) if name == "QWenTokenizer" else text
        if unicodedata.normalize("NFC", normal) == normal or name != "QWenTokenizer":
            assert tokenizer.encode(text) == reference.encode_ordinary(normal), ascii(text)
    first = {"QWenTokenizer": "<|endoftext|>", "ChatGLM4Tokenizer": "[gMASK]"}[name]
    assert tokenizer.special[first] == len(ranks)


def spoil_images(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    makers.write(folder, "tokenizer_config.json", {**config, "num_image_tokens": 30000})


def spoil_class(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    makers.write(folder, "tokenizer_config.json", {**config, "tokenizer_class": "OtherTokenizer"})


def spoil_table(folder: Path) -> None:
    data = (folder / "ice_text.model").read_bytes()
    place = data.index(SentencePieceModel.read(folder / "ice_text.model").characters)
    (folder / "ice_text.model").write_bytes(data[:place] + bytes(8) + data[place + 8 :])


@pytest.mark.parametrize(("spoil", "said"), [
    (spoil_images, "num_image_tokens=30000"), (spoil_class, "tokenization_chatglm.ChatGLMTokenizer"),
    (spoil_table, "ice_text.model cannot be read"),
])  # fmt: skip
def test_what_is_not_read_is_refused_by_name(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    makers.chatglm6b(tmp_path)
    spoil(tmp_path)
    with pytest.raises(AthanorError, match=re.escape(said)):
        Tokenizer.load(tmp_path)


def test_added_words_stand_apart(tmp_path: Path) -> None:
    from athanor.tokens.extend import extend

    theirs = trained(tmp_path, LEARN[:6], 500, **SHAPES["unigram"])
    wider, _ = extend(Tokenizer.load(tmp_path), words=["炼丹炉"], special=["<|new|>"])
    new = wider.core.token_to_id("炼丹炉")
    assert wider.encode("a 炼丹炉b") == [*theirs.encode("a "), new, *theirs.encode("b")]
    assert wider.special["<|new|>"] not in wider.encode("<|new|>")
    assert wider.encode_template("x<|new|>")[-1] == wider.special["<|new|>"]
