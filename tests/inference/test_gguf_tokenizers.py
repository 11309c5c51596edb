"""Tokenizers of other models in GGUF files: our reader's ids, and llama.cpp's, which some tests need."""

import json
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.generate import generate
from athanor.inference.ggml import TYPES
from athanor.inference.gguf import GgufFile
from athanor.inference.gguf_model import read_model, write_model
from athanor.inference.gguf_tokenizer import differences, read_tokenizer
from athanor.inference.sampling import Sampling
from athanor.tokens.tokenizer import Tokenizer
from tests.inference.gguf_models import SHAPES, make_weights
from tests.tokens import makers
from tests.tokens.samples import LEARN, NASTY, random_texts, random_words, real_texts


def glm4(folder: Path) -> None:
    marks = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|user|>"]
    makers.tiktoken_file(folder)
    first = sum(1 for _ in open(folder / "tokenizer.model", encoding="utf-8"))
    (folder / "tokenizer.model").unlink()
    makers.coded_ranks(
        folder, "ChatGLM4Tokenizer", "tokenizer.model", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        added_tokens_decoder={first + place: {"content": mark, "special": True} for place, mark in enumerate(marks)},
    )  # fmt: skip


def unigram(folder: Path, size: int = 700, **more: object) -> None:
    """SentencePiece's unigrams with its usual table of characters, taken as they are, whatever the model."""
    makers.sentencepiece(
        folder, "tokenizer.model", vocab_size=size, model_type="unigram", hard_vocab_limit=False,
        character_coverage=0.99, **more,
    )  # fmt: skip
    Tokenizer.load(folder).save(folder)


CASES: dict[str, tuple[Callable[[Path], None], str, str | None]] = {  # name: files, shape of network, family
    "llama": (makers.plain_llama, "llama", None), "bloom": (makers.bloom, "bloom", None),
    "cohere": (makers.cohere, "cohere", None), "chatglm3": (makers.chatglm3, "chatglm", "chatglm2"),
    "glm4": (glm4, "chatglm", "glm"), "unigram": (unigram, "llama", None),
}  # fmt: skip


def written(name: str, folder: Path) -> tuple[Tokenizer, GgufFile]:
    make, shape, family = CASES[name]
    make(folder)
    tokenizer = Tokenizer.load(folder)
    ids = {"eos_token_id": tokenizer.special[tokenizer.eos or ""]}
    changed = {**SHAPES[shape], **({"rope_base": 10_000.0} if family == "chatglm2" else {})}
    make_weights(folder, 1 + max(tokenizer.core.get_vocab().values()), ids, family=family, **changed)
    write_model(folder, folder / "model.gguf", TYPES["F32"], {"name": "a test"})
    return tokenizer, GgufFile(folder / "model.gguf")


def plain_texts(tokenizer: Tokenizer) -> list[str]:
    texts = [*NASTY, *LEARN[:6], *random_texts(200), *random_words(60)]
    return [text for text in texts if tokenizer.core.normalizer is None or unicodedata.is_normalized("NFC", text)]


@pytest.mark.parametrize("name", CASES)
def test_our_reader_gives_the_ids_back(name: str, tmp_path: Path) -> None:
    tokenizer, file = written(name, tmp_path)
    again = read_tokenizer(file.values)
    for text in plain_texts(tokenizer):
        assert again.encode(text) == tokenizer.encode(text), ascii(text)
    assert again.special.items() >= tokenizer.special.items()
    for mark in list(tokenizer.special)[:6]:
        marked = f"a{mark}b c{mark} d"
        assert again.encode_template(marked) == tokenizer.encode_template(marked)


def test_scores_are_in_the_order_of_merging(tmp_path: Path) -> None:
    tokenizer, file = written("llama", tmp_path)
    values = file.values
    assert (values["tokenizer.ggml.model"], values["tokenizer.ggml.pre"]) == ("llama", "default")
    assert values["tokenizer.ggml.add_space_prefix"] and values["tokenizer.ggml.add_bos_token"]
    types = dict(zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"], strict=True))
    assert (types["<unk>"], types["<s>"], types["</s>"], types["<0x0A>"], types["▁the"]) == (2, 3, 3, 6, 1)
    assert differences(tokenizer, values) == "no other text"
    scores = dict(zip(values["tokenizer.ggml.tokens"], values["tokenizer.ggml.scores"], strict=True))
    made = ["".join(pair) for pair in json.loads(tokenizer.core.to_str())["model"]["merges"]]
    assert [scores[token] for token in dict.fromkeys(made)] == [-float(rank) for rank in range(len(set(made)))]


def change(folder: Path, edit: Callable[[dict], None]) -> None:
    told = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    edit(told)
    makers.write(folder, "tokenizer.json", told)


def fewer_merges(folder: Path) -> None:
    makers.plain_llama(folder)
    change(folder, lambda told: told["model"]["merges"].pop(7))


def other_order(folder: Path) -> None:
    makers.plain_llama(folder)

    def move(told: dict) -> None:  # one of two ways to make a token
        merges = told["model"]["merges"]
        made = ["".join(pair) for pair in merges]
        merges.append(merges.pop(next(place for place, token in enumerate(made) if made.count(token) > 1)))

    change(folder, move)


def folded(folder: Path) -> None:
    makers.plain_llama(folder)
    change(folder, lambda told: told["normalizer"]["normalizers"].append({"type": "Lowercase"}))


def first_only(folder: Path) -> None:
    makers.llama2(folder, legacy=False, chat_template="{{ bos_token }}hi{{ eos_token }}")


def dropping(folder: Path) -> None:
    makers.sentencepiece(folder, "tokenizer.model", vocab_size=800, model_type="bpe", byte_fallback=True)
    makers.write(folder, "tokenizer_config.json", {"tokenizer_class": "BaichuanTokenizer"})


@pytest.mark.parametrize(("make", "said"), [
    (fewer_merges, "llama.cpp joins"), (other_order, "in the order of what they make"), (folded, "in another way"),
    (partial(unigram, size=900, byte_fallback=True), "no bytes to fall back on"),
    (partial(unigram, remove_extra_whitespaces=False), "keep runs of spaces"),
    (partial(unigram, user_defined_symbols=["<n>"]), "symbols of the model's own"), (first_only, "legacy: false"),
    (dropping, "changes characters or drops spaces"),
])  # fmt: skip
def test_what_llama_cpp_would_cut_otherwise_is_refused(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    make_weights(tmp_path, tokenizer.vocabulary, {"eos_token_id": 2}, **SHAPES["llama"])
    with pytest.raises(AthanorError, match=said):
        write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], {"name": "a test"})


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_llama_cpp_has_the_same_ids_and_text(name: str, tmp_path: Path) -> None:
    """Thousands of real lines, random texts, text with special tokens, and greedy answers."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    tokenizer, file = written(name, tmp_path)
    plain = {"n_ctx": 256, "logits_all": True, "type_k": 0, "type_v": 0, "flash_attn": False, "n_threads": 1}
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), verbose=False, **plain)
    texts = [*plain_texts(tokenizer), *random_texts(2000, seed=9)]
    for source, most in (("langid_sentences", 6000), ("en_zh_python_docs", 3000), ("zh_d2l_book", 20)):
        texts += [line for text in real_texts(source, most, 4000) for line in text.split("\n") if line]
    if tokenizer.core.normalizer is not None:
        texts = [text for text in texts if unicodedata.is_normalized("NFC", text)]
    if name in ("cohere", "glm4"):  # letters of Unicode 16, which `differences` names
        texts = [text for text in texts if not any(unicodedata.category(one) == "Cn" for one in text)]
    assert len(texts) > 10_000
    different = [
        text for text in texts if "\x00" not in text
        and theirs.tokenize(text.encode(), add_bos=False, special=False) != tokenizer.encode(text)
    ]  # fmt: skip
    assert not different, (len(different), [ascii(text[:80]) for text in different[:8]])
    for mark in tokenizer.special:
        marked = f"a{mark}b c{mark} d"
        assert theirs.tokenize(marked.encode(), add_bos=False, special=True) == tokenizer.encode_template(marked)
    ours = read_model(file, tmp_path)
    for text in ("def add(a, b):", "the cat sat", "你好，今天"):
        ids = tokenizer.encode(text)
        theirs.reset()
        theirs.eval(ids)
        expected = ours(torch.tensor([ids]))[0].detach().numpy()
        found = np.array(theirs.scores[: len(ids)])
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
        answer = [int(found[-1].argmax())]
        while len(answer) < 16:
            theirs.eval(answer[-1:])
            answer.append(int(theirs.scores[theirs.n_tokens - 1].argmax()))
        assert answer == list(generate(ours, ids, Sampling(max_tokens=16)).ids)
        text = theirs.detokenize(answer, special=True).decode("utf-8", "replace")
        broken = re.compile("\ufffd+")  # each library says in its own way that bytes are no character
        assert broken.sub("?", text).strip(" ") == broken.sub("?", tokenizer.decode(answer)).strip(" ")
