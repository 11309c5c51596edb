"""What llama.cpp says about our GGUF files: the same blocks, token ids, logits and greedy answers.

Needs `llama-cpp-python`, which is built from source (about eight minutes of two cores): `pip install llama-cpp-python`.
"""

import ctypes
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from athanor.inference.equivalence import CHATS, TEXTS, observe
from athanor.inference.generate import generate
from athanor.inference.ggml import TYPES
from athanor.inference.gguf import GgufFile
from athanor.inference.gguf_model import read_model, write_model
from athanor.inference.sampling import Sampling
from athanor.models.convert import load_checkpoint
from athanor.store.artifact import Store
from athanor.tokens.template import ChatTemplate, jinja_source
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer
from tests.conftest import ROOT
from tests.inference.gguf_models import FAMILIES, make_checkpoint, train_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: see the head of this file")
pytestmark = pytest.mark.slow

PROMPTS = ("The history of the world", "def add(a, b):\n    return", "你好，今天", "2 + 3 =", "🙂 <|user|>")
# What llama.cpp may add to the numbers of the file: it multiplies F16 by float16 and blocks by 8-bit activations.
MOST = {"F32": 1e-5, "BF16": 0.02, "F16": 0.01, "Q8_0": 0.1, "Q4_0": 0.1}  # of the largest logit


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


def opened(path: Path, **more):
    """llama.cpp with a float32 cache, one thread, and every logit kept."""
    how = {"n_ctx": 256, "logits_all": True, "type_k": 0, "type_v": 0, "n_threads": 1, "flash_attn": False, **more}
    return llama_cpp.Llama(str(path), verbose=False, **how)


def their_logits(llama, ids: list[int]) -> np.ndarray:
    llama.reset()
    llama.eval(ids)
    return np.array(llama.scores[: len(ids)])


def their_answer(llama, ids: list[int], count: int) -> list[int]:
    """The likeliest token, `count` times."""
    answer = [int(their_logits(llama, ids)[-1].argmax())]
    while len(answer) < count:
        llama.eval(answer[-1:])
        answer.append(int(llama.scores[llama.n_tokens - 1].argmax()))
    return answer


def their_ids(llama, text: str, special: bool = False) -> list[int]:
    return llama.tokenize(text.encode(), add_bos=False, special=special)


# --------------------------------------------------------------------------------------------------------- the blocks


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_our_blocks_are_those_of_ggml(name: str) -> None:
    """Random, constant, tied, tiny and sparse rows through ggml's own `ggml_quantize_chunk`, byte for byte."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(500, 128, generator=draw) * scale for scale in (1.0, 1e-3, 1e-6, 300.0)]
    rows += [torch.randint(-8, 9, (500, 128), generator=draw) / 4.0, torch.zeros(2, 128), torch.ones(2, 128)]
    rows += [torch.randn(50, 128, generator=draw).relu(), torch.randn(50, 128, generator=draw).bfloat16().float()]
    weight = torch.cat(rows).contiguous()
    library = Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *([ctypes.c_int64] * 3), ctypes.c_void_p]
    ours = TYPES[name].encode(weight)
    theirs = np.zeros_like(ours)
    size = quantize(TYPES[name].code, weight.data_ptr(), theirs.ctypes.data, 0, *weight.shape, None)
    assert size == ours.nbytes
    assert bytes(ours) == bytes(theirs)


# ------------------------------------------------------------------------------------------------------ the tokenizer


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("vocabulary")
    make_checkpoint(folder, tokenizer, norm_qk=True)
    write_model(folder, folder / "model.gguf", TYPES["F32"], {"name": "a test"})
    return llama_cpp.Llama(str(folder / "model.gguf"), vocab_only=True, verbose=False)


def real_texts() -> list[str]:
    """Paragraphs of Python's library and of our own pages in two languages."""
    files = [*sorted(Path(os.__file__).parent.glob("*.py"))[:40], *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    texts = [text for path in files for text in path.read_text(encoding="utf-8").split("\n\n")]
    return [text for text in texts if len(text) < 20_000][:3000]


def test_real_text_has_the_same_ids(vocabulary, tokenizer: Tokenizer) -> None:
    texts = [*TEXTS, *real_texts()]
    assert len(texts) > 2000
    different = [text for text in texts if their_ids(vocabulary, text) != tokenizer.encode(text)]
    assert not different


def test_random_text_has_the_same_ids(vocabulary, tokenizer: Tokenizer) -> None:
    """20,000 texts of characters of every class: letters, digits, signs, marks, spaces and line ends in any order."""
    letters = "aAsStTlLvVeErRmMdD'é好ß 1٣½Ⅷ.,!=<|>\n\r\t\u00a0\u3000\u2028\u0085\x0b\x00🙂\u0301_\u200b\ufeff𝒜"
    draw = random.Random(0)
    for _ in range(20_000):
        text = "".join(draw.choices(letters, k=draw.randint(1, 12)))
        assert their_ids(vocabulary, text) == tokenizer.encode(text), repr(text)


def test_every_character_has_the_same_ids_but_for_those_we_name(vocabulary, tokenizer: Tokenizer) -> None:
    """Every character of Unicode 15, between neighbours of every class."""
    import unicodedata

    assert unicodedata.unidata_version <= "15.1.0"
    known = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    for begin in range(0, len(known), 200):
        some = known[begin : begin + 200]
        text = "".join(f"a{one} {one}1{one}.{one}\n{one}{one}'{one} " for one in some if one != "ſ")
        assert their_ids(vocabulary, text) == tokenizer.encode(text), text[:80]


@pytest.mark.parametrize("text", ["'ſabc", "a\U00010d4ab"])
def test_the_differences_we_name_are_there(text: str, tmp_path: Path) -> None:
    """A vocabulary that learnt nothing else. Should this fail, llama.cpp has changed: shorten DIFFERENCES."""
    learnt = Tokenizer.train([text.lstrip("'")] * 100, 300)
    make_checkpoint(tmp_path, learnt, norm_qk=True)
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], {"name": "a test"})
    theirs = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    assert their_ids(theirs, "plain") == learnt.encode("plain")
    assert their_ids(theirs, text) != learnt.encode(text)


def test_chats_have_the_ids_we_train_with(vocabulary, tokenizer: Tokenizer) -> None:
    """The template as llama-cpp-python renders it, its special tokens parsed by llama.cpp."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = ChatTemplate(tokenizer)
    formatter = Jinja2ChatFormatter(vocabulary.metadata["tokenizer.chat_template"], "<|end|>", DOCUMENT)
    assert vocabulary.metadata["tokenizer.chat_template"] == jinja_source()
    for chat in CHATS:
        text = formatter(messages=chat.to_row()["messages"]).prompt
        assert their_ids(vocabulary, text, special=True) == template.render(chat, generation_prompt=True).ids


def test_special_tokens_mean_to_llama_cpp_what_they_mean_to_us(vocabulary, tokenizer: Tokenizer) -> None:
    special, model = tokenizer.special, vocabulary._model.vocab
    assert llama_cpp.llama_vocab_bos(model) == special[DOCUMENT]
    assert llama_cpp.llama_vocab_eos(model) == llama_cpp.llama_vocab_eot(model) == special["<|end|>"]
    assert not llama_cpp.llama_vocab_get_add_bos(model)
    ends = [index for index in range(tokenizer.vocabulary) if llama_cpp.llama_vocab_is_eog(model, index)]
    assert ends == [special["<|end|>"]]
    assert all(llama_cpp.llama_vocab_is_control(model, index) for index in special.values())


# ---------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_computes_what_we_compute(family: str, kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Random weights: logits against our network with the file's numbers; F32 also the same greedy answers."""
    make_checkpoint(tmp_path, tokenizer, **FAMILIES[family])
    write_model(tmp_path, tmp_path / "model.gguf", TYPES[kind], {"name": "a test"})
    ours, theirs = read_model(GgufFile(tmp_path / "model.gguf"), tmp_path), opened(tmp_path / "model.gguf")
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        expected = ours(torch.tensor([ids]))[0].detach().numpy()
        found = their_logits(theirs, ids)
        assert np.abs(found - expected).max() <= MOST[kind] * np.abs(expected).max()
        if kind == "F32":
            assert their_answer(theirs, ids, 24) == list(generate(ours, ids, Sampling(max_tokens=24)).ids)


def test_a_trained_model_answers_the_same(journey, tmp_path: Path) -> None:
    """The model of a smallest run: F32 answers as our engine does, with every receipt prompt."""
    store, _ = journey
    model = next(one for one in Store(store).all() if one.record["step"] == "finetune")
    tokenizer = Tokenizer.load(model.path)
    for kind in TYPES:
        write_model(model.path, tmp_path / f"{kind}.gguf", TYPES[kind], {"name": "a test"})
        theirs, file = opened(tmp_path / f"{kind}.gguf"), GgufFile(tmp_path / f"{kind}.gguf")
        ours = read_model(file, model.path)
        same, count = 0, 0
        for prompt in PROMPTS:
            ids = [tokenizer.special[DOCUMENT], *tokenizer.encode(prompt)]
            expected = list(generate(ours, ids, Sampling(max_tokens=16)).ids)
            same += their_answer(theirs, ids, 16) == expected
            count += 1
            logits = ours(torch.tensor([ids]))[0].detach().numpy()
            assert np.abs(their_logits(theirs, ids) - logits).max() <= MOST[kind] * np.abs(logits).max()
        assert same == count or kind != "F32"
    assert observe(load_checkpoint(model.path, torch.float32), tokenizer).answers
