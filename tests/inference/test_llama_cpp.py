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
from athanor.inference.ggml_read import READABLE
from athanor.inference.gguf import GgufFile, write_gguf
from athanor.inference.gguf_layout import LAYOUTS
from athanor.inference.gguf_model import read_model, write_model
from athanor.inference.gguf_tokenizer import read_tokenizer
from athanor.inference.sampling import Sampling
from athanor.models.convert import load_checkpoint
from athanor.store.artifact import Store
from athanor.tokens.template import ChatTemplate, jinja_source
from athanor.tokens.tokenizer import DOCUMENT, Tokenizer
from tests.conftest import ROOT
from tests.inference.gguf_models import SHAPES, make_checkpoint, train_tokenizer
from tests.tokens.adversarial import conversations

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed: see the head of this file")
pytestmark = pytest.mark.slow

LONG = "".join(TEXTS[:16])  # beyond every window and every context of pretraining in SHAPES
PROMPTS = ("The history of the world", "def add(a, b):\n    return", "你好，今天", "2 + 3 =", "🙂 <|user|>", LONG)
# What llama.cpp may add to the numbers of the file: it multiplies F16 by float16 and blocks by 8-bit activations.
CLOSE = 0.6  # part of the positions that must be so near where rounded activations can turn a choice of experts
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


@pytest.mark.parametrize("name", [name for name, kind in READABLE.items() if kind.in_blocks])
def test_our_blocks_are_those_of_ggml(name: str) -> None:
    """Random, constant, tied, tiny and sparse rows through ggml's own functions, byte for byte, and back."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(500, 256, generator=draw) * scale for scale in (1.0, 1e-3, 1e-6, 300.0)]
    rows += [torch.randint(-8, 9, (500, 256), generator=draw) / 4.0, torch.zeros(2, 256), torch.ones(2, 256)]
    rows += [torch.randn(50, 256, generator=draw).relu(), torch.randn(50, 256, generator=draw).bfloat16().float()]
    weight, kind = torch.cat(rows).contiguous(), READABLE[name]
    library = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *([ctypes.c_int64] * 3), ctypes.c_void_p]
    theirs = np.zeros((len(weight), 256 // kind.numbers * kind.size), np.uint8)
    assert quantize(kind.code, weight.data_ptr(), theirs.ctypes.data, 0, *weight.shape, None) == theirs.nbytes
    if kind.encode is not None:
        assert bytes(kind.encode(weight)) == bytes(theirs)
    numbers = torch.empty_like(weight)
    back = getattr(library, f"dequantize_row_q{name[1:]}")
    back.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    back(theirs.ctypes.data, numbers.data_ptr(), weight.numel())
    assert torch.allclose(kind.decode(theirs), numbers, rtol=1e-6, atol=1e-9)


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
        text = formatter(messages=chat.to_row()["messages"], tools=list(chat.tools) or None).prompt
        assert their_ids(vocabulary, text, special=True) == template.render(chat, generation_prompt=True).ids


def test_adversarial_chats_have_the_ids_we_train_with(vocabulary, tokenizer: Tokenizer) -> None:
    """The 600 conversations of tests/tokens, tools and calls included: the file's own template, llama.cpp's tokens."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    template = ChatTemplate(tokenizer)
    formatter = Jinja2ChatFormatter(vocabulary.metadata["tokenizer.chat_template"], "<|end|>", DOCUMENT)
    chats = conversations(600)
    assert sum(bool(chat.tools) for chat in chats) > 200
    different = []
    for chat in chats:
        for messages in (chat.messages(), chat.to_row()["messages"]):
            text = formatter(messages=messages, tools=list(chat.tools) or None).prompt
            if their_ids(vocabulary, text, special=True) != template.prompt_ids(chat):
                different.append(text)
    assert not different


def test_special_tokens_mean_to_llama_cpp_what_they_mean_to_us(vocabulary, tokenizer: Tokenizer) -> None:
    special, model = tokenizer.special, vocabulary._model.vocab
    assert llama_cpp.llama_vocab_bos(model) == special[DOCUMENT]
    assert llama_cpp.llama_vocab_eos(model) == llama_cpp.llama_vocab_eot(model) == special["<|end|>"]
    assert not llama_cpp.llama_vocab_get_add_bos(model)
    ends = [index for index in range(tokenizer.vocabulary) if llama_cpp.llama_vocab_is_eog(model, index)]
    assert ends == [special["<|end|>"]]
    assert all(llama_cpp.llama_vocab_is_control(model, index) for index in special.values())


# ---------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", TYPES)
def test_llama_cpp_computes_what_we_compute(shape: str, kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Random weights: logits against our network with the file's numbers; F32 also the same greedy answers.

    Up to the context length that the file says: that is the whole promise. GELU comes from a table of float16 there.
    """
    config = make_checkpoint(tmp_path, tokenizer, **SHAPES[shape]).config
    write_model(tmp_path, tmp_path / "model.gguf", TYPES[kind], {"name": "a test"})
    file = GgufFile(tmp_path / "model.gguf")
    longest = file.values[f"{file.values['general.architecture']}.context_length"]
    ours, theirs = read_model(file, tmp_path), opened(tmp_path / "model.gguf", n_ctx=longest)
    differences = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)[: longest - 24]
        expected = ours(torch.tensor([ids]))[0].detach().numpy()
        differences += [*np.abs(their_logits(theirs, ids) - expected).max(-1) / np.abs(expected).max()]
        if kind == "F32":
            assert their_answer(theirs, ids, 24) == list(generate(ours, ids, Sampling(max_tokens=24)).ids)
    share = CLOSE if config.experts and kind != "F32" else 1
    assert np.quantile(differences, share) <= max(MOST[kind], 1e-3 if "gelu" in config.mlp else 0)


@pytest.mark.parametrize("shape", ["qwen2-window", "mixtral-window"])
def test_llama_cpp_still_ignores_these_windows(shape: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Why the context is cut there. Should this fail, llama.cpp has learnt windows: write the whole context."""
    make_checkpoint(tmp_path, tokenizer, **SHAPES[shape])
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], {"name": "a test"})
    ids, window = tokenizer.encode(LONG), SHAPES[shape]["window"]
    expected = load_checkpoint(tmp_path)(torch.tensor([ids]))[0].detach().numpy()
    difference = np.abs(their_logits(opened(tmp_path / "model.gguf"), ids) - expected).max(-1) / np.abs(expected).max()
    assert difference[:window].max() < 1e-5 < 0.01 < difference[window:].max()


@pytest.mark.parametrize("name", ["gptj", "opt"])
def test_llama_cpp_does_not_know_what_we_refuse(name: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", {"general.architecture": name, f"{name}.context_length": 8}, [])
    with pytest.raises(ValueError, match="Failed to load"):
        llama_cpp.Llama(str(tmp_path / "model.gguf"), verbose=False)
    assert name not in LAYOUTS


# --------------------------------------------------------------------------------------------- files made by others


@pytest.mark.parametrize("shape", ["llama", "qwen2", "llama3-scaling", "qwen3-moe", "gpt2"])
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_a_file_that_llama_cpp_made_is_read(shape: str, kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`llama_model_quantize` of our F32 file: our reader gives the logits that llama.cpp gives with it."""
    config = make_checkpoint(tmp_path, tokenizer, **{**SHAPES[shape], "width": 256, "hidden": 256}).config
    write_model(tmp_path, tmp_path / "model.gguf", TYPES["F32"], {"name": "a test"})
    how = llama_cpp.llama_model_quantize_default_params()
    how.ftype, how.nthread = READABLE[kind].file_code, 1
    target = tmp_path / "theirs.gguf"
    assert llama_cpp.llama_model_quantize(str(tmp_path / "model.gguf").encode(), str(target).encode(), how) == 0
    file = GgufFile(target)
    types = {name: entry.type.name for name, entry in file.tensors.items()}
    assert types["blk.0.attn_q.weight" if config.position == "rope" else "blk.0.attn_output.weight"] == kind
    if kind == "Q4_0":
        assert types["token_embd.weight" if config.tied else "output.weight"] == "Q6_K"
    ours, theirs = read_model(file, tmp_path), opened(target)
    differences = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        expected = ours(torch.tensor([ids]))[0].detach().numpy()
        differences += [*np.abs(their_logits(theirs, ids) - expected).max(-1) / np.abs(expected).max()]
    assert np.quantile(differences, CLOSE if config.experts else 1) <= MOST.get(kind, 0.1)
    again = read_tokenizer(file.values)
    assert [again.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


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
